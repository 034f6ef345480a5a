"""Content in memory, for as long as the object lives. Nothing waits.

Content is kept as given, under the digest given: arranging damaged content is a legitimate use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from lading.testing.content import (
    StoredManifest,
    check_repository,
    check_tag,
    tag_order,
    unknown_blob,
    unknown_manifest,
    unknown_repository,
)

T = TypeVar("T")


@dataclass(slots=True)
class _Repository:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, StoredManifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class MemoryContent:
    """The `Content` of a registry, in memory."""

    max_blob_bytes = 1024 * 1024 * 1024

    def __init__(self) -> None:
        self._repositories: dict[str, _Repository] = {}

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work here and now: memory is never waited for."""
        return work()

    def spool(self) -> MemorySpool:
        """Return a spool in memory."""
        return MemorySpool(self)

    def put_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Keep `data` as the blob `digest` of `repository`."""
        self._for_writing(repository).blobs[digest] = data

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Return the size of a blob of `repository`; None without one."""
        found = self._repositories.get(repository)
        return len(found.blobs[digest]) if found is not None and digest in found.blobs else None

    def blob(self, repository: str, digest: str) -> bytes:
        """Return a blob, whatever its size; raise NAME_UNKNOWN or BLOB_UNKNOWN."""
        try:
            return self._for_reading(repository).blobs[digest]
        except KeyError:
            raise unknown_blob(repository, digest) from None

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Make a blob of `source` one of `repository` too; False if `source` doesn't hold it."""
        if self.blob_size(source, digest) is None:
            return False
        self.put_blob(repository, digest, self.blob(source, digest))
        return True

    def put_manifest(self, repository: str, manifest: StoredManifest, tag: str | None = None) -> None:
        """Keep a manifest under its digest, and let `tag` name it from now on."""
        if tag is not None:
            check_tag(tag)
        held = self._for_writing(repository)
        held.manifests[manifest.digest] = manifest
        if tag is not None:
            held.tags[tag] = manifest.digest

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        """Return the manifest that a tag or a digest names; raise NAME_UNKNOWN or MANIFEST_UNKNOWN."""
        held = self._for_reading(repository)
        try:
            return held.manifests[held.tags.get(reference, reference)]
        except KeyError:
            raise unknown_manifest(repository, reference) from None

    def manifests(self, repository: str) -> Iterator[StoredManifest]:
        """Find all manifests of a repository."""
        held = self._repositories.get(repository)
        return iter(tuple(held.manifests.values()) if held is not None else ())

    def has_repository(self, repository: str) -> bool:
        """Tell whether something was ever put into `repository`."""
        return repository in self._repositories

    def repositories(self) -> list[str]:
        """Return the names of the repositories that hold a manifest, in the order of their characters."""
        return sorted(name for name, held in self._repositories.items() if held.manifests)

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository in the order of the spec; raise NAME_UNKNOWN."""
        return sorted(self._for_reading(repository).tags, key=tag_order)

    def remove_blob(self, repository: str, digest: str) -> None:
        """Remove a blob from one repository."""
        del self._repositories[repository].blobs[digest]

    def remove_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest and the tags that name it; its blobs stay."""
        held = self._repositories[repository]
        del held.manifests[digest]
        for tag in [tag for tag, named in held.tags.items() if named == digest]:
            del held.tags[tag]

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag; the manifest stays."""
        del self._repositories[repository].tags[tag]

    def _for_writing(self, repository: str) -> _Repository:
        return self._repositories.setdefault(check_repository(repository), _Repository())

    def _for_reading(self, repository: str) -> _Repository:
        try:
            return self._repositories[repository]
        except KeyError:
            raise unknown_repository(repository) from None


class MemorySpool:
    """The `Spool` of content in memory."""

    def __init__(self, content: MemoryContent) -> None:
        self._content = content
        self._pieces: list[bytes] = []
        self.size = 0

    def append(self, piece: bytes) -> None:
        """Add bytes at the end."""
        self._pieces.append(piece)
        self.size += len(piece)

    def truncate(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        self._pieces = [self._whole()[:size]]
        self.size = size

    def digest(self, algorithm: str) -> str:
        """Return the digest of the bytes so far."""
        return f"{algorithm}:{hashlib.new(algorithm, self._whole()).hexdigest()}"

    def keep(self, repository: str, digest: str) -> None:
        """Become the blob `digest` of `repository`."""
        self._content.put_blob(repository, digest, self._whole())

    def discard(self) -> None:
        """Forget everything."""
        self._pieces.clear()

    def _whole(self) -> bytes:
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]
