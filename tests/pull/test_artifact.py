"""Whole artifacts through the client: what is asked for, what is in the store afterwards, what is refused."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from artifacts import INDEX, MANIFEST, describe, sha256

from lading import Client, LocalStore, MemoryStore, Reference, Store
from lading.auth.credentials import StaticCredentials
from lading.errors import (
    BodyInterrupted,
    DigestMismatch,
    InvalidManifest,
    InvalidPlatform,
    LadingError,
    NotFound,
    Offline,
    RegistryError,
    SizeMismatch,
    StoreCorrupted,
)
from lading.events import BlobExpected, BlobProgress, Event
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest
from lading.oci.platform import Platform
from lading.pull import walk
from lading.pull.artifact import Artifact
from lading.store.store import Absent, Changes, Intact, Record
from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Close, Framing, ShortBody, Status, WrongBytes

MIB = 1024 * 1024
KIB = 1024
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
SMALL, LARGE = 1000, 300 * KIB
"""Sizes of layers that the store's index keeps, and of those that it doesn't."""

HOST = Platform.host()
OTHERS = [Platform("linux", one) for one in ("s390x", "ppc64le", "riscv64")]


@cache
def content_of(size: int, number: int = 0) -> bytes:
    """Bytes that don't repeat."""
    return random.Random(f"{size}/{number}").randbytes(size)


class Image:
    """An image: its blobs, its manifest, and what puts them into a registry."""

    def __init__(self, *layers: bytes, number: int = 0, kind: str = MANIFEST, **fields: Any) -> None:
        self.config = json.dumps({"number": number}).encode()
        self.layers = layers
        self.kind = kind
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": describe(CONFIG, self.config),
            "layers": [describe(LAYER, layer) for layer in layers],
            **fields,
        }
        self.raw = json.dumps(document).encode()

    @property
    def digest(self) -> str:
        return sha256(self.raw)

    @property
    def blobs(self) -> list[str]:
        return list(dict.fromkeys([sha256(self.config), *map(sha256, self.layers)]))

    def put(self, registry: EmbeddedRegistry, tag: str | None = "v1", repository: str = "acme/image") -> str:
        for blob in (self.config, *self.layers):
            registry.add_blob(repository, blob)
        return registry.add_manifest(repository, self.raw, self.kind, tag=tag)

    def listed(self, platform: Platform | None = None, **fields: Any) -> dict[str, Any]:
        described = describe(self.kind, self.raw, **fields)
        return described if platform is None else {**described, "platform": platform.to_json()}


def image(number: int = 0, sizes: tuple[int, ...] = (SMALL, LARGE), **fields: Any) -> Image:
    return Image(*(content_of(size, 10 * number + place) for place, size in enumerate(sizes)), number=number, **fields)


def index_of(*children: dict[str, Any], kind: str = INDEX) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": list(children)}).encode()


def put_index(registry: EmbeddedRegistry, raw: bytes, tag: str | None = "v1", kind: str = INDEX) -> str:
    return registry.add_manifest("acme/image", raw, kind, tag=tag)


def ref_of(registry: EmbeddedRegistry, selector: str = ":v1", repository: str = "acme/image") -> str:
    return f"{registry.host}/{repository}{selector}"


def digests(descriptors: Any) -> list[str]:
    return [str(one.digest) for one in descriptors]


async def assert_whole(store: Store, artifact: Artifact, *images: Image) -> None:
    """See that the store has all of ``images``, and gives the very bytes."""
    assert sorted(digests(artifact.blobs)) == sorted({blob for one in images for blob in one.blobs})
    contents = {sha256(blob): blob for one in images for blob in (one.config, *one.layers)}
    for blob in artifact.blobs:
        assert await artifact.read(blob) == contents[str(blob.digest)]
    for one in images:
        assert one.digest in digests(artifact.manifests)
        found = store.read(artifact.reference.name, Digest.parse(one.digest))
        assert found == Intact(one.raw)


# What is fetched.


@pytest.mark.parametrize("kind", [MANIFEST, DOCKER_MANIFEST])
async def test_an_image(registry: EmbeddedRegistry, client: Client, store: Store, kind: str) -> None:
    one = image(kind=kind)
    digest = one.put(registry)
    artifact = await client.pull(ref_of(registry))
    assert (str(artifact.descriptor.digest), artifact.descriptor.media_type) == (digest, kind)
    assert isinstance(artifact.manifest, Manifest)
    assert digests(artifact.blobs) == one.blobs
    assert artifact.fetched == len(one.config) + SMALL + LARGE
    await assert_whole(store, artifact, one)
    registry.assert_requests("GET manifest", *["GET blob"] * 3)
    record = store.resolve(Reference.parse(ref_of(registry)))
    assert isinstance(record, Record)
    assert (str(record.digest), record.media_type) == (digest, kind)


async def test_no_layers_at_all(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image(sizes=())
    one.put(registry)
    await assert_whole(store, await client.pull(ref_of(registry)), one)


async def test_any_artifact(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    weights, card = content_of(2 * MIB), b"# a model\n"
    layers = [describe("application/vnd.acme.weights", weights), describe("text/markdown", card)]
    one = Image(weights, card, artifactType="application/vnd.acme.model", layers=layers)
    one.put(registry)
    artifact = await client.pull(ref_of(registry))
    assert artifact.descriptor.artifact_type == "application/vnd.acme.model"
    await assert_whole(store, artifact, one)


async def test_a_layer_that_is_listed_twice_is_fetched_once(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    small, large = content_of(SMALL), content_of(LARGE)
    one = Image(small, large, small, large)
    one.put(registry)
    artifact = await client.pull(ref_of(registry))
    assert digests(artifact.blobs) == one.blobs
    registry.assert_requests("GET manifest", *["GET blob"] * 3)
    await assert_whole(store, artifact, one)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_content_that_is_embedded_isnt_fetched(
    registry: EmbeddedRegistry, client: Client, store: Store, size: int
) -> None:
    layer = content_of(size)
    one = Image(layer, layers=[describe(LAYER, layer, inline=True)])
    one.put(registry)
    artifact = await client.pull(ref_of(registry))
    registry.assert_requests("GET manifest", "GET blob")
    await assert_whole(store, artifact, one)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("data", [b"", b"something else", "the right length"])
async def test_embedded_content_that_is_wrong(
    registry: EmbeddedRegistry, client: Client, store: Store, data: bytes | str, size: int
) -> None:
    layer = content_of(size)
    wrong = content_of(size, 1) if isinstance(data, str) else data
    described = {**describe(LAYER, layer), "data": base64.b64encode(wrong).decode()}
    Image(layer, layers=[described]).put(registry)
    with pytest.raises(DigestMismatch):
        await client.pull(ref_of(registry))
    assert store.resolve(Reference.parse(ref_of(registry))) == Absent()


# Indexes.


async def test_this_machines_image_of_an_index(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    mine, *others = (image(number) for number in range(4))
    for one in (mine, *others):
        one.put(registry, tag=None)
    listed = [one.listed(platform) for one, platform in zip(others, OTHERS, strict=True)]
    digest = put_index(registry, index_of(*listed[:2], mine.listed(HOST), *listed[2:]))
    artifact = await client.pull(ref_of(registry))
    assert str(artifact.descriptor.digest) == digest
    assert isinstance(artifact.manifest, Index)
    assert digests(artifact.manifests) == [digest, mine.digest]
    await assert_whole(store, artifact, mine)
    registry.assert_requests("GET manifest", "GET manifest", *["GET blob"] * 3)


async def test_platforms_of_an_index(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    pairs = [(image(number), platform) for number, platform in enumerate(OTHERS)]
    for one, _ in pairs:
        one.put(registry, tag=None)
    digest = put_index(registry, index_of(*(one.listed(platform) for one, platform in pairs)))
    ref = ref_of(registry)
    await assert_whole(store, await client.pull(ref, platform="linux/ppc64le"), pairs[1][0])
    registry.clear_requests()
    both = await client.pull(ref, platform=[Platform("linux", "s390x"), "linux/ppc64le"])
    await assert_whole(store, both, pairs[0][0], pairs[1][0])
    registry.assert_requests("HEAD manifest", "GET manifest", *["GET blob"] * 3)
    every = await client.pull(ref, all_platforms=True)
    await assert_whole(store, every, *(one for one, _ in pairs))
    assert digests(every.manifests) == [digest, *(one.digest for one, _ in pairs)]
    with pytest.raises(InvalidManifest, match="linux/mips") as raised:
        await client.pull(ref, platform="linux/mips64")
    assert "linux/ppc64le" in raised.value.hint
    with pytest.raises(InvalidPlatform):
        await client.pull(ref, platform="no such platform")


async def test_an_index_that_has_nothing_for_this_machine(registry: EmbeddedRegistry, client: Client) -> None:
    one = image()
    one.put(registry, tag=None)
    put_index(registry, index_of(one.listed(Platform("plan9", "sparc"))))
    with pytest.raises(InvalidManifest, match="nothing in it is for"):
        await client.pull(ref_of(registry))


async def test_an_index_that_says_nothing_of_platforms_is_fetched_whole(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    one, other = image(1), image(2)
    one.put(registry, tag=None)
    other.put(registry, tag=None)
    put_index(registry, index_of(one.listed(), other.listed()))
    await assert_whole(store, await client.pull(ref_of(registry)), one, other)


async def test_docker_schema_2_list(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image(kind=DOCKER_MANIFEST)
    one.put(registry, tag=None)
    put_index(registry, index_of(one.listed(HOST), kind=DOCKER_INDEX), kind=DOCKER_INDEX)
    artifact = await client.pull(ref_of(registry))
    assert artifact.descriptor.media_type == DOCKER_INDEX
    await assert_whole(store, artifact, one)


async def test_an_index_within_an_index(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one, other = image(1), image(2)
    one.put(registry, tag=None)
    other.put(registry, tag=None)
    inner = index_of(one.listed(HOST), other.listed(OTHERS[0]))
    put_index(registry, inner, tag=None)
    digest = put_index(registry, index_of(describe(INDEX, inner)))
    artifact = await client.pull(ref_of(registry))
    assert digests(artifact.manifests) == [digest, sha256(inner), one.digest]
    await assert_whole(store, artifact, one)
    await assert_whole(store, await client.pull(ref_of(registry), all_platforms=True), one, other)


async def test_what_is_listed_twice_is_fetched_once(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image()
    one.put(registry, tag=None)
    inner = index_of(one.listed(HOST))
    put_index(registry, inner, tag=None)
    put_index(registry, index_of(one.listed(HOST), one.listed(OTHERS[0]), describe(INDEX, inner)))
    await assert_whole(store, await client.pull(ref_of(registry), all_platforms=True), one)
    registry.assert_requests(*["GET manifest"] * 3, *["GET blob"] * 3, in_any_order=True)


async def test_attestations_arent_images(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one, proof = image(1), image(2)
    one.put(registry, tag=None)
    proof.put(registry, tag=None)
    unknown = {"os": "unknown", "architecture": "unknown"}
    marks = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": one.digest}
    put_index(
        registry, index_of(proof.listed(platform=None, annotations=marks) | {"platform": unknown}, one.listed(HOST))
    )
    await assert_whole(store, await client.pull(ref_of(registry)), one)
    await assert_whole(store, await client.pull(ref_of(registry), all_platforms=True), one, proof)


async def test_content_of_a_kind_that_nobody_knows(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    """image-spec, image-index.md: an unknown media type must not be an error."""
    one, other = image(), content_of(SMALL, 7)
    one.put(registry, tag=None)
    registry.add_blob("acme/image", other)
    put_index(registry, index_of(one.listed(HOST), describe("application/vnd.acme.unheard-of", other)))
    await assert_whole(store, await client.pull(ref_of(registry)), one)
    artifact = await client.pull(ref_of(registry), all_platforms=True)
    assert sha256(other) in digests(artifact.blobs)
    assert store.read(artifact.reference.name, Digest.of(other)) == Intact(other)


async def test_a_manifest_that_is_embedded_in_an_index(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    one = image()
    one.put(registry, tag=None)
    registry.remove_manifest("acme/image", one.digest)
    put_index(registry, index_of({**one.listed(HOST), "data": base64.b64encode(one.raw).decode()}))
    await assert_whole(store, await client.pull(ref_of(registry)), one)


@pytest.mark.parametrize("wrong", ["size", "kind", "bytes"])
async def test_a_child_that_isnt_what_the_index_says(registry: EmbeddedRegistry, client: Client, wrong: str) -> None:
    one = image()
    one.put(registry, tag=None)
    listed = one.listed(HOST)
    if wrong == "size":
        listed["size"] += 1
    if wrong == "kind":
        listed["mediaType"] = INDEX
    if wrong == "bytes":
        registry.faults.add(WrongBytes(5), on="GET manifest", skip=1)
    put_index(registry, index_of(listed))
    expected = {"size": SizeMismatch, "kind": InvalidManifest, "bytes": DigestMismatch}[wrong]
    with pytest.raises(expected):
        await client.pull(ref_of(registry))
    assert registry.count("GET blob") == 0


# Bounds.


async def test_indexes_within_each_other_have_an_end(registry: EmbeddedRegistry, client: Client) -> None:
    one = image()
    one.put(registry, tag=None)
    child = one.listed(HOST)
    for depth in range(20):
        raw = index_of(child)
        put_index(registry, raw, tag=f"depth{depth}")
        child = describe(INDEX, raw)
    await client.pull(ref_of(registry, ":depth7"))
    with pytest.raises(InvalidManifest, match="within each other"):
        await client.pull(ref_of(registry, ":depth8"))
    registry.clear_requests()
    with pytest.raises(InvalidManifest, match="within each other"):
        await client.pull(ref_of(registry, ":depth19"))
    assert registry.count("GET manifest") <= 10


async def test_so_many_manifests_arent_even_asked_for(registry: EmbeddedRegistry, client: Client) -> None:
    children = [describe(MANIFEST, str(number).encode()) for number in range(1001)]
    put_index(registry, index_of(*children))
    with pytest.raises(InvalidManifest, match="1000 manifests"):
        await client.pull(ref_of(registry), all_platforms=True)
    registry.assert_requests("GET manifest")


async def test_so_many_blobs_arent_even_asked_for(
    registry: EmbeddedRegistry, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "_BLOBS_LIMIT", 100)
    Image(layers=[describe(LAYER, str(number).encode()) for number in range(100)]).put(registry)
    with pytest.raises(InvalidManifest, match="100 blobs"):
        await client.pull(ref_of(registry))
    registry.assert_requests("GET manifest")


async def test_a_manifest_that_claims_to_be_huge(registry: EmbeddedRegistry, client: Client) -> None:
    one = image()
    one.put(registry, tag=None)
    put_index(registry, index_of({**one.listed(HOST), "size": 5 * MIB}))
    with pytest.raises(InvalidManifest, match="bytes"):
        await client.pull(ref_of(registry))
    registry.assert_requests("GET manifest")


# Foreign layers.


def foreign(layer: bytes, url: str) -> dict[str, Any]:
    return describe("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", layer, urls=[url])


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_foreign_layer_is_skipped_and_never_fetched_from_elsewhere(
    registry: EmbeddedRegistry, client: Client, store: Store, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    layer, mine = content_of(size), content_of(size, 1)
    async with EmbeddedRegistry() as elsewhere:
        digest = elsewhere.add_blob("cdn", layer)
        url = f"{elsewhere.url}/v2/cdn/blobs/{digest}"
        one = Image(mine, layers=[foreign(layer, url), describe(LAYER, mine)])
        one.put(registry)
        artifact = await client.pull(ref_of(registry))
        assert elsewhere.summary() == []
    assert digests(artifact.skipped) == [digest]
    assert "foreign" in caplog.text
    await assert_whole(store, artifact, one)


async def test_a_foreign_layer_that_the_registry_has_is_like_any_other(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    layer = content_of(SMALL)
    one = Image(layer, layers=[foreign(layer, "https://example.com/layer")])
    one.put(registry)
    artifact = await client.pull(ref_of(registry))
    assert artifact.skipped == ()
    await assert_whole(store, artifact, one)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_layer_that_is_missing_is_an_error(
    registry: EmbeddedRegistry, client: Client, store: Store, size: int
) -> None:
    one = image(sizes=(size, size))
    one.put(registry)
    registry.remove_blob("acme/image", one.blobs[1])
    with pytest.raises(NotFound, match=one.blobs[1]):
        await client.pull(ref_of(registry))
    assert store.resolve(Reference.parse(ref_of(registry))) == Absent()


# What is there isn't asked for.


async def test_an_unchanged_tag_is_one_head(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one, other = image(1), image(2)
    one.put(registry, tag=None)
    other.put(registry, tag=None)
    put_index(registry, index_of(one.listed(HOST), other.listed(OTHERS[0])))
    first = await client.pull(ref_of(registry))
    registry.clear_requests()
    again = await client.pull(ref_of(registry))
    registry.assert_requests("HEAD manifest")
    assert (again.manifests, again.blobs, again.fetched) == (first.manifests, first.blobs, 0)


async def test_what_is_pinned_and_whole_needs_no_request(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], store: Store
) -> None:
    one = image()
    digest = one.put(registry)
    await client.pull(ref_of(registry))
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry, f"@{digest}")), one)
    await assert_whole(store, await connect().pull(ref_of(registry, f":v1@{digest}")), one)
    assert isinstance(await client.manifest(ref_of(registry, f"@{digest}")), Manifest)
    registry.assert_requests()


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_what_is_missing_in_the_store_is_all_that_is_fetched(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path, lost: int
) -> None:
    one = image(sizes=(LARGE, LARGE + 1, LARGE + 2))
    digest = one.put(registry)
    store = LocalStore(tmp_path / "here")
    client = connect(store)
    await client.pull(ref_of(registry))
    victim = Digest.of(one.layers[lost])
    (tmp_path / "here" / "blobs" / "sha256" / victim.encoded).unlink()
    registry.clear_requests()
    for selector, head in ((":v1", ["HEAD manifest"]), (f"@{digest}", [])):
        await assert_whole(store, await client.pull(ref_of(registry, selector)), one)
        registry.assert_requests(*head, *(["GET blob"] if selector == ":v1" else []))
        registry.clear_requests()
    await store.aclose()


async def test_a_truncated_blob_is_fetched_again(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    one = image(sizes=(LARGE,))
    one.put(registry)
    store = LocalStore(tmp_path / "here")
    await connect(store).pull(ref_of(registry))
    path = tmp_path / "here" / "blobs" / "sha256" / Digest.of(one.layers[0]).encoded
    path.chmod(0o600)
    path.write_bytes(b"short")
    registry.clear_requests()
    await assert_whole(store, await connect(store).pull(ref_of(registry)), one)
    registry.assert_requests("HEAD manifest", "GET blob")
    await store.aclose()


async def test_force_trusts_nothing_that_is_there(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    one = image(sizes=(SMALL, LARGE))
    one.put(registry)
    store = LocalStore(tmp_path / "here")
    client = connect(store)
    await client.pull(ref_of(registry))
    path = tmp_path / "here" / "blobs" / "sha256" / Digest.of(one.layers[1]).encoded
    path.chmod(0o600)
    registry.clear_requests()
    await client.pull(ref_of(registry), force=True)
    registry.assert_requests("GET manifest", *["GET blob"] * 2, "HEAD blob", in_any_order=True)
    path.write_bytes(bytes(LARGE))  # damage that a look at the size doesn't find
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry), force=True), one)
    registry.assert_requests("GET manifest", *["GET blob"] * 3, in_any_order=True)
    await store.aclose()


async def test_a_manifest_that_the_store_lost_is_asked_for_by_its_tag(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    """What the tag stood for may still be at the registry: it isn't what it stands for now."""
    old, new = image(1), image(2)
    old.put(registry)
    new.put(registry)
    store = MemoryStore()
    reference = Reference.parse(ref_of(registry))
    await store.commit(Changes(1.0, references=((reference, Digest.parse(old.digest), MANIFEST),)))
    artifact = await connect(store).pull(ref_of(registry))
    assert str(artifact.descriptor.digest) == new.digest
    assert registry.summary()[0] == "GET manifest"


async def test_a_tag_that_moved(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    shared = content_of(LARGE, 99)
    old, new = Image(content_of(SMALL), shared, number=1), Image(content_of(SMALL, 1), shared, number=2)
    old.put(registry)
    await client.pull(ref_of(registry))
    new.put(registry)
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry)), new)
    registry.assert_requests("HEAD manifest", "GET manifest", *["GET blob"] * 2)
    old.put(registry)
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry)), old)
    registry.assert_requests("HEAD manifest")


async def test_a_tag_that_moves_between_head_and_get(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    first, second, third = (image(number) for number in range(3))
    first.put(registry)
    await client.pull(ref_of(registry))
    second.put(registry)

    async def move(request: web.Request, record: RecordedRequest) -> None:
        if record.method == "GET" and second.digest in record.path:
            registry.remove_manifest("acme/image", second.digest)
            third.put(registry)
            registry.intercept = None

    registry.intercept = move
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry)), third)
    registry.assert_requests("HEAD manifest", "GET manifest", "GET manifest", *["GET blob"] * 3)


async def test_a_registry_whose_head_says_nothing(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image()
    one.put(registry)
    await client.pull(ref_of(registry))
    registry.faults.add(Status(405), on="HEAD manifest", times=None)
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry)), one)
    registry.assert_requests("HEAD manifest", "GET manifest")


async def test_the_manifest_alone(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image()
    digest = one.put(registry)
    found = await client.manifest(ref_of(registry))
    assert (found.raw, sha256(found.raw)) == (one.raw, digest)
    registry.assert_requests("GET manifest")
    assert store.resolve(Reference.parse(ref_of(registry))) == Absent()
    registry.add_manifest("acme/image", b"<html>", MANIFEST, tag="page")
    with pytest.raises(InvalidManifest):
        await client.manifest(ref_of(registry, ":page"))


async def test_a_media_type_that_only_the_registry_says_is_remembered(
    registry: EmbeddedRegistry, client: Client
) -> None:
    raw = json.dumps({"schemaVersion": 2, "config": describe(CONFIG, b"{}"), "layers": []}).encode()
    registry.add_blob("acme/image", b"{}")
    registry.add_manifest("acme/image", raw, DOCKER_MANIFEST, tag="v1")
    for _ in range(2):
        assert (await client.pull(ref_of(registry))).descriptor.media_type == DOCKER_MANIFEST


# Failures leave everything as it was.

FAILURES = [
    ("HEAD manifest", Status(500), RegistryError),
    ("GET manifest", Status(404), NotFound),
    ("GET manifest", WrongBytes(3), DigestMismatch),
    ("GET manifest", ShortBody(3), DigestMismatch),
    ("GET blob", Status(500), RegistryError),
    ("GET blob", Close(100), BodyInterrupted),
    ("GET blob", WrongBytes(3), DigestMismatch),
]


@pytest.mark.parametrize(("on", "fault", "error"), FAILURES, ids=[f"{on} {fault}" for on, fault, _ in FAILURES])
async def test_a_failure_leaves_the_reference_as_it_was(
    registry: EmbeddedRegistry, client: Client, store: Store, on: str, fault: Any, error: type[LadingError]
) -> None:
    old, new = image(1), image(2)
    old.put(registry)
    await client.pull(ref_of(registry))
    before = store.resolve(Reference.parse(ref_of(registry)))
    new.put(registry)
    registry.faults.add(fault, on=on, times=None)
    with anyio.fail_after(10), pytest.raises(error):
        await client.pull(ref_of(registry))
    assert store.resolve(Reference.parse(ref_of(registry))) == before
    for blob in (old.config, *old.layers):
        assert store.read(Reference.parse(ref_of(registry)).name, Digest.of(blob)) == Intact(blob)
    registry.faults.clear()
    await assert_whole(store, await client.pull(ref_of(registry)), new)


async def test_what_had_come_before_a_failure_isnt_fetched_again(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    one = image(sizes=(LARGE, LARGE, LARGE))
    one.put(registry)
    arrived = asyncio.Event()

    async def last(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        if record.path.endswith(one.blobs[-1]):
            await arrived.wait()
            return web.Response(status=500)
        return None

    registry.intercept = last
    pull = asyncio.create_task(client.pull(ref_of(registry)))
    name = Reference.parse(ref_of(registry)).name
    while not all(isinstance(store.read(name, Digest.of(layer)), Intact) for layer in one.layers[:2]):  # noqa: ASYNC110
        await anyio.sleep(0.01)
    arrived.set()
    with pytest.raises(RegistryError):
        await pull
    registry.intercept = None
    registry.clear_requests()
    await assert_whole(store, await client.pull(ref_of(registry)), one)
    asked = [request.path.rpartition("/")[2] for request in registry.requests]
    assert sha256(one.layers[2]) in asked
    assert not {sha256(layer) for layer in one.layers[:2]} & set(asked)


async def test_offline(registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    image().put(registry)
    with pytest.raises(Offline):
        await connect(offline=True).pull(ref_of(registry))
    registry.assert_requests()


async def test_a_blob_that_is_lost_later_is_said_so(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    one = image(sizes=(LARGE,))
    one.put(registry)
    store = LocalStore(tmp_path / "here")
    artifact = await connect(store).pull(ref_of(registry))
    (tmp_path / "here" / "blobs" / "sha256" / Digest.of(one.layers[0]).encoded).unlink()
    with pytest.raises(StoreCorrupted, match=one.blobs[1]):
        await artifact.read(artifact.blobs[1])
    await store.aclose()


# Many at once.


class Counting:
    """Counts the blobs that are being asked for, until each is let go."""

    def __init__(self, hold: Callable[[], bool]) -> None:
        self.now = self.most = 0
        self._hold = hold
        self._opened = asyncio.Event()

    async def __call__(self, request: web.Request, record: RecordedRequest) -> None:
        if record.kind != "blob":
            return
        self.now += 1
        self.most = max(self.most, self.now)
        if not self._hold():
            self._opened.set()
        await self._opened.wait()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._left())

    def _left(self) -> None:
        self.now -= 1


async def test_large_blobs_of_all_pulls_share_one_limit(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    images = [image(number, sizes=(LARGE,) * 4) for number in range(5)]
    for number, one in enumerate(images):
        one.put(registry, tag=f"v{number}")
    counting = registry.intercept = Counting(lambda: counting.now < 3)
    client = connect(concurrency=3)
    large = {blob for one in images for blob in one.blobs[1:]}
    seen: list[int] = []

    async def count(request: web.Request, record: RecordedRequest) -> None:
        if record.path.rpartition("/")[2] in large:
            await counting(request, record)
            seen.append(counting.most)

    registry.intercept = count
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(client.pull(ref_of(registry, f":v{number}")))
    assert counting.most == 3
    assert len(seen) == 20


async def test_small_blobs_come_at_once_under_a_limit_of_their_own(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    images = [image(number, sizes=(SMALL,) * 30) for number in range(3)]
    for number, one in enumerate(images):
        one.put(registry, tag=f"v{number}")
    counting = registry.intercept = Counting(lambda: counting.now < 32)
    client = connect(concurrency=1)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(client.pull(ref_of(registry, f":v{number}")))
    assert counting.most == 32


async def test_twenty_pulls_of_one_image_are_one(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image(sizes=(SMALL, LARGE, 2 * MIB))
    digest = one.put(registry, tag="v1")
    one.put(registry, tag="v2")
    refs = [":v1"] * 10 + [":v2"] * 5 + [f":v1@{digest}"] * 3 + [f"@{digest}"] * 2
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(client.pull(ref_of(registry, selector))) for selector in refs]
    for pull, selector in zip(pulls, refs, strict=True):
        await assert_whole(store, pull.result(), one)
        assert pull.result().reference == Reference.parse(ref_of(registry, selector))
    sent = Counter(request.path.rpartition("/")[2] for request in registry.requests if request.kind == "blob")
    assert [sent[sha256(layer)] for layer in one.layers[1:]] == [1, 1]
    # What is small isn't worth a commit of its own: who comes a moment later asks for it again.
    assert max(sent.values()) <= 3
    assert registry.count("GET manifest") == 3


async def test_twenty_pulls_of_one_reference_are_one(registry: EmbeddedRegistry, client: Client, store: Store) -> None:
    one = image(sizes=(SMALL, LARGE, 2 * MIB))
    one.put(registry)
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(client.pull(ref_of(registry))) for _ in range(20)]
    for pull in pulls:
        await assert_whole(store, pull.result(), one)
    registry.assert_requests("GET manifest", *["GET blob"] * 4)


async def test_what_is_asked_after_a_push_doesnt_join_what_was_asked_before(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    old, new = image(1), image(2)
    old.put(registry)
    reached, opened = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request, record: RecordedRequest) -> None:
        if record.path.endswith(old.blobs[1]):
            reached.set()
            await opened.wait()

    registry.intercept = hold
    before = asyncio.create_task(client.pull(ref_of(registry)))
    await reached.wait()
    new.put(registry)
    client._rooms.open().artifacts.outdate(Reference.parse(ref_of(registry)))
    after = await client.pull(ref_of(registry))
    opened.set()
    assert str(after.descriptor.digest) == new.digest
    assert str((await before).descriptor.digest) == old.digest
    record = store.resolve(Reference.parse(ref_of(registry)))
    assert isinstance(record, Record)
    assert str(record.digest) == new.digest, "a pull that asked before a push doesn't undo it"


async def test_a_blob_of_two_repositories_comes_once_and_is_proved_twice(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    one = image(sizes=(2 * MIB,))
    one.put(registry)
    one.put(registry, repository="acme/other")
    store = LocalStore(tmp_path / "here")
    client = connect(store)
    await client.pull(ref_of(registry))
    layer = Digest.of(one.layers[0])
    assert store.read(f"{registry.host}/acme/other", layer) == Absent()
    registry.clear_requests()
    artifact = await client.pull(ref_of(registry, repository="acme/other"))
    registry.assert_requests("GET manifest", "GET blob", "HEAD blob", in_any_order=True)
    assert artifact.fetched == len(one.config)
    await assert_whole(store, artifact, one)
    await store.aclose()


async def test_a_blob_of_another_repository_is_no_proof(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    secret = image(sizes=(2 * MIB,))
    secret.put(registry, repository="acme/secret")
    store = LocalStore(tmp_path / "here")
    client = connect(store)
    await client.pull(ref_of(registry, repository="acme/secret"))
    registry.add_blob("acme/image", secret.config)
    registry.add_manifest("acme/image", secret.raw, MANIFEST, tag="v1")
    with pytest.raises(NotFound):
        await client.pull(ref_of(registry))
    assert store.read(f"{registry.host}/acme/image", Digest.of(secret.layers[0])) == Absent()
    await store.aclose()


async def test_two_repositories_at_once(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    one = image(sizes=(2 * MIB,) * 3)
    names = [f"acme/image{number}" for number in range(6)]
    for name in names:
        one.put(registry, repository=name)
    store = LocalStore(tmp_path / "here")
    client = connect(store)
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(client.pull(ref_of(registry, repository=name))) for name in names]
    for pull in pulls:
        await assert_whole(store, pull.result(), one)
    sent = Counter(request.path.rpartition("/")[2] for request in registry.requests if str(request) == "GET blob")
    assert [sent[sha256(layer)] for layer in one.layers] == [1, 1, 1]
    assert registry.count("HEAD blob") == 5 * 3
    await store.aclose()


async def test_progress_is_told(registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    one = image(sizes=(SMALL, 2 * MIB))
    one.put(registry)
    events: list[Event] = []
    await connect(events=events.append).pull(ref_of(registry))
    told = [event for event in events if isinstance(event, BlobProgress)]
    assert {event.digest for event in told} == set(one.blobs)
    expected = [event for event in events if isinstance(event, BlobExpected)]
    assert [(event.digest, event.size) for event in expected] == [
        (sha256(one.config), len(one.config)),
        *((sha256(layer), len(layer)) for layer in one.layers),
    ]
    assert events.index(expected[-1]) < events.index(told[0]), "the whole is known before any of it moves"
    for blob in one.blobs:
        received = [event.received for event in told if event.digest == blob]
        assert received == sorted(received)
        assert received[-1] == next(event.size for event in told if event.digest == blob)


# Cancellation.


def descriptors() -> list[str]:
    """What the open descriptors of this process are."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sorted(one for one in found if not one.startswith("socket"))


async def test_cancelled_at_any_time(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    one, other = image(1, sizes=(SMALL, 2 * MIB, 4 * MIB)), image(2, sizes=(SMALL, 3 * MIB))
    one.put(registry, tag=None)
    other.put(registry, tag=None)
    put_index(registry, index_of(one.listed(HOST), other.listed(OTHERS[0])))
    dice = random.Random(7)
    await anyio.to_thread.run_sync(lambda: None)
    for number in range(50):
        home = tmp_path / str(number)
        store = LocalStore(home)
        before = descriptors()
        async with Client(store, credentials=StaticCredentials({})) as client:
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(pull_for, client, ref_of(registry), dice.uniform(0, 0.05))
            network = client._rooms.open()
            with anyio.fail_after(20):
                while network.artifacts._means.large.borrowed_tokens or network._session._slots.value < 100:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
                await assert_whole(store, await client.pull(ref_of(registry), all_platforms=True), one, other)
        await store.aclose()
        assert list((home / "ingest").iterdir()) == []
        gc.collect()
        assert descriptors() == before
    await registry.stop()
    assert len(asyncio.all_tasks()) == 1


async def pull_for(client: Client, ref: str, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await client.pull(ref, all_platforms=True)


async def test_who_is_cancelled_doesnt_disturb_the_others(
    registry: EmbeddedRegistry, client: Client, store: Store
) -> None:
    one = image(sizes=(SMALL, LARGE))
    one.put(registry)
    reached, opened = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request, record: RecordedRequest) -> None:
        if record.kind == "blob":
            reached.set()
            await opened.wait()

    registry.intercept = hold
    pulls = [asyncio.create_task(client.pull(ref_of(registry))) for _ in range(5)]
    await reached.wait()
    pulls[0].cancel()
    await asyncio.wait([pulls[0]])
    opened.set()
    for pull in pulls[1:]:
        await assert_whole(store, await pull, one)
    assert registry.count() == 4


# A blob that nobody keeps.


async def test_a_blob_is_streamed(registry: EmbeddedRegistry, client: Client) -> None:
    content = content_of(3 * MIB)
    digest = registry.add_blob("acme/image", content)
    async with client.stream_blob(ref_of(registry), digest) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == content
    registry.assert_requests("GET blob")


@pytest.mark.parametrize("size", [SMALL, 3 * MIB])
@pytest.mark.parametrize("fault", [WrongBytes(5), ShortBody(5)])
async def test_a_stream_of_something_else_ends_with_an_error(
    registry: EmbeddedRegistry, client: Client, size: int, fault: Any
) -> None:
    digest = registry.add_blob("acme/image", content_of(size))
    registry.faults.add(fault, on="GET blob")
    came: list[bytes] = []
    with pytest.raises(DigestMismatch, match="acme/image"):
        await stream(client, ref_of(registry), digest, came)
    assert sum(map(len, came)) >= size - 5, "only the end tells"


async def stream(client: Client, ref: str, digest: str, came: list[bytes]) -> None:
    async with client.stream_blob(ref, digest) as chunks:
        async for chunk in chunks:
            came.append(chunk)


@pytest.mark.parametrize("faults", [(Close(100),), (Framing("chunked"), Close(100)), (Framing("close"), Close(100))])
async def test_a_stream_that_is_cut_short(registry: EmbeddedRegistry, client: Client, faults: tuple[Any, ...]) -> None:
    digest = registry.add_blob("acme/image", content_of(SMALL))
    registry.faults.add(*faults, on="GET blob")
    with pytest.raises(BodyInterrupted):
        await stream(client, ref_of(registry), digest, [])


async def test_a_stream_that_nobody_reads_on_leaves_nothing(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    digest = registry.add_blob("acme/image", content_of(30 * MIB))
    tasks = len(asyncio.all_tasks())
    client = connect()
    for _ in range(20):
        async with client.stream_blob(ref_of(registry), digest) as chunks:
            async for _ in chunks:
                break
        async with client.stream_blob(ref_of(registry), digest):
            pass
        with anyio.move_on_after(0.001):
            await stream(client, ref_of(registry), digest, [])
    gc.collect()  # a warning of something that isn't closed would be an error
    assert client._rooms.open()._session._slots.statistics().tasks_waiting == 0
    assert client._rooms.open()._session._slots.value == 100
    await client.aclose()
    await registry.stop()
    assert len(asyncio.all_tasks()) == tasks
    assert registry.bytes_sent < 20 * 30 * MIB, "who doesn't read on isn't sent everything"


async def test_a_stream_of_what_isnt_there(registry: EmbeddedRegistry, client: Client) -> None:
    with pytest.raises(NotFound):
        async with client.stream_blob(ref_of(registry), sha256(b"nothing")):
            raise AssertionError("it isn't there")
