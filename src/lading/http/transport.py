"""The protocol that every ring speaks, and what passes through it.

A ring is constructed around the next one, and each does one thing: ``Redirect(Auth(Aiohttp))``. Whoever sends a
request owns its response, and leaves it as an async context manager::

    async with await transport.send(Request("GET", url)) as response:
        body = await response.read(limit)
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self
from urllib.parse import SplitResult, urljoin, urlsplit

from lading.errors import ProtocolError, TransportError
from lading.redact import redact_url

if TYPE_CHECKING:
    from lading.http.retry import Attempts

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Scheme and authority of most URLs; of any other, the whole is looked at.
_PLAIN_HEAD = re.compile(r"https?://[A-Za-z0-9.:-]+(?=/[!-~]*\Z)")


class Origin(NamedTuple):
    """Where a URL leads, and what a credential is bound to (RFC 6454): scheme, host in lower case, port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Give the origin of an absolute http(s) URL.

        Raises:
            ProtocolError: the URL isn't one, or carries user information, which nobody here sends on purpose.
        """
        # Each ring that a request passes asks again. What follows the authority has no part in the answer.
        head = _PLAIN_HEAD.match(url)
        return _origin(url if head is None else head[0])


@lru_cache(maxsize=512)
def _origin(url: str) -> Origin:
    parts = _split(url)
    if parts is None:
        raise ProtocolError(f"not a URL: {_shown(url)}")
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or not parts.hostname:
        raise ProtocolError(f"not an http(s) URL: {_shown(url)}")
    if parts.username is not None or parts.password is not None:
        raise ProtocolError(f"a URL with user information is refused: {_shown(url)}")
    return Origin(parts.scheme, parts.hostname, default if parts.port is None else parts.port)


def _split(url: str) -> SplitResult | None:
    # Nothing is raised from the ValueError: its text may be a part of the URL that is nobody's business.
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port >= 0 else None
    return None


def _shown(url: str) -> str:
    """Give what may be shown of something that isn't the URL that it should be: no rule tells where a secret ends."""
    return "…" if "@" in url and "://" not in url else redact_url(url)


def join_url(url: str, target: str) -> str:
    """Give the absolute URL, without its fragment, that ``target`` in the answer to ``url`` means (RFC 3986, 5.2).

    Raises:
        ProtocolError: it isn't a URL, leads to something else than http(s), or carries user information.
    """
    if not target.isascii() or not target.isprintable() or " " in target or "\\" in target:
        raise ProtocolError(f"{redact_url(url)}: it leads to something that isn't a URL")
    joined = ""
    with contextlib.suppress(ValueError):  # like above
        joined = urljoin(url, target).partition("#")[0]
    if not joined:
        raise ProtocolError(f"{redact_url(url)}: it leads to something that isn't a URL")
    try:
        Origin.of(joined)
    except ProtocolError as error:
        raise ProtocolError(f"{redact_url(url)} leads on: {error.message}") from None
    return joined


@lru_cache(maxsize=512)
def is_loopback(host: str) -> bool:
    """Tell whether ``host``, with or without a port, is this machine by its very name or address."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host
    name = name if name.count(":") > 1 else name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Headers:
    """The header fields of a response, in the order in which they came; names are case-insensitive."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple((name.lower(), value) for name, value in items)

    def get(self, name: str) -> str | None:
        """Give the first value of a field, or ``None``."""
        name = name.lower()
        return next((value for key, value in self._items if key == name), None)

    def get_all(self, name: str) -> list[str]:
        """Give every value of a field, one string a line."""
        name = name.lower()
        return [value for key, value in self._items if key == name]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Headers({', '.join(name for name, _ in self._items)})"


@dataclass(frozen=True, slots=True)
class Site:
    """What is configured for the connections that are made on behalf of one registry, whose ``origin`` this is.

    ``ca`` are files with certificates (PEM), or as bytes the certificates themselves, that are trusted in addition to
    the system's; they count for the registry's token server and redirects, too. Everything else holds at ``origin`` and
    nowhere else: ``certificates`` are pairs of files, a client's certificate and its key (``""``: in the same file),
    ``insecure`` trusts any certificate, and ``headers`` are sent with each request, where it doesn't have a field of
    that name already.
    """

    origin: Origin
    ca: tuple[str | bytes, ...] = ()
    certificates: tuple[tuple[str, str], ...] = ()
    insecure: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Stream:
    """A body of ``length`` bytes that is read while it is sent: each time it is sent, ``open`` gives it anew.

    What ``open`` gives is read to its end, or closed with ``aclose`` if it has that. Where ``open`` can't be called
    again, ``is_replayable`` is false: a request that has begun to send it isn't repeated.
    """

    length: int
    open: Callable[[], AsyncIterator[bytes]] = field(repr=False)
    is_replayable: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    ``registry`` is the name of the registry that it is meant for (whose credentials it may carry), ``authority`` the
    only origin that may see them; ``scopes`` what it needs (``repository:acme/triage:pull``). A request without an
    ``authority`` never carries credentials. Headers never hold credentials either: only the auth ring adds those.
    ``site`` is what is configured for that registry, ``attempts`` what is left of the patience of the operation that it
    is a part of; ``is_repeatable`` says that sending it twice does no harm, though its method doesn't promise that
    (RFC 9110, section 9.2.2).
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Stream | None = field(default=None, repr=False)
    registry: str = ""
    authority: Origin | None = None
    scopes: tuple[str, ...] = ()
    site: Site | None = None
    attempts: Attempts | None = field(default=None, compare=False, repr=False)
    is_repeatable: bool = False

    def __repr__(self) -> str:
        return f"Request({self.method} {redact_url(self.url)} of {self.registry or 'nobody'})"


class Response(Protocol):
    """The head of an answer, and its body while it is open. ``url`` is what really answered."""

    @property
    def status(self) -> int: ...
    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Headers: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body piece by piece. Raises BodyInterrupted and TimedOut."""
        ...

    async def read(self, limit: int) -> bytes:
        """Give the whole body. Raises ProtocolError if it is longer than ``limit`` bytes."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def is_close_framed(response: Response) -> bool:
    """Tell whether the body has no length of its own, so that a lost connection looks like its end (RFC 9112, 6.3)."""
    return response.headers.get("Content-Length") is None and response.headers.get("Transfer-Encoding") is None


_DRAIN_LIMIT = 8 * 1024
"""Bytes of a refusal that are read so that its connection can be used again."""

_DRAIN_SECONDS = 1.0


async def discard(response: Response, *, drain: bool = True) -> None:
    """Let go of a response, whatever happens; what is small is read, so that its connection can be used again."""
    import anyio

    async with response:
        if drain:
            with contextlib.suppress(TransportError, ProtocolError), anyio.move_on_after(_DRAIN_SECONDS):
                await response.read(_DRAIN_LIMIT)


class Transport(Protocol):
    """Whatever sends requests: the network itself, or a ring around another transport."""

    async def send(self, request: Request) -> Response:
        """Send ``request`` and give the answer's head, whatever its status.

        Raises:
            TransportError: no answer came.
            ProtocolError: the answer isn't allowed.
        """
        ...
