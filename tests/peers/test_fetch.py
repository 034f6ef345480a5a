"""Whole images from a real registry, where skopeo put them, counted in the registry's own access log."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from peer_programs import DockerRegistry, Lading, Skopeo, program

from lading import Client, LocalStore, Store
from lading.oci.digest import Digest
from lading.oci.platform import Platform
from lading.pull.artifact import Artifact

MIB = 1024 * 1024
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
HOST = Platform.host()


@cache
def content_of(size: int, number: int = 0) -> bytes:
    return random.Random(f"{size}/{number}").randbytes(size)


class Layout:
    """An OCI image layout on disk (image-spec, image-layout.md)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._tags: list[dict[str, Any]] = []

    def add(self, content: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
        encoded = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs" / "sha256" / encoded).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(content), **fields}

    def image(self, *layers: bytes, **fields: Any) -> dict[str, Any]:
        config = {
            "architecture": HOST.architecture,
            "os": HOST.os,
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
            },
        }
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self.add(gzip.compress(layer, 0, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
                for layer in layers
            ],
        }
        return self.add(json.dumps(document).encode(), MANIFEST, **fields)

    def index(self, *children: dict[str, Any]) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children)}
        return self.add(json.dumps(document).encode(), INDEX)

    def tag(self, described: dict[str, Any], name: str) -> None:
        self._tags.append({**described, "annotations": {"org.opencontainers.image.ref.name": name}})
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._tags}))

    def blob(self, digest: Digest) -> bytes:
        return (self.directory / "blobs" / "sha256" / digest.encoded).read_bytes()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def copy_all(source: str, target: str) -> None:
    """Let skopeo copy every image of an index."""
    options = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"]
    command = [program("skopeo"), "--insecure-policy", "copy", "--quiet", *options, source, target]
    subprocess.run(command, check=True)


async def assert_as_in(layout: Layout, store: Store, artifact: Artifact) -> None:
    for one in artifact.blobs + artifact.manifests:
        assert await artifact.read(one) == layout.blob(one.digest)


def blobs_asked(docker_registry: DockerRegistry, repository: str) -> Counter[str]:
    return Counter(
        path.rpartition("/")[2]
        for method, path, _ in docker_registry.requests()
        if method == "GET" and f"/{repository}/blobs/" in path
    )


async def test_an_image_that_skopeo_put_there(
    docker_registry: DockerRegistry, skopeo: Skopeo, layout: Layout, tmp_path: Path
) -> None:
    layers = content_of(5 * MIB), content_of(3 * MIB), b"small", content_of(300_000)
    layout.tag(layout.image(*layers), "v1")
    skopeo.copy(f"oci:{layout.directory}:v1", f"docker://{docker_registry.host}/fetch/image:v1")
    store = LocalStore(tmp_path / "store")
    async with Client(store) as client:
        artifact = await client.pull(f"{docker_registry.host}/fetch/image:v1")
        assert len(artifact.blobs) == 5
        await assert_as_in(layout, store, artifact)
        asked = blobs_asked(docker_registry, "fetch/image")
        assert asked == Counter({str(one.digest): 1 for one in artifact.blobs})
        before = len(docker_registry.requests())
        await client.pull(f"{docker_registry.host}/fetch/image:v1")
        await client.pull(artifact.reference.at(artifact.descriptor.digest))
    after = docker_registry.requests()[before:]
    assert [(method, path.rpartition("/")[2]) for method, path, _ in after] == [("HEAD", "v1")]
    await store.aclose()


async def test_an_index_that_skopeo_put_there(docker_registry: DockerRegistry, layout: Layout, tmp_path: Path) -> None:
    mine = layout.image(content_of(2 * MIB), platform=HOST.to_json())
    other = layout.image(content_of(2 * MIB, 1), platform={"os": "linux", "architecture": "s390x"})
    layout.tag(layout.index(other, mine), "v1")
    copy_all(f"oci:{layout.directory}:v1", f"docker://{docker_registry.host}/fetch/index:v1")
    store = LocalStore(tmp_path / "store")
    async with Client(store) as client:
        ref = f"{docker_registry.host}/fetch/index:v1"
        artifact = await client.pull(ref)
        assert [str(one.digest) for one in artifact.manifests[1:]] == [mine["digest"]]
        await assert_as_in(layout, store, artifact)
        every = await client.pull(ref, all_platforms=True)
        assert [str(one.digest) for one in every.manifests[1:]] == [other["digest"], mine["digest"]]
        await assert_as_in(layout, store, every)
    await store.aclose()


async def test_a_blob_of_two_repositories_comes_once(
    docker_registry: DockerRegistry, skopeo: Skopeo, layout: Layout, tmp_path: Path
) -> None:
    layout.tag(layout.image(content_of(4 * MIB)), "v1")
    for name in ("fetch/first", "fetch/second"):
        skopeo.copy(f"oci:{layout.directory}:v1", f"docker://{docker_registry.host}/{name}:v1")
    async with Client(tmp_path / "store") as client:
        artifact = await client.pull(f"{docker_registry.host}/fetch/first:v1")
        await client.pull(f"{docker_registry.host}/fetch/second:v1")
    large = str(artifact.blobs[1].digest)
    assert blobs_asked(docker_registry, "fetch/first")[large] == 1
    assert blobs_asked(docker_registry, "fetch/second")[large] == 0


async def test_a_stream(docker_registry: DockerRegistry, skopeo: Skopeo, layout: Layout, tmp_path: Path) -> None:
    layout.tag(layout.image(content_of(5 * MIB)), "v1")
    ref = f"{docker_registry.host}/fetch/stream:v1"
    skopeo.copy(f"oci:{layout.directory}:v1", f"docker://{ref}")
    async with Client(tmp_path / "store") as client:
        manifest = await client.manifest(ref)
        layer = manifest.layers[0].digest  # type: ignore[union-attr]
        async with client.stream_blob(ref, layer) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == layout.blob(layer)


def test_the_command_goes_on_after_a_kill(
    docker_registry: DockerRegistry,
    skopeo: Skopeo,
    layout: Layout,
    lading: Lading,
    tmp_path: Path,
    measured: Callable[[str, str], None],
) -> None:
    """docker-registry doesn't count its bytes: what went on shows in the ranges that it answered with 206."""
    layers = content_of(48 * MIB), content_of(48 * MIB, 1)
    layout.tag(layout.image(*layers), "v1")
    ref = f"{docker_registry.host}/fetch/killed:v1"
    skopeo.copy(f"oci:{layout.directory}:v1", f"docker://{ref}")
    ingest = tmp_path / "store" / "ingest"
    environment = {**os.environ, "HOME": str(tmp_path), "LADING_HOME": str(tmp_path / "store")}
    with subprocess.Popen([sys.executable, "-m", "lading", "fetch", ref], env=environment) as process:
        while process.poll() is None and sum(one.stat().st_blocks * 512 for one in ingest.glob("*.part")) < 6 * MIB:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    fields = json.loads(lading("fetch", ref, "--json"))
    assert [blob["digest"] for blob in fields["blobs"][1:]] == [
        "sha256:" + hashlib.sha256(gzip.compress(layer, 0, mtime=0)).hexdigest() for layer in layers
    ]
    if process.returncode == -signal.SIGKILL:
        statuses = [status for method, path, status in docker_registry.requests() if "/fetch/killed/blobs/" in path]
        assert 206 in statuses or fields["fetched"] < sum(map(len, layers))
        measured("docker-registry, 96 MiB, killed -9 after 6 MiB", f"{fields['fetched']} bytes were left to fetch")
