"""Many callers, one transfer: single flight, cancellation, closing, and an event loop that isn't held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio
import pytest
from aiohttp import web
from artifacts import MANIFEST, publish

from lading import Agent, Client, Store
from lading.errors import LadingError
from lading.events import Event, RequestSent
from lading.testing import EmbeddedRegistry, RecordedRequest

YAML = b"agents:\n  root: {}\n"


class Gate:
    """Holds each request of one kind until it is opened."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, request: web.Request, record: RecordedRequest) -> None:
        if record.kind == self.kind:
            self.reached.set()
            await self.opened.wait()


async def test_fifty_callers_share_one_transfer(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)
    gate = registry.intercept = Gate("manifest")
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(client.pull_agent(f"{registry.host}/acme/triage:v1")) for _ in range(50)]
        await gate.reached.wait()
        gate.opened.set()
    assert [pull.result().content for pull in pulls] == [YAML] * 50
    assert registry.summary() == ["GET manifest", "GET blob"]


async def test_two_tags_of_one_agent_share_the_layer(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    publish(registry, YAML, tag="v1")
    publish(registry, YAML, tag="v2")
    gate = registry.intercept = Gate("blob")
    manifests: list[Event] = []
    both = asyncio.Event()

    def listen(event: Event) -> None:
        if isinstance(event, RequestSent):
            manifests.append(event)
        if len(manifests) == 2:
            both.set()

    client = connect(events=listen)
    pulls = [asyncio.create_task(client.pull_agent(f"{registry.host}/acme/triage:{tag}")) for tag in ("v1", "v2")]
    await gate.reached.wait()
    await both.wait()
    # Whoever has its manifest goes on to the layer: until then nobody is let through.
    for _ in range(5):
        await anyio.wait_all_tasks_blocked()
    gate.opened.set()
    assert {agent.content for agent in await _all(pulls)} == {YAML}
    assert registry.summary().count("GET blob") == 1


@pytest.mark.parametrize("held", ["manifest", "blob"])
async def test_cancelling_the_first_caller_doesnt_disturb_the_others(
    registry: EmbeddedRegistry, client: Client, held: str
) -> None:
    publish(registry, YAML)
    gate = registry.intercept = Gate(held)
    pulls = [asyncio.create_task(client.pull_agent(f"{registry.host}/acme/triage:v1")) for _ in range(50)]
    await gate.reached.wait()
    pulls[0].cancel()
    await asyncio.wait([pulls[0]])
    gate.opened.set()
    assert {agent.content for agent in await _all(pulls[1:])} == {YAML}
    assert pulls[0].cancelled()
    assert registry.summary() == ["GET manifest", "GET blob"]


@pytest.mark.parametrize("held", ["manifest", "blob"])
async def test_cancelling_every_caller_ends_the_transfer(registry: EmbeddedRegistry, client: Client, held: str) -> None:
    publish(registry, YAML)
    gate = registry.intercept = Gate(held)
    pulls = [asyncio.create_task(client.pull_agent(f"{registry.host}/acme/triage:v1")) for _ in range(5)]
    await gate.reached.wait()
    for pull in pulls:
        pull.cancel()
    await asyncio.wait(pulls)
    registry.intercept = None
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML, "the next caller starts anew"


async def test_closing_the_client_ends_every_caller(registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    publish(registry, YAML)
    gate = registry.intercept = Gate("blob")
    client = connect()
    before = asyncio.all_tasks()
    pulls = [asyncio.create_task(client.pull_agent(f"{registry.host}/acme/triage:v1")) for _ in range(50)]
    await gate.reached.wait()
    await client.aclose()
    results = await asyncio.gather(*pulls, return_exceptions=True)
    assert {type(result) for result in results} == {LadingError}
    assert {task for task in asyncio.all_tasks() - before if "lading" in task.get_name()} == set()
    with pytest.raises(LadingError, match="closed"):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")


async def test_a_deadline_is_the_callers_own(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)
    gate = registry.intercept = Gate("manifest")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
    with anyio.move_on_after(0.05) as scope:
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert scope.cancelled_caught
    gate.opened.set()
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML


async def test_a_failure_reaches_each_caller(registry: EmbeddedRegistry, client: Client) -> None:
    gate = registry.intercept = Gate("manifest")
    pulls = [asyncio.create_task(client.pull_agent(f"{registry.host}/acme/none")) for _ in range(5)]
    await gate.reached.wait()
    gate.opened.set()
    results = await asyncio.gather(*pulls, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["NotFound"] * 5
    assert len({id(result) for result in results}) == 5, "an error of one's own"
    assert registry.summary() == ["GET manifest"]


def test_a_client_belongs_to_one_event_loop(store: Store) -> None:
    client = Client(store, offline=True)

    async def pull() -> str:
        with pytest.raises(LadingError) as caught:
            await client.pull_agent("acme/triage")
        return caught.value.message

    # A second loop while the first still runs, as two threads of one program have it.
    async def from_another_loop() -> str:
        first = await pull()
        assert "switched off" in first
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(asyncio.run(pull())))
        thread.start()
        await asyncio.to_thread(thread.join)
        await client.aclose()
        return answers[0]

    assert "another event loop" in asyncio.run(from_another_loop())


async def test_a_client_may_be_opened_in_one_task_and_closed_in_another(
    registry: EmbeddedRegistry, store: Store
) -> None:
    publish(registry, YAML)
    client = await asyncio.create_task(Client(store).__aenter__())
    await asyncio.create_task(client.pull_agent(f"{registry.host}/acme/triage:v1"))
    await asyncio.create_task(client.aclose())


async def test_a_pull_that_began_before_a_push_doesnt_undo_it(registry: EmbeddedRegistry, client: Client) -> None:
    ref = f"{registry.host}/acme/triage:v1"
    await client.push_agent(b"version: 1\n", ref)
    await client.pull_agent(ref)
    answered, opened = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request, record: RecordedRequest) -> web.Response | None:
        if record.method != "HEAD" or record.kind != "manifest" or answered.is_set():
            return None
        digest = (await asyncio.shield(resolved)).digest
        answered.set()
        await opened.wait()
        headers = {"Docker-Content-Digest": str(digest), "Content-Type": MANIFEST, "Content-Length": "100"}
        return web.Response(headers=headers)

    resolved = asyncio.ensure_future(client.resolve(ref))
    await resolved
    registry.intercept = hold
    early = asyncio.create_task(client.pull_agent(ref))
    await answered.wait()
    await client.push_agent(b"version: 2\n", ref)
    late = asyncio.create_task(client.pull_agent(ref))
    assert (await late).content == b"version: 2\n"
    opened.set()
    assert (await early).content == b"version: 1\n"
    assert (await client.pull_agent(ref, max_age=3600)).content == b"version: 2\n"


async def test_nor_does_a_cold_one(registry: EmbeddedRegistry, client: Client) -> None:
    ref = f"{registry.host}/acme/triage:v1"
    await client.push_agent(b"version: 1\n", ref, inline=False)
    answered, opened = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request, record: RecordedRequest) -> web.Response | None:
        if record.method == "GET" and record.kind == "blob" and not answered.is_set():
            answered.set()
            await opened.wait()
        return None

    registry.intercept = hold
    early = asyncio.create_task(client.pull_agent(ref))
    await answered.wait()
    await client.push_agent(b"version: 2\n", ref, inline=False)
    opened.set()
    assert (await early).content == b"version: 1\n"
    assert client.cached(ref, max_age=3600) is None
    assert (await client.pull_agent(ref, max_age=3600)).content == b"version: 2\n"


async def _all(tasks: list[asyncio.Task[Agent]]) -> list[Agent]:
    return [await task for task in tasks]
