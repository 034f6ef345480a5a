"""The token service: who asks is nobody, or a user; what they get is good for what they may do. No HTTP.

distribution-spec, "Token Authentication" (GET) and "OAuth2 Token" (POST). Tokens are opaque and random, so that nothing
can be read out of one but by asking here; or what else a mint makes, such as the one in `signed_tokens`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl

from lading.testing.access import Access, Scopes, read_scopes
from lading.testing.endpoints import Answer, refuse
from lading.testing.profiles import TokenRules
from lading.testing.refusals import ErrorCode, Refusal


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What a token is good for, as whom (None: as nobody), and until when by the registry's clock."""

    user: str | None
    scopes: Scopes
    expires: float


class Mint(Protocol):
    """Makes the text of a token: for a user (None: for nobody), good for `scopes` at `service` for some seconds."""

    def __call__(self, user: str | None, scopes: Scopes, service: str, seconds: float, /) -> str: ...


def opaque(user: str | None, scopes: Scopes, service: str, seconds: float) -> str:
    """Return a text that says nothing."""
    return secrets.token_urlsafe(32)


class TokenService:
    """Gives tokens by `rules` to those that `access` knows, and knows them again. `mint` makes their texts."""

    def __init__(self, rules: TokenRules, access: Access, clock: Callable[[], float], mint: Mint = opaque) -> None:
        self.mint = mint
        self._rules = rules
        self._access = access
        self._clock = clock
        self._tokens: dict[str, IssuedToken] = {}
        self._identities: dict[str, str] = {}

    def identity_token(self, user: str) -> str:
        """Return a new identity token of a user, good for the refresh grant; raise `KeyError` for a stranger."""
        if self._access.users is None or user not in self._access.users:
            raise KeyError(user)
        token = secrets.token_urlsafe(32)
        self._identities[token] = user
        return token

    def find(self, authorization: str) -> IssuedToken | None:
        """Return the token that a Bearer `Authorization` holds, None if it is unknown or over."""
        scheme, _, value = authorization.partition(" ")
        token = self._tokens.get(value.strip()) if scheme.lower() == "bearer" else None
        return token if token is not None and self._clock() < token.expires else None

    def expire(self) -> None:
        """Let every token that was issued so far be over, identity tokens excepted."""
        self._tokens.clear()

    def answer(self, method: str, query: Iterable[tuple[str, str]], authorization: str | None, body: bytes) -> Answer:
        """Decide a request for a token."""
        try:
            if method == "GET":
                asked = list(query)
                return self._issue(self._asking(authorization), asked)
            if method == "POST":
                asked = parse_qsl(body.decode("utf-8", "replace"))
                return self._issue(self._granted(dict(asked)), asked)
            raise Refusal(ErrorCode.UNSUPPORTED, f"{method} is not supported here")
        except Refusal as refusal:
            return refuse(refusal)

    def _asking(self, authorization: str | None) -> str | None:
        if authorization is None:
            return None
        user = self._access.user(authorization)
        if user is None:
            raise Refusal(ErrorCode.UNAUTHORIZED, "incorrect username or password")
        return user

    def _granted(self, form: dict[str, str]) -> str:
        """Return the user that a grant is for (RFC 6749, sections 4.3 and 6)."""
        grant = form.get("grant_type")
        if grant not in self._rules.grants:
            code = ErrorCode.UNAUTHORIZED if self._rules.post_status == 401 else ErrorCode.UNSUPPORTED
            raise Refusal(code, "no such grant", status=self._rules.post_status)
        if grant == "refresh_token":
            user = self._identities.get(form.get("refresh_token", ""))
        else:
            name = form.get("username", "")
            user = name if self._access.is_password(name, form.get("password", "")) else None
        if user is None:
            # RFC 6749, section 5.2: an invalid_grant is 400.
            raise Refusal(ErrorCode.UNAUTHORIZED, "the grant is not valid", status=400)
        return user

    def _issue(self, user: str | None, asked: list[tuple[str, str]]) -> Answer:
        if user is None and self._access.users is not None and not self._access.serves_anybody:
            raise Refusal(ErrorCode.UNAUTHORIZED, "authentication required")
        scopes = read_scopes([value for name, value in asked if name == "scope"])
        allowed = {resource: actions & self._access.allows(user, resource) for resource, actions in scopes.items()}
        if self._rules.denies_excess and allowed != scopes:
            raise Refusal(ErrorCode.DENIED, "requested access to the resource is denied")
        token = self.mint(user, allowed, dict(asked).get("service", self._rules.service), self._rules.lifetime)
        self._tokens[token] = IssuedToken(user, allowed, self._clock() + self._rules.lifetime)
        document: dict[str, object] = dict.fromkeys(self._rules.keys, token)
        if self._rules.tells_lifetime:
            document["expires_in"] = int(self._rules.lifetime)
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(document).encode())
