"""``fetch`` as a person or a script uses it: on a terminal and elsewhere, interrupted, and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from artifacts import INDEX, MANIFEST, describe, sha256
from shell import Finished, Shell
from terminal import at_terminal

from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Bandwidth, Close, Status

MIB = 1024 * 1024
CONFIG = b'{"architecture": "none"}'
REPOSITORY = "acme/image"


@cache
def content_of(size: int, number: int = 0) -> bytes:
    return random.Random(f"{size}/{number}").randbytes(size)


def put(registry: EmbeddedRegistry, *layers: bytes, tag: str | None = "v1") -> tuple[str, bytes]:
    """Put an image into the registry, and give its digest and its manifest."""
    for blob in (CONFIG, *layers):
        registry.add_blob(REPOSITORY, blob)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
    }
    raw = json.dumps(document).encode()
    return registry.add_manifest(REPOSITORY, raw, MANIFEST, tag=tag), raw


def put_index(registry: EmbeddedRegistry, platforms: dict[str, bytes]) -> str:
    children = []
    for platform, layer in platforms.items():
        os_name, architecture = platform.split("/")
        _, raw = put(registry, layer, tag=None)
        children.append({**describe(MANIFEST, raw), "platform": {"os": os_name, "architecture": architecture}})
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    return registry.add_manifest(REPOSITORY, raw, INDEX, tag="v1")


def blob_path(lading: Shell, content: bytes) -> Path:
    return Path(lading.env["LADING_HOME"]) / "blobs" / sha256(content).replace(":", "/")


async def test_fetch_prints_what_the_reference_stands_for(registry: EmbeddedRegistry, lading: Shell) -> None:
    layer = content_of(3 * MIB)
    digest, _ = put(registry, layer, b"a small one")
    ref = f"{registry.host}/{REPOSITORY}:v1"
    done = await lading("fetch", ref)
    assert (done.status, done.out.decode()) == (0, f"{registry.host}/{REPOSITORY}@{digest}\n"), done.err
    assert f"{sha256(layer)[:19]} 3.1 MB\n" in done.err
    assert re.search(r"^3 blobs, 3\.1 MB, of which 3\.1 MB were fetched, [0-9.]+ [kMG]B/s$", done.err, re.MULTILINE)
    assert blob_path(lading, layer).read_bytes() == layer
    registry.clear_requests()
    again = await lading("fetch", ref)
    assert (again.status, again.out) == (0, done.out)
    assert "of which 0 bytes were fetched" in again.err
    registry.assert_requests("HEAD manifest")
    registry.clear_requests()
    pinned = await lading("fetch", done.out.decode().strip())
    assert (pinned.status, pinned.out) == (0, done.out)
    registry.assert_requests()


async def test_fetch_as_json(registry: EmbeddedRegistry, lading: Shell) -> None:
    layer = content_of(3 * MIB)
    digest, _ = put(registry, layer)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    done = await lading("fetch", ref, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out) == {
        "reference": ref,
        "digest": digest,
        "mediaType": MANIFEST,
        "manifests": [digest],
        "blobs": [
            {"digest": sha256(CONFIG), "size": len(CONFIG)},
            {"digest": sha256(layer), "size": len(layer)},
        ],
        "skipped": [],
        "fetched": len(CONFIG) + len(layer),
    }


async def test_fetch_of_platforms(registry: EmbeddedRegistry, lading: Shell) -> None:
    platforms = {"linux/s390x": b"one", "linux/ppc64le": b"two", "plan9/sparc": b"three"}
    digest = put_index(registry, platforms)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    one = await lading("fetch", ref, "--json", "--platform", "linux/ppc64le")
    assert [blob["digest"] for blob in json.loads(one.out)["blobs"]] == [sha256(CONFIG), sha256(b"two")]
    two = await lading("fetch", ref, "--json", "--platform", "linux/s390x", "--platform", "plan9/sparc")
    assert {blob["digest"] for blob in json.loads(two.out)["blobs"]} == {
        sha256(CONFIG),
        sha256(b"one"),
        sha256(b"three"),
    }
    every = await lading("fetch", ref, "--json", "--all-platforms")
    assert (len(json.loads(every.out)["blobs"]), json.loads(every.out)["digest"]) == (4, digest)
    none = await lading("fetch", ref, "--platform", "linux/mips64")
    assert (none.status, none.out) == (1, b"")
    assert "linux/mips64" in none.err
    assert "it has linux/s390x, linux/ppc64le, plan9/sparc" in none.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["acme/image", "--platform", "no such platform"], "--platform"),
        (["acme/image", "--platform", "linux/amd64", "--all-platforms"], "--all-platforms"),
        (["Not A Reference"], "REF"),
        ([], "REF"),
    ],
)
async def test_wrong_usage(lading: Shell, arguments: list[str], says: str) -> None:
    done = await lading("fetch", *arguments)
    assert (done.status, done.out) == (2, b"")
    assert says in done.err


@pytest.mark.parametrize("arguments", [["--offline"], ["--offline", "--json"]])
async def test_without_network(lading: Shell, arguments: list[str]) -> None:
    done = await lading("fetch", "acme/image", *arguments)
    assert (done.status, done.out) == (1, b"")
    assert "network" in done.err


async def test_without_network_what_is_whole_is_answered(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest, _ = put(registry, content_of(3 * MIB))
    ref = f"{registry.host}/{REPOSITORY}:v1"
    await lading("fetch", ref)
    registry.clear_requests()
    done = await lading("fetch", "--offline", ref)
    assert (done.status, done.out.decode()) == (0, f"{registry.host}/{REPOSITORY}@{digest}\n"), done.err
    blob_path(lading, content_of(3 * MIB)).unlink()
    lost = await lading("fetch", "--offline", ref)
    assert (lost.status, lost.out) == (1, b"")
    assert sha256(content_of(3 * MIB)) in lost.err
    registry.assert_requests()


async def test_a_failure_is_said(registry: EmbeddedRegistry, lading: Shell) -> None:
    put(registry, content_of(3 * MIB))
    registry.faults.add(Status(403), on="GET blob", times=None)
    done = await lading("fetch", f"{registry.host}/{REPOSITORY}:v1")
    assert (done.status, done.out) == (1, b"")
    assert done.err.startswith("lading: error: ")
    assert "Traceback" not in done.err


async def interrupted(lading: Shell, *arguments: str, number: signal.Signals) -> Finished:
    """Run a command and send it a signal when 3 MiB of what it fetches have arrived on the disk."""
    ingest = Path(lading.env["LADING_HOME"]) / "ingest"
    command = [sys.executable, "-m", "lading", *arguments]
    async with await anyio.open_process(command, cwd=lading.directory, env=lading.env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with anyio.fail_after(30):
            while sum(path.stat().st_blocks * 512 for path in ingest.glob("*.part")) < 3 * MIB:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            process.send_signal(number)
            await process.wait()
        out = b"".join([chunk async for chunk in process.stdout])
        err = b"".join([chunk async for chunk in process.stderr])
        assert process.returncode is not None
        return Finished(process.returncode, out, err.decode())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupt_keeps_what_has_arrived(
    registry: EmbeddedRegistry, lading: Shell, number: signal.Signals, status: int
) -> None:
    layer = content_of(16 * MIB)
    put(registry, layer)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    registry.faults.add(Bandwidth(8 * MIB), on="GET blob", times=None)
    ended = await interrupted(lading, "fetch", ref, number=number)
    assert (ended.status, ended.out) == (status, b"")
    assert "the same command goes on" in ended.err
    assert "Traceback" not in ended.err
    registry.faults.clear()
    registry.clear_requests()
    again = await lading("fetch", ref, "--json")
    assert again.status == 0, again.err
    assert re.search(rf"^{sha256(layer)[:19]} goes on at [0-9.]+ MB of 16\.8 MB$", again.err, re.MULTILINE)
    assert json.loads(again.out)["fetched"] < len(layer) - 2 * MIB
    assert [request.headers.get("Range", "")[:6] for request in registry.requests if "blob" in str(request)].count(
        "bytes="
    ) == 1
    assert registry.bytes_sent < len(layer) - 2 * MIB
    assert blob_path(lading, layer).read_bytes() == layer


async def test_a_failure_says_that_what_has_arrived_is_kept(registry: EmbeddedRegistry, lading: Shell) -> None:
    layer = content_of(16 * MIB)
    put(registry, layer)
    registry.faults.add(Bandwidth(16 * MIB), Close(8 * MIB), on="GET blob", times=None)

    async def refuse(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return web.Response(status=403) if "Range" in record.headers else None

    registry.intercept = refuse
    failed = await lading("fetch", f"{registry.host}/{REPOSITORY}:v1")
    assert (failed.status, failed.out) == (1, b"")
    kept, error, *_ = failed.err.splitlines()
    assert kept == "what has arrived is kept: the same command goes on where this one stopped"
    assert "answered 403" in error
    registry.intercept = None
    registry.faults.clear()
    again = await lading("fetch", f"{registry.host}/{REPOSITORY}:v1", "--json")
    assert json.loads(again.out)["fetched"] < len(layer) - 4 * MIB


@pytest.mark.parametrize("verb", ["fetch", "copy"])
async def test_fewer_at_once(registry: EmbeddedRegistry, lading: Shell, verb: str) -> None:
    layers = tuple(content_of(MIB, number) for number in range(4))
    put(registry, *layers)
    registry.faults.add(Bandwidth(8 * MIB), on="GET blob", times=None)
    now, most = 0, 0

    async def count(request: web.Request, record: RecordedRequest) -> None:
        nonlocal now, most
        if (record.method, record.kind) == ("GET", "blob") and sha256(CONFIG) not in record.path:
            now, most = now + 1, max(most, now + 1)
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: left())

    def left() -> None:
        nonlocal now
        now -= 1

    registry.intercept = count
    ref = f"{registry.host}/{REPOSITORY}:v1"
    async with EmbeddedRegistry() as other:
        target = (f"{other.host}/{REPOSITORY}:v1",) if verb == "copy" else ()
        done = await lading(verb, ref, *target, "--concurrency", "1")
        assert done.status == 0, done.err
    assert most == 1
    wrong = await lading(verb, ref, *target, "--concurrency", "0")
    assert (wrong.status, wrong.out) == (2, b"")


def on_a_terminal(lading: Shell, *arguments: str) -> tuple[int, bytes, str]:
    """Run a command whose standard error is a terminal; give its status, its output and what the terminal got."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "lading", *arguments]
    env = {**lading.env, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=lading.directory, env=env, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                piece = os.read(controller, 65536)
            except OSError:  # nobody has the terminal open any more
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(controller)
    return process.returncode, out, shown.decode()


async def test_bars_on_a_terminal(registry: EmbeddedRegistry, lading: Shell) -> None:
    layers = content_of(3 * MIB), content_of(2 * MIB)
    digest, _ = put(registry, *layers)
    registry.faults.add(Bandwidth(6 * MIB), on="GET blob", times=None)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    status, out, shown = await anyio.to_thread.run_sync(on_a_terminal, lading, "fetch", ref)
    assert (status, out.decode()) == (0, f"{registry.host}/{REPOSITORY}@{digest}\n")
    for expected in ("total", sha256(layers[0])[:19], sha256(layers[1])[:19], "MB/s"):
        assert expected in shown
    assert "3 blobs, 5.2 MB, of which 5.2 MB were fetched, " in shown.rstrip().splitlines()[-1]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "the cursor is back"


async def test_many_layers_dont_fill_the_screen(registry: EmbeddedRegistry, lading: Shell) -> None:
    """What is done makes room for what is on its way, and the total is right from the start."""
    layers = [content_of(MIB, number) for number in range(30)]
    put(registry, *layers)
    registry.faults.add(Bandwidth(20 * MIB), on="GET blob", times=None)
    seen = await at_terminal(lading, "fetch", f"{registry.host}/{REPOSITORY}:v1")
    assert seen.status == 0, seen.text
    frames = [len(re.findall("sha256:[0-9a-f]{12} ", frame)) for frame in seen.raw.split("total ")]
    assert max(frames) <= 8, "as many as are fetched at once"
    totals = {float(total) for total in re.findall(r"[0-9.]+/([0-9.]+) MB", seen.text)}
    assert totals <= {0.0, 1.0, 31.5}, "of nothing yet, of a layer, of all of them"


async def test_nothing_but_text_elsewhere(registry: EmbeddedRegistry, lading: Shell) -> None:
    put(registry, content_of(3 * MIB))
    done = await lading("fetch", f"{registry.host}/{REPOSITORY}:v1")
    assert "\x1b" not in done.err
    assert "\r" not in done.err
    assert len(done.err.splitlines()) == 2
