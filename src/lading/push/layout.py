"""An OCI image layout, a directory or a tar, as what is pushed from."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TypeVar

import anyio.to_thread

from lading.errors import InvalidManifest, LadingError
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import MANIFEST_LIMIT
from lading.store.layout import choose
from lading.store.layout_read import Layout, open_layout

T = TypeVar("T")


class LayoutSource:
    """A layout that an image is copied from: a :class:`lading.push.artifact.Source`. Close it in the end.

    Nothing of it is trusted: what it gives is verified while it is pushed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._layout: Layout | None = None
        self._is_closed = False
        # A layout does one thing at a time; and a thread goes on when the task that waits for it is cancelled.
        self._gate = threading.Lock()

    async def root(self, name: str | None) -> Descriptor:
        """Give the image that the layout calls ``name``, by default the only one.

        Raises:
            InvalidManifest: it isn't a layout.
            LadingError: it can't be read, or the image isn't in it.
        """
        return await self._run(lambda layout: self._chosen(layout, name))

    def _chosen(self, layout: Layout, name: str | None) -> Descriptor:
        entries = layout.entries()
        try:
            found = choose(entries, name).descriptor
        except LadingError as error:
            raise LadingError(f"{self._path}: {error.message}", hint=error.hint) from error
        return replace(found, annotations={}, data=None, urls=())

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """Give a manifest, verified.

        Raises:
            InvalidManifest: it is too large for one.
            IntegrityError: it is another one.
            LadingError: it isn't there, or can't be read.
        """
        if descriptor.size > MANIFEST_LIMIT:
            raise InvalidManifest(f"{self._path}: {descriptor.digest}: more than {MANIFEST_LIMIT} bytes")
        raw = await self._run(lambda layout: layout.read(descriptor))
        if raw is None:
            raise self._missing(descriptor, "one image of it may be whole: choose its platform")
        return raw

    async def has(self, blob: Descriptor) -> bool:
        """Tell whether a blob is there. Raises LadingError."""
        return await self._run(lambda layout: layout.has(blob))

    async def open(self, blob: Descriptor, start: int = 0) -> AsyncIterator[bytes]:
        """Give a blob from byte ``start`` on. Raises LadingError."""
        if not await self.has(blob):
            raise self._missing(blob)
        pieces = await self._run(lambda layout: layout.pieces(blob, start))
        try:
            while piece := await self._run(lambda _: next(pieces, b"")):
                yield piece
        finally:
            with self._gate:
                pieces.close()

    def close(self) -> None:
        """Let go of everything. May be called again."""
        with self._gate:
            self._is_closed = True
            if self._layout is not None:
                self._layout.close()
                self._layout = None

    async def _run(self, operation: Callable[[Layout], T]) -> T:
        def run() -> T:
            with self._gate:
                if self._is_closed:
                    raise LadingError(f"{self._path} is closed")
                if self._layout is None:
                    self._layout = open_layout(self._path)
                return operation(self._layout)

        return await anyio.to_thread.run_sync(run)

    def _missing(self, part: Descriptor, hint: str = "") -> LadingError:
        return LadingError(f"{self._path} isn't whole: {part.digest} isn't in it", hint=hint)
