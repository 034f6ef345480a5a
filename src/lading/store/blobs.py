"""Blobs: larger content, each in a read-only file of its own, named by its digest.

A blob becomes real in one order: a temporary file on the same file system, its size, its digest, ``fsync``, rename,
``fsync`` of the directory. Every read verifies the whole file. Blocking; callers that mind use a thread: what takes
long asks a ``go_on`` between two pieces, which may raise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from lading.errors import DigestMismatch, InvalidDigest, SizeMismatch, StoreCorrupted, StoreError
from lading.oci.digest import Digest
from lading.store.disk import (
    COPY_SIZE,
    Held,
    make_directories,
    open_regular,
    read_at,
    reading_failure,
    refuse_network,
    start_writing,
    sync_directory,
    translated,
    write_at,
)
from lading.store.partials import KEPT, Claim, claim, left_name, own_name, write_record
from lading.store.spans import Spans
from lading.store.store import Absent, Corrupt, Intact

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
        self.top = os.path.join(directory, "blobs")

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

    def stream(self, digest: Digest, found: Intact | int | Absent | Corrupt) -> Iterator[bytes] | Absent:
        """Give in pieces what was ``found`` of ``digest``; that is the size of what is a blob of its own.

        Raises StoreCorrupted, StoreError, now or at any piece.
        """
        if isinstance(found, int):
            return self.pieces(digest, found)
        if isinstance(found, Corrupt):
            raise StoreCorrupted(found.reason)
        return iter((found.content,)) if isinstance(found, Intact) else found

    def pieces(self, digest: Digest, size: int) -> Iterator[bytes]:
        """Give the blob in pieces; the last one not before all of it is verified.

        Raises:
            StoreCorrupted: it is damaged, which may show at any piece.
            StoreError: that can't be told.
        """
        path = self.path(digest)
        try:
            descriptor, found = open_regular(path)
            try:
                if found != size:
                    raise StoreCorrupted(f"the blob {path} has {found} bytes instead of {size}")
                hasher, last, rest = digest.hasher(), b"", size
                while rest > 0 and (piece := os.read(descriptor, min(COPY_SIZE, rest))):
                    hasher.update(piece)
                    rest -= len(piece)
                    if last:
                        yield last
                    last = piece
                if rest or hasher.hexdigest() != digest.encoded:
                    raise StoreCorrupted(f"the blob {path} isn't the content that it is named after")
                yield last
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _DAMAGE:
                raise StoreCorrupted(f"the blob {path} {_DAMAGE[error.errno]}") from error
            raise reading_failure(error, path) from error

    def files(self) -> dict[str, Digest | None]:
        """Give every path below ``blobs/``, with its digest if it is named like a blob. Raises StoreError."""
        found: dict[str, Digest | None] = {}
        for algorithm in _entries(self.top):
            if not algorithm.is_dir(follow_symlinks=False):
                found[algorithm.path] = None
                continue
            for entry in _entries(algorithm.path):
                found[entry.path] = None
                with contextlib.suppress(InvalidDigest):
                    found[entry.path] = Digest(algorithm.name, entry.name)
        return found

    def is_whole(self, digest: Digest, size: int, go_on: Callable[[], None]) -> bool:
        """Tell whether the blob ``digest`` is there, all of it read and verified, and make its name durable.

        Raises StoreError if that can't be done.
        """
        path = self.path(digest)
        try:
            descriptor, found = open_regular(path)
        except OSError:
            return False
        try:
            hasher = digest.hasher()
            while size == found and (piece := os.read(descriptor, COPY_SIZE)):
                hasher.update(piece)
                go_on()
        except OSError:
            return False
        finally:
            os.close(descriptor)
        if size != found or hasher.hexdigest() != digest.encoded:
            return False
        self._sync(path)
        return True

    def begin(self, digest: Digest, size: int, *, may_stay: bool = False) -> Part:
        """Begin to write the blob ``digest`` of ``size`` bytes; nothing is created before its first byte.

        What ``may_stay`` can be left unfinished, to be gone on with.
        """
        return Part(self, digest, size, may_stay=may_stay)

    def resume(self, digest: Digest, size: int) -> Part:
        """Begin likewise, or go on with what was left; of that nothing is verified before :meth:`Part.catch_up`.

        Raises StoreError if the disk refuses.
        """
        with translated(self.ingest, "read"):
            return Part(self, digest, size, claim(self.ingest, digest, size), may_stay=True)

    def put(self, digest: Digest, content: bytes) -> None:
        """Make the blob real, durably, unless it is already there and intact.

        Raises:
            DigestMismatch: ``content`` isn't what ``digest`` names.
            StoreError: the disk refused.
        """
        size = len(content)
        if self.holds(digest, size) and isinstance(self.read(digest, size), Intact):
            self._sync(self.path(digest))
            return
        part = self.begin(digest, size)
        try:
            part.write(content)
            part.finish()
        finally:
            part.discard()

    def _sync(self, path: str) -> None:
        with translated(path, "write"):
            sync_directory(os.path.dirname(path))  # whoever wrote it may not have come so far

    def prepare(self, algorithm: str) -> None:
        """Make the directories that a blob needs. Raises OSError, and StoreError on a network file system."""
        home = os.path.join(self._directory, "blobs", algorithm)
        if not (os.path.isdir(home) and os.path.isdir(self.ingest)):
            refuse_network(self._directory)
            make_directories(home)
            make_directories(self.ingest)


class Part:
    """A blob that is being written: a file of its own in ``ingest/`` until it is whole.

    Of one writer, one call at a time. Whoever began it calls :meth:`discard` or :meth:`leave` in the end.
    """

    def __init__(
        self, blobs: Blobs, digest: Digest, size: int, claimed: Claim | None = None, *, may_stay: bool = False
    ) -> None:
        self.etag = claimed.etag if claimed else ""
        """What is remembered with the partial about its bytes."""
        self._blobs = blobs
        self._digest = digest
        self._size = size
        self._hasher = digest.hasher()
        self._hashed = 0
        self._written = claimed.spans if claimed else Spans()
        self._path = claimed.path if claimed else os.path.join(blobs.ingest, own_name(digest))
        self._held = claimed.held if claimed else None
        self._exists = claimed is not None
        self._is_sealed = claimed is not None and claimed.is_sealed
        self._may_stay = may_stay
        self._recorded = (self._written.total, self.etag)

    @property
    def is_open(self) -> bool:
        """Whether there is something to discard."""
        return self._exists

    @property
    def prefix(self) -> int:
        """How many bytes are there in a row, from the first one on; not all of them may be hashed."""
        return self._written.prefix

    @property
    def spans(self) -> Spans:
        """Which bytes are there; as a whole they aren't verified."""
        return Spans.of(self._written.stretches, self._size)

    @property
    def may_stay(self) -> bool:
        """Whether there is so much that it is worth to be gone on with."""
        return self._may_stay and self._exists and self._written.total > KEPT

    def write(self, data: bytes, offset: int | None = None) -> None:
        """Take the next bytes, or those from ``offset`` on. Raises StoreError if the disk refuses."""
        offset = self.prefix if offset is None else offset
        end = offset + len(data)
        if offset == self._hashed:
            self._hasher.update(data)
            self._hashed = end
        with translated(self._path, "write", needed=self._size - self._written.total):
            descriptor = self._open()
            write_at(descriptor, offset, data)
            start_writing(descriptor, offset, end)
        self._written.add(offset, end)

    def catch_up(self, go_on: Callable[[], None]) -> None:
        """Hash what is there in a row and wasn't hashed when it was written. Raises StoreError."""
        while self._hashed < self.prefix:
            go_on()
            with translated(self._path, "read"):
                data = read_at(self._open(), self._hashed, min(COPY_SIZE, self.prefix - self._hashed))
                if os.utime in os.supports_fd:
                    os.utime(self._open())  # whoever waits for it sees that somebody is at work
            if not data:
                raise StoreError(f"{self._path} was changed while it was written")
            self._hasher.update(data)
            self._hashed += len(data)

    def record(self) -> None:
        """Let the partial say what it has, once it is worth it. Raises StoreError if the disk refuses."""
        told = (self._written.total, self.etag)
        if self.may_stay and self._held and told != self._recorded and not self._is_sealed:
            self._open()
            with translated(self._path, "write"):
                write_record(self._held, self._size, self._written, self.etag)
            self._recorded = told

    def finish(self) -> None:
        """Verify the blob and make it real, durably.

        Raises:
            SizeMismatch: it has another size than was said.
            DigestMismatch: it is something else.
            StoreError: the disk refused.
        """
        if self.prefix != self._size:
            raise SizeMismatch(f"{self._digest}: {self.prefix} bytes instead of {self._size}")
        self.catch_up(lambda: None)
        if self._hasher.hexdigest() != self._digest.encoded:
            raise DigestMismatch(
                f"{self._digest}: got content with the digest {self._digest.algorithm}:{self._hasher.hexdigest()}"
            )
        with translated(self._path, "write", needed=self._size):
            descriptor = self._open()
            if os.fstat(descriptor).st_size != self._size:
                os.ftruncate(descriptor, self._size)  # what it said about itself isn't content
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o400)
            os.fsync(descriptor)
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

    def leave(self) -> None:
        """Leave what was written to whoever goes on with it. May be called again; then, or after a blob, nothing."""
        with contextlib.suppress(OSError, StoreError):  # it stays under this name, and goes as far as it said before
            self.record()
        with contextlib.suppress(OSError):
            self._close()
            if self._exists:
                self._exists = False
                os.rename(self._path, os.path.join(self._blobs.ingest, left_name(self._digest)))

    def _open(self) -> int:
        if self._held is None:
            if self._written.total:
                raise StoreError(f"{self._path} was discarded while it was written")
            self._blobs.prepare(self._digest.algorithm)
            self._held = Held.create(self._path)
            self._exists = True
            self._held.lock()
        if self._held.is_inherited:
            raise StoreError(f"{self._path} is being written by another process")
        return self._held.descriptor

    def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._exists = self._exists and not held.is_inherited
            held.close()


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise reading_failure(error, directory) from error


def _read(descriptor: int, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := os.read(descriptor, size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
