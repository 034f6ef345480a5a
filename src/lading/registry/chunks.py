"""Large blobs on their way into a repository: whole, in one PUT, or in pieces where the registry wants that.

distribution-spec, "Pushing a blob monolithically" and "Pushing a blob in chunks". No more of a blob is in memory than
what is under way. After a failure the registry is asked how far it has got: on from there, or all over again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio
import anyio.to_thread

from lading.errors import DigestMismatch, RateLimited, RegistryError, SizeMismatch, TransportError
from lading.http.limits import sleep
from lading.http.retry import Attempts, Retry
from lading.http.transport import Stream
from lading.oci.descriptor import Descriptor
from lading.registry.refusal import refusal
from lading.registry.writing import Begun, Writer, closing, location_of

PIECE = 16 * 1024 * 1024
"""Bytes of a piece, where the registry doesn't want larger or smaller ones."""

_SMALLEST_PIECE = 64 * 1024

_HASHED_HERE = 128 * 1024
"""Bytes that are hashed on the event loop; more would hold it up."""

# The upload's status isn't what RFC 9110 calls a Range: "Range: 0-<end-of-range>"; some registries say bytes=0-….
_RECEIVED = re.compile("(?:bytes=)?0-([0-9]{1,18})", re.ASCII)

OpenAt = Callable[[int], AsyncIterator[bytes]]
"""Gives content from a byte on, each time anew; what it gives is closed with ``aclose`` if it has that."""


class Content:
    """What is sent of one blob: read once from its first byte to its last, unless some of it is needed again.

    Each byte is hashed when it is read for the first time, and the last ones aren't given out before the digest is
    right. ``failure`` is why the content can't be had, if it can't.
    """

    def __init__(self, descriptor: Descriptor, what: str, open_at: OpenAt, progress: Callable[[int], object]) -> None:
        self.descriptor = descriptor
        self.failure: Exception | None = None
        self.hashed = 0
        """Bytes from the beginning that were read, at least once."""
        self._what = what
        self._open_at = open_at
        self._progress = progress
        self._hasher = descriptor.digest.hasher()
        self._chunks: AsyncIterator[bytes] | None = None
        self._position = 0
        self._rest = b""

    def part(self, start: int, stop: int) -> Stream:
        """Give the bytes from ``start`` to before ``stop``, as the body of a request."""
        return Stream(stop - start, partial(self._read, start, stop))

    async def aclose(self) -> None:
        """Let go of the source. Parts can be read again afterwards."""
        chunks, self._chunks = self._chunks, None
        close = getattr(chunks, "aclose", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await close()

    async def _read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        try:
            if self._chunks is None or self._position != start:
                await self.aclose()
                self._chunks, self._position, self._rest = self._open_at(start), start, b""
            while self._position < stop:
                chunk = self._rest or await self._next()
                taken, self._rest = chunk[: stop - self._position], chunk[stop - self._position :]
                await self._hash(taken)
                self._position += len(taken)
                self._progress(self._position)
                yield taken
        except Exception as error:
            self.failure = error
            raise

    async def _next(self) -> bytes:
        assert self._chunks is not None
        # If this is cut off, the source is where nobody knows: it is opened again for what follows.
        position, self._position = self._position, -1
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            size = self.descriptor.size
            raise SizeMismatch(f"{self._what}: there are only {position} of {size} bytes") from None
        self._position = position
        return chunk

    async def _hash(self, chunk: bytes) -> None:
        fresh = chunk[max(0, self.hashed - self._position) :]
        if not fresh:
            return
        # On a copy: a hash that was cut off half-way through says nothing any more.
        hasher = self._hasher.copy()
        if len(fresh) > _HASHED_HERE:
            await anyio.to_thread.run_sync(hasher.update, fresh)
        else:
            hasher.update(fresh)
        self._hasher, self.hashed = hasher, self.hashed + len(fresh)
        digest = self.descriptor.digest
        if self.hashed == self.descriptor.size and hasher.hexdigest() != digest.encoded:
            raise DigestMismatch(
                f"{self._what}: something else came", hint="what it comes from, or something on the way, changes it"
            )


class Transfer:
    """Brings one blob into an upload that was opened."""

    def __init__(self, writer: Writer, content: Content, attempts: Attempts) -> None:
        self._writer = writer
        self._content = content
        self._attempts = attempts
        self._what = f"{writer.name}: blob {content.descriptor.digest}"
        self._size = content.descriptor.size
        self._location = ""
        self._offset = 0
        self._furthest = 0
        self._piece = 0
        """Bytes of a piece; 0 is the whole at once."""
        self._smallest = _SMALLEST_PIECE

    async def run(self, begun: Begun) -> None:
        """Bring all of the content there, from ``begun`` to its end; what can't be finished is cancelled.

        Raises:
            IntegrityError: the source gave something else, or less; the registry hasn't got all of it.
            Exception: what the source raised.
            RegistryError, TransportError, ProtocolError: the registry didn't take it.
        """
        self._location = begun.location
        if begun.minimum:
            self._piece = max(PIECE, begun.minimum)
            self._smallest = max(_SMALLEST_PIECE, begun.minimum)
        try:
            await self._run()
        except BaseException:
            await self._writer.cancel(self._location)
            raise

    async def _run(self) -> None:
        try:
            while not await self._is_done():
                pass
        finally:
            await self._content.aclose()

    async def _is_done(self) -> bool:
        try:
            await self._deliver()
            return True
        except (TransportError, RegistryError) as error:
            if error is self._content.failure:
                raise
            failed = error
        if isinstance(failed, RegistryError) and failed.status == 413 and self._shrink():
            if not self._offset:
                await self._begin_again()
                return False
        else:
            await self._wait(failed)
        return await self._find_place()

    async def _deliver(self) -> None:
        if not self._offset and not 0 < self._piece < self._size:
            await self._whole()
            return
        while self._offset < self._size:
            await self._patch()
        await self._close()

    async def _whole(self) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(self._size)}
        url, body = closing(self._location, self._content.descriptor.digest), self._content.part(0, self._size)
        # What a registry makes of the same upload twice, nobody knows: sent once, and then it is asked.
        request = self._writer.request("PUT", url, headers, body, attempts=Attempts(Retry(attempts=1)))
        async with await self._writer.send(request) as response:
            if response.status != 201:
                raise await refusal(request, response, self._what)

    async def _patch(self) -> None:
        start = self._offset
        stop = min(start + (self._piece or self._size), self._size)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(stop - start),
            "Content-Range": f"{start}-{stop - 1}",
        }
        request = self._writer.request("PATCH", self._location, headers, self._content.part(start, stop))
        async with await self._writer.send(request) as response:
            if response.status != 202:
                raise await refusal(request, response, self._what)
            if response.headers.get("Location"):
                self._location = location_of(response)
            said = response.headers.get("Range")
        # It may have taken a part; other words than that are no more certain than the 202 itself.
        self._offset = received if start < (received := _received(said or "")) < stop else stop
        self._advance()

    async def _close(self) -> None:
        digest = self._content.descriptor.digest
        request = self._writer.request("PUT", closing(self._location, digest), {"Content-Length": "0"})
        async with await self._writer.send(request) as response:
            if response.status == 201:
                return
            error = await refusal(request, response, self._what)
        # An upload is unknown once it is complete, and the answer that said so may have been lost.
        if error.status != 404 or not await self._writer.has(digest):
            raise error

    def _shrink(self) -> bool:
        """Make the pieces smaller, and tell whether that is possible."""
        refused = self._piece if 0 < self._piece < self._size else self._size
        piece = min(PIECE, refused // 2)
        if piece < self._smallest:
            return False
        self._piece = piece
        return True

    async def _wait(self, failed: TransportError | RegistryError) -> None:
        """Wait before the next attempt, or raise what failed."""
        status = failed.status if isinstance(failed, RegistryError) else 0
        after = failed.retry_after if isinstance(failed, RateLimited) else None
        # 404 and 416: the upload isn't where it was thought to be, which says nothing about another one.
        seconds = self._attempts.delay(None if status in (404, 416) else failed, after)
        if seconds is None:
            raise failed
        await sleep(seconds)

    async def _find_place(self) -> bool:
        """Ask how far the registry has got, and tell whether that is all of it."""
        request = self._writer.request("GET", self._location)
        async with await self._writer.send(request) as response:
            offset = _received(response.headers.get("Range") or "") if response.status == 204 else 0
            if offset and response.headers.get("Location"):
                self._location = location_of(response)
        if 0 < offset <= self._content.hashed:
            self._offset = offset
            self._advance()
            return False
        # Unknown, empty, or somebody else's: it may be complete.
        if await self._writer.has(self._content.descriptor.digest):
            return True
        await self._begin_again()
        return False

    async def _begin_again(self) -> None:
        await self._writer.cancel(self._location)
        begun = await self._writer.begin(self._content.descriptor.digest)
        assert begun is not None
        self._location, self._offset = begun.location, 0

    def _advance(self) -> None:
        if self._offset > self._furthest:
            self._furthest = self._offset
            self._attempts.progress()


def _received(text: str) -> int:
    """Give how many bytes an upload has; one that has none says ``0-0``, as does one that has a single one."""
    found = _RECEIVED.fullmatch(text.strip())
    return int(found[1]) + 1 if found is not None and int(found[1]) else 0
