"""Waiting for another process that takes the same blob: not in silence, and not for one that stands still."""

from __future__ import annotations

import time

from lading.oci.digest import Digest
from lading.store.partials import growth

_SAID_SECONDS = 2.0
"""After so long a wait for somebody else, that is said."""

_PATIENCE_SECONDS = 30.0
"""Somebody else who takes nothing for so long isn't waited for: it may be stopped."""


class Waiting:
    """Waits for somebody else who takes a blob, as long as that one makes progress."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._began = self._grew = self._looked = time.monotonic()
        self._growth: object = None
        self._is_said = False

    def is_in_vain(self, directory: str) -> bool:
        """Tell whether nothing came into the ``directory`` for long."""
        now = time.monotonic()
        if now - self._looked < min(1.0, _PATIENCE_SECONDS / 4):
            return False
        self._looked = now
        if (found := growth(directory, self._digest)) != self._growth:
            self._growth, self._grew = found, now
        if is_in_vain := now - self._grew > _PATIENCE_SECONDS:
            self._warn(f"another process takes it, but nothing came for {now - self._grew:.0f} s")
        elif not self._is_said and now - self._began > _SAID_SECONDS:
            self._is_said = True
            self._warn("waiting for another process that takes it")
        return is_in_vain

    def _warn(self, what: str) -> None:
        import logging  # which nobody needs who only reads

        logging.getLogger("lading.store").warning("%s: %s", self._digest, what)
