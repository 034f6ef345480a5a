"""How long a batch of pulls holds up the event loop: ``python ticker.py REGISTRY DIRECTORY`` prints it as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from lading import Client

CONTENTS = {f"agent-{number}": b"# %d\n" % number + b"x" * 20_000 for number in range(200)} | {
    "large": b"y" * 4_000_000
}


async def pull_all(host: str, home: str) -> float:
    """Pull everything at once into the new store ``home``; give the worst slip of a 1 ms ticker, in seconds."""
    slips: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            slips.append(time.perf_counter() - started - 0.001)

    async with Client(home) as client:
        ticker = asyncio.create_task(tick())
        async with asyncio.TaskGroup() as batch:
            pulls = {name: batch.create_task(client.pull_agent(f"{host}/ticker/{name}")) for name in CONTENTS}
        ticker.cancel()
    assert {name: pull.result().content for name, pull in pulls.items()} == CONTENTS
    return max(slips)


async def main(host: str, directory: str) -> None:
    async with Client(f"{directory}/pusher") as pusher:
        for name, content in CONTENTS.items():
            await pusher.push_agent(content, f"{host}/ticker/{name}", inline=False)
    slips = [await pull_all(host, f"{directory}/puller-{number}") for number in range(3)]
    print(json.dumps({"pulls": len(CONTENTS), "slips": slips}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
