"""A store that loses what it was given: repaired by exactly one more pull, and told when that doesn't help."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import publish

from lading import Client, MemoryStore, Reference
from lading.auth.credentials import StaticCredentials
from lading.errors import OutOfSpace, StoreCorrupted, StoreError, StoreReadOnly
from lading.oci.digest import Digest
from lading.store.store import Absent, Changes, Corrupt, Record
from lading.testing import EmbeddedRegistry

YAML = b"agents:\n  root: {}\n"
PULL = ["GET manifest", "GET blob"]

Damage = Callable[[MemoryStore], None]


class Forgetful(MemoryStore):
    """Suffers ``damage`` right after each of the first ``times`` commits that bring content."""

    def __init__(self, damage: Damage, times: int) -> None:
        super().__init__()
        self._damage = damage
        self._times = times

    async def commit(self, changes: Changes) -> None:
        await super().commit(changes)
        if changes.content and self._times:
            self._times -= 1
            self._damage(self)


def lose_a_blob(store: MemoryStore) -> None:
    del store._content[Digest.of(YAML)]


def lose_a_row(store: MemoryStore) -> None:
    store._references.clear()


def lose_the_index(store: MemoryStore) -> None:
    store._references.clear()
    store._seen.clear()
    store._content.clear()


def flip_a_bit(store: MemoryStore) -> None:
    digest = Digest.of(YAML)
    store._content[digest] = bytes([YAML[0] ^ 1]) + YAML[1:]


class Unreadable(MemoryStore):
    """Refuses to read at all after the first ``times`` commits."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times
        self._broken = False

    async def commit(self, changes: Changes) -> None:
        await super().commit(changes)
        self._broken = self._times > 0
        self._times -= 1

    def resolve(self, reference: Reference) -> Record | Absent | Corrupt:
        if self._broken:
            raise StoreError("the disk is gone")
        return super().resolve(reference)


LOSSES = [lose_a_blob, lose_a_row, lose_the_index, flip_a_bit]


@pytest.mark.parametrize("damage", LOSSES)
async def test_a_loss_is_repaired_by_exactly_one_more_pull(registry: EmbeddedRegistry, damage: Damage) -> None:
    publish(registry, YAML)
    async with Client(Forgetful(damage, times=1)) as client:
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert (agent.content, agent.origin) == (YAML, "registry")
        assert registry.summary() == PULL * 2
        registry.clear_requests()
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).origin == "revalidated"
        assert registry.summary() == ["HEAD manifest"]


@pytest.mark.parametrize("damage", LOSSES)
async def test_a_second_loss_is_an_error(registry: EmbeddedRegistry, damage: Damage) -> None:
    publish(registry, YAML)
    async with Client(Forgetful(damage, times=2)) as client:
        with pytest.raises(StoreCorrupted, match="acme/triage:v1"):
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert registry.summary() == PULL * 2


async def test_a_store_that_cant_be_read_back_is_repaired_or_told(registry: EmbeddedRegistry) -> None:
    publish(registry, YAML)
    async with Client(Unreadable(times=1)) as client:
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML
        assert registry.summary() == PULL * 2
    async with Client(Unreadable(times=2)) as client:
        with pytest.raises(StoreCorrupted):
            await client.pull_agent(f"{registry.host}/acme/triage:v1")


class Unwritable(MemoryStore):
    def __init__(self, error: StoreError) -> None:
        super().__init__()
        self._error = error

    async def commit(self, changes: Changes) -> None:
        raise self._error


@pytest.mark.parametrize("error", [StoreReadOnly("read-only"), OutOfSpace("disk full"), StoreError("no")])
async def test_a_store_that_cant_be_written_doesnt_stop_a_verified_agent(
    registry: EmbeddedRegistry, caplog: pytest.LogCaptureFixture, error: StoreError
) -> None:
    publish(registry, YAML)
    async with Client(Unwritable(error)) as client:
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert (agent.content, agent.origin) == (YAML, "registry")
    assert registry.summary() == PULL
    assert error.message in caplog.text


# The same on disk: what happens to the files between two processes.


def _only_index(home: Path) -> Path:
    (index,) = home.glob("index-*.db")
    return index


def remove_index(home: Path) -> None:
    os.unlink(_only_index(home))


def garble_index(home: Path) -> None:
    _only_index(home).write_bytes(b"not a database" * 1000)


def empty_index(home: Path) -> None:
    _only_index(home).write_bytes(b"")


@pytest.mark.parametrize("damage", [remove_index, garble_index, empty_index])
@pytest.mark.parametrize("size", [20, 300_000], ids=["small", "large"])
async def test_a_damaged_directory_is_cold_and_heals(
    registry: EmbeddedRegistry, tmp_path: Path, damage: Callable[[Path], None], size: int
) -> None:
    content = b"#" * size
    publish(registry, content)
    ref = f"{registry.host}/acme/triage:v1"
    async with Client(tmp_path) as client:
        await client.pull_agent(ref)
    damage(tmp_path)
    registry.clear_requests()
    async with Client(tmp_path) as client:
        assert client.cached(ref, max_age=3600) is None
        assert (await client.pull_agent(ref)).content == content
        # What is large is a file of its own: it is still there, and the registry is asked whether it has it.
        assert registry.summary() == (PULL if size == 20 else ["GET manifest", "HEAD blob"])
    async with Client(tmp_path) as client:
        assert (await client.pull_agent(ref)).origin == "revalidated"


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "short", "flipped"])
async def test_a_damaged_blob_is_found_before_it_is_served(
    registry: EmbeddedRegistry, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = b"#" * 300_000
    digest = publish(registry, content)
    ref = f"{registry.host}/acme/triage@{digest}"
    async with Client(tmp_path) as client:
        await client.pull_agent(ref)
    blob = tmp_path / "blobs" / "sha256" / Digest.of(content).encoded
    blob.chmod(0o600)
    match damage:
        case "missing":
            blob.unlink()
        case "empty":
            blob.write_bytes(b"")
        case "half":
            blob.write_bytes(content[:150_000])
        case "short":
            blob.write_bytes(content[:-1])
        case "flipped":
            blob.write_bytes(content[:-1] + b"$")
    async with Client(tmp_path, offline=True) as client:
        with pytest.raises(StoreCorrupted, match="damaged"):
            await client.pull_agent(ref)
    registry.clear_requests()
    async with Client(tmp_path, credentials=StaticCredentials({})) as client:
        assert client.cached(ref) is None
        assert (await client.pull_agent(ref)).content == content
    assert registry.summary() == PULL
    async with Client(tmp_path) as client:
        pinned = client.cached(ref)
        assert pinned is not None
        assert pinned.content == content


async def test_an_index_that_vanishes_under_an_open_client_is_noticed(
    registry: EmbeddedRegistry, tmp_path: Path
) -> None:
    publish(registry, YAML)
    publish(registry, YAML, tag="v2")
    async with Client(tmp_path) as client:
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        remove_index(tmp_path)
        await client.pull_agent(f"{registry.host}/acme/triage:v2")
    async with Client(tmp_path) as client:
        assert client.cached(f"{registry.host}/acme/triage:v2", max_age=3600) is not None
