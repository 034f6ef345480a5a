"""Acting on faults: answers that don't come, come late, broken or wrong.

What goes wrong is decided before: by the schedule, and by `delivery`. Here it happens to a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

from aiohttp import web

from lading.testing.bodies import narrowed
from lading.testing.content import BlobReader, Content, DamagedBlob
from lading.testing.delivery import Cut, Delivery, asked_headers, spoilt
from lading.testing.endpoints import Answer, refuse
from lading.testing.faults import (
    AnswerLost,
    Close,
    ExpiredToken,
    Fault,
    Latency,
    RangeIgnored,
    Redirect,
    Reset,
    Stall,
    Status,
    TokenRefused,
)
from lading.testing.record import RecordedRequest
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.schedule import Faults

Decide = Callable[[Mapping[str, str]], Awaitable[Answer]]

_PIECE_BYTES = 256 * 1024

# A slow body comes in this many pieces a second.
_PIECES_PER_SECOND = 20

# There is no event for a client that leaves while its request is being answered, and none for bytes that have left.
_LOOK_SECONDS = 0.01

# linux/sockios.h: how many bytes haven't been sent yet.
_SIOCOUTQNSD = 0x894B

_CODES = {401: ErrorCode.UNAUTHORIZED, 403: ErrorCode.DENIED, 429: ErrorCode.TOOMANYREQUESTS}


class Sabotage:
    """What goes wrong with one request."""

    def __init__(self, request: web.Request, record: RecordedRequest, due: tuple[Fault, ...], schedule: Faults) -> None:
        self._request = request
        self._record = record
        self._due = due
        self._schedule = schedule

    async def answer(self, decide: Decide, content: Content) -> web.StreamResponse:
        """Answer the request as badly as is due; `decide` gives the right answer to the headers of a request."""
        for fault in self._due:
            if isinstance(fault, Latency):
                self._note(fault)
                await asyncio.sleep(fault.seconds)
        for fault in self._due:
            if isinstance(fault, Reset | Close | Stall) and fault.after is None:
                self._note(fault)
                await self._drain()
                await self._end(fault)
                return web.Response()
        answer = await self._replacement()
        if answer is None:
            answer = await decide(asked_headers(self._request.headers, self._due))
        return await _Transfer(self._request, self._spoil(answer), content).send(self._end)

    async def _replacement(self) -> Answer | None:
        for fault in self._due:
            if isinstance(fault, Status | Redirect | TokenRefused):
                self._note(fault)
                await self._drain()
                return self._instead(fault)
        return None

    def _instead(self, fault: Status | Redirect | TokenRefused) -> Answer:
        match fault:
            case Status(code, retry_after):
                headers = {} if retry_after is None else {"Retry-After": _retry_after(retry_after)}
                error = _CODES.get(code, ErrorCode.UNKNOWN)
                return refuse(Refusal(error, "out of order", status=code, headers=headers))
            case TokenRefused(realm):
                realm = realm or f"{self._request.scheme}://{self._request.host}/token"
                challenge = f'Bearer realm="{realm}",service="registry",error="invalid_token"'
                headers = {"WWW-Authenticate": challenge}
                return refuse(Refusal(ErrorCode.UNAUTHORIZED, "the token has expired", headers=headers))
            case Redirect(to, loop, status):
                target = self._schedule.turn(self._record, fault) if loop else to
                return Answer(status, {"Location": target})

    def _spoil(self, answer: Answer) -> Delivery:
        delivery = Delivery.of(answer, self._request.method)
        for fault in self._due:
            after = spoilt(delivery, fault)
            if after is not delivery or (isinstance(fault, RangeIgnored) and answer.status == 200):
                self._note(fault)
                if isinstance(fault, ExpiredToken):
                    self._schedule.follow(self._record, TokenRefused(fault.realm))
            delivery = after
        return delivery

    def _note(self, fault: Fault) -> None:
        self._schedule.note(self._record, fault)

    async def _drain(self) -> None:
        # A connection that is closed before everything was read is reset, whoever wanted what.
        with contextlib.suppress(ConnectionError):
            async for _ in self._request.content.iter_any():
                pass

    async def _end(self, cut: Cut) -> None:
        """Do to the connection what `cut` says, when everything before has been sent."""
        match cut:
            case Stall():
                while not _is_gone(self._request):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_SECONDS)
            case Reset():
                await _reset(self._request)
            case Close() | AnswerLost():
                _close(self._request)


class _Transfer:
    """Sends one delivery."""

    def __init__(self, request: web.Request, delivery: Delivery, content: Content) -> None:
        self._request = request
        self._delivery = delivery
        self._content = content
        whole = delivery.answer.body
        body = narrowed(whole, delivery.part)
        self._reader: BlobReader | io.BytesIO = io.BytesIO(body) if isinstance(body, bytes) else body
        self._padding = delivery.padding
        self._sent = 0

    async def send(self, end: Callable[[Cut], Awaitable[None]]) -> web.StreamResponse:
        """Send head and body, as far as they go, and end the connection if it has to be."""
        delivery, response = self._delivery, self._head()
        try:
            if isinstance(delivery.cut, AnswerLost):
                await end(delivery.cut)
                return response
            await response.prepare(self._request)
            if delivery.has_body:
                await self._send_body(response)
            if delivery.cut is not None:
                await end(delivery.cut)
            elif delivery.has_body and delivery.length_delta:
                _close(self._request)  # nobody could tell where the next answer begins
        except ConnectionError:
            pass  # the client is gone
        except (DamagedBlob, OSError):
            _close(self._request)
        finally:
            self._reader.close()
        return response

    def _head(self) -> web.StreamResponse:
        delivery = self._delivery
        headers = {"Docker-Distribution-API-Version": "registry/2.0", **delivery.answer.headers}
        response = _Unchecked(status=delivery.answer.status, headers=headers)
        is_chunkable = self._request.version >= (1, 1)
        if delivery.framing == "length":
            response.content_length = delivery.content_length
        elif delivery.framing == "chunked" and is_chunkable:
            response.enable_chunked_encoding()
        else:
            response.force_close()
        return response

    async def _send_body(self, response: web.StreamResponse) -> None:
        stop = getattr(self._delivery.cut, "after", None)
        limit = self._piece_limit()
        loop = asyncio.get_running_loop()
        started = loop.time()
        while stop is None or self._sent < stop:
            piece = await self._read(limit if stop is None else min(limit, stop - self._sent))
            if not piece:
                break
            await self._wait(len(piece), loop.time() - started)
            await response.write(piece)
            self._sent += len(piece)

    def _piece_limit(self) -> int:
        limits = [_PIECE_BYTES]
        if self._delivery.drip is not None:
            limits.append(max(self._delivery.drip.chunk, 1))
        if self._delivery.bytes_per_second is not None:
            limits.append(max(int(self._delivery.bytes_per_second / _PIECES_PER_SECOND), 1))
        return min(limits)

    async def _read(self, limit: int) -> bytes:
        piece = await self._content.run(partial(self._reader.read, limit))
        if not piece and self._padding:
            piece = bytes(min(limit, self._padding))
            self._padding -= len(piece)
        flipped = self._delivery.flipped
        if flipped is None or not self._sent <= flipped < self._sent + len(piece):
            return piece
        wrong = bytearray(piece)
        wrong[flipped - self._sent] ^= 0xFF
        return bytes(wrong)

    async def _wait(self, size: int, elapsed: float) -> None:
        delivery = self._delivery
        if delivery.drip is not None and self._sent:
            await asyncio.sleep(delivery.drip.seconds)
        if delivery.bytes_per_second is not None:
            await asyncio.sleep(max((self._sent + size) / delivery.bytes_per_second - elapsed, 0))


class _Unchecked(web.StreamResponse):
    """Says of its length what it is told, and sends what it is given."""

    _length_check = False


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


async def _reset(request: web.Request) -> None:
    while not _is_gone(request) and _has_unsent(request):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    transport = request.transport
    if transport is None:
        return
    opened = transport.get_extra_info("socket")
    if opened is not None and not transport.is_closing():
        # A socket that lingers for no time is reset when it is closed.
        opened.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        )
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def _has_unsent(request: web.Request) -> bool:
    transport = request.transport
    if isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size():
        return True
    opened = transport.get_extra_info("socket") if transport is not None else None
    if opened is None or sys.platform != "linux":
        return False
    import fcntl

    unsent = fcntl.ioctl(opened.fileno(), _SIOCOUTQNSD, bytes(4))
    return bool(int.from_bytes(unsent, sys.byteorder))


def _retry_after(value: int | str | datetime | timedelta) -> str:
    if isinstance(value, timedelta):
        value = datetime.now(UTC) + value
    if isinstance(value, datetime):
        return format_datetime(value.astimezone(UTC), usegmt=True)
    return str(value)
