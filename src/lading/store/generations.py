"""Generations: ``index-<N>.db``, of which the highest counts, and the lock under which the next one appears.

An index is built under a temporary name and appears whole. Commits hold the lock shared, what makes, migrates or
repairs an index holds it alone: nothing is committed to an index that is being left. Look-ups hold nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lading.errors import StoreError
from lading.store.disk import (
    create_file,
    make_directories,
    open_lock,
    reading_failure,
    refuse_network,
    sync_directory,
    sync_file,
    translated,
    unique,
)

_NAME = re.compile(r"index-([1-9][0-9]{0,17})\.db")
_PATIENCE = 60.0
"""Seconds to wait for other processes that hold the lock."""

_PAUSE = 0.002
"""Seconds between two attempts."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})

Identity = tuple[int, ...]


def identity(path: str) -> Identity | None:
    """Tell one file at ``path`` from any later one; ``None`` if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def state(path: str) -> Identity | None:
    """Tell one state of the file at ``path`` from any later one; ``None`` if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Generations:
    """The generations of the index of the store in ``directory``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._ingest = os.path.join(directory, "ingest")
        self._lock = os.path.join(directory, "lock")
        self._wish = os.path.join(directory, "lock-alone")
        self._checked = False

    def path(self, number: int) -> str:
        """Tell where the index of generation ``number`` is, or would be."""
        return os.path.join(self.directory, f"index-{number}.db")

    def current(self) -> int:
        """Give the number of the current generation, 0 if there is none.

        Raises:
            StoreError: the directory can't be read, or is on a network file system.
        """
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise reading_failure(error, self.directory) from error
        if not self._checked:
            refuse_network(self.directory)
            self._checked = True
        return max((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), default=0)

    def prepare(self) -> None:
        """Make the directory. Raises StoreError, also if it is on a network file system."""
        with translated(self.directory, "make"):
            refuse_network(self.directory)
            make_directories(self._ingest)

    @contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Hold the lock, alone or with other commits. Raises StoreError if it can't be had."""
        with translated(self._lock, "lock"):
            descriptor = self._acquire_alone() if alone else self._acquire_shared()
        try:
            yield
        finally:
            os.close(descriptor)

    def _acquire_shared(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        # Commits of others may follow each other so closely that whoever wants to be alone would wait for ever.
        while os.access(self._wish, os.F_OK):
            wish = self._try(self._wish, alone=False)
            if wish is not None:  # whoever wished was killed
                with contextlib.suppress(OSError):
                    os.unlink(self._wish)
                os.close(wish)
                break
            self._wait(deadline)
        return self._acquire(self._lock, alone=False)

    def _acquire_alone(self) -> int:
        wish = self._acquire(self._wish, alone=True)
        try:
            return self._acquire(self._lock, alone=True)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self._wish)
            os.close(wish)

    def _acquire(self, path: str, *, alone: bool) -> int:
        deadline = time.monotonic() + _PATIENCE
        while (descriptor := self._try(path, alone=alone)) is None:
            self._wait(deadline)
        return descriptor

    def _try(self, path: str, *, alone: bool) -> int | None:
        descriptor = open_lock(path)
        try:
            # The file may have been deleted, perhaps with the whole store, before it was locked.
            if _try_lock(descriptor, alone) and _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _wait(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise StoreError(
                f"the store {self.directory} is locked by another process",
                hint="see which process it is, for example with lsof, and end it",
            )
        time.sleep(_PAUSE)

    def publish(self, number: int, build: Callable[[str], None]) -> None:
        """Let ``build`` write the index ``number`` under a temporary name, then make it appear, whole and durable.

        If one of that number appeared in the meantime, that one stays.

        Raises:
            StoreError: the disk refused.
        """
        path = self.path(number)
        temporary = os.path.join(self._ingest, f"index-{number}.{unique()}.part")
        with translated(path, "create"):
            try:
                os.close(create_file(temporary))
                build(temporary)
                sync_file(temporary)
                _appear(temporary, path)
                sync_directory(self.directory)
            finally:
                for name in (temporary, f"{temporary}-wal", f"{temporary}-shm", f"{temporary}-journal"):
                    with contextlib.suppress(OSError):
                        os.unlink(name)


class Watch:
    """Tells whether generation ``number`` is still the current one, by looking at two names."""

    def __init__(self, generations: Generations, number: int, *, frozen: bool = False) -> None:
        self.number = number
        self.path = generations.path(number)
        self.identity = identity(self.path)
        self._generations = generations
        self._next = generations.path(number + 1)
        self._states = self._look() if frozen else None

    def frozen(self) -> Watch:
        """Give one that also notices when somebody writes to the file."""
        return Watch(self._generations, self.number, frozen=True)

    @property
    def is_frozen(self) -> bool:
        """Whether it notices that."""
        return self._states is not None

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file, not a link to one."""
        return os.path.isfile(self.path) and not os.path.islink(self.path)

    def holds(self) -> bool:
        """Whether the file is the same one and the last one, and nobody wrote to it if that matters."""
        if self.identity is None or os.access(self._next, os.F_OK) or identity(self.path) != self.identity:
            return False
        return self._states is None or self._look() == self._states

    def _look(self) -> tuple[Identity | None, ...]:
        return state(self.path), state(self.path + "-wal")


def _appear(temporary: str, path: str) -> None:
    """Give the file its name, unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(temporary, path)


def _try_lock(descriptor: int, alone: bool) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_at(descriptor: int, path: str) -> bool:
    status = os.fstat(descriptor)
    return identity(path) == (status.st_dev, status.st_ino)
