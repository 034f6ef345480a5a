"""A repository of a registry, as what is pushed from: its blobs stream through, and nothing of them is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from lading.errors import BodyInterrupted, NotFound, SizeMismatch, TransportError
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import parse_manifest
from lading.registry.repository import Repository


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

    async def open(self, blob: Descriptor, start: int = 0) -> AsyncGenerator[bytes, None]:
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
