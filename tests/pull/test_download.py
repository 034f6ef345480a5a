"""Blobs from a server that does what a test says, byte for byte, into each store: the right bytes, or a typed error."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from vectors import vectors

from lading import Host, HostsConfig, LocalStore, MemoryStore, RegistryHosts, Retry, Store, Timeouts
from lading.auth.credentials import StaticCredentials
from lading.auth.transport import AuthTransport
from lading.errors import (
    BodyInterrupted,
    DigestMismatch,
    LadingError,
    NotFound,
    OutOfSpace,
    ProtocolError,
    SizeMismatch,
    TimedOut,
    TransportError,
)
from lading.http.limits import Pauses
from lading.http.redirect import RedirectTransport
from lading.http.retry import RetryTransport
from lading.http.session import AiohttpTransport
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.pull.download import fetch_blob, read_blob
from lading.registry.endpoints import Endpoints
from lading.registry.repository import Repository
from lading.store.store import Changes, Ingest, Intact, Seen
from lading.testing import EmbeddedRegistry
from lading.testing.faults import (
    Close,
    ETagChanged,
    ExpiredToken,
    Framing,
    LongBody,
    RangeIgnored,
    RangeUnasked,
    RangeWrong,
    Reset,
    ShortBody,
    Stall,
    Status,
    Unsatisfiable,
    WrongBytes,
    WrongContentLength,
)
from lading.testing.profiles import GHCR, PLAIN, QUAY, Redirect

MIB = 1024 * 1024
KIB = 1024
REPOSITORY = "acme/model"
QUICK = Retry(attempts=3, first_delay=0.001, longest_delay=0.002)
BUFFER = 4 * MIB
"""What one fault may cost: what the reader held (2 MiB), and what the kernel did."""


@cache
def content_of(size: int) -> bytes:
    """Bytes that don't repeat."""
    return random.Random(size).randbytes(size)


def described(content: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(content), len(content))


# A server that does what it is told.


@dataclass(frozen=True)
class Asked:
    """A request; ``offset`` is where the range that it asks for begins, None if it asks for all."""

    method: str
    headers: dict[str, str]

    @property
    def offset(self) -> int | None:
        found = re.fullmatch(r"bytes=([0-9]+)-[0-9]*", self.headers.get("range", ""))
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Reply:
    """An answer: its head as it stands, a body, and what comes after that."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = "keep"


class Raw:
    """Answers each request as ``answer`` says, and remembers what was asked and how many bytes of bodies it sent."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.asked: list[Asked] = []
        self.sent = 0
        self.connections: list[asyncio.StreamWriter] = []
        self._answer = answer

    @property
    def offsets(self) -> list[int | None]:
        return [one.offset for one in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        asked = Asked(first.split()[0], headers)
        self.asked.append(asked)
        reply = self._answer(asked)
        head = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in reply.headers.items())]
        writer.write("\r\n".join([*head, "", ""]).encode())
        for start in range(0, len(reply.body), 64 * KIB):
            writer.write(reply.body[start : start + 64 * KIB])
            await writer.drain()
            self.sent += len(reply.body[start : start + 64 * KIB])
        if reply.end != "keep":
            # The reader forgets what it holds when the connection ends: whoever counts bytes has to let it read before.
            await anyio.sleep(0.002 if len(reply.body) < 64 * KIB else 0.05)
        if reply.end == "reset":
            opened = writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return reply.end == "keep"


@asynccontextmanager
async def serving(answer: Callable[[Asked], Reply]) -> AsyncIterator[tuple[Raw, str]]:
    raw = Raw(answer)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    async with server:
        yield raw, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for connection in raw.connections:
            connection.close()
            with contextlib.suppress(ConnectionError):
                await connection.wait_closed()


def whole(content: bytes, **headers: str) -> Reply:
    return Reply(200, {"Content-Length": str(len(content)), **headers}, content)


def part(content: bytes, first: int, last: int | None = None, **headers: str) -> Reply:
    """An honest answer to a request for a range."""
    last = len(content) - 1 if last is None else last
    said = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Content-Length": str(last + 1 - first)}
    return Reply(206, {**said, **headers}, content[first : last + 1])


def cut(reply: Reply, after: int, end: str = "close") -> Reply:
    return replace(reply, body=reply.body[:after], end=end)


def honest(content: bytes, asked: Asked) -> Reply:
    return whole(content) if asked.offset is None else part(content, asked.offset)


# What fetches from it.

Opened = Callable[..., Repository]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Open a repository of a registry at ``host``; with ``mirrors``, at those first."""
    sessions: list[AiohttpTransport] = []

    def make(host: str, *mirrors: str, retry: Retry = QUICK, timeouts: Timeouts | None = None) -> Repository:
        session = AiohttpTransport(user_agent="test", timeouts=timeouts)
        sessions.append(session)
        ring = RetryTransport(RedirectTransport(AuthTransport(session, StaticCredentials({}))), retry, Pauses())
        hosts = HostsConfig().lookup(host)
        if mirrors:
            others = tuple(Host(f"http://{mirror}", ["pull"]) for mirror in mirrors)
            hosts = HostsConfig({host: RegistryHosts(Host(f"http://{host}"), others)}).lookup(host)
        return Repository(ring, Endpoints(host, hosts), REPOSITORY, set(), ring.operation)

    yield make
    for session in sessions:
        await session.aclose()


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


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(tmp_path / "local")
    yield store
    await store.aclose()


async def leave(store: Store, content: bytes, size: int) -> None:
    """Let an attempt leave the first ``size`` bytes in ``store``."""
    async with store.ingest(described(content)) as ingest:
        await ingest.note_etag(f'"{Digest.of(content)}"')
        await ingest.write(content[:size])


def leftover(store: LocalStore) -> Path:
    (path,) = (Path(store.path) / "ingest").glob("*.part")
    return path


# The shared scenarios.


def scaled(text: str, factor: int) -> str:
    """Multiply the numbers of a Content-Range."""
    if found := re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)", text):
        complete = found[3] if found[3] == "*" else int(found[3]) * factor
        return f"bytes {int(found[1]) * factor}-{(int(found[2]) + 1) * factor - 1}/{complete}"
    return re.sub(r"[0-9]+", lambda number: str(int(number[0]) * factor), text)


def bomb() -> bytes:
    """A gigabyte of zeros in a megabyte: gzip members follow each other."""
    return gzip.compress(bytes(16 * MIB)) * 64


def reply_of(response: dict[str, Any], content: bytes, factor: int) -> Reply:
    status, headers = response.get("status", 200), {}
    if "content_range" in response:
        headers["Content-Range"] = scaled(response["content_range"], factor)
    text = response.get("body", "")
    body = b""
    if found := re.match(r"\[([0-9]+):([0-9]+)\]", text):
        body = content[int(found[1]) * factor : int(found[2]) * factor]
    if "junk" in text:
        body += bytes(MIB)
    if "content_encoding" in response:
        headers["Content-Encoding"], body = response["content_encoding"], bomb()
    if "retry_after" in response:
        headers["Retry-After"] = response["retry_after"]
    if response.get("transfer_encoding") == "chunked":
        return Reply(status, {**headers, "Transfer-Encoding": "chunked"}, f"{len(body):x}\r\n".encode() + body, "close")
    headers["Content-Length"] = str(response.get("content_length", len(body) // factor) * factor)
    headers["Content-Length"] = (
        str(len(body)) if "junk" in text or "content_encoding" in response else headers["Content-Length"]
    )
    return Reply(status, headers, body)


# What comes of each: complete, or an error; and what was asked for, in thousandths, None is the whole.
OUTCOMES: dict[str, tuple[type[LadingError] | None, list[int | None]]] = {
    "rng-000": (None, [400]),
    "rng-001": (None, [400]),
    "rng-004": (None, [20, None]),
    "rng-005": (None, [400, None]),
    "rng-006": (None, [400, None]),
    "rng-007": (None, [None, 500]),
    "rng-010": (None, [400, None]),
    "rng-013": (None, [400, None]),
    "rng-019": (ProtocolError, [None]),
    "rng-022": (None, [None, 600]),
    "rng-023": (None, [None, 600]),
    "rng-029": (None, [None, *range(10, 1000, 10)]),
    "rng-036": (None, [None, None]),
}


@pytest.mark.parametrize("factor", [1, 4096], ids=["1000", "4096000"])
@pytest.mark.parametrize("scenario", vectors("ranges.json", "scenarios"))
async def test_scenario(
    scenario: dict[str, Any], factor: int, store: Store, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    if scenario["id"] == "rng-030":
        return  # how much patience there is for little progress is a policy: see the endless ones below
    content, have = content_of(1000 * factor), scenario["request"]["have_bytes"] if scenario["request"] else 0
    outcome, offsets = OUTCOMES[scenario["id"]]
    begun = 0
    is_left = have * factor > MIB and isinstance(store, LocalStore)
    if is_left:
        await leave(store, content, have * factor)

    def answer(asked: Asked) -> Reply:
        nonlocal begun
        begun += 1
        if have and begun == 1 and not is_left:
            return cut(whole(content), have * factor)  # how the bytes came that are here
        if "sequence" in scenario["response"]:
            return cut(honest(content, asked), 10 * factor, "reset")
        is_meant = asked.offset is not None if have else begun == 1
        return reply_of(scenario["response"], content, factor) if is_meant else honest(content, asked)

    async with serving(answer) as (raw, host):
        repository, descriptor = opened(host), described(content)
        with anyio.fail_after(20):
            if outcome is None:
                await fetch_blob(repository, descriptor, store)
                assert await kept(store, repository, descriptor) == content
            else:
                with pytest.raises(outcome):
                    await fetch_blob(repository, descriptor, store)
                assert await kept(store, repository, descriptor) is None
    expected = [None] * (bool(have) and not is_left) + [one if one is None else one * factor for one in offsets]
    if factor > 1 and isinstance(store, LocalStore) and scenario["id"] in ("rng-023", "rng-029"):
        return  # what was being written when the connection ended cost what the reader held
    assert raw.offsets == expected


# Cuts.


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_cut_at_every_64th_costs_one_buffer_at_most(
    registry: EmbeddedRegistry,
    opened: Opened,
    local: LocalStore,
    end: str,
    framing: str,
    measured: Callable[[str, str], None],
) -> None:
    size = 4 * MIB
    worst = 0
    for number in range(64):
        content = content_of(size + number)
        registry.add_blob(REPOSITORY, content)
        fault = Close(number * size // 64) if end == "close" else Reset(number * size // 64)
        others = () if framing == "length" else (Framing("chunked" if framing == "chunked" else "close"),)
        registry.faults.add(fault, *others, on="GET blob")
        registry.clear_requests()
        repository, descriptor = opened(registry.host), described(content)
        came = await fetch_blob(repository, descriptor, local)
        assert await kept(local, repository, descriptor) == content
        assert came == len(content), "what was lost on its way never came"
        assert registry.count("GET blob") == 2
        worst = max(worst, registry.bytes_sent - len(content))
    assert worst <= BUFFER
    measured(f"a cut of a 4 MiB blob ({framing}, {end}), bytes sent twice at most, 64 places", f"{worst}")


async def test_resets_all_the_time_use_up_no_attempts(registry: EmbeddedRegistry, opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Reset(100_000), on="GET blob", times=None)
    repository, descriptor = opened(registry.host, retry=replace(QUICK, attempts=2)), described(content)
    with anyio.fail_after(30):
        assert await fetch_blob(repository, descriptor, store) == len(content)
    assert await kept(store, repository, descriptor) == content
    assert registry.count("GET blob") >= len(content) // 100_000


@pytest.mark.parametrize("size", [1000, 4 * MIB])
async def test_who_makes_no_progress_gives_up(opened: Opened, store: Store, size: int) -> None:
    """The server ignores ranges, and cuts each time at the same place: bytes come, but none that are new."""
    content = content_of(size)
    async with serving(lambda asked: cut(whole(content), size * 6 // 10)) as (raw, host):
        with anyio.fail_after(20), pytest.raises(BodyInterrupted):
            await fetch_blob(opened(host), described(content), store)
    assert len(raw.asked) <= 1 + QUICK.attempts


async def test_what_never_begins_gives_up(opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    async with serving(lambda asked: cut(whole(content), 0)) as (raw, host):
        with pytest.raises(BodyInterrupted):
            await fetch_blob(opened(host), described(content), store)
    assert len(raw.asked) == QUICK.attempts


async def test_silence_is_gone_on_after(registry: EmbeddedRegistry, opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Stall(3 * MIB), on="GET blob")
    repository, descriptor = opened(registry.host, timeouts=Timeouts(stall=0.2)), described(content)
    await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) == content
    assert registry.requests[-1].headers["Range"] == f"bytes={3 * MIB}-"
    registry.add_blob(REPOSITORY, content_of(MIB))
    registry.faults.add(Stall(0), on="GET blob", times=None)
    with pytest.raises(TimedOut):
        await fetch_blob(repository, described(content_of(MIB)), store)


# What an earlier attempt left.


async def test_another_process_goes_on(opened: Opened, local: LocalStore, registry: EmbeddedRegistry) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    await leave(local, content, 3 * MIB)
    told: list[int] = []
    repository, descriptor = opened(registry.host), described(content)
    assert await fetch_blob(repository, descriptor, local, told.append) == MIB
    assert await kept(local, repository, descriptor) == content
    assert (told[0], told[-1]) == (3 * MIB, 4 * MIB)
    assert told == sorted(told)
    assert (registry.count(), registry.bytes_sent) == (1, MIB)


@pytest.mark.parametrize("place", [0, MIB, 3 * MIB - 1])
async def test_a_damaged_partial_costs_one_clean_restart(
    opened: Opened, local: LocalStore, registry: EmbeddedRegistry, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    await leave(local, content, 3 * MIB)
    damaged = bytearray(leftover(local).read_bytes())
    damaged[place] ^= 1
    leftover(local).write_bytes(damaged)
    repository, descriptor = opened(registry.host), described(content)
    with caplog.at_level(logging.WARNING):
        assert await fetch_blob(repository, descriptor, local) == 5 * MIB
    assert await kept(local, repository, descriptor) == content
    assert [one.headers.get("Range") for one in registry.requests] == [f"bytes={3 * MIB}-", None]
    assert len(caplog.records) == 1


async def test_a_blob_that_is_wrong_at_the_registry_isnt_fetched_twice(
    opened: Opened, store: Store, registry: EmbeddedRegistry
) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(WrongBytes(2 * MIB), on="GET blob", times=None)
    repository, descriptor = opened(registry.host), described(content)
    with pytest.raises(DigestMismatch, match=REPOSITORY):
        await fetch_blob(repository, descriptor, store)
    assert registry.count() == 1
    assert await kept(store, repository, descriptor) is None


async def test_a_wrong_rest_costs_one_clean_restart(opened: Opened, store: Store, registry: EmbeddedRegistry) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Close(2 * MIB), on="GET blob")
    registry.faults.add(WrongBytes(5), on="GET blob")
    repository, descriptor = opened(registry.host), described(content)
    await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) == content
    assert registry.count() == 3


@pytest.mark.parametrize(
    "fault",
    [
        Unsatisfiable(),
        Unsatisfiable(300),
        RangeWrong(-10),
        RangeWrong(10),
        RangeWrong(-10, honest=False),
        RangeIgnored(),
        ETagChanged(),
        LongBody(10),
        WrongContentLength(10),
    ],
    ids=repr,
)
@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("times", [1, None])
async def test_whatever_comes_for_the_rest_one_restart_mends_it(
    opened: Opened, local: LocalStore, registry: EmbeddedRegistry, fault: Any, attempts: int, times: int | None
) -> None:
    """However little patience there is: it isn't a matter of patience."""
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    repository, descriptor = opened(registry.host, retry=replace(QUICK, attempts=attempts)), described(content)
    await leave(local, content, 3 * MIB)
    registry.faults.add(fault, on="GET blob", times=times)
    if times is None and isinstance(fault, LongBody | WrongContentLength):  # of the whole, too
        with pytest.raises(SizeMismatch):
            await fetch_blob(repository, descriptor, local)
        registry.faults.clear()
    await fetch_blob(repository, descriptor, local)
    assert await kept(local, repository, descriptor) == content
    assert registry.requests[0].headers["Range"] == f"bytes={3 * MIB}-"
    assert registry.count() <= 3


async def test_an_entity_tag_goes_along(opened: Opened, local: LocalStore, registry: EmbeddedRegistry) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Close(3 * MIB), on="GET blob")
    repository, descriptor = opened(registry.host), described(content)
    await fetch_blob(repository, descriptor, local)
    first, second = registry.requests
    assert "If-Range" not in first.headers
    assert second.headers["If-Range"] == f'"{descriptor.digest}"'


@pytest.mark.parametrize("etag", ['W/"weak"', "unquoted", '"', ""])
async def test_no_condition_on_what_says_nothing_about_bytes(opened: Opened, store: Store, etag: str) -> None:
    content = content_of(4 * MIB)

    def answer(asked: Asked) -> Reply:
        if asked.offset is None:
            return cut(whole(content, ETag=etag), 2 * MIB)
        return part(content, asked.offset)

    async with serving(answer) as (raw, host):
        await fetch_blob(opened(host), described(content), store)
    assert raw.offsets == [None, 2 * MIB]
    assert "if-range" not in raw.asked[1].headers


# Lengths.


@pytest.mark.parametrize("size", [1000, 4 * MIB])
@pytest.mark.parametrize("fault", [LongBody(1), LongBody(5 * MIB), WrongContentLength(1), WrongContentLength(10**17)])
async def test_who_announces_too_much_is_believed_that_its_wrong(
    opened: Opened, store: Store, registry: EmbeddedRegistry, fault: Any, size: int
) -> None:
    content = content_of(size)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(fault, on="GET blob", times=None)
    repository, descriptor = opened(registry.host), described(content)
    with pytest.raises(SizeMismatch):
        await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) is None
    assert registry.count() == 1
    registry.faults.clear()
    await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) == content


@pytest.mark.parametrize("size", [1000, 4 * MIB])
@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_too_much_without_a_length_is_cut_off(
    opened: Opened, local: LocalStore, registry: EmbeddedRegistry, framing: Any, size: int
) -> None:
    content = content_of(size)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(LongBody(64 * MIB), Framing(framing), on="GET blob", times=None)
    repository, descriptor = opened(registry.host), described(content)
    with pytest.raises(SizeMismatch):
        await fetch_blob(repository, descriptor, local)
    assert await kept(local, repository, descriptor) is None
    assert sum(path.stat().st_size for path in Path(local.path).rglob("*.part")) <= size + 2 * MIB
    assert registry.bytes_sent < size + 32 * MIB


@pytest.mark.parametrize("size", [1000, 4 * MIB])
async def test_a_length_that_is_short_is_gone_on_after(
    opened: Opened, store: Store, registry: EmbeddedRegistry, size: int
) -> None:
    content = content_of(size)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(ShortBody(size // 3), on="GET blob")
    registry.faults.add(RangeUnasked(size // 2), on="GET blob")
    repository, descriptor = opened(registry.host), described(content)
    await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) == content


async def test_a_last_chunk_that_is_missing_is_no_loss(opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    chunked = f"{len(content):x}\r\n".encode() + content
    headers = {"Transfer-Encoding": "chunked"}
    async with serving(lambda asked: Reply(200, headers, chunked, "close")) as (raw, host):
        await fetch_blob(opened(host), described(content), store)
    assert len(raw.asked) == 1


async def test_nothing_is_fetched_twice_of_an_empty_blob(
    opened: Opened, store: Store, registry: EmbeddedRegistry
) -> None:
    registry.add_blob(REPOSITORY, b"")
    repository, descriptor = opened(registry.host), described(b"")
    assert await fetch_blob(repository, descriptor, store) == 0
    assert await kept(store, repository, descriptor) == b""
    assert registry.summary() == ["HEAD blob"]


# What is there already proves nothing.


async def test_what_another_repository_brought_has_to_be_proved(
    opened: Opened, local: LocalStore, registry: EmbeddedRegistry
) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    repository, descriptor = opened(registry.host), described(content)
    assert await fetch_blob(repository, descriptor, local) == len(content)
    await kept(local, repository, descriptor)
    registry.clear_requests()
    assert await fetch_blob(repository, descriptor, local) == 0
    assert registry.summary() == ["HEAD blob"]
    registry.remove_blob(REPOSITORY, str(descriptor.digest))
    with pytest.raises(NotFound):
        await fetch_blob(repository, descriptor, local)


# Tokens and signed URLs.


async def test_a_token_that_expires_on_the_way_costs_one_more(opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    profile = replace(GHCR, redirect=None)
    async with EmbeddedRegistry(profile=profile, users={"ada": "secret"}) as registry:
        registry.add_blob(REPOSITORY, content)
        registry.faults.add(ExpiredToken(3 * MIB), on="GET blob", skip=1)
        repository, descriptor = opened(registry.host), described(content)
        await fetch_blob(repository, descriptor, store)
        assert await kept(store, repository, descriptor) == content
        asked = ["GET blob", "GET token", "GET blob", "GET blob", "GET token", "GET blob"]
        assert registry.summary() == asked
        assert "Range" in registry.requests[-1].headers
        assert registry.bytes_sent < len(content) + BUFFER


async def test_a_signed_url_is_asked_for_again(opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    async with EmbeddedRegistry(profile=replace(PLAIN, redirect=Redirect(uses=1))) as registry:
        registry.add_blob(REPOSITORY, content)
        registry.faults.add(Close(3 * MIB), on="GET storage")
        repository, descriptor = opened(registry.host), described(content)
        await fetch_blob(repository, descriptor, store)
        assert await kept(store, repository, descriptor) == content
        assert registry.summary() == ["GET blob", "GET storage"] * 2
        assert "Range" in registry.requests[-1].headers


async def test_storage_that_fails_is_asked_again(opened: Opened, store: Store) -> None:
    content = content_of(4 * MIB)
    async with EmbeddedRegistry(profile=QUAY) as registry:
        registry.add_blob(REPOSITORY, content)
        registry.faults.add(Close(MIB), on="GET storage")
        registry.faults.add(Status(503), on="GET storage")
        repository, descriptor = opened(registry.host), described(content)
        await fetch_blob(repository, descriptor, store)
        assert await kept(store, repository, descriptor) == content


# Mirrors.


@pytest.fixture
async def mirror() -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry() as mirror:
        yield mirror


async def test_what_a_mirror_began_the_registry_ends(
    opened: Opened, store: Store, registry: EmbeddedRegistry, mirror: EmbeddedRegistry
) -> None:
    content = content_of(4 * MIB)
    for one in (registry, mirror):
        one.add_blob(REPOSITORY, content)
    mirror.faults.add(Close(3 * MIB), ETagChanged('"mirror"'), on="GET blob")
    repository, descriptor = opened(registry.host, mirror.host), described(content)
    await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) == content
    assert (mirror.summary(), registry.summary()) == (["GET blob"], ["GET blob"])
    assert registry.bytes_sent <= MIB + BUFFER
    assert "If-Range" not in registry.requests[0].headers, "it wouldn't know the mirror's tag"


@pytest.mark.parametrize("fault", [WrongBytes(2 * MIB), LongBody(1), WrongContentLength(1), Status(404), ShortBody(9)])
async def test_what_a_mirror_does_wrong_the_registry_does_right(
    opened: Opened, store: Store, registry: EmbeddedRegistry, mirror: EmbeddedRegistry, fault: Any
) -> None:
    content = content_of(4 * MIB)
    for one in (registry, mirror):
        one.add_blob(REPOSITORY, content)
    mirror.faults.add(fault, on="GET blob", times=None)
    repository, descriptor = opened(registry.host, mirror.host), described(content)
    await fetch_blob(repository, descriptor, store)
    assert await kept(store, repository, descriptor) == content
    assert (mirror.summary(), registry.summary()) == (["GET blob"], ["GET blob"])


async def test_a_partial_that_is_damaged_isnt_the_mirrors_fault(
    opened: Opened,
    local: LocalStore,
    registry: EmbeddedRegistry,
    mirror: EmbeddedRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = content_of(4 * MIB)
    mirror.add_blob(REPOSITORY, content)
    await leave(local, content, 3 * MIB)
    leftover(local).write_bytes(b"x" + leftover(local).read_bytes()[1:])
    repository, descriptor = opened(registry.host, mirror.host), described(content)
    await fetch_blob(repository, descriptor, local)
    assert await kept(local, repository, descriptor) == content
    assert (len(mirror.requests), registry.summary()) == (2, [])
    assert "left alone" not in caplog.text


async def test_a_full_disk_isnt_the_mirrors_fault(
    opened: Opened, registry: EmbeddedRegistry, mirror: EmbeddedRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(4 * MIB)
    mirror.add_blob(REPOSITORY, content)
    store = Full(MemoryStore())
    with pytest.raises(OutOfSpace):
        await fetch_blob(opened(registry.host, mirror.host), described(content), store)
    assert (mirror.summary(), registry.summary()) == (["GET blob"], [])
    assert caplog.text == ""


class Full:
    """A store whose disk is full."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def ingest(self, descriptor: Descriptor) -> Ingest:
        ingest = self._store.ingest(descriptor)

        async def write_at(offset: int, chunk: bytes) -> None:
            raise OutOfSpace("the disk is full")

        ingest.write_at = write_at  # type: ignore[method-assign]
        return ingest


# Into memory.


async def test_what_is_large_is_gone_on_with_in_memory_too(opened: Opened, registry: EmbeddedRegistry) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Reset(300_000), on="GET blob", times=None)
    repository = opened(registry.host, retry=replace(QUICK, attempts=2))
    assert await read_blob(repository, described(content), anyio.CapacityLimiter(1)) == content


@pytest.mark.parametrize(
    "fault",
    [
        Unsatisfiable(),
        RangeWrong(-10),
        RangeWrong(-10, honest=False),
        RangeIgnored(),
        WrongBytes(3),
        LongBody(7),
        WrongContentLength(-5),
    ],
    ids=repr,
)
async def test_a_rest_that_is_wrong_is_forgotten_in_memory(
    opened: Opened, registry: EmbeddedRegistry, fault: Any
) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Close(MIB), on="GET blob")
    registry.faults.add(fault, on="GET blob")
    repository = opened(registry.host)
    assert await read_blob(repository, described(content), anyio.CapacityLimiter(1)) == content
    assert registry.count() <= 4


@pytest.mark.parametrize("size", [1000, 4 * MIB])
async def test_in_memory_too_who_makes_no_progress_gives_up(opened: Opened, size: int) -> None:
    content = content_of(size)
    async with serving(lambda asked: cut(whole(content), size * 6 // 10)) as (raw, host):
        with anyio.fail_after(20), pytest.raises(TransportError):
            await read_blob(opened(host), described(content), anyio.CapacityLimiter(1))
    assert len(raw.asked) <= 1 + QUICK.attempts


async def test_what_a_mirror_gets_wrong_in_memory_the_registry_gets_right(
    opened: Opened, registry: EmbeddedRegistry, mirror: EmbeddedRegistry
) -> None:
    content = content_of(4 * MIB)
    for one in (registry, mirror):
        one.add_blob(REPOSITORY, content)
    mirror.faults.add(WrongBytes(5), Close(MIB), on="GET blob")
    repository = opened(registry.host, mirror.host)
    assert await read_blob(repository, described(content), anyio.CapacityLimiter(1)) == content


# Progress.


async def test_progress_begins_with_what_was_there_and_never_says_too_much(
    opened: Opened, store: Store, registry: EmbeddedRegistry
) -> None:
    content = content_of(4 * MIB)
    registry.add_blob(REPOSITORY, content)
    registry.faults.add(Close(3 * MIB), on="GET blob")
    registry.faults.add(RangeIgnored(), on="GET blob")
    told: list[int] = []
    await fetch_blob(opened(registry.host), described(content), store, told.append)
    assert (told[0], told[-1], told.count(len(content))) == (0, len(content), 1)
    assert max(told) == len(content)
