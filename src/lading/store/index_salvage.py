"""What is left of a damaged index: a private part of ``index``, and like it an owner of sqlite3.

The damaged file is never opened by SQLite, only copied. Its rows are read one by one as far as that is possible; what
verifies goes into the next generation, what doesn't is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from lading.errors import InvalidDigest, StoreError
from lading.oci.digest import Digest
from lading.store.blobs import Blobs
from lading.store.disk import COPY_SIZE, create_file, open_regular, read_at, translated, unique, write_at
from lading.store.index import build, connect
from lading.store.index_errors import ERRORS, failure, reported
from lading.store.index_schema import INSERTS
from lading.store.rows import REFERENCE, SEEN, noted, record

Row = tuple[Any, ...]
Check = Callable[[Row], Row | None]

_PAGE = 4096
_SMALLEST_ROW = 16
"""Bytes: an index can't have more rows than this allows, whatever it says."""

_SINGLE_ROWS = 1_000_000
"""How many rows of a table are asked for one by one, at most."""

_COLUMNS = {
    "content": ("digest", "size", "data"),
    "seen": ("repository", "digest", "media_type", "validated", "checksum"),
    "link": ("parent", "child"),
    "reference": ("name", "digest", "media_type", "validated", "checksum"),
    "note": ("kind", "key", "value", "checksum"),
}
"""The tables, in the order of INSERTS."""

_UNREADABLE = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO})
"""What says that there is no file of ours; a disk that can't tell is an error, and the next commit asks it again."""

_REFUSED = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    }
)
"""What says something about the disk, or this process, and nothing about the copy of an index."""


def salvage(damaged: str, blobs: Blobs, target: str) -> None:
    """Make an index in the empty file ``target`` of what can be read in ``damaged``.

    Raises:
        StoreError: the disk refused.
    """
    build(target)
    scratch = os.path.join(blobs.ingest, f"salvage.{unique()}")
    with translated(scratch, "write"):
        os.mkdir(scratch, 0o700)
        try:
            kept = _fill(target, _copy(damaged, os.path.join(scratch, "index.db")), blobs)
        finally:
            with contextlib.suppress(OSError):
                for name in os.listdir(scratch):
                    os.unlink(os.path.join(scratch, name))
                os.rmdir(scratch)
    import logging

    logging.getLogger(__name__).warning(
        "the index %s is damaged: it is left aside, and %d of its rows are kept", damaged, kept
    )


def _copy(damaged: str, copy: str) -> str:
    for suffix in ("", "-wal"):
        try:
            reading, size = open_regular(damaged + suffix)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            continue
        try:
            writing = create_file(copy + suffix)
            try:
                for offset in range(0, size, COPY_SIZE):
                    write_at(writing, offset, _readable(reading, offset, min(COPY_SIZE, size - offset)))
            finally:
                os.close(writing)
        finally:
            os.close(reading)
    return copy


def _readable(descriptor: int, offset: int, size: int) -> bytes:
    """Read ``size`` bytes; a page that the disk doesn't give is zeros, what comes after it is there. Raises OSError."""
    try:
        return read_at(descriptor, offset, size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        if size <= _PAGE:
            return bytes(size)
    return b"".join(
        _readable(descriptor, place, min(_PAGE, offset + size - place)) for place in range(offset, offset + size, _PAGE)
    )


def _fill(target: str, copy: str, blobs: Blobs) -> int:
    """Write the good rows of ``copy`` to ``target``; gives how many."""
    _make_readable(copy, target)
    kept = 0

    def good(table: str, check: Check) -> Iterator[Row]:
        nonlocal kept
        for row in _rows(copy, table):
            if verified := check(row):
                kept += 1
                yield verified

    checks: tuple[Check, ...] = (
        lambda row: _content(row, blobs),
        lambda row: _stamped(SEEN, row),
        _link,
        lambda row: _stamped(REFERENCE, row),
        _note,
    )
    with reported(target), contextlib.closing(connect(target, "mode=rw", "synchronous=OFF")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for (table, columns), insert, check in zip(_COLUMNS.items(), INSERTS, checks, strict=True):
            # A damaged table may hold a row twice, as it was at two times.
            newest = " WHERE excluded.validated > validated" if "validated" in columns else ""
            connection.executemany(insert + newest, good(table, check))
        connection.execute("COMMIT")
        # Closing would do it too, but say nothing of a disk that refuses; the WAL isn't kept.
        if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise StoreError(f"the index {target} can't be written")
    return kept


def _make_readable(copy: str, fresh: str) -> None:
    """Give ``copy`` the first page of a ``fresh`` index if its own is damaged.

    The header and the schema are there, and nothing else; every index is made in the same way, so that its tables
    begin at the same pages. Where they don't, no row verifies.
    """
    if not os.path.isfile(copy) or _tables(copy) == _tables(fresh):
        return
    with open(fresh, "rb") as source, open(copy, "r+b") as target:
        page = bytearray(source.read(_PAGE))
        # SQLite file format, 1.3: the size in pages at 28, the first page of the freelist and its length at 32.
        page[28:40] = (os.path.getsize(copy) // _PAGE).to_bytes(4, "big") + bytes(8)
        target.write(page)


def _tables(path: str) -> list[Row] | None:
    """Give how the tables of an index are defined, ``None`` if that can't be read."""
    try:
        with contextlib.closing(connect(path, "mode=ro")) as connection:
            return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY rowid").fetchall()
    except ERRORS as error:
        _refuse_unless_damage(error, path)
        return None


def _refuse_unless_damage(error: Exception, path: str) -> None:
    """Raise StoreError unless an ``error`` in reading a copy means that what was copied is damaged.

    A disk that refuses for a moment must not cost rows: the next commit tries again.
    """
    code = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT
    if code & 0xFF in _REFUSED and code != sqlite3.SQLITE_IOERR_SHORT_READ:
        refusal = failure(error, path)
        raise (
            refusal if isinstance(refusal, StoreError) else StoreError(f"the store can't read {path}: {error}")
        ) from error


def _rows(path: str, table: str) -> Iterator[Row]:
    """Give the rows of a damaged table: forwards, then backwards until they meet, then what lies between one by one."""
    select = f"SELECT rowid, {', '.join(_COLUMNS[table])} FROM {table} NOT INDEXED"
    if not os.path.lexists(path):
        return
    try:
        connection = connect(path, "mode=rw")
    except ERRORS as error:
        _refuse_unless_damage(error, path)
        return
    with contextlib.closing(connection):
        connection.text_factory = bytes  # one row that isn't UTF-8 must not end the scan
        limit = os.path.getsize(path) // _SMALLEST_ROW
        first = 0
        last: int | None = None
        for row in _until_damage(path, connection, f"{select} ORDER BY rowid LIMIT {limit}"):
            if row is None:
                break
            first = row[0]
            yield row[1:]
        else:
            return
        for row in _until_damage(path, connection, f"{select} ORDER BY rowid DESC LIMIT {limit}"):
            if row is None:
                break
            if row[0] <= first:
                return
            last = row[0]
            yield row[1:]
        if table == "note":
            return  # nobody misses them much, and in an index of an older format there are none
        end = first + 1 + min(limit, _SINGLE_ROWS)
        for rowid in range(first + 1, end if last is None else min(last, end)):
            for row in _until_damage(path, connection, f"{select} WHERE rowid = ?", rowid):
                if row is not None:
                    yield row[1:]


def _until_damage(path: str, connection: sqlite3.Connection, sql: str, *parameters: int) -> Iterator[Row | None]:
    """Give the rows that ``sql`` finds, and ``None`` where it meets damage. Raises StoreError."""
    try:
        yield from connection.execute(sql, parameters)
    except ERRORS as error:
        _refuse_unless_damage(error, path)
        yield None


def _content(row: Row, blobs: Blobs) -> Row | None:
    digest = _digest(row[0])
    size, data = row[1:]
    if digest is None or not isinstance(size, int):
        return None
    if data is None:
        return (str(digest), size, None) if blobs.holds(digest, size) else None
    if not isinstance(data, bytes) or len(data) != size or not digest.matches(data):
        return None
    return str(digest), size, data


def _stamped(table: str, row: Row) -> Row | None:
    name, digest, media_type, validated, checksum = (_text(value) for value in row)
    if not isinstance(name, str) or record(table, name, (digest, media_type, validated, checksum)) is None:
        return None
    return name, digest, media_type, validated, checksum


def _note(row: Row) -> Row | None:
    kind, key, value, checksum = (_text(part) for part in row)
    if not (isinstance(kind, str) and isinstance(key, str)) or noted(kind, key, (value, checksum)) is None:
        return None
    return kind, key, value, checksum


def _link(row: Row) -> Row | None:
    parent, child = _digest(row[0]), _digest(row[1])
    return (str(parent), str(child)) if parent and child else None


def _digest(value: object) -> Digest | None:
    text = _text(value)
    with contextlib.suppress(InvalidDigest):
        return Digest.parse(text) if isinstance(text, str) else None
    return None


def _text(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    with contextlib.suppress(UnicodeDecodeError):
        return value.decode()
    return None
