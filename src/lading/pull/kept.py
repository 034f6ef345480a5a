"""Whether a store gives back what it was just given, and how it is given that once more."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio.to_thread

from lading.errors import StoreError
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.pull.lookup import SMALL
from lading.store.store import Changes, Intact, Record, Store

Fetched = Callable[[], float]
"""Is told that only the store is needed now, and gives how many seconds a commit may wait for others."""

_log = logging.getLogger("lading.pull")


def at_once() -> float:
    """Let no commit wait."""
    return 0.0


async def commit(store: Store, reference: Reference, digest: Digest, changes: Changes, *, is_repair: bool) -> bool:
    """Commit ``changes``, by which ``reference`` stands for ``digest``, and tell whether all of it is given back.

    Whatever else may be wrong with it isn't an error. Raises StoreError if it can't be committed.
    """
    if not is_repair:
        await store.commit(changes)
        return await _is_kept(store, reference, digest, changes)
    # Somebody may forget it, and collect it, before it is read back: twice is too often. It isn't worth it otherwise.
    with store.lease() as lease:
        await anyio.to_thread.run_sync(lease.keep, [one for one, _ in changes.content])
        await store.commit(changes)
        return await _is_kept(store, reference, digest, changes)


async def _is_kept(store: Store, reference: Reference, digest: Digest, changes: Changes) -> bool:
    try:
        if all(len(content) <= SMALL for _, content in changes.content):
            return _gives_back(store, reference, digest, changes)
        return await anyio.to_thread.run_sync(_gives_back, store, reference, digest, changes)
    except StoreError as error:
        _log.warning("%s: %s", reference, error)
        return False


def _gives_back(store: Store, reference: Reference, digest: Digest, changes: Changes) -> bool:
    known = store.resolve(reference)
    # That it is known may not have been changed since, what a tag stands for may: then nobody needs what it stood for.
    if not isinstance(known, Record) or known.digest != digest:
        return isinstance(known, Record)
    # Intact content is the very content that was just accepted: it needn't be parsed again.
    return all(isinstance(store.read(reference.name, one), Intact) for one, _ in changes.content)
