"""Everything that an index has: a private part of ``index``. Rows are read a page at a time, and checked one by one.

A row that is damaged is told of and left out; it doesn't keep the others from being listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lading.errors import InvalidDigest, InvalidReference
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.index_schema import ALL_CONTENT, ALL_REFERENCES, ALL_SEEN
from lading.store.rows import REFERENCE, SEEN, record
from lading.store.store import Inventory, Record

Query = Callable[..., list[tuple[object, ...]]]

_PAGE = 5_000
"""Rows that are read at once."""


def take_inventory(query: Query, files: Mapping[str, Digest | None]) -> Inventory:
    """Give what the index has; ``files`` are the store's, with the digest of those that are named like blobs.

    Raises Damaged, StoreError.
    """
    damage: list[str] = []
    references = list(_references(query, damage))
    for name, *row in _rows(query, ALL_SEEN):
        if record(SEEN, str(name), tuple(row)) is None:
            damage.append(f"the row of {row[0]} in {name} is damaged")
    contents: list[tuple[Digest, int]] = []
    in_files: set[Digest] = set()
    for text, size, is_file in _rows(query, ALL_CONTENT):
        digest = _digest(text)
        if digest is None or type(size) is not int or size < 0:
            damage.append(f"the row of the content {text!r} is damaged")
            continue
        contents.append((digest, size))
        if is_file:
            in_files.add(digest)
    strays = [path for path, digest in files.items() if digest is None or digest not in in_files]
    return Inventory(
        tuple(sorted(references, key=lambda known: str(known[0]))),
        tuple(sorted(contents, key=lambda held: str(held[0]))),
        tuple(strays),
        tuple(damage),
    )


def _references(query: Query, damage: list[str]) -> Iterator[tuple[Reference, Record]]:
    for name, *row in _rows(query, ALL_REFERENCES):
        found = record(REFERENCE, str(name), tuple(row))
        try:
            if found is not None:
                yield Reference.parse(str(name)), found
                continue
        except InvalidReference:
            pass
        damage.append(f"the row of {name} is damaged")


def _rows(query: Query, sql: str) -> Iterator[tuple[object, ...]]:
    last: object = -1
    while rows := query(sql, last, _PAGE):
        for rowid, *row in rows:
            yield tuple(row)
            last = rowid


def _digest(text: object) -> Digest | None:
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except InvalidDigest:
        return None
