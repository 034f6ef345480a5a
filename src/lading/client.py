"""The client: wires the rooms together; each public verb is short.

Constructing a client and asking it for what is cached imports neither the network nor an event loop: those rooms are
opened by the first verb that needs them.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.arguments import (
    check_options,
    given_store,
    read_lock,
    read_source,
    to_one_of,
    to_platforms,
    to_reference,
    to_seconds,
)
from lading.home import open_store
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.pull.lookup import cached
from lading.pull.policy import FALLBACKS, REVALIDATE, Fallback, Revalidate
from lading.rooms import Rooms
from lading.store.store import Store

if TYPE_CHECKING:
    from lading.agents.agent import Agent
    from lading.auth.credentials import Credential, Credentials
    from lading.events import Listener
    from lading.http.hosts import HostsConfig
    from lading.http.retry import Retry
    from lading.http.timeouts import Timeouts
    from lading.oci.descriptor import Descriptor
    from lading.oci.manifest import Index, Manifest
    from lading.oci.platform import Platform
    from lading.pull.artifact import Artifact
    from lading.pull.lockfile import Lockfile
    from lading.pull.prefetch import Prefetch, References
    from lading.push.agent import Pushed
    from lading.push.artifact import Delivered

    _Platforms = str | Platform | Sequence[str | Platform] | None


class Client:
    """Pulls agents from registries through a local store, and publishes them.

    Use it as an async context manager, from one event loop; share it between tasks freely::

        async with lading.Client() as client:
            agent = await client.pull_agent("ghcr.io/acme/triage:v3")

    Args:
        store: a :class:`~lading.store.store.Store`, or a directory; by default the directory ``LADING_HOME``, else the
            user's data directory. A store that is given is left open, a directory's is closed with the client.
        hosts: mirrors, certificates, plain http; by default what containerd and Docker keep in ``certs.d``.
        credentials: who to be, for which registry; by default ``LADING_USERNAME`` and ``LADING_PASSWORD`` at
            ``LADING_REGISTRY``, else what ``lading login`` or ``docker login`` kept.
        proxy: ``"auto"`` is what the environment says (``HTTPS_PROXY``, ``NO_PROXY``, …), else Docker Desktop's socket
            if there is one; ``None`` is no proxy at all. Or a URL: ``http://user:password@host:3128``, ``https://…``,
            ``unix:///path``; ``NO_PROXY`` counts for that one, too.
        retry: how often and for how long to try again; ``Retry(attempts=1)`` is never.
        timeouts: how long the other side may take.
        offline: answer from the store alone; what needs the network raises :class:`~lading.errors.Offline`.
        concurrency: how many blobs above 128 KiB are in flight at once.
        events: called with each of :data:`lading.events.Event`, on the event loop; must return at once.
        user_agent: sent with each request.
    """

    def __init__(
        self,
        store: Store | os.PathLike[str] | str | None = None,
        *,
        hosts: HostsConfig | None = None,
        credentials: Credentials | None = None,
        proxy: str | None = "auto",
        retry: Retry | None = None,
        timeouts: Timeouts | None = None,
        offline: bool = False,
        concurrency: int = 8,
        events: Listener | None = None,
        user_agent: str | None = None,
    ) -> None:
        options = {
            "hosts": hosts,
            "credentials": credentials,
            "proxy": proxy,
            "retry": retry,
            "timeouts": timeouts,
            "offline": offline,
            "concurrency": concurrency,
            "events": events,
            "user_agent": user_agent,
        }
        check_options(options)
        own_store = open_store(store) if store is None or isinstance(store, str | os.PathLike) else None
        self._rooms = Rooms(own_store if own_store is not None else given_store(store), own_store, options)

    def cached(self, ref: str | Reference, max_age: float | None = None) -> Agent | None:
        """Give an agent that needs no network, or ``None``: synchronous, needs no event loop.

        It is one whose digest ``ref`` names, or that its registry confirmed within the last ``max_age`` seconds; intact
        in the store, seen in this very repository, and verified just now.

        Raises:
            InvalidReference: ``ref`` isn't a reference.
            StoreError: the store can't be opened.
        """
        self._rooms.check_open()
        return cached(self._rooms.store, to_reference(ref), max_age=to_seconds("max_age", max_age), now=time.time())

    async def pull_agent(
        self,
        ref: str | Reference,
        force: bool = False,
        max_age: float | None = None,
        max_stale: float | None = None,
        fallback: Fallback = "any",
        revalidate: Revalidate = "now",
    ) -> Agent:
        """Give the agent that ``ref`` stands for, with the fewest requests that can be right.

        Nothing cached: GET the manifest, and its layer unless that is embedded. Cached under a tag: one HEAD, and no
        more if the tag hasn't moved. Pinned to a digest, or confirmed within ``max_age``: no request.

        Args:
            ref: ``acme/triage``, ``ghcr.io/acme/triage:v3``, ``ghcr.io/acme/triage@sha256:…``.
            force: fetch again what is cached.
            max_age: seconds for which the registry's last word is good enough; by default it is always asked.
            max_stale: seconds of age at most of a copy that stands in for a failing registry; by default any age.
            fallback: which failures a cached copy may stand in for: ``"any"`` answer of a failing registry,
                only ``"transient"`` ones, ``"never"``. Damaged or wrong content is always an error.
            revalidate: ``"background"`` gives a cached copy out at once, as ``"stale"`` unless it is fresh or pinned,
                and asks the registry after that, once for all who pull it; the next call sees what came of it.

        Raises:
            InvalidReference: ``ref`` isn't a reference.
            NotAnAgent: what it stands for holds no agent.
            RegistryError, TransportError: the registry failed, and no cached copy may stand in.
            IntegrityError, InvalidManifest, ProtocolError: the registry answered with something else.
            StoreCorrupted: the store loses what it is given, also when given it again.
            StoreError: the store can't be read.
            Offline: the client is offline and the store doesn't have it.
        """
        return await self._rooms.open().agents.pull(
            to_reference(ref),
            force=force,
            max_age=to_seconds("max_age", max_age),
            max_stale=to_seconds("max_stale", max_stale),
            fallback=to_one_of("fallback", fallback, FALLBACKS),
            revalidate=to_one_of("revalidate", revalidate, REVALIDATE),
        )

    def prefetch(
        self,
        refs: References,
        concurrency: int = 32,
        recursive: bool = False,
        lock: Lockfile | str | os.PathLike[str] | None = None,
        max_age: float | None = None,
        fallback: Fallback = "any",
    ) -> Prefetch:
        """Pull many agents at once, and give each outcome as soon as it is there::

            async for outcome in client.prefetch(["acme/triage:v3", "ghcr.io/acme/writer"]):
                print(outcome.reference, outcome.error or outcome.agent.digest)

        An outcome is an agent or an error; no failure stops the others. Duplicates are asked for once, and given once.
        Leaving the loop ends what is under way; what is committed is kept.

        Args:
            refs: any iterable, also an asynchronous one; read as it is needed.
            concurrency: how many pulls ask their registry at once; twice as many are under way or wait to be taken.
            recursive: the agents that agents name as well, a whole level at a time, 10 levels at most.
            lock: pull what the lock file says, without asking what a tag stands for; what it doesn't cover is a
                :class:`~lading.errors.LockMismatch`.
            max_age, fallback: as for :meth:`pull_agent`.

        Raises:
            InvalidLockfile: ``lock`` can't be read.
        """
        from lading.pull.prefetch import Prefetch

        rooms = self._rooms.open()
        max_age, fallback = to_seconds("max_age", max_age), to_one_of("fallback", fallback, FALLBACKS)
        pull = partial(rooms.agents.pull, max_age=max_age, fallback=fallback)
        return Prefetch(refs, pull, rooms.flights, concurrency, recursive, read_lock(lock))

    async def lock(self, refs: References, keep: Lockfile | None = None) -> Lockfile:
        """Give the lock file of ``refs`` and all that their agents name; pulls them, strictly, into the store.

        Args:
            keep: what it covers stays locked to what it says.

        Raises:
            LadingError: one of them can't be had; the error's notes name the others that can't.
        """
        from lading.pull.locking import lock

        rooms = self._rooms.open()
        return await lock(refs, partial(rooms.agents.pull, fallback="never"), rooms.flights, keep)

    async def pull(
        self,
        ref: str | Reference,
        force: bool = False,
        platform: str | Platform | Sequence[str | Platform] | None = None,
        all_platforms: bool = False,
    ) -> Artifact:
        """Bring any artifact or image into the store, whole, and give it: its manifests, configs and layers.

        Strict: the registry is asked, and its failure is an error. What the store has isn't fetched again, and what
        was interrupted goes on where it stopped, also in another process. Blobs stream concurrently and are verified.
        A client that is offline gives what the store has whole.

        Args:
            force: fetch again what is there.
            platform: which image of an index (``linux/arm64/v8``), or several; by default the best for this machine.
            all_platforms: every image of an index.

        Raises:
            InvalidReference, InvalidPlatform: what was given isn't one.
            InvalidManifest: what came isn't a manifest, or has nothing for the platform.
            RegistryError, TransportError, ProtocolError: the registry failed.
            IntegrityError: it sent something else.
            StoreError: the store can't take it.
            Offline: the client is offline, and the store doesn't have all of it.
        """
        platforms = None if all_platforms else to_platforms(platform)
        return await self._rooms.open().artifacts.pull(to_reference(ref), force=force, platforms=platforms)

    async def manifest(self, ref: str | Reference) -> Manifest | Index:
        """Give what ``ref`` stands for, parsed and verified; ``raw`` are its bytes.

        Raises:
            InvalidManifest: it isn't a manifest.
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline, and the store doesn't have it.
        """
        return await self._rooms.open().artifacts.manifest(to_reference(ref))

    @asynccontextmanager
    async def stream_blob(self, ref: str | Reference, digest: str | Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a blob of the repository that ``ref`` is in, without keeping it::

            async with client.stream_blob(ref, digest) as chunks:
                async for chunk in chunks: ...

        Its digest is verified at the end: what was given before is only certain when the last chunk has come.

        Raises:
            DigestMismatch: it was something else.
            BodyInterrupted, TimedOut: it was cut short.
            RegistryError, TransportError, ProtocolError: the registry sent none.
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        wanted = digest if isinstance(digest, Digest) else Digest.parse(digest)
        repository = await self._rooms.online(f"stream {wanted} of {reference.name}").repository(reference)
        async with repository.open_blob(wanted) as chunks:
            yield chunks

    async def push_agent(
        self,
        source: bytes | str | os.PathLike[str],
        ref: str | Reference,
        annotations: Mapping[str, str] | None = None,
        inline: bool = True,
    ) -> Pushed:
        """Publish the YAML in ``source`` (bytes, or the path of a file) as the tag ``ref``, byte for byte.

        Blobs that the repository has aren't sent again; one that another repository of the registry is known to have is
        mounted. The manifest's ``created`` honours ``SOURCE_DATE_EPOCH``.

        Args:
            annotations: added to the manifest's.
            inline: embed content up to 64 KiB in the manifest as well, so that a cold pull is one GET.

        Raises:
            InvalidReference: ``ref`` isn't a reference, or names a digest.
            InvalidDocument: ``source`` can't be read, or isn't text.
            RegistryError, TransportError: the registry didn't take it.
        """
        reference = to_reference(ref)
        content, file_name = await read_source(source, reference)
        network = self._rooms.online(f"push {reference}")
        pushed = await network.pusher.push(
            content, reference, file_name=file_name, annotations=annotations, inline=inline
        )
        network.agents.outdate(reference)
        return pushed

    async def copy(
        self,
        source: str | Reference | os.PathLike[str],
        target: str | Reference,
        platform: _Platforms = None,
        referrers: bool = False,
        image: str | None = None,
    ) -> Delivered:
        """Copy an artifact or image, whole, to a registry: from one, or a layout (a path); see :meth:`Copier.copy`."""
        given = source if isinstance(source, os.PathLike) else to_reference(source), to_reference(target)
        copier = self._rooms.online(f"copy {given[0]}").copier
        return await copier.copy(*given, to_platforms(platform), referrers, image)

    async def resolve(self, ref: str | Reference) -> Descriptor:
        """Ask the registry what ``ref`` stands for now: a HEAD, and a GET where that doesn't say.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        return await self._rooms.online(f"resolve {reference}").resolve(reference)

    async def tags(self, repository: str | Reference) -> AsyncIterator[str]:
        """Give the tags of a repository, in the registry's order, page by page.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = to_reference(repository)
        opened = await self._rooms.online(f"list the tags of {reference.name}").repository(reference)
        async for tag in opened.tags():
            yield tag

    async def referrers(self, ref: str | Reference, artifact_type: str | None = None) -> AsyncIterator[Descriptor]:
        """Give what refers to ``ref``, such as signatures: all, or of one type. Raises what ``resolve`` does."""
        async for one in self._rooms.online(f"list what refers to {ref}").referrers(to_reference(ref), artifact_type):
            yield one

    async def delete(self, ref: str | Reference) -> None:
        """Delete from the registry: a tag, or what a digest names, with every tag of it. The store keeps its copy.

        Raises:
            RegistryError, TransportError: the registry didn't; many delete by digest only.
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        upload = await self._rooms.online(f"delete {reference}").upload(reference)
        await upload.delete(reference.selector)

    async def verify_login(self, registry: str, credential: Credential) -> bool:
        """Tell whether a registry asks who is there and believes ``credential``; false if it asks nobody.

        Only ``credential`` is tried, and nothing is kept.

        Raises:
            Unauthorized, Denied: the registry doesn't believe it.
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            CredentialError: the credential can't be sent.
            Offline: the client is offline.
        """
        return await self._rooms.online(f"log in to {registry}").verify_login(registry, credential)

    async def aclose(self) -> None:
        """End what is under way, and close connections and the client's own store. May be called again."""
        await self._rooms.aclose()

    def close(self) -> None:
        """Do the same where no event loop runs, such as at the end of a fixture that isn't asynchronous.

        The loop that the client was used on may be closed by then. May be called again.

        Raises:
            LadingError: an event loop is running; the client stays open, and wants ``aclose``.
        """
        self._rooms.close()

    async def __aenter__(self) -> Self:
        await self._rooms.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


async def pull_agent(
    ref: str | Reference,
    force: bool = False,
    max_age: float | None = None,
    max_stale: float | None = None,
    fallback: Fallback = "any",
) -> Agent:
    """Pull one agent with a client of its own; see :meth:`Client.pull_agent`. Many are pulled faster by one client."""
    async with Client() as client:
        return await client.pull_agent(ref, force, max_age, max_stale, fallback)
