"""Everything that lading raises.

::

    LadingError
    ├── InvalidReference, InvalidDigest, InvalidManifest, InvalidDocument, InvalidLockfile   (also ValueError)
    ├── InvalidPlatform, InvalidHosts   (also ValueError)
    ├── NotAnAgent
    ├── TransportError
    │   ├── ConnectFailed, ProxyFailed, TimedOut, TlsFailed, BodyInterrupted
    ├── ProtocolError
    ├── RegistryError
    │   ├── NotFound, Unauthorized, Denied, RateLimited
    ├── CredentialError
    ├── IntegrityError
    │   ├── DigestMismatch, SizeMismatch
    ├── StoreError
    │   ├── StoreCorrupted, StoreReadOnly, OutOfSpace
    ├── Offline
    └── LockMismatch

An error says what was tried, on what, and what the user can do about it. What came from outside is escaped, and
URLs lose their user information and query, when the error is constructed: no error holds a secret.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from lading.redact import redact, redact_url


class LadingError(Exception):
    """The root of everything that lading raises on purpose.

    ``message`` says what was tried, on what, and why it failed; ``hint`` says what the user can do (it may be
    empty). ``str()`` gives both.
    """

    message: str
    hint: str

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        self.message = redact(message)
        super().__init__(self.message)
        self.hint = redact(hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def again(self) -> Self:
        """Give the same error to raise in one more task: what is added to one isn't added to the other."""
        twin = copy.copy(self)
        twin.__cause__ = self
        return twin


class InvalidReference(LadingError, ValueError):
    """Text that isn't a reference to something in a registry."""


class InvalidDigest(LadingError, ValueError):
    """Text that isn't a digest that content can be addressed by."""


class InvalidManifest(LadingError, ValueError):
    """Bytes that aren't a manifest or an index, or not the kind that they were served as."""


class InvalidDocument(LadingError, ValueError):
    """Bytes that aren't an agent document."""


class InvalidLockfile(LadingError, ValueError):
    """Text that isn't a lock file."""


class InvalidPlatform(LadingError, ValueError):
    """Text that isn't a platform, or platforms that can't be chosen together."""


class InvalidHosts(LadingError, ValueError):
    """A hosts configuration that can't be read or doesn't make sense."""


class NotAnAgent(LadingError):
    """An artifact that exists and is intact, but doesn't hold an agent."""


class TransportError(LadingError):
    """No answer, or not a whole one.

    ``url`` is what was asked, without its secrets. ``was_sent`` is false where the request certainly never reached the
    registry, ``is_final`` is true where it is no use to ask again at once.
    """

    url: str
    was_sent: bool
    is_final: bool

    def __init__(
        self, message: str = "", *, url: str = "", hint: str = "", was_sent: bool = True, is_final: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.url = redact_url(url)
        self.was_sent = was_sent
        self.is_final = is_final


class ConnectFailed(TransportError):
    """No connection, or it was lost before an answer came."""


class ProxyFailed(TransportError):
    """A proxy couldn't be reached, or refused to carry the request. ``status`` is what it answered, if it did."""

    status: int | None

    def __init__(
        self,
        message: str = "",
        *,
        url: str = "",
        hint: str = "",
        was_sent: bool = True,
        is_final: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message, url=url, hint=hint, was_sent=was_sent, is_final=is_final)
        self.status = status


class TimedOut(TransportError):
    """The other side was silent for too long."""


class TlsFailed(TransportError):
    """The other side couldn't prove who it is."""


class BodyInterrupted(TransportError):
    """The connection was lost in the middle of a body."""


class ProtocolError(LadingError):
    """An answer that the protocol doesn't allow."""


class RegistryError(LadingError):
    """A registry refused a request.

    ``method`` and ``url`` are what was asked, ``status`` is the HTTP status, ``codes`` are the error codes of the
    body (distribution-spec, "Error Codes"), empty where it gave none.
    """

    method: str
    url: str
    status: int
    codes: tuple[str, ...]

    def __init__(
        self,
        message: str = "",
        *,
        method: str = "",
        url: str = "",
        status: int = 0,
        codes: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.method = method
        self.url = redact_url(url)
        self.status = status
        self.codes = tuple(redact(code) for code in codes)


class NotFound(RegistryError):
    """404: the registry doesn't have it, or doesn't say so to this user."""


class Unauthorized(RegistryError):
    """401: the registry wants to know who is asking, or didn't believe the answer."""


class Denied(RegistryError):
    """403: the registry knows who is asking and refuses."""


class RateLimited(RegistryError):
    """429: too many requests. ``retry_after`` is how many seconds the registry asks to wait, if it said so."""

    retry_after: float | None

    def __init__(
        self,
        message: str = "",
        *,
        method: str = "",
        url: str = "",
        status: int = 429,
        codes: Sequence[str] = (),
        hint: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, method=method, url=url, status=status, codes=codes, hint=hint)
        self.retry_after = retry_after


class CredentialError(LadingError):
    """Credentials are configured for a host but can't be had."""


class IntegrityError(LadingError):
    """Bytes that aren't the ones that were asked for."""


class DigestMismatch(IntegrityError):
    """Content whose digest isn't the one that it was asked for by."""


class SizeMismatch(IntegrityError):
    """Content that is longer or shorter than its descriptor says."""


class StoreError(LadingError):
    """The local store can't do what it was asked to."""


class StoreCorrupted(StoreError):
    """The local store doesn't give back what it was given."""


class StoreReadOnly(StoreError):
    """The local store can't be written."""


class OutOfSpace(StoreError):
    """The disk that holds the local store is full."""


class Offline(LadingError):
    """Network access is switched off, and the local store can't answer alone."""


class LockMismatch(LadingError):
    """A lock file doesn't cover what was asked for."""
