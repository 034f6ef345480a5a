"""Rows: what the index keeps, as values that check themselves. No SQL and no files here.

The rows of references, of what was seen and of notes carry a checksum over their fields, so that a damaged one is
found even where the database itself still looks whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lading.errors import InvalidDigest, StoreError
from lading.oci.digest import Digest
from lading.store.values import INLINE_LIMIT, Changes, Record, check_notes

REFERENCE = "reference"
SEEN = "seen"

Stamped = tuple[str, str, str, float, str]
"""Name (of a reference or a repository), digest, media type, validated, checksum."""

Content = tuple[str, int, bytes | None]
"""Digest, size in bytes, and the content itself unless it is in a file of its own."""

Link = tuple[str, str]
"""The digests of parent and child."""

Forgotten = tuple[str, str, str | None]
"""Reference, repository, and the digest if the reference is pinned to one."""

Noted = tuple[str, str, str, str]
"""Kind, key, value, checksum."""

Row = Stamped | Content | Link | Noted


@dataclass(frozen=True, slots=True)
class Rows:
    """What one or more commits write."""

    references: list[Stamped] = field(default_factory=list)
    seen: list[Stamped] = field(default_factory=list)
    content: list[Content] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    forgotten: list[Forgotten] = field(default_factory=list)
    notes: dict[tuple[str, str], str | None] = field(default_factory=dict)
    required: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files(self) -> Iterator[tuple[str, int]]:
        """Give the digests and sizes of content that is in files of its own."""
        return ((digest, size) for digest, size, data in self.content if data is None)

    @classmethod
    def of(cls, changes: Changes) -> Rows:
        """Turn ``changes`` into rows.

        Raises:
            StoreError: they can't be stored.
        """
        at = changes.validated
        if not math.isfinite(at):
            raise StoreError(f"{at} isn't a time that something was validated at")
        check_notes(changes.notes)
        try:
            return cls(
                [_stamp(REFERENCE, str(name), digest, kind, at) for name, digest, kind in changes.references],
                [_stamp(SEEN, seen.name, seen.digest, seen.media_type, at) for seen in changes.seen],
                [
                    (str(digest), len(data), data if len(data) <= INLINE_LIMIT else None)
                    for digest, data in changes.content
                ]
                + [(str(blob.digest), blob.size, None) for blob in changes.blobs],
                [(str(parent), str(child)) for parent, child in changes.links],
                [(str(name), name.name, str(name.digest) if name.digest else None) for name in changes.forgotten],
                {(kind, key): value for kind, key, value in changes.notes},
                [(name, str(digest)) for name, digest in changes.required],
            )
        except UnicodeEncodeError as error:
            raise StoreError(f"{error.object!r} can't be stored: it isn't Unicode text") from error

    def columns(self) -> tuple[Sequence[Row], ...]:
        """Give the rows of each table: content, seen, links, references, notes."""
        notes = [
            (kind, key, value, note_checksum(kind, key, value))
            for (kind, key), value in self.notes.items()
            if value is not None
        ]
        return self.content, self.seen, self.links, self.references, notes

    @classmethod
    def together(cls, parts: Iterable[Rows]) -> Rows:
        """Put several into one; where they say different things, the last one counts."""
        every = cls()
        for rows in parts:
            every.references.extend(rows.references)
            every.seen.extend(rows.seen)
            every.content.extend(rows.content)
            every.links.extend(rows.links)
            every.forgotten.extend(rows.forgotten)
            every.notes.update(rows.notes)
            every.required.extend(rows.required)
        return every


def checksum(table: str, name: str, digest: str, media_type: str, validated: float) -> str:
    """Give the checksum of a row: 16 hexadecimal digits over its fields, each with its length."""
    text = f"{table}:{len(name)}:{name}{len(digest)}:{digest}{len(media_type)}:{media_type}{validated.hex()}"
    return _sum(text)


def note_checksum(kind: str, key: str, value: str) -> str:
    """Give the checksum of a note: as that of other rows."""
    return _sum(f"note:{len(kind)}:{kind}{len(key)}:{key}{len(value)}:{value}")


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode(), usedforsecurity=False).hexdigest()[:16]


def record(table: str, name: str, row: tuple[object, ...]) -> Record | None:
    """Read (digest, media type, validated, checksum) of the row of ``name``; ``None`` if it is damaged."""
    digest, media_type, validated, found = row
    if not (isinstance(digest, str) and isinstance(media_type, str) and isinstance(validated, float)):
        return None
    try:
        if checksum(table, name, digest, media_type, validated) != found:
            return None
        return Record(Digest.parse(digest), media_type, validated)
    except (InvalidDigest, UnicodeEncodeError):
        return None


def noted(kind: str, key: str, row: tuple[object, ...]) -> str | None:
    """Read (value, checksum) of a note; ``None`` if it is damaged."""
    value, found = row
    try:
        return value if isinstance(value, str) and note_checksum(kind, key, value) == found else None
    except UnicodeEncodeError:
        return None


def _stamp(table: str, name: str, digest: Digest, media_type: str, validated: float) -> Stamped:
    text = str(digest)
    return name, text, media_type, float(validated), checksum(table, name, text, media_type, float(validated))
