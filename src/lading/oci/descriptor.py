"""Descriptors: what content is, how large, and by which name (image-spec, descriptor.md)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from lading.errors import DigestMismatch, InvalidDigest, InvalidManifest, SizeMismatch
from lading.oci.digest import Digest
from lading.oci.media_types import is_media_type
from lading.oci.platform import Platform

__all__ = ["Descriptor", "Platform", "expect_object", "optional_text", "read_annotations", "shown"]

_SIZE_LIMIT = 2**63 - 1
"""Bytes: sizes are int64 in every implementation."""

_SHOWN = 80
"""Characters of a foreign value that an error shows."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names some content: media type, digest and size in bytes.

    ``data`` is the content itself where the descriptor embeds it, unverified: read it with :meth:`embedded`.
    ``urls`` are never fetched.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""
    data: bytes | None = None
    urls: tuple[str, ...] = ()
    platform: Platform | None = None

    @classmethod
    def from_json(cls, value: object, where: str = "descriptor") -> Self:
        """Read a descriptor from its JSON object; ``where`` names it in errors.

        Raises:
            InvalidManifest: a field is missing or not of its type.
        """
        fields = expect_object(value, where)
        media_type = fields.get("mediaType")
        if not isinstance(media_type, str) or not is_media_type(media_type):
            raise InvalidManifest(f"{where}.mediaType: {shown(media_type)} isn't a media type")
        size = fields.get("size")
        if type(size) is not int or not 0 <= size <= _SIZE_LIMIT:
            raise InvalidManifest(f"{where}.size: {shown(size)} isn't a size in bytes")
        return cls(
            media_type,
            _digest(fields.get("digest"), where),
            size,
            read_annotations(fields, where),
            optional_text(fields, "artifactType", where),
            _data(fields.get("data"), where),
            _texts(fields, "urls", where),
            _platform(fields.get("platform"), f"{where}.platform"),
        )

    def to_json(self) -> dict[str, Any]:
        """Give the JSON object, with the keys in the specification's order."""
        fields: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.data is not None:
            fields["data"] = base64.b64encode(self.data).decode("ascii")
        if self.artifact_type:
            fields["artifactType"] = self.artifact_type
        if self.platform is not None:
            fields["platform"] = self.platform.to_json()
        return fields

    def check(self, content: bytes) -> bytes:
        """Give ``content`` back if it is what this descriptor names.

        Raises:
            SizeMismatch: it is longer or shorter.
            DigestMismatch: it is something else.
        """
        if len(content) != self.size:
            raise SizeMismatch(f"{self.digest}: {len(content)} bytes instead of {self.size}")
        if not self.digest.matches(content):
            raise DigestMismatch(
                f"{self.digest}: got content with the digest {Digest.of(content, self.digest.algorithm)}"
            )
        return content

    def embedded(self) -> bytes | None:
        """Give the embedded content, verified, or ``None`` where there is none.

        Raises:
            DigestMismatch: the embedded content isn't what the descriptor names.
        """
        if self.data is None:
            return None
        try:
            return self.check(self.data)
        except SizeMismatch as error:
            raise DigestMismatch(f"embedded data of {error.message}") from error


def _digest(value: object, where: str) -> Digest:
    if not isinstance(value, str):
        raise InvalidManifest(f"{where}.digest: {shown(value)} isn't a digest")
    try:
        return Digest.parse(value)
    except InvalidDigest as error:
        raise InvalidManifest(f"{where}.digest: {error.message}") from error


def _data(value: object, where: str) -> bytes | None:
    # image-spec: "an embedded representation of the referenced content. Values MUST conform to the Base 64
    # encoding, as defined in RFC 4648".
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidManifest(f"{where}.data isn't base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidManifest(f"{where}.data isn't base64") from None


def _platform(value: object, where: str) -> Platform | None:
    if value is None:
        return None
    fields = expect_object(value, where)
    return Platform(
        optional_text(fields, "os", where),
        optional_text(fields, "architecture", where),
        optional_text(fields, "variant", where),
        optional_text(fields, "os.version", where),
        _texts(fields, "os.features", where),
    )


def _texts(fields: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = fields.get(key)
    # Go writes an empty list as null.
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidManifest(f"{where}.{key} isn't a list of strings")
    return tuple(value)


def shown(value: object) -> str:
    """Give a JSON value as an error shows it: a bounded scalar, or what else it is. Never raises."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = repr(value[:_SHOWN]) if isinstance(value, str) else repr(value)[:_SHOWN]
    return f"{text}…" if isinstance(value, str) and len(value) > _SHOWN else text


def expect_object(value: object, where: str) -> dict[str, Any]:
    """Give ``value`` back if it is a JSON object, else raise InvalidManifest naming ``where``."""
    if not isinstance(value, dict):
        raise InvalidManifest(f"{where} isn't a JSON object")
    return value


def optional_text(fields: Mapping[str, Any], key: str, where: str) -> str:
    """Give the string at ``key``, empty where it is absent or null; raise InvalidManifest for other types."""
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidManifest(f"{where}.{key} isn't a string")
    return value


def read_annotations(fields: Mapping[str, Any], where: str) -> Mapping[str, str]:
    """Give the ``annotations`` of a JSON object (image-spec, annotations.md): a map of strings to strings."""
    value = fields.get("annotations")
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidManifest(f"{where}.annotations isn't a map of strings to strings")
    return MappingProxyType(value)
