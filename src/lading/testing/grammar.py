"""The strings that the registry accepts as names: whole-string matches, ASCII only, nothing is normalised."""

from __future__ import annotations

import hashlib
import re

# distribution-spec v1.1, "Pulling manifests": <name>. The length is the limit that `distribution` sets.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REPOSITORY_MAX_LENGTH = 255

# distribution-spec v1.1, "Pulling manifests": <reference> as a tag.
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

# image-spec v1.1, "Digests": the two registered algorithms that a registry must know, lower-case hex.
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


def is_repository(text: str) -> bool:
    """Tell whether `text` is a repository name without a registry host."""
    return len(text) <= _REPOSITORY_MAX_LENGTH and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Tell whether `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Tell whether `text` is a sha256 or sha512 digest."""
    return _DIGEST.fullmatch(text) is not None


def sha256(data: bytes) -> str:
    """Return the digest that the registry gives to content pushed without one."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def algorithm_of(digest: str) -> str:
    """Return the algorithm of a valid digest."""
    return digest.partition(":")[0]


def is_digest_of(digest: str, data: bytes) -> bool:
    """Tell whether the valid `digest` is the digest of `data`."""
    algorithm, _, encoded = digest.partition(":")
    return hashlib.new(algorithm, data).hexdigest() == encoded
