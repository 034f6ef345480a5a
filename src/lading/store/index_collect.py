"""Collection as the index sees it: all that it holds, and what is removed of it. A private part of ``index``.

Rows that are damaged are never left out here: what isn't seen would be taken for garbage.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from lading.errors import InvalidDigest, InvalidReference
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.index_errors import Damaged
from lading.store.index_inventory import Query
from lading.store.index_schema import (
    CONTENT,
    EVERY_LINK,
    EVERY_NOTE,
    EVERY_REFERENCE,
    EVERY_SIZE,
    FORGET_NOTE,
    FORGET_REFERENCE,
    FORGET_SEEN,
    FORGET_USES,
    IS_IN_FILE,
    MEDIA_TYPE,
    REMOVE_CONTENT,
    REMOVE_LINKS,
    REMOVE_PLACE,
    REMOVE_SEEN,
)
from lading.store.rows import REFERENCE, noted, record
from lading.store.values import NEVER, USED, used_at

if TYPE_CHECKING:
    from lading.store.gc import Holdings, Known, Plan, Read

_WORTH = 1024 * 1024
"""Bytes that have to be free for the index to be written anew: less is used again soon."""

_WORTH_SHARE = 4
"""And one part in so many of all: else much is copied for little."""

_TOO_LARGE = 512 * 1024 * 1024
"""Bytes in use above which it isn't: it takes the disk that much twice, and others as long as that."""

_PATIENCE = 1000
"""Milliseconds to wait for others that write: it is no use to make them wait in turn."""


def holdings(query: Query, leased: Iterable[str]) -> Holdings:
    """Give all that the index holds. Raises Damaged."""
    from lading.store.gc import Holdings  # which no reader needs

    sizes: dict[str, int] = {}
    for digest, size, _ in query(EVERY_SIZE):
        if type(size) is not int or size < 0:
            raise Damaged(f"the row of the content {digest!r} is damaged")
        sizes[_digest(digest)] = size
    links: dict[str, list[str]] = {}
    for parent, child in query(EVERY_LINK):
        links.setdefault(str(parent), []).append(str(child))
    uses = {str(name): used_at(noted(USED, str(name), tuple(row))) for name, *row in query(EVERY_NOTE, USED)}
    references = [_known(str(name), tuple(row), uses) for name, *row in query(EVERY_REFERENCE)]
    types = [(digest, query(MEDIA_TYPE, digest)) for digest in leased]
    return Holdings(references, sizes, links, [(digest, str(rows[0][0]) if rows else "") for digest, rows in types])


def reading(query: Query, read_file: Callable[[str, int], bytes | None]) -> Read:
    """Give what reads content by digest; ``read_file`` reads what is in a file of its own, of so many bytes."""

    def read(digest: str) -> bytes | None:
        rows = query(CONTENT, digest)
        if not rows:
            return None
        size, data = rows[0]
        if data is None and isinstance(size, int):
            return read_file(digest, size)
        return data if isinstance(data, bytes) and Digest.parse(digest).matches(data) else None

    return read


def remove(query: Query, plan: Plan, links: Iterable[str]) -> None:
    """Remove what ``plan`` says, links of parents in ``links`` that nothing reaches, and uses of what isn't known."""
    for name in plan.forgotten:
        query(FORGET_REFERENCE, name=name)
    for place in plan.unseen:
        query(REMOVE_PLACE, *place)
    for digest in plan.removed:
        query(REMOVE_CONTENT, digest)
        query(REMOVE_SEEN, digest)
    for parent in links:
        if parent not in plan.kept:
            query(REMOVE_LINKS, parent)
    query(FORGET_USES, USED)


def forget(query: Query, name: str, repository: str, digest: str | None) -> None:
    """Forget a reference, and that what it stood for was seen, unless another reference stands for it too."""
    query(FORGET_SEEN, name=name, repository=repository, digest=digest)
    query(FORGET_REFERENCE, name=name)
    query(FORGET_NOTE, USED, name)


def in_files(query: Query) -> set[str]:
    """Give what the index says is in files of their own."""
    return {str(digest) for digest, _, is_file in query(EVERY_SIZE) if is_file}


def is_in_file(query: Query, digest: str) -> bool:
    """Tell whether the index says that ``digest`` is in a file of its own."""
    return bool(query(IS_IN_FILE, digest))


def compact(connection: sqlite3.Connection) -> int:
    """Write the index anew without its free pages, where that is worth it; gives by how many bytes it is smaller then.

    Free pages are used again, so that little of it is left to the next pulls; but an index never becomes smaller by
    itself. To move single pages (SQLite, auto_vacuum) would cost every commit a map of pages. Raises sqlite3.Error.
    """
    size, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    if free * size < _WORTH or free * _WORTH_SHARE < pages or (pages - free) * size > _TOO_LARGE:
        return 0
    ((patience,),) = connection.execute("PRAGMA busy_timeout").fetchall()
    connection.execute(f"PRAGMA busy_timeout={_PATIENCE}")
    try:
        connection.execute("VACUUM")
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(patience)}")
    return (pages - int(connection.execute("PRAGMA page_count").fetchone()[0])) * size


def _known(name: str, row: tuple[object, ...], uses: Mapping[str, float]) -> Known:
    from lading.store.gc import Known

    found = record(REFERENCE, name, row)
    try:
        Reference.parse(name)
    except InvalidReference:
        found = None
    if found is None:
        raise Damaged(f"the row of {name} is damaged")
    return Known(name, str(found.digest), found.media_type, max(found.validated, uses.get(name, NEVER)))


def _digest(text: object) -> str:
    try:
        return str(Digest.parse(text))  # type: ignore[arg-type]  # what isn't text is refused, too
    except InvalidDigest:
        raise Damaged(f"the row of the content {text!r} is damaged") from None
