"""The command line as a person or a script uses it: streams, exit status, files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from artifacts import publish
from shell import Shell

from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Status

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"


async def test_push_pull_cat_resolve(registry: EmbeddedRegistry, lading: Shell) -> None:
    (lading.directory / "triage.yaml").write_bytes(YAML)
    ref = f"{registry.host}/acme/triage:v3"
    pushed = await lading("push", "triage.yaml", ref)
    assert pushed.status == 0, pushed.err
    pinned = pushed.out.decode().strip()
    assert pinned.startswith(f"{registry.host}/acme/triage@sha256:")

    resolved = await lading("resolve", ref)
    assert (resolved.status, resolved.out.decode()) == (0, pinned.partition("@")[2] + "\n")

    name = ref.replace("/", "_").replace(":", "_") + ".yaml"
    pulled = await lading("pull", ref)
    assert (pulled.status, pulled.out.decode()) == (0, name + "\n"), pulled.err
    assert (lading.directory / name).read_bytes() == YAML
    assert pinned.partition("@")[2] in pulled.err

    for reference in (ref, pinned):
        printed = await lading("cat", reference)
        assert (printed.status, printed.out, printed.err) == (0, YAML, "")


async def test_push_reads_standard_input(registry: EmbeddedRegistry, lading: Shell) -> None:
    pushed = await lading("push", "-", f"{registry.host}/acme/triage", stdin=YAML)
    assert pushed.status == 0, pushed.err
    assert (await lading("cat", f"{registry.host}/acme/triage")).out == YAML


async def test_push_reads_a_pipe(registry: EmbeddedRegistry, lading: Shell) -> None:
    ref = f"{registry.host}/acme/triage"
    script = f"{sys.executable} -m lading push <(echo 'agents: {{root: {{}}}}') {ref}"
    done = await anyio.run_process(["bash", "-c", script], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 0, done.stderr
    assert (await lading("cat", ref)).out == b"agents: {root: {}}\n"


@pytest.mark.parametrize("content", [b"- 1\n", b"agents: {root: {", b"models: {}\n"])
async def test_push_warns_of_what_is_no_agent(registry: EmbeddedRegistry, lading: Shell, content: bytes) -> None:
    pushed = await lading("push", "-", f"{registry.host}/acme/triage", stdin=content)
    assert pushed.status == 0
    assert pushed.err.startswith("lading: warning: published as it is, but ")


async def test_unbuffered_output_loses_nothing(registry: EmbeddedRegistry, lading: Shell) -> None:
    content = b"#" * 1_000_000
    publish(registry, content)
    lading.env["PYTHONUNBUFFERED"] = "1"
    ref = f"{registry.host}/acme/triage:v1"
    assert (await lading("cat", ref)).out == content
    script = f'{sys.executable} -m lading cat {ref} | head -c 5; echo "${{PIPESTATUS[0]}}"'
    done = await anyio.run_process(["bash", "-c", script], cwd=lading.directory, env=lading.env)
    assert done.stdout == b"#####141\n"


async def test_output_that_isnt_utf8(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, "agents: {root: {description: 日本}}\n".encode())
    lading.env["PYTHONIOENCODING"] = "ascii"
    shown = await lading("inspect", f"{registry.host}/acme/triage:v1")
    assert shown.status == 0
    assert b"\\u65e5" in shown.out
    assert (await lading("demo")).status == 0


async def test_a_user_without_a_home_is_told_what_to_set(lading: Shell) -> None:
    del lading.env["LADING_HOME"], lading.env["HOME"]
    code = (
        "import os, pwd; pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid)); "
        "from lading.cli import main; raise SystemExit(main(['ls']))"
    )
    done = await anyio.run_process([sys.executable, "-c", code], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 1
    assert b"LADING_HOME" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_pull_writes_where_it_is_told(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    assert (await lading("pull", ref, "-o", "agent.yaml")).out == b"agent.yaml\n"
    assert (lading.directory / "agent.yaml").read_bytes() == YAML
    assert (await lading("pull", ref, "-o", "-")).out == YAML
    assert sorted(os.listdir(lading.directory)) == ["agent.yaml"]


async def test_pull_replaces_the_file_and_keeps_its_mode(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    target = lading.directory / "agent.yaml"
    target.write_text("old")
    target.chmod(0o640)
    await lading("pull", f"{registry.host}/acme/triage:v1", "-o", "agent.yaml")
    assert target.read_bytes() == YAML
    assert target.stat().st_mode & 0o777 == 0o640


async def test_pull_writes_to_what_isnt_a_regular_file(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    pipe = lading.directory / "pipe"
    os.mkfifo(pipe)
    async with await lading.start("pull", ref, "-o", "pipe") as process:
        assert await anyio.to_thread.run_sync(pipe.read_bytes) == YAML
        assert await process.wait() == 0
    assert pipe.is_fifo()


async def test_pull_follows_a_link(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    (lading.directory / "link.yaml").symlink_to("agent.yaml")
    await lading("pull", f"{registry.host}/acme/triage:v1", "-o", "link.yaml")
    assert (lading.directory / "link.yaml").is_symlink()
    assert (lading.directory / "agent.yaml").read_bytes() == YAML


@pytest.mark.parametrize("status", [404, 401, 500])
async def test_a_strict_pull_that_fails_leaves_the_file_alone(
    registry: EmbeddedRegistry, lading: Shell, status: int
) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("pull", ref, "-o", "agent.yaml")

    async def fail(request: web.Request, record: RecordedRequest) -> web.Response:
        return web.Response(status=status)

    registry.intercept = fail
    failed = await lading("pull", ref, "-o", "agent.yaml")
    assert (failed.status, failed.out) == (1, b"")
    assert failed.err.startswith("lading: error: ")
    assert str(status) in failed.err
    assert "hint: " in failed.err
    assert (lading.directory / "agent.yaml").read_bytes() == YAML
    assert os.listdir(lading.directory) == ["agent.yaml"]


async def test_cat_gives_a_stale_copy_with_a_warning(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("pull", ref)
    await registry.stop()
    printed = await lading("cat", ref)
    assert (printed.status, printed.out) == (0, YAML)
    assert printed.err.startswith("lading: warning: ")
    assert (await lading("cat", ref, "--max-stale", "0")).status == 1


async def test_offline(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    await lading("pull", f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    pinned = await lading("cat", "--offline", f"{registry.host}/acme/triage@{digest}")
    assert (pinned.status, pinned.out) == (0, YAML)
    absent = await lading("cat", "--offline", f"{registry.host}/acme/other")
    assert absent.status == 1
    assert "switched off" in absent.err
    assert registry.summary() == []


@pytest.mark.parametrize(
    "arguments",
    ["push -", "copy acme/other:v1", "resolve", "tags", "delete"],
)
async def test_what_needs_the_network_says_so(registry: EmbeddedRegistry, lading: Shell, arguments: str) -> None:
    verb, *more = arguments.split()
    explained = await lading(verb, "--help")
    assert b"this verb needs it, and fails" in b" ".join(explained.out.split())
    failed = await lading(verb, *more, f"{registry.host}/acme/triage", "--offline", stdin=YAML)
    assert (failed.status, failed.out) == (1, b"")
    assert "network access is switched off" in failed.err
    registry.assert_requests()


async def test_whoever_has_to_wait_is_told(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    registry.faults.add(Status(429, 3600), on="GET manifest", times=None)
    async with await lading.start("cat", f"{registry.host}/acme/triage:v1") as process:
        assert process.stderr is not None
        with anyio.fail_after(30):
            said = (await process.stderr.receive()).decode()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 143
    assert said.startswith("lading: warning: GET ")
    assert "answered 429, and asks to wait 3600 s: again in 60.00 s" in said


@pytest.mark.parametrize("verb", ["cat", "resolve", "tags", "fetch"])
async def test_debug_shows_each_request(registry: EmbeddedRegistry, lading: Shell, verb: str) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage{'' if verb == 'tags' else ':v1'}"
    quiet, loud = await lading(verb, ref), await lading("--debug", verb, ref)
    assert (loud.status, loud.out) == (quiet.status, quiet.out) == (0, quiet.out)
    assert "lading.http" not in quiet.err
    line = rf"^ *[0-9]+ ms DEBUG +lading\.http: (GET|HEAD) {registry.url}/v2/.*: 200 in [0-9]+ ms$"
    assert re.search(line, loud.err, re.MULTILINE)


async def test_json(registry: EmbeddedRegistry, lading: Shell) -> None:
    (lading.directory / "triage.yaml").write_bytes(YAML)
    ref = f"{registry.host}/acme/triage:v1"
    pushed = json.loads((await lading("push", "--json", "triage.yaml", ref)).out)
    pulled = json.loads((await lading("pull", "--json", ref, "-o", "a.yaml")).out)
    printed = json.loads((await lading("cat", "--json", ref)).out)
    resolved = json.loads((await lading("resolve", "--json", ref)).out)
    assert pushed["digest"] == pulled["digest"] == printed["digest"] == resolved["digest"]
    assert pulled["path"] == "a.yaml"
    assert (pulled["origin"], printed["origin"]) == ("registry", "revalidated")
    assert printed["content"] == YAML.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["pull"],
        ["pull", "UPPER"],
        ["pull", "acme/triage", "--nonsense"],
        ["cat", "acme/triage", "--max-age", "-1"],
        ["push", "triage.yaml"],
        ["push", "triage.yaml", "acme/triage", "--annotation", "x"],
        ["resolve", "a b"],
        ["pull", "acme/triage", "-o", ""],
        ["cat", "acme/triage", "--max-age", "nan"],
        ["cat", "acme/triage", "--max-stale", "x"],
        ["serve", "--host", ""],
        ["serve", "--store", ""],
        ["pull", "acme/triage", "-o", "-", "--json"],
    ],
)
async def test_wrong_usage(lading: Shell, arguments: list[str]) -> None:
    wrong = await lading(*arguments)
    assert (wrong.status, wrong.out) == (2, b"")
    assert "lading" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["push", "nowhere.yaml", "127.0.0.1:1/acme/triage"], "nowhere.yaml"),
        (["pull", "127.0.0.1:1/acme/triage"], "127.0.0.1:1"),
        (["pull", "127.0.0.1:1/acme/triage", "-o", "no/such/directory"], "127.0.0.1:1"),
    ],
)
async def test_failures_are_named(lading: Shell, arguments: list[str], says: str) -> None:
    failed = await lading(*arguments)
    assert (failed.status, failed.out) == (1, b"")
    assert says in failed.err
    assert "Traceback" not in failed.err


async def test_a_file_that_cant_be_written_is_named(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    failed = await lading("pull", f"{registry.host}/acme/triage:v1", "-o", "no/such/agent.yaml")
    assert failed.status == 1
    assert "no/such/agent.yaml" in failed.err


async def test_not_an_agent(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML, annotations={})
    for verb in ("pull", "cat"):
        refused = await lading(verb, f"{registry.host}/acme/triage:v1")
        assert refused.status == 1
        assert "not an agent" in refused.err
        assert "lading fetch" in refused.err


@pytest.mark.parametrize(
    "command",
    ["cat {ref} >&-", "cat {ref} >/dev/full", "resolve {ref} >/dev/full", "push - {ref} <&-", "resolve {ref} >&-"],
)
async def test_streams_that_are_closed_or_full(registry: EmbeddedRegistry, lading: Shell, command: str) -> None:
    publish(registry, YAML)
    script = f"{sys.executable} -m lading " + command.format(ref=f"{registry.host}/acme/triage:v1")
    done = await anyio.run_process(["bash", "-c", script], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 1
    assert done.stderr.startswith(b"lading: error: ")
    assert b"Traceback" not in done.stderr


async def test_a_directory_that_is_gone(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    script = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m lading pull {registry.host}/acme/triage:v1"
    done = await anyio.run_process(["bash", "-c", script], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


async def test_help_and_version(lading: Shell) -> None:
    for arguments in (["--help"], ["pull", "-h"], ["cat", "--help"], ["push", "--help"], ["resolve", "--help"]):
        shown = await lading(*arguments)
        assert shown.status == 0
        assert b"lading" in shown.out
    assert (await lading("--version")).out.startswith(b"lading 0.")


async def test_an_interrupt_ends_with_130(registry: EmbeddedRegistry, lading: Shell) -> None:
    reached, never = anyio.Event(), anyio.Event()

    async def hang(request: web.Request, record: RecordedRequest) -> None:
        reached.set()
        await never.wait()

    registry.intercept = hang
    command = [sys.executable, "-m", "lading", "pull", f"{registry.host}/acme/triage"]
    async with await anyio.open_process(command, cwd=lading.directory, env=lading.env) as process:
        with anyio.fail_after(30):
            await reached.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        assert process.stderr is not None
        assert "Traceback" not in (await _drain(process.stderr)).decode()


async def test_in_the_background_of_a_script_only_sigterm_ends_it(registry: EmbeddedRegistry, lading: Shell) -> None:
    """A shell starts what it runs there with SIGINT ignored."""
    reached, never = anyio.Event(), anyio.Event()

    async def hang(request: web.Request, record: RecordedRequest) -> None:
        reached.set()
        await never.wait()

    registry.intercept = hang
    script = f"trap '' INT; exec {sys.executable} -m lading cat {registry.host}/acme/triage"
    async with await anyio.open_process(["sh", "-c", script], cwd=lading.directory, env=lading.env) as process:
        with anyio.fail_after(30):
            await reached.wait()
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 143
        assert process.stderr is not None
        assert (await _drain(process.stderr)).strip() == b"lading: terminated"


async def _drain(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


def _imported_by(lading: Shell, *arguments: str) -> tuple[bytes, set[str]]:
    """Run the command in a fresh interpreter; give its output and the modules that it imported."""
    script = (
        "import sys; from lading.cli import main; status = main(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=lading.directory,
        env=lading.env,
        capture_output=True,
        check=True,
    )
    return done.stdout, set(done.stderr.decode().split())


async def test_cat_of_a_cached_pinned_reference_imports_nothing_heavy(
    registry: EmbeddedRegistry, lading: Shell
) -> None:
    digest = publish(registry, YAML)
    await lading("pull", f"{registry.host}/acme/triage:v1")
    out, modules = await anyio.to_thread.run_sync(_imported_by, lading, "cat", f"{registry.host}/acme/triage@{digest}")
    assert out == YAML
    assert modules & {"aiohttp", "asyncio", "anyio", "rich", "yaml", "aiofiles"} == set()
