"""TLS for servers on loopback: a certificate authority that is thrown away. The only owner of trustme.

Nothing here is imported, and no key is made, before TLS is asked for.
"""

from __future__ import annotations

import os
import ssl

# What servers on loopback are called; `EmbeddedRegistry` adds the address that it listens on.
_NAMES = ("localhost", "127.0.0.1", "::1")


class ThrowawayCA:
    """A certificate authority of this process, which nobody trusts who isn't told to. Several servers may share one.

    Raises:
        RuntimeError: trustme isn't installed.
    """

    def __init__(self) -> None:
        try:
            import trustme
        except ImportError as error:
            raise RuntimeError("TLS for tests needs trustme: pip install 'lading[testing]'") from error
        self._authority = trustme.CA()

    @property
    def pem(self) -> bytes:
        """The certificate to trust, for `ssl.create_default_context(cadata=ca.pem.decode("ascii"))`."""
        return self._authority.cert_pem.bytes()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to trust into a file, for clients that are given one, such as by `SSL_CERT_FILE`."""
        self._authority.cert_pem.write_to_path(os.fspath(path))

    def client_context(self) -> ssl.SSLContext:
        """Return a context for clients that trust this authority and no other."""
        return ssl.create_default_context(cadata=self.pem.decode("ascii"))

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Return a context for a server on loopback, which may be called by these names and addresses besides."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._authority.issue_cert(*dict.fromkeys((*_NAMES, *names))).configure_cert(context)
        return context


def authority(tls: bool | ThrowawayCA) -> ThrowawayCA | None:
    """Return who signs for a server: nobody, a new authority, or the one that is given."""
    if isinstance(tls, ThrowawayCA):
        return tls
    return ThrowawayCA() if tls else None
