"""The origins of one registry: its own, and those of its token service and its storage where they are elsewhere.

All of them lead to the same handler; which one a request came to is told by the port that took it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from aiohttp import web

from lading.testing.quirks import Site

_BACKLOG = 128


class Sites:
    """Listens on further ports beside the registry's. Ports stay the same over `stop` and `start`."""

    def __init__(self, names: tuple[Site, ...], address: str) -> None:
        self._address = address
        self._ports: dict[Site, int] = dict.fromkeys(names, 0)
        self._servers: list[asyncio.Server] = []

    async def start(
        self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None, registry: str
    ) -> dict[Site, str]:
        """Listen, and return every origin, `registry` being that of the registry itself; raise `OSError`."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        origins: dict[Site, str] = {"registry": registry}
        for name, port in self._ports.items():
            listener = socket.create_server((self._address, port), family=family, backlog=_BACKLOG)
            try:
                server = await loop.create_server(factory, sock=listener, backlog=_BACKLOG, ssl=context)
            except BaseException:
                listener.close()
                raise
            self._servers.append(server)
            self._ports[name] = listener.getsockname()[1]
            origins[name] = f"{registry.rpartition(':')[0]}:{self._ports[name]}"
        return origins

    def stop(self) -> None:
        """Refuse connections from now on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    def of(self, request: web.Request) -> Site:
        """Return where a request came to."""
        if request.transport is not None:
            port = request.transport.get_extra_info("sockname")[1]
            for name, own in self._ports.items():
                if own == port:
                    return name
        return "registry"
