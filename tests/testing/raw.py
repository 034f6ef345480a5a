"""A client that sends a request over a bare socket, and tells what came back, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict

from lading.testing import EmbeddedRegistry


@dataclass(frozen=True)
class Received:
    """Everything that came over a connection until its end. ``ended`` is "eof", or "reset"."""

    status: int | None
    headers: Mapping[str, str]
    body: bytes
    ended: str

    @classmethod
    def parse(cls, received: bytes, ended: str) -> Received:
        if not received:
            return cls(None, {}, b"", ended)
        head, _, body = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = CIMultiDict([(name, value) for name, _, value in (line.partition(": ") for line in lines)])
        return cls(int(status_line.split()[1]), headers, body, ended)


class RawClient:
    """One connection: what is asked, and what has come so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, registry: EmbeddedRegistry) -> RawClient:
        host, _, port = registry.host.partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        fields = {"Host": "registry.test", "Content-Length": str(len(body)), **(headers or {})}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        await self._writer.drain()

    async def read_head(self) -> bytes:
        return await self._reader.readuntil(b"\r\n\r\n")

    async def read_exactly(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def read_to_the_end(self) -> Received:
        received, ended = b"", "eof"
        try:
            while piece := await self._reader.read(65536):
                received += piece
        except ConnectionResetError:
            ended = "reset"
        return Received.parse(received, ended)

    async def leave(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def fetch(
    registry: EmbeddedRegistry, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> Received:
    """Ask once, and read until the connection ends."""
    client = await RawClient.connect(registry)
    try:
        await client.ask(path, method, {"Connection": "close", **(headers or {})})
        async with asyncio.timeout(10):
            return await client.read_to_the_end()
    finally:
        await client.leave()
