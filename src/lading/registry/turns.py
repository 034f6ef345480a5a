"""How many requests for content a client has under way at one registry, and what waits for one of them to end.

Some registries, and proxies before them, allow so many connections and refuse more: with 503, with 429, or altogether.
While others are under way, that says nothing about the request: it has its turn when one of them has ended.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio

from lading.errors import ConnectFailed, LadingError, RegistryError, TimedOut, TransportError
from lading.http.limits import StillPaused

T = TypeVar("T")

MOST = 32
"""Connections at most, where fewer would do."""

_ROUNDS = 8
"""How many turns a request is given: what is refused as often isn't refused for the sake of others."""

_REMEMBERED_SECONDS = 60.0
"""How long a refusal is remembered: who is busy now may not be later."""


class Turns:
    """The turns at one registry. ``most`` is how many connections there may be for the sake of speed alone.

    ``clock`` gives seconds, monotonic. For one client, on one event loop.
    """

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._under_way = 0
        self._line: deque[anyio.Event] = deque()
        self._limit = most
        self._refused = -math.inf

    @property
    def has_room(self) -> bool:
        """Whether one more connection may be tried for the sake of speed."""
        return not self._line and self._under_way < self._allowed

    @property
    def is_crowded(self) -> bool:
        """Whether a connection that was made for the sake of speed should make room for others."""
        return bool(self._line) or self._under_way > self._allowed

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Count what runs inside as a request that is under way."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._call()

    def refused(self, failure: LadingError) -> None:
        """Take note of a failure: if others are the reason, three quarters of them are enough for a while."""
        if _is_refusal(failure):
            self._limit, self._refused = self._under_way * 3 // 4, self._clock()

    async def large(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask for something large when it is its turn: as soon as nobody waits who was refused before.

        Raises:
            RegistryError, TransportError: it failed, and not for the sake of what else is under way.
        """
        if self._line:
            await self._wait()
        return await self._ask(ask)

    async def small(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask for something small now; if that is refused, before anything large has its turn. Raises the same."""
        return await self._ask(ask, is_small=True)

    @property
    def _allowed(self) -> int:
        return min(self._limit, self._most) if self._clock() < self._refused + _REMEMBERED_SECONDS else self._most

    async def _ask(self, ask: Callable[[], Awaitable[T]], *, is_small: bool = False) -> T:
        for left in reversed(range(_ROUNDS)):
            self._under_way += 1
            is_refused = False
            try:
                return await ask()
            except (RegistryError, TransportError) as failure:
                is_refused = _is_refusal(failure)
                if not (is_refused and left and self._under_way > 1):
                    raise
                self.refused(failure)
            finally:
                self._under_way -= 1
                self._call(is_refused=is_refused)
            # Nothing was awaited since: somebody is under way, and calls whoever stands in the line when that ends.
            await self._wait(is_first=is_small)
        raise AssertionError("unreachable")

    async def _wait(self, *, is_first: bool = False) -> None:
        turn = anyio.Event()
        self._line.insert(0 if is_first else len(self._line), turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._call()
            else:
                self._line.remove(turn)
            raise

    def _call(self, *, is_refused: bool = False) -> None:
        """Give a turn to whoever is next, when somebody has left; and to one more, as long as nobody is refused.

        Who was refused made no room. If nobody else is under way, nobody has anything to wait for.
        """
        count = 1 if self._clock() < self._refused + _REMEMBERED_SECONDS / 2 else 2
        if is_refused:
            count = 0 if self._under_way else len(self._line)
        for _ in range(min(count, len(self._line))):
            self._line.popleft().set()


def _is_refusal(failure: LadingError) -> bool:
    """Tell whether what else is under way may be the reason of a failure."""
    if isinstance(failure, RegistryError):
        return failure.status in (429, 503) and not isinstance(failure, StillPaused)
    return isinstance(failure, ConnectFailed) or (isinstance(failure, TimedOut) and not failure.was_sent)
