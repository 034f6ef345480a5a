"""Budgets: what was asked, sent, opened and shown, asserted exactly."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
from collections.abc import Callable

import aiohttp
import pytest

from lading.testing import EmbeddedRegistry, SeenCredential

REPOSITORY = "acme/triage"
IMAGE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def paths(registry: EmbeddedRegistry) -> dict[str, str]:
    """What can be asked of the registry, by kind."""
    digest = registry.add_blob(REPOSITORY, b"layer")
    registry.add_manifest(REPOSITORY, b"{}", IMAGE, "v1")
    return {"manifest": f"/v2/{REPOSITORY}/manifests/v1", "blob": f"/v2/{REPOSITORY}/blobs/{digest}"}


async def ask(http: aiohttp.ClientSession, *requests: tuple[str, str], **headers: str) -> None:
    for method, path in requests:
        async with http.request(method, path, headers=headers) as response:
            await response.read()


async def test_exactly_these_requests_in_this_order(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, paths: dict[str, str]
) -> None:
    registry.assert_requests()
    await ask(http, ("GET", paths["manifest"]), ("GET", paths["blob"]))
    registry.assert_requests("GET manifest", "GET blob")
    registry.assert_requests("GET blob", "GET manifest", in_any_order=True)


@pytest.mark.parametrize(
    ("expected", "in_any_order", "table"),
    [
        (
            ["GET manifest", "GET blob"],
            False,
            "expected 2 requests, got 3\n"
            "  expected      got\n"
            "≠ —             HEAD manifest  200  {manifest}\n"
            "  GET manifest  GET manifest  200  {manifest}\n"
            "≠ GET blob      GET other  404  /v2/x",
        ),
        (
            ["HEAD manifest"],
            False,
            "expected 1 request, got 3\n"
            "  expected       got\n"
            "  HEAD manifest  HEAD manifest  200  {manifest}\n"
            "≠ —              GET manifest  200  {manifest}\n"
            "≠ —              GET other  404  /v2/x",
        ),
        (
            ["HEAD manifest", "GET blob", "GET other", "GET tags"],
            False,
            "expected 4 requests, got 3\n"
            "  expected       got\n"
            "  HEAD manifest  HEAD manifest  200  {manifest}\n"
            "≠ GET blob       GET manifest  200  {manifest}\n"
            "  GET other      GET other  404  /v2/x\n"
            "≠ GET tags       —",
        ),
        (["GET manifest", "HEAD manifest", "GET other"], False, None),
        (
            ["GET other", "GET blob", "HEAD manifest"],
            True,
            "expected 3 requests, got 3\n"
            "  expected       got\n"
            "  GET other      GET other  404  /v2/x\n"
            "≠ GET blob       —\n"
            "  HEAD manifest  HEAD manifest  200  {manifest}\n"
            "≠ —              GET manifest  200  {manifest}",
        ),
        (["GET manifest", "GET manifest", "HEAD manifest"], True, None),
        (["GET other", "HEAD manifest", "GET manifest", "GET other"], True, None),
        ([], False, None),
        ([], True, None),
    ],
)
async def test_other_requests_fail_and_are_shown(
    registry: EmbeddedRegistry,
    http: aiohttp.ClientSession,
    paths: dict[str, str],
    expected: list[str],
    in_any_order: bool,
    table: str | None,
) -> None:
    await ask(http, ("HEAD", paths["manifest"]), ("GET", paths["manifest"]), ("GET", "/v2/x?signature=secret"))
    with pytest.raises(AssertionError) as caught:
        registry.assert_requests(*expected, in_any_order=in_any_order)
    assert table is None or str(caught.value) == table.format_map(paths)
    assert "secret" not in str(caught.value)


async def test_a_request_without_an_answer_is_shown_as_one(registry: EmbeddedRegistry) -> None:
    arrived = asyncio.Event()

    async def hang(request: object, record: object) -> None:
        arrived.set()
        await asyncio.Event().wait()

    registry.intercept = hang
    _, writer = await asyncio.open_connection(*registry.host.split(":"))
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    await arrived.wait()
    with pytest.raises(AssertionError, match="GET ping  no answer  /v2/"):
        registry.assert_requests()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("expected", ["GET manifests", "get manifest", "manifest", "GET", "GET  blob", "", "GET blob "])
def test_a_request_that_cannot_be_is_a_mistake(expected: str) -> None:
    registry = EmbeddedRegistry()
    with pytest.raises(ValueError, match="manifest, blob"):
        registry.assert_requests(expected)
    with pytest.raises(ValueError, match="is no request"):
        registry.count("GET blob", expected)


async def test_requests_and_bytes_are_counted(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, paths: dict[str, str]
) -> None:
    assert (registry.count(), registry.count("GET blob"), registry.bytes_sent) == (0, 0, 0)
    await ask(http, ("HEAD", paths["manifest"]), ("GET", paths["manifest"]), *[("GET", paths["blob"])] * 3)
    assert registry.count() == 5
    assert registry.count("GET blob") == 3
    assert registry.count("HEAD manifest", "GET manifest") == 2
    assert registry.count("GET tags") == 0
    assert registry.bytes_sent == len(b"{}") + 3 * len(b"layer")


async def test_connections_are_counted_and_numbered(registry: EmbeddedRegistry, paths: dict[str, str]) -> None:
    async with aiohttp.ClientSession(registry.url) as one, aiohttp.ClientSession(registry.url) as two:
        await ask(one, ("GET", paths["manifest"]))
        await ask(two, ("GET", paths["manifest"]))
        await ask(one, ("GET", paths["blob"]))
    assert registry.connections == 2
    assert [request.connection for request in registry.requests] == [1, 2, 1]
    registry.clear_requests()
    assert registry.connections == 0
    async with aiohttp.ClientSession(registry.url) as three:
        await ask(three, ("GET", paths["manifest"]))
    assert registry.connections == 1
    assert registry.requests[0].connection == 3


async def test_a_connection_without_a_request_counts(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    _, writer = await asyncio.open_connection(*registry.host.split(":"))
    await ask(http, ("GET", "/v2/"))  # accepted after the first one
    assert registry.connections == 2
    assert registry.requests[0].connection == 2
    writer.close()
    await writer.wait_closed()


async def test_credentials_are_seen_and_not_shown(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, paths: dict[str, str]
) -> None:
    await ask(http, ("GET", paths["manifest"]))
    assert registry.credentials == []
    await ask(http, *[("GET", paths["manifest"])] * 2, Authorization="Basic c2VjcmV0")
    await ask(
        http, ("GET", paths["blob"]), Authorization="BEARER  token-1", **{"Proxy-Authorization": "Basic cHJveHk="}
    )
    assert registry.credentials == [
        SeenCredential(registry.url, "Authorization", "basic", "c2VjcmV0"),
        SeenCredential(registry.url, "Authorization", "bearer", "token-1"),
        SeenCredential(registry.url, "Proxy-Authorization", "basic", "cHJveHk="),
    ]
    shown = f"SeenCredential(origin='{registry.url}', header='Authorization', scheme='bearer')"
    assert str(registry.credentials[1]) == shown
    shown = repr(registry.requests) + repr(registry.credentials)
    assert not [secret for secret in ("c2VjcmV0", "token-1", "cHJveHk=") if secret in shown]


async def test_a_recording_has_what_happened_inside(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, paths: dict[str, str]
) -> None:
    await ask(http, ("GET", paths["manifest"]), Authorization="Basic before")
    with registry.recording() as requests:
        assert len(requests) == requests.connections == 0
        await ask(http, ("GET", paths["blob"]))
        requests.assert_requests("GET blob")
        registry.clear_requests()
        await ask(http, ("HEAD", paths["blob"]), Authorization="Basic inside")
    await ask(http, ("GET", paths["manifest"]))
    requests.assert_requests("GET blob", "HEAD blob")
    assert requests.summary() == [str(request) for request in requests] == ["GET blob", "HEAD blob"]
    assert requests.count("GET blob") == 1
    assert requests.bytes_sent == len(b"layer")
    assert [seen.value for seen in requests.credentials] == ["inside"]
    assert requests.connections == 0  # it was opened before
    assert (requests[0].path, requests[-1].method, len(requests[:1])) == (paths["blob"], "HEAD", 1)
    assert repr(requests) == "<Recording: GET blob, HEAD blob>"
    with pytest.raises(AssertionError, match="expected 0 requests, got 2"):
        requests.assert_requests()


async def test_recordings_overlap(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, paths: dict[str, str]
) -> None:
    with registry.recording() as outer:
        with registry.recording() as inner, registry.recording() as twin:
            await ask(http, ("GET", paths["manifest"]))
        await ask(http, ("GET", paths["blob"]))
    inner.assert_requests("GET manifest")
    twin.assert_requests("GET manifest")
    outer.assert_requests("GET manifest", "GET blob")
    assert (outer.connections, inner.connections) == (1, 1)


async def test_a_limit_of_records_does_not_limit_a_recording() -> None:
    async with EmbeddedRegistry(records=1) as registry, aiohttp.ClientSession(registry.url) as http:
        with registry.recording() as requests:
            await ask(http, ("GET", "/v2/"), ("GET", "/v2/"))
    assert (registry.count(), requests.count()) == (1, 2)


async def test_closed_connections_are_let_go_of(registry: EmbeddedRegistry) -> None:
    for _ in range(3):
        async with aiohttp.ClientSession(registry.url) as http:
            await ask(http, ("GET", "/v2/"))
    await registry.stop()
    await asyncio.sleep(0)  # the loop's turn in which connections are closed
    assert registry._connections._numbers == {}
    assert registry.connections == 3


async def test_how_long_a_start_takes(measured: Callable[[str, str], None]) -> None:
    def milliseconds(seconds: list[float]) -> str:
        return f"{statistics.median(seconds) * 1000:.1f} ms"

    plain: list[float] = []
    tls: list[float] = []
    gc.collect()
    for figures, options in ((plain, False), (tls, True)):
        for _ in range(20):
            began = time.perf_counter()
            async with EmbeddedRegistry(tls=options):
                figures.append(time.perf_counter() - began)
    measured("starting a registry, median of 20", f"{milliseconds(plain)}, with TLS {milliseconds(tls)}")


@pytest.mark.parametrize("turns", range(8))
async def test_no_connection_survives_a_stop_however_far_it_got(registry: EmbeddedRegistry, turns: int) -> None:
    reader, writer = await asyncio.open_connection(*registry.host.split(":"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await registry.stop()
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
