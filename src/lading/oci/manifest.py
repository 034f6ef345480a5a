"""Manifests and indexes (image-spec, manifest.md and image-index.md; Docker's schema 2).

A document is what its ``Content-Type`` says, what its ``mediaType`` says and what its shape says, all three alike,
or it is refused (CVE-2021-41190).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lading.errors import InvalidManifest
from lading.oci.descriptor import Descriptor, expect_object, optional_text, read_annotations, shown
from lading.oci.media_types import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, essence
from lading.oci.strict_json import parse_json

MANIFEST_LIMIT = 4 * 1024 * 1024
"""Bytes of a manifest at most (distribution-spec: registries should accept at least 4 MiB)."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One artifact: a config and layers. ``raw`` are the exact bytes that digests are computed over."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    artifact_type: str = ""
    subject: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, often one a platform. ``raw`` are the exact bytes."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    artifact_type: str = ""
    subject: Descriptor | None = None


def parse_manifest(raw: bytes, media_type: str | None) -> Manifest | Index:
    """Read a manifest or an index.

    ``media_type`` is the raw ``Content-Type`` that it was served with, parameters included; ``None`` where nothing
    is known, then the document's own ``mediaType`` and shape decide.

    Raises:
        InvalidManifest: it isn't one, is too large, or its type, ``mediaType`` and shape disagree.
    """
    if len(raw) > MANIFEST_LIMIT:
        raise InvalidManifest(f"manifest: more than {MANIFEST_LIMIT} bytes")
    try:
        document = parse_json(raw)
    except ValueError as error:
        served = f" served as {shown(media_type)}" if media_type else ""
        raise InvalidManifest(
            f"manifest: {error}{served}", hint="a proxy or a sign-in page may have answered for the registry"
        ) from None
    fields = expect_object(document, "manifest")
    kind = _agreed_type(fields, media_type)
    version = fields.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise InvalidManifest(f"manifest: schemaVersion {shown(version)} isn't 2")
    subject = fields.get("subject")
    common = (
        read_annotations(fields, "manifest"),
        optional_text(fields, "artifactType", "manifest"),
        None if subject is None else Descriptor.from_json(subject, "subject"),
    )
    if kind in INDEXES:
        return Index(raw, kind, _descriptors(fields, "manifests"), *common)
    config = Descriptor.from_json(fields["config"], "config")
    return Manifest(raw, kind, config, _descriptors(fields, "layers"), *common)


def _agreed_type(fields: Mapping[str, Any], content_type: str | None) -> str:
    """Give the one media type that the header, the document and its shape agree on."""
    served = essence(content_type or "")
    declared = optional_text(fields, "mediaType", "manifest")
    shape = _shape(fields)
    for name, value in (("Content-Type", served), ("mediaType", declared)):
        if value and value not in shape:
            known = value in MANIFESTS or value in INDEXES
            why = "its shape says otherwise" if known else "that isn't a manifest type"
            raise InvalidManifest(f"manifest: {name} is {shown(value)}, but {why}")
    return declared or served or (OCI_INDEX if shape is INDEXES else OCI_MANIFEST)


def _shape(fields: Mapping[str, Any]) -> frozenset[str]:
    """Give the media types that the document's keys allow."""
    if "fsLayers" in fields:
        raise InvalidManifest("manifest: schema 1 isn't supported", hint="push the image again with a current client")
    is_index, is_manifest = "manifests" in fields, "config" in fields or "layers" in fields
    if is_index and is_manifest:
        raise InvalidManifest("manifest: it is an index and a manifest at the same time")
    if is_index:
        return INDEXES
    if "config" in fields and "layers" in fields:
        return MANIFESTS
    raise InvalidManifest("manifest: neither config and layers, nor manifests")


def _descriptors(fields: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    value = fields[key]
    # Go writes an empty list as null.
    if value is not None and not isinstance(value, list):
        raise InvalidManifest(f"manifest.{key} isn't a list")
    return tuple(Descriptor.from_json(item, f"{key}[{position}]") for position, item in enumerate(value or []))
