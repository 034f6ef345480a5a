"""Many processes on one store: killed at any moment, side by side, and where locks do nothing.

What was pulled stays, whatever is given is right, each large blob crosses the network once, and a collection leaves
nothing of those who are gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import artifacts
import pytest
from ordeal import Ordeal
from store.cargo import blob
from store.process import run

from lading import Client, LocalStore, MemoryStore
from lading.auth.credentials import StaticCredentials
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.values import INLINE_LIMIT, Intact, Record
from lading.testing import ThreadedRegistry

REFERENCES = 50
PUSHED = 4
"""Repositories that are pushed to."""


@dataclass(frozen=True)
class Known:
    """What a reference stands for: an agent, or an image whose layers others have, too."""

    number: int

    @property
    def is_agent(self) -> bool:
        return self.number % 5 < 3

    @property
    def repository(self) -> str:
        return f"acme/r{self.number}"

    @property
    def layers(self) -> list[bytes]:
        if self.is_agent:
            padding = 150_000 if self.number % 5 == 2 else 100
            return [f"number: {self.number}\n# ".encode() + b"x" * padding + b"\n"]
        own = blob(140_000, self.number)
        return [blob(200_000, self.number % 3), own, blob(500, self.number)]

    @property
    def manifest(self) -> bytes:
        if self.is_agent:
            return artifacts.manifest(self.layers[0])
        layers = [artifacts.describe("application/vnd.oci.image.layer.v1.tar", each) for each in self.layers]
        config = artifacts.describe("application/vnd.oci.image.config.v1+json", b"{}")
        document = {"schemaVersion": 2, "mediaType": artifacts.MANIFEST, "config": config, "layers": layers}
        return json.dumps(document).encode()

    def publish(self, registry: ThreadedRegistry) -> None:
        for content in (*self.layers, b"{}"):
            registry.add_blob(self.repository, content)
        registry.add_manifest(self.repository, self.manifest, artifacts.MANIFEST, tag="v1")

    async def pull(self, client: Client, host: str, *, force: bool = False) -> None:
        """Pull it, and see that all that comes is right."""
        ref = f"{host}/{self.repository}:v1"
        if self.is_agent:
            agent = await client.pull_agent(ref, force=force, fallback="never")
            assert agent.content == self.layers[0]
        else:
            artifact = await client.pull(ref, force=force)
            assert [await artifact.read(each) for each in artifact.blobs[1:]] == self.layers

    def is_in(self, store: LocalStore, host: str) -> bool:
        """Tell whether all of it is there."""
        name = f"{host}/{self.repository}"
        record = store.resolve(Reference.parse(f"{name}:v1"))
        return (
            isinstance(record, Record)
            and record.digest == Digest.of(self.manifest)
            and all(store.read(name, Digest.of(each)) == Intact(each) for each in (self.manifest, *self.layers))
        )


ALL = [Known(number) for number in range(REFERENCES)]
LARGE = {artifacts.sha256(layer) for known in ALL for layer in known.layers if len(layer) > INLINE_LIMIT}


@pytest.fixture
def registry() -> Iterator[ThreadedRegistry]:
    with ThreadedRegistry() as registry:
        for known in ALL:
            known.publish(registry)
        yield registry


def times_sent(registry: ThreadedRegistry) -> Counter[str]:
    """How often each large blob was sent."""
    asked = Counter(one.path.rpartition("/")[2] for one in registry.log().requests if str(one) == "GET blob")
    return Counter({digest: asked[digest] for digest in LARGE})


# Processes: forked from one that has imported everything and opened nothing.


def in_a_child(work: Callable[[], Coroutine[None, None, None]]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        asyncio.run(work(), debug=False)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def client_of(store: LocalStore | MemoryStore) -> Client:
    return Client(store, credentials=StaticCredentials({}), proxy=None)


def settle(path: Path) -> int:
    """Collect in a child; afterwards there is nothing that belongs to nobody."""

    async def main() -> None:
        store = LocalStore(path)
        await store.collect()
        assert not (path / "ingest").exists() or os.listdir(path / "ingest") == []
        assert store.inventory().strays == ()
        leases = [name for name in os.listdir(path) if name.startswith("lease-")]
        assert leases == []
        await store.aclose()

    return ended(in_a_child(main))


def assert_intact(path: Path, host: str, brought: set[int]) -> None:
    """See that what was brought is there, and that nothing there is wrong."""
    if not path.exists():
        assert not brought
        return
    store = LocalStore(path)
    lost = [number for number in brought if not ALL[number].is_in(store, host)]
    assert not lost, lost
    inventory = store.inventory()
    assert inventory.damage == ()
    for digest, size in inventory.contents:
        assert store.check(digest, lambda _: None) == size, digest
    store.close()


# Killed


def pushed(number: int, version: int) -> bytes:
    return f"pushed: {number}\nversion: {version}\n# ".encode() + b"y" * (150_000 if version % 2 else 50)


async def busy(path: Path, host: str, kind: str, seed: int, report: int) -> None:
    """Do one thing again and again; report each time what is true from then on."""
    chance, store = random.Random(seed), LocalStore(path)
    async with client_of(store) as client:
        while True:
            if kind == "pull":
                known = chance.choice(ALL)
                await known.pull(client, host, force=chance.random() < 0.3)
                os.write(report, bytes([ord("r"), known.number]))
            elif kind == "prefetch":
                chosen = chance.sample([known for known in ALL if known.is_agent], 8)
                refs = [f"{host}/{known.repository}:v1" for known in chosen]
                async for outcome in client.prefetch(refs):
                    assert outcome.error is None, outcome.error
                    number = int(str(outcome.reference).rpartition("/r")[2].removesuffix(":v1"))
                    os.write(report, bytes([ord("r"), number]))
            elif kind == "push":
                number, version = chance.randrange(PUSHED), chance.randrange(200)
                await client.push_agent(pushed(number, version), f"{host}/acme/new{number}:v1")
                os.write(report, bytes([ord("p"), number]))
            else:
                await store.collect(dry_run=chance.random() < 0.1)


async def see_what_was_pushed(host: str, numbers: set[int]) -> None:
    """A tag that was pushed once stands for one of the versions, whole, whoever was killed since."""
    store = MemoryStore()
    async with client_of(store) as client:
        for number in numbers:
            agent = await client.pull_agent(f"{host}/acme/new{number}:v1", fallback="never")
            assert agent.content in [pushed(number, version) for version in range(200)]


def kill(home: Path, host: str, rounds: int, seed: int) -> None:
    """Kill two processes at a time, so often; prints how many were at work, and what they had brought."""
    chance, kills, told = random.Random(seed), Counter[str](), Counter[str]()
    path, brought, sent = home / "store", set[int](), set[int]()
    for number in range(rounds):
        if number % 10 == 0:
            shutil.rmtree(path, ignore_errors=True)
            brought.clear()
        receive, report = os.pipe()
        kinds = chance.sample(["pull", "prefetch", "push", "collection"], 2)
        seeds = [chance.randrange(1 << 30) for _ in kinds]
        children = [
            in_a_child(partial(busy, path, host, kind, one, report)) for kind, one in zip(kinds, seeds, strict=True)
        ]
        os.close(report)
        # Until the first report, perhaps, and then some more.
        select.select([receive], [], [], chance.choice([0.05, 0.5]) * chance.random())
        time.sleep(chance.random() * 0.05)
        for child in children:
            os.kill(child, signal.SIGKILL)
        for kind, child in zip(kinds, children, strict=True):
            assert ended(child) == -signal.SIGKILL, kind
            kills[kind] += 1
        while found := os.read(receive, 2):
            (brought if found[:1] == b"r" else sent).add(found[1])
            told[found[:1].decode()] += 1
        os.close(receive)
        assert_intact(path, host, brought)
        if chance.random() < 0.1:
            assert ended(in_a_child(lambda: see_what_was_pushed(host, sent))) == 0
        if path.exists() and chance.random() < 0.3:
            assert settle(path) == 0
            assert_intact(path, host, brought)
    print(sum(kills.values()), told["r"], told["p"], json.dumps(kills))


# Side by side


def crowd(home: Path, host: str, processes: int, rounds: int, seed: int, way: str) -> None:
    """Let processes pull, so often each, beside collections; ``way`` says what goes wrong. Prints how many."""
    path, chance, kills = home / "store", random.Random(seed), 0
    if way == "locks that do nothing":
        fcntl.flock = lambda *_: None
    stop, end = os.pipe()

    async def pull(number: int) -> None:
        dice, store = random.Random(seed + number), LocalStore(path)
        async with client_of(store) as client:
            for _ in range(rounds):
                await dice.choice(ALL).pull(client, host)
        await store.aclose()

    async def collect() -> None:
        while not select.select([stop], [], [], 0.1)[0]:
            store = LocalStore(path)
            await store.collect()
            await store.aclose()

    collecting = in_a_child(collect)
    running = {in_a_child(lambda number=number: pull(number)) for number in range(processes)}  # type: ignore[misc]
    while running:
        if way == "kills" and kills < processes:
            time.sleep(chance.random() * 0.05)
            victim = chance.choice(sorted(running))
            os.kill(victim, signal.SIGKILL)
        child, status = os.waitpid(-1, 0)
        assert child != collecting, "the collections ended"
        running.discard(child)
        code = os.waitstatus_to_exitcode(status)
        assert code == 0 or (way == "kills" and code == -signal.SIGKILL), code
        if code:
            kills += 1
            running.add(in_a_child(partial(pull, 1000 + kills)))
    os.write(end, b"x")
    assert ended(collecting) == 0
    assert_intact(path, host, set())
    assert settle(path) == 0
    print(kills)


SCRIPT = """
    import asyncio, sys
    from pathlib import Path
    import aiohttp, anyio.to_thread, anyio._backends._asyncio
    import lading.network, lading.pull.prefetch, lading.push.agent, lading.store.collect
    from faults import test_many_processes as here
    here.{}(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:{}]), *sys.argv[{}:])
"""


@pytest.mark.torture
def test_killed_at_any_moment(
    registry: ThreadedRegistry, tmp_path: Path, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    """Pulls, prefetches, pushes and collections."""
    began = time.monotonic()
    rounds = ordeal.rounds(short=8, long=5_000)
    output = run(SCRIPT.format("kill", 5, 5), tmp_path, registry.host, str(rounds), str(ordeal.seed))
    kills, pulls, pushes, kinds = output.split(" ", 3)
    assert int(kills) == 2 * rounds
    assert int(pulls) > rounds / 5
    if ordeal.is_long:
        took = f"{time.monotonic() - began:.0f} s"
        measured(f"{kills} processes killed", f"{kinds} after {pulls} pulls and {pushes} pushes, {took}; nothing lost")


@pytest.mark.torture
@pytest.mark.parametrize("way", ["locks", "locks that do nothing", "kills"])
def test_many_processes_share_a_store(
    registry: ThreadedRegistry, tmp_path: Path, way: str, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    began = time.monotonic()
    processes, rounds = ordeal.rounds(short=4, long=32), ordeal.rounds(short=6, long=500)
    numbers = [str(number) for number in (processes, rounds, ordeal.seed)]
    kills = int(run(SCRIPT.format("crowd", 6, 6), tmp_path, registry.host, *numbers, way))
    sent = times_sent(registry)
    if way == "locks":
        assert all(count <= 1 for count in sent.values()), sent
    elif way == "kills":
        assert sum(sent.values()) <= len(LARGE) + 8 * kills
    if ordeal.is_long:
        took = f"{time.monotonic() - began:.0f} s"
        often = f"{sum(sent.values())} transfers of {len(LARGE)} large blobs, at most {max(sent.values())} of one"
        measured(f"{processes} processes x {rounds} pulls, {way}", f"{often}, {kills} killed, {took}")
