"""The disk under a store: private files and directories, and the one place where an OSError becomes a StoreError.

Directories are 0700, files 0600; what is new is synced together with the directory that names it. A symbolic link
is never followed in the last place of a path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Self

from lading.errors import OutOfSpace, StoreError, StoreReadOnly

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = _NOFOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

_STRETCH = 16 * 1024 * 1024
"""Bytes that are left to the system before it is asked to bring them to the disk."""

COPY_SIZE = 1024 * 1024
"""Bytes that are read or written at a time: larger pieces are slower."""

ELSEWHERE = "set LADING_HOME, or Client(store=…), to a directory on a local disk that can be written"

_LOCKED = frozenset({errno.EWOULDBLOCK, errno.EACCES})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""What a file system answers that has no locks: whoever asks goes on without."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "gpfs", "beegfs", "afs", "glusterfs", "ncpfs")
)
"""File systems where several machines see one file: SQLite's shared memory isn't shared there."""

_NETWORK_FUSE = frozenset(("sshfs", "glusterfs", "ceph", "ceph-fuse", "s3fs", "rclone", "gcsfuse"))


def failure(error: OSError, path: str, doing: str, *, needed: int | None = None) -> StoreError:
    """Give the StoreError for ``error``: ``doing`` what to ``path``, or below it, failed, for ``needed`` bytes."""
    name = error.filename2 or error.filename or path
    message = f"the store can't {doing} {name}: {error.strerror or error}"
    if error.errno in _FULL:
        bytes_needed = "" if needed is None else f", {needed} bytes are needed"
        return OutOfSpace(message + bytes_needed, hint=f"free some space, or {ELSEWHERE}")
    if error.errno in _REFUSED:
        return StoreReadOnly(message, hint=ELSEWHERE)
    return StoreError(message)


def reading_failure(error: OSError, path: str) -> StoreError:
    """Give the StoreError for an ``error`` that says nothing about what is stored in ``path``."""
    message = f"the store can't read {path}: {error.strerror or error}"
    access = "give this user access to it, or " if error.errno in _REFUSED else ""
    return StoreError(message, hint=f"{access}set LADING_HOME to another directory")


@contextmanager
def translated(path: str, doing: str, *, needed: int | None = None) -> Iterator[None]:
    """Raise the StoreError for every OSError inside."""
    try:
        yield
    except OSError as error:
        raise failure(error, path, doing, needed=needed) from error


def make_directories(path: str) -> None:
    """Make ``path`` and what is missing above it, each durably. Raises OSError."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_directories(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    sync_directory(parent)


def sync_directory(path: str) -> None:
    """Make the names in the directory ``path`` durable, where the system can do that. Raises OSError."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS & ~_NOFOLLOW)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have nothing to sync in a directory
            raise
    finally:
        os.close(descriptor)


def sync_file(path: str) -> None:
    """Make what is in the file ``path`` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | _FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_file(path: str) -> int:
    """Create ``path``, which must not exist, and give a descriptor to write it. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)


def open_lock(path: str) -> int:
    """Open the lock file ``path``, which may exist and is never truncated. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)


def open_regular(path: str) -> tuple[int, int]:
    """Open a regular file to read; gives a descriptor and the size in bytes. Raises OSError.

    What isn't a regular file is ELOOP, without having been followed or waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.ELOOP, "not a regular file", path)
    return descriptor, status.st_size


class Held:
    """An open file of this process alone, which it may lock: ``flock(2)``, where there is that.

    Such a lock lives as long as any copy of its descriptor, and a forked child has one: it closes it at once, so that
    the lock ends with the process that took it. Made and closed by any thread, used by one at a time.
    """

    _all: ClassVar[set[Held]] = set()
    _gate = threading.RLock()  # also held while this process forks: no descriptor is opened but not yet noted then

    def __init__(self, path: str, flags: int = os.O_RDWR) -> None:
        """Open the regular file ``path`` to read and write, or as ``flags`` say.

        Raises OSError; what isn't a regular file is ELOOP, without having been followed or waited for.
        """
        self._process = os.getpid()
        with self._gate:
            self.descriptor = os.open(path, flags | _FLAGS | getattr(os, "O_NONBLOCK", 0), 0o600)
            self._all.add(self)
        if not stat.S_ISREG(self.status().st_mode):
            self.close()
            raise OSError(errno.ELOOP, "not a regular file", path)

    @classmethod
    def create(cls, path: str) -> Self:
        """Make the file ``path``, which must not exist. Raises OSError."""
        return cls(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    @property
    def is_inherited(self) -> bool:
        """Whether it is the parent's, so that nothing may be done with it or its file."""
        return self._process != os.getpid()

    def status(self) -> os.stat_result:
        """Give the status of the open file. Raises OSError."""
        return os.fstat(self.descriptor)

    def is_at(self, path: str) -> bool:
        """Tell whether ``path`` still names this very file."""
        try:
            return os.path.samestat(self.status(), os.lstat(path))
        except OSError:
            return False

    def lock(self, *, alone: bool = True) -> bool:
        """Lock the file unless somebody else did; tells whether that is so. Raises OSError."""
        if not has_locks():
            return True
        import fcntl

        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCKED:
                return False
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def close(self) -> None:
        """Unlock and close the file. May be called again. Raises OSError."""
        with self._gate:
            descriptor, self.descriptor = self.descriptor, -1
            self._all.discard(self)
        if descriptor < 0:
            return
        try:
            # At once: a process that is just being started has a copy of the descriptor until it runs its program.
            if has_locks() and not self.is_inherited:
                import fcntl

                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    @classmethod
    def leave_to_parent(cls) -> None:
        """Close, in a forked child, its copies of what the parent holds."""
        for held in cls._all:
            with contextlib.suppress(OSError):
                os.close(held.descriptor)
            held.descriptor = -1
        cls._all.clear()
        cls._gate.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=Held._gate.acquire, after_in_parent=Held._gate.release, after_in_child=Held.leave_to_parent
    )


def has_locks() -> bool:
    """Tell whether this system has ``flock(2)``."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return True


def write_all(descriptor: int, data: bytes) -> None:
    """Write the whole of ``data``. Raises OSError."""
    written = os.write(descriptor, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def start_writing(descriptor: int, before: int, after: int) -> None:
    """Let the system begin to bring a file to the disk that grew from ``before`` to ``after`` bytes, without waiting.

    Otherwise all of it waits for the ``fsync``, and so does the caller: 500 MB then take twice the time.
    """
    end = after // _STRETCH * _STRETCH
    if end > before and hasattr(os, "posix_fadvise"):
        start = before // _STRETCH * _STRETCH
        # On Linux this begins to write what is dirty; only what is already clean would be forgotten.
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Write the whole of ``data`` from byte ``offset`` of the file on. Raises OSError."""
    os.lseek(descriptor, offset, os.SEEK_SET)  # pwrite(2) isn't everywhere
    write_all(descriptor, data)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Read up to ``size`` bytes from byte ``offset`` of the file on; none at its end. Raises OSError."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def copy_file(source: str, target: str) -> None:
    """Copy the regular file ``source`` to ``target``, which must not exist. Raises OSError."""
    reading, _ = open_regular(source)
    try:
        writing = create_file(target)
        try:
            while piece := os.read(reading, COPY_SIZE):
                write_all(writing, piece)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def unique() -> str:
    """Give a name that no other writer uses, in this process or another."""
    return os.urandom(8).hex()


def refuse_network(path: str, table: str = "/proc/self/mountinfo") -> None:
    """Raise StoreError if ``path``, or what exists above it, is on a network file system that can be detected."""
    kind = network_filesystem(path, table)
    if kind:
        raise StoreError(f"the store {path} is on a network file system ({kind})", hint=ELSEWHERE)


def network_filesystem(path: str, table: str = "/proc/self/mountinfo") -> str:
    """Give the type of the network file system that ``path`` is on, or an empty string (proc(5), mountinfo)."""
    device = _device(path)
    # A file system on a block device is local; the others have major number 0.
    if device is None or os.major(device) != 0:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue
                mounted, _, source = line.partition(" - ")
                if mounted.split(" ", 3)[2] == number:
                    kind = source.split(" ", 1)[0]
                    return kind if kind in _NETWORK or kind.removeprefix("fuse.") in _NETWORK_FUSE else ""
    except (OSError, IndexError):
        return ""
    return ""


def _device(path: str) -> int | None:
    if not hasattr(os, "major"):
        return None
    while True:
        try:
            return os.stat(path).st_dev
        except OSError:
            parent = os.path.dirname(path)
            if parent == path:
                return None
            path = parent
