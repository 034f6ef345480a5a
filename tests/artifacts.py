"""Agent artifacts for tests, written out by hand: what registries hold, not what lading would push."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from lading.testing import EmbeddedRegistry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ANNOTATED = {"io.docker.agent.version": "v1"}
LEGACY = {"io.docker.cagent.version": "v1"}


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(media_type: str, data: bytes, *, inline: bool = False, **fields: Any) -> dict[str, Any]:
    descriptor = {"mediaType": media_type, "digest": sha256(data), "size": len(data), **fields}
    if inline:
        descriptor["data"] = base64.b64encode(data).decode()
    return descriptor


def manifest(layer: bytes, annotations: dict[str, str] | None = None, *, inline: bool = False) -> bytes:
    """A manifest whose one layer is ``layer``; annotated as an agent unless told otherwise."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [describe("application/yaml", layer, inline=inline)],
            "annotations": ANNOTATED if annotations is None else annotations,
        }
    ).encode()


def index(*manifests: bytes, **fields: Any) -> bytes:
    """An index of ``manifests``; each gets ``fields`` (such as a platform)."""
    children = [describe(MANIFEST, raw, **fields) for raw in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()


def publish(
    registry: EmbeddedRegistry,
    content: bytes,
    repository: str = "acme/triage",
    tag: str | None = "v1",
    annotations: dict[str, str] | None = None,
    *,
    inline: bool = False,
) -> str:
    """Put an agent into ``registry`` without HTTP, and give its digest."""
    registry.add_blob(repository, content)
    registry.add_blob(repository, b"{}")
    return registry.add_manifest(repository, manifest(content, annotations, inline=inline), MANIFEST, tag=tag)
