"""Look-ups in the index: a part of ``index``. Every row was checked, and all content verified, that is given."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from typing import TypeVar

from lading.oci.digest import Digest
from lading.store.generations import Watch
from lading.store.index_errors import ERRORS, Damaged, failure
from lading.store.index_inventory import Query
from lading.store.index_schema import (
    CONTENT,
    LAST_USED,
    NOTE_BY_KEY,
    REFERENCE_BY_NAME,
    REFERENCES,
    REPOSITORIES,
    SEEN_BY_DIGEST,
    SEEN_CONTENT,
)
from lading.store.rows import REFERENCE, SEEN, noted, record
from lading.store.values import USED, Intact, Inventory, Record, used_at

T = TypeVar("T")


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

    def last_used(self, name: str) -> float | None:
        """Tell when the reference ``name`` was last used, ``None`` if it isn't known. Raises Damaged, StoreError."""
        for validated, *note in self._query(LAST_USED, USED, name):
            if not isinstance(validated, float):
                raise Damaged(f"the row of {name} in {self.watch.path} is damaged")
            return max(validated, used_at(noted(USED, name, tuple(note))))
        return None

    def snapshot(self, look: Callable[[Query], T]) -> T:
        """Let ``look`` see one state of the index, whoever writes to it. Raises Damaged, StoreError."""
        self._query("BEGIN")
        try:
            return look(self._query)
        finally:
            self._query("COMMIT")

    def check(self) -> None:
        """Make sure that no page and no key is damaged; as long as it takes to read everything.

        Raises Damaged, StoreError.
        """
        found = self._query("PRAGMA integrity_check(1)")
        if found != [("ok",)]:
            raise Damaged(f"{self.watch.path} is damaged: {found[0][0] if found else 'it can not be checked'}")

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
