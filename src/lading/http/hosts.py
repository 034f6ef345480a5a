"""What is configured for a registry: which URLs answer for it, whom to trust there, and what is sent along.

It comes from the program, or from the directories that containerd and Docker read as well. Plain http leads to another
machine only where somebody wrote ``http://``. No error here holds the value of a header.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from lading.errors import InvalidHosts, ProtocolError
from lading.http.transport import Origin, Site, is_loopback
from lading.redact import redact_url

Capability = Literal["pull", "resolve", "push"]
"""What a host may be used for: content by digest, what a tag stands for, writing (containerd, docs/hosts.md)."""

ALL: frozenset[Capability] = frozenset(get_args(Capability))

_PathLike = str | os.PathLike[str]

HUB_HOST = "registry-1.docker.io"
"""What answers for the registry ``docker.io`` (distribution/reference knows it by that name only)."""
_HUB_NAMES = {"docker.io", "index.docker.io", HUB_HOST}

# distribution/reference, "domain", in lower case. A registry's name becomes the name of a directory: there is no way
# out of its parent through one of these.
_COMPONENT = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[a-f0-9:]+\])(?::[0-9]+)?")

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_HOSTNAME = re.compile(r"[a-z0-9._-]+|\[[a-f0-9.]*:[a-f0-9:.]+\]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[\x20-\x7e]*")

# They frame the message, lead it, or belong to the way there.
_REFUSED = {"host", "content-length", "transfer-encoding", "connection", "proxy-authorization"}


@dataclass(frozen=True, slots=True, init=False)
class Host:
    """One URL that may answer for a registry, and what is configured for it.

    ``url`` is an http(s) URL, with a path where the registry doesn't live at the root; ``override_path`` says that this
    path is already the root of the API. ``ca`` are files of certificates (PEM) to trust, or as bytes the certificates
    themselves; ``certificates`` are pairs of a client certificate and its key (``""``: in the same file), ``insecure``
    trusts any certificate. ``headers`` are sent with each request.

    Raises:
        InvalidHosts: the URL, a capability or a header can't be used.
    """

    url: str
    capabilities: frozenset[Capability]
    ca: tuple[str | bytes, ...]
    certificates: tuple[tuple[str, str], ...]
    insecure: bool
    headers: Mapping[str, str] = field(repr=False, hash=False)
    override_path: bool

    # Written out, because it takes more types than it keeps.
    def __init__(
        self,
        url: str,
        capabilities: Iterable[str] = ALL,
        ca: _PathLike | bytes | Iterable[_PathLike | bytes] = (),
        certificates: Iterable[tuple[_PathLike, _PathLike]] = (),
        insecure: bool = False,
        headers: Mapping[str, str] | None = None,
        override_path: bool = False,
    ) -> None:
        if why := _url_fault(url):
            raise InvalidHosts(f"{shown_url(url)}: {why}", hint="a host looks like https://mirror.example:5000")
        named = {capabilities} if isinstance(capabilities, str) else set(capabilities)
        if unknown := sorted(named - ALL):
            raise InvalidHosts(f"{unknown[0]!r} isn't a capability", hint="there are pull, resolve and push")
        _check_headers(headers or {})
        files = [ca] if isinstance(ca, str | bytes | os.PathLike) else ca
        values = {
            "url": url,
            "capabilities": frozenset(name for name in ALL if name in named),
            "ca": tuple(os.fspath(path) for path in files),
            "certificates": tuple((os.fspath(path), os.fspath(key)) for path, key in certificates),
            "insecure": insecure,
            "headers": MappingProxyType(dict(headers or {})),
            "override_path": override_path,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def root(self) -> str:
        """The URL of the API's root, without a slash at its end: ``/v2`` is added where it is missing."""
        parts = urlsplit(self.url)
        # What normpath leaves of two slashes at the start is two slashes.
        path = posixpath.normpath(f"/{parts.path.lstrip('/')}").rstrip("/")
        if not self.override_path and not path.endswith("/v2"):
            path += "/v2"
        return f"{parts.scheme}://{parts.netloc.lower()}{path}"

    @property
    def origin(self) -> Origin:
        """Where the URL leads."""
        return Origin.of(self.url)

    @property
    def site(self) -> Site:
        """What is configured for connections to this host."""
        return Site(self.origin, self.ca, self.certificates, self.insecure, tuple(self.headers.items()))


@dataclass(frozen=True, slots=True)
class RegistryHosts:
    """Who answers for a registry: its ``server``, and the ``mirrors`` to try before it, in this order.

    ``ignored`` are keys that mean nothing in the file that says so, each with the one that it looks like, or ``""``.
    """

    server: Host
    mirrors: tuple[Host, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mirrors", tuple(self.mirrors))


class HostsConfig:
    """What is configured, by registry (``ghcr.io``, ``localhost:5000``, ``docker.io``).

    For a registry in ``registries`` nothing else counts. Every other one is looked up in ``directories``, laid out like
    containerd's or Docker's ``certs.d``, the first with a ``hosts.toml`` for it wins; ``default_mirrors`` replace the
    mirrors that are found there.

    Raises:
        InvalidHosts: a key isn't the name of a registry, or two are the same registry's.
    """

    def __init__(
        self,
        registries: Mapping[str, Host | RegistryHosts] | None = None,
        *,
        default_mirrors: Sequence[Host] = (),
        directories: Sequence[_PathLike] = (),
    ) -> None:
        self._registries: dict[str, RegistryHosts] = {}
        for key, hosts in (registries or {}).items():
            name = _canonical(key)
            if name in self._registries:
                raise InvalidHosts(f"there are two configurations of {name}", hint="keep one of them")
            self._registries[name] = hosts if isinstance(hosts, RegistryHosts) else RegistryHosts(hosts)
        self._default_mirrors = tuple(default_mirrors)
        self._directories = tuple(Path(directory) for directory in directories)
        self._is_strict = True

    @classmethod
    def standard(cls) -> Self:
        """Give what is configured on this machine for containerd and Docker, by this user and for everybody.

        One of the directories that this user may not enter is somebody else's, and passed over.
        """
        import platformdirs

        bases = [Path("/etc")]
        try:
            user = Path(platformdirs.user_config_dir())
            if user.is_absolute():
                bases.insert(0, user)
        except RuntimeError:
            pass  # a user without a home
        config = cls(directories=[base / name / "certs.d" for base in bases for name in ("containerd", "docker")])
        config._is_strict = False
        return config

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where configuration is looked for, the first first."""
        return self._directories

    def lookup(self, registry: str) -> RegistryHosts:
        """Give who answers for ``registry``. Blocking; every call reads the files anew.

        Raises:
            InvalidHosts: this isn't the name of a registry, or what is configured for this one can't be used; the
                message names the file and the key.
        """
        # Most programs never get here, and then need no TOML.
        from lading.http.hosts_files import check_file, read_hosts

        name = _canonical(registry)
        hosts = self._registries.get(name)
        if hosts is None:
            hosts = read_hosts(self._directories, name, is_strict=self._is_strict)
            if self._default_mirrors:
                hosts = replace(arranged(hosts.server, self._default_mirrors), ignored=hosts.ignored)
        for host in (hosts.server, *hosts.mirrors):
            files = [one for one in host.ca if isinstance(one, str)]
            for path in (*files, *(path for pair in host.certificates for path in pair if path)):
                check_file(path, f"hosts of {name}: {shown_url(host.url)}")
        return hosts

    def __repr__(self) -> str:
        names = [*sorted(self._registries), *map(str, self._directories)]
        return f"HostsConfig({', '.join(names)})"


def default_url(registry: str) -> str:
    """Give the URL of a registry for which nothing is configured: https, but http on this machine's own addresses."""
    host = HUB_HOST if registry == "docker.io" else registry
    return f"{'http' if is_loopback(host) else 'https'}://{host}"


def arranged(server: Host, mirrors: Iterable[Host]) -> RegistryHosts:
    """Put mirrors before the server; one that is the server itself adds its configuration to the server's.

    containerd asks such a mirror and then the server, each as it is configured, so that a request succeeds that either
    allows: the sum of both is what that comes to.
    """
    others = []
    for mirror in mirrors:
        if _identity(mirror) != _identity(server):
            others.append(mirror)
            continue
        names = {name.lower() for name in mirror.headers}
        server = replace(
            server,
            capabilities=server.capabilities | mirror.capabilities,
            ca=tuple(dict.fromkeys((*mirror.ca, *server.ca))),
            certificates=tuple(dict.fromkeys((*mirror.certificates, *server.certificates))),
            insecure=server.insecure or mirror.insecure,
            headers={
                **{name: value for name, value in server.headers.items() if name.lower() not in names},
                **mirror.headers,
            },
        )
    return RegistryHosts(server, tuple(others))


def _identity(host: Host) -> tuple[Origin, str]:
    return host.origin, urlsplit(host.root).path


def _canonical(registry: str) -> str:
    name = registry.lower()
    if _REGISTRY.fullmatch(name) is None or _url_fault(default_url(name)):
        raise InvalidHosts(
            f"{shown_url(registry)!r} isn't the name of a registry", hint="it looks like ghcr.io or localhost:5000"
        )
    return "docker.io" if name in _HUB_NAMES else name


def shown_url(url: str) -> str:
    """Give what may be shown of something that should be a URL: with user information in it, nothing but its scheme.

    Whoever wrote it may have quoted a password badly, so that no rule tells where it ends.
    """
    scheme = _SCHEME.match(url)
    return f"{scheme[0] if scheme else ''}…" if "@" in url else redact_url(url)


def _url_fault(url: str) -> str | None:
    """Say why a host can't have this URL, or ``None`` if it can."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "it has characters that a URL can't have"
    try:
        origin = Origin.of(url)
    except ProtocolError:
        return "it has user information, which belongs to docker login" if "@" in url else "it isn't an http(s) URL"
    if "?" in url or "#" in url:
        return "it has a query or a fragment"
    netloc = urlsplit(url).netloc
    if netloc.endswith(":"):
        return "its port is empty"
    host = f"[{origin.host}]" if "[" in netloc else origin.host
    return None if _HOSTNAME.fullmatch(host) else "its host isn't a name or an address"


def _check_headers(headers: Mapping[str, str]) -> None:
    seen = set()
    for name, value in headers.items():
        if _TOKEN.fullmatch(name) is None:
            # Not shown: somebody may have written the whole line here.
            raise InvalidHosts("the name of a header isn't a token", hint="write the name alone, like X-Team")
        if name.lower() in _REFUSED:
            raise InvalidHosts(f"the header {name} can't be configured", hint="it is made for each request")
        if name.lower() in seen:
            raise InvalidHosts(f"the header {name} is there twice", hint="names differ by more than case")
        if _VALUE.fullmatch(value) is None:
            raise InvalidHosts(f"the value of the header {name} can't be sent", hint="printable ASCII, on one line")
        seen.add(name.lower())
