"""What is told of connections and bodies: each step, through proxies too; nothing if nobody listens."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from lading.errors import LadingError
from lading.events import BodyReceived, ConnectionStep, Event, FallingBack, RequestSent
from lading.http.connector import Connector
from lading.http.proxy import COOLDOWN, ProxyRules, Router
from lading.http.session import AiohttpTransport
from lading.http.timeouts import Timeouts
from lading.http.transport import Origin, Request, Site
from lading.http.watching import WatchedConnector
from lading.testing import EmbeddedProxy
from lading.testing.tls import ThrowawayCA

BODY = b"x" * 100_000


class Server:
    """Answers each GET with the same body, on a loopback address that is called ``host``."""

    def __init__(self, host: str = "127.0.0.1", authority: ThrowawayCA | None = None) -> None:
        self._host = host
        self._authority = authority

    async def __aenter__(self) -> Server:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=BODY)

        self._runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await self._runner.setup()
        context = self._authority.server_context(self._host) if self._authority else None
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.place = f"{self._host}:{self._runner.addresses[0][1]}"
        self.url = f"{'https' if self._authority else 'http'}://{self.place}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


Listen = Callable[..., tuple[AiohttpTransport, list[Event]]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Make transports that are listened to, through the proxy that is given or directly."""
    made: list[AiohttpTransport] = []

    def make(
        proxy: str | None = None, env: dict[str, str] | None = None, **options: object
    ) -> tuple[AiohttpTransport, list[Event]]:
        events: list[Event] = []
        rules = ProxyRules.of(proxy, env or {})
        transport = AiohttpTransport(user_agent="t", events=events.append, router=Router(rules), **options)  # type: ignore[arg-type]
        made.append(transport)
        return transport, events

    yield make
    for transport in made:
        await transport.aclose()


async def get(transport: AiohttpTransport, url: str, ca: bytes | None = None) -> bytes:
    site = None if ca is None else Site(Origin.of(url), ca=(ca,))
    async with await transport.send(Request("GET", url, site=site)) as response:
        return await response.read(1_000_000)


def steps(events: list[Event]) -> list[tuple[str, str, str]]:
    return [(one.stage, one.endpoint, one.error) for one in events if isinstance(one, ConnectionStep)]


async def test_a_name_a_connection_and_no_more_the_second_time(listen: Listen) -> None:
    transport, events = listen()
    async with Server("localhost") as server:
        await get(transport, server.url)
        assert [type(one) for one in events] == [ConnectionStep, ConnectionStep, RequestSent, BodyReceived]
        assert steps(events) == [("dns", "localhost", ""), ("connect", server.place, "")]
        events.clear()
        await get(transport, server.url)
    assert [type(one) for one in events] == [RequestSent, BodyReceived]


async def test_what_belongs_together_has_one_number(listen: Listen) -> None:
    transport, events = listen()
    async with Server() as server, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(get(transport, server.url))
    numbers = [one.number for one in events if isinstance(one, RequestSent)]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    for number in numbers:
        own = [one for one in events if getattr(one, "number", 0) == number]
        assert [type(one) for one in own] == [ConnectionStep, RequestSent, BodyReceived]
        connected, sent = own[:2]
        assert isinstance(connected, ConnectionStep)
        assert isinstance(sent, RequestSent)
        assert 0 < connected.seconds < sent.seconds


async def test_tls_is_a_step_of_its_own(listen: Listen) -> None:
    authority = ThrowawayCA()
    transport, events = listen()
    async with Server(authority=authority) as server:
        await get(transport, server.url, authority.pem)
        assert steps(events) == [("connect", server.place, ""), ("tls", server.place, "")]
        events.clear()
        with pytest.raises(LadingError):
            await get(transport, server.url)
    assert steps(events) == [("connect", server.place, ""), ("tls", server.place, "SSLCertVerificationError")]
    assert isinstance(events[-1], RequestSent)
    assert (events[-1].status, events[-1].error) == (0, "TlsFailed")


async def test_what_fails_says_where(listen: Listen) -> None:
    transport, events = listen()
    with pytest.raises(LadingError):
        await get(transport, "http://no-such-host.invalid/")
    with pytest.raises(LadingError):
        await get(transport, "http://[::1]:1/")
    (stage, name, error), refused = steps(events)
    assert (stage, name) == ("dns", "no-such-host.invalid")
    assert error
    assert refused[:2] == ("connect", "[::1]:1")
    assert refused[2]


async def test_a_tunnel_is_a_step_between_the_proxy_and_tls(listen: Listen, tmp_path: Path) -> None:
    authority = ThrowawayCA()
    path = tmp_path / "proxy.sock"
    async with Server("0.0.0.0", authority) as server, EmbeddedProxy(unix=path) as proxy:
        transport, events = listen(f"unix://{path}")
        await get(transport, server.url, authority.pem)
        assert steps(events) == [("connect", str(path), ""), ("tunnel", server.place, ""), ("tls", server.place, "")]
        events.clear()
        with pytest.raises(LadingError):
            await get(transport, server.url)
        assert [stage for stage, _, error in steps(events) if error] == ["tls"]
        events.clear()
        proxy.fault = 502
        with pytest.raises(LadingError):
            await get(transport, server.url)
    assert steps(events) == [("connect", str(path), ""), ("tunnel", server.place, "ProxyFailed")]


async def test_a_proxy_on_tcp_is_who_is_connected_to(listen: Listen) -> None:
    async with Server("0.0.0.0") as server, EmbeddedProxy() as proxy:
        transport, events = listen(proxy.url)
        await get(transport, server.url)
        assert steps(events) == [("connect", proxy.url.removeprefix("http://"), "")]
        assert events[-2].url == server.url  # type: ignore[union-attr]


async def test_without_docker_desktops_socket_it_goes_another_way_and_says_so_once(
    listen: Listen, tmp_path: Path
) -> None:
    socket = tmp_path / ".docker" / "desktop" / "httpproxy.sock"
    socket.parent.mkdir(parents=True)
    socket.touch()
    async with Server("0.0.0.0") as server:
        transport, events = listen("auto", {"HOME": str(tmp_path)})
        assert await get(transport, server.url) == BODY
        assert await get(transport, server.url) == BODY
    (fallen,) = [one for one in events if isinstance(one, FallingBack)]
    assert (fallen.kind, fallen.seconds) == ("proxy", COOLDOWN)
    assert str(socket) in fallen.endpoint
    assert steps(events) == [("connect", str(socket), "ConnectionRefusedError"), ("connect", server.place, "")]
    assert [one.status for one in events if isinstance(one, RequestSent)] == [0, 200, 200]


async def test_a_body_is_told_with_its_bytes_when_it_is_left(listen: Listen) -> None:
    transport, events = listen()
    async with Server() as server:
        await get(transport, server.url + "?signature=hunter2")
        whole = events[-1]
        assert isinstance(whole, BodyReceived)
        assert (whole.received, whole.is_whole, whole.url) == (len(BODY), True, f"{server.url}?…")
        async with await transport.send(Request("HEAD", server.url)):
            pass
        assert isinstance(events[-1], RequestSent), "there was no body"


async def test_a_body_that_is_left_before_its_end_was_not_whole(listen: Listen) -> None:
    transport, events = listen()

    async def begin(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"0123456789")
        await asyncio.Event().wait()
        return response

    runner = web.ServerRunner(web.Server(begin), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with await transport.send(Request("GET", f"http://127.0.0.1:{runner.addresses[0][1]}/")) as response:
        async for _ in response.chunks():
            break
    await runner.cleanup()
    assert isinstance(events[-1], BodyReceived)
    assert (events[-1].received, events[-1].is_whole) == (10, False)


async def test_a_cancelled_connection_is_told_too(listen: Listen) -> None:
    transport, events = listen(timeouts=Timeouts(connect=0.05))
    left = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LadingError):
            await get(transport, f"https://127.0.0.1:{port}/")
        await left.wait()
    assert steps(events)[1] == ("tls", f"127.0.0.1:{port}", "CancelledError")
    assert [one.error for one in events if isinstance(one, RequestSent)] == ["TimedOut"]


async def test_nobody_is_watched_where_nobody_listens() -> None:
    transport = AiohttpTransport(user_agent="t")
    assert type(transport._connector) is Connector
    async with Server() as server, await transport.send(Request("GET", server.url)) as response:
        assert response._watched is None
    await transport.aclose()


class TestAiohttp:
    """What is overridden is private: it has to be what this is built for."""

    @pytest.mark.parametrize("name", ["_resolve_host", "_wrap_create_connection", "_start_tls_connection"])
    def test_the_methods_that_are_overridden_take_what_they_took(self, name: str) -> None:
        theirs = inspect.signature(getattr(aiohttp.TCPConnector, name)).parameters
        ours = inspect.signature(getattr(WatchedConnector, name)).parameters
        named = [one for one in ours if one not in ("args", "options")]
        assert set(named) <= set(theirs)
        assert inspect.iscoroutinefunction(getattr(aiohttp.TCPConnector, name))

    def test_the_protocol_is_what_a_connection_is_made_with_first(self) -> None:
        source = inspect.getsource(aiohttp.TCPConnector._create_direct_connection)
        assert "self._wrap_create_connection(\n                    self._factory,\n" in source
