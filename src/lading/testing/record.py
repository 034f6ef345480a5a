"""What was asked of the registry, in order of arrival. Records are values; only exchanges change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lading.testing.routes import Kind


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as the registry saw it, at the moment the record was read.

    `path` and `query` are as sent, percent-encoding included. `headers` look up without regard to case.
    `status` is None until the head of the answer goes out. `bytes_sent` counts the answer's body on the wire:
    what a broken or unfinished answer has sent so far, with the framing if the body is chunked. `connection` is
    the number of the connection that it came on, counted from 1 in the order in which they were opened. `origin` is
    where it was sent: the registry itself, or its token service or storage (`http://127.0.0.1:5000`).
    """

    method: str
    path: str
    query: str
    kind: Kind
    headers: Mapping[str, str] = field(hash=False, repr=False)  # a failing test's output is no place for credentials
    status: int | None = None
    bytes_sent: int = 0
    connection: int = 0
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.kind}"


@dataclass(frozen=True, slots=True)
class Log:
    """What happened in a time: the requests in order of arrival, and how many connections were opened."""

    requests: tuple[RecordedRequest, ...]
    connections: int


def _nothing_sent() -> int:
    return 0


class Exchange:
    """A request in the recorder's keeping, while its answer is under way."""

    __slots__ = ("_count", "_request", "_status")

    def __init__(self, request: RecordedRequest) -> None:
        self._request = request
        self._status: int | None = None
        self._count: Callable[[], int] = _nothing_sent

    def answer(self, status: int, count: Callable[[], int]) -> None:
        """Note the status that goes out, and how to ask for the body bytes sent so far."""
        self._status = status
        self._count = count

    def finish(self) -> None:
        """Settle the count, and let go of the connection that `count` may hold."""
        sent = self._count()
        self._count = lambda: sent

    def snapshot(self) -> RecordedRequest:
        """Return the request as it stands now."""
        return replace(self._request, status=self._status, bytes_sent=self._count())


class Ledger:
    """Exchanges in the order in which their requests arrived, and a count of connections; the last `limit` ones."""

    def __init__(self, limit: int | None = None) -> None:
        self.exchanges: deque[Exchange] = deque(maxlen=limit)
        self.connections = 0

    def log(self) -> Log:
        """Return what happened as it stands now."""
        return Log(tuple(exchange.snapshot() for exchange in self.exchanges), self.connections)


class Recorder:
    """Keeps a ledger of everything, and one for each part that someone wants to look at alone."""

    def __init__(self, limit: int | None = None) -> None:
        self._everything = Ledger(limit)
        self._parts: list[Ledger] = []

    def connected(self) -> None:
        """Count a connection that has just been opened."""
        for ledger in (self._everything, *self._parts):
            ledger.connections += 1

    def arrived(self, request: RecordedRequest) -> Exchange:
        """Enter a request that has just arrived."""
        exchange = Exchange(request)
        for ledger in (self._everything, *self._parts):
            ledger.exchanges.append(exchange)
        return exchange

    def log(self) -> Log:
        """Return everything as it stands now."""
        return self._everything.log()

    @contextmanager
    def part(self) -> Iterator[Ledger]:
        """Keep a ledger of what happens in the block; it stays readable afterwards."""
        ledger = Ledger()
        self._parts.append(ledger)
        try:
            yield ledger
        finally:
            # By identity: two parts that saw the same are still two.
            self._parts = [part for part in self._parts if part is not ledger]

    def clear(self) -> None:
        """Forget what happened so far, but for parts; an answer still under way is no longer followed."""
        self._everything.exchanges.clear()
        self._everything.connections = 0
