"""An HTTP proxy on loopback or on a Unix socket, which can fail in the ways in which proxies do.

Everything runs in the event loop that called `start`. Its HTTP is its own, small and strict: a request head is read
and checked, what follows is passed on as bytes. Each connection carries one tunnel or one request.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import responses
from types import TracebackType
from typing import Literal, Self

from lading.testing.connections import close_listeners

_HEAD_MAX_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024
_BACKLOG = 128

# RFC 9110, section 5.6.2 (token), and RFC 9112, section 3.2: authority-form, absolute-form.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/1\.[01]")
_FIELD_LINE = re.compile(rf"({_TOKEN}):[ \t]*(.*?)[ \t]*")
_AUTHORITY = r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/?#@\[\]]+))"
_AUTHORITY_FORM = re.compile(rf"{_AUTHORITY}:([0-9]{{1,5}})")
_ABSOLUTE_FORM = re.compile(rf"(?i:http)://{_AUTHORITY}(?::([0-9]{{1,5}}))?((?:/[^\s#]*)?(?:\?[^\s#]*)?)")

# RFC 9110, section 7.6.1: what concerns this connection alone. Host is written anew.
_NOT_PASSED_ON = frozenset(
    {"connection", "proxy-connection", "keep-alive", "te", "upgrade", "proxy-authorization", "host"}
)

Fault = int | Literal["hang", "abort"] | None


@dataclass(frozen=True, slots=True)
class ProxiedRequest:
    """One request as the proxy saw it.

    `target` is the host and port of a tunnel, else the URL, as sent. `status` is what the proxy itself answered, a
    tunnel's 200 included; None for a request that was passed on, or that got no answer. Headers aren't shown.
    """

    method: str
    target: str
    is_tunnel: bool
    headers: Mapping[str, str] = field(hash=False, repr=False)  # names in lower case
    status: int | None = None


class EmbeddedProxy:
    """An HTTP proxy in this process: CONNECT tunnels, and requests in absolute form.

    It listens on TCP at `host`, a loopback address, and `port` (0 takes a free one at the first start and keeps it),
    or with `unix` on a socket at that path. With `credentials`, a user name and a password, whoever doesn't give them
    by the Basic scheme is answered 407. Use it as an async context manager, or call `start` and `stop`.

    `fault`, when set, meets each request from then on: a status (502, 407, …) is answered, "hang" never answers,
    "abort" resets the connection. `refuse` and `kill` take the proxy away, `start` brings it back where it was.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        unix: str | os.PathLike[str] | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self.fault: Fault = None
        self.connections = 0
        """How many connections were accepted so far."""
        self._address = host
        self._port = port
        self._path = None if unix is None else os.fspath(unix)
        self._expected = None if credentials is None else _basic(*credentials)
        self._requests: list[ProxiedRequest] = []
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    # Lifecycle.

    async def start(self) -> None:
        """Listen, the first time or again at the same place; raise `OSError` if that is taken."""
        if self._server is not None:
            raise RuntimeError("the proxy already runs")
        listener = self._listen()
        try:
            self._server = await asyncio.start_server(self._accept, sock=listener, limit=_HEAD_MAX_BYTES)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Take no connections, cut the open ones, and remove the socket. What was recorded stays."""
        await self.kill(unlink=True)

    async def refuse(self, *, unlink: bool = False) -> None:
        """Take no more connections; those that are open go on.

        A Unix socket stays where it is, as a crash leaves it, unless `unlink`.
        """
        server, self._server = self._server, None
        if server is not None:
            await close_listeners(server)
        if unlink and self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def kill(self, *, unlink: bool = False) -> None:
        """Die in the middle of everything: refuse, and reset every open connection."""
        await self.refuse(unlink=unlink)
        tasks = self._open - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _listen(self) -> socket.socket:
        if self._path is None:
            family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
            listener = socket.create_server((self._address, self._port), family=family, backlog=_BACKLOG)
            self._port = listener.getsockname()[1]
            return listener
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if _is_dead(self._path):
                os.unlink(self._path)
            listener.bind(self._path)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    # Where it is, and what passed.

    @property
    def url(self) -> str:
        """The URL of a proxy on TCP, without credentials; raise `RuntimeError` before the first start, or on Unix."""
        if self._path is not None or self._port == 0:
            raise RuntimeError("the proxy has no URL before its first start, and none on a Unix socket")
        address = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{address}:{self._port}"

    @property
    def path(self) -> str:
        """The path of the Unix socket; raise `RuntimeError` on TCP."""
        if self._path is None:
            raise RuntimeError("the proxy listens on TCP")
        return self._path

    @property
    def requests(self) -> list[ProxiedRequest]:
        """The requests so far, in order of arrival."""
        return list(self._requests)

    def clear_requests(self) -> None:
        """Forget the requests and the connections so far."""
        self._requests.clear()
        self.connections = 0

    # One connection.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:  # taken away while the connection was on its way here
            _reset(writer)
            return
        self.connections += 1
        self._open.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            _reset(writer)  # the client is gone, or the proxy is killed: the streams' own task has nothing to tell
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            await _answer(writer, 431)
            return
        request = _parse(head)
        if request is None:
            await _answer(writer, 400)
            return
        number = len(self._requests)
        self._requests.append(request)
        status = await self._refusal(request)
        if status is None:
            status = await self._pass_on(request, head, reader, writer, number)
        if status is not None:
            self._settle(number, request, status)
            await _answer(writer, status)

    async def _refusal(self, request: ProxiedRequest) -> int | None:
        """Return the status to answer with; None to go on. A fault without a status ends here."""
        if self.fault == "hang":
            await asyncio.get_running_loop().create_future()  # until the proxy is killed
        if self.fault == "abort":
            raise ConnectionAbortedError("told to")
        if isinstance(self.fault, int):
            return self.fault
        if self._expected is not None and request.headers.get("proxy-authorization") != self._expected:
            return 407
        return None

    async def _pass_on(
        self,
        request: ProxiedRequest,
        head: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> int | None:
        """Connect the two sides until both have ended; return the status to answer with if that can't be."""
        where = _where(request)
        if where is None:
            return 400
        host, port, path = where
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            return 502
        try:
            if request.is_tunnel:
                self._settle(number, request, 200)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far_writer.write(_rewritten(head, path))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, far_writer))
                await _pump(far_reader, writer)
        except BaseException as error:
            _reset(far_writer)
            if isinstance(error, ExceptionGroup):
                raise ConnectionAbortedError("one side broke, so the other one is broken too") from error
            raise
        finally:
            far_writer.close()
        return None

    def _settle(self, number: int, request: ProxiedRequest, status: int) -> None:
        if number < len(self._requests) and self._requests[number] is request:  # not cleared meanwhile
            self._requests[number] = replace(request, status=status)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _is_dead(path: str) -> bool:
    """Tell whether a socket at `path` was left there by someone who is gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def _parse(head: str) -> ProxiedRequest | None:
    """Return the request that a head makes; None if it isn't well-formed."""
    request_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    found = _REQUEST_LINE.fullmatch(request_line)
    fields = [_FIELD_LINE.fullmatch(line) for line in lines]
    if found is None or None in fields:
        return None
    headers = {one[1].lower(): one[2] for one in fields if one is not None}
    return ProxiedRequest(found[1], found[2], found[1] == "CONNECT", headers)


def _where(request: ProxiedRequest) -> tuple[str, int, str] | None:
    """Return host, port and path to ask there; None if the target isn't in the form that the method needs."""
    found = (_AUTHORITY_FORM if request.is_tunnel else _ABSOLUTE_FORM).fullmatch(request.target)
    if found is None:
        return None
    port = int(found[3] or 80)
    path = "" if request.is_tunnel else found[4]
    return (found[1] or found[2], port, path if path.startswith("/") else f"/{path}") if port < 65536 else None


def _rewritten(head: str, path: str) -> bytes:
    """Return a head in origin form, without what concerned the proxy, on a connection that ends with its answer."""
    request_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = request_line.split(" ")
    # RFC 9112, section 3.2.2: the target says who is meant, whatever the client's Host.
    host = f"Host: {target.partition('://')[2].partition('/')[0].partition('?')[0]}"
    kept = [line for line in lines if line.partition(":")[0].lower() not in _NOT_PASSED_ON]
    return "\r\n".join([f"{method} {path} {version}", host, *kept, "Connection: close", "", ""]).encode("latin-1")


async def _answer(writer: asyncio.StreamWriter, status: int) -> None:
    lines = [f"HTTP/1.1 {status} {responses.get(status, '')}", "Content-Length: 0", "Connection: close"]
    if status == 407:
        lines.append('Proxy-Authenticate: Basic realm="lading"')
    writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
    await writer.drain()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass on what comes, to the end, and then say that it is the end."""
    while piece := await source.read(_PIECE_BYTES):
        target.write(piece)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    # SO_LINGER with no time: the other side is told at once, by a reset, and not by an orderly end.
    opened = writer.get_extra_info("socket")
    if opened is not None and opened.fileno() >= 0 and opened.family != getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
