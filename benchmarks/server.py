"""The registry that benchmarks ask, in a process of its own."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection

from lading.testing import EmbeddedRegistry


def serve(pipe: Connection) -> None:
    """Run a registry until the other end of ``pipe`` says so."""

    async def main() -> None:
        async with EmbeddedRegistry() as registry:
            pipe.send(registry.host)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())
