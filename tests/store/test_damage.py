"""A damaged store: found before it is served, left aside untouched, salvaged by the next commit."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from store.cargo import LAYER, NOON, Agent, agent, blob, described, shown, take
from store.process import run

from lading.errors import StoreCorrupted, StoreError
from lading.oci.digest import Digest
from lading.store import index
from lading.store.index import Writer
from lading.store.index_errors import Damaged
from lading.store.index_schema import MIGRATIONS
from lading.store.local import LocalStore
from lading.store.rows import Rows
from lading.store.store import ABSENT, INLINE_LIMIT, Absent, Changes, Corrupt, Intact, Seen

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"
PAGE = 4096
AGENTS = [agent(number, size=size) for number, size in enumerate([300, 3000, 30_000, INLINE_LIMIT + 1] * 5)]
NEW = agent(1000)

Open = Callable[[], LocalStore]
Damage = Callable[[Path], object]


@pytest.fixture
async def filled(open_store: Open, home: Path) -> Path:
    """A store with AGENTS, cleanly closed; gives the path of its index."""
    store = open_store()
    for one in AGENTS:
        await store.commit(one.changes())
    await store.aclose()
    return home / "index-1.db"


def sql(path: Path, statement: str, *parameters: object, rows: int = 1) -> None:
    """Change an index behind the store's back."""
    with closing(index.connect(str(path), "mode=rw")) as connection:
        assert connection.execute(statement, parameters).rowcount == rows
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def contents(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.glob("index-*")}


def foreign(path: Path) -> None:
    path.unlink()
    with closing(index.connect(str(path), "mode=rwc")) as connection:
        connection.execute("CREATE TABLE reference(mine)")


def planted(path: Path) -> None:
    path.rename(path.with_name("planted"))
    path.symlink_to("planted")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# What is done to the index, and whether all of what was in it can be saved.
DAMAGES: dict[str, tuple[Damage, bool]] = {
    "garbage": (lambda path: path.write_bytes(random.Random(1).randbytes(300_000)), False),
    "text": (lambda path: path.write_text("<html>not a database</html>"), False),
    "empty": (lambda path: path.write_bytes(b""), False),
    "a header and nothing else": (lambda path: os.truncate(path, 100), False),
    "half a page": (lambda path: os.truncate(path, PAGE // 2), False),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), False),
    "another database": (foreign, False),
    "a directory": (a_directory, False),
    "a link": (planted, False),
    "a pipe": (pipe, False),
    "wrong magic": (lambda path: patch(path, 0, b"Sqlite"), True),
    "wrong application": (lambda path: patch(path, 68, b"\0\0\0\1"), True),
    "format 0": (lambda path: patch(path, 60, b"\0\0\0\0"), True),
    "not WAL": (lambda path: patch(path, 18, b"\1\1"), True),
    "first page zeroed": (lambda path: patch(path, 0, bytes(PAGE)), True),
    "first page garbage": (lambda path: patch(path, 0, random.Random(2).randbytes(PAGE)), True),
    "schema damaged": (lambda path: patch(path, 3900, b"\xff" * 100), True),
}


@pytest.mark.parametrize(("damage", "is_saved"), DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_index(open_store: Open, home: Path, filled: Path, damage: Damage, is_saved: bool) -> None:
    damage(filled)
    before = filled.read_bytes() if stat.S_ISREG(filled.lstat().st_mode) else None
    store = open_store()
    found = store.resolve(AGENTS[0].reference)
    assert isinstance(found, Corrupt)
    assert str(filled) in found.reason
    assert isinstance(store.read(AGENTS[0].name, AGENTS[0].digest), Corrupt)
    assert store.repositories("ghcr.io", AGENTS[0].digest) == []

    await store.commit(NEW.changes())
    for after in (store, open_store()):
        assert NEW.is_in(after)
        assert [one.is_in(after) for one in AGENTS] == [is_saved] * len(AGENTS)
        assert is_saved or after.resolve(AGENTS[0].reference) is ABSENT
    await store.commit(AGENTS[0].changes())
    assert AGENTS[0].is_in(store)
    await store.aclose()
    assert before is None or filled.read_bytes() == before
    assert (home / "index-2.db").exists()
    assert not (home / "index-3.db").exists()
    assert os.listdir(home / "ingest") == []


@pytest.mark.parametrize("part", range(1, 16))
async def test_a_truncated_index_is_never_wrong(open_store: Open, filled: Path, part: int) -> None:
    os.truncate(filled, filled.stat().st_size * part // 16)
    before = filled.read_bytes()
    store = open_store()
    check_all(store)
    await repaired(store)
    assert filled.read_bytes() == before


@pytest.mark.parametrize("seed", range(60))
async def test_a_flipped_bit_is_never_served(open_store: Open, filled: Path, seed: int) -> None:
    chance = random.Random(seed)
    # Half of them in the first pages: there is the header, the schema and the roots of the tables.
    position = chance.randrange(filled.stat().st_size if seed % 2 else 6 * PAGE)
    byte = filled.read_bytes()[position]
    patch(filled, position, bytes([byte ^ 1 << chance.randrange(8)]))
    before = filled.read_bytes()
    store = open_store()
    if int.from_bytes(before[60:64], "big", signed=True) > len(MIGRATIONS):
        with pytest.raises(StoreError, match="newer"):  # what it looks like: it is the number of the format
            store.resolve(AGENTS[0].reference)
        return
    check_all(store)
    await repaired(store)
    # One bit costs a row, seldom the rows of a whole page or those behind a key that leads astray.
    assert sum(one.is_in(store) for one in AGENTS) >= len(AGENTS) // 2
    await store.aclose()
    if (filled.parent / "index-2.db").exists():
        assert filled.read_bytes() == before


@pytest.mark.parametrize("seed", range(10))
async def test_many_damaged_pages(open_store: Open, filled: Path, seed: int) -> None:
    chance = random.Random(seed)
    for page in chance.sample(range(1, filled.stat().st_size // PAGE), 8):
        patch(filled, page * PAGE, chance.randbytes(PAGE))
    before = filled.read_bytes()
    store = open_store()
    check_all(store)
    await repaired(store)
    await store.aclose()
    assert filled.read_bytes() == before or not (filled.parent / "index-2.db").exists()


def check_all(store: LocalStore) -> None:
    """Every look-up gives what was stored, or nothing."""
    for one in AGENTS:
        found = store.resolve(one.reference)
        assert isinstance(found, Absent | Corrupt) or found == one.record
        for digest, content in ((one.digest, one.manifest), (one.layer_digest, one.layer)):
            assert isinstance(store.read(one.name, digest), Absent | Corrupt) or store.read(one.name, digest) == Intact(
                content
            )
        assert store.repositories("ghcr.io", one.digest) in ([], [one.reference.repository])


async def repaired(store: LocalStore) -> None:
    """The next commits succeed, and what they brought is there."""
    for _ in range(2):
        await store.commit(NEW.changes())
        assert NEW.is_in(store)
        check_all(store)
    for one in AGENTS[:4]:
        await store.commit(one.changes())
        assert one.is_in(store)


# Rows that look whole

ROWS = {
    "digest of a reference": ("UPDATE reference SET digest = ? WHERE name = ?", str(AGENTS[1].digest)),
    "digest in capitals": ("UPDATE reference SET digest = upper(digest) || ? WHERE name = ?", ""),
    "type of a reference": ("UPDATE reference SET media_type = ? WHERE name = ?", "text/html"),
    "validated in the future": ("UPDATE reference SET validated = ? WHERE name = ?", NOON * 2),
    "validated is text": ("UPDATE reference SET validated = ? WHERE name = ?", "never"),
    "digest isn't UTF-8": ("UPDATE reference SET digest = CAST(? AS TEXT) WHERE name = ?", b"\xff\xfe"),
    "digest is a blob": ("UPDATE reference SET digest = CAST(digest AS BLOB), checksum = ? WHERE name = ?", ""),
    "no checksum": ("UPDATE reference SET checksum = ? WHERE name = ?", ""),
}


@pytest.mark.parametrize(("statement", "value"), ROWS.values(), ids=ROWS)
async def test_a_row_of_a_reference_that_does_not_verify(
    open_store: Open, filled: Path, statement: str, value: object
) -> None:
    victim, *others = AGENTS
    sql(filled, statement, value, str(victim.reference))
    await one_row_is_lost(open_store(), lambda store: store.resolve(victim.reference), filled, others)


@pytest.mark.parametrize("column", ["media_type", "validated"])
async def test_a_row_of_what_was_seen_that_does_not_verify(open_store: Open, filled: Path, column: str) -> None:
    victim, *others = AGENTS
    sql(filled, f"UPDATE seen SET {column} = 1 WHERE digest = ?", str(victim.digest))
    pinned = victim.reference.at(victim.digest)
    store = open_store()
    assert isinstance(store.read(victim.name, victim.digest), Corrupt)
    await one_row_is_lost(store, lambda store: store.resolve(pinned), filled, others)


CONTENT = {
    "other content": ("UPDATE content SET data = ? WHERE digest = ?", b"x" * 300),
    "longer": ("UPDATE content SET data = data || ? WHERE digest = ?", b"x"),
    "empty": ("UPDATE content SET data = ? WHERE digest = ?", b""),
    "text": ("UPDATE content SET data = ? WHERE digest = ?", "text"),
    "a number": ("UPDATE content SET data = ? WHERE digest = ?", 17),
    "another size": ("UPDATE content SET size = ? WHERE digest = ?", 17),
    "no size": ("UPDATE content SET size = ? WHERE digest = ?", "large"),
    "in a file that isn't there": ("UPDATE content SET data = ? WHERE digest = ?", None),
}


@pytest.mark.parametrize(("statement", "value"), CONTENT.values(), ids=CONTENT)
async def test_content_that_does_not_verify(open_store: Open, filled: Path, statement: str, value: object) -> None:
    victim, *others = AGENTS
    sql(filled, statement, value, str(victim.layer_digest))
    store = open_store()
    found = store.read(victim.name, victim.layer_digest)
    assert isinstance(found, Corrupt)
    if "missing" in found.reason:  # then the file is damaged for all that is known, not the index
        await store.commit(victim.changes())
        assert victim.is_in(store)
        return
    await one_row_is_lost(store, lambda store: store.read(victim.name, victim.layer_digest), filled, others)


async def one_row_is_lost(
    store: LocalStore, look: Callable[[LocalStore], object], path: Path, others: list[Agent]
) -> None:
    """It is corrupt until the next commit, then absent; all others are there before and after."""
    before = path.read_bytes()
    assert isinstance(look(store), Corrupt)
    assert all(one.is_in(store) for one in others)
    await store.commit(NEW.changes())
    assert look(store) is ABSENT
    assert all(one.is_in(store) for one in [*others, NEW])
    await store.commit(AGENTS[0].changes())
    assert AGENTS[0].is_in(store)
    await store.aclose()
    assert path.read_bytes() == before
    assert (path.parent / "index-2.db").exists()
    assert not (path.parent / "index-3.db").exists()


NOTES = {
    "another value": ("UPDATE note SET value = 'other' WHERE key = ?", "victim"),
    "another key": ("UPDATE note SET key = 'renamed' WHERE key = ?", "victim"),
    "another kind": ("UPDATE note SET kind = 'renamed' WHERE key = ?", "victim"),
    "no checksum": ("UPDATE note SET checksum = '' WHERE key = ?", "victim"),
    "value isn't UTF-8": ("UPDATE note SET value = CAST(x'fffe' AS TEXT) WHERE key = ?", "victim"),
    "value is a blob": ("UPDATE note SET value = CAST(value AS BLOB) WHERE key = ?", "victim"),
    "planted": ("INSERT INTO note(kind, key, value, checksum) VALUES ('kind', ?, 'x', '0123456789abcdef')", "planted"),
}


@pytest.mark.parametrize(("statement", "key"), NOTES.values(), ids=NOTES)
async def test_a_note_that_does_not_verify(open_store: Open, filled: Path, statement: str, key: str) -> None:
    store = open_store()
    await store.commit(Changes(NOON, notes=(("kind", "victim", "value"), ("kind", "other", "value"))))
    await store.aclose()
    sql(filled, statement, key)
    store = open_store()
    found = [store.recall(kind, name) for kind in ("kind", "renamed") for name in ("victim", "renamed", "planted")]
    assert set(found) <= ({None, "value"} if key == "planted" else {None})
    assert store.recall("kind", "other") == "value"
    assert all(one.is_in(store) for one in AGENTS)
    await store.commit(NEW.changes())
    await store.commit(Changes(NOON, notes=(("kind", "victim", "again"),)))
    for after in (store, open_store()):
        assert after.recall("kind", "victim") == "again"
        assert after.recall("kind", "other") == "value"
        assert after.recall("kind", "planted") is None
        assert all(one.is_in(after) for one in [*AGENTS, NEW])
    assert (filled.parent / "index-2.db").exists()


@pytest.mark.parametrize("damage", [damage for damage, is_saved in DAMAGES.values() if is_saved])
async def test_notes_are_salvaged(open_store: Open, filled: Path, damage: Damage) -> None:
    store = open_store()
    notes = tuple(("kind", str(number), "x" * number) for number in range(3000))
    await store.commit(Changes(NOON, notes=notes))
    await store.aclose()
    damage(filled)
    store = open_store()
    assert store.recall("kind", "7") is None
    await store.commit(NEW.changes())
    assert [store.recall("kind", str(number)) for number in range(3000)] == [value for _, _, value in notes]
    assert all(one.is_in(store) for one in [*AGENTS, NEW])


@pytest.mark.parametrize("seed", range(10))
async def test_a_damaged_note_is_never_served(open_store: Open, filled: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = open_store()
    await store.commit(Changes(NOON, notes=tuple(("kind", str(number), str(number) * 100) for number in range(500))))
    await store.aclose()
    pages = filled.stat().st_size // PAGE
    for page in chance.sample(range(pages * 2 // 3, pages), 5):  # the notes came last
        patch(filled, page * PAGE + chance.randrange(PAGE - 64), chance.randbytes(64))
    store = open_store()
    for _ in range(2):
        for number in range(500):
            assert store.recall("kind", str(number)) in (None, str(number) * 100)
        await store.commit(Changes(NOON, notes=(("kind", "new", "value"),)))
        assert store.recall("kind", "new") == "value"
    await repaired(store)


# An older format


OLD_DAMAGES = {name: DAMAGES[name] for name in DAMAGES if DAMAGES[name][1]}


@pytest.mark.parametrize("first", ["look-up", "commit"])
@pytest.mark.parametrize("damage", [damage for damage, _ in OLD_DAMAGES.values()], ids=OLD_DAMAGES)
async def test_a_damaged_index_of_the_first_format(
    open_store: Open, home: Path, filled: Path, damage: Damage, first: str
) -> None:
    sql(filled, "PRAGMA user_version=1", rows=-1)
    sql(filled, "DROP TABLE note", rows=-1)
    damage(filled)
    before = filled.read_bytes()
    store = open_store()
    if first == "look-up":
        assert isinstance(store.resolve(AGENTS[0].reference), Corrupt)
        assert store.recall("kind", "key") is None
    await store.commit(NEW.changes())
    await store.commit(Changes(NOON, notes=(("kind", "key", "value"),)))
    for after in (store, open_store()):
        assert all(one.is_in(after) for one in [*AGENTS, NEW])
        assert after.recall("kind", "key") == "value"
    assert filled.read_bytes() == before


@pytest.mark.parametrize("first", ["look-up", "commit"])
async def test_an_index_that_cannot_be_brought_up_to_date(
    open_store: Open, filled: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    sql(filled, "PRAGMA user_version=1", rows=-1)  # and yet there are tables of the newest format
    before = filled.read_bytes()
    store = open_store()
    if first == "look-up":
        assert isinstance(store.resolve(AGENTS[0].reference), Corrupt)
    await store.commit(NEW.changes())
    for after in (store, open_store()):
        assert all(one.is_in(after) for one in [*AGENTS, NEW])
    assert filled.read_bytes() == before
    assert str(filled) in caplog.text


# While it is open


async def test_damage_to_an_open_index(open_store: Open, home: Path) -> None:
    store = open_store()
    for one in AGENTS:
        await store.commit(one.changes())
    await store.aclose()
    store = open_store()
    await store.commit(NEW.changes())
    os.truncate(home / "index-1.db", 3 * PAGE)
    before = contents(home)
    assert before["index-1.db-wal"]
    check_all(store)
    await store.commit(agent(1001).changes())
    await store.commit(agent(1002).changes())
    assert agent(1001).is_in(store)
    assert agent(1002).is_in(store)
    check_all(store)
    await store.aclose()
    if (home / "index-2.db").exists():
        assert (home / "index-1.db").read_bytes() == before["index-1.db"]


async def test_an_index_and_its_wal_are_left_as_they_are(open_store: Open, home: Path) -> None:
    store = open_store()
    for one in AGENTS:
        await store.commit(one.changes())
    crashed = {name: data for name, data in contents(home).items() if not name.endswith("-shm")}
    await store.aclose()
    for name, data in crashed.items():
        (home / name).write_bytes(data)
    assert len(crashed["index-1.db-wal"]) > PAGE
    # The page that holds the reference is in the WAL, so that SQLite itself sees nothing wrong.
    sql_in_place(home / "index-1.db", AGENTS[0])
    crashed = {name: data for name, data in contents(home).items() if not name.endswith("-shm")}

    store = open_store()
    assert isinstance(store.resolve(AGENTS[0].reference), Corrupt)
    await store.commit(NEW.changes())
    assert store.resolve(AGENTS[0].reference) is ABSENT
    assert all(one.is_in(store) for one in [*AGENTS[1:], NEW])
    await store.aclose()
    assert {name: (home / name).read_bytes() for name in crashed} == crashed


def sql_in_place(path: Path, victim: Agent) -> None:
    """Damage a row, and leave an unfinished WAL."""
    writing, keeping = index.connect(str(path), "mode=rw"), index.connect(str(path), "mode=ro")
    with closing(keeping), closing(writing):
        keeping.execute("PRAGMA user_version").fetchall()
        writing.execute("UPDATE reference SET media_type = 'text/html' WHERE name = ?", (str(victim.reference),))
        writing.close()


async def test_an_index_that_is_deleted_while_it_is_open(open_store: Open, home: Path) -> None:
    store, other = open_store(), open_store()
    await store.commit(AGENTS[0].changes())
    assert AGENTS[0].is_in(other)
    for name in contents(home):
        (home / name).unlink()
    assert store.resolve(AGENTS[0].reference) is ABSENT
    assert other.resolve(AGENTS[0].reference) is ABSENT
    await store.commit(NEW.changes())
    assert NEW.is_in(store)
    assert NEW.is_in(other)
    assert other.resolve(AGENTS[0].reference) is ABSENT


async def test_a_store_that_is_deleted_while_it_is_open(open_store: Open, home: Path) -> None:
    store = open_store()
    await store.commit(AGENTS[3].changes())
    shutil.rmtree(home)
    assert store.resolve(AGENTS[3].reference) is ABSENT
    assert store.read(AGENTS[3].name, AGENTS[3].layer_digest) is ABSENT
    await store.commit(AGENTS[3].changes())
    await take(store, blob(MIB))
    assert AGENTS[3].is_in(store)


async def test_a_store_that_is_replaced_while_it_is_open(open_store: Open, home: Path) -> None:
    store = open_store()
    await store.commit(AGENTS[0].changes())
    other = LocalStore(home.parent / "other")
    await other.commit(AGENTS[1].changes())
    await other.aclose()
    shutil.rmtree(home)
    (home.parent / "other").rename(home)
    assert store.resolve(AGENTS[0].reference) is ABSENT
    assert AGENTS[1].is_in(store)
    await store.commit(AGENTS[2].changes())
    assert all(one.is_in(open_store()) for one in AGENTS[1:3])


async def test_others_notice_the_next_generation(open_store: Open, home: Path, filled: Path) -> None:
    sql(filled, "UPDATE reference SET media_type = 'x/y' WHERE name = ?", str(AGENTS[0].reference))
    finder, reader, writer = open_store(), open_store(), open_store()
    assert AGENTS[1].is_in(reader)
    await writer.commit(agent(1001).changes())
    assert isinstance(finder.resolve(AGENTS[0].reference), Corrupt)
    await finder.commit(NEW.changes())
    assert NEW.is_in(reader)
    await writer.commit(agent(1002).changes())
    for store in (finder, reader, writer):
        assert all(one.is_in(store) for one in [*AGENTS[1:], NEW, agent(1001), agent(1002)])
    assert sorted(path.name for path in home.glob("index-*.db")) == ["index-1.db", "index-2.db"]


async def test_two_that_find_the_same_damage_repair_it_once(open_store: Open, home: Path, filled: Path) -> None:
    patch(filled, 0, b"Sqlite")
    first, second = open_store(), open_store()
    assert isinstance(first.resolve(AGENTS[0].reference), Corrupt)
    assert isinstance(second.resolve(AGENTS[0].reference), Corrupt)
    await first.commit(NEW.changes())
    await second.commit(agent(1001).changes())
    assert all(one.is_in(first) for one in [*AGENTS, NEW, agent(1001)])
    assert not (home / "index-3.db").exists()


async def test_damage_that_comes_back_is_an_error(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await store.commit(AGENTS[0].changes())

    def fail(self: Writer, rows: Rows, *, durable: bool) -> None:
        raise Damaged(f"{self.watch.path} is damaged")

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "apply", fail)
        with pytest.raises(StoreCorrupted, match=str(home)):
            await store.commit(NEW.changes())
    assert AGENTS[0].is_in(store)
    await store.commit(NEW.changes())
    assert NEW.is_in(store)


@pytest.mark.filterwarnings("default")
async def test_a_repair_is_reported(open_store: Open, filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    patch(filled, 0, b"Sqlite")
    await open_store().commit(NEW.changes())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(filled) in record.getMessage()


# Blobs


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    replace(path, bytes(data))


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BLOB = blob(MIB + 7)
BLOB_DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (Path.unlink, "missing"),
    "empty": (lambda path: replace(path, b""), "0 bytes instead of"),
    "half": (lambda path: replace(path, BLOB[: len(BLOB) // 2]), "bytes instead of"),
    "one byte short": (lambda path: replace(path, BLOB[:-1]), "bytes instead of"),
    "one byte long": (lambda path: replace(path, BLOB + b"x"), "bytes instead of"),
    "first bit": (lambda path: flip(path, 0), "isn't the content"),
    "last bit": (lambda path: flip(path, -1), "isn't the content"),
    "zeros": (lambda path: replace(path, bytes(len(BLOB))), "isn't the content"),
    "a link to the same bytes": (link, "isn't a regular file"),
    "a pipe": (fifo, "isn't a regular file"),
    "a directory": (directory, "isn't a regular file"),
}


@pytest.mark.parametrize("way", ["ingest", "commit"])
@pytest.mark.parametrize(("damage", "reason"), BLOB_DAMAGES.values(), ids=BLOB_DAMAGES)
async def test_a_damaged_blob_is_found_and_repaired(
    open_store: Open, home: Path, damage: Damage, reason: str, way: str
) -> None:
    store = open_store()
    descriptor = await take(store, BLOB)
    path = home / "blobs" / "sha256" / descriptor.digest.encoded
    damage(path)
    found = store.read(IMAGE, descriptor.digest)
    assert isinstance(found, Corrupt)
    assert str(path) in found.reason
    assert reason in found.reason

    if path.is_dir():
        with pytest.raises(StoreError, match=str(path)):
            await take(store, BLOB)
        return
    if way == "ingest":
        await take(store, BLOB)
    else:
        seen = (Seen(IMAGE, descriptor.digest, LAYER),)
        await store.commit(Changes(validated=NOON, content=((descriptor.digest, BLOB),), seen=seen))
    assert store.read(IMAGE, descriptor.digest) == Intact(BLOB)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o400
    assert stat.S_ISREG(path.lstat().st_mode)
    assert not (home / "index-2.db").exists()


async def test_a_blob_that_is_short_can_not_be_committed(open_store: Open, home: Path) -> None:
    store, descriptor = open_store(), described(BLOB)
    async with store.ingest(descriptor) as ingest:
        await ingest.write(BLOB)
        await ingest.finish()
    replace(home / "blobs" / "sha256" / descriptor.digest.encoded, BLOB[:-1])
    with pytest.raises(StoreError, match=str(descriptor.digest)):
        await store.commit(shown(descriptor))
    assert store.read(IMAGE, Digest.of(BLOB)) is ABSENT


# Others at work

BUSY = """
    import asyncio, os, sys
    import anyio.to_thread, anyio._backends._asyncio
    from contextlib import closing
    from store.cargo import agent
    from lading.store import index
    from lading.store.local import LocalStore
    from lading.store.store import Corrupt

    path, stop = sys.argv[1], sys.argv[1] + ".stop"

    async def write(number, report):
        store = LocalStore(path)
        while not os.path.exists(stop):
            await store.commit(agent(number).changes())
            os.write(report, number.to_bytes(4, "big"))
            number += 1
        await store.aclose()

    receive, report = os.pipe()
    children = []
    for first in (100_000, 200_000, 300_000):
        children.append(os.fork())
        if not children[-1]:
            asyncio.run(write(first, report))
            os._exit(0)
    os.close(report)
    store = LocalStore(path)
    for number in range(4):
        asyncio.run(store.commit(agent(number).changes()))
        with closing(index.connect(f"{path}/index-{number + 1}.db", "mode=rw")) as connection:
            connection.execute("UPDATE reference SET digest = '' WHERE name = ?", (str(agent(number).reference),))
        assert isinstance(store.resolve(agent(number).reference), Corrupt)
        asyncio.run(store.commit(agent(number + 10).changes()))
    # However slow the others are here, they commit some before they are stopped.
    reported = [int.from_bytes(os.read(receive, 4), "big") for _ in range(21)]
    open(stop, "w").close()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    while piece := os.read(receive, 4):
        reported.append(int.from_bytes(piece, "big"))
    assert all(agent(number).is_in(store) for number in reported)
    store.close()
    print(len(reported) > 20, sorted(name for name in os.listdir(path) if name.endswith(".db")))
"""


def test_what_others_commit_while_an_index_is_repaired_is_not_lost(home: Path) -> None:
    assert run(BUSY, home) == f"True {[f'index-{number}.db' for number in range(1, 6)]}"
