"""Copying from and to docker-registry; skopeo says what is there then."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from artifacts import INDEX, MANIFEST, describe
from peer_programs import DockerRegistry, Lading, program, running_docker_registry

from lading import Client, MemoryStore, Store
from lading.testing import EmbeddedRegistry

LARGE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(65_536))
"""2 MiB."""

SMALL = b"small"


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture(scope="module")
def other_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with running_docker_registry(tmp_path_factory.mktemp("other-registry")) as registry:
        yield registry


def image(registry: EmbeddedRegistry, *layers: bytes, architecture: str = "amd64", **fields: Any) -> bytes:
    config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
    for blob in (config.encode(), *layers):
        registry.add_blob("acme/app", blob)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", config.encode()),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
        **fields,
    }
    raw = json.dumps(document).encode()
    registry.add_manifest("acme/app", raw, MANIFEST)
    return raw


def multi(registry: EmbeddedRegistry, tag: str) -> bytes:
    """Put an index of two images into ``registry``."""
    children = [
        describe(
            MANIFEST,
            image(registry, LARGE, name.encode(), architecture=name),
            platform={"os": "linux", "architecture": name},
        )
        for name in ("amd64", "arm64")
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    registry.add_manifest("acme/app", raw, INDEX, tag)
    return raw


async def run(*command: str) -> bytes:
    return (await anyio.run_process(command, stderr=None)).stdout


async def raw_of(reference: str) -> bytes:
    """What skopeo says that a reference stands for."""
    return await run(program("skopeo"), "inspect", "--raw", "--tls-verify=false", f"docker://{reference}")


async def skopeo_copy(source: str, target: str, *options: str) -> None:
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    await run(program("skopeo"), "--insecure-policy", "copy", "--quiet", *insecure, *options, source, target)


def asked(registry: DockerRegistry, before: int) -> Counter[tuple[str, str, int]]:
    """Method, kind and status of each request since there were ``before``."""
    found = registry.requests()[before:]
    return Counter(
        (method, "uploads" if "/blobs/uploads/" in path else path.split("/")[-2], status)
        for method, path, status in found
    )


async def test_to_docker_registry_from_it_and_within_it(
    registry: EmbeddedRegistry,
    client: Client,
    docker_registry: DockerRegistry,
    other_registry: DockerRegistry,
    tmp_path: Path,
) -> None:
    raw = multi(registry, "v1")
    first, second = f"{docker_registry.host}/copy/app:v1", f"{other_registry.host}/copy/app:v1"
    beside = f"{docker_registry.host}/copy/beside:v1"

    before = len(docker_registry.requests())
    await client.copy(f"{registry.host}/acme/app:v1", first)
    assert asked(docker_registry, before) == {
        ("HEAD", "manifests", 404): 4,
        ("HEAD", "blobs", 404): 5,
        ("POST", "uploads", 202): 5,
        ("PUT", "uploads", 201): 5,
        ("PUT", "manifests", 201): 3,
    }
    assert await raw_of(first) == raw

    before = len(other_registry.requests())
    read = len(docker_registry.requests())
    await client.copy(first, second)
    assert asked(docker_registry, read) == {
        ("HEAD", "manifests", 200): 1,
        ("GET", "manifests", 200): 3,
        ("GET", "blobs", 200): 5,
    }
    assert asked(other_registry, before)[("PUT", "uploads", 201)] == 5
    assert await raw_of(second) == raw

    before = len(docker_registry.requests())
    copied = await client.copy(first, beside)
    found = asked(docker_registry, before)
    assert (found[("POST", "uploads", 201)], found[("PUT", "uploads", 201)]) == (5, 0)
    assert (len(copied.mounted), copied.sent) == (5, 0)
    assert await raw_of(beside) == raw

    before, read = len(other_registry.requests()), len(docker_registry.requests())
    await client.copy(first, second)
    assert asked(docker_registry, read) == {("HEAD", "manifests", 200): 1}
    assert asked(other_registry, before) == {("HEAD", "manifests", 200): 1}

    # Everything below is there, too.
    await skopeo_copy(f"docker://{second}", f"oci:{tmp_path / 'layout'}:v1", "--all", "--preserve-digests")
    assert (tmp_path / "layout" / "blobs" / "sha256" / hashlib.sha256(LARGE).hexdigest()).read_bytes() == LARGE


async def test_what_skopeo_pushed_as_docker_images(
    client: Client, docker_registry: DockerRegistry, registry: EmbeddedRegistry
) -> None:
    registry.add_manifest("acme/app", image(registry, SMALL), MANIFEST, "v1")
    pushed = f"docker://{docker_registry.host}/copy/v2s2:v1"
    await skopeo_copy(f"docker://{registry.host}/acme/app:v1", pushed, "--format", "v2s2")
    await client.copy(f"{docker_registry.host}/copy/v2s2:v1", f"{docker_registry.host}/copy/v2s2-too:v1")
    raw = await raw_of(f"{docker_registry.host}/copy/v2s2-too:v1")
    assert raw == await raw_of(f"{docker_registry.host}/copy/v2s2:v1")
    assert json.loads(raw)["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


async def test_signatures_are_found_though_docker_registry_knows_nothing_of_them(
    registry: EmbeddedRegistry, client: Client, docker_registry: DockerRegistry, other_registry: DockerRegistry
) -> None:
    signed = image(registry, SMALL)
    registry.add_manifest("acme/app", signed, MANIFEST, "v1")
    signature = image(registry, b"signature", artifactType="application/x", subject=describe(MANIFEST, signed))
    first, second = f"{docker_registry.host}/copy/signed:v1", f"{other_registry.host}/copy/signed:v1"
    await client.copy(f"{registry.host}/acme/app:v1", first, referrers=True)
    await client.copy(first, second, referrers=True)
    for reference in (first, second):
        found = [one async for one in client.referrers(reference, "application/x")]
        assert [str(one.digest) for one in found] == [f"sha256:{hashlib.sha256(signature).hexdigest()}"]
        listed = await raw_of(f"{reference.rpartition(':')[0]}:sha256-{hashlib.sha256(signed).hexdigest()}")
        assert len(json.loads(listed)["manifests"]) == 1
    before = len(other_registry.requests())
    await client.copy(first, second, referrers=True)
    assert {method for method, _, _ in asked(other_registry, before)} == {"HEAD", "GET"}


_MEASURED = """
import asyncio, re, sys
from lading import Client, MemoryStore

def peak():
    return int(re.search("VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])

async def main(source, target):
    async with Client(MemoryStore()) as client:
        await client.copy(f"{source}:small", f"{target}:small")
        before = peak()
        copied = await client.copy(f"{source}:large", f"{target}:large")
        assert copied.sent > 8 * 64 * 1024 * 1024
        print(peak() - before)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
async def test_eight_large_blobs_at_once_in_little_memory(
    registry: EmbeddedRegistry,
    client: Client,
    docker_registry: DockerRegistry,
    other_registry: DockerRegistry,
    measured: Callable[[str, str], None],
) -> None:
    source, target = f"{docker_registry.host}/copy/memory", f"{other_registry.host}/copy/memory"
    registry.add_manifest("acme/app", image(registry, SMALL, bytes(500_000)), MANIFEST, "small")
    large = [bytes([number]) + LARGE * 32 for number in range(8)]
    registry.add_manifest("acme/app", image(registry, *large), MANIFEST, "large")
    for tag in ("small", "large"):
        await client.copy(f"{registry.host}/acme/app:{tag}", f"{source}:{tag}")
    grown = int(await run(sys.executable, "-c", _MEASURED, source, target))
    measured("memory that a copy of 8 blobs of 64 MiB at once needs more than a small one", f"{grown / 1024:.1f} MiB")
    assert grown < 8 * 8 * 1024, "kB"


def test_the_command(docker_registry: DockerRegistry, other_registry: DockerRegistry, lading: Lading) -> None:
    source, target = f"{docker_registry.host}/copy/agent:v1", f"{other_registry.host}/copy/agent:v1"
    pushed = lading("push", "-", source, stdin=b"agents: {root: {}}\n").decode().strip()
    copied = lading("copy", source, target).decode().strip()
    assert copied.rpartition("@")[2] == pushed.rpartition("@")[2]
    assert lading("cat", target, store="other") == b"agents: {root: {}}\n"
