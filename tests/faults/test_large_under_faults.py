"""Images on a network that goes wrong, and by processes that are killed: right in the end, and nothing sent twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import anyio
import pytest
from artifacts import MANIFEST, describe, sha256
from ordeal import Ordeal

from lading import Client, LocalStore, MemoryStore, Retry, Store, Timeouts
from lading.auth.credentials import StaticCredentials
from lading.errors import LadingError
from lading.testing import EmbeddedRegistry, ThreadedRegistry
from lading.testing.faults import (
    Bandwidth,
    Close,
    ContentRange,
    Drip,
    ETagChanged,
    Fault,
    Framing,
    LongBody,
    RangeIgnored,
    RangeUnasked,
    RangeWrong,
    Reset,
    ShortBody,
    Stall,
    Status,
    TokenRefused,
    Unsatisfiable,
    WrongBytes,
    WrongContentLength,
)

MIB = 1024 * 1024
KIB = 1024
REPOSITORY = "acme/image"
DEADLINE = 30.0
"""Seconds within which everything here has ended, one way or the other."""

IMPATIENT = Timeouts(stall=0.2, first_byte=0.2)
QUICK = Retry(attempts=3, first_delay=0.001, longest_delay=0.01, longest_pause=0.02)

BUFFER = 8 * MIB
"""What a fault may cost: what the reader held (2 MiB), and what the kernel did, on both sides."""


@cache
def content_of(size: int, number: int = 0) -> bytes:
    return random.Random(f"{size}/{number}").randbytes(size)


def put(registry: EmbeddedRegistry | ThreadedRegistry, *layers: bytes, tag: str = "v1") -> str:
    """Put an image into a registry, and give its digest."""
    config = json.dumps({"layers": [sha256(layer) for layer in layers]}).encode()
    for blob in (config, *layers):
        registry.add_blob(REPOSITORY, blob)
    kind = "application/vnd.oci.image.layer.v1.tar"
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", config),
        "layers": [describe(kind, layer) for layer in layers],
    }
    return registry.add_manifest(REPOSITORY, json.dumps(document).encode(), MANIFEST, tag=tag)


async def pulled(client: Client, ref: str, layers: tuple[bytes, ...]) -> None:
    """Pull, and see that every layer is the right one."""
    artifact = await client.pull(ref)
    assert [str(one.digest) for one in artifact.blobs[1:]] == [sha256(layer) for layer in layers]
    for blob, layer in zip(artifact.blobs[1:], layers, strict=True):
        assert await artifact.read(blob) == layer


# A network that goes wrong.


def misfortunes(seed: int) -> list[Fault]:
    dice = random.Random(seed)
    at = dice.randrange(MIB)
    return [
        Reset(),
        Reset(at),
        Close(),
        Close(at),
        Stall(at),
        ShortBody(dice.randrange(1, 1000)),
        LongBody(dice.randrange(1, 1000)),
        WrongContentLength(dice.choice([-10, 10])),
        Framing("chunked"),
        Framing("close"),
        WrongBytes(at),
        Drip(chunk=200 * KIB, seconds=0.0),
        Bandwidth(50_000_000),
        Status(dice.choice([401, 403, 404, 408, 416, 429, 500, 502, 503, 504]), dice.choice([None, 0, "soon", -1])),
        TokenRefused(),
        RangeUnasked(dice.randrange(1, MIB)),
        RangeIgnored(),
        RangeWrong(dice.choice([-10, 10]), honest=dice.random() < 0.5),
        ContentRange(dice.choice([None, "bytes 0-9/10", "nonsense"])),
        Unsatisfiable(dice.choice([None, 10])),
        ETagChanged(),
    ]


@pytest.mark.parametrize("seed", range(60))
async def test_chaos(registry: EmbeddedRegistry, tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    await chaos(registry, tmp_path, seed)


@pytest.mark.torture
async def test_much_chaos(tmp_path: Path, ordeal: Ordeal, measured: Callable[[str, str], None]) -> None:
    """Each run finishes or raises a typed error within its deadline, and gives the right bytes or none."""
    met, errors = Counter[str](), Counter[str]()
    began = time.monotonic()
    runs = ordeal.rounds(5, 1_500)
    for number in range(runs):
        seed = ordeal.seed * 10_000 + number
        print(f"seed {seed}")
        async with EmbeddedRegistry() as registry:
            await chaos(registry, tmp_path / str(number), seed, met, errors)
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    if ordeal.is_long:
        assert set(met) == {type(fault).__name__ for fault in misfortunes(0)}
        took = f"{time.monotonic() - began:.0f} s"
        measured(
            f"{runs} runs of an image, chaos", f"{sum(met.values())} faults, {sum(errors.values())} errors, {took}"
        )
        measured("faults", ", ".join(f"{name} {count}" for name, count in met.most_common()))
        measured("errors", ", ".join(f"{name} {count}" for name, count in errors.most_common()))


async def chaos(
    registry: EmbeddedRegistry,
    home: Path,
    seed: int,
    met: Counter[str] | None = None,
    errors: Counter[str] | None = None,
) -> None:
    """Pull an image while anything may go wrong, until nothing does; count what went wrong and what came of it."""
    store: Store = MemoryStore() if seed % 4 == 0 else LocalStore(home)
    layers = (content_of(1000), content_of(300 * KIB), content_of(2 * MIB + seed % 100), content_of(3 * MIB))
    digest = put(registry, *layers)
    registry.faults.chaos(seed=seed, rate=0.4, faults=misfortunes(seed))
    retry = QUICK if seed % 3 else Retry(attempts=1)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    async with Client(store, credentials=StaticCredentials({}), timeouts=IMPATIENT, retry=retry) as client:
        with anyio.fail_after(DEADLINE):
            for _ in range(3):
                try:
                    await pulled(client, ref, layers)
                except LadingError as error:
                    if errors is not None:
                        errors[type(error).__name__] += 1
            if met is not None:
                met.update(type(one.fault).__name__ for one in registry.faults.applied)
    registry.faults.clear()
    # A patient one: nothing goes wrong any more, but the machine may be busy.
    async with Client(store, credentials=StaticCredentials({})) as client:
        with anyio.fail_after(DEADLINE):
            await pulled(client, ref, layers)
            registry.clear_requests()
            await pulled(client, f"{registry.host}/{REPOSITORY}@{digest}", layers)
    assert registry.requests == []
    await store.aclose()


@pytest.mark.parametrize("seed", range(30))
async def test_cuts_cost_little(
    registry: EmbeddedRegistry, tmp_path: Path, seed: int, measured: Callable[[str, str], None]
) -> None:
    """Where ranges are honoured: a buffer a fault."""
    print(f"seed {seed}")
    size, twice, cuts = await cut(registry, tmp_path, seed)
    assert twice <= 0.05 * size + cuts * BUFFER
    if cuts:
        measured(f"24 MiB of layers, {cuts} connections cut (seed {seed}), bytes sent twice", f"{twice}")


@pytest.mark.torture
async def test_many_cuts_cost_little(tmp_path: Path, ordeal: Ordeal, measured: Callable[[str, str], None]) -> None:
    """In all, no more than a twentieth is sent again."""
    sizes = again = cuts = 0
    runs = ordeal.rounds(10, 500)
    for number in range(runs):
        seed = ordeal.seed * 10_000 + number
        print(f"seed {seed}")
        async with EmbeddedRegistry() as registry:
            size, twice, happened = await cut(registry, tmp_path / str(number), seed)
        sizes, again, cuts = sizes + size, again + twice, cuts + happened
        shutil.rmtree(tmp_path / str(number))
    if ordeal.is_long:
        share = f"{again / MIB:.1f} MiB sent twice, {1 + again / sizes:.4f} times the size"
        measured(f"{runs} times 24 MiB, {cuts} connections cut", share)
    assert again <= 0.05 * sizes


async def cut(registry: EmbeddedRegistry, home: Path, seed: int) -> tuple[int, int, int]:
    """Pull an image over connections that are cut; give its size, how much was sent twice, how many were cut."""
    store = LocalStore(home)
    layers = tuple(content_of(8 * MIB, number) for number in range(3))
    put(registry, *layers)
    dice = random.Random(seed)
    faults: list[Fault] = [Reset(dice.randrange(4 * MIB)), Close(dice.randrange(4 * MIB)), Reset(), Close()]
    registry.faults.chaos(seed=seed, rate=0.5, faults=faults, on="GET blob")
    ref = f"{registry.host}/{REPOSITORY}:v1"
    async with Client(store, credentials=StaticCredentials({}), retry=replace(QUICK, attempts=10)) as client:
        with anyio.fail_after(DEADLINE):
            while True:
                with contextlib.suppress(LadingError):
                    await pulled(client, ref, layers)
                    break
    await store.aclose()
    size = sum(map(len, layers))
    cuts = len([one for one in registry.faults.applied if one.fault.after is not None])  # type: ignore[union-attr]
    return size, registry.bytes_sent - size, cuts


# Processes.


class Fetch:
    """``lading fetch`` in processes of their own, which share a store."""

    def __init__(self, home: Path, ref: str) -> None:
        self.home = home
        self.ref = ref
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LADING_HOME": str(home / "store"),
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lading", "fetch", self.ref, "--json"]
        return subprocess.Popen(
            command, env=self.env, cwd=self.home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def finish(self, process: subprocess.Popen[str]) -> dict[str, object]:
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, err
        fields = json.loads(out)
        assert isinstance(fields, dict)
        return fields


@pytest.fixture
def threaded() -> Iterator[ThreadedRegistry]:
    with ThreadedRegistry() as registry:
        yield registry


def blobs_sent(registry: ThreadedRegistry) -> Counter[str]:
    """How often each blob was asked for with GET."""
    asked = (request for request in registry.log().requests if str(request) == "GET blob")
    return Counter(request.path.rpartition("/")[2] for request in asked)


async def assert_kept(home: Path, ref: str, layers: tuple[bytes, ...]) -> None:
    async with Client(home / "store", credentials=StaticCredentials({})) as client:
        await pulled(client, ref, layers)


def test_eight_processes_fetch_each_blob_once(
    threaded: ThreadedRegistry, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    layers = tuple(content_of(8 * MIB, number) for number in range(3))
    put(threaded, *layers)
    # So slow that all of them are there before the first has got anything.
    threaded.faults.add(Bandwidth(8 * MIB), on="GET blob", times=None)
    fetch = Fetch(tmp_path, f"{threaded.host}/{REPOSITORY}:v1")
    began = time.monotonic()
    processes = [fetch.start() for _ in range(8)]
    results = [fetch.finish(process) for process in processes]
    seconds = time.monotonic() - began
    sent = blobs_sent(threaded)
    assert [sent[sha256(layer)] for layer in layers] == [1, 1, 1]
    heads = Counter(str(request) for request in threaded.log().requests)["HEAD blob"]
    assert heads <= 7 * 3
    assert len({json.dumps(result["blobs"]) for result in results}) == 1
    measured("8 processes, 3 layers of 8 MiB", f"each sent once, {heads} HEADs, {seconds:.1f} s")
    anyio.run(assert_kept, tmp_path, fetch.ref, layers)


@pytest.mark.torture
@pytest.mark.parametrize("rate", [40 * MIB, None], ids=["40-MiB-a-second", "full-speed"])
def test_killed_at_random_places_little_is_fetched_twice(
    threaded: ThreadedRegistry, tmp_path: Path, measured: Callable[[str, str], None], rate: int | None, ordeal: Ordeal
) -> None:
    layers = tuple(content_of(64 * MIB, number) for number in range(3))
    size = sum(map(len, layers))
    put(threaded, *layers)
    if rate is not None:
        threaded.faults.add(Bandwidth(rate), on="GET blob", times=None)
    fetch = Fetch(tmp_path, f"{threaded.host}/{REPOSITORY}:v1")
    dice = random.Random(ordeal.seed)
    kills = 0
    for place in sorted(dice.randrange(size) for _ in range(ordeal.rounds(20, 100))):
        process = fetch.start()
        while process.poll() is None and sent_in_sum(threaded) < place:
            time.sleep(0.001)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    result = fetch.finish(fetch.start())
    assert isinstance(result["blobs"], list)
    assert [one["digest"] for one in result["blobs"][1:]] == [sha256(layer) for layer in layers]
    sent = sent_in_sum(threaded)
    lost = (sent - size) / max(kills, 1)
    pace = f"{rate // MIB} MiB/s a connection" if rate else "at full speed"
    measured(
        f"3 layers of 64 MiB at once, {pace}, {kills} times killed -9",
        f"{(sent - size) / MIB:.1f} MiB sent twice ({sent / size:.2f} times the size): {lost / MIB:.2f} MiB a kill",
    )
    assert sent <= 1.05 * size + kills * len(layers) * (BUFFER if rate is None else 2 * MIB)
    anyio.run(assert_kept, tmp_path, fetch.ref, layers)
    assert list((tmp_path / "store" / "ingest").iterdir()) == []


def sent_in_sum(registry: ThreadedRegistry) -> int:
    return sum(request.bytes_sent for request in registry.log().requests if request.kind == "blob")
