"""The large layer of an agent: fetched once by all that share a store, and never taken from another repository."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from artifacts import manifest, publish, sha256

from lading import Client, MemoryStore
from lading.auth.credentials import StaticCredentials
from lading.errors import NotFound, OutOfSpace
from lading.http.retry import Retry
from lading.oci.descriptor import Descriptor
from lading.store.work import Ingest
from lading.testing import EmbeddedRegistry
from lading.testing.faults import Latency

LARGE = b"large: yes\n# " + b"x" * 300_000 + b"\n"


def client_of(store: MemoryStore | Path) -> Client:
    return Client(store, credentials=StaticCredentials({}), proxy=None, retry=Retry(attempts=1))


async def test_clients_that_share_a_directory_fetch_it_once(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    publish(registry, LARGE)
    registry.faults.add(Latency(0.1), on="GET blob", times=None)
    contents = []

    async def pull() -> None:
        async with client_of(tmp_path / "store") as client:
            contents.append((await client.pull_agent(f"{registry.host}/acme/triage:v1", fallback="never")).content)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(pull)
    assert contents == [LARGE] * 4
    assert registry.summary().count("GET blob") == 1
    assert os.listdir(tmp_path / "store" / "ingest") == []


async def test_an_artifact_and_an_agent_that_share_a_layer_dont_wait_for_each_other(
    registry: EmbeddedRegistry, tmp_path: Path
) -> None:
    repositories = [f"acme/shared{number}" for number in range(8)]
    for repository in repositories:
        publish(registry, LARGE, repository)
    async with Client(tmp_path / "store", credentials=StaticCredentials({}), proxy=None, concurrency=1) as client:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for number, repository in enumerate(repositories):
                    pull = client.pull if number % 2 else client.pull_agent
                    group.start_soon(pull, f"{registry.host}/{repository}:v1")
    assert registry.summary().count("GET blob") == 1 + 4, "one layer, and the small config of each artifact"


async def test_what_another_repository_brought_has_to_be_proved(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    publish(registry, LARGE, "acme/private")
    publish(registry, LARGE, "acme/triage")
    registry.add_manifest("acme/stranger", manifest(LARGE), "application/vnd.oci.image.manifest.v1+json", tag="v1")
    async with client_of(tmp_path / "store") as client:
        await client.pull_agent(f"{registry.host}/acme/private:v1")
        registry.clear_requests()
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == LARGE
        assert registry.summary() == ["GET manifest", "HEAD blob"]
        with pytest.raises(NotFound, match=sha256(LARGE)):
            await client.pull_agent(f"{registry.host}/acme/stranger:v1")
        assert client.cached(f"{registry.host}/acme/stranger:v1", max_age=3600) is None


class Full(MemoryStore):
    """A store that takes nothing."""

    def ingest(self, descriptor: Descriptor) -> Ingest:
        raise OutOfSpace("there is no space")


async def test_a_store_that_cant_take_it_is_no_reason_to_fail(registry: EmbeddedRegistry) -> None:
    publish(registry, LARGE)
    async with client_of(Full()) as client:
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == LARGE
    assert registry.summary() == ["GET manifest", "GET blob"]
