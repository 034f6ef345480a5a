"""Connections as the registry accepts them: each has a number, in the order in which they were opened.

A connection counts once it can carry requests: over TLS that is after the handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

ProtocolFactory = Callable[[], asyncio.Protocol]


async def close_listeners(server: asyncio.Server) -> None:
    """Take no more connections; those that were accepted already come in.

    asyncio loses a connection whose server is closed before it has made a transport for it: nobody would ever close
    that, and its client would wait for ever.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        with contextlib.suppress(NotImplementedError):  # where nobody waits for sockets to become readable
            loop.remove_reader(listener.fileno())
    await asyncio.sleep(0)
    server.close()


class Connections:
    """Numbers the connections of one listener, from 1, and tells of each one that is opened."""

    def __init__(self, opened: Callable[[], None]) -> None:
        self._opened = opened
        self._count = 0
        self._numbers: dict[object, int] = {}

    def number(self, protocol: object) -> int:
        """Return the number of the connection that a protocol speaks on; 0 if it is gone."""
        return self._numbers.get(protocol, 0)

    def numbered(self, factory: ProtocolFactory) -> ProtocolFactory:
        """Return a factory of the same protocols, whose connections are numbered here."""
        return lambda: _Numbered(factory(), self)

    def enter(self, protocol: object) -> None:
        """Give the next number to a connection that was just opened."""
        self._count += 1
        self._numbers[protocol] = self._count
        self._opened()

    def leave(self, protocol: object) -> None:
        """Forget a connection that is closed."""
        self._numbers.pop(protocol, None)


class _Numbered(asyncio.Protocol):
    """Passes everything on: aiohttp's own protocol has no place to ask when a connection comes or goes."""

    __slots__ = ("_connections", "_protocol")

    def __init__(self, protocol: asyncio.Protocol, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.enter(self._protocol)
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        self._connections.leave(self._protocol)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
