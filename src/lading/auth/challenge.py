"""Challenges: what a registry says in ``WWW-Authenticate``. Pure, linear, and never a guess.

The header is walked from left to right; what doesn't follow the grammar is refused as a whole, because half a challenge
could lead to the wrong realm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

from lading.errors import ProtocolError

# RFC 9110, sections 11.2, 11.3 and 11.6.1, with 5.6.1 (lists: empty elements are ignored) and 5.6.4:
#
#   WWW-Authenticate = #challenge
#   challenge        = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
#   auth-scheme      = token
#   auth-param       = token BWS "=" BWS ( token / quoted-string )
#   token            = 1*tchar
#   token68          = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
#   quoted-string    = DQUOTE *( qdtext / quoted-pair ) DQUOTE
#   quoted-pair      = "\" ( HTAB / SP / VCHAR / obs-text )
#
# The quantifiers are possessive: nothing is read twice because something after it didn't match.
_SPACE = re.compile(r"[ \t]++")
_COMMAS = re.compile(r"[ \t,]++")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]++=*+(?=[ \t]*+(?:,|\Z))")
_NAME = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+=[ \t]*+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"')
_PAIR = re.compile(r"\\(.)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_LIMIT = 16 * 1024
"""Characters of one header line at most."""

_LINES = 64
"""Header lines of one answer at most."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove who is asking: ``scheme`` and the names of ``parameters`` are in lower case.

    ``token68`` is what some schemes send instead of parameters, and empty otherwise.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    token68: str = field(default="", repr=False)

    @property
    def realm(self) -> str:
        """For Bearer the URL of the token server (distribution-spec, "token authentication"); empty if not given."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """What the token server calls the registry; empty if not given."""
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that are asked for, each once, in the order in which they were written (RFC 6750, section 3)."""
        return tuple(dict.fromkeys(scope for scope in self.parameters.get("scope", "").split(" ") if scope))


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """Read every challenge of an answer; ``headers`` are the values of its ``WWW-Authenticate`` lines.

    Follows RFC 9110, section 11; a parameter that is given twice is refused.

    Raises:
        ProtocolError: a line doesn't follow the grammar, holds a control character or is too long.
    """
    if len(headers) > _LINES:
        raise ProtocolError(f"more than {_LINES} WWW-Authenticate lines")
    return [challenge for header in headers for challenge in _Walk(header).challenges()]


def choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """Give the challenge to answer: Bearer with a realm before Basic, ``None`` if there is neither."""
    bearer = (challenge for challenge in challenges if challenge.scheme == "bearer" and challenge.realm)
    basic = (challenge for challenge in challenges if challenge.scheme == "basic")
    return next(bearer, None) or next(basic, None)


class _Walk:
    """One header line, and how far it has been read."""

    __slots__ = ("_position", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        if len(text) > _LIMIT:
            self._refuse(f"it is longer than {_LIMIT} characters")
        if control := _CONTROL.search(text):
            self._position = control.start()
            self._refuse("a control character")

    def challenges(self) -> list[Challenge]:
        found: list[Challenge] = []
        while True:
            self._take(_COMMAS)
            if self._at_end():
                return found
            found.append(self._challenge())

    def _challenge(self) -> Challenge:
        """Read one challenge, up to the end or the comma behind it."""
        scheme = self._take(_TOKEN).lower() or self._refuse("an authentication scheme is expected")
        spaced = self._take(_SPACE)
        if self._at_end() or (self._at_comma() and not spaced):
            return Challenge(scheme)
        if not spaced:
            self._refuse("a space is expected behind the authentication scheme")
        if token68 := self._take(_TOKEN68):
            return Challenge(scheme, token68=token68)
        return Challenge(scheme, MappingProxyType(self._parameters()))

    def _parameters(self) -> dict[str, str]:
        """Read parameters until something else begins: the next challenge, or the end."""
        found: dict[str, str] = {}
        while True:
            before = self._position
            self._take(_COMMAS)
            match = _NAME.match(self._text, self._position)
            if match is None:
                self._position = before
                break
            name = match[1].lower()
            if name in found:
                self._refuse(f"the parameter {name!r} is given twice")
            self._position = match.end()
            found[name] = self._value()
            self._take(_SPACE)
            if not self._at_end() and not self._at_comma():
                self._refuse("a comma is expected behind a parameter")
        if not found and not self._at_end() and not self._at_comma():
            self._refuse("a parameter is expected")
        return found

    def _value(self) -> str:
        if quoted := _QUOTED.match(self._text, self._position):
            self._position = quoted.end()
            return _PAIR.sub(r"\1", quoted[1])
        return self._take(_TOKEN) or self._refuse("the value of a parameter is expected")

    def _take(self, pattern: re.Pattern[str]) -> str:
        """Read what ``pattern`` matches here, which may be nothing."""
        match = pattern.match(self._text, self._position)
        if match is None:
            return ""
        self._position = match.end()
        return match[0]

    def _at_end(self) -> bool:
        return self._position == len(self._text)

    def _at_comma(self) -> bool:
        return self._text.startswith(",", self._position)

    def _refuse(self, why: str) -> NoReturn:
        raise ProtocolError(f"WWW-Authenticate at character {self._position + 1}: {why}")
