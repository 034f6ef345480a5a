"""Copying to a registry: from another one, from another repository of the same, from a layout.

Blobs stream from the source to the target, and nothing is kept here; but what the store holds of the source already
isn't fetched. Within one registry blobs are mounted.
"""

from __future__ import annotations

import logging
import os
from functools import partial

from lading.errors import InvalidManifest, InvalidPlatform, InvalidReference, StoreCorrupted
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import Index, parse_manifest
from lading.oci.media_types import INDEXES
from lading.oci.platform import Platform, images, select
from lading.oci.reference import Reference
from lading.push.artifact import ArtifactPusher, Delivered, Source
from lading.push.layout import LayoutSource
from lading.push.registry import RegistrySource
from lading.push.stored import StoredSource
from lading.registry.referrers import referrers as referrers_of
from lading.registry.repository import RepositoryOf
from lading.store.store import Store

_log = logging.getLogger("lading.push")

_DEPTH_LIMIT = 8
"""Indexes within each other at most."""


class Copier:
    """Copies artifacts and images."""

    def __init__(self, store: Store, repository: RepositoryOf, pusher: ArtifactPusher) -> None:
        self._store = store
        self._repository = repository
        self._pusher = pusher

    async def copy(
        self,
        source: Reference | os.PathLike[str],
        target: Reference,
        platforms: tuple[Platform, ...] = (),
        referrers: bool = False,
        image: str | None = None,
    ) -> Delivered:
        """Copy what ``source`` stands for, whole and byte for byte, to ``target``, whose tag comes last.

        What the target has isn't sent again: where its tag stands for the same already, that is one HEAD each. Blobs
        are verified while they stream; nothing is kept here, and what the store has of the source isn't fetched.

        Args:
            source: a reference, or the path of an OCI image layout, a directory or a tar.
            target: a tag, by default ``latest``; a digest only if it is the right one.
            platforms: copy one image of an index instead of all of it; the tag stands for that image then.
            referrers: copy what refers to any of it as well: signatures, attestations, bills of materials.
            image: which one of a layout's images: what the layout calls it, or its digest; by default the only one.

        Raises:
            InvalidReference: source and target are the same, or the target names another digest.
            InvalidPlatform: several images were chosen, which an index of the same digest can't have alone.
            InvalidManifest: what came isn't a manifest, has nothing for the platform, or too much of everything; or
                the path leads to something else than a layout.
            IntegrityError: the source sent something else; the target hasn't got it.
            LadingError: the layout can't be read, or doesn't have what is wanted.
            RegistryError, TransportError, ProtocolError: one of the two failed; the message says which, and at what.
        """
        if not isinstance(source, Reference):
            if referrers:
                raise ValueError("a layout says nothing of what refers to an image: referrers can't be copied")
            return await self._copy_layout(os.fspath(source), target, platforms, image)
        if image is not None:
            raise ValueError("image is for a layout: a reference says which one by itself")
        if (source.name, source.selector) == (target.name, target.selector):
            raise InvalidReference(f"{source}: source and target are the same", hint="name another tag or repository")
        try:
            return await self._copy(self._store, source, target, platforms, referrers)
        except StoreCorrupted as error:
            _log.warning("%s: once more, without the store: %s", source, error)
            return await self._copy(None, source, target, platforms, referrers)

    async def _copy(
        self,
        store: Store | None,
        source: Reference,
        target: Reference,
        platforms: tuple[Platform, ...],
        referrers: bool,
    ) -> Delivered:
        repository = await self._repository(source, brief=False)
        origin = StoredSource(store, source, RegistrySource(repository))
        root = await origin.root()
        if platforms:
            root = await _chosen(origin, str(source), root, platforms)
        is_near = source.registry == target.registry and source.repository != target.repository
        return await self._pusher.push(
            origin,
            root,
            target,
            mount_from=source.repository if is_near else None,
            referrers=partial(referrers_of, repository) if referrers else None,
        )

    async def _copy_layout(
        self, path: str, target: Reference, platforms: tuple[Platform, ...], image: str | None
    ) -> Delivered:
        origin = LayoutSource(path)
        try:
            root = await origin.root(image)
            if platforms:
                root = await _chosen(origin, path, root, platforms)
            return await self._pusher.push(origin, root, target)
        finally:
            origin.close()


async def _chosen(origin: Source, source: str, root: Descriptor, platforms: tuple[Platform, ...]) -> Descriptor:
    """Give the one image that is meant by ``platforms``; what isn't an index is for all of them."""
    for _ in range(_DEPTH_LIMIT + 1):
        if root.media_type not in INDEXES:
            return root
        index = parse_manifest(await origin.manifest(root), root.media_type)
        assert isinstance(index, Index)
        found = {_best(source, index, platform) for platform in platforms}
        if len(found) > 1:
            raise InvalidPlatform(
                f"{source}: an index with a part of its images would be another one, and have another digest",
                hint="choose one platform, or none to copy all of it",
            )
        root = found.pop()
    raise InvalidManifest(f"{source}: more than {_DEPTH_LIMIT} indexes within each other")


def _best(source: str, index: Index, platform: Platform) -> Descriptor:
    found = select(index, platform)
    if not found:
        offered = ", ".join(str(one.platform) for one in images(index) if one.platform) or "nothing for any"
        raise InvalidManifest(f"{source}: nothing in it is for {platform}", hint=f"it has {offered}")
    return found[0]
