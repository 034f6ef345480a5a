"""What is told of connections and bodies, where somebody listens. Without a listener nothing here is used.

aiohttp's own traces don't tell TCP from TLS, and are silent about proxies. So a few more of the connector's private
methods are overridden; a test pins them. Where a version of aiohttp hasn't one of them, its step is just not told.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import aiohttp

from lading.errors import ProxyFailed
from lading.events import BodyReceived, ConnectionStep, Listener, tell
from lading.http.connector import Connector
from lading.http.no_proxy import address_of
from lading.http.proxy import HopFailed

T = TypeVar("T")
Stage = Literal["dns", "connect", "tunnel", "tls"]

REQUEST: ContextVar[int] = ContextVar("lading.request", default=0)
"""The number of the request that this task sends."""

_LAST: ContextVar[tuple[str, float]] = ContextVar("lading.step")
"""The endpoint of the last step that was told in this task, and when that was."""


class WatchedConnector(Connector):
    """A connector that tells of each step towards a connection, how long it took, and whether it failed."""

    def __init__(self, events: Listener, **options: Any) -> None:
        super().__init__(**options)
        self._events = events

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[Any]:
        looked_up = super()._resolve_host(host, port, traces)
        # An address is its own answer.
        return await (looked_up if address_of(host) else self._timed("dns", host, looked_up))

    async def _wrap_create_connection(
        self, *args: Any, req: aiohttp.ClientRequest, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Connect, by TCP and then TLS. asyncio asks for a protocol in between: then there is a connection."""
        factory, *rest = args
        endpoint, began = _endpoint(req), time.perf_counter()
        stage: Stage = "connect"

        def connected() -> Any:
            nonlocal stage, began
            self._tell("connect", endpoint, began)
            stage, began = "tls", time.perf_counter()
            return factory()

        try:
            made = await super()._wrap_create_connection(connected, *rest, req=req, **options)
        except BaseException as error:
            self._tell(stage, endpoint, began, _name(error))
            raise
        if options.get("ssl"):
            self._tell("tls", endpoint, began)
        return made

    async def _create_proxy_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> tuple[asyncio.BaseTransport, Any]:
        try:
            return await super()._create_proxy_connection(req, traces, timeout)
        except HopFailed as failed:
            if failed.stage == "tunnel":
                endpoint = _endpoint(req)
                last, reached = _LAST.get()
                if last != endpoint:  # else there was a tunnel
                    self._tell("tunnel", endpoint, reached, ProxyFailed.__name__)
            raise

    async def _start_tls_connection(
        self, underlying_transport: asyncio.Transport, req: aiohttp.ClientRequest, *args: Any, **options: Any
    ) -> tuple[asyncio.BaseTransport, Any]:
        """Make the TLS within a tunnel; so there is a tunnel."""
        endpoint = _endpoint(req)
        self._tell("tunnel", endpoint, _LAST.get()[1])
        made = super()._start_tls_connection(underlying_transport, req, *args, **options)
        return await self._timed("tls", endpoint, made)

    async def _dial(self, path: str) -> tuple[asyncio.Transport, Any]:
        return await self._timed("connect", os.fspath(path), super()._dial(path))

    async def _timed(self, stage: Stage, endpoint: str, step: Awaitable[T]) -> T:
        began = time.perf_counter()
        try:
            done = await step
        except BaseException as error:
            self._tell(stage, endpoint, began, _name(error))
            raise
        self._tell(stage, endpoint, began)
        return done

    def _tell(self, stage: Stage, endpoint: str, began: float, error: str = "") -> None:
        now = time.perf_counter()
        tell(self._events, ConnectionStep(REQUEST.get(), stage, endpoint, now - began, error))
        _LAST.set((endpoint, now))


class WatchedBody:
    """Notes when the body of an answer, whose head has just come, has come; tells so when it is left."""

    __slots__ = ("_began", "_content", "_ended", "_events", "_method", "_number", "_url")

    def __init__(self, events: Listener, number: int, method: str, url: str, content: aiohttp.StreamReader) -> None:
        self._events = events
        self._number = number
        self._method = method
        self._url = url
        self._content = content
        self._ended: float | None = None
        self._began = time.perf_counter()
        # Not when it was read to its end: what is done with it in the meantime is nobody's sending.
        content.on_eof(self._end)

    def _end(self) -> None:
        self._ended = time.perf_counter()

    def left(self) -> None:
        """Tell of it."""
        received, is_whole = self._content.total_bytes, self._ended is not None
        if received or not is_whole:
            seconds = (self._ended or time.perf_counter()) - self._began
            tell(self._events, BodyReceived(self._number, self._method, self._url, received, seconds, is_whole))


def _name(error: BaseException) -> str:
    """Name what is beneath aiohttp's error."""
    return type(error.__cause__ or error).__name__


def _endpoint(req: aiohttp.ClientRequest) -> str:
    host = req.url.host or ""
    return f"[{host}]:{req.port}" if ":" in host else f"{host}:{req.port}"
