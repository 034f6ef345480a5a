"""Garbage: which references are to be forgotten, and which content nothing reaches then. Rules; no files, no clock.

What a reference stands for stays, and everything below it: what links say, and what the manifests themselves name, so
that neither a link that is lost nor one that was never made costs content. What a lease names stays with all below it.
Content alone, whatever it was seen as, keeps nothing: a digest that was pulled pinned has a reference of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from lading.errors import InvalidManifest
from lading.oci.digest import Digest
from lading.oci.manifest import Index, parse_manifest
from lading.oci.media_types import INDEXES, MANIFESTS
from lading.oci.reference import Reference

Read = Callable[[str], bytes | None]
"""Gives the content of a digest, verified, ``None`` if it isn't there or isn't intact."""

Child = tuple[str, str]
"""The digest and the media type of what a manifest names."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is forgotten first: references not used for ``older_than`` seconds, then as many as don't fit.

    ``max_size`` are bytes of content; ``now`` is the time, in seconds since the epoch.
    """

    now: float
    older_than: float | None = None
    max_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("older_than", self.older_than), ("max_size", self.max_size)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be at least 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class Known:
    """A reference, what it stands for, and when it was used ``last``: brought, confirmed or answered with."""

    name: str
    digest: str
    media_type: str
    last: float


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a store has: the size of each piece of content, the children that each one is linked to, what is leased.

    The media type of what is leased may be empty, where nobody knows it yet.
    """

    references: Sequence[Known]
    contents: Mapping[str, int]
    links: Mapping[str, Sequence[str]]
    leased: Sequence[Child] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes: references by name, content by digest, each in order. ``kept`` is what something reaches.

    ``unseen`` are repositories and digests that only a forgotten reference stood for, and that stay for others.
    """

    forgotten: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unseen: tuple[tuple[str, str], ...] = ()
    kept: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class Stray:
    """A file in a store's directory that belongs to nothing any more: its ``size`` is in bytes on the disk."""

    kind: Literal["blob", "partial", "temporary", "index"]
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would remove: references, content and its size in bytes, files.

    ``references_left`` and ``bytes_left`` are how many references and bytes of content stay. ``shrunk`` is by how many
    bytes the index became smaller, which only shows when it is done.
    """

    references: tuple[Reference, ...]
    contents: tuple[tuple[Digest, int], ...]
    files: tuple[Stray, ...]
    references_left: int
    bytes_left: int
    shrunk: int = field(default=0, compare=False)

    @property
    def freed(self) -> int:
        """Bytes that are free again, on the disk or in the index."""
        return sum(size for _, size in self.contents) + sum(stray.size for stray in self.files)

    @classmethod
    def of(cls, plan: Plan, holdings: Holdings, files: Iterable[Stray] = (), shrunk: int = 0) -> Collected:
        """Say what ``plan`` does to ``holdings``."""
        return cls(
            tuple(Reference.parse(name) for name in plan.forgotten),
            tuple((Digest.parse(digest), holdings.contents[digest]) for digest in plan.removed),
            tuple(sorted(files, key=lambda stray: (stray.kind, stray.path))),
            len(holdings.references) - len(plan.forgotten),
            sum(holdings.contents.values()) - sum(holdings.contents[digest] for digest in plan.removed),
            shrunk,
        )


class Families:
    """What manifests name. Each is read once: what a digest stands for never changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Child, ...]] = {}

    def children(self, digest: str, media_type: str, read: Read) -> tuple[Child, ...]:
        """Give what the manifest ``digest`` names; nothing if it isn't a manifest, or can't be read."""
        if media_type not in MANIFESTS | INDEXES:
            return ()
        found = self._known.get(digest)
        if found is None:
            raw = read(digest)
            if raw is None:
                return ()
            found = self._known[digest] = tuple(_named(raw, media_type))
        return found


def _named(raw: bytes, media_type: str) -> Iterator[Child]:
    try:
        document = parse_manifest(raw, media_type)
    except InvalidManifest:
        return  # intact, and yet nothing that a pull would have stored
    below = document.manifests if isinstance(document, Index) else (document.config, *document.layers)
    for child in below:
        yield str(child.digest), child.media_type


def plan(holdings: Holdings, limits: Limits, families: Families, read: Read) -> Plan:
    """Decide what goes."""
    reaching = _Reaching(holdings, families, read)
    leased = reaching.from_all(holdings.leased)
    busy = {digest for digest, _ in holdings.leased}  # somebody is at work on what stands for these
    cutoff = -math.inf if limits.older_than is None else limits.now - limits.older_than
    staying = [known for known in holdings.references if known.last >= cutoff or known.digest in busy]
    if limits.max_size is not None:
        staying = _fitting(staying, limits.max_size, holdings.contents, leased, busy, reaching)
    kept = leased | reaching.from_all((known.digest, known.media_type) for known in staying)
    names = {known.name for known in staying}
    forgotten = [known for known in holdings.references if known.name not in names]
    removed = holdings.contents.keys() - kept
    stood_for = {_place(known) for known in forgotten if known.digest not in removed | leased}
    return Plan(
        tuple(sorted(known.name for known in forgotten)),
        tuple(sorted(removed)),
        tuple(sorted(stood_for - {_place(known) for known in staying})) if stood_for else (),
        frozenset(kept),
    )


def _place(known: Known) -> tuple[str, str]:
    return Reference.parse(known.name).name, known.digest


class _Reaching:
    """Follows manifests and links down."""

    def __init__(self, holdings: Holdings, families: Families, read: Read) -> None:
        self._links = holdings.links
        self._families = families
        self._read = read

    def from_all(self, roots: Iterable[Child]) -> set[str]:
        """Give all that is reached from ``roots``, and they themselves."""
        reached: set[str] = set()
        waiting = list(roots)
        typed: set[str] = set()
        while waiting:
            digest, media_type = waiting.pop()
            # What was only linked to may turn out to be a manifest when another one names it.
            if digest in reached and (not media_type or digest in typed):
                continue
            if digest not in reached:
                reached.add(digest)
                waiting.extend((child, "") for child in self._links.get(digest, ()))
            if media_type:
                typed.add(digest)
                waiting.extend(self._families.children(digest, media_type, self._read))
        return reached


def _fitting(
    references: Sequence[Known],
    limit: int,
    sizes: Mapping[str, int],
    leased: Set[str],
    busy: Set[str],
    reaching: _Reaching,
) -> list[Known]:
    """Give the references that stay where all content together has at most ``limit`` bytes: those used last."""
    reached = {known.name: _held(reaching.from_all([(known.digest, known.media_type)]), sizes) for known in references}
    needed = Counter(digest for digest in leased if digest in sizes)
    for digests in reached.values():
        needed.update(digests)
    total = sum(sizes[digest] for digest in needed)
    order = sorted(references, key=lambda known: (known.last, known.name))
    certain = [known for known in order if known.digest in busy]
    order = [known for known in order if known.digest not in busy]
    forgotten = 0
    while total > limit and forgotten < len(order):
        for digest in reached[order[forgotten].name]:
            needed[digest] -= 1
            total -= 0 if needed[digest] else sizes[digest]
        forgotten += 1
    # What needs nothing but what stays anyway makes no room.
    free = [known for known in order[:forgotten] if all(needed[digest] for digest in reached[known.name])]
    return [*certain, *free, *order[forgotten:]]


def _held(digests: set[str], sizes: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(digest for digest in digests if digest in sizes)
