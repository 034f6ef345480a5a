"""The OCI image layout (image-spec, image-layout.md): what its documents say, as values. No files here.

An entry of ``index.json`` names an image by two annotations: ``org.opencontainers.image.ref.name`` is the tag, which
skopeo, podman and oras look for, ``io.containerd.image.name`` the whole reference, which containerd and Docker do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lading.errors import InvalidManifest, InvalidReference, LadingError
from lading.oci.descriptor import Descriptor, expect_object, shown
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, parse_manifest
from lading.oci.media_types import OCI_INDEX
from lading.oci.reference import DEFAULT_TAG, Reference
from lading.oci.strict_json import parse_json

MARK = "oci-layout"
INDEX = "index.json"

# image-layout.md, "oci-layout file": "imageLayoutVersion", a string, the version of the layout: 1.0.0.
_VERSION = "1.0.0"
MARKING = json.dumps({"imageLayoutVersion": _VERSION}, separators=(",", ":")).encode()
"""What is in ``oci-layout``."""

DOCUMENT_LIMIT = MANIFEST_LIMIT
"""Bytes of ``oci-layout`` and ``index.json`` at most, each."""

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"

_SHOWN = 10
"""Entries that an error names at most."""


def blob_path(digest: Digest) -> str:
    """Tell where in a layout a blob is (image-layout.md, "Blobs")."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a layout, as ``index.json`` lists it."""

    descriptor: Descriptor

    @property
    def name(self) -> str:
        """What the layout calls it: a tag, or whatever its author liked; empty if nothing."""
        return self.descriptor.annotations.get(REF_NAME, "")

    @property
    def reference(self) -> Reference | None:
        """What it is everywhere, if one of its names is a reference with registry and tag or digest."""
        for text in (self.descriptor.annotations.get(IMAGE_NAME, ""), self.name):
            try:
                found = Reference.parse(text)
            except InvalidReference:
                continue
            if str(found) == text:
                return found
        return None

    def is_called(self, wanted: str) -> bool:
        """Tell whether ``wanted`` means this one: its digest, or one of its names."""
        if wanted in (self.name, self.descriptor.annotations.get(IMAGE_NAME), str(self.descriptor.digest)):
            return wanted != ""
        try:
            return self.reference is not None and str(Reference.parse(wanted)) == str(self.reference)
        except InvalidReference:
            return False

    def __str__(self) -> str:
        return self.descriptor.annotations.get(IMAGE_NAME) or self.name or str(self.descriptor.digest)


def check_mark(raw: bytes) -> None:
    """Check what ``oci-layout`` says. Raises InvalidManifest."""
    try:
        version = expect_object(parse_json(raw), MARK).get("imageLayoutVersion")
    except InvalidManifest:
        raise
    except ValueError as error:
        raise InvalidManifest(f"{MARK}: {error}") from None
    if version != _VERSION:
        raise InvalidManifest(f"{MARK}: imageLayoutVersion {shown(version)} isn't {_VERSION}")


def read_entries(raw: bytes) -> list[Entry]:
    """Read ``index.json``. Raises InvalidManifest."""
    try:
        index = parse_manifest(raw, OCI_INDEX)
    except InvalidManifest as error:
        raise InvalidManifest(f"{INDEX}: {error.message}") from error
    assert isinstance(index, Index)
    return [Entry(descriptor) for descriptor in index.manifests]


def choose(entries: Sequence[Entry], wanted: str | None) -> Entry:
    """Give the entry that is called ``wanted``; by default the only one.

    Raises:
        LadingError: there is none, or more than one.
    """
    found = [entry for entry in entries if wanted is None or entry.is_called(wanted)]
    if len({entry.descriptor.digest for entry in found}) == 1 and (wanted is not None or len(found) == 1):
        return next((entry for entry in found if entry.reference), found[0])
    offered = ", ".join(map(str, entries[:_SHOWN])) + (", …" if len(entries) > _SHOWN else "")
    if not entries:
        raise LadingError("nothing is in it")
    if found:
        raise LadingError(f"{len(found)} images in it could be meant", hint=f"say which one: {offered}")
    raise LadingError(f"nothing in it is called {wanted}", hint=f"it has {offered}")


def add_entries(raw: bytes | None, added: Sequence[tuple[Reference, Descriptor]]) -> tuple[bytes, list[str]]:
    """Give ``index.json`` with more images in it, and what each of those is called there.

    ``raw`` is what it was; what it says of other images stays as it is. An image is called by its tag. Where another
    one has that name, which must not be lost, or mistaken for this one, it is called by its whole reference.

    Raises:
        InvalidManifest: ``raw`` isn't an index.
    """
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    known: list[Entry] = []
    if raw is not None:
        known = read_entries(raw)
        document = parse_json(raw)
    tags = Counter(_tag(reference) for reference, _ in added)
    names = [_tag(reference) if tags[_tag(reference)] == 1 else str(reference) for reference, _ in added]
    full = {str(reference) for reference, _ in added}
    stays = [
        position
        for position, entry in enumerate(known)
        if (image := entry.descriptor.annotations.get(IMAGE_NAME)) not in full and (image or entry.name not in names)
    ]
    taken = {known[position].name for position in stays}
    names = [str(reference) if name in taken else name for name, (reference, _) in zip(names, added, strict=True)]
    entries = [document["manifests"][position] for position in stays]
    for name, (reference, descriptor) in zip(names, added, strict=True):
        annotations = {IMAGE_NAME: str(reference), REF_NAME: name}
        entries.append({**descriptor.to_json(), "annotations": annotations})
    merged = json.dumps({**document, "manifests": entries}, separators=(",", ":")).encode()
    if len(merged) > DOCUMENT_LIMIT:
        raise InvalidManifest(f"{INDEX}: {len(entries)} images are too many for one layout")
    return merged, names


def _tag(reference: Reference) -> str:
    if reference.tag is None and reference.digest is not None:
        return str(reference)
    return reference.tag or DEFAULT_TAG
