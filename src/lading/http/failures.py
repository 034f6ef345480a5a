"""What goes wrong on the network: aiohttp's errors, translated once.

Some of them quote the URL that failed, with a signature in its query; such an error isn't even kept as a cause.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl

import aiohttp

from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    LadingError,
    ProtocolError,
    ProxyFailed,
    TimedOut,
    TlsFailed,
    TransportError,
)
from lading.http.proxy import Direct, HopFailed, Route
from lading.http.transport import Request
from lading.redact import redact, redact_url

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What says something about this process or machine, and nothing about the other side."""


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
"""How OpenSSL calls an answer that isn't TLS at all."""


_OTHER_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


class Quoted(Exception):
    """The name and the text of another library's error, without the secrets that it quoted."""


def failure(error: Exception, request: Request, route: Route | None = None, *, in_body: bool = False) -> LadingError:
    """Give the error to raise for one of aiohttp's, its cause included; ``route`` is how the request went."""
    translated = _translate(error, request, "" if route is None or isinstance(route, Direct) else f" through {route}")
    if in_body and not isinstance(translated, TimedOut | TlsFailed):
        tried = f"{request.method} {redact_url(request.url)}"
        translated = BodyInterrupted(f"{tried}: the connection was lost in the body", url=request.url, hint="try again")
    translated.__cause__ = unquoted(error)
    return translated


def unquoted(error: Exception) -> Exception:
    """Give ``error`` itself if it can be kept as a cause, or else its name and its text without the secrets in it."""
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | TimeoutError):
        return Quoted(f"{type(error).__name__}: {redact(_quotable(error))}")
    return error


def proxy_refusal(request: Request, route: Route, status: int) -> ProxyFailed:
    """Give the error to raise for a proxy that answers with ``status`` instead of carrying a request."""
    hint = "check the proxy's settings and its log"
    if status == 407:
        hint = "the proxy wants to know who is asking: http://user:password@… in the proxy's URL"
    return ProxyFailed(
        f"{request.method} {redact_url(request.url)}: {route} answered {status}",
        url=request.url,
        hint=hint,
        was_sent=False,
        is_final=status < 500 and status not in (408, 429),
        status=status,
    )


def _quotable(error: Exception) -> str:
    # What follows the first line is what was received in place of an answer: somebody's content, of any length.
    return _first_line(error) if isinstance(error, aiohttp.ClientResponseError) else str(error)


def _first_line(error: aiohttp.ClientResponseError) -> str:
    return error.message.partition("\n")[0].rstrip(":")


def _translate(error: Exception, request: Request, through: str) -> LadingError:
    url = request.url
    tried = f"{request.method} {redact_url(url)}{through}"
    if isinstance(error, HopFailed):
        return _hop_failed(error, request, tried)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) and not _is_cut_short(error):
        return _tls_failed(error, tried, url)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TimedOut(f"{tried}: no connection in time", url=url, hint="is the registry up?", was_sent=False)
    if isinstance(error, TimeoutError):
        return TimedOut(f"{tried}: no answer in time", url=url, hint="is the registry up? try again later")
    if isinstance(error, aiohttp.InvalidURL):
        return ProtocolError(f"{tried}: not a URL that can be asked")
    if isinstance(error, aiohttp.ClientResponseError):
        return ProtocolError(f"{tried}: the answer isn't HTTP: {_first_line(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ConnectFailed(
            f"{tried}: the host {error.host!r} isn't known",
            url=url,
            hint="is its name spelled right?",
            was_sent=False,
            is_final=error.os_error.errno == socket.EAI_NONAME,
        )
    if isinstance(error, OSError | aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionError):
        return _connect_failed(error, tried, url)
    if isinstance(error, ValueError):
        return ProtocolError(f"{tried}: {error}")
    return TransportError(f"{tried}: {error}", url=url)


def _hop_failed(error: HopFailed, request: Request, tried: str) -> LadingError:
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientSSLError) and not _is_cut_short(cause):
        return _tls_failed(cause, tried, request.url)
    if error.status is not None:
        return proxy_refusal(request, error.endpoint, error.status)
    system = cause.os_error if isinstance(cause, aiohttp.ClientConnectorError) else cause
    if isinstance(system, OSError) and system.errno in _EXHAUSTED:
        return _connect_failed(system, tried, request.url)
    said = _said(system) if isinstance(system, Exception) else ""
    what = "it can't be reached" if error.stage == "dial" else "it makes no tunnel"
    hint = f"is the proxy up? it is used because of {error.endpoint.why}"
    said = f"{what}: {said or type(cause).__name__}"
    return ProxyFailed(f"{tried}: {said}", url=request.url, hint=hint, was_sent=False)


def _is_cut_short(error: Exception) -> bool:
    """Tell whether a handshake just ended, which says nothing about who the other side is."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(inner, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _tls_failed(error: Exception, tried: str, url: str) -> TlsFailed:
    hint = "is the registry's certificate trusted here? a private authority's belongs into certs.d/<host>/ca.crt"
    inner = _inner(error)
    if isinstance(inner, ssl.SSLError) and inner.reason in _NOT_TLS:
        hint = (
            'it doesn\'t speak TLS: plain http has to be allowed, by a server = "http://…" in certs.d/<host>/hosts.toml'
        )
    if isinstance(inner, ssl.SSLCertVerificationError) and inner.verify_code in _OTHER_NAME:
        hint = "it is somebody else's certificate: is the host's name the one that the registry is known by?"
    return TlsFailed(f"{tried}: TLS failed: {_tls_said(inner)}", url=url, hint=hint, was_sent=False, is_final=True)


def _inner(error: Exception) -> Exception:
    """Give the error of Python's TLS that one of aiohttp's is about, whose own text shows objects of this process."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return error.certificate_error
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error


def _tls_said(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return error.verify_message.rstrip(".")
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return _said(error)


def _connect_failed(error: Exception, tried: str, url: str) -> ConnectFailed:
    system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    was_sent = not isinstance(error, aiohttp.ClientConnectorError)
    number = system.errno if isinstance(system, OSError) else None
    if number in _EXHAUSTED:
        said = str(system.strerror) if isinstance(system, OSError) else str(system)
        hint = "this process is out of them: allow more, for example with ulimit -n, or pull fewer at once"
        return ConnectFailed(f"{tried}: no connection: {said}", url=url, hint=hint, was_sent=was_sent)
    said = _said(system) or type(error).__name__
    return ConnectFailed(f"{tried}: no connection: {said}", url=url, hint="is the registry up?", was_sent=was_sent)


def _said(error: Exception) -> str:
    # asyncio's own text repeats the address, and doesn't say why.
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)
