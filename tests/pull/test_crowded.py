"""A registry that allows so many connections at a time: what is whole comes whole, whoever is refused on the way."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from artifacts import INDEX, MANIFEST, describe, sha256

from lading import Client, Host, HostsConfig, RegistryHosts, Retry
from lading.auth.credentials import StaticCredentials
from lading.errors import RegistryError
from lading.pull import parallel
from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Bandwidth

MIB = 1024 * 1024
KIB = 1024
REPOSITORY = "acme/image"
QUICK = Retry(attempts=2, first_delay=0.001, longest_delay=0.002)


@cache
def content_of(size: int, number: int = 0) -> bytes:
    return random.Random(f"{size}/{number}").randbytes(size)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, little patience with one connection, and whatever comes is taken for a gain."""
    monkeypatch.setattr(parallel, "PIECE", 256 * KIB)
    monkeypatch.setattr(parallel, "_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(parallel, "_WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(parallel, "_GAIN", 0.0)


class Narrow:
    """Lets a registry answer so many requests at a time, and refuses the others, as nginx does with ``limit_conn``."""

    def __init__(self, registry: EmbeddedRegistry, limit: int, *, drops: bool = False) -> None:
        self.limit = limit
        self.most = 0
        self.refused = 0
        self._drops = drops
        self._now = 0
        registry.intercept = self

    async def __call__(self, request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
        if self._now >= self.limit:
            self.refused += 1
            if self._drops and request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)
        self._now += 1
        self.most = max(self.most, self._now)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(self._left)
        return None

    def _left(self, _task: object) -> None:
        self._now -= 1


def put(registry: EmbeddedRegistry, *layers: bytes, tag: str | None = "v1") -> bytes:
    """Put an image into the registry, and give its manifest."""
    config = json.dumps({"layers": [sha256(layer) for layer in layers]}).encode()
    for blob in (config, *layers):
        registry.add_blob(REPOSITORY, blob)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
    }
    raw = json.dumps(document).encode()
    registry.add_manifest(REPOSITORY, raw, MANIFEST, tag=tag)
    return raw


@pytest.fixture
def slow(registry: EmbeddedRegistry) -> EmbeddedRegistry:
    """A registry that limits each connection, so that more of them are worth it."""
    registry.faults.add(Bandwidth(8 * MIB), on="GET blob", times=None)
    return registry


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with Client(tmp_path / "store", credentials=StaticCredentials({}), retry=QUICK) as client:
        yield client


async def pulled(client: Client, registry: EmbeddedRegistry, *layers: bytes) -> None:
    with anyio.fail_after(60):
        artifact = await client.pull(f"{registry.host}/{REPOSITORY}:v1")
    for blob, layer in zip(artifact.blobs[1:], layers, strict=True):
        assert await artifact.read(blob) == layer


@pytest.mark.parametrize("limit", [1, 2, 4, 10, 20])
async def test_eight_layers_through_so_many_connections(slow: EmbeddedRegistry, client: Client, limit: int) -> None:
    layers = tuple(content_of(2 * MIB, number) for number in range(8))
    put(slow, *layers)
    narrow = Narrow(slow, limit)
    await pulled(client, slow, *layers)
    assert narrow.most == limit or 8 < narrow.most < limit, "as many as are allowed, but not any number"
    assert narrow.refused <= 60, "nobody went on and on"


async def test_who_is_refused_may_be_cut_off(slow: EmbeddedRegistry, client: Client) -> None:
    layers = tuple(content_of(MIB, number) for number in range(8))
    put(slow, *layers)
    narrow = Narrow(slow, 3, drops=True)
    await pulled(client, slow, *layers)
    assert narrow.most == 3


async def test_many_layers_through_a_narrow_door(slow: EmbeddedRegistry, client: Client) -> None:
    layers = tuple(content_of(200 * KIB, number) for number in range(40))
    put(slow, *layers)
    narrow = Narrow(slow, 3)
    await pulled(client, slow, *layers)
    assert narrow.refused <= 60


async def test_what_is_small_gets_through_beside_what_is_large(slow: EmbeddedRegistry, client: Client) -> None:
    """Manifests and small layers are refused while two large layers hold the only connections."""
    children = []
    for number in range(4):
        layers = content_of(MIB, number), content_of(1000, number), content_of(2000, number)
        raw = put(slow, *layers, tag=None)
        children.append({**describe(MANIFEST, raw), "platform": {"os": "linux", "architecture": f"a{number}"}})
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    slow.add_manifest(REPOSITORY, raw, INDEX, tag="v1")
    narrow = Narrow(slow, 2)
    with anyio.fail_after(60):
        artifact = await client.pull(f"{slow.host}/{REPOSITORY}:v1", all_platforms=True)
    assert len(artifact.manifests) == 5
    assert len(artifact.blobs) == 16
    assert narrow.refused > 0


async def test_several_pulls_share_the_connections(slow: EmbeddedRegistry, client: Client) -> None:
    layers = tuple(content_of(MIB, number) for number in range(12))
    tags = [put(slow, *layers[start : start + 3], tag=f"v{start}") and f"v{start}" for start in range(0, 12, 3)]
    narrow = Narrow(slow, 2)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for tag in tags:
                # A moment apart: the first question of a pull has nothing to wait for.
                await client.manifest(f"{slow.host}/{REPOSITORY}:{tag}")
            narrow.limit = 4
            for tag in tags:
                group.start_soon(client.pull, f"{slow.host}/{REPOSITORY}:{tag}")
    assert narrow.most <= 4


async def test_a_registry_that_refuses_everybody_is_an_error_at_once(slow: EmbeddedRegistry, client: Client) -> None:
    layers = tuple(content_of(MIB, number) for number in range(8))
    put(slow, *layers)

    async def refuse(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return web.Response(status=503) if record.kind == "blob" else None

    slow.intercept = refuse
    with anyio.fail_after(20), pytest.raises(RegistryError, match="503"):
        await client.pull(f"{slow.host}/{REPOSITORY}:v1")
    assert slow.count("GET blob") <= 9 * QUICK.attempts * 2


async def test_concurrency_bounds_the_connections(slow: EmbeddedRegistry, tmp_path: Path) -> None:
    layers = tuple(content_of(4 * MIB, number) for number in range(2))
    put(slow, *layers)
    narrow = Narrow(slow, 100)
    async with Client(tmp_path, credentials=StaticCredentials({}), concurrency=1) as client:
        await pulled(client, slow, *layers)
    assert 2 <= narrow.most <= 6, "four, and what was just let go"


async def test_a_mirror_that_refuses_more_connections_isnt_left_alone(
    registry: EmbeddedRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedRegistry() as mirror:
        mirror.faults.add(Bandwidth(4 * MIB), on="GET blob", times=None)
        layer = content_of(3 * MIB)
        for one in (registry, mirror):
            put(one, layer)
        narrow = Narrow(mirror, 1)
        known = RegistryHosts(Host(registry.url), (Host(mirror.url, ["pull", "resolve"]),))
        hosts = HostsConfig({registry.host: known})
        # The config comes first, alone: otherwise the layer may be the one that is refused.
        async with Client(tmp_path, credentials=StaticCredentials({}), hosts=hosts, concurrency=1) as client:
            narrow.limit = 2
            await client.manifest(f"{registry.host}/{REPOSITORY}:v1")
            async with anyio.create_task_group() as group:
                group.start_soon(pulled, client, registry, layer)
                with anyio.fail_after(20):
                    while not mirror.bytes_sent:  # noqa: ASYNC110
                        await anyio.sleep(0.001)
                narrow.limit = 1
        assert narrow.refused > 0, "or this tests nothing"
        assert registry.count("GET blob") == 0
        assert caplog.messages == []
