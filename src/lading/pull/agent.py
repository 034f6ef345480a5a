"""The one read path of agents: every way to an agent leads through :meth:`AgentPuller.pull`.

Look-up → ``policy.before`` → (HEAD → ``policy.after``) → GET the manifest → ``artifacts.accept`` → its layer →
commit → read back. Nothing loops back, except the single repair of a store that loses what it was just given.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, assert_never

import anyio
import anyio.to_thread

from lading.agents.agent import Agent
from lading.agents.artifact import accept, choose
from lading.errors import (
    DigestMismatch,
    InvalidManifest,
    LadingError,
    NotAnAgent,
    NotFound,
    Offline,
    SizeMismatch,
    StoreCorrupted,
    StoreError,
)
from lading.events import CacheChecked, Listener, Pulled, PullFailed, Pulling, tell
from lading.flight import Flights
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest, parse_manifest
from lading.oci.reference import Reference
from lading.pull.kept import Fetched, at_once, commit
from lading.pull.layer import read_layer, unpacked
from lading.pull.lookup import SMALL, Cached, Large, Located, load, locate, offline
from lading.pull.policy import Fallback, Fetch, Revalidate, Serve, after, before, is_too_stale, may_fall_back, span
from lading.pull.use import Uses
from lading.registry.repository import Repository, RepositoryOf
from lading.store.store import Absent, Changes, Corrupt, Lease, Record, Seen, Store

_log = logging.getLogger("lading.pull")

_FOUND: dict[type, Literal["intact", "damaged", "absent"]] = {Cached: "intact", Corrupt: "damaged", Absent: "absent"}


@dataclass(frozen=True, slots=True)
class _Taken:
    """An agent as the registry gave it, and what the store has to be told."""

    content: bytes = field(repr=False)
    descriptor: Descriptor
    annotations: Mapping[str, str] = field(repr=False)
    changes: Changes = field(repr=False)

    def agent(self, reference: Reference, age: float) -> Agent:
        return Agent(self.content, self.descriptor, reference, self.annotations, "registry", age)


class AgentPuller:
    """Pulls agents through a store. ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        repository: RepositoryOf,
        flights: Flights,
        large: anyio.CapacityLimiter,
        *,
        offline: bool = False,
        events: Listener | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._repository = repository
        self._flights = flights
        self._large = large
        self._offline = offline
        self._events = events
        self._clock = clock
        # When each reference was last moved by this client, in a count of such moves.
        self._moves = 0
        self._moved: dict[str, int] = {}
        self._revalidating: set[Reference] = set()
        self._uses = Uses(store)

    async def pull(
        self,
        reference: Reference,
        *,
        force: bool = False,
        max_age: float | None = None,
        max_stale: float | None = None,
        fallback: Fallback = "any",
        revalidate: Revalidate = "now",
        fetched: Fetched = at_once,
    ) -> Agent:
        """Give the agent that ``reference`` stands for; see :meth:`lading.Client.pull_agent`.

        ``fetched`` is called when everything has come from the registry.
        """
        if self._events is None:
            return await self._pull(reference, force, max_age, max_stale, fallback, revalidate, fetched)
        name, started = str(reference), time.perf_counter()
        tell(self._events, Pulling(name))
        try:
            agent = await self._pull(reference, force, max_age, max_stale, fallback, revalidate, fetched)
        except BaseException as error:
            reason = error.message if isinstance(error, LadingError) else ""
            tell(self._events, PullFailed(name, type(error).__name__, reason, time.perf_counter() - started))
            raise
        tell(self._events, Pulled(name, agent.digest, agent.origin, time.perf_counter() - started))
        return agent

    async def _pull(
        self,
        reference: Reference,
        force: bool,
        max_age: float | None,
        max_stale: float | None,
        fallback: Fallback,
        revalidate: Revalidate,
        fetched: Fetched,
    ) -> Agent:
        now = self._clock()
        entry = await self._look_up(reference)
        if isinstance(entry, Corrupt):
            _log.warning("%s: the cached copy is damaged and will be fetched again: %s", reference, entry.reason)
        validated = entry.validated if isinstance(entry, Cached) else None
        step = before(
            validated,
            is_pinned=reference.is_pinned,
            force=force,
            max_age=max_age,
            now=now,
            max_stale=max_stale,
            revalidate="now" if self._offline else revalidate,
        )
        if self._events is not None:
            asks = not (isinstance(step, Serve) and isinstance(entry, Cached))
            tell(self._events, CacheChecked(str(reference), _FOUND[type(entry)], asks))
        if isinstance(step, Serve) and isinstance(entry, Cached):
            return await self._serve(reference, entry, step, now)
        try:
            if self._offline:
                raise offline(self._store, reference, entry)
            is_brief = isinstance(entry, Cached) and fallback != "never"
            refresh = partial(self._refresh, reference, entry, force, is_brief, fetched)
            agent = await self._flights.join(_key(reference, force), refresh)
            # Whoever came first may have written a tag beside the digest.
            return agent if agent.reference == reference else replace(agent, reference=reference)
        except LadingError as failure:
            if not may_fall_back(failure, fallback):
                raise
            agent = self._stand_in(reference, entry, failure, max_stale)
            await self._uses.note(reference, agent.descriptor, now - agent.age, now)
            return agent

    async def _serve(self, reference: Reference, entry: Cached, step: Serve, now: float) -> Agent:
        """Give out what is cached, and see to it that what is stale is revalidated, once for all who are given it."""
        await self._uses.note(reference, entry.descriptor, entry.validated, now)
        reason = None
        if step.origin == "stale":
            reason = "it is being revalidated in the background"
            if reference not in self._revalidating:
                self._revalidating.add(reference)
                await self._flights.begin(partial(self._revalidate, reference, entry))
        return entry.agent(reference, step.origin, age=entry.age(now), stale_reason=reason)

    async def _revalidate(self, reference: Reference, entry: Cached) -> None:
        started = time.perf_counter()
        try:
            refresh = partial(self._refresh, reference, entry, False, True)
            agent = await self._flights.join(_key(reference, force=False), refresh)
            tell(self._events, Pulled(str(reference), agent.digest, agent.origin, time.perf_counter() - started))
        except LadingError as failure:
            _log.warning("%s: not revalidated: %s", reference, failure)
        finally:
            self._revalidating.discard(reference)

    def outdate(self, reference: Reference) -> None:
        """Take note that the tag has just been moved.

        No pull that begins from now on joins one that asked before now, and what those were told isn't remembered.
        """
        self._moves += 1
        self._moved[str(reference)] = self._moves
        self._flights.outdate(_key(reference, force=False))
        self._flights.outdate(_key(reference, force=True))

    def _stand_in(
        self,
        reference: Reference,
        entry: Cached | Absent | Corrupt,
        failure: LadingError,
        max_stale: float | None,
    ) -> Agent:
        """Give the cached copy in place of a registry that failed, or raise the failure."""
        match entry:
            case Absent():
                raise failure
            case Corrupt(reason):
                if isinstance(failure, Offline):
                    raise StoreCorrupted(
                        f"{reference}: the cached copy is damaged: {reason}",
                        hint="pull it again while online",
                    ) from failure
                raise failure
            case Cached():
                now = self._clock()
                age = entry.age(now)
            case _:
                assert_never(entry)
        if is_too_stale(entry.validated, max_stale, now):
            _log.warning("%s: the cached copy may be older than %.0f s", reference, max_stale)
            raise failure
        # Who switched the network off knows why.
        level = logging.INFO if isinstance(failure, Offline) else logging.WARNING
        old = "was never confirmed" if age == math.inf else f"is {span(age)} old"
        _log.log(level, "%s: serving a copy that %s: %s", reference, old, failure.message)
        return entry.agent(reference, "stale", age=age, stale_reason=failure.message)

    async def _look_up(self, reference: Reference) -> Cached | Absent | Corrupt:
        located = locate(self._store, reference, small=True)
        if isinstance(located, Large):
            located = await anyio.to_thread.run_sync(locate, self._store, reference)
        if not isinstance(located, Located):
            return located
        if located.is_small:
            return load(self._store, reference, located)
        return await anyio.to_thread.run_sync(load, self._store, reference, located)

    async def _refresh(
        self,
        reference: Reference,
        entry: Cached | Absent | Corrupt,
        force: bool,
        is_brief: bool,
        fetched: Fetched = at_once,
    ) -> Agent:
        """Ask the registry, and keep what it gives. Runs once for all who ask at the same time."""
        asked, moves = self._clock(), self._moves
        repository = await self._repository(reference, brief=is_brief)
        cached = entry if isinstance(entry, Cached) and not force else None
        step: Serve | Fetch = Fetch()
        if cached is not None:
            step = after(cached.descriptor.digest, await repository.resolve(reference.selector))
        if isinstance(step, Fetch):
            manifest = await self._manifest(repository, reference, step.digest)
            if cached is None or manifest[0] != cached.descriptor.digest:
                with self._store.lease() as lease:
                    return await self._take(repository, reference, asked, moves, fetched, lease, *manifest)
        assert cached is not None
        await self._confirm(reference, cached, asked, fetched())
        return cached.agent(reference, "revalidated", age=self._since(asked))

    async def _take(
        self,
        repository: Repository,
        reference: Reference,
        asked: float,
        moves: int,
        fetched: Fetched,
        lease: Lease,
        digest: Digest,
        document: Manifest | Index,
    ) -> Agent:
        """Fetch what the manifest names, store it, and see that the store gives it back; repair that once."""
        taken = await self._fetch(repository, reference, asked, lease, digest, document)
        for is_repair in (False, True):
            if is_repair:
                _log.warning("%s: the store lost what it was given: pulling once more", reference)
                asked, moves = self._clock(), self._moves
                manifest = await self._manifest(repository, reference, None)
                taken = await self._fetch(repository, reference, asked, lease, *manifest)
            linger = fetched()
            if self._moved.get(str(reference), 0) > moves:
                return taken.agent(reference, self._since(asked))
            try:
                digest = taken.descriptor.digest
                changes = replace(taken.changes, linger=linger) if linger else taken.changes
                is_kept = await commit(self._store, reference, digest, changes, is_repair=is_repair)
            except StoreError as error:
                _log.warning("%s: not stored: %s", reference, error)
                return taken.agent(reference, self._since(asked))
            if is_kept:
                return taken.agent(reference, self._since(asked))
        raise StoreCorrupted(
            f"{reference}: the store doesn't give back what it was given, twice",
            hint="check the disk, or set LADING_HOME to another directory",
        )

    async def _manifest(
        self, repository: Repository, reference: Reference, digest: Digest | None
    ) -> tuple[Digest, Manifest | Index]:
        """GET the manifest: by ``digest`` if a HEAD just named one, else by what the reference says."""
        if digest is not None:
            try:
                return await self._get(repository, reference, str(digest))
            except NotFound:
                # The tag moved again between the HEAD and the GET.
                _log.debug("%s: %s is gone again: asking for the tag", reference, digest)
        return await self._get(repository, reference, reference.selector)

    async def _get(
        self, repository: Repository, reference: Reference, selector: str
    ) -> tuple[Digest, Manifest | Index]:
        served = await repository.manifest(selector)
        try:
            if len(served.raw) <= SMALL:
                return served.digest, parse_manifest(served.raw, served.media_type)
            return served.digest, await anyio.to_thread.run_sync(parse_manifest, served.raw, served.media_type)
        except InvalidManifest as error:
            raise InvalidManifest(f"{reference}: {error.message}", hint=error.hint) from error

    async def _fetch(
        self,
        repository: Repository,
        reference: Reference,
        asked: float,
        lease: Lease,
        digest: Digest,
        document: Manifest | Index,
    ) -> _Taken:
        """Get everything that an agent needs: accepted before any blob moves, verified, unpacked."""
        content = [(digest, document.raw)]
        seen = [Seen(reference.name, digest, document.media_type)]
        links: list[tuple[Digest, Digest]] = []
        manifest, parent = document, digest
        try:
            if isinstance(document, Index):
                child = choose(document)
                parent, manifest = await self._get(repository, reference, str(child.digest))
                if len(manifest.raw) != child.size:
                    raise SizeMismatch(f"{reference}: {parent}: {len(manifest.raw)} bytes instead of {child.size}")
                content.append((parent, manifest.raw))
                seen.append(Seen(reference.name, parent, manifest.media_type))
                links.append((digest, parent))
            if isinstance(manifest, Index):
                raise NotAnAgent("not an agent: an index within an index")
            layer = accept(manifest)
        except NotAnAgent as error:
            raise NotAnAgent(f"{reference}: {error.message}", hint=error.hint) from error
        try:
            packed = layer.embedded()
        except DigestMismatch as error:
            raise DigestMismatch(f"{reference}: {error.message}", hint=error.hint) from error
        if packed is None:
            seen.append(Seen(reference.name, layer.digest, layer.media_type))
            packed = await self._blob(repository, layer, seen[-1], lease, asked)
            content.append((layer.digest, packed))
            links.append((parent, layer.digest))
        changes = Changes(
            asked,
            content=tuple(content),
            seen=tuple(seen),
            references=((reference, digest, document.media_type),),
            links=tuple(links),
        )
        descriptor = Descriptor(document.media_type, digest, len(document.raw))
        return _Taken(await unpacked(reference, packed), descriptor, manifest.annotations, changes)

    async def _blob(self, repository: Repository, layer: Descriptor, seen: Seen, lease: Lease, asked: float) -> bytes:
        key = ("blob", repository.name, str(layer.digest), layer.size)
        read = partial(read_layer, repository, layer, seen, self._store, lease, self._large, asked)
        return await self._flights.join(key, read)

    def _since(self, asked: float) -> float:
        return max(0.0, self._clock() - asked)

    async def _confirm(self, reference: Reference, cached: Cached, asked: float, linger: float) -> None:
        """Remember that the registry confirmed a cached entry; not worth waiting for the disk, or failing for it."""
        changes = Changes(
            asked,
            seen=(Seen(reference.name, cached.descriptor.digest, cached.descriptor.media_type),),
            references=((reference, cached.descriptor.digest, cached.descriptor.media_type),),
            required=((reference.name, cached.descriptor.digest),),
            durable=False,
            linger=linger,
        )
        try:
            known = self._store.resolve(reference)
            # Unless the tag was moved, or forgotten, while the registry was asked.
            if isinstance(known, Record) and known.digest == cached.descriptor.digest:
                await self._store.commit(changes)
        except StoreError as error:
            _log.debug("%s: the confirmation isn't stored: %s", reference, error)


def _key(reference: Reference, force: bool) -> tuple[str, str, bool]:
    return "agent", str(reference), force
