"""Blobs, from a registry into memory: bounded, and verified before anyone sees a byte."""

from __future__ import annotations

import anyio
import anyio.to_thread

from lading.errors import BodyInterrupted, SizeMismatch
from lading.http.transport import Response, is_close_framed
from lading.oci.descriptor import Descriptor
from lading.registry.repository import Repository
from lading.store.store import INLINE_LIMIT


async def read_blob(repository: Repository, descriptor: Descriptor, large: anyio.CapacityLimiter) -> bytes:
    """Give the content that ``descriptor`` names, verified.

    ``large`` bounds how many blobs above 128 KiB are in flight at once.

    Raises:
        IntegrityError: the registry sent something else, or more, or less.
        RegistryError, TransportError: it sent none.
    """
    if descriptor.size <= INLINE_LIMIT:
        return await _read(repository, descriptor)
    async with large:
        return await _read(repository, descriptor)


async def _read(repository: Repository, descriptor: Descriptor) -> bytes:
    async def read(response: Response) -> bytes:
        content = bytearray()
        what = f"{repository.name}: blob {descriptor.digest}"
        async for chunk in response.chunks():
            content += chunk
            if len(content) > descriptor.size:
                raise SizeMismatch(f"{what}: more than its {descriptor.size} bytes")
        if len(content) < descriptor.size and is_close_framed(response):
            raise BodyInterrupted(
                f"{what}: {len(content)} of {descriptor.size} bytes came", url=response.url, hint="try again"
            )
        if descriptor.size <= INLINE_LIMIT:
            return descriptor.check(bytes(content))
        # Hashing this much on the event loop would stall it.
        return await anyio.to_thread.run_sync(descriptor.check, bytes(content))

    return await repository.blob(descriptor.digest, read)
