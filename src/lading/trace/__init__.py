"""What took how long: a listener that keeps what a client tells, as spans on one time axis, to be drawn.

::

    trace = lading.trace.Trace()
    async with lading.Client(events=trace) as client:
        await client.pull_agent("ghcr.io/acme/triage:v3")
    Path("pull.svg").write_text(trace.svg())

``lading pull --trace`` draws the same in the terminal. What is drawn was measured; URLs have lost their user
information and query, as everywhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

from lading.events import (
    BodyReceived,
    CacheChecked,
    ConnectionStep,
    Event,
    FallingBack,
    Pulled,
    PullFailed,
    Pulling,
    RequestSent,
    Retrying,
)
from lading.redact import redact
from lading.trace.axis import duration

__all__ = ["Kind", "Span", "Trace"]

Kind = Literal[
    "prepare",
    "store",
    "dns",
    "connect",
    "tunnel",
    "tls",
    "token",
    "manifest",
    "blob",
    "storage",
    "request",
    "wait",
    "fallback",
]
"""What a span was for.

``prepare`` is what comes before the first request: configuration, certificates. ``storage`` is where a registry
redirects to, ``wait`` is before a retry, ``request`` is any other one.
"""

_MOST = 10_000
"""Requests, pauses and so on that are kept: who listens for longer has other means."""

_AT_ONCE = 0.0001

# distribution-spec, "Endpoints"; whatever a mirror has before it.
_ENDPOINT = re.compile(r"/v2/.+/(manifests|blobs|referrers|tags)/([^/]+)")
_DIGEST = re.compile(r"([a-z0-9]+:[0-9a-f]{12})[0-9a-f]+")
_FOUND = {"intact": "an intact copy", "damaged": "a damaged copy", "absent": "nothing"}


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time; ``begin``, ``head`` and ``end`` are in seconds since the trace began.

    ``what`` is for people: an endpoint, a tag, a digest, a reason. From ``begin`` to ``head`` an answer was waited for,
    from there to ``end`` its body came, ``received`` bytes of it; both times are the same for what isn't a request.
    ``status`` is the answer's, 0 if there was none; ``error`` is the name of the error's class.
    """

    kind: Kind
    what: str
    begin: float
    head: float
    end: float
    url: str = ""
    status: int = 0
    received: int = 0
    error: str = ""

    @property
    def is_failed(self) -> bool:
        """Whether it came to nothing. To be asked for a credential, and to be sent on, is no failure."""
        return bool(self.error) or (self.status >= 400 and self.status != 401)


@dataclass(slots=True)
class _Exchange:
    """What is known of one request; times are the clock's."""

    steps: list[tuple[float, ConnectionStep]] = field(default_factory=list)
    sent: RequestSent | None = None
    head: float = 0.0
    end: float = 0.0
    received: int = 0
    is_whole: bool = True


class Trace:
    """Listens to one client, and keeps what it tells; begins with the first that is told.

    ``clock`` gives seconds; it is the one that events are timed with.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.reference = ""
        """What is pulled, or was last."""
        self.error = ""
        """The name of the error's class, if that failed."""
        self._began: float | None = None
        self._ended: float | None = None
        self._last = 0.0
        self._exchanges: dict[int, _Exchange] = {}
        self._others: list[tuple[float, float, Kind, str]] = []

    def __call__(self, event: Event, /) -> None:
        now = self._clock()
        match event:
            case Pulling():
                self._note(now, event.reference)
            case CacheChecked():
                self._note(now, event.reference)
                self._add(now, now, "store", f"has {_FOUND[event.found]}")
            case ConnectionStep():
                self._note(now - event.seconds)
                self._exchange(event.number).steps.append((now, event))
            case RequestSent():
                self._note(now - event.seconds)
                exchange = self._exchange(event.number)
                exchange.sent, exchange.head, exchange.end = event, now, now
            case BodyReceived():
                exchange = self._exchange(event.number)
                exchange.end = exchange.head + event.seconds
                exchange.received, exchange.is_whole = event.received, event.is_whole
            case Retrying():
                reason = event.reason.removeprefix(f"{event.method} {event.url}: ")
                self._add(now, now + event.delay, "wait", reason)
            case FallingBack():
                self._add(now, now, "fallback", f"{event.endpoint}: {event.reason}")
            case Pulled():
                self._ended, self.error = now, ""
            case PullFailed():
                self._ended, self.error = now, event.error
            case _:
                pass
        self._last = now

    def finish(self, error: BaseException | None = None) -> None:
        """Say that it is over, and what it failed with: for what isn't ``pull_agent``, which tells so itself."""
        if self._ended is None:
            self._ended = self._clock()
            self.error = "" if error is None else type(error).__name__

    @property
    def seconds(self) -> float:
        """How long it took, from the first that was told to the end, or the last that was told."""
        began = self._last if self._began is None else self._began
        return max(0.0, (self._last if self._ended is None else self._ended) - began)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(one.sent is not None for one in self._exchanges.values())

    @property
    def connections(self) -> int:
        """How many connections were opened, to proxies and others."""
        steps = (step for one in self._exchanges.values() for _, step in one.steps)
        return sum(step.stage == "connect" and not step.error for step in steps)

    @property
    def received(self) -> int:
        """How many bytes of bodies came."""
        return sum(one.received for one in self._exchanges.values())

    @property
    def spans(self) -> tuple[Span, ...]:
        """What was told, in order of beginning; a request comes right after the steps of its connection."""
        zero = self._began or 0.0
        groups = [spans for one in self._exchanges.values() if (spans := _spans(one, zero))]
        for begin, until, kind, what in self._others:
            # Of a pause, as much as there was of it.
            end = max(begin, min(until, self._last if self._ended is None else self._ended))
            groups.append([Span(kind, redact(what), begin - zero, end - zero, end - zero)])
        groups.sort(key=lambda spans: spans[0].begin)
        sent = [spans for spans in groups if spans[-1].url]
        if self.error and sent and sent[-1][-1].status == 401:
            # To be asked for a credential is no failure, but here there was none that helped.
            sent[-1][-1] = replace(sent[-1][-1], error=self.error)
        first = min((spans[0].begin for spans in sent), default=0.0)
        if first > 0:
            groups.insert(0, [Span("prepare", "the first request", 0.0, first, first)])
        # What is left, from the last byte to the end, is the store's.
        over = max((span.end for spans in groups for span in spans), default=0.0)
        if self._ended is not None and self.requests and not self.error and over < self.seconds:
            groups.append([Span("store", "verify and commit", over, self.seconds, self.seconds)])
        return tuple(span for spans in groups for span in spans)

    @property
    def summary(self) -> str:
        """The trace in figures, for people."""
        failed = f"; failed: {self.error}" if self.error else ""
        if not self.requests:
            had = "" if self.error else ": the store had it"
            return f"no request was sent{had}, {duration(self.seconds)}{failed}"
        requests, connections = self.requests, self.connections
        opened = f"{connections or 'no'} new connection{'' if connections == 1 else 's'}"
        return f"{requests} request{'' if requests == 1 else 's'}, {opened}, {duration(self.seconds)}{failed}"

    def as_json(self) -> dict[str, object]:
        """Give the trace for programs."""
        return {
            "reference": self.reference,
            "seconds": round(self.seconds, 6),
            "error": self.error or None,
            "spans": [
                {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(span).items()}
                for span in self.spans
            ],
        }

    def svg(self) -> str:
        """Draw the trace as a picture, which is whole by itself: well-formed XML, without scripts or fonts."""
        from lading.trace.svg import draw

        return draw(self)

    def _note(self, began: float, reference: str = "") -> None:
        if self._began is None:
            self._began = began
        self.reference = reference or self.reference

    def _exchange(self, number: int) -> _Exchange:
        found = self._exchanges.get(number)
        if found is None:
            found = _Exchange()
            if not self._is_full:
                self._exchanges[number] = found
        return found

    def _add(self, begin: float, end: float, kind: Kind, what: str) -> None:
        self._note(begin)
        if not self._is_full:
            self._others.append((begin, end, kind, what))

    @property
    def _is_full(self) -> bool:
        return len(self._exchanges) + len(self._others) >= _MOST


def _spans(exchange: _Exchange, zero: float) -> list[Span]:
    """Give the steps of a connection, and then the request: it began when there was one."""
    spans = []
    begin = 0.0
    for end, step in exchange.steps:
        if step.stage == "dns" and step.seconds < _AT_ONCE and not step.error:
            continue  # the name was known
        at = end - step.seconds - zero
        spans.append(Span(step.stage, redact(step.endpoint), at, end - zero, end - zero, error=step.error))
        begin = end - zero
    sent = exchange.sent
    if sent is not None:
        if not spans:
            begin = exchange.head - sent.seconds - zero
        error = sent.error or ("" if exchange.is_whole else "BodyInterrupted")
        error = error or ("" if sent.status else "CancelledError")
        kind, what = _kind(sent)
        times = begin, exchange.head - zero, exchange.end - zero
        spans.append(Span(kind, redact(what), *times, sent.url, sent.status, exchange.received, error))
    return spans


def _kind(sent: RequestSent) -> tuple[Kind, str]:
    """Tell what a request was for, and what to call it."""
    parts = urlsplit(sent.url)
    method = "" if sent.method == "GET" else f"{sent.method} "
    endpoint = _ENDPOINT.search(parts.path)
    if not sent.registry:
        return "token", f"{method}{parts.netloc}"
    if endpoint is None:
        # Registries have everything below that.
        return ("request", f"{method}{parts.path}") if "/v2/" in parts.path else ("storage", f"{method}{parts.netloc}")
    what = method + _DIGEST.sub(r"\1", endpoint[2])
    kinds: dict[str, Kind] = {"manifests": "manifest", "blobs": "blob"}
    return kinds.get(endpoint[1], "request"), what
