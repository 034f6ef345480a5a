"""Layouts: what is exported comes back, whatever it is; what is hostile gets nowhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from artifacts import INDEX, MANIFEST, describe, index, manifest
from layouts import IMAGE_NAME, REF_NAME, HandMade, add, image
from store.cargo import NOON, blob, described
from store.conftest import Mounts, descriptors

from lading.errors import DigestMismatch, InvalidManifest, LadingError, SizeMismatch, StoreCorrupted, StoreError
from lading.events import BlobProgress, Event
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.store.layout import choose
from lading.store.layout_import import Imported, import_image
from lading.store.layout_read import open_layout
from lading.store.layout_tar import Member, member_header, padding, read_members
from lading.store.layout_write import export_images
from lading.store.local import LocalStore
from lading.store.store import (
    ABSENT,
    INLINE_LIMIT,
    Absent,
    Changes,
    Intact,
    Inventory,
    MemoryStore,
    Record,
    Seen,
    Store,
)

MIB = 1024 * 1024
IMAGE = Reference.parse("ghcr.io/acme/image:v1")
LARGE = blob(300_000)
ARM = Platform.parse("linux/arm64")


async def bring(
    store: Store, source: str, wanted: str | None = None, *, name: Reference | None = IMAGE, **options: Any
) -> Imported:
    """Import one image."""
    with open_layout(source) as layout:
        entry = choose(await anyio.to_thread.run_sync(layout.entries), wanted)
        return await import_image(store, layout, entry, name=name, **options)


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def listed(directory: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((directory / "index.json").read_bytes())["manifests"]
    return entries


def of(content: bytes) -> Digest:
    return Digest.of(content)


# There and back


@pytest.mark.parametrize("target", ["layout", "layout.tar"])
@pytest.mark.parametrize("layers", [(b"",), (b"small", LARGE), (blob(INLINE_LIMIT), blob(INLINE_LIMIT + 1))])
async def test_there_and_back(store: Store, tmp_path: Path, target: str, layers: tuple[bytes, ...]) -> None:
    made = image(*layers)
    first = await bring(store, made.write(tmp_path / "made"))
    (exported,) = export_images(store, [IMAGE], str(tmp_path / target))
    assert (exported.reference, exported.descriptor.digest) == (IMAGE, first.descriptor.digest)
    other = MemoryStore()
    second = await bring(other, str(tmp_path / target), name=None)
    assert second == first
    for path, content in made.files.items():
        if path.startswith("blobs/"):
            assert other.read(IMAGE.name, of(content)) == Intact(content)


async def test_a_directory_holds_what_the_image_needs_and_nothing_else(store: Store, tmp_path: Path) -> None:
    made = image(LARGE)
    await bring(store, made.write(tmp_path / "made"))
    await bring(store, image(b"other").write(tmp_path / "other"), name=Reference.parse("ghcr.io/acme/other"))
    export_images(store, [IMAGE], str(tmp_path / "out"))
    out = files(tmp_path / "out")
    assert json.loads(out.pop("index.json")) == {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {**listed(tmp_path / "made")[0], "annotations": {IMAGE_NAME: "ghcr.io/acme/image:v1", REF_NAME: "v1"}}
        ],
    }
    assert json.loads(out.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert out == {path: content for path, content in made.files.items() if path.startswith("blobs/")}


async def test_the_same_images_make_the_same_tar(tmp_path: Path) -> None:
    tars = []
    stores: list[Store] = [MemoryStore(), LocalStore(tmp_path / "store")]
    for number, store in enumerate(stores):
        await bring(store, image(LARGE, b"x").write(tmp_path / str(number)))
        pieces: list[bytes] = []
        export_images(store, [IMAGE], pieces.append)
        assert max(map(len, pieces)) <= MIB
        tars.append(b"".join(pieces))
        await store.aclose()
    assert tars[0] == tars[1]
    with tarfile.open(fileobj=io.BytesIO(tars[0])) as archive:
        assert archive.getnames() == sorted(archive.getnames())


async def test_other_digests_than_sha256(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    layer = b"layer"
    digest = Digest.of(layer, "sha512")
    made.files[f"blobs/sha512/{digest.encoded}"] = layer
    config = describe("application/x", made.blob(b"{}"))
    layers = [{"mediaType": "application/x", "digest": str(digest), "size": len(layer)}]
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    made.list(made.blob(json.dumps(document).encode()))
    await bring(store, made.write(tmp_path / "made"))
    for target in ("out", "out.tar"):
        export_images(store, [IMAGE], str(tmp_path / target))
        other = MemoryStore()
        await bring(other, str(tmp_path / target))
        assert other.read(IMAGE.name, digest) == Intact(layer)


async def test_content_that_is_embedded_needs_no_blob(store: Store, tmp_path: Path) -> None:
    """A pull doesn't store it, and yet it becomes a blob of the layout."""
    raw = manifest(b"layer", inline=True)
    raw = raw.replace(b'"size": 2}', b'"size": 2, "data": "e30="}')
    digest = of(raw)
    seen = (Seen(IMAGE.name, digest, OCI_MANIFEST),)
    await store.commit(Changes(NOON, content=((digest, raw),), seen=seen, references=((IMAGE, digest, OCI_MANIFEST),)))
    export_images(store, [IMAGE], str(tmp_path / "out"))
    out = files(tmp_path / "out")
    assert out[f"blobs/sha256/{of(b'layer').encoded}"] == b"layer"
    assert out[f"blobs/sha256/{of(b'{}').encoded}"] == b"{}"
    for path in (of(b"layer"), of(b"{}")):
        (tmp_path / "out" / "blobs" / "sha256" / path.encoded).unlink()
    other = MemoryStore()
    await bring(other, str(tmp_path / "out"))
    assert other.read(IMAGE.name, of(b"layer")) == Intact(b"layer")


async def test_what_is_copied_is_told_of(store: Store, tmp_path: Path) -> None:
    events: list[Event] = []
    await bring(store, image(blob(3 * MIB), b"x").write(tmp_path / "made"), events=events.append)
    large = str(of(blob(3 * MIB)))
    last = BlobProgress(str(IMAGE), large, 3 * MIB, 3 * MIB)
    assert last in events
    events.clear()
    export_images(store, [IMAGE], str(tmp_path / "out"), events=events.append)
    assert last in events
    assert {event.digest for event in events if isinstance(event, BlobProgress)} == {
        f"sha256:{path.name}" for path in (tmp_path / "out" / "blobs" / "sha256").iterdir()
    }


# What is whole


async def fetched(store: Store, *parts: bytes, root: bytes, media_type: str = OCI_MANIFEST) -> None:
    """Put some parts of an image into the store, as a pull would."""
    seen = tuple(Seen(IMAGE.name, of(part), media_type if part is root else "application/x") for part in (root, *parts))
    content = tuple((of(part), part) for part in (root, *parts))
    await store.commit(Changes(NOON, content=content, seen=seen, references=((IMAGE, of(root), media_type),)))


async def test_an_agent_without_its_config_isnt_whole(store: Store, tmp_path: Path) -> None:
    raw = manifest(b"layer")
    await fetched(store, b"layer", root=raw)
    with pytest.raises(StoreError, match=f"isn't whole .* doesn't have {of(b'{}')}") as caught:
        export_images(store, [IMAGE], str(tmp_path / "out"))
    assert caught.value.hint == "bring it: lading fetch ghcr.io/acme/image:v1"
    assert not (tmp_path / "out").exists()


async def test_an_index_with_one_platform_isnt_whole(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    arm, amd = made.manifest(LARGE, architecture="arm64"), made.manifest(b"x", architecture="amd64")
    root = made.index(arm64=arm, amd64=amd)
    config = json.loads(arm)["config"]["digest"].removeprefix("sha256:")
    await fetched(store, arm, LARGE, made.files[f"blobs/sha256/{config}"], root=root, media_type=INDEX)
    with pytest.raises(StoreError, match=str(of(amd))) as caught:
        export_images(store, [IMAGE], str(tmp_path / "out"))
    assert "--all-platforms" in caught.value.hint
    assert "--platform" in caught.value.hint
    with pytest.raises(StoreError, match=str(of(amd))) as caught:
        export_images(store, [IMAGE], str(tmp_path / "out"), platform=Platform.parse("linux/amd64"))
    assert "fetch --platform linux/amd64" in caught.value.hint
    with pytest.raises(InvalidManifest, match="nothing in it is for linux/riscv64"):
        export_images(store, [IMAGE], str(tmp_path / "out"), platform=Platform.parse("linux/riscv64"))
    assert not (tmp_path / "out").exists()

    (exported,) = export_images(store, [IMAGE], str(tmp_path / "out"), platform=ARM)
    assert exported.descriptor.digest == of(arm)
    (entry,) = listed(tmp_path / "out")
    assert (entry["digest"], entry["platform"]) == (str(of(arm)), {"architecture": "arm64", "os": "linux"})
    (pinned,) = export_images(store, [IMAGE.at(of(root))], str(tmp_path / "pinned"), platform=ARM)
    assert pinned.reference == IMAGE.at(of(arm)), "the digest of an index isn't that of one of its images"
    assert (await bring(MemoryStore(), str(tmp_path / "pinned"), name=None)).reference == IMAGE.at(of(arm))


async def test_foreign_layers_live_elsewhere(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    foreign = describe("application/x", b"foreign", urls=["https://example.com/layer"])
    raw = made.manifest(b"here")
    document = json.loads(raw)
    document["layers"].append(foreign)
    made.list(made.blob(json.dumps(document).encode()))
    imported = await bring(store, made.write(tmp_path / "made"))
    assert [one.digest for one in imported.skipped] == [of(b"foreign")]
    assert of(b"foreign") not in [one.digest for one in imported.blobs]
    export_images(store, [IMAGE], str(tmp_path / "out"))
    assert not (tmp_path / "out" / made.path(b"foreign")).exists()
    made.blob(b"foreign")
    await bring(store, made.write(tmp_path / "made"))
    export_images(store, [IMAGE], str(tmp_path / "out"))
    assert (tmp_path / "out" / made.path(b"foreign")).read_bytes() == b"foreign"


async def test_an_index_that_is_wrong_about_the_size_of_a_manifest(store: Store, tmp_path: Path) -> None:
    """It would be the size of a member of the tar."""
    child = manifest(b"x")
    root = index(child).replace(b'"size": %d' % len(child), b'"size": %d' % (len(child) - 1))
    await fetched(store, child, b"x", b"{}", root=root, media_type=INDEX)
    with pytest.raises(InvalidManifest, match=f"{len(child)} bytes instead of {len(child) - 1}"):
        export_images(store, [IMAGE], str(tmp_path / "out.tar"))
    assert not (tmp_path / "out.tar").exists()


async def test_one_manifest_many_times(store: Store, tmp_path: Path) -> None:
    """It is followed once, however often and wherever it is listed."""
    made = HandMade()
    raw = made.manifest(b"x")
    for _ in range(6):
        children = [describe(json.loads(raw)["mediaType"], raw)] * 2_000
        raw = made.blob(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode())
    made.list(raw)
    source = made.write(tmp_path / "made")
    imported = await bring(store, source)
    assert (len(imported.manifests), len(imported.blobs)) == (7, 2)


async def test_what_isnt_in_the_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="isn't in the store") as caught:
        export_images(store, [IMAGE], str(tmp_path / "out"))
    assert "lading fetch" in caught.value.hint
    await store.commit(Changes(NOON, references=((IMAGE, of(b"x"), OCI_MANIFEST),)))
    with pytest.raises(StoreError, match="isn't whole"):
        export_images(store, [IMAGE], str(tmp_path / "out"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte less": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("target", ["out", "out.tar"])
async def test_what_is_damaged_isnt_exported(
    tmp_path: Path, home: Path, damage: Callable[[Path], object], target: str
) -> None:
    store = LocalStore(home)
    large = blob(3 * MIB)
    await bring(store, image(b"x", large).write(tmp_path / "made"))
    path = home / "blobs" / "sha256" / of(large).encoded
    path.chmod(0o600)
    damage(path)
    with pytest.raises(StoreCorrupted, match=of(large).encoded) as caught:
        export_images(store, [IMAGE], str(tmp_path / target))
    assert caught.value.hint == "lading verify --repair ghcr.io/acme/image:v1"
    assert not (tmp_path / "out.tar").exists()
    assert not (tmp_path / "out" / "index.json").exists()
    assert list(tmp_path.glob("**/*.part")) == []
    assert not (tmp_path / "out" / "blobs" / "sha256" / of(large).encoded).exists()
    await store.aclose()


@pytest.mark.parametrize("size", [INLINE_LIMIT + 1, MIB, 3 * MIB])
@pytest.mark.parametrize("place", [0, -1])
async def test_damaged_content_is_never_given_whole(home: Path, tmp_path: Path, size: int, place: int) -> None:
    store, large = LocalStore(home), blob(size)
    await bring(store, image(large).write(tmp_path / "made"))
    path = home / "blobs" / "sha256" / of(large).encoded
    content = bytearray(large)
    content[place] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    pieces = store.stream(IMAGE.name, of(large))
    assert not isinstance(pieces, Absent)
    given: list[bytes] = []
    with pytest.raises(StoreCorrupted):
        given.extend(pieces)
    assert sum(map(len, given)) < size
    await store.aclose()


# A layout that is there already


async def stocked(store: Store, tmp_path: Path, *names: str) -> list[Reference]:
    references = [Reference.parse(name) for name in names]
    for number, reference in enumerate(references):
        made = image(b"layer %d" % number)
        await bring(store, made.write(tmp_path / f"made-{reference.selector}-{number}"), name=reference)
    return references


async def test_one_more_image(store: Store, tmp_path: Path) -> None:
    one, two = await stocked(store, tmp_path, "ghcr.io/acme/image:v1", "ghcr.io/acme/image:v2")
    out = tmp_path / "out"
    export_images(store, [one], str(out))
    before = {path: path.stat().st_mtime_ns for path in (out / "blobs").rglob("*") if path.is_file()}
    (exported,) = export_images(store, [two], str(out))
    export_images(store, [one], str(out))
    export_images(store, [two], str(out))
    assert [entry["annotations"][REF_NAME] for entry in listed(out)] == ["v1", "v2"]
    assert exported.name == "v2"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    export_images(store, [two, one, two], str(out))
    assert [entry["annotations"][REF_NAME] for entry in listed(out)] == ["v2", "v1"]


async def test_what_others_wrote_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    other = made.list(made.manifest(b"other"), "other")
    made.list(made.manifest(b"old"), "v1")
    made.entries[0] |= {"x-unknown": {"deep": [1, 2.5, None]}}
    document = {"schemaVersion": 2, "manifests": made.entries, "annotations": {"by": "hand"}, "x-more": True}
    made.files["index.json"] = json.dumps(document).encode()
    out = Path(made.write(tmp_path / "out"))
    (one,) = await stocked(store, tmp_path, "ghcr.io/acme/image:v1")
    export_images(store, [one], str(out))
    written = json.loads((out / "index.json").read_bytes())
    assert (written["annotations"], written["x-more"]) == ({"by": "hand"}, True)
    assert written["manifests"][0] == made.entries[0]
    assert [entry["annotations"][REF_NAME] for entry in written["manifests"]] == ["other", "v1"]
    assert written["manifests"][1]["digest"] != made.entries[1]["digest"]
    assert (await bring(MemoryStore(), str(out), "other")).descriptor.digest == Digest.parse(other)


async def test_the_same_tag_of_two_repositories(store: Store, tmp_path: Path) -> None:
    """Neither replaces the other, and neither is mistaken for it."""
    one, two = await stocked(store, tmp_path, "ghcr.io/acme/one:v1", "ghcr.io/acme/two:v1")
    export_images(store, [one], str(tmp_path / "out"))
    export_images(store, [two], str(tmp_path / "out"))
    names = {entry["annotations"][IMAGE_NAME]: entry["annotations"][REF_NAME] for entry in listed(tmp_path / "out")}
    assert names == {str(one): "v1", str(two): str(two)}
    exported = export_images(store, [one, two], str(tmp_path / "both"))
    assert [each.name for each in exported] == [str(one), str(two)]


async def test_a_pinned_image_is_called_by_its_digest(store: Store, tmp_path: Path) -> None:
    (one,) = await stocked(store, tmp_path, "ghcr.io/acme/one:v1")
    record = store.resolve(one)
    assert isinstance(record, Record)
    pinned = one.at(record.digest)
    (exported,) = export_images(store, [pinned], str(tmp_path / "out"))
    assert exported.name == str(pinned)
    assert (await bring(MemoryStore(), str(tmp_path / "out"), name=None)).reference == pinned


async def test_blobs_that_are_there_in_another_way_are_replaced(store: Store, tmp_path: Path) -> None:
    await bring(store, image(LARGE).write(tmp_path / "made"))
    out = tmp_path / "out"
    export_images(store, [IMAGE], str(out))
    expected = files(out)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    path = out / "blobs" / "sha256" / of(LARGE).encoded

    def link() -> None:
        path.unlink()
        path.symlink_to(precious)

    for spoil in (partial(os.truncate, path, 5), path.unlink, link):
        spoil()
        export_images(store, [IMAGE], str(out))
        assert files(out) == expected
        assert not path.is_symlink()
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("link", ["blobs", "blobs/sha256"])
async def test_nothing_is_written_through_a_link(store: Store, tmp_path: Path, link: str) -> None:
    await bring(store, image(LARGE).write(tmp_path / "made"))
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (out / link).parent.mkdir(exist_ok=True)
    (out / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidManifest, match="symbolic link"):
        export_images(store, [IMAGE], str(out))
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_an_export_that_was_interrupted_is_finished_by_the_next_one(store: Store, tmp_path: Path) -> None:
    await bring(store, image(LARGE, b"x").write(tmp_path / "made"))
    out = tmp_path / "out"
    export_images(store, [IMAGE], str(out))
    expected = files(out)
    (out / "index.json").unlink()
    (out / "blobs" / "sha256" / of(LARGE).encoded).unlink()
    (out / "blobs" / "sha256" / ".left.part").write_bytes(b"left")
    with pytest.raises(InvalidManifest, match=r"no index\.json"):
        await bring(MemoryStore(), str(out))
    export_images(store, [IMAGE], str(out))
    (out / "blobs" / "sha256" / ".left.part").unlink()
    assert files(out) == expected


async def test_targets_that_are_something_else(store: Store, tmp_path: Path) -> None:
    await bring(store, image(LARGE).write(tmp_path / "made"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(InvalidManifest, match="not an OCI image layout"):
        export_images(store, [IMAGE], str(tmp_path / "full"))
    for target in ("file", "file/below", "missing/out.tar"):
        with pytest.raises(LadingError, match="can't be written"):
            export_images(store, [IMAGE], str(tmp_path / target))
    assert (tmp_path / "file").read_bytes() == b"precious"
    for broken in (b"{", b"[]", b'{"schemaVersion": 2, "manifests": [{}]}'):
        (tmp_path / "full" / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (tmp_path / "full" / "index.json").write_bytes(broken)
        with pytest.raises(InvalidManifest, match=r"index\.json"):
            export_images(store, [IMAGE], str(tmp_path / "full"))
        assert (tmp_path / "full" / "index.json").read_bytes() == broken
    assert not (tmp_path / "full" / "blobs").exists()


async def test_a_tar_is_replaced_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    one, two = await stocked(store, tmp_path, "ghcr.io/acme/image:v1", "ghcr.io/acme/image:v2")
    target = tmp_path / "out.tar"
    export_images(store, [one], str(target))
    before = target.read_bytes()

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_images(store, [two], str(target), events=interrupt)
    assert target.read_bytes() == before
    assert list(tmp_path.glob("*.part")) == []
    export_images(store, [two], str(target))
    with open_layout(str(target)) as layout:
        assert [entry.name for entry in layout.entries()] == ["v2"]


@pytest.mark.parametrize("target", ["out", "out.tar"])
async def test_a_full_disk(tmp_path: Path, mounts: Mounts, target: str) -> None:
    store = MemoryStore()
    await bring(store, image(blob(3 * MIB)).write(tmp_path / "made"))
    disk = mounts.disk(tmp_path / "disk", "2m")
    with pytest.raises(LadingError, match="No space left"):
        export_images(store, [IMAGE], str(disk / target))
    assert not (disk / "out" / "index.json").exists()
    assert not (disk / "out.tar").exists()
    assert list(disk.glob("**/*.part")) == []


# What is imported, as what


async def test_the_image_is_chosen_by_name_or_digest(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    one = made.list(made.manifest(b"one"), "v1", "ghcr.io/acme/one:v1")
    two = made.list(made.manifest(b"two"), "acme/two:v2")
    made.list(made.manifest(b"three"), "")
    source = made.write(tmp_path / "made")
    with pytest.raises(LadingError, match="3 images") as caught:
        await bring(store, source)
    assert "ghcr.io/acme/one:v1, acme/two:v2, sha256:" in caught.value.hint
    for wanted, digest in (("v1", one), ("ghcr.io/acme/one:v1", one), (one, one), ("acme/two:v2", two), (two, two)):
        assert str((await bring(store, source, wanted)).descriptor.digest) == digest
    for unknown in ("v3", "acme/one:v1", "../made", "", str(of(b"x"))):
        with pytest.raises(LadingError, match="nothing in it is called"):
            await bring(store, source, unknown)
    with pytest.raises(LadingError, match="nothing is in it"):
        await bring(store, HandMade().write(tmp_path / "empty"))


async def test_two_images_of_one_name(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    made.list(made.manifest(b"one"), "v1")
    made.list(made.manifest(b"two"), "v1")
    with pytest.raises(LadingError, match="2 images"):
        await bring(store, made.write(tmp_path / "made"), "v1")


@pytest.mark.parametrize(
    ("name", "called", "expected"),
    [
        ("v1", "ghcr.io/acme/image:v2", "ghcr.io/acme/image:v2"),
        ("v1", "docker.io/library/busybox:latest", "docker.io/library/busybox:latest"),
        ("ghcr.io/acme/image:v3", "", "ghcr.io/acme/image:v3"),
        ("localhost/image:v3", "", "localhost/image:v3"),
        ("ghcr.io/acme/image:v3", "not a reference", "ghcr.io/acme/image:v3"),
        ("v1", "", None),
        ("", "", None),
        ("agentcatalog/pirate:latest", "", None),
        ("ghcr.io/acme/image", "", None),
        ("v1", "busybox:latest", None),
        ("ghcr.io/ACME/image:v1", "", None),
    ],
)
async def test_what_an_image_becomes(
    store: Store, tmp_path: Path, name: str, called: str, expected: str | None
) -> None:
    source = image(name=name, called=called).write(tmp_path / "made")
    if expected is not None:
        assert str((await bring(store, source, name=None)).reference) == expected
        assert isinstance(store.resolve(Reference.parse(expected)), Record)
        return
    with pytest.raises(LadingError) as caught:
        await bring(store, source, name=None)
    assert "--as" in caught.value.hint
    assert store.inventory() == Inventory()
    assert (await bring(store, source)).reference == IMAGE


async def test_a_name_that_a_digest_follows(store: Store, tmp_path: Path) -> None:
    made = image()
    digest = Digest.parse(made.entries[0]["digest"])
    source = made.write(tmp_path / "made")
    with pytest.raises(DigestMismatch):
        await bring(store, source, name=IMAGE.at(of(b"other")))
    assert store.inventory().references == ()
    assert (await bring(store, source, name=IMAGE.at(digest))).reference == IMAGE.at(digest)
    assert isinstance(store.resolve(IMAGE.at(digest)), Record)
    lying = image(b"liar", called=f"{IMAGE.name}@{digest}").write(tmp_path / "lying")
    with pytest.raises(DigestMismatch):
        await bring(store, lying, name=None)


async def test_a_layout_doesnt_move_what_is_known(store: Store, tmp_path: Path) -> None:
    await bring(store, image(b"known").write(tmp_path / "known"))
    known = store.resolve(IMAGE)
    source = image(b"new", called=str(IMAGE)).write(tmp_path / "new")
    with pytest.raises(LadingError, match="which the store knows as") as caught:
        await bring(store, source, name=None)
    assert str(IMAGE) in caught.value.hint
    assert store.resolve(IMAGE) == known
    await bring(store, source, name=IMAGE)
    assert store.resolve(IMAGE) != known


async def test_nobody_confirmed_what_is_imported(store: Store, tmp_path: Path) -> None:
    imported = await bring(store, image(LARGE).write(tmp_path / "made"))
    digest, media_type = imported.descriptor.digest, imported.descriptor.media_type
    assert store.resolve(IMAGE) == store.resolve(IMAGE.at(digest)) == Record(digest, media_type, 0.0)
    assert store.read("ghcr.io/acme/other", digest) is ABSENT
    assert store.read("docker.io/acme/image", digest) is ABSENT


async def test_what_was_confirmed_stays_confirmed(store: Store, tmp_path: Path) -> None:
    made = image(b"x", LARGE)
    imported = await bring(store, made.write(tmp_path / "made"))
    root = (imported.descriptor.digest, imported.descriptor.media_type)
    confirmed = Changes(NOON, seen=(Seen(IMAGE.name, *root),), references=((IMAGE, *root),))
    await store.commit(confirmed)
    await bring(store, made.write(tmp_path / "made"))
    assert store.resolve(IMAGE) == store.resolve(IMAGE.at(root[0])) == Record(*root, NOON)
    other = Reference.parse("ghcr.io/acme/image:other")
    await bring(store, made.write(tmp_path / "made"), name=other)
    assert store.resolve(other) == Record(*root, 0.0)
    assert store.resolve(IMAGE.at(root[0])) == Record(*root, NOON)


async def test_one_platform_of_an_index(store: Store, tmp_path: Path) -> None:
    made = HandMade()
    arm = made.manifest(LARGE, architecture="arm64")
    amd = made.manifest(b"x", architecture="amd64")
    made.list(made.index(arm64=arm, amd64=amd), called := "v1", f"ghcr.io/acme/image:{called}")
    del made.files[made.path(amd)]
    source = made.write(tmp_path / "made")
    with pytest.raises(LadingError, match=str(of(amd))) as caught:
        await bring(store, source)
    assert "--platform" in caught.value.hint
    with pytest.raises(LadingError, match=str(of(amd))) as caught:
        await bring(store, source, platform=Platform.parse("linux/amd64"))
    assert caught.value.hint == ""
    assert store.inventory() == Inventory()
    assert (await bring(store, source, name=None, platform=ARM)).descriptor.digest == of(arm)
    assert store.read(IMAGE.name, of(LARGE)) == Intact(LARGE)


async def test_many_small_blobs_come_in_batches(tmp_path: Path) -> None:
    layers = [blob(100_000, number) for number in range(200)]
    store, commits = MemoryStore(), []
    commit = store.commit

    async def counted(changes: Changes) -> None:
        commits.append(sum(len(content) for _, content in changes.content))
        if not changes.references:
            assert not changes.seen
        await commit(changes)

    store.commit = counted  # type: ignore[method-assign]
    await bring(store, image(*layers).write(tmp_path / "made"))
    assert len(commits) == 3
    assert max(commits) <= 8 * MIB
    assert all(store.read(IMAGE.name, of(layer)) == Intact(layer) for layer in layers)


@pytest.mark.parametrize("number", [0, 100, 199])
async def test_nothing_is_committed_before_all_is_verified(store: Store, tmp_path: Path, number: int) -> None:
    """Also where it comes in batches."""
    layers = [blob(100_000, number) for number in range(200)]
    made = image(*layers)
    made.files[made.path(layers[number])] = layers[number][::-1]
    with pytest.raises(DigestMismatch):
        await bring(store, made.write(tmp_path / "made"))
    assert store.inventory() == Inventory()


async def test_what_somebody_left_is_gone_on_with(tmp_path: Path, home: Path) -> None:
    """Also where it is damaged: then from the start."""
    large = blob(4 * MIB)
    source = image(large).write(tmp_path / "made")
    for spoil in (False, True):
        store = LocalStore(home / str(spoil))
        async with store.ingest(described(large)) as ingest:
            await ingest.write(large[: 3 * MIB])
        if spoil:
            (partial,) = (home / str(spoil) / "ingest").glob("*.part")
            content = bytearray(partial.read_bytes())
            content[1000] ^= 1
            partial.write_bytes(content)
        await bring(store, source)
        assert store.read(IMAGE.name, of(large)) == Intact(large)
        await store.aclose()


async def test_an_import_repairs_what_is_damaged(tmp_path: Path, home: Path) -> None:
    store = LocalStore(home)
    source = image(b"x", LARGE).write(tmp_path / "made")
    await bring(store, source)
    path = home / "blobs" / "sha256" / of(LARGE).encoded
    path.chmod(0o600)
    flip(path)
    await bring(store, source)
    assert store.read(IMAGE.name, of(LARGE)) == Intact(LARGE)
    await store.aclose()


# Tars of every kind


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("order", [("oci-layout", "index.json"), ("blobs",), ("index.json",)])
async def test_a_tar_in_any_order(store: Store, tmp_path: Path, kind: int, prefix: str, order: tuple[str, ...]) -> None:
    made = image(LARGE, b"x")
    names = [path for path in made.files if path.startswith("blobs/")] if order == ("blobs",) else order
    await bring(store, made.tar(tmp_path / "made.tar", prefix=prefix, order=names, kind=kind))
    assert store.read(IMAGE.name, of(LARGE)) == Intact(LARGE)


async def test_a_tar_from_a_pipe(store: Store, tmp_path: Path) -> None:
    tar = Path(image(blob(3 * MIB)).tar(tmp_path / "made.tar")).read_bytes()
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb") as file:
            file.write(tar)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(reading, "rb") as pipe, open_layout(pipe) as layout:
        assert layout.where == "standard input"
        await import_image(store, layout, choose(layout.entries(), None), name=IMAGE)
    feeder.join()
    assert store.read(IMAGE.name, of(blob(3 * MIB))) == Intact(blob(3 * MIB))


async def test_members_whose_names_are_long_or_strange(store: Store, tmp_path: Path) -> None:
    made = image(LARGE)
    path = tmp_path / "made.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("x" * 300, "größe", "blobs", "blobs/", "a\nb", "blobs/sha256/short", "./././etc/passwd"):
            add(archive, name, b"data")
        add(archive, "blobs/sha256/", type=tarfile.DIRTYPE)
        add(archive, "global", type=tarfile.XGLTYPE)
        for name, content in made.all().items():
            add(archive, f"./././{name}", content)
    await bring(store, str(path))
    assert store.read(IMAGE.name, of(LARGE)) == Intact(LARGE)


@pytest.mark.parametrize("size", [0, 511, 512, 8 * 1024**3 - 1, 8 * 1024**3, 1 << 50])
@pytest.mark.parametrize("name", ["index.json", f"blobs/sha256/{'a' * 64}", f"blobs/sha512/{'b' * 128}"])
def test_headers_of_any_size(name: str, size: int) -> None:
    """Also where a plain header has no place for the name or the size."""
    written = member_header(name, size)

    def read_at(offset: int, length: int) -> bytes:
        return written[offset : offset + length]

    assert list(read_members(read_at)) == [Member(name, len(written), size, True)]
    assert len(padding(size)) == -size % 512


# Hostile layouts


Spoil = Callable[[HandMade], object]


def replaced(path: str, content: bytes) -> Spoil:
    return lambda made: made.files.__setitem__(path, content)


def entry(**fields: Any) -> Spoil:
    return lambda made: made.entries[0].update(fields)


def blob_of(content: bytes, instead: bytes) -> Spoil:
    return lambda made: made.files.__setitem__(made.path(content), instead)


def root_is(document: bytes, media_type: str = MANIFEST) -> Spoil:
    def spoil(made: HandMade) -> None:
        made.entries[:] = [describe(media_type, made.blob(document))]

    return spoil


def deep(made: HandMade) -> None:
    raw = made.manifest(b"x")
    for _ in range(10):
        media_type = json.loads(raw)["mediaType"]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [describe(media_type, raw)]}
        raw = made.blob(json.dumps(document).encode())
    made.entries[:] = [describe(INDEX, raw)]


def wide(made: HandMade) -> None:
    children = [describe(MANIFEST, b"%d" % number) for number in range(1_500)]
    root_is(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode(), INDEX)(made)


def two_sizes(made: HandMade) -> None:
    first, second = describe("application/x", b"small"), {**describe("application/x", b"small"), "size": 4}
    config = describe("application/x", made.blob(b"{}"))
    made.blob(b"small")
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [first, second]}
    root_is(json.dumps(document).encode())(made)


SMALL = b"a small layer"
HOSTILE: dict[str, tuple[Spoil, type[LadingError], str]] = {
    "a small blob that is something else": (blob_of(SMALL, SMALL[:-1] + b"x"), DigestMismatch, "got content"),
    "a large blob that is something else": (blob_of(LARGE, LARGE[:-1] + b"x"), DigestMismatch, "got content"),
    "a blob that is shorter": (blob_of(LARGE, LARGE[:-1]), SizeMismatch, "299999 bytes instead of 300000"),
    "a blob that is longer": (blob_of(LARGE, LARGE + b"x"), SizeMismatch, "300001 bytes instead of 300000"),
    "a blob that is empty": (blob_of(SMALL, b""), SizeMismatch, "0 bytes instead of 13"),
    "a blob that is missing": (lambda made: made.files.pop(made.path(LARGE)), LadingError, "isn't whole"),
    "a digest that is a path": (entry(digest="sha256:../../../etc/passwd"), InvalidManifest, "digest"),
    "a digest with a path after it": (entry(digest=f"sha256:{'a' * 64}/../../x"), InvalidManifest, "digest"),
    "an algorithm that is a path": (entry(digest=f"../sha256:{'a' * 64}"), InvalidManifest, "digest"),
    "another algorithm": (entry(digest=f"md5:{'a' * 32}"), InvalidManifest, "digest"),
    "a root that is missing": (entry(digest=f"sha256:{'a' * 64}"), LadingError, "isn't whole"),
    "a root with another size": (entry(size=1), SizeMismatch, "instead of 1"),
    "a negative size": (entry(size=-1), InvalidManifest, "size"),
    "a root that is too large": (entry(size=5 * MIB), InvalidManifest, "not a manifest"),
    "a root that isn't a manifest": (entry(mediaType="application/x"), InvalidManifest, "not a manifest"),
    "a manifest that is called an index": (entry(mediaType=INDEX), InvalidManifest, "shape"),
    "a manifest that isn't one": (root_is(b"{}"), InvalidManifest, "neither config and layers"),
    "a manifest that isn't JSON": (root_is(b"<html>"), InvalidManifest, "manifest"),
    "indexes within indexes": (deep, InvalidManifest, "indexes within each other"),
    "too many manifests": (wide, InvalidManifest, "more than 1000 manifests"),
    "one blob with two sizes": (two_sizes, InvalidManifest, "can't have both"),
    "no oci-layout": (lambda made: made.files.pop("oci-layout"), InvalidManifest, "it has no oci-layout"),
    "another version": (replaced("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), InvalidManifest, "2.0.0"),
    "no version": (replaced("oci-layout", b"{}"), InvalidManifest, "isn't 1.0.0"),
    "an oci-layout that is a list": (replaced("oci-layout", b"[]"), InvalidManifest, "JSON object"),
    "an oci-layout that isn't JSON": (replaced("oci-layout", b"\xff"), InvalidManifest, "UTF-8"),
    "an oci-layout that is huge": (replaced("oci-layout", b" " * (4 * MIB + 1)), InvalidManifest, "more than 4194304"),
    "an index.json that is huge": (replaced("index.json", b" " * (4 * MIB + 1)), InvalidManifest, "more than 4194304"),
    "an index.json that isn't JSON": (replaced("index.json", b"{"), InvalidManifest, "index.json"),
    "an index.json with a key twice": (
        replaced("index.json", b'{"schemaVersion": 2, "manifests": [], "manifests": []}'),
        InvalidManifest,
        "twice",
    ),
    "an index.json that is a manifest": (replaced("index.json", manifest(b"x")), InvalidManifest, "index.json"),
}


@pytest.mark.parametrize(("spoil", "error", "message"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", ["directory", "tar"])
async def test_a_hostile_layout(
    store: Store, tmp_path: Path, form: str, spoil: Spoil, error: type[LadingError], message: str
) -> None:
    made = image(SMALL, LARGE)
    spoil(made)
    source = made.write(tmp_path / "made") if form == "directory" else made.tar(tmp_path / "made.tar")
    before = descriptors()
    with pytest.raises(error) as caught:
        await bring(store, source)
    assert message in caught.value.message
    assert type(caught.value) is error
    found = store.inventory()
    assert (found.references, found.contents) == ((), ()), "nothing is committed"
    assert store.resolve(IMAGE) is ABSENT
    assert descriptors() <= before
    # The right one is welcome afterwards.
    await bring(store, image(SMALL, LARGE).write(tmp_path / "right"))
    assert store.read(IMAGE.name, of(LARGE)) == Intact(LARGE)


def test_a_docker_archive_is_named(tmp_path: Path) -> None:
    made = HandMade()
    made.files = {"manifest.json": b"[]", "repositories": b"{}"}
    for source in (made.tar(tmp_path / "docker.tar"), made.write(tmp_path / "docker")):
        with open_layout(source) as layout, pytest.raises(InvalidManifest, match="a Docker archive") as caught:
            layout.entries()
        assert "skopeo" in caught.value.hint


PLACES = ["oci-layout", "index.json", "small", "large", "blobs", "blobs/sha256"]


@pytest.mark.parametrize("place", PLACES)
async def test_links_arent_followed(store: Store, tmp_path: Path, place: str) -> None:
    made = image(SMALL, LARGE)
    path = {"small": made.path(SMALL), "large": made.path(LARGE)}.get(place, place)
    source = Path(made.write(tmp_path / "made"))
    (source / path).rename(tmp_path / "elsewhere")
    (source / path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidManifest, match=r"isn't a regular file|symbolic link"):
        await bring(store, str(source))
    assert store.inventory().references == ()


@pytest.mark.parametrize("place", ["oci-layout", "index.json", "small", "large"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_only_regular_files_are_opened(
    store: Store, tmp_path: Path, place: str, make: Callable[[Path], None]
) -> None:
    made = image(SMALL, LARGE)
    path = {"small": made.path(SMALL), "large": made.path(LARGE)}.get(place, place)
    source = Path(made.write(tmp_path / "made"))
    (source / path).unlink()
    make(source / path)
    with anyio.fail_after(10), pytest.raises(InvalidManifest, match="isn't a regular file"):
        await bring(store, str(source))


def test_a_layout_by_another_name(tmp_path: Path) -> None:
    """The layout itself may be behind a link: that one the user named."""
    image().write(tmp_path / "made")
    (tmp_path / "link").symlink_to("made")
    with open_layout(str(tmp_path / "link")) as layout:
        assert len(layout.entries()) == 1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("place", ["oci-layout", "index.json", "small", "large"])
async def test_members_that_arent_files(store: Store, tmp_path: Path, kind: bytes, place: str) -> None:
    made = image(SMALL, LARGE)
    path = {"small": made.path(SMALL), "large": made.path(LARGE)}.get(place, place)
    source = tmp_path / "made.tar"
    with tarfile.open(source, "w") as archive:
        for name, content in made.all().items():
            add(archive, "elsewhere" if name == path else name, content)
        add(archive, path, type=kind, linkname="elsewhere")
    with pytest.raises(InvalidManifest, match="isn't a regular file"):
        await bring(store, str(source))
    assert store.inventory().references == ()


ESCAPES = ["../escaped", "/tmp/lading-escaped", "blobs/../../escaped", "blobs/sha256/../../../escaped"]


@pytest.mark.parametrize("name", ESCAPES)
async def test_no_member_becomes_a_path(store: Store, tmp_path: Path, name: str) -> None:
    made = image(SMALL)
    source = Path(made.tar(tmp_path / "made.tar"))
    with tarfile.open(source, "a") as archive:
        add(archive, name, b"pwned")
        add(archive, "link", type=tarfile.SYMTYPE, linkname="/tmp")
        add(archive, "link/lading-escaped", b"pwned")
    before = files(tmp_path)
    await bring(store, str(source))
    after = {path: content for path, content in files(tmp_path).items() if not path.startswith("store/")}
    assert after == {path: content for path, content in before.items() if not path.startswith("store/")}
    assert not os.path.exists("/tmp/lading-escaped")
    assert of(b"pwned") not in [digest for digest, _ in store.inventory().contents]


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_document_twice(tmp_path: Path, name: str) -> None:
    made = image()
    source = Path(made.tar(tmp_path / "made.tar"))
    with tarfile.open(source, "a") as archive:
        add(archive, f"./{name}", made.all()[name])
    with pytest.raises(InvalidManifest, match=f"{name} twice"):
        open_layout(str(source))


def header(**fields: Any) -> bytes:
    member = tarfile.TarInfo("member")
    for name, value in fields.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def checked(raw: bytes) -> bytes:
    """Give a header the right checksum."""
    total = sum(raw[:148]) + 256 + sum(raw[156:512])
    return raw[:148] + b"%06o\0 " % total + raw[156:]


GOOD = header(size=600)
TARS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a tar"),
    "text": (b"this is not a tar" * 100, "neither a directory nor a tar"),
    "short text": (b"text", "neither a directory nor a tar"),
    "compressed": (b"\x1f\x8b" + bytes(1000), "neither a directory nor a tar"),
    "cut in a header": (GOOD[:400], "neither a directory nor a tar"),
    "cut in the data": (GOOD + bytes(100), "cut short"),
    "cut in the second header": (GOOD + bytes(1024) + GOOD[:100], "damaged, or cut short, at byte 1536"),
    "a wrong checksum": (GOOD[:10] + b"x" + GOOD[11:] + bytes(2048), "neither a directory nor a tar"),
    "sparse": (header(type=tarfile.GNUTYPE_SPARSE) + bytes(1024), "sparse"),
    "a huge name": (header(type=tarfile.GNUTYPE_LONGNAME, size=2 * MIB) + bytes(3 * MIB), "a header of 2097152 bytes"),
    "a huge pax header": (header(type=tarfile.XHDTYPE, size=1 << 60) + bytes(1024), "a header of"),
    "a huge member": (header(size=1 << 60) + bytes(1024), "cut short"),
    "a negative size": (checked(GOOD[:124] + b"\xff" * 12 + GOOD[136:]) + bytes(1024), "damaged"),
    "a size that isn't a number": (checked(GOOD[:124] + b"00000000x00\0" + GOOD[136:]) + bytes(1024), "damaged"),
    "a pax header without records": (header(type=tarfile.XHDTYPE, size=5) + b"hello" + bytes(1019), "pax header"),
    "a pax record that is too long": (header(type=tarfile.XHDTYPE, size=9) + b"99 path=x" + bytes(1015), "pax header"),
    "a pax record that is too short": (header(type=tarfile.XHDTYPE, size=9) + b"05 path=x" + bytes(1015), "pax header"),
    "a pax size that isn't one": (header(type=tarfile.XHDTYPE, size=11) + b"11 size=-1\n" + bytes(1013), "pax header"),
    "nothing but an end": (bytes(1024), "it has no oci-layout"),
}


@pytest.mark.parametrize(("content", "message"), TARS.values(), ids=TARS)
def test_a_tar_that_isnt_right(tmp_path: Path, content: bytes, message: str) -> None:
    source = tmp_path / "made.tar"
    source.write_bytes(content)
    before = descriptors()
    with pytest.raises(InvalidManifest) as caught, open_layout(str(source)) as layout:
        layout.entries()
    assert message in caught.value.message
    assert str(source) in caught.value.message
    assert descriptors() == before
    if content.startswith(b"\x1f\x8b"):
        assert "decompress" in caught.value.hint


def test_a_source_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(LadingError, match="No such file") as caught:
        open_layout(str(tmp_path / "missing"))
    assert caught.value.hint


async def test_tars_with_damage_anywhere(tmp_path: Path) -> None:
    """Whatever is wrong, it is a typed error, or the right content."""
    made = image(SMALL, b"x" * 3000)
    good = Path(made.tar(tmp_path / "good.tar")).read_bytes()
    source = tmp_path / "made.tar"
    chance = random.Random(20)
    outcomes: set[type[LadingError] | None] = set()
    for round_ in range(400):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.choice((0, 1, 0x2F, 0x37, 0x80, 0xFF))
        source.write_bytes(content[: chance.randrange(len(content))] if round_ % 4 == 0 else content)
        store = MemoryStore()
        try:
            await bring(store, str(source))
        except LadingError as error:
            outcomes.add(type(error))
            assert store.inventory() == Inventory()
        else:
            outcomes.add(None)
            assert store.read(IMAGE.name, of(SMALL)) == Intact(SMALL)
    assert {None, InvalidManifest, DigestMismatch} <= outcomes


# Large blobs, and little memory


async def test_64_mib_in_little_memory(tmp_path: Path, home: Path, measured: Callable[[str, str], None]) -> None:
    size = 64 * MIB
    made = HandMade()
    hasher = hashlib.sha256()
    seed = blob(MIB)
    (tmp_path / "made" / "blobs" / "sha256").mkdir(parents=True)
    with (tmp_path / "made" / "large").open("wb") as file:
        for number in range(size // MIB):
            piece = number.to_bytes(4, "big") + seed[4:]
            hasher.update(piece)
            file.write(piece)
    (tmp_path / "made" / "large").rename(tmp_path / "made" / "blobs" / "sha256" / hasher.hexdigest())
    layer = {"mediaType": "application/x", "digest": f"sha256:{hasher.hexdigest()}", "size": size}
    config = describe("application/x", made.blob(b"{}"))
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    made.list(made.blob(json.dumps(document).encode()))
    source = made.write(tmp_path / "made")

    store = LocalStore(home)
    tracemalloc.start()
    try:
        await bring(store, source)
        peaks = [tracemalloc.get_traced_memory()[1]]
        for target in ("out", "out.tar"):
            tracemalloc.reset_peak()
            await anyio.to_thread.run_sync(export_images, store, [IMAGE], str(tmp_path / target))
            peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        await bring(store, str(tmp_path / "out.tar"), name=Reference.parse("ghcr.io/acme/other"))
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    await store.aclose()
    measured("64 MiB in and out: peaks of memory", ", ".join(f"{peak / MIB:.1f} MiB" for peak in peaks))
    assert max(peaks) < 16 * MIB
    assert (tmp_path / "out" / "blobs" / "sha256" / hasher.hexdigest()).stat().st_size == size


async def test_an_import_that_is_cancelled_leaves_nothing_open(tmp_path: Path, home: Path) -> None:
    source = image(b"x", blob(8 * MIB)).write(tmp_path / "made")
    before = descriptors()
    for number in range(12):
        store = LocalStore(home / str(number))
        told = 0

        def listen(event: Event, number: int = number) -> None:
            nonlocal told
            told += 1
            if told > number % 4:
                scope.cancel()

        with anyio.CancelScope() as scope:
            await bring(store, source, events=listen)
        assert scope.cancelled_caught
        assert store.resolve(IMAGE) is ABSENT
        await bring(store, source)
        await store.aclose()
    assert descriptors() == before
