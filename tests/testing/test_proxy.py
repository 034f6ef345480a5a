"""The proxy: what it passes on, and how it fails."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from lading.testing import EmbeddedProxy, EmbeddedRegistry, ThrowawayCA

REPOSITORY = "acme/triage"
LARGE = os.urandom(1_500_000)


@pytest.fixture
async def proxy() -> AsyncIterator[EmbeddedProxy]:
    async with EmbeddedProxy() as proxy:
        yield proxy


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p") / "proxy.sock"  # short: a socket's path has 107 bytes


@pytest.fixture
def ca() -> ThrowawayCA:
    return ThrowawayCA()


@pytest.fixture
async def secure(ca: ThrowawayCA) -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry(tls=ca) as registry:
        yield registry


@contextlib.asynccontextmanager
async def dialled(proxy: EmbeddedProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the proxy."""
    try:
        reader, writer = await asyncio.open_unix_connection(proxy.path)
    except RuntimeError:
        host, _, port = proxy.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def raw(proxy: EmbeddedProxy, request: str) -> str:
    """Send bytes and give everything that comes back."""
    async with dialled(proxy) as (reader, writer):
        writer.write(request.encode("latin-1"))
        return (await reader.read()).decode("latin-1")


async def arrival(proxy: EmbeddedProxy) -> None:
    """Wait until the proxy has seen a request."""
    while not proxy.requests:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)


async def status_of(proxy: EmbeddedProxy, request: str) -> str:
    return (await raw(proxy, request)).partition("\r\n")[0]


# What it passes on.


async def test_requests_in_absolute_form(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    digest = registry.add_blob(REPOSITORY, LARGE)
    url = f"{registry.url}/v2/{REPOSITORY}/blobs/{digest}?a=%2F"
    async with aiohttp.ClientSession() as http:
        for method, body in (("GET", LARGE), ("HEAD", b"")):
            async with http.request(method, URL(url, encoded=True), proxy=proxy.url) as response:
                assert (response.status, await response.read()) == (200, body)
    registry.assert_requests("GET blob", "HEAD blob")
    assert registry.requests[0].query == "a=%2F"
    assert [(one.method, one.target, one.is_tunnel, one.status) for one in proxy.requests] == [
        ("GET", url, False, None),
        ("HEAD", url, False, None),
    ]


async def test_a_body_is_passed_on(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(LARGE), 100_000):
            yield LARGE[start : start + 100_000]

    digest = registry.add_blob("acme/other", LARGE)
    async with aiohttp.ClientSession() as http:
        for body in (io.BytesIO(LARGE), pieces()):
            url = f"{registry.url}/v2/{REPOSITORY}/blobs/uploads/?digest={digest}"
            async with http.post(url, data=body, proxy=proxy.url, expect100=True) as response:
                assert response.status == 201
            registry.remove_blob(REPOSITORY, digest)


async def test_what_concerns_the_proxy_stays_with_it(registry: EmbeddedRegistry) -> None:
    async with EmbeddedProxy(credentials=("me", "pass")) as proxy:
        given = base64.b64encode(b"me:pass").decode()
        head = f"GET {registry.url} HTTP/1.1\r\nHost: x\r\nX-Kept: 1\r\nConnection: keep-alive\r\n"
        answer = await raw(proxy, f"{head}proxy-authorization: Basic {given}\r\n\r\n")
        assert answer.startswith("HTTP/1.1 404 ")
        assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {given}"
        assert given not in repr(proxy.requests)
    (request,) = registry.requests
    assert (request.path, request.headers["X-Kept"], request.headers["Connection"]) == ("/", "1", "close")
    assert registry.credentials == []


async def test_tunnels(proxy: EmbeddedProxy, secure: EmbeddedRegistry, ca: ThrowawayCA) -> None:
    digest = secure.add_blob(REPOSITORY, LARGE)
    connector = aiohttp.TCPConnector(ssl=ca.client_context())
    async with aiohttp.ClientSession(connector=connector) as http:
        for _ in range(2):
            async with http.get(f"{secure.url}/v2/{REPOSITORY}/blobs/{digest}", proxy=proxy.url) as response:
                assert await response.read() == LARGE
    (request,) = proxy.requests
    assert (request.method, request.target, request.is_tunnel, request.status) == ("CONNECT", secure.host, True, 200)
    assert (proxy.connections, secure.connections, secure.count()) == (1, 1, 2)


async def test_a_unix_socket(path: Path, registry: EmbeddedRegistry) -> None:
    async with EmbeddedProxy(unix=path) as proxy:
        assert proxy.path == str(path)
        with pytest.raises(RuntimeError):
            _ = proxy.url
        answer = await status_of(proxy, f"GET {registry.url}/v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer == "HTTP/1.1 200 OK"
        async with dialled(proxy) as (reader, writer):
            writer.write(f"CONNECT {registry.host} HTTP/1.1\r\nHost: {registry.host}\r\n\r\n".encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
            for _ in range(2):
                writer.write(b"HEAD /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    assert not path.exists()
    assert [request.connection for request in registry.requests] == [1, 2, 2]


async def test_a_tunnel_passes_on_the_end_of_one_direction(proxy: EmbeddedProxy) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<" + await reader.read() + b">")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_at_the_end, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    async with dialled(proxy) as (reader, writer):
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode() + b"to ")
        writer.write(b"the end")
        writer.write_eof()
        assert (await reader.read()).endswith(b"\r\n\r\n<to the end>")
    server.close()


async def test_a_tunnel_breaks_with_its_client(proxy: EmbeddedProxy, caplog: pytest.LogCaptureFixture) -> None:
    broken = asyncio.get_running_loop().create_future()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broken.set_result(await reader.read())
        except OSError as error:
            broken.set_result(error)
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    async with dialled(proxy) as (reader, writer):
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(await broken, ConnectionResetError)
    server.close()
    gc.collect()
    assert caplog.records == []  # a task that failed would have logged it by now


async def test_a_tunnel_ends_with_the_target(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    async with dialled(proxy) as (reader, writer):
        writer.write(f"CONNECT {registry.host} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await registry.stop()
        assert await reader.read() == b""


# Who may use it, and for what.


@pytest.mark.parametrize("target", ["CONNECT {host}", "GET {url}/v2/"])
@pytest.mark.parametrize("given", ["", "Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n", "Authorization: {right}\r\n"])
async def test_credentials_are_asked_for(registry: EmbeddedRegistry, target: str, given: str) -> None:
    right = "Basic " + base64.b64encode(b"me:pass:word").decode()
    request = target.format(host=registry.host, url=registry.url) + " HTTP/1.1\r\n"
    async with EmbeddedProxy(credentials=("me", "pass:word")) as proxy:
        answer = await raw(proxy, request + given.format(right=right) + "\r\n")
        assert answer.startswith("HTTP/1.1 407 Proxy Authentication Required\r\n")
        assert '\r\nProxy-Authenticate: Basic realm="lading"\r\n' in answer
        assert proxy.requests[0].status == 407
        assert registry.connections == 0
        async with dialled(proxy) as (reader, writer):
            writer.write(f"{request}Proxy-Authorization: {right}\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        "GET /v2/ HTTP/1.1",
        "GET https://127.0.0.1/v2/ HTTP/1.1",
        "GET http://me@127.0.0.1/v2/ HTTP/1.1",
        "GET http://127.0.0.1:65536/ HTTP/1.1",
        "GET http:///v2/ HTTP/1.1",
        "CONNECT 127.0.0.1 HTTP/1.1",
        "CONNECT http://127.0.0.1:1/ HTTP/1.1",
        "CONNECT ::1:80 HTTP/1.1",
        "GET  http://127.0.0.1/ HTTP/1.1",
        "GET http://127.0.0.1/ HTTP/2",
        "GET http://127.0.0.1/",
        "G(T http://127.0.0.1/ HTTP/1.1",
        "GET http://127.0.0.1/ HTTP/1.1\r\nfolded\r\n line: x",
        "GET http://127.0.0.1/ HTTP/1.1\r\nspace : x",
        "",
    ],
)
async def test_what_is_no_request_is_refused(proxy: EmbeddedProxy, head: str) -> None:
    assert await status_of(proxy, head + "\r\n\r\n") == "HTTP/1.1 400 Bad Request"


async def test_a_head_is_bounded(proxy: EmbeddedProxy) -> None:
    answer = await status_of(proxy, "GET http://127.0.0.1/ HTTP/1.1\r\nx: " + "x" * 70_000)
    assert answer.startswith("HTTP/1.1 431 ")


@pytest.mark.parametrize("request_line", ["CONNECT {host}", "GET http://{host}/v2/"])
async def test_a_target_that_refuses_is_a_bad_gateway(
    proxy: EmbeddedProxy, registry: EmbeddedRegistry, request_line: str
) -> None:
    await registry.stop()
    head = request_line.format(host=registry.host) + " HTTP/1.1\r\n\r\n"
    assert await status_of(proxy, head) == "HTTP/1.1 502 Bad Gateway"
    assert [one.status for one in proxy.requests] == [502]


# How it fails.


@pytest.mark.parametrize("fault", [502, 407, 503, 599])
async def test_it_answers_with_what_it_is_told(proxy: EmbeddedProxy, registry: EmbeddedRegistry, fault: int) -> None:
    proxy.fault = fault
    request = f"CONNECT {registry.host} HTTP/1.1\r\n\r\n"
    answer = await raw(proxy, request)
    assert answer.startswith(f"HTTP/1.1 {fault} ")
    assert ("Proxy-Authenticate" in answer) == (fault == 407)
    proxy.fault = None
    async with dialled(proxy) as (reader, writer):
        writer.write(request.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    assert [one.status for one in proxy.requests] == [fault, 200]


async def test_it_aborts(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    proxy.fault = "abort"
    with pytest.raises(ConnectionResetError):
        await raw(proxy, f"CONNECT {registry.host} HTTP/1.1\r\n\r\n")
    assert [one.status for one in proxy.requests] == [None]


async def test_it_hangs_until_it_is_killed(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    proxy.fault = "hang"
    asking = asyncio.create_task(raw(proxy, f"CONNECT {registry.host} HTTP/1.1\r\n\r\n"))
    await arrival(proxy)
    assert not asking.done()
    await proxy.kill()
    with pytest.raises(ConnectionResetError):
        await asking


@pytest.mark.parametrize("unlink", [False, True])
async def test_it_refuses_and_lets_open_tunnels_go_on(path: Path, registry: EmbeddedRegistry, unlink: bool) -> None:
    async with EmbeddedProxy(unix=path) as proxy, dialled(proxy) as (reader, writer):
        writer.write(f"CONNECT {registry.host} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await proxy.refuse(unlink=unlink)
        assert path.exists() is not unlink
        with pytest.raises(FileNotFoundError if unlink else ConnectionRefusedError):
            await asyncio.open_unix_connection(path)
        writer.write(b"HEAD /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("unlink", [False, True])
async def test_it_is_killed_and_comes_back(path: Path, registry: EmbeddedRegistry, unlink: bool) -> None:
    request = f"GET {registry.url}/v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
    async with EmbeddedProxy(unix=path) as proxy, dialled(proxy) as (reader, writer):
        writer.write(f"CONNECT {registry.host} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await proxy.kill(unlink=unlink)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        with pytest.raises(FileNotFoundError if unlink else ConnectionRefusedError):
            await asyncio.open_unix_connection(path)
        await proxy.start()
        assert await status_of(proxy, request) == "HTTP/1.1 200 OK"
    assert not path.exists()


@pytest.mark.parametrize("turns", range(8))
async def test_no_connection_survives_however_far_it_got(path: Path, turns: int) -> None:
    async with EmbeddedProxy(unix=path) as proxy:
        proxy.fault = 502
        async with dialled(proxy) as (reader, writer):
            for _ in range(turns):
                await asyncio.sleep(0)
            await proxy.kill()
            with contextlib.suppress(ConnectionError):
                writer.write(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
                assert await asyncio.wait_for(reader.read(), 10) == b""
        assert proxy.requests == []


async def test_on_tcp_it_comes_back_at_the_same_port(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    url = proxy.url
    await proxy.kill()
    with pytest.raises(ConnectionRefusedError):
        await raw(proxy, "")
    await proxy.start()
    assert proxy.url == url
    assert await status_of(proxy, f"GET {registry.url}/v2/ HTTP/1.1\r\nHost: x\r\n\r\n") == "HTTP/1.1 200 OK"


async def test_it_takes_nobodys_place(path: Path) -> None:
    async with EmbeddedProxy(unix=path) as proxy:
        with pytest.raises(OSError, match="in use"):
            await EmbeddedProxy(unix=path).start()
        with pytest.raises(RuntimeError):
            await proxy.start()
        assert await status_of(proxy, "x\r\n\r\n") == "HTTP/1.1 400 Bad Request"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await EmbeddedProxy(unix=path).start()
    assert path.read_text() == "precious"


async def test_what_it_has_seen_can_be_forgotten(proxy: EmbeddedProxy, registry: EmbeddedRegistry) -> None:
    await raw(proxy, f"GET {registry.url}/v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (len(proxy.requests), proxy.connections) == (1, 1)
    proxy.clear_requests()
    assert (proxy.requests, proxy.connections) == ([], 0)


def test_it_leaves_nothing_behind_in_a_loop_of_its_own() -> None:
    async def run() -> None:
        async with EmbeddedRegistry() as registry, EmbeddedProxy() as proxy:
            proxy.fault = "hang"
            async with dialled(proxy) as (_, writer):
                writer.write(f"CONNECT {registry.host} HTTP/1.1\r\n\r\n".encode())
                await arrival(proxy)
                proxy.fault = None
                async with dialled(proxy) as (reader, second):
                    second.write(f"CONNECT {registry.host} HTTP/1.1\r\n\r\n".encode())
                    await reader.readuntil(b"\r\n\r\n")
                    await proxy.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_there_is_no_url_before_the_first_start() -> None:
    with pytest.raises(RuntimeError):
        _ = EmbeddedProxy().url
    with pytest.raises(RuntimeError):
        _ = EmbeddedProxy().path
