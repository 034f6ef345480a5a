"""The rooms that need an event loop, wired together: what a client opens when something has to be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import anyio
import anyio.to_thread

from lading import __version__
from lading.auth.authorization import check_credential
from lading.auth.credentials import Credential, Credentials, default_credentials
from lading.auth.keeping import canonical_host
from lading.auth.memory import KeptChallenges
from lading.auth.transport import AuthTransport
from lading.errors import LadingError
from lading.events import Listener
from lading.flight import Flights
from lading.http.hosts import HostsConfig
from lading.http.limits import Pauses
from lading.http.proxy import ProxyRules, Router
from lading.http.redirect import RedirectTransport
from lading.http.retry import Retry, RetryTransport
from lading.http.session import AiohttpTransport
from lading.http.timeouts import Timeouts
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import parse_manifest
from lading.oci.reference import Reference
from lading.pull.agent import AgentPuller
from lading.pull.artifact import ArtifactPuller
from lading.push.agent import AgentPusher
from lading.push.artifact import ArtifactPusher
from lading.push.copy import Copier
from lading.registry.endpoints import Endpoints
from lading.registry.ping import ProvingTransport, ping
from lading.registry.referrers import referrers
from lading.registry.repository import Repository
from lading.registry.upload import Upload
from lading.store.store import Changes, Store


class Network:
    """Everything behind a client that lives on one event loop."""

    def __init__(
        self,
        store: Store,
        *,
        hosts: HostsConfig | None,
        credentials: Credentials | None,
        proxy: str | None,
        retry: Retry | None,
        timeouts: Timeouts | None,
        offline: bool,
        concurrency: int,
        events: Listener | None,
        user_agent: str | None,
    ) -> None:
        self._pauses = pauses = Pauses()
        self._events = events
        self._session = AiohttpTransport(
            user_agent=user_agent or f"lading/{__version__}",
            events=events,
            router=Router(ProxyRules.of(proxy)),
            pauses=pauses,
            timeouts=timeouts,
        )
        self._retry = Retry() if retry is None else retry
        known = default_credentials() if credentials is None else credentials
        memory = KeptChallenges(store.recall, partial(_keep, store))
        auth = AuthTransport(self._session, known, memory=memory)
        self._transport = RetryTransport(RedirectTransport(auth), self._retry, pauses, events=events)
        self._hosts = HostsConfig.standard() if hosts is None else hosts
        self._endpoints: dict[str, Endpoints] = {}
        self._loop = asyncio.get_running_loop()
        self.flights = Flights(at_end=self._session.aclose)
        self._warned: set[str] = set()
        self._concurrency = concurrency
        large = anyio.CapacityLimiter(concurrency)
        self.agents = AgentPuller(store, self.repository, self.flights, large, offline=offline, events=events)
        self.artifacts = ArtifactPuller(store, self.repository, self.flights, large, offline=offline, events=events)
        self.pusher = AgentPusher(store, self.upload)
        moved = self.agents.outdate
        whole = ArtifactPusher(store, self.repository, self.upload, concurrency=concurrency, events=events, moved=moved)
        self.copier = Copier(store, self.repository, whole)

    async def repository(self, reference: Reference, *, brief: bool = False) -> Repository:
        """Give the repository of a reference, for reading; with ``brief`` patience where there is a stand-in."""
        policy = self._retry.brief() if brief else self._retry
        endpoints = await self._endpoints_of(reference.registry)
        begin = partial(self._transport.operation, policy)
        return Repository(self._transport, endpoints, reference.repository, self._warned, begin)

    async def upload(self, reference: Reference) -> Upload:
        """Give the repository that a reference is in, for writing."""
        endpoints = await self._endpoints_of(reference.registry)
        return Upload(self._transport, endpoints, reference.repository, self._transport.operation)

    async def _endpoints_of(self, registry: str) -> Endpoints:
        if registry not in self._endpoints:
            hosts = await anyio.to_thread.run_sync(self._hosts.lookup, registry)
            opened = Endpoints(registry, hosts, connections=4 * self._concurrency, events=self._events)
            self._endpoints.setdefault(registry, opened)
        return self._endpoints[registry]

    async def resolve(self, reference: Reference) -> Descriptor:
        """Ask what ``reference`` stands for: HEAD, and GET where the answer doesn't say."""
        repository = await self.repository(reference)
        descriptor = await repository.resolve(reference.selector)
        if descriptor is not None:
            return descriptor
        served = await repository.manifest(reference.selector)
        document = parse_manifest(served.raw, served.media_type)
        return Descriptor(document.media_type, served.digest, len(served.raw))

    async def referrers(self, reference: Reference, artifact_type: str | None) -> AsyncIterator[Descriptor]:
        """Give what refers to ``reference`` by its subject, at its registry."""
        subject = reference.digest or (await self.resolve(reference)).digest
        async for one in referrers(await self.repository(reference), subject, artifact_type):
            yield one

    async def verify_login(self, registry: str, credential: Credential) -> bool:
        """Have ``registry`` believe ``credential``; false if it doesn't ask for any."""
        check_credential(credential)
        registry = canonical_host(registry)
        ring = ProvingTransport(self._session, credential)
        transport = RetryTransport(RedirectTransport(ring), self._retry, self._pauses, events=self._events)
        await ping(transport, (await self._endpoints_of(registry)).server)
        return ring.is_proved

    def check_loop(self) -> None:
        """Raise LadingError when called on another event loop than the one that this was opened on."""
        self.flights.check_loop()

    def check_end(self) -> None:
        """Raise LadingError when this can't be closed from here: its event loop is another one, and runs."""
        self.flights.check_end()

    async def aclose(self) -> None:
        """End every flight, then close every connection. Raises LadingError, and does nothing, as ``check_end``."""
        self.check_end()
        try:
            await self.flights.aclose()
        finally:
            await self._session.aclose()

    def close(self) -> None:
        """Do the same from outside of the event loop; what belonged to one that is closed has ended with it.

        Raises:
            LadingError: an event loop is running, here or where this was opened.
        """
        try:
            asyncio.get_running_loop()
            is_running = True
        except RuntimeError:
            is_running = self._loop.is_running()
        if is_running:
            raise LadingError("this client can't be closed from here: an event loop runs", hint="await its aclose()")
        if not self._loop.is_closed():
            self._loop.run_until_complete(self.aclose())


async def _keep(store: Store, kind: str, key: str, value: str | None) -> None:
    """Write a note that is not worth waiting for the disk."""
    await store.commit(Changes(time.time(), notes=((kind, key, value),), durable=False))
