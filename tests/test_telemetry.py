"""OpenTelemetry: what an exporter in memory is told of pulls and their requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from artifacts import publish
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from lading import Client, Retry
from lading.errors import NotFound, RegistryError
from lading.events import CacheChecked, FallingBack
from lading.telemetry import OpenTelemetry
from lading.testing import EmbeddedRegistry
from lading.testing.faults import Status

YAML = b"agents: {root: {}}\n"


class Observed:
    """Everything that was told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.listener = OpenTelemetry(self.tracers, self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def metrics(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def observed() -> Iterator[Observed]:
    observed = Observed()
    yield observed
    observed.tracers.shutdown()
    observed.meters.shutdown()


@pytest.fixture
def client(observed: Observed, connect: Callable[..., Client]) -> Client:
    return connect(events=observed.listener)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_pull_and_its_requests(registry: EmbeddedRegistry, client: Client, observed: Observed) -> None:
    digest = publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    with observed.tracers.get_tracer("service").start_as_current_span("the service's own"):
        await client.pull_agent(ref)
    manifest, blob, pull, outer = observed.spans
    assert [span.name for span in observed.spans] == ["GET", "GET", "lading.pull", "the service's own"]
    assert pull.parent is not None
    assert pull.parent.span_id == outer.context.span_id
    for span in (manifest, blob):
        assert span.parent is not None
        assert span.parent.span_id == pull.context.span_id
        assert span.kind is SpanKind.CLIENT
        assert pull.start_time <= span.start_time <= span.end_time <= pull.end_time  # type: ignore[operator]
    host, port = registry.host.split(":")
    assert attributes(manifest) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": host,
        "server.port": int(port),
        "url.full": f"http://{registry.host}/v2/acme/triage/manifests/v1",
    }
    assert attributes(pull) == {"lading.reference": ref, "lading.origin": "registry", "lading.digest": digest}
    metrics = observed.metrics()
    (requests,) = metrics["http.client.request.duration"]
    assert (requests.count, requests.attributes["http.response.status_code"]) == (2, 200)
    assert [(point.count, dict(point.attributes)) for point in metrics["lading.pull.duration"]] == [
        (1, {"lading.origin": "registry"})
    ]


async def test_the_steps_of_a_connection_are_events_of_the_request_that_it_was_made_for(
    registry: EmbeddedRegistry, client: Client, observed: Observed
) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    manifest, blob, _ = observed.spans
    (connected,) = manifest.events
    assert connected.name == "connect"
    assert dict(connected.attributes or {})["lading.endpoint"] == registry.host
    assert manifest.start_time <= connected.timestamp <= manifest.end_time  # type: ignore[operator]
    assert blob.events == (), "the connection was open"
    await registry.stop()
    with pytest.raises(Exception, match="refused"):
        await client.pull_agent(f"{registry.host}/acme/triage:v1", fallback="never")
    assert dict(observed.spans[-2].events[-1].attributes or {})["error.type"] == "ConnectionRefusedError"


async def test_fallbacks_and_lookups_are_counted(observed: Observed) -> None:
    observed.listener(FallingBack("mirror", "https://mirror.example", "answered 503", 30.0))
    observed.listener(CacheChecked("registry.example/acme/triage:v1", "intact", asks=True))
    (fallback,) = observed.metrics()["lading.fallbacks"]
    assert (fallback.value, dict(fallback.attributes)) == (1, {"lading.fallback": "mirror"})
    (lookup,) = observed.metrics()["lading.cache.lookups"]
    assert (lookup.value, dict(lookup.attributes)) == (1, {"lading.found": "intact", "lading.asks": True})


async def test_a_failure(registry: EmbeddedRegistry, client: Client, observed: Observed) -> None:
    with pytest.raises(NotFound):
        await client.pull_agent(f"{registry.host}/acme/none:v1")
    request, pull = observed.spans
    assert attributes(request)["error.type"] == "404"
    assert request.status.status_code is StatusCode.ERROR
    assert attributes(pull)["error.type"] == "NotFound"
    assert pull.status.status_code is StatusCode.ERROR
    assert "404" in (pull.status.description or "")


async def test_no_answer_at_all(client: Client, observed: Observed, registry: EmbeddedRegistry) -> None:
    host = registry.host
    await registry.stop()
    with pytest.raises(Exception, match="refused"):
        await client.pull_agent(f"{host}/acme/triage:v1")
    assert attributes(observed.spans[0])["error.type"] == "no answer"
    assert "http.response.status_code" not in attributes(observed.spans[0])


async def test_retries_are_counted(
    registry: EmbeddedRegistry, connect: Callable[..., Client], observed: Observed
) -> None:
    client = connect(events=observed.listener, retry=Retry(attempts=3, first_delay=0.001))
    registry.faults.add(Status(503), times=None)
    with pytest.raises(RegistryError):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
    (retries,) = observed.metrics()["lading.retries"]
    assert retries.value == 2


async def test_many_at_once_keep_apart(registry: EmbeddedRegistry, client: Client, observed: Observed) -> None:
    for number in range(10):
        publish(registry, YAML + b"# %d\n" % number, repository=f"acme/a{number}")
    async for _ in client.prefetch([f"{registry.host}/acme/a{number}:v1" for number in range(10)]):
        pass
    pulls = {
        span.context.span_id: attributes(span)["lading.reference"] for span in observed.spans if span.parent is None
    }
    assert len(pulls) == 10
    for span in observed.spans:
        if span.parent is not None:
            repository = attributes(span)["url.full"].split("/v2/")[1].split("/")[1]
            assert f"/{repository}:" in pulls[span.parent.span_id]


async def test_blobs_are_counted_in_bytes(registry: EmbeddedRegistry, client: Client, observed: Observed) -> None:
    from artifacts import MANIFEST, describe, manifest

    layer = b"x" * 3_000_000
    registry.add_blob("acme/image", layer)
    registry.add_blob("acme/image", b"{}")
    registry.add_manifest("acme/image", manifest(layer), MANIFEST, tag="v1")
    assert describe("", layer)["size"] == 3_000_000
    await client.pull(f"{registry.host}/acme/image:v1")
    (received,) = observed.metrics()["lading.blob.received"]
    assert received.value == 3_000_000


async def test_a_cancelled_pull_ends_its_span(registry: EmbeddedRegistry, client: Client, observed: Observed) -> None:
    publish(registry, YAML)
    came = asyncio.Event()

    async def hold(request: object, record: object) -> None:
        came.set()
        await asyncio.Event().wait()

    registry.intercept = hold
    pull = asyncio.get_running_loop().create_task(client.pull_agent(f"{registry.host}/acme/triage:v1"))
    await came.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert (
        attributes(next(span for span in observed.spans if span.name == "lading.pull"))["error.type"]
        == "CancelledError"
    )


async def test_no_secret_is_told(registry: EmbeddedRegistry, client: Client, observed: Observed) -> None:
    with pytest.raises(NotFound):
        await client.pull_agent(f"{registry.host}/acme/none:v1")
    assert "?" not in repr([attributes(span) for span in observed.spans])
