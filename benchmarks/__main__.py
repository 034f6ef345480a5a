"""Requests and times of pulls, against the embedded registry in a process of its own: ``python -m benchmarks``."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable

import lading
from benchmarks.server import serve
from lading.events import Event, RequestSent

ROUNDS = 50
BATCH = 200


async def measure(host: str) -> None:
    """Print a table of scenarios: requests of one pull, and the median time of many."""
    sent: list[RequestSent] = []

    def listen(event: Event) -> None:
        if isinstance(event, RequestSent):
            sent.append(event)

    with tempfile.TemporaryDirectory() as home:
        async with lading.Client(home, events=listen) as client:
            pinned = {}
            for name, inline in (("plain", False), ("inline", True)):
                pushed = await client.push_agent(b"agents: {root: {}}\n" * 50, f"{host}/bench/{name}", inline=inline)
                pinned[name] = pushed.reference
            plain = f"{host}/bench/plain"

            async def scenario(label: str, pull: Callable[[], Awaitable[lading.Agent]]) -> None:
                sent.clear()
                await pull()
                requests = ", ".join(f"{event.method} {event.status}" for event in sent) or "none"
                times = []
                for _ in range(ROUNDS):
                    started = time.perf_counter()
                    await pull()
                    times.append(time.perf_counter() - started)
                print(f"{label:<24} {requests:<20} {statistics.median(times) * 1e6:>9.0f} µs")

            print(f"{'scenario':<24} {'requests':<20} {'median':>12}   of {ROUNDS}")
            await scenario("cold (force)", lambda: client.pull_agent(plain, force=True))
            await scenario("cold, inline (force)", lambda: client.pull_agent(f"{host}/bench/inline", force=True))
            await scenario("warm", lambda: client.pull_agent(plain))
            await scenario("fresh", lambda: client.pull_agent(plain, max_age=3600))
            await scenario("pinned", lambda: client.pull_agent(pinned["plain"]))
            await batch(client, host)


async def batch(client: lading.Client, host: str) -> None:
    """Print the time of many pulls at once, and how long they held up the event loop."""
    for number in range(BATCH):
        content = b"# %d\n" % number + b"agents: {}\n" * 200
        await client.push_agent(content, f"{host}/bench/batch-{number}", inline=False)
    slips: list[float] = []
    limit = asyncio.Semaphore(32)

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            slips.append(time.perf_counter() - started - 0.001)

    async def pull(number: int) -> None:
        async with limit:
            await client.pull_agent(f"{host}/bench/batch-{number}")

    ticker = asyncio.create_task(tick())
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(BATCH):
            group.create_task(pull(number))
    seconds = time.perf_counter() - started
    ticker.cancel()
    print(f"{BATCH} agents, 32 at once, cold, durable: {seconds:.2f} s, {BATCH / seconds:.0f} agents/s")
    print(f"worst slip of a 1 ms ticker beside them: {max(slips) * 1000:.1f} ms")


def main() -> None:
    """Start the registry, measure, stop it."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        asyncio.run(measure(ours.recv()))
    finally:
        ours.send(None)
        server.join()


if __name__ == "__main__":
    main()
