"""The connector: aiohttp's, but the hop to a proxy may be a Unix socket, and a failure says which hop it was.

It overrides two private methods of ``aiohttp.TCPConnector``, which tests pin: ``_create_direct_connection`` makes one
hop, to the target or to a proxy, and ``_create_proxy_connection`` a tunnel through one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

import aiohttp
from yarl import URL

from lading.http.failures import unquoted
from lading.http.proxy import HopFailed, Proxy, ProxySocket

_SOCKET_HOST = "unix-socket.proxy.invalid"
"""Stands for a socket where aiohttp wants the URL of a proxy; never looked up (RFC 6761, section 6.4)."""


class Connector(aiohttp.TCPConnector):
    """Connections to targets, to proxies on TCP and on Unix sockets. ``proxy_tls`` is for https proxies."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._proxies: dict[URL, Proxy | ProxySocket] = {}
        self.proxy_tls: ssl.SSLContext | bool = True

    def proxy_url(self, proxy: Proxy | ProxySocket) -> URL:
        """Give the URL by which aiohttp is told to go through ``proxy``."""
        if isinstance(proxy, Proxy):
            url = URL(proxy.url)
        else:
            # The path is in the URL, because aiohttp keeps connections apart by it.
            url = URL.build(scheme="http", host=_SOCKET_HOST, path=os.path.abspath(proxy.path))
        self._proxies[url] = proxy
        return url

    async def _create_direct_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,
        *,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
    ) -> tuple[asyncio.Transport, Any]:
        """Make one hop. Raises HopFailed, from the cause, if that was the hop to a proxy."""
        if client_error is not aiohttp.ClientProxyConnectionError:
            return await super()._create_direct_connection(req, traces, timeout, client_error=client_error)
        proxy = self._proxies[req.url]
        try:
            if isinstance(proxy, ProxySocket):
                return await self._dial(proxy.path)
            # What is configured for the target, that it is insecure for instance, doesn't count for the proxy.
            req._ssl = self.proxy_tls
            return await super()._create_direct_connection(req, traces, timeout, client_error=client_error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HopFailed(proxy, "dial") from error

    async def _create_proxy_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> tuple[asyncio.BaseTransport, Any]:
        """Make a tunnel. Raises HopFailed, from the cause, if the proxy doesn't; the target's TLS isn't its fault."""
        try:
            return await super()._create_proxy_connection(req, traces, timeout)
        except aiohttp.ClientSSLError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            assert req.proxy is not None
            status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else None
            failed = HopFailed(self._proxies[req.proxy], "tunnel", status)
            failed.__cause__ = unquoted(error)
        # Out here, because aiohttp's error, which holds the target's URL, would be its context otherwise.
        raise failed

    async def _dial(self, path: str) -> tuple[asyncio.Transport, Any]:
        """Connect to a Unix socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await self._loop.sock_connect(connection, path)
            # A full backlog is EAGAIN, which asyncio takes for "under way" and then for done.
            try:
                connection.getpeername()
            except OSError as error:
                raise BlockingIOError("its backlog is full") from error
            return await self._loop.create_unix_connection(self._factory, sock=connection)
        except BaseException:
            connection.close()
            raise
