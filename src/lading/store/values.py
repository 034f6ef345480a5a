"""What passes through a store: values. No files here, and no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from lading.errors import StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference

INLINE_LIMIT = 128 * 1024
"""Bytes: content up to here is kept in the index, larger content in files of its own."""

NEVER = 0.0
"""When a registry confirmed what none ever did, in seconds since the epoch: longer ago than anybody trusts."""

NOTE_LIMIT = 4096
"""Bytes of a note's kind, key and value at most, each."""

NOTES_LIMIT = 10_000
"""Notes of one kind at most: those that were written the longest time ago make room."""

Note = tuple[str, str, str | None]
"""Kind, key and value of a note; ``None`` forgets it."""

USED = "used"
"""The kind of the notes that say when a reference was last used: no limit counts for them, they go with it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a reference stood for: a manifest's digest and media type.

    ``validated`` is when its registry last confirmed that, in seconds since the epoch by this machine's clock.
    """

    digest: Digest
    media_type: str
    validated: float


@dataclass(frozen=True, slots=True)
class Intact:
    """The content, verified against its digest just now."""

    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Absent:
    """The store doesn't have it."""


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The store should have it but can't give it back; ``reason`` says what is damaged."""

    reason: str


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that a store has: what is known of references, and the digest and size of each piece of content.

    ``strays`` are files in its directory that belong to nothing, ``damage`` says which of its records can't be read.
    """

    references: tuple[tuple[Reference, Record], ...] = ()
    contents: tuple[tuple[Digest, int], ...] = ()
    strays: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A registry served this content from the repository ``name`` (``docker.io/acme/triage``)."""

    name: str
    digest: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit makes true, all of it or nothing.

    ``content`` are whole pieces with their digests, which the caller has verified; ``blobs`` are descriptors of
    finished ingests; ``seen`` says in which repositories; ``references`` says what a reference resolves to; ``links``
    are (parent, child) pairs: the child is needed as long as the parent is. ``forgotten`` references are known no more,
    nor is what they stood for, unless another reference of the same repository stands for it too. Of several ``notes``
    with the same kind and key the last one counts.

    ``required`` is what was found in the store and is relied on, each with its repository: where a collection took some
    of it in the meantime, nothing becomes true.

    ``validated`` stamps ``seen`` and ``references``, in seconds since the epoch. A commit that isn't ``durable`` may be
    lost in a power cut, whole. One may wait up to ``linger`` seconds for others, to be written together with them.
    """

    validated: float
    content: tuple[tuple[Digest, bytes], ...] = field(default=(), repr=False)
    blobs: tuple[Descriptor, ...] = ()
    seen: tuple[Seen, ...] = ()
    references: tuple[tuple[Reference, Digest, str], ...] = ()
    links: tuple[tuple[Digest, Digest], ...] = ()
    forgotten: tuple[Reference, ...] = ()
    notes: tuple[Note, ...] = field(default=(), repr=False)
    required: tuple[tuple[str, Digest], ...] = ()
    durable: bool = True
    linger: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to make true."""
        known = (self.seen, self.references, self.links, self.forgotten, self.notes, self.required)
        return not any((self.content, self.blobs, *known))


class Lost(StoreError):
    """What a commit needs isn't there, or not any more: ``digests``, which are to be fetched again."""

    digests: frozenset[Digest]

    def __init__(self, digests: Iterable[Digest], where: str = "the store") -> None:
        self.digests = frozenset(digests)
        names = ", ".join(sorted(map(str, self.digests)))
        super().__init__(f"it can't be committed: {where} doesn't have {names}", hint="pull it again")


def use(reference: Reference, at: float) -> Note:
    """Give the note that ``reference`` was used, ``at`` that time in seconds since the epoch.

    Whoever brings something without a registry, or answers from the store, notes that. Without it, a reference was used
    when its registry last confirmed it.
    """
    return USED, str(reference), repr(float(at))


def used_at(value: str | None) -> float:
    """Give the time that such a note says, ``NEVER`` if it says none."""
    try:
        at = float(value or "nan")
    except ValueError:
        return NEVER
    return at if math.isfinite(at) else NEVER


def check_notes(notes: Iterable[Note]) -> None:
    """Raise StoreError for notes that can't be stored. The message holds nothing of a note but its kind."""
    for kind, key, value in notes:
        try:
            longest = max(len(part.encode()) for part in (kind, key, value or ""))
        except UnicodeEncodeError:
            longest = -1
        if longest < 0:
            raise StoreError(f"a note of the kind {kind!r} can't be stored: it isn't Unicode text")
        if longest > NOTE_LIMIT:
            raise StoreError(f"a note of the kind {kind!r} can't be stored: more than {NOTE_LIMIT} bytes")
