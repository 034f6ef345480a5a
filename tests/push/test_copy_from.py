"""Copying what is here already: from OCI layouts, and from what the store holds of the source."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from artifacts import MANIFEST, manifest, publish, sha256
from layouts import HandMade, image

from lading import Client, LocalStore, MemoryStore, Reference, Store
from lading.errors import (
    DigestMismatch,
    InvalidManifest,
    InvalidReference,
    LadingError,
    NotFound,
    SizeMismatch,
    StoreError,
)
from lading.events import BlobProgress, Event
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.push.layout import LayoutSource
from lading.store.store import Absent, Corrupt, Intact
from lading.testing import EmbeddedRegistry
from lading.testing.faults import Bandwidth

LARGE = random.Random(20).randbytes(3 * 1024 * 1024)
APP = "acme/app"

Connect = Callable[..., Client]


@pytest.fixture
async def target() -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry() as target:
        yield target


def ref(registry: EmbeddedRegistry, selector: str = ":v1") -> str:
    return f"{registry.host}/{APP}{selector}"


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def tagged(registry: EmbeddedRegistry) -> str:
    return registry._content.manifest(APP, "v1").digest


def written(made: HandMade, directory: Path, kind: str) -> Path:
    return Path(made.write(directory / "made") if kind == "directory" else made.tar(directory / "made.tar"))


@pytest.mark.parametrize("kind", ["directory", "tar"])
class TestALayout:
    async def test_its_image(self, target: EmbeddedRegistry, client: Client, tmp_path: Path, kind: str) -> None:
        made = image(b"small", LARGE)
        path = written(made, tmp_path, kind)
        copied = await client.copy(path, ref(target))
        assert tagged(target) == str(copied.descriptor.digest) == made.entries[0]["digest"]
        for layer in (b"small", LARGE):
            assert target._content.blob(APP, sha256(layer)) == layer
        assert target.summary()[-1] == "PUT manifest"
        again = await client.copy(path, ref(target))
        assert (again.manifests, again.sent) == ((), 0)

    async def test_one_of_several(self, target: EmbeddedRegistry, client: Client, tmp_path: Path, kind: str) -> None:
        made = HandMade()
        first, second = (made.list(made.manifest(layer), name) for layer, name in ((b"1", "v1"), (b"2", "v2")))
        path = written(made, tmp_path, kind)
        with pytest.raises(LadingError, match=r"2 images in it could be meant.*v1, v2"):
            await client.copy(path, ref(target))
        with pytest.raises(LadingError, match="nothing in it is called v3"):
            await client.copy(path, ref(target), image="v3")
        target.assert_requests()
        for name, digest in (("v2", second), (first, first)):
            await client.copy(path, ref(target), image=name)
            assert tagged(target) == digest

    async def test_one_platform(self, target: EmbeddedRegistry, client: Client, tmp_path: Path, kind: str) -> None:
        made = HandMade()
        images = {one: made.manifest(one.encode(), architecture=one) for one in ("amd64", "arm64")}
        made.list(made.index(**images))
        del made.files[made.path(images["amd64"])]
        path = written(made, tmp_path, kind)
        with pytest.raises(LadingError, match=f"{sha256(images['amd64'])} isn't in it"):
            await client.copy(path, ref(target))
        await client.copy(path, ref(target), platform="linux/arm64")
        assert tagged(target) == sha256(images["arm64"])
        with pytest.raises(InvalidManifest, match="nothing in it is for linux/s390x"):
            await client.copy(path, ref(target), platform="linux/s390x")

    @pytest.mark.parametrize(
        ("content", "error"),
        [(None, LadingError), (LARGE[:-1], SizeMismatch), (LARGE + b"x", SizeMismatch), (LARGE[::-1], DigestMismatch)],
    )
    async def test_a_blob_that_isnt_what_it_should_be(
        self,
        target: EmbeddedRegistry,
        client: Client,
        tmp_path: Path,
        kind: str,
        content: bytes | None,
        error: type[LadingError],
    ) -> None:
        made = image(LARGE)
        if content is None:
            del made.files[made.path(LARGE)]
        else:
            made.files[made.path(LARGE)] = content
        with pytest.raises(error, match=sha256(LARGE)):
            await client.copy(written(made, tmp_path, kind), ref(target))
        assert not target.count("PUT manifest")
        assert not target._endpoints._uploads._uploads

    async def test_a_manifest_that_is_another_one(
        self, target: EmbeddedRegistry, client: Client, tmp_path: Path, kind: str
    ) -> None:
        made = HandMade()
        raw = made.manifest(b"layer")
        made.list(raw)
        made.files[made.path(raw)] = made.manifest(b"other")
        with pytest.raises(DigestMismatch):
            await client.copy(written(made, tmp_path, kind), ref(target))
        made.entries[0]["size"] = 5 * 1024 * 1024
        with pytest.raises(InvalidManifest, match="more than"):
            await client.copy(written(made, tmp_path, kind), ref(target))
        assert not target.count("PUT manifest", "POST upload")

    async def test_a_foreign_layer_is_left_out(
        self, target: EmbeddedRegistry, client: Client, tmp_path: Path, kind: str
    ) -> None:
        made = HandMade()
        foreign = {"mediaType": "application/x", "digest": sha256(b"far"), "size": 3, "urls": ["https://example.com/"]}
        made.list(made.manifest(layers=[foreign]))
        copied = await client.copy(written(made, tmp_path, kind), ref(target))
        assert [str(one.digest) for one in copied.skipped] == [foreign["digest"]]

    async def test_cancelled_it_lets_go_of_everything(
        self, target: EmbeddedRegistry, connect: Connect, tmp_path: Path, kind: str
    ) -> None:
        path = written(image(*(LARGE + bytes([number]) for number in range(4))), tmp_path, kind)
        target.faults.add(Bandwidth(2_000_000), on="PUT upload", times=None)
        told, cancel_at = 0, 0
        copy: asyncio.Task[object]

        def listen(event: Event) -> None:
            nonlocal told
            if isinstance(event, BlobProgress):
                told += 1
                if told == cancel_at:
                    copy.cancel()

        client = connect(events=listen)
        for turns, cancel_at in [*((turns, 0) for turns in range(0, 40, 4)), *((0, at) for at in range(1, 9))]:
            told = 0
            copy = asyncio.create_task(client.copy(path, f"{target.host}/acme/app-{turns}-{cancel_at}:v1"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not cancel_at:
                copy.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copy
            assert [file for file in open_files() if str(tmp_path / "made") in file] == []


async def test_what_is_no_layout(target: EmbeddedRegistry, client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidManifest, match="empty: not an OCI image layout"):
        await client.copy(tmp_path / "empty", ref(target))
    with pytest.raises(InvalidManifest, match=r"notes\.txt"):
        await client.copy(tmp_path / "notes.txt", ref(target))
    with pytest.raises(LadingError, match="gone: No such file"):
        await client.copy(tmp_path / "gone", ref(target))
    with pytest.raises(InvalidReference):
        await client.copy(str(tmp_path / "empty"), ref(target))
    with pytest.raises(ValueError, match="image is for a layout"):
        await client.copy("acme/app", ref(target), image="v1")
    with pytest.raises(ValueError, match="referrers"):
        await client.copy(tmp_path / "empty", ref(target), referrers=True)


async def test_a_layout_that_is_closed(tmp_path: Path) -> None:
    source = LayoutSource(image(LARGE).write(tmp_path / "made"))
    await source.root(None)
    source.close()
    source.close()
    with pytest.raises(LadingError, match="closed"):
        await source.has(Descriptor("application/x", Digest.of(LARGE), len(LARGE)))


class TestWhatTheStoreHolds:
    async def test_isnt_fetched(self, registry: EmbeddedRegistry, target: EmbeddedRegistry, client: Client) -> None:
        digest = publish(registry, LARGE, APP)
        await client.pull(ref(registry))
        registry.clear_requests()
        copied = await client.copy(ref(registry), ref(target))
        registry.assert_requests("HEAD manifest")
        assert tagged(target) == digest
        assert target._content.blob(APP, sha256(LARGE)) == LARGE
        assert copied.sent == len(LARGE) + 2

    async def test_by_its_digest_the_source_isnt_asked_at_all(
        self, registry: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        digest = publish(registry, LARGE, APP)
        await client.pull(ref(registry))
        await registry.stop()
        await client.copy(ref(registry, f"@{digest}"), ref(target))
        assert tagged(target) == digest

    async def test_what_it_doesnt_hold_is(
        self, registry: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        publish(registry, LARGE, APP)
        await client.pull_agent(ref(registry))  # which takes no config
        registry.clear_requests()
        await client.copy(ref(registry), ref(target))
        registry.assert_requests("HEAD manifest", "GET blob")

    async def test_of_another_repository_proves_nothing(
        self, registry: EmbeddedRegistry, target: EmbeddedRegistry, client: Client
    ) -> None:
        publish(registry, LARGE, "acme/private")
        await client.pull(f"{registry.host}/acme/private:v1")
        digest = registry.add_manifest(APP, manifest(LARGE), MANIFEST, "v1")
        registry.add_blob(APP, b"{}")
        with pytest.raises(NotFound):
            await client.copy(ref(registry), ref(target))
        with pytest.raises(NotFound):
            await client.copy(ref(registry, f"@{digest}"), ref(target))

    async def test_a_part_of_it_from_a_byte_on(self, registry: EmbeddedRegistry, client: Client, store: Store) -> None:
        from lading.push.registry import RegistrySource
        from lading.push.stored import StoredSource

        publish(registry, LARGE, APP)
        await client.pull(ref(registry))
        network, reference = client._rooms.open(), Reference.parse(ref(registry))
        source = StoredSource(store, reference, RegistrySource(await network.repository(reference)))
        blob = Descriptor("application/x", Digest.of(LARGE), len(LARGE))
        registry.clear_requests()
        for start in (0, 1, 1024 * 1024, 1024 * 1024 + 1, len(LARGE) - 1, len(LARGE)):
            assert b"".join([piece async for piece in source.open(blob, start)]) == LARGE[start:]
        registry.assert_requests()

    async def test_damaged_it_is_fetched(
        self,
        registry: EmbeddedRegistry,
        target: EmbeddedRegistry,
        connect: Connect,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        digest = publish(registry, LARGE, APP)
        client = connect(LocalStore(tmp_path / "here"))
        await client.pull(ref(registry))
        path = tmp_path / "here" / "blobs" / "sha256" / Digest.of(LARGE).encoded
        path.chmod(0o600)
        path.write_bytes(LARGE[:1000] + b"x" + LARGE[1001:])
        await client.copy(ref(registry), ref(target))
        assert tagged(target) == digest
        assert target._content.blob(APP, sha256(LARGE)) == LARGE
        assert "once more, without the store" in caplog.text

    async def test_a_store_that_cant_be_read_is_no_reason_to_fail(
        self, registry: EmbeddedRegistry, target: EmbeddedRegistry, connect: Connect
    ) -> None:
        class Unreadable(MemoryStore):
            def read(self, name: str, digest: Digest) -> Intact | Absent | Corrupt:
                raise StoreError("of a newer format")

            def holds(self, name: str, descriptor: Descriptor) -> bool:
                raise StoreError("of a newer format")

        digest = publish(registry, LARGE, APP)
        await connect(Unreadable()).copy(ref(registry), ref(target))
        assert tagged(target) == digest
