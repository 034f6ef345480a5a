"""Single flight, and the only owner of background tasks.

Operations run in tasks of their own, so that they outlive whoever asked first, and a host task ends them all when the
client is closed, or its event loop. (A task group entered by the client's own ``__aenter__`` would belong to the task
that happened to run it, which in a test fixture isn't the one that leaves it. One that the host owned would do the
same as this, for several times the time that an operation on the local store takes.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, TypeVar, cast

import anyio

from lading.errors import LadingError

T = TypeVar("T")

_log = logging.getLogger("lading.flight")


class _Flight:
    """One operation under way, and who waits for it."""

    __slots__ = ("done", "error", "is_shared", "result", "task", "waiters")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.waiters = 0
        self.is_shared = False
        self.result: Any = None
        self.error: BaseException | None = None


class Flights:
    """Runs operations, one at a time for each key. Belongs to the event loop that it was constructed on.

    ``at_end`` is awaited when the last flight has ended: by ``aclose``, or because the loop itself is being shut down,
    which is the end of a client that nobody closes.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        self._at_end = at_end
        self._loop = asyncio.get_running_loop()
        self._flights: dict[Hashable, _Flight] = {}
        # In the order in which they began: what waits for others is told of the end before those are.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closing = False
        self._begun = asyncio.Event()
        self._close = asyncio.Event()
        self._host = self._loop.create_task(self._run(), name="lading flights")
        self._host.add_done_callback(self._end)

    async def join(self, key: Hashable, operation: Callable[[], Awaitable[T]]) -> T:
        """Give the result of ``operation``, or of the one that is already under way for ``key``.

        Cancelling a waiter, the first included, cancels the operation only if nobody else waits for it. What the
        operation raises, each waiter gets.

        Raises:
            LadingError: the client was closed meanwhile.
        """
        await self._open()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = self._start(self._fly(key, flight, operation))
            flight.task.add_done_callback(partial(_land, flight))
        flight.waiters += 1
        flight.is_shared = flight.is_shared or flight.waiters > 1
        try:
            await flight.done.wait()
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.done.is_set():
                # Whoever comes next starts anew instead of joining what is being cancelled.
                self._forget(key, flight)
                assert flight.task is not None
                flight.task.cancel()
        if flight.error is not None:
            if flight.is_shared and isinstance(flight.error, LadingError):
                raise flight.error.again()
            raise flight.error
        return cast(T, flight.result)

    async def begin(self, operation: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Run ``operation`` in the background: until it ends, the task is cancelled, or the client is closed.

        What it raises is logged, and nobody else's concern. It has begun when this returns.

        Raises:
            LadingError: the client is closed.
        """
        await self._open()
        begun = asyncio.Event()
        task = self._start(_run_alone(begun, operation))
        task.add_done_callback(lambda _: begun.set())
        try:
            await begun.wait()
        except BaseException:
            task.cancel()
            raise
        if task.cancelled():
            raise _closed()
        return task

    def outdate(self, key: Hashable) -> None:
        """Let whoever comes next start anew, instead of joining an operation whose result is known to be outdated."""
        self._flights.pop(key, None)

    def check_loop(self) -> None:
        """Raise LadingError when called on another event loop than the one that this belongs to."""
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False  # none runs in a child that was forked from within one, and its parent's isn't its own
        if not is_here:
            raise LadingError(
                "this client belongs to another event loop",
                hint="construct a client on each loop, and in each process, that needs one",
            )

    def check_end(self) -> None:
        """Raise LadingError where ``aclose`` would."""
        if not self._host.done():
            self.check_loop()

    async def aclose(self) -> None:
        """Cancel what is under way, tell its waiters, and return when every task has ended. May be called again.

        Being cancelled meanwhile doesn't stop that.

        Raises:
            LadingError: called on another event loop, while this one's tasks haven't ended.
        """
        self.check_end()
        if not self._host.done():
            self._closing = True
            self._close.set()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._host])
        if not self._host.cancelled() and (error := self._host.exception()) is not None:
            raise error

    async def _open(self) -> None:
        self.check_loop()
        if not self._begun.is_set():
            await self._begun.wait()
        if self._closing:
            raise LadingError("the client is closed", hint="use it inside its `async with`")

    def _start(self, operation: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(operation)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def _run(self) -> None:
        try:
            self._begun.set()
            await self._close.wait()
        finally:
            self._closing = True
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)
            if self._at_end is not None:
                await self._at_end()

    def _end(self, _host: asyncio.Task[None]) -> None:
        # A callback, because a task that is cancelled before it has begun runs no `finally`.
        self._closing = True
        if not self._begun.is_set() and self._at_end is not None:
            self._start(_run_alone(self._begun, self._at_end))
        self._begun.set()

    async def _fly(self, key: Hashable, flight: _Flight, operation: Callable[[], Awaitable[T]]) -> None:
        try:
            flight.result = await operation()
        except Exception as error:
            flight.error = error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                flight.error = _closed()
                raise
            # Nobody cancelled this: the operation waited for something that was, and ends alone.
            flight.error = LadingError("the operation was cancelled from inside", hint="try again")
        except BaseException:
            flight.error = _closed()
            raise
        finally:
            self._forget(key, flight)
            flight.done.set()

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _land(flight: _Flight, _task: asyncio.Task[None]) -> None:
    # A callback, for the same reason.
    if not flight.done.is_set():
        flight.error = _closed()
        flight.done.set()


async def _run_alone(begun: asyncio.Event, operation: Callable[[], Awaitable[object]]) -> None:
    begun.set()
    try:
        await operation()
    except Exception:
        _log.exception("a background task failed")


def _closed() -> LadingError:
    return LadingError("the client was closed while this was under way")
