"""Files that are whole or not there, whatever kills the process: drafts, locks, readers that verify.

A draft is written under a private name, synchronised, and only then gets its real name. Its writer holds a lock
on it: `sweep` removes the drafts that nobody holds any more, which a killed process left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from lading.testing.content import DamagedBlob

PIECE_BYTES = 1024 * 1024
_NEVER = -1

# Not everywhere: O_BINARY is Windows', the others POSIX's.
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0)  # a FIFO in the way doesn't block

# Names share the bytes, so nobody should edit them in place. Windows couldn't delete a read-only file.
_MODE = 0o444 if os.name == "posix" else 0o666

# What says "no hard links here", or no more of them, or not for this user.
_NO_LINK = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
)

# What says "no regular file here": ELOOP is a symbolic link, ENXIO a socket.
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO})


class Draft:
    """A file under a private name in `directory`, from its first byte until it is discarded or dropped."""

    def __init__(self, directory: Path) -> None:
        self.size = 0
        self._directory = directory
        self._sha256 = hashlib.sha256()
        self._hashed = 0
        self._open: tuple[int, Path] | None = None
        self._drop: Callable[[], object] | None = None

    def append(self, piece: bytes) -> None:
        """Write at the end; what a failed write leaves there is not part of the draft."""
        descriptor, _ = self._opened()
        os.lseek(descriptor, self.size, os.SEEK_SET)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if self._hashed == self.size:
            self._sha256.update(piece)
            self._hashed += len(piece)
        self.size += len(piece)

    def truncate(self, size: int) -> None:
        """Forget everything after the first `size` bytes, and free their space."""
        self.size = size
        if self._hashed > size:
            self._hashed = _NEVER  # a hash can't go back
        if self._open is not None:
            os.ftruncate(self._open[0], size)

    def digest(self, algorithm: str) -> str:
        """Return the digest of the draft, without reading it again if it is the usual one."""
        if algorithm == "sha256" and self._hashed == self.size:
            return f"sha256:{self._sha256.hexdigest()}"
        descriptor, _ = self._opened()
        os.lseek(descriptor, 0, os.SEEK_SET)
        hasher, rest = hashlib.new(algorithm), self.size
        while rest and (piece := os.read(descriptor, min(rest, PIECE_BYTES))):
            hasher.update(piece)
            rest -= len(piece)
        return f"{algorithm}:{hasher.hexdigest()}"

    def link(self, target: Path) -> None:
        """Give the draft another name too, for good; raise `FileExistsError`."""
        link(self._synchronised(), target, self._directory)

    def replace(self, target: Path) -> None:
        """Rename the draft, for good, in the place of what was there."""
        os.replace(self._synchronised(), target)
        sync_directory(target.parent)

    def discard(self) -> None:
        """Remove the private name, if there is one."""
        if self._drop is not None:
            self._drop()
        self._open = None

    def _opened(self) -> tuple[int, Path]:
        if self._open is None:
            self._open = _create(self._directory)
            self._drop = weakref.finalize(self, _drop, *self._open)
        return self._open

    def _synchronised(self) -> Path:
        descriptor, path = self._opened()
        os.ftruncate(descriptor, self.size)
        os.fsync(descriptor)
        return path


class FileReader:
    """Reads a file from the first byte to the last, which it gives away only if the digest is right."""

    def __init__(self, descriptor: int, digest: str, damaged: Callable[[], object]) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._rest = self.size
        self._digest = digest
        self._hasher = hashlib.new(digest.partition(":")[0])
        self._is_whole = True
        self._damaged = damaged
        self._close = weakref.finalize(self, os.close, descriptor)

    def narrow(self, start: int, stop: int, /) -> None:
        """Read only the bytes from `start` to before `stop`, which nothing verifies unless they are all."""
        os.lseek(self._descriptor, start, os.SEEK_SET)
        self._is_whole = (start, stop) == (0, self.size)
        self._rest = stop - start

    def read(self, limit: int, /) -> bytes:
        """Return the next bytes, nothing at the end; raise `DamagedBlob` instead of the last ones."""
        piece = os.read(self._descriptor, min(limit, self._rest)) if self._rest else b""
        if self._is_whole:
            self._hasher.update(piece)
        self._rest -= len(piece)
        is_cut = not piece and self._rest > 0
        is_wrong = self._is_whole and not self._rest and self._hashed() != self._digest
        if is_cut or is_wrong:
            self._damaged()
            raise DamagedBlob(self._digest)
        return piece

    def _hashed(self) -> str:
        return f"{self._hasher.name}:{self._hasher.hexdigest()}"

    def close(self) -> None:
        """Close the file; twice is fine, and who drops the reader needn't."""
        self._close()


def open_file(path: Path) -> int | None:
    """Open a regular file to read it; None if there is none."""
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_file(path: Path) -> bytes | None:
    """Return a small file whole; None if there is none."""
    descriptor = open_file(path)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:
        return file.read()


def write_file(path: Path, data: bytes, drafts: Path) -> None:
    """Write a small file whole, for good, in the place of what was there."""
    draft = Draft(drafts)
    try:
        draft.append(data)
        draft.replace(path)
    finally:
        draft.discard()


def link(source: Path, target: Path, drafts: Path) -> None:
    """Make `target` a name of `source` for good, a copy where there are no links; raise `FileExistsError`."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(source, target, drafts)
    else:
        sync_directory(target.parent)


def make_directories(path: Path) -> None:
    """Make a directory and those above it, for good."""
    if not path.is_dir():
        make_directories(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last; Windows can't and needn't."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, among threads and processes; without fcntl (Windows) there is no lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove the drafts that nobody writes any more."""
    for path in directory.iterdir():
        descriptor = open_file(path)
        if descriptor is not None:
            try:
                if _lock(descriptor, wait=False):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _create(directory: Path) -> tuple[int, Path]:
    while True:
        path = directory / uuid.uuid4().hex
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, _MODE)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # swept between its creation and its lock


def _drop(descriptor: int, path: Path) -> None:
    # The lock lasts until the name is gone; Windows has no lock, and can't unlink what is open.
    if os.name == "posix":
        path.unlink(missing_ok=True)
        os.close(descriptor)
    else:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path, drafts: Path) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    draft = Draft(drafts)
    try:
        with source.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                draft.append(piece)
        draft.replace(target)
    finally:
        draft.discard()


def _lock(descriptor: int, *, wait: bool = True) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
