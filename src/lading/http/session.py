"""The network itself: the innermost transport, on aiohttp, which nothing outside this room sees.

It follows no redirects, keeps no cookies, decompresses nothing and reads no environment: what is sent and what comes
back is exactly what the rings above decided. Exceptions are translated once, in ``failures``.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio
from yarl import URL

from lading.errors import LadingError, ProtocolError, ProxyFailed, TimedOut, TransportError
from lading.events import FallingBack, Listener, RequestSent, tell
from lading.http.connector import Connector
from lading.http.failures import failure, proxy_refusal
from lading.http.limits import Pauses
from lading.http.proxy import (
    COOLDOWN,
    Direct,
    HopFailed,
    Proxy,
    ProxyRules,
    ProxySocket,
    Route,
    Router,
    is_proxy_socket_error,
)
from lading.http.sending import Sending
from lading.http.timeouts import Timeouts, finite
from lading.http.tls import TlsContexts
from lading.http.transport import Headers, Origin, Request, Stream
from lading.http.watching import REQUEST, WatchedBody, WatchedConnector
from lading.redact import redact_url

_log = logging.getLogger("lading.http")

_CONNECTIONS = 100
"""Requests under way at most, from their beginning to the end of the answer's body; others wait."""

_READ_BUFFER = 1024 * 1024
"""Bytes of a body that are held before the other side has to wait: fewer, larger reads of large blobs."""

_WRITTEN_AT_ONCE = 64 * 1024
"""Bytes of a body up to which one write is better than several."""


class AiohttpTransport:
    """Sends each request, over kept-alive connections, directly or through a proxy.

    Construct it on the event loop that uses it. ``router`` says which way a request goes, by default directly. While
    there is a pause for its origin in ``pauses``, it isn't sent.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        events: Listener | None = None,
        router: Router | None = None,
        pauses: Pauses | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._user_agent = user_agent
        self._events = events
        self._router = Router(ProxyRules.of(None)) if router is None else router
        self._pauses = Pauses() if pauses is None else pauses
        self._timeouts = Timeouts() if timeouts is None else timeouts
        self._tls = TlsContexts()
        # Requests wait here and not in aiohttp, where a pause that begins meanwhile wouldn't hold them back.
        self._slots = anyio.Semaphore(_CONNECTIONS, fast_acquire=True)
        self._connector = Connector(limit=0) if events is None else WatchedConnector(events, limit=0)
        self._numbers = itertools.count(1)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=self._limits(self._timeouts.first_byte),
            headers={"Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
            read_bufsize=_READ_BUFFER,
        )

    async def send(self, request: Request) -> AiohttpResponse:
        """Send ``request`` and give the answer's head, whatever its status.

        Where the proxy socket that was found on this machine can't be dialled, the request goes another way.

        Raises:
            TransportError: no answer came; the subclass says why.
            ProtocolError: the URL or the answer isn't allowed.
            RateLimited: the origin is paused for longer than the operation's time.
            InvalidHosts: what is configured for the connection can't be used.
        """
        origin = Origin.of(request.url)
        while True:
            route = self._router.route(origin)
            try:
                return await self._send(request, origin, route)
            except ProxyFailed as error:
                if not isinstance(route, ProxySocket) or not route.may_bypass or not is_proxy_socket_error(error):
                    raise
                if self._router.socket_failed(route, error.message):
                    tell(self._events, FallingBack("proxy", str(route), error.message, COOLDOWN))

    async def _send(self, request: Request, origin: Origin, route: Route) -> AiohttpResponse:
        if not isinstance(request.body, Stream):
            return await self._exchange(request, origin, route)
        sending = Sending(request, request.body, self._timeouts)
        failed: BaseException
        try:
            return await self._exchange(request, origin, route, sending)
        except BaseException as error:
            await sending.aclose()
            failed = error
            if sending.failure is not None and isinstance(error, Exception):
                failed = sending.failure
            elif isinstance(error, TransportError) and sending.is_begun and not request.body.is_replayable:
                error.is_final = True
        raise failed

    async def _exchange(
        self, request: Request, origin: Origin, route: Route, sending: Sending | None = None
    ) -> AiohttpResponse:
        options = await self._options(request, origin, route)
        if sending is not None:
            options["timeout"] = self._limits(sending.answer_seconds)
        await self._enter(request, origin)
        number = 0
        if self._events is not None:
            number = next(self._numbers)
            REQUEST.set(number)
        started = time.perf_counter()
        response: AiohttpResponse | None = None
        failed: LadingError | None = None
        try:
            self._check_open()
            async with asyncio.timeout(self._timeouts.head(_length(request.body))) as timer:
                if sending is not None:
                    sending.timer = timer
                answer = await self._session.request(
                    request.method,
                    # The URL is sent as it was given: a signed one breaks when it is quoted again.
                    URL(request.url, encoded=True),
                    headers=self._headers(request, origin, route),
                    data=_body(request.body) if sending is None else sending,
                    allow_redirects=False,
                    **options,
                )
            response = AiohttpResponse(answer, request, self._timeouts, self._slots.release, sending)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, HopFailed) as error:
            self._check_open()
            failed = failure(error, request, route)
        finally:
            if response is None:
                self._slots.release()
            if self._events is not None or _log.isEnabledFor(logging.DEBUG):
                seconds, status = time.perf_counter() - started, response.status if response else 0
                url = redact_url(request.url)
                _log.debug("%s %s: %s in %.0f ms", request.method, url, status or "no answer", seconds * 1000)
                why = "" if failed is None else type(failed).__name__
                sent = RequestSent(request.method, url, status, seconds, why, number, request.registry)
                tell(self._events, sent)
                if self._events is not None and response is not None:
                    response.watch(WatchedBody(self._events, number, request.method, url, answer.content))
        if response is None:
            # Not from within `except`: aiohttp's error, whose text may hold a signed URL, would stay its context.
            assert failed is not None
            raise failed
        if isinstance(route, ProxySocket):
            self._router.socket_works(route)
        if response.status == 407 and not isinstance(route, Direct):
            response.close()
            raise proxy_refusal(request, route, 407)
        response.refuse_encoded()
        return response

    async def _enter(self, request: Request, origin: Origin) -> None:
        """Wait for the end of a pause, and for a slot."""
        until = None if request.attempts is None else request.attempts.deadline
        while True:
            if self._pauses.remaining(origin):
                await self._pauses.wait(origin, until)
            await self._slots.acquire()
            if not self._pauses.remaining(origin):
                return
            self._slots.release()

    async def _options(self, request: Request, origin: Origin, route: Route) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if origin.scheme == "https":
            options["ssl"] = await self._tls.context(request.site, origin)
        if not isinstance(route, Direct):
            options["proxy"] = self._connector.proxy_url(route)
        if isinstance(route, Proxy):
            if route.url.startswith("https:"):
                self._connector.proxy_tls = await self._tls.context(None, origin)
            if origin.scheme == "https" and (authorization := _proxy_authorization(route)):
                options["proxy_headers"] = {"Proxy-Authorization": authorization}
        return options

    def _limits(self, answer_seconds: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, connect=finite(self._timeouts.connect), sock_read=finite(answer_seconds)
        )

    def _headers(self, request: Request, origin: Origin, route: Route) -> dict[str, str]:
        headers = {"user-agent": self._user_agent}
        # In a tunnel it would reach the target.
        if origin.scheme == "http" and isinstance(route, Proxy) and (authorization := _proxy_authorization(route)):
            headers["proxy-authorization"] = authorization
        if request.site is not None and request.site.origin == origin:
            headers.update((name.lower(), value) for name, value in request.site.headers)
        headers.update((name.lower(), value) for name, value in request.headers.items())
        if isinstance(request.body, Stream):
            # Without it the body would be sent in chunks of a transfer coding, which not every registry takes.
            headers["content-length"] = str(request.body.length)
        return headers

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.close()

    def _check_open(self) -> None:
        if self._session.closed:
            raise LadingError("the client is closed", hint="use it inside its `async with`") from None


class AiohttpResponse:
    """A response head and its open body. ``at_end`` is called once, when it is left.

    Where it came before all of ``sending`` had gone, the rest isn't sent.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: Request,
        timeouts: Timeouts,
        at_end: Callable[[], object],
        sending: Sending | None = None,
    ) -> None:
        self._response = response
        self._request = request
        self._timeouts = timeouts
        self._sending = sending
        self._at_end: Callable[[], object] | None = at_end
        self._watched: WatchedBody | None = None
        self.status = response.status
        self.url = request.url
        self.headers = Headers(response.headers.items())
        if response.connection is not None and response.connection.protocol is not None:
            # What it takes to think of an answer says nothing about what it may take to send one.
            response.connection.protocol.read_timeout = finite(timeouts.stall)
            response.connection.protocol.start_timeout()
            if sending is not None and not sending.is_done:
                # Whatever is sent next on this connection would be taken for the rest.
                response.connection.protocol.force_close()

    def watch(self, body: WatchedBody) -> None:
        """Have ``body`` tell when the response is left."""
        self._watched = body

    def refuse_encoded(self) -> None:
        """Raise ProtocolError if the body isn't the bytes themselves (RFC 9110, section 8.4)."""
        encoding = ", ".join(self.headers.get_all("Content-Encoding"))
        if encoding and encoding.lower() != "identity" and self.status < 300 and self._request.method != "HEAD":
            self.close()
            raise ProtocolError(
                f"{self._request.method} {redact_url(self.url)}: the body is encoded as {encoding!r}, "
                "though only identity was asked for",
                hint="a proxy between here and the registry may compress responses",
            )

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body in the pieces in which it arrives.

        Raises:
            BodyInterrupted: the connection was lost before its end.
            TimedOut: no byte came for too long, or too few.
        """
        return _Chunks(self._response, self._request, self._timeouts)

    async def read(self, limit: int) -> bytes:
        """Give the whole body. Raises ProtocolError if it is longer than ``limit`` bytes."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise ProtocolError(f"{self._request.method} {redact_url(self.url)}: more than {limit} bytes")
        return bytes(body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A body that was read to its end leaves its connection to the next request; any other ends it.
        self._response.release()
        try:
            if self._sending is not None:
                await self._sending.aclose()
        finally:
            self._leave()

    def close(self) -> None:
        """End the response and its connection."""
        self._response.close()
        self._leave()

    def _leave(self) -> None:
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end()
            if self._watched is not None:
                self._watched.left()


class _Chunks:
    """An iterator and not a generator: a consumer that breaks off leaves nothing to be finalised."""

    def __init__(self, response: aiohttp.ClientResponse, request: Request, timeouts: Timeouts) -> None:
        self._response = response
        self._request = request
        self._timeouts = timeouts
        # What came in this window of time, and for how long it was waited for.
        self._came = 0
        self._waited = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        failed: LadingError | None = None
        chunk = b""
        began = time.perf_counter()
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failed = failure(error, self._request, in_body=True)
        if failed is not None:
            raise failed
        if not chunk:
            raise StopAsyncIteration
        self._came += len(chunk)
        self._waited += time.perf_counter() - began
        if self._waited >= self._timeouts.rate_window:
            self._check_rate()
        return chunk

    def _check_rate(self) -> None:
        rate = self._came / self._waited
        if rate < self._timeouts.minimum_rate:
            self._response.close()
            raise TimedOut(
                f"{self._request.method} {redact_url(self._request.url)}: only {rate:.0f} bytes a second came",
                url=self._request.url,
                hint="try again later",
            )
        self._came, self._waited = 0, 0.0


def _proxy_authorization(proxy: Proxy) -> str:
    """Give the credentials for a proxy as RFC 7617 has them, or ``""`` if there are none."""
    if not proxy.username and not proxy.password:
        return ""
    return "Basic " + b64encode(f"{proxy.username}:{proxy.password}".encode()).decode("ascii")


def _body(content: bytes | Stream | None) -> bytes | io.BytesIO | None:
    """Give what is sent: a large body as a file, which is written piece by piece as the other side takes it."""
    assert not isinstance(content, Stream)
    return io.BytesIO(content) if content is not None and len(content) > _WRITTEN_AT_ONCE else content


def _length(body: bytes | Stream | None) -> int:
    """Give how many bytes are sent without anybody looking on; a stream does that itself."""
    return len(body) if isinstance(body, bytes) else 0
