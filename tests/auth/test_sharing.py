"""One run for all who wait."""

from __future__ import annotations

import anyio
import pytest

from lading.auth.sharing import Shared
from lading.errors import Denied, LadingError


class Work:
    """Work that ends when it is told to."""

    def __init__(self, error: LadingError | None = None) -> None:
        self.runs = 0
        self.go = anyio.Event()
        self._error = error

    async def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        await self.go.wait()
        if self._error:
            raise self._error
        return run


async def test_everybody_who_waits_gets_the_same_value() -> None:
    shared: Shared[str, int] = Shared()
    work, found = Work(), []

    async def one(key: str) -> None:
        found.append(await shared.run(key, work))

    async with anyio.create_task_group() as tasks:
        for key in "aaab":
            tasks.start_soon(one, key)
        await anyio.wait_all_tasks_blocked()
        work.go.set()
    assert sorted(found) == [1, 1, 1, 2]
    assert await shared.run("a", work) == 3  # nothing is remembered
    assert vars(shared) == {"_turns": {}}


async def test_everybody_who_waits_gets_an_error_of_their_own() -> None:
    shared: Shared[str, int] = Shared()
    work, found = Work(Denied("no", status=403, codes=["DENIED"], hint="ask")), []

    async def one() -> None:
        with pytest.raises(Denied) as caught:
            await shared.run("a", work)
        found.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        work.go.set()
    assert len({id(error) for error in found}) == 3
    assert {(str(error), error.status, error.codes) for error in found} == {("no (ask)", 403, ("DENIED",))}
    assert work.runs == 1


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_one_who_is_cancelled_does_not_take_the_others_along(who: int) -> None:
    shared: Shared[str, int] = Shared()
    work, found = Work(), []
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def one(scope: anyio.CancelScope) -> None:
        with scope:
            found.append(await shared.run("a", work))

    async with anyio.create_task_group() as tasks:
        for scope in scopes:
            tasks.start_soon(one, scope)
        await anyio.wait_all_tasks_blocked()
        scopes[who].cancel()
        await anyio.wait_all_tasks_blocked()
        work.go.set()
    assert len(found) == 2
    assert len(set(found)) == 1
    assert vars(shared) == {"_turns": {}}


async def test_an_error_of_ours_is_not_shared() -> None:
    shared: Shared[str, int] = Shared()

    async def broken() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await shared.run("a", broken)
    assert vars(shared) == {"_turns": {}}
