"""What a registry holds: the protocol of its content, and the words for what isn't there. No HTTP.

Content has no opinion on what is pushed: it keeps what it is given under the digest it is given, by repository.
Look-ups that find nothing raise the `Refusal` that the spec has for it; removals of what isn't there raise
`KeyError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lading.testing import grammar
from lading.testing.refusals import ErrorCode, Refusal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest byte for byte, with the media type that it was put with."""

    digest: str
    media_type: str
    raw: bytes


class Spool(Protocol):
    """Bytes on their way to become a blob. Whoever asked for a spool keeps or discards it in the end."""

    @property
    def size(self) -> int:
        """How many bytes there are so far."""
        ...

    def append(self, piece: bytes) -> None:
        """Add bytes at the end."""
        ...

    def truncate(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        ...

    def digest(self, algorithm: str) -> str:
        """Return the digest of the bytes so far, "sha256:…" or "sha512:…"."""
        ...

    def keep(self, repository: str, digest: str) -> None:
        """Become the blob `digest` of `repository`; the spool is over."""
        ...

    def discard(self) -> None:
        """Forget everything, unless it was kept; the spool is over."""
        ...


class BlobReader(Protocol):
    """A large blob on its way out, from the first byte to the last, unless `narrow` says otherwise."""

    @property
    def size(self) -> int:
        """How many bytes there are in all."""
        ...

    def narrow(self, start: int, stop: int, /) -> None:
        """Read only the bytes from `start` to before `stop` from now on; a part can't be verified, and isn't."""
        ...

    def read(self, limit: int, /) -> bytes:
        """Return the next bytes, at most `limit`, nothing at the end; raise `DamagedBlob` instead of the last."""
        ...

    def close(self) -> None:
        """Let go of the blob; closing twice is fine."""
        ...


class DamagedBlob(Exception):
    """The bytes of a blob turned out not to be those of its digest, while they were being read."""


class Content(Protocol):
    """The content of a registry. Putting something into a repository makes the repository exist.

    The methods may wait for a disk and may be called from any thread; whoever must not wait calls them through
    `run`.
    """

    @property
    def max_blob_bytes(self) -> int:
        """The size of the largest blob that can be kept."""
        ...

    async def run(self, work: Callable[[], T]) -> T:
        """Do work on this content without keeping the event loop waiting; it ends even if the caller is cancelled."""
        ...

    def spool(self) -> Spool:
        """Return a place for the bytes of a blob that is being uploaded; takes no resources until it gets some."""
        ...

    def put_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Keep `data` as the blob `digest` of `repository`."""
        ...

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Return the size of a blob that `repository`, and not merely some other one, holds; None without one."""
        ...

    def blob(self, repository: str, digest: str) -> bytes | BlobReader:
        """Return a blob, or a reader if it is large; raise NAME_UNKNOWN or BLOB_UNKNOWN."""
        ...

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Make a blob of `source` one of `repository` too; False if `source` doesn't hold it."""
        ...

    def put_manifest(self, repository: str, manifest: StoredManifest, tag: str | None = None) -> None:
        """Keep a manifest under its digest, and let `tag` name it from now on."""
        ...

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        """Return the manifest that a tag or a digest names; raise NAME_UNKNOWN or MANIFEST_UNKNOWN."""
        ...

    def manifests(self, repository: str) -> Iterator[StoredManifest]:
        """Find all manifests of a repository, in no order; none in one that doesn't exist."""
        ...

    def has_repository(self, repository: str) -> bool:
        """Tell whether something was ever put into `repository`."""
        ...

    def repositories(self) -> list[str]:
        """Return the names of the repositories that hold a manifest, in the order of their characters."""
        ...

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository in the order of the spec (see `tag_order`); raise NAME_UNKNOWN."""
        ...

    def remove_blob(self, repository: str, digest: str) -> None:
        """Remove a blob from one repository."""
        ...

    def remove_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest and the tags that name it; its blobs stay."""
        ...

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag; the manifest stays."""
        ...


def tag_order(tag: str) -> tuple[str, str]:
    """Return the sort key of distribution-spec v1.1, "Listing Tags": case-insensitive, made total."""
    return tag.lower(), tag


def check_repository(repository: str) -> str:
    """Return the name of a repository; raise NAME_INVALID."""
    if not grammar.is_repository(repository):
        raise Refusal(ErrorCode.NAME_INVALID, "invalid repository name", detail={"name": repository})
    return repository


def check_tag(tag: str) -> str:
    """Return the tag of a manifest to keep; raise MANIFEST_INVALID."""
    if not grammar.is_tag(tag):
        raise Refusal(ErrorCode.MANIFEST_INVALID, "invalid tag", detail={"tag": tag})
    return tag


def unknown_repository(repository: str) -> Refusal:
    """Return the refusal for a repository that doesn't exist."""
    return Refusal(ErrorCode.NAME_UNKNOWN, "repository name not known to registry", detail={"name": repository})


def unknown_blob(repository: str, digest: str) -> Refusal:
    """Return the refusal for a blob that the repository doesn't hold."""
    return _unknown(ErrorCode.BLOB_UNKNOWN, "blob", repository, digest)


def unknown_manifest(repository: str, reference: str) -> Refusal:
    """Return the refusal for a tag or a digest that names no manifest of the repository."""
    return _unknown(ErrorCode.MANIFEST_UNKNOWN, "manifest", repository, reference)


def _unknown(code: ErrorCode, what: str, repository: str, reference: str) -> Refusal:
    return Refusal(code, f"{what} unknown to registry", detail={"name": repository, "reference": reference})
