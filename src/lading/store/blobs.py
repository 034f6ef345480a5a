"""Blobs: larger content, each in a read-only file of its own, named by its digest.

A blob becomes real in one order: a temporary file on the same file system, its size, its digest, ``fsync``, rename,
``fsync`` of the directory. Every read verifies the whole file. Blocking; callers that mind use a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from lading.errors import DigestMismatch, SizeMismatch, StoreError
from lading.oci.digest import Digest
from lading.store.disk import (
    create_file,
    make_directories,
    open_regular,
    reading_failure,
    refuse_network,
    start_writing,
    sync_directory,
    translated,
    unique,
    write_all,
)
from lading.store.store import Corrupt, Intact

_DAMAGE = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is missing",
    errno.ELOOP: "isn't a regular file",
    errno.ENXIO: "isn't a regular file",
    errno.EISDIR: "isn't a regular file",
    errno.EIO: "can't be read from the disk",
}
"""What a failure to read says about the blob itself; any other says something about this process."""


class Blobs:
    """The blobs of the store in ``directory``."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.ingest = os.path.join(directory, "ingest")

    def path(self, digest: Digest) -> str:
        """Tell where the blob ``digest`` is, or would be."""
        return os.path.join(self._directory, "blobs", digest.algorithm, digest.encoded)

    def holds(self, digest: Digest, size: int) -> bool:
        """Tell whether there is a regular file of ``size`` bytes for ``digest``; its content isn't looked at."""
        try:
            status = os.lstat(self.path(digest))
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def read(self, digest: Digest, size: int) -> Intact | Corrupt:
        """Give the whole blob, verified. Raises StoreError if that can't be told."""
        path = self.path(digest)
        try:
            descriptor, found = open_regular(path)
            try:
                content = _read(descriptor, size) if found == size else b""
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _DAMAGE:
                return Corrupt(f"the blob {path} {_DAMAGE[error.errno]}")
            raise reading_failure(error, path) from error
        if found != size:
            return Corrupt(f"the blob {path} has {found} bytes instead of {size}")
        if not digest.matches(content):
            return Corrupt(f"the blob {path} isn't the content that it is named after")
        return Intact(content)

    def begin(self, digest: Digest, size: int) -> Part:
        """Begin to write the blob ``digest`` of ``size`` bytes; nothing is created before its first byte."""
        return Part(self, digest, size)

    def put(self, digest: Digest, content: bytes) -> None:
        """Make the blob real, durably, unless it is already there and intact.

        Raises:
            DigestMismatch: ``content`` isn't what ``digest`` names.
            StoreError: the disk refused.
        """
        size = len(content)
        if self.holds(digest, size) and isinstance(self.read(digest, size), Intact):
            path = self.path(digest)
            with translated(path, "write"):
                sync_directory(os.path.dirname(path))  # whoever wrote it may not have come so far
            return
        part = self.begin(digest, size)
        try:
            part.write(content)
            part.finish()
        finally:
            part.discard()

    def prepare(self, algorithm: str) -> None:
        """Make the directories that a blob needs. Raises OSError, and StoreError on a network file system."""
        home = os.path.join(self._directory, "blobs", algorithm)
        if not (os.path.isdir(home) and os.path.isdir(self.ingest)):
            refuse_network(self._directory)
            make_directories(home)
            make_directories(self.ingest)


class Part:
    """A blob that is being written: ``ingest/<algorithm>-<hex>.<unique>.part`` until it is whole.

    Of one writer, one call at a time. Whoever began it calls :meth:`discard` in the end.
    """

    def __init__(self, blobs: Blobs, digest: Digest, size: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size = size
        self._hasher = digest.hasher()
        self._path = os.path.join(blobs.ingest, f"{digest.algorithm}-{digest.encoded}.{unique()}.part")
        self._descriptor = -1
        self._exists = False
        self._written = 0

    @property
    def is_open(self) -> bool:
        """Whether there is something to discard."""
        return self._exists

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises StoreError if the disk refuses."""
        self._hasher.update(data)
        with translated(self._path, "write", needed=self._size - self._written):
            self._open()
            write_all(self._descriptor, data)
            self._written += len(data)
            start_writing(self._descriptor, self._written - len(data), self._written)

    def finish(self) -> None:
        """Verify the blob and make it real, durably.

        Raises:
            SizeMismatch: it has another size than was said.
            DigestMismatch: it is something else.
            StoreError: the disk refused.
        """
        if self._written != self._size:
            raise SizeMismatch(f"{self._digest}: {self._written} bytes instead of {self._size}")
        if self._hasher.hexdigest() != self._digest.encoded:
            raise DigestMismatch(
                f"{self._digest}: got content with the digest {self._digest.algorithm}:{self._hasher.hexdigest()}"
            )
        with translated(self._path, "write", needed=self._size):
            self._open()
            if hasattr(os, "fchmod"):
                os.fchmod(self._descriptor, 0o400)
            os.fsync(self._descriptor)
            self._close()
        # Renaming over an intact blob changes nothing, over a damaged one it repairs.
        path = self._blobs.path(self._digest)
        with translated(path, "write"):
            os.replace(self._path, path)
            self._exists = False
            sync_directory(os.path.dirname(path))

    def discard(self) -> None:
        """Remove what was written, unless it became a blob. May be called again."""
        with contextlib.suppress(OSError):  # what stays is in nobody's way: it is collected as garbage
            self._close()
            if self._exists:
                self._exists = False
                os.unlink(self._path)

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        if self._written:
            raise StoreError(f"{self._path} was discarded while it was written")
        self._blobs.prepare(self._digest.algorithm)
        self._descriptor = create_file(self._path)
        self._exists = True

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := os.read(descriptor, size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
