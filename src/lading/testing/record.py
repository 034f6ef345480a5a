"""What was asked of the registry, in order of arrival. Records are values; only exchanges change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lading.testing.routes import Kind


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as the registry saw it, at the moment the record was read.

    `path` and `query` are as sent, percent-encoding included. `headers` look up without regard to case.
    `status` is None until the head of the answer goes out. `bytes_sent` counts the answer's body on the wire:
    what a broken or unfinished answer has sent so far, with the framing if the body is chunked.
    """

    method: str
    path: str
    query: str
    kind: Kind
    headers: Mapping[str, str] = field(hash=False)
    status: int | None = None
    bytes_sent: int = 0


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


class Recorder:
    """Keeps the exchanges in the order in which the requests arrived; the last `limit` of them, if there is one."""

    def __init__(self, limit: int | None = None) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=limit)

    def arrived(self, request: RecordedRequest) -> Exchange:
        """Enter a request that has just arrived."""
        exchange = Exchange(request)
        self._exchanges.append(exchange)
        return exchange

    def requests(self) -> list[RecordedRequest]:
        """Return all requests as they stand now, in a list of the caller's own."""
        return [exchange.snapshot() for exchange in self._exchanges]

    def clear(self) -> None:
        """Forget the requests so far; an answer still under way is no longer followed."""
        self._exchanges.clear()
