"""Independent clients push to the embedded registry and pull from it; each byte comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artifacts import MANIFEST, describe, sha256
from peer_programs import Skopeo

from lading.testing import DirectoryContent, ThreadedRegistry

LAYERS = [b"first layer\n" * 1000, b"second layer\n" * 200_000]


@pytest.fixture(params=["memory", "directory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, oci_registry_factory: Any) -> ThreadedRegistry:
    content = None if request.param == "memory" else DirectoryContent(tmp_path / "registry")
    registry: ThreadedRegistry = oci_registry_factory(content=content)
    return registry


def test_skopeo(registry: ThreadedRegistry, oci_registry_factory: Any, tmp_path: Path) -> None:
    skopeo = Skopeo()
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    layer = "application/vnd.oci.image.layer.v1.tar"
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe("application/vnd.oci.image.config.v1+json", config),
            "layers": [describe(layer, data) for data in LAYERS],
        }
    ).encode()
    for data in (config, *LAYERS):
        registry.add_blob("acme/image", data)
    digest = registry.add_manifest("acme/image", raw, MANIFEST, "v1")

    skopeo.copy(f"docker://{registry.host}/acme/image:v1", f"oci:{tmp_path / 'layout'}:v1")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    assert kept == {sha256(data).removeprefix("sha256:"): data for data in (raw, config, *LAYERS)}
    assert registry.count("GET blob") == 3

    other = oci_registry_factory()  # where skopeo has nothing to mount from
    skopeo.copy(f"oci:{tmp_path / 'layout'}:v1", f"docker://{other.host}/acme/back:v2")
    assert other.count("PUT upload") == 3
    assert other.count("PUT manifest") == 1
    assert {request.status for request in other.requests if request.method == "PUT"} == {201}

    skopeo.copy(f"docker://{other.host}/acme/back:v2", f"docker://{registry.host}/acme/again:v3")
    assert registry.call(lambda inner: inner._content.manifest("acme/again", "v3").digest) == digest
    assert registry.credentials == other.credentials == []


def test_oras(registry: ThreadedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("oras.client", reason="oras-py isn't a dependency: pip install oras")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_bytes(LAYERS[0])
    (tmp_path / "weights.bin").write_bytes(LAYERS[1])
    oras = client.OrasClient(hostname=registry.host, insecure=True)
    target = f"{registry.host}/acme/artifact:v1"
    files = ["agent.yaml:application/yaml", "weights.bin:application/octet-stream"]
    response = oras.push(target=target, files=files)
    assert response.status_code == 201
    pulled = oras.pull(target=target, outdir=str(tmp_path / "out"))
    assert [Path(path).read_bytes() for path in pulled] == LAYERS
    assert oras.get_tags(target) == ["v1"]
    assert registry.count("PUT manifest") == registry.count("GET manifest") == 1
