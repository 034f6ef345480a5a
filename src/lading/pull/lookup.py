"""What the store knows of an agent: found whole, absent, or damaged. Synchronous, no event loop, no network.

A cached entry passes the same rule as a fetched one: what isn't annotated as an agent is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import overload

from lading.agents.agent import Agent, AgentOrigin
from lading.agents.artifact import accept, choose, is_compressed, unpack
from lading.errors import IntegrityError, InvalidManifest, NotAnAgent, Offline
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest, parse_manifest
from lading.oci.reference import Reference
from lading.pull.policy import Serve, before
from lading.store.store import ABSENT, NEVER, Absent, Corrupt, Intact, Record, Store

SMALL = 64 * 1024
"""Bytes up to which a manifest is parsed, and an agent read, faster than a thread is woken."""

_SMALL_PACKED = 16 * 1024
"""The same for a layer that has to be unpacked: it may grow a thousandfold."""


@dataclass(frozen=True, slots=True)
class Located:
    """An agent whose manifest is intact, and whose layer isn't read yet."""

    record: Record
    descriptor: Descriptor
    manifest: Manifest
    layer: Descriptor

    @property
    def is_small(self) -> bool:
        """Whether reading it on the event loop is cheaper than leaving it; packed layers grow."""
        return self.layer.size <= _SMALL_PACKED or (self.layer.data is None and self.layer.size <= SMALL)


@dataclass(frozen=True, slots=True)
class Cached:
    """An agent that is intact in the store."""

    content: bytes = field(repr=False)
    descriptor: Descriptor
    validated: float
    annotations: Mapping[str, str] = field(repr=False)

    def age(self, now: float) -> float:
        """Give the seconds since the registry last confirmed it: infinitely many if none ever did, as for an import.

        A clock that was set back gives 0.
        """
        return max(0.0, now - self.validated) if self.validated > NEVER else math.inf

    def agent(
        self, reference: Reference, origin: AgentOrigin, *, age: float = 0.0, stale_reason: str | None = None
    ) -> Agent:
        """Give it out as ``reference``."""
        return Agent(self.content, self.descriptor, reference, self.annotations, origin, age, stale_reason)


@dataclass(frozen=True, slots=True)
class Large:
    """A manifest that is large enough to be parsed in a thread."""


def cached(store: Store, reference: Reference, *, max_age: float | None, now: float) -> Agent | None:
    """Give the agent if no network is needed: pinned, or confirmed within the last ``max_age`` seconds."""
    located = locate(store, reference)
    if not isinstance(located, Located):
        return None
    step = before(located.record.validated, is_pinned=reference.is_pinned, force=False, max_age=max_age, now=now)
    entry = load(store, reference, located) if isinstance(step, Serve) else None
    if not isinstance(step, Serve) or not isinstance(entry, Cached):
        return None
    return entry.agent(reference, step.origin, age=entry.age(now))


@overload
def locate(store: Store, reference: Reference) -> Located | Absent | Corrupt: ...
@overload
def locate(store: Store, reference: Reference, *, small: bool) -> Located | Absent | Corrupt | Large: ...
def locate(store: Store, reference: Reference, *, small: bool = False) -> Located | Absent | Corrupt | Large:
    """Find what ``reference`` stands for, down to the layer's descriptor; if ``small``, unless that takes long.

    What is there but isn't an agent is a miss.
    """
    try:
        return _locate(store, reference, small)
    except NotAnAgent:
        return ABSENT


def offline(store: Store, reference: Reference, entry: Cached | Absent | Corrupt) -> Offline | NotAnAgent:
    """Give the error for what ``store`` alone can't answer: why not, and what would."""
    if isinstance(entry, Cached):
        hint = "a cached copy is there, but a pull that has to be up to date must ask: see `lading cat --offline`"
        return Offline(f"{reference}: network access is switched off", hint=hint)
    try:
        _locate(store, reference, small=False)
    except NotAnAgent as error:
        return NotAnAgent(f"{reference}: it is in the store, but {error.message}", hint=error.hint)
    return Offline(f"{reference}: network access is switched off", hint="pull it once while online")


def _locate(store: Store, reference: Reference, small: bool) -> Located | Absent | Corrupt | Large:
    """Raises NotAnAgent."""
    record = store.resolve(reference)
    if not isinstance(record, Record):
        return record
    manifest = _manifest(store, reference.name, record.digest, record.media_type, small)
    size = len(manifest.raw) if isinstance(manifest, Manifest | Index) else 0
    if isinstance(manifest, Index):
        child = choose(manifest)
        manifest = _manifest(store, reference.name, child.digest, child.media_type, small)
    if isinstance(manifest, Index):
        raise NotAnAgent("not an agent: an index within an index")
    if not isinstance(manifest, Manifest):
        return manifest
    descriptor = Descriptor(record.media_type, record.digest, size)
    return Located(record, descriptor, manifest, accept(manifest))


def load(store: Store, reference: Reference, located: Located) -> Cached | Absent | Corrupt:
    """Read and unpack the layer of what was located. What isn't small is better done in a thread."""
    try:
        content = located.layer.embedded()
        if content is None:
            read = store.read(reference.name, located.layer.digest)
            if not isinstance(read, Intact):
                return read
            content = read.content
        return Cached(unpack(content), located.descriptor, located.record.validated, located.manifest.annotations)
    except (IntegrityError, NotAnAgent) as error:
        return Corrupt(error.message)


def _manifest(
    store: Store, name: str, digest: Digest, media_type: str, small: bool
) -> Manifest | Index | Absent | Corrupt | Large:
    read = store.read(name, digest)
    if not isinstance(read, Intact):
        return read
    if small and len(read.content) > SMALL:
        return Large()
    try:
        return parse_manifest(read.content, media_type)
    except InvalidManifest as error:
        return Corrupt(f"{digest}: {error.message}")


def is_quickly_unpacked(layer: bytes) -> bool:
    """Tell whether unpacking a fetched layer on the event loop is cheaper than leaving it."""
    return len(layer) <= _SMALL_PACKED or not is_compressed(layer)
