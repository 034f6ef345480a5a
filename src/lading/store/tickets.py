"""Tickets: commits that wait for each other, so that those of one moment share a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lading.store.rows import Rows
from lading.store.store import Changes

if TYPE_CHECKING:
    import anyio
    import anyio.lowlevel


class Ticket:
    """One commit that waits; it is settled in the thread that writes it."""

    __slots__ = ("changes", "error", "rows", "settled")

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.rows = Rows()
        self.error: Exception | None = None
        self.settled = False

    def settle(self, error: Exception | None) -> None:
        """Note that it is written, or what kept it from being."""
        self.error = error
        self.settled = True


class Turns:
    """The lock that the first of several commits takes: one for each event loop, as it can't be shared."""

    def __init__(self) -> None:
        self._locks: anyio.lowlevel.RunVar[anyio.Lock] | None = None

    def lock(self) -> anyio.Lock:
        """Give the lock of the running event loop."""
        import anyio.lowlevel

        if self._locks is None:
            self._locks = anyio.lowlevel.RunVar(f"lading.store.tickets.{id(self)}")
        lock = self._locks.get(None)
        if lock is None:
            lock = anyio.Lock()
            self._locks.set(lock)
        return lock
