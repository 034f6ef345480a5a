"""Copying between registries, or between repositories of one: the source's blobs stream to the target.

Nothing goes through the store or the disk. Within one registry blobs are mounted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from lading.errors import BodyInterrupted, InvalidManifest, InvalidReference, NotFound, SizeMismatch, TransportError
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import Index, parse_manifest
from lading.oci.media_types import INDEXES
from lading.oci.platform import InvalidPlatform, Platform, images, select
from lading.oci.reference import Reference
from lading.push.artifact import ArtifactPusher, Delivered
from lading.registry.referrers import referrers as referrers_of
from lading.registry.repository import Repository, RepositoryOf

_DEPTH_LIMIT = 8
"""Indexes within each other at most."""


class RegistrySource:
    """A repository that something is copied from: a :class:`lading.push.artifact.Source`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def root(self, selector: str) -> Descriptor:
        """Give what a tag or a digest stands for: a HEAD, and a GET where that doesn't say."""
        resolved = await self._repository.resolve(selector)
        if resolved is not None:
            return resolved
        served = await self._repository.manifest(selector)
        return Descriptor(parse_manifest(served.raw, served.media_type).media_type, served.digest, len(served.raw))

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """Give a manifest that is what it was served as.

        Raises:
            InvalidManifest: it isn't.
            RegistryError, TransportError, ProtocolError, IntegrityError: the registry gave none.
        """
        served = await self._repository.manifest(str(descriptor.digest))
        parse_manifest(served.raw, served.media_type)
        return served.raw

    async def has(self, blob: Descriptor) -> bool:
        """Ask with HEAD whether a blob is there."""
        try:
            await self._repository.require_blob(blob.digest)
        except NotFound:
            return False
        return True

    async def open(self, blob: Descriptor, start: int = 0) -> AsyncIterator[bytes]:
        """Give a blob from byte ``start`` on, and go on where a connection was lost; only its size is checked.

        Raises:
            SizeMismatch: more came.
            RegistryError, TransportError, ProtocolError: the registry gave none, or not all of it.
        """
        what = f"{self._repository.name}: blob {blob.digest}"
        attempts, position, mirrored = self._repository.begin(), start, True
        while position < blob.size:
            failure: TransportError | None = None
            response, offset = await self._repository.open_part(blob, position, mirrored=mirrored)
            async with response:
                try:
                    async for chunk in response.chunks():
                        fresh, offset = chunk[max(0, position - offset) :], offset + len(chunk)
                        if offset > blob.size:
                            raise SizeMismatch(f"{what}: more than its {blob.size} bytes")
                        if fresh:
                            position = offset
                            attempts.progress()
                            yield fresh
                except TransportError as error:
                    failure = error
            if position < blob.size:
                said = f"{what}: {position} of {blob.size} bytes came"
                failure = failure or BodyInterrupted(said, url=response.url, hint="try again")
                if not await attempts.again(failure):
                    raise failure
                # What a mirror broke off, the registry itself continues.
                mirrored = False


class Copier:
    """Copies artifacts and images."""

    def __init__(self, repository: RepositoryOf, pusher: ArtifactPusher) -> None:
        self._repository = repository
        self._pusher = pusher

    async def copy(
        self, source: Reference, target: Reference, platforms: tuple[Platform, ...] = (), referrers: bool = False
    ) -> Delivered:
        """Copy what ``source`` stands for, whole and byte for byte, to ``target``, whose tag comes last.

        What the target has isn't sent again: where its tag stands for the same already, that is one HEAD each. Blobs
        are verified while they stream; nothing is kept here.

        Args:
            target: a tag, by default ``latest``; a digest only if it is the right one.
            platforms: copy one image of an index instead of all of it; the tag stands for that image then.
            referrers: copy what refers to any of it as well: signatures, attestations, bills of materials.

        Raises:
            InvalidReference: source and target are the same, or the target names another digest.
            InvalidPlatform: several images were chosen, which an index of the same digest can't have alone.
            InvalidManifest: what came isn't a manifest, has nothing for the platform, or too much of everything.
            IntegrityError: the source sent something else; the target hasn't got it.
            RegistryError, TransportError, ProtocolError: one of the two failed; the message says which, and at what.
        """
        if (source.name, source.selector) == (target.name, target.selector):
            raise InvalidReference(f"{source}: source and target are the same", hint="name another tag or repository")
        repository = await self._repository(source, brief=False)
        origin = RegistrySource(repository)
        root = await origin.root(source.selector)
        if platforms:
            root = await _chosen(origin, source, root, platforms)
        is_near = source.registry == target.registry and source.repository != target.repository
        return await self._pusher.push(
            origin,
            root,
            target,
            mount_from=source.repository if is_near else None,
            referrers=partial(referrers_of, repository) if referrers else None,
        )


async def _chosen(
    origin: RegistrySource, source: Reference, root: Descriptor, platforms: tuple[Platform, ...]
) -> Descriptor:
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


def _best(source: Reference, index: Index, platform: Platform) -> Descriptor:
    found = select(index, platform)
    if not found:
        offered = ", ".join(str(one.platform) for one in images(index) if one.platform) or "nothing for any"
        raise InvalidManifest(f"{source}: nothing in it is for {platform}", hint=f"it has {offered}")
    return found[0]
