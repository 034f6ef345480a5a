"""What is answered from the store is in use: noted where nothing else says so, for collections to know.

What a registry confirms is noted with that. What is pinned, imported, or answered while the registry is down would
otherwise look as old as the last confirmation. A day is exact enough, and costs nothing on all the other pulls.
"""

from __future__ import annotations

import logging

from lading.errors import StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.reference import Reference
from lading.store.store import NEVER, Changes, Lost, Store, use

_log = logging.getLogger("lading.pull")

_EXACT = 86_400.0
"""Seconds of use that aren't told apart."""


class Uses:
    """Notes what is answered from ``store``, as long as that can be written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_refused = False

    async def note(self, reference: Reference, descriptor: Descriptor, validated: float, now: float) -> None:
        """Note that ``reference`` was answered at ``now`` with what ``descriptor`` names; ``validated`` as that is.

        A digest that only another reference kept so far is kept by itself from now on. Never fails.
        """
        if self._is_refused:
            return
        try:
            last = self._store.last_used(reference)
            if last is None and reference.digest is not None:
                await self._store.commit(
                    Changes(
                        max(validated, NEVER),  # of what was never confirmed the age is infinite
                        references=((reference, reference.digest, descriptor.media_type),),
                        required=((reference.name, reference.digest),),
                        notes=(use(reference, now),),
                        durable=False,
                    )
                )
            elif last is not None and last < now - _EXACT:
                await self._store.commit(Changes(now, notes=(use(reference, now),), durable=False))
        except Lost:
            _log.debug("%s was collected at the same moment", reference)
        except StoreError as error:
            self._is_refused = True
            _log.debug("%s: its use isn't stored: %s", reference, error)


def is_unnoted(store: Store, reference: Reference, now: float) -> bool:
    """Tell whether it is worth a note that what is kept for ``reference`` is used. Raises StoreError."""
    last = store.last_used(reference)
    return last is not None and last < now - _EXACT
