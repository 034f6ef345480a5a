"""Ingest: a large blob on its way from the network to the disk, off the event loop.

What arrives is gathered into about a mebibyte, then hashed and written in one hop to a thread. Whatever happens to the
task, also a cancellation that leaves a thread at work, no lock and no descriptor stays, and no file but a partial that
is worth to be gone on with.

In all processes one writer at a time takes a digest; others wait until the blob is there, or until it is their turn. A
writer that stands still, though its process lives on, isn't waited for longer than half a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.errors import DigestMismatch, SizeMismatch, StoreError
from lading.oci.descriptor import Descriptor
from lading.store.blobs import Blobs
from lading.store.disk import translated
from lading.store.generations import Identity, state
from lading.store.leases import LocalLease
from lading.store.partials import KEPT, Turn, is_etag
from lading.store.spans import Spans
from lading.store.store import INLINE_LIMIT
from lading.store.waiting import Waiting

if TYPE_CHECKING:
    import anyio

BATCH = 1024 * 1024
"""Bytes to gather before they are written: fewer cost hops, more cost cache misses."""

_PIECES = 1024
"""Chunks to gather at most, however small."""

_GATHER_SECONDS = 5.0
"""Seconds to gather at most: what comes slowly isn't lost either, and others see that it comes."""

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.2
"""Seconds between two looks whether it is our turn."""


class LocalIngest:
    """Takes one blob into a store on disk. One task begins and ends it, several may write."""

    def __init__(self, descriptor: Descriptor, blobs: Blobs, lease: LocalLease) -> None:
        self._descriptor = descriptor
        self._blobs = blobs
        self._lease = lease
        self._is_kept = False
        self._part = blobs.begin(descriptor.digest, descriptor.size)
        self._turn = Turn(blobs.ingest, descriptor.digest)
        self._is_complete = False
        self._has_begun = False
        self._wrong: Identity | None = None  # the file that was looked at and isn't the blob
        self._spans = Spans()
        self._pieces: list[tuple[int, bytes]] = []
        self._gathered = 0
        self._flushed = time.monotonic()
        self._failure: StoreError | None = None
        self._hopping: anyio.Lock | None = None
        self._busy = threading.Lock()  # held by the thread that is at work, also one that nobody waits for any more
        self._gate = threading.Lock()  # held for moments only: over the pieces, whether a thread is at work, the end
        self._over = False
        self._idle = threading.Event()
        self._idle.set()

    @property
    def received(self) -> int:
        """How many bytes there are in a row, from the first one on: where to go on."""
        return self._descriptor.size if self._is_complete else self._spans.prefix

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """What is to be fetched, in order: where each gap begins, and where it ends. Only those are written."""
        return [] if self._is_complete else self._spans.gaps(self._descriptor.size)

    @property
    def is_complete(self) -> bool:
        """Whether the whole blob is there, verified: nothing is to be fetched."""
        return self._is_complete

    @property
    def etag(self) -> str:
        """The entity tag that was noted for these bytes, perhaps by an earlier process; empty if none was."""
        return self._part.etag

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; what is complete ignores them.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            ValueError: some of them were written before, out of order.
            StoreError: the disk refused.
        """
        await self._take(self.received, chunk)

    async def write_at(self, offset: int, chunk: bytes) -> None:
        """Take bytes from ``offset`` on, also before those in front of them; what is complete ignores them.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            ValueError: some of them are there already.
            StoreError: the disk refused.
        """
        await self._take(offset, chunk)

    async def restart(self) -> None:
        """Drop every byte, and the entity tag; what is complete stays. Raises StoreError."""
        if self._is_complete:
            return
        with self._gate:
            self._pieces.clear()
            self._gathered = 0
        self._spans = Spans()
        await self._hop(self._restart)

    async def note_etag(self, etag: str) -> None:
        """Remember the entity tag of these bytes: up to 256 visible ASCII characters, anything else is ignored."""
        if is_etag(etag):
            self._part.etag = etag

    async def finish(self) -> None:
        """Verify the blob and make it real, durably; a commit with its descriptor then makes it visible.

        Raises:
            SizeMismatch: it is shorter than its descriptor says.
            DigestMismatch: it is something else, and all of it was dropped.
            StoreError: the disk refused.
        """
        if self._is_complete:
            return
        if self.received < self._descriptor.size:
            raise SizeMismatch(f"{self._descriptor.digest}: {self.received} bytes instead of {self._descriptor.size}")
        await self._hop(self._finish)

    async def __aenter__(self) -> Self:
        if self._descriptor.size <= INLINE_LIMIT:
            return self  # fetching it twice is cheaper than a lock
        try:
            await self._begin()
        except BaseException:
            await self._end(is_wanted=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end(is_wanted=kind is None)

    async def _begin(self) -> None:
        import anyio

        pause = _FIRST_PAUSE
        waiting = Waiting(self._descriptor.digest)
        while True:
            await self._hop(partial(self._look, waiting))
            if self._is_complete or self._has_begun:
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _end(self, *, is_wanted: bool) -> None:
        is_left = False
        try:
            await self._wait()
            is_left = True
        finally:
            # Until it is committed nobody may collect it: but whoever failed won't commit it.
            if self._is_kept and not (is_left and is_wanted and self._is_complete):
                self._is_kept = False
                self._lease.drop((self._descriptor.digest,))

    async def _wait(self) -> None:
        import anyio.to_thread

        with self._gate:
            self._over = True
            is_idle = self._idle.is_set()
        if is_idle and not self._part.is_open and not self._turn.is_held:
            self._pieces.clear()
            return
        # If a thread is still at work, that thread leaves the part, as soon as it can.
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._leave if is_idle else self._idle.wait)
        finally:
            if is_idle:  # a cancellation from outside of anyio may have kept the thread from beginning
                self._pieces.clear()
                self._leave()

    async def _take(self, offset: int, chunk: bytes) -> None:
        if self._is_complete:
            return
        end = offset + len(chunk)
        if end > self._descriptor.size:
            raise SizeMismatch(f"{self._descriptor.digest}: more than {self._descriptor.size} bytes")
        self._spans.add(offset, end)
        with self._gate:
            self._pieces.append((offset, bytes(chunk)))
            self._gathered += len(chunk)
        if self._is_full():
            await self._hop(self._flush, self._is_full)

    def _is_full(self) -> bool:
        if self._gathered >= BATCH or len(self._pieces) >= _PIECES:
            return True
        return self._gathered > 0 and time.monotonic() - self._flushed > _GATHER_SECONDS

    # Hops

    async def _hop(self, step: Callable[[], None], is_needed: Callable[[], bool] | None = None) -> None:
        """Take ``step`` in a thread, when no other one is at work, if it ``is_needed`` then."""
        import anyio.to_thread

        if self._hopping is None:
            self._hopping = anyio.Lock()
        try:
            self._hopping.acquire_nowait()
        except anyio.WouldBlock:
            await self._hopping.acquire()
        try:
            if is_needed is None or is_needed():
                await anyio.to_thread.run_sync(self._work, step, abandon_on_cancel=True)
        finally:
            self._hopping.release()

    def _work(self, step: Callable[[], None]) -> None:
        with self._busy:
            with self._gate:
                if self._over:
                    return
                self._idle.clear()
            try:
                step()
            except _Over:
                pass
            except StoreError as error:
                self._failure = error
                raise
            finally:
                with self._gate:
                    is_over = self._over
                    if not is_over:
                        self._idle.set()
                if is_over:
                    self._let_go()
                    self._idle.set()

    def _go_on(self) -> None:
        if self._over:
            raise _Over

    def _look(self, waiting: Waiting) -> None:
        """See whether the blob is there, or else whether it is our turn, or nobody else makes progress."""
        self._keep()
        if self._is_there():
            return
        with translated(self._turn.path, "lock"):
            self._blobs.prepare(self._descriptor.digest.algorithm)
            if not self._turn.acquire() and not waiting.is_in_vain(self._blobs.ingest):
                return
        if self._is_there():  # whoever had the lock has just finished
            self._turn.release()
            return
        self._has_begun = True
        self._part = self._blobs.resume(self._descriptor.digest, self._descriptor.size)
        try:
            self._part.catch_up(self._go_on)
        except StoreError:  # it can't be read, but it can be fetched
            self._restart()
        self._spans = self._part.spans

    def _keep(self) -> None:
        """Need the blob: what is found from now on isn't collected."""
        if not self._is_kept:
            self._is_kept = True
            self._lease.keep((self._descriptor.digest,))

    def _is_there(self) -> bool:
        digest = self._descriptor.digest
        found = state(self._blobs.path(digest))
        if found is None or found == self._wrong:
            return False
        self._is_complete = self._blobs.is_whole(digest, self._descriptor.size, self._go_on)
        self._wrong = found
        return self._is_complete

    def _flush(self) -> None:
        if self._failure is not None:
            raise self._failure.again()
        self._put()
        self._part.catch_up(self._go_on)
        self._part.record()

    def _put(self) -> None:
        with self._gate:
            pieces, self._pieces, self._gathered = self._pieces, [], 0
            self._flushed = time.monotonic()
        for offset, data in _runs(pieces):
            self._part.write(data, offset)

    def _restart(self) -> None:
        self._part.discard()
        self._failure = None
        self._part = self._blobs.begin(self._descriptor.digest, self._descriptor.size, may_stay=self._has_begun)

    def _finish(self) -> None:
        self._keep()
        self._flush()
        try:
            self._part.finish()
        except DigestMismatch:
            self._spans = Spans()
            self._restart()
            raise
        self._is_complete = True
        self._turn.release()

    def _leave(self) -> None:
        with self._busy:
            self._let_go()

    def _let_go(self) -> None:
        """Leave what there is to whoever goes on, if it is worth that; else remove it. May be called again."""
        try:
            if self._failure is None and self._part.is_open and self._spans.total > KEPT:
                self._put()
        except StoreError as error:
            self._failure = error
        finally:
            # What a disk refused to take isn't to be trusted, and its space is needed.
            if self._failure is None and self._part.may_stay:
                self._part.leave()
            else:
                self._part.discard()
            self._turn.release()
            self._pieces.clear()


class _Over(Exception):
    """Nobody waits for this thread any more."""


def _runs(pieces: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Join pieces that follow each other."""
    pieces.sort(key=lambda piece: piece[0])
    run: list[bytes] = []
    start = end = 0
    for offset, data in pieces:
        if run and offset != end:
            yield start, b"".join(run)
            run = []
        if not run:
            start = end = offset
        run.append(data)
        end += len(data)
    if run:
        yield start, run[0] if len(run) == 1 else b"".join(run)
