"""The embedded registry over HTTP: it listens, records, lets tests interfere, sends what endpoints decide.

Everything runs in the event loop that called `start`, but for what content does in threads; nothing outlives
`stop`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import web

from lading.testing import grammar
from lading.testing.bodies import read_body, receive, send
from lading.testing.content import Content, StoredManifest
from lading.testing.endpoints import Answer, Call, Endpoints, refuse
from lading.testing.memory import MemoryContent
from lading.testing.record import Exchange, RecordedRequest, Recorder
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.routes import Route, parse_route
from lading.testing.uploads import Uploads

Intercept = Callable[[web.Request, RecordedRequest], Awaitable[web.StreamResponse | None]]

# aiohttp waits this long, twice, for a connection that refuses to end; zero would mean for ever.
_SHUTDOWN_SECONDS = 0.05
_BACKLOG = 1024

# What an interceptor's `request.read()` gives up at.
_BODY_MAX_BYTES = 1024 * 1024 * 1024

_log = logging.getLogger(__name__)


class EmbeddedRegistry:
    """An OCI registry in this process, on loopback unless told otherwise; plain HTTP, open to everyone.

    Use it as an async context manager, or call `start` and `stop`. `port` 0 takes a free port at the first
    start and keeps it: after `stop` connections are refused, after another `start` the same address answers
    again, with the same content. `host` is an IP address to listen on. It answers within the event loop that
    started it.

    `content` is what it holds: nothing, in memory, unless given (see `DirectoryContent` for what lasts). Unless
    `writable`, whatever would change the content over HTTP is refused. `records` is how many of the latest
    requests stay on record, None for all: a registry that runs for long needs a limit.

    `intercept`, when set, is awaited with each request and its record before the registry answers: what it
    returns is sent instead, None lets the registry answer. It may hang (`stop` cancels it), abort
    `request.transport`, or raise what an aiohttp handler may raise. It may read the body with
    `request.read()`, not through `request.content`.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        content: Content | None = None,
        writable: bool = True,
        records: int | None = None,
    ) -> None:
        self.intercept: Intercept | None = None
        self._address = host
        self._port = port
        self._content: Content = content if content is not None else MemoryContent()
        self._recorder = Recorder(records)
        self._endpoints = Endpoints(self._content, Uploads(), writable=writable)
        self._runner: web.AppRunner | None = None
        # aiohttp runs each request in a task of its own: it identifies the exchange, and `stop` cancels it.
        self._active: dict[asyncio.Task[object], Exchange] = {}

    # Lifecycle.

    async def start(self) -> None:
        """Listen; once this returns, the registry answers. Raise `OSError` if the port is taken."""
        if self._runner is not None:
            raise RuntimeError(f"the registry already runs at {self.url}")
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        listener = socket.create_server((self._address, self._port), family=family, backlog=_BACKLOG)
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            auto_decompress=False,  # a registry keeps the bytes that were sent
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        try:
            await runner.setup()
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        except BaseException:
            listener.close()
            await runner.cleanup()
            raise
        self._port = listener.getsockname()[1]
        self._runner = runner

    async def stop(self) -> None:
        """Refuse connections from now on, cut the open ones and cancel what hangs.

        The content and the records stay. Stopping a registry that doesn't run does nothing.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in runner.sites:
            await site.stop()
        # Requests that have just been read become tasks first, so that they are cancelled too.
        await asyncio.sleep(0)
        caller = asyncio.current_task()
        for task in tuple(self._active):
            if task is not caller:
                task.cancel()
        await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    # Where it is.

    @property
    def host(self) -> str:
        """What goes in front of a reference: host and port. Raise `RuntimeError` before the first start."""
        if self._port == 0:
            raise RuntimeError("the registry has no port before its first start")
        address = f"[{self._address}]" if ":" in self._address else self._address
        return f"{address}:{self._port}"

    @property
    def url(self) -> str:
        """The origin of the registry, without a trailing slash."""
        return f"http://{self.host}"

    # What it was asked.

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far in order of arrival, as they stand now."""
        return self._recorder.requests()

    def summary(self) -> list[str]:
        """Return method and kind of each request in order of arrival: `["GET manifest", "GET blob"]`."""
        return [f"{request.method} {request.kind}" for request in self.requests]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._recorder.clear()

    # What it holds, arranged without HTTP.

    def add_blob(self, repository: str, data: bytes) -> str:
        """Keep a blob and return its sha256 digest."""
        digest = grammar.sha256(data)
        self._content.put_blob(repository, digest, data)
        return digest

    def add_manifest(self, repository: str, raw: bytes, media_type: str, tag: str | None = None) -> str:
        """Keep a manifest, let `tag` name it, and return its sha256 digest; `raw` is not looked into."""
        digest = grammar.sha256(raw)
        self._content.put_manifest(repository, StoredManifest(digest, media_type, raw), tag)
        return digest

    def remove_blob(self, repository: str, digest: str) -> None:
        """Remove a blob from one repository; raise `KeyError` if it isn't there."""
        self._content.remove_blob(repository, digest)

    def remove_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest and the tags that name it; raise `KeyError` if it isn't there."""
        self._content.remove_manifest(repository, digest)

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, not its manifest; raise `KeyError` if it isn't there."""
        self._content.remove_tag(repository, tag)

    # HTTP.

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_BODY_MAX_BYTES)
        application.router.add_route("*", r"/{path:[\s\S]*}", self._handle)  # "." would miss a %0A
        application.on_response_prepare.append(self._answering)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        route = parse_route(request.rel_url.path)
        exchange = self._arrived(request, route)
        if self.intercept is not None:
            response = await self.intercept(request, exchange.snapshot())
            if response is not None:
                return response
        return await send(request, await self._answer(request, route), self._content)

    async def _answer(self, request: web.Request, route: Route) -> Answer:
        call = Call(request.method, route, request.query, request.headers)
        try:
            return await self._decide(request, call)
        except Refusal as refusal:
            return refuse(refusal)
        except OSError as error:
            _log.error("%s %s failed: %s", request.method, request.rel_url.raw_path, error)
            return refuse(_failure(error))

    async def _decide(self, request: web.Request, call: Call) -> Answer:
        upload = self._endpoints.upload_for(call)
        if upload is None:
            call = replace(call, body=await read_body(request))
            return await self._content.run(partial(self._endpoints.answer, call))
        with upload.claimed():
            await receive(request, upload, self._content)
            return await self._content.run(partial(self._endpoints.answer, replace(call, upload=upload)))

    def _arrived(self, request: web.Request, route: Route) -> Exchange:
        url = request.rel_url
        exchange = self._recorder.arrived(
            RecordedRequest(request.method, url.raw_path, url.raw_query_string, route.kind, request.headers)
        )
        task = asyncio.current_task()
        assert task is not None
        self._active[task] = exchange
        task.add_done_callback(self._finished)
        return exchange

    async def _answering(self, request: web.Request, response: web.StreamResponse) -> None:
        # aiohttp signals this for every answer: its own 500s and what an interceptor sends by itself too.
        task = asyncio.current_task()
        exchange = self._active.get(task) if task is not None else None
        is_connected = request.transport is not None and not request.transport.is_closing()
        if exchange is not None and is_connected:
            head = _head_size(request, response)
            exchange.answer(response.status, partial(_body_bytes_sent, request, head))

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._active.pop(task).finish()


def _failure(error: OSError) -> Refusal:
    # RFC 4918, section 11.5: 507. No path of this machine goes out.
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = os.strerror(error.errno) if error.errno is not None else type(error).__name__
    message = f"the registry cannot use its content: {reason}"
    return Refusal(ErrorCode.UNKNOWN, message, status=507 if is_full else 500)


def _head_size(request: web.Request, response: web.StreamResponse) -> int:
    # RFC 9112, section 2.1: status line, field lines, an empty line, each with its CRLF.
    version = request.version
    status_line = f"HTTP/{version.major}.{version.minor} {response.status} {response.reason}"
    lines = [status_line, *(f"{name}: {value}" for name, value in response.headers.items()), ""]
    return sum(len(line.encode()) + 2 for line in lines)


def _body_bytes_sent(request: web.Request, head: int) -> int:
    # aiohttp's writer counts what it hands to the socket, head included.
    return max(request.writer.output_size - head, 0)
