"""What a pushed manifest must look like, and what it says the repository must hold already.

image-spec v1.1, "Image Manifest" and "Image Index", and Docker's schema 2. The Content-Type, `mediaType` and
the shape must agree (CVE-2021-41190), and a JSON key must not occur twice. Only pushes are checked: what
tests arrange is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lading.testing import grammar
from lading.testing.refusals import ErrorCode, Refusal

_IMAGES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_INDEXES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """Content that a manifest refers to: a digest and the size that the manifest claims for it."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Requirements:
    """What must be in the repository before the manifest: blobs for an image, manifests for an index.

    `subject` is what the manifest refers to, which may come later.
    """

    blobs: tuple[Requirement, ...] = ()
    manifests: tuple[Requirement, ...] = ()
    subject: Requirement | None = None


def requirements(raw: bytes, media_type: str) -> Requirements:
    """Check a pushed manifest by itself and return what it refers to; raise MANIFEST_INVALID.

    A `subject` is not required (the spec lets it come later), nor is a layer that is to be had elsewhere
    (`urls`).
    """
    document = _document(raw)
    if document.get("mediaType", media_type) != media_type:
        raise _invalid("mediaType is not the Content-Type", document["mediaType"])
    if type(document.get("schemaVersion")) is not int or document["schemaVersion"] != 2:
        raise _invalid("schemaVersion is not 2", document.get("schemaVersion"))
    subject = _requirement(document["subject"]) if "subject" in document else None
    if media_type in _IMAGES:
        _reject_keys(document, "manifests")
        layers = [layer for layer in _list(document, "layers") if not _is_elsewhere(layer)]
        return Requirements(blobs=tuple(map(_requirement, [document.get("config"), *layers])), subject=subject)
    if media_type in _INDEXES:
        _reject_keys(document, "config", "layers")
        return Requirements(manifests=tuple(map(_requirement, _list(document, "manifests"))), subject=subject)
    raise _invalid("media type is not that of a manifest", media_type)


def _document(raw: bytes) -> dict[str, Any]:
    try:
        # json.loads would guess UTF-16 and UTF-32 from bytes: JSON on the wire is UTF-8.
        document = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid("not JSON", str(error)) from error
    if not isinstance(document, dict):
        raise _invalid("not a JSON object", type(document).__name__)
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _reject_keys(document: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if key in document:
            raise _invalid("the shape is not that of the media type", key)


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise _invalid("not a list", key)
    return value


def _is_elsewhere(layer: Any) -> bool:
    return isinstance(layer, dict) and bool(layer.get("urls"))


def _requirement(descriptor: Any) -> Requirement:
    if not isinstance(descriptor, dict) or not isinstance(descriptor.get("mediaType"), str):
        raise _invalid("not a descriptor", descriptor)
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not grammar.is_digest(digest):
        raise _invalid("not a digest", digest)
    if type(size) is not int or size < 0:
        raise _invalid("not a size", size)
    return Requirement(digest, size)


def _invalid(message: str, detail: object) -> Refusal:
    return Refusal(ErrorCode.MANIFEST_INVALID, f"manifest invalid: {message}", detail=detail)
