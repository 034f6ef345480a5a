"""The layer of an agent, into memory: what is large is fetched once, however many processes want it.

It goes through the store, where others wait for it. A store that can't take it is no reason to fail: then it is fetched
past the store.
"""

from __future__ import annotations

import logging

import anyio
import anyio.to_thread

from lading.agents.artifact import unpack
from lading.errors import NotAnAgent, StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.reference import Reference
from lading.pull.download import fetch_blob, read_blob
from lading.pull.lookup import is_quickly_unpacked
from lading.registry.repository import Repository
from lading.store.store import INLINE_LIMIT, Changes, Intact, Lease, Seen, Store

_log = logging.getLogger("lading.pull")


async def read_layer(
    repository: Repository,
    layer: Descriptor,
    seen: Seen,
    store: Store,
    lease: Lease,
    large: anyio.CapacityLimiter,
    asked: float,
) -> bytes:
    """Give the content of the ``layer`` of an agent, ``seen`` in a repository, verified.

    What is large is in the store then, and stays there as long as the ``lease``: until a reference needs it.
    ``large`` bounds how many blobs above 128 KiB are in flight at once.

    Raises:
        IntegrityError: the registry sent something else, or more, or less.
        RegistryError, TransportError: it sent none.
    """
    if layer.size > INLINE_LIMIT:
        try:
            await anyio.to_thread.run_sync(lease.keep, [layer.digest])
            async with large:  # before its turn at the blob, as everybody does: else two could wait for each other
                await fetch_blob(repository, layer, store)
            await store.commit(Changes(asked, blobs=(layer,), seen=(seen,)))
            found = await anyio.to_thread.run_sync(store.read, seen.name, layer.digest)
            if isinstance(found, Intact):
                return found.content
        except StoreError as error:
            _log.debug("%s: %s isn't shared with other processes: %s", seen.name, layer.digest, error)
    return await read_blob(repository, layer, large)


async def unpacked(reference: Reference, packed: bytes) -> bytes:
    """Give the YAML that a layer holds, unpacked if it is packed. Raises NotAnAgent, which names the ``reference``."""
    try:
        if is_quickly_unpacked(packed):
            return unpack(packed)
        return await anyio.to_thread.run_sync(unpack, packed)
    except NotAnAgent as error:
        raise NotAnAgent(f"{reference}: {error.message}", hint=error.hint) from error
