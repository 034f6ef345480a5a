"""Bodies that are read while they are sent, against real servers: what is sent, and who lets go of what, when."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from lading.errors import ConnectFailed, LadingError, NotFound, SizeMismatch, TimedOut, TransportError
from lading.http.limits import Pauses
from lading.http.redirect import RedirectTransport
from lading.http.retry import Retry, RetryTransport
from lading.http.session import AiohttpTransport
from lading.http.timeouts import Timeouts
from lading.http.transport import Request, Stream

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

CHUNK = bytes(range(256)) * 256
"""64 KiB."""


class Source:
    """Chunks for a stream; counts how often it was opened and closed."""

    def __init__(self, chunks: int = 4, error: Exception | None = None) -> None:
        self.chunks = chunks
        self.error = error
        self.opened = 0
        self.closed = 0
        self.given = 0
        self.waits: asyncio.Event | None = None

    async def __call__(self) -> AsyncIterator[bytes]:
        self.opened += 1
        try:
            for _ in range(self.chunks):
                self.given += 1
                yield CHUNK
            if self.error is not None:
                raise self.error
            if self.waits is not None:
                self.waits.set()
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.closed += 1

    def request(self, url: str, length: int | None = None, *, is_replayable: bool = True) -> Request:
        length = self.chunks * len(CHUNK) if length is None else length
        return Request("PUT", url, body=Stream(length, self, is_replayable))


class Taker:
    """A server that takes bodies: ``received`` are their sizes, ``headers`` those of each request."""

    def __init__(self, handler: Handler | None = None) -> None:
        self._handler = handler
        self.received: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self._handler is not None:
            return await self._handler(request)
        return await self.take(request)

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        size = 0
        async for piece in request.content.iter_any():
            assert piece == (CHUNK * (len(piece) // len(CHUNK) + 2))[size % len(CHUNK) :][: len(piece)]
            size += len(piece)
        self.received.append(size)
        return web.Response(status=201)


@asynccontextmanager
async def serve(taker: Taker) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(taker.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    taker.url = "http://{}:{}/".format(*runner.addresses[0][:2])
    yield taker.url
    await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(user_agent="lading/test")
    yield transport
    await transport.aclose()


def assert_idle(transport: AiohttpTransport) -> None:
    assert transport._slots.value == 100


async def put(transport: AiohttpTransport, request: Request) -> int:
    async with await transport.send(request) as response:
        return response.status


async def test_it_is_sent_with_its_length_and_not_in_a_transfer_coding(transport: AiohttpTransport) -> None:
    taker, source = Taker(), Source()
    async with serve(taker) as url:
        assert await put(transport, source.request(url)) == 201
        assert await put(transport, source.request(url)) == 201
    assert taker.received == [4 * len(CHUNK)] * 2
    for headers in taker.headers:
        assert headers["content-length"] == str(4 * len(CHUNK))
        assert "transfer-encoding" not in headers
    assert (source.opened, source.closed) == (2, 2)
    assert_idle(transport)


async def test_an_empty_one(transport: AiohttpTransport) -> None:
    taker, source = Taker(), Source(0)
    async with serve(taker) as url:
        assert await put(transport, source.request(url)) == 201
    assert taker.received == [0]
    assert taker.headers[0]["content-length"] == "0"


@pytest.mark.parametrize("length", [4 * len(CHUNK) - 1, 4 * len(CHUNK) + 1, 0])
async def test_another_length_than_was_announced_is_an_error(transport: AiohttpTransport, length: int) -> None:
    taker, source = Taker(), Source()
    async with serve(taker) as url:
        with pytest.raises(SizeMismatch, match=f"isn't the {length} bytes"):
            await put(transport, source.request(url, length))
    assert source.opened == source.closed == 1
    assert_idle(transport)


@pytest.mark.parametrize(
    "error", [NotFound("the source", status=404), ConnectFailed("the source"), OSError(5, "the disk"), ValueError("no")]
)
async def test_what_the_source_raises_is_raised(transport: AiohttpTransport, error: Exception) -> None:
    taker, source = Taker(), Source(3, error)
    async with serve(taker) as url:
        with pytest.raises(type(error)) as caught:
            await put(transport, source.request(url, 4 * len(CHUNK)))
    assert caught.value is error
    assert source.closed == 1
    assert taker.received == [], "half a body is no body"
    assert_idle(transport)


async def test_a_redirect_opens_it_again(transport: AiohttpTransport) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/":
            await request.read()
            return web.Response(status=307, headers={"Location": "/there"})
        return await taker.take(request)

    taker, source = Taker(handler), Source()
    async with serve(taker) as url, await RedirectTransport(transport).send(source.request(url)) as response:
        assert response.status == 201
    assert taker.received == [4 * len(CHUNK)]
    assert source.opened == source.closed == 2


async def test_a_retry_opens_it_again(transport: AiohttpTransport) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if len(taker.headers) == 1:
            assert request.transport is not None
            await request.content.readexactly(100_000)
            request.transport.abort()
            return web.Response()
        return await taker.take(request)

    taker, source = Taker(handler), Source(64)
    retrying = RetryTransport(transport, Retry(first_delay=0.0), Pauses())
    async with serve(taker) as url, await retrying.send(source.request(url)) as response:
        assert response.status == 201
    assert taker.received == [64 * len(CHUNK)]
    assert source.opened == source.closed == 2
    assert_idle(transport)


async def test_what_cant_be_opened_again_isnt_sent_again(transport: AiohttpTransport) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        await request.content.readexactly(100_000)
        request.transport.abort()
        return web.Response()

    taker, source = Taker(handler), Source(64)
    retrying = RetryTransport(transport, Retry(first_delay=0.0), Pauses())
    async with serve(taker) as url:
        with pytest.raises(TransportError):
            await retrying.send(source.request(url, is_replayable=False))
    assert len(taker.headers) == 1
    assert source.opened == source.closed == 1


async def test_what_was_never_opened_may_be_sent_again_all_the_same(transport: AiohttpTransport) -> None:
    taker, source, slept = Taker(), Source(), list[float]()
    async with serve(taker) as url:
        pass

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    retrying = RetryTransport(transport, Retry(attempts=3), Pauses(), sleep=sleep)
    with pytest.raises(ConnectFailed):
        await retrying.send(source.request(url, is_replayable=False))
    assert len(slept) == 2
    assert source.opened == 0


@pytest.mark.parametrize("status", [401, 413, 201])
async def test_an_answer_that_comes_early_ends_the_body(transport: AiohttpTransport, status: int) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await request.content.readexactly(10_000)
        return web.Response(status=status, text="no")

    taker, source = Taker(handler), Source(10_000)
    async with serve(taker) as url:
        async with await transport.send(source.request(url)) as response:
            assert response.status == status
            assert await response.read(10) == b"no"
        assert source.closed == source.opened == 1
        assert source.given < source.chunks
        # And the connection, which is in the middle of a body, isn't used again.
        assert await put(transport, Source(1).request(url)) == status
    assert_idle(transport)


async def test_an_early_answer_ends_a_source_that_is_waited_for(transport: AiohttpTransport) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await source_waits.wait()
        return web.Response(status=401)

    source_waits = asyncio.Event()
    taker, source = Taker(handler), Source(2)
    source.waits = source_waits
    async with serve(taker) as url:
        async with await transport.send(source.request(url, 4 * len(CHUNK))) as response:
            assert response.status == 401
        assert source.closed == 1
    assert_idle(transport)


async def test_cancelled_while_the_other_side_doesnt_take_it(transport: AiohttpTransport) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        stuck.set()
        await asyncio.Event().wait()
        raise AssertionError

    stuck = asyncio.Event()
    source = Source(10_000)
    async with serve(Taker(handler)) as url, anyio.create_task_group() as group:
        group.start_soon(put, transport, source.request(url))
        await stuck.wait()
        group.cancel_scope.cancel()
    assert source.closed == source.opened == 1
    assert_idle(transport)


async def test_cancelled_while_the_source_is_waited_for(transport: AiohttpTransport) -> None:
    source = Source(2)
    source.waits = asyncio.Event()
    async with serve(Taker()) as url, anyio.create_task_group() as group:
        group.start_soon(put, transport, source.request(url, 4 * len(CHUNK)))
        await source.waits.wait()
        group.cancel_scope.cancel()
    assert source.closed == 1
    assert_idle(transport)


async def test_the_task_itself_cancelled(transport: AiohttpTransport) -> None:
    source = Source(2)
    source.waits = asyncio.Event()
    async with serve(Taker()) as url:
        task = asyncio.ensure_future(put(transport, source.request(url, 4 * len(CHUNK))))
        await source.waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert source.closed == 1
    assert_idle(transport)


async def test_who_doesnt_take_any_more_in_time_has_stalled() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    transport = AiohttpTransport(user_agent="lading/test", timeouts=Timeouts(stall=0.2, minimum_rate=1e7))
    source = Source(10_000)
    async with serve(Taker(handler)) as url:
        with pytest.raises(TimedOut):
            await put(transport, source.request(url))
        assert source.closed == source.opened == 1
        await transport.aclose()


async def test_who_doesnt_answer_has_timed_out() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        await asyncio.Event().wait()
        raise AssertionError

    transport = AiohttpTransport(user_agent="lading/test", timeouts=Timeouts(first_byte=0.2))
    async with serve(Taker(handler)) as url:
        with pytest.raises(TimedOut):
            await put(transport, Source(2).request(url))
    await transport.aclose()


async def test_a_slow_source_isnt_the_other_sides_fault() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.2)
            yield CHUNK

    transport = AiohttpTransport(
        user_agent="lading/test", timeouts=Timeouts(connect=0.05, first_byte=0.05, stall=0.05, minimum_rate=0)
    )
    taker = Taker()
    async with serve(taker) as url:
        assert await put(transport, Request("PUT", url, body=Stream(3 * len(CHUNK), slow))) == 201
    await transport.aclose()


async def test_however_large_little_of_it_is_in_memory(transport: AiohttpTransport) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        taker.received.append(size)
        return web.Response(status=201)

    taker, source = Taker(handler), Source(1024)
    async with serve(taker) as url:
        tracemalloc.start()
        try:
            assert await put(transport, source.request(url)) == 201
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert taker.received == [64 * 1024 * 1024]
    assert peak < 4 * 1024 * 1024, "of 64 MiB, both sides together"


async def test_a_closed_client_opens_nothing() -> None:
    transport = AiohttpTransport(user_agent="lading/test")
    await transport.aclose()
    source = Source()
    with pytest.raises(LadingError, match="closed"):
        await put(transport, source.request("http://127.0.0.1:1/"))
    assert source.opened == 0
