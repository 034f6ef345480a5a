"""One run for all who wait: several tasks that want the same thing at the same time get it once.

There are no background tasks: whoever comes first does the work, the others wait for their turn and take the outcome
of the run that they waited for, whether it is a value or an error. If the one who works is cancelled, the next in line
does the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from lading.errors import LadingError

if TYPE_CHECKING:
    import anyio

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class _Turn(Generic[Value]):
    """Who works on one key now: ``users`` counts them, ``runs`` the finished runs, ``outcome`` is the last one's."""

    lock: anyio.Lock
    users: int = 0
    runs: int = 0
    outcome: Value | LadingError | None = None


class Shared(Generic[Key, Value]):
    """At most one run for each key at a time. Nothing is remembered once nobody waits for it any more."""

    def __init__(self) -> None:
        self._turns: dict[Key, _Turn[Value]] = {}

    async def run(self, key: Key, work: Callable[[], Awaitable[Value]]) -> Value:
        """Give the outcome of ``work``, or of the same work of somebody else that was under way.

        Raises:
            LadingError: the work failed; whoever waited for it gets an error of their own, with the same content.
        """
        import anyio

        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = _Turn(anyio.Lock())
        runs = turn.runs
        turn.users += 1
        try:
            async with turn.lock:
                if turn.runs == runs:
                    return await _run(turn, work)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]
        if isinstance(turn.outcome, LadingError):
            raise turn.outcome.again()
        return turn.outcome  # type: ignore[return-value]  # a run has ended, and not with an error


async def _run(turn: _Turn[Value], work: Callable[[], Awaitable[Value]]) -> Value:
    try:
        value = await work()
    except LadingError as error:
        turn.outcome = error
        turn.runs += 1
        raise
    turn.outcome = value
    turn.runs += 1
    return value
