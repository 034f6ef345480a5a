"""Which proxy a request goes through, if any, and which failures are the proxy socket's own. Opens no connection.

The only place in the room that reads the environment. A proxy that somebody configured is never bypassed; the
socket that Docker Desktop left in its place is, while nobody answers there.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from lading.errors import LadingError
from lading.http.no_proxy import PLACE, NoProxy, address_of, bare_host, is_name
from lading.http.transport import Origin, is_loopback
from lading.redact import printable, redact, redact_url

__all__ = [
    "COOLDOWN",
    "Direct",
    "Hop",
    "HopFailed",
    "NoProxy",
    "Proxy",
    "ProxyRules",
    "ProxySocket",
    "Route",
    "Router",
    "desktop_sockets",
    "is_proxy_socket_error",
]

COOLDOWN = 30.0
"""Seconds for which a socket that failed is left alone."""

_log = logging.getLogger("lading.http")

_PORTS = {"http": 80, "https": 443}

_END_OF_AUTHORITY = re.compile(r"[/?#]")

# A tuple, because it is asked for whatever somebody's OSError holds, hashable or not.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""What says something about this process or machine, and nothing about the proxy."""


@dataclass(frozen=True, slots=True)
class Direct:
    """No proxy. ``why`` is text for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy at ``url``: scheme (http or https), host and port, without the user information."""

    url: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    why: str = ""

    def __str__(self) -> str:
        return f"the proxy {self.url}"


@dataclass(frozen=True, slots=True)
class ProxySocket:
    """An HTTP proxy on a Unix socket. ``may_bypass``: nobody asked for it, so a request may go direct without it."""

    path: str
    why: str
    may_bypass: bool

    def __str__(self) -> str:
        return f"the proxy socket {printable(self.path)}"


Hop = Proxy | ProxySocket
Route = Direct | Hop


class HopFailed(Exception):
    """The way to the target failed at its first hop; raised ``from`` the cause.

    ``stage`` is ``dial`` where there is no connection to ``endpoint``, ``tunnel`` where the proxy at its other end
    didn't open one to the target; ``status`` is the HTTP status that it answered with, if it did.
    """

    def __init__(self, endpoint: Hop, stage: Literal["dial", "tunnel"], status: int | None = None) -> None:
        super().__init__(endpoint, stage, status)
        self.endpoint = endpoint
        self.stage = stage
        self.status = status

    def __str__(self) -> str:
        if isinstance(self.endpoint, ProxySocket):
            return f"{self.stage} unix {printable(self.endpoint.path)}"
        return f"{self.stage} {redact_url(self.endpoint.url)}"


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """What is configured: a proxy for each scheme of the target, who needs none, and where Docker Desktop's may be.

    In the place of a proxy of the environment that can't be used is the error, for whoever would use it.
    """

    http: Hop | LadingError | None = None
    https: Hop | LadingError | None = None
    no_proxy: NoProxy = field(default_factory=NoProxy)
    sockets: tuple[str, ...] = ()

    @classmethod
    def of(cls, proxy: str | None = "auto", env: Mapping[str, str] | None = None) -> ProxyRules:
        """Give the rules for ``proxy``: ``"auto"`` reads ``env`` (else the process's), ``None`` is always direct.

        Anything else is the proxy: ``host:port``, ``http://host``, ``https://host`` or ``unix:///path``, whatever the
        target's scheme; ``NO_PROXY`` counts there, too.

        Raises:
            LadingError: ``proxy`` isn't one of those.
        """
        if proxy is None:
            return cls()
        env = os.environ if env is None else env
        no_proxy = NoProxy.parse(env.get("no_proxy", "").strip() or env.get("NO_PROXY", ""))
        if proxy != "auto":
            chosen = _proxy("proxy=", proxy.strip())
            return cls(chosen, chosen, no_proxy)
        # A web server hands a client's "Proxy:" field to a CGI program as HTTP_PROXY (httpoxy, CVE-2016-5385).
        http = ("http_proxy",) if "REQUEST_METHOD" in env else ("http_proxy", "HTTP_PROXY")
        has_desktop = env.get("LADING_NO_DESKTOP_PROXY", "").strip().lower() in ("", "0", "false")
        return cls(
            _configured(env, *http, "all_proxy", "ALL_PROXY"),
            _configured(env, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
            no_proxy,
            desktop_sockets(env, sys.platform) if has_desktop else (),
        )


class Router:
    """Applies the rules, and remembers which of Docker Desktop's sockets fail. For one client, on one loop."""

    def __init__(self, rules: ProxyRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._outages: dict[str, float] = {}
        """When a socket that failed may be tried again, in the clock's seconds."""

    def route(self, origin: Origin) -> Route:
        """Give the way that a request to ``origin`` is to take now.

        Raises:
            LadingError: the proxy that is configured for it can't be used.
        """
        host = bare_host(origin.host)
        # An IPv4-mapped address is the address.
        if is_loopback(str(address_of(host) or host)):
            return Direct("a loopback address")
        entry = self._rules.no_proxy.match(host, origin.port)
        if entry is not None:
            return Direct(f"NO_PROXY has {entry}")
        configured = self._rules.https if origin.scheme == "https" else self._rules.http
        if isinstance(configured, LadingError):
            raise configured.again()
        if configured is not None:
            return configured
        why = "no proxy is configured"
        for path in self._rules.sockets:
            if not os.path.exists(path):
                continue
            found = ProxySocket(path, "Docker Desktop", may_bypass=True)
            if not self._is_left_alone(found):
                return found
            why = f"{found} failed a moment ago"
        return Direct(why)

    def socket_failed(self, socket: ProxySocket, why: str) -> bool:
        """Leave the socket alone for 30 s; one WARNING an outage. One that was configured is never left alone.

        Tells whether that was news.
        """
        if not socket.may_bypass or self._is_left_alone(socket):
            return False
        if socket.path in self._outages:
            _log.info("%s still fails: %s", socket, redact(why))
        else:
            said = "%s can't be reached, so requests go direct; it is tried again every %.0f s: %s"
            _log.warning(said, socket, COOLDOWN, redact(why))
        self._outages[socket.path] = self._clock() + COOLDOWN
        return True

    def socket_works(self, socket: ProxySocket) -> None:
        """End an outage. A success within the 30 s doesn't: what succeeds then had been sent before the outage."""
        if socket.path in self._outages and not self._is_left_alone(socket):
            del self._outages[socket.path]
            _log.info("%s is used again", socket)

    def _is_left_alone(self, socket: ProxySocket) -> bool:
        until = self._outages.get(socket.path)
        return until is not None and self._clock() < until


def desktop_sockets(env: Mapping[str, str], platform: str) -> tuple[str, ...]:
    """Give the paths where Docker Desktop may have its HTTP proxy. ``platform`` is a value of ``sys.platform``.

    WSL's isn't among them: users aren't allowed to connect to it.
    """
    home = env.get("HOME") or env.get("USERPROFILE") or ""
    own = {"linux": ".docker/desktop", "darwin": "Library/Containers/com.docker.docker/Data"}.get(platform)
    found = (os.path.join(home, own, "httpproxy.sock"),) if own and os.path.isabs(home) else ()
    # Inside Docker Desktop's own virtual machine.
    return (*found, "/run/host-services/httpproxy.sock") if platform == "linux" else found


def is_proxy_socket_error(exc: BaseException | None) -> bool:
    """Tell whether ``exc`` comes from a proxy socket that couldn't be dialled. Text is never looked at; never raises.

    The whole chain is searched: causes, contexts and members of groups. An error that was raised while such a failure
    was handled therefore counts: try another way outside of the ``except``. A failure for want of our own resources,
    or because of a cancellation, doesn't count, and nothing below a cancellation does.
    """
    # Whoever just chooses a proxy doesn't pay for this import.
    from asyncio import CancelledError

    errors: dict[int, BaseException] = {}
    above: defaultdict[int, list[int]] = defaultdict(list)
    excuses: list[int] = []
    pending = [] if exc is None else [exc]
    while pending:
        error = pending.pop()
        key = id(error)
        if key in errors:
            continue
        errors[key] = error
        is_cancelled = isinstance(error, CancelledError)
        is_exhausted = isinstance(error, OSError) and error.errno in _EXHAUSTED
        if is_cancelled or is_exhausted or isinstance(error, MemoryError):
            excuses.append(key)
        for inner in () if is_cancelled else _beneath(error):
            # fail_after() and timeout() make a TimeoutError of their own cancellation: that is nobody else's.
            if not (isinstance(error, TimeoutError) and isinstance(inner, CancelledError)):
                above[id(inner)].append(key)
                pending.append(inner)

    # One walk upwards from what excuses a socket, because a walk down from each hop takes n² steps.
    excused: set[int] = set()
    while excuses:
        key = excuses.pop()
        if key not in excused:
            excused.add(key)
            excuses.extend(above.get(key, ()))
    hops = (error for key, error in errors.items() if isinstance(error, HopFailed) and key not in excused)
    return any(hop.stage == "dial" and isinstance(hop.endpoint, ProxySocket) for hop in hops)


def _beneath(error: BaseException) -> Iterator[BaseException]:
    if error.__cause__ is not None:
        yield error.__cause__
    if error.__context__ is not None:
        yield error.__context__
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions


def _configured(env: Mapping[str, str], *names: str) -> Hop | LadingError | None:
    """Give the proxy of the first of the variables that isn't empty, or what is wrong with it: many need none."""
    for name in names:
        if value := env.get(name, "").strip():
            try:
                return _proxy(name, value)
            except LadingError as error:
                return error.with_traceback(None)
    return None


def _proxy(name: str, value: str) -> Hop:
    head, mark, rest = value.partition("://")
    scheme, rest = (head.lower(), rest) if mark else ("http", value)
    if scheme == "unix":
        path = unquote(rest, errors="surrogateescape")
        if not path.startswith("/") or "\0" in path:
            raise _refused(name, value, "not an absolute path")
        return ProxySocket(path, name, may_bypass=False)
    if scheme not in _PORTS:
        raise _refused(name, value, "there is no support for a proxy of this kind")
    authority = _END_OF_AUTHORITY.split(rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        raise _refused(name, value, "a user name or password with / ? or # has to be percent-encoded")
    user, _, place = authority.rpartition("@")
    match = PLACE.fullmatch(place)
    host, digits = match.groups() if match is not None else ("", None)
    port = _PORTS[scheme] if digits is None else int(digits)
    is_host = is_name(host) or (":" in host and "%" not in host and address_of(host[1:-1]) is not None)
    if not is_host or not 0 < port < 65536 or (digits is None and not mark):
        raise _refused(name, value, "not a host and a port")
    username, _, password = user.partition(":")
    username, password = unquote(username), unquote(password)
    if ":" in username:
        raise _refused(name, value, "a user name can't have a colon (RFC 7617, section 2)")
    return Proxy(f"{scheme}://{host.lower()}:{port}", username, password, name)


def _refused(name: str, value: str, problem: str) -> LadingError:
    # Whatever may be a secret goes, however the rest is misspelt: all up to the last @, and all that follows the place.
    head, mark, rest = value.partition("://")
    scheme, rest = (head, rest) if mark else ("http", value)
    rest = _END_OF_AUTHORITY.split(rest.rpartition("@")[2], maxsplit=1)[0]
    shown = redact_url(f"{scheme if is_name(scheme) else '…'}://{rest}")
    without = "proxy=None goes" if name == "proxy=" else f"unset {name} to go"
    return LadingError(
        f"{name.rstrip('=')}={shown} can't be used: {problem}",
        hint=f"a proxy is http://host:3128 or https://host:3128 or unix:///path and {without} without one",
    )
