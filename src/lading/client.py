"""The client: wires the rooms together; each public verb is short.

Constructing a client and asking it for what is cached imports neither the network nor an event loop: those rooms are
opened by the first verb that needs them.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.arguments import given_store, read_source, to_platforms, to_reference, to_seconds
from lading.errors import LadingError, Offline, StoreError
from lading.events import Listener
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.pull.lookup import cached
from lading.pull.policy import FALLBACKS, Fallback
from lading.store.store import Store

if TYPE_CHECKING:
    from lading.agents.agent import Agent
    from lading.auth.credentials import Credential, Credentials
    from lading.http.hosts import HostsConfig
    from lading.http.retry import Retry
    from lading.http.timeouts import Timeouts
    from lading.network import Network
    from lading.oci.descriptor import Descriptor
    from lading.oci.manifest import Index, Manifest
    from lading.oci.platform import Platform
    from lading.pull.artifact import Artifact
    from lading.push.agent import Pushed
    from lading.push.artifact import Delivered
    from lading.store.local import LocalStore

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
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._own_store = _open_directory(store) if store is None or isinstance(store, str | os.PathLike) else None
        self._store: Store = self._own_store if self._own_store is not None else given_store(store)
        self._hosts = hosts
        self._credentials = credentials
        self._proxy = proxy
        self._retry = retry
        self._timeouts = timeouts
        self._offline = offline
        self._concurrency = concurrency
        self._events = events
        self._user_agent = user_agent
        self._network: Network | None = None
        self._closed = False

    def cached(self, ref: str | Reference, max_age: float | None = None) -> Agent | None:
        """Give an agent that needs no network, or ``None``: synchronous, needs no event loop.

        It is one whose digest ``ref`` names, or that its registry confirmed within the last ``max_age`` seconds; intact
        in the store, seen in this very repository, and verified just now.

        Raises:
            InvalidReference: ``ref`` isn't a reference.
            StoreError: the store can't be opened.
        """
        self._check_open()
        return cached(self._store, to_reference(ref), max_age=to_seconds("max_age", max_age), now=time.time())

    async def pull_agent(
        self,
        ref: str | Reference,
        force: bool = False,
        max_age: float | None = None,
        max_stale: float | None = None,
        fallback: Fallback = "any",
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

        Raises:
            InvalidReference: ``ref`` isn't a reference.
            NotAnAgent: what it stands for holds no agent.
            RegistryError, TransportError: the registry failed, and no cached copy may stand in.
            IntegrityError, InvalidManifest, ProtocolError: the registry answered with something else.
            StoreCorrupted: the store loses what it is given, also when given it again.
            StoreError: the store can't be read.
            Offline: the client is offline and the store doesn't have it.
        """
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback must be one of {', '.join(FALLBACKS)}, not {fallback!r}")
        return await self._open().agents.pull(
            to_reference(ref),
            force=force,
            max_age=to_seconds("max_age", max_age),
            max_stale=to_seconds("max_stale", max_stale),
            fallback=fallback,
        )

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
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        platforms = None if all_platforms else to_platforms(platform)
        return await self._online(f"pull {reference}").artifacts.pull(reference, force=force, platforms=platforms)

    async def manifest(self, ref: str | Reference) -> Manifest | Index:
        """Give what ``ref`` stands for, parsed and verified; ``raw`` are its bytes.

        Raises:
            InvalidManifest: it isn't a manifest.
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        return await self._online(f"get the manifest of {reference}").artifacts.manifest(reference)

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
        repository = await self._online(f"stream {wanted} of {reference.name}").repository(reference)
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
        network = self._online(f"push {reference}")
        pushed = await network.pusher.push(
            content, reference, file_name=file_name, annotations=annotations, inline=inline
        )
        network.agents.outdate(reference)
        return pushed

    async def copy(
        self, source: str | Reference, target: str | Reference, platform: _Platforms = None, referrers: bool = False
    ) -> Delivered:
        """Copy an artifact or image, whole, to another registry, repository or tag; see :meth:`Copier.copy`."""
        given = to_reference(source), to_reference(target)
        return await self._online(f"copy {given[0]}").copier.copy(*given, to_platforms(platform), referrers)

    async def resolve(self, ref: str | Reference) -> Descriptor:
        """Ask the registry what ``ref`` stands for now: a HEAD, and a GET where that doesn't say.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        return await self._online(f"resolve {reference}").resolve(reference)

    async def tags(self, repository: str | Reference) -> AsyncIterator[str]:
        """Give the tags of a repository, in the registry's order, page by page.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = to_reference(repository)
        opened = await self._online(f"list the tags of {reference.name}").repository(reference)
        async for tag in opened.tags():
            yield tag

    async def referrers(self, ref: str | Reference, artifact_type: str | None = None) -> AsyncIterator[Descriptor]:
        """Give what refers to ``ref``, such as signatures: all, or of one type. Raises what ``resolve`` does."""
        async for one in self._online(f"list what refers to {ref}").referrers(to_reference(ref), artifact_type):
            yield one

    async def delete(self, ref: str | Reference) -> None:
        """Delete from the registry: a tag, or what a digest names, with every tag of it. The store keeps its copy.

        Raises:
            RegistryError, TransportError: the registry didn't; many delete by digest only.
            Offline: the client is offline.
        """
        reference = to_reference(ref)
        upload = await self._online(f"delete {reference}").upload(reference)
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
        from lading.auth.authorization import check_credential
        from lading.auth.keeping import canonical_host

        check_credential(credential)
        host = canonical_host(registry)
        return await self._online(f"log in to {host}").verify_login(host, credential)

    async def aclose(self) -> None:
        """End what is under way, and close connections and the client's own store. May be called again."""
        self._closed = True
        network, self._network = self._network, None
        try:
            if network is not None:
                await network.aclose()
        finally:
            if self._own_store is not None:
                await self._own_store.aclose()

    def close(self) -> None:
        """Do the same where no event loop runs, such as at the end of a fixture that isn't asynchronous.

        The loop that the client was used on may be closed by then. May be called again.

        Raises:
            LadingError: an event loop is running; the client stays open, and wants ``aclose``.
        """
        if self._network is not None:
            self._network.close()
        self._closed, self._network = True, None
        if self._own_store is not None:
            self._own_store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open(self) -> Network:
        """Give the rooms that need an event loop, and open them at first."""
        self._check_open()
        if self._network is None:
            from lading.network import Network

            self._network = Network(
                self._store,
                hosts=self._hosts,
                credentials=self._credentials,
                proxy=self._proxy,
                retry=self._retry,
                timeouts=self._timeouts,
                offline=self._offline,
                concurrency=self._concurrency,
                events=self._events,
                user_agent=self._user_agent,
            )
        self._network.check_loop()
        return self._network

    def _check_open(self) -> None:
        if self._closed:
            raise LadingError("the client is closed", hint="use it inside its `async with`")

    def _online(self, what: str) -> Network:
        if self._offline:
            raise Offline(f"can't {what}: network access is switched off")
        return self._open()


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


def default_home() -> str:
    """Give the directory of the default store: ``LADING_HOME``, else ``lading`` in the user's data directory."""
    home = os.environ.get("LADING_HOME")
    if home:
        return home
    import platformdirs

    try:
        return platformdirs.user_data_dir("lading", appauthor=False)
    except RuntimeError as error:
        raise StoreError(
            "this user has no home directory for the store to be in", hint="set LADING_HOME to a directory"
        ) from error


def _open_directory(path: os.PathLike[str] | str | None) -> LocalStore:
    from lading.store.local import LocalStore

    return LocalStore(default_home() if path is None else path)
