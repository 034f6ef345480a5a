"""The network itself, against real servers on loopback: what is sent, what comes back, and how each failure looks."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
import trustme
from aiohttp import web

from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    InvalidHosts,
    LadingError,
    ProtocolError,
    TimedOut,
    TlsFailed,
    TransportError,
)
from lading.events import ConnectionStep, Event, RequestSent
from lading.http.limits import Pauses
from lading.http.session import AiohttpTransport
from lading.http.timeouts import Timeouts
from lading.http.transport import Origin, Request, Site
from lading.testing.tls import ThrowawayCA

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A web server that counts connections and remembers the head of each request."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.heads: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.peers: set[object] = set()
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        self.heads.append((request.method, request.raw_path))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(await request.content.read())
        return await self._handler(request)


@asynccontextmanager
async def serve(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(handler)
    runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"{'http' if context is None else 'https'}://{host}:{port}"
    yield server
    await runner.cleanup()


@asynccontextmanager
async def serve_raw(talk: Talk, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A TCP server that talks as it is told, and then ends the connection."""
    talks: set[asyncio.Task[object]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    yield f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
    server.close()
    for task in talks:
        task.cancel()
    if talks:
        await asyncio.wait(talks)
    await server.wait_closed()


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 30)


def answers(raw: bytes) -> AbstractAsyncContextManager[str]:
    """A server that reads the head of a request, answers with ``raw`` and ends the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()

    return serve_raw(talk)


async def ok(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"content")


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(user_agent="lading/test")
    yield transport
    await transport.aclose()


async def read(transport: AiohttpTransport, url: str, method: str = "GET") -> bytes:
    async with await transport.send(Request(method, url)) as response:
        return await response.read(1024 * 1024)


class TestWhatIsSent:
    async def test_the_headers_of_every_request(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server:
            await read(transport, server.url + "/")
        sent = server.headers[0]
        assert sent.pop("host") == server.url.removeprefix("http://")
        assert sent == {"user-agent": "lading/test", "accept-encoding": "identity", "accept": "*/*"}

    async def test_the_headers_of_the_request(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server:
            request = Request("GET", server.url, {"Accept": "a/b", "Authorization": "Bearer x"})
            async with await transport.send(request):
                pass
        assert (server.headers[0]["accept"], server.headers[0]["authorization"]) == ("a/b", "Bearer x")

    async def test_nothing_of_a_request_is_in_the_next(self, transport: AiohttpTransport) -> None:
        async def with_cookie(request: web.BaseRequest) -> web.StreamResponse:
            response = web.Response()
            response.set_cookie("sid", "hunter2")
            return response

        async with serve(with_cookie) as server:
            async with await transport.send(Request("GET", server.url, {"Authorization": "Bearer x"})):
                pass
            await read(transport, server.url)
        assert "cookie" not in server.headers[1]
        assert "authorization" not in server.headers[1]

    @pytest.mark.parametrize(
        "target",
        [
            "/v2/a%2Fb/%7Euser/%2e%2e/x",
            "/x?sig=a%2Bb+c%3D%3D&k=~&empty=&&last",
            "/x?a=%C3%A9&b=[1]&c='\"|",
            "/a//b/./c",
            "/x?",
        ],
    )
    async def test_the_url_exactly_as_it_was_given(self, transport: AiohttpTransport, target: str) -> None:
        async with serve_raw(echo_request_line) as url:
            assert await read(transport, url + target) == f"GET {target.rstrip('?')} HTTP/1.1".encode()

    async def test_a_body_with_its_length_and_type(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server:
            request = Request("PUT", server.url, {"Content-Type": "a/b", "Content-Length": "3"}, b"abc")
            async with await transport.send(request):
                pass
        assert (server.heads, server.bodies) == ([("PUT", "/")], [b"abc"])
        assert (server.headers[0]["content-type"], server.headers[0]["content-length"]) == ("a/b", "3")

    @pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 3 * 1024 * 1024])
    async def test_a_large_body(self, transport: AiohttpTransport, size: int) -> None:
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        async with serve(ok) as server:
            for _ in range(2):
                request = Request("PUT", server.url, {"Content-Type": "a/b", "Content-Length": str(size)}, body)
                async with await transport.send(request):
                    pass
        assert server.bodies == [body, body]
        assert {head["content-length"] for head in server.headers} == {str(size)}
        assert {head["content-type"] for head in server.headers} == {"a/b"}
        assert "transfer-encoding" not in server.headers[0]

    async def test_a_post_without_a_body(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server, await transport.send(Request("POST", server.url, {"Content-Length": "0"})):
            pass
        assert (server.bodies, server.headers[0]["content-length"]) == ([b""], "0")

    async def test_no_proxy_and_no_credentials_from_the_environment(
        self, transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        async with serve(ok) as server:
            assert await read(transport, server.url) == b"content"


async def echo_request_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    line = head.partition(b"\r\n")[0]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))
    await writer.drain()


class TestWhatComesBack:
    @pytest.mark.parametrize("status", [200, 206, 301, 307, 401, 404, 429, 500])
    async def test_any_status_is_an_answer(self, transport: AiohttpTransport, status: int) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": "/elsewhere"}, body=b"x")

        async with serve(answer) as server, await transport.send(Request("GET", server.url + "/x")) as response:
            assert (response.status, response.url) == (status, server.url + "/x")
            assert await response.read(1) == b"x"
        assert len(server.heads) == 1

    async def test_each_line_of_a_header(self, transport: AiohttpTransport) -> None:
        head = b"HTTP/1.1 200 OK\r\nLink: <1>\r\nLINK: <2>\r\nContent-Length: 0\r\n\r\n"
        async with answers(head) as url, await transport.send(Request("GET", url)) as response:
            assert response.headers.get_all("Link") == ["<1>", "<2>"]

    async def test_a_body_in_pieces(self, transport: AiohttpTransport) -> None:
        body = bytes(range(256)) * 8192

        async def large(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=body)

        async with serve(large) as server, await transport.send(Request("GET", server.url)) as response:
            pieces = [chunk async for chunk in response.chunks()]
        assert b"".join(pieces) == body
        assert all(pieces)

    async def test_a_head_without_a_body(self, transport: AiohttpTransport) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Encoding: gzip\r\n\r\n"
        async with answers(head) as url, await transport.send(Request("HEAD", url)) as response:
            assert response.headers.get("Content-Length") == "1000"
            assert await response.read(0) == b""

    @pytest.mark.parametrize("size", [0, 9, 10])
    async def test_a_body_up_to_the_limit(self, transport: AiohttpTransport, size: int) -> None:
        async def body(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=b"x" * size)

        async with serve(body) as server, await transport.send(Request("GET", server.url)) as response:
            assert await response.read(10) == b"x" * size

    async def test_a_body_above_the_limit_is_refused_before_its_end(self, transport: AiohttpTransport) -> None:
        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

        async with serve_raw(endless) as url, await transport.send(Request("GET", url)) as response:
            with pytest.raises(ProtocolError, match="more than 1000 bytes"):
                await response.read(1000)

    @pytest.mark.parametrize(
        "lines",
        [
            b"Content-Encoding: gzip\r\n",
            b"Content-Encoding: deflate\r\n",
            b"Content-Encoding: br\r\n",
            b"Content-Encoding: zstd\r\n",
            b"Content-Encoding: unknown\r\n",
            b"Content-Encoding: identity, gzip\r\n",
            b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        ],
    )
    async def test_an_encoded_body_is_refused(self, transport: AiohttpTransport, lines: bytes) -> None:
        async with answers(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 1\r\n\r\nx") as url:
            with pytest.raises(ProtocolError, match="encoded as"):
                await transport.send(Request("GET", url))

    async def test_identity_is_no_encoding(self, transport: AiohttpTransport) -> None:
        async with answers(b"HTTP/1.1 200 OK\r\nContent-Encoding: Identity\r\nContent-Length: 1\r\n\r\nx") as url:
            assert await read(transport, url) == b"x"

    async def test_the_encoded_body_of_a_refusal_isnt_worth_another_error(self, transport: AiohttpTransport) -> None:
        raw = b"HTTP/1.1 404 Not Found\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
        async with answers(raw) as url, await transport.send(Request("GET", url)) as response:
            assert (response.status, await response.read(10)) == (404, b"x")

    async def test_a_body_that_ends_with_its_connection_ends_there(self, transport: AiohttpTransport) -> None:
        async with answers(b"HTTP/1.1 200 OK\r\n\r\npart") as url:
            assert await read(transport, url) == b"part"


HALF_A_BODY = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npart\n\r\n",
    "in the middle of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npart",
}

NOT_HTTP = {
    "text": b"220 smtp.example ESMTP\r\n\r\n",
    "zeros": bytes(1000),
    "a bad status": b"HTTP/1.1 abc OK\r\n\r\n",
    "a bad header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "a length in Arabic digits": "HTTP/1.1 200 OK\r\nContent-Length: ١\r\n\r\nx".encode(),
    "a huge header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
}


class TestFailures:
    async def test_a_refused_connection(self, transport: AiohttpTransport) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/v2/?token=hunter2"
            with pytest.raises(ConnectFailed, match=r"GET http://127\.0\.0\.1") as caught:
                await transport.send(Request("GET", url))
        assert "hunter2" not in f"{caught.value} {caught.value.url}"

    async def test_port_zero(self, transport: AiohttpTransport) -> None:
        with pytest.raises(TransportError):
            await transport.send(Request("GET", "http://127.0.0.1:0/"))

    @pytest.mark.parametrize("url", ["http://h:99999/", "ftp://h/", "//h/", "http://u:p@h/", "http://[::1/", ""])
    async def test_a_url_that_cant_be_asked(self, transport: AiohttpTransport, url: str) -> None:
        with pytest.raises(ProtocolError):
            await transport.send(Request("GET", url))

    @pytest.mark.parametrize("url", ["http://a..b/", f"http://{'a' * 64}.invalid/", "http://xn--/", "http://.invalid/"])
    async def test_a_host_that_cant_be_a_name(self, transport: AiohttpTransport, url: str) -> None:
        with pytest.raises((ProtocolError, ConnectFailed)):
            await transport.send(Request("GET", url))

    @pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\n": "a"}, {"X": "a\0"}])
    async def test_a_header_that_would_inject_another(
        self, transport: AiohttpTransport, headers: dict[str, str]
    ) -> None:
        async with serve(ok) as server:
            with pytest.raises(ProtocolError):
                await transport.send(Request("GET", server.url, headers))
        assert server.heads == []

    async def test_an_unknown_host(self, transport: AiohttpTransport) -> None:
        try:
            async with asyncio.timeout(10):
                with pytest.raises(ConnectFailed, match=r"nowhere\.invalid"):
                    await transport.send(Request("GET", "http://nowhere.invalid/"))
        except TimeoutError:
            pytest.skip("the resolver here doesn't answer for names that don't exist")

    async def test_a_connection_that_ends_before_the_head(self, transport: AiohttpTransport) -> None:
        async with answers(b"") as url:
            with pytest.raises(ConnectFailed):
                await transport.send(Request("GET", url))

    async def test_a_connection_that_is_reset_before_the_head(self, transport: AiohttpTransport) -> None:
        async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            no_linger = b"\1\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            writer.transport.abort()

        async with serve_raw(reset) as url:
            with pytest.raises(ConnectFailed):
                await transport.send(Request("GET", url))

    async def test_a_head_that_is_cut(self, transport: AiohttpTransport) -> None:
        async with answers(b"HTTP/1.1 200 OK\r\nContent-Le") as url:
            with pytest.raises(ConnectFailed):
                await transport.send(Request("GET", url))

    @pytest.mark.parametrize("raw", NOT_HTTP.values(), ids=NOT_HTTP.keys())
    async def test_an_answer_that_isnt_http(self, transport: AiohttpTransport, raw: bytes) -> None:
        async with answers(raw) as url:
            with pytest.raises(ProtocolError, match="isn't HTTP") as caught:
                await transport.send(Request("GET", url))
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("raw", HALF_A_BODY.values(), ids=HALF_A_BODY.keys())
    async def test_a_body_that_is_cut(self, transport: AiohttpTransport, raw: bytes) -> None:
        async with answers(raw) as url, await transport.send(Request("GET", url)) as response:
            with pytest.raises(BodyInterrupted, match="lost in the body"):
                await response.read(1000)

    async def test_a_chunk_that_isnt_one(self, transport: AiohttpTransport) -> None:
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n"
        async with answers(raw) as url:
            with pytest.raises((BodyInterrupted, ProtocolError)):
                await read(transport, url)

    async def test_tls_with_a_server_that_has_none(self, transport: AiohttpTransport) -> None:
        async with serve_raw(plain) as url:
            with pytest.raises(TlsFailed, match="TLS failed"):
                await transport.send(Request("GET", url.replace("http:", "https:")))

    async def test_tls_with_an_authority_that_nobody_knows(self, transport: AiohttpTransport) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        async with serve_raw(silent, context) as url:
            with pytest.raises(TlsFailed, match=r"(?i)certificate.*trusted here\?"):
                await transport.send(Request("GET", url))

    @pytest.mark.parametrize(
        ("name", "is_trusted", "said", "hint"),
        [
            ("127.0.0.1", False, r"unable to get local issuer certificate|self-signed certificate.*", "ca.crt"),
            ("other.example", True, r"IP address mismatch, certificate is not valid for '127\.0\.0\.1'", "known by"),
            ("127.0.0.9", True, r"IP address mismatch, certificate is not valid for '127\.0\.0\.1'", "known by"),
            ("", True, "wrong version number|record layer failure|http request", "plain http"),
        ],
    )
    async def test_what_is_wrong_with_tls_is_said_in_a_few_words(
        self, transport: AiohttpTransport, tmp_path: Path, name: str, is_trusted: bool, said: str, hint: str
    ) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if name:
            authority.issue_cert(name).configure_cert(context)
        async with serve_raw(silent if name else plain, context if name else None) as served:
            url = served.replace("http:", "https:")
            site = Site(Origin.of(url), ca=(str(tmp_path / "ca.pem"),) if is_trusted else ())
            with pytest.raises(TlsFailed) as caught:
                await transport.send(Request("GET", url, site=site))
        assert re.fullmatch(rf"GET {re.escape(url)}: TLS failed: ({said})", caught.value.message)
        assert hint in caught.value.hint
        if hint == "known by":
            assert "ca.crt" not in caught.value.hint

    async def test_the_cause_is_kept(self, transport: AiohttpTransport) -> None:
        async with answers(b"") as url:
            with pytest.raises(ConnectFailed) as caught:
                await transport.send(Request("GET", url))
        assert isinstance(caught.value.__cause__, aiohttp.ClientError)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await reader.read()


@asynccontextmanager
async def impatient(**seconds: float) -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(user_agent="lading/test", timeouts=Timeouts(**seconds))
    yield transport
    await transport.aclose()


class TestTimeouts:
    async def test_no_connection(self) -> None:
        # A backlog that is full lets nobody in: the handshake doesn't end.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            port = listener.getsockname()[1]
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            async with impatient(connect=0.1) as transport:
                with pytest.raises(TimedOut, match="no connection in time") as caught:
                    await transport.send(Request("GET", f"http://127.0.0.1:{port}/"))
            for one in waiting:
                one.close()
        assert not caught.value.was_sent

    async def test_silence_before_the_head(self) -> None:
        async with serve_raw(silent) as url, impatient(first_byte=0.1) as transport:
            with pytest.raises(TimedOut, match="no answer in time") as caught:
                await transport.send(Request("GET", url))
        assert caught.value.was_sent

    async def test_a_head_that_comes_byte_by_byte(self) -> None:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X: y\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)

        async with serve_raw(drip) as url, impatient(first_byte=0.2, connect=0.2) as transport:
            with pytest.raises(TimedOut, match="no answer in time"):
                await transport.send(Request("GET", url))

    async def test_silence_in_the_body(self) -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HALF_A_BODY["with a length"])
            await silent(reader, writer)

        async with (
            serve_raw(stall) as url,
            impatient(stall=0.1) as transport,
            await transport.send(Request("GET", url)) as response,
        ):
            with pytest.raises(TimedOut):
                await response.read(1000)

    async def test_the_thought_before_an_answer_may_be_longer_than_a_silence_in_it(self) -> None:
        async def think(request: web.BaseRequest) -> web.StreamResponse:
            await asyncio.sleep(0.3)
            return web.Response(body=b"content")

        async with serve(think) as server, impatient(stall=0.1, first_byte=10) as transport:
            assert await read(transport, server.url) == b"content"

    async def test_a_body_that_drips(self) -> None:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

        async with (
            serve_raw(drip) as url,
            impatient(stall=10, minimum_rate=1000, rate_window=0.2) as transport,
            await transport.send(Request("GET", url)) as response,
        ):
            with pytest.raises(TimedOut, match="bytes a second came"):
                await response.read(1000)

    async def test_a_slow_reader_isnt_a_slow_server(self) -> None:
        body = bytes(1024 * 1024)

        async def send(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=body)

        received = 0
        async with (
            serve(send) as server,
            impatient(minimum_rate=1e9, rate_window=0.2, stall=0.1) as transport,
            await transport.send(Request("GET", server.url)) as response,
        ):
            async for chunk in response.chunks():
                received += len(chunk)
                await asyncio.sleep(0.15)
        assert received == len(body)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan")])
    @pytest.mark.parametrize("name", ["connect", "first_byte", "stall", "rate_window"])
    def test_what_isnt_a_time(self, name: str, seconds: float) -> None:
        with pytest.raises(ValueError, match=name):
            Timeouts(**{name: seconds})

    async def test_never(self) -> None:
        forever = float("inf")
        async with (
            serve(ok) as server,
            impatient(
                connect=forever, first_byte=forever, stall=forever, minimum_rate=0, rate_window=forever
            ) as transport,
        ):
            assert await read(transport, server.url) == b"content"

    @pytest.mark.parametrize("stage", ["head", "body"])
    @pytest.mark.parametrize("deadline", [asyncio.timeout, anyio.fail_after], ids=["asyncio", "anyio"])
    async def test_the_callers_own_deadline(
        self, stage: str, deadline: Callable[[float], AbstractAsyncContextManager[object]]
    ) -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if stage == "body":
                writer.write(HALF_A_BODY["with a length"])
            await silent(reader, writer)

        before = len(asyncio.all_tasks())
        async with serve_raw(stall) as url, impatient() as transport:

            async def impatiently() -> None:
                scope = deadline(0.1)
                if isinstance(scope, AbstractContextManager):
                    with scope:
                        await read(transport, url)
                else:
                    async with scope:
                        await read(transport, url)

            with pytest.raises(TimeoutError) as caught:
                await impatiently()
            assert not isinstance(caught.value, LadingError)
            assert not transport._connector._acquired
            assert transport._slots.value == 100
        assert len(asyncio.all_tasks()) == before


class TestPauses:
    async def test_nothing_is_sent_to_an_origin_that_is_paused(self) -> None:
        now, slept = 0.0, []

        async def sleep(seconds: float) -> None:
            nonlocal now
            slept.append(seconds)
            now += seconds

        pauses = Pauses(lambda: now, sleep)
        transport = AiohttpTransport(user_agent="lading/test", pauses=pauses)
        async with serve(ok) as server, serve(ok) as other:
            pauses.pause(Origin.of(server.url), 7)
            await read(transport, other.url)
            assert slept == []
            await read(transport, server.url)
        await transport.aclose()
        assert slept == [7]

    async def test_a_pause_that_begins_while_a_request_waits_for_its_turn_holds_it_back(self) -> None:
        pauses = Pauses()
        transport = AiohttpTransport(user_agent="lading/test", pauses=pauses)
        async with serve(ok) as server:
            held = [await transport.send(Request("GET", server.url)) for _ in range(100)]
            waiting = asyncio.create_task(read(transport, server.url))
            await asyncio.sleep(0)
            pauses.pause(Origin.of(server.url), 0.3)
            for response in held:
                async with response:
                    pass
            began = asyncio.get_running_loop().time()
            await waiting
            assert asyncio.get_running_loop().time() - began > 0.25
        await transport.aclose()


class TestTls:
    @pytest.fixture
    async def secure(self, tmp_path: Path) -> AsyncIterator[Server]:
        authority, client_authority = ThrowawayCA(), trustme.CA()
        authority.write(tmp_path / "ca.pem")
        issued = client_authority.issue_cert("ada@example.com")
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "client.cert"))
        issued.private_key_pem.write_to_path(str(tmp_path / "client.key"))
        issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
        context = authority.server_context()
        context.verify_mode = ssl.CERT_OPTIONAL
        client_authority.configure_trust(context)

        async def who(request: web.BaseRequest) -> web.StreamResponse:
            assert request.transport is not None
            return web.Response(text=str(bool(request.transport.get_extra_info("peercert"))))

        async with serve(who, context) as server:
            yield server

    async def ask(self, transport: AiohttpTransport, server: Server, site: Site) -> bytes:
        async with await transport.send(Request("GET", server.url, site=site)) as response:
            return await response.read(100)

    async def test_an_authority_of_the_sites_own(
        self, transport: AiohttpTransport, secure: Server, tmp_path: Path
    ) -> None:
        origin, ca = Origin.of(secure.url), (str(tmp_path / "ca.pem"),)
        assert await self.ask(transport, secure, Site(origin, ca=ca)) == b"False"
        elsewhere = Origin("https", "registry.example", 443)
        assert await self.ask(transport, secure, Site(elsewhere, ca=ca)) == b"False", "its token server, perhaps"

    @pytest.mark.parametrize("files", [("client.cert", "client.key"), ("both.pem", "")])
    async def test_a_client_certificate_goes_to_the_sites_origin_only(
        self, transport: AiohttpTransport, secure: Server, tmp_path: Path, files: tuple[str, str]
    ) -> None:
        ca = (str(tmp_path / "ca.pem"),)
        certificate, key = files
        pairs = ((str(tmp_path / certificate), str(tmp_path / key) if key else ""),)
        assert await self.ask(transport, secure, Site(Origin.of(secure.url), ca, pairs)) == b"True"
        elsewhere = Origin("https", "registry.example", 443)
        assert await self.ask(transport, secure, Site(elsewhere, ca, pairs)) == b"False"

    async def test_insecure_holds_at_the_sites_origin_only(self, transport: AiohttpTransport, secure: Server) -> None:
        assert await self.ask(transport, secure, Site(Origin.of(secure.url), insecure=True)) == b"False"
        with pytest.raises(TlsFailed):
            await self.ask(transport, secure, Site(Origin("https", "registry.example", 443), insecure=True))
        with pytest.raises(TlsFailed):
            await read(transport, secure.url)

    @pytest.mark.parametrize("content", [b"", b"no certificate"])
    async def test_a_file_that_is_none(
        self, transport: AiohttpTransport, secure: Server, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "bad.pem").write_bytes(content)
        for site in (
            Site(Origin.of(secure.url), ca=(str(tmp_path / "bad.pem"),)),
            Site(Origin.of(secure.url), certificates=((str(tmp_path / "bad.pem"), ""),)),
        ):
            with pytest.raises(InvalidHosts, match=r"bad\.pem"):
                await self.ask(transport, secure, site)

    async def test_headers_go_to_the_sites_origin_only(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server, serve(ok) as other:
            headers = (("X-Team", "a"), ("User-Agent", "theirs"), ("Accept", "theirs"))
            site = Site(Origin.of(server.url), headers=headers)
            for url in (server.url, other.url):
                async with await transport.send(Request("GET", url, {"accept": "ours"}, site=site)):
                    pass
        sent, elsewhere = server.headers[0], other.headers[0]
        assert (sent["x-team"], sent["user-agent"], sent["accept"]) == ("a", "theirs", "ours")
        assert "x-team" not in elsewhere
        assert elsewhere["user-agent"] == "lading/test"


class TestConnections:
    async def test_one_is_enough_for_requests_in_turn(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server:
            for _ in range(10):
                await read(transport, server.url)
        assert len(server.peers) == 1

    async def test_an_answer_without_a_body_leaves_its_own_to_the_next(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server:
            for method in ("HEAD", "GET", "HEAD"):
                await read(transport, server.url, method)
        assert len(server.peers) == 1

    async def test_a_body_that_isnt_read_ends_its_own(self, transport: AiohttpTransport) -> None:
        async def large(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=bytes(16 * 1024 * 1024))

        async with serve(large) as server:
            for _ in range(2):
                async with await transport.send(Request("GET", server.url)):
                    pass
        assert len(server.peers) == 2

    async def test_an_iterator_that_is_left_early_leaves_nothing(self, transport: AiohttpTransport) -> None:
        async def large(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=bytes(16 * 1024 * 1024))

        async with serve(large) as server, await transport.send(Request("GET", server.url)) as response:
            async for _ in response.chunks():
                break

    async def test_a_server_that_ends_an_idle_one_does_no_harm(self, transport: AiohttpTransport) -> None:
        async with answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx") as url:
            for _ in range(3):
                assert await read(transport, url) == b"x"

    async def test_many_requests_at_once(self, transport: AiohttpTransport) -> None:
        async with serve(ok) as server, asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(transport, server.url)) for _ in range(100)]
            await asyncio.wait(tasks)
        assert {task.result() for task in tasks} == {b"content"}

    async def test_cancelled_while_waiting_for_the_head(self, transport: AiohttpTransport) -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await reader.read()
            ended.set()

        async with serve_raw(talk) as url:
            task = asyncio.create_task(read(transport, url))
            await until(asked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(ended)

    async def test_cancelled_in_the_middle_of_a_body(self, transport: AiohttpTransport) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HALF_A_BODY["with a length"])
            await reader.read()
            ended.set()

        async def consume(url: str) -> None:
            async with await transport.send(Request("GET", url)) as response:
                async for _ in response.chunks():
                    begun.set()

        async with serve_raw(talk) as url:
            task = asyncio.create_task(consume(url))
            await until(begun)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(ended)

    async def test_cancelled_while_sending_a_body(self, transport: AiohttpTransport) -> None:
        asked, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await release.wait()
            while await reader.read(65536):
                pass
            ended.set()

        async with serve_raw(talk) as url:
            body = bytes(64 * 1024 * 1024)
            task = asyncio.create_task(transport.send(Request("PUT", url, {}, body)))
            await until(asked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release.set()
            await until(ended)

    async def test_an_answer_before_the_body_was_taken(self, transport: AiohttpTransport) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 1\r\n\r\nx")
            await writer.drain()
            await reader.read(1)
            await release.wait()

        release = asyncio.Event()
        async with serve_raw(talk) as url:
            async with await transport.send(Request("PUT", url, {}, bytes(64 * 1024 * 1024))) as response:
                assert (response.status, await response.read(10)) == (413, b"x")
            release.set()

    async def test_closing_ends_the_idle_ones(self) -> None:
        ended = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await echo_request_line(reader, writer)
            await reader.read()
            ended.set()

        async with serve_raw(talk) as url:
            transport = AiohttpTransport(user_agent="lading/test")
            await read(transport, url)
            await transport.aclose()
            await until(ended)

    async def test_a_closed_transport_says_so(self) -> None:
        transport = AiohttpTransport(user_agent="lading/test")
        await transport.aclose()
        await transport.aclose()
        with pytest.raises(LadingError, match="the client is closed"):
            await transport.send(Request("GET", "http://127.0.0.1:1/"))


class TestEvents:
    @pytest.fixture
    async def listening(self) -> AsyncIterator[tuple[AiohttpTransport, list[Event]]]:
        events: list[Event] = []
        transport = AiohttpTransport(user_agent="lading/test", events=events.append)
        yield transport, events
        await transport.aclose()

    async def test_a_request_is_told(self, listening: tuple[AiohttpTransport, list[Event]]) -> None:
        transport, events = listening
        async with serve(ok) as server:
            await read(transport, server.url + "/v2/?token=hunter2", "HEAD")
        connected, event = events
        assert isinstance(connected, ConnectionStep)
        assert isinstance(event, RequestSent)
        assert (event.method, event.url, event.status) == ("HEAD", server.url + "/v2/?…", 200)
        assert event.seconds > 0

    async def test_a_request_without_an_answer_has_status_0(
        self, listening: tuple[AiohttpTransport, list[Event]]
    ) -> None:
        transport, events = listening
        async with answers(b"") as url:
            with pytest.raises(ConnectFailed):
                await transport.send(Request("GET", url))
        *connected, event = events  # aiohttp may try once more by itself
        assert {type(one) for one in connected} == {ConnectionStep}
        assert isinstance(event, RequestSent)
        assert (event.status, event.error) == (0, "ConnectFailed")

    async def test_what_was_never_sent_isnt_told(self, listening: tuple[AiohttpTransport, list[Event]]) -> None:
        transport, events = listening
        with pytest.raises(ProtocolError):
            await transport.send(Request("GET", "ftp://h/"))
        assert events == []
