"""A TCP proxy that is far away, and thin if asked: ``python -m benchmarks.delay HOST:PORT SECONDS [BYTES_PER_SECOND]``.

It prints the port that it listens on, and ends when its standard input does. Each direction takes half a round trip. A
connection through it is accepted at once, by the kernel; so what a client sends is held back until the round trip of a
handshake would be over, and the client can't tell the difference. Bandwidth is that of one connection, to the client.
What a real network does besides isn't modelled: no loss, no slow start, no handshake of TLS.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PIECE = 64 * 1024
_IN_FLIGHT = 8 * 1024 * 1024
_THIN = 128 * 1024
"""Bytes that one direction of a connection holds at most before it reads no further: without and with a bandwidth.

Where a connection is thin, who ends it early shall not have been sent, by the server's count, what never got here.
"""


class Schedule:
    """When bytes that come in go out again: pure. All times and the delay are in seconds of one clock."""

    def __init__(self, delay: float, bandwidth: float | None = None, ready: float = 0.0) -> None:
        """Nothing sets out before ``ready``; ``bandwidth`` is in bytes a second, ``None`` is any number."""
        self._delay = delay
        self._bandwidth = bandwidth
        self._free = ready

    def due(self, now: float, size: int) -> float:
        """Give when ``size`` bytes that came in at ``now`` have arrived at the other end."""
        start = max(now, self._free)
        self._free = start + (size / self._bandwidth if self._bandwidth else 0.0)
        return self._free + self._delay


class _Direction:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket, schedule: Schedule, most: int) -> None:
        self._source = source
        self._target = target
        self._schedule = schedule
        self._most = most
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            reading.cancel()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._held > self._most:
                self._changed.clear()
                await self._changed.wait()
            try:
                piece = await loop.sock_recv(self._source, _PIECE)
            except OSError:
                piece = b""
            self._queue.append((self._schedule.due(loop.time(), len(piece)), piece))
            self._held += len(piece)
            self._changed.set()
            if not piece:
                return

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            due, piece = self._queue.popleft()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not piece:
                self._target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._target, piece)
            self._held -= len(piece)
            self._changed.set()


@asynccontextmanager
async def proxying(target: tuple[str, int], rtt: float, bandwidth: float | None) -> AsyncIterator[socket.socket]:
    """Listen on a free port of loopback for whoever wants to reach ``target``; gives the listening socket."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(_connected(client, target, rtt, bandwidth))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept())
        try:
            yield listener
        finally:
            ended = {accepting, *tasks}
            for task in ended:
                task.cancel()
            await asyncio.wait(ended)


async def _connected(client: socket.socket, target: tuple[str, int], rtt: float, bandwidth: float | None) -> None:
    loop = asyncio.get_running_loop()
    accepted = loop.time()
    server = socket.socket()
    try:
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bandwidth is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _THIN)
        await loop.sock_connect(server, target)
        most = _IN_FLIGHT if bandwidth is None else _THIN + int(bandwidth * rtt)
        there = _Direction(client, server, Schedule(rtt / 2, ready=accepted + rtt), _IN_FLIGHT)
        back = _Direction(server, client, Schedule(rtt / 2, bandwidth), most)
        async with asyncio.TaskGroup() as both:
            both.create_task(there.run())
            both.create_task(back.run())
    except* OSError:
        pass  # one end has gone: the other one learns it from the closed socket
    finally:
        client.close()
        server.close()


async def _main(target: tuple[str, int], rtt: float, bandwidth: float | None) -> None:
    async with proxying(target, rtt, bandwidth) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()


def precise_loop() -> asyncio.AbstractEventLoop:
    """Give an event loop that wakes up in time: epoll rounds up to milliseconds, select doesn't."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(arguments: list[str]) -> None:
    """Run the proxy until standard input ends."""
    host, _, port = arguments[0].partition(":")
    bandwidth = float(arguments[2]) if len(arguments) > 2 else None
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_main((host, int(port)), float(arguments[1]), bandwidth))


if __name__ == "__main__":
    main(sys.argv[1:])
