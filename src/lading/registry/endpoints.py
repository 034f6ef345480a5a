"""Where a registry is: the URLs that may answer for its name, in the order in which they are asked.

Mirrors come first, the registry itself last. A mirror supplies bytes of a known digest; what a tag stands for it may
say only if it was given the capability ``resolve``. One that fails is left alone for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from lading.errors import InvalidHosts, LadingError, RegistryError
from lading.events import FallingBack, Listener, tell
from lading.http.hosts import Capability, Host, RegistryHosts
from lading.http.retry import Attempts
from lading.http.transport import Request, Site
from lading.redact import redact_url
from lading.registry.turns import MOST, Turns

_log = logging.getLogger("lading.registry")

_LEFT_ALONE_SECONDS = 30.0
"""How long a mirror that failed isn't asked; doubled while it goes on failing, up to the longest."""

_LONGEST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One API root that answers for a registry; credentials of the host ``registry`` may go to its origin only.

    ``namespace`` is the registry that a mirror is asked for, as containerd tells it: ``?ns=docker.io``.
    """

    registry: str
    root: str
    site: Site
    capabilities: frozenset[Capability] = frozenset({"pull", "resolve", "push"})
    namespace: str = ""

    def request(
        self,
        method: str,
        url: str,
        *,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        attempts: Attempts | None = None,
    ) -> Request:
        """Make a request to this endpoint; ``url`` is a path below its root, or a URL that it gave itself."""
        absolute = url
        if url.startswith("/"):
            absolute = self.root + url
            if self.namespace:
                absolute += f"{'&' if '?' in url else '?'}ns={quote(self.namespace, safe=':')}"
        return Request(
            method, absolute, headers or {}, body, self.registry, self.site.origin, scopes, self.site, attempts
        )


@dataclass(slots=True)
class _Outage:
    """Until when a mirror is left alone, and for how long that was the last time."""

    until: float = 0.0
    seconds: float = field(default=0.0)
    why: str = ""


class Endpoints:
    """The endpoints of one registry, and which of them don't answer. ``clock`` gives seconds, monotonic.

    ``connections`` is how many there may be for content at most, where fewer would do.
    """

    def __init__(
        self,
        registry: str,
        hosts: RegistryHosts,
        clock: Callable[[], float] = time.monotonic,
        *,
        connections: int = MOST,
        events: Listener | None = None,
    ) -> None:
        self.registry = registry
        self.turns = Turns(connections, clock)
        self.server = _endpoint(registry, hosts.server)
        self.mirrors = tuple(_endpoint(_name(host), host, namespace=registry) for host in hosts.mirrors)
        self._clock = clock
        self._events = events
        self._outages: dict[str, _Outage] = {}

    def candidates(self, capability: Capability) -> list[Endpoint]:
        """Give who may be asked, in order: at least one, and the registry itself last if it may.

        Raises:
            InvalidHosts: the configuration gives this capability to nobody.
        """
        able = [endpoint for endpoint in (*self.mirrors, self.server) if capability in endpoint.capabilities]
        now = self._clock()
        alive = [one for one in able if one is self.server or now >= self._outage(one).until]
        if not able:
            raise InvalidHosts(
                f"{self.registry}: no host has the capability {capability!r}", hint="give it to one in hosts.toml"
            )
        return alive or able  # where nobody else is left, those are asked again that failed the last time

    def failed(self, endpoint: Endpoint, failure: LadingError) -> None:
        """Remember that a mirror failed. One that doesn't have something, or not for us, is none the worse for it."""
        where = redact_url(endpoint.root)
        if isinstance(failure, RegistryError) and failure.status < 500 and failure.status not in (408, 429):
            _log.debug("mirror %s of %s: %s", where, self.registry, failure.message)
            return
        outage, now = self._outage(endpoint), self._clock()
        if now < outage.until:
            return  # others have found that out in the meantime
        outage.seconds = min(max(_LEFT_ALONE_SECONDS, 2 * outage.seconds), _LONGEST_SECONDS)
        outage.until = now + outage.seconds
        outage.why = _said(failure)
        message = "mirror %s of %s is left alone for %.0f s: %s"
        _log.warning(message, where, self.registry, outage.seconds, failure.message)
        tell(self._events, FallingBack("mirror", where, failure.message, outage.seconds))

    def worked(self, endpoint: Endpoint) -> None:
        """Remember that a mirror answered."""
        self._outages.pop(endpoint.root, None)

    def others(self, capability: Capability, last: Endpoint, failures: Mapping[Endpoint, LadingError]) -> str:
        """Say, to be put behind an error of ``last``, why none of the mirrors has answered; empty if there are none."""
        said = []
        for mirror in self.mirrors:
            if mirror in failures:
                said.append(f"mirror {redact_url(mirror.root)} {_said(failures[mirror])}")
            elif mirror is not last and capability in mirror.capabilities:
                said.append(f"mirror {redact_url(mirror.root)} isn't asked for a while: it {self._outage(mirror).why}")
        return f" ({'; '.join(said)})" if said else ""

    def _outage(self, endpoint: Endpoint) -> _Outage:
        return self._outages.setdefault(endpoint.root, _Outage())


def qualified(name: str, selector: str) -> str:
    """Give the reference that a tag or a digest of the repository ``name`` is, for people."""
    return f"{name}{'@' if ':' in selector else ':'}{selector}"


def _said(failure: LadingError) -> str:
    """Say how a mirror failed."""
    if isinstance(failure, RegistryError) and failure.status:
        return f"answered {failure.status}"
    return f"failed: {failure.message}"


def _endpoint(name: str, host: Host, namespace: str = "") -> Endpoint:
    return Endpoint(name, host.root, host.site, host.capabilities, namespace)


def _name(host: Host) -> str:
    """Give the name under which credentials for a mirror are kept: its host, with its port if it has one."""
    return urlsplit(host.url).netloc
