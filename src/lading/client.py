"""The client: wires the rooms together; each public verb is short.

Constructing a client and asking it for what is cached imports neither the network nor an event loop: those rooms are
opened by the first verb that needs them.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from lading.errors import InvalidDocument, LadingError, Offline, StoreError
from lading.events import Listener
from lading.oci.reference import Reference
from lading.pull.lookup import cached
from lading.pull.policy import FALLBACKS, Fallback
from lading.store.store import Store

if TYPE_CHECKING:
    from lading.agents.agent import Agent
    from lading.auth.credentials import Credentials
    from lading.http.hosts import HostsConfig
    from lading.http.retry import Retry
    from lading.http.timeouts import Timeouts
    from lading.network import Network
    from lading.oci.descriptor import Descriptor
    from lading.push.agent import Pushed
    from lading.store.local import LocalStore


class Client:
    """Pulls agents from registries through a local store, and publishes them.

    Use it as an async context manager, from one event loop; share it between tasks freely::

        async with lading.Client() as client:
            agent = await client.pull_agent("ghcr.io/acme/triage:v3")

    Args:
        store: a :class:`~lading.store.store.Store`, or a directory; by default the directory ``LADING_HOME``, else the
            user's data directory. A store that is given is left open, a directory's is closed with the client.
        hosts: mirrors, certificates, plain http; by default what containerd and Docker keep in ``certs.d``.
        credentials: who to be, for which registry; by default what ``docker login`` wrote.
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
        self._store: Store = self._own_store if self._own_store is not None else _given_store(store)
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
        return cached(self._store, _reference(ref), max_age=_seconds("max_age", max_age), now=time.time())

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
            _reference(ref),
            force=force,
            max_age=_seconds("max_age", max_age),
            max_stale=_seconds("max_stale", max_stale),
            fallback=fallback,
        )

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
        reference = _reference(ref)
        content, file_name = await _read_source(source, reference)
        network = self._online(f"push {reference}")
        pushed = await network.pusher.push(
            content, reference, file_name=file_name, annotations=annotations, inline=inline
        )
        network.agents.outdate(reference)
        return pushed

    async def resolve(self, ref: str | Reference) -> Descriptor:
        """Ask the registry what ``ref`` stands for now: a HEAD, and a GET where that doesn't say.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = _reference(ref)
        return await self._online(f"resolve {reference}").resolve(reference)

    async def tags(self, repository: str | Reference) -> AsyncIterator[str]:
        """Give the tags of a repository, in the registry's order, page by page.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't say.
            Offline: the client is offline.
        """
        reference = _reference(repository)
        opened = await self._online(f"list the tags of {reference.name}").repository(reference)
        async for tag in opened.tags():
            yield tag

    async def delete(self, ref: str | Reference) -> None:
        """Delete from the registry: a tag, or what a digest names, with every tag of it. The store keeps its copy.

        Raises:
            RegistryError, TransportError: the registry didn't; many delete by digest only.
            Offline: the client is offline.
        """
        reference = _reference(ref)
        upload = await self._online(f"delete {reference}").upload(reference)
        await upload.delete(reference.selector)

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


def _given_store(store: object) -> Store:
    if not hasattr(store, "resolve"):
        raise TypeError(f"store must be a Store or a directory, not {type(store).__name__}")
    return cast("Store", store)


def _reference(ref: str | Reference) -> Reference:
    return ref if isinstance(ref, Reference) else Reference.parse(ref)


def _seconds(name: str, value: float | None) -> float | None:
    if value is not None and not value >= 0:
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")
    return value


async def _read_source(source: bytes | str | os.PathLike[str], reference: Reference) -> tuple[bytes, str]:
    """Give the content and the file name of what is to be published."""
    if isinstance(source, bytes):
        return source, reference.repository.rpartition("/")[2] + ".yaml"
    import aiofiles

    path = os.fspath(source)
    try:
        async with aiofiles.open(path, "rb") as file:
            return await file.read(), os.path.basename(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidDocument(f"{path}: {why}", hint="is the path right?") from error
