"""TLS: whom a connection trusts, and how this client shows who it is. Decided for each origin, before it connects."""

from __future__ import annotations

import ssl

import anyio
import anyio.to_thread

from lading.errors import InvalidHosts
from lading.http.transport import Origin, Site

_Key = tuple[tuple[str | bytes, ...], tuple[tuple[str, str], ...], bool]


class TlsContexts:
    """The TLS contexts of one client, each made once: reading the system's certificates takes 15 ms."""

    def __init__(self) -> None:
        self._contexts: dict[_Key, ssl.SSLContext] = {}
        self._making = anyio.Lock()

    async def context(self, site: Site | None, origin: Origin) -> ssl.SSLContext:
        """Give the context for a connection to ``origin`` on behalf of ``site``.

        Raises:
            InvalidHosts: a file that ``site`` names isn't what it should be.
        """
        key = _key(site, origin)
        if (known := self._contexts.get(key)) is not None:
            return known
        async with self._making:
            if key not in self._contexts:
                self._contexts[key] = await anyio.to_thread.run_sync(_make, key)
        return self._contexts[key]


def _key(site: Site | None, origin: Origin) -> _Key:
    if site is None:
        return (), (), False
    if origin != site.origin:
        # Who vouches for the registry's name may vouch for its token server's: but the rest is for the registry alone.
        return site.ca, (), False
    return site.ca, site.certificates, site.insecure


def _make(key: _Key) -> ssl.SSLContext:
    """Make a context. Blocking."""
    ca, certificates, insecure = key
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for file in ca:
        try:
            if isinstance(file, bytes):
                context.load_verify_locations(cadata=file.decode("ascii", "ignore"))
            else:
                context.load_verify_locations(cafile=file)
        except (OSError, ssl.SSLError) as error:
            named = "ca" if isinstance(file, bytes) else file
            raise _unusable(named, "certificates to trust (PEM)", error) from error
    for certificate, key_file in certificates:
        try:
            # A key with a passphrase would ask for it on the terminal.
            context.load_cert_chain(certificate, key_file or None, password="")
        except (OSError, ssl.SSLError) as error:
            file = f"{certificate} with the key {key_file}" if key_file else certificate
            raise _unusable(file, "a client certificate and its key (PEM, without a passphrase)", error) from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unusable(file: str, what: str, error: OSError) -> InvalidHosts:
    said = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return InvalidHosts(f"{file}: can't be used as {what}: {said or error}", hint="check the file and who may read it")
