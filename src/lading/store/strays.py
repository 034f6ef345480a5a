"""Strays: files of a store that nobody owns any more, found by their names and taken out of the way.

What is named in a way that isn't ours is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Set

from lading.store.disk import unique
from lading.store.gc import Stray
from lading.store.generations import Generations
from lading.store.partials import is_locked, leftovers

_TEMPORARY = re.compile(
    r"index-[0-9]+\.[0-9a-f]{16}\.part(-wal|-shm|-journal)?"  # an index that is being made
    r"|salvage\.[0-9a-f]{16}"  # one that is being read, damaged
    r"|collected\.[0-9a-f]{16}"  # what another collection was killed over
)
_TURN = re.compile(r"([a-z0-9]+)-([0-9a-f]+)\.lock")
_INDEX = re.compile(r"index-([1-9][0-9]{0,17})\.db(-wal|-shm|-journal)?")


class Strays:
    """Looks for strays in the directory of a store, and sets them aside. Blocking.

    Whoever asks holds the lock of the generations alone, or doesn't mind what is made at this moment. What is in
    ``needed`` is left to those who need it. Raises OSError.
    """

    def __init__(self, generations: Generations, ingest: str) -> None:
        self._generations = generations
        self._ingest = ingest
        self._aside: list[str] = []

    def unowned(self, needed: Set[str]) -> Iterator[Stray]:
        """Give partials that nobody owns, and temporary files of processes that were killed."""
        for part in leftovers(self._ingest):
            if not part.is_owned and str(part.digest) not in needed and not is_directory(part.path):
                yield Stray("partial", part.path, part.bytes)
        for name in _names(self._ingest):
            path = os.path.join(self._ingest, name)
            turn = _TURN.fullmatch(name)
            if _TEMPORARY.fullmatch(name) or (turn and f"{turn[1]}:{turn[2]}" not in needed and not is_locked(path)):
                yield Stray("temporary", path, size_on_disk(path))

    def left_aside(self, age: float) -> Iterator[Stray]:
        """Give indexes that were damaged, and last written more than ``age`` seconds ago."""
        last = self._generations.current()
        for name in _names(self._generations.directory):
            found, path = _INDEX.fullmatch(name), os.path.join(self._generations.directory, name)
            index = path if found is None else path.removesuffix(found[2] or "")
            if found and int(found[1]) < last and _age(index if os.path.lexists(index) else path) > age:
                yield Stray("index", path, size_on_disk(path))

    def set_aside(self, path: str) -> bool:
        """Take a file out of the way, to be removed by :meth:`destroy`; tells whether it was still there."""
        target = os.path.join(self._ingest, f"collected.{unique()}")
        try:
            os.rename(path, target)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return False
            target = path  # there is no directory to put it into
        except OSError:  # that one may be full
            target = path
        if target == path:
            _remove(path)
        else:
            self._aside.append(target)
        return True

    def destroy(self) -> None:
        """Remove what was set aside. What can't be removed is left to the next collection."""
        while self._aside:
            with contextlib.suppress(OSError):
                _remove(self._aside.pop())


def size_on_disk(path: str) -> int:
    """Give the bytes that a file takes, or all in a directory; 0 for what isn't there."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        return sum(size_on_disk(os.path.join(path, name)) for name in _names(path))
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)  # most of it may be a hole


def _remove(path: str) -> None:
    if is_directory(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def is_directory(path: str) -> bool:
    """Tell whether it is a directory, and not a link to one: what somebody put there."""
    return os.path.isdir(path) and not os.path.islink(path)


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
