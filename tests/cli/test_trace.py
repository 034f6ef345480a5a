"""``--trace`` as people and programs see it: a waterfall in the terminal, a picture, a part of the JSON."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from xml.etree import ElementTree

import pytest
from artifacts import publish
from shell import Shell
from terminal import at_terminal

from lading.cli.trace import lines
from lading.errors import LadingError
from lading.events import CacheChecked, ConnectionStep, FallingBack, Pulling, RequestSent, Retrying
from lading.testing import PROFILES, EmbeddedProxy, EmbeddedRegistry
from lading.testing.faults import Status
from lading.trace import Trace

YAML = b"agents: {root: {}}\n"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
async def hub() -> AsyncIterator[EmbeddedRegistry]:
    """A registry that wants a token, and keeps blobs elsewhere."""
    async with EmbeddedRegistry(profile=PROFILES["docker-hub"], users={"ada": "hunter2"}) as hub:
        publish(hub, YAML)
        yield hub


@pytest.fixture
def ref(registry: EmbeddedRegistry) -> str:
    publish(registry, YAML)
    return f"{registry.host}/acme/triage:v1"


def rows(text: str) -> list[tuple[str, ...]]:
    """The rows of a drawing: whether it failed, what it is, what it is about, its status."""
    found = re.findall(
        r"^([✗! ]) (prepare|store|dns|connect|tunnel|tls|token|manifest|blob|storage|wait|fallback) +(.+?)"
        r"(?: +(\d{3}))?(?: +[0-9.]+ k?B)? +[0-9.]+ m?s  ",
        text.replace("\r", ""),
        re.MULTILINE,
    )
    return [tuple(one) for one in found]


async def test_a_cold_pull_at_a_terminal(hub: EmbeddedRegistry, lading: Shell) -> None:
    ref = f"{hub.host}/acme/triage:v1"
    seen = await at_terminal(lading, "pull", ref, "--trace", columns=80)
    assert (seen.status, seen.out) == (0, f"{re.sub('[/:]', '_', ref)}.yaml\n".encode())
    first, *rest = seen.text.splitlines()
    assert re.fullmatch(rf"{ref}: 5 requests, 3 new connections, [0-9.]+ ms", first)
    shape = [(kind, status) for _, kind, _, status in rows(seen.text)]
    asked = [("manifest", "401"), ("connect", ""), ("token", "200"), ("manifest", "200"), ("blob", "307")]
    assert shape == [("prepare", ""), ("connect", ""), *asked, ("connect", ""), ("storage", "200"), ("store", "")]
    assert "░ until the answer" in seen.text
    assert "\x1b[3" in seen.raw, "in colours"
    assert all(len(line) <= 80 for line in rest[:-1])
    assert rest[-1].endswith("(fetched)")
    assert "?" not in seen.text, "no signature, and no service that a token is for"


async def test_as_wide_as_the_terminal_and_without_colours_where_nobody_wants_them(ref: str, lading: Shell) -> None:
    lading.env["NO_COLOR"] = "1"
    seen = await at_terminal(lading, "pull", ref, "--trace", columns=120)
    *drawn, legend, _ = seen.text.splitlines()
    assert 100 < max(map(len, drawn)) <= 120
    assert "\x1b[" not in seen.raw
    assert legend.startswith("  ▓ a step")


async def test_plain_text_elsewhere_and_standard_output_as_ever(ref: str, lading: Shell) -> None:
    bare = await lading("pull", ref, "-o", "-")
    done = await lading("pull", ref, "-o", "-", "--trace", "--force")
    assert (done.status, done.out) == (0, bare.out)
    assert done.err.isascii()
    assert [kind for _, kind, _, _ in rows(done.err)] == ["prepare", "connect", "manifest", "blob", "store"]
    assert "trace" not in bare.err
    assert rows(bare.err) == []


async def test_a_warm_pull_is_one_head_and_a_pinned_one_nothing(ref: str, lading: Shell) -> None:
    await lading("pull", ref)
    warm = await lading("pull", ref, "--trace")
    assert f"{ref}: 1 request, 1 new connection, " in warm.err
    assert [row for row in rows(warm.err) if row[3]] == [(" ", "manifest", "HEAD v1", "200")]
    digest = re.findall("sha256:[0-9a-f]{64}", warm.err)[0]
    pinned = await lading("pull", f"{ref}@{digest}", "--trace")
    assert re.search(r"^  no request was sent: the store had it, [0-9.]+ ms$", pinned.err, re.MULTILINE)
    assert rows(pinned.err) == []


async def test_what_fails_is_drawn_and_marked_before_the_error(
    ref: str, registry: EmbeddedRegistry, lading: Shell
) -> None:
    missing = await lading("pull", f"{registry.host}/acme/none:v1", "--trace", "--json")
    assert (missing.status, missing.out) == (1, b"")
    assert "; failed: NotFound" in missing.err
    assert rows(missing.err)[-1] == ("!", "manifest", "v1", "404")
    assert missing.err.index("! failed\n") < missing.err.index("lading: error: ")
    registry.faults.add(Status(503), on="GET manifest")
    retried = await lading("pull", ref, "--trace")
    assert retried.status == 0
    assert [row for row in rows(retried.err) if row[1] in ("manifest", "wait")] == [
        ("!", "manifest", "v1", "503"),
        (" ", "wait", "answered", "503"),
        (" ", "manifest", "v1", "200"),
    ]


async def test_a_registry_that_isnt_there(lading: Shell) -> None:
    seen = await at_terminal(lading, "pull", "127.0.0.1:1/acme/triage", "--trace")
    assert seen.status == 1
    assert seen.text.count("✗ connect") == seen.text.count("✗ manifest") > 1
    assert "ConnectionRefusedError" in seen.text
    assert "ConnectFailed" in seen.text


async def test_in_json_it_is_a_part_of_the_result(ref: str, lading: Shell) -> None:
    done = await lading("pull", ref, "--trace", "--json")
    result = json.loads(done.out)
    assert result["origin"] == "registry"
    trace = result["trace"]
    assert (trace["reference"], trace["error"]) == (ref, None)
    spans = [span for span in trace["spans"] if span["end"] > span["begin"]]
    assert [span["kind"] for span in spans] == ["prepare", "connect", "manifest", "blob", "store"]
    blob = spans[3]
    assert (blob["status"], blob["received"]) == (200, len(YAML))
    assert 0 < blob["begin"] < blob["head"] <= blob["end"] < trace["seconds"]
    assert rows(done.err) == []
    assert "trace" not in json.loads((await lading("pull", ref, "--json")).out)


async def test_a_picture(hub: EmbeddedRegistry, lading: Shell) -> None:
    done = await lading("pull", f"{hub.host}/acme/triage:v1", "--trace-svg", "pull.svg")
    assert done.status == 0
    assert rows(done.err) == []
    picture = (lading.directory / "pull.svg").read_text("utf-8")
    titles = [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}title")]
    assert [title.partition(" ")[0] for title in titles if "://" in title] == [
        "manifest",
        "token",
        "manifest",
        "blob",
        "storage",
    ]
    assert "signature" not in picture


@pytest.mark.parametrize(("file", "status"), [("none/pull.svg", 1), ("", 2)])
async def test_a_picture_that_cannot_be_written(ref: str, lading: Shell, file: str, status: int) -> None:
    done = await lading("pull", ref, "--trace-svg", file)
    assert done.status == status
    assert "none/pull.svg" in done.err or "--trace-svg wants" in done.err


async def test_an_error_is_not_hidden_by_a_picture_that_cannot_be_written(
    registry: EmbeddedRegistry, lading: Shell
) -> None:
    done = await lading("pull", f"{registry.host}/acme/none", "--trace-svg", "none/pull.svg")
    assert done.status == 1
    assert "lading: warning: none/pull.svg: the trace can't be written" in done.err
    assert "lading: error: " in done.err


async def test_fetch_draws_the_same_beside_its_bars(ref: str, lading: Shell) -> None:
    done = await lading("fetch", ref, "--trace")
    assert (done.status, ref.rpartition(":")[0].encode() in done.out) == (0, True)
    kinds = [kind for _, kind, _, _ in rows(done.err)]
    assert (kinds[0], kinds.count("manifest"), kinds.count("blob")) == ("prepare", 1, 2)
    assert "2 blobs" in done.err
    again = json.loads((await lading("fetch", ref, "--trace", "--json")).out)
    assert [span["what"] for span in again["trace"]["spans"] if span["url"]] == ["HEAD v1"]


async def test_a_proxy_is_who_is_connected_to(lading: Shell) -> None:
    async with EmbeddedProxy() as proxy:
        proxy.fault = 502
        lading.env["HTTPS_PROXY"] = proxy.url.replace("http://", "http://ada:hunter2@")
        done = await lading("pull", "registry.example/acme/triage", "--trace")
    assert done.status == 1
    assert (" ", "connect", proxy.url.removeprefix("http://"), "") in rows(done.err)
    assert "! tunnel" in done.err
    assert "hunter2" not in done.err


class TestDrawing:
    """What the drawing is like, of what a listener was told."""

    @pytest.fixture
    def trace(self) -> Trace:
        now = 0.0
        trace = Trace(clock=lambda: now)
        trace(Pulling("registry.example/acme/triage:v1"))
        trace(CacheChecked("registry.example/acme/triage:v1", "absent", asks=True))
        trace(FallingBack("mirror", "https://mirror.example/v2", "answered 503", 30.0))
        now = 0.02
        trace(ConnectionStep(1, "dns", "registry.example", 0.015))
        now = 0.05
        trace(
            ConnectionStep(1, "tls", "a-rather-long-name.of.a-registry.example:443", 0.03, "SSLCertVerificationError")
        )
        trace(RequestSent("GET", "https://registry.example/v2/acme/triage/manifests/v1", 0, 0.05, "TlsFailed", 1, "r"))
        trace(Retrying("GET", "https://registry.example/", "a reason \x1b[31m in red " * 9, 1, 2.5))
        now = 0.075
        trace.finish(LadingError("stopped"))
        return trace

    @pytest.mark.parametrize("width", [1, 40, 60, 79, 80, 120, 400])
    @pytest.mark.parametrize("has_lines", [True, False])
    def test_it_is_as_wide_as_it_may_be(self, trace: Trace, width: int, has_lines: bool) -> None:
        drawn = list(lines(trace, width, has_lines, has_colours=False))
        assert not any("\x1b" in line for line in drawn)
        if width >= 60:
            assert max(map(len, drawn[2:])) <= width  # before that are words, which wrap as they do
        assert all(line.isascii() for line in drawn) or has_lines

    def test_colours_take_no_room(self, trace: Trace) -> None:
        plain = list(lines(trace, 80, True, has_colours=False))
        coloured = [re.sub(r"\x1b\[\d*m", "", line) for line in lines(trace, 80, True, has_colours=True)]
        assert coloured == plain

    def test_a_fallback_is_a_point_in_time_and_a_pause_is_a_line(self, trace: Trace) -> None:
        text = "\n".join(lines(trace, 120, False, has_colours=False))
        assert re.search(
            r"^  fallback https://mirror\.example/v2.* \| https://mirror\.example/v2: answered 503$", text, re.M
        )
        assert re.search(r"^! tls .* \++ SSLCertVerif", text, re.MULTILINE)
        assert re.search(r"^  wait .* 25\.0 ms +\.+$", text, re.MULTILINE), "as much of it as there was"

    def test_too_many_are_counted(self) -> None:
        trace = Trace()
        for number in range(1, 131):
            trace(RequestSent("GET", f"https://r/v2/a/blobs/sha256:{number:064x}", 200, 0.05, "", number, "r"))
        drawn = list(lines(trace, 80, False, has_colours=False))
        assert len(drawn) == 1 + 1 + 100 + 1 + 1
        assert drawn[-2].startswith("and 3")
