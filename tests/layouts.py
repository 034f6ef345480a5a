"""OCI image layouts for tests, written out by hand: what other programs write, not what lading would."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from artifacts import INDEX, MANIFEST, describe

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


class HandMade:
    """A layout: files by path. Images that are added are listed in ``index.json``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.entries: list[dict[str, Any]] = []

    def blob(self, content: bytes) -> bytes:
        self.files[f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"] = content
        return content

    def path(self, content: bytes) -> str:
        """Where a blob is."""
        return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"

    def manifest(self, *layers: bytes, architecture: str = "amd64", docker: bool = False, **fields: Any) -> bytes:
        """An image, which isn't listed."""
        ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        rootfs = {"type": "layers", "diff_ids": ids}
        config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": rootfs}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else MANIFEST,
            "config": describe(DOCKER_CONFIG if docker else CONFIG, self.blob(config)),
            "layers": [describe(DOCKER_LAYER if docker else LAYER, self.blob(layer)) for layer in layers],
            **fields,
        }
        return self.blob(json.dumps(document).encode())

    def index(self, **manifests: bytes) -> bytes:
        """An index of images by their architecture, which isn't listed."""
        children = [
            describe(MANIFEST, raw, platform={"os": "linux", "architecture": architecture})
            for architecture, raw in manifests.items()
        ]
        return self.blob(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode())

    def list(self, raw: bytes, name: str = "v1", image: str = "") -> str:
        """List an image or an index, and give its digest."""
        annotations = {key: text for key, text in ((REF_NAME, name), (IMAGE_NAME, image)) if text}
        entry = describe(json.loads(raw)["mediaType"], raw)
        self.entries.append(entry | ({"annotations": annotations} if annotations else {}))
        return str(entry["digest"])

    def all(self) -> dict[str, bytes]:
        """Every file; ``index.json`` is written unless there is one."""
        return {"index.json": json.dumps({"schemaVersion": 2, "manifests": self.entries}).encode(), **self.files}

    def write(self, directory: Path) -> str:
        for path, content in self.all().items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)
        return str(directory)

    def tar(self, path: Path, *, prefix: str = "", order: Iterable[str] = (), kind: int = tarfile.PAX_FORMAT) -> str:
        """Write a tar, with the members of ``order`` first."""
        files = self.all()
        names = [*order, *(name for name in files if name not in order)]
        with tarfile.open(path, "w", format=kind) as archive:
            for name in names:
                add(archive, prefix + name, files[name])
        return str(path)


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    """Add a member, which may be anything."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def image(*layers: bytes, name: str = "v1", called: str = "") -> HandMade:
    """A layout with one image."""
    layout = HandMade()
    layout.list(layout.manifest(*(layers or (b"layer",))), name, called)
    return layout
