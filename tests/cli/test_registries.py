"""``tags``, ``delete``, ``serve`` and ``demo``, and how a command ends when it is told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from anyio.streams.text import TextReceiveStream
from artifacts import publish
from others import open_to_others
from peer_programs import Skopeo
from shell import Shell

from lading.testing import EmbeddedRegistry, RecordedRequest

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"


async def test_tags(registry: EmbeddedRegistry, lading: Shell) -> None:
    for tag in ("v1", "v2"):
        publish(registry, YAML, tag=tag)
    listed = await lading("tags", f"{registry.host}/acme/triage")
    assert (listed.status, listed.out) == (0, b"v1\nv2\n")
    as_json = (await lading("tags", "--json", f"{registry.host}/acme/triage")).out.splitlines()
    assert json.loads(as_json[1]) == {"tag": "v2", "reference": f"{registry.host}/acme/triage:v2"}
    missing = await lading("tags", f"{registry.host}/acme/nowhere")
    assert missing.status == 1
    assert "acme/nowhere" in missing.err


async def test_delete(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    publish(registry, YAML, tag="v2")
    deleted = await lading("delete", f"{registry.host}/acme/triage:v1")
    assert deleted.status == 0, deleted.err
    assert (await lading("tags", f"{registry.host}/acme/triage")).out == b"v2\n"
    assert (await lading("delete", f"{registry.host}/acme/triage@{digest}")).status == 0
    gone = await lading("delete", f"{registry.host}/acme/triage@{digest}")
    assert gone.status == 1
    assert "404" in gone.err


async def test_a_registry_that_deletes_by_digest_only(registry: EmbeddedRegistry, lading: Shell) -> None:
    async def refuse(request: web.Request, record: RecordedRequest) -> web.Response:
        return web.json_response({"errors": [{"code": "UNSUPPORTED"}]}, status=405)

    registry.intercept = refuse
    refused = await lading("delete", f"{registry.host}/acme/triage:v1")
    assert refused.status == 1
    assert "digest" in refused.err


async def test_a_registry_that_is_read_only(lading: Shell) -> None:
    async with serving(lading) as host:
        refused = await lading("push", "-", f"{host}/acme/triage:v1", stdin=b"agents: {root: {}}\n")
    assert refused.status == 1
    assert "405: UNSUPPORTED this registry is read-only" in refused.err
    assert "lading serve does with --writable" in refused.err


@asynccontextmanager
async def serving(lading: Shell, *options: str) -> AsyncIterator[str]:
    """Run ``lading serve`` on a free port, and give its host."""
    async with await lading.start("serve", "--port", "0", *options) as process:
        assert process.stdout is not None
        with anyio.fail_after(30):
            host = (await TextReceiveStream(process.stdout).receive()).strip()
        yield host
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            assert await process.wait() == 0


async def test_what_is_served_from_a_directory_lasts(lading: Shell, tmp_path: Path) -> None:
    directory = str(tmp_path / "registry")
    async with serving(lading, "--store", directory, "--writable") as host:
        assert (await lading("push", "-", f"{host}/acme/triage:v1", stdin=YAML)).status == 0
    async with serving(lading, "--store", directory) as host:
        assert (await lading("cat", f"{host}/acme/triage:v1")).out == YAML
        refused = await lading("push", "-", f"{host}/acme/other:v1", stdin=YAML)
        assert refused.status == 1
        assert "read-only" in refused.err


async def test_skopeo_pulls_from_it_and_pushes_to_it(lading: Shell, tmp_path: Path) -> None:
    skopeo = Skopeo()
    layout = f"oci:{tmp_path / 'layout'}:v1"
    async with serving(lading, "--store", str(tmp_path / "registry"), "--writable") as host:
        await lading("push", "-", f"{host}/acme/triage:v1", stdin=YAML)
        await anyio.to_thread.run_sync(skopeo.copy, f"docker://{host}/acme/triage:v1", layout)
        await anyio.to_thread.run_sync(skopeo.copy, layout, f"docker://{host}/acme/back:v1")
        assert (await lading("cat", f"{host}/acme/back:v1")).out == YAML


@pytest.mark.parametrize(
    ("host", "writable", "said"),
    [
        ("0.0.0.0", [], "listening on all addresses of this machine: whoever can reach it can read\n"),
        ("0.0.0.0", ["--writable"], "whoever can reach it can read and write\n"),
        ("127.0.0.1", ["--writable"], ""),
    ],
)
async def test_who_can_reach_it_is_said(lading: Shell, host: str, writable: list[str], said: str) -> None:
    async with await lading.start("serve", "--port", "0", "--host", host, *writable) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with anyio.fail_after(30):
            shown = await TextReceiveStream(process.stdout).receive()
            process.send_signal(signal.SIGTERM)
            told = "".join([piece async for piece in TextReceiveStream(process.stderr)])
    assert shown.startswith("127.0.0.1:"), "how this machine gets there"
    assert said in told
    assert ("warning" in told) == bool(said)


async def test_an_address_that_cant_be_listened_on_is_named(registry: EmbeddedRegistry, lading: Shell) -> None:
    port = registry.host.rpartition(":")[2]
    failed = await lading("serve", "--port", port)
    assert failed.status == 1
    assert f"127.0.0.1:{port}" in failed.err


async def test_a_directory_that_isnt_a_registry_is_left_alone(lading: Shell) -> None:
    (lading.directory / "precious").write_text("mine")
    failed = await lading("serve", "--port", "0", "--store", ".")
    assert failed.status == 1
    assert "Traceback" not in failed.err
    assert os.listdir(lading.directory) == ["precious"]


async def test_the_demo_is_what_it_says(lading: Shell) -> None:
    played = await lading("demo", "--json")
    assert played.status == 0, played.err
    steps = {step["step"]: step for step in json.loads(played.out)}
    asked = {title: step["requests"] for title, step in steps.items()}
    assert asked["cold: manifest, then layer"] == {"GET manifest": 1, "GET blob": 1}
    assert asked["cold: embedded in the manifest"] == {"GET manifest": 1}
    assert asked["warm: has the tag moved?"] == {"HEAD manifest": 1}
    assert asked["pinned: a digest can't change"] == asked["fresh: confirmed a moment ago"] == {}
    assert asked["moved tag: by its new digest"] == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 1}
    assert asked["200 cold ones, 32 at once"] == {"GET manifest": 200, "GET blob": 200}
    origins = [step["origin"] for step in steps.values()]
    assert origins[1:] == [
        "registry",
        "registry",
        "revalidated",
        "fresh",
        "pinned",
        "registry",
        "stale",
        "registry",
        "registry",
        "registry",
    ]
    assert os.listdir(lading.home) == [], "nothing is left behind"


async def test_the_demo_fits_a_plain_terminal(lading: Shell) -> None:
    lading.env["COLUMNS"] = "80"
    shown = (await lading("demo")).out.decode()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_a_pull_cleanly(
    registry: EmbeddedRegistry, lading: Shell, number: signal.Signals, status: int
) -> None:
    reached, never = anyio.Event(), anyio.Event()

    async def hang(request: web.Request, record: RecordedRequest) -> None:
        reached.set()
        await never.wait()

    registry.intercept = hang
    async with await lading.start("pull", f"{registry.host}/acme/triage") as process:
        with anyio.fail_after(30):
            await reached.wait()
            process.send_signal(number)
            assert await process.wait() == status
        assert process.stderr is not None
        said = b"".join([chunk async for chunk in process.stderr]).decode()
    assert "Traceback" not in said
    assert os.listdir(lading.directory) == []


async def test_a_reader_that_goes_away_is_no_error(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, b"#" * 1_000_000)
    command = f'{sys.executable} -m lading cat {registry.host}/acme/triage:v1 | head -c 5; echo "${{PIPESTATUS[0]}}"'
    done = await anyio.run_process(["bash", "-c", command], cwd=lading.directory, env=lading.env)
    assert done.stdout == b"#####141\n"
    assert done.stderr == b""


def test_output_that_cant_be_written_is_an_error(lading: Shell) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lading", "--help"],
            cwd=lading.directory,
            env=lading.env,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount and to step down")
async def test_full_disks_and_missing_permission_are_named(
    registry: EmbeddedRegistry, lading: Shell, tmp_path: Path
) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    small = tmp_path / "small"
    small.mkdir()
    mounted = await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting isn't allowed here")
    try:
        (small / "filler").write_bytes(b"x" * 64 * 1024)
        full = await lading("pull", ref, "-o", str(small / "agent.yaml"))
        assert full.status == 1
        assert "No space left" in full.err
        lading.env["LADING_HOME"] = str(small / "store")
        unstored = await lading("cat", ref)
        assert (unstored.status, unstored.out) == (0, YAML)
        assert "not stored" in unstored.err
    finally:
        await anyio.run_process(["umount", str(small)])
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable]
    if shutil.which("setpriv") is None or (await anyio.run_process([*nobody, "-c", ""], check=False)).returncode:
        pytest.skip("no other user can run this interpreter")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    open_to_others(tmp_path)
    lading.env["LADING_HOME"] = str(closed / "store")
    command = [*nobody, "-m", "lading", "cat", ref]
    denied = await anyio.run_process(command, check=False, env=lading.env)
    assert b"closed" in denied.stderr
    assert b"Traceback" not in denied.stderr
