"""Tokens that a registry can check by itself: JSON Web Tokens, signed with RS256. The only owner of cryptography here.

As distribution's registries want them (distribution, "Token Authentication Implementation"; RFC 7519; RFC 7515). The
key is made, and cryptography imported, when the first token is signed or the certificate is asked for.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lading.testing.access import Scopes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

_KEY_BITS = 2048
_EXPONENT = 65537
_YEAR = timedelta(days=365)
_SLACK_SECONDS = 60
"""How long before it was made a token is good already: two clocks needn't agree."""


class TokenSigner:
    """A mint for a `TokenService`: an `issuer` with a key of its own, whose certificate goes along with each token.

    `clock` gives the seconds since 1970, of which a token knows whole ones only: it ends up to one too late. Registries
    of distribution believe it for a minute longer than it says: `early` is how many seconds before its end it says that
    it ends.

    Raises:
        RuntimeError: cryptography isn't installed.
    """

    def __init__(self, issuer: str, *, early: float = 0.0, clock: Callable[[], float] = time.time) -> None:
        self.issuer = issuer
        self.early = early
        self._clock = clock

    def __call__(self, user: str | None, scopes: Scopes, service: str, seconds: float, /) -> str:
        """Return a signed token."""
        now = int(self._clock())
        access = []
        for resource, actions in scopes.items():
            kind, _, name = resource.partition(":")
            if actions:
                access.append({"type": kind, "name": name, "actions": sorted(actions)})
        claims: dict[str, object] = {
            "iss": self.issuer,
            "sub": user or "",
            "aud": service,
            "exp": now + math.ceil(seconds - self.early) + 1,
            "nbf": now - math.ceil(self.early) - _SLACK_SECONDS,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "access": access,
        }
        return self.sign(claims)

    def sign(self, claims: Mapping[str, object]) -> str:
        """Return a token with these claims."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self._der).decode("ascii")]}
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode("ascii"), PKCS1v15(), SHA256())  # RFC 7518, section 3.3
        return f"{signed}.{_encoded(signature)}"

    @property
    def certificate_pem(self) -> bytes:
        """The certificate that a registry has to trust, as PEM: what its `rootcertbundle` holds."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def _der(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self._certificate.public_bytes(Encoding.DER)

    @cached_property
    def _key(self) -> RSAPrivateKey:
        try:
            from cryptography.hazmat.primitives.asymmetric import rsa
        except ImportError as error:
            raise RuntimeError("signed tokens need cryptography: pip install 'lading[testing]'") from error
        return rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_KEY_BITS)

    @cached_property
    def _certificate(self) -> Certificate:
        key = self._key
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.x509.oid import NameOID

        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.issuer)])
        now = datetime.now(UTC)
        builder: Any = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - _YEAR).not_valid_after(now + _YEAR)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate: Certificate = builder.sign(key, SHA256())
        return certificate


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode("ascii").rstrip("=")
