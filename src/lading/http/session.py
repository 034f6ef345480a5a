"""The network itself: the innermost transport, on aiohttp, which nothing outside this room sees.

It follows no redirects, keeps no cookies, decompresses nothing and reads no environment: what is sent and what comes
back is exactly what the rings above decided. Exceptions are translated once, in ``failures``.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from lading.errors import LadingError, ProtocolError
from lading.events import Listener, RequestSent, tell
from lading.http.failures import failure
from lading.http.transport import Headers, Origin, Request
from lading.redact import redact_url

_CONNECT_TIMEOUT = 30.0
"""Seconds to wait for a connection at most, TLS included."""

_STALL_TIMEOUT = 60.0
"""Seconds without a byte after which the other side counts as silent."""

_CONNECTIONS = 100
"""Connections at most; requests beyond that wait for one."""

_READ_BUFFER = 1024 * 1024
"""Bytes of a body that are held before the other side has to wait: fewer, larger reads of large blobs."""

_WRITTEN_AT_ONCE = 64 * 1024
"""Bytes of a body up to which one write is better than several."""


class AiohttpTransport:
    """Sends each request once, over kept-alive connections. Construct it on the event loop that uses it."""

    def __init__(self, *, user_agent: str, events: Listener | None = None) -> None:
        self._events = events
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_TIMEOUT, sock_read=_STALL_TIMEOUT),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
            read_bufsize=_READ_BUFFER,
        )

    async def send(self, request: Request) -> AiohttpResponse:
        """Send ``request`` and give the answer's head, whatever its status.

        Raises:
            TransportError: no answer came; the subclass says why.
            ProtocolError: the URL or the answer isn't allowed.
        """
        Origin.of(request.url)
        self._check_open()
        started = time.perf_counter()
        status = 0
        try:
            response = await self._session.request(
                request.method,
                # The URL is sent as it was given: a signed one breaks when it is quoted again.
                URL(request.url, encoded=True),
                headers=dict(request.headers),
                data=_body(request.body),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._check_open()
            failed = failure(error, request)
        else:
            status = response.status
            result = AiohttpResponse(response, request)
            result.refuse_encoded()
            return result
        finally:
            if self._events is not None:
                seconds = time.perf_counter() - started
                tell(self._events, RequestSent(request.method, redact_url(request.url), status, seconds))
        # Not from within `except`: aiohttp's error, whose text may hold a signed URL, would stay its context.
        raise failed

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.close()

    def _check_open(self) -> None:
        if self._session.closed:
            raise LadingError("the client is closed", hint="use it inside its `async with`") from None


class AiohttpResponse:
    """A response head and its open body."""

    def __init__(self, response: aiohttp.ClientResponse, request: Request) -> None:
        self._response = response
        self._request = request
        self.status = response.status
        self.url = request.url
        self.headers = Headers(response.headers.items())

    def refuse_encoded(self) -> None:
        """Raise ProtocolError if the body isn't the bytes themselves (RFC 9110, section 8.4)."""
        encoding = ", ".join(self.headers.get_all("Content-Encoding"))
        if encoding and encoding.lower() != "identity" and self.status < 300 and self._request.method != "HEAD":
            self._response.close()
            raise ProtocolError(
                f"{self._request.method} {redact_url(self.url)}: the body is encoded as {encoding!r}, "
                "though only identity was asked for",
                hint="a proxy between here and the registry may compress responses",
            )

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body in the pieces in which it arrives.

        Raises:
            BodyInterrupted: the connection was lost before its end.
            TimedOut: no byte came for a minute.
        """
        return _Chunks(self._response, self._request)

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


class _Chunks:
    """An iterator and not a generator: a consumer that breaks off leaves nothing to be finalised."""

    def __init__(self, response: aiohttp.ClientResponse, request: Request) -> None:
        self._content = response.content
        self._request = request

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        failed: LadingError | None = None
        chunk = b""
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failed = failure(error, self._request, in_body=True)
        if failed is not None:
            raise failed
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _body(content: bytes | None) -> bytes | io.BytesIO | None:
    """Give what is sent: a large body as a file, which is written piece by piece as the other side takes it."""
    return io.BytesIO(content) if content is not None and len(content) > _WRITTEN_AT_ONCE else content
