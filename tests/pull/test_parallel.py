"""Several connections for one blob: where each is limited they help, where they don't nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from lading import HostsConfig, LocalStore, MemoryStore, Retry, Store
from lading.auth.credentials import StaticCredentials
from lading.auth.transport import AuthTransport
from lading.errors import DigestMismatch, LadingError, OutOfSpace
from lading.http.limits import Pauses
from lading.http.redirect import RedirectTransport
from lading.http.retry import RetryTransport
from lading.http.session import AiohttpTransport
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.pull import parallel
from lading.pull.download import fetch_blob
from lading.pull.parallel import Pieces
from lading.registry.endpoints import Endpoints
from lading.registry.repository import Repository
from lading.store.store import Changes, Ingest, Intact, Seen
from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import (
    Bandwidth,
    Close,
    ContentRange,
    Drip,
    ETagChanged,
    Fault,
    RangeIgnored,
    RangeWrong,
    Reset,
    Stall,
    Status,
    Unsatisfiable,
    WrongBytes,
)

MIB = 1024 * 1024
KIB = 1024
REPOSITORY = "acme/model"
QUICK = Retry(attempts=3, first_delay=0.001, longest_delay=0.002, budget=2.0)
PIECE = 256 * KIB
SIZE = 6 * MIB
RATE = 5 * MIB
"""Bytes a second that one connection gets."""

BUFFERS = parallel.CONNECTIONS * 4 * MIB
"""What may be on its way when connections end early."""


@cache
def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def described(content: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(content), len(content))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, little patience with one connection, and whatever comes is taken for a gain."""
    monkeypatch.setattr(parallel, "PIECE", PIECE)
    monkeypatch.setattr(parallel, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(parallel, "_WINDOW_SECONDS", 0.15)
    monkeypatch.setattr(parallel, "_GAIN", 0.0)


GAIN = parallel._GAIN


@pytest.fixture
async def repository(registry: EmbeddedRegistry) -> AsyncIterator[Repository]:
    session = AiohttpTransport(user_agent="test")
    ring = RetryTransport(RedirectTransport(AuthTransport(session, StaticCredentials({}))), QUICK, Pauses())
    endpoints = Endpoints(registry.host, HostsConfig().lookup(registry.host))
    yield Repository(ring, endpoints, REPOSITORY, set(), ring.operation)
    await session.aclose()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(tmp_path / "local")
    yield store
    await store.aclose()


@pytest.fixture
def limited(registry: EmbeddedRegistry) -> EmbeddedRegistry:
    """A registry that limits each connection."""
    registry.faults.add(Bandwidth(RATE), on="GET blob", times=None)
    return registry


async def kept(store: Store, repository: Repository, descriptor: Descriptor) -> bytes | None:
    """Commit what was fetched, and give it as the store gives it back; None if it isn't there."""
    seen = Seen(repository.name, descriptor.digest, descriptor.media_type)
    try:
        await store.commit(Changes(1.0, blobs=(descriptor,), seen=(seen,)))
    except LadingError:
        return None
    found = store.read(repository.name, descriptor.digest)
    assert isinstance(found, Intact)
    return found.content


def ranges(registry: EmbeddedRegistry) -> list[str | None]:
    return [one.headers.get("Range") for one in registry.requests]


def at_once(registry: EmbeddedRegistry) -> Callable[[], int]:
    """Count the blobs that are being sent; gives how many were at most."""
    now = most = 0

    async def intercept(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: left())
        return None

    def left() -> None:
        nonlocal now
        now -= 1

    registry.intercept = intercept
    return lambda: most


# They help.


async def test_where_each_connection_is_limited_several_are_faster(
    limited: EmbeddedRegistry,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: Callable[[str, str], None],
) -> None:
    content = content_of(48 * MIB)
    limited.faults.clear()
    limited.faults.add(Bandwidth(4 * MIB), on="GET blob", times=None)
    limited.add_blob(REPOSITORY, content)
    descriptor = described(content)
    monkeypatch.setattr(parallel, "PIECE", MIB)
    monkeypatch.setattr(parallel, "_WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(parallel, "_GAIN", GAIN)
    store = LocalStore(tmp_path / "several")
    most = at_once(limited)
    began = time.monotonic()
    assert await fetch_blob(repository, descriptor, store) == len(content)
    several = time.monotonic() - began
    assert await kept(store, repository, descriptor) == content
    await store.aclose()
    # The server learns a moment later that the first one ends early.
    assert 4 <= most() <= parallel.CONNECTIONS + 1
    assert limited.bytes_sent <= 1.05 * len(content) + BUFFERS
    sent = limited.bytes_sent

    alone = len(content) / (4 * MIB)
    measured(
        "48 MiB at 4 MiB/s a connection",
        f"{several:.2f} s, one alone takes {alone:.2f} s ({alone / several:.1f} times as fast), "
        f"{most()} connections, {limited.count('GET blob')} requests, {sent - len(content)} bytes sent in vain",
    )
    assert alone / several >= 3


async def test_every_byte_is_where_it_belongs(limited: EmbeddedRegistry, repository: Repository, store: Store) -> None:
    content = content_of(SIZE + 12345)
    limited.add_blob(REPOSITORY, content)
    told: list[int] = []
    assert await fetch_blob(repository, described(content), store, told.append) == len(content)
    assert await kept(store, repository, described(content)) == content
    assert told == sorted(told)
    assert (told[0], told[-1], told.count(len(content))) == (0, len(content), 1)
    assert limited.count() > 3, "or this tests nothing"


@pytest.mark.parametrize("left", [-1, 0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
async def test_blobs_that_are_just_large_enough(
    limited: EmbeddedRegistry, repository: Repository, store: Store, left: int
) -> None:
    limited.faults.clear()
    limited.faults.add(Bandwidth(2 * MIB), on="GET blob", times=None)
    content = content_of(3 * PIECE + left)
    limited.add_blob(REPOSITORY, content)
    await fetch_blob(repository, described(content), store)
    assert await kept(store, repository, described(content)) == content


async def test_what_was_left_is_gone_on_with_by_several(
    limited: EmbeddedRegistry, repository: Repository, tmp_path: Path
) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    store = LocalStore(tmp_path)
    with anyio.move_on_after(0.4) as scope:
        await fetch_blob(repository, described(content), store)
    assert scope.cancelled_caught
    told: list[int] = []
    await fetch_blob(repository, described(content), store, told.append)
    assert await kept(store, repository, described(content)) == content
    assert told[0] > MIB
    assert limited.bytes_sent <= len(content) + BUFFERS
    await store.aclose()


# Nothing is lost.


async def test_a_server_that_limits_the_whole_gets_two_connections_at_most(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIECE", MIB)
    monkeypatch.setattr(parallel, "_GAIN", GAIN)
    content = content_of(SIZE)
    paced = registry.intercept = Paced(content, RATE)
    assert await fetch_blob(repository, described(content), local) == len(content)
    assert await kept(local, repository, described(content)) == content
    assert ranges(registry) == [None, f"bytes={SIZE - MIB}-{SIZE - 1}"]
    assert paced.sent <= SIZE + MIB


@pytest.mark.parametrize(
    "fault", [RangeIgnored(), Unsatisfiable(), RangeWrong(7), ContentRange(None), Status(429), Status(403)], ids=repr
)
async def test_where_pieces_cant_be_had_the_first_connection_goes_on(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore, fault: Any
) -> None:
    content = content_of(3 * MIB)
    limited.add_blob(REPOSITORY, content)
    limited.faults.add(fault, on="GET blob", times=None, skip=1 if isinstance(fault, Status) else 0)
    assert await fetch_blob(repository, described(content), local) == len(content)
    assert await kept(local, repository, described(content)) == content
    assert [one for one in ranges(limited) if one is None] == [None]
    assert limited.bytes_sent <= len(content) + BUFFERS


async def test_a_blob_that_is_there_before_the_trial_ends(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore
) -> None:
    """Whoever is asked for the last piece never answers: nobody waits for that, and no task stays."""
    content = content_of(6 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Bandwidth(8 * MIB), on="GET blob")
    registry.faults.add(Stall(), on="GET blob")
    before = asyncio.all_tasks()
    with anyio.fail_after(10):
        assert await fetch_blob(repository, described(content), local) == len(content)
    assert await kept(local, repository, described(content)) == content
    assert registry.count() == 2
    await registry.stop()
    assert asyncio.all_tasks() <= before


async def test_a_trial_that_is_answered_too_late(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore
) -> None:
    """The first connection is within the last piece by then, and brings the rest of it, too."""
    content = content_of(2 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Drip(chunk=16 * KIB, seconds=0.005), on="GET blob", times=None)

    async def hold(request: web.Request, record: RecordedRequest) -> None:
        while "Range" in record.headers and registry.requests[0].bytes_sent < len(content) - PIECE // 2:  # noqa: ASYNC110
            await anyio.sleep(0.001)

    registry.intercept = hold
    assert await fetch_blob(repository, described(content), local) == len(content)
    assert await kept(local, repository, described(content)) == content
    assert ranges(registry) == [None, f"bytes={len(content) - PIECE}-{len(content) - 1}"]


async def test_who_ignored_a_range_isnt_tried(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore
) -> None:
    content = content_of(4 * MIB)
    limited.add_blob(REPOSITORY, content)
    async with local.ingest(described(content)) as ingest:
        await ingest.write(content[: 2 * MIB])
    limited.faults.add(RangeIgnored(), on="GET blob")
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert ranges(limited) == [f"bytes={2 * MIB}-"]


# Faults in the middle.


@pytest.mark.parametrize("fault", [Reset(100 * KIB), Close(0), Status(503), Reset()], ids=repr)
@pytest.mark.parametrize("which", [1, 2, 5])
async def test_a_piece_that_fails_is_fetched_again(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore, which: int, fault: Any
) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    limited.faults.add(fault, on="GET blob", skip=which)
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert fault in [one.fault for one in limited.faults.applied]
    assert limited.bytes_sent <= 1.05 * SIZE + BUFFERS
    assert ranges(limited).count(None) == 1, "nothing began anew"


@pytest.mark.parametrize("fault", [Status(403), Status(404), RangeIgnored(), Unsatisfiable()], ids=repr)
async def test_who_is_refused_leaves_its_pieces_to_the_others(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore, fault: Any
) -> None:
    """One after the other of those that help is refused for good."""
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    # The first connection, the last piece, and a few others come; what was refused is asked for later, and comes.
    limited.faults.add(fault, on="GET blob", skip=2, times=2)
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert [one.fault for one in limited.faults.applied].count(fault) == 2
    assert ranges(limited).count(None) == 1, "nothing began anew"


@pytest.mark.parametrize("end", [Reset, Close])
@pytest.mark.parametrize("after", [100 * KIB, MIB, 2 * MIB])
async def test_the_first_connection_fails_while_others_help(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore, end: Any, after: int
) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    limited.faults.add(end(after), on="GET blob")
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert limited.bytes_sent <= 1.05 * SIZE + BUFFERS


@pytest.mark.parametrize("fault", [RangeIgnored(), ETagChanged(), Unsatisfiable()], ids=repr)
async def test_the_first_connection_cant_go_on_while_others_help(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore, fault: Any
) -> None:
    """What has come in pieces is no use then: once more, from the start, by one connection."""
    content = content_of(SIZE)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Bandwidth(RATE), on="GET blob", times=None)
    spoilt = False

    async def intercept(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        nonlocal spoilt
        if not spoilt and record.headers.get("Range", "").startswith(f"bytes={SIZE - 2 * PIECE + PIECE}-"):
            spoilt = True  # the trial has begun: now ranges come to an end
            registry.faults.add(fault, on="GET blob", times=None, skip=1)
        return None

    registry.intercept = intercept
    registry.faults.add(Close(2 * MIB), on="GET blob")
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert spoilt


async def test_wrong_bytes_in_a_piece_cost_one_clean_restart(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(6 * MIB)
    limited.add_blob(REPOSITORY, content)
    limited.faults.add(WrongBytes(99), on="GET blob", skip=1)
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert ranges(limited).count(None) == 2
    assert len(caplog.records) == 1


async def test_wrong_bytes_all_the_time_are_an_error(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore
) -> None:
    content = content_of(4 * MIB)
    limited.add_blob(REPOSITORY, content)
    limited.faults.add(WrongBytes(99), on="GET blob", times=None)
    with pytest.raises(DigestMismatch):
        await fetch_blob(repository, described(content), local)
    assert ranges(limited).count(None) == 2
    assert await kept(local, repository, described(content)) is None


async def test_a_registry_that_goes_away_is_one_error(
    limited: EmbeddedRegistry, repository: Repository, tmp_path: Path
) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    store = LocalStore(tmp_path)
    before = asyncio.all_tasks()
    async with anyio.create_task_group() as group:
        group.start_soon(stop_later, limited)
        with pytest.raises(LadingError):
            await fetch_blob(repository, described(content), store)
    assert asyncio.all_tasks() <= before
    await limited.start()
    await fetch_blob(repository, described(content), store)
    assert await kept(store, repository, described(content)) == content
    await store.aclose()


async def stop_later(registry: EmbeddedRegistry) -> None:
    await anyio.sleep(0.3)
    await registry.stop()


async def test_a_full_disk_is_one_error(limited: EmbeddedRegistry, repository: Repository) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    before = asyncio.all_tasks()
    with anyio.fail_after(10), pytest.raises(OutOfSpace):
        await fetch_blob(repository, described(content), Filling(MemoryStore(), 5 * MIB))
    await limited.stop()
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("seed", range(6))
async def test_chaos(registry: EmbeddedRegistry, repository: Repository, local: LocalStore, seed: int) -> None:
    print(f"seed {seed}")
    content = content_of(SIZE + seed)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Bandwidth(RATE), on="GET blob", times=None)
    dice = random.Random(seed)
    misfortunes: list[Fault] = [
        Reset(dice.randrange(PIECE)),
        Close(dice.randrange(PIECE)),
        Reset(),
        Status(503),
        RangeIgnored(),
    ]
    registry.faults.chaos(seed=seed, rate=0.3, faults=misfortunes, on="GET blob")
    before = asyncio.all_tasks()
    with anyio.fail_after(60):
        for _ in range(20):
            try:
                await fetch_blob(repository, described(content), local)
                break
            except LadingError:
                registry.faults.chaos(seed=seed, rate=0.0, faults=misfortunes, on="GET blob")
        else:
            raise AssertionError("never")
    assert await kept(local, repository, described(content)) == content
    await registry.stop()
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("seed", range(6))
async def test_cancelled_at_any_time(
    limited: EmbeddedRegistry, repository: Repository, tmp_path: Path, seed: int
) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    store = LocalStore(tmp_path)
    before = asyncio.all_tasks()
    with anyio.move_on_after(random.Random(seed).uniform(0.1, 0.8)):
        await fetch_blob(repository, described(content), store)
    await limited.stop()
    assert asyncio.all_tasks() <= before
    await limited.start()
    limited.faults.clear()
    await fetch_blob(repository, described(content), store)
    assert await kept(store, repository, described(content)) == content
    await store.aclose()


# What an earlier attempt left


async def leave(store: LocalStore, content: bytes, stretches: list[tuple[int, int]]) -> None:
    """Let a partial be there with these stretches of ``content``."""
    async with store.ingest(described(content)) as ingest:
        await ingest.note_etag(f'"{Digest.of(content)}"')
        for start, end in stretches:
            await ingest.write_at(start, content[start:end])


STRETCHES = {
    "between": [(0, 2 * MIB), (3 * MIB, 4 * MIB), (5 * MIB - 7, 5 * MIB + 9)],
    "not the first byte": [(1, 3 * MIB)],
    "all but one": [(0, 3 * MIB), (3 * MIB + 1, SIZE)],
    "the last piece": [(0, MIB), (SIZE - PIECE, SIZE)],
    "only the last piece": [(SIZE - 2 * MIB, SIZE)],
}


@pytest.mark.parametrize("which", STRETCHES)
async def test_only_the_gaps_are_fetched(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore, which: str
) -> None:
    content, stretches = content_of(SIZE), STRETCHES[which]
    registry.add_blob(REPOSITORY, content)
    await leave(local, content, stretches)
    there = sum(end - start for start, end in stretches)
    told: list[int] = []
    assert await fetch_blob(repository, described(content), local, told.append) == SIZE - there
    assert (told[0], told[-1]) == (there, SIZE)
    assert registry.bytes_sent == SIZE - there
    assert await kept(local, repository, described(content)) == content


@pytest.mark.parametrize("which", STRETCHES)
@pytest.mark.parametrize(
    "fault",
    [RangeIgnored(), ETagChanged(), RangeWrong(9), WrongBytes(), Unsatisfiable(), Reset(9)],
    ids=lambda fault: type(fault).__name__,
)
async def test_gaps_that_can_not_be_fetched_lose_nothing(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore, which: str, fault: Fault
) -> None:
    content = content_of(SIZE)
    registry.add_blob(REPOSITORY, content)
    await leave(local, content, STRETCHES[which])
    registry.faults.add(fault, on="GET blob")
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content


@pytest.mark.parametrize("stretch", [(0, 2 * MIB), (3 * MIB, 4 * MIB)])
async def test_what_is_damaged_is_fetched_again(
    registry: EmbeddedRegistry, repository: Repository, local: LocalStore, stretch: tuple[int, int]
) -> None:
    content = content_of(SIZE)
    registry.add_blob(REPOSITORY, content)
    damaged = bytearray(content)
    damaged[stretch[0]] ^= 1
    async with local.ingest(described(content)) as ingest:
        for start, end in STRETCHES["between"]:
            await ingest.write_at(start, bytes(damaged[start:end]))
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content


async def test_where_there_are_gaps_several_connections_begin_at_once(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore
) -> None:
    content = content_of(SIZE)
    limited.add_blob(REPOSITORY, content)
    await leave(local, content, [(0, MIB), (2 * MIB, 3 * MIB), (4 * MIB, 5 * MIB)])
    most = at_once(limited)
    await fetch_blob(repository, described(content), local)
    assert most() == 3
    assert await kept(local, repository, described(content)) == content


async def test_interruptions_cost_what_was_on_its_way(
    limited: EmbeddedRegistry, repository: Repository, local: LocalStore
) -> None:
    content = content_of(24 * MIB)
    limited.add_blob(REPOSITORY, content)
    cuts = 4
    for _ in range(cuts):
        with anyio.move_on_after(0.5):
            await fetch_blob(repository, described(content), local)
    await fetch_blob(repository, described(content), local)
    assert await kept(local, repository, described(content)) == content
    assert limited.bytes_sent <= len(content) + cuts * parallel.CONNECTIONS * MIB


# What the first connection still delivers.


def test_the_first_connection_stops_where_others_began() -> None:
    content = content_of(10 * PIECE)
    store = MemoryStore()
    pieces = Pieces(object(), described(content), store.ingest(described(content)), print)  # type: ignore[arg-type]
    pieces.begin(0)
    assert pieces.share(0, content[:1000]) == content[:1000]
    pieces.end = 1500
    assert not pieces.is_all_asked
    assert pieces.share(1000, content[1000:2000]) == content[1000:1500]
    assert pieces.share(1500, content[1500:2000]) == b""
    assert pieces.share(2000, content[2000:3000]) == b""


class Paced:
    """Gives a blob at so many bytes a second, however many connections there are."""

    def __init__(self, content: bytes, rate: float) -> None:
        self.sent = 0
        self._content = content
        self._rate = rate
        self._due = 0.0

    async def __call__(self, request: web.Request, record: RecordedRequest) -> web.StreamResponse:
        asked = request.http_range
        content = self._content[asked.start or 0 : asked.stop]
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        if "Range" in request.headers:
            first, last, size = asked.start or 0, (asked.start or 0) + len(content) - 1, len(self._content)
            response.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        response.content_length = len(content)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for start in range(0, len(content), 16 * KIB):
                await self._wait(16 * KIB)
                await response.write(content[start : start + 16 * KIB])
                self.sent += 16 * KIB
        return response

    async def _wait(self, size: int) -> None:
        now = time.monotonic()
        self._due = max(self._due, now - 0.05) + size / self._rate  # sleeping takes a little longer than asked
        await anyio.sleep(max(0.0, self._due - now))


class Filling:
    """A store that has room for so many bytes."""

    def __init__(self, store: Store, room: int) -> None:
        self._store = store
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def ingest(self, descriptor: Descriptor) -> Ingest:
        ingest = self._store.ingest(descriptor)
        write_at = ingest.write_at

        async def filling(offset: int, chunk: bytes) -> None:
            self._room -= len(chunk)
            if self._room < 0:
                raise OutOfSpace("the disk is full")
            await write_at(offset, chunk)

        ingest.write_at = filling  # type: ignore[method-assign]
        return ingest
