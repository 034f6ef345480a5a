"""The store in memory: nothing is on a disk, and all of it is gone with its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.errors import DigestMismatch, SizeMismatch, StoreCorrupted
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.partials import is_etag
from lading.store.spans import Spans
from lading.store.values import (
    ABSENT,
    NOTES_LIMIT,
    USED,
    Absent,
    Changes,
    Corrupt,
    Intact,
    Inventory,
    Lost,
    Record,
    check_notes,
    used_at,
)
from lading.store.work import Ingest, Lease

if TYPE_CHECKING:
    from lading.store.gc import Collected

_PIECE = 1024 * 1024


class MemoryStore:
    """A store that lives as long as its process: for tests, and where nothing may be written."""

    def __init__(self) -> None:
        self._content: dict[Digest, bytes] = {}
        self._seen: dict[tuple[str, Digest], Record] = {}
        self._references: dict[str, Record] = {}
        self._finished: dict[Digest, list[bytes]] = {}  # as often as it was finished and not committed yet
        self._notes: dict[str, dict[str, str]] = {}
        self._links: dict[Digest, set[Digest]] = {}
        self._leases: list[MemoryLease] = []

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
        there = self._content.keys() | self._finished.keys()
        lost = {blob.digest for blob in changes.blobs} - there
        lost |= {digest for name, digest in changes.required if not isinstance(self.read(name, digest), Intact)}
        if lost:
            raise Lost(lost)
        self._content.update(changes.content)
        for blob in changes.blobs:
            if finished := self._finished.get(blob.digest):
                self._content[blob.digest] = finished.pop()
            if not finished:
                self._finished.pop(blob.digest, None)
        for reference in changes.forgotten:
            self._forget(reference)
        for seen in changes.seen:
            record = Record(seen.digest, seen.media_type, changes.validated)
            self._seen[seen.name, seen.digest] = record
        for reference, digest, media_type in changes.references:
            self._references[str(reference)] = Record(digest, media_type, changes.validated)
        for parent, child in changes.links:
            self._links.setdefault(parent, set()).add(child)
        for note in changes.notes:
            self._note(*note)

    def lease(self) -> Lease:
        return MemoryLease(self._leases)

    def last_used(self, reference: Reference) -> float | None:
        known = self._references.get(str(reference))
        return None if known is None else max(known.validated, used_at(self.recall(USED, str(reference))))

    async def collect(
        self,
        *,
        older_than: float | None = None,
        max_size: int | None = None,
        dry_run: bool = False,
        now: float | None = None,
    ) -> Collected:
        from lading.store.gc import Collected, Families, Holdings, Known, Limits, plan

        limits = Limits(time.time() if now is None else now, older_than, max_size)
        contents = list(self._content.items())  # another thread may commit
        holdings = Holdings(
            [Known(*row) for row in self._known()],
            {str(digest): len(content) for digest, content in contents},
            {str(parent): [str(child) for child in children] for parent, children in self._links.items()},
            [(str(digest), self._media_type(digest)) for digest in self._needed()],
        )
        todo = plan(holdings, limits, Families(), self._intact)
        if not dry_run:
            for name in todo.forgotten:
                del self._references[name]
            for place, digest in todo.unseen:
                self._seen.pop((place, Digest.parse(digest)), None)
            removed = {Digest.parse(digest) for digest in todo.removed}
            self._content = {digest: content for digest, content in contents if digest not in removed}
            self._seen = {key: record for key, record in self._seen.items() if key[1] not in removed}
            for name in self._notes.get(USED, {}).keys() - self._references.keys():
                self._note(USED, name, None)
            self._links = {parent: below for parent, below in self._links.items() if str(parent) in todo.kept}
        return Collected.of(todo, holdings)

    def _needed(self) -> set[Digest]:
        return {*self._finished, *(digest for lease in self._leases for digest in lease.digests)}

    def _known(self) -> Iterator[tuple[str, str, str, float]]:
        for name, record in self._references.items():
            last = max(record.validated, used_at(self.recall(USED, name)))
            yield name, str(record.digest), record.media_type, last

    def _media_type(self, digest: Digest) -> str:
        return next((record.media_type for (_, seen), record in self._seen.items() if seen == digest), "")

    def _intact(self, digest: str) -> bytes | None:
        content = self._content.get(Digest.parse(digest))
        return content if content is not None and Digest.parse(digest).matches(content) else None

    def _note(self, kind: str, key: str, value: str | None) -> None:
        notes = self._notes.setdefault(kind, {})
        notes.pop(key, None)  # what is written again is the newest
        if value is not None:
            notes[key] = value
        if len(notes) > NOTES_LIMIT and kind != USED:
            del notes[next(iter(notes))]

    def _forget(self, reference: Reference) -> None:
        record = self._references.pop(str(reference), None)
        self._note(USED, str(reference), None)
        digest = reference.digest or (record.digest if record else None)
        others = (name for name, record in self._references.items() if record.digest == digest)
        if digest and not any(Reference.parse(other).name == reference.name for other in others):
            self._seen.pop((reference.name, digest), None)

    async def aclose(self) -> None:
        pass


class MemoryLease:
    """What somebody needs of a store in memory; it is among ``leases`` until it is closed."""

    def __init__(self, leases: list[MemoryLease]) -> None:
        self.digests: set[Digest] = set()
        self._leases = leases
        leases.append(self)

    def keep(self, digests: Iterable[Digest]) -> None:
        self.digests.update(digests)

    def close(self) -> None:
        if self in self._leases:
            self._leases.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class MemoryIngest:
    """One piece of content on its way into a store in memory; ``finished`` is where it arrives."""

    def __init__(self, descriptor: Descriptor, finished: dict[Digest, list[bytes]]) -> None:
        self._descriptor = descriptor
        self._finished = finished
        self._content = bytearray()
        self._spans = Spans()
        self.is_complete = False
        self.etag = ""

    @property
    def received(self) -> int:
        return self._spans.prefix

    @property
    def gaps(self) -> list[tuple[int, int]]:
        return [] if self.is_complete else self._spans.gaps(self._descriptor.size)

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
        self._finished.setdefault(self._descriptor.digest, []).append(content)
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


def _pieces(content: bytes) -> Iterator[bytes]:
    return (content[start : start + _PIECE] for start in range(0, len(content) or 1, _PIECE))
