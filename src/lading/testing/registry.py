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
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import web

from lading.testing import grammar
from lading.testing.access import Access
from lading.testing.bodies import read_body, receive, send
from lading.testing.budgets import Inspection, Recording
from lading.testing.connections import Connections, close_listeners
from lading.testing.content import Content, StoredManifest
from lading.testing.endpoints import Answer, Call, Endpoints, refuse
from lading.testing.memory import MemoryContent
from lading.testing.profiles import PLAIN, Profile
from lading.testing.quirks import Quirks
from lading.testing.record import Exchange, Log, RecordedRequest, Recorder
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.routes import Route, parse_route
from lading.testing.sabotage import Sabotage
from lading.testing.schedule import Faults
from lading.testing.sites import Sites
from lading.testing.tls import ThrowawayCA, authority
from lading.testing.uploads import Uploads

Intercept = Callable[[web.Request, RecordedRequest], Awaitable[web.StreamResponse | None]]

# aiohttp waits this long, twice, for a connection that refuses to end; zero would mean for ever.
_SHUTDOWN_SECONDS = 0.05
_BACKLOG = 128

# What an interceptor's `request.read()` gives up at.
_BODY_MAX_BYTES = 1024 * 1024 * 1024

_log = logging.getLogger(__name__)


class EmbeddedRegistry(Inspection):
    """An OCI registry in this process, on loopback unless told otherwise; plain HTTP, open to everyone.

    Use it as an async context manager, or call `start` and `stop`. `port` 0 takes a free port at the first
    start and keeps it: after `stop` connections are refused, after another `start` the same address answers
    again, with the same content. `host` is an IP address to listen on. It answers within the event loop that
    started it.

    `content` is what it holds: nothing, in memory, unless given (see `DirectoryContent` for what lasts). Unless
    `writable`, whatever would change the content over HTTP is refused. `records` is how many of the latest
    requests stay on record, None for all: a registry that runs for long needs a limit. `tls` serves https instead
    of http, with a certificate for localhost and the loopback addresses by a new authority or by one that is given.

    `profile` is the kind of registry that it is like: what it asks, sends and refuses beside the specification. One
    that asks who is there knows `users` (passwords by name; None leaves everything to everybody) and repositories that
    are `private` to them. Its token service, and the storage that it sends to for blobs, may be origins of their own,
    which start and stop with it; their requests are on record too, as kinds "token" and "storage". `clock` says in
    seconds when tokens, signed URLs and the time of a rate limit are over.

    Without `referrers` it has no referrers API, as older registries: clients use the fallback tag. `chunk_min_length`
    is announced to whoever begins an upload. `faults` is what is to go wrong, see `lading.testing.faults`.

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
        tls: bool | ThrowawayCA = False,
        profile: Profile = PLAIN,
        users: Mapping[str, str] | None = None,
        private: Collection[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
        referrers: bool = True,
        chunk_min_length: int | None = None,
    ) -> None:
        self.intercept: Intercept | None = None
        self.faults = Faults()
        self._address = host
        self._port = port
        self._content: Content = content if content is not None else MemoryContent()
        self._recorder = Recorder(records)
        self._endpoints = Endpoints(
            self._content, Uploads(), writable=writable, referrers=referrers, chunk_min_length=chunk_min_length
        )
        self._authority = authority(tls)
        self._tls = self._authority.server_context(host) if self._authority is not None else None
        self._connections = Connections(self._recorder.connected)
        self._quirks: Quirks | None = None
        self._sites: Sites | None = None
        if profile != PLAIN or users is not None or private:
            access = Access(users, frozenset(private), profile.serves_anybody)
            self._quirks = Quirks(profile, access, clock)
            self._sites = Sites(self._quirks.sites, host)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
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
            assert runner.server is not None
            self._server = await asyncio.get_running_loop().create_server(
                self._connections.numbered(runner.server), sock=listener, backlog=_BACKLOG, ssl=self._tls
            )
            self._port = listener.getsockname()[1]
            if self._quirks is not None and self._sites is not None:
                factory = self._connections.numbered(runner.server)
                self._quirks.origins = await self._sites.start(factory, self._tls, self.url)
        except BaseException:
            listener.close()
            if self._sites is not None:
                self._sites.stop()
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Refuse connections from now on, cut the open ones and cancel what hangs.

        The content and the records stay. Stopping a registry that doesn't run does nothing.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        assert self._server is not None
        await close_listeners(self._server)
        if self._sites is not None:
            self._sites.stop()
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
        return f"{'http' if self._tls is None else 'https'}://{self.host}"

    @property
    def token_url(self) -> str:
        """The origin of its token service; raise `RuntimeError` unless it is like one that has tokens."""
        return self._with_tokens().origin_of("token")

    @property
    def storage_url(self) -> str:
        """The origin that it sends to for blobs; raise `RuntimeError` unless it is like one that does."""
        if self._quirks is None or not self._quirks.has_storage:
            raise RuntimeError("this registry sends nobody elsewhere for blobs: give it a profile with a redirect")
        return self._quirks.origin_of("storage")

    @property
    def ca_pem(self) -> bytes:
        """The certificate that clients have to trust, as PEM; raise `RuntimeError` without TLS."""
        if self._authority is None:
            raise RuntimeError("this registry has no certificate: construct it with tls=True")
        return self._authority.pem

    # What it was asked.

    def log(self) -> Log:
        """Return what happened so far."""
        return self._recorder.log()

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record apart what happens in the block: `with registry.recording() as requests:`."""
        with self._recorder.part() as part:
            yield Recording(part.log)

    def clear_requests(self) -> None:
        """Forget the requests and the connections so far."""
        self._recorder.clear()

    # Who it gives tokens to.

    @property
    def token_requests(self) -> int:
        """How many of the requests on record are for tokens."""
        return sum(request.kind == "token" for request in self.requests)

    def expire_tokens(self) -> None:
        """Let every token that was given out so far be over; raise `RuntimeError` unless it has tokens."""
        self._with_tokens().tokens.expire()

    def identity_token(self, user: str) -> str:
        """Return a new identity token (a refresh token) of a user; raise `KeyError` for a stranger."""
        return self._with_tokens().tokens.identity_token(user)

    def _with_tokens(self) -> Quirks:
        if self._quirks is None or not self._quirks.has_tokens:
            raise RuntimeError("this registry has no tokens: give it a profile with bearer authentication")
        return self._quirks

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
        route, origin = self._addressed(request)
        exchange = self._arrived(request, route, origin)
        if self.intercept is not None:
            response = await self.intercept(request, exchange.snapshot())
            if response is not None:
                return response
        due = self.faults.due(exchange.snapshot())
        if due:
            sabotage = Sabotage(request, exchange.snapshot(), due, self.faults)
            return await sabotage.answer(partial(self._answer, request, route), self._content)
        return await send(request, await self._answer(request, route, request.headers), self._content)

    def _addressed(self, request: web.Request) -> tuple[Route, str]:
        """Return what a request is about, and the origin that it came to."""
        url = request.rel_url
        if self._quirks is None or self._sites is None:
            return parse_route(url.path), self.url
        site = self._sites.of(request)
        return self._quirks.route(site, url.path, url.raw_path_qs), self._quirks.origins[site]

    async def _answer(self, request: web.Request, route: Route, headers: Mapping[str, str]) -> Answer:
        call = Call(request.method, route, request.query, headers)
        serve = partial(self._serve, request)
        if self._quirks is None:
            return await serve(call)
        return await self._quirks.answer(call, partial(read_body, request), serve)

    async def _serve(self, request: web.Request, call: Call) -> Answer:
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

    def _arrived(self, request: web.Request, route: Route, origin: str) -> Exchange:
        url = request.rel_url
        exchange = self._recorder.arrived(
            RecordedRequest(
                request.method,
                url.raw_path,
                url.raw_query_string,
                route.kind,
                request.headers,
                connection=self._connections.number(request.protocol),
                origin=origin,
            )
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
