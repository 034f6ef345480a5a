"""Copying from registry to registry: what arrives, what is asked and what isn't, and what is left if it breaks off."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from artifacts import describe, publish, sha256

from lading import Client, MemoryStore, Reference, Retry, Store, Timeouts
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    Denied,
    DigestMismatch,
    InvalidManifest,
    InvalidPlatform,
    InvalidReference,
    LadingError,
    NotFound,
    Offline,
    RegistryError,
    SizeMismatch,
    TimedOut,
)
from lading.events import BlobExpected, BlobProgress, Event
from lading.http.hosts import Host, HostsConfig, RegistryHosts
from lading.oci.digest import Digest
from lading.push.artifact import Delivered
from lading.testing import PROFILES, DirectoryContent, EmbeddedRegistry, RecordedRequest
from lading.testing.faults import AnswerLost, Close, Fault, RangeIgnored, Reset, ShortBody, Stall, Status, WrongBytes
from lading.testing.refusals import Refusal

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
SBOM = "application/vnd.acme.sbom"

LARGE = bytes(range(256)) * 4096
"""1 MiB."""

APP = "acme/app"
NEW = ["HEAD blob", "POST upload", "PUT upload"]
AGAIN = Retry(attempts=4, first_delay=0.0)


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
async def target() -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry() as target:
        yield target


@pytest.fixture
def source(registry: EmbeddedRegistry) -> EmbeddedRegistry:
    return registry


@pytest.fixture
async def patient(connect: Callable[..., Client]) -> Client:
    return connect(retry=AGAIN)


def put(registry: EmbeddedRegistry, document: dict[str, Any], tag: str | None = None, repository: str = APP) -> str:
    return registry.add_manifest(repository, json.dumps(document).encode(), document["mediaType"], tag)


def image(
    registry: EmbeddedRegistry,
    *layers: bytes,
    tag: str | None = None,
    repository: str = APP,
    media_type: str = OCI_MANIFEST,
    **fields: Any,
) -> str:
    """Put an image with these layers into ``registry``, and give its digest."""
    config = json.dumps({"layers": [sha256(layer) for layer in layers]}).encode()
    for blob in (config, *layers):
        registry.add_blob(repository, blob)
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": describe(CONFIG_TYPE, config),
        "layers": [describe(LAYER_TYPE, layer) for layer in layers],
        **fields,
    }
    return put(registry, document, tag, repository)


def index(
    registry: EmbeddedRegistry, *children: tuple[str, dict[str, Any]], tag: str | None = None, **fields: Any
) -> str:
    """Put an index of ``children``, digests with further fields, into ``registry``, and give its digest."""
    manifests = []
    for digest, more in children:
        stored = registry._content.manifest(APP, digest)
        manifests.append({"mediaType": stored.media_type, "digest": digest, "size": len(stored.raw), **more})
    return put(registry, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **fields}, tag)


def on(architecture: str) -> dict[str, Any]:
    return {"platform": {"os": "linux", "architecture": architecture}}


def ref(registry: EmbeddedRegistry, name: str = f"{APP}:v1") -> str:
    return f"{registry.host}/{name}"


def same(source: EmbeddedRegistry, target: EmbeddedRegistry, digest: str, repository: str = APP) -> None:
    """Assert that the target has a manifest and everything below it, byte for byte."""
    ours, theirs = (registry._content.manifest(APP, digest) for registry in (source, source))
    theirs = target._content.manifest(repository, digest)
    assert (ours.raw, ours.media_type) == (theirs.raw, theirs.media_type)
    document = json.loads(ours.raw)
    for child in document.get("manifests", []):
        same(source, target, child["digest"], repository)
    for blob in [*document.get("layers", []), *([document["config"]] if "config" in document else [])]:
        if not blob.get("urls"):
            assert target._content.blob(repository, blob["digest"]) == source._content.blob(APP, blob["digest"])


def tagged(registry: EmbeddedRegistry, tag: str = "v1", repository: str = APP) -> str:
    return registry._content.manifest(repository, tag).digest


def has(registry: EmbeddedRegistry, selector: str) -> bool:
    try:
        registry._content.manifest(APP, selector)
    except Refusal:
        return False
    return True


def is_clean(registry: EmbeddedRegistry) -> bool:
    return not registry._endpoints._uploads._uploads


class TestWhatIsAsked:
    async def test_the_first_time(self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, b"one", LARGE, tag="v1")
        copied = await client.copy(ref(source), ref(target))
        same(source, target, digest)
        assert tagged(target) == digest
        source.assert_requests("HEAD manifest", "GET manifest", *["GET blob"] * 3, in_any_order=True)
        target.assert_requests(*["HEAD manifest"] * 2, *NEW * 3, "PUT manifest", in_any_order=True)
        assert target.summary()[-1] == "PUT manifest"
        assert copied.reference == Reference(target.host, APP, None, Digest.parse(digest))
        assert str(copied.descriptor.digest) == digest
        assert copied.sent == sum(blob.size for blob in copied.blobs) > len(LARGE)
        assert [str(one.digest) for one in copied.manifests] == [digest]
        assert copied.mounted == copied.skipped == copied.referrers == ()

    async def test_the_second_time_nothing_but_heads(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, b"one", LARGE, tag="v1")
        first = await client.copy(ref(source), ref(target))
        with source.recording() as asked, target.recording() as sent:
            second = await client.copy(ref(source), ref(target))
        asked.assert_requests("HEAD manifest")
        sent.assert_requests("HEAD manifest")
        assert (second.reference, second.sent, second.manifests) == (first.reference, 0, ())

    async def test_by_digest(self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, b"one", tag="v1")
        await client.copy(ref(source, f"{APP}@{digest}"), ref(target, f"{APP}@{digest}"))
        same(source, target, digest)
        assert target._content.tags(APP) == []
        target.assert_requests("HEAD manifest", *NEW * 2, "PUT manifest", in_any_order=True)

    async def test_a_tag_and_a_digest(self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, b"one", tag="v1")
        await client.copy(ref(source), ref(target, f"{APP}:v2@{digest}"))
        assert tagged(target, "v2") == digest

    async def test_without_a_tag_it_is_latest(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        digest = image(source, b"one", tag="v1")
        await client.copy(ref(source), ref(target, APP))
        assert tagged(target, "latest") == digest

    async def test_a_new_version_sends_what_is_new(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, LARGE, tag="v1")
        await client.copy(ref(source), ref(target))
        image(source, LARGE, b"two", tag="v1")
        with source.recording() as asked, target.recording() as sent:
            await client.copy(ref(source), ref(target))
        asked.assert_requests("HEAD manifest", "GET manifest", *["GET blob"] * 2, in_any_order=True)
        sent.assert_requests(*["HEAD manifest"] * 2, "HEAD blob", *NEW * 2, "PUT manifest", in_any_order=True)

    async def test_another_tag_of_the_same_is_a_put(self, source: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, LARGE, tag="v1")
        copied = await client.copy(ref(source), ref(source, f"{APP}:v2"))
        assert tagged(source, "v2") == digest
        source.assert_requests(*["HEAD manifest"] * 3, "GET manifest", "PUT manifest")
        assert copied.blobs == ()

    async def test_within_a_registry_blobs_are_mounted(self, source: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, LARGE, b"two", tag="v1")
        copied = await client.copy(ref(source), ref(source, "other/app:v1"))
        same(source, source, digest, "other/app")
        source.assert_requests(
            *["HEAD manifest"] * 3, "GET manifest", *["HEAD blob", "POST upload"] * 3, "PUT manifest", in_any_order=True
        )
        assert (len(copied.mounted), copied.blobs, copied.sent) == (3, (), 0)
        mounts = [request.query for request in source.requests if request.method == "POST"]
        assert f"mount={sha256(LARGE).replace(':', '%3A')}&from=acme%2Fapp" in mounts

    @pytest.mark.parametrize("status", [202, 403, 404])
    async def test_where_they_cant_be_they_are_sent(
        self, source: EmbeddedRegistry, client: Client, status: int
    ) -> None:
        async def refuse(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            if "mount" not in request.query:
                return None
            if status != 202:
                return web.Response(status=status)
            return web.Response(status=307, headers={"Location": request.path})

        digest = image(source, LARGE, tag="v1")
        source.intercept = refuse
        copied = await client.copy(ref(source), ref(source, "other/app:v1"))
        same(source, source, digest, "other/app")
        assert (copied.mounted, len(copied.blobs)) == ((), 2)

    async def test_what_is_embedded_isnt_asked_for(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        digest = publish(source, b"agents: {}\n", APP, inline=True)
        await client.copy(ref(source), ref(target))
        same(source, target, digest)
        assert source.count("GET blob") == 1, "the config isn't embedded"

    async def test_embedded_data_that_is_something_else_is_refused(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        layer = {**describe(LAYER_TYPE, b"right"), "data": base64.b64encode(b"wrong").decode()}
        image(source, tag="v1", layers=[layer])
        with pytest.raises(DigestMismatch):
            await client.copy(ref(source), ref(target))
        assert not target.count("PUT manifest")

    async def test_a_blob_that_occurs_twice_is_sent_once(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        one, two = image(source, LARGE, LARGE), image(source, LARGE, b"two")
        digest = index(source, (one, on("amd64")), (two, on("arm64")), (one, on("386")), tag="v1")
        await client.copy(ref(source), ref(target))
        same(source, target, digest)
        sent = [request.path for request in target.requests if str(request) == "HEAD blob"]
        assert len(sent) == len(set(sent)) == 4
        assert source.count("GET blob") == 4
        assert source.count("GET manifest") == 3

    async def test_a_docker_image(self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client) -> None:
        child = image(source, b"one", media_type=DOCKER_MANIFEST)
        digest = index(source, (child, on("amd64")), tag="v1", mediaType=DOCKER_INDEX)
        await client.copy(ref(source), ref(target))
        same(source, target, digest)

    async def test_an_artifact_with_nothing_in_it(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        source.add_blob(APP, b"")
        digest = image(source, tag="v1", config=describe("application/x", b""))
        await client.copy(ref(source), ref(target))
        same(source, target, digest)

    async def test_at_most_eight_large_blobs_at_once(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        under_way, most, full = 0, 0, asyncio.Event()

        async def count(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            nonlocal under_way, most
            if str(record) == "PUT upload" and int(request.headers["Content-Length"]) > 128 * 1024:
                under_way += 1
                most = max(most, under_way)
                if most == 8:
                    full.set()
                await full.wait()
                under_way -= 1
            return None

        image(source, *(b"%d" % number + bytes(200_000) for number in range(20)), tag="v1")
        target.intercept = count
        await client.copy(ref(source), ref(target))
        assert most == 8

    async def test_many_copies_at_once_dont_wait_for_each_other(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        """Each blob on its way holds a request, and may need a second one: there are never only first ones."""
        client = connect(concurrency=1000)
        digests = [
            image(
                source,
                *(b"%d %d" % (number, layer) + bytes(130_000 * (layer % 2)) for layer in range(10)),
                tag=f"v{number}",
            )
            for number in range(30)
        ]
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(client.copy, ref(source, f"{APP}:v{number}"), ref(target, f"{APP}:v{number}"))
        for number, digest in enumerate(digests):
            assert tagged(target, f"v{number}") == digest
            same(source, target, digest)


class TestIndex:
    async def test_whole_children_first_the_tag_last(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        one, two = image(source, b"one"), image(source, b"two")
        inner = index(source, (two, on("arm64")))
        attestation = image(source, b"says something")
        unknown = {
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        }
        digest = index(source, (one, on("amd64")), (inner, {}), (attestation, unknown), tag="v1")
        copied = await client.copy(ref(source), ref(target))
        same(source, target, digest)
        puts = [request.path.rpartition("/")[2] for request in target.requests if str(request) == "PUT manifest"]
        assert set(puts[:3]) == {one, two, attestation}
        assert puts[3:] == [inner, "v1"]
        assert {str(one.digest) for one in copied.manifests} == {one, two, inner, attestation, digest}

    async def test_children_that_are_there_arent_asked_for(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        one, two = image(source, b"one", tag="one"), image(source, b"two")
        index(source, (one, on("amd64")), (two, on("arm64")), tag="v1")
        await client.copy(ref(source, f"{APP}:one"), ref(target, f"{APP}:one"))
        with source.recording() as asked, target.recording() as sent:
            await client.copy(ref(source), ref(target))
        asked.assert_requests("HEAD manifest", *["GET manifest"] * 2, *["GET blob"] * 2, in_any_order=True)
        assert sent.count("PUT upload") == 2

    async def test_one_without_children(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        digest = index(source, tag="v1")
        await client.copy(ref(source), ref(target))
        assert tagged(target) == digest

    async def test_too_deep(self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, b"one")
        for _ in range(9):
            digest = index(source, (digest, {}), tag="v1")
        with pytest.raises(InvalidManifest, match="more than 8 levels"):
            await client.copy(ref(source), ref(target))
        assert target.count("PUT manifest", "PUT upload") == 0
        index(source, tag="v1")
        await client.copy(ref(source), ref(target))

    async def test_too_many(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lading.push.graph._MANIFESTS_LIMIT", 3)
        children: list[tuple[str, dict[str, Any]]] = [(image(source, b"%d" % number), {}) for number in range(3)]
        index(source, *children, tag="v1")
        with pytest.raises(InvalidManifest, match="more than 3 manifests"):
            await client.copy(ref(source), ref(target))
        monkeypatch.setattr("lading.push.graph._BLOBS_LIMIT", 3)
        index(source, *children[:2], tag="v1")
        with pytest.raises(InvalidManifest, match="more than 3 blobs"):
            await client.copy(ref(source), ref(target))
        monkeypatch.setattr("lading.push.graph._BYTES_LIMIT", 1000)
        with pytest.raises(InvalidManifest, match="too many bytes"):
            await client.copy(ref(source), ref(target))
        assert target.count("PUT manifest", "PUT upload") == 0

    async def test_a_child_that_isnt_a_manifest(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        index(source, (image(source), {"mediaType": "application/x"}), tag="v1")
        with pytest.raises(InvalidManifest, match="not a manifest: application/x"):
            await client.copy(ref(source), ref(target))

    async def test_a_child_of_another_size_or_kind(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        index(source, (image(source), {"size": 5}), tag="v1")
        with pytest.raises(SizeMismatch):
            await client.copy(ref(source), ref(target))
        index(source, (image(source), {"mediaType": OCI_INDEX}), tag="v1")
        with pytest.raises(InvalidManifest):
            await client.copy(ref(source), ref(target))
        assert target.count("PUT manifest", "PUT upload") == 0

    async def test_a_child_that_is_missing_at_the_source(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        child = image(source, b"one")
        index(source, (child, {}), tag="v1")
        source.remove_manifest(APP, child)
        with pytest.raises(NotFound, match=child):
            await client.copy(ref(source), ref(target))


class TestPlatform:
    @pytest.fixture
    def images(self, source: EmbeddedRegistry) -> dict[str, str]:
        images = {name: image(source, name.encode()) for name in ("amd64", "arm64")}
        index(source, *((digest, on(name)) for name, digest in images.items()), tag="v1")
        return images

    async def test_the_image_becomes_the_tag(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, images: dict[str, str]
    ) -> None:
        copied = await client.copy(ref(source), ref(target), platform="linux/arm64")
        assert tagged(target) == images["arm64"] == str(copied.descriptor.digest)
        same(source, target, images["arm64"])
        assert not has(target, images["amd64"])
        with source.recording() as asked, target.recording() as sent:
            await client.copy(ref(source), ref(target), platform="linux/arm64")
        asked.assert_requests("HEAD manifest", "GET manifest")
        sent.assert_requests("HEAD manifest")

    async def test_several_are_refused(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, images: dict[str, str]
    ) -> None:
        with pytest.raises(InvalidPlatform, match="choose one platform, or none"):
            await client.copy(ref(source), ref(target), platform=["linux/arm64", "linux/amd64"])
        assert target.requests == []

    async def test_several_that_mean_the_same_image(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, images: dict[str, str]
    ) -> None:
        await client.copy(ref(source), ref(target), platform=["linux/arm64", "linux/arm64/v8"])
        assert tagged(target) == images["arm64"]

    async def test_none_for_it(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, images: dict[str, str]
    ) -> None:
        with pytest.raises(InvalidManifest, match=r"nothing in it is for linux/s390x.*linux/amd64, linux/arm64"):
            await client.copy(ref(source), ref(target), platform="linux/s390x")
        assert target.requests == []

    async def test_in_an_index_in_an_index(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, images: dict[str, str]
    ) -> None:
        inner = source._content.manifest(APP, "v1").digest
        index(source, (inner, {}), tag="outer")
        await client.copy(ref(source, f"{APP}:outer"), ref(target), platform="linux/amd64")
        assert tagged(target) == images["amd64"]

    async def test_what_isnt_an_index_is_copied(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        digest = image(source, b"one", tag="v1")
        await client.copy(ref(source), ref(target), platform="linux/arm64")
        assert tagged(target) == digest

    async def test_what_isnt_a_platform(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        with pytest.raises(InvalidPlatform):
            await client.copy(ref(source), ref(target), platform="/")


FOREIGN = {**describe(LAYER_TYPE, b"licensed"), "urls": ["https://foreign.example/layer"]}


class TestForeignLayers:
    async def test_what_the_source_doesnt_have_is_left_out(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        digest = image(source, tag="v1", layers=[FOREIGN])
        copied = await client.copy(ref(source), ref(target))
        assert tagged(target) == digest
        assert [str(one.digest) for one in copied.skipped] == [sha256(b"licensed")]
        assert "is a foreign layer" in caplog.text
        assert source.count("HEAD blob") == 1

    async def test_what_it_has_is_copied(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, tag="v1", layers=[FOREIGN])
        source.add_blob(APP, b"licensed")
        copied = await client.copy(ref(source), ref(target))
        assert copied.skipped == ()
        assert target._content.blob(APP, sha256(b"licensed")) == b"licensed"

    async def test_another_layer_that_is_missing_is_an_error(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, tag="v1", layers=[describe(LAYER_TYPE, b"licensed")])
        with pytest.raises(NotFound, match=f"{source.host}/{APP}: blob {sha256(b'licensed')}"):
            await client.copy(ref(source), ref(target))
        assert not target.count("PUT manifest")
        assert is_clean(target)


def refers(registry: EmbeddedRegistry, subject: str, content: bytes = b"says", **fields: Any) -> str:
    raw = registry._content.manifest(APP, subject)
    descriptor = {"mediaType": raw.media_type, "digest": subject, "size": len(raw.raw)}
    return image(registry, content, **{"subject": descriptor, "artifactType": SBOM, **fields})


def listed(registry: EmbeddedRegistry, subject: str) -> list[dict[str, Any]]:
    raw = registry._content.manifest(APP, subject.replace(":", "-")).raw
    manifests: list[dict[str, Any]] = json.loads(raw)["manifests"]
    return manifests


class TestReferrers:
    async def test_only_when_they_are_asked_for(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        refers(source, image(source, b"one", tag="v1"))
        await client.copy(ref(source), ref(target))
        assert source.count("GET referrers") == 0
        assert target.count("PUT manifest") == 1

    async def test_of_everything_that_is_copied_and_of_themselves(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        child = image(source, b"one")
        root = index(source, (child, on("amd64")), tag="v1")
        found = [refers(source, child), refers(source, root)]
        found.append(refers(source, found[1], b"signs the sbom"))
        copied = await client.copy(ref(source), ref(target), referrers=True)
        for one in (root, *found):
            same(source, target, one)
        assert {str(one.digest) for one in copied.referrers} == set(found)
        puts = [request.path.rpartition("/")[2] for request in target.requests if str(request) == "PUT manifest"]
        assert puts[-1] == "v1", "whoever sees the tag sees the signatures"
        assert puts.index(root) < puts.index(found[1]) < puts.index(found[2])
        assert [str(one.digest) async for one in client.referrers(ref(target))] == [found[1]]

    async def test_the_second_time_nothing_is_sent(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        refers(source, image(source, b"one", tag="v1"))
        await client.copy(ref(source), ref(target), referrers=True)
        with source.recording() as asked, target.recording() as sent:
            copied = await client.copy(ref(source), ref(target), referrers=True)
        asked.assert_requests("HEAD manifest", *["GET referrers"] * 2)
        sent.assert_requests(*["HEAD manifest"] * 3, "GET referrers")
        assert (copied.manifests, len(copied.referrers)) == ((), 1)

    async def test_new_ones_of_what_is_there(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        root = image(source, LARGE, tag="v1")
        await client.copy(ref(source), ref(target))
        late = refers(source, root)
        with target.recording() as sent:
            await client.copy(ref(source), ref(target), referrers=True)
        same(source, target, late)
        assert sent.count("PUT manifest") == 1

    async def test_without_the_list_at_the_source(self, target: EmbeddedRegistry, client: Client) -> None:
        async with EmbeddedRegistry(referrers=False) as source:
            root = image(source, b"one", tag="v1")
            late = refers(source, root)
            entry = {"mediaType": OCI_MANIFEST, "digest": late, "size": len(source._content.manifest(APP, late).raw)}
            put(source, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}, root.replace(":", "-"))
            await client.copy(ref(source), ref(target), referrers=True)
            same(source, target, late)
        assert [str(one.digest) async for one in client.referrers(ref(target))] == [late]
        assert target._content.tags(APP) == ["v1"]

    async def test_without_it_at_the_target_a_tag_is_kept_up(self, source: EmbeddedRegistry, client: Client) -> None:
        root = image(source, b"one", tag="v1")
        first = refers(source, root, annotations={"k": "v"})
        async with EmbeddedRegistry(referrers=False) as target:
            await client.copy(ref(source), ref(target), referrers=True)
            same(source, target, first)
            size = len(source._content.manifest(APP, first).raw)
            entry = {"mediaType": OCI_MANIFEST, "digest": first, "size": size, "artifactType": SBOM}
            assert listed(target, root) == [{**entry, "annotations": {"k": "v"}}]
            assert [str(one.digest) async for one in client.referrers(ref(target))] == [first]
            puts = [request.path.rpartition("/")[2] for request in target.requests if str(request) == "PUT manifest"]
            assert puts == [root, first, root.replace(":", "-"), "v1"]
            # What is listed there stays, and nothing is listed twice.
            second = refers(source, root, b"another")
            await client.copy(ref(source), ref(target), referrers=True)
            assert [one["digest"] for one in listed(target, root)] == [first, second]
            with target.recording() as sent:
                await client.copy(ref(source), ref(target), referrers=True)
            assert sent.count("PUT manifest") == 0

    async def test_a_list_that_an_earlier_copy_didnt_get_to_is_made_up_for(
        self, source: EmbeddedRegistry, client: Client
    ) -> None:
        root = image(source, b"one", tag="v1")
        late = refers(source, root)
        async with EmbeddedRegistry(referrers=False) as target:
            target.faults.add(Status(400), on="PUT manifest", path=f"*{root.replace(':', '-')}")
            with pytest.raises(RegistryError):
                await client.copy(ref(source), ref(target), referrers=True)
            await client.copy(ref(source), ref(target), referrers=True)
            assert [one["digest"] for one in listed(target, root)] == [late]

    async def test_a_copied_referrer_is_listed_where_it_goes(self, source: EmbeddedRegistry, client: Client) -> None:
        late = refers(source, image(source, b"one", tag="v1"), tag="sbom")
        async with EmbeddedRegistry(referrers=False) as target:
            await client.copy(ref(source, f"{APP}:sbom"), ref(target, f"{APP}:sbom"))
            assert [one["digest"] for one in listed(target, tagged(source))] == [late]

    async def test_a_tag_that_stands_for_something_else_isnt_overwritten(
        self, source: EmbeddedRegistry, client: Client
    ) -> None:
        root = image(source, b"one", tag="v1")
        refers(source, root)
        async with EmbeddedRegistry(referrers=False) as target:
            other = image(target, b"other", tag=root.replace(":", "-"))
            with pytest.raises(LadingError, match="not a list"):
                await client.copy(ref(source), ref(target), referrers=True)
            assert tagged(target, root.replace(":", "-")) == other

    async def test_what_only_is_said_to_refer_is_left_out(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        root, liar = image(source, b"one", tag="v1"), image(source, b"refers to nothing")
        real = refers(source, root)
        entries = [
            {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(source._content.manifest(APP, digest).raw)}
            for digest in (liar, real, root)
        ] + [{"mediaType": "application/x", "digest": sha256(b""), "size": 0}]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}

        async def lie(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            if record.kind != "referrers" or not request.path.endswith(root):
                return None
            return web.Response(body=json.dumps(document).encode(), content_type=OCI_INDEX)

        source.intercept = lie
        copied = await client.copy(ref(source), ref(target), referrers=True)
        assert [str(one.digest) for one in copied.referrers] == [real]
        assert f"{liar} doesn't refer to {root}" in caplog.text
        assert not has(target, liar)

    async def test_a_chain_of_them_ends(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        one = image(source, b"one", tag="v1")
        for number in range(9):
            one = refers(source, one, b"%d" % number)
        with pytest.raises(InvalidManifest, match="more than 8 levels"):
            await client.copy(ref(source), ref(target), referrers=True)
        assert not target.count("PUT manifest")


class TestRefusals:
    async def test_the_source_doesnt_exist(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        with pytest.raises(NotFound, match=f"{source.host}/acme/app:v1"):
            await client.copy(ref(source), ref(target))
        assert target.requests == []

    async def test_source_and_target_are_the_same(self, source: EmbeddedRegistry, client: Client) -> None:
        digest = image(source, tag="v1")
        for one, other in ((f"{APP}:v1", f"{APP}:v1"), (f"{APP}:latest", APP), (f"{APP}@{digest}",) * 2):
            with pytest.raises(InvalidReference, match="are the same"):
                await client.copy(ref(source, one), ref(source, other))
        assert source.requests == []

    async def test_the_target_names_another_digest(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        digest = image(source, tag="v1")
        with pytest.raises(InvalidReference, match=f"this is {digest}"):
            await client.copy(ref(source), ref(target, f"{APP}@{sha256(b'other')}"))
        assert target.requests == []

    async def test_offline(self, connect: Callable[..., Client]) -> None:
        with pytest.raises(Offline, match="copy"):
            await connect(offline=True).copy("acme/app", "acme/other")

    async def test_a_target_that_may_not_be_written_says_what_was_needed(
        self, source: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        image(source, b"one", tag="v1")
        async with EmbeddedRegistry(profile=PROFILES["ghcr"], users={"ada": "secret"}) as target:
            with pytest.raises(LadingError, match=f"{target.host}"):
                await connect().copy(ref(source), ref(target))

    @pytest.mark.parametrize("on", ["HEAD manifest", "HEAD blob", "POST upload", "PUT upload", "PUT manifest"])
    async def test_a_403_at_any_step_names_the_scopes(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, on: str
    ) -> None:
        image(source, b"one", tag="v1")
        target.faults.add(Status(403), on=on, times=None)
        with pytest.raises(Denied, match=rf"{target.host}/acme/app.*repository:acme/app:pull,push"):
            await client.copy(ref(source), ref(target))
        assert is_clean(target)

    async def test_a_manifest_that_isnt_one(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        source.add_manifest(APP, b"<html>", OCI_MANIFEST, "v1")
        with pytest.raises(InvalidManifest):
            await client.copy(ref(source), ref(target))

    async def test_what_is_served_as_something_else_is_refused(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, b"one", tag="v1")
        raw = source._content.manifest(APP, "v1").raw

        async def mislabel(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            if str(record) != "GET manifest":
                return None
            return web.Response(body=raw, content_type=OCI_INDEX)

        source.intercept = mislabel
        with pytest.raises(InvalidManifest):
            await client.copy(ref(source), ref(target))
        assert not target.count("PUT manifest")

    async def test_a_manifest_of_another_digest_is_refused(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, b"one", tag="v1")
        source.faults.add(WrongBytes(), on="GET manifest")
        with pytest.raises(DigestMismatch):
            await client.copy(ref(source), ref(target))
        assert not target.count("PUT manifest")


async def _copied(
    source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client, *layers: bytes
) -> tuple[Delivered, str]:
    digest = image(source, *layers, tag="v1")
    copied = await client.copy(ref(source), ref(target))
    same(source, target, digest)
    assert tagged(target) == digest
    assert is_clean(target)
    return copied, digest


def cut(registry: EmbeddedRegistry, after: int, *, on: str = "PUT upload", number: int = 1) -> None:
    """Let the connection be reset after some bytes of the body of the request of this number that is longer."""
    seen = 0

    async def reset(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        nonlocal seen
        if str(record) != on or int(request.headers.get("Content-Length", 0)) <= after:
            return None
        seen += 1
        if seen != number:
            return None
        await request.content.readexactly(after)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    registry.intercept = reset


class TestFaults:
    async def test_a_reset_in_the_middle_of_a_put(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client
    ) -> None:
        cut(target, 300_000)
        await _copied(source, target, patient, LARGE)
        assert target.count("PUT upload") == 3
        assert target.count("GET upload") == 1

    @pytest.mark.parametrize(
        "fault", [Reset(), Close(), AnswerLost(), Status(500), Status(503, 0), Status(429, 0)], ids=str
    )
    @pytest.mark.parametrize("on", ["HEAD manifest", "HEAD blob", "POST upload", "PUT upload", "PUT manifest"])
    async def test_what_passes_at_the_target(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client, on: str, fault: Any
    ) -> None:
        target.faults.add(fault, on=on, skip=1 if on != "PUT manifest" else 0)
        digest = image(source, LARGE, b"two", tag="v1")
        await patient.copy(ref(source), ref(target))
        same(source, target, digest)
        assert tagged(target) == digest

    async def test_an_answer_to_a_put_that_is_lost(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client
    ) -> None:
        target.faults.add(AnswerLost(), on="PUT upload")
        await _copied(source, target, patient, LARGE)
        assert target.count("PUT upload") == 2, "nothing was sent twice"

    @pytest.mark.parametrize("after", [0, 1, 300_000, len(LARGE) - 1])
    @pytest.mark.parametrize("fault", [Reset, Close])
    async def test_a_source_that_breaks_off_is_gone_on_with(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client, fault: Any, after: int
    ) -> None:
        source.faults.add(fault(after), on="GET blob", path=f"*{sha256(LARGE)}", times=2)
        await _copied(source, target, patient, LARGE)
        assert target.count("PUT upload") == 2, "the other side didn't notice"
        ranges = [request.headers.get("Range") for request in source.requests if request.path.endswith(sha256(LARGE))]
        assert ranges[0] is None
        assert source.count("GET blob") == (3 if 2 * after >= len(LARGE) else 4)

    @pytest.mark.parametrize("fault", [RangeIgnored(), Status(503, 0)], ids=str)
    async def test_also_where_that_fails(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client, fault: Any
    ) -> None:
        source.faults.add(Reset(300_000), on="GET blob", path=f"*{sha256(LARGE)}")
        source.faults.add(fault, on="GET blob", path=f"*{sha256(LARGE)}")
        await _copied(source, target, patient, LARGE)

    async def test_a_source_that_goes_on_breaking_off(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client
    ) -> None:
        source.faults.add(Reset(0), on="GET blob", path=f"*{sha256(LARGE)}", times=None)
        image(source, LARGE, tag="v1")
        with pytest.raises(BodyInterrupted, match=source.host):
            await patient.copy(ref(source), ref(target))
        assert not target.count("PUT manifest")
        assert is_clean(target)
        assert source.count("GET blob") <= 1 + 4

    async def test_a_source_that_says_that_it_is_shorter(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client
    ) -> None:
        source.faults.add(ShortBody(1000), on="GET blob", path=f"*{sha256(LARGE)}")
        await _copied(source, target, patient, LARGE)

    @pytest.mark.parametrize("at", [0, 500_000, len(LARGE) - 1])
    async def test_wrong_bytes_are_an_error_and_dont_get_there(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client, at: int
    ) -> None:
        source.faults.add(WrongBytes(at), on="GET blob", path=f"*{sha256(LARGE)}", times=None)
        image(source, LARGE, tag="v1")
        with pytest.raises(DigestMismatch, match=sha256(LARGE)):
            await patient.copy(ref(source), ref(target))
        assert not target.count("PUT manifest")
        assert target._content.blob_size(APP, sha256(LARGE)) is None
        assert is_clean(target)

    async def test_a_blob_that_is_larger_than_it_should_be(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, tag="v1", layers=[{**describe(LAYER_TYPE, LARGE), "size": 1000}])
        source.add_blob(APP, LARGE)
        with pytest.raises(SizeMismatch):
            await client.copy(ref(source), ref(target))
        assert is_clean(target)

    async def test_a_token_that_expires_on_the_way(
        self, source: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        credentials = {}
        async with EmbeddedRegistry(profile=PROFILES["harbor"], users={"ada": "secret"}) as target:
            expired = False

            async def expire(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
                nonlocal expired
                if str(record) == "PUT upload" and not expired:
                    expired = True
                    target.expire_tokens()
                return None

            target.intercept = expire
            credentials[target.host] = Credential("ada", "secret")
            client = connect(credentials=StaticCredentials(credentials), retry=AGAIN)
            await _copied(source, target, client, LARGE, b"two")
            assert 3 < target.count("PUT upload") <= 6, "three blobs, those twice that were under way"
            assert target.token_requests == 2
            assert target.count("POST upload") == 3, "in the same upload"

    @pytest.mark.parametrize("name", [name for name in PROFILES if name != "plain"])
    async def test_from_and_to_registries_of_every_kind(self, connect: Callable[..., Client], name: str) -> None:
        users = {"ada": "secret"}
        async with (
            EmbeddedRegistry(profile=PROFILES[name], users=users) as source,
            EmbeddedRegistry(profile=PROFILES[name], users=users) as target,
        ):
            credential = Credential("ada", "secret")
            client = connect(credentials=StaticCredentials({source.host: credential, target.host: credential}))
            one, two = image(source, LARGE), image(source, b"two")
            digest = index(source, (one, on("amd64")), (two, on("arm64")), tag="v1")
            await client.copy(ref(source), ref(target))
            same(source, target, digest)
            assert tagged(target) == digest
            if PROFILES[name].authentication == "bearer":
                assert (source.token_requests, target.token_requests) == (1, 1)
            with target.recording() as sent:
                await client.copy(ref(source), ref(source, "other/app:v1"))
                await client.copy(ref(source), ref(target))
            assert sent.count("PUT upload", "POST upload") == 0
            for origin in (source, target):
                assert all(seen.origin in (origin.url, _token_url(origin)) for seen in origin.credentials)

    async def test_a_registry_that_wants_chunks(
        self, source: EmbeddedRegistry, patient: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lading.registry.chunks.PIECE", 200_000)
        async with EmbeddedRegistry(chunk_min_length=300_000) as target:
            await _copied(source, target, patient, LARGE, b"two")
            pieces = [request.headers["Content-Range"] for request in target.requests if request.method == "PATCH"]
            assert pieces == ["0-299999", "300000-599999", "600000-899999", f"900000-{len(LARGE) - 1}"]
            assert source.count("GET blob") == 3, "the source was read once"

    @pytest.mark.parametrize(("number", "uploads"), [(1, 3), (2, 2)])
    async def test_a_reset_in_the_middle_of_a_chunk(
        self,
        source: EmbeddedRegistry,
        patient: Client,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        uploads: int,
    ) -> None:
        """Where nothing was there yet another upload is begun, else the one that there is is gone on with."""
        monkeypatch.setattr("lading.registry.chunks.PIECE", 400_000)
        async with EmbeddedRegistry(chunk_min_length=300_000) as target:
            cut(target, 200_000, on="PATCH upload", number=number)
            await _copied(source, target, patient, LARGE)
            assert (target.count("POST upload"), target.count("PATCH upload")) == (uploads, 4)

    async def test_a_registry_that_takes_no_large_bodies(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def too_large(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            # As nginx does, by the Content-Length alone.
            return web.Response(status=413) if int(request.headers.get("Content-Length", 0)) > 150_000 else None

        monkeypatch.setattr("lading.registry.chunks.PIECE", 256 * 1024)
        target.intercept = too_large
        await _copied(source, target, patient, LARGE)
        pieces = [request for request in target.requests if request.method == "PATCH" and request.status == 202]
        assert len(pieces) == 8

    async def test_a_target_that_stalls(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        image(source, LARGE, tag="v1")
        target.faults.add(Stall(), on="PUT upload", path="*", times=None)
        client = connect(timeouts=Timeouts(first_byte=0.3))
        with pytest.raises(TimedOut):
            await client.copy(ref(source), ref(target))

    async def test_a_source_that_stalls(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        source.faults.add(Stall(100_000), on="GET blob", path=f"*{sha256(LARGE)}")
        client = connect(timeouts=Timeouts(stall=0.3), retry=AGAIN)
        await _copied(source, target, client, LARGE)

    async def test_mirrors_of_the_source_supply_its_blobs(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        async with EmbeddedRegistry() as mirror:
            hosts = HostsConfig({source.host: RegistryHosts(Host(source.url), (Host(mirror.url),))})
            mirror.add_blob(APP, LARGE)
            mirror.faults.add(Reset(100_000), on="GET blob", path=f"*{sha256(LARGE)}")
            await _copied(source, target, connect(hosts=hosts, retry=AGAIN), LARGE)
            ranges = [
                request.headers.get("Range") for request in source.requests if request.path.endswith(sha256(LARGE))
            ]
            assert ranges == ["bytes=100000-"], "what it broke off, the registry itself continued"

    async def test_a_dead_target(self, source: EmbeddedRegistry, client: Client) -> None:
        async with EmbeddedRegistry() as target:
            pass
        image(source, b"one", tag="v1")
        with pytest.raises(ConnectFailed, match=target.host):
            await client.copy(ref(source), ref(target))

    @pytest.mark.parametrize("seed", range(5))
    async def test_by_chance(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, patient: Client, seed: int
    ) -> None:
        faults: list[Fault] = [Reset(), Reset(1000), Close(), AnswerLost(), Status(500), Status(503, 0)]
        one, two = image(source, LARGE, b"x"), image(source, b"two", LARGE + b"2")
        digest = index(source, (one, on("amd64")), (two, on("arm64")), tag="v1")
        for registry in (source, target):
            registry.faults.chaos(seed=seed, rate=0.15, faults=faults)
        for _ in range(20):
            try:
                await patient.copy(ref(source), ref(target))
            except LadingError:
                continue
            break
        same(source, target, digest)
        assert tagged(target) == digest


def _token_url(registry: EmbeddedRegistry) -> str:
    try:
        return registry.token_url
    except RuntimeError:
        return ""


STEPS = [
    ("source", "HEAD manifest", None, 1),
    ("source", "GET manifest", None, 1),
    ("source", "GET blob", 0, 3),
    ("source", "GET blob", 300_000, 1),
    ("target", "HEAD manifest", None, 1),
    ("target", "HEAD blob", None, 3),
    ("target", "POST upload", None, 3),
    ("target", "PUT upload", None, 3),
    ("target", "PUT manifest", None, 1),
]
"""Where a copy hangs: which request, after how many bytes of the answer, and how many do."""


class TestCancellation:
    @pytest.mark.parametrize(("where", "step", "after", "hanging"), STEPS)
    async def test_it_leaves_nothing(
        self,
        source: EmbeddedRegistry,
        target: EmbeddedRegistry,
        client: Client,
        where: str,
        step: str,
        after: int | None,
        hanging: int,
    ) -> None:
        registry = source if where == "source" else target
        image(source, LARGE, b"two", tag="v1")
        registry.faults.add(Stall(after), on=step, times=None, path=f"*{sha256(LARGE)}" if after else None)
        async with anyio.create_task_group() as group:
            group.start_soon(client.copy, ref(source), ref(target))
            await _until(lambda: len(registry.faults.applied) == hanging)
            # What an upload is called isn't known before the answer to its POST has come.
            if registry is source:
                await _until(lambda: all(request.status for request in target.requests if request.method != "PUT"))
            group.cancel_scope.cancel()
        await _until(lambda: is_clean(target))
        await _until(lambda: len(_tasks()) == 1)
        network = client._rooms._network
        assert network is not None
        assert network._session._slots.value == 100
        gc.collect()
        assert not has(target, "v1")
        registry.faults.clear()
        await client.copy(ref(source), ref(target))

    async def test_the_upload_is_cancelled_at_the_registry(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        image(source, LARGE, tag="v1")
        source.faults.add(Stall(300_000), on="GET blob", path=f"*{sha256(LARGE)}")
        async with anyio.create_task_group() as group:
            group.start_soon(client.copy, ref(source), ref(target))
            await _until(lambda: target.count("PUT upload") == 2 and bool(source.faults.applied))
            group.cancel_scope.cancel()
        assert target.count("DELETE upload") == 1

    async def test_closing_the_client_ends_a_copy(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        image(source, LARGE, tag="v1")
        source.faults.add(Stall(300_000), on="GET blob", path=f"*{sha256(LARGE)}")
        client = connect()
        failures: list[LadingError] = []

        async def copy() -> None:
            try:
                await client.copy(ref(source), ref(target))
            except LadingError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(copy)
            await _until(lambda: target.count("PUT upload") == 2 and bool(source.faults.applied))
            await client.aclose()
        assert len(failures) == 1


def _tasks() -> list[str]:
    """The tasks there are, but for those that serve the registries' connections, and the client's own one."""
    tasks = asyncio.all_tasks()
    return [str(task) for task in tasks if "RequestHandler" not in str(task) and task.get_name() != "lading flights"]


async def _until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not is_so():  # noqa: ASYNC110
            await anyio.sleep(0.005)


class TestTheStore:
    async def test_nothing_of_it_is_kept(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, store: Store, client: Client
    ) -> None:
        digest = image(source, LARGE, b"two", tag="v1")
        await client.copy(ref(source), ref(target))
        for registry in (source, target):
            name = f"{registry.host}/{APP}"
            for one in (digest, sha256(LARGE), sha256(b"two")):
                assert type(store.read(name, Digest.parse(one))).__name__ == "Absent"

    async def test_a_tag_that_was_moved_isnt_fresh_any_more(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        publish(target, b"agents: {old: {}}\n", APP)
        publish(source, b"agents: {new: {}}\n", APP)
        assert (await client.pull_agent(ref(target), max_age=3600)).content == b"agents: {old: {}}\n"
        await client.copy(ref(source), ref(target))
        assert (await client.pull_agent(ref(target), max_age=3600)).content == b"agents: {new: {}}\n"
        assert (await client.pull_agent(ref(target), max_age=3600)).origin == "fresh"
        await client.copy(ref(source), ref(target))
        assert (await client.pull_agent(ref(target), max_age=3600)).origin == "fresh", "it wasn't moved"

    async def test_a_store_that_cant_be_written_doesnt_matter(
        self, source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        class Broken(MemoryStore):
            def resolve(self, reference: Reference) -> Any:
                from lading.errors import StoreCorrupted

                raise StoreCorrupted("broken")

        digest = image(source, b"one", tag="v1")
        await connect(Broken()).copy(ref(source), ref(target))
        assert tagged(target) == digest


async def test_however_large_little_of_it_is_in_memory(client: Client, tmp_path: Path) -> None:
    huge = LARGE * 64
    one, other = (DirectoryContent(tmp_path / name) for name in ("source", "target"))
    async with EmbeddedRegistry(content=one) as source, EmbeddedRegistry(content=other) as target:
        image(source, huge, tag="v1")
        tracemalloc.start()
        try:
            copied = await client.copy(ref(source), ref(target))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert copied.sent > len(huge)
    assert peak < 16 * 1024 * 1024, "of 64 MiB, both registries and the client together"


async def test_progress(source: EmbeddedRegistry, target: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
    events: list[Event] = []
    image(source, LARGE, tag="v1")
    client = connect(events=events.append)
    await client.copy(ref(source), ref(target))
    told = [event for event in events if isinstance(event, BlobProgress) and event.size == len(LARGE)]
    assert {(event.reference, event.digest) for event in told} == {(ref(target), sha256(LARGE))}
    assert [event.received for event in told] == sorted(event.received for event in told)
    assert (told[0].received, told[-1].received) == (0, len(LARGE))
    expected = [event for event in events if isinstance(event, BlobExpected)]
    assert (len(expected), BlobExpected(ref(target), sha256(LARGE), len(LARGE)) in expected) == (2, True)
    assert events.index(expected[-1]) < events.index(told[0]), "the whole is known before any of it moves"
    events.clear()
    await client.copy(ref(source), ref(target))
    assert not any(isinstance(event, BlobExpected | BlobProgress) for event in events)
    image(source, LARGE, b"new", tag="v1")
    await client.copy(ref(source), ref(target))
    told = [event for event in events if isinstance(event, BlobProgress) and event.size == len(LARGE)]
    assert [event.received for event in told] == [len(LARGE)], "it is there already"


class Shelf:
    """Another source than a registry: what is in a dictionary."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.error: Exception | None = None

    def add(self, data: bytes) -> str:
        self.content[sha256(data)] = data
        return sha256(data)

    async def manifest(self, descriptor: Any) -> bytes:
        return self.content[str(descriptor.digest)]

    async def has(self, blob: Any) -> bool:
        return str(blob.digest) in self.content

    async def open(self, blob: Any, start: int = 0) -> AsyncIterator[bytes]:
        content = self.content[str(blob.digest)]
        for position in range(start, len(content), 100_000):
            yield content[position : position + 100_000]
            if self.error is not None:
                raise self.error


class TestAnySource:
    @pytest.fixture
    def shelf(self) -> Shelf:
        return Shelf()

    async def _push(self, client: Client, shelf: Shelf, target: EmbeddedRegistry, raw: bytes) -> Delivered:
        from lading.oci.descriptor import Descriptor

        descriptor = Descriptor(OCI_MANIFEST, Digest.parse(shelf.add(raw)), len(raw))
        pusher = client._rooms.open().copier._pusher
        return await pusher.push(shelf, descriptor, Reference.parse(ref(target)))

    def _raw(self, shelf: Shelf, **fields: Any) -> bytes:
        shelf.add(LARGE)
        shelf.add(b"{}")
        document = {
            "schemaVersion": 2,
            "config": describe(CONFIG_TYPE, b"{}"),
            "layers": [describe(LAYER_TYPE, LARGE)],
            **fields,
        }
        return json.dumps(document).encode()

    async def test_it_is_pushed_whole(self, client: Client, shelf: Shelf, target: EmbeddedRegistry) -> None:
        pushed = await self._push(client, shelf, target, self._raw(shelf))
        assert tagged(target) == str(pushed.descriptor.digest)
        assert target._content.blob(APP, sha256(LARGE)) == LARGE

    @pytest.mark.parametrize("error", [OSError(5, "the disk"), KeyError("lost"), LadingError("anything")])
    async def test_what_it_raises_is_raised(
        self, client: Client, shelf: Shelf, target: EmbeddedRegistry, error: Exception
    ) -> None:
        shelf.error = error
        with pytest.raises(type(error)) as caught:
            await self._push(client, shelf, target, self._raw(shelf))
        assert caught.value is error
        assert is_clean(target)
        assert not target.count("PUT manifest")

    async def test_what_it_has_wrong_is_found_out(self, client: Client, shelf: Shelf, target: EmbeddedRegistry) -> None:
        raw = self._raw(shelf)
        shelf.content[sha256(LARGE)] = b"x" + LARGE[1:]
        with pytest.raises(DigestMismatch):
            await self._push(client, shelf, target, raw)
        shelf.content[sha256(LARGE)] = LARGE[1:]
        with pytest.raises(SizeMismatch):
            await self._push(client, shelf, target, raw)

    async def test_a_manifest_that_is_wrong(self, client: Client, shelf: Shelf, target: EmbeddedRegistry) -> None:
        raw = self._raw(shelf)

        async def other(descriptor: Any) -> bytes:
            return raw + b" "

        shelf.manifest = other  # type: ignore[method-assign]
        with pytest.raises(DigestMismatch):
            await self._push(client, shelf, target, raw)
        assert not target.count("PUT manifest", "POST upload")
