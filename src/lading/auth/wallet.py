"""The wallet: what each host's credential is, asked for once.

Getting a credential may mean to run a program that asks a person. So it is asked for at most once at a time, the answer
is kept, also "none" and "can't be had", and looked for anew only when a registry has refused it, at most once a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lading.auth.authorization import check_credential
from lading.auth.credentials import CostlyCredentials, Credential, Credentials
from lading.auth.sharing import Shared
from lading.errors import CredentialError

_logger = logging.getLogger("lading.auth")

_RETRY_SECONDS = 60.0
"""How long a refused answer is kept at least, so that a thousand refusals don't run a helper a thousand times."""


@dataclass(frozen=True, slots=True)
class _Entry:
    credential: Credential | None
    since: float


class Wallet:
    """The credentials of one client, by host. An error is a WARNING, once for each host, and means: anonymous."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float]) -> None:
        self._source = credentials
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._failures: dict[str, CredentialError] = {}
        self._lookups: Shared[str, Credential | None] = Shared()
        self._warned: set[str] = set()

    @property
    def failures(self) -> Mapping[str, CredentialError]:
        """Why there is no credential for a host that should have one."""
        return MappingProxyType(self._failures)

    async def credential(self, host: str) -> Credential | None:
        """Give the credential of ``host``; ``None`` if there is none, or it can't be had. Never raises."""
        if not host:
            return None
        if (entry := self._entries.get(host)) is not None:
            return entry.credential
        return await self._lookups.run(host, lambda: self._look_up(host))

    async def cheap(self, host: str) -> Credential | None:
        """Give the credential of ``host`` if it is known or can be had without running a program."""
        if host and host not in self._entries and isinstance(self._source, CostlyCredentials):
            try:
                if await self._source.is_costly(host):
                    return None
            except CredentialError as error:
                self.fail(host, error)
                return None
        return await self.credential(host)

    async def renewed(self, host: str, refused: Credential | None) -> Credential | None:
        """Give the credential of ``host`` now that ``refused`` was refused: another one if there is another by now."""
        entry = self._entries.get(host)
        if entry is not None and entry.credential == refused and self._clock() - entry.since >= _RETRY_SECONDS:
            del self._entries[host]
            if isinstance(self._source, CostlyCredentials):
                self._source.forget(host)
        return await self.credential(host)

    def fail(self, host: str, error: CredentialError) -> None:
        """Remember why ``host`` is talked to anonymously, and say so the first time."""
        self._failures[host] = error
        if host not in self._warned:
            self._warned.add(host)
            _logger.warning("no credentials for %s, continuing without: %s", host, error)

    async def _look_up(self, host: str) -> Credential | None:
        credential = None
        try:
            credential = await self._source.credential(host)
            if credential is not None:
                check_credential(credential)
            self._failures.pop(host, None)
        except CredentialError as error:
            credential = None
            self.fail(host, error)
        self._entries[host] = _Entry(credential, self._clock())
        return credential
