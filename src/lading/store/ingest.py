"""Ingest: a large blob on its way from the network to the disk, off the event loop.

What arrives is gathered into about a mebibyte, then hashed and written in one hop to a thread. Whatever happens to the
task, also a cancellation that leaves a thread at work, no temporary file and no descriptor stays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lading.errors import SizeMismatch
from lading.oci.descriptor import Descriptor
from lading.store.blobs import Part

BATCH = 1024 * 1024
"""Bytes to gather before they are written: fewer cost hops, more cost cache misses."""

_PIECES = 1024
"""Chunks to gather at most, however small."""


class LocalIngest:
    """Takes one blob into a store on disk; of one task."""

    def __init__(self, descriptor: Descriptor, part: Part) -> None:
        self._descriptor = descriptor
        self._part = part
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._received = 0
        self._gate = threading.Lock()  # held for moments only: over whether a thread is at work, and whether it's over
        self._over = False
        self._idle = threading.Event()
        self._idle.set()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            StoreError: the disk refused.
        """
        self._received += len(chunk)
        if self._received > self._descriptor.size:
            raise SizeMismatch(f"{self._descriptor.digest}: more than {self._descriptor.size} bytes")
        self._pieces.append(bytes(chunk))
        self._gathered += len(chunk)
        if self._gathered >= BATCH or len(self._pieces) >= _PIECES:
            await self._hop(self._flush)

    async def finish(self) -> None:
        """Verify the blob and make it real, durably; a commit with its descriptor then makes it visible.

        Raises:
            SizeMismatch: it is shorter than its descriptor says.
            DigestMismatch: it is something else.
            StoreError: the disk refused.
        """
        if self._received < self._descriptor.size:
            raise SizeMismatch(f"{self._descriptor.digest}: {self._received} bytes instead of {self._descriptor.size}")
        await self._hop(self._finish)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import anyio.to_thread

        with self._gate:
            self._over = True
            is_idle = self._idle.is_set()
        self._pieces.clear()
        if is_idle and not self._part.is_open:
            return
        # If a thread is still at work, the task was cancelled from outside of anyio; that thread discards the part.
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._discard if is_idle else self._idle.wait)
        finally:
            if is_idle:
                self._discard()  # the same cancellation may have kept the thread from beginning

    async def _hop(self, step: Callable[[], None]) -> None:
        import anyio.to_thread

        await anyio.to_thread.run_sync(self._work, step)

    def _work(self, step: Callable[[], None]) -> None:
        with self._gate:
            if self._over:
                return
            self._idle.clear()
        try:
            step()
        finally:
            with self._gate:
                if self._over:
                    self._part.discard()
                self._idle.set()

    def _discard(self) -> None:
        with self._gate:
            self._part.discard()

    def _flush(self) -> None:
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        if pieces:
            self._part.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _finish(self) -> None:
        self._flush()
        self._part.finish()
