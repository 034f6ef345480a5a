"""Requests through proxies, on real sockets: which hop failed, what that means, and which way a request then goes.

The targets are asked for as 0.0.0.0: that connects to this machine, but isn't a loopback address by name, and so isn't
exempt from proxies.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from lading.errors import ConnectFailed, ProxyFailed, TimedOut, TlsFailed
from lading.http.connector import Connector
from lading.http.proxy import ProxyRules, Router, is_proxy_socket_error
from lading.http.session import AiohttpTransport
from lading.http.timeouts import Timeouts
from lading.http.transport import Origin, Request, Site
from lading.testing import EmbeddedProxy
from lading.testing.tls import ThrowawayCA

NOBODY = 65534


class Target:
    """A server on this machine that counts who comes."""

    def __init__(self, tls: ThrowawayCA | None = None) -> None:
        self.requests = 0
        self.tls = tls

    async def __aenter__(self) -> Target:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.requests += 1
            return web.Response(body=b"content " + await request.content.read())

        self._runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await self._runner.setup()
        context = self.tls.server_context("0.0.0.0") if self.tls else None
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"{'https' if self.tls else 'http'}://0.0.0.0:{self.port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with Target() as target:
        yield target


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Way:
    """A transport that finds Docker Desktop's socket in a home of its own."""

    def __init__(self, home: Path, clock: Clock, timeouts: Timeouts | None = None, **env: str) -> None:
        self.path = home / ".docker" / "desktop" / "httpproxy.sock"
        self.path.parent.mkdir(parents=True)
        self.clock = clock
        self._rules = ProxyRules.of("auto", {"HOME": str(home), **env})
        self._timeouts = timeouts

    async def __aenter__(self) -> AiohttpTransport:
        self._transport = AiohttpTransport(
            user_agent="lading/test", router=Router(self._rules, self.clock), timeouts=self._timeouts
        )
        return self._transport

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()


async def get(transport: AiohttpTransport, url: str, site: Site | None = None) -> bytes:
    async with await transport.send(Request("GET", url, site=site)) as response:
        assert response.status == 200
        return await response.read(1000)


def no_listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as once:
        once.bind(str(path))


def regular_file(path: Path) -> None:
    path.write_bytes(b"")


def directory(path: Path) -> None:
    path.mkdir()


DEAD = [no_listener, regular_file, directory]


class TestADeadSocket:
    @pytest.mark.parametrize("make", DEAD, ids=lambda make: make.__name__)
    async def test_is_passed_by_with_one_warning(
        self, make: object, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        way = Way(tmp_path, clock)
        make(way.path)  # type: ignore[operator]
        async with way as transport:
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(get(transport, target.url))
            assert await get(transport, target.url) == b"content "
        assert target.requests == 21
        assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]
        assert str(way.path) in caplog.text

    async def test_that_isnt_there_is_nobodys_concern(
        self, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Way(tmp_path, clock) as transport:
            assert await get(transport, target.url) == b"content "
        assert not caplog.records

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    async def test_that_this_user_may_not_use(
        self, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        way = Way(tmp_path, clock)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(way.path))
        listener.listen()
        os.chmod(way.path, 0o600)
        for parent in (way.path.parent, *way.path.parent.parents):
            if parent.stat().st_mode & 0o777 == 0o700 and parent.stat().st_uid == 0:
                os.chmod(parent, 0o755)
        try:
            async with way as transport:
                os.seteuid(NOBODY)
                try:
                    assert await get(transport, target.url) == b"content "
                finally:
                    os.seteuid(0)
        finally:
            listener.close()
        assert "Permission denied" in caplog.text

    async def test_whose_backlog_is_full(
        self, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        way = Way(tmp_path, clock)
        waiting = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(way.path))
            listener.listen(0)
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                try:
                    waiting[-1].connect(str(way.path))
                except BlockingIOError:
                    break
            try:
                async with way as transport:
                    assert await get(transport, target.url) == b"content "
            finally:
                for one in waiting:
                    one.close()
        assert "backlog is full" in caplog.text

    async def test_at_a_path_that_is_too_long(
        self, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        home = tmp_path / ("a" * 100)
        way = Way(home, clock)
        regular_file(way.path)
        async with way as transport:
            assert await get(transport, target.url) == b"content "
        assert "too long" in caplog.text

    async def test_is_left_alone_for_30_seconds_and_then_used_again(
        self, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        way = Way(tmp_path, clock)
        no_listener(way.path)
        async with way as transport:
            await get(transport, target.url)
            async with EmbeddedProxy(unix=way.path) as proxy:
                clock.now += 29.9
                await get(transport, target.url)
                assert proxy.connections == 0
                clock.now += 0.2
                await get(transport, target.url)
                assert proxy.connections == 1
        assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1

    async def test_and_a_target_that_is_down_is_the_targets_failure(self, tmp_path: Path, clock: Clock) -> None:
        way = Way(tmp_path, clock)
        no_listener(way.path)
        async with way as transport:
            with pytest.raises(ConnectFailed) as caught:
                await get(transport, "http://0.0.0.0:1/")
        assert not is_proxy_socket_error(caught.value)


class TestTheSocketWorksBut:
    """What is never an excuse to go around the proxy."""

    @pytest.fixture
    async def proxy(self, tmp_path: Path, clock: Clock) -> AsyncIterator[tuple[EmbeddedProxy, AiohttpTransport]]:
        way = Way(tmp_path, clock, Timeouts(connect=0.3, first_byte=0.3))
        async with EmbeddedProxy(unix=way.path) as proxy, way as transport:
            yield proxy, transport

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize("status", [407, 502])
    async def test_it_answers_with_an_error(
        self, proxy: tuple[EmbeddedProxy, AiohttpTransport], target: Target, status: int, scheme: str
    ) -> None:
        socket_proxy, transport = proxy
        socket_proxy.fault = status
        url = target.url.replace("http", scheme)
        if (scheme, status) == ("http", 502):
            # On a request that isn't tunnelled nobody can tell whose answer that is.
            async with await transport.send(Request("GET", url)) as response:
                assert response.status == 502
        else:
            with pytest.raises(ProxyFailed) as caught:
                await get(transport, url)
            assert caught.value.status == status
            assert not is_proxy_socket_error(caught.value)
        assert target.requests == 0

    @pytest.mark.parametrize("host", ["0.0.0.0:1", "no-such-host.invalid:80"], ids=["refused", "unresolvable"])
    async def test_the_target_cant_be_reached(
        self, proxy: tuple[EmbeddedProxy, AiohttpTransport], host: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, transport = proxy
        with pytest.raises(ProxyFailed) as caught:
            await get(transport, f"https://{host}/")
        assert caught.value.status == 502
        assert not is_proxy_socket_error(caught.value)
        assert not caplog.records

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_it_never_answers(
        self, proxy: tuple[EmbeddedProxy, AiohttpTransport], target: Target, scheme: str
    ) -> None:
        socket_proxy, transport = proxy
        socket_proxy.fault = "hang"
        with pytest.raises(TimedOut) as caught:
            await get(transport, target.url.replace("http", scheme))
        assert not is_proxy_socket_error(caught.value)
        assert target.requests == 0

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_it_breaks_off(
        self, proxy: tuple[EmbeddedProxy, AiohttpTransport], target: Target, scheme: str
    ) -> None:
        socket_proxy, transport = proxy
        socket_proxy.fault = "abort"
        with pytest.raises((ProxyFailed, ConnectFailed)) as caught:
            await get(transport, target.url.replace("http", scheme))
        assert not is_proxy_socket_error(caught.value)
        assert target.requests == 0

    async def test_it_never_accepts(self, tmp_path: Path, clock: Clock, target: Target) -> None:
        way = Way(tmp_path, clock, Timeouts(connect=0.3, first_byte=0.3))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(way.path))
            listener.listen(5)
            async with way as transport:
                with pytest.raises(TimedOut) as caught:
                    await get(transport, target.url)
        assert not is_proxy_socket_error(caught.value)
        assert target.requests == 0

    async def test_this_process_has_no_descriptors_left(
        self, tmp_path: Path, clock: Clock, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        way = Way(tmp_path, clock)
        async with EmbeddedProxy(unix=way.path), way as transport:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(ConnectFailed, match="ulimit") as caught:
                    await get(transport, target.url)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert not is_proxy_socket_error(caught.value)
            assert not [one for one in caplog.records if one.name.startswith("lading")]
            assert await get(transport, target.url) == b"content "


class TestThroughTheSocket:
    async def test_http_and_https_with_a_private_authority(self, tmp_path: Path, clock: Clock, target: Target) -> None:
        authority = ThrowawayCA()
        authority.write(tmp_path / "ca.pem")
        way = Way(tmp_path, clock)
        async with Target(authority) as secure, EmbeddedProxy(unix=way.path) as proxy, way as transport:
            site = Site(Origin.of(secure.url), ca=(str(tmp_path / "ca.pem"),))
            assert await get(transport, target.url) == b"content "
            assert await get(transport, secure.url, site) == b"content "
            with pytest.raises(TlsFailed) as caught:
                await get(transport, secure.url)
        assert not is_proxy_socket_error(caught.value)
        assert [(one.method, one.is_tunnel, one.status) for one in proxy.requests] == [
            ("GET", False, None),
            ("CONNECT", True, 200),
            ("CONNECT", True, 200),
        ]
        assert (target.requests, secure.requests) == (1, 1)

    async def test_a_tunnel_is_used_again(self, tmp_path: Path, clock: Clock) -> None:
        authority = ThrowawayCA()
        authority.write(tmp_path / "ca.pem")
        way = Way(tmp_path, clock)
        async with Target(authority) as secure, EmbeddedProxy(unix=way.path) as proxy, way as transport:
            site = Site(Origin.of(secure.url), ca=(str(tmp_path / "ca.pem"),))
            for _ in range(3):
                await get(transport, secure.url, site)
        assert proxy.connections == 1

    async def test_loopback_addresses_and_no_proxy_go_directly(
        self, tmp_path: Path, clock: Clock, target: Target
    ) -> None:
        way = Way(tmp_path, clock, NO_PROXY="0.0.0.0/32")
        async with EmbeddedProxy(unix=way.path) as proxy, way as transport:
            await get(transport, target.url)
            await get(transport, target.url.replace("0.0.0.0", "127.0.0.1"))
        assert (proxy.connections, target.requests) == (0, 2)


class TestAProxyOnTcp:
    async def test_with_credentials(self, tmp_path: Path, target: Target) -> None:
        authority = ThrowawayCA()
        authority.write(tmp_path / "ca.pem")
        async with Target(authority) as secure, EmbeddedProxy(credentials=("ada", "se:cret ü")) as proxy:
            site = Site(Origin.of(secure.url), ca=(str(tmp_path / "ca.pem"),))
            url = proxy.url.replace("//", "//ada:se%3Acret%20%C3%BC@")
            transport = AiohttpTransport(user_agent="lading/test", router=Router(ProxyRules.of(url, {})))
            assert await get(transport, target.url) == b"content "
            assert await get(transport, secure.url, site) == b"content "
            await transport.aclose()
        assert [one.status for one in proxy.requests] == [None, 200]

    async def test_is_never_bypassed(self, target: Target, caplog: pytest.LogCaptureFixture) -> None:
        async with EmbeddedProxy() as proxy:
            pass
        env = {"HTTP_PROXY": proxy.url.replace("//", "//ada:hunter2@")}
        transport = AiohttpTransport(user_agent="lading/test", router=Router(ProxyRules.of("auto", env)))
        with pytest.raises(ProxyFailed, match="HTTP_PROXY") as caught:
            await get(transport, target.url)
        await transport.aclose()
        assert not is_proxy_socket_error(caught.value)
        assert not caught.value.was_sent
        assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caplog.text}"
        assert target.requests == 0

    async def test_nor_is_a_socket_that_was_asked_for(self, tmp_path: Path, target: Target) -> None:
        rules = ProxyRules.of(f"unix://{tmp_path}/proxy.sock", {})
        transport = AiohttpTransport(user_agent="lading/test", router=Router(rules))
        with pytest.raises(ProxyFailed) as caught:
            await get(transport, target.url)
        await transport.aclose()
        assert is_proxy_socket_error(caught.value)
        assert target.requests == 0

    async def test_that_speaks_tls_isnt_insecure_because_the_target_is(self, target: Target) -> None:
        proxy_tls = ThrowawayCA()
        async with Target(proxy_tls) as not_trusted:
            rules = ProxyRules.of(not_trusted.url.replace("0.0.0.0", "127.0.0.1"), {})
            transport = AiohttpTransport(user_agent="lading/test", router=Router(rules))
            with pytest.raises(TlsFailed):
                await get(transport, target.url, Site(Origin.of(target.url), insecure=True))
            await transport.aclose()
        assert (target.requests, not_trusted.requests) == (0, 0)


class TestAiohttp:
    """What is overridden is private: it has to be what this is built for."""

    @pytest.mark.parametrize("name", ["_create_direct_connection", "_create_proxy_connection"])
    def test_the_methods_that_are_overridden_take_what_they_took(self, name: str) -> None:
        theirs = inspect.signature(getattr(aiohttp.TCPConnector, name))
        ours = inspect.signature(getattr(Connector, name))
        assert list(theirs.parameters) == list(ours.parameters)
        assert inspect.iscoroutinefunction(getattr(aiohttp.TCPConnector, name))

    def test_the_hop_to_a_proxy_is_made_by_the_method_that_is_overridden(self) -> None:
        source = inspect.getsource(aiohttp.TCPConnector._create_proxy_connection)
        assert "self._create_direct_connection(" in source
        assert "client_error=ClientProxyConnectionError" in source

    async def test_the_context_of_a_hop_is_the_requests(self) -> None:
        request = aiohttp.ClientRequest("GET", URL("https://h/"), loop=asyncio.get_running_loop())
        assert request.ssl is True
        request._ssl = False
        assert request.ssl is False
