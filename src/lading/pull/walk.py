"""The way through one artifact: a manifest or an index, and everything below it that is wanted, into the store.

Every manifest is asked for as soon as it is known, every blob as soon as its manifest is; what the store holds of this
repository isn't asked for again. What is large goes straight to the disk, and is in the store as soon as it is there;
the reference stands for all of it only when all of it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import anyio
import anyio.to_thread

from lading.errors import InvalidManifest, NotFound, Offline, SizeMismatch, StoreCorrupted, StoreError
from lading.events import BlobExpected, BlobProgress, CacheChecked, Listener, tell
from lading.flight import Flights
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, Manifest, parse_manifest
from lading.oci.media_types import INDEXES, MANIFESTS
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.pull.choice import below, chosen
from lading.pull.download import fetch_blob, read_blob
from lading.pull.groups import together
from lading.pull.lookup import SMALL
from lading.pull.use import Uses
from lading.registry.repository import Repository, Served
from lading.store.store import INLINE_LIMIT, Changes, Intact, Lease, Lost, Record, Seen, Store

_log = logging.getLogger("lading.pull")

_DEPTH_LIMIT = 8
_MANIFESTS_LIMIT = 1_000
_BLOBS_LIMIT = 20_000
"""Indexes within indexes, manifests and blobs of one artifact at most."""

_ATTEMPTS = 3
"""How often what the store doesn't hold is brought."""

_PENDING_LIMIT = 8 * 1024 * 1024
"""Bytes of small content that are gathered before they are committed."""

_TELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Means:
    """What all pulls of a client have in common; ``large`` and ``small`` limit how many blobs are asked for at once."""

    store: Store
    flights: Flights
    large: anyio.CapacityLimiter
    small: anyio.CapacityLimiter
    events: Listener | None
    uses: Uses


class Walk:
    """One pull: what is known so far, what is missing, and what the store has yet to be told.

    Without a ``repository`` there is no network: what the store doesn't hold is Offline.
    """

    def __init__(
        self,
        means: Means,
        repository: Repository | None,
        reference: Reference,
        asked: float,
        force: bool,
        platforms: tuple[Platform, ...] | None,
        lease: Lease,
    ) -> None:
        self.documents: dict[Digest, Manifest | Index] = {}
        self.fetched = 0
        """How many bytes of blobs came over the network."""
        self._means = means
        self._store = means.store
        self._repository = repository
        self._reference = reference
        self._asked = asked
        self._force = force
        self._platforms = platforms
        self._lease = lease  # no collection takes what was found, or brought, before the reference stands for it
        self._manifests: dict[Digest, Descriptor] = {}
        self._blobs: dict[Digest, Descriptor] = {}
        self._skipped: dict[Digest, Descriptor] = {}
        self._is_news = False
        self._unasked: Record | None = None  # what is known, if nobody was asked what the reference stands for
        self._changes = Changes(asked)
        self._pending = 0

    async def root(self) -> Descriptor:
        """Give what the reference stands for: by one HEAD if the store may have it, else by one GET."""
        known = None if self._force else self._store.resolve(self._reference)
        kept = await self._stored(known.digest) if isinstance(known, Record) else None
        asks = kept is None or not (self._reference.is_pinned or self._repository is None)
        tell(self._means.events, CacheChecked(str(self._reference), "intact" if kept else "absent", asks))
        digest: Digest | None = None
        # With nothing to compare with, a HEAD would be pure latency.
        if isinstance(known, Record) and kept is not None:
            if self._reference.is_pinned or self._repository is None:
                self._unasked = known
                return await self._know(known.digest, *kept)
            resolved = await self._repository.resolve(self._reference.selector)
            digest = resolved.digest if resolved is not None else None
            if digest is not None and digest != known.digest:
                kept = await self._stored(digest)
            if digest is not None and kept is not None:
                return await self._know(digest, *kept)
        if digest is not None:
            try:
                return await self._take(await self._registry(digest).manifest(str(digest)))
            except NotFound:
                # The tag moved again between the HEAD and the GET.
                _log.debug("%s: %s is gone again: asking for the tag", self._reference, digest)
        return await self._take(await self._registry().manifest(self._reference.selector))

    def _registry(self, wanted: Digest | None = None) -> Repository:
        """Give whom to ask for what is ``wanted``: a part of it, or what the reference stands for. Raises Offline."""
        if self._repository is None:
            what = "it" if wanted is None else f"its {wanted}"
            why = f"{what} can't be fetched again" if self._force else f"the store doesn't have {what}"
            hint = "fetch it once while online"
            raise Offline(f"{self._reference}: {why}, and network access is switched off", hint=hint)
        return self._repository

    async def visit(self, descriptor: Descriptor, depth: int) -> None:
        """Bring what ``descriptor``, a manifest or an index, needs."""
        if descriptor.digest in self._manifests:
            return  # somebody is at it
        self._manifests[descriptor.digest] = descriptor
        document = self.documents.get(descriptor.digest)
        if document is None:
            document = await self._child(descriptor)
        if isinstance(document, Index):
            await self._visit_index(descriptor, document, depth)
            return
        self._link(descriptor.digest, (document.config, *document.layers))
        await self._bring_all((document.config, *document.layers))

    async def conclude(self, root: Descriptor, *, is_current: bool) -> None:
        """Tell the store what is left to tell, and what the reference stands for now; make sure that it has it all."""
        if self._unasked is not None and not self._is_news:
            await self._means.uses.note(self._reference, root, self._unasked.validated, self._asked)
            return
        known = self._store.resolve(self._reference)
        # That nothing has changed isn't worth waiting for the disk.
        durable = self._is_news or not isinstance(known, Record) or known.digest != root.digest
        is_confirmed = is_current and self._repository is not None
        references = ((self._reference, root.digest, root.media_type),) if is_confirmed else ()
        told = [one for one in (*self._manifests.values(), *self._blobs.values()) if one.digest not in self._skipped]
        missing: Set[Digest] = frozenset()
        for _ in range(_ATTEMPTS):
            # Somebody may remove what was found before this is written, or the tag before it is looked at again.
            await self._bring_again(missing)
            missing = frozenset()
            try:
                await self._commit(references, durable=durable, required=[one.digest for one in told])
            except Lost as lost:
                missing = lost.digests
            except StoreError as error:
                # All of it is here: that this can't be written down is no reason to fail.
                if self._is_news:
                    raise
                _log.log(logging.WARNING if durable else logging.DEBUG, "%s: not stored: %s", self._reference, error)
            missing = missing or {one.digest for one in await self._missing(told)}
            if not missing:
                return
            _log.info("%s: the store doesn't hold %s, or not any more", self._reference, min(map(str, missing)))
        raise StoreCorrupted(
            f"{self._reference}: the store doesn't hold {min(map(str, missing))}, which it was just given",
            hint="check the disk, or set LADING_HOME to another directory",
        )

    def found(self, root: Descriptor) -> tuple[tuple[Descriptor, ...], tuple[Descriptor, ...], tuple[Descriptor, ...]]:
        """Give the manifests, the blobs, and the blobs that were skipped, in the order of the documents."""
        ordered = dict[Digest, Descriptor]()
        self._collect(root, ordered)
        manifests, blobs, skipped = self._manifests.keys(), self._blobs.keys(), self._skipped.keys()
        return (
            tuple(one for digest, one in ordered.items() if digest in manifests),
            tuple(one for digest, one in ordered.items() if digest in blobs and digest not in skipped),
            tuple(one for digest, one in ordered.items() if digest in skipped),
        )

    def _collect(self, descriptor: Descriptor, ordered: dict[Digest, Descriptor]) -> None:
        ordered[descriptor.digest] = descriptor
        for child in below(self.documents.get(descriptor.digest)):
            if child.digest not in ordered and (child.digest in self._manifests or child.digest in self._blobs):
                self._collect(child, ordered)

    # Manifests

    async def _visit_index(self, descriptor: Descriptor, index: Index, depth: int) -> None:
        children = chosen(self._reference, index, self._platforms)
        self._link(descriptor.digest, children)
        # image-spec, image-index.md: a media type that isn't known is no reason to fail; it is content like any other.
        manifests = [one for one in children if one.media_type in MANIFESTS | INDEXES]
        others = [one for one in children if one.media_type not in MANIFESTS | INDEXES]
        if manifests and depth == _DEPTH_LIMIT:
            raise InvalidManifest(f"{self._reference}: more than {_DEPTH_LIMIT} indexes within each other")
        if len(self._manifests) + len(manifests) > _MANIFESTS_LIMIT:
            raise InvalidManifest(f"{self._reference}: more than {_MANIFESTS_LIMIT} manifests")
        if too_large := next((one for one in manifests if one.size > MANIFEST_LIMIT), None):
            raise InvalidManifest(f"{self._reference}: {too_large.digest}: more than {MANIFEST_LIMIT} bytes")
        await together(partial(self._bring_all, others), *(partial(self.visit, one, depth + 1) for one in manifests))

    async def _child(self, descriptor: Descriptor) -> Manifest | Index:
        digest = descriptor.digest
        if (embedded := await _embedded(descriptor)) is not None:
            await self._take(Served(embedded, descriptor.media_type, digest))
        elif not self._force and (kept := await self._stored(digest)) is not None:
            await self._know(digest, *kept)
        else:
            key = ("manifest", self._reference.name, str(digest))
            served = await self._means.flights.join(key, partial(self._get, digest))
            if len(served.raw) != descriptor.size:
                raise SizeMismatch(f"{self._reference}: {digest}: {len(served.raw)} bytes instead of {descriptor.size}")
            await self._take(served)
        document = self.documents[digest]
        if isinstance(document, Index) != (descriptor.media_type in INDEXES):
            raise InvalidManifest(f"{self._reference}: {digest} isn't what it is listed as: {descriptor.media_type}")
        return document

    async def _get(self, digest: Digest) -> Served:
        async with self._means.small:
            repository = self._registry(digest)
            return await repository.turns.small(partial(repository.manifest, str(digest)))

    async def _take(self, served: Served) -> Descriptor:
        """Take a manifest that the registry served."""
        descriptor = await self._know(served.digest, served.raw, served.media_type)
        self._is_news = True
        self._add(Changes(0.0, content=((served.digest, served.raw),), seen=(self._seen(descriptor),)))
        return descriptor

    async def _know(self, digest: Digest, raw: bytes, media_type: str | None = None) -> Descriptor:
        try:
            if len(raw) <= SMALL:
                document = parse_manifest(raw, media_type)
            else:
                document = await anyio.to_thread.run_sync(parse_manifest, raw, media_type)
        except InvalidManifest as error:
            raise InvalidManifest(f"{self._reference}: {error.message}", hint=error.hint) from error
        self.documents[digest] = document
        return Descriptor(document.media_type, digest, len(raw), artifact_type=document.artifact_type)

    async def _stored(self, digest: Digest) -> tuple[bytes, str | None] | None:
        """Give a manifest that the store holds of this repository, and its media type."""

        def look() -> tuple[bytes, str | None] | None:
            self._lease.keep((digest,))
            found = self._store.read(self._reference.name, digest)
            if not isinstance(found, Intact):
                return None
            record = self._store.resolve(self._reference.at(digest))
            return found.content, record.media_type if isinstance(record, Record) else None

        return await anyio.to_thread.run_sync(look)

    # Blobs

    async def _bring_all(self, blobs: Sequence[Descriptor]) -> None:
        """Bring blobs into the store, unless they are there, or on their way."""
        wanted = {one.digest: one for one in blobs if one.digest not in self._blobs}
        if len(self._blobs) + len(wanted) > _BLOBS_LIMIT:
            raise InvalidManifest(f"{self._reference}: more than {_BLOBS_LIMIT} blobs")
        self._blobs.update(wanted)
        await anyio.to_thread.run_sync(self._lease.keep, wanted)
        missing = list(wanted.values())
        if not self._force:
            missing = await self._missing(missing)
        for blob in missing:
            if not blob.urls:  # who knows whether a foreign layer comes
                tell(self._means.events, BlobExpected(str(self._reference), str(blob.digest), blob.size))
        await together(*(partial(self._bring, one) for one in missing))

    async def _bring_again(self, missing: Set[Digest]) -> None:
        """Bring what was there and isn't any more."""
        for digest in missing & self._manifests.keys():
            document, descriptor = self.documents[digest], self._manifests[digest]
            self._add(Changes(0.0, content=((digest, document.raw),), seen=(self._seen(descriptor),)))
        if blobs := [self._blobs[digest] for digest in missing & self._blobs.keys()]:
            await together(*(partial(self._bring, blob) for blob in blobs))

    async def _missing(self, wanted: list[Descriptor]) -> list[Descriptor]:
        """Give those that the store doesn't hold of this repository."""
        name, holds = self._reference.name, self._store.holds
        return await anyio.to_thread.run_sync(lambda: [one for one in wanted if not holds(name, one)])

    async def _bring(self, blob: Descriptor) -> None:
        flights, key = self._means.flights, (self._reference.name, str(blob.digest), blob.size)
        content, count = await _embedded(blob), 0
        try:
            if content is None and blob.size > INLINE_LIMIT:
                count = await flights.join(("fetch", *key, self._force), partial(self._fetch, blob))
            elif content is None:
                content = await flights.join(("blob", *key), partial(self._read, blob))
                count = blob.size
        except (NotFound, Offline) as error:
            if not blob.urls:
                raise
            _log.warning("%s: %s is a foreign layer, which is never fetched: %s", self._reference, blob.digest, error)
            self._skipped[blob.digest] = blob
            return
        self.fetched += count
        self._is_news = True
        if content is not None:
            self._add(Changes(0.0, content=((blob.digest, content),), seen=(self._seen(blob),)))
            self._pending += len(content)
        if self._pending > _PENDING_LIMIT:
            await self._commit()

    async def _fetch(self, blob: Descriptor) -> int:
        """Fetch what is large into the store, visible at once: who is interrupted later has nothing to prove again."""
        repository = self._registry(blob.digest)
        async with self._means.large:
            if not self._force and not await self._missing([blob]):
                return 0  # another pull has just brought it
            count = await fetch_blob(repository, blob, self._store, self._progress(blob))
        with suppress(Lost):  # where leases do nothing, it may have been collected: in the end it is missing
            await self._store.commit(Changes(self._asked, blobs=(blob,), seen=(self._seen(blob),)))
        return count

    async def _read(self, blob: Descriptor) -> bytes:
        async with self._means.small:
            repository = self._registry(blob.digest)
            content = await repository.turns.small(partial(read_blob, repository, blob, self._means.large))
        self._progress(blob)(blob.size)
        return content

    def _progress(self, blob: Descriptor) -> Callable[[int], None]:
        told = 0.0

        def progress(received: int) -> None:
            nonlocal told
            now = time.monotonic()
            if told and received < blob.size and now - told < _TELL_SECONDS:
                return
            told = now
            tell(self._means.events, BlobProgress(str(self._reference), str(blob.digest), received, blob.size))

        return progress

    # What the store has to be told

    async def _commit(
        self,
        references: tuple[tuple[Reference, Digest, str], ...] = (),
        *,
        durable: bool = True,
        required: Iterable[Digest] = (),
    ) -> None:
        changes, self._changes, self._pending = self._changes, Changes(self._asked), 0
        news = {digest for digest, _ in changes.content}
        if news:
            await anyio.to_thread.run_sync(self._lease.keep, news)
        found = tuple((self._reference.name, digest) for digest in required if digest not in news)
        try:
            await self._store.commit(replace(changes, references=references, required=found, durable=durable))
        except Lost:
            self._add(changes)
            raise

    def _add(self, changes: Changes) -> None:
        known = self._changes
        self._changes = replace(
            known,
            content=known.content + changes.content,
            blobs=known.blobs + changes.blobs,
            seen=known.seen + changes.seen,
            links=known.links + changes.links,
        )

    def _link(self, parent: Digest, children: Sequence[Descriptor]) -> None:
        self._add(Changes(0.0, links=tuple((parent, child.digest) for child in children)))

    def _seen(self, descriptor: Descriptor) -> Seen:
        return Seen(self._reference.name, descriptor.digest, descriptor.media_type)


async def _embedded(descriptor: Descriptor) -> bytes | None:
    """Give the content that a descriptor embeds, verified. Raises DigestMismatch."""
    if descriptor.data is None or len(descriptor.data) <= SMALL:
        return descriptor.embedded()
    return await anyio.to_thread.run_sync(descriptor.embedded)
