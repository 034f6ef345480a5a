"""``prefetch`` as a deployment, a script or a person uses it: lists, failures, streams, signals, a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import anyio
import pytest
from anyio.abc import ByteReceiveStream
from artifacts import publish
from shell import Shell
from terminal import at_terminal

from lading.testing import EmbeddedRegistry
from lading.testing.faults import Status


def content_of(*subs: str, model: str = "m") -> bytes:
    return f"agents: {{root: {{model: {model}, sub_agents: {json.dumps(subs)}}}}}\n".encode()


def put(registry: EmbeddedRegistry, *names: str) -> tuple[list[str], list[str]]:
    """Publish an agent of each name; give what they are called, and the same pinned."""
    digests = [publish(registry, content_of(model=name), f"acme/{name}") for name in names]
    return (
        [f"{registry.host}/acme/{name}:v1" for name in names],
        [f"{registry.host}/acme/{name}@{digest}" for name, digest in zip(names, digests, strict=True)],
    )


def write_list(lading: Shell, *lines: str, name: str = "agents.txt") -> str:
    (lading.directory / name).write_text("".join(f"{line}\n" for line in lines))
    return name


async def test_prints_what_each_stands_for_and_a_summary(registry: EmbeddedRegistry, lading: Shell) -> None:
    refs, pinned = put(registry, "a", "b", "c")
    agents = write_list(lading, "# ours", refs[1], "", f"{refs[2]}  # later", refs[0])
    done = await lading("prefetch", refs[0], "-f", agents)
    assert (done.status, sorted(done.out.decode().split())) == (0, pinned), done.err
    assert re.fullmatch(r"3 pulled; \d+\.\d s, [0-9.]+/s\n", done.err)
    registry.clear_requests()
    again = await lading("prefetch", "-f", agents)
    assert again.err.startswith("3 unchanged; ")
    registry.assert_requests(*["HEAD manifest"] * 3)
    registry.clear_requests()
    fresh = await lading("prefetch", "-f", agents, "--max-age", "3600")
    assert (fresh.status, sorted(fresh.out.decode().split())) == (0, pinned)
    assert fresh.err.startswith("3 cached; ")
    registry.assert_requests()


async def test_no_failure_stops_the_others(registry: EmbeddedRegistry, lading: Shell) -> None:
    refs, pinned = put(registry, "a", "b")
    agents = write_list(lading, f"{registry.host}/acme/gone:v1", "not a reference", refs[0], refs[1])
    done = await lading("prefetch", "-f", agents)
    assert (done.status, sorted(done.out.decode().split())) == (1, pinned)
    assert "lading: error: agents.txt:2: reference 'not a reference': " in done.err
    assert "\n  hint: one reference a line" in done.err
    assert f"lading: error: {registry.host}/acme/gone:v1: GET answered 404" in done.err
    assert done.err.splitlines()[-1].startswith("2 pulled, 2 failed; ")


async def test_as_json_a_line_an_outcome(registry: EmbeddedRegistry, lading: Shell) -> None:
    host = registry.host
    secret = "https://ada:password@example.com/agent.yaml?token=secret"
    child = publish(registry, content_of(), "acme/child")
    publish(registry, content_of(f"{host}/acme/child:v1", f"{host}/acme/gone:v1", secret), "acme/lead")
    done = await lading("prefetch", f"{host}/acme/lead:v1", "-f", "-", "--recursive", "--json", stdin=b"a b\n")
    assert done.status == 1
    found = {line["reference"]: line for line in map(json.loads, done.out.splitlines())}
    assert len(found) == 4
    assert found[f"{host}/acme/child:v1"].pop("age") >= 0
    assert found[f"{host}/acme/child:v1"] == {
        "reference": f"{host}/acme/child:v1",
        "digest": child,
        "origin": "registry",
        "stale_reason": None,
        "size": len(content_of()),
        "depth": 1,
        "needed_by": f"{host}/acme/lead:v1",
    }
    assert found[f"{host}/acme/lead:v1"]["not_fetched"] == ["https://example.com/agent.yaml?…"]
    gone = found[f"{host}/acme/gone:v1"]
    assert (gone["type"], gone["depth"], "digest" in gone) == ("NotFound", 1, False)
    assert "404" in gone["error"]
    assert gone["hint"]
    assert found["a b"]["type"] == "InvalidReference"
    assert found["a b"]["error"].startswith("standard input:1: ")
    assert f"; needed by {host}/acme/lead:v1\n" in done.err
    assert "2 pulled, 2 failed; 1 URL is not fetched; " in done.err
    assert "secret" not in done.err + done.out.decode()
    assert "password" not in done.err + done.out.decode()


@pytest.mark.parametrize(
    "arguments",
    [[], ["-f", os.devnull], ["acme/a", "--concurrency", "0"], ["acme/a", "--max-age", "-1"], ["a b"]],
)
async def test_wrong_usage(lading: Shell, arguments: list[str]) -> None:
    done = await lading("prefetch", *arguments)
    assert (done.status, done.out) == (2, b"")
    assert "Usage: lading prefetch" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["-f", "none.txt"], "none.txt: can't be read"), (["-f", "."], "directory"), (["--locked", "x"], "lading lock")],
)
async def test_what_cant_be_read_is_known_before_anything_is_asked_for(
    registry: EmbeddedRegistry, lading: Shell, arguments: list[str], says: str
) -> None:
    refs, _ = put(registry, "a")
    done = await lading("prefetch", *refs, *arguments)
    assert (done.status, done.out) == (1, b"")
    assert says in done.err
    registry.assert_requests()


async def receive_line(stream: ByteReceiveStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive(1)
    return line.decode()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_standard_input_is_read_as_it_comes_and_isnt_waited_for(
    registry: EmbeddedRegistry, lading: Shell, number: signal.Signals, status: int
) -> None:
    refs, pinned = put(registry, "a", "b")
    async with await lading.start("prefetch", "-f", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with anyio.fail_after(30):
            for ref, expected in zip(refs, pinned, strict=True):
                await process.stdin.send(f"{ref}\n".encode())
                assert await receive_line(process.stdout) == f"{expected}\n"
            process.send_signal(number)
            assert await process.wait() == status
        err = b"".join([chunk async for chunk in process.stderr]).decode()
    assert err.startswith("2 pulled; ")
    assert "the same command goes on where this one stopped" in err
    assert "--max-age 3600" in err
    assert "Traceback" not in err
    registry.clear_requests()
    again = await lading("prefetch", *refs, "--max-age", "3600")
    assert (again.status, sorted(again.out.decode().split())) == (0, pinned)
    registry.assert_requests()


async def test_a_reader_that_has_gone(registry: EmbeddedRegistry, lading: Shell) -> None:
    refs, _ = put(registry, *(f"a{number}" for number in range(40)))
    agents = write_list(lading, *refs)
    script = f'{sys.executable} -m lading prefetch -f {agents} --concurrency 1 | head -1; echo "${{PIPESTATUS[0]}}"'
    done = await anyio.run_process(["bash", "-c", script], cwd=lading.directory, env=lading.env)
    assert done.stdout.splitlines()[1:] == [b"141"]
    assert b"Traceback" not in done.stderr


async def test_many_stale_copies_dont_bury_the_summary(registry: EmbeddedRegistry, lading: Shell) -> None:
    refs, pinned = put(registry, *(f"a{number}" for number in range(20)))
    agents = write_list(lading, *refs)
    await lading("prefetch", "-f", agents)
    registry.faults.add(Status(404), on="* manifest", times=None)
    done = await lading("prefetch", "-f", agents)
    assert (done.status, sorted(done.out.decode().split())) == (0, sorted(pinned))
    *warnings, more, summary = done.err.splitlines()
    assert len(warnings) == 3
    assert all("serving a copy" in line for line in warnings)
    assert more.startswith("lading: warning: 17 more like this: ")
    assert summary.startswith("20 stale; ")
    strict = await lading("prefetch", refs[0], "--strict", "--json")
    assert (strict.status, json.loads(strict.out)["type"]) == (1, "NotFound")
    offline = await lading("prefetch", refs[0], "--offline", "--json")
    assert (offline.status, json.loads(offline.out)["origin"]) == (0, "stale")
    assert "switched off" in json.loads(offline.out)["stale_reason"]


async def test_what_a_lock_file_says(registry: EmbeddedRegistry, lading: Shell) -> None:
    host = registry.host
    child = publish(registry, content_of(model="first"), "acme/child")
    lead = publish(registry, content_of(f"{host}/acme/child:v1"), "acme/lead")
    refs, _ = put(registry, "other")
    await lading("lock", f"{host}/acme/lead:v1")
    publish(registry, content_of(model="second"), "acme/child")
    lading.env["LADING_HOME"] += "-of-another-machine"
    registry.clear_requests()
    # All that it holds, unless told what.
    done = await lading("prefetch", "--locked", "agents.lock")
    assert done.status == 0, done.err
    assert sorted(done.out.decode().split()) == [f"{host}/acme/child@{child}", f"{host}/acme/lead@{lead}"]
    assert registry.count("HEAD manifest") == 0
    registry.clear_requests()
    arguments = ["prefetch", f"{host}/acme/lead:v1", refs[0], "--recursive", "--locked", "agents.lock"]
    for more in ([], ["--offline"]):
        done = await lading(*arguments, *more)
        assert (done.status, len(done.out.split())) == (1, 2)
        assert f"lading: error: {refs[0]}: not in the lock file\n  hint: add it: lading lock {refs[0]}\n" in done.err
        assert "2 cached, 1 failed; " in done.err
    registry.assert_requests()


async def test_what_the_store_didnt_keep_has_failed(registry: EmbeddedRegistry, lading: Shell) -> None:
    refs, _ = put(registry, "a")
    await lading("prefetch", *refs)
    for number in range(4):
        publish(registry, os.urandom(50_000).hex().encode(), f"acme/large{number}")
    large = [f"{registry.host}/acme/large{number}:v1" for number in range(4)]
    script = f"ulimit -f 150; {sys.executable} -m lading prefetch {' '.join(large)}"
    done = await anyio.run_process(["bash", "-c", script], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 1
    assert b": not stored: " in done.stderr
    assert b": pulled, but the store didn't keep it\n" in done.stderr
    assert re.search(rb"[1-4] failed; ", done.stderr)
    known = [json.loads(line)["reference"] for line in (await lading("ls", "--json")).out.splitlines()]
    assert len(known) == 1 + len(done.stdout.split())


async def test_at_a_terminal_a_bar_and_what_failed(registry: EmbeddedRegistry, lading: Shell) -> None:
    refs, pinned = put(registry, "a", "b")
    agents = write_list(lading, *refs, f"{registry.host}/acme/gone:v1")
    seen = await at_terminal(lading, "prefetch", "-f", agents, is_output_too=True)
    assert seen.status == 1
    assert "━ 0/3" in seen.text
    assert "@sha256:" not in seen.text
    assert f"lading: error: {registry.host}/acme/gone:v1: GET answered 404" in seen.text
    assert seen.text.splitlines()[-1].startswith("2 pulled, 1 failed; ")
    assert seen.raw.count("\x1b[?25l") == seen.raw.count("\x1b[?25h"), "the cursor is back"
    # What is read by a program goes there, also while there is a bar.
    seen = await at_terminal(lading, "prefetch", *refs)
    assert (seen.status, sorted(seen.out.decode().split())) == (0, pinned)
    assert "2 unchanged; " in seen.text
    seen = await at_terminal(lading, "prefetch", *refs, "--json", is_output_too=True)
    assert "━" not in seen.text
    assert [json.loads(line)["origin"] for line in seen.text.splitlines()[:2]] == ["revalidated"] * 2


async def test_results_of_other_verbs_stay_results_while_there_is_a_bar(
    registry: EmbeddedRegistry, lading: Shell
) -> None:
    refs, pinned = put(registry, "a")
    await lading("fetch", refs[0])
    await lading("export", refs[0], "a.tar")
    seen = await at_terminal(lading, "import", "a.tar")
    assert (seen.status, seen.out.decode()) == (0, f"{pinned[0]}\n"), seen.text


def test_importing_the_verb_needs_no_network_library() -> None:
    code = (
        "import sys, lading.cli.prefetch, lading.cli.lock, lading.cli.tree; "
        "print(*sorted({'aiohttp', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"\n"
