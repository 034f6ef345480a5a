"""Every cell of the fallback table: how a registry fails, and whether a cached copy may stand in for it."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Awaitable, Callable

import pytest
import trustme
from aiohttp import web
from artifacts import MANIFEST, manifest, publish

from lading import Client, Reference, Store
from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    Denied,
    DigestMismatch,
    InvalidManifest,
    LadingError,
    NotAnAgent,
    NotFound,
    Offline,
    RateLimited,
    RegistryError,
    SizeMismatch,
    TlsFailed,
    Unauthorized,
)
from lading.oci.digest import Digest
from lading.pull.policy import Fallback
from lading.store.store import NEVER, Changes, Seen
from lading.testing import EmbeddedRegistry, Intercept, RecordedRequest

OLD, NEW = b"version: 1\n", b"version: 2\n"
MOVED = manifest(NEW)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(status: int, **options: object) -> Intercept:
    """Answer every request like this."""

    async def intercept(request: web.Request, record: RecordedRequest) -> web.StreamResponse:
        return web.Response(status=status, **options)  # type: ignore[arg-type]

    return intercept


def on_blob(handler: Handler) -> Intercept:
    """Let everything pass but the blob."""

    async def intercept(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        return await handler(request) if record.kind == "blob" else None

    return intercept


async def reset(request: web.Request, record: RecordedRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(NEW))})
    await response.prepare(request)
    await response.write(NEW[:4])
    assert request.transport is not None
    request.transport.close()
    return response


async def other_bytes(request: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(len(NEW)))


async def more_bytes(request: web.Request) -> web.StreamResponse:
    return web.Response(body=NEW + b"x")


FAILURES: list[tuple[str, Intercept, type[LadingError], bool, bool]] = [
    # failure, how, the error, may a copy stand in by "any", by "transient"
    ("reset", reset, ConnectFailed, True, True),
    ("interrupted body", on_blob(cut), BodyInterrupted, True, True),
    ("408", answer(408), RegistryError, True, True),
    ("429", answer(429, headers={"Retry-After": "7"}), RateLimited, True, True),
    ("500", answer(500), RegistryError, True, True),
    ("502", answer(502), RegistryError, True, True),
    ("503", answer(503), RegistryError, True, True),
    ("401", answer(401), Unauthorized, True, False),
    ("403", answer(403), Denied, True, False),
    ("404", answer(404), NotFound, True, False),
    ("digest mismatch", on_blob(other_bytes), DigestMismatch, False, False),
    ("size mismatch", on_blob(more_bytes), SizeMismatch, False, False),
    ("captive portal", answer(200, text="<html>", content_type="text/html"), InvalidManifest, False, False),
    ("not an agent", answer(200, body=manifest(NEW, {}), content_type=MANIFEST), NotAnAgent, False, False),
]
POLICIES: list[Fallback] = ["any", "transient", "never"]


async def _cached_then_moved(registry: EmbeddedRegistry, client: Client) -> str:
    """Have version 1 in the store, and version 2 in the registry."""
    publish(registry, OLD)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    publish(registry, NEW)
    return f"{registry.host}/acme/triage:v1"


@pytest.mark.parametrize("fallback", POLICIES)
@pytest.mark.parametrize(("name", "failure", "error", "by_any", "by_transient"), FAILURES, ids=[f[0] for f in FAILURES])
async def test_every_cell(
    registry: EmbeddedRegistry,
    client: Client,
    name: str,
    failure: Intercept,
    error: type[LadingError],
    by_any: bool,
    by_transient: bool,
    fallback: Fallback,
) -> None:
    ref = await _cached_then_moved(registry, client)
    registry.intercept = failure
    if {"any": by_any, "transient": by_transient, "never": False}[fallback]:
        agent = await client.pull_agent(ref, fallback=fallback)
        assert (agent.origin, agent.content) == ("stale", OLD)
        assert agent.stale_reason
    else:
        with pytest.raises(error):
            await client.pull_agent(ref, fallback=fallback)
    registry.intercept = None
    assert (await client.pull_agent(ref, fallback="never")).content == NEW, "the store stayed as it was, and works"


@pytest.mark.parametrize("fallback", POLICIES)
async def test_a_registry_that_is_down(registry: EmbeddedRegistry, client: Client, fallback: Fallback) -> None:
    ref = await _cached_then_moved(registry, client)
    await registry.stop()
    if fallback == "never":
        with pytest.raises(ConnectFailed):
            await client.pull_agent(ref, fallback=fallback)
    else:
        assert (await client.pull_agent(ref, fallback=fallback)).origin == "stale"


@pytest.mark.parametrize("fallback", POLICIES)
async def test_a_network_that_is_switched_off(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], fallback: Fallback
) -> None:
    ref = await _cached_then_moved(registry, client)
    offline = connect(offline=True)
    if fallback == "never":
        with pytest.raises(Offline):
            await offline.pull_agent(ref, fallback=fallback)
    else:
        assert (await offline.pull_agent(ref, fallback=fallback)).origin == "stale"


@pytest.mark.parametrize("fallback", POLICIES)
async def test_a_certificate_that_isnt_trusted_is_never_papered_over(store: Store, fallback: Fallback) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("registry.example").configure_cert(context)
    runner = web.ServerRunner(web.Server(lambda request: web.Response()))  # type: ignore[arg-type, return-value]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    # 0.0.0.0 connects to this machine, but isn't a loopback address by name: https.
    reference = Reference.parse(f"0.0.0.0:{port}/acme/triage:v1")
    raw, layer = manifest(OLD), Digest.of(OLD)
    await store.commit(
        Changes(
            1.0,
            content=((Digest.of(raw), raw), (layer, OLD)),
            seen=(Seen(reference.name, Digest.of(raw), MANIFEST), Seen(reference.name, layer, "application/yaml")),
            references=((reference, Digest.of(raw), MANIFEST),),
        )
    )
    try:
        async with Client(store) as client:
            with pytest.raises(TlsFailed):
                await client.pull_agent(reference, fallback=fallback)
    finally:
        await runner.cleanup()


async def test_a_copy_that_is_too_old_doesnt_stand_in(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    digest = publish(registry, OLD)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    await store.commit(Changes(1000.0, references=((reference, Digest.parse(digest), MANIFEST),)))
    registry.intercept = answer(503)
    with pytest.raises(RegistryError):
        await client.pull_agent(reference, max_stale=3600)
    agent = await client.pull_agent(reference)
    assert agent.age > 3600


async def test_a_copy_of_unknown_age_stands_in_only_where_any_age_will_do(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    digest = publish(registry, OLD)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    await store.commit(Changes(4e9, references=((reference, Digest.parse(digest), MANIFEST),)))
    registry.intercept = answer(503)
    with pytest.raises(RegistryError):
        await client.pull_agent(reference, max_stale=3600)
    assert (await client.pull_agent(reference)).origin == "stale"


@pytest.mark.parametrize(
    ("ago", "said"), [(None, "was never confirmed"), (2.5 * 86_400, "is 2 days old"), (3_700, "is 1 hour old")]
)
async def test_how_old_a_copy_is_is_said(
    registry: EmbeddedRegistry,
    client: Client,
    store: Store,
    caplog: pytest.LogCaptureFixture,
    ago: float | None,
    said: str,
) -> None:
    digest = publish(registry, OLD)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    confirmed = NEVER if ago is None else time.time() - ago
    await store.commit(Changes(confirmed, references=((reference, Digest.parse(digest), MANIFEST),)))
    registry.intercept = answer(503)
    agent = await client.pull_agent(reference)
    assert f"serving a copy that {said}: " in caplog.text
    assert agent.age == math.inf if ago is None else ago <= agent.age < ago + 60
    with pytest.raises(RegistryError):
        await client.pull_agent(reference, max_stale=1e6 if ago is None else 60)


async def test_a_degraded_answer_is_no_validation(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    digest = publish(registry, OLD)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    await store.commit(Changes(1000.0, references=((reference, Digest.parse(digest), MANIFEST),)))
    registry.intercept = answer(503)
    assert (await client.pull_agent(reference, max_age=60)).origin == "stale"
    assert client.cached(reference, max_age=60) is None


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (401, Unauthorized), (500, RegistryError)])
async def test_a_strict_pull_surfaces_the_failure_and_leaves_the_store_alone(
    registry: EmbeddedRegistry, client: Client, status: int, error: type[LadingError]
) -> None:
    ref = await _cached_then_moved(registry, client)
    before = client.cached(ref, max_age=3600)
    assert before is not None
    registry.intercept = answer(status)
    with pytest.raises(error):
        await client.pull_agent(ref, fallback="never")
    after = client.cached(ref, max_age=3600)
    assert after is not None
    assert (after.digest, after.content) == (before.digest, before.content)
