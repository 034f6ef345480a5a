"""Verification: all damage is found, nothing else is called damage, and nothing is changed."""

from __future__ import annotations

import errno
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from artifacts import INDEX, index, manifest
from store.cargo import NOON, blob
from store.conftest import descriptors

from lading.errors import StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import Reference
from lading.store.index import connect
from lading.store.local import LocalStore
from lading.store.store import INLINE_LIMIT, Changes, MemoryStore, Seen, Store
from lading.store.verify import Damaged, Report, Verifier

MIB = 1024 * 1024
NAME = "ghcr.io/acme/image"
IMAGE = Reference.parse(f"{NAME}:v1")
OTHER = Reference.parse("ghcr.io/acme/other:v1")
CONFIG = b"{}"


def of(content: bytes) -> Digest:
    return Digest.of(content)


async def fetched(
    store: Store, *parts: bytes, root: bytes, reference: Reference = IMAGE, media_type: str = OCI_MANIFEST
) -> None:
    """Put a manifest and some of what it needs into the store."""
    seen = [Seen(reference.name, of(root), media_type)]
    seen += [Seen(reference.name, of(part), "application/x") for part in parts]
    content = tuple((of(part), part) for part in (root, *parts))
    references = ((reference, of(root), media_type),)
    await store.commit(Changes(NOON, content=content, seen=tuple(seen), references=references))


async def verified(store: Store, *references: Reference) -> Report:
    return await Verifier(store, references).run()


async def test_an_empty_store_is_whole(store: Store) -> None:
    report = await verified(store)
    assert report == Report(0, 0, (), (), (), ())
    assert report.is_whole


async def test_everything_is_read(store: Store) -> None:
    sizes = [0, 10, INLINE_LIMIT, INLINE_LIMIT + 1, 3 * MIB]
    raws = [manifest(blob(size, 7)) for size in sizes]
    for size, raw in zip(sizes, raws, strict=True):
        await fetched(store, blob(size, 7), CONFIG, root=raw, reference=Reference.parse(f"{NAME}:{size}"))
    hidden = blob(100, 8)
    await store.commit(Changes(NOON, content=((of(hidden), hidden),)))
    report = await verified(store)
    total = sum(sizes) + sum(map(len, raws)) + len(CONFIG) + len(hidden)
    assert report == Report(len(sizes) * 2 + 2, total, (), (), (), ())


async def test_what_was_never_fetched_isnt_damage(store: Store) -> None:
    """An agent without its config, an index with one of its platforms, a layer that is embedded."""
    await fetched(store, b"layer", root=manifest(b"layer"))
    report = await verified(store)
    assert ([one.digest for one in report.absent], report.is_whole) == ([of(CONFIG)], True)
    here, elsewhere = manifest(b"here"), manifest(b"elsewhere")
    root = index(here, elsewhere)
    await fetched(store, here, b"here", CONFIG, root=root, reference=OTHER, media_type=INDEX)
    report = await verified(store, OTHER)
    assert ([one.digest for one in report.absent], report.is_whole, report.intact) == ([of(elsewhere)], True, 4)
    inline = Reference.parse("ghcr.io/acme/inline:v1")
    await fetched(store, root=manifest(b"embedded", inline=True), reference=inline)
    report = await verified(store, inline)
    assert ([one.digest for one in report.absent], report.is_whole, report.intact) == ([of(CONFIG)], True, 1)


async def test_content_of_another_repository_doesnt_count(store: Store) -> None:
    await fetched(store, b"layer", root=manifest(b"layer"))
    await fetched(store, CONFIG, root=manifest(b"layer"), reference=OTHER)
    assert [one.digest for one in (await verified(store, IMAGE)).absent] == [of(CONFIG)]
    assert [one.digest for one in (await verified(store, OTHER)).absent] == [of(b"layer")]


async def test_only_what_a_reference_needs_is_read(store: Store) -> None:
    await fetched(store, blob(MIB, 1), CONFIG, root=manifest(blob(MIB, 1)))
    await fetched(store, blob(MIB, 2), root=manifest(blob(MIB, 2)), reference=OTHER)
    report = await verified(store, IMAGE, IMAGE)
    assert (report.intact, report.bytes) == (3, MIB + len(CONFIG) + len(manifest(blob(MIB, 1))))
    pinned = IMAGE.at(of(manifest(blob(MIB, 1))))
    assert await verified(store, pinned) == report
    with pytest.raises(StoreError, match="isn't in the store") as caught:
        await verified(store, IMAGE, Reference.parse("ghcr.io/acme/unknown"))
    assert "lading fetch" in caught.value.hint


async def test_what_a_store_in_memory_lost() -> None:
    store = MemoryStore()
    raw = manifest(b"layer")
    await fetched(store, b"layer", CONFIG, root=raw)
    store._content[of(b"layer")] = b"lawyer"
    (damaged,) = (await verified(store)).damaged
    assert (damaged.digest, damaged.references) == (of(b"layer"), (IMAGE,))
    del store._content[of(raw)]
    report = await verified(store)
    lost = Damaged(of(raw), 0, "the store lost this manifest", (IMAGE,), OCI_MANIFEST)
    assert lost in report.damaged


# Damage on disk


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "is missing"),
    "empty": (lambda path: os.truncate(path, 0), "has 0 bytes instead of"),
    "half": (lambda path: os.truncate(path, path.stat().st_size // 2), "has 1572864 bytes instead of 3145728"),
    "a byte less": (lambda path: os.truncate(path, path.stat().st_size - 1), "has 3145727 bytes instead of 3145728"),
    "a byte more": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has 3145729 bytes instead of 3145728"),
    "a bit": (flip, "isn't the content that it is named after"),
    "a link": (link, "isn't a regular file"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_blob(home: Path, damage: Callable[[Path], object], reason: str) -> None:
    store, large = LocalStore(home), blob(3 * MIB)
    raw, other = manifest(large), manifest(large, {"other": "one"})
    await fetched(store, large, CONFIG, root=raw)
    await fetched(store, large, root=index(other), reference=OTHER, media_type=INDEX)
    await fetched(store, large, CONFIG, root=other, reference=OTHER.at(of(other)))
    await fetched(store, b"x", CONFIG, root=manifest(b"x"), reference=Reference.parse("ghcr.io/acme/intact"))
    path = home / "blobs" / "sha256" / of(large).encoded
    path.chmod(0o600)
    damage(path)
    state = {name: name.read_bytes() for name in (home / "blobs").rglob("*") if name.is_file()}
    report = await verified(store)
    (damaged,) = report.damaged
    assert (damaged.digest, damaged.size, damaged.media_type) == (of(large), 3 * MIB, "application/yaml")
    assert set(damaged.references) == {IMAGE, OTHER, OTHER.at(of(other))}
    assert reason in damaged.reason
    assert str(path) in damaged.reason
    assert not report.is_whole
    assert report.intact == 6
    assert [Path(stray).name for stray in report.strays] == (["elsewhere"] if damage is link else [])
    assert {name: name.read_bytes() for name in (home / "blobs").rglob("*") if name.is_file()} == state
    assert (await verified(store, Reference.parse("ghcr.io/acme/intact"))).is_whole
    assert not (await verified(store, OTHER)).is_whole
    await store.aclose()


# A damaged index


def sql(home: Path, statement: str, *parameters: object) -> None:
    """Change the index behind the store's back."""
    with closing(connect(str(home / "index-1.db"), "mode=rw")) as connection:
        assert connection.execute(statement, parameters).rowcount == 1
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def stocked(home: Path) -> None:
    store = LocalStore(home)
    await fetched(store, b"layer", CONFIG, root=manifest(b"layer"))
    await fetched(store, b"other", CONFIG, root=manifest(b"other"), reference=OTHER)
    await store.aclose()


@pytest.mark.parametrize("spoilt", [b"", b"lay", b"laye", b"layes", b"layers"])
async def test_damaged_content_in_the_index(home: Path, spoilt: bytes) -> None:
    await stocked(home)
    sql(home, "UPDATE content SET data = ? WHERE digest = ?", spoilt, str(of(b"layer")))
    store = LocalStore(home)
    report = await verified(store)
    (damaged,) = report.damaged
    assert (damaged.digest, damaged.size, damaged.references) == (of(b"layer"), 5, (IMAGE,))
    assert report.intact == 4
    assert (await verified(store, OTHER)).is_whole
    assert [path.name for path in home.glob("index-*.db")] == ["index-1.db"], "nothing is changed"
    await store.commit(Changes(NOON, notes=(("any", "thing", None),)))
    assert not (await verified(store)).damaged, "a commit to a damaged index makes a new one"
    assert [one.digest for one in (await verified(store, IMAGE)).absent] == [of(b"layer")]
    await store.aclose()


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("UPDATE reference SET digest = replace(digest, 'a', 'b') WHERE name = ?", (str(IMAGE),)),
        ("UPDATE reference SET validated = 1 WHERE name = ?", (str(IMAGE),)),
        ("UPDATE seen SET media_type = 'x' WHERE digest = ?", (str(of(b"layer")),)),
        ("UPDATE seen SET checksum = 'x' WHERE digest = ?", (str(of(b"layer")),)),
        ("UPDATE content SET digest = 'x' WHERE digest = ?", (str(of(b"layer")),)),
        ("UPDATE content SET size = 'x' WHERE digest = ?", (str(of(b"layer")),)),
        ("UPDATE content SET size = -1 WHERE digest = ?", (str(of(b"layer")),)),
    ],
)
async def test_damaged_rows(home: Path, statement: str, parameters: tuple[object, ...]) -> None:
    await stocked(home)
    sql(home, statement, *parameters)
    store = LocalStore(home)
    report = await verified(store)
    assert not report.is_whole
    assert len(report.damage) == 1
    assert report.intact in (4, 5)
    assert {OTHER} <= {reference for reference, _ in store.inventory().references}
    await store.commit(Changes(NOON, notes=(("any", "thing", None),)))
    assert (await verified(store)).is_whole, "a commit to a damaged index makes a new one"
    assert (await verified(store, OTHER)).intact == 3
    await store.aclose()


@pytest.mark.parametrize("table", ["content", "seen"])
async def test_a_manifest_that_the_store_lost(home: Path, table: str) -> None:
    await stocked(home)
    sql(home, f"DELETE FROM {table} WHERE digest = ?", str(of(manifest(b"layer"))))
    store = LocalStore(home)
    for report in (await verified(store), await verified(store, IMAGE)):
        (damaged,) = report.damaged
        assert (damaged.digest, damaged.references) == (of(manifest(b"layer")), (IMAGE,))
        assert damaged.reason == "the store lost this manifest"
    await store.aclose()


async def test_content_that_is_removed_meanwhile_isnt_damage(home: Path) -> None:
    await stocked(home)
    store = LocalStore(home)
    removed = False

    def remove(done: int, total: int) -> None:
        nonlocal removed
        if not removed:
            removed = True
            sql(home, "DELETE FROM content WHERE digest = ?", str(max((of(b"layer"), of(b"other")), key=str)))

    report = await Verifier(store, (), remove).run()
    assert (report.is_whole, report.intact, len(report.absent)) == (True, 4, 1)
    await store.aclose()


async def test_content_that_cant_be_read_is_damaged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It doesn't keep the rest from being verified."""
    store, large = LocalStore(home), blob(MIB)
    await fetched(store, large, CONFIG, root=manifest(large))

    def refuse(path: str) -> tuple[int, int]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("lading.store.blobs.open_regular", refuse)
    report = await verified(store)
    (damaged,) = report.damaged
    assert (damaged.digest, damaged.references, report.intact) == (of(large), (IMAGE,), 2)
    assert "Permission denied" in damaged.reason
    await store.aclose()


@pytest.mark.parametrize("content", [b"", b"garbage" * 10_000])
async def test_an_index_that_isnt_one(home: Path, content: bytes) -> None:
    await stocked(home)
    (home / "index-1.db").write_bytes(content)
    store = LocalStore(home)
    report = await verified(store)
    assert len(report.damage) == 1
    assert "index-1.db" in report.damage[0]
    assert (await verified(store, IMAGE)).damage == report.damage
    assert (home / "index-1.db").read_bytes() == content
    await store.aclose()


async def test_a_manifest_that_isnt_one(store: Store) -> None:
    """It is what was stored; whatever put it there."""
    await fetched(store, root=b"<html>")
    report = await verified(store)
    assert (report.intact, report.is_whole) == (1, True)


# Files that belong to nothing


async def test_strays_are_told_of_and_left_alone(home: Path) -> None:
    store = LocalStore(home)
    assert (await verified(store)).strays == ()
    large = blob(MIB)
    await fetched(store, large, CONFIG, root=manifest(large))
    blobs = home / "blobs" / "sha256"
    name = of(b"nobody").encoded
    (blobs / name).write_bytes(b"nobody")
    (blobs / of(CONFIG).encoded).write_bytes(CONFIG)  # what is in the index isn't read from here
    (blobs / "readme").write_text("hello")
    (blobs / "link").symlink_to("/etc/passwd")
    (blobs / ("a" * 64)).mkdir()
    (home / "blobs" / "md5").mkdir()
    (home / "blobs" / "md5" / "x").touch()
    (home / "blobs" / "file").touch()
    report = await verified(store)
    assert report.is_whole
    found = [name, of(CONFIG).encoded, "readme", "link", "a" * 64]
    assert set(report.strays) == {
        *(str(blobs / each) for each in found),
        str(home / "blobs" / "md5" / "x"),
        str(home / "blobs" / "file"),
    }
    assert all(os.path.lexists(path) for path in report.strays)
    assert (await verified(store, IMAGE)).strays == (), "who asks for one reference doesn't ask for this"
    await store.aclose()


async def test_a_blob_without_an_index(home: Path) -> None:
    (home / "blobs" / "sha256").mkdir(parents=True)
    (home / "blobs" / "sha256" / "file").touch()
    store = LocalStore(home)
    assert (await verified(store)).strays == (str(home / "blobs" / "sha256" / "file"),)
    assert [path.name for path in home.iterdir()] == ["blobs"], "nothing is made"


# How it is read


async def test_progress_is_told(home: Path) -> None:
    store = LocalStore(home)
    for number in range(3):
        await fetched(store, blob(3 * MIB, number), root=manifest(blob(3 * MIB, number)), reference=IMAGE)
    told: list[tuple[int, int]] = []
    report = await Verifier(store, (), lambda done, total: told.append((done, total))).run()
    assert {total for _, total in told} == {report.bytes}
    assert max(done for done, _ in told) == report.bytes
    assert len(told) >= 12
    await store.aclose()


async def test_what_was_found_intact_isnt_read_again(home: Path) -> None:
    store, large = LocalStore(home), blob(3 * MIB)
    await fetched(store, large, CONFIG, root=manifest(large))
    path = home / "blobs" / "sha256" / of(large).encoded
    path.chmod(0o600)
    flip(path)
    told: list[int] = []
    verifier = Verifier(store, (), lambda done, total: told.append(total))
    assert len((await verifier.run()).damaged) == 1
    flip(path)
    told.clear()
    report = await verifier.run()
    assert (report.is_whole, report.intact) == (True, 3)
    assert set(told) == {3 * MIB}
    await store.aclose()


async def test_two_threads_at_most(home: Path) -> None:
    store = LocalStore(home)
    for number in range(10):
        await fetched(store, blob(5 * MIB, number), root=manifest(blob(5 * MIB, number)), reference=IMAGE)
    readers: set[int] = set()
    await Verifier(store, (), lambda done, total: readers.add(threading.get_ident())).run()
    assert len(readers) == 2
    assert threading.get_ident() not in readers
    await store.aclose()


async def test_a_verification_that_is_cancelled_leaves_nothing_open(home: Path) -> None:
    store = LocalStore(home)
    for number in range(4):
        await fetched(store, blob(8 * MIB, number), root=manifest(blob(8 * MIB, number)), reference=IMAGE)
    before = descriptors()
    for steps in (1, 2, 5, 9):
        told: list[int] = []
        is_cancelled = threading.Event()
        async with anyio.create_task_group() as group:
            enough = anyio.Event()

            def look(done: int, total: int, steps: int = steps) -> None:
                told.append(done)  # noqa: B023
                if len(told) >= steps:  # noqa: B023
                    anyio.from_thread.run_sync(enough.set)  # noqa: B023
                    is_cancelled.wait(10)  # noqa: B023

            group.start_soon(Verifier(store, (), look).run)
            await enough.wait()
            group.cancel_scope.cancel()
        count = len(told)
        is_cancelled.set()
        with anyio.fail_after(10):
            while descriptors() - before:  # noqa: ASYNC110  # a thread that nobody waits for sets no event
                await anyio.sleep(0.01)
        assert len(told) <= count + 1, "the threads don't go on"
    assert (await verified(store)).is_whole
    await store.aclose()


async def test_64_mib_in_little_memory(home: Path, measured: Callable[[str, str], None]) -> None:
    store = LocalStore(home)
    content = blob(64 * MIB)
    layer = Descriptor("application/x", of(content), len(content))
    async with store.ingest(layer) as ingest:
        await ingest.write(content)
        await ingest.finish()
    del content
    await store.commit(Changes(NOON, blobs=(layer,), seen=(Seen(NAME, layer.digest, layer.media_type),)))
    tracemalloc.start()
    try:
        report = await verified(store)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.intact, report.bytes) == (1, 64 * MIB)
    measured("64 MiB verified: peak of memory", f"{peak / MIB:.1f} MiB")
    assert peak < 16 * MIB
    await store.aclose()


async def test_many_references(home: Path, measured: Callable[[str, str], None]) -> None:
    store = LocalStore(home)
    agents = [(Reference.parse(f"{NAME}{n}:v1"), b"layer %d" % n) for n in range(2_000)]
    content = [(of(part), part) for _, layer in agents for part in (manifest(layer), layer)]
    seen = [
        Seen(reference.name, digest, kind)
        for reference, layer in agents
        for digest, kind in ((of(manifest(layer)), OCI_MANIFEST), (of(layer), "application/yaml"))
    ]
    references = tuple((reference, of(manifest(layer)), OCI_MANIFEST) for reference, layer in agents)
    await store.commit(Changes(NOON, content=tuple(content), seen=tuple(seen), references=references))
    began = time.perf_counter()
    report = await verified(store)
    measured("2,000 agents verified", f"{time.perf_counter() - began:.2f} s")
    assert (report.intact, report.is_whole, [one.digest for one in report.absent]) == (4_000, True, [of(CONFIG)])
    await store.aclose()
