"""The index: one SQLite file in WAL mode. The only owner of sqlite3, with its parts ``index_*``.

No sqlite3 error leaves here: damage is ``Damaged``, a file that is no longer the current one is ``Moved``, all else is
a StoreError. Readers can't write, by the way they are opened; a writer never writes to a file that it found damaged,
not even when it closes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator

from lading.errors import StoreError
from lading.store.disk import ELSEWHERE, copy_file, translated
from lading.store.generations import Watch
from lading.store.index_collect import compact, forget
from lading.store.index_errors import ERRORS, Damaged, Gone, Moved, Older, reported
from lading.store.index_inventory import Query
from lading.store.index_reader import Reader
from lading.store.index_schema import (
    APPLICATION_ID,
    FORGET_NOTE,
    INSERTS,
    LIMIT_NOTES,
    MIGRATIONS,
    REQUIRED,
)
from lading.store.rows import Rows
from lading.store.values import NOTES_LIMIT, USED

_PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

_LOOK_UP_PATIENCE = 5.0
"""Seconds to wait for another process that opens or closes the index: no other holds look-ups up."""

_WRITING = ("cache_size=-16000", "wal_autocheckpoint=4000")
"""Keys are hashes, so that each row is on a page of its own: 16 MB of pages to find them and to write them back."""

# Held by who writes, and by a process that forks: SQLite in a child that was forked in the middle of a transaction
# would take the parent's for one of its own, which never ends.
_WRITES = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_WRITES.acquire, after_in_parent=_WRITES.release, after_in_child=_WRITES.release)

_SNAPSHOTS = 5
"""How often a file that others write to is read again."""


def connect(path: str, mode: str, *settings: str, patience: float = _PATIENCE) -> sqlite3.Connection:
    """Open ``path`` with the URI parameters ``mode`` (SQLite, URI filenames) and PRAGMA ``settings``.

    Nothing is read yet. Waits ``patience`` seconds for others. Raises sqlite3.Error.
    """
    name = path.replace(os.sep, "/")
    for character, escape in (("%", "%25"), ("?", "%3f"), ("#", "%23")):
        name = name.replace(character, escape)
    uri = f"file://{'' if name.startswith('/') else '/'}{name}?{mode}"
    connection = sqlite3.connect(uri, timeout=patience, isolation_level=None, check_same_thread=False, uri=True)
    try:
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", *settings):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


class Writer:
    """Writes rows to one index file, a transaction at a time; one call at a time."""

    def __init__(self, watch: Watch, holds: Callable[[str, int], bool]) -> None:
        """Open the file; ``holds`` tells whether there is a blob of a digest and a size.

        Raises Damaged, Moved, Older, StoreError.
        """
        self.watch = watch
        self._holds = holds
        self._synchronous = ""
        # As long as this connection is open, and it can't write, closing the other one isn't the last close: then
        # SQLite doesn't write the WAL back into a file that must stay as it is.
        self._anchor = _open(watch, "mode=ro")
        try:
            with reported(watch.path):
                self._connection = connect(watch.path, "mode=rw", *_WRITING)
        except BaseException:
            self._anchor.close()
            raise

    def apply(self, rows: Rows, *, durable: bool) -> None:
        """Write ``rows`` in one transaction, all or nothing; if ``durable``, it survives a power cut.

        Raises:
            Gone: the content of some rows isn't there, or not what they require.
            Damaged: the index isn't what was written.
            Moved: the file isn't the current index any more.
            StoreError: the disk refused.
        """
        with self.transaction(durable=durable) as query:
            if gone := self._missing(query, rows):
                raise Gone(gone)
            for name, repository, pinned in rows.forgotten:
                forget(query, name, repository, pinned)
            self._connection.executemany(FORGET_NOTE, [note for note, value in rows.notes.items() if value is None])
            for sql, values in zip(INSERTS, rows.columns(), strict=True):
                self._connection.executemany(sql, values)
            self._read_back(rows)
            for kind in {kind for kind, _ in rows.notes} - {USED}:
                self._connection.execute(LIMIT_NOTES, {"kind": kind, "limit": NOTES_LIMIT})

    def _missing(self, query: Query, rows: Rows) -> set[str]:
        """Give what ``rows`` need and isn't there. No collection comes between this and the end of the transaction."""
        missing = {digest for digest, size in rows.files if not self._holds(digest, size)}
        for name, digest in rows.required:
            found = query(REQUIRED, digest, name)
            if not found or (found[0][1] and not self._holds(digest, int(str(found[0][0])))):
                missing.add(digest)
        return missing

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Query]:
        """Have one transaction, all or nothing; others wait for its end to write. Raises what :meth:`apply` raises."""
        with _WRITES, reported(self.watch.path):
            try:
                self._begin("FULL" if durable else "NORMAL")
                if not self.watch.holds():
                    raise Moved(self.watch.path)
                yield self._query
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(*ERRORS):
                        self._connection.execute("ROLLBACK")
                raise

    def _query(self, sql: str, *parameters: object, **named: object) -> list[tuple[object, ...]]:
        return self._connection.execute(sql, named or parameters).fetchall()

    def compact(self) -> int:
        """Give pages that are free back to the disk, where that is worth it; gives how many bytes.

        Raises Damaged, StoreError.
        """
        with _WRITES, reported(self.watch.path):
            return compact(self._connection)

    def _read_back(self, rows: Rows) -> None:
        """Make sure that ``rows`` are found: in an index whose keys are damaged they can vanish as they are written."""
        keys = (
            ("content WHERE digest = ?", [(digest,) for digest, _, _ in rows.content]),
            ("seen WHERE digest = ? AND repository = ?", [(digest, name) for name, digest, *_ in rows.seen]),
            ("reference WHERE name = ?", [(name,) for name, *_ in rows.references]),
            ("note WHERE kind = ? AND key = ?", [note for note, value in rows.notes.items() if value is not None]),
        )
        for where, values in keys:
            sql = f"SELECT 1 FROM {where}"
            for key in values:
                if not self._connection.execute(sql, key).fetchall():
                    raise Damaged(f"{self.watch.path} is damaged: a row that was just written isn't there")

    def _begin(self, synchronous: str) -> None:
        if synchronous != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous={synchronous}")
            self._synchronous = synchronous
        self._connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the file so that it needs no WAL, if it is still the current index and nobody else uses it."""
        if self.watch.holds():
            with contextlib.suppress(*ERRORS):  # what is in the WAL is safe there
                self._connection.execute("PRAGMA busy_timeout=1000")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._anchor.close()
        self.abandon()

    def abandon(self) -> None:
        """Close the file and leave it, and its WAL, as they are."""
        for connection in (self._connection, self._anchor):
            with contextlib.suppress(*ERRORS):
                connection.close()


def open_reader(watch: Watch) -> Reader:
    """Open an index for look-ups, also where nothing can be written.

    Raises:
        Damaged: it isn't an index.
        Moved: it isn't there any more.
        Older: it is of an older format.
        StoreError: it is of a newer format, or can't be read.
    """
    if os.access(os.path.dirname(watch.path), os.W_OK):
        try:
            return Reader(_open(watch, "mode=ro"), watch)
        except StoreError as error:
            # SQLite needs to make files beside the index. A disk that is full, or a directory that is read-only in a
            # way that doesn't show, is no reason not to read.
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code not in (
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_READONLY,
                sqlite3.SQLITE_FULL,
                sqlite3.SQLITE_IOERR,
            ):
                raise
    return open_untouched(watch)


def open_untouched(watch: Watch, *, upgrade: bool = False) -> Reader:
    """Open an index for look-ups without making a file beside it. Raises what :func:`open_reader` raises.

    With ``upgrade``, one of an older format is brought up to date in a private copy.
    """
    for _ in range(_SNAPSHOTS):
        frozen = watch.frozen()
        try:
            reader = _open_frozen(frozen, upgrade)
        except Damaged:
            if frozen.holds():
                raise
            continue  # somebody wrote to it in the meantime
        if frozen.holds():
            return reader
        reader.close()
    raise StoreError(f"the index {watch.path} changes all the time, and can't be written from here")


def build(path: str) -> None:
    """Make an empty index of the newest format in the empty file ``path``. Raises StoreError."""
    settings = ("page_size=4096", "journal_mode=OFF", "synchronous=OFF")
    with reported(path), contextlib.closing(connect(path, "mode=rw", *settings)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _upgrade(connection, 0)
        connection.execute("COMMIT")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != ("wal",):
            raise StoreError(f"the file system of {path} can't hold an index", hint=ELSEWHERE)


def migrate(path: str) -> None:
    """Bring an index of an older format up to date, all or nothing. Raises Damaged, StoreError."""
    with reported(path), contextlib.closing(connect(path, "mode=rw")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _upgrade(connection, connection.execute("PRAGMA user_version").fetchone()[0])
        connection.execute("COMMIT")


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    for statement in (statement for step in MIGRATIONS[version:] for statement in step):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")


def _open(watch: Watch, mode: str, path: str = "") -> sqlite3.Connection:
    """Open an index, or a copy of it at ``path``, and make sure that it is one."""
    if watch.identity is None:
        raise Moved(watch.path)
    if not watch.is_regular:
        raise Damaged(f"{watch.path} isn't a regular file")
    with reported(watch.path):
        connection = connect(path or watch.path, mode, patience=_LOOK_UP_PATIENCE)
        try:
            _check(connection, watch.path, mode)
            if not watch.holds():
                raise Moved(watch.path)
        except BaseException:
            connection.close()
            raise
    return connection


def _check(connection: sqlite3.Connection, path: str, mode: str) -> None:
    application, version, journal = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "journal_mode")
    )
    if application != APPLICATION_ID or version < 1:
        raise Damaged(f"{path} isn't an index of lading")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the store {path} is of format {version}, this lading knows formats up to {len(MIGRATIONS)}",
            hint="use a newer lading, or set LADING_HOME to another directory",
        )
    if journal != "wal" and "immutable" not in mode:
        raise Damaged(f"{path} isn't in WAL mode")
    if version < len(MIGRATIONS):
        raise Older(path)


def _open_frozen(watch: Watch, upgrade: bool) -> Reader:
    """Open an index in a directory where nothing can be written: as it is, or a copy if it has an unfinished WAL."""
    wal = watch.path + "-wal"
    is_unfinished = os.path.isfile(wal) and os.path.getsize(wal) > 0
    if not is_unfinished and not upgrade:
        return Reader(_open(watch, "mode=ro&immutable=1"), watch)
    import shutil
    import tempfile

    with translated(watch.path, "copy"):
        scratch = tempfile.mkdtemp(prefix="lading-")
        try:
            copy = os.path.join(scratch, "index.db")
            copy_file(watch.path, copy)
            if is_unfinished:
                copy_file(wal, copy + "-wal")
            if upgrade:
                with contextlib.suppress(Older):
                    return Reader(_open(watch, "mode=rw", copy), watch, scratch)
                migrate(copy)
            return Reader(_open(watch, "mode=rw", copy), watch, scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
