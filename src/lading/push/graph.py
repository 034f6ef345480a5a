"""What has to be pushed: the manifests of an artifact, from the root to the leaves, and the blobs that they name.

Manifests are read where they come from, level by level, unless the target has them: then it has what they need, too.
Everything is verified and bounded before anything is sent.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import anyio

from lading.errors import DigestMismatch, InvalidManifest, LadingError, SizeMismatch
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, Manifest, parse_manifest
from lading.oci.media_types import INDEXES, MANIFESTS

_log = logging.getLogger("lading.push")

DEPTH_LIMIT = 8
_MANIFESTS_LIMIT = 1_000
_BLOBS_LIMIT = 20_000
_BYTES_LIMIT = 64 * 1024 * 1024
"""Indexes within indexes (or referrers of referrers), manifests, blobs and bytes of manifests of one push at most."""

_AT_ONCE = 16
"""Manifests that are asked for at once."""

Referrers = Callable[[Digest], AsyncIterator[Descriptor]]
"""Gives what refers to a manifest, at the source."""


class Source(Protocol):
    """Where an artifact comes from: another registry, a directory."""

    async def manifest(self, descriptor: Descriptor, /) -> bytes:
        """Give the bytes of a manifest; they needn't be verified."""
        ...

    async def has(self, blob: Descriptor, /) -> bool:
        """Tell whether a blob is there at all. That is asked of foreign layers, which may live elsewhere."""
        ...

    def open(self, blob: Descriptor, start: int = 0, /) -> AsyncIterator[bytes]:
        """Give a blob from byte ``start`` on, each time anew; it needn't be verified.

        What isn't read to its end is closed with ``aclose``, if it has that. It may be read in another task than the
        one that asked for it.
        """
        ...


@dataclass(slots=True)
class Node:
    """A manifest on its way. ``subject`` is what it is said to refer to, if that is why it is pushed."""

    descriptor: Descriptor
    subject: Digest | None = None
    is_there: bool = False
    """Whether the target has it."""
    document: Manifest | Index | None = None
    """What it says, once it was read."""
    referrers: list[Descriptor] = field(default_factory=list)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests that it lists."""
        return self.document.manifests if isinstance(self.document, Index) else ()

    @property
    def needs(self) -> set[Digest]:
        """What has to be there before, as far as it is pushed at all."""
        subject = self.document.subject if self.document is not None else None
        return {child.digest for child in self.children} | ({subject.digest} if subject is not None else set())


class Graph:
    """The manifests of one push. ``what`` names it in errors; ``is_there`` tells whether the target has a manifest."""

    def __init__(
        self, what: str, source: Source, root: Descriptor, is_there: Callable[[Digest], Awaitable[bool]]
    ) -> None:
        self.nodes: dict[Digest, Node] = {}
        self._what = what
        self._source = source
        self._root = root
        self._is_there = is_there
        self._bytes = 0
        self._asking = anyio.CapacityLimiter(_AT_ONCE)

    async def walk(self, referrers: Referrers | None) -> None:
        """Find everything that is to be pushed; with ``referrers``, what refers to any of it as well.

        Raises:
            InvalidManifest: something isn't a manifest, or there is too much of it.
            IntegrityError: the source gave something else than it should.
        """
        level = [Node(self._root)]
        for _ in range(DEPTH_LIMIT + 1):
            fresh: dict[Digest, Node] = {}
            for node in level:
                if node.descriptor.digest not in self.nodes:
                    fresh.setdefault(node.descriptor.digest, node)
            self.nodes.update(fresh)
            if len(self.nodes) > _MANIFESTS_LIMIT:
                raise InvalidManifest(f"{self._what}: more than {_MANIFESTS_LIMIT} manifests")
            await together(*(partial(self._visit, node, referrers) for node in fresh.values()))
            nodes = [node for digest, node in fresh.items() if digest in self.nodes]
            level = [Node(child) for node in nodes for child in node.children]
            level += [Node(one, node.descriptor.digest) for node in nodes for one in node.referrers]
            if not level:
                return
        raise InvalidManifest(f"{self._what}: more than {DEPTH_LIMIT} levels of indexes")

    def blobs(self) -> list[Descriptor]:
        """Give the blobs that the target may lack, each once."""
        blobs: dict[Digest, Descriptor] = {}
        for node in self.nodes.values():
            if isinstance(node.document, Manifest) and not node.is_there:
                for blob in (node.document.config, *node.document.layers):
                    blobs.setdefault(blob.digest, blob)
        if len(blobs) > _BLOBS_LIMIT:
            raise InvalidManifest(f"{self._what}: more than {_BLOBS_LIMIT} blobs")
        return list(blobs.values())

    async def read(self, node: Node) -> Manifest | Index:
        """Give what a manifest says, verified; its bytes are the source's."""
        if node.document is not None:
            return node.document
        descriptor = node.descriptor
        raw = await self._source.manifest(descriptor)
        # What a registry says of a tag's size, when it is only asked for its digest, is no promise.
        if len(raw) != descriptor.size and descriptor.digest != self._root.digest:
            raise SizeMismatch(f"{self._what}: {descriptor.digest}: {len(raw)} bytes instead of {descriptor.size}")
        if not descriptor.digest.matches(raw):
            raise DigestMismatch(f"{self._what}: another manifest came instead of {descriptor.digest}")
        self._bytes += len(raw)
        if len(raw) > MANIFEST_LIMIT or self._bytes > _BYTES_LIMIT:
            raise InvalidManifest(f"{self._what}: too many bytes of manifests")
        try:
            node.document = parse_manifest(raw, descriptor.media_type)
        except InvalidManifest as error:
            raise InvalidManifest(f"{self._what}: {descriptor.digest}: {error.message}", hint=error.hint) from error
        node.descriptor = replace(descriptor, size=len(raw))
        return node.document

    async def _visit(self, node: Node, referrers: Referrers | None) -> None:
        """Find out whether the target has a manifest, and read it if that matters."""
        descriptor = node.descriptor
        if not is_manifest(descriptor):
            raise InvalidManifest(f"{self._what}: {descriptor.digest}: not a manifest: {descriptor.media_type}")
        async with self._asking:
            node.is_there = await self._is_there(descriptor.digest)
            if not node.is_there or (referrers is not None and descriptor.media_type in INDEXES):
                await self.read(node)
            if referrers is not None:
                node.referrers = [one async for one in referrers(descriptor.digest) if is_manifest(one)]
        if node.subject is not None and node.document is not None and not refers_to(node.document, node.subject):
            _log.warning("%s: %s doesn't refer to %s: left out", self._what, descriptor.digest, node.subject)
            del self.nodes[descriptor.digest]


def is_manifest(descriptor: Descriptor) -> bool:
    """Tell whether a descriptor names a manifest or an index."""
    return descriptor.media_type in MANIFESTS | INDEXES


def refers_to(document: Manifest | Index, subject: Digest) -> bool:
    """Tell whether a manifest really refers to ``subject``."""
    return document.subject is not None and document.subject.digest == subject


async def together(*operations: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run ``operations`` at once; the first failure ends the others and is raised.

    Raises:
        LadingError: one of them waited for something that was cancelled.
    """
    failed: BaseException
    try:
        async with anyio.create_task_group() as group:
            for operation in operations:
                group.start_soon(operation)
        if not group.cancel_scope.cancel_called:
            return
        # Nobody cancelled this, or it would have come out as that: a group ends as if all of its tasks were done.
        failed = LadingError("the operation was cancelled from inside", hint="try again")
    except BaseExceptionGroup as failures:
        failed = failures
        while isinstance(failed, ExceptionGroup):
            failed = failed.exceptions[0]
    raise failed
