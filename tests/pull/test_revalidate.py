"""``revalidate="background"``: the cached copy at once, one shared revalidation, the next call sees what it brought."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from aiohttp import web
from artifacts import publish

from lading import Client
from lading.events import Event, Pulled
from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Status

OLD, NEW = b"agents: {root: {model: old}}\n", b"agents: {root: {model: new}}\n"


class Gate:
    """Holds every request until it is opened; tells of the first."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, request: web.Request, record: RecordedRequest) -> None:
        self.came.set()
        await self.opened.wait()


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def ref(registry: EmbeddedRegistry) -> str:
    publish(registry, OLD)
    return f"{registry.host}/acme/triage:v1"


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not said():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_at_once_and_new_the_next_time(
    registry: EmbeddedRegistry, connect: Callable[..., Client], ref: str, told: list[Event]
) -> None:
    client = connect(events=told.append)
    await client.pull_agent(ref)
    publish(registry, NEW)
    gate = registry.intercept = Gate()
    with registry.recording() as requests:
        agents = [await client.pull_agent(ref, revalidate="background") for _ in range(20)]
        assert {agent.content for agent in agents} == {OLD}
        assert {(agent.origin, agent.stale_reason) for agent in agents} == {
            ("stale", "it is being revalidated in the background")
        }
        await gate.came.wait()
        gate.opened.set()
        await until(lambda: [one.origin for one in told if isinstance(one, Pulled)].count("registry") == 2)
        agent = await client.pull_agent(ref, revalidate="background", max_age=60)
    assert (agent.content, agent.origin) == (NEW, "fresh")
    requests.assert_requests("HEAD manifest", "GET manifest", "GET blob")


async def test_what_hasnt_moved_is_fresh_the_next_time(registry: EmbeddedRegistry, client: Client, ref: str) -> None:
    await client.pull_agent(ref)
    with registry.recording() as requests:
        await client.pull_agent(ref, revalidate="background")
        await until(lambda: client.cached(ref, max_age=60) is not None and len(registry.requests) == 3)
    requests.assert_requests("HEAD manifest")


async def test_what_needs_no_revalidation(registry: EmbeddedRegistry, client: Client, ref: str) -> None:
    agent = await client.pull_agent(ref)
    with registry.recording() as requests:
        assert (await client.pull_agent(ref, max_age=60, revalidate="background")).origin == "fresh"
        pinned = f"{registry.host}/acme/triage@{agent.digest}"
        assert (await client.pull_agent(pinned, revalidate="background")).origin == "pinned"
    requests.assert_requests()


async def test_cold_and_forced_ones_are_waited_for(registry: EmbeddedRegistry, client: Client, ref: str) -> None:
    assert (await client.pull_agent(ref, revalidate="background")).origin == "registry"
    publish(registry, NEW)
    assert (await client.pull_agent(ref, force=True, revalidate="background")).content == NEW


async def test_too_stale_a_copy_is_revalidated_first(registry: EmbeddedRegistry, client: Client, ref: str) -> None:
    await client.pull_agent(ref)
    publish(registry, NEW)
    agent = await client.pull_agent(ref, max_stale=0, revalidate="background")
    assert (agent.content, agent.origin) == (NEW, "registry")


async def test_offline_nothing_is_revalidated(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], ref: str
) -> None:
    await client.pull_agent(ref)
    with registry.recording() as requests:
        agent = await connect(offline=True).pull_agent(ref, revalidate="background")
    assert (agent.origin, "switched off" in (agent.stale_reason or "")) == ("stale", True)
    requests.assert_requests()


async def test_a_revalidation_that_fails_is_logged_and_tried_again(
    registry: EmbeddedRegistry, client: Client, ref: str, caplog: pytest.LogCaptureFixture
) -> None:
    await client.pull_agent(ref)
    registry.faults.add(Status(503))
    with caplog.at_level(logging.WARNING):
        assert (await client.pull_agent(ref, revalidate="background")).content == OLD
        await until(lambda: bool(caplog.records))
    assert [f"{ref}: not revalidated" in record.getMessage() for record in caplog.records] == [True]
    publish(registry, NEW)
    await client.pull_agent(ref, revalidate="background")
    await until(lambda: (agent := client.cached(ref, max_age=60)) is not None and agent.content == NEW)


async def test_closing_the_client_ends_it_cleanly(
    registry: EmbeddedRegistry, connect: Callable[..., Client], ref: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    await client.pull_agent(ref)
    before = asyncio.all_tasks()
    gate = registry.intercept = Gate()
    await client.pull_agent(ref, revalidate="background")
    await gate.came.wait()
    await client.aclose()
    assert {task for task in asyncio.all_tasks() - before if "lading" in repr(task.get_coro())} == set()
    assert caplog.records == []
    gate.opened.set()


async def test_who_waits_for_it_shares_it(registry: EmbeddedRegistry, client: Client, ref: str) -> None:
    await client.pull_agent(ref)
    gate = registry.intercept = Gate()
    with registry.recording() as requests:
        await client.pull_agent(ref, revalidate="background")
        await gate.came.wait()
        async with asyncio.TaskGroup() as group:
            now = group.create_task(client.pull_agent(ref))
            gate.opened.set()
    assert now.result().origin == "revalidated"
    requests.assert_requests("HEAD manifest")


async def test_another_value_is_refused(client: Client, ref: str) -> None:
    with pytest.raises(ValueError, match="revalidate must be one of now, background"):
        await client.pull_agent(ref, revalidate="later")  # type: ignore[arg-type]
