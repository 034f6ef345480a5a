"""Many agents at once: bounded in concurrency and memory, each asked for once, no failure stopping another.

The workers are a background task of the client (``flight``), not of who reads the outcomes: leaving the loop, a
deadline around it or cancellation end them, and so does dropping the :class:`Prefetch`.

While agents are committed, others are asked for; and a commit may wait a moment for others to share its transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from lading.agents.agent import Agent
from lading.agents.document import parse_document
from lading.agents.references import ExternalReference
from lading.errors import InvalidDocument, InvalidReference, LadingError
from lading.flight import Flights
from lading.oci.reference import Reference
from lading.pull.closure import Asked, Closure
from lading.pull.kept import Fetched
from lading.pull.lockfile import Lockfile

_LINGER_SECONDS = 0.01
"""How long an agent may wait to be committed with others."""

References = Iterable[str | Reference] | AsyncIterable[str | Reference]
"""What is to be pulled; read as it is needed, never far ahead."""


class Pull(Protocol):
    """Pulls one agent; calls ``fetched`` as soon as only the store is needed."""

    def __call__(self, reference: Reference, /, *, fetched: Fetched) -> Awaitable[Agent]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reference.

    Attributes:
        reference: fully qualified; as it was given, if it isn't a reference.
        agent: what it stands for; ``None`` if that couldn't be had.
        error: what went wrong; ``None`` if nothing did. With ``agent`` there too, it is the closure that isn't whole.
        depth: 0 if it was asked for, else how far below what was.
        needed_by: the first that names it, if it wasn't asked for.
        references: the agents elsewhere that it names, URLs included, which aren't fetched; empty unless ``recursive``.
    """

    reference: Reference | str
    agent: Agent | None = None
    error: LadingError | None = None
    depth: int = 0
    needed_by: Reference | None = None
    references: tuple[ExternalReference, ...] = ()


class Prefetch:
    """The outcomes of many pulls, in order of completion: an async iterator, and an async context manager.

    It begins with the first outcome that is asked for, and works on while an outcome is looked at. ``concurrency``
    pulls ask their registry at once, and no more than twice as many references are under way, or wait to be taken.
    """

    def __init__(
        self,
        references: References,
        pull: Pull,
        flights: Flights,
        concurrency: int = 32,
        recursive: bool = False,
        lock: Lockfile | None = None,
    ) -> None:
        if isinstance(references, str | Reference):
            raise TypeError("references are to be given as a list, also when it is only one")
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._flights = flights
        # The workers know this, but not the Prefetch itself: that can be dropped while they work.
        self._work = _Work(references, pull, concurrency, recursive, lock)
        weakref.finalize(self, self._work.drop).atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        """Give the next outcome.

        Raises:
            LadingError: the client is closed.
            Exception: what the iteration over the references raised, once all that came before is given.
        """
        work = self._work
        if not work.is_begun:
            work.is_begun = True
            work.task = await self._flights.begin(work.run)
        while not work.outcomes:
            if work.has_ended:
                failure, work.failure = work.failure, None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            await work.arrival()
        return work.take()

    async def aclose(self) -> None:
        """End the work, and return when nothing of it is left. What is committed stays. May be called again."""
        self._work.stop()
        with anyio.CancelScope(shield=True):
            while self._work.is_running:
                await self._work.arrival()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Work:
    """The workers of a prefetch, and what they have done."""

    def __init__(
        self,
        references: References,
        pull: Pull,
        concurrency: int,
        recursive: bool,
        lock: Lockfile | None,
    ) -> None:
        self._pull = pull
        self._concurrency = concurrency
        self._recursive = recursive
        self._lock = lock
        self._closure = Closure()
        self._source = _Source(references)
        self._level: Iterator[Asked] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = anyio.Semaphore(concurrency, fast_acquire=True)
        self._busy = 0  # workers that have a reference
        self._asking = 0  # those of them that need a registry
        self._taken = anyio.Event()
        self._arrived = anyio.Event()
        self.outcomes: deque[Outcome] = deque()
        self.task: asyncio.Task[None] | None = None
        self.is_begun = False
        self.is_running = False
        self.has_ended = False
        self.failure: BaseException | None = None

    def take(self) -> Outcome:
        outcome = self.outcomes.popleft()
        self._taken.set()
        return outcome

    async def arrival(self) -> None:
        """Wait until an outcome arrives, or the end."""
        if self._arrived.is_set():
            self._arrived = anyio.Event()
        await self._arrived.wait()

    def stop(self) -> None:
        """Begin no more, end what is under way, and give nothing more."""
        self.has_ended = True
        self.outcomes.clear()
        self._arrived.set()
        if self.task is not None:
            self.task.cancel()

    def drop(self) -> None:
        """Do the same from wherever an object is collected: in another thread, or when its loop is closed."""
        if self.is_running and self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.stop)

    async def run(self) -> None:
        self.is_running, self._loop = True, asyncio.get_running_loop()
        try:
            while True:
                async with anyio.create_task_group() as group:
                    for _ in range(2 * self._concurrency):
                        group.start_soon(self._pull_some)
                if group.cancel_scope.cancel_called:
                    # A worker waited for something that was cancelled: the group ends as if all were done.
                    raise LadingError("the prefetch was cancelled from inside", hint="try again")
                self.failure = self._source.failure
                level = self._closure.next_level()
                if not level or self.failure is not None:
                    return
                self._level = iter(level)
        except Exception as error:
            self.failure = _first(error)
        except BaseException:
            if not self.has_ended:
                self.failure = LadingError("the client was closed while this was under way")
            raise
        finally:
            self.is_running, self.has_ended = False, True
            self._arrived.set()

    async def _pull_some(self) -> None:
        while True:
            slot = _Slot(self._slots)
            await slot.take()
            try:
                while self._busy + len(self.outcomes) >= 2 * self._concurrency:
                    if self._taken.is_set():
                        self._taken = anyio.Event()
                    await self._taken.wait()
                self._busy += 1
                try:
                    asked = await self._next()
                    if asked is None:
                        return
                    if isinstance(asked, Outcome):
                        self._give(asked)
                    else:
                        await self._ask(asked, slot)
                finally:
                    self._busy -= 1
            finally:
                slot.leave()

    async def _next(self) -> Asked | Outcome | None:
        """Give what is to be asked for next, or what became of something that can't be asked for."""
        if self._level is not None:
            return next(self._level, None)
        async for given in self._source:
            try:
                reference = given if isinstance(given, Reference) else Reference.parse(given)
            except InvalidReference as error:
                return Outcome(given if isinstance(given, str) else repr(given), error=error)
            if self._closure.meet(reference):
                return Asked(reference)
        return None

    async def _ask(self, asked: Asked, slot: _Slot) -> None:
        is_fetched = False

        def fetched() -> float:
            nonlocal is_fetched
            self._asking -= not is_fetched
            is_fetched = True
            slot.leave()
            return _LINGER_SECONDS if self._asking else 0.0

        self._asking += 1
        try:
            reference = asked.reference if self._lock is None else self._lock.pin(asked.reference)
            agent = await self._pull(reference, fetched=fetched)
        except LadingError as error:
            self._give(Outcome(asked.reference, None, error, asked.depth, asked.needed_by))
            return
        finally:
            fetched()
        if not self._recursive:
            self._give(Outcome(asked.reference, agent))
            return
        try:
            document = await anyio.to_thread.run_sync(parse_document, agent.content)
        except InvalidDocument as error:
            why = InvalidDocument(f"{asked.reference}: {error.message}", hint=error.hint)
            self._give(Outcome(asked.reference, agent, why, asked.depth, asked.needed_by))
            return
        self._give(Outcome(asked.reference, agent, None, asked.depth, asked.needed_by, document.references))
        too_much = self._closure.follow(asked, len(agent.content), document.references)
        if too_much is not None:
            refused, why_not = too_much
            self._give(Outcome(refused.reference, None, why_not, refused.depth, refused.needed_by))

    def _give(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._arrived.set()


class _Slot:
    """The right of a worker to ask registries."""

    def __init__(self, slots: anyio.Semaphore) -> None:
        self._slots = slots
        self._is_taken = False

    async def take(self) -> None:
        await self._slots.acquire()
        self._is_taken = True

    def leave(self) -> None:
        """Let another one ask. May be called again."""
        if self._is_taken:
            self._is_taken = False
            self._slots.release()


class _Source:
    """The references, as many workers read them: one at a time. After a ``failure`` there are no more."""

    def __init__(self, references: References) -> None:
        self.failure: Exception | None = None
        self._async: AsyncIterator[str | Reference] | None = None
        self._sync: Iterator[str | Reference] = iter(())
        if isinstance(references, AsyncIterable):
            self._async = aiter(references)
        else:
            self._sync = iter(references)
        self._turn = anyio.Lock(fast_acquire=True)
        self._read = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | Reference:
        if self._async is None:
            self._read += 1
            if self._read % 8 == 0:
                await anyio.lowlevel.checkpoint()  # many that were met before are no reason to hold up everything else
        try:
            if self._async is None:
                return next(self._sync)
            async with self._turn:
                return await anext(self._async)
        except (StopIteration, StopAsyncIteration):
            pass
        except Exception as error:
            self.failure = self.failure or error
        raise StopAsyncIteration


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
