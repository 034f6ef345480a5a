"""Draws what a pull asks a registry for, on a time axis, and tells what else there was to be told.

    python plot.py ghcr.io/acme/triage:v3 -o pull.svg

`lading.trace.Trace` keeps what took time. Whoever wants something else of the events listens beside it.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import lading
from lading import events
from lading.trace import Trace


class Counted:
    """Counts events by kind, and keeps what became of the pull. It is called on the event loop: it only takes notes."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.outcome = ""

    def __call__(self, event: events.Event) -> None:
        self.kinds[type(event).__name__] += 1
        match event:
            case events.Pulled(reference, digest, origin, seconds):
                self.outcome = f"{reference}: {origin}, {digest[:19]}, {seconds * 1000:.1f} ms"
            case events.PullFailed(reference, error):
                self.outcome = f"{reference}: {error}"


async def pull(reference: str) -> tuple[Trace, Counted]:
    """Pull an agent, and give what that took."""
    trace, counted = Trace(), Counted()

    def listen(event: events.Event) -> None:
        trace(event)
        counted(event)

    async with lading.Client(events=listen) as client:
        await client.pull_agent(reference)
    return trace, counted


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw what a pull asks a registry for.")
    parser.add_argument("reference")
    parser.add_argument("-o", "--output", default="pull.svg")
    given = parser.parse_args(arguments)
    trace, counted = asyncio.run(pull(given.reference))
    Path(given.output).write_text(trace.svg(), encoding="utf-8")
    print(f"{given.output}: {trace.requests} requests; {counted.outcome}")
    print(", ".join(f"{count} {kind}" for kind, count in counted.kinds.items()))


if __name__ == "__main__":
    main()
