"""What is remembered of registries, so that the next request can answer in advance what the last one was asked.

That is which challenge a registry comes with, and what it serves to nobody without a credential; never a credential,
never a token. What comes back from a disk may be damaged or planted: it is read by the rules for a fresh challenge, and
whoever answers it judges its realm anew. A memory that is wrong costs a round trip, and is put right by it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

from lading.auth.challenge import Challenge, parse_challenges
from lading.auth.scopes import Scopes
from lading.errors import LadingError, ProtocolError
from lading.http.transport import Origin

_logger = logging.getLogger("lading.auth")

Key = TypeVar("Key")
Value = TypeVar("Value")

_MOST = 65536
"""Registries, and accesses, that are remembered at most before all of them are forgotten."""

_CHALLENGE = "challenge"
_NEED = "need"
"""The kinds of notes: a challenge as its header line, by origin; that a credential is needed, by access."""

_NEEDED = "credential"

# Visible ASCII and spaces: anything else may be right in a header, but isn't worth keeping.
_KEPT = re.compile(r"[\x20-\x7e]{1,2048}")

_SPECIAL, _ESCAPED = re.compile(r'["\\]'), r"\\\g<0>"


class Access(NamedTuple):
    """What may need a credential: ``scopes`` at the ``origin`` of a ``registry``; no scopes are everything there."""

    origin: Origin
    registry: str
    scopes: Scopes


class ChallengeMemory(Protocol):
    """Where it is remembered. A challenge has its ``realm`` and ``service`` only; who recalls one judges it anew."""

    def recall(self, registry: Origin, /) -> Challenge | None:
        """Give the last challenge of ``registry`` that was answered."""
        ...

    async def remember(self, registry: Origin, challenge: Challenge | None, /) -> None:
        """Keep ``challenge``, whose answer ``registry`` has accepted; ``None`` is that it asks for nothing any more."""
        ...

    def recall_need(self, access: Access, /) -> bool | None:
        """Tell whether ``access`` needs a credential, or ``None`` if that isn't known."""
        ...

    async def remember_need(self, access: Access, is_needed: bool, /, *, is_certain: bool) -> None:
        """Keep that ``access`` was given with a credential, or without.

        ``is_certain``: it was refused without, before. Otherwise nobody has tried.
        """
        ...


class RecentChallenges:
    """A challenge memory that lives as long as its client."""

    def __init__(self) -> None:
        self._challenges: dict[Origin, Challenge | None] = {}
        self._needs: dict[Access, bool | None] = {}

    def recall(self, registry: Origin, /) -> Challenge | None:
        return self._challenges.get(registry)

    async def remember(self, registry: Origin, challenge: Challenge | None, /) -> None:
        _put(self._challenges, registry, challenge)

    def recall_need(self, access: Access, /) -> bool | None:
        return self._needs.get(access)

    async def remember_need(self, access: Access, is_needed: bool, /, *, is_certain: bool) -> None:
        _put(self._needs, access, is_needed)


class KeptChallenges(RecentChallenges):
    """A challenge memory that other processes share, as notes of a kind and a key, which somebody keeps for it.

    ``recall`` gives a note, ``keep`` writes one, or forgets it if it is ``None``. A LadingError of theirs is logged, at
    DEBUG, and means that there is no such note. Each note is asked for once.

    Kept are challenges that hold no secret: a realm with a query may. Of needs only those that are certain are kept:
    who has a credential at hand uses it anyway, and nobody is to run a credential helper for what is public.
    """

    def __init__(
        self, recall: Callable[[str, str], str | None], keep: Callable[[str, str, str | None], Awaitable[None]]
    ) -> None:
        super().__init__()
        self._recall = recall
        self._keep = keep

    def recall(self, registry: Origin, /) -> Challenge | None:
        if registry not in self._challenges:
            _put(self._challenges, registry, _read(self._look_up(_CHALLENGE, _name(registry))))
        return self._challenges[registry]

    async def remember(self, registry: Origin, challenge: Challenge | None, /) -> None:
        await super().remember(registry, challenge)
        await self._write(_CHALLENGE, _name(registry), None if challenge is None else _written(challenge))

    def recall_need(self, access: Access, /) -> bool | None:
        if access not in self._needs:
            is_needed = self._look_up(_NEED, _access_name(access)) == _NEEDED
            _put(self._needs, access, True if is_needed else None)
        return self._needs[access]

    async def remember_need(self, access: Access, is_needed: bool, /, *, is_certain: bool) -> None:
        known = self.recall_need(access)
        await super().remember_need(access, is_needed, is_certain=is_certain)
        if is_needed and is_certain:
            await self._write(_NEED, _access_name(access), _NEEDED)
        elif known and not is_needed:
            await self._write(_NEED, _access_name(access), None)

    def _look_up(self, kind: str, key: str) -> str | None:
        try:
            return self._recall(kind, key)
        except LadingError as error:
            _logger.debug("%s: what is known of it can't be read: %s", key, error)
            return None

    async def _write(self, kind: str, key: str, value: str | None) -> None:
        if self._look_up(kind, key) == value:
            return  # most often another process was first
        try:
            await self._keep(kind, key, value)
        except LadingError as error:
            _logger.debug("%s: what is known of it can't be kept: %s", key, error)


def _put(known: dict[Key, Value], key: Key, value: Value) -> None:
    if len(known) >= _MOST:
        known.clear()
    known[key] = value


def _read(text: str | None) -> Challenge | None:
    """Read a challenge that was kept; ``None`` if it is anything but one that would be."""
    if text is None or not _KEPT.fullmatch(text):
        return None
    try:
        challenges = parse_challenges([text])
    except ProtocolError:
        return None
    return challenges[0] if len(challenges) == 1 and _is_kept(challenges[0]) else None


def _is_kept(challenge: Challenge) -> bool:
    if challenge.scheme != "bearer":
        return challenge == Challenge("basic")
    is_plain = challenge.parameters.keys() <= {"realm", "service"}
    return is_plain and bool(challenge.realm) and "?" not in challenge.realm


def _written(challenge: Challenge) -> str | None:
    """Write a challenge as a header line (RFC 9110, section 11.6.1); ``None`` if it isn't to be kept."""
    fields = (f'{name}="{_SPECIAL.sub(_ESCAPED, value)}"' for name, value in challenge.parameters.items())
    text = " ".join(filter(None, [challenge.scheme.capitalize(), ",".join(fields)]))
    return text if _read(text) == challenge else None


def _name(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{origin.scheme}://{host}:{origin.port}"


def _access_name(access: Access) -> str:
    return " ".join((_name(access.origin), access.registry, *access.scopes))
