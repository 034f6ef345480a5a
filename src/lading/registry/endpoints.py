"""Where a registry is: from its name to the URL that answers for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from lading.http.transport import Origin, Request

# distribution/reference: "docker.io" is a name, its registry answers elsewhere.
_HOSTS = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One URL that answers for ``registry``; credentials of that registry may go to its origin only."""

    registry: str
    url: str

    def request(
        self,
        method: str,
        url: str,
        *,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Request:
        """Make a request to this endpoint; ``url`` is a path, or a URL that this endpoint itself gave."""
        absolute = self.url + url if url.startswith("/") else url
        return Request(method, absolute, headers or {}, body, self.registry, Origin.of(self.url), scopes)


def endpoint(registry: str) -> Endpoint:
    """Give the endpoint of a registry: https, but plain http on this machine's own loopback addresses."""
    host = _HOSTS.get(registry, registry)
    return Endpoint(registry, f"{'http' if is_loopback(host) else 'https'}://{host}")


def qualified(name: str, selector: str) -> str:
    """Give the reference that a tag or a digest of the repository ``name`` is, for people."""
    return f"{name}{'@' if ':' in selector else ':'}{selector}"


def is_loopback(host: str) -> bool:
    """Tell whether ``host``, with or without a port, is this machine by its very name or address."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
