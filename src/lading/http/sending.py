"""Bodies that are read while they are sent: one attempt to send a stream, and for how long the other side may take.

aiohttp iterates a body in a task of its own. Whoever began to send one closes it in the end, whatever happened: then
that task has ended, and what the stream had open is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
from collections.abc import AsyncIterator
from typing import Self

import anyio

from lading.errors import LadingError, SizeMismatch
from lading.http.timeouts import Timeouts
from lading.http.transport import Request, Stream
from lading.redact import redact_url

_PIECE = 256 * 1024
"""Bytes that are handed over at once: whoever takes no more of them in time has stalled."""

_COMMIT_RATE = 10_000_000
"""Bytes a second, at least, at which a registry reads once more what it was sent before it answers."""


class SourceFailed(Exception):
    """The stream failed, and not the connection: see ``Sending.failure``."""


class Sending:
    """One attempt to send a stream. While ``timer`` runs, it ends the attempt if the other side stalls.

    ``failure`` is why the stream ended early, if it did; ``is_begun`` tells whether it was opened, ``is_done`` whether
    all of it was handed over.
    """

    def __init__(self, request: Request, stream: Stream, timeouts: Timeouts) -> None:
        self.failure: Exception | None = None
        self.is_begun = False
        self.is_done = False
        self.timer: asyncio.Timeout | None = None
        self._what = f"{request.method} {redact_url(request.url)}"
        self._stream = stream
        self._timeouts = timeouts
        self._chunks: AsyncIterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._sent = 0
        self._writer: asyncio.Task[object] | None = None

    @property
    def answer_seconds(self) -> float:
        """How long the other side may take to answer, once it has everything."""
        return self._timeouts.first_byte + self._stream.length / _COMMIT_RATE

    def __aiter__(self) -> Self:
        # Some versions of aiohttp send a request once more by themselves, where they think that it does no harm.
        if self.is_begun:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
        return self

    async def __anext__(self) -> bytes | memoryview:
        self._writer = asyncio.current_task()
        if not self._rest:
            # How long the source takes says nothing about the other side; it has limits of its own.
            self._allow(math.inf)
            try:
                self._rest = memoryview(await self._next())
            except Exception as error:
                self.failure = error
                raise SourceFailed from None
        if not self._rest:
            self.is_done = True
            self._allow(self.answer_seconds)
            raise StopAsyncIteration
        piece, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
        self._sent += len(piece)
        rate = self._timeouts.minimum_rate
        self._allow(self._timeouts.stall + (len(piece) / rate if rate else 0.0))
        return piece

    async def _next(self) -> bytes:
        """Give the next chunk that isn't empty; nothing at the end."""
        if self._chunks is None:
            self.is_begun = True
            self._chunks = self._stream.open()
        chunk = b""
        while not chunk:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                break
        if self._sent + len(chunk) > self._stream.length or (not chunk and self._sent < self._stream.length):
            raise SizeMismatch(f"{self._what}: the body isn't the {self._stream.length} bytes that were announced")
        return chunk

    def _allow(self, seconds: float) -> None:
        # It may be over by now, when the answer's head came before all of the body had gone.
        with contextlib.suppress(RuntimeError):
            if self.timer is not None:
                now = asyncio.get_running_loop().time()
                self.timer.reschedule(None if math.isinf(seconds) else now + seconds)

    async def aclose(self) -> None:
        """Let go of the stream, when nobody is reading it any more; may be called again."""
        writer, self._writer = self._writer, None
        with anyio.CancelScope(shield=True):
            if writer is not None and not writer.done() and writer is not asyncio.current_task():
                writer.cancel()
                await asyncio.wait([writer])
            chunks, self._chunks = self._chunks, None
            close = getattr(chunks, "aclose", None)
            if close is not None:
                with contextlib.suppress(LadingError):
                    await close()
