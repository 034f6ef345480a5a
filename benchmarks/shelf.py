"""Content from a seed, laid out as a static registry: the same seed gives the same bytes.

It is written down by hand, with nothing of the client that is measured: what that takes for right isn't asked here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TAG = "v1"

_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_AGENT_TYPE = "application/vnd.docker.agent.config.v1+json"
_AGENT_LAYER = "application/yaml"
_TITLE = "org.opencontainers.image.title"

_MEDIAN_BYTES = 1300
_LARGEST_BYTES = 16_000
"""As agents that people publish are: a few hundred bytes to a few thousand."""

_PIECE = 16 * 1024 * 1024

_WORDS = (
    *("answer", "ask", "before", "build", "careful", "check", "code", "context", "describe", "draft", "each", "file"),
    *("find", "follow", "from", "give", "help", "issue", "keep", "list", "long", "make", "model", "never", "note"),
    *("only", "plan", "question", "read", "report", "review", "rule", "run", "search", "short", "step", "summary"),
    *("test", "that", "the", "then", "tool", "user", "when", "with", "write", "you"),
)


@dataclass(frozen=True, slots=True)
class Published:
    """One artifact: where it is, what it is made of, and what it holds (``content`` is the digest of the layer)."""

    repository: str
    manifest: str
    blobs: Mapping[str, int]
    layers: tuple[str, ...]

    @property
    def content(self) -> str:
        """The digest of the first layer: what a pull of an agent has to give."""
        return self.layers[0]

    def to_json(self) -> dict[str, Any]:
        """Give it as jobs read it."""
        return asdict(self)


class Shelf:
    """A static registry in the directory ``root``, filled from ``seed``."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self.published: list[Published] = []
        self._random = random.Random(seed)

    def agent(self, repository: str, *, inline: bool = False, sub_agents: Sequence[str] = ()) -> Published:
        """Publish one agent of a usual size, its YAML embedded in the manifest as well if ``inline``."""
        content = self._yaml(repository, sub_agents)
        rootfs = {"type": "layers", "diff_ids": [digest_of(content)]}
        config = json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": _AGENT_TYPE,
            "config": _descriptor(_AGENT_TYPE, config, inline),
            "layers": [_descriptor(_AGENT_LAYER, content, inline, {_TITLE: "agent.yaml"})],
            "annotations": {
                "io.docker.agent.version": "v1",
                "io.docker.cagent.version": "v1",
                "org.opencontainers.image.created": "2025-01-01T00:00:00Z",
                "org.opencontainers.image.description": "OCI artifact containing agent.yaml",
            },
        }
        return self._publish(repository, manifest, {digest_of(blob): blob for blob in (config, content)})

    def agents(self, count: int, *, inline: bool = False, prefix: str = "bench") -> list[Published]:
        """Publish ``count`` agents, each in a repository of its own."""
        kind = "inline" if inline else "plain"
        return [self.agent(f"{prefix}/{kind}-{number:05d}", inline=inline) for number in range(count)]

    def tree(self, host: str, widths: Sequence[int], *, inline: bool = False, prefix: str = "tree") -> list[Published]:
        """Publish agents in levels, ``widths`` of them in each; every agent of a level is a sub-agent of one above."""
        below: list[Published] = []
        every: list[Published] = []
        for level in range(len(widths) - 1, -1, -1):
            here = []
            for number in range(widths[level]):
                mine = below[number :: widths[level]]
                sub_agents = [f"{host}/{one.repository}:{TAG}" for one in mine]
                here.append(self.agent(f"{prefix}/level-{level}-{number:03d}", inline=inline, sub_agents=sub_agents))
            below = here
            every = here + every
        return every

    def image(self, repository: str, sizes: Sequence[int]) -> Published:
        """Publish an image with a layer of each size in bytes: valid gzip that nothing can compress further."""
        home = self._home(repository)
        packed = [self._layer(home, size) for size in sizes]
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in packed]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(_IMAGE_CONFIG, config, False),
            "layers": [layer for layer, _ in packed],
        }
        return self._publish(repository, manifest, {digest_of(config): config})

    def _layer(self, home: Path, size: int) -> tuple[dict[str, Any], str]:
        """Write a layer piece by piece; gives its descriptor, and the digest of what it unpacks to."""
        packer = zlib.compressobj(level=0, wbits=31)
        plain, packed, length = hashlib.sha256(), hashlib.sha256(), 0
        growing = home / "blobs" / "growing"
        with growing.open("wb") as file:
            for start in range(0, size + 1, _PIECE):
                piece = self._random.randbytes(min(_PIECE, size - start))
                plain.update(piece)
                chunk = packer.compress(piece) + (packer.flush() if start + _PIECE > size else b"")
                packed.update(chunk)
                length += len(chunk)
                file.write(chunk)
        digest = "sha256:" + packed.hexdigest()
        growing.rename(home / "blobs" / digest)
        described = {"mediaType": _IMAGE_LAYER, "digest": digest, "size": length, "annotations": {_TITLE: digest[7:19]}}
        return described, "sha256:" + plain.hexdigest()

    def _home(self, repository: str) -> Path:
        home = self.root / "v2" / repository
        (home / "manifests").mkdir(parents=True, exist_ok=True)
        (home / "blobs").mkdir(exist_ok=True)
        return home

    def _publish(self, repository: str, manifest: Mapping[str, Any], blobs: Mapping[str, bytes]) -> Published:
        raw = json.dumps(manifest, separators=(",", ":")).encode()
        home = self._home(repository)
        for digest, blob in blobs.items():
            (home / "blobs" / digest).write_bytes(blob)
        (home / "manifests" / digest_of(raw)).write_bytes(raw)
        (home / "manifests" / TAG).write_bytes(raw)
        one = Published(
            repository,
            digest_of(raw),
            {one["digest"]: one["size"] for one in (manifest["config"], *manifest["layers"])},
            tuple(layer["digest"] for layer in manifest["layers"]),
        )
        self.published.append(one)
        return one

    def _yaml(self, name: str, sub_agents: Sequence[str]) -> bytes:
        size = min(_LARGEST_BYTES, max(200, int(self._random.lognormvariate(0, 0.9) * _MEDIAN_BYTES)))
        lines = [
            "agents:",
            "  root:",
            f"    model: openai/gpt-4o  # {name}",
            "    description: an agent to be measured",
        ]
        if sub_agents:
            lines += ["    sub_agents:", *(f"      - {one}" for one in sub_agents)]
        lines.append("    instruction: |")
        length = sum(len(line) + 1 for line in lines)
        while length < size:
            line = "      " + " ".join(self._random.choices(_WORDS, k=12))
            lines.append(line)
            length += len(line) + 1
        return ("\n".join(lines) + "\n").encode()


def digest_of(content: bytes) -> str:
    """Give the digest of ``content``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def lay_out_docker_registry(shelf: Shelf, storage: Path) -> None:
    """Lay the content of ``shelf`` out as docker-registry's file system driver keeps it; large files are linked."""
    base = storage / "docker" / "registry" / "v2"
    for one in shelf.published:
        home = base / "repositories" / one.repository
        source = shelf.root / "v2" / one.repository
        for digest in one.blobs:
            _place(base, source / "blobs" / digest, digest)
            _link(home / "_layers", digest)
        _place(base, source / "manifests" / one.manifest, one.manifest)
        _link(home / "_manifests" / "revisions", one.manifest)
        _link(home / "_manifests" / "tags" / TAG / "index", one.manifest)
        current = home / "_manifests" / "tags" / TAG / "current"
        current.mkdir(parents=True, exist_ok=True)
        (current / "link").write_text(one.manifest)


def _place(base: Path, source: Path, digest: str) -> None:
    algorithm, _, encoded = digest.partition(":")
    directory = base / "blobs" / algorithm / encoded[:2] / encoded
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "data").exists():
        os.link(source, directory / "data")


def _link(directory: Path, digest: str) -> None:
    algorithm, _, encoded = digest.partition(":")
    place = directory / algorithm / encoded
    place.mkdir(parents=True, exist_ok=True)
    (place / "link").write_text(digest)


def _descriptor(
    media_type: str, content: bytes, inline: bool, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    described: dict[str, Any] = {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
    if inline:
        described["data"] = base64.b64encode(content).decode()
    if annotations:
        described["annotations"] = dict(annotations)
    return described
