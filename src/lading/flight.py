"""Single flight, and the only owner of background tasks.

A host task owns the client's task group, so that flights outlive whoever asked first, and end when the client is
closed. (A task group entered by the client's own ``__aenter__`` would belong to the task that happened to run it,
which in a test fixture isn't the one that leaves it.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from lading.errors import LadingError

T = TypeVar("T")

_log = logging.getLogger("lading.flight")


class _Flight:
    """One operation under way, and who waits for it."""

    __slots__ = ("done", "error", "is_shared", "result", "scope", "waiters")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.scope = anyio.CancelScope()
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
        self._group: TaskGroup | None = None
        self._started = anyio.Event()
        self._closing = False
        self._host = self._loop.create_task(self._run(), name="lading flights")
        self._host.add_done_callback(self._end)

    async def join(self, key: Hashable, operation: Callable[[], Awaitable[T]]) -> T:
        """Give the result of ``operation``, or of the one that is already under way for ``key``.

        Cancelling a waiter, the first included, cancels the operation only if nobody else waits for it. What the
        operation raises, each waiter gets.

        Raises:
            LadingError: the client was closed meanwhile.
        """
        group = await self._open()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            group.start_soon(self._fly, key, flight, operation)
        flight.waiters += 1
        flight.is_shared = flight.is_shared or flight.waiters > 1
        try:
            await flight.done.wait()
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.done.is_set():
                # Whoever comes next starts anew instead of joining what is being cancelled.
                self._forget(key, flight)
                flight.scope.cancel()
        if flight.error is not None:
            if flight.is_shared and isinstance(flight.error, LadingError):
                raise flight.error.again()
            raise flight.error
        return cast(T, flight.result)

    async def begin(self, operation: Callable[[], Awaitable[object]]) -> anyio.CancelScope:
        """Run ``operation`` in the background: until it ends, its scope is cancelled, or the client is closed.

        What it raises is logged, and nobody else's concern.

        Raises:
            LadingError: the client is closed.
        """
        group = await self._open()
        scope = anyio.CancelScope()
        group.start_soon(self._run_alone, scope, operation)
        return scope

    async def _run_alone(self, scope: anyio.CancelScope, operation: Callable[[], Awaitable[object]]) -> None:
        try:
            with scope:
                await operation()
        except Exception:
            _log.exception("a background task failed")

    async def _open(self) -> TaskGroup:
        self.check_loop()
        if not self._started.is_set():
            await self._started.wait()
        if self._closing or self._group is None:
            raise LadingError("the client is closed", hint="use it inside its `async with`")
        return self._group

    def outdate(self, key: Hashable) -> None:
        """Let whoever comes next start anew, instead of joining an operation whose result is known to be outdated."""
        self._flights.pop(key, None)

    def check_loop(self) -> None:
        """Raise LadingError when called on another event loop than the one that this belongs to."""
        if asyncio.get_running_loop() is not self._loop:
            raise LadingError(
                "this client belongs to another event loop",
                hint="construct a client on each loop that needs one",
            )

    async def aclose(self) -> None:
        """Cancel what is under way, tell its waiters, and return when every task has ended. May be called again.

        Raises:
            LadingError: called on another event loop, while this one's tasks haven't ended.
        """
        if not self._host.done():
            self.check_loop()
            self._closing = True
            with anyio.CancelScope(shield=True):
                await self._started.wait()
                if self._group is not None:
                    self._group.cancel_scope.cancel()
                await asyncio.wait([self._host])
        if not self._host.cancelled() and (error := self._host.exception()) is not None:
            raise error

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as self._group:
                self._started.set()
                await anyio.sleep_forever()
        finally:
            if self._at_end is not None:
                await self._at_end()

    def _end(self, _host: asyncio.Task[None]) -> None:
        # A callback, because a task that is cancelled before it has begun runs no `finally`.
        self._closing = True
        self._started.set()

    async def _fly(self, key: Hashable, flight: _Flight, operation: Callable[[], Awaitable[T]]) -> None:
        try:
            with flight.scope:
                flight.result = await operation()
                return
        except Exception as error:
            # It is the waiters' error: here it would end every other flight.
            flight.error = error
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling():
                # Nobody cancelled this: the operation waited for something that was, and ends alone.
                flight.error = LadingError("the operation was cancelled from inside", hint="try again")
                return
            flight.error = LadingError("the client was closed while this was under way")
            raise
        finally:
            self._forget(key, flight)
            flight.done.set()

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
