"""Tokens: each asked for once, used while it is good, and given only to the registry that it is for.

A token belongs to one registry's origin, token server, service and credential; one that is good for more than is needed
serves, too. Time is the injected monotonic clock's alone: what clocks elsewhere say doesn't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lading.auth.configfile import Credential
from lading.auth.exchange import TokenServer, fetch_token
from lading.auth.scopes import covers, merge_scopes, split_scope
from lading.auth.sharing import Shared
from lading.http.transport import Transport

_MARGIN_SECONDS = 10.0
"""How long before its end a token is renewed, so that it doesn't end on the way; at most a tenth of its life."""

_MOST = 4096
"""Tokens that are kept at most before the expired ones are thrown away, and then all of them."""

_Owner = tuple[TokenServer, Credential | None]
_Key = tuple[TokenServer, Credential | None, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    scopes: tuple[str, ...]
    renew_at: float


class Tokens:
    """The tokens of one client. Several tasks that need the same token make one request."""

    def __init__(self, transport: Transport, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._clock = clock
        self._tokens: dict[_Key, _Token] = {}
        self._by_resource: dict[tuple[_Owner, str], list[_Token]] = {}
        self._requests: Shared[_Key, str] = Shared()

    def cached(self, server: TokenServer, scopes: Iterable[str], credential: Credential | None) -> str | None:
        """Give a token that is still good for ``scopes``, without asking anybody."""
        need = merge_scopes(scopes)
        now = self._clock()
        token = self._tokens.get((server, credential, need))
        if token is not None and now < token.renew_at:
            return token.value
        if not need:
            return None
        wider = self._by_resource.get(((server, credential), split_scope(need[0])[0]), ())
        return next((token.value for token in wider if now < token.renew_at and covers(token.scopes, need)), None)

    async def token(
        self, server: TokenServer, scopes: Iterable[str], credential: Credential | None, *, refused: str = ""
    ) -> str:
        """Give a token for ``scopes``: a good one that is there, unless it is ``refused``, or a new one.

        Raises what ``fetch_token`` raises.
        """
        need = merge_scopes(scopes)
        known = self.cached(server, need, credential)
        if known is not None and known != refused:
            return known

        async def request() -> str:
            grant = await fetch_token(self._transport, server, need, credential)
            margin = min(_MARGIN_SECONDS, grant.seconds / 10)
            self._keep(
                (server, credential, need), _Token(grant.token, need, self._clock() + grant.seconds - margin), refused
            )
            return grant.token

        return await self._requests.run((server, credential, need), request)

    def _keep(self, key: _Key, token: _Token, refused: str) -> None:
        if len(self._tokens) >= _MOST:
            self._prune()
        server, credential, need = key
        self._tokens[key] = token
        for scope in need:
            place = ((server, credential), split_scope(scope)[0])
            others = self._by_resource.get(place, ())
            kept = [other for other in others if other.scopes != need and other.value != refused]
            self._by_resource[place] = [*kept, token]

    def _prune(self) -> None:
        now = self._clock()
        kept = {key: token for key, token in self._tokens.items() if now < token.renew_at}
        self._tokens, self._by_resource = {}, {}
        if len(kept) < _MOST:
            for key, token in kept.items():
                self._keep(key, token, "")
