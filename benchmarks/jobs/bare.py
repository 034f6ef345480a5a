"""What the machine could do: loops around aiohttp, sockets, hashes and the disk that do nothing that isn't necessary.

None of them verifies, retries, commits or resumes: they are what a client adds its promises to.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp

from benchmarks.child import Outcome, Spec
from benchmarks.jobs.checking import right_files
from benchmarks.meter import Usage, metered

_MEBIBYTE = 1024 * 1024


class _Sink:
    """Where the bytes of one blob go: nowhere, into a hash, into a hash and a file that is brought to the disk."""

    def __init__(self, path: Path | None, is_hashed: bool) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) if path is not None else None
        self._hash = hashlib.sha256() if is_hashed else None

    def take(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Take some pieces."""
        for piece in pieces:
            if self._hash is not None:
                self._hash.update(piece)
            if self._file is not None:
                os.write(self._file, piece)

    def finish(self) -> str:
        """Bring everything to the disk and give the digest, if there is one."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
        return "" if self._hash is None else "sha256:" + self._hash.hexdigest()


def discard(spec: Spec) -> Outcome:
    """Fetch blobs with aiohttp, and let go of what comes."""
    outcome = _blobs(spec, lambda digest: None)
    outcome.verified = None
    return outcome


def hashed(spec: Spec) -> Outcome:
    """Fetch blobs with aiohttp, and hash them in threads, a mebibyte at a time."""
    return _blobs(spec, lambda digest: _Sink(None, True))


def written(spec: Spec) -> Outcome:
    """Fetch blobs with aiohttp; write and hash them in threads, a mebibyte at a time, and bring them to the disk."""
    directory = Path(spec["directory"])
    outcome = _blobs(spec, lambda digest: _Sink(directory / digest, True))
    outcome.verified = right_files(directory.iterdir(), spec["layers"])
    return outcome


def _blobs(spec: Spec, sink_of: Callable[[str], _Sink | None]) -> Outcome:
    digests: list[str] = []

    async def fetch(session: aiohttp.ClientSession, digest: str) -> None:
        loop, sink = asyncio.get_running_loop(), sink_of(digest)
        async with session.get(f"{spec['blobs_url']}/{digest}") as response:
            response.raise_for_status()
            pieces: list[bytes] = []
            gathered = 0
            async for piece in response.content.iter_any():
                if sink is None:
                    continue
                pieces.append(piece)
                gathered += len(piece)
                if gathered >= _MEBIBYTE:
                    await loop.run_in_executor(None, sink.take, pieces)
                    pieces, gathered = [], 0
            if sink is not None:
                await loop.run_in_executor(None, sink.take, pieces)
                digests.append(await loop.run_in_executor(None, sink.finish))

    async def run() -> None:
        limit = asyncio.Semaphore(spec["concurrency"])
        timeout = aiohttp.ClientTimeout(total=None)

        async def bounded(digest: str) -> None:
            async with limit:
                await fetch(session, digest)

        async with (
            aiohttp.ClientSession(
                read_bufsize=_MEBIBYTE, auto_decompress=False, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for digest in spec["blobs"]:
                group.create_task(bounded(digest))

    with metered() as usage:
        asyncio.run(run())
        if (directory := Path(spec["directory"])).is_dir():
            _sync_directory(directory)
    return Outcome(usage, len(set(digests) & set(spec["layers"])))


def sockets(spec: Spec) -> Outcome:
    """Fetch blobs over blocking sockets in threads, a mebibyte at a time: write, hash, bring to the disk."""
    directory = Path(spec["directory"])
    with metered() as usage:
        with ThreadPoolExecutor(spec["concurrency"]) as threads:
            digests = set(threads.map(lambda digest: _by_socket(spec["blobs_url"], digest, directory), spec["blobs"]))
        _sync_directory(directory)
    assert digests == set(spec["blobs"])
    return Outcome(usage, right_files(directory.iterdir(), spec["layers"]))


def _by_socket(url: str, digest: str, directory: Path) -> str:
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    sink, buffer = _Sink(directory / digest, True), bytearray(_MEBIBYTE)
    view = memoryview(buffer)
    with socket.create_connection((name, int(port))) as connection:
        connection.sendall(f"GET /{path}/{digest} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        head, _, rest = head.partition(b"\r\n\r\n")
        if b" 200 " not in head.splitlines()[0]:
            raise RuntimeError(head.decode("latin-1"))
        sink.take([rest])
        filled = 0
        while count := connection.recv_into(view[filled:]):
            filled += count
            if filled == _MEBIBYTE:
                sink.take([view])
                filled = 0
        sink.take([view[:filled]])
    return sink.finish()


def sha256(spec: Spec) -> Outcome:
    """Hash the blobs, from memory, in as many threads as there are processors."""

    def run(contents: list[bytes]) -> list[str]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(lambda content: "sha256:" + hashlib.sha256(content).hexdigest(), contents))

    usage, digests = _from_memory(spec, run)
    return Outcome(usage, len(set(digests) & set(spec["layers"])))


def disk(spec: Spec) -> Outcome:
    """Write the blobs, from memory, one after the other, and bring them to the disk."""
    directory = Path(spec["directory"])

    def run(contents: list[bytes]) -> list[str]:
        for number, content in enumerate(contents):
            sink = _Sink(directory / str(number), False)
            view = memoryview(content)
            for start in range(0, len(content), _MEBIBYTE):
                sink.take([view[start : start + _MEBIBYTE]])
            sink.finish()
        _sync_directory(directory)
        return []

    usage, _ = _from_memory(spec, run)
    return Outcome(usage, right_files(directory.iterdir(), spec["layers"]))


def _from_memory(spec: Spec, run: Callable[[list[bytes]], list[str]]) -> tuple[Usage, list[str]]:
    contents = [(Path(spec["shelf"]) / digest).read_bytes() for digest in spec["blobs"]]
    with metered() as usage:
        found = run(contents)
    return usage, found


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
