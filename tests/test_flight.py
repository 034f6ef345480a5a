"""Single flight: one operation for all who ask, and an end for every task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import anyio
import pytest

from lading.errors import LadingError, NotFound
from lading.flight import Flights

T = TypeVar("T")


class Work:
    """An operation that is held until it is released, and counts its runs."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return run


@pytest.fixture
async def flights() -> AsyncIterator[Flights]:
    flights = Flights()
    yield flights
    await soon(flights.aclose())


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for what must not hang."""
    return await asyncio.wait_for(awaitable, 10)


async def instant() -> str:
    return "done"


async def ask(flights: Flights, work: Work, key: str = "key", count: int = 1) -> list[asyncio.Task[int]]:
    """Let ``count`` tasks ask for the same, and wait until all do."""
    tasks = [asyncio.create_task(flights.join(key, work)) for _ in range(count)]
    await soon(work.begun.wait())
    await anyio.wait_all_tasks_blocked()
    return tasks


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


class TestSharing:
    async def test_one_operation_is_enough_for_all(self, flights: Flights) -> None:
        work = Work()
        tasks = await ask(flights, work, count=50)
        work.release.set()
        assert await soon(asyncio.gather(*tasks)) == [1] * 50

    async def test_who_asks_later_joins_too(self, flights: Flights) -> None:
        work = Work()
        tasks = await ask(flights, work) + await ask(flights, work)
        work.release.set()
        assert await soon(asyncio.gather(*tasks)) == [1, 1]

    async def test_different_keys_are_different_operations(self, flights: Flights) -> None:
        work = Work()
        tasks = await ask(flights, work, "a") + await ask(flights, work, "b")
        work.release.set()
        assert sorted(await soon(asyncio.gather(*tasks))) == [1, 2]

    async def test_nothing_is_remembered(self, flights: Flights) -> None:
        work = Work()
        work.release.set()
        assert [await soon(flights.join("key", work)) for _ in range(3)] == [1, 2, 3]

    async def test_an_operation_may_ask_for_another(self, flights: Flights) -> None:
        async def outer() -> str:
            return await flights.join("inner", instant)

        assert await soon(flights.join("outer", outer)) == "done"

    async def test_nothing_may_be_a_result(self, flights: Flights) -> None:
        async def nothing() -> None:
            return None

        await soon(flights.join("key", nothing))


class TestErrors:
    async def test_an_error_reaches_each_who_waits_and_nobody_else(self, flights: Flights) -> None:
        failing, other = Work(), Work()

        async def fail() -> int:
            await failing()
            raise NotFound("gone")

        losers = [asyncio.create_task(flights.join("failing", fail)) for _ in range(3)]
        (bystander,) = await ask(flights, other, "other")
        failing.release.set()
        outcomes = await soon(asyncio.gather(*losers, return_exceptions=True))
        assert [type(outcome) for outcome in outcomes] == [NotFound] * 3
        assert not bystander.done()
        other.release.set()
        assert await soon(bystander) == 1

    async def test_who_asks_after_an_error_starts_anew(self, flights: Flights) -> None:
        async def fail() -> str:
            raise NotFound("gone")

        with pytest.raises(NotFound):
            await soon(flights.join("key", fail))
        assert await soon(flights.join("key", instant)) == "done"

    async def test_an_unexpected_error_is_passed_on_too(self, flights: Flights) -> None:
        async def fail() -> str:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await soon(flights.join("key", fail))
        assert await soon(flights.join("key", instant)) == "done"

    async def test_an_operation_that_is_cancelled_from_inside_ends_alone(self, flights: Flights) -> None:
        other = Work()
        (bystander,) = await ask(flights, other, "other")

        async def stray() -> str:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
            return "never"

        with pytest.raises(LadingError, match="cancelled"):
            await soon(flights.join("stray", stray))
        other.release.set()
        assert await soon(bystander) == 1
        assert await soon(flights.join("key", instant)) == "done"


class TestCancellation:
    @pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
    async def test_one_who_leaves_doesnt_disturb_the_others(self, flights: Flights, position: int) -> None:
        work = Work()
        tasks = await ask(flights, work, count=3)
        await cancel(tasks.pop(position))
        work.release.set()
        assert await soon(asyncio.gather(*tasks)) == [1, 1]
        assert not work.cancelled.is_set()

    async def test_the_last_who_leaves_ends_the_operation(self, flights: Flights) -> None:
        work = Work()
        for task in await ask(flights, work, count=3):
            assert not work.cancelled.is_set()
            await cancel(task)
        await soon(work.cancelled.wait())

    async def test_who_comes_after_that_starts_anew(self, flights: Flights) -> None:
        work = Work()
        (task,) = await ask(flights, work)
        task.cancel()
        work.release.set()
        # The cancelled operation hasn't ended yet.
        assert await soon(flights.join("key", work)) == 2
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_an_operation_that_takes_its_time_to_end_holds_nobody_up(self, flights: Flights) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()
        release = asyncio.Event()

        async def stubborn() -> str:
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await release.wait()
                ended.set()
            return "never"

        task = asyncio.create_task(flights.join("key", stubborn))
        await soon(begun.wait())
        await cancel(task)
        assert await soon(flights.join("key", instant)) == "done"
        release.set()
        await soon(ended.wait())

    async def test_one_who_leaves_before_it_begins(self, flights: Flights) -> None:
        work = Work()
        task = asyncio.create_task(flights.join("key", work))
        await asyncio.sleep(0)
        await cancel(task)
        work.release.set()
        assert await soon(flights.join("key", work)) == work.runs

    async def test_anyios_deadline(self, flights: Flights) -> None:
        work = Work()
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await flights.join("key", work)
        await soon(work.cancelled.wait())

    async def test_asyncios_deadline(self, flights: Flights) -> None:
        work = Work()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await flights.join("key", work)
        await soon(work.cancelled.wait())

    async def test_a_deadline_is_only_its_own(self, flights: Flights) -> None:
        work = Work()
        (patient,) = await ask(flights, work)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await flights.join("key", work)
        work.release.set()
        assert await soon(patient) == 1

    async def test_the_deadline_of_the_first_isnt_that_of_the_operation(self, flights: Flights) -> None:
        work = Work()

        async def hurried() -> None:
            with anyio.move_on_after(0.01):
                await flights.join("key", work)

        first = asyncio.create_task(hurried())
        (patient,) = await ask(flights, work)
        await soon(first)
        work.release.set()
        assert await soon(patient) == 1


class TestClosing:
    async def test_all_who_wait_are_told(self) -> None:
        flights = Flights()
        work = Work()
        tasks = await ask(flights, work, count=3)
        await soon(flights.aclose())
        assert work.cancelled.is_set()
        outcomes = await soon(asyncio.gather(*tasks, return_exceptions=True))
        assert [type(outcome) for outcome in outcomes] == [LadingError] * 3

    async def test_it_waits_for_every_task(self) -> None:
        flights = Flights()
        before = asyncio.all_tasks()
        ended = False

        async def slow_to_end() -> None:
            nonlocal ended
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()
                ended = True

        task = asyncio.create_task(flights.join("key", slow_to_end))
        await anyio.wait_all_tasks_blocked()
        await soon(flights.aclose())
        assert ended
        with pytest.raises(LadingError):
            await soon(task)
        assert asyncio.all_tasks() <= before

    async def test_nothing_begins_afterwards(self) -> None:
        flights = Flights()
        await soon(flights.aclose())
        with pytest.raises(LadingError, match="the client is closed"):
            await soon(flights.join("key", instant))

    async def test_it_may_be_closed_again(self) -> None:
        flights = Flights()
        for _ in range(2):
            await soon(flights.aclose())

    async def test_it_may_be_closed_twice_at_once(self) -> None:
        flights = Flights()
        await ask(flights, work := Work())
        await soon(asyncio.gather(flights.aclose(), flights.aclose()))
        assert work.cancelled.is_set()

    async def test_an_operation_that_cant_end_cleanly_still_ends(self) -> None:
        flights = Flights()

        async def worse() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ZeroDivisionError

        task = asyncio.create_task(flights.join("key", worse))
        await anyio.wait_all_tasks_blocked()
        await soon(flights.aclose())
        with pytest.raises(ZeroDivisionError):
            await soon(task)

    async def test_it_may_be_closed_before_it_began(self) -> None:
        flights = Flights()
        await soon(flights.aclose())

    async def test_it_may_be_closed_after_all_tasks_were_cancelled_before_they_began(self) -> None:
        flights = Flights()
        asked = asyncio.create_task(flights.join("key", instant))
        me = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task not in (me, asked):
                task.cancel()
        closing = asyncio.create_task(flights.aclose())
        done, _ = await asyncio.wait([closing, asked], timeout=10)
        assert done == {closing, asked}
        with pytest.raises(LadingError, match="closed"):
            asked.result()

    async def test_it_may_be_opened_in_one_task_and_closed_in_another(self) -> None:
        async def open_and_use() -> Flights:
            flights = Flights()
            assert await flights.join("key", instant) == "done"
            return flights

        flights = await soon(asyncio.create_task(open_and_use()))
        assert await soon(flights.join("key", instant)) == "done"
        await soon(asyncio.create_task(flights.aclose()))

    async def test_it_outlives_the_task_group_that_it_was_opened_in(self) -> None:
        made: list[Flights] = []

        async def open_it() -> None:
            made.append(Flights())

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(open_it)
            scope.cancel()
        (flights,) = made
        assert await soon(flights.join("key", instant)) == "done"
        await soon(flights.aclose())

    async def test_closing_is_done_even_where_everything_is_cancelled(self) -> None:
        flights = Flights()
        await ask(flights, work := Work())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await flights.aclose()
        assert work.cancelled.is_set()


class TestLoops:
    def test_another_loop_is_told_so(self) -> None:
        home, other = asyncio.new_event_loop(), asyncio.new_event_loop()
        try:
            flights = home.run_until_complete(opened())
            for use in (flights.join("key", instant), flights.aclose()):
                with pytest.raises(LadingError, match="another event loop"):
                    other.run_until_complete(soon(use))
            assert home.run_until_complete(soon(flights.join("key", instant))) == "done"
            home.run_until_complete(soon(flights.aclose()))
        finally:
            home.close()
            other.close()

    def test_what_a_loop_ended_may_be_closed_on_another(self) -> None:
        flights = asyncio.run(opened())
        asyncio.run(soon(flights.aclose()))

    def test_a_loop_that_ends_ends_the_operations(self) -> None:
        cancelled = False

        async def endless() -> None:
            nonlocal cancelled
            try:
                await anyio.sleep_forever()
            finally:
                cancelled = True

        async def leave_it_open() -> asyncio.Task[None]:
            task = asyncio.create_task(Flights().join("key", endless))
            await anyio.wait_all_tasks_blocked()
            return task

        task = asyncio.run(leave_it_open())
        assert cancelled
        assert task.done()


async def opened() -> Flights:
    flights = Flights()
    await flights.join("key", instant)
    return flights
