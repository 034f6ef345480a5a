"""Digests: the names of content (image-spec, descriptor.md, "Digests").

A digest is validated here before any URL, path or argument is built from it. Only algorithms that can really be
computed are accepted: sha256 and sha512, in the canonical lower-case form.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lading.errors import InvalidDigest

if TYPE_CHECKING:
    from hashlib import _Hash

# image-spec, descriptor.md:
#   digest    ::= algorithm ":" encoded
#   sha256    : encoded MUST match /[a-f0-9]{64}/
#   sha512    : encoded MUST match /[a-f0-9]{128}/
_ENCODED = {
    "sha256": re.compile("[a-f0-9]{64}"),
    "sha512": re.compile("[a-f0-9]{128}"),
}

_ALGORITHM = re.compile("[a-z0-9]+(?:[+._-][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Digest:
    """The name of some content: ``algorithm`` and ``encoded``, the lower-case hexadecimal hash."""

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        pattern = _ENCODED.get(self.algorithm)
        if pattern is None:
            raise InvalidDigest(
                f"digest {str(self)!r}: unsupported algorithm {self.algorithm!r}",
                hint="sha256 and sha512 are supported",
            )
        if pattern.fullmatch(self.encoded) is None:
            raise InvalidDigest(
                f"digest {str(self)!r}: not a {self.algorithm} in lower-case hexadecimal",
                hint=f"a {self.algorithm} has {64 if self.algorithm == 'sha256' else 128} characters of 0-9 and a-f",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``sha256:<64 hex>`` or ``sha512:<128 hex>``.

        Raises:
            InvalidDigest: anything else, also an algorithm that isn't supported.
        """
        if not isinstance(text, str):
            raise InvalidDigest(f"a digest is text, not {type(text).__name__}")
        algorithm, _, encoded = text.partition(":")
        # digest ::= algorithm ":" encoded; algorithm ::= component (separator component)*
        if not encoded or (algorithm not in _ENCODED and _ALGORITHM.fullmatch(algorithm) is None):
            raise InvalidDigest(f"digest {text!r}: not of the form algorithm:encoded")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Compute the digest of ``data``."""
        return cls(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest())

    def hasher(self) -> _Hash:
        """Start a hash of this digest's algorithm, to compare content with it piece by piece."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def matches(self, data: bytes) -> bool:
        """Tell whether ``data`` is the content that this digest names."""
        hasher = self.hasher()
        hasher.update(data)
        return hasher.hexdigest() == self.encoded

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"
