"""At each system call of all that a store does: killed before it or after it, or told that the disk refuses.

What was committed before stays, what was under way is there whole or not at all, the store opens, and the next
collection leaves nothing but what belongs there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from ordeal import Ordeal
from store.cargo import NOON, Agent, agent, blob, described, take
from store.process import run
from store.traced import Ran, traced, why_not

from lading.errors import StoreError
from lading.store import index
from lading.store.local import LocalStore
from lading.store.store import ABSENT, INLINE_LIMIT, Absent, Changes, Corrupt, Intact, Seen

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"
KEPT = [agent(0), agent(1, size=INLINE_LIMIT + 1), agent(2, size=20_000)]
"""Committed before anything goes wrong."""

OLD, NEW, LARGE = blob(300_000, 1), blob(2 * MIB + 3, 2), agent(8, size=INLINE_LIMIT + 5)
ONE = agent(9)


# What a store does


async def _nothing(store: LocalStore) -> None:
    """Prepare nothing."""


async def _fill(store: LocalStore) -> None:
    for each in KEPT:
        await store.commit(each.changes())
    old = described(OLD)
    async with store.ingest(old) as ingest:
        await ingest.write(OLD)
        await ingest.finish()
        seen, link = (Seen(IMAGE, old.digest, old.media_type),), (KEPT[0].digest, old.digest)
        await store.commit(Changes(NOON, blobs=(old,), seen=seen, links=(link,)))


async def _leave_a_partial(store: LocalStore) -> None:
    await _fill(store)
    async with store.ingest(described(NEW)) as ingest:
        await ingest.write(NEW[: MIB + MIB // 2])


async def _make_garbage(store: LocalStore) -> None:
    await _leave_a_partial(store)
    for each in (agent(20), agent(21, size=INLINE_LIMIT + 7)):
        await store.commit(each.changes())
        await store.commit(Changes(NOON, forgotten=(each.reference,)))
    async with store.ingest(described(blob(200_000, 4))) as ingest:  # never committed
        await ingest.write(blob(200_000, 4))
        await ingest.finish()
    Path(store.path, "ingest", "collected.0123456789abcdef").write_bytes(bytes(5000))


async def _damage(store: LocalStore) -> None:
    await _fill(store)
    await store.commit(agent(22).changes())
    await store.aclose()
    with closing(index.connect(os.path.join(store.path, "index-1.db"), "mode=rw")) as connection:
        connection.execute("UPDATE reference SET digest = '' WHERE name = ?", (str(agent(22).reference),))


async def _make_old(store: LocalStore) -> None:
    await _fill(store)
    await store.aclose()
    with closing(index.connect(os.path.join(store.path, "index-1.db"), "mode=rw")) as connection:
        connection.execute("DROP TABLE note")
        connection.execute("PRAGMA user_version=1")


async def _commit_one(store: LocalStore) -> None:
    await store.commit(ONE.changes())


async def _commit_large(store: LocalStore) -> None:
    await store.commit(LARGE.changes())


async def _take_blob(store: LocalStore) -> None:
    await take(store, NEW)


async def _collect(store: LocalStore) -> None:
    await store.collect()


async def _repair(store: LocalStore) -> None:
    store.resolve(agent(22).reference)  # finds the damage
    await _commit_one(store)


async def _read(store: LocalStore) -> None:
    """Whatever a read gives, it is never something else."""
    for each in KEPT:
        record = store.resolve(each.reference)
        assert record == each.record or isinstance(record, Corrupt), record
        for digest, content in ((each.digest, each.manifest), (each.layer_digest, each.layer)):
            found = store.read(each.name, digest)
            assert found == Intact(content) or isinstance(found, Corrupt), found
    pieces = store.stream(IMAGE, described(OLD).digest)
    assert not isinstance(pieces, Absent)
    assert b"".join(pieces) == OLD


def _has_one(store: LocalStore) -> bool:
    return _whole(store, ONE)


def _has_large(store: LocalStore) -> bool:
    return _whole(store, LARGE)


def _whole(store: LocalStore, one: Agent) -> bool:
    """Tell whether it is there: then it is whole."""
    if store.resolve(one.reference) is ABSENT:
        return False
    assert one.is_in(store)
    return True


def _has_blob(store: LocalStore) -> bool:
    found = store.read(IMAGE, described(NEW).digest)
    assert found is ABSENT or found == Intact(NEW), found if isinstance(found, Corrupt) else "other bytes"
    return found is not ABSENT


def _always(store: LocalStore) -> bool:
    return True


@dataclass(frozen=True)
class Work:
    """Something that a store does: from what state, and how to see that it was done."""

    prepare: Callable[[LocalStore], Awaitable[None]]
    act: Callable[[LocalStore], Awaitable[None]]
    is_done: Callable[[LocalStore], bool]

    @property
    def kept(self) -> list[Agent]:
        return [] if self.prepare is _nothing else KEPT


WORKS = {
    "the first commit": Work(_nothing, _commit_one, _has_one),
    "a commit": Work(_fill, _commit_one, _has_one),
    "a commit of large content": Work(_fill, _commit_large, _has_large),
    "a blob": Work(_fill, _take_blob, _has_blob),
    "a blob that is gone on with": Work(_leave_a_partial, _take_blob, _has_blob),
    "a collection": Work(_make_garbage, _collect, _always),
    "a repair": Work(_damage, _repair, _has_one),
    "a migration": Work(_make_old, _commit_one, _has_one),
    "reading": Work(_fill, _read, _always),
}


# Processes: this runs in one that has imported everything and opened nothing


class Trial:
    """One work, done again and again from the same state, each time in a directory of its own."""

    def __init__(self, home: Path, work: Work) -> None:
        self.work = work
        home.mkdir()
        self._template = home / "template"
        self._place = home / "store"
        assert _in_a_child(lambda: self._with_store(work.prepare, self._template)) == 0

    def calls(self) -> list[str]:
        """Give the calls of an undisturbed run."""
        ran = self._run(-1)
        assert ran.code == 0
        self._look(done=True)
        return ran.calls

    def killed(self, at: int, *, after: bool) -> bool:
        """Kill it at one call; tells whether it came so far."""
        ran = self._run(at, after=after)
        assert ran.code in (0, -9), ran
        self._judge(done=ran.code == 0)
        return ran.code == -9

    def refused(self, at: int, code: int, only: str, *, goes_on: bool) -> tuple[int, bool]:
        """Let one call fail, or all from that on; gives how many did, and whether the work came to its end."""
        ran = self._run(at, code=code, goes_on=goes_on, only=frozenset({only}))
        assert ran.code in (0, 3), (ran.code, only, at, errno.errorcode[code], goes_on)
        self._judge(done=ran.code == 0)
        return ran.failed, ran.code == 0

    def _run(
        self,
        at: int,
        *,
        after: bool = False,
        code: int = 0,
        goes_on: bool = False,
        only: frozenset[str] = frozenset(),
    ) -> Ran:
        shutil.rmtree(self._place, ignore_errors=True)
        if self._template.exists():
            shutil.copytree(self._template, self._place)
        again = bool(code) and not goes_on
        return traced(
            lambda: self._attempt(again=again), str(self._place), at, after=after, code=code, goes_on=goes_on, only=only
        )

    def _attempt(self, *, again: bool) -> int:
        """Do the work: 0 if it was done, 3 after an error that says so. Then, ``again``, it has to succeed."""

        async def attempt() -> int:
            store, status = LocalStore(self._place), 0
            try:
                await self.work.act(store)
            except StoreError as error:
                assert str(self._place) in str(error), error  # noqa: PT017
                status = 3
            if again:
                if not status:  # what failed may be still to come
                    with suppress(StoreError, AssertionError):
                        await self._do_again(store)
                await self._do_again(store)
                status = 0
            with suppress(StoreError):
                await store.aclose()
            return status

        return asyncio.run(attempt(), debug=False)

    async def _do_again(self, store: LocalStore) -> None:
        await self.work.act(store)
        assert self.work.is_done(store)
        assert all(each.is_in(store) for each in self.work.kept)

    def _with_store(self, act: Callable[[LocalStore], Awaitable[None]], place: Path) -> int:
        async def main() -> int:
            store = LocalStore(place)
            await act(store)
            await store.aclose()
            return 0

        return asyncio.run(main(), debug=False)

    def _judge(self, *, done: bool) -> None:
        self._look(done=done)
        if self.work.prepare is not _damage or done:
            assert _in_a_child(lambda: self._with_store(self.work.act, self._place)) == 0
            self._look(done=True)
        assert _in_a_child(lambda: self._with_store(self._settle, self._place)) == 0

    def _look(self, *, done: bool) -> None:
        """See what there is, as whoever comes next."""
        store = LocalStore(self._place)
        assert all(each.is_in(store) for each in self.work.kept)
        if self.work.kept:
            assert store.read(IMAGE, described(OLD).digest) == Intact(OLD)
        assert self.work.is_done(store) or not done
        inventory = store.inventory()
        assert inventory.damage == () or (self.work.prepare is _damage and not done), inventory.damage
        for digest, size in inventory.contents:
            assert store.check(digest, lambda size: None) == size, digest
        store.close()

    async def _settle(self, store: LocalStore) -> None:
        """Repair what was damaged on purpose; then a collection leaves nothing that belongs to nothing."""
        if self.work.prepare is _damage:
            await _repair(store)
        await store.collect()
        home = self._place
        assert os.listdir(home / "ingest") == []
        assert store.inventory().strays == ()
        temporary = [
            name for name in os.listdir(home) if not name.startswith("index-") and name not in ("blobs", "ingest")
        ]
        assert set(temporary) <= {"lock"}, temporary


def _in_a_child(work: Callable[[], int]) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            status = work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(home: Path, rounds: int, seed: int) -> None:
    """Kill each work at ``rounds`` calls, or at each if those are fewer; prints how often, and of how many calls."""
    chance = random.Random(seed)
    for name, work in WORKS.items():
        trial, began = Trial(home / name, work), time.monotonic()
        calls = len(trial.calls())
        moments = [(at, after) for at in range(calls) for after in (False, True)]
        if rounds < len(moments):
            moments = chance.sample(moments, rounds)
        kills = sum(trial.killed(at, after=after) for at, after in moments)
        print(f"{name}\t{kills} kills, of {calls} calls, {time.monotonic() - began:.0f} s", flush=True)


FILE, PATH = (errno.ENOSPC, errno.EIO), (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO)
REFUSALS: dict[str, tuple[int, ...]] = {
    "openat": (*PATH, errno.EMFILE),
    **dict.fromkeys(
        ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"), PATH
    ),
    **dict.fromkeys(("write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync"), FILE),
    "fchmod": (errno.EROFS, errno.EIO),
    **dict.fromkeys(("read", "pread64", "getdents64", "flock"), (errno.EIO,)),
}
"""What a call may be told."""


def refuse(home: Path, rounds: int, seed: int) -> None:
    """Let ``rounds`` calls of each work fail, or each in each way if those are fewer; prints what came of it."""
    chance = random.Random(seed)
    for name, work in WORKS.items():
        trial, began = Trial(home / name, work), time.monotonic()
        calls = Counter(trial.calls())
        moments = [
            (call, at, code, goes_on)
            for call, count in sorted(calls.items())
            for at in range(count)
            for code in REFUSALS.get(call, ())
            for goes_on in (False, True)
        ]
        if rounds < len(moments):
            moments = chance.sample(moments, rounds)
        failed = done = 0
        for call, at, code, goes_on in moments:
            count, is_done = trial.refused(at, code, call, goes_on=goes_on)
            failed, done = failed + bool(count), done + is_done
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{name}\t{failed} faults in {len(moments)} rounds, {done} went on all the same, {took}", flush=True)


SCRIPT = """
    import sys
    from pathlib import Path
    import anyio.to_thread, anyio._backends._asyncio
    import lading.store.collect, lading.store.index_salvage
    from store import test_every_call
    test_every_call.{}(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    if reason := why_not():
        pytest.skip(reason)
    return tmp_path


@pytest.mark.torture
@pytest.mark.parametrize("what", ["kill", "refuse"])
def test_at_every_call(home: Path, what: str, ordeal: Ordeal, measured: Callable[[str, str], None]) -> None:
    rounds = ordeal.rounds(short=1, long=sys.maxsize)
    lines = run(SCRIPT.format(what), home, str(rounds), str(ordeal.seed)).splitlines()
    assert len(lines) == len(WORKS)
    for line in lines:
        name, _, figures = line.partition("\t")
        assert not figures.startswith("0 "), "nothing was disturbed"
        if ordeal.is_long:
            measured(f"{name}, {what}", f"{figures}; nothing lost")
