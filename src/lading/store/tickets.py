"""Tickets: commits that wait for each other, so that those of one moment share a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lading.oci.digest import Digest
from lading.store.rows import Rows
from lading.store.values import Changes

if TYPE_CHECKING:
    import anyio
    import anyio.lowlevel


class Ticket:
    """One commit that waits; it is settled in the thread that writes it."""

    __slots__ = ("changes", "error", "put", "rows", "settled")

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.rows = Rows()
        self.put: list[Digest] = []  # what it brings that is in files of its own
        self.error: Exception | None = None
        self.settled = False

    def settle(self, error: Exception | None) -> None:
        """Note that it is written, or what kept it from being."""
        self.error = error
        self.settled = True


class Turn:
    """Who writes at the moment, of those that commit on one event loop."""

    __slots__ = ("_enough", "ended", "is_taken")

    def __init__(self) -> None:
        import anyio

        self.is_taken = False
        self.ended = anyio.Event()
        self._enough: anyio.Event | None = None

    async def gather(self, seconds: float) -> None:
        """Wait for others, before writing, until :meth:`hurry` is called."""
        import anyio

        self._enough = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._enough.wait()
        self._enough = None

    def hurry(self) -> None:
        """Let whoever gathers write now."""
        if self._enough is not None:
            self._enough.set()

    def take(self) -> None:
        """Begin to write; the others wait for ``ended``."""
        import anyio

        self.is_taken, self.ended = True, anyio.Event()

    def end(self) -> None:
        """Wake all others at once: those whose commit was written with this one, and those of the next one."""
        self.is_taken = False
        self.ended.set()


class Turns:
    """The turn of each event loop."""

    def __init__(self) -> None:
        self._turns: anyio.lowlevel.RunVar[Turn] | None = None

    def current(self) -> Turn:
        """Give the turn of the running event loop."""
        import anyio.lowlevel

        if self._turns is None:
            self._turns = anyio.lowlevel.RunVar(f"lading.store.tickets.{id(self)}")
        turn = self._turns.get(None)
        if turn is None:
            turn = Turn()
            self._turns.set(turn)
        return turn
