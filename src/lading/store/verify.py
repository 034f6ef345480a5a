"""Verification: every byte that the store has is read and hashed again, and nothing is changed.

What was never fetched isn't damage: an agent runs without its config, an image of one platform without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio
import anyio.to_thread

from lading.errors import InvalidManifest, StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT
from lading.oci.reference import Reference
from lading.store.reach import Reached, reach
from lading.store.store import Absent, Corrupt, Intact, Inventory, Record, Store

THREADS = 2
"""More don't read a disk any faster, and leave a machine of two nothing else."""

_BATCH_BYTES = 4 * 1024 * 1024
_BATCH = 256
"""Bytes and pieces of content for which one hop to a thread is worth it."""

_GONE = "it is listed and can't be found"

Progress = Callable[[int, int], object]
"""Is told how many bytes of how many are read; by any thread."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Content that the store should have but can't give back: why, and which references need it.

    ``size`` in bytes is 0 and ``media_type`` is empty where nothing says them any more.
    """

    digest: Digest
    size: int
    reason: str
    references: tuple[Reference, ...] = ()
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    ``intact`` and ``bytes`` count what is as it was stored. ``absent`` is what references need and was never fetched,
    ``strays`` are files that belong to nothing, ``damage`` says which records of the store can't be read.
    """

    intact: int
    bytes: int
    damaged: tuple[Damaged, ...]
    absent: tuple[Descriptor, ...]
    strays: tuple[str, ...]
    damage: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged and not self.damage


class Verifier:
    """Verifies what ``references`` need, or else everything; what it found intact once it doesn't read again."""

    def __init__(self, store: Store, references: Sequence[Reference] = (), progress: Progress | None = None) -> None:
        self._store = store
        self._references = tuple(dict.fromkeys(references))
        self._progress = progress or (lambda done, total: None)
        self._intact: dict[Digest, int] = {}
        self._over = False

    async def run(self) -> Report:
        """Verify, and say what was found.

        Raises:
            StoreError: the store can't be read, or knows nothing of one of the references.
        """
        inventory = await anyio.to_thread.run_sync(self._store.inventory)
        known, unknown = list(inventory.references), list(inventory.damage)
        if self._references:
            known, found = await anyio.to_thread.run_sync(self._roots)
            unknown.extend(reason for reason in found if reason not in unknown)
        contents = await self._contents(inventory, known)
        broken = await self._hash(contents)
        needs = _Needs(broken)
        for start in range(0, len(known), _BATCH):
            await anyio.to_thread.run_sync(self._follow, known[start : start + _BATCH], needs)
        is_all = not self._references
        intact = [digest for digest in contents if digest in self._intact]
        return Report(
            len(intact),
            sum(self._intact[digest] for digest in intact),
            tuple(sorted(needs.damaged(), key=lambda one: str(one.digest))),
            tuple(sorted(needs.absent.values(), key=lambda one: str(one.digest))),
            inventory.strays if is_all else (),
            tuple(unknown),
        )

    def _roots(self) -> tuple[list[tuple[Reference, Record]], list[str]]:
        """Give what is asked for, and what is wrong with what can't be told."""
        roots, damage = [], []
        for reference in self._references:
            found = self._store.resolve(reference)
            if isinstance(found, Absent):
                raise StoreError(f"{reference} isn't in the store", hint=f"bring it: lading fetch {reference}")
            if isinstance(found, Corrupt):
                damage.append(found.reason)
            else:
                roots.append((reference, found))
        return roots, damage

    async def _contents(self, inventory: Inventory, known: list[tuple[Reference, Record]]) -> dict[Digest, int]:
        """Tell what is to be verified: digests and sizes."""
        contents = dict(inventory.contents)
        if not self._references:
            return contents
        wanted: set[Digest] = set()
        for root in known:
            wanted |= await anyio.to_thread.run_sync(self._needs, *root)
        return {digest: size for digest, size in contents.items() if digest in wanted}

    def _needs(self, reference: Reference, record: Record) -> set[Digest]:
        """Give what a reference needs and its repository has."""
        return {digest for digest in self._reach(reference, record).all if self._was_seen(reference, digest)}

    def _was_seen(self, reference: Reference, digest: Digest) -> bool:
        return reference.name in self._store.places(digest)

    # Hashing

    async def _hash(self, contents: dict[Digest, int]) -> dict[Digest, tuple[int, str]]:
        """Read everything that isn't known to be intact; gives the size of what is damaged, and why it is."""
        unread = {digest: size for digest, size in contents.items() if digest not in self._intact}
        broken: dict[Digest, tuple[int, str]] = {}
        batches = _batches(unread.items())
        counts = [0] * THREADS
        total = sum(unread.values())

        def read(number: int, size: int) -> None:
            if self._over:
                raise _Over
            counts[number] += size
            self._progress(sum(counts), total)

        def check(number: int, batch: list[tuple[Digest, int]]) -> list[tuple[Digest, int, str]]:
            return [(digest, size, self._check(digest, size, partial(read, number))) for digest, size in batch]

        async def work(number: int) -> None:
            for batch in batches:
                checked = await anyio.to_thread.run_sync(check, number, batch, abandon_on_cancel=True)
                for digest, size, reason in checked:
                    if reason:
                        broken[digest] = size, reason
                    else:
                        self._intact[digest] = size

        try:
            async with anyio.create_task_group() as workers:
                for number in range(THREADS):
                    workers.start_soon(work, number)
        except BaseException:
            self._over = True  # a thread that nobody waits for ends at its next piece
            raise
        if gone := [digest for digest, (_, reason) in broken.items() if reason == _GONE]:
            listed = dict((await anyio.to_thread.run_sync(self._store.inventory)).contents)
            for digest in gone:
                if digest not in listed:  # it was removed in the meantime
                    del broken[digest]
        return broken

    def _check(self, digest: Digest, size: int, read: Callable[[int], None]) -> str:
        """Say what is wrong with some content; nothing if it is intact."""
        try:
            found = self._store.check(digest, read)
        except StoreError as error:
            return error.message
        match found:
            case Corrupt(reason):
                return reason
            case Absent():
                return _GONE
            case _:
                return "" if found == size else f"it has {found} bytes instead of {size}"

    # Who needs what

    def _follow(self, roots: list[tuple[Reference, Record]], needs: _Needs) -> None:
        for reference, record in roots:
            reached = self._reach(reference, record)
            root = reached.missing.get(record.digest)
            for digest, needed in reached.all.items():
                if digest in needs.broken and self._was_seen(reference, digest):
                    needs.add(reference, needed)
                elif needed is root:
                    needs.add(reference, needed, "the store lost this manifest")
                elif digest not in reached.manifests and needed.data is None:
                    needs.look_for(reference, needed, self._store)

    def _reach(self, reference: Reference, record: Record) -> Reached:
        """Find what a reference needs, as far as what is there says."""

        def read(descriptor: Descriptor) -> bytes | None:
            found = self._read(reference, descriptor.digest)
            return None if found is None or len(found) != descriptor.size else found

        size = len(self._read(reference, record.digest) or b"")
        root = Descriptor(record.media_type, record.digest, size)
        try:
            return reach(root, read) if size <= MANIFEST_LIMIT else Reached()
        except InvalidManifest:  # intact, and yet nothing that a pull would have stored
            return Reached(manifests={root.digest: root})

    def _read(self, reference: Reference, digest: Digest) -> bytes | None:
        try:
            found = self._store.read(reference.name, digest)
        except StoreError:  # why, the check of this content says
            return None
        return found.content if isinstance(found, Intact) else None


class _Needs:
    """Which references need what is broken, and what they need that isn't there."""

    def __init__(self, broken: dict[Digest, tuple[int, str]]) -> None:
        self.broken = broken
        self.absent: dict[Digest, Descriptor] = {}
        self._damaged = {digest: Damaged(digest, size, reason) for digest, (size, reason) in broken.items()}

    def add(self, reference: Reference, needed: Descriptor, reason: str = "") -> None:
        """Note that ``reference`` needs this, which is damaged."""
        known = self._damaged.setdefault(needed.digest, Damaged(needed.digest, needed.size, reason))
        self._damaged[needed.digest] = replace(
            known,
            size=needed.size or known.size,  # what an intact manifest says is certain
            references=(*known.references, reference),
            media_type=needed.media_type,
        )

    def look_for(self, reference: Reference, needed: Descriptor, store: Store) -> None:
        """Note whether what ``reference`` needs is there."""
        if not store.holds(reference.name, needed):
            self.absent[needed.digest] = needed

    def damaged(self) -> Iterable[Damaged]:
        """Give everything that is damaged."""
        return self._damaged.values()


class _Over(Exception):
    """Nobody waits for this thread any more."""


def _batches(contents: Iterable[tuple[Digest, int]]) -> Iterator[list[tuple[Digest, int]]]:
    batch: list[tuple[Digest, int]] = []
    size = 0
    for one in contents:
        batch.append(one)
        size += one[1]
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
