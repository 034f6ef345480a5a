"""One connection, hop by hop: what answers, how fast, and where it ends."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import anyio
from anyio.abc import AnyByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSAttribute, TLSStream

from lading.auth.authorization import basic_authorization
from lading.diagnose.finding import Verdict, took
from lading.errors import ConnectFailed, LadingError
from lading.http.proxy import Direct, HopFailed, Proxy, Route
from lading.http.tls import TlsContexts
from lading.http.transport import Origin, Request

_HEAD_LIMIT = 16 * 1024
"""Bytes of a proxy's answer at most."""

_SOON_SECONDS = 14 * 86_400.0
"""When a certificate that ends is worth a warning."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r)")  # RFC 9112, section 4

_BROKEN = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound)

Stage = Literal["proxy", "dns", "connection", "tunnel", "tls"]


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the way that was gone."""

    stage: Stage
    text: str
    verdict: Verdict = "ok"
    hint: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


class Connection:
    """A connection to where ``request`` goes, by ``route``; opened, looked at and closed."""

    def __init__(self, request: Request, route: Route, tls: TlsContexts) -> None:
        self.steps: list[Step] = []
        self.stage: Stage = "dns" if isinstance(route, Direct) else "proxy"
        """What is under way, or failed."""
        self._request = request
        self._origin = Origin.of(request.url)
        self._route = route
        self._tls = tls
        self._status: int | None = None

    async def make(self, seconds: float) -> None:
        """Go the whole way within ``seconds``; ``steps`` is how far it went.

        Raises:
            LadingError: it ended at ``stage``; the same as a request would raise.
        """
        try:
            await self._make(seconds)
        except LadingError:
            raise
        except _BROKEN as error:
            broken = ConnectionResetError(errno.ECONNRESET, "")
            raise self._failure(broken) from error
        except TimeoutError:
            raise self._failure(TimeoutError(f"no connection in {seconds:g} s")) from None
        except (OSError, ValueError) as error:
            raise self._failure(_reason(error)) from error

    async def _make(self, seconds: float) -> None:
        with anyio.fail_after(seconds):
            if isinstance(self._route, Direct):
                await self._look_up()
                self.stage = "connection"
            async with await self._dial() as stream:
                if self._origin.scheme != "https":
                    return
                if not isinstance(self._route, Direct):
                    self.stage = "tunnel"
                    await self._tunnel(stream)
                self.stage = "tls"
                await self._shake_hands(stream)

    async def _look_up(self) -> None:
        host, port = self._origin.host, self._origin.port
        if _is_address(host):
            return
        began = time.perf_counter()
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
        self._went(f"{host} is {addresses[0]}{more}", began, {"addresses": addresses})

    async def _dial(self) -> AnyByteStream:
        """Connect to the target, or to the proxy."""
        began, route = time.perf_counter(), self._route
        if isinstance(route, Direct):
            stream = await anyio.connect_tcp(self._origin.host, self._origin.port)
            address = str(stream.extra(SocketAttribute.remote_address)[0])
            self._went(f"to {_place(address, self._origin.port)}", began, {"address": address})
            return stream
        if not isinstance(route, Proxy):
            dial_socket(route.path)
            found = await anyio.connect_unix(route.path)
            self._went(f"{route} can be reached", began)
            return found
        place = Origin.of(route.url)
        hop: AnyByteStream = await anyio.connect_tcp(place.host, place.port)
        if place.scheme == "https":
            try:
                hop = await _secured(hop, await self._tls.context(None, place), place.host)
            except BaseException:
                await anyio.aclose_forcefully(hop)
                raise
        self._went(f"{route} can be reached", began)
        return hop

    async def _tunnel(self, stream: AnyByteStream) -> None:
        """Have the proxy connect to the target (RFC 9110, section 9.3.6)."""
        began, origin = time.perf_counter(), self._origin
        target = _place(origin.host, origin.port)
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if isinstance(self._route, Proxy) and (self._route.username or self._route.password):
            basic = basic_authorization(self._route.username, self._route.password)
            lines.append(f"Proxy-Authorization: {basic}")
        await stream.send("\r\n".join([*lines, "", ""]).encode("ascii"))
        # The target says nothing before it is spoken to, so nothing of it is lost in the buffer.
        head = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", _HEAD_LIMIT)
        answer = _STATUS.match(head)
        if answer is None:
            raise OSError("it doesn't answer in HTTP")
        self._status = int(answer[1])
        if not 200 <= self._status < 300:
            raise OSError("refused")
        self._went(f"to {target}, made by the proxy", began)

    async def _shake_hands(self, stream: AnyByteStream) -> None:
        began, site = time.perf_counter(), self._request.site
        secured = await _secured(stream, await self._tls.context(site, self._origin), self._origin.host)
        version = secured.extra(TLSAttribute.tls_version)
        if site is not None and site.insecure:
            self._went(f"{version}; whose certificate it is isn't checked", began, {"version": version})
            return
        certificate = secured.extra(TLSAttribute.ssl_object).getpeercert() or {}
        until = str(certificate.get("notAfter", ""))
        left = ssl.cert_time_to_seconds(until) - time.time()
        issuer = _name(certificate.get("issuer"))
        text = f"{version}; the certificate was issued by {issuer} and is good for {int(left // 86_400)} days"
        data = {"version": version, "issuer": issuer, "expires": until}
        verdict: Verdict = "ok"
        hint = ""
        if left < _SOON_SECONDS:
            verdict, hint = "warning", "whoever runs it should renew the certificate"
        self._went(text, began, data, verdict, hint)

    def _went(
        self,
        text: str,
        began: float,
        data: Mapping[str, object] | None = None,
        verdict: Verdict = "ok",
        hint: str = "",
    ) -> None:
        seconds = time.perf_counter() - began
        step = Step(self.stage, f"{text}, {took(seconds)}", verdict, hint, {**(data or {}), "seconds": seconds})
        self.steps.append(step)

    def _failure(self, error: Exception) -> LadingError:
        from lading.http.failures import failure

        if self.stage == "dns" and not isinstance(error, TimeoutError):
            why = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            return ConnectFailed(
                f"the host {self._origin.host!r} isn't known{why}",
                url=self._request.url,
                hint="is its name spelled right? does this machine reach its name server?",
            )
        if self.stage in ("proxy", "tunnel") and not isinstance(self._route, Direct):
            hop = HopFailed(self._route, "dial" if self.stage == "proxy" else "tunnel", self._status)
            hop.__cause__ = error
            return failure(hop, self._request, self._route)
        return failure(error, self._request, self._route)


def dial_socket(path: str) -> None:
    """Connect to a Unix socket, and hang up: that is done at once, or not at all. Raises OSError and ValueError."""
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError as error:
            # anyio would try again for ever.
            raise OSError(errno.EBUSY, "its backlog is full") from error


async def _secured(stream: AnyByteStream, context: ssl.SSLContext, host: str) -> TLSStream:
    return await TLSStream.wrap(
        stream, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
    )


def _reason(error: Exception) -> Exception:
    """Give the error of one address for that of all of them, which doesn't say why."""
    cause = error.__cause__
    if isinstance(error, ssl.SSLError) or getattr(error, "errno", None):
        return error
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    return cause if isinstance(cause, OSError) else error


def _place(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name(issuer: object) -> str:
    """Give who issued a certificate: the organisation, else the common name (``ssl.SSLSocket.getpeercert``)."""
    parts = issuer if isinstance(issuer, tuple) else ()
    names = {str(key): str(value) for part in parts for key, value in part}
    return names.get("organizationName") or names.get("commonName") or "somebody without a name"
