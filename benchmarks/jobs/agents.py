"""lading and many agents: prefetched, durably, into a store of their own; and how little it holds the event loop up."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import lading
import lading.network  # what the first request would import isn't measured here
import lading.pull.prefetch
from benchmarks.child import Outcome, Spec
from benchmarks.meter import metered
from benchmarks.shelf import TAG

_TICK_SECONDS = 0.001


def prefetch(spec: Spec, loop: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run) -> Outcome:
    """Prefetch agents; the clock runs from the construction of the client until it and its store are closed.

    In a store that has them already, their tags are asked for and nothing else.
    """
    with metered() as usage:
        given, transactions = loop(_prefetch(spec))
    return Outcome(usage, _verified(spec, given), extra={"transactions": float(transactions)})


def prefetch_on_uvloop(spec: Spec) -> Outcome:
    """Do the same on the event loop that the extra ``speed`` brings, as `lading prefetch` does then."""
    import uvloop

    return prefetch(spec, uvloop.run)


def closure(spec: Spec) -> Outcome:
    """Prefetch one agent and all that it leads to."""
    with metered() as usage:
        given, _ = asyncio.run(_prefetch(spec, refs=[f"{spec['host']}/{spec['root']}:{TAG}"], recursive=True))
    return Outcome(usage, _verified(spec, given))


def beside_a_ticker(spec: Spec) -> Outcome:
    """Prefetch agents beside a task that wants to run each millisecond; samples are how late it was."""

    async def run() -> dict[str, bytes]:
        async with ticking() as late:
            given, _ = await _prefetch(spec)
        slips.extend(late)
        return given

    slips: list[float] = []
    with metered() as usage:
        given = asyncio.run(run())
    return Outcome(usage, _verified(spec, given), extra=lateness(slips))


def image_beside_a_ticker(spec: Spec) -> Outcome:
    """Pull an image beside such a task."""
    from benchmarks.jobs.large import verified

    async def run() -> None:
        async with ticking() as late, lading.Client(spec["directory"]) as client:
            await client.pull(spec["ref"])
        slips.extend(late)

    slips: list[float] = []
    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, verified(Path(spec["directory"]), spec), extra=lateness(slips))


def idle_ticker(spec: Spec) -> Outcome:
    """Run such a task with nothing beside it."""

    async def run() -> None:
        async with ticking() as late:
            await asyncio.sleep(0.5)
        slips.extend(late)

    slips: list[float] = []
    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, None, extra=lateness(slips))


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Have a task sleep for a millisecond again and again, and tell by how much it woke up too late."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            late.append(time.perf_counter() - started - _TICK_SECONDS)

    ticker = asyncio.create_task(tick())
    try:
        yield late
    finally:
        ticker.cancel()


def lateness(slips: list[float]) -> dict[str, float]:
    """Give how late a ticker was, in milliseconds."""
    hundredths = statistics.quantiles(slips, n=100, method="inclusive") if len(slips) > 1 else [0.0] * 99
    return {
        "worst ms": max(slips, default=0.0) * 1000,
        "p99 ms": hundredths[98] * 1000,
        "median ms": hundredths[49] * 1000,
    }


async def _prefetch(
    spec: Spec, *, refs: Iterable[str] | None = None, recursive: bool = False
) -> tuple[dict[str, bytes], int]:
    """Give the content of each agent by its repository, and the number of transactions that took."""
    names = [f"{spec['host']}/{one}:{TAG}" for one in spec["agents"]] if refs is None else refs
    store = lading.LocalStore(spec["directory"])
    given: dict[str, bytes] = {}
    try:
        async with lading.Client(store) as client:
            concurrency = spec["concurrency"]
            async with client.prefetch(names, concurrency=concurrency, recursive=recursive) as outcomes:
                async for outcome in outcomes:
                    if outcome.error is not None:
                        raise outcome.error
                    assert outcome.agent is not None
                    given[outcome.agent.reference.repository] = outcome.agent.content
    finally:
        await store.aclose()
    return given, store.transactions


def _verified(spec: Spec, given: Mapping[str, bytes]) -> int:
    """Count the agents that came as they should, and that a store which is opened anew gives as they should be."""
    right = 0
    client = lading.Client(spec["directory"], offline=True)
    try:
        for repository, digest in spec["agents"].items():
            kept = client.cached(f"{spec['host']}/{repository}:{TAG}", max_age=3600)
            came = given.get(repository, b"")
            right += kept is not None and _digest(kept.content) == digest == _digest(came)
    finally:
        client.close()
    return right


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
