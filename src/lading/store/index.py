"""The index: one SQLite file in WAL mode. The only owner of sqlite3, with its parts ``index_*``.

No sqlite3 error leaves here: damage is ``Damaged``, a file that is no longer the current one is ``Moved``, all else is
a StoreError. Readers can't write, by the way they are opened; a writer never writes to a file that it found damaged,
not even when it closes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping

from lading.errors import StoreError
from lading.oci.digest import Digest
from lading.store.disk import ELSEWHERE, copy_file, translated
from lading.store.generations import Watch
from lading.store.index_errors import ERRORS, Damaged, Moved, Older, failure, reported
from lading.store.index_schema import (
    APPLICATION_ID,
    CONTENT,
    FORGET_NOTE,
    FORGET_REFERENCE,
    FORGET_SEEN,
    INSERTS,
    LIMIT_NOTES,
    MIGRATIONS,
    NOTE_BY_KEY,
    REFERENCE_BY_NAME,
    REFERENCES,
    REPOSITORIES,
    SEEN_BY_DIGEST,
    SEEN_CONTENT,
)
from lading.store.rows import REFERENCE, SEEN, Rows, noted, record
from lading.store.store import NOTES_LIMIT, Intact, Inventory, Record

_PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

_LOOK_UP_PATIENCE = 5.0
"""Seconds to wait for another process that opens or closes the index: no other holds look-ups up."""

_WRITING = ("cache_size=-16000", "wal_autocheckpoint=4000")
"""Keys are hashes, so that each row is on a page of its own: 16 MB of pages to find them and to write them back."""

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


class Reader:
    """Looks rows up in one index file; one call at a time."""

    def __init__(self, connection: sqlite3.Connection, watch: Watch, scratch: str = "") -> None:
        self._connection = connection
        self._scratch = scratch
        self.watch = watch

    def reference(self, name: str) -> Record | None:
        """Give what the reference ``name`` stands for, ``None`` if it isn't known. Raises Damaged, StoreError."""
        rows = self._query(REFERENCE_BY_NAME, name)
        return self._checked(REFERENCE, name, rows[0]) if rows else None

    def seen(self, name: str, digest: str) -> Record | None:
        """Give how ``digest`` was seen in the repository ``name``, if it was. Raises Damaged, StoreError."""
        rows = self._query(SEEN_BY_DIGEST, digest, name)
        return self._checked(SEEN, name, rows[0], digest) if rows else None

    def content(self, name: str, digest: Digest) -> Intact | int | None:
        """Give the content of ``digest`` if it was seen in the repository ``name``, verified.

        Where it is in a file of its own, its size in bytes. Raises Damaged, StoreError.
        """
        rows = self._query(SEEN_CONTENT, str(digest), name)
        if not rows:
            return None
        *row, size, data = rows[0]
        self._checked(SEEN, name, tuple(row), str(digest))
        return None if size is None and data is None else self._held(digest, size, data)

    def held(self, digest: Digest) -> Intact | int | None:
        """Give likewise what is there of ``digest``, wherever it was seen. Raises Damaged, StoreError."""
        rows = self._query(CONTENT, str(digest))
        return self._held(digest, *rows[0]) if rows else None

    def _held(self, digest: Digest, size: object, data: object) -> Intact | int:
        if not isinstance(size, int) or not isinstance(data, bytes | None):
            raise Damaged(f"the row of {digest} in {self.watch.path} is damaged")
        if data is None:
            return size
        if len(data) != size or not digest.matches(data):
            raise Damaged(f"{digest} in {self.watch.path} isn't what was stored")
        return Intact(data)

    def repositories(self, prefix: str, digest: str) -> list[str]:
        """Give the repositories whose names begin with ``prefix`` and that ``digest`` was seen in, by name.

        Raises Damaged, StoreError.
        """
        rows = self._query(REPOSITORIES, digest, len(prefix), prefix)
        for name, *row in rows:
            self._checked(SEEN, str(name), tuple(row), digest)
        return [str(name) for name, *_ in rows]

    def inventory(self, files: Mapping[str, Digest | None]) -> Inventory:
        """Give all that the index has, and which of ``files`` it doesn't know. Raises Damaged, StoreError."""
        from lading.store.index_inventory import take_inventory

        return take_inventory(self._query, files)

    def references(self) -> list[tuple[str, Record]]:
        """Give every reference and what it stands for, by name. Raises Damaged, StoreError."""
        return [(str(name), self._checked(REFERENCE, str(name), tuple(row))) for name, *row in self._query(REFERENCES)]

    def note(self, kind: str, key: str) -> str | None:
        """Give the value of a note, ``None`` if there is none. Raises Damaged, StoreError."""
        rows = self._query(NOTE_BY_KEY, kind, key)
        if not rows:
            return None
        value = noted(kind, key, rows[0])
        if value is None:
            raise Damaged(f"a note of the kind {kind} in {self.watch.path} is damaged")
        return value

    def close(self) -> None:
        """Close the file, and remove the private copy if it is one."""
        with contextlib.suppress(*ERRORS):
            self._connection.close()
        if self._scratch:
            import shutil

            shutil.rmtree(self._scratch, ignore_errors=True)

    def _query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        try:
            # All rows at once: a statement that isn't run to its end would hold on to its snapshot.
            return self._connection.execute(sql, parameters).fetchall()
        except ERRORS as error:
            raise failure(error, self.watch.path) from error

    def _checked(self, table: str, name: str, row: tuple[object, ...], digest: str = "") -> Record:
        found = record(table, name, row)
        if found is None or (digest and str(found.digest) != digest):
            raise Damaged(f"the row of {name} in {self.watch.path} is damaged")
        return found


class Writer:
    """Writes rows to one index file, a transaction at a time; one call at a time."""

    def __init__(self, watch: Watch) -> None:
        """Open the file. Raises Damaged, Moved, Older, StoreError."""
        self.watch = watch
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
            Damaged: the index isn't what was written.
            Moved: the file isn't the current index any more.
            StoreError: the disk refused.
        """
        with reported(self.watch.path):
            try:
                self._begin("FULL" if durable else "NORMAL")
                if not self.watch.holds():
                    raise Moved(self.watch.path)
                for name, repository, digest in rows.forgotten:
                    keys = {"name": name, "repository": repository, "digest": digest}
                    self._connection.execute(FORGET_SEEN, keys)
                    self._connection.execute(FORGET_REFERENCE, {"name": name})
                self._connection.executemany(FORGET_NOTE, [note for note, value in rows.notes.items() if value is None])
                for sql, values in zip(INSERTS, rows.columns(), strict=True):
                    self._connection.executemany(sql, values)
                self._read_back(rows)
                for kind in {kind for kind, _ in rows.notes}:
                    self._connection.execute(LIMIT_NOTES, {"kind": kind, "limit": NOTES_LIMIT})
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(*ERRORS):
                        self._connection.execute("ROLLBACK")
                raise

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
