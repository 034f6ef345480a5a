"""What goes wrong on the network: aiohttp's errors, translated once.

Some of them quote the URL that failed, with a signature in its query; such an error isn't even kept as a cause.
"""

from __future__ import annotations

import errno
import os
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
from lading.http.transport import Request
from lading.redact import redact, redact_url

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What says something about this process or machine, and nothing about the other side."""


class Quoted(Exception):
    """The name and the text of another library's error, without the secrets that it quoted."""


def failure(error: Exception, request: Request, *, in_body: bool = False) -> LadingError:
    """Give the error to raise for one of aiohttp's, its cause included."""
    translated = _translate(error, request)
    if in_body and not isinstance(translated, TimedOut | TlsFailed):
        tried = f"{request.method} {redact_url(request.url)}"
        translated = BodyInterrupted(f"{tried}: the connection was lost in the body", url=request.url, hint="try again")
    is_quoting = isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | TimeoutError)
    translated.__cause__ = Quoted(f"{type(error).__name__}: {redact(_quotable(error))}") if is_quoting else error
    return translated


def _quotable(error: Exception) -> str:
    # What follows the first line is what was received in place of an answer: somebody's content, of any length.
    return _first_line(error) if isinstance(error, aiohttp.ClientResponseError) else str(error)


def _first_line(error: aiohttp.ClientResponseError) -> str:
    return error.message.partition("\n")[0].rstrip(":")


def _translate(error: Exception, request: Request) -> LadingError:
    url = request.url
    tried = f"{request.method} {redact_url(url)}"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerFingerprintMismatch):
        return TlsFailed(f"{tried}: TLS failed: {error}", url=url, hint="is the registry's certificate trusted here?")
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return ProxyFailed(f"{tried}: the proxy failed: {error}", url=url)
    if isinstance(error, TimeoutError):
        return TimedOut(f"{tried}: no answer in time", url=url, hint="is the registry up? try again later")
    if isinstance(error, aiohttp.InvalidURL):
        return ProtocolError(f"{tried}: not a URL that can be asked")
    if isinstance(error, aiohttp.ClientResponseError):
        return ProtocolError(f"{tried}: the answer isn't HTTP: {_first_line(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ConnectFailed(
            f"{tried}: the host {error.host!r} isn't known", url=url, hint="is its name spelled right?"
        )
    if isinstance(error, OSError | aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionError):
        return _connect_failed(error, tried, url)
    if isinstance(error, ValueError):
        return ProtocolError(f"{tried}: {error}")
    return TransportError(f"{tried}: {error}", url=url)


def _connect_failed(error: Exception, tried: str, url: str) -> ConnectFailed:
    system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = system.errno if isinstance(system, OSError) else None
    if number in _EXHAUSTED:
        said = str(system.strerror) if isinstance(system, OSError) else str(system)
        hint = "this process is out of them: allow more, for example with ulimit -n, or pull fewer at once"
        return ConnectFailed(f"{tried}: no connection: {said}", url=url, hint=hint)
    said = _said(system) or type(error).__name__
    return ConnectFailed(f"{tried}: no connection: {said}", url=url, hint="is the registry up?")


def _said(error: Exception) -> str:
    # asyncio's own text repeats the address, and doesn't say why.
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)
