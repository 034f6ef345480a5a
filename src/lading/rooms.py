"""What a client opens and closes: the rooms that need an event loop, at first use, and a store of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lading.errors import LadingError, Offline
from lading.store.store import Store

if TYPE_CHECKING:
    from lading.network import Network
    from lading.store.local import LocalStore


class Rooms:
    """The network behind a client, once it is needed. ``options`` are those of :class:`~lading.network.Network`."""

    def __init__(self, store: Store, own_store: LocalStore | None, options: Mapping[str, Any]) -> None:
        self.store = store
        self._own_store = own_store
        self._options = options
        self._network: Network | None = None
        self._is_closed = False

    def check_open(self) -> None:
        """Raise LadingError if the client is closed."""
        if self._is_closed:
            raise LadingError("the client is closed", hint="use it inside its `async with`")

    def open(self) -> Network:
        """Give the rooms that need an event loop, and open them at first.

        Raises:
            LadingError: the client is closed, or belongs to another event loop.
        """
        self.check_open()
        if self._network is None:
            from lading.network import Network

            self._network = Network(self.store, **self._options)
        self._network.check_loop()
        return self._network

    async def prepare(self) -> None:
        """Import what those rooms take, in a thread: nobody's event loop waits for it at the first request."""
        if "lading.network" not in sys.modules:
            import asyncio

            # Not by anyio, which is a part of what is imported.
            await asyncio.get_running_loop().run_in_executor(None, _import_network)

    def online(self, what: str) -> Network:
        """Do the same, unless the client may use no network; ``what`` is what it would be used for. Raises Offline."""
        if self._options["offline"]:
            raise Offline(f"can't {what}: network access is switched off")
        return self.open()

    async def aclose(self) -> None:
        """End what is under way, and close connections and the client's own store. May be called again.

        Raises:
            LadingError: called on another event loop; the client stays open.
        """
        if self._network is not None:
            self._network.check_end()
        self._is_closed = True
        network, self._network = self._network, None
        try:
            if network is not None:
                await network.aclose()
        finally:
            if self._own_store is not None:
                await self._own_store.aclose()

    def close(self) -> None:
        """Do the same where no event loop runs. Raises LadingError where one does."""
        if self._network is not None:
            self._network.close()
        self._is_closed, self._network = True, None
        if self._own_store is not None:
            self._own_store.close()


def _import_network() -> None:
    import anyio

    import_module("lading.network")
    anyio.run(anyio.sleep, 0)  # its backend is imported when it is first used
