"""``tree``: the drawing of a closure, and what is said where something is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from artifacts import publish, sha256
from shell import Shell
from terminal import at_terminal

from lading.agents.agent import Agent
from lading.agents.references import ExternalReference, Oci, Url, classify
from lading.cli.tree import Shape, draw
from lading.errors import LadingError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import Reference
from lading.pull.prefetch import Outcome
from lading.testing import EmbeddedRegistry

DESCRIPTOR = Descriptor(OCI_MANIFEST, Digest.parse("sha256:" + "0123456789abcdef" * 4), 100)


def named(text: str) -> ExternalReference:
    target = classify(text if "/" in text else f"x.y/{text}")
    assert isinstance(target, Oci | Url)
    return ExternalReference("root", "sub_agents", text, target)


def outcome(name: str, needs: Sequence[str], error: LadingError | None = None) -> Outcome:
    reference = Reference.parse(f"x.y/{name}")
    agent = None if error else Agent(b"12345", DESCRIPTOR, reference, {}, "registry")
    return Outcome(reference, agent, error, references=tuple(map(named, needs)))


def drawn(needs: Mapping[str, Sequence[str]], width: int | None = None, **failed: str) -> list[str]:
    """Draw the closure of ``a``; of each agent, only the name and what is worth a word."""
    outcomes = {f"x.y/{name}:latest": outcome(name, subs) for name, subs in needs.items()}
    outcomes |= {f"x.y/{name}:latest": outcome(name, (), LadingError(why)) for name, why in failed.items()}
    shape = Shape(Reference.parse("x.y/a"), outcomes)
    lines = [line.replace("x.y/", "").replace(":latest", "") for line in draw(shape, width, has_lines=True)]
    return [line.replace("  sha256:0123456789ab, 5 bytes, fetched", "") for line in lines]


def test_one_agent() -> None:
    assert list(draw(Shape(Reference.parse("x.y/a"), {"x.y/a:latest": outcome("a", [])}), None, has_lines=True)) == [
        "x.y/a:latest  sha256:0123456789ab, 5 bytes, fetched"
    ]


def test_each_agent_is_drawn_whole_once() -> None:
    assert drawn({"a": ["b", "c", "b"], "b": ["d"], "c": ["d", "e"], "d": ["f"], "e": [], "f": []}) == [
        "a",
        "├── b",
        "│   └── d",
        "│       └── f",
        "└── c",
        "    ├── d  drawn above",
        "    └── e",
    ]


def test_as_close_to_the_root_as_it_is_named() -> None:
    assert drawn({"a": ["b", "c"], "b": ["c"], "c": ["d"], "d": []}) == [
        "a",
        "├── b",
        "│   └── c  drawn below",
        "└── c",
        "    └── d",
    ]


def test_a_chain_beside_its_links_is_no_deeper_than_the_closure() -> None:
    links = [f"n{number}" for number in range(2000)]
    needs: dict[str, list[str]] = {"a": links} | {one: [other] for one, other in pairwise(links)}
    lines = drawn({**needs, links[-1]: ["a"]})
    assert len(lines) == 1 + 2 * len(links)
    assert lines[-1] == "    └── a  a cycle"


def test_cycles() -> None:
    assert drawn({"a": ["a", "b"], "b": ["c"], "c": ["b", "a"]}) == [
        "a",
        "├── a  a cycle",
        "└── b",
        "    └── c",
        "        ├── b  a cycle",
        "        └── a  a cycle",
    ]


def test_what_is_missing_is_said_in_its_place() -> None:
    secret = "https://ada:password@example.com/agent.yaml?token=secret"
    assert drawn({"a": ["b", secret, "c"], "c": ["d"]}, b="x.y/b:latest: no connection") == [
        "a",
        "├── b  failed: no connection",
        "├── https://example.com/agent.yaml?…  a URL, not fetched",
        "└── c",
        "    └── d  not followed",
    ]


def test_hostile_text_is_escaped() -> None:
    lines = drawn({"a": ["https://example.com/\x1b[31m\u202e/agent", "b"]}, b="a \x1b[2J registry")
    assert lines == [
        "a",
        "├── https://example.com/\\x1b[31m\\u202e/agent  a URL, not fetched",
        "└── b  failed: a \\x1b[2J registry",
    ]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal(width: int) -> None:
    long = "team/a-name-that-is-longer-than-a-narrow-terminal-is-wide"
    outcomes = {
        "x.y/a:latest": outcome("a", [f"x.y/{long}", "b"]),
        f"x.y/{long}:latest": outcome(long, ["c"]),
        "x.y/b:latest": outcome("b", [], LadingError("no connection to where it should be, or wherever else it is")),
        "x.y/c:latest": outcome("c", []),
    }
    lines = list(draw(Shape(Reference.parse("x.y/a"), outcomes), width, has_lines=True))
    assert max(map(len, lines)) <= max(width, 20 + len("│   │       ")), "text has 20 columns, however deep it is"
    joined = "".join(line.lstrip("│├└─ ") for line in lines).replace(" ", "")
    for text in (f"x.y/{long}:latestsha256:0123456789ab", "x.y/b:latestfailed:noconnectionto", "x.y/c:latest"):
        assert text in joined
    if width == 80:
        assert lines == [
            "x.y/a:latest  sha256:0123456789ab, 5 bytes, fetched",
            "├── x.y/team/a-name-that-is-longer-than-a-narrow-terminal-is-wide:latest",
            "│   │   sha256:0123456789ab, 5 bytes, fetched",
            "│   └── x.y/c:latest  sha256:0123456789ab, 5 bytes, fetched",
            "└── x.y/b:latest",
            "        failed: no connection to where it should be, or wherever else it is",
        ]


def put(registry: EmbeddedRegistry, name: str, *subs: str) -> bytes:
    names = json.dumps([sub if "://" in sub else f"{registry.host}/acme/{sub}:v1" for sub in subs])
    content = f"agents: {{root: {{model: m, sub_agents: {names}}}}}\n".encode()
    publish(registry, content, f"acme/{name}")
    return content


async def test_in_a_pipe(registry: EmbeddedRegistry, lading: Shell) -> None:
    writer = put(registry, "writer")
    put(registry, "lead", "writer", "gone", "https://example.com/agent.yaml")
    start = f"{registry.host}/acme"
    done = await lading("tree", f"{start}/lead:v1")
    assert done.status == 1
    lead, *others = done.out.decode().splitlines()
    assert lead.startswith(f"{start}/lead:v1  sha256:")
    assert lead.endswith(", fetched")
    assert others[0].startswith(f"├── {start}/writer:v1  sha256:")
    assert others[0].endswith(f", {len(writer)} bytes, fetched")
    assert others[1].startswith(f"├── {start}/gone:v1  failed: GET answered 404")
    assert others[2:] == ["└── https://example.com/agent.yaml  a URL, not fetched"]
    assert done.err == "1 of 3 failed\n"
    lading.env["PYTHONIOENCODING"] = "ascii"
    plain = await lading("tree", f"{start}/writer:v1", "--offline")
    assert (plain.status, plain.out.decode().count("\n")) == (0, 1), plain.err
    plain = await lading("tree", f"{start}/lead:v1")
    assert plain.out.decode().splitlines()[3] == "`-- https://example.com/agent.yaml  a URL, not fetched"


async def test_at_a_terminal(registry: EmbeddedRegistry, lading: Shell) -> None:
    put(registry, "writer-of-letters-that-nobody-reads")
    put(registry, "lead", "writer-of-letters-that-nobody-reads")
    seen = await at_terminal(lading, "tree", f"{registry.host}/acme/lead:v1", is_output_too=True)
    assert seen.status == 0
    lead, writer, about = seen.text.splitlines()[-3:]
    assert lead.startswith(f"{registry.host}/acme/lead:v1  sha256:")
    assert writer == f"└── {registry.host}/acme/writer-of-letters-that-nobody-reads:v1"
    assert about.startswith("        sha256:")


async def test_as_json_and_locked(registry: EmbeddedRegistry, lading: Shell) -> None:
    first = put(registry, "writer")
    put(registry, "lead", "writer", "https://example.com/agent.yaml?token=secret")
    lead, writer = (f"{registry.host}/acme/{name}:v1" for name in ("lead", "writer"))
    await lading("lock", lead)
    put(registry, "writer", "lead")
    done = await lading("tree", lead, "--json", "--locked", "agents.lock", "--offline")
    assert done.status == 0, done.err
    one, two = map(json.loads, done.out.splitlines())
    assert (one["reference"], one["references"]) == (lead, [writer])
    assert one["not_fetched"] == ["https://example.com/agent.yaml?…"]
    assert (two["reference"], two["needed_by"], two["references"], two["origin"]) == (writer, lead, [], "pinned")
    assert two["size"] == len(first)
    assert sha256(first) != two["digest"], "the digest is the manifest's"
    uncovered = await lading("tree", f"{registry.host}/acme/other:v1", "--locked", "agents.lock")
    assert (uncovered.status, uncovered.err) == (1, "1 of 1 failed\n")
    assert b"other:v1  failed: not in the lock file" in uncovered.out


@pytest.mark.parametrize("arguments", [[], ["a b"], ["a", "b"], ["a", "--max-age", "x"]])
async def test_wrong_usage(lading: Shell, arguments: list[str]) -> None:
    done = await lading("tree", *arguments)
    assert (done.status, done.out) == (2, b"")
