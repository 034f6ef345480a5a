"""Blobs, from a registry into memory: bounded, and verified before anyone sees a byte."""

from __future__ import annotations

import anyio
import anyio.to_thread

from lading.errors import BodyInterrupted, SizeMismatch
from lading.http.transport import is_close_framed
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
        return descriptor.check(await _read(repository, descriptor))
    async with large:
        content = await _read(repository, descriptor)
        # Hashing this much on the event loop would stall it.
        return await anyio.to_thread.run_sync(descriptor.check, content)


async def _read(repository: Repository, descriptor: Descriptor) -> bytes:
    content = bytearray()
    async with await repository.open_blob(descriptor.digest) as response:
        async for chunk in response.chunks():
            content += chunk
            if len(content) > descriptor.size:
                raise SizeMismatch(
                    f"{repository.name}: blob {descriptor.digest}: more than its {descriptor.size} bytes"
                )
        if len(content) < descriptor.size and is_close_framed(response):
            raise BodyInterrupted(
                f"{repository.name}: blob {descriptor.digest}: {len(content)} of {descriptor.size} bytes came",
                url=response.url,
                hint="try again",
            )
    return bytes(content)
