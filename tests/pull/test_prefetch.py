"""Many agents at once: order of completion, bounds, failures that stop nobody, and leaving in every way."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import pytest
from aiohttp import web
from artifacts import MANIFEST, publish

from lading import Client, Lockfile, MemoryStore, Outcome, Reference
from lading.errors import (
    BodyInterrupted,
    DigestMismatch,
    InvalidDocument,
    InvalidManifest,
    InvalidReference,
    LadingError,
    LockMismatch,
    NotAnAgent,
    NotFound,
    Offline,
    RateLimited,
    RegistryError,
    Unauthorized,
)
from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Close, Status, WrongBytes

YAML = b"agents:\n  root: {}\n"


def names(outcomes: list[Outcome]) -> set[str]:
    return {str(outcome.reference) for outcome in outcomes}


async def everything(client: Client, references: object, **options: object) -> list[Outcome]:
    return [one async for one in client.prefetch(references, **options)]  # type: ignore[arg-type]


def agents(registry: EmbeddedRegistry, count: int) -> list[str]:
    """Publish agents, each embedded in its manifest, and give their references."""
    found = []
    for number in range(count):
        publish(registry, b"# %d\n" % number + YAML, repository=f"acme/a{number}", tag="v1", inline=True)
        found.append(f"{registry.host}/acme/a{number}:v1")
    return found


async def settled() -> None:
    """Let everything happen that is about to."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_many_at_once(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 100)
    outcomes = await everything(client, given)
    assert names(outcomes) == set(given)
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.agent is not None
        assert isinstance(outcome.reference, Reference)
        number = outcome.reference.repository.removeprefix("acme/a")
        assert outcome.agent.content == f"# {number}\n".encode() + YAML
        assert outcome.agent.origin == "registry"
    assert registry.summary() == ["GET manifest"] * 100


async def test_nothing_is_asked_before_the_first_outcome_is(registry: EmbeddedRegistry, client: Client) -> None:
    outcomes = client.prefetch(agents(registry, 1))
    await settled()
    assert registry.summary() == []
    assert (await anext(outcomes)).error is None
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_in_order_of_completion(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 3)
    opened = asyncio.Event()

    async def hold(request: web.Request, record: RecordedRequest) -> None:
        if "/a0/" in record.path:
            await opened.wait()

    registry.intercept = hold
    outcomes = client.prefetch(given)
    first = [await anext(outcomes), await anext(outcomes)]
    opened.set()
    assert names(first) == set(given[1:])
    assert names([await anext(outcomes)]) == {given[0]}


@pytest.mark.parametrize("given", [[], (), iter(())], ids=["list", "tuple", "iterator"])
async def test_of_nothing_nothing_comes(client: Client, given: object) -> None:
    assert await everything(client, given) == []


async def test_duplicates_are_asked_for_and_given_once(registry: EmbeddedRegistry, client: Client) -> None:
    first, second = agents(registry, 2)
    given = [first, second, first, Reference.parse(second), first] * 20
    assert names(await everything(client, given)) == {first, second}
    assert len(registry.summary()) == 2


async def test_references_of_an_async_iterator(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 40)

    async def read() -> AsyncIterator[str]:
        for one in given:
            await asyncio.sleep(0)
            yield one

    assert names(await everything(client, read(), concurrency=8)) == set(given)


async def test_one_reference_is_no_list(client: Client) -> None:
    for one in ("acme/triage:v1", Reference.parse("acme/triage:v1")):
        with pytest.raises(TypeError, match="as a list"):
            client.prefetch(one)  # type: ignore[arg-type]


async def test_wrong_arguments(client: Client) -> None:
    for options in ({"concurrency": 0}, {"max_age": -1}, {"fallback": "sometimes"}):
        with pytest.raises(ValueError, match="must be"):
            client.prefetch([], **options)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_it_never_reads_far_ahead(registry: EmbeddedRegistry, client: Client, concurrency: int) -> None:
    given = agents(registry, 60)
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for one in given:
            read += 1
            yield one

    async with client.prefetch(source(), concurrency=concurrency) as outcomes:
        taken = 0
        async for _ in outcomes:
            taken += 1
            await settled()
            # Those that wait to be taken, and those that are under way.
            assert read <= taken + 2 * concurrency
    assert (taken, read) == (60, 60)


async def test_no_more_are_under_way_than_it_may(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 40)
    now = most = 0

    async def count(request: web.Request, record: RecordedRequest) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    registry.intercept = count
    await everything(client, given, concurrency=5)
    assert most == 5


async def test_a_hundred_thousand_known_ones(registry: EmbeddedRegistry, client: Client) -> None:
    """Duplicates cost the event loop nothing in one piece."""
    (one,) = agents(registry, 1)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(tick())
        reference = Reference.parse(one)
        outcomes = await everything(client, (reference for _ in range(100_000)))
        ticker.cancel()
    assert len(outcomes) == 1
    assert turns > 300


# Failures.


@pytest.mark.parametrize(("each", "count"), [(1, 90), (5, 950)])
async def test_one_failure_stops_nobody(registry: EmbeddedRegistry, client: Client, each: int, count: int) -> None:
    """Ten different ways to fail, among many that don't."""
    good = agents(registry, count)
    host = registry.host
    bad: dict[str, type[LadingError]] = {}
    for number in range(each):
        for name in ("cut", "wrong", "limited", "broken", "private"):
            publish(registry, YAML + f"{name}{number}".encode(), repository=f"acme/{name}{number}", tag="v1")
        registry.add_manifest(f"acme/garbage{number}", b"<html>", MANIFEST, tag="v1")
        registry.add_manifest(
            f"acme/image{number}",
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":'
            b'"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060'
            b'f61caaff8a","size":2},"layers":[]}',
            MANIFEST,
            tag="v1",
        )
        bad |= {
            f"{host}/acme/cut{number}:v1": BodyInterrupted,
            f"{host}/acme/wrong{number}:v1": DigestMismatch,
            f"{host}/acme/limited{number}:v1": RateLimited,
            f"{host}/acme/broken{number}:v1": RegistryError,
            f"{host}/acme/private{number}:v1": Unauthorized,
            f"{host}/acme/garbage{number}:v1": InvalidManifest,
            f"{host}/acme/image{number}:v1": NotAnAgent,
            f"{host}/acme/none{number}:v1": NotFound,
            f"not a reference {number}!": InvalidReference,
            f"{host}/acme/a{number}@sha256:{'0' * 64}": NotFound,
        }
    registry.faults.add(Close(2), on="GET blob", path="*/acme/cut*/*", times=None)
    registry.faults.add(WrongBytes(1), on="GET blob", path="*/acme/wrong*/*", times=None)
    registry.faults.add(Status(429), path="*/acme/limited*/*", times=None)
    registry.faults.add(Status(500), path="*/acme/broken*/*", times=None)
    registry.faults.add(Status(401), path="*/acme/private*/*", times=None)
    given = [one for pair in zip(bad, good, strict=False) for one in pair] + good[len(bad) :]
    outcomes = await everything(client, given)
    assert len(outcomes) == len(bad) + len(good)
    failed = {str(one.reference): one.error for one in outcomes if one.error is not None}
    assert {name: type(error) for name, error in failed.items()} == bad
    for name, error in failed.items():
        assert name.rpartition("/")[2].partition(":")[0].partition("@")[0] in str(error), "it names what it is about"
    assert names([one for one in outcomes if one.agent is not None]) == set(good)


async def test_what_isnt_even_text(client: Client) -> None:
    (outcome,) = await everything(client, [7])
    assert (outcome.reference, type(outcome.error)) == ("7", InvalidReference)


async def test_offline_what_is_there_is_stale(registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    given = agents(registry, 3)
    await everything(connect(), given[:2])
    outcomes = await everything(connect(offline=True), given)
    assert sorted(one.agent.origin if one.agent else type(one.error).__name__ for one in outcomes) == [
        Offline.__name__,
        "stale",
        "stale",
    ]


async def test_what_is_fresh_is_skipped(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 10)
    await everything(client, given[:6])
    with registry.recording() as requests:
        outcomes = await everything(client, given, max_age=60)
    assert sorted(one.agent.origin for one in outcomes if one.agent) == ["fresh"] * 6 + ["registry"] * 4
    requests.assert_requests(*["GET manifest"] * 4)


async def test_strictness_is_handed_on(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 2)
    await everything(client, given)
    registry.faults.add(Status(503), times=None)
    outcomes = await everything(client, given, fallback="never")
    assert [type(one.error) for one in outcomes] == [RegistryError] * 2


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3, 32])
async def test_a_source_that_fails(
    registry: EmbeddedRegistry, client: Client, concurrency: int, is_async: bool
) -> None:
    """What came before is given all the same."""
    given = agents(registry, 10)

    def source() -> Iterator[str]:
        yield from given
        raise OSError("the file is gone")

    async def far_source() -> AsyncIterator[str]:
        for one in source():
            yield one

    async with client.prefetch(far_source() if is_async else source(), concurrency=concurrency) as outcomes:
        assert [(await anext(outcomes)).error for _ in given] == [None] * 10
        with pytest.raises(OSError, match="the file is gone"):
            await anext(outcomes)
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


# Leaving.


class Held:
    """Holds every request; tells when as many have come as are to come."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self.came = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, request: web.Request, record: RecordedRequest) -> None:
        self._missing -= 1
        if self._missing == 0:
            self.came.set()
        await self.opened.wait()


@pytest.fixture
def tasks() -> Callable[[], set[str]]:
    """Tell which tasks of clients there are."""

    def theirs() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() if "lading." in f"{task.get_coro()} {task.get_name()}"}

    return theirs


@pytest.fixture
async def opened(registry: EmbeddedRegistry, client: Client) -> Client:
    """A client whose host task runs already, so that tasks can be counted."""
    publish(registry, YAML, repository="acme/first", tag="v1")
    await client.pull_agent(f"{registry.host}/acme/first:v1")
    return client


async def test_break_ends_it(registry: EmbeddedRegistry, opened: Client, tasks: Callable[[], set[str]]) -> None:
    before = tasks()
    async for _ in opened.prefetch(agents(registry, 40), concurrency=4):
        break
    await settled()
    assert tasks() <= before
    assert len(registry.requests) < 40
    assert (await opened.pull_agent(agents(registry, 1)[0])).content


async def test_leaving_the_context_ends_it(
    registry: EmbeddedRegistry, opened: Client, tasks: Callable[[], set[str]]
) -> None:
    before = tasks()
    held = registry.intercept = Held(4)
    async with opened.prefetch(agents(registry, 40), concurrency=4) as outcomes, asyncio.TaskGroup() as group:
        waiter = group.create_task(anext(outcomes))
        await held.came.wait()
        waiter.cancel()
    # When it is left, nothing of it is there any more.
    assert tasks() <= before
    assert [one async for one in outcomes] == []
    held.opened.set()


async def test_a_deadline_around_it(registry: EmbeddedRegistry, opened: Client, tasks: Callable[[], set[str]]) -> None:
    before = tasks()
    registry.intercept = Held(0)
    with anyio.move_on_after(0.05) as scope:
        async for _ in opened.prefetch(agents(registry, 40)):
            raise AssertionError("nothing can come")
    assert scope.cancelled_caught
    await settled()
    assert tasks() <= before
    registry.intercept = None
    assert len(await everything(opened, agents(registry, 40))) == 40


async def test_a_cancelled_consumer(registry: EmbeddedRegistry, opened: Client, tasks: Callable[[], set[str]]) -> None:
    before = tasks()
    held = registry.intercept = Held(8)

    async def consume() -> None:
        async for _ in opened.prefetch(agents(registry, 40), concurrency=8):
            raise AssertionError("nothing can come")

    task = asyncio.get_running_loop().create_task(consume())
    await held.came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await settled()
    assert tasks() <= before


async def test_who_shares_a_pull_with_it_isnt_cancelled(registry: EmbeddedRegistry, opened: Client) -> None:
    (one,) = agents(registry, 1)
    held = registry.intercept = Held(1)
    async with asyncio.TaskGroup() as group:
        async with opened.prefetch([one]) as outcomes:
            waiter = group.create_task(anext(outcomes))
            await held.came.wait()
            other = group.create_task(opened.pull_agent(one))
            await settled()
            waiter.cancel()
        held.opened.set()
    assert other.result().origin == "registry"
    assert registry.summary().count("GET manifest") == 2, "one of them was before all this"


async def test_dropping_it_ends_it(registry: EmbeddedRegistry, opened: Client, tasks: Callable[[], set[str]]) -> None:
    before = tasks()
    outcomes = opened.prefetch(agents(registry, 40), concurrency=4)
    await anext(outcomes)
    del outcomes
    gc.collect()
    await settled()
    assert tasks() <= before


async def test_closing_the_client_ends_it(registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    client = connect()
    held = registry.intercept = Held(4)
    outcomes = client.prefetch(agents(registry, 40), concurrency=4)
    waiter = asyncio.get_running_loop().create_task(anext(outcomes))
    await held.came.wait()
    await client.aclose()
    with pytest.raises(LadingError, match="closed"):
        await waiter
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)
    await outcomes.aclose()
    with pytest.raises(LadingError, match="closed"):
        client.prefetch([])


async def test_aclose_may_be_called_again_and_before(client: Client) -> None:
    outcomes = client.prefetch(["localhost:1/acme/triage:v1"])
    await outcomes.aclose()
    await outcomes.aclose()
    assert [one async for one in outcomes] == []


async def test_two_at_once(registry: EmbeddedRegistry, client: Client) -> None:
    """What both ask for is fetched once."""
    given = agents(registry, 20)
    held = registry.intercept = Held(20)
    both: list[list[Outcome]] = []

    async def consume() -> None:
        both.append(await everything(client, given, concurrency=20))

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        group.create_task(consume())
        await held.came.wait()
        await settled()
        held.opened.set()
    assert [len(one) for one in both] == [20, 20]
    assert len(registry.requests) == 20


# Closures.


def tree(registry: EmbeddedRegistry, links: dict[str, list[str]], *, host: str | None = None) -> None:
    """Publish agents that name others of the same registry."""
    for name, named in links.items():
        subs = ", ".join(one if "://" in one else f"{host or registry.host}/acme/{one}:v1" for one in named)
        content = f"agents:\n  root:\n    sub_agents: [{subs}]\n".encode()
        publish(registry, content, repository=f"acme/{name}", tag="v1", inline=True)


def short(outcome: Outcome) -> tuple[int, str]:
    return outcome.depth, str(outcome.reference).rpartition("/")[2].removesuffix(":v1")


async def test_level_by_level_each_once(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {"a": ["b", "c"], "b": ["d", "a"], "c": ["d", "c"], "d": ["b"]})
    outcomes = await everything(client, [f"{registry.host}/acme/a:v1"], recursive=True)
    assert sorted(map(short, outcomes)) == [(0, "a"), (1, "b"), (1, "c"), (2, "d")]
    assert [one.depth for one in outcomes] == [0, 1, 1, 2]
    assert [str(one.needed_by) for one in outcomes[:1]] == ["None"]
    assert {str(one.needed_by) for one in outcomes[1:3]} == {f"{registry.host}/acme/a:v1"}
    assert registry.summary() == ["GET manifest"] * 4


async def test_a_level_is_asked_for_at_once(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {"a": [f"b{number}" for number in range(20)], **{f"b{number}": [] for number in range(20)}})
    held = Held(20)

    async def hold(request: web.Request, record: RecordedRequest) -> None:
        if "/b" in record.path:
            await held(request, record)

    registry.intercept = hold
    async with asyncio.TaskGroup() as group:
        consumer = group.create_task(everything(client, [f"{registry.host}/acme/a:v1"], recursive=True))
        await held.came.wait()
        held.opened.set()
    assert len(consumer.result()) == 21


async def test_urls_are_reported_not_fetched(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {"a": [f"http://{registry.host}/hidden.yaml", "b"], "b": []})
    outcomes = await everything(client, [f"{registry.host}/acme/a:v1"], recursive=True)
    assert [(one.kind, one.text) for one in outcomes[0].references] == [
        ("url", f"http://{registry.host}/hidden.yaml"),
        ("oci", f"{registry.host}/acme/b:v1"),
    ]
    assert not [request for request in registry.requests if "hidden" in request.path]


async def test_ten_levels_and_no_more(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {f"a{depth}": [f"a{depth + 1}"] for depth in range(13)})
    outcomes = await everything(client, [f"{registry.host}/acme/a0:v1"], recursive=True)
    assert [short(one) for one in outcomes] == [(depth, f"a{depth}") for depth in range(12)]
    assert [one.error is None for one in outcomes] == [True] * 11 + [False]
    assert "deeper than 10" in str(outcomes[-1].error)
    assert str(outcomes[-1].needed_by) == f"{registry.host}/acme/a10:v1"


async def test_an_agent_that_cant_be_read_is_given_all_the_same(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, b"agents: [", repository="acme/a", tag="v1")
    (outcome,) = await everything(client, [f"{registry.host}/acme/a:v1"], recursive=True)
    assert isinstance(outcome.error, InvalidDocument)
    assert f"{registry.host}/acme/a:v1" in str(outcome.error)
    assert outcome.agent is not None
    assert (await everything(client, [f"{registry.host}/acme/a:v1"]))[0].error is None


async def test_what_is_missing_is_named_by_who_needs_it(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {"a": ["none", "b"], "b": []})
    outcomes = await everything(client, [f"{registry.host}/acme/a:v1"], recursive=True)
    (failed,) = [one for one in outcomes if one.error is not None]
    assert short(failed) == (1, "none")
    assert isinstance(failed.error, NotFound)
    assert str(failed.needed_by) == f"{registry.host}/acme/a:v1"
    assert len(outcomes) == 3


# Locked.


async def test_a_lock_covers_the_closure(registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    tree(registry, {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []})
    root = f"{registry.host}/acme/a:v1"
    lock = await connect().lock([root])
    assert {str(entry.reference).rpartition("/")[2]: len(entry.referenced_by) for entry in lock.entries} == {
        "a:v1": 0,
        "b:v1": 1,
        "c:v1": 1,
        "d:v1": 2,
    }
    assert [str(one) for one in lock.requested] == [root]
    tree(registry, {"b": ["z"], "z": []})  # moves on
    with registry.recording() as requests:
        outcomes = await everything(connect(), [root], recursive=True, lock=lock)
    assert sorted(map(short, outcomes)) == [(0, "a"), (1, "b"), (1, "c"), (2, "d")]
    assert {one.agent.digest for one in outcomes if one.agent} == {str(entry.digest) for entry in lock.entries}
    assert {one.agent.origin for one in outcomes if one.agent} == {"pinned"}
    requests.assert_requests()
    await registry.stop()
    offline = await everything(connect(offline=True), [root], recursive=True, lock=lock)
    assert [one.error for one in offline] == [None] * 4


async def test_a_lock_brings_an_empty_store_by_digest(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    tree(registry, {"a": ["b"], "b": []})
    root = f"{registry.host}/acme/a:v1"
    lock = await connect().lock([root])
    with registry.recording() as requests:
        outcomes = await everything(connect(MemoryStore()), [root], recursive=True, lock=lock)
    assert [one.agent.origin for one in outcomes if one.agent] == ["registry"] * 2
    requests.assert_requests("GET manifest", "GET manifest")
    assert all("sha256:" in request.path for request in requests)


async def test_what_the_lock_doesnt_cover(registry: EmbeddedRegistry, client: Client) -> None:
    given = agents(registry, 2)
    lock = await client.lock(given[:1])
    outcomes = {str(one.reference): one for one in await everything(client, given, lock=lock)}
    assert outcomes[given[0]].error is None
    assert isinstance(outcomes[given[1]].error, LockMismatch)
    assert given[1] in str(outcomes[given[1]].error)


async def test_what_is_kept_stays_locked(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {"a": ["b"], "b": []})
    root = f"{registry.host}/acme/a:v1"
    old = await client.lock([root])
    tree(registry, {"a": ["b", "c"], "b": ["d"], "c": [], "d": []})
    assert await client.lock([root], keep=old) == old
    b = Lockfile(tuple(entry for entry in old.entries if "/b:" in str(entry.reference)))
    newer = await client.lock([root], keep=b)
    assert [(change.kind, str(change.reference)[-4:]) for change in old.changes(newer)] == [
        ("moved", "a:v1"),
        ("added", "c:v1"),
    ]
    newest = await client.lock([root])
    assert [change.kind for change in newer.changes(newest)] == ["moved", "added"]


async def test_a_lock_is_whole_or_an_error_that_names_them_all(registry: EmbeddedRegistry, client: Client) -> None:
    tree(registry, {"a": ["none", "neither", "b"], "b": []})
    with pytest.raises(NotFound) as caught:
        await client.lock([f"{registry.host}/acme/a:v1"])
    assert "acme/neither" in str(caught.value)
    assert ["acme/none" in note for note in caught.value.__notes__] == [True]


async def test_a_lock_is_of_what_stands_now(registry: EmbeddedRegistry, client: Client) -> None:
    """A copy that stands in for a registry that fails is no good for a lock."""
    given = agents(registry, 1)
    await everything(client, given)
    registry.faults.add(Status(503), times=None)
    with pytest.raises(RegistryError):
        await client.lock(given)
