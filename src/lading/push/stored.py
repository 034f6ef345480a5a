"""What the store holds of a repository, as what is pushed from: that isn't asked for again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

import anyio.to_thread

from lading.errors import StoreCorrupted, StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.reference import Reference
from lading.push.registry import RegistrySource
from lading.store.store import Absent, Intact, Record, Store

T = TypeVar("T")

_log = logging.getLogger("lading.push")


class StoredSource:
    """A repository that is copied from, through a store: a :class:`lading.push.artifact.Source`.

    Only what was seen in this very repository counts. A store that can't be read holds nothing, as does none at all.
    """

    def __init__(self, store: Store | None, reference: Reference, source: RegistrySource) -> None:
        self._store = store
        self._reference = reference
        self._name = reference.name
        self._source = source

    async def root(self) -> Descriptor:
        """Give what the reference stands for: what a digest names needs no asking, if it is here."""
        if self._reference.is_pinned and (found := await self._look(self._pinned)) is not None:
            return found
        return await self._source.root(self._reference.selector)

    def _pinned(self, store: Store) -> Descriptor | None:
        record = store.resolve(self._reference)
        read = store.read(self._name, record.digest) if isinstance(record, Record) else record
        if not isinstance(record, Record) or not isinstance(read, Intact):
            return None
        return Descriptor(record.media_type, record.digest, len(read.content))

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """Give a manifest. Raises what the registry's source does."""
        found = await self._look(lambda store: store.read(self._name, descriptor.digest))
        return found.content if isinstance(found, Intact) else await self._source.manifest(descriptor)

    async def has(self, blob: Descriptor) -> bool:
        """Tell whether a blob is here, or there."""
        return bool(await self._look(lambda store: store.holds(self._name, blob))) or await self._source.has(blob)

    async def open(self, blob: Descriptor, start: int = 0) -> AsyncIterator[bytes]:
        """Give a blob from byte ``start`` on.

        Raises:
            StoreCorrupted: it is here, and damaged.
            Exception: what the registry's source raises.
        """
        pieces = await self._look(lambda store: self._held(store, blob))
        if pieces is None:
            async with aclosing(self._source.open(blob, start)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        position = 0
        while piece := await anyio.to_thread.run_sync(next, pieces, b""):
            if position + len(piece) > start:
                yield piece[max(0, start - position) :]
            position += len(piece)

    def _held(self, store: Store, blob: Descriptor) -> Iterator[bytes] | None:
        if not store.holds(self._name, blob):
            return None
        pieces = store.stream(self._name, blob.digest)
        return None if isinstance(pieces, Absent) else pieces

    async def _look(self, look: Callable[[Store], T]) -> T | None:
        if self._store is None:
            return None
        try:
            return await anyio.to_thread.run_sync(look, self._store)
        except StoreCorrupted:
            raise
        except StoreError as error:
            _log.debug("%s: the store isn't used: %s", self._name, error)
            return None
