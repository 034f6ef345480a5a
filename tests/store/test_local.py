"""The store in a directory: its layout, its order, and who may use it at once."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from others import open_to_others
from store.cargo import LAYER, NOON, agent, blob, described, shown, take
from store.conftest import Mounts
from store.process import run, start

from lading.errors import StoreError, StoreReadOnly
from lading.oci.digest import Digest
from lading.store import index
from lading.store.disk import network_filesystem
from lading.store.index_schema import MIGRATIONS
from lading.store.local import LocalStore
from lading.store.store import ABSENT, INLINE_LIMIT, Changes, Intact, Seen

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"
Open = Callable[[], LocalStore]


# Layout


async def test_the_layout(open_store: Open, home: Path) -> None:
    store, large = open_store(), blob(INLINE_LIMIT + 1)
    await store.commit(agent().changes())
    await store.commit(agent(1, size=INLINE_LIMIT + 1).changes())
    sha512 = described(large, "sha512")
    async with store.ingest(sha512) as ingest:
        await ingest.write(large)
        await ingest.finish()
    await store.aclose()

    found = {str(path.relative_to(home)): stat.S_IMODE(path.lstat().st_mode) for path in home.rglob("*")}
    assert found == {
        "index-1.db": 0o600,
        "lock": 0o600,
        "ingest": 0o700,
        "blobs": 0o700,
        "blobs/sha256": 0o700,
        f"blobs/sha256/{agent(1, size=INLINE_LIMIT + 1).layer_digest.encoded}": 0o400,
        "blobs/sha512": 0o700,
        f"blobs/sha512/{sha512.digest.encoded}": 0o400,
    }
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(home.parent.stat().st_mode) == 0o700


async def test_nothing_is_private_to_others_whatever_the_umask_says(open_store: Open, home: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store()
        await store.commit(agent(size=INLINE_LIMIT + 1).changes())
        modes = {path.name: stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in home.rglob("*")}
    finally:
        os.umask(before)
    assert set(modes) > {"index-1.db", "index-1.db-wal", "index-1.db-shm", "lock", "ingest"}
    assert set(modes.values()) == {0}


async def test_look_ups_create_nothing(open_store: Open, home: Path) -> None:
    store, one = open_store(), agent()
    assert store.resolve(one.reference) is ABSENT
    assert store.read(one.name, one.digest) is ABSENT
    assert store.repositories("ghcr.io", one.digest) == []
    await store.commit(Changes(validated=NOON))
    async with store.ingest(described(b"abandoned")) as ingest:
        await ingest.write(b"ab")
    await store.aclose()
    assert not home.parent.exists()


async def test_a_closed_store_needs_no_wal(open_store: Open, home: Path) -> None:
    store, other = open_store(), open_store()
    await store.commit(agent().changes())
    assert agent().is_in(other)
    await other.aclose()
    await store.aclose()
    assert sorted(os.listdir(home)) == ["index-1.db", "ingest", "lock"]
    assert os.listdir(home / "ingest") == []


async def test_the_path_is_the_one_it_was_opened_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("a %41?b#c&mode=memory")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.commit(agent().changes())
    assert agent().is_in(store)
    store.close()
    assert (tmp_path / "a %41?b#c&mode=memory" / "index-1.db").is_file()
    assert os.listdir(tmp_path / "elsewhere") == []


async def test_a_closed_store_says_so(open_store: Open) -> None:
    store = open_store()
    await store.commit(agent().changes())
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.resolve(agent().reference)
    with pytest.raises(StoreError, match="is closed"):
        await store.commit(agent().changes())


def test_look_ups_import_nothing_heavy(home: Path) -> None:
    script = """
        import sys
        from lading.oci.reference import Reference
        from lading.store.local import LocalStore
        store = LocalStore(sys.argv[1])
        reference = Reference.parse("ghcr.io/acme/agent0:v1")
        record = store.resolve(reference)
        store.read(reference.name, record.digest).content
        store.close()
        heavy = "anyio asyncio aiofiles aiohttp yaml tempfile shutil subprocess pathlib logging urllib".split()
        print([name for name in heavy if name in sys.modules])
    """

    async def commit() -> None:
        store = LocalStore(home)
        await store.commit(agent().changes())
        await store.aclose()

    asyncio.run(commit())
    assert run(script, home) == "[]"


# What is durable, and in which order


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[list[str]]:
    """What is synced and renamed, each with its path below ``home``; temporary names are shortened."""
    calls: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link
    execute = index.Writer.apply

    def name(path: str) -> str:
        relative = os.path.relpath(path, home)
        return "part" if relative.endswith(".part") else relative

    def log_fsync(descriptor: int) -> None:
        calls.append(f"fsync {name(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def log_replace(source: str, target: str) -> None:
        calls.append(f"rename {name(source)} {name(target)}")
        replace(source, target)

    def log_link(source: str, target: str) -> None:
        calls.append(f"link {name(source)} {name(target)}")
        link(source, target)

    def log_apply(self: index.Writer, *arguments: object, **options: object) -> None:
        calls.append("rows")
        execute(self, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", log_fsync)
        patch.setattr(os, "replace", log_replace)
        patch.setattr(os, "link", log_link)
        patch.setattr(index.Writer, "apply", log_apply)
        yield calls


@pytest.mark.parametrize("way", ["ingest", "commit", "not durable"])
async def test_a_large_blob_is_whole_before_its_row(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    store, content = open_store(), blob(INLINE_LIMIT + 1, seed=1)
    digest = Digest.of(content)
    await store.commit(agent(size=INLINE_LIMIT + 1).changes())
    with recorded(monkeypatch, home) as calls:
        if way == "ingest":
            await take(store, content)
        else:
            await store.commit(
                Changes(
                    validated=NOON,
                    content=((digest, content),),
                    seen=(Seen(IMAGE, digest, LAYER),),
                    durable=way == "commit",
                )
            )
    assert calls == ["fsync part", f"rename part blobs/sha256/{digest.encoded}", "fsync blobs/sha256", "rows"]
    assert store.read(IMAGE, digest) == Intact(content)


async def test_an_index_is_whole_before_it_has_its_name(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch, home) as calls:
        await open_store().commit(agent().changes())
    assert calls == [
        "fsync ../..",
        "fsync ..",
        "fsync .",
        "fsync part",
        "link part index-1.db",
        "fsync .",
        "rows",
    ]


@pytest.mark.parametrize("durable", [[True], [False], [False, True], [True, False]])
async def test_a_group_is_as_durable_as_its_most_durable_commit(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, durable: list[bool]
) -> None:
    store = open_store()
    await store.commit(agent().changes())
    settings: list[bool] = []
    apply = index.Writer.apply

    def log_apply(self: index.Writer, *arguments: object, durable: bool) -> None:
        settings.append(durable)
        apply(self, *arguments, durable=durable)  # type: ignore[arg-type]
        ((level,),) = self._connection.execute("PRAGMA synchronous")
        assert level == (2 if durable else 1)

    monkeypatch.setattr(index.Writer, "apply", log_apply)
    async with anyio.create_task_group() as group:
        for number, is_durable in enumerate(durable):
            group.start_soon(store.commit, agent(number).changes(durable=is_durable))
    assert settings == [any(durable)]


async def test_concurrent_commits_share_transactions(open_store: Open) -> None:
    store = open_store()
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(store.commit, agent(number).changes())
    assert store.transactions <= 3
    assert all(agent(number).is_in(store) for number in range(50))


async def commit_one_after_another(store: LocalStore, numbers: range, linger: float) -> None:
    """Begin each commit when the one before it has begun, and is waiting."""
    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(store.commit, replace(agent(number).changes(), linger=linger))
            await anyio.wait_all_tasks_blocked()


async def test_commits_that_may_wait_share_a_transaction(open_store: Open) -> None:
    store = open_store()
    await commit_one_after_another(store, range(20), linger=1.0)
    assert store.transactions == 1
    assert all(agent(number).is_in(store) for number in range(20))


async def test_commits_do_not_wait_for_more_than_are_worth_it(open_store: Open) -> None:
    store = open_store()
    with anyio.fail_after(60):
        await commit_one_after_another(store, range(32), linger=3600.0)
    assert store.transactions == 1


async def test_a_commit_that_may_not_wait_takes_the_others_along(open_store: Open) -> None:
    store = open_store()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(store.commit, replace(agent(number).changes(), linger=3600.0))
            await anyio.wait_all_tasks_blocked()
            await store.commit(agent(5).changes())
    assert store.transactions == 1
    assert all(agent(number).is_in(store) for number in range(6))


async def test_a_commit_that_waits_can_be_cancelled(open_store: Open) -> None:
    store = open_store()
    with anyio.move_on_after(0.02):
        await store.commit(replace(agent(0).changes(), linger=3600.0))
    await store.commit(agent(1).changes())
    assert not agent(0).is_in(store)
    assert agent(1).is_in(store)


async def test_one_bad_commit_does_not_spoil_the_others_of_its_group(open_store: Open) -> None:
    store = open_store()
    content = blob(100)
    bad = [
        shown(described(content)),  # was never ingested
        Changes(validated=float("nan"), seen=(Seen(IMAGE, Digest.of(content), LAYER),)),
        Changes(validated=NOON, seen=(Seen(IMAGE, Digest.of(content), "\ud800"),)),
    ]
    refused: list[int] = []

    async def try_bad(number: int) -> None:
        with pytest.raises(StoreError):
            await store.commit(bad[number])
        refused.append(number)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(store.commit, agent(number).changes())
            if number < len(bad):
                group.start_soon(try_bad, number)
    assert sorted(refused) == [0, 1, 2]
    assert store.transactions == 1
    assert all(agent(number).is_in(store) for number in range(10))
    assert store.read(IMAGE, Digest.of(content)) is ABSENT


async def test_what_is_already_there_is_not_written_again(open_store: Open, home: Path) -> None:
    store, large = open_store(), agent(size=100_000)
    await store.commit(large.changes())
    before = (home / "index-1.db-wal").stat().st_size
    await store.commit(large.changes())
    assert (home / "index-1.db-wal").stat().st_size - before < 50_000


# Several at once


async def test_two_instances_see_what_the_other_commits(open_store: Open) -> None:
    first, second = open_store(), open_store()
    assert second.resolve(agent(0).reference) is ABSENT
    for number in range(4):
        writer, reader = (first, second) if number % 2 else (second, first)
        await writer.commit(agent(number).changes())
        assert agent(number).is_in(reader)
        assert agent(number).is_in(writer)


COMMIT = """
    import asyncio, sys
    from store.cargo import agent
    from lading.store.local import LocalStore

    async def main():
        store = LocalStore(sys.argv[1])
        for number in range(int(sys.argv[2]), int(sys.argv[3])):
            await store.commit(agent(number).changes())
        await store.aclose()

    asyncio.run(main())
"""


async def test_many_processes_begin_a_store_at_once(open_store: Open, home: Path) -> None:
    processes = [start(COMMIT, home, str(first), str(first + 10)) for first in range(0, 60, 10)]
    assert [process.wait() for process in processes] == [0] * 6
    store = open_store()
    assert all(agent(number).is_in(store) for number in range(60))
    assert sorted(os.listdir(home)) == ["index-1.db", "index-1.db-shm", "index-1.db-wal", "ingest", "lock"]


async def test_many_threads_begin_a_store_at_once(home: Path) -> None:
    def commit(number: int) -> None:
        async def main() -> None:
            store = LocalStore(home)
            await store.commit(agent(number).changes())
            await store.aclose()

        asyncio.run(main())

    await in_threads(commit, 8)
    with closing(LocalStore(home)) as store:
        assert all(agent(number).is_in(store) for number in range(8))


async def test_locks_that_do_nothing_corrupt_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda descriptor, operation: None)
    await test_many_threads_begin_a_store_at_once(home)
    assert [name for name in os.listdir(home) if name.endswith(".db")] == ["index-1.db"]


async def test_event_loops_in_several_threads_share_a_store(open_store: Open) -> None:
    store = open_store()

    def commit(first: int) -> None:
        async def main() -> None:
            async with anyio.create_task_group() as group:
                for number in range(first * 10, first * 10 + 10):
                    group.start_soon(store.commit, agent(number).changes())

        asyncio.run(main())

    await in_threads(commit, 4)
    assert all(agent(number).is_in(store) for number in range(40))


async def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)


async def test_what_a_killed_process_committed_is_there(open_store: Open, home: Path) -> None:
    script = COMMIT.replace("await store.aclose()", "print('done', flush=True); os.kill(os.getpid(), 9)")
    process = start(script.replace("import asyncio", "import os, asyncio"), home, "0", "20")
    assert process.wait() == -signal.SIGKILL
    assert (home / "index-1.db-wal").stat().st_size > 0
    store = open_store()
    assert all(agent(number).is_in(store) for number in range(20))
    await store.commit(agent(20).changes())
    assert agent(20).is_in(store)


def test_a_forked_child_opens_the_store_anew(home: Path) -> None:
    script = """
        import asyncio, os, sys
        from store.cargo import agent
        from lading.store.local import LocalStore

        store = LocalStore(sys.argv[1])
        asyncio.run(store.commit(agent(0).changes()))
        assert agent(0).is_in(store)
        store._reading.acquire()    # as another thread of the parent might, at that moment
        child = os.fork()
        if not child:
            assert agent(0).is_in(store)
            asyncio.run(store.commit(agent(1).changes()))
            store.close()
            os._exit(0)
        store._reading.release()
        assert os.waitpid(child, 0)[1] == 0
        assert agent(1).is_in(store)
        asyncio.run(store.commit(agent(2).changes()))
        store.close()
        other = LocalStore(sys.argv[1])
        print([agent(number).is_in(other) for number in range(3)])
        other.close()
    """
    assert run(script, home) == "[True, True, True]"


# Formats


@pytest.mark.parametrize("version", [len(MIGRATIONS) + 1, len(MIGRATIONS) + 2, 99])
async def test_a_newer_format_is_refused_and_left_alone(open_store: Open, home: Path, version: int) -> None:
    await open_store().commit(agent().changes())
    path = set_pragma(home, f"user_version={version}")
    before = path.read_bytes()
    store = open_store()
    with pytest.raises(StoreError, match=rf"{home}/index-1\.db is of format {version}.*newer"):
        store.resolve(agent().reference)
    with pytest.raises(StoreError, match=rf"{home}/index-1\.db is of format {version}.*newer"):
        await store.commit(agent().changes())
    await store.aclose()
    assert path.read_bytes() == before
    assert not (home / "index-2.db").exists()


@pytest.mark.parametrize("first", ["look-up", "commit"])
async def test_an_older_format_is_migrated(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    await open_store().commit(agent().changes())
    monkeypatch.setattr(index, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE extra(a)",)))
    store = open_store()
    if first == "commit":
        await store.commit(agent(1).changes())
    assert agent().is_in(store)
    await store.commit(agent(2).changes())
    assert agent(2).is_in(store)
    await store.aclose()
    with closing(index.connect(str(home / "index-1.db"), "mode=ro")) as connection:
        assert connection.execute("PRAGMA user_version").fetchall() == [(len(MIGRATIONS) + 1,)]
        assert connection.execute("SELECT count(*) FROM extra").fetchall() == [(0,)]


FIRST: dict[str, Callable[[LocalStore], object]] = {
    "look-up": lambda store: store.resolve(agent().reference),
    "recall": lambda store: store.recall("kind", "key"),
    "nothing": lambda store: None,
}


@pytest.mark.parametrize("first", FIRST)
async def test_a_store_of_the_first_format_is_migrated(open_store: Open, home: Path, first: str) -> None:
    await outdated(open_store(), home)
    store = open_store()
    assert FIRST[first](store) in (None, agent().record)
    await store.commit(Changes(NOON, notes=(("kind", "key", "value"),)))
    await store.commit(agent(8).changes())
    for each in (store, open_store()):
        assert all(agent(number, size=10 ** (number + 1)).is_in(each) for number in range(6))
        assert agent(8).is_in(each)
        assert each.recall("kind", "key") == "value"
    await store.aclose()
    assert format_of(home) == len(MIGRATIONS)
    assert sorted(path.name for path in home.glob("index-*.db")) == ["index-1.db"]


async def test_many_open_a_store_of_the_first_format_at_once(open_store: Open, home: Path) -> None:
    await outdated(open_store(), home)
    script = """
        import asyncio, sys
        from store.cargo import NOON, agent
        from lading.store.local import LocalStore
        from lading.store.store import Changes

        async def use() -> bool:
            store = LocalStore(sys.argv[1])
            found = agent(0, size=10).is_in(store)
            await store.commit(Changes(NOON, notes=(("kind", sys.argv[2], "value"),)))
            await store.aclose()
            return found
        print(asyncio.run(use()))
    """
    processes = [start(script, home, str(number), output=True) for number in range(6)]
    assert [process.communicate()[0].strip() for process in processes] == ["True"] * 6
    assert [open_store().recall("kind", str(number)) for number in range(6)] == ["value"] * 6


async def test_a_store_of_the_first_format_where_nothing_can_be_written(
    open_store: Open, home: Path, mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outdated(open_store(), home)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    mounts.make_read_only(home)
    store, before = open_store(), contents(home)
    assert agent(0, size=10).is_in(store)
    assert store.recall("kind", "key") is None
    assert len(list(temporary.iterdir())) == 1
    await cannot_be_written(store, home)
    assert agent(0, size=10).is_in(store)
    await store.aclose()
    assert list(temporary.iterdir()) == []
    assert contents(home) == before
    mounts.undo()
    store = open_store()
    await store.commit(Changes(NOON, notes=(("kind", "key", "value"),)))
    assert store.recall("kind", "key") == "value"


async def outdated(store: LocalStore, home: Path) -> None:
    """Fill ``store`` as a lading did that knew the first format and no other."""
    for number in range(6):
        await store.commit(agent(number, size=10 ** (number + 1)).changes())
    await store.aclose()
    with closing(index.connect(str(home / "index-1.db"), "mode=rw")) as connection:
        connection.execute("DROP TABLE note")
        connection.execute("PRAGMA user_version=1")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        tables = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    assert tables == [(statement,) for statement in MIGRATIONS[0]]


def format_of(home: Path) -> int:
    with closing(index.connect(str(home / "index-1.db"), "mode=ro")) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def set_pragma(home: Path, setting: str) -> Path:
    path = home / "index-1.db"
    with closing(index.connect(str(path), "mode=rw")) as connection:
        connection.execute(f"PRAGMA {setting}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


# Where nothing can be written


async def test_a_read_only_store_serves_and_says_that_it_can_not_be_written(
    open_store: Open, home: Path, mounts: Mounts
) -> None:
    store = open_store()
    await store.commit(agent().changes())
    await store.commit(Changes(NOON, notes=(("kind", "key", "value"),)))
    await take(store, blob(MIB))
    await store.aclose()
    mounts.make_read_only(home)
    store = open_store()
    assert agent().is_in(store)
    assert store.recall("kind", "key") == "value"
    with pytest.raises(StoreReadOnly):
        await store.commit(Changes(NOON, notes=(("kind", "key", None),), durable=False))
    assert store.recall("kind", "key") == "value"
    assert store.read(IMAGE, Digest.of(blob(MIB))) == Intact(blob(MIB))
    await cannot_be_written(store, home)
    assert agent().is_in(store)
    await store.aclose()
    mounts.undo()
    await open_store().commit(agent(1).changes())


async def test_a_read_only_store_with_an_unfinished_wal_is_read_from_a_copy(
    open_store: Open, home: Path, mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(COMMIT.replace("await store.aclose()", "import os; os.kill(os.getpid(), 9)"), home, "0", "5").wait()
    (home / "index-1.db-shm").unlink()
    before = contents(home)
    assert before["index-1.db-wal"]
    mounts.make_read_only(home)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    store = open_store()
    assert all(agent(number).is_in(store) for number in range(5))
    (copy,) = temporary.iterdir()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    await cannot_be_written(store, home)
    await store.aclose()
    assert list(temporary.iterdir()) == []
    assert contents(home) == before


async def test_an_unfinished_wal_and_no_temporary_directory(
    open_store: Open, home: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_store()
    await writer.commit(agent().changes())
    mounts.make_read_only(home)

    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", refuse)
    with pytest.raises(StoreError, match="temporary directory"):
        open_store().resolve(agent().reference)
    mounts.undo()


async def test_a_read_only_store_that_is_written_elsewhere_is_read_again(
    open_store: Open, home: Path, mounts: Mounts, tmp_path: Path
) -> None:
    writer = open_store()
    await writer.commit(agent(0).changes())
    window = tmp_path / "window"
    window.mkdir()
    mounts._mount("--bind", str(home), str(window))
    mounts._points.append(window)
    mounts._mount("-o", "remount,bind,ro", str(window))
    with closing(LocalStore(window)) as reader:
        for number in range(3):
            await writer.commit(agent(number).changes())
            assert agent(number).is_in(reader)
        await writer.aclose()
        assert agent(2).is_in(reader)
        await open_store().commit(agent(3).changes())
        assert agent(3).is_in(reader)


async def test_an_empty_directory_that_is_read_only(open_store: Open, home: Path, mounts: Mounts) -> None:
    home.mkdir(parents=True)
    mounts.make_read_only(home)
    store = open_store()
    assert store.resolve(agent().reference) is ABSENT
    await cannot_be_written(store, home)


async def cannot_be_written(store: LocalStore, home: Path) -> None:
    content = blob(2 * MIB)
    for attempt in (store.commit(agent(9).changes()), store.commit(agent(9, size=MIB).changes()), take(store, content)):
        with pytest.raises(StoreReadOnly, match=f"{home}.*LADING_HOME"):
            await attempt
    assert store.resolve(agent(9).reference) is ABSENT


def test_a_store_of_another_user(home: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not os.path.exists("/usr/bin/setpriv"):
        pytest.skip("it takes root and setpriv to be somebody else")
    asyncio.run(committed(home))
    open_to_others(tmp_path)
    script = """
        import asyncio, os, sys
        from store.cargo import agent
        from lading.errors import StoreError
        from lading.store.local import LocalStore
        asyncio.run(LocalStore("/nowhere").aclose())
        import anyio._backends._asyncio
        os.seteuid(65534)
        store = LocalStore(sys.argv[1])
        for attempt in (lambda: store.resolve(agent().reference), lambda: asyncio.run(store.commit(agent().changes()))):
            try:
                attempt()
            except StoreError as error:
                print(sys.argv[1] in str(error), "LADING_HOME" in error.hint)
        store.close()
    """
    assert run(script, home) == "True True\nTrue True"


async def committed(home: Path) -> None:
    store = LocalStore(home)
    await store.commit(agent().changes())
    await store.aclose()


# What is in the way


@pytest.mark.parametrize("place", ["", "blobs", "ingest", "lock", "blobs/sha256"])
async def test_a_file_or_a_directory_in_the_way_is_an_error_that_names_it(
    open_store: Open, home: Path, place: str
) -> None:
    obstacle = home / place
    obstacle.parent.mkdir(parents=True)
    if place == "lock":
        obstacle.mkdir()
    else:
        obstacle.write_bytes(b"mine")
    with pytest.raises(StoreError, match=str(obstacle)):
        await open_store().commit(agent(size=MIB).changes())
    assert place == "lock" or obstacle.read_bytes() == b"mine"


async def test_a_planted_lock_is_not_followed(open_store: Open, home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    home.mkdir(parents=True)
    (home / "lock").symlink_to(victim)
    with pytest.raises(StoreError, match="lock"):
        await open_store().commit(agent().changes())
    assert victim.read_bytes() == b"precious"


async def test_what_is_in_a_lock_file_stays(open_store: Open, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "lock").write_bytes(b"whose?")
    await open_store().commit(agent().changes())
    assert (home / "lock").read_bytes() == b"whose?"


async def test_a_directory_that_is_a_link_is_followed(open_store: Open, home: Path, tmp_path: Path) -> None:
    home.parent.mkdir()
    (tmp_path / "disk").mkdir()
    home.symlink_to(tmp_path / "disk")
    store = open_store()
    await store.commit(agent(size=MIB).changes())
    assert agent(size=MIB).is_in(store)
    assert (tmp_path / "disk" / "index-1.db").is_file()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "gpfs", "beegfs", "afs")),
        *((kind, True) for kind in ("glusterfs", "fuse.glusterfs", "fuse.sshfs")),
        *((kind, False) for kind in ("9p", "virtiofs", "overlay", "tmpfs", "btrfs", "zfs", "fuse.other", "nfsd")),
    ],
)
def test_network_file_systems_are_told_apart(tmp_path: Path, kind: str, refused: bool) -> None:
    device = os.stat("/proc").st_dev
    assert os.major(device) == 0
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 27 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        f"36 22 0:{os.minor(device)} / /some\\040where rw,noatime shared:1 - {kind} server:/export rw\n"
    )
    assert network_filesystem("/proc/self/missing/place", str(table)) == (kind if refused else "")
    assert network_filesystem("/proc", str(tmp_path / "missing")) == ""


async def test_a_network_file_system_is_refused(open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_store().commit(agent().changes())
    monkeypatch.setattr("lading.store.disk.network_filesystem", lambda path, table: "nfs4")
    store = open_store()
    with pytest.raises(StoreError, match=f"{home} is on a network file system .nfs4.*LADING_HOME"):
        store.resolve(agent().reference)
    with pytest.raises(StoreError, match=f"{home} is on a network file system .nfs4.*LADING_HOME"):
        await store.commit(agent().changes())
    empty = LocalStore(home.parent / "other")
    with pytest.raises(StoreError, match="nfs4"):
        await empty.commit(agent().changes())
    with pytest.raises(StoreError, match="nfs4"):
        await take(empty, blob(MIB))
    assert not (home.parent / "other").exists()


def test_too_many_open_files_is_not_damage(home: Path) -> None:
    asyncio.run(committed(home))
    script = """
        import os, resource, sys
        from store.cargo import agent
        from lading.errors import StoreError
        from lading.store.local import LocalStore
        store = LocalStore(sys.argv[1])
        used = os.dup(0)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
        try:
            print(store.resolve(agent().reference))
        except StoreError as error:
            print(type(error).__name__, sys.argv[1] in str(error))
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        print(agent().is_in(store))
        store.close()
    """
    assert run(script, home) == "StoreError True\nTrue"


def contents(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
