"""Whatever others write is a value or a documented error, and soon: one table, `PARSERS`, every reader alike."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hostile.mutations import mutations
from hostile.parsers import DESCRIPTOR, DIGEST, INDEX, MIB, PARSERS, Parser, archive, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ordeal import Ordeal

from lading.errors import InvalidHosts, InvalidLockfile
from lading.pull.lockfile import Lockfile

EACH = pytest.mark.parametrize("name", PARSERS)

SECONDS = 5.0
"""Of a processor, for one input. All of these take a fraction of one; what grows with a square takes minutes."""

MANY = 100_000
"""How often a token is repeated, or nested, unless that is more than the reader is given."""


def judge(parser: Parser, raw: bytes) -> str:
    """Have ``raw`` read; whatever isn't documented comes out, with what it was read from."""
    began = time.thread_time()
    try:
        outcome = parser.outcome(raw)
    except BaseException as error:
        error.add_note(f"read from {raw[:2000]!r}")
        raise
    assert time.thread_time() - began < SECONDS, f"{len(raw)} bytes: {raw[:200]!r}"
    return outcome


@EACH
def test_the_samples_are_what_is_usual(name: str) -> None:
    outcomes = [judge(PARSERS[name], sample) for sample in PARSERS[name].samples]
    assert "read" in outcomes


@EACH
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(data=st.data())
def test_anything_is_read_or_refused(name: str, data: st.DataObject) -> None:
    parser = PARSERS[name]
    parts = st.sampled_from(parser.words) | st.sampled_from(list(parser.samples)) | st.binary(max_size=40)
    judge(parser, b"".join(data.draw(st.lists(parts | st.text(max_size=20).map(_encoded), max_size=8))))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


@pytest.mark.torture
@EACH
def test_what_is_nearly_right_is_read_or_refused(
    name: str, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    parser = PARSERS[name]
    rounds = ordeal.rounds(150, 100_000)
    wrong = mutations(random.Random(f"{ordeal.seed} {name}"), parser.samples, parser.words)
    outcomes = Counter(judge(parser, raw) for raw in itertools.islice(wrong, rounds))
    if ordeal.is_long:
        measured(f"{name}, {rounds} mutations", ", ".join(f"{what} {count}" for what, count in outcomes.most_common()))


@EACH
def test_much_of_one_thing_is_no_work(name: str) -> None:
    for raw in repetitions(PARSERS[name]):
        judge(PARSERS[name], raw)


def repetitions(parser: Parser) -> Iterator[bytes]:
    """Give each token very often, alone and in the middle of something usual, and what opens without an end."""
    sample = parser.samples[0]
    middle = len(sample) // 2
    for token in parser.tokens:
        opening, closing = (token, b"") if isinstance(token, bytes) else token
        count = max(1, min(MANY, min(parser.limit, MIB) // (len(opening) + len(closing))))
        yield opening * count
        yield sample[:middle] + opening * count + sample[middle:]
        if closing:
            yield opening * count + closing * count
            yield (opening + closing) * count


def many(text: str, count: int, between: str = ",") -> str:
    """Give ``text`` so many times, each with a number of its own for ``#``."""
    return between.join(text.replace("#", str(number)) for number in range(count))


def header(name: bytes = b"a", kind: bytes = b"0", size: bytes = b"00000000000\0") -> bytes:
    """The header of a member of a tar."""
    raw = bytearray(512)
    raw[: len(name)] = name
    raw[124:136], raw[156:157], raw[257:265] = size, kind, b"ustar\x0000"
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


HUGE = b"\x80" + b"\xff" * 11
LONG = "k" * 100_000
ENTRY = f'[[agent]]\nreference="a/b:v#"\ndigest="{DIGEST}"\nmedia-type="a/b"\nsize=1\n'
WINDOWS = {"os": "windows", "architecture": "amd64", "os.version": "1" * 1000 + "."}
LINUX = {"os": "linux", "architecture": "arm64", "os.features": ["a"] * 1000}
NAMES = {"org.opencontainers.image.ref.name": "a/b:c", "io.containerd.image.name": "x/y:v"}


def listing(count: int, **fields: object) -> bytes:
    child = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": DIGEST, "size": 2, **fields}
    return written({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child] * count})


def two(old: str, new: str) -> bytes:
    return old.encode() + b"\0" + new.encode()


WORST: dict[str, list[Callable[[], bytes | str]]] = {
    "manifest": [
        lambda: b"\n" + written({"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR] * 10_000}),
        lambda: b"\n" + listing(10_000),
        lambda: b"\n" + listing(3_000, platform=WINDOWS),
        lambda: b"\n" + listing(500, platform=LINUX),
    ],
    "index.json": [lambda: listing(5_000, annotations=NAMES)],
    "tags": [lambda: b"200\n\n" + written({"tags": [f"v{number}" for number in range(90_000)]})],
    "referrers": [lambda: b"200\nContent-Type: " + INDEX.encode() + b"\n\n" + listing(5_000)],
    "signed token": [lambda: json.dumps({"access": [{"type": "r", "name": "n", "actions": ["a"] * 10_000}]}).encode()],
    "config.json": [
        lambda: written({"auths": {f"h{number}.x": {"auth": "YTpi"} for number in range(20_000)}}),
        lambda: written({"auths": {"ghcr.io/" * 10_000: {}}}),
    ],
    "hosts.toml": [
        lambda: many("a#=1\n", 10_000, "").encode(),
        lambda: many('[host."https://h#"]\n', 5_000, "").encode(),
        lambda: b'[host."https://' + b"a." * 400_000 + b'"]\n',
        lambda: b"[header]\n" + many('a#="1"\n', 50_000, "").encode(),
    ],
    "lock file": [
        lambda: f"version = 1\n{many(ENTRY, 3_000, '')}",
        lambda: f"version = 1\n{many(ENTRY, 1, '')}needed-by = [{many(chr(34) + 'a/b:v#' + chr(34), 10_000)}]",
    ],
    "NO_PROXY": [lambda: many("10.0.0.#/32", 8_000).encode()],
    "challenges": [lambda: b"Bearer " + many("a#=b", 2_000).encode()],
    "agent": [
        lambda: f"agents: {{r: {{sub_agents: [{many('a/b#', 9_999)}]}}}}",
        lambda: f'agents: {{r: {{sub_agents: ["{":" * 1_000_000}a/b"]}}}}',
    ],
    "two agents": [
        lambda: two(f"x: {{? {LONG} : {{{many('a#: 1', 3_000)}}}}}", f"x: {{? {LONG} : {{{many('a#: 2', 3_000)}}}}}"),
        lambda: two(f"agents: {{{many('a#: {}', 2_000)}}}", f"agents: {{{many('b#: {}', 2_000)}}}"),
        lambda: two(
            f"agents: {{? {LONG} : {{toolsets: [{many('{type: mcp, ref: a#}', 1_500)}]}}}}",
            f"agents: {{? {LONG} : {{toolsets: [{many('{type: mcp, ref: b#}', 1_500)}]}}}}",
        ),
        lambda: two(
            f'agents: {{r: {{instruction: "{many("a#", 10_000, chr(92) + "n")}"}}}}',
            f'agents: {{r: {{instruction: "{many("b#", 10_000, chr(92) + "n")}"}}}}',
        ),
    ],
    "layer": [
        lambda: gzip.compress(bytes(33 * MIB)),
        lambda: gzip.compress(b"", mtime=0) * 300_000,
    ],
    "layout in a tar": [
        lambda: archive(("./" * 500_000 + "x", b"")),
        lambda: header(kind=b"g", size=HUGE) + bytes(1024),
        lambda: header(kind=b"K", size=b"\x80\0\0\0\x7f" + b"\xff" * 7) + bytes(1024),
        lambda: header(size=HUGE),
        lambda: header(kind=b"x", size=HUGE),
        lambda: header(b"blobs/x") * 8_000,
    ],
}


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name, makers in WORST.items() for make in makers],
    ids=[f"{name} {number}" for name, makers in WORST.items() for number, _ in enumerate(makers)],
)
def test_what_was_made_to_hurt_doesnt(name: str, make: Callable[[], bytes | str]) -> None:
    made = make()
    judge(PARSERS[name], made.encode() if isinstance(made, str) else made)


@pytest.mark.parametrize(
    "line", ["a." * 100_000 + "b = 1", "[" + "a." * 100_000 + "b]", "x = {" + "a." * 100_000 + "b = 1}"]
)
def test_a_key_of_very_many_parts_is_refused(line: str) -> None:
    """Of each of its beginnings the parser of the standard library keeps one: 40 GB."""
    with pytest.raises(InvalidLockfile, match="too many parts"):
        Lockfile.parse(f"version = 1\n{line}\n")
    with pytest.raises(InvalidHosts, match=r"hosts\.toml isn't TOML"):
        PARSERS["hosts.toml"].read(line.encode())


def test_many_dots_that_are_no_key_are_no_reason_to_refuse() -> None:
    reference = f"{'a.' * 60}example/{'b.' * 80}c/d:v1"
    lock = Lockfile.parse(f"version = 1\n{many(ENTRY.replace('a/b:v#', reference + '#'), 300, '')}")
    assert len(lock.entries) == 300
