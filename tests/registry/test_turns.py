"""Turns: what is refused for the sake of what else is under way waits for that to end, and nothing else waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from lading.errors import ConnectFailed, LadingError, NotFound, RateLimited, RegistryError, TimedOut
from lading.http.limits import StillPaused
from lading.registry.turns import MOST, Turns

Ask = Callable[[], Awaitable[str]]


def busy() -> RegistryError:
    return RegistryError("GET answered 503", status=503)


async def settled() -> None:
    """Let every task come as far as it can: nothing here takes more than a few turns of the event loop."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


class Server:
    """Takes so many at once, refuses the others, and lets one go when told to."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self.inside: list[str] = []
        self.served: list[str] = []
        self._leave: dict[str, anyio.Event] = {}

    def ask(self, name: str) -> Ask:
        async def asking() -> str:
            await anyio.lowlevel.checkpoint()
            if len(self.inside) >= self.limit:
                self.refused += 1
                raise busy()
            self.inside.append(name)
            self._leave[name] = anyio.Event()
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)
            self.served.append(name)
            return name

        return asking

    async def let_go(self, name: str) -> None:
        self._leave[name].set()
        await settled()


async def begin(group: TaskGroup, turns: Turns, server: Server, *names: str) -> None:
    for name in names:
        group.start_soon((turns.small if name.startswith("small") else turns.large), server.ask(name))
        await settled()


async def test_who_is_refused_has_a_turn_when_another_ends() -> None:
    turns, server = Turns(), Server(2)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await begin(group, turns, server, "a", "b", "c", "d")
            assert (server.inside, server.refused) == (["a", "b"], 1), "the last one saw that another waits"
            await server.let_go("b")
            assert server.inside == ["a", "c"]
            await server.let_go("a")
            assert server.inside == ["c", "d"]
            for name in "cd":
                await server.let_go(name)
    assert (server.served, server.refused) == (["b", "a", "c", "d"], 1)


async def test_nobody_passes_who_waits() -> None:
    turns, server = Turns(), Server(1)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await begin(group, turns, server, "a", "b", "c", "d", "e")
            assert server.refused == 1, "who came later didn't even ask"
            for name in "abcde":
                assert server.inside == [name]
                await server.let_go(name)
    assert server.refused == 1


async def test_what_is_small_comes_before_what_is_large() -> None:
    turns, server = Turns(), Server(1)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await begin(group, turns, server, "a", "b", "c", "small")
            for name in ("a", "small", "b", "c"):
                assert server.inside == [name]
                await server.let_go(name)


async def test_many_get_through_a_narrow_door() -> None:
    turns, server = Turns(), Server(4)

    async def ask(name: str) -> None:
        assert await turns.large(server.ask(name)) == name

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(ask, str(number))
            await settled()
            while server.inside:
                assert len(server.inside) == 4 or len(server.served) >= 196
                await server.let_go(server.inside[0])
    assert len(server.served) == 200


@pytest.mark.parametrize("kind", ["large", "small"])
@pytest.mark.parametrize(
    ("failure", "waits"),
    [
        (busy(), True),
        (RateLimited("429"), True),
        (ConnectFailed("refused", was_sent=False), True),
        (TimedOut("no connection", was_sent=False), True),
        (TimedOut("no answer"), False),
        (StillPaused("paused for long"), False),
        (RegistryError("500", status=500), False),
        (NotFound("404", status=404), False),
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "status", "")) if value is not True else "",
)
async def test_which_failures_may_be_for_the_sake_of_others(kind: str, failure: LadingError, waits: bool) -> None:
    turns, server = Turns(), Server(1)
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise failure
        return "served"

    async def check() -> None:
        if waits:
            assert await getattr(turns, kind)(ask) == "served"
        else:
            with pytest.raises(type(failure)):
                await getattr(turns, kind)(ask)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await begin(group, turns, server, "another")
            group.start_soon(check)
            await settled()
            assert asked == 1
            await server.let_go("another")
    assert asked == (2 if waits else 1)


@pytest.mark.parametrize("kind", ["large", "small"])
async def test_who_is_alone_doesnt_wait(kind: str) -> None:
    turns = Turns()

    async def ask() -> str:
        raise busy()

    with anyio.fail_after(10), pytest.raises(RegistryError):
        await getattr(turns, kind)(ask)


async def test_what_is_refused_each_time_fails_in_the_end() -> None:
    """Others come and go for ever, as in a service: they aren't the reason."""
    turns, asked = Turns(), 0

    async def refuse() -> str:
        nonlocal asked
        asked += 1
        raise busy()

    async def others() -> None:
        while True:
            with turns.taken():
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(others)
            await anyio.lowlevel.checkpoint()
            with pytest.raises(RegistryError):
                await turns.large(refuse)
            group.cancel_scope.cancel()
    assert 2 <= asked <= 10


async def test_a_registry_that_is_down_fails_all_of_them() -> None:
    turns, failed = Turns(), 0

    async def ask() -> str:
        await anyio.lowlevel.checkpoint()
        raise ConnectFailed("refused", was_sent=False)

    async def asking() -> None:
        nonlocal failed
        with pytest.raises(ConnectFailed):
            await turns.large(ask)
        failed += 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(asking)
    assert failed == 50


@pytest.mark.parametrize("is_called", [False, True])
async def test_a_turn_that_is_cancelled_goes_to_the_next(is_called: bool) -> None:
    turns, server = Turns(), Server(1)

    async def cancelled(scope: anyio.CancelScope) -> None:
        with scope:
            await turns.large(server.ask("cancelled"))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            await begin(group, turns, server, "a")
            group.start_soon(cancelled, scope)
            await settled()
            await begin(group, turns, server, "b")
            if is_called:
                server._leave["a"].set()
                await anyio.lowlevel.checkpoint()
            scope.cancel()
            await settled()
            if not is_called:
                await server.let_go("a")
            assert server.inside == ["b"]
            await server.let_go("b")
    assert not turns._line
    assert turns._under_way == 0


# Those that make it faster.


async def test_there_is_room_for_so_many() -> None:
    turns, server = Turns(3), Server(9)
    async with anyio.create_task_group() as group:
        await begin(group, turns, server, "a", "b")
        assert turns.has_room
        with turns.taken():
            assert not turns.has_room
            assert not turns.is_crowded
            with turns.taken():
                assert turns.is_crowded
        for name in "ab":
            await server.let_go(name)
    assert Turns()._most == MOST


async def test_there_is_none_while_anybody_waits() -> None:
    turns, server = Turns(), Server(1)
    async with anyio.create_task_group() as group:
        await begin(group, turns, server, "a")
        assert turns.has_room
        await begin(group, turns, server, "b")
        assert not turns.has_room
        assert turns.is_crowded
        for name in "ab":
            await server.let_go(name)


def test_after_a_refusal_there_are_fewer_for_a_minute() -> None:
    now = 0.0
    turns = Turns(16, lambda: now)
    with turns.taken(), turns.taken(), turns.taken(), turns.taken():
        turns.refused(NotFound("404", status=404))
        assert turns.has_room
        turns.refused(busy())
        assert not turns.has_room
        assert turns.is_crowded
    with turns.taken(), turns.taken():
        assert turns.has_room
        with turns.taken():
            assert not turns.has_room
            assert not turns.is_crowded
            now = 61.0
            assert turns.has_room


async def test_when_nothing_was_refused_for_a_while_one_more_is_let_in() -> None:
    """What another process took may be free again: this one isn't told."""
    now = 0.0
    turns, server = Turns(16, lambda: now), Server(1)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await begin(group, turns, server, *"abcdef")
            await server.let_go("a")
            assert server.inside == ["b"]
            now, server.limit = 31.0, 9
            await server.let_go("b")
            assert server.inside == ["c", "d"]
            await server.let_go("c")
            assert server.inside == ["d", "e", "f"]
            for name in "def":
                await server.let_go(name)
