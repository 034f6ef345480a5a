"""Every verb, interrupted at every moment: the cancellation propagates, nothing stays behind, the next call is right.

And at the edges of event loops: one that ends in the middle, and a process that forks in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from artifacts import MANIFEST, describe, publish, sha256
from hostile.steps import DEADLINES, KINDS, Ran, interrupted
from ordeal import Ordeal
from store.cargo import agent as cargo

from lading import Client, LocalStore, MemoryStore, Store
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import LadingError
from lading.pull.groups import together as pull_together
from lading.push.graph import together as push_together
from lading.store.index import Writer
from lading.testing import PROFILES, EmbeddedRegistry, ThreadedRegistry

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds within which everything here has ended."""

KIB = 1024
ADA = Credential("ada", "secret")
ONE = StaticCredentials({})
STORES = pytest.mark.parametrize("kind", ["memory", "local"])

# anyio's task group wraps what it runs, and drops it unawaited where a task is cancelled before its first step.
UNBEGUN = pytest.mark.filterwarnings("ignore:coroutine '(_Work|Walk|ArtifactPusher|Graph).* was never awaited")


def agent(number: int, size: int = 100, needs: tuple[str, ...] = ()) -> bytes:
    return f"agents: {{root: {{sub_agents: {json.dumps(needs)}}}}}\n# {number} {'x' * size}\n".encode()


LARGE = 300 * KIB
"""A layer that the store keeps in a file."""

LAYERS = tuple(random.Random(number).randbytes(size) for number, size in enumerate((1000, LARGE, 2560 * KIB)))


def put_image(registry: EmbeddedRegistry | ThreadedRegistry, layers: tuple[bytes, ...] = LAYERS) -> None:
    config = json.dumps({"layers": [sha256(layer) for layer in layers]}).encode()
    for blob in (config, *layers):
        registry.add_blob("acme/image", blob)
    kind = "application/vnd.oci.image.layer.v1.tar"
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", config),
        "layers": [describe(kind, layer) for layer in layers],
    }
    registry.add_manifest("acme/image", json.dumps(document).encode(), MANIFEST, tag="v1")


# The verbs.


@dataclass(slots=True)
class Scene:
    """A registry, and a client whose store has what the verb's preparation brought into it."""

    registry: EmbeddedRegistry
    client: Client
    store: Store
    home: Path
    credentials: StaticCredentials
    target: str
    """Where something is pushed to: nothing is there yet."""

    def ref(self, name: str) -> str:
        return f"{self.registry.host}/{name}"


async def nothing(scene: Scene) -> None:
    pass


@dataclass(frozen=True)
class Verb:
    """Something that a client does: ``run`` is interrupted, ``result`` is what it gives, or what ``then`` gives."""

    run: Callable[[Scene], Awaitable[object]]
    result: object
    then: Callable[[Scene], Awaitable[object]] | None = None
    prepare: Callable[[Scene], Awaitable[object]] = nothing
    partials: int = 0
    """How many blobs may be left to go on with."""
    options: dict[str, object] = field(default_factory=dict)
    settle: Callable[[Scene], Awaitable[object]] = nothing


def pull(name: str, **options: object) -> Callable[[Scene], Awaitable[object]]:
    async def run(scene: Scene) -> object:
        return (await scene.client.pull_agent(scene.ref(name), **options)).content  # type: ignore[arg-type]

    return run


def moved(scene: Scene) -> None:
    publish(scene.registry, agent(9), "acme/moved")


async def pull_then_move(scene: Scene) -> None:
    publish(scene.registry, agent(8), "acme/moved")
    await pull("acme/moved:v1")(scene)
    moved(scene)


async def served_stale(scene: Scene) -> object:
    found = await scene.client.pull_agent(scene.ref("acme/moved:v1"), revalidate="background")
    assert found.content in (agent(8), agent(9))
    return found.content == agent(9) or found.origin == "stale"


async def served_stale_to_its_end(scene: Scene) -> object:
    """Wait for what goes on in the background, too."""
    served = await served_stale(scene)
    while tasks := list(scene.client._rooms.open().flights._tasks):
        await asyncio.wait(tasks)
    return served


async def revalidated(scene: Scene) -> None:
    """Whatever was interrupted, the next ones see what comes of it."""
    with anyio.fail_after(DEADLINE):
        while (await scene.client.pull_agent(scene.ref("acme/moved:v1"), revalidate="background")).content != agent(9):
            await anyio.lowlevel.checkpoint()


async def pulled_image(scene: Scene, name: str = "acme/image:v1") -> object:
    artifact = await scene.client.pull(scene.ref(name))
    return [await artifact.read(blob) for blob in artifact.blobs[1:]]


async def prefetched(scene: Scene) -> object:
    found: dict[str, bytes] = {}
    refs = [scene.ref(f"acme/a{number}:v1") for number in range(3)]
    async with scene.client.prefetch(refs, concurrency=2, recursive=True) as outcomes:
        async for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            assert outcome.agent is not None
            found[str(outcome.reference).partition("/")[2]] = outcome.agent.content
    return sorted(found)


CLOSURE = ["acme/a0:v1", "acme/a1:v1", "acme/a2:v1", "acme/below:v1"]


async def locked(scene: Scene) -> object:
    lock = await scene.client.lock([scene.ref("acme/a0:v1"), scene.ref("acme/a1:v1")])
    return [str(entry.reference).partition("/")[2] for entry in lock.entries]


async def pushed(scene: Scene, size: int = 100) -> object:
    return str((await scene.client.push_agent(agent(5, size), scene.ref(f"{scene.target}:v1"), inline=False)).reference)


async def pulled_again(scene: Scene) -> object:
    return (await scene.client.pull_agent(scene.ref(f"{scene.target}:v1"), fallback="never")).content


async def copied(scene: Scene) -> object:
    return str((await scene.client.copy(scene.ref("acme/image:v1"), scene.ref(f"{scene.target}:v1"))).reference)


async def pulled_copy(scene: Scene) -> object:
    return await pulled_image(scene, f"{scene.target}:v1")


async def streamed(scene: Scene) -> object:
    async with scene.client.stream_blob(scene.ref("acme/image"), sha256(LAYERS[1])) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def asked(scene: Scene) -> object:
    descriptor = await scene.client.resolve(scene.ref("acme/image:v1"))
    manifest = await scene.client.manifest(scene.ref("acme/image:v1"))
    assert descriptor.size == len(manifest.raw)
    tags = [tag async for tag in scene.client.tags(scene.ref("acme/image"))]
    referring = [one async for one in scene.client.referrers(scene.ref("acme/image:v1"))]
    return tags, referring


VERBS: dict[str, Verb] = {
    "pull_agent, cold": Verb(pull("acme/a0:v1"), agent(0, needs=("HOST/acme/below:v1",))),
    "pull_agent, cold and inline": Verb(pull("acme/inline:v1"), agent(7)),
    "pull_agent, cold and large": Verb(pull("acme/large:v1"), agent(6, LARGE)),
    "pull_agent, cached": Verb(pull("acme/inline:v1"), agent(7), prepare=pull("acme/inline:v1")),
    "pull_agent, forced": Verb(pull("acme/large:v1", force=True), agent(6, LARGE), prepare=pull("acme/large:v1")),
    "pull_agent, moved": Verb(pull("acme/moved:v1"), agent(9), prepare=pull_then_move),
    "pull_agent, with a token": Verb(
        pull("acme/secret:v1"), agent(4), options={"profile": PROFILES["ghcr"], "users": {"ada": "secret"}}
    ),
    "pull_agent, in the background": Verb(served_stale, True, prepare=pull_then_move, settle=revalidated),
    "pull_agent, to the end of the background": Verb(
        served_stale_to_its_end, True, prepare=pull_then_move, settle=revalidated
    ),
    "pull": Verb(pulled_image, list(LAYERS), partials=2),
    "prefetch": Verb(prefetched, CLOSURE),
    "lock": Verb(locked, [CLOSURE[number] for number in (0, 1, 3)]),
    "push_agent": Verb(pushed, agent(5), pulled_again),
    "push_agent, large": Verb(lambda scene: pushed(scene, LARGE), agent(5, LARGE), pulled_again),
    "copy": Verb(copied, list(LAYERS), pulled_copy, partials=2),
    "stream_blob": Verb(streamed, LAYERS[1]),
    "resolve, manifest, tags, referrers": Verb(asked, (["v1"], [])),
}


def stock(registry: EmbeddedRegistry) -> None:
    """Put into the registry what the verbs ask for."""
    below = f"{registry.host}/acme/below:v1"
    for number in range(3):
        publish(registry, agent(number, needs=(below,)), f"acme/a{number}")
    publish(registry, agent(3), "acme/below")
    publish(registry, agent(4), "acme/secret")
    publish(registry, agent(6, LARGE), "acme/large")
    publish(registry, agent(7), "acme/inline", inline=True)
    put_image(registry)


# What is left behind.


def descriptors() -> list[str]:
    """What this process has open, sockets included."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{name}").split(":[")[0])
    return sorted(found)


async def pause() -> None:
    """Let others go on. Who leaves something behind tells nobody: there is no event to wait for."""
    await anyio.sleep(0.0005)


@dataclass(frozen=True)
class Before:
    """What there was before: tasks and open files. Threads at work are none."""

    tasks: frozenset[asyncio.Task[object]]
    open: list[str]

    @classmethod
    def now(cls) -> Before:
        return cls(frozenset(asyncio.all_tasks()), descriptors())

    async def is_restored(self) -> None:
        """See that nothing else is there, as soon as the registry has seen that its connections are closed."""
        limiter = anyio.to_thread.current_default_thread_limiter()
        with anyio.move_on_after(DEADLINE):
            while len(asyncio.all_tasks()) > len(self.tasks) or limiter.borrowed_tokens or descriptors() != self.open:
                await pause()
            return
        open_now, open_before = Counter(descriptors()), Counter(self.open)
        left = asyncio.all_tasks() - self.tasks
        raise AssertionError(
            f"left: tasks {left}, {limiter.borrowed_tokens} threads, open {open_now - open_before}; "
            f"closed: {open_before - open_now}"
        )


@pytest.fixture
async def stage(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[Verb], Awaitable[Stage]]]:
    registries: list[EmbeddedRegistry] = []

    async def build(verb: Verb) -> Stage:
        registry = EmbeddedRegistry(**verb.options)  # type: ignore[arg-type]
        await registry.start()
        registries.append(registry)
        stock(registry)
        await anyio.to_thread.run_sync(lambda: None)  # what the first thread opens stays open
        return Stage(verb, registry, kind, tmp_path)

    yield build
    for registry in registries:
        await registry.stop()


@dataclass(slots=True)
class Stage:
    """Where a verb is interrupted, again and again: each time with a new client and an empty store."""

    verb: Verb
    registry: EmbeddedRegistry
    kind: str
    path: Path
    rounds: int = 0
    partials: int = 0

    async def round(self, at: int, how: str) -> bool:
        """Interrupt the verb at one moment, and see that all is well; tells whether it came so far."""
        self.rounds += 1
        before = Before.now()
        home = self.path / str(self.rounds)
        store: Store = MemoryStore() if self.kind == "memory" else LocalStore(home)
        credentials = StaticCredentials({self.registry.host: ADA})
        # With a concurrency of 1, one leaked turn would let the next call wait for ever.
        client = Client(store, credentials=credentials, concurrency=1, proxy=None)
        scene = Scene(self.registry, client, store, home, credentials, f"acme/new{self.rounds}")
        with anyio.fail_after(DEADLINE):
            await self.verb.prepare(scene)
            ran = await interrupted(lambda: self.verb.run(scene), at, how, client.aclose)
            self._judge(ran, how)
            if self.verb.then is not None and not isinstance(ran.outcome, BaseException):
                await self._is_there(scene)
            if ran.reached and self._has_ended(client, how):
                await self._reopened(scene)
            else:
                await self._next(scene)
            await scene.client.aclose()
            await store.aclose()
            await before.is_restored()
        return ran.reached

    def _judge(self, ran: Ran, how: str) -> None:
        """See that what came of it is what was wanted, or that the interruption came out as itself."""
        outcome = ran.outcome
        failed = isinstance(outcome, BaseException)
        text = "".join(traceback.format_exception(outcome)) if isinstance(outcome, BaseException) else repr(outcome)
        if not failed:
            assert self.verb.then is not None or outcome == self.expected()
            assert not ran.reached or ran.is_late or how in ("aside", "inner task"), f"{how} was swallowed"
        elif not ran.reached:
            raise AssertionError(text)
        elif how in DEADLINES:
            assert isinstance(outcome, TimeoutError), text
        elif how == "aside":
            assert isinstance(outcome, LadingError), text
        elif how == "inner task":
            assert isinstance(outcome, asyncio.CancelledError | LadingError), text
        else:
            assert isinstance(outcome, asyncio.CancelledError), text

    async def _is_there(self, scene: Scene) -> None:
        """See that what was said to be done is done, as somebody else finds it."""
        assert self.verb.then is not None
        async with Client(MemoryStore(), credentials=scene.credentials, proxy=None) as client:
            assert await self.verb.then(replace(scene, client=client)) == self.expected()

    def _has_ended(self, client: Client, how: str) -> bool:
        """Tell whether the interruption was the end of the client: it was closed, or the task that holds it ended."""
        if how == "aside":
            return True
        network = client._rooms._network
        return how == "inner task" and network is not None and network.flights._host.done()

    async def _next(self, scene: Scene) -> None:
        """See that the same client goes on."""
        if self.kind == "local" and (scene.home / "ingest").exists():
            self.partials += await self._settled(scene.home)
        given = await self.verb.run(scene)
        assert (given if self.verb.then is None else await self.verb.then(scene)) == self.expected()
        await self.verb.settle(scene)
        session = scene.client._rooms.open()._session
        assert session._slots.statistics().tasks_waiting == 0
        with anyio.fail_after(DEADLINE):
            while session._slots.value < 100:  # what is done in the background goes on
                await anyio.lowlevel.checkpoint()
        if self.kind == "local" and (scene.home / "ingest").exists():
            assert os.listdir(scene.home / "ingest") == []

    async def _settled(self, home: Path) -> int:
        """Count what is left to go on with; nothing else is there, as soon as all threads have ended."""
        with anyio.fail_after(DEADLINE):
            while True:
                paths = list((home / "ingest").iterdir())
                if len(paths) <= self.verb.partials and all(path.match("sha256-*.left-*.part") for path in paths):
                    return len(paths)
                await anyio.lowlevel.checkpoint()

    async def _reopened(self, scene: Scene) -> None:
        """See that a closed client says so, and that another one goes on with the same store."""
        with pytest.raises(LadingError, match="closed"):
            await scene.client.pull_agent(scene.ref("acme/a0:v1"))
        scene.client = Client(scene.store, credentials=scene.credentials, concurrency=1, proxy=None)
        await self._next(scene)

    def expected(self) -> object:
        """Give what the verb gives: what stands for the registry's address filled in."""
        result = self.verb.result
        return result.replace(b"HOST", self.registry.host.encode()) if isinstance(result, bytes) else result


@UNBEGUN
@pytest.mark.torture
@STORES
@pytest.mark.parametrize("name", VERBS)
async def test_interrupted_at_every_moment(
    stage: Callable[[Verb], Awaitable[Stage]],
    name: str,
    kind: str,
    ordeal: Ordeal,
    measured: Callable[[str, str], None],
) -> None:
    built = await stage(VERBS[name])
    before = Before.now()
    moments = await moments_of(built)
    assert moments >= 1
    everything = [(at, how) for how in KINDS for at in range(moments)]
    dice = random.Random(ordeal.seed)
    chosen = everything if ordeal.is_long else dice.sample(everything, min(ordeal.rounds(8, 0), len(everything)))
    reached = 0
    for at, how in chosen:
        print(f"{how} at {at} of {moments}")
        reached += await built.round(at, how)
    gc.collect()
    await before.is_restored()
    if ordeal.is_long:
        figures = f"{moments} moments, {len(chosen)} rounds, {reached} interrupted, {built.partials} partials left"
        measured(f"{name}, {kind}", figures)
    assert reached >= len(chosen) * 0.5


async def moments_of(built: Stage) -> int:
    """Count at how many moments the verb can be interrupted, when nobody does."""
    store: Store = MemoryStore() if built.kind == "memory" else LocalStore(built.path / "first")
    credentials = StaticCredentials({built.registry.host: ADA})
    async with Client(store, credentials=credentials, proxy=None) as client:
        scene = Scene(built.registry, client, store, built.path / "first", credentials, "acme/new0")
        await built.verb.prepare(scene)
        ran = await interrupted(lambda: built.verb.run(scene), -1, "task.cancel")
        built._judge(ran, "task.cancel")
        await built.verb.settle(scene)
    await store.aclose()
    return ran.moments


# What is cancelled from inside: nobody cancelled the verb, but something that it waited for was.


async def cancelled_elsewhere() -> None:
    other = asyncio.ensure_future(asyncio.Event().wait())
    other.cancel()
    await other


@pytest.mark.parametrize("together", [pull_together, push_together])
async def test_operations_at_once_of_which_one_ends_without_a_result_are_not_done(together: Any) -> None:
    async def other() -> None:
        await anyio.lowlevel.checkpoint()

    await together(other, other)
    with anyio.fail_after(DEADLINE), pytest.raises(LadingError, match="cancelled from inside"):
        await together(other, cancelled_elsewhere, other)


@pytest.mark.parametrize("recursive", [False, True])
async def test_references_that_end_with_a_cancellation_are_not_all(
    registry: EmbeddedRegistry, client: Client, recursive: bool
) -> None:
    stock(registry)

    async def references() -> AsyncIterator[str]:
        yield f"{registry.host}/acme/inline:v1"
        await cancelled_elsewhere()
        yield f"{registry.host}/acme/below:v1"

    with anyio.fail_after(DEADLINE), pytest.raises(LadingError, match="cancelled from inside"):
        async for _ in client.prefetch(references(), recursive=recursive):
            pass
    with anyio.fail_after(DEADLINE), pytest.raises(LadingError, match="cancelled from inside"):
        await client.lock(references())
    assert (await client.pull_agent(f"{registry.host}/acme/below:v1")).content == agent(3)


class _GivingUp:
    """Credentials that wait for something that was cancelled."""

    async def credential(self, host: str) -> Credential | None:
        await cancelled_elsewhere()
        raise AssertionError("unreachable")


async def test_a_verb_whose_credentials_were_cancelled_fails(store: Store) -> None:
    profile, users = PROFILES["docker-hub"], {"ada": "secret"}
    async with EmbeddedRegistry(profile=profile, users=users, private={"acme/image", "acme/a0"}) as registry:
        stock(registry)
        source, target = f"{registry.host}/acme/image:v1", f"{registry.host}/acme/new:v1"
        async with Client(store, credentials=_GivingUp(), proxy=None) as client:
            for verb in (
                client.pull_agent(f"{registry.host}/acme/a0:v1"),
                client.pull(source),
                client.copy(source, target),
                client.push_agent(agent(1), target),
            ):
                with anyio.fail_after(DEADLINE), pytest.raises((LadingError, asyncio.CancelledError)):
                    await verb
        client = Client(store, credentials=StaticCredentials({registry.host: ADA}), proxy=None)
        async with client:
            assert await pulled_image(Scene(registry, client, store, Path(), ONE, "")) == list(LAYERS)


# Event loops that end in the middle.


@pytest.fixture
def threaded() -> Iterator[ThreadedRegistry]:
    with ThreadedRegistry() as registry:
        registry.call(stock)
        yield registry


@UNBEGUN
@pytest.mark.torture
@STORES
def test_event_loops_that_end_in_the_middle(
    threaded: ThreadedRegistry,
    tmp_path: Path,
    kind: str,
    ordeal: Ordeal,
    measured: Callable[[str, str], None],
) -> None:
    """Nobody closes the client, nobody waits for its tasks: the end of the loop is the end of both."""
    store: Store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "store")
    dice = random.Random(ordeal.seed)
    assert asyncio.run(all_is_well(threaded.host, store))
    threads, before = threading.active_count(), descriptors()
    rounds = ordeal.rounds(100, 1000)
    interrupted_ones = 0
    for _ in range(rounds):
        client, tasks = asyncio.run(leave(threaded.host, store, dice.choice([0, 1, 2, 4, 8, 16, 32, 64])))
        for task in tasks:
            assert task.done()
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, LadingError), repr(error)
        interrupted_ones += any(task.cancelled() or task.exception() is not None for task in tasks)
        client.close()
    gc.collect()
    ended = time.monotonic() + DEADLINE
    while time.monotonic() < ended and (threading.active_count() > threads or opened_since(before)):
        time.sleep(0.001)
    assert threading.active_count() <= threads
    assert opened_since(before) == []
    measured(f"{rounds} event loops that ended in the middle, {kind}", f"{interrupted_ones} interrupted something")
    assert asyncio.run(all_is_well(threaded.host, store))
    if kind == "local":
        assert os.listdir(tmp_path / "store" / "ingest") == []
    asyncio.run(store.aclose())


def opened_since(before: list[str]) -> list[str]:
    """Give what is open now and wasn't; a store that is open may have its one lease, on what was finished last."""
    opened = list((Counter(descriptors()) - Counter(before)).elements())
    leases = [path for path in opened if os.path.basename(path).startswith("lease-")]
    return opened if len(leases) > 1 else [path for path in opened if path not in leases]


async def leave(host: str, store: Store, turns: int) -> tuple[Client, list[asyncio.Task[object]]]:
    """Begin all kinds of things, and leave in the middle."""
    client = Client(store, credentials=StaticCredentials({}), proxy=None)
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(client.pull_agent(f"{host}/acme/large:v1", force=True)),
        asyncio.create_task(client.pull_agent(f"{host}/acme/inline:v1", revalidate="background")),
        asyncio.create_task(client.pull(f"{host}/acme/image:v1", force=True)),
        asyncio.create_task(client.push_agent(agent(1), f"{host}/acme/new:v1")),
        asyncio.create_task(client.lock([f"{host}/acme/a0:v1"])),
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    return client, tasks


async def all_is_well(host: str, store: Store) -> bool:
    async with Client(store, credentials=StaticCredentials({}), proxy=None) as client:
        artifact = await client.pull(f"{host}/acme/image:v1")
        assert [await artifact.read(blob) for blob in artifact.blobs[1:]] == list(LAYERS)
        return (await client.pull_agent(f"{host}/acme/large:v1")).content == agent(6, LARGE)


# Processes that fork in the middle.

CHILDREN: list[Callable[[Client, str], Awaitable[object]]] = [
    lambda client, ref: client.pull_agent(ref),
    lambda client, ref: client.pull(ref, force=True),
    lambda client, ref: client.push_agent(agent(1), ref),
    lambda client, ref: client.resolve(ref),
    lambda client, ref: client.aclose(),
]
"""What a child may try with the client that it inherited."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@STORES
@pytest.mark.parametrize("turns", [5, 25, 50])
def test_a_child_of_the_middle_of_a_pull_uses_no_connection_of_its_parent(
    threaded: ThreadedRegistry, tmp_path: Path, kind: str, turns: int
) -> None:
    """The child's use of what it inherited is refused, its own client works, and the parent goes on undisturbed."""
    store: Store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "store")
    image, large = f"{threaded.host}/acme/image:v1", f"{threaded.host}/acme/large:v1"

    async def main() -> None:
        async with Client(store, credentials=StaticCredentials({}), proxy=None) as client:
            await client.pull_agent(f"{threaded.host}/acme/inline:v1")  # a connection that is kept for later
            whole = asyncio.create_task(client.pull(image, force=True))
            one = asyncio.create_task(client.pull_agent(large, force=True))
            for _ in range(turns):
                await asyncio.sleep(0)
            child = os.fork()
            if not child:
                status = 1
                try:
                    # Here an event loop seems to run: its connections are those of the parent.
                    for use in CHILDREN:
                        with pytest.raises(LadingError, match="event loop"):
                            await use(client, large)
                    status = inherit(client, store, large)
                finally:
                    os._exit(status)
            with anyio.fail_after(DEADLINE):
                # In a thread: the connections of this process have to be looked after meanwhile.
                _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
                assert os.waitstatus_to_exitcode(status) == 0
                artifact, pulled = await whole, await one
            assert [await artifact.read(blob) for blob in artifact.blobs[1:]] == list(LAYERS)
            assert pulled.content == agent(6, LARGE)
            # The one that was idle when the process forked still is of use.
            with anyio.fail_after(DEADLINE):
                await client.pull_agent(f"{threaded.host}/acme/inline:v1")

    asyncio.run(main())
    assert asyncio.run(all_is_well(threaded.host, store))
    asyncio.run(store.aclose())


def inherit(client: Client, store: Store, ref: str) -> int:
    """Be the child: 0 if everything is as it should be."""
    try:
        for use in CHILDREN:
            with pytest.raises(LadingError, match="event loop"):
                asyncio.run(_with_deadline(lambda: use(client, ref)))  # noqa: B023
        with contextlib.suppress(LadingError):
            client.close()

        async def anew() -> bytes:
            async with Client(store, credentials=StaticCredentials({}), proxy=None) as own:
                return (await own.pull_agent(ref, force=True)).content

        assert asyncio.run(_with_deadline(anew)) == agent(6, LARGE)
        return 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("inherits", [True, False])
def test_a_child_of_the_middle_of_a_transaction_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inherits: bool
) -> None:
    """What SQLite knows of its locks is copied along: a transaction of the parent's would never end in the child."""
    store = LocalStore(tmp_path)
    asyncio.run(store.commit(cargo(0).changes()))
    begun = threading.Event()
    read_back = Writer._read_back

    def slow(self: Writer, *arguments: Any) -> None:
        begun.set()
        time.sleep(0.2)  # whoever forks now waits for this
        read_back(self, *arguments)

    monkeypatch.setattr(Writer, "_read_back", slow)
    writing = threading.Thread(target=lambda: asyncio.run(store.commit(cargo(1).changes())))
    writing.start()
    begun.wait()
    child = os.fork()
    if not child:
        os._exit(write(store if inherits else LocalStore(tmp_path)))
    writing.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(cargo(number).is_in(store) for number in range(3))
    store.close()


def write(store: LocalStore) -> int:
    """Be the child: 0 if it can write."""
    try:
        asyncio.run(store.commit(cargo(2).changes()))
        return int(not (cargo(0).is_in(store) and cargo(2).is_in(store)))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


async def _with_deadline(operation: Callable[[], Awaitable[T]]) -> T:
    with anyio.fail_after(DEADLINE):
        return await operation()
