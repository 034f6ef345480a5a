"""Garbage collection: what nothing needs goes, all of it; what somebody needs, in whatever process, never does."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ordeal import Ordeal
from store.cargo import LAYER, NOON, agent, blob, described, shown, take
from store.conftest import Mounts, descriptors
from store.process import run, start

from lading.errors import OutOfSpace, StoreCorrupted, StoreError, StoreReadOnly
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import Reference
from lading.store import index
from lading.store.blobs import Blobs
from lading.store.collect import Collection
from lading.store.gc import Collected, Families, Holdings, Known, Limits, plan
from lading.store.index_schema import MIGRATIONS
from lading.store.leases import LocalLease
from lading.store.local import LocalStore
from lading.store.store import (
    ABSENT,
    INLINE_LIMIT,
    Absent,
    Changes,
    Corrupt,
    Intact,
    Lost,
    MemoryStore,
    Seen,
    Store,
    use,
)
from lading.store.strays import Strays

MIB = 1024 * 1024
DAY = 86_400.0
IMAGE = "ghcr.io/acme/image"
LARGE = INLINE_LIMIT + 1


@pytest.fixture
async def local(home: Path) -> AsyncIterator[LocalStore]:
    before = descriptors()
    store = LocalStore(home)
    yield store
    await store.aclose()
    assert descriptors() == before


def files(home: Path) -> set[str]:
    """The files of a store, without those of its index that is open."""
    return {
        str(path.relative_to(home))
        for path in home.rglob("*")
        if not path.is_dir() and not path.name.endswith(("-wal", "-shm"))
    }


def is_clean(store: LocalStore) -> None:
    """Nothing is there but what the index knows, and all of that."""
    inventory, home = store.inventory(), Path(store.path)
    assert (inventory.strays, inventory.damage) == ((), ())
    for digest, size in inventory.contents:
        assert store.check(digest, lambda size: None) == size
    assert os.listdir(home / "ingest") == []
    known = {"lock", "index-1.db"} | {f"blobs/{digest.algorithm}/{digest.encoded}" for digest, _ in inventory.contents}
    assert files(home) <= known


# The rules, whatever refers to what


@dataclass(frozen=True)
class Graph:
    """What a store holds: contents by number, links between them, references with their stamps, leases."""

    sizes: tuple[int, ...]
    links: tuple[tuple[int, int], ...]
    references: tuple[tuple[str, int, float, float], ...]
    leased: tuple[int, ...]
    limits: Mapping[str, Any]

    @property
    def contents(self) -> list[bytes]:
        return [bytes([number]) + blob(size - 1, number) for number, size in enumerate(self.sizes)]

    @property
    def digests(self) -> list[Digest]:
        return [Digest.of(content) for content in self.contents]

    def names(self) -> list[Reference]:
        """The references; a pinned one is named by what it stands for."""
        return [
            Reference.parse(name).at(self.digests[number]) if "pinned" in name else Reference.parse(name)
            for name, number, _, _ in self.references
        ]

    def changes(self) -> Iterator[Changes]:
        digests = self.digests
        yield Changes(
            NOON,
            content=tuple(zip(digests, self.contents, strict=True)),
            links=tuple((digests[parent], digests[child]) for parent, child in self.links),
        )
        for name, (_, number, validated, used) in zip(self.names(), self.references, strict=True):
            yield Changes(
                validated,
                seen=(Seen(name.name, digests[number], OCI_MANIFEST),),
                references=((name, digests[number], OCI_MANIFEST),),
                notes=(use(name, used),) if used else (),
            )

    def below(self, roots: set[int]) -> set[int]:
        reached = set(roots)
        while more := {child for parent, child in self.links if parent in reached} - reached:
            reached |= more
        return reached


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    sizes = draw(st.lists(st.sampled_from([1, 50, 700, LARGE]), min_size=1, max_size=9))
    number = st.integers(0, len(sizes) - 1)
    links = draw(st.lists(st.tuples(number, number), max_size=12))
    stamps = st.integers(0, 5).map(lambda days: NOON - days * DAY)
    names = st.sampled_from(
        [f"{host}/a/{name}" for host in ("ghcr.io", "quay.io") for name in ("x:1", "x:2", "pinned")]
    )
    reference = st.tuples(names, number, stamps, st.just(0.0) | stamps)
    limits = st.fixed_dictionaries(
        {},
        optional={"older_than": st.integers(0, 6).map(lambda days: days * DAY), "max_size": st.integers(0, 3 * LARGE)},
    )
    return Graph(
        tuple(sizes),
        tuple(links),
        tuple(draw(st.lists(reference, max_size=8, unique_by=lambda one: one[:2]))),
        tuple(draw(st.lists(number, max_size=2))),
        draw(limits),
    )


def check(graph: Graph, done: Collected) -> None:
    """It is what the rules say, told in another way."""
    last: dict[Reference, float] = {}
    stands: dict[Reference, int] = {}
    for name, (_, number, validated, used) in zip(graph.names(), graph.references, strict=True):
        last[name] = max(validated, used, last.get(name, 0.0) if stands.get(name) == number else used)
        stands[name] = number
    leased = graph.below(set(graph.leased))
    kept = {name: number for name, number in stands.items() if name not in done.references}
    reached = graph.below(set(kept.values())) | leased
    unreached = {
        graph.digests[number]: graph.sizes[number] for number in range(len(graph.sizes)) if number not in reached
    }
    assert dict(done.contents) == unreached
    left = sum({graph.digests[number]: graph.sizes[number] for number in reached}.values())
    assert (done.references_left, done.bytes_left) == (len(kept), left)
    if "max_size" in graph.limits:
        assert left <= graph.limits["max_size"] or not {
            name for name, number in kept.items() if number not in graph.leased and graph.below({number}) - leased
        }
    if not graph.limits:
        assert done.references == ()


async def played(store: Store, graph: Graph) -> Collected:
    for changes in graph.changes():
        await store.commit(replace(changes, durable=False))
    with store.lease() as lease:
        lease.keep([graph.digests[number] for number in graph.leased])
        before = store.inventory()
        would = await store.collect(**graph.limits, dry_run=True, now=NOON)
        assert store.inventory() == before
        done = await store.collect(**graph.limits, now=NOON)
    assert done == would
    gone = set(dict(done.contents))
    after = store.inventory()
    assert after.contents == tuple(held for held in before.contents if held[0] not in gone)
    assert after.references == tuple(known for known in before.references if known[0] not in done.references)
    assert after.strays == ()
    for name, number, _, _ in graph.references:
        found = store.read(Reference.parse(name).name, graph.digests[number])
        assert (found == Intact(graph.contents[number])) or found is ABSENT
    return done


@settings(max_examples=20, deadline=None)
@given(graphs())
def test_a_dry_run_tells_the_truth_and_every_store_does_the_same(graph: Graph) -> None:
    with tempfile.TemporaryDirectory() as home:

        async def main() -> list[Collected]:
            stores: list[Store] = [MemoryStore(), LocalStore(home)]
            try:
                return [await played(store, graph) for store in stores]
            finally:
                for store in stores:
                    await store.aclose()

        memory, local = asyncio.run(main())
    assert memory == local
    check(graph, memory)


references = st.builds(
    Known, st.integers(0, 30).map("ghcr.io/a/r:{}".format), st.sampled_from("abcdefgh"), st.just(""), st.floats(0, 10)
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(references, max_size=20, unique_by=lambda known: known.name),
    st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(0, 9), max_size=12),
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefghijkl"), max_size=3), max_size=8),
    st.integers(0, 60),
)
def test_room_is_made_with_as_few_references_as_their_order_allows(
    known: list[Known], contents: dict[str, int], links: dict[str, list[str]], limit: int
) -> None:
    holdings = Holdings(known, contents, links)

    def reached(references: list[Known]) -> set[str]:
        found = {one.digest for one in references}
        while more := {child for digest in found for child in links.get(digest, ())} - found:
            found |= more
        return found & contents.keys()

    done = plan(holdings, Limits(0.0, max_size=limit), Families(), lambda digest: None)
    order = sorted(known, key=lambda one: (one.last, one.name))
    for count in range(len(order) + 1):
        if sum(contents[digest] for digest in reached(order[count:])) <= limit:
            break
    needed = reached(order[count:])
    assert contents.keys() - set(done.removed) == needed
    assert set(done.forgotten) == {one.name for one in order[:count] if not reached([one]) <= needed}


# What is left in the directory


async def left(store: LocalStore, content: bytes = blob(3 * MIB), size: int = 2 * MIB) -> Path:
    """A partial that nobody owns."""
    with suppress(ZeroDivisionError):
        async with store.ingest(described(content)) as ingest:
            await ingest.write(content[ingest.received : size])
            raise ZeroDivisionError
    (path,) = Path(store.path, "ingest").glob("sha256-*.part")
    return path


async def test_a_partial_that_nobody_owns_is_removed(local: LocalStore, home: Path) -> None:
    await local.commit(agent().changes())
    path = await left(local)
    would = await local.collect(dry_run=True)
    assert [(stray.kind, stray.path) for stray in would.files] == [("partial", str(path))]
    assert 2 * MIB <= would.freed <= 2 * MIB + 8192
    assert await local.collect() == would
    is_clean(local)
    assert agent().is_in(local)
    async with local.ingest(described(blob(3 * MIB))) as ingest:
        assert ingest.received == 0


async def test_a_partial_that_is_written_stays(local: LocalStore) -> None:
    content = blob(3 * MIB)
    async with local.ingest(described(content)) as ingest:
        await ingest.write(content[: 2 * MIB])
        other = LocalStore(local.path)
        assert (await other.collect()).files == ()
        await other.aclose()
        await ingest.write(content[2 * MIB :])
        await ingest.finish()
    await local.commit(shown(described(content)))
    assert local.read(IMAGE, Digest.of(content)) == Intact(content)


async def test_a_partial_that_is_gone_on_with_stays(local: LocalStore) -> None:
    content = blob(3 * MIB)
    await left(local, content)
    async with local.ingest(described(content)) as ingest:
        assert ingest.received == 2 * MIB
        assert (await local.collect()).files == ()
        await ingest.write(content[2 * MIB :])
        await ingest.finish()
    assert (await local.collect()).files == ()
    await local.commit(shown(described(content)))
    assert local.read(IMAGE, Digest.of(content)) == Intact(content)


async def test_a_blob_without_a_row_is_removed(local: LocalStore, home: Path) -> None:
    one, content = agent(size=LARGE), blob(LARGE, 1)
    await local.commit(one.changes())
    crashed = LocalStore(home)
    async with crashed.ingest(described(content)) as ingest:
        await ingest.write(content)
        await ingest.finish()
    assert (await local.collect()).files == (), "whoever finished it may still commit it"
    await crashed.aclose()
    done = await local.collect()
    path = home / "blobs" / "sha256" / Digest.of(content).encoded
    assert [(stray.kind, stray.path) for stray in done.files] == [("blob", str(path))]
    assert done.freed >= LARGE
    is_clean(local)
    assert one.is_in(local)


async def test_an_ingest_that_fails_needs_nothing_any_more(local: LocalStore) -> None:
    content = blob(LARGE)
    with suppress(ZeroDivisionError):
        async with local.ingest(described(content)) as ingest:
            await ingest.write(content)
            await ingest.finish()
            raise ZeroDivisionError
    assert [stray.kind for stray in (await local.collect()).files] == ["blob"]


async def test_without_an_index_every_blob_belongs_to_nothing(home: Path) -> None:
    crashed = LocalStore(home)
    async with crashed.ingest(described(blob(LARGE))) as ingest:
        await ingest.write(blob(LARGE))
        await ingest.finish()
    await crashed.aclose()
    store = LocalStore(home)
    would = await store.collect(dry_run=True)
    assert [stray.kind for stray in would.files] == ["blob"]
    assert await store.collect() == would
    assert files(home) == {"lock"}
    await store.aclose()


@pytest.mark.parametrize("dry_run", [True, False])
async def test_where_there_is_no_store_none_is_made(tmp_path: Path, dry_run: bool) -> None:
    for home in (tmp_path / "nowhere", tmp_path):
        store = LocalStore(home)
        assert await store.collect(dry_run=dry_run) == Collected((), (), (), 0, 0)
        await store.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_a_dry_run_leaves_no_trace(local: LocalStore, home: Path) -> None:
    await local.commit(agent(size=LARGE).changes())
    await local.commit(Changes(NOON, forgotten=(agent().reference,)))
    await left(local)
    await local.aclose()
    before = {name: (home / name).read_bytes() for name in files(home)}
    store = LocalStore(home)
    assert (await store.collect(dry_run=True)).freed > LARGE
    await store.aclose()
    assert {name: (home / name).read_bytes() for name in files(home)} == before


TEMPORARY = [
    "index-1.0123456789abcdef.part",
    "index-12.0123456789abcdef.part-wal",
    "index-12.0123456789abcdef.part-shm",
    "index-12.0123456789abcdef.part-journal",
    "collected.0123456789abcdef",
    f"sha256-{'a' * 64}.lock",
    "salvage.0123456789abcdef/index.db",
]
FOREIGN = [
    "notes.txt",
    "index-1.part",
    "index-1.0123456789abcdef.part.bak",
    "collected.x",
    "salvage.me",
    f"sha256-{'a' * 64}.part",
    "lease",
    f"sha256-{'a' * 64}.left-0123456789abcdef.part/mine",
]


async def test_no_temporary_file_outlives_a_collection_and_no_foreign_one_is_touched(
    local: LocalStore, home: Path
) -> None:
    await local.commit(agent().changes())
    for name in [*TEMPORARY, *FOREIGN]:
        path = home / "ingest" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
    mine = ["blobs/sha256/README", f"blobs/{'a' * 64}", "lease-mine", "index-0.db", "index-x.db", "index-1.db.bak"]
    (home / "blobs" / "sha256" / ("b" * 64)).mkdir(parents=True)
    for name in mine:
        (home / name).write_bytes(b"mine")
    would = await local.collect(dry_run=True)
    assert {os.path.relpath(stray.path, home / "ingest") for stray in would.files} == {
        name.partition("/")[0] for name in TEMPORARY
    }
    assert {stray.kind for stray in would.files} == {"temporary"}
    assert await local.collect() == would
    assert would.freed == 5000 * len(TEMPORARY)
    expected = {"lock", "index-1.db", *mine, *(f"ingest/{name}" for name in FOREIGN)}
    assert files(home) == expected
    assert (home / "blobs" / "sha256" / ("b" * 64)).is_dir()


async def test_a_planted_link_is_removed_and_not_followed(local: LocalStore, home: Path, tmp_path: Path) -> None:
    await local.commit(agent(size=LARGE).changes())
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("mine")
    links = [
        home / "blobs" / "sha256" / ("a" * 64),
        home / "ingest" / "collected.0123456789abcdef",
        home / "ingest" / "salvage.0123456789abcdef",
        home / "ingest" / f"sha256-{'a' * 64}.left-0123456789abcdef.part",
        home / "lease-01234567-1-1-0123456789abcdef",
    ]
    for number, path in enumerate(links):
        path.symlink_to(tmp_path / "target" / ("file" if number % 2 else ""))
    assert {stray.path for stray in (await local.collect()).files} == {str(path) for path in links}
    is_clean(local)
    assert (tmp_path / "target" / "file").read_text() == "mine"


async def test_the_file_of_what_is_removed_may_be_missing(local: LocalStore, home: Path) -> None:
    one, other = agent(size=LARGE), agent(1, size=LARGE)
    for each in (one, other):
        await local.commit(each.changes())
    await local.commit(Changes(NOON, forgotten=(one.reference, other.reference)))
    path = home / "blobs" / "sha256" / one.layer_digest.encoded
    path.unlink()
    would = await local.collect(dry_run=True)
    assert await local.collect() == would
    is_clean(local)


# Indexes that were damaged and left aside


async def left_aside(home: Path) -> Path:
    store = LocalStore(home)
    await store.commit(agent(size=LARGE).changes())
    await store.aclose()
    path = home / "index-1.db"
    os.truncate(path, path.stat().st_size - 1000)
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    store = LocalStore(home)
    await store.commit(agent(1).changes())
    await store.aclose()
    assert (home / "index-2.db").exists()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(b"also damaged")
    return path


@pytest.mark.parametrize(
    ("days", "older_than", "stays"),
    [(29, None, True), (31, None, False), (-1, None, True), (2, 1, False), (2, 3, True), (100, 200, True)],
)
async def test_a_damaged_index_is_kept_for_some_time(
    home: Path, days: int, older_than: int | None, stays: bool
) -> None:
    path = await left_aside(home)
    written = path.stat().st_mtime - days * DAY
    os.utime(path, (written, written))
    store = LocalStore(home)
    limit = None if older_than is None else older_than * DAY
    would = await store.collect(older_than=limit, now=NOON, dry_run=True)
    assert await store.collect(older_than=limit, now=NOON) == would
    assert {Path(stray.path).name for stray in would.files if stray.kind == "index"} == (
        set() if stays else {"index-1.db", "index-1.db-wal", "index-1.db-shm"}
    )
    assert path.exists() == stays
    assert agent(1).is_in(store)
    await store.aclose()


# Damage


async def test_in_a_damaged_index_nothing_is_collected(local: LocalStore, home: Path) -> None:
    agents = [agent(number, size=[300, LARGE][number % 2]) for number in range(8)]
    for one in agents:
        await local.commit(one.changes())
    await local.commit(Changes(NOON, forgotten=(agents[0].reference, agents[1].reference)))
    await local.aclose()
    path = home / "index-1.db"
    good = path.read_bytes()

    def row(table: str, column: str, value: object) -> Callable[[], None]:
        def damage() -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 3", (value,))

        return damage

    def key() -> None:
        # In the index of its keys, a reference has another name: whoever looks it up doesn't find it.
        name = str(agents[5].reference).encode()
        with closing(sqlite3.connect(path)) as connection:
            (root,) = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_reference_1'"
            ).fetchone()
        page = bytearray(good[(root - 1) * 4096 : root * 4096])
        at = page.index(name)
        page[at + len(name) - 1] ^= 1
        path.write_bytes(good[: (root - 1) * 4096] + page + good[root * 4096 :])

    damages: list[Callable[[], object]] = [
        row("reference", "digest", str(agents[0].digest)),
        row("reference", "name", "not a reference"),
        row("content", "digest", "sha256:short"),
        row("content", "size", "many"),
        key,
        lambda: path.write_bytes(b"garbage" * 1000),
    ]
    blobs = sorted(os.listdir(home / "blobs" / "sha256"))
    for damage in damages:
        path.write_bytes(good)
        damage()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        before = path.read_bytes()
        store = LocalStore(home)
        with pytest.raises(StoreCorrupted, match="no content was collected") as caught:
            await store.collect()
        assert "lading verify --repair" in caught.value.hint
        await store.aclose()
        assert path.read_bytes() == before
        assert sorted(os.listdir(home / "blobs" / "sha256")) == blobs
        assert not (home / "index-2.db").exists()


async def test_a_manifest_that_is_damaged_keeps_what_links_say(local: LocalStore, home: Path) -> None:
    one = agent(size=LARGE)
    await local.commit(one.changes())
    await local.aclose()
    with closing(sqlite3.connect(home / "index-1.db", isolation_level=None)) as connection:
        connection.execute("UPDATE content SET data = zeroblob(size) WHERE digest = ?", (str(one.digest),))
    store = LocalStore(home)
    assert (await store.collect()).contents == ()
    await store.aclose()


async def test_a_store_of_the_first_format_is_collected(local: LocalStore, home: Path) -> None:
    await local.commit(agent().changes())
    await local.commit(agent(1).changes())
    await local.commit(Changes(NOON, forgotten=(agent(1).reference,)))
    await local.aclose()
    with closing(index.connect(str(home / "index-1.db"), "mode=rw")) as connection:
        connection.execute("DROP TABLE note")
        connection.execute("PRAGMA user_version=1")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store = LocalStore(home)
    would = await store.collect(dry_run=True)
    assert len(would.contents) == 2
    assert await store.collect() == would
    assert agent().is_in(store)
    await store.aclose()
    with closing(sqlite3.connect(home / "index-1.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


# Space


async def test_an_index_of_which_much_is_free_becomes_smaller(local: LocalStore, home: Path) -> None:
    for number in range(60):
        await local.commit(agent(number, size=100_000).changes(durable=False))
    await local.commit(Changes(NOON, forgotten=tuple(agent(number).reference for number in range(50))))
    await local.aclose()
    before = (home / "index-1.db").stat().st_size
    store = LocalStore(home)
    done = await store.collect()
    await store.aclose()
    after = (home / "index-1.db").stat().st_size
    assert done.shrunk == before - after > 4 * MIB
    assert after < 10 * 110_000
    with closing(sqlite3.connect(home / "index-1.db")) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store = LocalStore(home)
    assert all(agent(number, size=100_000).is_in(store) for number in range(50, 60))
    await store.aclose()


async def test_an_index_that_was_made_smaller_can_still_be_salvaged(local: LocalStore, home: Path) -> None:
    for number in range(30):
        await local.commit(agent(number, size=100_000).changes(durable=False))
    await local.commit(Changes(NOON, forgotten=tuple(agent(number).reference for number in range(20))))
    assert (await local.collect()).shrunk
    await local.aclose()
    path = home / "index-1.db"
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])
    store = LocalStore(home)
    assert isinstance(store.resolve(agent(25).reference), Corrupt)
    await store.commit(agent(99).changes())
    assert all(agent(number, size=100_000).is_in(store) for number in range(20, 30))
    await store.aclose()


@pytest.mark.parametrize("removed", [1, 5])
async def test_pages_that_are_few_are_used_again_instead(local: LocalStore, home: Path, removed: int) -> None:
    # A little, or a small part.
    for number in range(5 + removed * 6):
        await local.commit(agent(number, size=100_000).changes(durable=False))
    await local.commit(Changes(NOON, forgotten=tuple(agent(number).reference for number in range(removed))))
    assert (await local.collect()).shrunk == 0
    await local.aclose()
    size = (home / "index-1.db").stat().st_size
    store = LocalStore(home)
    for number in range(100, 100 + removed):
        await store.commit(agent(number, size=100_000).changes())
    await store.aclose()
    assert (home / "index-1.db").stat().st_size < size + 50_000


async def test_somebody_who_reads_does_not_keep_it_from_being_collected(local: LocalStore, home: Path) -> None:
    for number in range(30):
        await local.commit(agent(number, size=100_000).changes(durable=False))
    await local.commit(Changes(NOON, forgotten=tuple(agent(number).reference for number in range(20))))
    with closing(sqlite3.connect(home / "index-1.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM content").fetchone() == (60,)
        assert len((await local.collect()).contents) == 40
        assert reader.execute("SELECT count(*) FROM content").fetchone() == (60,)
    assert all(agent(number, size=100_000).is_in(local) for number in range(20, 30))


def fill(directory: Path) -> Path:
    """Leave no byte on the disk."""
    path = directory / "filler"
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


async def test_on_a_full_disk_what_is_left_makes_room(tmp_path: Path, mounts: Mounts) -> None:
    disk = mounts.disk(tmp_path / "disk", "12m")
    store = LocalStore(disk / "store")
    agents = [agent(number, size=200_000) for number in range(20)]
    for one in agents:
        await store.commit(one.changes(durable=False))
    await store.commit(Changes(NOON, forgotten=tuple(one.reference for one in agents[:10])))
    await left(store)
    fill(disk)
    done = await store.collect()
    assert [stray.kind for stray in done.files] == ["partial"]
    assert len(done.contents) == 20
    assert all(one.is_in(store) for one in agents[10:])
    await store.commit(agents[0].changes())
    await store.aclose()


async def test_on_a_full_disk_without_anything_left_it_says_so(tmp_path: Path, mounts: Mounts) -> None:
    disk = mounts.disk(tmp_path / "disk", "8m")
    store = LocalStore(disk / "store")
    agents = [agent(number, size=[1000, 200_000][number % 2]) for number in range(20)]
    for one in agents:
        await store.commit(one.changes(durable=False))
    await store.commit(Changes(NOON, forgotten=tuple(one.reference for one in agents[:10])))
    await store.aclose()
    filler = fill(disk)
    store = LocalStore(disk / "store")
    would = await store.collect(dry_run=True)
    with pytest.raises(OutOfSpace, match=str(disk)) as caught:
        await store.collect()
    assert "LADING_HOME" in caught.value.hint
    assert all(one.is_in(store) for one in agents[10:])
    filler.unlink()
    assert await store.collect() == would
    is_clean(store)
    await store.aclose()


async def test_where_nothing_can_be_written_only_a_dry_run_works(home: Path, mounts: Mounts) -> None:
    store = LocalStore(home)
    await store.commit(agent(size=LARGE).changes())
    await store.commit(Changes(NOON, forgotten=(agent().reference,)))
    await store.aclose()
    mounts.make_read_only(home)
    store = LocalStore(home)
    assert len((await store.collect(dry_run=True)).contents) == 2
    with pytest.raises(StoreReadOnly, match=str(home)) as caught:
        await store.collect()
    assert "LADING_HOME" in caught.value.hint
    await store.aclose()


# What others are at work on

AT_WORK = """
    import asyncio, sys
    from store.cargo import blob, described, shown
    from lading.oci.digest import Digest
    from lading.store.local import LocalStore
    from lading.store.store import Changes, Seen, INLINE_LIMIT

    content = blob(3 * 1024 * 1024)
    async def main(stage):
        store = LocalStore(sys.argv[1])
        async def told():
            print("here", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        if stage == "leased":
            lease = store.lease()
            lease.keep([Digest.of(content)])
            await store.commit(Changes(0.0, content=((Digest.of(content), content),)))
            await told()
            lease.close()
        else:
            async with store.ingest(described(content)) as ingest:
                await ingest.write(content[:2_000_000])
                if stage == "written":
                    await told()
                await ingest.write(content[2_000_000:])
                await ingest.finish()
                if stage == "finished":
                    await told()
            if stage == "left":
                await told()
        await store.commit(shown(described(content)))
        print(store.read("ghcr.io/acme/image", Digest.of(content)).content == content, flush=True)
        await store.aclose()
    asyncio.run(main(sys.argv[2]))
"""


@pytest.mark.parametrize("stage", ["written", "finished", "left", "leased"])
@pytest.mark.parametrize("fate", ["goes on", "is killed"])
async def test_what_another_process_is_at_work_on(local: LocalStore, home: Path, stage: str, fate: str) -> None:
    await local.commit(agent().changes())
    other = start(AT_WORK, home, stage, output=True, takes_input=True)
    assert other.stdout is not None
    assert await anyio.to_thread.run_sync(other.stdout.readline) == "here\n"
    assert (await local.collect()).freed == 0
    if fate == "goes on":
        output, _ = await anyio.to_thread.run_sync(other.communicate, "\n")
        assert output == "True\n"
        assert dict((await local.collect()).contents) == {Digest.of(blob(3 * MIB)): 3 * MIB}
    else:
        other.kill()
        await anyio.to_thread.run_sync(other.communicate)
        assert (await local.collect()).freed >= 2_000_000
    is_clean(local)
    assert agent().is_in(local)


async def test_a_lease_lasts_as_long_as_what_has_to_be_noted(local: LocalStore, home: Path) -> None:
    lease = local.lease()
    assert not home.exists(), "nothing is made before there is something to note"
    digests = [Digest.of(bytes([number])) for number in range(100)]
    lease.keep(digests)
    (path,) = (path for path in home.iterdir() if path.name.startswith("lease-"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lease.drop(digests[:99])
    lease.keep(digests[99:])
    lease.drop(digests)
    assert path.exists(), "one is needed once more"
    lease.drop(digests[98:])
    assert not path.exists()
    lease.keep(digests[:1])
    assert [path.name for path in home.iterdir() if path.name.startswith("lease-")] != [path.name]
    lease.close()
    assert [path.name for path in home.iterdir() if path.name.startswith("lease-")] == []


async def test_a_lease_that_cannot_be_read_is_in_the_way(local: LocalStore, home: Path) -> None:
    await local.commit(agent().changes())
    await local.commit(Changes(NOON, forgotten=(agent().reference,)))
    lease = local.lease()
    lease.keep([Digest.of(b"x")])
    (path,) = (path for path in home.iterdir() if path.name.startswith("lease-"))

    def refuse(*arguments: Any, **options: Any) -> int:
        if arguments[0] == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(*arguments, **options)

    real = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoreError, match=path.name):
            await local.collect()
    lease.close()
    assert len((await local.collect()).contents) == 2


async def test_a_forked_child_needs_nothing_of_its_parent(local: LocalStore, home: Path) -> None:
    script = """
        import os, sys
        from lading.oci.digest import Digest
        from lading.store.local import LocalStore
        store = LocalStore(sys.argv[1])
        lease = store.lease()
        lease.keep([Digest.of(b"x")])
        before = sorted(os.listdir(sys.argv[1]))
        child = os.fork()
        if not child:
            lease.keep([Digest.of(b"y")])
            lease.close()
            store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(sorted(os.listdir(sys.argv[1])) == before, len(before))
        lease.close()
        print(len(os.listdir(sys.argv[1])) - len(before))
    """
    assert run(script, home).split() == ["True", "3", "-1"]


async def test_who_reads_while_it_is_collected_gets_all_or_nothing(local: LocalStore, home: Path) -> None:
    content = blob(5 * MIB)
    digest = (await take(local, content)).digest
    begun = local.stream(IMAGE, digest)
    assert not isinstance(begun, Absent)
    first = next(begun)
    found = local.stream(IMAGE, digest)
    assert not isinstance(found, Absent)
    await local.collect()
    assert b"".join([first, *begun]) == content
    with pytest.raises(StoreCorrupted, match="missing"):
        next(found)
    assert local.stream(IMAGE, digest) is ABSENT


async def test_what_is_collected_between_its_row_and_its_file_is_absent(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = blob(LARGE)
    digest = (await take(local, content)).digest
    real = Blobs.read

    def read(self: Blobs, digest: Digest, size: int) -> Intact | Corrupt:
        asyncio.run(LocalStore(local.path).collect())
        return real(self, digest, size)

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "read", read)
        assert await anyio.to_thread.run_sync(local.read, IMAGE, digest) is ABSENT


async def test_rows_go_before_their_files_durably(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = agent(size=LARGE)
    await local.commit(one.changes())
    await local.commit(Changes(NOON, forgotten=(one.reference,)))
    begun: list[bool] = []
    transaction, set_aside = index.Writer.transaction, Strays.set_aside

    def noted(self: index.Writer, *, durable: bool) -> Any:
        begun.append(durable)
        return transaction(self, durable=durable)

    def checked(self: Strays, path: str) -> bool:
        with closing(sqlite3.connect(home / "index-1.db")) as connection:
            rows = connection.execute("SELECT 1 FROM content WHERE digest = ?", (str(one.layer_digest),)).fetchall()
        assert (rows, begun) == ([], [True, False])
        return set_aside(self, path)

    monkeypatch.setattr(index.Writer, "transaction", noted)
    monkeypatch.setattr(Strays, "set_aside", checked)
    assert len((await local.collect()).contents) == 2
    is_clean(local)


async def test_two_collections_at_once(local: LocalStore, home: Path) -> None:
    agents = [agent(number, size=[300, LARGE][number % 2]) for number in range(40)]
    for one in agents:
        await local.commit(one.changes(durable=False))
    await local.commit(Changes(NOON, forgotten=tuple(one.reference for one in agents[:30])))
    done: list[Collected] = []

    async def collect() -> None:
        done.append(await LocalStore(home).collect())

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(collect)
    removed = [digest for one in done for digest, _ in one.contents]
    assert len(removed) == len(set(removed)) == 60
    assert all(one.is_in(local) for one in agents[30:])
    await local.collect()
    is_clean(local)


@contextmanager
def locks_that_do_nothing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", lambda descriptor, operation: None)
        yield


@pytest.mark.parametrize("way", ["ingest", "commit"])
async def test_where_locks_do_nothing_a_blob_that_is_lost_is_missed(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The commit finds out, in its transaction: there is never a row of a blob that isn't there."""
    content = blob(LARGE)
    descriptor = described(content)
    await local.commit(agent().changes())
    transaction = index.Writer.transaction
    monkeypatch.setattr(LocalLease, "keep", lambda self, digests: None)

    def late(self: index.Writer, *, durable: bool) -> Any:
        (home / "blobs" / "sha256" / descriptor.digest.encoded).unlink(missing_ok=True)
        return transaction(self, durable=durable)

    with locks_that_do_nothing(), monkeypatch.context() as patch:
        patch.setattr(index.Writer, "transaction", late)
        seen = (Seen(IMAGE, descriptor.digest, LAYER),)
        changes = Changes(NOON, content=((descriptor.digest, content),), seen=seen)
        with pytest.raises(Lost, match=str(descriptor.digest)):
            await (take(local, content) if way == "ingest" else local.commit(changes))
    assert local.read(IMAGE, descriptor.digest) is ABSENT
    await take(local, content)
    assert local.read(IMAGE, descriptor.digest) == Intact(content)


async def test_one_commit_that_misses_something_does_not_spoil_the_others(local: LocalStore) -> None:
    one = agent()
    missing = Changes(NOON, required=((one.name, one.digest),), notes=(("kind", "key", "value"),))
    refused: list[Lost] = []

    async def commit_missing() -> None:
        try:
            await local.commit(missing)
        except Lost as lost:
            refused.append(lost)

    async with anyio.create_task_group() as group:
        for number in range(1, 6):
            group.start_soon(local.commit, agent(number).changes())
        group.start_soon(commit_missing)
    assert [lost.digests for lost in refused] == [{one.digest}]
    assert all(agent(number).is_in(local) for number in range(1, 6))
    assert local.recall("kind", "key") is None


# Interrupted


async def test_a_collection_that_is_cancelled_leaves_nothing_behind(local: LocalStore, home: Path) -> None:
    before = None
    for step in range(8):
        one = agent(step, size=LARGE)
        await local.commit(one.changes())
        await local.commit(Changes(NOON, forgotten=(one.reference,)))
        before = before or descriptors()
        reached, go_on = threading.Event(), threading.Event()
        count = 0
        real = Collection._go_on

        def wait(self: Collection) -> None:
            nonlocal count
            count += 1
            if count > step:  # noqa: B023
                reached.set()  # noqa: B023
                assert go_on.wait(30)  # noqa: B023
            real(self)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Collection, "_go_on", wait)
            task = asyncio.create_task(local.collect())
            while not (reached.is_set() or task.done()):  # noqa: ASYNC110
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with suppress(asyncio.CancelledError):
                await task
        assert descriptors() == before
        assert not [path for path in home.rglob("*") if path.name.startswith("collected.")]
    await local.collect()
    is_clean(local)


async def test_a_collection_that_is_cancelled_before_it_begins_does_nothing(local: LocalStore) -> None:
    await local.commit(agent().changes())
    await local.commit(Changes(NOON, forgotten=(agent().reference,)))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await local.collect()
    assert len(local.inventory().contents) == 2
    task = asyncio.create_task(local.collect())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await local.collect()
    is_clean(local)


async def test_a_closed_store_is_not_collected(local: LocalStore) -> None:
    await local.aclose()
    with pytest.raises(StoreError, match="closed"):
        await local.collect()
    with pytest.raises(StoreError, match="closed"):
        local.lease()


# Killed: forked from one parent that has imported everything and opened nothing.
KILLED = """
    import asyncio, os, random, signal, sys, time
    import anyio.to_thread, anyio._backends._asyncio
    from store.cargo import NOON, agent, described, blob
    from lading.store.collect import Collection
    from lading.store.gc import Limits
    from lading.store.local import LocalStore
    from lading.store.store import Changes, INLINE_LIMIT
    from store.test_gc import is_clean, left

    path, rounds, chance, kind = sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3])), sys.argv[4]
    SIZES = [300, INLINE_LIMIT + 1]
    one = lambda number: agent(number, size=SIZES[number % 2])

    async def fill(first):
        store = LocalStore(path)
        for number in range(first, first + 8):
            await store.commit(one(number).changes(durable=False))
        await store.commit(Changes(NOON, forgotten=tuple(one(n).reference for n in range(first, first + 6))))
        await left(store)
        content = blob(INLINE_LIMIT + 1, first)
        async with store.ingest(described(content)) as ingest:    # never committed
            await ingest.write(content)
            await ingest.finish()
        await store.aclose()

    def collect():
        return Collection(path, Limits(time.time()), dry_run=False)._run()

    def in_a_child(work):
        child = os.fork()
        if not child:
            work()
            os._exit(0)
        return child

    def wait(child):
        return os.waitpid(child, 0)[1]

    # How many calls of C functions a collection has.
    calls = 0
    def count(frame, event, argument):
        global calls
        calls += event == "c_call"
    def counted():
        sys.setprofile(count)
        collect()
        sys.setprofile(None)
        os._exit(0) if not calls else os.write(report, calls.to_bytes(4, "big"))

    receive, report = os.pipe()
    assert wait(in_a_child(lambda: asyncio.run(fill(0)))) == 0
    assert wait(in_a_child(counted)) == 0
    total = int.from_bytes(os.read(receive, 4), "big")

    def killed_at(step):
        calls = 0
        def kill(frame, event, argument):
            nonlocal calls
            if event in ("c_call", "c_return"):
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        def work():
            sys.setprofile(kill)
            collect()
        return work

    def endless():
        while True:
            collect()

    kills = 0
    for round in range(1, rounds + 1):
        first = round * 100
        assert wait(in_a_child(lambda: asyncio.run(fill(first)))) == 0
        if kind == "calls":
            child = in_a_child(killed_at(chance.randrange(1, 2 * total) if rounds < total else round))
        else:
            child = in_a_child(endless)
            time.sleep(chance.random() * 0.03)
            os.kill(child, signal.SIGKILL)
        kills += wait(child) == signal.SIGKILL
        store = LocalStore(path)
        for number in (first + 6, first + 7):
            assert one(number).is_in(store), number
        inventory = store.inventory()
        assert inventory.damage == ()
        for digest, size in inventory.contents:
            assert store.check(digest, lambda size: None) == size, digest
        store.close()
        if chance.random() < 0.3:
            continue    # the next round begins with what this one left
        assert wait(in_a_child(collect)) == 0
        store = LocalStore(path)
        is_clean(store)
        assert len(store.references()) == 2 * (round + 1)
        store.close()
    print(kills, total)
"""


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["calls", "moments"])
def test_a_collection_that_is_killed_breaks_nothing_and_the_next_one_ends_it(
    home: Path, kind: str, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    home.parent.mkdir()
    rounds = ordeal.rounds(short=12, long=5_000)
    kills, calls = map(int, run(KILLED, home, str(rounds), str(ordeal.seed), kind).split())
    assert kills >= rounds // 3
    measured(f"collections killed at random {kind}", f"{kills}, of {calls} calls each; none lost anything")
