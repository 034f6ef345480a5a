"""A store under cancellation, by anyio and by asyncio itself: nothing stays behind, and the next call works."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from store.cargo import agent, blob, described, take
from store.conftest import descriptors

from lading.errors import StoreError
from lading.oci.descriptor import Descriptor
from lading.store import blobs
from lading.store.generations import Generations
from lading.store.index import Writer
from lading.store.local import LocalStore
from lading.store.store import ABSENT, INLINE_LIMIT, Intact, Store

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"
CONTENT = blob(2 * MIB + 5)
KINDS = ["anyio", "asyncio", "asyncio twice"]


class CancelledAt:
    """Awaits ``work``, and cancels the task at the await number ``step``; ``reached`` says whether it came so far."""

    def __init__(self, work: Awaitable[None], step: int, cancel: Callable[[], object], *, again: bool) -> None:
        self._work = work
        self._step = step
        self._cancel = cancel
        self._again = again
        self.reached = False

    def __await__(self) -> Generator[Any, Any, None]:
        work = self._work.__await__()
        step, value, error = 0, None, None
        while True:
            try:
                waited_for = work.throw(error) if error else work.send(value)
            except StopIteration:
                return
            if step == self._step or (self._again and step == self._step + 1):
                self.reached = True
                self._cancel()
            step += 1
            value, error = None, None
            try:
                value = yield waited_for
            except BaseException as raised:
                error = raised


async def cancelled_at(step: int, kind: str, work: Callable[[], Awaitable[None]]) -> bool:
    """Run ``work`` and cancel it at one await; tells whether there was such an await."""
    again = kind == "asyncio twice"

    async def by_asyncio() -> bool:
        task = asyncio.current_task()
        assert task is not None
        watched = CancelledAt(work(), step, task.cancel, again=again)
        try:
            await watched
        except asyncio.CancelledError:
            assert watched.reached
            while task.cancelling():
                task.uncancel()
        return watched.reached

    if kind == "anyio":
        with anyio.CancelScope() as scope:
            watched = CancelledAt(work(), step, scope.cancel, again=False)
            await watched
        return watched.reached
    return await asyncio.create_task(by_asyncio())


@pytest.fixture
async def local(home: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(home)
    yield store
    await store.aclose()


async def quiet(store: LocalStore) -> None:
    """Wait for threads that were left at work."""
    await store.commit(agent(999).changes())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [100, INLINE_LIMIT + 1])
async def test_a_commit_that_is_cancelled_at_any_await(local: LocalStore, home: Path, kind: str, size: int) -> None:
    await quiet(local)
    before = descriptors()
    step = 0
    one = agent(step, size=size)
    while await cancelled_at(step, kind, partial(local.commit, one.changes())):
        await quiet(local)
        assert one.is_in(local) or local.resolve(one.reference) is ABSENT
        assert descriptors() == before
        assert os.listdir(home / "ingest") == []
        await local.commit(one.changes())
        assert one.is_in(local)
        step += 1
        one = agent(step, size=size)
    assert step >= 2


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_commit_of_all_that_is_cancelled(tmp_path: Path, kind: str) -> None:
    step, more = 0, True
    while more:
        store = LocalStore(tmp_path / str(step))
        before = descriptors()
        more = await cancelled_at(step, kind, partial(store.commit, agent().changes()))
        await store.commit(agent(1).changes())
        assert agent(1).is_in(store)
        assert agent().is_in(store) or store.resolve(agent().reference) is ABSENT
        await store.aclose()
        assert descriptors() == before
        assert sorted(os.listdir(tmp_path / str(step))) == ["index-1.db", "ingest", "lock"]
        step += 1
    assert step >= 3


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_one_commit_does_not_cancel_the_others(local: LocalStore, kind: str) -> None:
    for step in range(4):
        first = step * 100

        async with anyio.create_task_group() as group:
            group.start_soon(cancelled_at, step, kind, partial(local.commit, agent(first).changes()))
            for number in range(first + 1, first + 10):
                group.start_soon(local.commit, agent(number).changes())
        assert all(agent(number).is_in(local) for number in range(first + 1, first + 10))


@pytest.mark.parametrize("cancelled", [["first"], ["second"], ["first", "second"]])
async def test_a_commit_that_waits_while_the_thread_of_a_cancelled_one_is_at_work(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, cancelled: list[str]
) -> None:
    await local.commit(agent(0).changes())
    begun, go_on = threading.Event(), threading.Event()
    apply = Writer.apply

    def slow(self: Writer, *arguments: Any, **options: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        apply(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "apply", slow)
        tasks = {"first": asyncio.create_task(local.commit(agent(1).changes()))}
        await anyio.to_thread.run_sync(begun.wait)
        tasks["second"] = asyncio.create_task(local.commit(agent(2).changes()))
        tasks["third"] = asyncio.create_task(local.commit(agent(3).changes()))
        for _ in range(3):
            await asyncio.sleep(0)
        for name in cancelled:
            tasks[name].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[name]
        go_on.set()
        for name in tasks.keys() - set(cancelled):
            await tasks[name]
    # What was being written is there, although nobody waited for it; what was still pending was taken back.
    assert agent(1).is_in(local)
    assert agent(2).is_in(local) == ("second" not in cancelled)
    assert agent(3).is_in(local)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_store_is_closed_while_the_thread_of_a_cancelled_commit_is_at_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    before = descriptors()
    store = LocalStore(home)
    if not is_first:
        await store.commit(agent(0).changes())
    begun, go_on = threading.Event(), threading.Event()
    acquire = Generations._acquire_shared

    def slow(self: Generations) -> int:
        begun.set()
        assert go_on.wait(30)
        return acquire(self)

    monkeypatch.setattr(Generations, "_acquire_shared", slow)
    task = asyncio.create_task(store.commit(agent(1).changes()))
    await anyio.to_thread.run_sync(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with anyio.create_task_group() as group:
        group.start_soon(store.aclose)
        await asyncio.sleep(0)
        go_on.set()
    assert descriptors() == before
    assert sorted(os.listdir(home)) == ["index-1.db", "ingest", "lock"]


async def test_a_look_up_that_waits_while_the_store_is_closed_opens_nothing(home: Path) -> None:
    store, one = LocalStore(home), agent()
    await store.commit(one.changes())
    store.close()
    before = descriptors()
    store = LocalStore(home)
    results: list[object] = []

    def look() -> None:
        try:
            results.append(store.resolve(one.reference))
        except StoreError as error:
            results.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    with store._reading:
        for thread in threads:
            thread.start()
        await store.aclose()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert [type(result) for result in results] == [StoreError] * 4
    assert descriptors() == before


# Ingest


async def fetch(store: Store, descriptor: Descriptor) -> None:
    async with store.ingest(descriptor) as ingest:
        for start in range(ingest.received, len(CONTENT), MIB // 2):
            await ingest.write(CONTENT[start : start + MIB // 2])
        await ingest.finish()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_ingest_that_is_cancelled_at_any_await(local: LocalStore, home: Path, kind: str) -> None:
    descriptor = described(CONTENT)
    await quiet(local)
    before = descriptors()
    step = 0
    left = 0
    while await cancelled_at(step, kind, partial(fetch, local, descriptor)):
        partials = await settled(home)
        assert descriptors() == before
        assert set(os.listdir(home)) >= {"index-1.db", "ingest"}
        assert len(partials) <= 1
        left += len(partials)
        for path in (*partials, Path(local._blobs.path(descriptor.digest))):
            with suppress(FileNotFoundError):
                path.unlink()  # each round begins with nothing
        step += 1
    assert step >= 5
    assert left >= 2
    await take(local, CONTENT)
    assert local.read(IMAGE, descriptor.digest) == Intact(CONTENT)
    assert await settled(home) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_an_ingest_that_goes_on_and_is_cancelled_at_any_await(local: LocalStore, home: Path, kind: str) -> None:
    descriptor = described(CONTENT)
    await quiet(local)
    async with local.ingest(descriptor) as ingest:
        await ingest.write(CONTENT[: MIB + 1])
    before = descriptors()
    step = 0
    while await cancelled_at(step, kind, partial(fetch, local, descriptor)):
        partials = await settled(home)
        assert descriptors() == before
        if os.path.exists(local._blobs.path(descriptor.digest)):
            assert partials == []
            os.unlink(local._blobs.path(descriptor.digest))
            async with local.ingest(descriptor) as ingest:
                await ingest.write(CONTENT[: MIB + 1])
        else:
            assert len(partials) == 1, "however often it is cancelled, the next one goes on"
        step += 1
    assert step >= 4
    assert local._blobs.holds(descriptor.digest, descriptor.size)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_ingest_that_is_cancelled_while_it_waits_for_another(local: LocalStore, home: Path, kind: str) -> None:
    descriptor = described(CONTENT)
    await quiet(local)
    async with local.ingest(descriptor) as first:
        before = descriptors()
        for step in range(12):
            assert await cancelled_at(step, kind, partial(fetch, local, descriptor))
            await anyio.to_thread.run_sync(lambda: None)
            assert descriptors() == before
        await first.write(CONTENT)
        await first.finish()
    assert await settled(home) == []


async def settled(home: Path) -> list[Path]:
    """Give what is left in ``ingest/`` to go on with; there is nothing else, as soon as all threads have ended."""
    with anyio.fail_after(30):
        while True:
            paths = list((home / "ingest").iterdir())
            if all(path.match("sha256-*.left-*.part") and path.stat().st_size > MIB for path in paths):
                return paths
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
@pytest.mark.parametrize("kind", ["anyio", "asyncio"])
async def test_an_ingest_that_is_cancelled_while_its_thread_is_at_work(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch, stage: str, kind: str
) -> None:
    await quiet(local)
    before = descriptors()
    begun, go_on = threading.Event(), threading.Event()
    module = blobs if stage == "write" else os
    name = "write_at" if stage == "write" else stage
    real = getattr(module, name)

    def slow(*arguments: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        real(*arguments)

    async def cancel_soon(cancel: Callable[[], object]) -> None:
        await anyio.to_thread.run_sync(begun.wait)
        cancel()
        await asyncio.sleep(0)
        go_on.set()

    with monkeypatch.context() as patch:
        patch.setattr(module, name, slow)
        async with anyio.create_task_group() as group:
            if kind == "anyio":
                with anyio.CancelScope() as scope:
                    group.start_soon(cancel_soon, scope.cancel)
                    await fetch(local, described(CONTENT))
            else:
                task = asyncio.create_task(fetch(local, described(CONTENT)))
                group.start_soon(cancel_soon, task.cancel)
                with pytest.raises(asyncio.CancelledError):
                    await task
                # Not later: leaving the block waits for the thread.
                assert os.listdir(home / "ingest") == []
                assert descriptors() == before
    assert os.listdir(home / "ingest") == []
    assert descriptors() == before
    await take(local, CONTENT)
    assert local.read(IMAGE, described(CONTENT).digest) == Intact(CONTENT)


async def test_an_ingest_that_outlives_its_event_loop_leaves_nothing(home: Path) -> None:
    def abandon() -> None:
        store = LocalStore(home)

        async def main() -> None:
            task = asyncio.create_task(fetch(store, described(CONTENT)))
            for _ in range(3):
                await asyncio.sleep(0)
            assert not task.done()

        asyncio.run(main())
        store.close()

    before = descriptors()
    await anyio.to_thread.run_sync(abandon)
    await settled(home) if home.exists() else None
    assert descriptors() == before


async def test_a_hundred_event_loops_leak_nothing(home: Path) -> None:
    def run_all() -> set[str]:
        for number in range(100):
            store = LocalStore(home)

            async def main() -> None:
                async with anyio.create_task_group() as group:
                    group.start_soon(store.commit, agent(number % 7).changes(durable=False))  # noqa: B023
                    group.start_soon(take, store, CONTENT[: MIB + number % 3])  # noqa: B023
                await store.aclose()  # noqa: B023

            asyncio.run(main())
        return descriptors()

    before = descriptors(), threading.active_count()
    assert await anyio.to_thread.run_sync(run_all) == before[0]
    with anyio.fail_after(30):
        while threading.active_count() > before[1] + 1:  # the last loop's threads have been told to end
            await anyio.lowlevel.checkpoint()
    store = LocalStore(home)
    assert store.read(IMAGE, described(CONTENT[:MIB]).digest) == Intact(CONTENT[:MIB])
    store.close()
