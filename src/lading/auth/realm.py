"""The realm policy: which token servers a registry may send its clients to. Pure: no name is looked up.

A realm comes from the network, and a credential may follow it. So it is https, or the registry's own origin; it never
is an address that is private to this machine or its network (a metadata service, the loopback interface), however it is
spelled; and a URL that two programs could read differently is refused.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from lading.errors import ProtocolError
from lading.http.transport import Origin

# RFC 3986, section 2: the characters of a URL. No backslash, no space, nothing beyond ASCII (an international name has
# to come in its ASCII form, so that no digit or dot of another script is folded into an address).
_URL = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{1,4096}")

# RFC 3986, section 3.2.2, without percent-encoding; RFC 6874 zone identifiers are refused.
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*))(?::[0-9]{1,5})?")

# URL standard, "ends in a number": only then does a resolver take a name for an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


_RELATED = {("registry-1.docker.io", "auth.docker.io")}
"""Registries and their token servers that have nothing in their names to show it."""


def is_related(realm: str, registry: Origin) -> bool:
    """Tell whether a token server is the registry's own by its very name: its host, or a domain that this is in."""
    try:
        host = Origin.of(realm).host
    except ProtocolError:
        return False
    is_parent = "." in host and registry.host.endswith(f".{host}")
    return host == registry.host or is_parent or (registry.host, host) in _RELATED


def realm_refusal(realm: str, registry: Origin) -> str | None:
    """Say why a client of ``registry`` must not send anything to ``realm``; ``None`` if it may.

    Allowed is the registry's own origin; its host on another port over https; loopback beside a registry that is itself
    plain http on loopback; and any other https host that isn't a private, loopback, link-local or reserved address.
    """
    if not _URL.fullmatch(realm):
        return "it isn't a URL"
    if "#" in realm:
        return "it has a fragment"
    try:
        parts = urlsplit(realm)
        if "@" in parts.netloc:
            return "it has user information"
        if not _AUTHORITY.fullmatch(parts.netloc):
            return "its host isn't a plain name or address"
        origin = Origin.of(realm)
    except (ValueError, ProtocolError):
        return "it isn't an http(s) URL"
    if origin == registry:
        return None
    if origin.host == registry.host and origin.scheme == "https":
        return None
    if registry.scheme == "http" and _is_loopback(registry.host) and _is_loopback(origin.host):
        return None
    if origin.scheme != "https":
        return "it isn't https"
    return _host_refusal(origin.host)


def _host_refusal(host: str) -> str | None:
    host = host.rstrip(".")
    if _is_loopback(host):
        return "it is on the loopback interface"
    try:
        address = _address(host)
    except ValueError:
        return "its address isn't written plainly"
    if address is not None and not _is_public(address):
        return "it is an address of a private or reserved network"
    return None


def _address(host: str) -> _Address | None:
    """Give the address that ``host`` is, ``None`` if it is a name. Raises ValueError for an address in disguise."""
    if ":" in host:
        return ipaddress.IPv6Address(host)
    return ipaddress.IPv4Address(host) if _NUMBER.fullmatch(host.rpartition(".")[2]) else None


def _is_public(address: _Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    # An IPv4 address that travels inside an IPv6 one is judged as what it is.
    teredo = address.teredo or ()
    inner = (address.ipv4_mapped, address.sixtofour, *teredo)
    return all(_is_public(candidate) for candidate in inner if candidate is not None)


def _is_loopback(host: str) -> bool:
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = _address(host)
    except ValueError:
        return False
    return address is not None and address.is_loopback
