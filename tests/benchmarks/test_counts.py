"""What doesn't depend on the machine: requests, connections, hops to threads, transactions, system calls.

These are what the times are made of. A change that makes one of them grow shall say so here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from benchmarks import servers
from benchmarks.embedded import fill
from benchmarks.scenarios.agents import spec_for
from benchmarks.shelf import TAG, Published, Shelf
from lading import Client, Digest, LocalStore
from lading.store.store import Changes
from lading.testing import EmbeddedRegistry

MIB = 1024 * 1024
AGENTS = 60


class Stocked:
    """A registry that has something, and a client with an empty store."""

    def __init__(self, registry: EmbeddedRegistry, client: Client, store: LocalStore, shelf: Shelf) -> None:
        self.registry = registry
        self.client = client
        self.store = store
        self.plain = shelf.agents(AGENTS)
        (self.inline,) = shelf.agents(1, inline=True)
        self.layer = shelf.image("bench/layer", [8 * MIB])
        self.image = shelf.image("bench/image", [200_000] * 12)
        fill(registry, shelf.root)

    def ref(self, one: Published) -> str:
        return f"{self.registry.host}/{one.repository}:{TAG}"

    async def prefetch(self, concurrency: int) -> None:
        refs = [self.ref(one) for one in self.plain]
        async with self.client.prefetch(refs, concurrency=concurrency) as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None


@pytest.fixture
async def stocked(tmp_path: Path) -> AsyncIterator[Stocked]:
    store = LocalStore(tmp_path / "store")
    async with EmbeddedRegistry() as registry, Client(store) as client:
        yield Stocked(registry, client, store, Shelf(tmp_path / "shelf"))
    await store.aclose()


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Count how often something is done in a thread."""
    run_sync = anyio.to_thread.run_sync

    @contextmanager
    def counting() -> Iterator[Counter[str]]:
        found: Counter[str] = Counter()

        async def counted(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            inner = getattr(function, "func", function)
            found[getattr(inner, "__qualname__", repr(inner))] += 1
            return await run_sync(function, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(anyio.to_thread, "run_sync", counted)
            yield found

    return counting


# Requests and connections


async def test_one_connection_does_for_one_pull_after_the_other(stocked: Stocked) -> None:
    client, registry = stocked.client, stocked.registry
    with registry.recording() as requests:
        await client.pull_agent(stocked.ref(stocked.plain[0]))
        await client.pull_agent(stocked.ref(stocked.plain[1]))
        await client.pull_agent(stocked.ref(stocked.inline))
        await client.pull_agent(stocked.ref(stocked.plain[0]))
        await client.pull_agent(stocked.ref(stocked.plain[0]), max_age=3600)
    requests.assert_requests("GET manifest", "GET blob", "GET manifest", "GET blob", "GET manifest", "HEAD manifest")
    assert requests.connections == 1


async def test_a_batch_opens_a_connection_for_each_that_is_under_way(stocked: Stocked) -> None:
    with stocked.registry.recording() as requests:
        await stocked.prefetch(concurrency=8)
    assert len(requests.requests) == 2 * AGENTS
    assert requests.connections <= 8


async def test_a_batch_of_what_is_cached_asks_once_for_each(stocked: Stocked) -> None:
    await stocked.prefetch(concurrency=8)
    with stocked.registry.recording() as requests:
        await stocked.prefetch(concurrency=8)
    assert [str(one) for one in requests.requests] == ["HEAD manifest"] * AGENTS


async def test_an_image_is_one_request_for_each_thing_and_a_head_when_it_is_there(stocked: Stocked) -> None:
    with stocked.registry.recording() as requests:
        await stocked.client.pull(stocked.ref(stocked.image))
    assert Counter(str(one) for one in requests.requests) == {"GET manifest": 1, "GET blob": 13}
    assert requests.connections <= 9  # eight large ones at once, and the config
    with stocked.registry.recording() as requests:
        await stocked.client.pull(stocked.ref(stocked.image))
    requests.assert_requests("HEAD manifest")


# Hops to threads


async def test_an_agent_costs_one_hop_and_a_cached_one_none(stocked: Stocked, hops: Callable[[], Any]) -> None:
    pull = stocked.client.pull_agent
    await pull(stocked.ref(stocked.plain[0]))  # what is configured for the registry is looked up once
    pulls: dict[str, Callable[[], Awaitable[object]]] = {
        "cold": lambda: pull(stocked.ref(stocked.plain[1])),
        "inline": lambda: pull(stocked.ref(stocked.inline)),
        "warm": lambda: pull(stocked.ref(stocked.plain[1])),
        "fresh": lambda: pull(stocked.ref(stocked.plain[1]), max_age=3600),
    }
    counted = {}
    for name, one in pulls.items():
        with hops() as found:
            await one()
        counted[name] = found.total()
    assert counted["cold"] <= 1  # the commit
    assert counted["inline"] <= 1
    assert counted["warm"] <= 1
    assert counted["fresh"] == 0


async def test_a_batch_costs_far_less_than_a_hop_for_each_agent(stocked: Stocked, hops: Callable[[], Any]) -> None:
    await stocked.client.pull_agent(stocked.ref(stocked.inline))
    with hops() as found:
        await stocked.prefetch(concurrency=32)
    assert found.total() <= AGENTS // 2


async def test_a_large_layer_costs_a_hop_for_each_mebibyte_and_a_few(stocked: Stocked, hops: Callable[[], Any]) -> None:
    with hops() as found:
        await stocked.client.pull(stocked.ref(stocked.layer))
    assert found.total() <= 8 + 10


async def test_a_layer_of_an_image_costs_a_handful_of_hops(stocked: Stocked, hops: Callable[[], Any]) -> None:
    with hops() as found:
        await stocked.client.pull(stocked.ref(stocked.image))
    assert found.total() <= 12 * 5


# Transactions


async def test_what_is_committed_at_one_moment_is_one_transaction(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    contents = [b"content %d" % number for number in range(1000)]
    async with anyio.create_task_group() as group:
        for content in contents:
            group.start_soon(store.commit, Changes(0.0, content=((Digest.of(content), content),)))
    await store.aclose()
    assert store.transactions <= 3


async def test_concurrent_pulls_share_transactions(stocked: Stocked) -> None:
    await stocked.prefetch(concurrency=32)
    assert stocked.store.transactions <= AGENTS // 8


# System calls


@pytest.fixture
def system_calls(tmp_path: Path) -> Callable[[Shelf, int, str], Counter[str]]:
    """Count the system calls of a process that pulls some agents, one after the other."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace isn't installed")
    table = tmp_path / "calls"

    def count(shelf: Shelf, number: int, host: str) -> Counter[str]:
        directory = tmp_path / f"pulls-{number}"
        directory.mkdir()
        spec = spec_for(host, shelf.published[:number])
        done = subprocess.run(
            [strace, "-f", "-c", "-U", "name,calls", "-o", str(table), sys.executable, "-m", "benchmarks.child"],
            input=json.dumps({**spec, "job": "single.into", "directory": str(directory)}),
            capture_output=True,
            text=True,
            check=False,
            cwd=servers.ROOT,
        )
        if not done.stdout and "strace: " in done.stderr:
            pytest.skip(f"strace can't look at processes here: {done.stderr.splitlines()[0]}")
        assert json.loads(done.stdout)["verified"] == number, done.stderr
        rows = [line.split() for line in table.read_text().splitlines()]
        return Counter({row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()})

    return count


def test_a_pull_syncs_once_and_opens_nothing_anew(
    system_calls: Callable[[Shelf, int, str], Counter[str]], tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    """What twelve pulls need more than two: the start of the process and of the store is left out."""
    shelf = Shelf(tmp_path / "shelf")
    shelf.agents(12)
    with servers.embedded(shelf) as server:
        few, many = (system_calls(shelf, number, server.host) for number in (2, 12))
    each = {name: (many[name] - few[name]) / 10 for name in many | few}
    assert each.get("fsync", 0) + each.get("fdatasync", 0) <= 1
    assert each.get("connect", 0) == 0
    assert each.get("openat", 0) <= 4
    assert each.get("sendto", 0) <= 4  # two requests, and a thread that wakes the event loop up
    assert each["total"] <= 250
    measured("system calls of one cold pull", f"{each['total']:.0f}")
