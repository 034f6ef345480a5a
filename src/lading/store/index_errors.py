"""What goes wrong with an index: sqlite3's errors, told apart once. A part of ``index``.

Damage is ``Damaged``, a file that is no longer the current one is ``Moved``, all else is a StoreError.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from lading.errors import OutOfSpace, StoreError, StoreReadOnly
from lading.store.disk import ELSEWHERE

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What sqlite3 raises; the latter where even the name of what is damaged isn't text."""

_SHARED_MEMORY = 32768
"""Bytes that SQLite needs beside an index in WAL mode, at least."""

_PERHAPS_FULL = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_REFUSED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_DAMAGED = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_ERROR,  # no such table, no such column: the schema isn't ours
        sqlite3.SQLITE_INTERNAL,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
    }
)


class Damaged(Exception):
    """The index isn't what was written."""


class Moved(Exception):
    """The file is no longer the current index."""


class Gone(Exception):
    """Content that rows need isn't there: ``digests``."""

    def __init__(self, digests: set[str]) -> None:
        super().__init__(*sorted(digests))
        self.digests = digests


class Older(Exception):
    """The index is of an older format, which :func:`migrate` can bring up to date."""


@contextmanager
def reported(path: str) -> Iterator[None]:
    """Raise Damaged or a StoreError for every sqlite3 error inside."""
    try:
        yield
    except ERRORS as error:
        raise failure(error, path) from error


def failure(error: Exception, path: str) -> Damaged | Moved | StoreError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Text that isn't UTF-8 has no code; anything else without one is a mistake of ours.
        is_text = isinstance(error, sqlite3.OperationalError | UnicodeDecodeError)
        return Damaged(f"{path} is damaged: {error}") if is_text else StoreError(f"{path}: {error}")
    primary = code & 0xFF
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return Moved(path)
    if code in _DAMAGED or primary in _DAMAGED:
        return Damaged(f"{path} is damaged: {error}")
    message = f"the store can't use its index {path}: {error}"
    if primary == sqlite3.SQLITE_FULL or (primary in _PERHAPS_FULL and _is_full(path)):
        return OutOfSpace(message, hint=f"free some space, or {ELSEWHERE}")
    if primary in _REFUSED or (primary == sqlite3.SQLITE_CANTOPEN and not os.access(path, os.W_OK)):
        return StoreReadOnly(message, hint=ELSEWHERE)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(message, hint="another process holds on to it: see which one, for example with lsof")
    return StoreError(message)


def _is_full(path: str) -> bool:
    """Tell whether a disk error at ``path`` means that nothing fits any more: SQLite doesn't always say so."""
    try:
        status = os.statvfs(os.path.dirname(path))
    except (OSError, AttributeError):
        return False
    return status.f_bavail * status.f_frsize < _SHARED_MEMORY or (status.f_files > 0 and status.f_favail == 0)
