"""Interrupts an operation at each moment at which anything that it does waits: its own task, and every task it makes.

A moment is a step of a task that ends in waiting. Tasks belong to the operation if it made them, or what it made did:
the context that they inherit tells. A registry in the same event loop has a context of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any

import anyio

_MOMENTS: ContextVar[Moments | None] = ContextVar("moments", default=None)


class Moments:
    """Counts moments, and calls ``act`` at the one whose number is ``at``; ``again`` at the next one as well."""

    def __init__(self, at: int, act: Callable[[], object], *, again: bool = False) -> None:
        self.count = 0
        self.reached = False
        self._at = at
        self._act = act
        self._again = again
        self._is_over = False

    def waits(self) -> None:
        if self._is_over:
            return
        if self.count == self._at or (self._again and self.count == self._at + 1):
            self.reached = True
            self._act()
        self.count += 1

    def end(self) -> None:
        """The operation is done: what goes on behind it isn't interrupted any more."""
        self._is_over = True


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each moment at which it waits."""

    def __init__(self, inner: Coroutine[Any, Any, Any], moments: Moments) -> None:
        self._inner = inner
        self._moments = moments

    def send(self, value: Any) -> Any:
        waited_for = self._inner.send(value)
        self._moments.waits()
        return waited_for

    def throw(self, *error: Any) -> Any:
        waited_for = self._inner.throw(*error)
        self._moments.waits()
        return waited_for

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        value, error = None, None
        while True:
            try:
                waited_for = self.throw(error) if error else self.send(value)
            except StopIteration as end:
                return end.value
            value, error = None, None
            try:
                value = yield waited_for
            except BaseException as raised:
                error = raised

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # ``cr_frame`` and the like: whoever looks sees what is counted


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **options: Any
) -> asyncio.Task[Any]:
    moments = context.get(_MOMENTS) if context is not None else _MOMENTS.get()
    if moments is not None:
        coro = _Counted(coro, moments)
    return asyncio.Task(coro, loop=loop, context=context, **options)


KINDS = ("task.cancel", "task.cancel twice", "CancelScope", "fail_after", "asyncio.timeout", "inner task", "aside")
"""How an operation is interrupted: see `interrupted`."""

DEADLINES = ("fail_after", "asyncio.timeout")
SCOPES = ("CancelScope", *DEADLINES)

_TURNS = 3
"""Scopes and deadlines cancel in a later turn of the event loop, and never what goes on by itself just then."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How an operation went: whether it came to the moment, how many there were in all, its result or its error."""

    reached: bool
    moments: int
    outcome: BaseException | object
    is_late: bool = False
    """Whether it was as good as done: it ended before a scope, or a deadline, had a chance to tell it."""


async def interrupted(
    operation: Callable[[], Awaitable[object]], at: int, kind: str, aside: Callable[[], Awaitable[object]] | None = None
) -> Ran:
    """Run ``operation`` in a task of its own, and interrupt it at moment ``at``.

    - ``task.cancel`` cancels that task; ``twice`` once more at the next moment, when it cleans up,
    - ``CancelScope`` cancels a scope around it, in ``fail_after`` and ``asyncio.timeout`` its deadline has come,
    - ``inner task`` cancels whichever task it is that waits just then, as an event loop that ends does,
    - ``aside`` runs something else beside it, from that moment on.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    beside: list[asyncio.Task[object]] = []

    async def run() -> object:
        _MOMENTS.set(moments)
        try:
            if kind == "CancelScope":
                with scope:
                    return await _Counted(_awaited(operation), moments)
                return asyncio.CancelledError()
            if kind == "fail_after":
                with anyio.fail_after(3600) as deadline:
                    scopes.append(deadline)
                    return await _Counted(_awaited(operation), moments)
            if kind == "asyncio.timeout":
                async with asyncio.timeout(3600) as timer:
                    timers.append(timer)
                    return await _Counted(_awaited(operation), moments)
            return await _Counted(_awaited(operation), moments)
        finally:
            moments.end()

    def act() -> None:
        if kind in ("task.cancel", "task.cancel twice"):
            task.cancel()
        elif kind == "CancelScope":
            scope.cancel()
        elif kind == "fail_after":
            scopes[0].deadline = -1e9
        elif kind == "asyncio.timeout":
            timers[0].reschedule(-1e9)
        elif kind == "inner task":
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
        elif aside is not None:
            beside.append(loop.create_task(_awaited(aside), context=Context()))

    scope = anyio.CancelScope()
    scopes: list[anyio.CancelScope] = []
    timers: list[asyncio.Timeout] = []
    moments = Moments(at, act, again=kind.endswith("twice"))
    loop.set_task_factory(_make_task)
    try:
        task = asyncio.Task(run(), loop=loop)
        await asyncio.wait([task])
        if beside:
            await asyncio.wait(beside)
    finally:
        loop.set_task_factory(before)
    for one in beside:
        one.result()
    outcome: BaseException | object = asyncio.CancelledError()
    if not task.cancelled():
        outcome = task.exception() or task.result()
    is_late = kind in SCOPES and moments.count - at <= _TURNS
    return Ran(moments.reached, moments.count, outcome, is_late)


async def _awaited(operation: Callable[[], Awaitable[object]]) -> object:
    return await operation()
