"""Blobs, from a registry into memory or into a store: bounded, verified, and gone on with where the last attempt ended.

A failure in a body costs what was on its way, and nothing that has arrived. Failures that make progress use up no
patience. Whatever a server answers to a request for the rest, only bytes that belong where they are put get there; the
digest of the whole decides in the end, and what was put together from several answers gets a second chance as one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial

import anyio
import anyio.to_thread

from lading.errors import BodyInterrupted, DigestMismatch, IntegrityError, ProtocolError, SizeMismatch, TransportError
from lading.http.retry import Attempts
from lading.http.transport import Response, is_close_framed
from lading.oci.descriptor import Descriptor
from lading.pull.parallel import Pieces, range_headers
from lading.registry.ranges import ContentRange, continue_at, parse_content_range
from lading.registry.repository import Repository
from lading.store.store import INLINE_LIMIT, Ingest, Store

__all__ = ["ContentRange", "fetch_blob", "parse_content_range", "read_blob"]

_log = logging.getLogger("lading.pull")

# RFC 9110, section 8.6: Content-Length = 1*DIGIT; 18 digits are more bytes than any blob has.
_LENGTH = re.compile("[0-9]{1,18}")

Progress = Callable[[int], object]
"""Is told how many bytes of a blob are there: at first how many there were before, in the end all of them."""


async def read_blob(
    repository: Repository, descriptor: Descriptor, large: anyio.CapacityLimiter | None = None
) -> bytes:
    """Give the content that ``descriptor`` names, verified.

    ``large`` bounds how many blobs above 128 KiB are in flight at once; without it the caller does that.

    Raises:
        IntegrityError: the registry sent something else, or more, or less.
        RegistryError, TransportError: it sent none.
    """
    if large is None or descriptor.size <= INLINE_LIMIT:
        return await _Reading(repository, descriptor).run()
    async with large:
        return await _Reading(repository, descriptor).run()


class _Reading:
    """One blob on its way into memory: from where it stopped if it is large, what is small comes in one piece."""

    def __init__(self, repository: Repository, descriptor: Descriptor) -> None:
        self._repository = repository
        self._descriptor = descriptor
        self._what = f"{repository.name}: blob {descriptor.digest}"
        self._is_large = descriptor.size > INLINE_LIMIT
        self._content = bytearray()
        self._furthest = 0

    async def run(self) -> bytes:
        return await self._repository.blob(self._descriptor.digest, self._read, self._headers)

    def _headers(self) -> Mapping[str, str]:
        if not self._is_large:
            self._content.clear()
        return range_headers("", len(self._content))

    async def _read(self, response: Response, attempts: Attempts) -> bytes:
        content, size, offset = self._content, self._descriptor.size, len(self._content)
        try:
            start = continue_at(response.status, response.headers, offset, size)
            del content[start:]
            async for chunk in response.chunks():
                content += chunk
                if len(content) > size:
                    raise SizeMismatch(f"{self._what}: more than its {size} bytes")
                if self._is_large:
                    self._furthest = _progressed(len(content), self._furthest, attempts)
            if len(content) < size and (offset or is_close_framed(response) or response.status == 206):
                raise _interrupted(self._what, response, len(content), size)
            return await self._checked()
        except (ProtocolError, IntegrityError) as error:
            content.clear()
            if not offset:
                raise
            raise BodyInterrupted(f"{self._what}: {error.message}", url=response.url, hint="try again") from error

    async def _checked(self) -> bytes:
        content = bytes(self._content)
        try:
            if self._is_large:
                # Hashing this much on the event loop would stall it.
                return await anyio.to_thread.run_sync(self._descriptor.check, content)
            return self._descriptor.check(content)
        except IntegrityError as error:
            raise type(error)(f"{self._repository.name}: blob {error.message}", hint=error.hint) from error


async def fetch_blob(
    repository: Repository, descriptor: Descriptor, store: Store, progress: Progress | None = None
) -> int:
    """Bring a blob into ``store``, and give how many bytes of it came; a commit with its descriptor makes it visible.

    What an earlier attempt left, in this process or another, isn't fetched again; while another process fetches it,
    this one waits for that. For what isn't fetched from ``repository`` at all, that is asked whether it has it: bytes
    that are here already prove nothing.

    Raises:
        IntegrityError: the registry sent something else, or more, or less.
        RegistryError, TransportError, ProtocolError: it sent none, or not all of it.
        StoreError: the store can't take it.
    """
    came = 0
    for is_anew in (False, True):
        async with store.ingest(descriptor) as ingest:
            if is_anew:
                await ingest.restart()
            download = _Download(repository, descriptor, ingest, progress, is_anew=is_anew)
            try:
                await download.run()
            except (ProtocolError, IntegrityError) as error:
                # What was found may have been damaged: that is no reason to fail, and none to fail for ever.
                if is_anew or not download.is_doubtful:
                    raise
                _log.warning("%s: once more, from the start", error.message)
            else:
                return came + download.came
            came += download.came
    raise AssertionError("unreachable")


class _Download:
    """One blob on its way: from the start, or from where it stopped; by several connections where that helps.

    With ``is_anew`` it comes by one.
    """

    def __init__(
        self,
        repository: Repository,
        descriptor: Descriptor,
        ingest: Ingest,
        progress: Progress | None,
        *,
        is_anew: bool,
    ) -> None:
        self.came = 0
        """How many bytes came."""
        self.is_doubtful = False
        """Whether it may come right in one piece, though it went wrong in several."""
        self._repository = repository
        self._descriptor = descriptor
        self._ingest = ingest
        self._progress = progress
        self._what = f"{repository.name}: blob {descriptor.digest}"
        self._offset = 0
        self._here = descriptor.size - sum(end - start for start, end in ingest.gaps)
        self._furthest = ingest.received
        self._pieces = Pieces(repository, descriptor, ingest, self._arrived, is_alone=is_anew)

    async def run(self) -> None:
        ingest, size = self._ingest, self._descriptor.size
        self._tell()
        if ingest.is_complete or ingest.received == size:
            await self._repository.turns.small(partial(self._repository.require_blob, self._descriptor.digest))
        else:
            try:
                await self._pieces.beside(self._first)
            except ProtocolError:
                self.is_doubtful = self.is_doubtful or self._pieces.are_wrong
                raise
        if not ingest.is_complete:
            self.is_doubtful = True
            await self._finish()
        if self._progress is not None:
            self._progress(size)

    async def _first(self) -> None:
        ask = partial(self._repository.blob, self._descriptor.digest, self._read, self._headers)
        await self._repository.turns.large(ask)

    def _headers(self) -> Mapping[str, str]:
        self._offset = self._ingest.received
        return self._pieces.headers(self._offset, None if self._pieces.is_all_asked else self._pieces.end - 1)

    async def _read(self, response: Response, attempts: Attempts) -> None:
        size, pieces = self._descriptor.size, self._pieces
        # Whatever is wrong with an answer, if it is one to a request for the rest, there is another request to try.
        self.is_doubtful = self._offset > 0 or not pieces.is_all_asked
        start = await self._begin(response)
        received = start
        try:
            async for chunk in response.chunks():
                if received + len(chunk) > size:
                    raise SizeMismatch(f"{self._what}: more than its {size} bytes")
                taken = pieces.share(received, chunk)
                await pieces.write(received, taken)
                received += len(taken)
                self._furthest = _progressed(received, self._furthest, attempts)
                if received == pieces.end < size:
                    return  # the rest comes in pieces
        except TransportError:
            # Once every byte is here, how the answer ends doesn't matter.
            if received < pieces.end:
                raise
        if received < pieces.end:
            raise _interrupted(self._what, response, received, size)
        if start == 0 and pieces.is_all_asked:
            # It is the answer to one request, and so it is that endpoint's fault if it is wrong.
            self.is_doubtful = False
            await self._finish()

    async def _begin(self, response: Response) -> int:
        """Give the byte at which an answer begins, and prepare to take it."""
        try:
            start = continue_at(response.status, response.headers, self._offset, self._descriptor.size)
            if start != self._offset and self._pieces.are_begun:
                raise ProtocolError("ranges aren't honoured any more")
        except ProtocolError as error:
            raise ProtocolError(f"{self._what}: {error.message}", hint=error.hint or "try again") from error
        length = response.headers.get("Content-Length") or ""
        if _LENGTH.fullmatch(length) and start + int(length) > self._descriptor.size:
            raise SizeMismatch(f"{self._what}: {length} bytes are announced from byte {start} on, more than it has")
        if start != self._offset:
            self._pieces.give_up()
            await self._ingest.restart()
            self._here = 0
        if etag := response.headers.get("ETag"):
            await self._ingest.note_etag(etag)
        self._pieces.begin(start)
        return start

    async def _finish(self) -> None:
        try:
            await self._ingest.finish()
        except DigestMismatch as error:
            raise DigestMismatch(f"{self._repository.name}: blob {error.message}", hint=error.hint) from error

    def _arrived(self, count: int) -> None:
        self.came += count
        self._here += count
        if self._here < self._descriptor.size:  # the rest is told when it is certain
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._here)


def _progressed(received: int, furthest: int, attempts: Attempts) -> int:
    """Take note of progress, if there is any: bytes that were here before are none. Gives the furthest byte so far."""
    if received > furthest:
        attempts.progress()
    return max(received, furthest)


def _interrupted(what: str, response: Response, received: int, size: int) -> BodyInterrupted:
    return BodyInterrupted(f"{what}: {received} of {size} bytes came", url=response.url, hint="try again")
