"""A disk that is full or fails: a clear error, nothing half done, and what was committed is served on."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from store.cargo import NOON, Agent, agent, blob, take
from store.conftest import Mounts, descriptors

from lading.errors import OutOfSpace, StoreError, StoreReadOnly
from lading.oci.digest import Digest
from lading.store import index
from lading.store.local import LocalStore
from lading.store.store import ABSENT, INLINE_LIMIT, Changes, Intact

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"


@pytest.fixture
async def small(tmp_path: Path, mounts: Mounts) -> AsyncIterator[LocalStore]:
    """A store on a disk of 4 MiB."""
    store = LocalStore(mounts.disk(tmp_path / "disk", "4m") / "store")
    yield store
    await store.aclose()


def fill(store: LocalStore, left: int) -> Path:
    """Leave ``left`` bytes on the disk of ``store``; gives the file to delete."""
    path = Path(store.path).parent / "filler"
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(path, max(0, path.stat().st_size // 4096 * 4096 - left))
    return path


async def test_a_blob_that_does_not_fit(small: LocalStore) -> None:
    one, content = agent(), blob(8 * MIB)
    await small.commit(one.changes())
    before = descriptors()
    with pytest.raises(OutOfSpace, match=rf"{small.path}.*[0-9]+ bytes are needed.*LADING_HOME"):
        await take(small, content)
    assert descriptors() == before
    assert os.listdir(os.path.join(small.path, "ingest")) == []
    assert small.read(IMAGE, Digest.of(content)) is ABSENT
    assert one.is_in(small)
    await take(small, content[: 2 * MIB])
    assert small.read(IMAGE, Digest.of(content[: 2 * MIB])) == Intact(content[: 2 * MIB])


async def test_large_content_that_does_not_fit(small: LocalStore) -> None:
    one, large = agent(), agent(1, size=8 * MIB)
    await small.commit(one.changes())
    with pytest.raises(OutOfSpace, match=rf"{small.path}.*bytes are needed"):
        await small.commit(large.changes())
    assert os.listdir(os.path.join(small.path, "ingest")) == []
    assert one.is_in(small)
    assert small.resolve(large.reference) is ABSENT


async def test_commits_until_the_disk_is_full(small: LocalStore) -> None:
    committed: list[Agent] = []

    async def commit_all() -> None:
        for number in range(1000):
            one = agent(number, size=50_000)
            await small.commit(one.changes())
            committed.append(one)

    with pytest.raises(OutOfSpace, match=small.path):
        await commit_all()
    assert len(committed) > 10
    lost = agent(len(committed), size=50_000)
    for _ in range(2):
        assert small.resolve(lost.reference) is ABSENT
        assert small.read(lost.name, lost.layer_digest) is ABSENT
        assert all(one.is_in(small) for one in committed)
        with pytest.raises(OutOfSpace):
            await small.commit(agent(2000, size=INLINE_LIMIT).changes())
    another = LocalStore(small.path)
    assert all(one.is_in(another) for one in committed)
    await another.aclose()


@pytest.mark.parametrize("left", [0, 4096, 16384, 32768, 65536, 131072])
async def test_a_store_on_a_full_disk_is_read_and_goes_on_when_there_is_space(small: LocalStore, left: int) -> None:
    for number in range(5):
        await small.commit(agent(number).changes())
    filler = fill(small, left)
    results = []
    for number in range(5, 15):
        try:
            await small.commit(agent(number, size=20_000).changes())
            results.append(agent(number, size=20_000))
        except OutOfSpace:
            assert small.resolve(agent(number).reference) is ABSENT
    path = small.path
    await small.aclose()

    opened = LocalStore(path)
    everything = [*(agent(number) for number in range(5)), *results]
    assert all(one.is_in(opened) for one in everything)
    with suppress(OutOfSpace):
        await opened.commit(agent(5).changes())
        everything.append(agent(5))
    assert all(one.is_in(opened) for one in everything)
    filler.unlink()
    await opened.commit(agent(99).changes())
    assert all(one.is_in(opened) for one in [*everything, agent(99)])
    await opened.aclose()


async def test_a_store_can_not_begin_on_a_full_disk(small: LocalStore) -> None:
    filler = fill(small, 0)
    with pytest.raises(OutOfSpace, match=small.path):
        await small.commit(agent().changes())
    with pytest.raises(OutOfSpace, match=small.path):
        await take(small, blob(MIB))
    assert small.resolve(agent().reference) is ABSENT
    filler.unlink()
    await small.commit(agent().changes())
    assert agent().is_in(small)


async def test_what_fits_of_a_group_is_committed(small: LocalStore) -> None:
    await small.commit(agent(0).changes())
    fill(small, 300_000)
    outcomes: dict[int, bool] = {}

    async def commit(number: int, size: int) -> None:
        try:
            await small.commit(agent(number, size=size).changes())
            outcomes[number] = True
        except OutOfSpace:
            outcomes[number] = False

    async with anyio.create_task_group() as group:
        for number, size in enumerate([100, INLINE_LIMIT, INLINE_LIMIT, INLINE_LIMIT, INLINE_LIMIT, 100], start=1):
            group.start_soon(commit, number, size)
    assert outcomes[1]
    assert not all(outcomes.values())
    for number, size in enumerate([100, INLINE_LIMIT, INLINE_LIMIT, INLINE_LIMIT, INLINE_LIMIT, 100], start=1):
        assert agent(number, size=size).is_in(small) == outcomes[number]


# Every call that a disk can refuse

REFUSALS = [
    (errno.ENOSPC, OutOfSpace),
    (errno.EDQUOT, OutOfSpace),
    (errno.EROFS, StoreReadOnly),
    (errno.EACCES, StoreReadOnly),
    (errno.EPERM, StoreReadOnly),
    (errno.EIO, StoreError),
    (errno.EMFILE, StoreError),
]
CALLS = ["open", "write", "fchmod", "fsync", "replace", "mkdir", "link"]


class Refusing:
    """Lets the call number ``at`` of ``function`` fail with ``code``, and those after it."""

    def __init__(self, function: Callable[..., Any], code: int, at: int) -> None:
        self._function = function
        self._code = code
        self._left = at
        self.has_refused = False

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            self.has_refused = True
            raise OSError(self._code, os.strerror(self._code))
        return self._function(*arguments, **options)


@pytest.mark.parametrize(("code", "kind"), REFUSALS, ids=[errno.errorcode[code] for code, _ in REFUSALS])
@pytest.mark.parametrize("call", CALLS)
async def test_every_refusal_is_told_and_undone(
    home: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type[StoreError]
) -> None:
    content, large = blob(2 * MIB + 1), agent(1, size=INLINE_LIMIT + 1)
    attempts: dict[str, Callable[[LocalStore], Any]] = {
        "small": lambda store: store.commit(agent(0).changes()),
        "large": lambda store: store.commit(large.changes()),
        "blob": lambda store: take(store, content),
    }
    refused = 0
    for name, attempt in attempts.items():
        for at in range(20):
            directory = home / call / f"{name}{at}"
            store = LocalStore(directory)
            before = descriptors()
            with monkeypatch.context() as patch:
                refusing = Refusing(getattr(os, call), code, at)
                patch.setattr(os, call, refusing)
                try:
                    await attempt(store)
                except StoreError as error:
                    assert type(error) is kind  # noqa: PT017
                    assert str(directory.parent) in str(error)  # noqa: PT017
                    assert (kind is StoreError) == (not error.hint)  # noqa: PT017
            assert not (directory / "ingest").exists() or os.listdir(directory / "ingest") == []
            await attempt(store)
            await store.commit(agent(2).changes())
            assert agent(2).is_in(store)
            await store.aclose()
            assert descriptors() == before
            if not refusing.has_refused:
                break
            refused += 1
        else:
            pytest.fail("there is no end to the calls")
    assert refused


async def test_a_store_of_an_older_format_is_read_where_nothing_fits(small: LocalStore) -> None:
    one = agent()
    await small.commit(one.changes())
    await small.aclose()
    with closing(index.connect(os.path.join(small.path, "index-1.db"), "mode=rw")) as connection:
        connection.execute("DROP TABLE note")
        connection.execute("PRAGMA user_version=1")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    filler = fill(small, 0)
    store = LocalStore(small.path)
    assert one.is_in(store)
    assert store.recall("kind", "key") is None
    with pytest.raises(OutOfSpace):
        await store.commit(Changes(NOON, notes=(("kind", "key", "value"),), durable=False))
    assert one.is_in(store)
    filler.unlink()
    await store.commit(Changes(NOON, notes=(("kind", "key", "value"),), durable=False))
    assert store.recall("kind", "key") == "value"
    assert one.is_in(store)
    await store.aclose()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("left", [65_536, *range(299_008, 385_024, 12_288)])
async def test_a_damaged_index_is_repaired_whole_or_not_at_all(small: LocalStore, left: int) -> None:
    """A disk that refuses while rows are salvaged costs none of them: they are there when there is space."""
    agents = [agent(number, size=5_000) for number in range(10)]
    for one in agents:
        await small.commit(one.changes())
    await small.aclose()
    with closing(index.connect(os.path.join(small.path, "index-1.db"), "mode=rw")) as connection:
        connection.execute("UPDATE reference SET digest = '' WHERE name = ?", (str(agents[0].reference),))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    filler = fill(small, left)
    store = LocalStore(small.path)
    for one in agents:
        store.resolve(one.reference)
    with suppress(OutOfSpace):
        await store.commit(agent(50).changes())
    filler.unlink()
    await store.commit(agent(51).changes())
    await store.aclose()
    opened = LocalStore(small.path)
    assert all(one.is_in(opened) for one in [*agents[1:], agent(51)])
    assert os.listdir(os.path.join(small.path, "ingest")) == []
    await opened.aclose()
