"""The read path against a real registry on loopback: what is asked, and what comes back."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
import traceback
from collections.abc import Callable

import pytest
from aiohttp import web
from artifacts import ANNOTATED, INDEX, LEGACY, MANIFEST, index, manifest, publish, sha256

from lading import Client, Reference, Store
from lading.errors import (
    DigestMismatch,
    InvalidManifest,
    InvalidReference,
    NotAnAgent,
    NotFound,
    Offline,
    ProtocolError,
    SizeMismatch,
)
from lading.oci.digest import Digest
from lading.store.store import Changes, Record, Seen
from lading.testing import EmbeddedRegistry, RecordedRequest

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"


async def test_a_cold_pull_is_a_get_of_the_manifest_and_one_of_the_layer(
    registry: EmbeddedRegistry, client: Client
) -> None:
    digest = publish(registry, YAML)
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["GET manifest", "GET blob"]
    assert agent.content == YAML
    assert agent.digest == digest
    assert agent.reference == Reference(registry.host, "acme/triage", "v1")
    assert dict(agent.annotations) == ANNOTATED
    assert (agent.origin, agent.stale_reason) == ("registry", None)
    assert 0 <= agent.age < 60


async def test_a_cold_pull_of_an_inline_agent_is_one_get(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML, inline=True)
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["GET manifest"]
    assert agent.content == YAML


@pytest.mark.parametrize("inline", [False, True])
async def test_a_warm_pull_is_one_head(registry: EmbeddedRegistry, client: Client, inline: bool) -> None:
    publish(registry, YAML, inline=inline)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["HEAD manifest"]
    assert (agent.origin, agent.content) == ("revalidated", YAML)
    assert 0 <= agent.age < 60


async def test_a_pinned_agent_needs_no_network(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage@{digest}")
    assert registry.summary() == []
    assert (agent.origin, agent.content) == ("pinned", YAML)
    assert agent.age >= 0


async def test_a_fresh_agent_needs_no_network(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1", max_age=3600)
    assert registry.summary() == []
    assert (agent.origin, agent.content) == ("fresh", YAML)


async def test_a_head_makes_an_agent_fresh_again(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    digest = publish(registry, YAML)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    await store.commit(Changes(1000.0, references=((reference, Digest.parse(digest), MANIFEST),)))
    assert client.cached(reference, max_age=3600) is None
    await client.pull_agent(reference)
    assert client.cached(reference, max_age=3600) is not None


def test_cached_needs_no_event_loop(store: Store) -> None:
    client = Client(store)
    assert client.cached("acme/triage") is None
    assert client.cached("acme/triage", max_age=60) is None


async def test_cached_gives_what_needs_no_network_and_nothing_else(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    assert client.cached(f"{registry.host}/acme/triage:v1") is None
    fresh = client.cached(f"{registry.host}/acme/triage:v1", max_age=60)
    pinned = client.cached(f"{registry.host}/acme/triage@{digest}")
    assert fresh is not None
    assert pinned is not None
    assert (fresh.origin, pinned.origin) == ("fresh", "pinned")
    assert fresh.content == pinned.content == YAML
    assert registry.summary() == []


async def test_a_confirmation_from_the_future_isnt_fresh(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    digest = publish(registry, YAML)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    await store.commit(Changes(4e9, references=((reference, Digest.parse(digest), MANIFEST),)))
    assert client.cached(reference, max_age=3600) is None
    assert (await client.pull_agent(reference, max_age=3600)).origin == "revalidated"


async def test_force_reads_again(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, max_age=3600)
    assert registry.summary() == ["GET manifest", "GET blob"]
    assert agent.origin == "registry"
    registry.clear_requests()
    await client.pull_agent(f"{registry.host}/acme/triage@{digest}", force=True)
    assert registry.summary() == ["GET manifest", "GET blob"]


async def test_a_tag_that_moved_is_fetched_by_the_digest_that_the_head_named(
    registry: EmbeddedRegistry, client: Client
) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    moved = publish(registry, b"version: 2\n")
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["HEAD manifest", "GET manifest", "GET blob"]
    assert registry.requests[1].path.endswith(moved)
    assert (agent.digest, agent.content, agent.origin) == (moved, b"version: 2\n", "registry")


async def test_a_tag_that_moves_again_between_head_and_get_is_asked_for_once_more(
    registry: EmbeddedRegistry, client: Client
) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    gone = publish(registry, b"version: 2\n")

    async def move_again(request: web.Request, record: RecordedRequest) -> None:
        if record.method == "GET" and record.path.endswith(gone):
            registry.remove_manifest("acme/triage", gone)
            publish(registry, b"version: 3\n")

    registry.intercept = move_again
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["HEAD manifest", "GET manifest", "GET manifest", "GET blob"]
    assert agent.content == b"version: 3\n"


async def test_a_head_without_a_digest_is_followed_by_a_get(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")

    async def withhold(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return web.Response(headers={"Content-Type": MANIFEST}) if record.method == "HEAD" else None

    registry.intercept = withhold
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["HEAD manifest", "GET manifest"]
    assert (agent.origin, agent.content) == ("revalidated", YAML)


async def test_two_registries_never_answer_for_each_other(client: Client) -> None:
    async with EmbeddedRegistry() as one, EmbeddedRegistry() as other:
        first, second = publish(one, b"one: 1\n"), publish(other, b"other: 1\n")
        assert (await client.pull_agent(f"{one.host}/acme/triage:v1")).content == b"one: 1\n"
        assert (await client.pull_agent(f"{other.host}/acme/triage:v1")).content == b"other: 1\n"
        assert client.cached(f"{other.host}/acme/triage@{first}") is None
        assert client.cached(f"{one.host}/acme/triage@{second}") is None
        with pytest.raises(NotFound):
            await client.pull_agent(f"{other.host}/acme/triage@{first}")


async def test_one_repositorys_content_isnt_a_hit_in_another(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML, "acme/private")
    await client.pull_agent(f"{registry.host}/acme/private:v1")
    # The attacker's repository has a manifest that names the private layer, and not the layer.
    registry.add_manifest("evil/agent", manifest(YAML), MANIFEST, tag="v1")
    assert client.cached(f"{registry.host}/evil/agent@{digest}") is None
    with pytest.raises(NotFound):
        await client.pull_agent(f"{registry.host}/evil/agent:v1")


@pytest.mark.parametrize("annotations", [ANNOTATED, LEGACY, {"io.docker.agent.version": ""}])
async def test_either_annotation_marks_an_agent(
    registry: EmbeddedRegistry, client: Client, annotations: dict[str, str]
) -> None:
    publish(registry, YAML, annotations=annotations)
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML


async def test_what_isnt_annotated_is_refused_before_a_blob_moves(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML, annotations={})
    with pytest.raises(NotAnAgent, match=r"acme/triage:v1.*lading fetch") as caught:
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.host in str(caught.value)
    assert registry.summary() == ["GET manifest"]


async def test_an_unannotated_cache_entry_is_a_miss(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    poison = await _poison(store, registry, manifest(b"evil: 1\n", {}), b"evil: 1\n")
    assert client.cached(f"{registry.host}/acme/triage@{poison}") is None
    assert client.cached(f"{registry.host}/acme/triage:v1", max_age=1e9) is None
    publish(registry, YAML)
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["GET manifest", "GET blob"], "a miss is cold: no HEAD"
    assert (agent.content, agent.origin) == (YAML, "registry")


async def test_an_unannotated_cache_entry_never_stands_in(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    poison = await _poison(store, registry, manifest(b"evil: 1\n", {}), b"evil: 1\n")
    with pytest.raises(NotFound):
        await client.pull_agent(f"{registry.host}/acme/triage:v1", max_age=1e9)
    with pytest.raises(NotFound):
        await client.pull_agent(f"{registry.host}/acme/triage@{poison}")


async def test_a_cache_entry_that_isnt_a_manifest_doesnt_block_a_pull(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    await _poison(store, registry, b"<html>sign in</html>", b"")
    publish(registry, YAML)
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML
    registry.clear_requests()
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).origin == "revalidated"


async def _poison(store: Store, registry: EmbeddedRegistry, raw: bytes, layer: bytes) -> str:
    """Put an entry into the store that no pull would have put there."""
    digest, name = Digest.of(raw), f"{registry.host}/acme/triage"
    await store.commit(
        Changes(
            2e9,
            content=((digest, raw), (Digest.of(layer), layer)),
            seen=(Seen(name, digest, MANIFEST), Seen(name, Digest.of(layer), "application/yaml")),
            references=((Reference.parse(f"{name}:v1"), digest, MANIFEST),),
        )
    )
    return str(digest)


async def test_a_gzipped_layer_is_unpacked_whatever_its_media_type(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, gzip.compress(YAML))
    reference = f"{registry.host}/acme/triage:v1"
    assert (await client.pull_agent(reference)).content == YAML
    assert (await client.pull_agent(reference)).content == YAML, "the cached copy is unpacked too"


async def test_an_index_is_what_the_reference_resolves_to(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML, tag=None)
    raw = index(manifest(YAML), platform={"os": "linux", "architecture": "amd64"})
    digest = registry.add_manifest("acme/triage", raw, INDEX, tag="v1")
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["GET manifest", "GET manifest", "GET blob"]
    assert (agent.digest, agent.content, dict(agent.annotations)) == (digest, YAML, ANNOTATED)
    registry.clear_requests()
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).origin == "revalidated"
    assert registry.summary() == ["HEAD manifest"]
    assert client.cached(f"{registry.host}/acme/triage@{digest}") is not None


async def test_an_index_without_an_agent_is_refused(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML, tag=None)
    raw = index(manifest(YAML), platform={"os": "windows", "architecture": "arm64"})
    both = json.loads(raw)
    both["manifests"] *= 2
    registry.add_manifest("acme/triage", json.dumps(both).encode(), INDEX, tag="v1")
    with pytest.raises(NotAnAgent, match="windows/arm64"):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")


async def test_wrong_embedded_data_is_never_used(registry: EmbeddedRegistry, client: Client) -> None:
    document = json.loads(manifest(YAML, inline=True))
    document["layers"][0]["data"] = "ZXZpbDogMQo="
    publish(registry, YAML, tag=None)
    registry.add_manifest("acme/triage", json.dumps(document).encode(), MANIFEST, tag="v1")
    with pytest.raises(DigestMismatch):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"x" * len(YAML), DigestMismatch), (YAML + b"x", SizeMismatch), (YAML[:-1], SizeMismatch)],
    ids=["other bytes", "longer", "shorter"],
)
async def test_a_layer_that_isnt_what_the_manifest_names_is_never_stored(
    registry: EmbeddedRegistry, client: Client, body: bytes, error: type[Exception]
) -> None:
    digest = publish(registry, YAML)

    async def lie(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return web.Response(body=body) if record.kind == "blob" else None

    registry.intercept = lie
    with pytest.raises(error):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.intercept = None
    assert client.cached(f"{registry.host}/acme/triage@{digest}") is None
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML


async def test_a_manifest_that_isnt_the_pinned_one_is_refused(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML)
    evil = manifest(b"evil: 1\n")

    async def lie(request: web.Request, record: RecordedRequest) -> web.Response | None:
        headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest}
        return web.Response(body=evil, headers=headers) if record.kind == "manifest" else None

    registry.intercept = lie
    with pytest.raises(DigestMismatch, match=sha256(evil)):
        await client.pull_agent(f"{registry.host}/acme/triage@{digest}")


async def test_a_captive_portal_isnt_a_manifest(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")

    async def portal(request: web.Request, record: RecordedRequest) -> web.Response:
        return web.Response(text="<html>sign in</html>", content_type="text/html")

    registry.intercept = portal
    with pytest.raises(InvalidManifest, match="acme/triage:v1"):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")


async def test_offline_answers_from_the_store_alone(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client]
) -> None:
    digest = publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    offline = connect(offline=True)
    assert (await offline.pull_agent(f"{registry.host}/acme/triage@{digest}")).origin == "pinned"
    stale = await offline.pull_agent(f"{registry.host}/acme/triage:v1")
    assert (stale.origin, stale.content) == ("stale", YAML)
    with pytest.raises(Offline, match="acme/other"):
        await offline.pull_agent(f"{registry.host}/acme/other:v1")
    with pytest.raises(Offline):
        await offline.resolve(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == []


async def test_a_manifest_may_be_large(registry: EmbeddedRegistry, client: Client) -> None:
    large = b"# " + b"x" * 300_000 + b"\n" + YAML
    publish(registry, large)
    reference = f"{registry.host}/acme/triage:v1"
    assert (await client.pull_agent(reference)).content == large
    again = await client.pull_agent(reference)
    assert (again.origin, again.content) == ("revalidated", large)


@pytest.mark.parametrize("ref", ["", "UPPER", "a b", "ubuntu@sha256:abc"])
async def test_what_isnt_a_reference_is_refused(client: Client, ref: str) -> None:
    with pytest.raises(InvalidReference):
        await client.pull_agent(ref)
    with pytest.raises(InvalidReference):
        client.cached(ref)


@pytest.mark.parametrize("options", [{"fallback": "sometimes"}, {"max_age": -1}, {"max_stale": float("nan")}])
async def test_an_impossible_option_is_refused(client: Client, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        await client.pull_agent("acme/triage", **options)  # type: ignore[arg-type]


async def test_no_request_before_the_manifest(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert not any(request.kind == "ping" for request in registry.requests)
    accept = registry.requests[0].headers["Accept"]
    assert MANIFEST in accept
    assert INDEX in accept


async def test_a_stale_copy_is_logged(
    registry: EmbeddedRegistry, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, YAML)
    await client.pull_agent(f"{registry.host}/acme/triage:v1")
    await registry.stop()
    with caplog.at_level(logging.WARNING, "lading"):
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert agent.origin == "stale"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "acme/triage:v1" in caplog.text


async def test_resolve_is_a_head(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML)
    descriptor = await client.resolve(f"{registry.host}/acme/triage:v1")
    assert (str(descriptor.digest), descriptor.media_type) == (digest, MANIFEST)
    assert descriptor.size == len(manifest(YAML))
    assert registry.summary() == ["HEAD manifest"]


async def test_tags_are_listed(registry: EmbeddedRegistry, client: Client) -> None:
    for tag in ("v1", "v2", "v3"):
        publish(registry, YAML, tag=tag)
    assert [tag async for tag in client.tags(f"{registry.host}/acme/triage")] == ["v1", "v2", "v3"]


async def test_an_answer_is_as_old_as_the_request_for_it(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    publish(registry, YAML)
    asked: list[float] = []

    async def stamp(request: web.Request, record: RecordedRequest) -> None:
        asked.append(time.time())

    registry.intercept = stamp
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    known = store.resolve(reference)
    assert isinstance(known, Record)
    assert known.validated <= asked[0], "the layer, however slow, makes nothing fresher"


async def test_each_caller_gets_the_reference_that_it_asked_for(registry: EmbeddedRegistry, client: Client) -> None:
    digest = publish(registry, YAML)
    async with asyncio.TaskGroup() as group:
        plain = group.create_task(client.pull_agent(f"{registry.host}/acme/triage@{digest}"))
        tagged = group.create_task(client.pull_agent(f"{registry.host}/acme/triage:other@{digest}"))
    assert (plain.result().reference.tag, tagged.result().reference.tag) == (None, "other")


async def test_an_index_that_lies_about_a_size_is_refused(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML, tag=None)
    document = json.loads(index(manifest(YAML)))
    document["manifests"][0]["size"] += 1
    registry.add_manifest("acme/triage", json.dumps(document).encode(), INDEX, tag="v1")
    with pytest.raises(SizeMismatch):
        await client.pull_agent(f"{registry.host}/acme/triage:v1")


async def test_a_large_manifest_is_read_and_found_again(registry: EmbeddedRegistry, client: Client) -> None:
    annotations = {**ANNOTATED, **{f"key-{number}": "x" * 100 for number in range(5000)}}
    digest = publish(registry, YAML, annotations=annotations)
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).annotations == annotations
    pinned = await client.pull_agent(f"{registry.host}/acme/triage@{digest}")
    assert (pinned.origin, pinned.content) == ("pinned", YAML)


async def test_a_listener_that_fails_fails_nothing_else(
    registry: EmbeddedRegistry, connect: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, YAML)

    def listen(event: object) -> None:
        raise RuntimeError("the metrics are down")

    assert (await connect(events=listen).pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML
    assert "the metrics are down" in caplog.text


async def test_a_signed_url_is_in_no_error(registry: EmbeddedRegistry, client: Client) -> None:
    publish(registry, YAML)

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"garbage\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as cdn:
        target = f"http://127.0.0.1:{cdn.sockets[0].getsockname()[1]}/blob?sig=S3CRET"

        async def redirect(request: web.Request, record: RecordedRequest) -> web.Response | None:
            return web.Response(status=307, headers={"Location": target}) if record.kind == "blob" else None

        registry.intercept = redirect
        with pytest.raises(ProtocolError) as caught:
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert "/blob" in str(caught.value)
    assert "S3CRET" not in "".join(traceback.format_exception(caught.value))
    chain, error = [], caught.value
    while error is not None:
        chain.append(repr(error))
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    assert "S3CRET" not in "".join(chain)
