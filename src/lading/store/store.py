"""The protocol of a store, what passes through it, and the store in memory.

A store holds content by digest, which repository each digest was seen in, what each reference stood for when its
registry last confirmed it, and notes: short texts that nobody misses much when they are gone. Expected outcomes of a
look-up are values: ``Intact``, ``Absent``, ``Corrupt``. Look-ups are synchronous, safe from any thread, and verify what
they give on every read. Nothing here knows what an agent is.

Bytes are shared, hits are not: content is given out only for a repository that it was seen in, so that one
repository's private content never answers for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from lading.errors import StoreCorrupted, StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.memory import MemoryIngest

INLINE_LIMIT = 128 * 1024
"""Bytes: content up to here is kept in the index, larger content in files of its own."""

_PIECE = 1024 * 1024

NOTE_LIMIT = 4096
"""Bytes of a note's kind, key and value at most, each."""

NOTES_LIMIT = 10_000
"""Notes of one kind at most: those that were written the longest time ago make room."""

Note = tuple[str, str, str | None]
"""Kind, key and value of a note; ``None`` forgets it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a reference stood for: a manifest's digest and media type.

    ``validated`` is when its registry last confirmed that, in seconds since the epoch by this machine's clock.
    """

    digest: Digest
    media_type: str
    validated: float


@dataclass(frozen=True, slots=True)
class Intact:
    """The content, verified against its digest just now."""

    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Absent:
    """The store doesn't have it."""


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The store should have it but can't give it back; ``reason`` says what is damaged."""

    reason: str


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that a store has: what is known of references, and the digest and size of each piece of content.

    ``strays`` are files in its directory that belong to nothing, ``damage`` says which of its records can't be read.
    """

    references: tuple[tuple[Reference, Record], ...] = ()
    contents: tuple[tuple[Digest, int], ...] = ()
    strays: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A registry served this content from the repository ``name`` (``docker.io/acme/triage``)."""

    name: str
    digest: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit makes true, all of it or nothing.

    ``content`` are whole pieces with their digests, which the caller has verified; ``blobs`` are descriptors of
    finished ingests; ``seen`` says in which repositories; ``references`` says what a reference resolves to; ``links``
    are (parent, child) pairs: the child is needed as long as the parent is. ``forgotten`` references are known no more,
    nor is what they stood for, unless another reference of the same repository stands for it too. Of several ``notes``
    with the same kind and key the last one counts.

    ``validated`` stamps ``seen`` and ``references``, in seconds since the epoch. A commit that isn't ``durable`` may be
    lost in a power cut, whole.
    """

    validated: float
    content: tuple[tuple[Digest, bytes], ...] = field(default=(), repr=False)
    blobs: tuple[Descriptor, ...] = ()
    seen: tuple[Seen, ...] = ()
    references: tuple[tuple[Reference, Digest, str], ...] = ()
    links: tuple[tuple[Digest, Digest], ...] = ()
    forgotten: tuple[Reference, ...] = ()
    notes: tuple[Note, ...] = field(default=(), repr=False)
    durable: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to make true."""
        parts = (self.content, self.blobs, self.seen, self.references, self.links, self.forgotten, self.notes)
        return not any(parts)


class Ingest(Protocol):
    """One piece of content on its way into a store.

    Entering it waits as long as somebody else takes the same content; then ``is_complete`` may say that there is
    nothing to fetch, or ``received`` that a part is there already, which somebody left. Leaving it unfinished may leave
    such a part too. Neither says anything about the repositories that the content may be served for.
    """

    @property
    def received(self) -> int:
        """How many bytes there are in a row, from the first one on: where to go on."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the whole content is there, verified: nothing is to be fetched, what is written is ignored."""
        ...

    @property
    def etag(self) -> str:
        """The entity tag that was noted for the bytes received, perhaps by an earlier process; empty if none was."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            ValueError: some of them were written before, out of order.
            StoreError: the disk refused.
        """
        ...

    async def write_at(self, offset: int, chunk: bytes) -> None:
        """Take bytes from ``offset`` on, also before those in front of them; several tasks may do that at once.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            ValueError: some of them are there already.
            StoreError: the disk refused.
        """
        ...

    async def restart(self) -> None:
        """Drop every byte, and the entity tag: what comes next is byte 0. Raises StoreError."""
        ...

    async def note_etag(self, etag: str) -> None:
        """Remember the entity tag of these bytes: up to 256 visible ASCII characters, anything else is ignored."""
        ...

    async def finish(self) -> None:
        """Verify the content and make it real, durably; a commit with its descriptor then makes it visible.

        Raises:
            SizeMismatch: it is shorter than its descriptor says.
            DigestMismatch: it is something else, and all of it was dropped.
            StoreError: the disk refused.
        """
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


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
            StoreError: the store can't be opened or repaired, one of the blobs was never finished, or a note is too
                long.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything; a store on disk is then cleanly closed. May be called again."""
        ...


def check_notes(notes: Iterable[Note]) -> None:
    """Raise StoreError for notes that can't be stored. The message holds nothing of a note but its kind."""
    for kind, key, value in notes:
        try:
            longest = max(len(part.encode()) for part in (kind, key, value or ""))
        except UnicodeEncodeError:
            longest = -1
        if longest < 0:
            raise StoreError(f"a note of the kind {kind!r} can't be stored: it isn't Unicode text")
        if longest > NOTE_LIMIT:
            raise StoreError(f"a note of the kind {kind!r} can't be stored: more than {NOTE_LIMIT} bytes")


class MemoryStore:
    """A store that lives as long as its process: for tests, and where nothing may be written."""

    def __init__(self) -> None:
        self._content: dict[Digest, bytes] = {}
        self._seen: dict[tuple[str, Digest], Record] = {}
        self._references: dict[str, Record] = {}
        self._finished: dict[Digest, bytes] = {}
        self._notes: dict[str, dict[str, str]] = {}

    def resolve(self, reference: Reference) -> Record | Absent | Corrupt:
        if reference.digest is not None:
            return self._seen.get((reference.name, reference.digest), ABSENT)
        return self._references.get(str(reference), ABSENT)

    def read(self, name: str, digest: Digest) -> Intact | Absent | Corrupt:
        content = self._content.get(digest)
        if content is None or (name, digest) not in self._seen:
            return ABSENT
        return Intact(content) if digest.matches(content) else Corrupt(f"{digest} isn't what was stored")

    def holds(self, name: str, descriptor: Descriptor) -> bool:
        found = self.read(name, descriptor.digest)
        return isinstance(found, Intact) and len(found.content) == descriptor.size

    def repositories(self, registry: str, digest: Digest) -> list[str]:
        prefix = registry + "/"
        return sorted(
            name.removeprefix(prefix)
            for name, seen in list(self._seen)  # another thread may commit
            if seen == digest and name.startswith(prefix)
        )

    def references(self) -> list[tuple[Reference, Record]]:
        return [(Reference.parse(name), record) for name, record in sorted(self._references.items())]

    def stream(self, name: str, digest: Digest) -> Iterator[bytes] | Absent:
        found = self.read(name, digest)
        if isinstance(found, Corrupt):
            raise StoreCorrupted(found.reason)
        return found if isinstance(found, Absent) else _pieces(found.content)

    def inventory(self) -> Inventory:
        contents = ((digest, len(content)) for digest, content in list(self._content.items()))
        return Inventory(tuple(self.references()), tuple(sorted(contents, key=lambda held: str(held[0]))))

    def check(self, digest: Digest, go_on: Callable[[int], None]) -> int | Absent | Corrupt:
        content = self._content.get(digest)
        if content is None:
            return ABSENT
        go_on(len(content))
        return len(content) if digest.matches(content) else Corrupt(f"{digest} isn't what was stored")

    def places(self, digest: Digest) -> list[str]:
        return sorted(name for name, seen in list(self._seen) if seen == digest)

    def recall(self, kind: str, key: str) -> str | None:
        return self._notes.get(kind, {}).get(key)

    def ingest(self, descriptor: Descriptor) -> Ingest:
        return MemoryIngest(descriptor, self._finished)

    async def commit(self, changes: Changes) -> None:
        check_notes(changes.notes)
        for blob in changes.blobs:
            if blob.digest not in self._finished and blob.digest not in self._content:
                raise StoreError(f"the blob {blob.digest} can't be committed: it isn't in the store")
        self._content.update(changes.content)
        for blob in changes.blobs:
            if blob.digest in self._finished:
                self._content[blob.digest] = self._finished.pop(blob.digest)
        for reference in changes.forgotten:
            self._forget(reference)
        for seen in changes.seen:
            record = Record(seen.digest, seen.media_type, changes.validated)
            self._seen[seen.name, seen.digest] = record
        for reference, digest, media_type in changes.references:
            self._references[str(reference)] = Record(digest, media_type, changes.validated)
        for note in changes.notes:
            self._note(*note)

    def _note(self, kind: str, key: str, value: str | None) -> None:
        notes = self._notes.setdefault(kind, {})
        notes.pop(key, None)  # what is written again is the newest
        if value is not None:
            notes[key] = value
        if len(notes) > NOTES_LIMIT:
            del notes[next(iter(notes))]

    def _forget(self, reference: Reference) -> None:
        record = self._references.pop(str(reference), None)
        digest = reference.digest or (record.digest if record else None)
        others = ((Reference.parse(name), record) for name, record in self._references.items())
        if digest and not any(other.name == reference.name and record.digest == digest for other, record in others):
            self._seen.pop((reference.name, digest), None)

    async def aclose(self) -> None:
        pass


def _pieces(content: bytes) -> Iterator[bytes]:
    return (content[start : start + _PIECE] for start in range(0, len(content) or 1, _PIECE))
