"""Pushing whole artifacts and images, wherever they come from: blobs first, then manifests, the tag last.

What the registry has isn't sent again. Blobs stream from their source to the registry, several at once, each at most
once, and are verified on the way; manifests are put byte for byte, so that every digest stays what it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import anyio

from lading.errors import InvalidReference, StoreError
from lading.events import BlobExpected, BlobProgress, Listener, tell
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_INDEX
from lading.oci.reference import DEFAULT_TAG, Reference
from lading.push.graph import Graph, Node, Referrers, Source, refers_to, together
from lading.registry.referrers import describe, extended, referrers, referrers_tag, tagged_list
from lading.registry.repository import Repository, RepositoryOf
from lading.registry.upload import Upload
from lading.store.store import Changes, Record, Store

__all__ = ["ArtifactPusher", "Delivered", "Referrers", "Source"]

_log = logging.getLogger("lading.push")

_LARGE = 128 * 1024
"""Bytes of a blob above which few are under way at once."""

_LARGE_AT_ONCE = 8
_SMALL_AT_ONCE = 24
"""Blobs under way at once, of one client. Each is a request that may have to wait for another one, its source's: if all
the requests that there can be were such, they would wait for each other.
"""

_MANIFESTS_AT_ONCE = 16

_TELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a push did.

    ``reference`` is where the artifact is now, pinned; ``descriptor`` names it. ``manifests`` and ``blobs`` were sent,
    ``mounted`` are blobs that the registry took from another of its repositories; what it had isn't named. ``skipped``
    are foreign layers, which the source doesn't have either. ``referrers`` refer to what was pushed, and are there.
    """

    reference: Reference
    descriptor: Descriptor
    manifests: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    mounted: tuple[Descriptor, ...] = ()
    skipped: tuple[Descriptor, ...] = ()
    referrers: tuple[Descriptor, ...] = ()

    @property
    def sent(self) -> int:
        """Bytes of blobs that were sent."""
        return sum(blob.size for blob in self.blobs)


class ArtifactPusher:
    """Pushes whole artifacts. ``concurrency`` is how many blobs above 128 KiB are under way at once, eight at most.

    ``moved`` is told of each tag that stands for something else now. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        repository: RepositoryOf,
        upload: Callable[[Reference], Awaitable[Upload]],
        *,
        concurrency: int = _LARGE_AT_ONCE,
        events: Listener | None = None,
        moved: Callable[[Reference], object] = lambda tag: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.large = anyio.CapacityLimiter(min(concurrency, _LARGE_AT_ONCE))
        self.small = anyio.CapacityLimiter(_SMALL_AT_ONCE)
        self.events = events
        self._store = store
        self._repository = repository
        self._upload = upload
        self._moved = moved
        self._clock = clock

    async def push(
        self,
        source: Source,
        root: Descriptor,
        target: Reference,
        *,
        mount_from: str | None = None,
        referrers: Referrers | None = None,
    ) -> Delivered:
        """Push the manifest or index ``root``, and everything that it needs, to ``target``.

        ``target`` is a tag, by default ``latest``, or ``root``'s digest. ``mount_from`` is another repository of the
        same registry that has the blobs; with ``referrers``, what they name is pushed as well.

        Raises:
            InvalidReference: ``target`` names another digest.
            InvalidManifest: something isn't a manifest, or there is too much of it.
            IntegrityError: the source gave something else than it should.
            RegistryError, TransportError, ProtocolError: the registry didn't take it.
            Exception: what the source raised.
        """
        if target.digest not in (None, root.digest):
            raise InvalidReference(f"{target}: this is {root.digest}", hint="push it to a tag, or to its own digest")
        upload, repository = await self._upload(target), await self._repository(target, brief=False)
        delivered = await _Push(self, upload, repository, source, root, target, mount_from).run(referrers)
        await self._forget(target, root.digest)
        return delivered

    async def _forget(self, target: Reference, digest: Digest) -> None:
        """Forget what the tag stood for, if it was moved: that is past."""
        self._moved(target)
        try:
            known = self._store.resolve(target)
            if isinstance(known, Record) and known.digest != digest:
                await self._store.commit(Changes(self._clock(), forgotten=(target,)))
        except StoreError as error:
            _log.debug("%s: %s", target, error)


class _Push:
    """One push: what there is, what of it is missing, and what was done."""

    def __init__(
        self,
        pusher: ArtifactPusher,
        upload: Upload,
        repository: Repository,
        source: Source,
        root: Descriptor,
        target: Reference,
        mount_from: str | None,
    ) -> None:
        self._pusher = pusher
        self._upload = upload
        self._repository = repository
        self._source = source
        self._root = root
        self._target = target
        self._mount_from = mount_from
        self._tag = target.tag or (None if target.digest is not None else DEFAULT_TAG)
        self._graph = Graph(str(target), source, root, self._is_there)
        self._putting = anyio.CapacityLimiter(_MANIFESTS_AT_ONCE)
        self._put: dict[Digest, Descriptor] = {}
        self._unlisted: dict[Digest, list[Descriptor]] = {}
        self._outcomes: dict[str, list[Descriptor]] = {"found": [], "mounted": [], "sent": [], "skipped": []}

    async def run(self, referrers: Referrers | None) -> Delivered:
        is_tagged = self._tag is not None and (await self._upload.find(self._tag))[1] == self._root.digest
        if not is_tagged or referrers is not None:
            await self._graph.walk(referrers)
            blobs = self._graph.blobs()
            for blob in blobs:
                if not blob.urls:  # who knows whether the source has a foreign layer
                    tell(self._pusher.events, BlobExpected(str(self._target), str(blob.digest), blob.size))
            await together(*(partial(self._bring, blob) for blob in blobs))
            await self._bring_manifests(None if is_tagged else self._tag)
        nodes, done = self._graph.nodes, self._outcomes
        return Delivered(
            self._target.at(self._root.digest),
            nodes[self._root.digest].descriptor if nodes else self._root,
            tuple(self._put.values()),
            tuple(done["sent"]),
            tuple(done["mounted"]),
            tuple(done["skipped"]),
            tuple(node.descriptor for node in nodes.values() if node.subject is not None),
        )

    async def _is_there(self, digest: Digest) -> bool:
        return (await self._upload.find(str(digest)))[0]

    async def _bring(self, blob: Descriptor) -> None:
        async with self._pusher.large if blob.size > _LARGE else self._pusher.small:
            if blob.urls and not await self._source.has(blob):
                _log.warning("%s: %s is a foreign layer, which the source doesn't have", self._target, blob.digest)
                self._outcomes["skipped"].append(blob)
                return
            content, progress = blob.embedded(), self._progress(blob)

            def open_at(start: int) -> AsyncIterator[bytes]:
                progress(start)
                return self._source.open(blob, start) if content is None else _embedded(content, start)

            outcome = await self._upload.stream(blob, open_at, mount_from=self._mount_from, progress=progress)
            if outcome != "sent":
                progress(blob.size)
        self._outcomes[outcome].append(blob)

    def _progress(self, blob: Descriptor) -> Callable[[int], None]:
        told = 0.0

        def progress(sent: int) -> None:
            nonlocal told
            now = time.monotonic()
            if sent < blob.size and now - told < _TELL_SECONDS:
                return
            told = now
            tell(self._pusher.events, BlobProgress(str(self._target), str(blob.digest), sent, blob.size))

        return progress

    async def _bring_manifests(self, tag: str | None) -> None:
        """Put what is missing, each when everything is there that it needs, and the tag last."""
        nodes = self._graph.nodes
        waiting = {digest: node for digest, node in nodes.items() if not node.is_there}
        # Under its digest only where something needs it that should be there when the tag is.
        if tag is not None and not any(self._root.digest in node.needs for node in waiting.values()):
            waiting.pop(self._root.digest, None)
        while waiting:
            ready = {digest: node for digest, node in waiting.items() if not node.needs & waiting.keys()}
            await together(*(partial(self._bring_manifest, node, str(digest)) for digest, node in ready.items()))
            waiting = {digest: node for digest, node in waiting.items() if digest not in ready}
        await self._find_unlisted()
        await self._list_unlisted()
        if tag is not None:
            await self._bring_manifest(nodes[self._root.digest], tag)
            await self._list_unlisted()

    async def _bring_manifest(self, node: Node, selector: str) -> None:
        async with self._putting:
            document = await self._graph.read(node)
            is_listed = await self._upload.manifest(selector, document.raw, document.media_type)
        digest = node.descriptor.digest
        self._put[digest] = node.descriptor
        if document.subject is not None and not is_listed:
            self._unlisted.setdefault(document.subject.digest, []).append(describe(document, digest))

    async def _find_unlisted(self) -> None:
        """Find the referrers that were there, but that nobody is told of: an earlier push may have been cut off."""
        there: dict[Digest, list[Node]] = {}
        for node in self._graph.nodes.values():
            if node.is_there and node.subject is not None:
                there.setdefault(node.subject, []).append(node)
        for subject, nodes in there.items():
            listed = {one.digest async for one in referrers(self._repository, subject)}
            for node in nodes:
                if node.descriptor.digest not in listed:
                    document = await self._graph.read(node)
                    if refers_to(document, subject):
                        self._unlisted.setdefault(subject, []).append(describe(document, node.descriptor.digest))

    async def _list_unlisted(self) -> None:
        """Keep up the lists of a registry that doesn't itself (distribution-spec, "Referrers Tag Schema")."""
        unlisted, self._unlisted = self._unlisted, {}
        for subject, descriptors in unlisted.items():
            raw = extended(await tagged_list(self._repository, subject), descriptors)
            if raw is not None:
                await self._upload.manifest(referrers_tag(subject), raw, OCI_INDEX)


async def _embedded(content: bytes, start: int) -> AsyncIterator[bytes]:
    yield content[start:]
