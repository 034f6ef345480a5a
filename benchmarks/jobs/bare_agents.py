"""What the machine could do with many small things: a bare aiohttp loop that knows every URL beforehand."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from benchmarks.child import Outcome, Spec
from benchmarks.jobs.checking import right_files
from benchmarks.meter import metered

_AT_ONCE = 8
"""Agents to a transaction, as many as come together when 32 are under way."""


def fetch(spec: Spec) -> Outcome:
    """Fetch and hash what agents are made of (``urls``, in order for each), many at once."""
    found: set[str] = set()
    with metered() as usage:
        asyncio.run(_fetch(spec, spec["groups"], lambda digest, body: found.add(digest)))
    return Outcome(usage, _right(spec, found))


def fetch_levels(spec: Spec) -> Outcome:
    """Do the same a level at a time: the next one is only known when one is there."""

    async def run() -> None:
        async with _session(spec) as session:
            for level in spec["levels"]:
                await _all(session, spec["concurrency"], level, lambda digest, body: found.add(digest))

    found: set[str] = set()
    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, _right(spec, found))


def ask(spec: Spec) -> Outcome:
    """Ask for the digest of each tag with HEAD, many at once."""

    async def run() -> None:
        limit = asyncio.Semaphore(spec["concurrency"])

        async def head(url: str) -> None:
            async with limit, session.head(url, headers=_ACCEPT) as response:
                response.raise_for_status()

        async with _session(spec) as session, asyncio.TaskGroup() as group:
            for urls in spec["groups"]:
                group.create_task(head(urls[0]))

    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, None)


def keep_in_files(spec: Spec) -> Outcome:
    """Fetch, hash, write each to a file in the loop, and bring that to the disk in a thread."""
    directory = Path(spec["directory"])

    async def keep(digest: str, body: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(None, _write, directory / digest, body)

    with metered() as usage:
        asyncio.run(_fetch(spec, spec["groups"], keep))
    return Outcome(usage, right_files(directory.iterdir(), spec["wanted"]))


def keep_in_sqlite(spec: Spec) -> Outcome:
    """Fetch, hash, and put 8 at a time into SQLite, with ``synchronous=FULL``, in a thread."""
    path = Path(spec["directory"]) / "bare.db"
    waiting: list[tuple[str, bytes]] = []

    def write(rows: Sequence[tuple[str, bytes]]) -> None:
        with connection:
            connection.executemany("INSERT OR REPLACE INTO content VALUES (?, ?)", rows)

    async def flush() -> None:
        rows, waiting[:] = list(waiting), []
        async with turn:
            await asyncio.get_running_loop().run_in_executor(None, write, rows)

    async def keep(digest: str, body: bytes) -> None:
        waiting.append((digest, body))
        if len(waiting) >= _AT_ONCE * len(spec["groups"][0]):
            await flush()

    async def run() -> None:
        await _fetch(spec, spec["groups"], keep)
        await flush()

    turn = asyncio.Lock()
    with metered() as usage:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE content (digest TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID")
        asyncio.run(run())
        connection.close()
    with sqlite3.connect(path) as again:
        kept = {digest for digest, data in again.execute("SELECT * FROM content") if digest == _digest(data)}
    again.close()
    return Outcome(usage, _right(spec, kept))


def each(spec: Spec) -> Outcome:
    """Fetch one agent after the other, each over new connections; samples are seconds."""

    async def run() -> list[float]:
        samples = []
        for urls in spec["groups"]:
            started = time.perf_counter()
            async with _session(spec) as session:
                await _one(session, urls, lambda digest, body: found.add(digest))
                samples.append(time.perf_counter() - started)
        return samples

    found: set[str] = set()
    with metered() as usage:
        samples = asyncio.run(run())
    return Outcome(usage, _right(spec, found), samples)


def heads(spec: Spec) -> Outcome:
    """Ask for one tag after the other over one connection; samples are seconds."""

    async def run() -> list[float]:
        samples = []
        async with _session(spec) as session:
            for urls in spec["groups"]:
                started = time.perf_counter()
                async with session.head(urls[0], headers=_ACCEPT) as response:
                    response.raise_for_status()
                samples.append(time.perf_counter() - started)
        return samples

    with metered() as usage:
        samples = asyncio.run(run())
    return Outcome(usage, None, samples)


_ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json", "Accept-Encoding": "identity"}

Keep = Callable[[str, bytes], Awaitable[None] | None]


def _session(spec: Spec) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=spec["concurrency"]))


async def _fetch(spec: Spec, groups: Sequence[Sequence[str]], keep: Keep) -> None:
    async with _session(spec) as session:
        await _all(session, spec["concurrency"], groups, keep)


async def _all(session: aiohttp.ClientSession, concurrency: int, groups: Sequence[Sequence[str]], keep: Keep) -> None:
    waiting = iter(groups)

    async def work() -> None:
        for urls in waiting:
            await _one(session, urls, keep)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


async def _one(session: aiohttp.ClientSession, urls: Sequence[str], keep: Keep) -> None:
    for url in urls:
        async with session.get(url, headers=_ACCEPT) as response:
            response.raise_for_status()
            body = await response.read()
        kept = keep(_digest(body), body)
        if kept is not None:
            await kept


def _right(spec: Spec, found: set[str]) -> int:
    """Count the agents of which everything that was asked for came: the layer, or the manifest that embeds it."""
    return sum(digest in found for digest in spec["wanted"])


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, content)
    os.fsync(descriptor)
    os.close(descriptor)
