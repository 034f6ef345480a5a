"""The store, looked at without a trace: nothing is made, migrated or repaired."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from lading.diagnose.finding import Finding, counted
from lading.errors import StoreError
from lading.store.disk import ELSEWHERE
from lading.store.generations import Generations, Watch
from lading.store.index import open_reader, open_untouched
from lading.store.index_errors import Damaged, Moved, Older

_MOST_FILES = 20_000
"""Files whose sizes are added up: more would take long."""

_LITTLE_SPACE = 64 * 1024 * 1024
"""Bytes on the disk that are worth a warning."""


def store(home: str) -> Iterator[Finding]:
    """Say what the store in the directory ``home`` holds, and whether it could be written. Blocking."""
    generations = Generations(home)
    try:
        number = generations.current()
        if number:
            yield _index(home, Watch(generations, number))
        else:
            text = "is empty" if os.path.isdir(home) else "isn't there yet: the first pull makes it"
            yield Finding("store", f"{home} {text}", "note", data={"path": home})
    except StoreError as error:
        yield Finding.of(error, "store", "failure", hint=ELSEWHERE)
        return
    yield _space(home)


def _index(home: str, watch: Watch) -> Finding:
    """Read the index without leaving a trace of that."""
    data: dict[str, object] = {"path": home}
    wal = watch.path + "-wal"
    is_used = os.path.exists(wal) and os.path.getsize(wal) > 0
    try:
        reader = (open_reader if is_used else open_untouched)(watch)
        try:
            references = len(reader.references())
        finally:
            reader.close()
    except Older:
        return Finding("store", f"{home} is of an older format: the next pull brings it up to date", "note", data=data)
    except Moved:
        return Finding("store", f"{home} is being replaced at this very moment", "note", "look again", data=data)
    except Damaged as damage:
        hint = "the next pull repairs what can be repaired"
        return Finding("store", f"{home} is damaged: {damage}", "warning", hint, data=data)
    size, is_all = _size(home)
    data |= {"references": references, "bytes": size if is_all else None}
    text = f"{home}: {counted(references, 'reference')}, {'' if is_all else 'more than '}{_amount(size)}"
    return Finding("store", text, data=data)


def _size(home: str) -> tuple[int, bool]:
    """Give the bytes of the store's files, and whether all of them were counted."""
    total = count = 0
    for directory in (home, os.path.join(home, "ingest"), os.path.join(home, "blobs", "sha256")):
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    count += 1
                    if count > _MOST_FILES:
                        return total, False
                    if entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # it isn't there, or goes at this moment
    return total, True


def _space(home: str) -> Finding:
    """Say whether the store could be written, and how much fits."""
    place = home
    while not os.path.lexists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        text = f"{place} can't be written: agents are pulled, but not kept"
        return Finding("space", text, "warning", ELSEWHERE, data={"writable": False})
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("space", f"{place}: {error.strerror}", "warning")
    data = {"writable": True, "free": free}
    if free < _LITTLE_SPACE:
        return Finding("space", f"only {_amount(free)} are free", "warning", "free some", data=data)
    return Finding("space", f"writable, {_amount(free)} are free", data=data)


def _amount(size: int) -> str:
    if size < 1024:
        return counted(size, "byte")
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"
