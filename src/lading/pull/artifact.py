"""Whole artifacts, strictly: a registry failure is an error, and what is in the store stands in for nothing.

Where there is no network by the user's own choice, the store is asked instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import anyio.to_thread

from lading.errors import StoreCorrupted
from lading.events import Listener
from lading.flight import Flights
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import Index, Manifest
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.pull.groups import together
from lading.pull.use import Uses
from lading.pull.walk import Means, Walk
from lading.registry.repository import RepositoryOf
from lading.store.store import Corrupt, Intact, Lease, Store

_SMALL_AT_ONCE = 32
"""Small blobs and manifests that one client asks for at once."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a reference stands for, whole and in the store.

    ``descriptor`` names what the reference resolves to, ``manifest`` is that, parsed: an index, or a manifest.
    ``manifests`` are all that were chosen, ``blobs`` their configs and layers, each once; ``skipped`` are foreign
    layers, which live elsewhere and are never fetched. ``fetched`` is how many bytes of blobs came over the network.
    """

    reference: Reference
    descriptor: Descriptor
    manifest: Manifest | Index
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    skipped: tuple[Descriptor, ...] = ()
    fetched: int = 0
    _store: Store | None = field(default=None, repr=False, compare=False)

    async def read(self, descriptor: Descriptor) -> bytes:
        """Give the content of one of ``blobs`` or ``manifests``, verified just now.

        Raises:
            StoreCorrupted: the store doesn't hold it any more.
        """
        assert self._store is not None
        found = await anyio.to_thread.run_sync(self._store.read, self.reference.name, descriptor.digest)
        if not isinstance(found, Intact):
            why = found.reason if isinstance(found, Corrupt) else "it isn't in the store any more"
            raise StoreCorrupted(f"{self.reference}: {descriptor.digest}: {why}", hint="pull it again")
        return found.content


class ArtifactPuller:
    """Pulls whole artifacts through a store. ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        repository: RepositoryOf,
        flights: Flights,
        large: anyio.CapacityLimiter,
        *,
        offline: bool = False,
        events: Listener | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._means = Means(store, flights, large, anyio.CapacityLimiter(_SMALL_AT_ONCE), events, Uses(store))
        self._repository = repository
        self._offline = offline
        self._clock = clock
        # When each reference was last moved by this client, in a count of such moves.
        self._moves = 0
        self._moved: dict[str, int] = {}

    async def pull(
        self, reference: Reference, *, force: bool = False, platforms: tuple[Platform, ...] | None = ()
    ) -> Artifact:
        """Bring the artifact into the store and give it; see :meth:`lading.Client.pull`.

        ``platforms`` says which images of an index: the best for each of them, ``()`` is this machine, ``None`` all.
        """
        key = ("artifact", str(reference), self._moved.get(str(reference), 0), force, platforms)
        artifact = await self._means.flights.join(key, partial(self._pull, reference, force, platforms))
        # Whoever came first may have written a tag beside the digest.
        return replace(artifact, reference=reference)

    async def manifest(self, reference: Reference) -> Manifest | Index:
        """Give what ``reference`` stands for, parsed and verified: from the store where that is certain."""
        with self._means.store.lease() as lease:
            walk = await self._walk(reference, lease)
            root = await walk.root()
            return walk.documents[root.digest]

    def outdate(self, reference: Reference) -> None:
        """Take note that the tag has just been moved.

        No pull that begins from now on joins one that asked before now, and what those were told isn't remembered.
        """
        self._moves += 1
        self._moved[str(reference)] = self._moves

    async def _pull(self, reference: Reference, force: bool, platforms: tuple[Platform, ...] | None) -> Artifact:
        moves = self._moves
        with self._means.store.lease() as lease:
            walk = await self._walk(reference, lease, force, platforms)
            root = await walk.root()
            await together(partial(walk.visit, root, 0))
            is_current = self._moved.get(str(reference), 0) <= moves
            await walk.conclude(root, is_current=is_current)
        document, store = walk.documents[root.digest], self._means.store
        return Artifact(reference, root, document, *walk.found(root), walk.fetched, store)

    async def _walk(
        self,
        reference: Reference,
        lease: Lease,
        force: bool = False,
        platforms: tuple[Platform, ...] | None = None,
    ) -> Walk:
        asked = self._clock()
        repository = None if self._offline else await self._repository(reference, brief=False)
        return Walk(self._means, repository, reference, asked, force, platforms, lease)
