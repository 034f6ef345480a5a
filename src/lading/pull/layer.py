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
from lading.pull.download import read_blob
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
    content: bytes | None = None
    if layer.size > INLINE_LIMIT:
        try:
            await anyio.to_thread.run_sync(lease.keep, [layer.digest])
            # In this order, as for all blobs: else two could wait for each other.
            async with large, store.ingest(layer) as ingest:
                if ingest.is_complete:  # somebody else has just brought it; that proves nothing for this repository
                    await repository.require_blob(layer.digest)
                else:
                    content = await read_blob(repository, layer)
                    if ingest.gaps != [(0, layer.size)]:
                        await ingest.restart()  # it is here in one piece: no part of it is worth to be gone on with
                    await ingest.write(content)
                    await ingest.finish()
            await store.commit(Changes(asked, blobs=(layer,), seen=(seen,)))
            if content is None:
                found = await anyio.to_thread.run_sync(store.read, seen.name, layer.digest)
                content = found.content if isinstance(found, Intact) else None
        except StoreError as error:
            _log.debug("%s: %s isn't shared with other processes: %s", seen.name, layer.digest, error)
    return await read_blob(repository, layer, large) if content is None else content


async def unpacked(reference: Reference, packed: bytes) -> bytes:
    """Give the YAML that a layer holds, unpacked if it is packed. Raises NotAnAgent, which names the ``reference``."""
    try:
        if is_quickly_unpacked(packed):
            return unpack(packed)
        return await anyio.to_thread.run_sync(unpack, packed)
    except NotAnAgent as error:
        raise NotAnAgent(f"{reference}: {error.message}", hint=error.hint) from error
