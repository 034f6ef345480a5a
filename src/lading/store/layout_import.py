"""Import: what a layout holds, into the store, as if a registry had served it.

All of an image is there, and verified, before anything of it is committed. Nobody but the layout says that a reference
stands for it: it is stamped as never confirmed, and what a registry did confirm stays confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import anyio.to_thread

from lading.errors import DigestMismatch, InvalidManifest, LadingError
from lading.events import BlobProgress, Listener, tell
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.store.layout import Entry
from lading.store.layout_read import Layout
from lading.store.reach import Reached, narrow, reach
from lading.store.store import INLINE_LIMIT, NEVER, Changes, Record, Seen, Store, use

_BATCH = 8 * 1024 * 1024
"""Bytes of small content that are in memory at once."""

_SHOWN = 3
"""Missing blobs that an error names."""

Content = tuple[Digest, bytes]


@dataclass(frozen=True, slots=True)
class Imported:
    """What is in the store now: as what, what it stands for, its manifests and its configs and layers.

    ``skipped`` are foreign layers, which live elsewhere and aren't in the layout.
    """

    reference: Reference
    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    skipped: tuple[Descriptor, ...]


async def import_image(
    store: Store,
    layout: Layout,
    entry: Entry,
    *,
    name: Reference | None = None,
    platform: Platform | None = None,
    events: Listener | None = None,
) -> Imported:
    """Bring one image of ``layout`` into ``store``, whole, as ``name`` or what the layout calls it.

    With ``platform``, the one image of an index for it. Only who gives a ``name`` can move one that is known already.

    Raises:
        InvalidManifest: something in it isn't a manifest, or has nothing for the platform.
        IntegrityError: a blob isn't what its descriptor names.
        LadingError: a blob is missing or can't be read, or there is no name for the image.
        StoreError: the store can't take it.
    """
    plan = await anyio.to_thread.run_sync(_Plan, layout, entry, platform)
    reference = _named(store, layout, plan.root, entry, name)
    with store.lease() as lease:  # nothing refers to it before all of it is there
        await anyio.to_thread.run_sync(lease.keep, [one.digest for one in plan.kept])
        await _commit(store, layout, plan, reference, events)
    manifests, blobs = plan.reached.manifests, plan.reached.blobs
    return Imported(
        reference,
        plan.root,
        tuple(manifests.values()),
        tuple(blob for blob in blobs.values() if blob.digest not in plan.skipped),
        tuple(plan.skipped.values()),
    )


async def _commit(store: Store, layout: Layout, plan: _Plan, reference: Reference, events: Listener | None) -> None:
    last: list[Content] = []
    for batch in plan.batches:
        last = await anyio.to_thread.run_sync(plan.read, batch)
    for blob in plan.large:
        await _take(store, layout, blob, events, reference)
    for batch in plan.batches[:-1]:
        await store.commit(Changes(NEVER, content=tuple(await anyio.to_thread.run_sync(plan.read, batch))))
    seen = await anyio.to_thread.run_sync(_unseen, store, reference, plan.kept)
    known = store.resolve(reference)
    is_known = isinstance(known, Record) and known.digest == plan.root.digest
    await store.commit(
        Changes(
            NEVER,
            content=tuple(last),
            blobs=plan.large,
            seen=seen,
            references=() if is_known else ((reference, plan.root.digest, plan.root.media_type),),
            links=tuple(plan.reached.links),
            notes=(use(reference, time.time()),),  # no registry confirmed it, and yet it isn't old
        )
    )


class _Plan:
    """What is to be imported, all of it there by its size; what is small can be read. Blocking."""

    def __init__(self, layout: Layout, entry: Entry, platform: Platform | None) -> None:
        self._layout = layout
        self._where = layout.where
        try:
            self.root = replace(entry.descriptor, annotations={}, data=None, urls=())
            if platform is not None:
                self.root = narrow(self.root, layout.read, platform)
            self.reached = reach(self.root, layout.read)
        except InvalidManifest as error:
            raise InvalidManifest(f"{self._where}: {error.message}", hint=error.hint) from error
        self.skipped: dict[Digest, Descriptor] = {}
        self._check(self.reached, is_narrowed=platform is not None)
        self.kept = [one for digest, one in self.reached.all.items() if digest not in self.skipped]
        self.large = tuple(one for one in self.kept if one.size > INLINE_LIMIT and one.data is None)
        self.batches = list(_batches([one for one in self.kept if one.size <= INLINE_LIMIT or one.data is not None]))

    def _check(self, reached: Reached, is_narrowed: bool) -> None:
        missing = list(reached.missing.values())
        for blob in reached.blobs.values():
            if blob.data is None and not self._layout.has(blob):
                if blob.urls:
                    self.skipped[blob.digest] = blob
                else:
                    missing.append(blob)
        if missing:
            named = ", ".join(str(one.digest) for one in missing[:_SHOWN])
            rest = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            can_narrow = reached.missing and not is_narrowed and self.root.digest not in reached.missing
            raise LadingError(
                f"{self._where}: {self.root.digest} isn't whole: the layout doesn't have {named}{rest}",
                hint="--platform takes one image of it" if can_narrow else "",
            )

    def read(self, batch: Sequence[Descriptor]) -> list[Content]:
        """Give small content, verified."""
        found = []
        for one in batch:
            content = one.embedded() if one.data is not None else self._layout.read(one)
            if content is None:
                raise LadingError(f"{self._where}: {one.digest} isn't there any more")
            found.append((one.digest, content))
        return found


def _batches(contents: Sequence[Descriptor]) -> Iterator[list[Descriptor]]:
    batch: list[Descriptor] = []
    size = 0
    for one in contents:
        if batch and size + one.size > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.size
    if batch:
        yield batch


def _named(store: Store, layout: Layout, root: Descriptor, entry: Entry, given: Reference | None) -> Reference:
    """Tell what the image becomes."""
    reference = given or entry.reference
    if reference is None:
        called = f"only called {entry.name} there" if entry.name else "called nothing there"
        raise LadingError(f"{layout.where}: {root.digest} is {called}", hint="say what it becomes: --as REF")
    if reference.digest is not None and reference.digest != root.digest:
        if given is not None or entry.descriptor.digest == root.digest:
            raise DigestMismatch(f"{layout.where}: {root.digest} isn't {reference}")
        reference = reference.at(root.digest)
    known = store.resolve(reference)
    if given is None and isinstance(known, Record) and known.digest != root.digest:
        raise LadingError(
            f"{layout.where}: {root.digest} is called {reference}, which the store knows as {known.digest}",
            hint=f"to replace that, say so: --as {reference}",
        )
    return reference


def _unseen(store: Store, reference: Reference, contents: Sequence[Descriptor]) -> tuple[Seen, ...]:
    """Give what the store has to be told: not what a registry confirmed, which would lose that."""
    return tuple(
        Seen(reference.name, one.digest, one.media_type)
        for one in contents
        if not isinstance(store.resolve(reference.at(one.digest)), Record)
    )


async def _take(store: Store, layout: Layout, blob: Descriptor, events: Listener | None, reference: Reference) -> None:
    """Bring a large blob into the store; a commit makes it visible."""
    for is_last in (False, True):
        async with store.ingest(blob) as ingest:
            if ingest.gaps not in ([], [(ingest.received, blob.size)]):
                await ingest.restart()  # what somebody left isn't in a row, and a layout is read from front to back
            found = 0 if ingest.is_complete else ingest.received
            try:
                if not ingest.is_complete:
                    with closing(layout.pieces(blob, found)) as pieces:
                        while piece := await anyio.to_thread.run_sync(partial(next, pieces, b"")):
                            await ingest.write(piece)
                            tell(events, BlobProgress(str(reference), str(blob.digest), ingest.received, blob.size))
                await ingest.finish()
                return
            except DigestMismatch as error:
                # What somebody left may have been damaged.
                if is_last or not found:
                    raise DigestMismatch(f"{layout.where}: {error.message}") from error
