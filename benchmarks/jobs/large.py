"""lading and what is large: images and layers into a store, by one process or by several, and after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import lading
import lading.network  # what the first request would import isn't measured here
from benchmarks.child import Outcome, Spec
from benchmarks.jobs.checking import right_files
from benchmarks.meter import metered


def pull(spec: Spec, loop: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run) -> Outcome:
    """Pull an image into a new store; the clock runs from the construction of the client until it is closed."""

    async def run() -> tuple[float, lading.Artifact]:
        async with lading.Client(home) as client:
            started = time.perf_counter()
            artifact = await client.pull(spec["ref"])
            return time.perf_counter() - started, artifact

    home = Path(spec["directory"])
    with metered() as usage:
        seconds, artifact = loop(run())
    extra = {"until it was whole, ms": seconds * 1000, "fetched, MB": artifact.fetched / 1e6}
    return Outcome(usage, verified(home, spec), extra=extra)


def pull_on_uvloop(spec: Spec) -> Outcome:
    """Do the same on the event loop that the extra ``speed`` brings, as `lading fetch` does then."""
    import uvloop

    return pull(spec, uvloop.run)


def verified(home: Path, spec: Spec) -> int:
    """Count the layers that are on the disk as they should be."""
    return right_files((home / "blobs" / "sha256").iterdir(), spec["layers"])


def kill_halfway(spec: Spec) -> Outcome:
    """Have a process pull, and kill it when about half of the bytes are there."""
    home, total = Path(spec["directory"]), sum(spec["blobs"].values())
    with metered() as usage:
        process = _start(spec["ref"], home)
        while process.poll() is None and _written(home) < total / 2:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return Outcome(usage, None, extra={"written, MB": _written(home) / 1e6})


def together(spec: Spec) -> Outcome:
    """Have several processes pull one image into one store at the same time."""
    home = Path(spec["directory"])
    with metered() as usage:
        processes = [_start(spec["ref"], home) for _ in range(spec["processes"])]
        statuses = [process.wait() for process in processes]
    if any(statuses):
        raise RuntimeError(f"some of the processes failed: {statuses}")
    return Outcome(usage, verified(home, spec))


def _start(ref: str, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.jobs.large"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "BENCHMARK_PULL": json.dumps([ref, str(home)])},
    )


def _written(home: Path) -> int:
    """Give how many bytes of blobs are on the disk, finished or not."""
    total = 0
    for place in ("blobs/sha256", "ingest"):
        if (home / place).is_dir():
            for entry in os.scandir(home / place):
                try:
                    total += entry.stat().st_blocks * 512
                except FileNotFoundError:
                    continue  # it has just become a blob
    return total


async def _pull(ref: str, home: str) -> None:
    async with lading.Client(home) as client:
        await client.pull(ref)


if __name__ == "__main__":
    asyncio.run(_pull(*json.loads(os.environ["BENCHMARK_PULL"])))
