"""The protocol of a store. What passes through it is in ``values`` and ``work``, by whose names it is known here too.

A store holds content by digest, which repository each digest was seen in, what each reference stood for when its
registry last confirmed it, and notes: short texts that nobody misses much when they are gone. Expected outcomes of a
look-up are values: ``Intact``, ``Absent``, ``Corrupt``. Look-ups are synchronous, safe from any thread, and verify what
they give on every read. Nothing here knows what an agent is.

Bytes are shared, hits are not: content is given out only for a repository that it was seen in, so that one
repository's private content never answers for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.memory import MemoryStore
from lading.store.values import (
    ABSENT,
    INLINE_LIMIT,
    NEVER,
    NOTE_LIMIT,
    NOTES_LIMIT,
    Absent,
    Changes,
    Corrupt,
    Intact,
    Inventory,
    Lost,
    Note,
    Record,
    Seen,
    check_notes,
    use,
)
from lading.store.work import Ingest, Lease

if TYPE_CHECKING:
    from lading.store.gc import Collected

__all__ = [
    "ABSENT",
    "INLINE_LIMIT",
    "NEVER",
    "NOTES_LIMIT",
    "NOTE_LIMIT",
    "Absent",
    "Changes",
    "Corrupt",
    "Ingest",
    "Intact",
    "Inventory",
    "Lease",
    "Lost",
    "MemoryStore",
    "Note",
    "Record",
    "Seen",
    "Store",
    "check_notes",
    "use",
]


class Store(Protocol):
    """Where pulled content lives; one contract test suite holds for every implementation."""

    def resolve(self, reference: Reference) -> Record | Absent | Corrupt:
        """Tell what ``reference`` stood for; a pinned one is known if its digest was seen in its repository."""
        ...

    def read(self, name: str, digest: Digest) -> Intact | Absent | Corrupt:
        """Give the content ``digest`` if it was seen in the repository ``name`` (``docker.io/acme/triage``)."""
        ...

    def holds(self, name: str, descriptor: Descriptor) -> bool:
        """Tell whether :meth:`read` would give the content; of what is large only the size is looked at."""
        ...

    def repositories(self, registry: str, digest: Digest) -> list[str]:
        """Give the repositories of ``registry`` that ``digest`` was seen in (``acme/triage``), in stable order."""
        ...

    def references(self) -> list[tuple[Reference, Record]]:
        """Give every reference and what it stands for, in the order of their names.

        Raises:
            StoreCorrupted: the store is damaged; the next commit repairs it.
        """
        ...

    def stream(self, name: str, digest: Digest) -> Iterator[bytes] | Absent:
        """Give what :meth:`read` gives, in pieces of up to 1 MiB; blocking.

        Whoever has the last piece has verified content: that one isn't given before.

        Raises:
            StoreCorrupted: it is damaged, which may show at any piece.
        """
        ...

    def inventory(self) -> Inventory:
        """Give what the store has, without verifying content; blocking."""
        ...

    def check(self, digest: Digest, go_on: Callable[[int], None]) -> int | Absent | Corrupt:
        """Verify ``digest``, wherever it was seen, and give its size; blocking.

        ``go_on`` is told the bytes of each piece that was read, and ends this by raising.
        """
        ...

    def places(self, digest: Digest) -> list[str]:
        """Give the repositories of all registries that ``digest`` was seen in (``docker.io/acme/triage``), in order."""
        ...

    def recall(self, kind: str, key: str) -> str | None:
        """Give the value of a note; ``None`` if there is none, or it is damaged."""
        ...

    def ingest(self, descriptor: Descriptor) -> Ingest:
        """Begin to take the content that ``descriptor`` names: ``async with store.ingest(d) as ingest: …``.

        Entering raises StoreError where the store can't be written.
        """
        ...

    async def commit(self, changes: Changes) -> None:
        """Make ``changes`` true at once: when this returns they are visible, and survive a crash if durable.

        Raises:
            StoreReadOnly: the store can't be written.
            OutOfSpace: the disk is full; nothing of ``changes`` is visible, all that was there before still is.
            Lost: a blob, or what is required, isn't there: it was never finished, or was collected.
            StoreError: the store can't be opened or repaired, or a note is too long.
        """
        ...

    def lease(self) -> Lease:
        """Begin to need content that no reference reaches yet: ``with store.lease() as lease: …``."""
        ...

    def last_used(self, reference: Reference) -> float | None:
        """Tell when ``reference`` was last brought, confirmed or answered with; ``None`` if nothing keeps it.

        In seconds since the epoch. What a pinned one names may be known all the same, as another reference's.
        """
        ...

    async def collect(
        self,
        *,
        older_than: float | None = None,
        max_size: int | None = None,
        dry_run: bool = False,
        now: float | None = None,
    ) -> Collected:
        """Remove content that no reference reaches, and what nobody is at work on: partials, temporary files.

        References that weren't used for ``older_than`` seconds are forgotten before that, then as many as it takes for
        the rest to have at most ``max_size`` bytes of content: those that were used the longest time ago. What a lease
        or an ingest needs stays in any case. With ``dry_run``, says what would go. ``now`` is the time, in seconds
        since the epoch.

        Raises:
            StoreReadOnly: the store can't be written.
            StoreCorrupted: the store is damaged; no content was removed.
            StoreError: the store can't be opened, or the disk refused.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything; a store on disk is then cleanly closed. May be called again."""
        ...
