"""Whole artifacts that the store holds already: without a network, and on a disk that can't be written."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from artifacts import INDEX, MANIFEST, describe, index, manifest, publish, sha256

from lading import Client, MemoryStore, Reference, Store
from lading.errors import NotAnAgent, Offline, OutOfSpace, StoreError, StoreReadOnly
from lading.oci.digest import Digest
from lading.store.store import NEVER, Changes, Record, Seen
from lading.testing import EmbeddedRegistry

LAYER = b"a layer" * 40_000
"""More than the index of a store keeps."""

Connect = Callable[..., Client]


class Full(MemoryStore):
    """A store that takes no more once it is told so."""

    refuses: StoreError | None = None

    async def commit(self, changes: Changes) -> None:
        if self.refuses is not None:
            raise self.refuses
        await super().commit(changes)


def put(registry: EmbeddedRegistry, layer: bytes = LAYER, tag: str = "v1", **fields: Any) -> str:
    """Put an image into the registry, and give its digest."""
    document = {**json.loads(manifest(layer, {})), **fields}
    for blob in (layer, b"{}"):
        registry.add_blob("acme/image", blob)
    return registry.add_manifest("acme/image", json.dumps(document).encode(), MANIFEST, tag)


def ref_of(registry: EmbeddedRegistry, selector: str = ":v1") -> str:
    return f"{registry.host}/acme/image{selector}"


def confirmed(store: Store, ref: str) -> float:
    found = store.resolve(Reference.parse(ref))
    assert isinstance(found, Record)
    return found.validated


class TestOffline:
    @pytest.mark.parametrize("selector", [":v1", "@"])
    async def test_what_is_whole_is_given(
        self, registry: EmbeddedRegistry, client: Client, connect: Connect, selector: str
    ) -> None:
        digest = put(registry)
        ref = ref_of(registry, f"@{digest}" if selector == "@" else selector)
        await client.pull(ref_of(registry))
        registry.clear_requests()
        offline = connect(offline=True)
        artifact = await offline.pull(ref)
        assert (str(artifact.descriptor.digest), artifact.fetched) == (digest, 0)
        assert [await artifact.read(blob) for blob in artifact.blobs] == [b"{}", LAYER]
        assert (await offline.manifest(ref)).raw == artifact.manifest.raw
        registry.assert_requests()

    async def test_that_confirms_nothing(
        self, registry: EmbeddedRegistry, client: Client, connect: Connect, store: Store
    ) -> None:
        digest = put(registry)
        ref = Reference.parse(ref_of(registry))
        await client.pull(ref)
        await store.commit(Changes(1000.0, references=((ref, Digest.parse(digest), MANIFEST),)))
        await connect(offline=True).pull(ref)
        assert confirmed(store, str(ref)) == 1000.0
        last = store.last_used(ref)
        assert last is not None
        assert last > 1000.0, "but it was used"

    async def test_what_isnt_whole_is_named(self, registry: EmbeddedRegistry, client: Client, connect: Connect) -> None:
        published = publish(registry, LAYER, "acme/image")
        await client.pull_agent(ref_of(registry))  # which takes no config
        with pytest.raises(Offline, match=f"the store doesn't have its {sha256(b'{}')}"):
            await connect(offline=True).pull(ref_of(registry))
        assert (await connect(offline=True).manifest(ref_of(registry))).raw == manifest(LAYER)
        with pytest.raises(Offline, match="acme/image:v2: the store doesn't have it"):
            await connect(offline=True).manifest(ref_of(registry, ":v2"))
        with pytest.raises(Offline, match="can't be fetched again"):
            await connect(offline=True).pull(ref_of(registry, f"@{published}"), force=True)

    async def test_another_platform_is_named(
        self, registry: EmbeddedRegistry, client: Client, connect: Connect
    ) -> None:
        children = []
        for architecture in ("s390x", "ppc64le"):
            raw = manifest(architecture.encode(), {})
            for blob in (architecture.encode(), b"{}"):
                registry.add_blob("acme/image", blob)
            registry.add_manifest("acme/image", raw, MANIFEST)
            platform = {"os": "linux", "architecture": architecture}
            children.append(describe(MANIFEST, raw, platform=platform))
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
        registry.add_manifest("acme/image", json.dumps(document).encode(), INDEX, "v1")
        await client.pull(ref_of(registry), platform="linux/s390x")
        offline = connect(offline=True)
        assert len((await offline.pull(ref_of(registry), platform="linux/s390x")).blobs) == 2
        with pytest.raises(Offline, match=children[1]["digest"]):
            await offline.pull(ref_of(registry), platform="linux/ppc64le")

    async def test_a_foreign_layer_isnt_missed(
        self, registry: EmbeddedRegistry, client: Client, connect: Connect
    ) -> None:
        foreign = {**describe("application/x", b"elsewhere"), "urls": ["https://example.com/layer"]}
        put(registry, layers=[describe("application/y", LAYER), foreign])
        for one in (client, connect(offline=True)):
            artifact = await one.pull(ref_of(registry))
            assert [str(blob.digest) for blob in artifact.skipped] == [foreign["digest"]]

    @pytest.mark.parametrize("is_index", [False, True])
    async def test_what_is_no_agent_is_said_so(
        self, registry: EmbeddedRegistry, client: Client, connect: Connect, is_index: bool
    ) -> None:
        put(registry)
        if is_index:
            raw = index(manifest(LAYER, {}))
            registry.add_manifest("acme/image", raw, INDEX, "v1")
        await client.pull(ref_of(registry))
        for fallback in ("any", "never"):
            with pytest.raises(NotAnAgent, match=r"acme/image:v1: it is in the store, but not an agent: "):
                await connect(offline=True).pull_agent(ref_of(registry), fallback=fallback)
        with pytest.raises(Offline):
            await connect(offline=True).pull_agent(ref_of(registry, ":v2"))


class TestADiskThatCantBeWritten:
    @pytest.fixture
    def store(self) -> Full:
        return Full()

    @pytest.mark.parametrize("error", [StoreReadOnly("read-only"), OutOfSpace("full"), StoreError("no")])
    async def test_what_is_whole_is_given(
        self,
        registry: EmbeddedRegistry,
        client: Client,
        store: Full,
        error: StoreError,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        digest = put(registry)
        await client.pull(ref_of(registry))
        store.refuses = error
        registry.clear_requests()
        for selector in (":v1", f"@{digest}"):
            artifact = await client.pull(ref_of(registry, selector))
            assert [await artifact.read(blob) for blob in artifact.blobs] == [b"{}", LAYER]
        registry.assert_requests("HEAD manifest")
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    async def test_a_tag_that_moved_to_what_is_there_is_warned_of(
        self, registry: EmbeddedRegistry, client: Client, store: Full, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(registry, b"old")
        await client.pull(ref_of(registry))
        digest = put(registry, tag="v2")
        await client.pull(ref_of(registry, ":v2"))
        store.refuses = StoreReadOnly("read-only")
        put(registry, tag="v1")
        assert str((await client.pull(ref_of(registry))).descriptor.digest) == digest
        assert "acme/image:v1: not stored: read-only" in caplog.text

    async def test_news_is_an_error(self, registry: EmbeddedRegistry, client: Client, store: Full) -> None:
        put(registry)
        store.refuses = StoreReadOnly("read-only")
        with pytest.raises(StoreReadOnly):
            await client.pull(ref_of(registry))


async def test_a_digest_that_no_registry_confirmed_stays_so(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    """It needs no request, and that there was none isn't forgotten; and it is kept by itself from then on."""
    raw = manifest(LAYER)
    pinned = Reference.parse(ref_of(registry, f"@{sha256(raw)}"))
    digests = {Digest.of(content): content for content in (raw, LAYER, b"{}")}
    seen = tuple(Seen(pinned.name, digest, MANIFEST) for digest in digests)
    await store.commit(Changes(NEVER, content=tuple(digests.items()), seen=seen))
    assert store.last_used(pinned) is None
    await client.pull(pinned)
    registry.assert_requests()
    assert confirmed(store, str(pinned)) == NEVER
    assert (await client.pull_agent(pinned)).age == math.inf
    assert store.last_used(pinned) is not None
