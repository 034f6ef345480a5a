"""OpenTelemetry: spans and metrics of what a client does, by its events. Wants the extra ``otel``.

::

    client = lading.Client(events=lading.telemetry.OpenTelemetry())

Each pull of an agent is a span, and so is each request below it, named and described as the semantic conventions for
HTTP say (v1.23, stable). The steps of its connection are events of a request's span. The metrics:
``http.client.request.duration`` in seconds, ``lading.pull.duration`` in seconds, ``lading.retries``,
``lading.fallbacks``, ``lading.cache.lookups``, ``lading.blob.received`` in bytes. URLs have lost their user information
and query, as everywhere.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lading import __version__
from lading.events import (
    BlobProgress,
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

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds: the bounds of the buckets that the semantic conventions advise."""

_MOST_BLOBS = 1024
"""Blobs under way whose progress is remembered, and requests whose connection is."""


class OpenTelemetry:
    """Listens to a client, and tells OpenTelemetry; by default its global providers.

    Raises:
        ImportError: opentelemetry-api isn't installed.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        from opentelemetry import metrics, trace

        self._trace = trace
        self._tracer = trace.get_tracer("lading", __version__, tracer_provider)
        meter = metrics.get_meter("lading", __version__, meter_provider)
        self._requests = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._pulls = meter.create_histogram(
            "lading.pull.duration", "s", "Duration of pulls.", explicit_bucket_boundaries_advisory=_DURATIONS
        )
        self._retries = meter.create_counter("lading.retries", "{request}", "Requests that are sent again.")
        self._fallbacks = meter.create_counter(
            "lading.fallbacks", "{fallback}", "Proxies and mirrors that are left alone."
        )
        self._lookups = meter.create_counter("lading.cache.lookups", "{lookup}", "What was looked up in the store.")
        self._bytes = meter.create_counter("lading.blob.received", "By", "Content of blobs that arrived.")
        self._received: dict[tuple[str, str], int] = {}
        # By the number of the request that they are for.
        self._steps: dict[int, list[tuple[int, ConnectionStep]]] = {}
        self._pull: ContextVar[tuple[Span, Token[Context]] | None] = ContextVar("lading.pull", default=None)

    def __call__(self, event: Event, /) -> None:
        match event:
            case Pulling():
                self._begin(event)
            case Pulled() | PullFailed():
                self._end(event)
            case RequestSent():
                self._request(event)
            case Retrying():
                self._retries.add(1, {"http.request.method": event.method, "server.address": _host(event.url)})
            case ConnectionStep():
                if len(self._steps) >= _MOST_BLOBS:
                    self._steps.pop(next(iter(self._steps)))
                self._steps.setdefault(event.number, []).append((time.time_ns(), event))
            case FallingBack():
                self._fallbacks.add(1, {"lading.fallback": event.kind})
            case CacheChecked():
                self._lookups.add(1, {"lading.found": event.found, "lading.asks": event.asks})
            case BlobProgress():
                self._progress(event)
            case _:
                pass

    def _begin(self, event: Pulling) -> None:
        """Begin a span, and make it the current one of the task that pulls, and of those that it begins."""
        from opentelemetry import context

        span = self._tracer.start_span("lading.pull", attributes={"lading.reference": event.reference})
        self._pull.set((span, context.attach(self._trace.set_span_in_context(span))))

    def _end(self, event: Pulled | PullFailed) -> None:
        from opentelemetry import context

        attributes: dict[str, str | int] = {}
        begun = self._pull.get()
        self._pull.set(None)
        if isinstance(event, Pulled):
            attributes["lading.origin"] = event.origin
        else:
            attributes["error.type"] = event.error
        if begun is not None:
            span, token = begun
            span.set_attributes(attributes)
            if isinstance(event, Pulled):
                span.set_attribute("lading.digest", event.digest)
            else:
                span.set_status(self._trace.StatusCode.ERROR, event.reason)
            span.end()
            context.detach(token)
        self._pulls.record(event.seconds, attributes)

    def _request(self, event: RequestSent) -> None:
        parts = urlsplit(event.url)
        attributes: dict[str, str | int] = {
            "http.request.method": event.method,
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        if event.status:
            attributes["http.response.status_code"] = event.status
        if not 0 < event.status < 400:
            attributes["error.type"] = str(event.status) if event.status else "no answer"
        self._requests.record(event.seconds, {**attributes, "url.scheme": parts.scheme})
        end = time.time_ns()
        span = self._tracer.start_span(
            event.method,
            kind=self._trace.SpanKind.CLIENT,
            attributes={**attributes, "url.full": event.url},
            start_time=end - int(event.seconds * 1e9),
        )
        for at, step in self._steps.pop(event.number, ()):
            told: dict[str, str | float] = {"lading.endpoint": step.endpoint, "lading.seconds": step.seconds}
            span.add_event(step.stage, {**told, "error.type": step.error} if step.error else told, at)
        if "error.type" in attributes:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end)

    def _progress(self, event: BlobProgress) -> None:
        key = event.reference, event.digest
        known = self._received.pop(key, None)
        # The first that is told of a blob is what was here before; what begins anew has less than before.
        if known is not None and event.received > known:
            self._bytes.add(event.received - known, {"lading.reference": event.reference})
        if event.received < event.size:
            if len(self._received) >= _MOST_BLOBS:
                self._received.pop(next(iter(self._received)))
            self._received[key] = event.received


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
