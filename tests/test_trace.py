"""The trace of a pull: what is kept of what a client tells, on one axis, and the picture of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from artifacts import publish

from lading import Client, Credential, Host, HostsConfig, MemoryStore, RegistryHosts, Retry, StaticCredentials
from lading.errors import LadingError, NotFound, Unauthorized
from lading.events import BodyReceived, ConnectionStep, Event, FallingBack, Pulled, RequestSent, Retrying
from lading.testing import PROFILES, EmbeddedRegistry
from lading.testing.faults import Status
from lading.trace import Span, Trace
from lading.trace.axis import duration, ticks

YAML = b"agents: {root: {}}\n"
SVG = "{http://www.w3.org/2000/svg}"


def timed(trace: Trace) -> list[Span]:
    """What took time: not what is only a mark on the axis."""
    return [span for span in trace.spans if span.end > span.begin]


def kinds(trace: Trace) -> list[str]:
    return [span.kind for span in timed(trace)]


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def ref(registry: EmbeddedRegistry) -> str:
    publish(registry, YAML)
    return f"{registry.host}/acme/triage:v1"


async def test_a_cold_pull_a_warm_one_and_a_pinned_one(ref: str, connect: Callable[..., Client]) -> None:
    traces = [Trace(), Trace(), Trace()]
    store = MemoryStore()
    agent = await connect(store, events=traces[0]).pull_agent(ref)
    await connect(store, events=traces[1]).pull_agent(ref)
    await connect(store, events=traces[2]).pull_agent(f"{agent.reference.name}@{agent.digest}")
    cold, warm, pinned = traces
    requests = [[(span.kind, span.what, span.status) for span in one.spans if span.url] for one in traces]
    digest = next(span.what for span in cold.spans if span.kind == "blob")
    assert re.fullmatch("sha256:[0-9a-f]{12}", digest)
    assert requests == [[("manifest", "v1", 200), ("blob", digest, 200)], [("manifest", "HEAD v1", 200)], []]
    assert [(one.requests, one.connections) for one in traces] == [(2, 1), (1, 1), (0, 0)]
    assert kinds(cold) == ["prepare", "connect", "manifest", "blob", "store"]
    assert cold.received > len(YAML)
    assert (cold.reference, cold.error, timed(pinned)) == (ref, "", [])
    assert warm.seconds > 0


async def test_every_span_is_on_the_axis_and_a_request_begins_where_its_connection_is_made(
    ref: str, connect: Callable[..., Client], trace: Trace
) -> None:
    await connect(events=trace).pull_agent(ref)
    spans = timed(trace)
    for span in trace.spans:
        assert 0 <= span.begin <= span.head <= span.end <= trace.seconds
    connected, manifest, blob = (next(one for one in spans if one.kind == kind) for kind in kinds(trace)[1:4])
    assert connected.end == manifest.begin
    assert manifest.end <= blob.begin
    assert spans[0].end <= connected.begin + 1e-9


async def test_a_token_and_a_storage_have_rows_and_no_secrets(trace: Trace) -> None:
    async with EmbeddedRegistry(tls=True, profile=PROFILES["docker-hub"], users={"ada": "hunter2"}) as registry:
        hosts = HostsConfig({registry.host: Host(registry.url, ca=registry.ca_pem)})
        publish(registry, YAML)
        known = StaticCredentials({registry.host: Credential("ada", "hunter2")})
        async with Client(MemoryStore(), events=trace, hosts=hosts, credentials=known) as client:
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
        secrets = [record.query for record in registry.requests if record.kind == "storage"]
    there = ["connect", "tls"]
    assert kinds(trace)[1:] == [*there, "manifest", *there, "token", "manifest", "blob", *there, "storage", "store"]
    assert [span.status for span in trace.spans if span.url] == [401, 200, 200, 307, 200]
    assert not any(span.is_failed for span in trace.spans)
    shown = repr(trace.as_json()) + trace.svg()
    assert secrets
    assert all(secrets)
    for secret in (*secrets, "hunter2"):
        assert str(secret) not in shown


async def test_a_failure_and_a_retry(ref: str, registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    trace = Trace()
    registry.faults.add(Status(503), on="GET manifest")
    client = connect(events=trace, retry=Retry(attempts=2, first_delay=0.001))
    await client.pull_agent(ref)
    assert kinds(trace) == ["prepare", "connect", "manifest", "wait", "manifest", "blob", "store"]
    refused, wait = timed(trace)[2:4]
    assert (refused.status, refused.is_failed, wait.what) == (503, True, "answered 503")
    trace = Trace()
    with pytest.raises(NotFound):
        await connect(events=trace).pull_agent(f"{registry.host}/acme/none:v1")
    assert (kinds(trace)[-1], trace.spans[-1].is_failed, trace.error) == ("manifest", True, "NotFound")


async def test_to_be_asked_for_a_credential_is_a_failure_where_none_helps(trace: Trace) -> None:
    profile = PROFILES["distribution"]
    anonymous = Client(MemoryStore(), events=trace, credentials=StaticCredentials({}))
    private = EmbeddedRegistry(profile=profile, users={"ada": "hunter2"}, private=["acme/triage"])
    async with private as registry, anonymous as client:
        with pytest.raises(Unauthorized):
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
    *others, last = [span for span in trace.spans if span.url]
    assert (last.status, last.is_failed, last.error) == (401, True, "Unauthorized")
    assert not any(span.is_failed for span in others)


async def test_a_whole_artifact(ref: str, connect: Callable[..., Client], trace: Trace) -> None:
    client = connect(events=trace)
    await client.pull(ref)
    trace.finish()
    assert [span.what for span in trace.spans if span.kind == "store"] == ["has nothing", "verify and commit"]
    assert kinds(trace).count("blob") == 2
    again = Trace()
    await connect(events=again).pull(ref)
    assert [span.what for span in again.spans if span.kind == "store"] == ["has an intact copy"]
    assert again.reference == ref


async def test_a_mirror_that_is_down_is_told_of(ref: str, registry: EmbeddedRegistry) -> None:
    events: list[Event] = []
    hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), mirrors=(Host("http://127.0.0.1:1"),))})
    anonymous = StaticCredentials({})
    async with Client(MemoryStore(), events=events.append, hosts=hosts, credentials=anonymous) as client:
        await client.pull_agent(ref)
    (fallen,) = [event for event in events if isinstance(event, FallingBack)]
    assert (fallen.kind, fallen.endpoint) == ("mirror", "http://127.0.0.1:1/v2")
    assert "refused" in fallen.reason


def test_foreign_text_is_drawn_as_text(trace: Trace) -> None:
    hostile = "<script>\x1b[31m&\"'"
    trace(RequestSent("GET", f"http://a/v2/b/manifests/{hostile}", 200, 0.1, "", 1, "a"))
    trace(ConnectionStep(2, "connect", hostile, 0.1, hostile))
    trace(Retrying("GET", "http://a/", hostile, 1, 0.5))
    trace(FallingBack("mirror", hostile, "http://u:hunter2@b/?q=hunter2", 30.0))
    drawn = trace.svg()
    assert "\x1b" not in drawn
    assert "hunter2" not in drawn
    assert not list(ElementTree.fromstring(drawn).iter(f"{SVG}script"))


@pytest.mark.parametrize("seconds", [0.0, 0.00001, 0.5, 3.7, 86400.0])
def test_everything_stays_in_the_picture(seconds: float) -> None:
    trace = Trace()
    trace(RequestSent("GET", "http://a/v2/b/blobs/sha256:" + "0" * 64, 200, seconds, "", 1, "a"))
    trace(BodyReceived(1, "GET", "http://a/", 10**12, 2 * seconds, is_whole=False))
    trace(RequestSent("GET", "http://a/" + "long/" * 100, 0, seconds, "TimedOut", 2, "a"))
    trace(Retrying("GET", "http://a/", "no connection", 1, 2 * seconds))
    trace(Pulled("a/b:c", "sha256:" + "0" * 64, "registry", seconds))
    root = ElementTree.fromstring(trace.svg())
    background, *bars = root.iter(f"{SVG}rect")
    width, height = float(background.attrib["width"]), float(background.attrib["height"])
    assert len(bars) >= 4
    for bar in bars:
        assert 0 <= float(bar.attrib["x"]) <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width
        assert 0 <= float(bar.attrib["y"]) <= float(bar.attrib["y"]) + float(bar.attrib["height"]) <= height


def test_of_nothing_there_is_a_picture_too(trace: Trace) -> None:
    assert ElementTree.fromstring(trace.svg()) is not None
    assert (trace.spans, trace.seconds, trace.requests) == ((), 0.0, 0)


def test_only_so_much_is_kept(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lading.trace._MOST", 5)
    for number in range(1, 100):
        trace(RequestSent("GET", "http://a/", 200, 0.1, "", number, "a"))
    trace(BodyReceived(1, "GET", "http://a/", 10, 0.1, is_whole=True))
    trace(Pulled("a/b:c", "sha256:" + "0" * 64, "registry", 0.5))
    assert trace.requests == 5
    assert trace.received == 10


async def test_a_pull_that_is_cut_short_has_its_last_request_marked(trace: Trace) -> None:
    trace(RequestSent("GET", "http://a/v2/b/manifests/c", 0, 0.1, "", 1, "a"))
    trace.finish(LadingError("stopped"))
    (span,) = trace.spans
    assert (span.error, span.is_failed, trace.error) == ("CancelledError", True, "LadingError")


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        (0.0566, 3, ["0 ms", "20", "40"]),
        (0.1, 5, ["0 ms", "20", "40", "60", "80", "100"]),
        (12.0, 4, ["0 s", "5", "10"]),
        (0.00003, 3, ["0 ms", "0.01", "0.02", "0.03"]),
        (0.0, 3, ["0 ms"]),
    ],
)
def test_the_axis_has_round_figures(seconds: float, most: int, expected: list[str]) -> None:
    assert [text for _, text in ticks(seconds, most)] == expected
    assert all(0 <= at <= seconds * 1.000001 for at, _ in ticks(seconds, most))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.0 ms"),
        (0.01234, "12.3 ms"),
        (0.9994, "999.4 ms"),
        (0.9996, "1.00 s"),
        (75.5, "75.50 s"),
        (5e3, "5000 s"),
    ],
)
def test_a_duration_is_short(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
