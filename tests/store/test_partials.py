"""Partials: what was left is gone on with, by one at a time, and never believed before it is verified."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from others import open_to_others
from store.cargo import agent, blob, described, shown, take
from store.conftest import Mounts, descriptors
from store.process import run

from lading.errors import DigestMismatch, OutOfSpace, SizeMismatch, StoreError, StoreReadOnly
from lading.store import blobs, disk, partials, waiting
from lading.store import ingest as ingest_module
from lading.store.local import LocalStore
from lading.store.partials import KEPT, leftovers
from lading.store.spans import Spans
from lading.store.store import INLINE_LIMIT, Ingest, Intact

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"
CONTENT = blob(3 * MIB + 5)
DESCRIPTOR = described(CONTENT)
DIGEST = DESCRIPTOR.digest
SOME = 2 * MIB + 100
STRETCHES = 16
"""What a partial remembers, at most."""
ETAG = 'W/"v1"'


class Lost(Exception):
    """The connection is gone."""


@pytest.fixture
async def local(home: Path) -> AsyncIterator[LocalStore]:
    before = descriptors()
    store = LocalStore(home)
    yield store
    await store.aclose()
    assert descriptors() == before


async def leave(store: LocalStore, size: int = SOME, *, etag: str = "", content: bytes = CONTENT) -> None:
    """Begin to take CONTENT, and lose the connection after ``size`` bytes."""
    with suppress(Lost):
        async with store.ingest(DESCRIPTOR) as ingest:
            await ingest.note_etag(etag)
            await ingest.write(content[:size])
            raise Lost


def files(home: Path) -> list[str]:
    """What is in ``ingest/``; digests aren't told."""
    return sorted(name.replace(DIGEST.encoded, "x") for name in os.listdir(home / "ingest"))


def left(home: Path) -> Path:
    """The one partial that is there."""
    (path,) = (home / "ingest").iterdir()
    assert path.match("sha256-*.left-*.part")
    return path


async def finished(store: LocalStore, ingest: Ingest) -> bool:
    """Write the rest, finish, and see that the store gives all of it back."""
    await ingest.write(CONTENT[ingest.received :])
    await ingest.finish()
    await store.commit(shown(DESCRIPTOR, IMAGE))
    return store.read(IMAGE, DIGEST) == Intact(CONTENT)


# Going on


@pytest.mark.parametrize("size", [KEPT + 1, SOME, len(CONTENT)])
async def test_what_was_left_is_gone_on_with(local: LocalStore, home: Path, size: int) -> None:
    await leave(local, size, etag=ETAG)
    assert files(home)[0].startswith("sha256-x.left-")
    assert stat.S_IMODE(left(home).lstat().st_mode) == 0o600
    other = LocalStore(home)
    async with other.ingest(DESCRIPTOR) as ingest:
        assert (ingest.received, ingest.etag, ingest.is_complete) == (size, ETAG, False)
        assert await finished(other, ingest)
    assert files(home) == []
    await other.aclose()


@pytest.mark.parametrize("size", [1, KEPT])
async def test_what_is_little_is_not_kept(local: LocalStore, home: Path, size: int) -> None:
    await leave(local, size)
    assert files(home) == []


async def test_a_blob_may_come_in_many_parts(local: LocalStore, home: Path) -> None:
    sizes = []
    for size in (KEPT + 1, 0, 1, 300_000, MIB):
        with suppress(Lost):
            async with local.ingest(DESCRIPTOR) as ingest:
                sizes.append(ingest.received)
                await ingest.write(CONTENT[ingest.received :][:size])
                raise Lost
    assert sizes == [0, KEPT + 1, KEPT + 1, KEPT + 2, KEPT + 300_002]
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == KEPT + MIB + 300_002
        assert await finished(local, ingest)


async def test_sha512_too(local: LocalStore) -> None:
    descriptor = described(CONTENT, "sha512")
    with suppress(Lost):
        async with local.ingest(descriptor) as ingest:
            await ingest.write(CONTENT[:SOME])
            raise Lost
    async with local.ingest(descriptor) as ingest:
        assert ingest.received == SOME
        await ingest.write(CONTENT[SOME:])
        await ingest.finish()


async def test_a_blob_that_is_too_short_is_gone_on_with(local: LocalStore) -> None:
    async with local.ingest(DESCRIPTOR) as ingest:
        await ingest.write(CONTENT[:SOME])
        with pytest.raises(SizeMismatch, match=f"{SOME} bytes instead of {len(CONTENT)}"):
            await ingest.finish()
        assert await finished(local, ingest)


async def test_restarting_drops_every_byte(local: LocalStore, home: Path) -> None:
    await leave(local, etag=ETAG)
    async with local.ingest(DESCRIPTOR) as ingest:
        await ingest.write(b"wrong")
        await ingest.restart()
        assert (ingest.received, ingest.etag) == (0, "")
        assert [name for name in files(home) if name.endswith(".part")] == []
        await ingest.write(b"wrong again")
        await ingest.restart()
        await ingest.restart()
        await ingest.write(CONTENT[:KEPT])
    assert files(home) == []
    async with local.ingest(DESCRIPTOR) as ingest:
        assert (ingest.received, ingest.etag) == (0, "")
        assert await finished(local, ingest)


@pytest.mark.parametrize("etag", ["", "a b", "é", "x" * 257, "a\n", "\x7f", "\x00"])
async def test_what_is_no_entity_tag_is_not_noted(local: LocalStore, etag: str) -> None:
    async with local.ingest(DESCRIPTOR) as ingest:
        await ingest.note_etag(etag)
        assert ingest.etag == ""
        await ingest.note_etag("x" * 256)
        await ingest.note_etag(etag)
        assert ingest.etag == "x" * 256
        await ingest.write(CONTENT[:SOME])
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.etag == "x" * 256
        await ingest.note_etag(ETAG)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.etag == ETAG, "without a byte in between"


@pytest.mark.parametrize("place", [0, MIB, SOME - 1])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_damaged_partial_fails_once(local: LocalStore, home: Path, place: int, goes_on: bool) -> None:
    await leave(local)
    partial = bytearray(left(home).read_bytes())
    partial[place] ^= 1
    left(home).write_bytes(partial)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME
        await ingest.write(CONTENT[SOME:])
        with pytest.raises(DigestMismatch, match=str(DIGEST)):
            await ingest.finish()
        assert ingest.received == 0
        assert [name for name in files(home) if name.endswith(".part")] == []
        if goes_on:
            assert await finished(local, ingest)
            return
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
        assert await finished(local, ingest)
    assert files(home) == []


async def test_a_partial_is_of_its_digest_only(local: LocalStore, home: Path) -> None:
    await leave(local)
    other = blob(3 * MIB + 5, 1)
    await take(local, other)
    assert local.read(IMAGE, described(other).digest) == Intact(other)
    assert left(home).exists()


async def test_of_several_partials_the_one_that_goes_furthest_is_gone_on_with(local: LocalStore, home: Path) -> None:
    for size in (KEPT + 9, SOME, KEPT + 5):
        await leave(local, size)
        left(home).rename(home / f"{size}")
    for number, size in enumerate((KEPT + 9, SOME, KEPT + 5)):
        (home / f"{size}").rename(home / "ingest" / f"sha256-{DIGEST.encoded}.left-{number:016x}.part")
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME
        assert len(files(home)) == 2, "the lock and this one"
        assert await finished(local, ingest)
    assert files(home) == []


# Out of order


@given(
    size=st.integers(0, 300),
    cuts=st.lists(st.integers(0, 300)),
    order=st.randoms(use_true_random=False),
)
def test_spans(size: int, cuts: list[int], order: random.Random) -> None:
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    pieces = list(pairwise(edges))
    order.shuffle(pieces)
    spans, there = Spans(), set[int]()
    for begin, end in pieces:
        spans.add(begin, end)
        there.update(range(begin, end))
        assert spans.total == len(there)
        assert spans.prefix == next(number for number in range(size + 1) if number not in there)
        assert [byte for gap in spans.gaps(size) for byte in range(*gap)] == sorted(set(range(size)) - there)
        assert Spans.of(spans.stretches, size).stretches == spans.stretches
        for first, last in ((begin, end), (begin, begin + 1), (max(0, begin - 1), end + 1), (end - 1, end + 5)):
            with pytest.raises(ValueError, match="already there"):
                spans.add(first, last)
    assert (spans.prefix, spans.total) == (size, size)


@pytest.mark.parametrize("stretches", [[(0, 5), (4, 6)], [(0, 5), (9, 8)], [(0, 11)], [(5, 6), (0, 1), (0, 1)]])
def test_stretches_that_can_not_be(stretches: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"there|stretch"):
        Spans.of(stretches, 10)


def pieces_of(content: bytes, chance: random.Random, count: int) -> list[tuple[int, bytes]]:
    """Cut ``content`` up, and shuffle the pieces."""
    edges = sorted({0, len(content), *(chance.randrange(len(content)) for _ in range(count))})
    pieces = [(begin, content[begin:end]) for begin, end in pairwise(edges)]
    chance.shuffle(pieces)
    return pieces


@pytest.mark.parametrize("seed", range(12))
async def test_a_blob_arrives_in_any_order(local: LocalStore, home: Path, seed: int) -> None:
    chance = random.Random(seed)
    spans = Spans()
    async with local.ingest(DESCRIPTOR) as ingest:
        for offset, piece in pieces_of(CONTENT, chance, chance.choice([3, 20, 200, 3000])):
            if offset == ingest.received and chance.random() < 0.5:
                await ingest.write(piece)
            else:
                await ingest.write_at(offset, piece)
            spans.add(offset, offset + len(piece))
            assert ingest.received == spans.prefix
        assert await finished(local, ingest)
    path = home / "blobs" / "sha256" / DIGEST.encoded
    assert path.stat().st_size == len(CONTENT)


@settings(max_examples=20, deadline=None)
@given(
    chance=st.randoms(use_true_random=False),
    count=st.sampled_from([3, 50]),
    share=st.floats(0, 1),
)
def test_of_what_was_left_in_any_order_only_the_gaps_are_fetched(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, count: int, share: float
) -> None:
    home = tmp_path_factory.mktemp("data")

    async def main() -> None:
        store, spans = LocalStore(home), Spans()
        async with store.ingest(DESCRIPTOR) as ingest:
            pieces = pieces_of(CONTENT, chance, count)
            for offset, piece in pieces[: int(share * len(pieces))]:
                await ingest.write_at(offset, piece)
                spans.add(offset, offset + len(piece))
        told = Spans.of(spans.stretches[:STRETCHES], len(CONTENT)) if spans.total > KEPT else Spans()
        async with store.ingest(DESCRIPTOR) as ingest:
            assert (ingest.received, ingest.gaps) == (told.prefix, told.gaps(len(CONTENT)))
            for start, end in ingest.gaps:
                await ingest.write_at(start, CONTENT[start:end])
            assert await finished(store, ingest)
        await store.aclose()

    asyncio.run(main())


async def test_several_tasks_write_their_ranges(local: LocalStore) -> None:
    content = blob(40 * MIB + 3)
    descriptor = described(content)
    step = len(content) // 7 + 1

    async def fetch(ingest: Ingest, begin: int) -> None:
        chance = random.Random(begin)
        end = min(begin + step, len(content))
        while begin < end:
            piece = content[begin : min(end, begin + chance.randrange(1, 300_000))]
            await ingest.write_at(begin, piece)
            begin += len(piece)

    async with local.ingest(descriptor) as ingest:
        async with anyio.create_task_group() as group:
            for begin in range(0, len(content), step):
                group.start_soon(fetch, ingest, begin)
        assert ingest.received == len(content)
        await ingest.finish()
    await local.commit(shown(descriptor, IMAGE))
    assert local.read(IMAGE, descriptor.digest) == Intact(content)


async def test_a_task_that_is_cancelled_takes_nothing_from_the_others(local: LocalStore, home: Path) -> None:
    half = len(CONTENT) // 2
    for steps in range(8):
        async with local.ingest(DESCRIPTOR) as ingest:
            task = asyncio.create_task(ingest.write_at(half, CONTENT[half:]))
            for _ in range(steps):
                await asyncio.sleep(0)
            is_taken = steps > 0  # else the task is cancelled before it begins
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await ingest.write(CONTENT[:half])
            assert ingest.received == (len(CONTENT) if is_taken else half)
            assert await finished(local, ingest)
        (home / "blobs" / "sha256" / DIGEST.encoded).unlink()


async def test_what_comes_in_order_is_not_read_back(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(blobs, "read_at", refuse)
    async with local.ingest(DESCRIPTOR) as ingest:
        for begin in range(0, len(CONTENT), 100_000):
            await ingest.write(CONTENT[begin : begin + 100_000])
        await ingest.finish()


# In turn


async def test_others_wait_and_find_it_complete(local: LocalStore, home: Path) -> None:
    complete: list[bool] = []

    async def wait() -> None:
        async with local.ingest(DESCRIPTOR) as ingest:
            complete.append(ingest.is_complete)
            assert ingest.received == len(CONTENT)
            await ingest.write(b"ignored")
            await ingest.write_at(5, b"ignored")
            await ingest.restart()
            await ingest.finish()
            assert ingest.is_complete
            assert ingest.etag == ""

    async with anyio.create_task_group() as group, local.ingest(DESCRIPTOR) as ingest:
        for _ in range(5):
            group.start_soon(wait)
        await anyio.sleep(0.05)
        assert complete == []
        assert await finished(local, ingest)
        assert files(home) == [], "the next one need not wait until this one is left"
        with anyio.fail_after(30):
            while len(complete) < 5:  # also while this one isn't left
                await anyio.lowlevel.checkpoint()
    assert complete == [True] * 5
    assert files(home) == []


@pytest.mark.parametrize("size", [SOME, 10])
async def test_whoever_waits_goes_on_when_the_other_gives_up(local: LocalStore, home: Path, size: int) -> None:
    found: list[int] = []

    async def wait() -> None:
        async with local.ingest(DESCRIPTOR) as ingest:
            found.append(ingest.received)
            assert await finished(local, ingest)

    async with anyio.create_task_group() as group, local.ingest(DESCRIPTOR) as ingest:
        group.start_soon(wait)
        await ingest.write(CONTENT[:size])
        await anyio.sleep(0.03)
        assert found == []
    assert found == [size if size > KEPT else 0]
    assert files(home) == []


@pytest.mark.parametrize("size", [0, SOME])
async def test_whoever_stands_still_is_overtaken(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(waiting, "_SAID_SECONDS", 0.01)
    other = LocalStore(home)
    async with local.ingest(DESCRIPTOR) as stopped:
        await stopped.write(CONTENT[:size])
        async with other.ingest(DESCRIPTOR) as ingest:
            assert ingest.received == 0
            assert await finished(other, ingest)
        assert await finished(local, stopped), "it may go on as if nothing had been"
    assert files(home) == []
    said = [record.getMessage().removeprefix(f"{DIGEST}: ") for record in caplog.records]
    assert said == ["waiting for another process that takes it", "another process takes it, but nothing came for 0 s"]
    await other.aclose()


async def test_whoever_overtakes_leaves_a_partial_too(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.1)
    other = LocalStore(home)
    async with local.ingest(DESCRIPTOR):
        await leave(other)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME
    await other.aclose()


async def test_whoever_verifies_what_was_left_is_seen_at_work(local: LocalStore, home: Path) -> None:
    await leave(local)
    os.utime(left(home), (0, 0))
    async with local.ingest(DESCRIPTOR):
        (path,) = (home / "ingest").glob("*.part")
        assert path.stat().st_mtime > 0


async def test_whoever_is_slow_is_not_overtaken(local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    for module in (ingest_module, waiting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    async with local.ingest(DESCRIPTOR) as slow:
        other = waiting.Waiting(DIGEST)
        for start in range(0, 1000, 100):
            await slow.write(CONTENT[start : start + 100])
            now += 29.0
            assert not other.is_in_vain(str(home / "ingest"))
        now += 29.0
        assert not other.is_in_vain(str(home / "ingest"))
        now += 29.0
        assert other.is_in_vain(str(home / "ingest"))


async def test_whoever_waits_does_not_keep_others_waiting(local: LocalStore) -> None:
    async with local.ingest(DESCRIPTOR):
        begun = time.monotonic()
        with anyio.move_on_after(0.3) as scope:
            async with local.ingest(DESCRIPTOR):
                pass
        assert scope.cancelled_caught
        await take(local, blob(2 * MIB))
        assert time.monotonic() - begun < 20


async def test_small_content_needs_no_lock(local: LocalStore, home: Path) -> None:
    content = blob(INLINE_LIMIT)
    async with local.ingest(described(content)) as first, local.ingest(described(content)) as second:
        for ingest in (first, second):
            await ingest.write(content)
            await ingest.finish()
    assert files(home) == []


async def test_what_is_there_is_complete_if_it_is_intact(local: LocalStore, home: Path) -> None:
    await take(local, CONTENT)
    path = home / "blobs" / "sha256" / DIGEST.encoded
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.is_complete
        assert ingest.received == len(CONTENT)
    path.chmod(0o600)
    for damaged in (CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x", b""):
        path.write_bytes(damaged)
        async with local.ingest(DESCRIPTOR) as ingest:
            assert not ingest.is_complete
            assert ingest.received == 0
    path.unlink()
    (home / "elsewhere").write_bytes(CONTENT)
    path.symlink_to(home / "elsewhere")
    async with local.ingest(DESCRIPTOR) as ingest:
        assert not ingest.is_complete, "a link isn't followed"
        assert await finished(local, ingest)
    assert path.is_file()
    assert not path.is_symlink()


async def test_what_is_complete_is_durable(local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await take(local, CONTENT)
    synced: list[str] = []
    monkeypatch.setattr(blobs, "sync_directory", synced.append)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.is_complete
    assert synced == [str(home / "blobs" / "sha256")], "whoever made it may not have come so far"


async def test_a_blob_that_becomes_real_just_before_the_lock_is_had(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = partials.Turn.acquire

    def slow(self: partials.Turn) -> bool:
        local._blobs.put(DIGEST, CONTENT)
        return acquire(self)

    monkeypatch.setattr(partials.Turn, "acquire", slow)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.is_complete
        assert files(home) == []


async def test_a_damaged_blob_is_looked_at_once_while_another_repairs_it(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take(local, CONTENT)
    path = home / "blobs" / "sha256" / DIGEST.encoded
    path.chmod(0o600)
    path.write_bytes(CONTENT[:-1] + b"x")
    looks: list[object] = []
    is_whole = blobs.Blobs.is_whole

    def look(*arguments: Any) -> bool:
        looks.append(arguments)
        return is_whole(*arguments)

    monkeypatch.setattr(blobs.Blobs, "is_whole", look)

    async def wait() -> None:
        async with local.ingest(DESCRIPTOR) as ingest:
            assert ingest.is_complete

    async with anyio.create_task_group() as group, local.ingest(DESCRIPTOR) as ingest:
        group.start_soon(wait)
        await anyio.sleep(0.2)
        assert len(looks) == 2, "one each"
        assert await finished(local, ingest)
    assert len(looks) == 3


async def test_where_there_are_no_locks(local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    async with local.ingest(DESCRIPTOR) as first, local.ingest(DESCRIPTOR) as second:
        await first.write(CONTENT[:SOME])
        await second.write(CONTENT[: KEPT + 1])
        assert len(files(home)) == 2
        async with local.ingest(DESCRIPTOR) as third:
            assert third.received == 0, "both are somebody's"
        assert await finished(local, first)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.is_complete
    (home / "blobs" / "sha256" / DIGEST.encoded).unlink()
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == KEPT + 1
        assert await finished(local, ingest)
    assert files(home) == []


def test_a_lock_file_that_is_removed_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (partials.Turn(str(tmp_path), DIGEST) for _ in range(3))
    assert first.acquire()
    lock = disk.Held.lock

    def slow(self: disk.Held) -> bool:
        monkeypatch.setattr(disk.Held, "lock", lock)
        first.release()
        assert third.acquire()
        return lock(self)

    monkeypatch.setattr(disk.Held, "lock", slow)
    assert not second.acquire(), "it locked a file that is no more"
    third.release()
    assert second.acquire()
    second.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_file_of_another_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (partials.Turn(str(tmp_path), DIGEST) for _ in range(3))
    with monkeypatch.context() as patch:
        patch.setattr(disk.Held, "lock", lambda self: True)
        assert first.acquire()
        assert second.acquire()
    first.release()
    assert third.acquire()
    second.release()
    assert not first.acquire()
    third.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_ends_with_whoever_closes_it_first(tmp_path: Path) -> None:
    held = disk.Held.create(str(tmp_path / "file"))
    assert held.lock()
    copy = os.dup(held.descriptor)  # as a process has that is just being started
    held.close()
    held.close()
    other = disk.Held(str(tmp_path / "file"))
    assert other.lock()
    other.close()
    os.close(copy)


async def test_a_lock_file_that_somebody_left_is_no_obstacle(local: LocalStore, home: Path) -> None:
    await leave(local)
    (home / "ingest" / f"sha256-{DIGEST.encoded}.lock").write_bytes(b"whatever")
    async with local.ingest(DESCRIPTOR) as ingest:
        assert await finished(local, ingest)
    assert files(home) == []


async def test_a_lock_that_is_a_link_is_refused(local: LocalStore, home: Path) -> None:
    await local.commit(agent().changes())
    (home / "precious").write_bytes(b"precious")
    path = home / "ingest" / f"sha256-{DIGEST.encoded}.lock"
    path.symlink_to(home / "precious")
    with pytest.raises(StoreError, match=str(path)):
        await leave(local)
    assert (home / "precious").read_bytes() == b"precious"
    path.unlink()
    await take(local, CONTENT)


# What is planted


def plant(path: Path, kind: str, partial: bytes) -> None:
    """Put something in the place of a partial."""
    if kind == "link":
        path.with_name("target").write_bytes(partial)
        path.symlink_to("target")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "hard link":
        path.with_name("target").write_bytes(partial)
        path.hardlink_to(path.with_name("target"))
    elif kind.startswith("read-only"):
        path.write_bytes(CONTENT[:-1] if kind.endswith("short") else CONTENT + b"x")
        path.chmod(0o400)
    else:
        place = -(-len(CONTENT) // 4096) * 4096
        path.write_bytes(
            {
                "nothing": b"",
                "only content": CONTENT[:SOME],
                "whole content": CONTENT,
                "more than content": CONTENT + b"more",
                "more than a partial": partial + b"\0",
                "less than a partial": partial[:-1],
                "another record": partial[:place] + partial[place:].replace(str(SOME).encode(), b"3000000"),
                "garbage": blob(len(partial), 8),
            }[kind]
        )


KINDS = ["nothing", "only content", "whole content", "more than content", "more than a partial", "less than a partial"]
KINDS += ["another record", "garbage", "link", "hard link", "directory", "pipe", "read-only, short", "read-only, long"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_planted_is_not_gone_on_with(local: LocalStore, home: Path, kind: str) -> None:
    await leave(local)
    path = left(home)
    partial = path.read_bytes()
    path.unlink()
    plant(path, kind, partial)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
        assert await finished(local, ingest)
    if kind in ("link", "hard link"):
        assert path.with_name("target").read_bytes() == partial, "it isn't followed, nor written"
        path.with_name("target").unlink()
    assert files(home) == ([path.name.replace(DIGEST.encoded, "x")] if kind == "directory" else [])


async def test_a_partial_that_is_wrong_in_all_it_says_fails_once(local: LocalStore, home: Path) -> None:
    path = home / "ingest" / f"sha256-{DIGEST.encoded}.left-{0:016x}.part"
    path.parent.mkdir(parents=True)
    held = disk.Held.create(str(path))
    partials.write_record(held, len(CONTENT), Spans(len(CONTENT) - 1), ETAG)  # after a power cut: all of it is a hole
    held.close()
    async with local.ingest(DESCRIPTOR) as ingest:
        assert (ingest.received, ingest.etag) == (len(CONTENT) - 1, ETAG)
        await ingest.write(CONTENT[-1:])
        with pytest.raises(DigestMismatch):
            await ingest.finish()
    await take(local, CONTENT)
    assert files(home) == []


@pytest.mark.parametrize("name", ["sha256-{}.part", "sha256-{}.0123.part", "sha256-{}.left-x.part", "x.part", "{}"])
async def test_files_with_other_names_are_left_alone(local: LocalStore, home: Path, name: str) -> None:
    path = home / "ingest" / name.format(DIGEST.encoded)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
        assert await finished(local, ingest)
    assert path.read_bytes() == CONTENT


async def test_a_partial_that_can_not_be_read_is_fetched_again(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(local)

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(blobs, "read_at", refuse)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
        assert await finished(local, ingest)
    assert files(home) == []


class Gate:
    """Lets a function wait in its thread until it may go on, and counts."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.calls = self.at_work = self.most_at_work = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        self.begun.set()
        assert self.go_on.wait(30)
        result = self._function(*arguments)
        self.at_work -= 1
        return result


@pytest.mark.parametrize("kind", ["anyio", "asyncio"])
@pytest.mark.parametrize("what", ["partial", "blob"])
async def test_cancelling_does_not_wait_until_all_is_verified(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    if what == "partial":
        await leave(local, len(CONTENT))
    else:
        await take(local, CONTENT)
    before = descriptors()
    gate = Gate(disk.read_at if what == "partial" else os.read)

    async def enter() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async with local.ingest(DESCRIPTOR):
                pytest.fail("it isn't verified yet")

    scopes: list[anyio.CancelScope] = []
    with monkeypatch.context() as patch:
        patch.setattr(blobs if what == "partial" else os, "read_at" if what == "partial" else "read", gate)
        task = asyncio.create_task(enter())
        await anyio.to_thread.run_sync(gate.begun.wait)
        if kind == "anyio":
            scopes[0].cancel()
        else:
            task.cancel()
        await asyncio.sleep(0)
        gate.go_on.set()
        with suppress(asyncio.CancelledError):
            await task
    assert gate.calls == 1
    assert descriptors() == before
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == len(CONTENT)


async def test_a_thread_that_nobody_waits_for_is_not_overtaken(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with local.ingest(DESCRIPTOR) as ingest:
        gate = Gate(disk.write_at)
        with monkeypatch.context() as patch:
            patch.setattr(blobs, "write_at", gate)
            task = asyncio.create_task(ingest.write(CONTENT[:MIB]))
            await anyio.to_thread.run_sync(gate.begun.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with anyio.create_task_group() as group:
                for begin in (MIB, 2 * MIB):
                    group.start_soon(ingest.write_at, begin, CONTENT[begin:][:MIB])
                await anyio.sleep(0.05)
                gate.go_on.set()
        assert gate.most_at_work == 1
        assert await finished(local, ingest)


# Whose it is


def rename(path: Path, owner: str) -> Path:
    """Let a partial be of ``owner``."""
    return path.rename(path.with_name(f"sha256-{DIGEST.encoded}.{owner}-{0:016x}.part"))


def owner() -> tuple[str, int, int]:
    return partials._owner(os.getpid())


async def test_a_partial_of_a_living_process_is_left_alone(local: LocalStore, home: Path) -> None:
    await leave(local)
    machine, process, begun = owner()
    path = rename(left(home), f"{machine}-{process}-{begun}")
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
    assert path.exists()
    path = rename(path, f"{machine}-{process}-{begun + 1}")  # that was another process with the same number
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME
    assert left(home).exists()


async def test_a_partial_that_is_locked_is_left_alone(local: LocalStore, home: Path) -> None:
    await leave(local)
    path = left(home)
    holder = disk.Held(str(path))
    assert holder.lock()
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
    assert path.exists()
    holder.close()
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME


async def test_a_partial_that_is_written_is_locked(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with local.ingest(DESCRIPTOR) as ingest:
        await ingest.write(CONTENT[:SOME])
        monkeypatch.setattr(partials, "_is_gone", lambda name, status: True)
        assert [one.is_owned for one in leftovers(home / "ingest")] == [True]
        assert partials.claim(str(home / "ingest"), DIGEST, len(CONTENT)) is None
        assert await finished(local, ingest)


async def test_the_partial_of_another_machine(local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await leave(local)
    path = rename(left(home), "00000000-1-1")
    monkeypatch.setattr(os, "major", lambda device: 0)  # not a disk: perhaps its lock can't be seen here
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == 0
    os.utime(path, (0, time.time() - 7200))
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME
    path = rename(left(home), "00000000-1-1")
    monkeypatch.setattr(os, "major", lambda device: 8)
    async with local.ingest(DESCRIPTOR) as ingest:
        assert ingest.received == SOME


def test_a_process_that_has_ended_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        begun = partials._start(process.pid)
        assert begun is None or begun > 0
        assert partials._is_running(process.pid, begun or 0)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if begun:
            assert not partials._is_running(process.pid, begun), "nobody has waited for it yet"
        process.wait()
        assert not partials._is_running(process.pid, begun or 0)
    assert not partials._is_running(10**9, 1)


async def test_what_others_left_can_be_listed(local: LocalStore, home: Path) -> None:
    assert leftovers(home / "ingest") == []
    await leave(local)
    path = left(home)
    os.utime(path, (0, time.time() + 1000))
    (path.parent / "index-1.0123.part").write_bytes(b"")
    (path.parent / "sha256-0123.left-0123456789abcdef.part").write_bytes(b"")
    (one,) = leftovers(home / "ingest")
    assert (one.path, one.digest, one.age, one.is_owned) == (str(path), DIGEST, 0, False)
    assert SOME <= one.bytes <= SOME + 3 * 4096, "a hole takes no space"
    os.utime(path, (0, time.time() - 1000))
    (one,) = leftovers(home / "ingest")
    assert 1000 <= one.age < 1100
    holder = disk.Held(str(path))
    assert holder.lock()
    (one,) = leftovers(home / "ingest")
    assert one.is_owned
    holder.close()
    async with local.ingest(DESCRIPTOR):
        (one,) = leftovers(home / "ingest")
        assert one.is_owned
        assert one.path != str(path)


# Disks


async def test_a_directory_that_is_read_only(local: LocalStore, home: Path, mounts: Mounts) -> None:
    await take(local, CONTENT)
    await leave_other(local)
    await local.aclose()
    before = files(home)
    mounts.make_read_only(home)
    store = LocalStore(home)
    async with store.ingest(DESCRIPTOR) as ingest:
        assert ingest.is_complete
        await ingest.finish()
    with pytest.raises(StoreReadOnly, match=f"{home}.*LADING_HOME"):
        await leave_other(store)
    assert files(home) == before
    store.close()
    mounts.undo()
    async with LocalStore(home).ingest(described(OTHER)) as ingest:
        assert ingest.received == SOME


OTHER = blob(3 * MIB, 4)


async def leave_other(store: LocalStore) -> None:
    with suppress(Lost):
        async with store.ingest(described(OTHER)) as ingest:
            await ingest.write(OTHER[:SOME])
            raise Lost


async def test_a_partial_gives_its_space_back_when_the_disk_is_full(tmp_path: Path, mounts: Mounts) -> None:
    store = LocalStore(mounts.disk(tmp_path / "disk", "4m") / "store")
    large = blob(8 * MIB)
    for sizes in ([len(large)], [SOME, len(large)], [KEPT + 1, SOME, len(large)]):
        for size in sizes:
            with pytest.raises(OutOfSpace if size == len(large) else Lost):  # noqa: PT012
                async with store.ingest(described(large)) as ingest:
                    assert size == sizes[0] or ingest.received > KEPT
                    for begin in range(ingest.received, size, 65536):
                        await ingest.write(large[begin : min(size, begin + 65536)])
                    raise Lost
        assert os.listdir(os.path.join(store.path, "ingest")) == []
    await take(store, CONTENT)
    await store.aclose()


async def test_after_a_failure_nothing_more_is_taken_until_a_restart(
    local: LocalStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with local.ingest(DESCRIPTOR) as ingest:
        await ingest.write(CONTENT[: KEPT + 1])
        with monkeypatch.context() as patch:
            patch.setattr(blobs, "write_at", refuse)
            with pytest.raises(OutOfSpace):
                await ingest.write(CONTENT[KEPT + 1 :][:MIB])
        with suppress(OutOfSpace):
            await ingest.write(CONTENT[KEPT + 1 + MIB :])
        with pytest.raises(OutOfSpace):
            await ingest.finish()
        await ingest.restart()
        assert await finished(local, ingest)
    assert files(home) == []


# Processes

SCRIPT = """
    import asyncio, os, random, signal, sys, time, traceback
    import anyio, anyio.to_thread, anyio._backends._asyncio
    from store.cargo import blob, described, shown
    from lading.store.local import LocalStore
    from lading.store.store import Intact

    path = sys.argv[1]
    CONTENT = blob(8 * 1024 * 1024 + 5)
    DESCRIPTOR = described(CONTENT)
    PART = 64 * 1024
    signal.alarm(110)
    os.makedirs(path)
    log = os.open(f"{path}.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def child(work):
        process = os.fork()
        if process:
            return process
        signal.alarm(100)
        try:
            asyncio.run(work())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def ended(*processes):
        return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]

    def downloaded():
        return sum(int.from_bytes(os.pread(log, 4, offset), "big") for offset in range(0, os.fstat(log).st_size, 4))

    def until(size, patience=60.0):
        # Wait until so much was downloaded; then, or when nothing more may come, go on.
        deadline = time.monotonic() + patience
        while downloaded() < size and time.monotonic() < deadline:
            time.sleep(0.0002)

    def files():
        return os.listdir(f"{path}/ingest")

    async def fetch(most=len(CONTENT), pause=0.0):
        store = LocalStore(path)
        async with store.ingest(DESCRIPTOR) as ingest:
            while not ingest.is_complete and ingest.received < len(CONTENT):
                if ingest.received >= most:
                    await anyio.sleep(1000)
                piece = CONTENT[ingest.received :][:PART]
                await ingest.write(piece)
                os.write(log, len(piece).to_bytes(4, "big"))
                await anyio.sleep(pause)
            await ingest.finish()
        await store.commit(shown(DESCRIPTOR))
        assert store.read("ghcr.io/acme/image", DESCRIPTOR.digest) == Intact(CONTENT)
        await store.aclose()

    def lock_nothing():
        import fcntl
        fcntl.flock = lambda *_: None
"""


def script(text: str, home: Path, *arguments: str) -> str:
    home.parent.mkdir()
    return run(textwrap.dedent(SCRIPT) + textwrap.dedent(text), home, *arguments)


def test_many_processes_download_a_blob_once(home: Path) -> None:
    text = """
        print(ended(*[child(fetch) for _ in range(8)]), downloaded() == len(CONTENT), files())
    """
    assert script(text, home) == f"{[0] * 8} True []"


def test_processes_download_it_each_where_locks_do_nothing(home: Path) -> None:
    text = """
        lock_nothing()
        print(ended(*[child(lambda: fetch(pause=0.001)) for _ in range(8)]), downloaded() // len(CONTENT), files())
    """
    codes, _, rest = script(text, home).partition("] ")
    assert codes + "]" == f"{[0] * 8}"
    assert rest in [f"{times} []" for times in range(1, 9)]


def test_processes_are_killed_where_locks_do_nothing(home: Path) -> None:
    text = """
        lock_nothing()
        chance = random.Random(1)
        for _ in range(6):
            processes = [child(lambda: fetch(pause=0.001)) for _ in range(4)]
            until(downloaded() + chance.randrange(1, 3 * len(CONTENT)), 0.5)
            for process in processes[:3]:
                os.kill(process, signal.SIGKILL)
            assert ended(*processes)[3] == 0
            os.unlink(f"{path}/blobs/sha256/{DESCRIPTOR.digest.encoded}")
        print(ended(child(fetch)), files())
    """
    assert script(text, home) == "[0] []"


def test_a_holder_that_is_killed_is_taken_over(home: Path) -> None:
    text = """
        first = child(lambda: fetch(5 * 1024 * 1024))
        until(5 * 1024 * 1024)
        others = [child(fetch) for _ in range(7)]
        assert os.waitpid(others[0], os.WNOHANG) == (0, 0)
        os.kill(first, signal.SIGKILL)
        print(ended(*others), files())       # nobody has waited for the first one yet
        print(len(CONTENT) <= downloaded() <= len(CONTENT) + 1024 * 1024, ended(first))
    """
    assert script(text, home) == f"{[0] * 7} []\nTrue [-9]"


def test_a_holder_may_take_as_long_as_it_likes(home: Path) -> None:
    text = """
        first = child(lambda: fetch(pause=0.001))
        until(3 * 1024 * 1024)
        os.kill(first, signal.SIGSTOP)
        so_far = downloaded()
        others = [child(fetch) for _ in range(3)]
        asyncio.run(anyio.sleep(0.7))
        assert downloaded() == so_far
        os.kill(first, signal.SIGCONT)
        print(ended(first, *others), downloaded() == len(CONTENT), files())
    """
    assert script(text, home) == f"{[0] * 4} True []"


def test_a_forked_child_keeps_nothing_of_its_parent(home: Path) -> None:
    text = """
        receive, send = os.pipe()

        async def fork():
            store = LocalStore(path)
            async with store.ingest(DESCRIPTOR) as ingest:
                await ingest.write(CONTENT[: 5 * 1024 * 1024])
                if not os.fork():
                    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
                    assert not [link for link in links if os.path.exists(link) and "ingest" in os.readlink(link)]
                    ingest._leave()                   # whatever it does with what it inherited
                    ingest._part.discard()
                    signal.alarm(100)
                    os.write(send, os.getpid().to_bytes(4, "big"))
                    signal.pause()
                signal.pause()

        parent = child(fork)
        grandchild = int.from_bytes(os.read(receive, 4), "big")
        assert sum(f"-{parent}-" in name for name in files()) == 1, files()
        other = child(fetch)
        asyncio.run(anyio.sleep(0.3))
        assert downloaded() == 0, "the parent has the lock still"
        os.kill(parent, signal.SIGKILL)
        print(ended(other), downloaded() == len(CONTENT) - 5 * 1024 * 1024, files())
        os.kill(grandchild, signal.SIGKILL)
        ended(parent)
    """
    assert script(text, home) == "[0] True []"


def test_killed_just_before_it_becomes_a_blob(home: Path) -> None:
    text = """
        async def killed():
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            await fetch()

        if len(sys.argv) > 2:
            os.chown(path, 65534, 65534)
            os.chown(f"{path}.log", 65534, 65534)
            os.seteuid(65534)
        print(ended(child(killed)), downloaded() == len(CONTENT), ended(child(fetch)), downloaded() == len(CONTENT))
        print(files())
    """
    assert script(text, home) == "[-9] True [0] True\n[]"
    if os.geteuid() == 0:
        open_to_others(home.parent)
        home.parent.rename(home.parent.with_name("before"))
        assert script(text, home, "as nobody") == "[-9] True [0] True\n[]", "it is read-only for this user"


def test_killed_at_any_moment_it_goes_on(home: Path) -> None:
    text = """
        chance = random.Random(3)
        kills = begun = 0
        for _ in range(30):
            process = child(lambda: fetch(pause=0.0005))
            until(downloaded() + chance.randrange(1, 3 * 1024 * 1024), 0.5)
            os.kill(process, signal.SIGKILL)
            code, = ended(process)
            assert code in (0, -9), code
            kills += code == -9
            if os.path.exists(f"{path}/blobs/sha256/{DESCRIPTOR.digest.encoded}"):
                assert ended(child(fetch)) == [0]
                os.unlink(f"{path}/blobs/sha256/{DESCRIPTOR.digest.encoded}")
                begun += 1
        assert ended(child(fetch)) == [0]
        # Each kill costs what was gathered, or a partial that isn't worth it.
        most = (begun + 1) * len(CONTENT) + kills * (1024 * 1024 + PART)
        print(kills > 10, downloaded() <= most, files())
    """
    assert script(text, home) == "True True []"


def test_killed_while_bytes_arrive_in_any_order(home: Path) -> None:
    text = """
        from lading.store.ingest import BATCH
        from lading.store.partials import KEPT
        from lading.store.spans import Spans

        def told(spans):
            return sum(end - start for start, end in spans.stretches[:16])

        def pieces(seed):
            chance = random.Random(seed)
            edges = sorted({0, len(CONTENT), *(chance.randrange(len(CONTENT)) for _ in range(60))})
            pieces = list(zip(edges, edges[1:]))
            # Not in any order at all, else there are more stretches than a partial remembers.
            pieces.sort(key=lambda piece: piece[0] + chance.randrange(4 * 1024 * 1024))
            return pieces

        async def scatter(seed, send):
            store, spans = LocalStore(path), Spans()
            async with store.ingest(DESCRIPTOR) as ingest:
                assert ingest.received == 0
                for start, end in pieces(seed):
                    spans.add(start, end)
                    await ingest.write_at(start, CONTENT[start:end])
                    assert ingest.received == spans.prefix
                    os.write(send, told(spans).to_bytes(4, "big"))
                signal.pause()

        async def go_on(least):
            store = LocalStore(path)
            async with store.ingest(DESCRIPTOR) as ingest:
                gaps = ingest.gaps
                fetched = sum(end - start for start, end in gaps)
                assert len(CONTENT) - fetched in pieces_after, gaps
                assert len(CONTENT) - fetched >= (least if least > KEPT else 0), (gaps, least)
                for start, end in gaps:
                    await ingest.write_at(start, CONTENT[start:end])
                await ingest.finish()
            os.write(log, (len(CONTENT) - fetched).to_bytes(4, "big"))

        for seed in range(12):
            receive, send = os.pipe()
            process = child(lambda: scatter(seed, send))
            reports = []
            for _ in range(5 * seed):
                reports.append(int.from_bytes(os.read(receive, 4), "big"))
            os.kill(process, signal.SIGKILL)
            ended(process)
            os.close(send)
            while piece := os.read(receive, 4):
                reports.append(int.from_bytes(piece, "big"))
            os.close(receive)
            spans, pieces_after, count = Spans(), [0], len(reports)
            for start, end in pieces(seed)[: count + 1]:
                spans.add(start, end)
                pieces_after.append(told(spans))
            assert reports == pieces_after[1 : count + 1]
            gathered = 0                        # perhaps, of the last pieces
            while count and (gathered := gathered + pieces(seed)[count - 1][1] - pieces(seed)[count - 1][0]) < BATCH:
                count -= 1
            assert ended(child(lambda: go_on(min(pieces_after[count:])))) == [0]
            os.unlink(f"{path}/blobs/sha256/{DESCRIPTOR.digest.encoded}")
        print(downloaded() > 5 * 1024 * 1024, files())
    """
    assert script(text, home) == "True []"
