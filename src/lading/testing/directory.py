"""Content that lasts in a directory, through crashes and with several processes on it. See `layout` for what is where.

What is kept is on disk for good before the call returns, and whole or not there: files get their names when
they are complete. Every byte that is read is verified, so damage is found before it is served as good.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lading.testing import grammar
from lading.testing.content import (
    DamagedBlob,
    StoredManifest,
    check_tag,
    tag_order,
    unknown_blob,
    unknown_manifest,
    unknown_repository,
)
from lading.testing.files import (
    PIECE_BYTES,
    Draft,
    FileReader,
    link,
    locked,
    make_directories,
    open_file,
    read_file,
    sweep,
    sync_directory,
    write_file,
)
from lading.testing.layout import Layout, NotARegistry, tag_of_file

__all__ = ["DirectoryContent", "NotARegistry"]

T = TypeVar("T")
_SMALL_BLOB_BYTES = PIECE_BYTES
_LOOKS = 10


class DirectoryContent:
    """The `Content` of a registry in the directory `path`, which is made if it isn't there.

    Several registries, in one process or many, may have content in the same directory. What doesn't match its
    digest is not there: manifests and blobs up to 1 MiB are verified before anything is answered; larger blobs
    are verified while they are sent, the last bytes are withheld if the digest is wrong, and from then on the
    blob is unknown until it is pushed again. Bytes are shared by repositories through hard links, and freed when
    the last repository lets go of them.

    Raise `OSError` if the directory cannot be used: `NotARegistry` if it holds something else.
    """

    max_blob_bytes = 1024 * 1024 * 1024 * 1024

    def __init__(self, path: str | os.PathLike[str]) -> None:
        make_directories(Path(os.path.abspath(path)))
        self._layout = Layout(Path(path))
        self._damaged: set[tuple[int, ...]] = set()
        if not self._layout.check():
            make_directories(self._layout.uploads)
            write_file(self._layout.mark, self._layout.marking(), self._layout.uploads)
        with contextlib.suppress(OSError):  # nothing to sweep, or a read-only directory, which can be served
            sweep(self._layout.uploads)

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in a thread; if the caller is cancelled, it ends first."""
        working = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            while not working.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([working])
            raise

    # Blobs.

    def spool(self) -> DirectorySpool:
        """Return a spool in a file."""
        return DirectorySpool(self, self._layout.uploads)

    def put_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Keep `data` as the blob `digest` of `repository`."""
        spool = self.spool()
        try:
            spool.append(data)
            self.keep(repository, digest, spool)
        finally:
            spool.discard()

    def keep(self, repository: str, digest: str, draft: Draft) -> None:
        """Keep a draft as the blob `digest` of `repository`, once for all repositories."""
        self._make_repository(repository)
        blob, shared = self._layout.blob(repository, digest), self._layout.shared_blob(digest)
        if self._is_intact(blob, digest):
            return
        blob.unlink(missing_ok=True)
        make_directories(blob.parent)
        make_directories(shared.parent)
        # Whoever is faster with the same name has put the same verified bytes there.
        with contextlib.suppress(FileExistsError):
            if self._is_intact(shared, digest):
                with contextlib.suppress(FileNotFoundError):  # freed meanwhile
                    link(shared, blob, self._layout.uploads)
                    return
            draft.link(blob)
            draft.replace(shared)

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Return the size of a blob of `repository`; None without one, or if it is known to be damaged."""
        found = self._find_blob(repository, digest)
        if isinstance(found, FileReader):
            found.close()
            return found.size
        return None if found is None else len(found)

    def blob(self, repository: str, digest: str) -> bytes | FileReader:
        """Return a blob up to 1 MiB, a reader of a larger one; raise NAME_UNKNOWN or BLOB_UNKNOWN."""
        self._require(repository)
        found = self._find_blob(repository, digest)
        if found is None:
            raise unknown_blob(repository, digest)
        return found

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Make a blob of `source` one of `repository` too; False if `source` doesn't hold it."""
        if self.blob_size(source, digest) is None:
            return False
        self._make_repository(repository)
        if self.blob_size(repository, digest) is None:
            blob = self._layout.blob(repository, digest)
            blob.unlink(missing_ok=True)
            make_directories(blob.parent)
            try:
                link(self._layout.blob(source, digest), blob, self._layout.uploads)
            except FileExistsError:
                pass  # somebody else was faster
            except FileNotFoundError:
                return False  # removed meanwhile
        return True

    def remove_blob(self, repository: str, digest: str) -> None:
        """Remove a blob from one repository, and its bytes if that was the last one."""
        if not self.has_repository(repository) or not grammar.is_digest(digest):
            raise KeyError(digest)
        _remove(self._layout.blob(repository, digest))
        # Freed while another repository takes it, the name is lost and the bytes aren't: that one has its own.
        shared = self._layout.shared_blob(digest)
        with contextlib.suppress(FileNotFoundError):
            if shared.stat().st_nlink == 1:
                shared.unlink()

    # Manifests and tags.

    def put_manifest(self, repository: str, manifest: StoredManifest, tag: str | None = None) -> None:
        """Keep a manifest under its digest, and let `tag` name it from now on."""
        if tag is not None:
            check_tag(tag)
        media_type = manifest.media_type.encode("utf-8", "surrogateescape")
        if b"\n" in media_type:
            raise ValueError("a media type is one line")
        self._make_repository(repository)
        with locked(self._layout.lock(repository)):
            self._write(self._layout.manifest(repository, manifest.digest), media_type + b"\n" + manifest.raw)
            if tag is not None:
                self._write(self._layout.tag(repository, tag), manifest.digest.encode() + b"\n")

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        """Return the manifest that a tag or a digest names; raise NAME_UNKNOWN or MANIFEST_UNKNOWN."""
        self._require(repository)
        # Between the look at the tag and the one at the manifest, the tag may move and the manifest go.
        for _ in range(_LOOKS):
            digest = reference if grammar.is_digest(reference) else self._named(repository, reference)
            found = None if digest is None else self._read_manifest(repository, digest)
            if found is not None:
                return found
            if digest in (None, reference):
                break
        raise unknown_manifest(repository, reference)

    def manifests(self, repository: str) -> Iterator[StoredManifest]:
        """Find all manifests of a repository that are intact."""
        if self.has_repository(repository):
            for path in self._layout.manifests(repository).glob("*/*"):
                digest = f"{path.parent.name}:{path.name}"
                found = self._read_manifest(repository, digest) if grammar.is_digest(digest) else None
                if found is not None:
                    yield found

    def has_repository(self, repository: str) -> bool:
        """Tell whether something was ever put into `repository`."""
        return grammar.is_repository(repository) and self._layout.manifests(repository).is_dir()

    def repositories(self) -> list[str]:
        """Return the names of the repositories that hold a manifest, in the order of their characters."""
        return sorted(name for name in self._layout.names() if any(self._layout.manifests(name).glob("*/*")))

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository in the order of the spec; raise NAME_UNKNOWN."""
        self._require(repository)
        return sorted(self._tags(repository), key=tag_order)

    def remove_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest and the tags that name it; its blobs stay."""
        if not self.has_repository(repository) or not grammar.is_digest(digest):
            raise KeyError(digest)
        with locked(self._layout.lock(repository)):
            manifest = self._layout.manifest(repository, digest)
            if not manifest.exists():
                raise KeyError(digest)
            for tag in list(self._tags(repository)):  # first: a tag never names what is gone
                if self._named(repository, tag) == digest:
                    _remove(self._layout.tag(repository, tag))
            _remove(manifest)

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag; the manifest stays."""
        if not self.has_repository(repository) or not grammar.is_tag(tag):
            raise KeyError(tag)
        with locked(self._layout.lock(repository)):
            _remove(self._layout.tag(repository, tag))

    # Files.

    def _require(self, repository: str) -> None:
        if not self.has_repository(repository):
            raise unknown_repository(repository)

    def _make_repository(self, repository: str) -> None:
        make_directories(self._layout.manifests(repository))

    def _find_blob(self, repository: str, digest: str) -> bytes | FileReader | None:
        if not grammar.is_repository(repository) or not grammar.is_digest(digest):
            return None
        reader = self._reader(self._layout.blob(repository, digest), digest)
        if reader is None or reader.size > _SMALL_BLOB_BYTES:
            return reader
        with contextlib.closing(reader), contextlib.suppress(DamagedBlob):
            return b"".join(_pieces(reader))
        return None

    def _reader(self, path: Path, digest: str) -> FileReader | None:
        descriptor = open_file(path)
        if descriptor is None:
            return None
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if identity in self._damaged:
            os.close(descriptor)
            return None
        return FileReader(descriptor, digest, lambda: self._damaged.add(identity))

    def _is_intact(self, path: Path, digest: str) -> bool:
        reader = self._reader(path, digest)
        if reader is None:
            return False
        with contextlib.closing(reader), contextlib.suppress(DamagedBlob):
            for _ in _pieces(reader):
                pass
            return True
        return False

    def _read_manifest(self, repository: str, digest: str) -> StoredManifest | None:
        content = read_file(self._layout.manifest(repository, digest))
        if content is None:
            return None
        media_type, _, raw = content.partition(b"\n")
        if not grammar.is_digest_of(digest, raw):
            return None
        return StoredManifest(digest, media_type.decode("utf-8", "surrogateescape"), raw)

    def _named(self, repository: str, tag: str) -> str | None:
        if not grammar.is_tag(tag):
            return None
        digest = (read_file(self._layout.tag(repository, tag)) or b"").decode("ascii", "replace").strip()
        return digest if grammar.is_digest(digest) else None

    def _tags(self, repository: str) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._layout.tags(repository)):
                tag = tag_of_file(name)
                if tag is not None:
                    yield tag

    def _write(self, path: Path, data: bytes) -> None:
        if read_file(path) != data:
            make_directories(path.parent)
            write_file(path, data, self._layout.uploads)


class DirectorySpool(Draft):
    """The `Spool` of content in a directory."""

    def __init__(self, content: DirectoryContent, directory: Path) -> None:
        super().__init__(directory)
        self._content = content

    def keep(self, repository: str, digest: str) -> None:
        """Become the blob `digest` of `repository`."""
        self._content.keep(repository, digest, self)


def _pieces(reader: FileReader) -> Iterator[bytes]:
    return iter(lambda: reader.read(PIECE_BYTES), b"")


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        raise KeyError(path.name) from None
    sync_directory(path.parent)
