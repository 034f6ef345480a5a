"""Manifests that refer to another one by their `subject`: distribution-spec v1.1, "Listing Referrers".

Content knows nothing of it: referrers are found by looking into the manifests of a repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lading.testing import grammar
from lading.testing.content import StoredManifest

INDEX = "application/vnd.oci.image.index.v1+json"


def subject_of(raw: bytes) -> str | None:
    """Return the digest of the `subject` of a manifest; None without one that makes sense."""
    subject = _object(_document(raw).get("subject"))
    digest = subject.get("digest")
    return digest if isinstance(digest, str) and grammar.is_digest(digest) else None


def referrers(manifests: Iterable[StoredManifest], subject: str, artifact_type: str | None) -> dict[str, Any]:
    """Return the index of the manifests that refer to `subject`, of one artifact type unless that is None."""
    found = (_descriptor(manifest) for manifest in manifests if subject_of(manifest.raw) == subject)
    chosen = [one for one in found if artifact_type is None or one.get("artifactType") == artifact_type]
    chosen.sort(key=lambda one: str(one["digest"]))
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": chosen}


def _descriptor(manifest: StoredManifest) -> dict[str, Any]:
    document = _document(manifest.raw)
    descriptor: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.raw),
    }
    # The spec: the manifest's artifactType, for an image without one the media type of its config.
    artifact_type = document.get("artifactType") or _object(document.get("config")).get("mediaType")
    if artifact_type:
        descriptor["artifactType"] = artifact_type
    if document.get("annotations"):
        descriptor["annotations"] = document["annotations"]
    return descriptor


def _document(raw: bytes) -> dict[str, Any]:
    # What tests arrange may be anything.
    try:
        return _object(json.loads(raw))
    except (ValueError, RecursionError):
        return {}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
