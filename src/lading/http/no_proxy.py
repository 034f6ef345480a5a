"""NO_PROXY: which hosts need no proxy. Resolves no name, opens no connection."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lading.redact import printable, redact

_log = logging.getLogger("lading.http")

# RFC 3986, section 3.2: host [ ":" port ], with the port in ASCII digits.
PLACE = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of NO_PROXY: a network, or a domain (``.example`` has subdomains only, ``*`` is everything)."""

    text: str
    port: int | None
    domain: str = ""
    network: IPv4Network | IPv6Network | None = None

    def covers(self, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.domain == "*":
            return True
        if address is not None:
            return self.network is not None and address in self.network
        if self.domain.startswith("."):
            return host.endswith(self.domain)
        return bool(self.domain) and (host == self.domain or host.endswith(f".{self.domain}"))


@dataclass(frozen=True, slots=True)
class NoProxy:
    """The hosts that need no proxy.

    The meaning is that of Go's httpproxy, which the registries' other clients use: ``example.com`` is the domain and
    its subdomains, ``.example.com`` and ``*.example.com`` are the subdomains, ``*`` is everything, a port restricts an
    entry to it. Addresses and networks match addresses only: a name is never resolved for this.
    """

    entries: tuple[_Entry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NoProxy:
        """Read entries between commas or white space. What isn't one is ignored; never raises."""
        entries = []
        for part in text.replace(",", " ").split():
            entry = _entry(part)
            if entry is None:
                _log.debug("NO_PROXY: %s is ignored: not a host, address or network", redact(part.rpartition("@")[2]))
            else:
                entries.append(entry)
        return cls(tuple(entries))

    def match(self, host: str, port: int) -> str | None:
        """Give the first entry, as it was written, that covers ``host``, or ``None``."""
        name = bare_host(host)
        address = address_of(name)
        return next((printable(entry.text) for entry in self.entries if entry.covers(name, address, port)), None)


def bare_host(host: str) -> str:
    """Give a host as it is compared: in lower case, without brackets and the dot of the root."""
    return host.strip("[]").rstrip(".").lower()


@lru_cache(maxsize=512)
def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Give the address that a host is, ``None`` if it is a name; an IPv4-mapped address is the address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """Give the network that ``text`` is, of one address where it has no prefix length."""
    address, slash, length = text.partition("/")
    # A mask in place of the length is nobody's habit, and 0.0.0.0 would be everybody.
    if "." in length:
        return None
    try:
        network = ipaddress.ip_network(address.partition("%")[0] + slash + length, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None else IPv4Network(f"{mapped}/{network.prefixlen - 96}")


def _entry(text: str) -> _Entry | None:
    place = PLACE.fullmatch(text)
    # Otherwise it has more than one colon: an IPv6 address without a port, or nothing.
    host, digits = place.groups() if place is not None else (text, None)
    port = None if digits is None else int(digits)
    if (port is not None and not 0 < port < 65536) or host.startswith("[") != host.endswith("]"):
        return None
    name = bare_host(host)
    network = _network(name)
    if network is not None:
        return _Entry(text, port, network=network)
    domain = name.removeprefix("*") if name.startswith("*.") else name
    is_domain = domain == "*" or (is_name(domain.removeprefix(".")) and "[" not in host)
    return _Entry(text, port, domain) if is_domain else None


def is_name(text: str) -> bool:
    """Tell whether text may be the name of a host: the characters of RFC 3986, section 3.2.2, nothing quoted."""
    return bool(text) and all(character.isalnum() or character in "-._~" for character in text)
