"""Ingest into memory: what :class:`~lading.store.store.MemoryStore` takes content with."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from lading.errors import DigestMismatch, SizeMismatch
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.store.partials import Spans, is_etag


class MemoryIngest:
    """One piece of content on its way into a store in memory; ``finished`` is where it arrives."""

    def __init__(self, descriptor: Descriptor, finished: dict[Digest, bytes]) -> None:
        self._descriptor = descriptor
        self._finished = finished
        self._content = bytearray()
        self._spans = Spans()
        self.is_complete = False
        self.etag = ""

    @property
    def received(self) -> int:
        return self._spans.prefix

    async def write(self, chunk: bytes) -> None:
        await self.write_at(self.received, chunk)

    async def write_at(self, offset: int, chunk: bytes) -> None:
        if self.is_complete:
            return
        end = offset + len(chunk)
        if end > self._descriptor.size:
            raise SizeMismatch(f"{self._descriptor.digest}: more than {self._descriptor.size} bytes")
        self._spans.add(offset, end)
        self._content += bytes(max(0, end - len(self._content)))
        self._content[offset:end] = chunk

    async def restart(self) -> None:
        if not self.is_complete:
            self._drop()

    async def note_etag(self, etag: str) -> None:
        if is_etag(etag):
            self.etag = etag

    async def finish(self) -> None:
        content = bytes(self._content[: self.received])
        try:
            self._descriptor.check(content)
        except DigestMismatch:
            self._drop()
            raise
        self._finished[self._descriptor.digest] = content
        self.is_complete = True

    def _drop(self) -> None:
        self._content.clear()
        self._spans = Spans()
        self.etag = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._content.clear()
