"""Collections beside pulls, in many processes: no pull fails, nothing wrong is ever given, and all garbage goes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio.to_thread
import artifacts
import pytest
from aiohttp import web
from ordeal import Ordeal
from store.cargo import blob
from store.process import run

from lading.testing import RecordedRequest, ThreadedRegistry

AGENTS = 6
IMAGES = 4
VERSIONS = 2


def yaml(number: int, version: int) -> bytes:
    """An agent, small or so large that it is a blob of its own."""
    return f"number: {number}\nversion: {version}\n# ".encode() + b"x" * (200_000 if number % 3 == 2 else 100) + b"\n"


def layers(number: int, version: int) -> list[bytes]:
    """The layers of an image: one that all have, one of its own, one that each version has of its own."""
    return [blob(300_000), blob(150_000, number), blob(140_000, 100 + 10 * number + version), blob(500, version)]


def image(*contents: bytes) -> bytes:
    described = [artifacts.describe("application/vnd.oci.image.layer.v1.tar", content) for content in contents]
    config = artifacts.describe("application/vnd.oci.image.config.v1+json", b"{}")
    document = {"schemaVersion": 2, "mediaType": artifacts.MANIFEST, "config": config, "layers": described}
    return json.dumps(document).encode()


def publish(registry: ThreadedRegistry, number: int, version: int) -> None:
    """Let the tag of a repository stand for one version."""
    name = f"acme/r{number}"
    contents = [yaml(number, version)] if number < AGENTS else layers(number, version)
    for content in (*contents, b"{}"):
        registry.add_blob(name, content)
    manifest = artifacts.manifest(contents[0]) if number < AGENTS else image(*contents)
    registry.add_manifest(name, manifest, artifacts.MANIFEST, tag="v1")


@pytest.fixture
def moving() -> Iterator[ThreadedRegistry]:
    """A registry with ten repositories, whose tags move all the time."""
    moves = itertools.cycle((number, version) for version in range(VERSIONS) for number in range(AGENTS + IMAGES))
    asked = itertools.count()

    async def move(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        if record.kind == "manifest" and next(asked) % 9 == 8:
            publish(registry, *next(moves))
        return None

    with ThreadedRegistry() as registry:
        for version in reversed(range(VERSIONS)):
            for number in range(AGENTS + IMAGES):
                publish(registry, number, version)
        registry.intercept = move
        yield registry


# Forked from one parent that has imported everything and opened nothing.
SCRIPT = """
    import asyncio, collections, json, logging, os, random, select, sys, tempfile, time, traceback
    import aiohttp, anyio.to_thread, anyio._backends._asyncio
    import lading.network, lading.push.copy
    from lading import Client, LocalStore, Reference
    from lading.auth.credentials import StaticCredentials
    from lading.errors import StoreError
    from lading.oci.descriptor import Descriptor
    from lading.oci.digest import Digest
    from lading.store.layout_read import open_layout
    from lading.store.layout_write import export_images
    from lading.store.store import Changes
    from store.test_gc_races import AGENTS, IMAGES, VERSIONS, layers, yaml

    path, host, processes, rounds, seed, way = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6]
    agents = {n: {yaml(n, version) for version in range(VERSIONS)} for n in range(AGENTS)}
    images = {n: [layers(n, version) for version in range(VERSIONS)] for n in range(AGENTS, AGENTS + IMAGES)}
    seen = collections.Counter()

    class Counting(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            kind = "lost" if "any more" in message else "again" if "once more" in message else message
            seen[kind] += 1

    async def pull(number):
        chance = random.Random(seed + number)
        store = LocalStore(path)
        async with Client(store, credentials=StaticCredentials({})) as client:
            for _ in range(rounds):
                n = chance.randrange(AGENTS + IMAGES)
                ref = f"{host}/acme/r{n}:v1"
                if n < AGENTS:
                    agent = await client.pull_agent(ref, force=chance.random() < 0.2, fallback="never")
                    assert agent.content in agents[n]
                    if chance.random() < 0.3:
                        pinned = agent.reference.at(Digest.parse(agent.digest))
                        assert (await client.pull_agent(pinned)).content == agent.content
                else:
                    artifact = await client.pull(ref, force=chance.random() < 0.1)
                    contents = []
                    for one in artifact.blobs[1:]:
                        try:
                            contents.append(await artifact.read(one))
                        except StoreError:    # somebody moved or removed the tag since
                            seen["read too late"] += 1
                            contents.append(None)
                    assert any(all(a in (None, b) for a, b in zip(contents, known, strict=True)) for known in images[n])
                seen["pulls"] += 1
                if way == "limits" and chance.random() < 0.25:
                    await store.commit(Changes(time.time(), forgotten=(Reference.parse(ref),)))
        await store.aclose()

    async def collect(ended):
        chance = random.Random(seed)
        while not select.select([ended], [], [], 0.005)[0]:
            store = LocalStore(path)
            limits = [{}, {}, {"older_than": 0.0}, {"max_size": 500_000}, {"max_size": 0}] if way == "limits" else [{}]
            done = await store.collect(**chance.choice(limits), dry_run=chance.random() < 0.1)
            seen["collections"] += 1
            seen["collected"] += len(done.contents) + len(done.files)
            await store.aclose()

    async def export(ended):
        chance = random.Random(seed)
        while not select.select([ended], [], [], 0.02)[0]:
            n = AGENTS + chance.randrange(IMAGES)
            store = LocalStore(path)
            with tempfile.TemporaryDirectory() as directory:
                target = os.path.join(directory, "image.tar")
                try:
                    export_images(store, [Reference.parse(f"{host}/acme/r{n}:v1")], target)
                except StoreError:
                    seen["not exported"] += 1
                else:
                    with open_layout(target) as layout:
                        (entry,) = layout.entries()
                        manifest = json.loads(layout.read(entry.descriptor))
                        contents = [layout.read(Descriptor.from_json(one, "layer")) for one in manifest["layers"]]
                    assert contents in images[n]
                    seen["exported"] += 1
            await store.aclose()

    def in_a_child(work, argument):
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            logging.getLogger("lading").addHandler(Counting())
            logging.getLogger("lading").setLevel(logging.INFO)
            asyncio.run(work(argument), debug=False)
            os.write(1, json.dumps(seen).encode() + b"\\n")    # at once: others write, too
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)

    def wait(children):
        return [os.waitpid(child, 0)[1] for child in children]

    ended, end = os.pipe()
    others = [in_a_child(collect, ended), in_a_child(export, ended)]
    statuses = wait([in_a_child(pull, number) for number in range(processes)])
    os.write(end, b"x")
    statuses += wait(others)
    assert not any(statuses), statuses
"""

CHECK = """
    import asyncio, os, sys
    from lading.store.local import LocalStore
    from lading.store.verify import Verifier
    from store.test_gc import is_clean
    async def main():
        store = LocalStore(sys.argv[1])
        report = await Verifier(store).run()
        assert report.is_whole, report
        would = await store.collect(dry_run=True)
        assert await store.collect() == would
        is_clean(store)
        await store.aclose()
        done = await LocalStore(sys.argv[1]).collect(max_size=0)
        assert (done.references_left, done.bytes_left) == (0, 0), "nobody needs anything any more"
        assert sorted(os.listdir(sys.argv[1])) == ["blobs", "index-1.db", "ingest", "lock"], os.listdir(sys.argv[1])
    asyncio.run(main(), debug=False)
"""


@pytest.mark.torture
@pytest.mark.parametrize("way", ["default", "limits"])
async def test_collections_beside_pulls(
    home: Path, moving: ThreadedRegistry, way: str, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    home.parent.mkdir()
    processes = ordeal.rounds(short=8, long=32)
    rounds = ordeal.rounds(short=25 if way == "default" else 8, long=500)
    numbers = [str(number) for number in (processes, rounds, ordeal.seed)]
    output = await anyio.to_thread.run_sync(partial(run, SCRIPT, home, moving.host, *numbers, way))
    await anyio.to_thread.run_sync(partial(run, CHECK, home))
    told: dict[str, int] = {}
    for line in output.splitlines():
        for kind, count in json.loads(line).items():
            told[kind] = told.get(kind, 0) + count
    assert told["pulls"] == processes * rounds
    assert told["collections"] > 1
    # Who removes a tag beside a pull takes what it found: that is brought again.
    assert way == "limits" or "lost" not in told, "no collection takes what a pull needs"
    assert told.keys() <= {
        "pulls", "collections", "collected", "exported", "not exported", "read too late", "again", "lost"
    }, "a warning"  # fmt: skip
    measured(f"collections beside pulls, {way}", ", ".join(f"{count} {kind}" for kind, count in sorted(told.items())))
