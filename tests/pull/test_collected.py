"""Pulls while the store is collected: what they need stays, or is brought again; what they answer with is in use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from aiohttp import web
from artifacts import MANIFEST, describe, publish

from lading import Client, MemoryStore, Reference, Store
from lading.errors import NotFound, StoreCorrupted, StoreReadOnly
from lading.oci.digest import Digest
from lading.store.leases import LocalLease
from lading.store.memory import MemoryLease
from lading.store.store import Changes, Record, use
from lading.testing import EmbeddedRegistry, RecordedRequest

YAML = b"agents:\n  root: {}\n"
LARGE = b"x" * 200_000
LAYERS = [LARGE, LARGE + b"2", b"small", b"small, too"]
DAY = 86_400.0

Connect = Callable[..., Client]


def put(registry: EmbeddedRegistry, *layers: bytes, repository: str = "acme/image", tag: str = "v1") -> str:
    """An image of these layers, and its digest."""
    for blob in (b"{}", *layers):
        registry.add_blob(repository, blob)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
    }
    return registry.add_manifest(repository, json.dumps(document).encode(), MANIFEST, tag=tag)


async def forget_all(store: Store) -> None:
    await store.commit(Changes(0.0, forgotten=tuple(reference for reference, _ in store.references())))


async def collected_at_each_request(registry: EmbeddedRegistry, store: Store, **limits: float) -> None:
    async def collect(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        await store.collect(**limits)  # type: ignore[arg-type]
        return None

    registry.intercept = collect


async def test_what_a_pull_has_brought_stays_until_it_is_done(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    put(registry, *LAYERS)
    await collected_at_each_request(registry, store, older_than=0, max_size=0)
    artifact = await client.pull(f"{registry.host}/acme/image:v1")
    assert registry.summary() == ["GET manifest", *["GET blob"] * 5], "each of them once"
    assert [await artifact.read(blob) for blob in artifact.blobs] == [b"{}", *LAYERS]
    assert (await store.collect()).contents == ()


async def test_what_a_pull_has_found_stays_until_it_is_done(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    put(registry, *LAYERS)
    await client.pull(f"{registry.host}/acme/image:v1")
    put(registry, *LAYERS, b"one more")
    await forget_all(store)  # what it brought belongs to nothing now
    registry.clear_requests()
    await collected_at_each_request(registry, store)
    artifact = None
    for _ in range(2):
        artifact = await client.pull(f"{registry.host}/acme/image:v1")
    # Before the first request it wasn't known what is needed: it was collected then, and brought again.
    assert artifact is not None
    assert [await artifact.read(blob) for blob in artifact.blobs] == [b"{}", *LAYERS, b"one more"]
    assert registry.summary().count("GET blob") == 6
    assert registry.summary()[-1] == "HEAD manifest"


async def test_what_is_collected_after_it_was_found_is_brought_again(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where leases do nothing: the commit misses it."""
    put(registry, *LAYERS)
    reference = f"{registry.host}/acme/image:v1"
    await client.pull(reference)
    for lease in (LocalLease, MemoryLease):
        monkeypatch.setattr(lease, "keep", lambda self, digests: None)
    commit = store.commit
    times = 0

    async def late(changes: Changes) -> None:
        nonlocal times
        if changes.required and times == 0:
            times += 1
            await forget_all(store)
            assert len((await store.collect()).contents) == 6
        await commit(changes)

    monkeypatch.setattr(store, "commit", late)
    registry.clear_requests()
    artifact = await client.pull(reference)
    assert times == 1
    assert registry.summary() == ["HEAD manifest", *["GET blob"] * 5]
    assert [await artifact.read(blob) for blob in artifact.blobs] == [b"{}", *LAYERS]


async def test_what_is_collected_again_and_again_is_an_error(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry, *LAYERS)
    reference = f"{registry.host}/acme/image:v1"
    for lease in (LocalLease, MemoryLease):
        monkeypatch.setattr(lease, "keep", lambda self, digests: None)
    commit = store.commit

    async def late(changes: Changes) -> None:
        if changes.required:
            await forget_all(store)
            await store.collect()
        await commit(changes)

    monkeypatch.setattr(store, "commit", late)
    with pytest.raises(StoreCorrupted, match="doesn't hold sha256:"):
        await client.pull(reference)


async def test_a_tag_that_is_removed_while_it_is_pulled(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry, *LAYERS)
    reference = f"{registry.host}/acme/image:v1"
    commit = store.commit
    removed = 0

    async def and_remove(changes: Changes) -> None:
        nonlocal removed
        await commit(changes)
        if changes.references and not removed:
            removed += 1
            await forget_all(store)
            await store.collect()

    monkeypatch.setattr(store, "commit", and_remove)
    artifact = await client.pull(reference)
    assert removed == 1
    assert registry.summary() == ["GET manifest", *["GET blob"] * 5]
    assert [await artifact.read(blob) for blob in artifact.blobs] == [b"{}", *LAYERS]


# Agents


async def test_an_agent_is_pulled_while_everything_is_collected(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    await collected_at_each_request(registry, store, older_than=0, max_size=0)
    for number, content in enumerate([YAML, YAML + LARGE, YAML]):
        publish(registry, content)
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert (agent.content, agent.origin) == (content, "registry"), number


@pytest.mark.parametrize("times", [1, 2])
async def test_an_agent_that_somebody_forgets_before_it_is_read_back(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    publish(registry, YAML)
    commit = store.commit
    left = times

    async def and_forget(changes: Changes) -> None:
        nonlocal left
        await commit(changes)
        if changes.references and left:
            left -= 1
            await store.collect(max_size=0)

    monkeypatch.setattr(store, "commit", and_forget)
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert (agent.content, left) == (YAML, 0)
    assert isinstance(store.resolve(agent.reference), Record), "the second time it is held on to"
    assert registry.summary() == ["GET manifest", "GET blob"] * 2


async def test_an_agent_that_is_replaced_before_it_is_read_back_isnt_lost(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, YAML)
    commit = store.commit

    async def and_move(changes: Changes) -> None:
        await commit(changes)
        ((reference, _, media_type),) = changes.references
        await commit(
            replace(changes, content=(), links=(), seen=(), references=((reference, Digest.of(b"x"), media_type),))
        )
        await store.collect()

    monkeypatch.setattr(store, "commit", and_move)
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML
    assert registry.summary() == ["GET manifest", "GET blob"]


async def test_what_is_collected_while_it_is_confirmed_isnt_brought_back_as_a_name(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, YAML)
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    commit = store.commit

    async def late(changes: Changes) -> None:
        assert (await store.collect(max_size=0)).references == (reference,)
        await commit(changes)

    monkeypatch.setattr(store, "commit", late)
    assert (await client.pull_agent(reference)).origin == "revalidated"
    assert store.references() == []


# What is answered with is in use


async def test_a_digest_that_is_answered_with_is_kept_by_itself(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    digest = Digest.parse(publish(registry, YAML))
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    assert client.cached(reference.at(digest)) is not None
    assert [str(name) for name, _ in store.references()] == [str(reference)], "a look-up leaves no trace"
    registry.clear_requests()
    for _ in range(2):
        assert (await client.pull_agent(reference.at(digest))).origin == "pinned"
    registry.assert_requests()
    publish(registry, YAML + b"# newer\n")
    await client.pull_agent(reference)
    assert (await store.collect()).contents == ()
    kept = client.cached(reference.at(digest))
    assert kept is not None
    assert kept.content == YAML
    assert kept.age < 60, "as old as the confirmation of its tag"


async def aged(store: Store, days: float) -> None:
    """Let everything have been confirmed some days ago."""
    at = time.time() - days * DAY
    for reference, record in store.references():
        await store.commit(Changes(at, references=((reference, record.digest, record.media_type),)))


@pytest.mark.parametrize("way", ["pinned", "stale", "offline", "background"])
async def test_what_is_answered_from_the_store_isnt_old(
    registry: EmbeddedRegistry, connect: Connect, store: Store, way: str
) -> None:
    digest = Digest.parse(publish(registry, YAML))
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    asked = reference.at(digest) if way == "pinned" else reference
    client = connect(offline=way == "offline")
    await connect().pull_agent(asked)
    await aged(store, 40)
    await registry.stop()
    options = {"revalidate": "background"} if way == "background" else {}
    agent = await client.pull_agent(asked, **options)  # type: ignore[arg-type]
    assert agent.origin == ("pinned" if way == "pinned" else "stale")
    last = store.last_used(asked)
    assert last is not None
    assert last > time.time() - 60
    assert (await store.collect(older_than=30 * DAY)).references == ()
    assert (await store.collect(older_than=30 * DAY, now=time.time() + 31 * DAY)).references == (asked,)


async def test_what_is_used_all_day_is_noted_once(registry: EmbeddedRegistry, connect: Connect) -> None:
    class Counting(MemoryStore):
        commits = 0

        async def commit(self, changes: Changes) -> None:
            self.commits += 1
            await super().commit(changes)

    store = Counting()
    client = connect(store)
    reference = Reference.parse(f"{registry.host}/acme/triage@{publish(registry, YAML)}")
    for _ in range(20):
        await client.pull_agent(reference)
    assert store.commits == 1
    await aged(store, 1.5)
    store.commits = 0
    for _ in range(20):
        await client.pull_agent(reference)
    assert store.commits == 1
    await store.commit(Changes(0.0, notes=(use(reference, time.time() + 10 * DAY),)))
    await client.pull_agent(reference)
    assert store.commits == 2, "a clock that was set back isn't noted"


async def test_where_nothing_can_be_noted_it_is_tried_once(registry: EmbeddedRegistry, connect: Connect) -> None:
    class ReadOnly(MemoryStore):
        refused = 0
        is_read_only = False

        async def commit(self, changes: Changes) -> None:
            if self.is_read_only:
                self.refused += 1
                raise StoreReadOnly("it can't be written")
            await super().commit(changes)

    store = ReadOnly()
    reference = Reference.parse(f"{registry.host}/acme/triage@{publish(registry, YAML)}")
    await connect(store).pull_agent(reference)
    await aged(store, 40)
    store.is_read_only = True
    client = connect(store)
    for _ in range(5):
        assert (await client.pull_agent(reference)).content == YAML
    assert store.refused == 1


async def test_what_was_collected_at_the_same_moment_is_given_and_not_kept(
    registry: EmbeddedRegistry, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Digest.parse(publish(registry, YAML))
    reference = Reference.parse(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(reference)
    commit = store.commit

    async def late(changes: Changes) -> None:
        await store.collect(max_size=0)
        await commit(changes)

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", late)
        assert (await client.pull_agent(reference.at(digest))).content == YAML
    assert store.references() == []
    registry.remove_manifest("acme/triage", str(digest))
    with pytest.raises(NotFound):
        await client.pull_agent(reference.at(digest))
