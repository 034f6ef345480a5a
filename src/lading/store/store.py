"""The protocol of a store, what passes through it, and the store in memory.

A store holds content by digest, which repository each digest was seen in, and what each reference stood for when its
registry last confirmed it. Expected outcomes of a look-up are values: ``Intact``, ``Absent``, ``Corrupt``. Look-ups
are synchronous, safe from any thread, and verify what they give on every read. Nothing here knows what an agent is.

Bytes are shared, hits are not: content is given out only for a repository that it was seen in, so that one
repository's private content never answers for another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from lading.errors import SizeMismatch, StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference

INLINE_LIMIT = 128 * 1024
"""Bytes: content up to here is kept in the index, larger content in files of its own."""


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
    nor is what they stood for, unless another reference of the same repository stands for it too.

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
    durable: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to make true."""
        return not (self.content or self.blobs or self.seen or self.references or self.links or self.forgotten)


class Ingest(Protocol):
    """One piece of content on its way into a store. Leaving it unfinished discards what was written."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises SizeMismatch as soon as there are more than the descriptor says."""
        ...

    async def finish(self) -> None:
        """Verify the content and make it real, durably; a commit with its descriptor then makes it visible.

        Raises:
            SizeMismatch: it is shorter than its descriptor says.
            DigestMismatch: it is something else.
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

    def repositories(self, registry: str, digest: Digest) -> list[str]:
        """Give the repositories of ``registry`` that ``digest`` was seen in (``acme/triage``), in stable order."""
        ...

    def references(self) -> list[tuple[Reference, Record]]:
        """Give every reference and what it stands for, in the order of their names.

        Raises:
            StoreCorrupted: the store is damaged; the next commit repairs it.
        """
        ...

    def ingest(self, descriptor: Descriptor) -> Ingest:
        """Begin to take the content that ``descriptor`` names: ``async with store.ingest(d) as ingest: …``."""
        ...

    async def commit(self, changes: Changes) -> None:
        """Make ``changes`` true at once: when this returns they are visible, and survive a crash if durable.

        Raises:
            StoreReadOnly: the store can't be written.
            OutOfSpace: the disk is full; nothing of ``changes`` is visible, all that was there before still is.
            StoreError: the store can't be opened or repaired, or one of the blobs was never finished.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything; a store on disk is then cleanly closed. May be called again."""
        ...


class MemoryStore:
    """A store that lives as long as its process: for tests, and where nothing may be written."""

    def __init__(self) -> None:
        self._content: dict[Digest, bytes] = {}
        self._seen: dict[tuple[str, Digest], Record] = {}
        self._references: dict[str, Record] = {}
        self._finished: dict[Digest, bytes] = {}

    def resolve(self, reference: Reference) -> Record | Absent | Corrupt:
        if reference.digest is not None:
            return self._seen.get((reference.name, reference.digest), ABSENT)
        return self._references.get(str(reference), ABSENT)

    def read(self, name: str, digest: Digest) -> Intact | Absent | Corrupt:
        content = self._content.get(digest)
        if content is None or (name, digest) not in self._seen:
            return ABSENT
        return Intact(content) if digest.matches(content) else Corrupt(f"{digest} isn't what was stored")

    def repositories(self, registry: str, digest: Digest) -> list[str]:
        prefix = registry + "/"
        return sorted(
            name.removeprefix(prefix)
            for name, seen in list(self._seen)  # another thread may commit
            if seen == digest and name.startswith(prefix)
        )

    def references(self) -> list[tuple[Reference, Record]]:
        return [(Reference.parse(name), record) for name, record in sorted(self._references.items())]

    def ingest(self, descriptor: Descriptor) -> Ingest:
        return _MemoryIngest(descriptor, self._finished)

    async def commit(self, changes: Changes) -> None:
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

    def _forget(self, reference: Reference) -> None:
        record = self._references.pop(str(reference), None)
        digest = reference.digest or (record.digest if record else None)
        others = ((Reference.parse(name), record) for name, record in self._references.items())
        if digest and not any(other.name == reference.name and record.digest == digest for other, record in others):
            self._seen.pop((reference.name, digest), None)

    async def aclose(self) -> None:
        pass


class _MemoryIngest:
    def __init__(self, descriptor: Descriptor, finished: dict[Digest, bytes]) -> None:
        self._descriptor = descriptor
        self._finished = finished
        self._content = bytearray()

    async def write(self, chunk: bytes) -> None:
        self._content += chunk
        if len(self._content) > self._descriptor.size:
            raise SizeMismatch(f"{self._descriptor.digest}: more than {self._descriptor.size} bytes")

    async def finish(self) -> None:
        content = bytes(self._content)
        self._descriptor.check(content)
        self._finished[self._descriptor.digest] = content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._content.clear()
