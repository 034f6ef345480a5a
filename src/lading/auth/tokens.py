"""Tokens: each asked for once, used while it is good, and given only to the registry that it is for.

A token belongs to one registry's origin, token server, service and credential; one that is good for more than is needed
serves, too. Those who want to read different repositories at the same time are asked for together, where the token then
says what it is good for; who isn't served by it, or if the server refuses, is asked for alone. Time is the injected
monotonic clock's alone: what clocks elsewhere say doesn't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lading.auth.configfile import Credential
from lading.auth.exchange import TokenServer, fetch_token
from lading.auth.scopes import Scopes, covers, merge_scopes, split_scope
from lading.auth.wishes import Wish, Wishes, told_scopes
from lading.errors import LadingError
from lading.http.transport import Transport

_MARGIN_SECONDS = 10.0
"""How long before its end a token is renewed, so that it doesn't end on the way; at most a tenth of its life."""

_MOST = 4096
"""Tokens that are kept at most before the expired ones are thrown away, and then all of them."""

_MOST_QUEUES = 1024
"""Owners of tokens that are remembered at most: what a registry calls its token server may change all the time."""

_QUIET_TURNS = 3
"""Turns of the event loop without a newcomer after which nobody else is expected."""

_Owner = tuple[TokenServer, Credential | None]
_Key = tuple[TokenServer, Credential | None, Scopes]


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    scopes: Scopes
    renew_at: float


class Tokens:
    """The tokens of one client. Several tasks that need the same token make one request."""

    def __init__(self, transport: Transport, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._clock = clock
        self._tokens: dict[_Key, _Token] = {}
        self._by_resource: dict[tuple[_Owner, str], list[_Token]] = {}
        self._queues: dict[_Owner, Wishes] = {}
        self._unsure: dict[str, bool] = {}
        """Tokens that several share, and that don't say whether they are good for each; and whether one wasn't."""

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
        self,
        server: TokenServer,
        scopes: Iterable[str],
        credential: Credential | None,
        *,
        refused: str = "",
        may_share: bool = False,
    ) -> str:
        """Give a token for ``scopes``: a good one that is there, unless it is ``refused``, or a new one.

        ``may_share``: also one that was asked for together with others' and doesn't say what it is good for; who is
        then refused asks again, without ``may_share``.

        Raises what ``fetch_token`` raises.
        """
        import anyio

        need = merge_scopes(scopes)
        known = self.cached(server, need, credential)
        if known is not None and known != refused and (may_share or known not in self._unsure):
            return known
        queue = self._queue((server, credential))
        if self._unsure.get(refused) is False and not may_share:
            self._unsure[refused] = True
            queue.strike()
        wish = queue.join(need, may_share)
        wish.refused.add(refused)
        try:
            while wish.outcome is None:
                await _let_others_come(queue, wish)
                if batch := queue.take(wish, anyio.current_time()):
                    await self._ask(queue, batch, server, credential)
                elif wish.outcome is None:
                    with anyio.move_on_after(queue.delay(wish, anyio.current_time())):
                        await wish.turn.wait()
        finally:
            queue.leave(wish)
        return wish.give()

    def is_unsure(self, token: str) -> bool:
        """Tell whether a token is one that ``may_share`` gave, so that its refusal may be for want of a scope."""
        return token in self._unsure

    async def _ask(self, queue: Wishes, batch: list[Wish], server: TokenServer, credential: Credential | None) -> None:
        """Make one request for all of ``batch``, and settle each wish or let it be asked for again."""
        scopes = merge_scopes(scope for wish in batch for scope in wish.need)
        try:
            grant = await fetch_token(self._transport, server, scopes, credential)
        except LadingError as error:
            queue.fail(batch, error)
        except BaseException:
            queue.put_back(batch)
            raise
        else:
            granted = told_scopes(grant.token)
            served = queue.serve(batch, grant.token, granted)
            if len(batch) > 1 and granted is None and served:
                self._note_unsure(grant.token)
            margin = min(_MARGIN_SECONDS, grant.seconds / 10)
            renew_at = self._clock() + grant.seconds - margin
            token = _Token(grant.token, merge_scopes(scope for wish in served for scope in wish.need), renew_at)
            for wish in served:
                self._keep((server, credential, wish.need), token, wish.refused)

    def _queue(self, owner: _Owner) -> Wishes:
        queue = self._queues.get(owner)
        if queue is None:
            if len(self._queues) >= _MOST_QUEUES:
                self._queues = {one: busy for one, busy in self._queues.items() if busy.is_busy}
            queue = self._queues[owner] = Wishes()
        return queue

    def _keep(self, key: _Key, token: _Token, refused: Iterable[str]) -> None:
        if len(self._tokens) >= _MOST:
            self._prune()
        server, credential, need = key
        self._tokens[key] = token
        for scope in need:
            place = ((server, credential), split_scope(scope)[0])
            others = self._by_resource.get(place, ())
            kept = [other for other in others if other.scopes != token.scopes and other.value not in refused]
            self._by_resource[place] = [*kept, token]

    def _note_unsure(self, token: str) -> None:
        if len(self._unsure) >= _MOST:
            kept = {token.value for token in self._tokens.values()}
            self._unsure = {value: is_struck for value, is_struck in self._unsure.items() if value in kept}
        self._unsure[token] = False

    def _prune(self) -> None:
        now = self._clock()
        kept = {key: token for key, token in self._tokens.items() if now < token.renew_at}
        self._tokens, self._by_resource = {}, {}
        if len(kept) < _MOST:
            for key, token in kept.items():
                self._keep(key, token, ())


async def _let_others_come(queue: Wishes, wish: Wish) -> None:
    """Wait as long as others come that want something at this very moment, too: no time but theirs is spent."""
    import anyio
    from anyio.lowlevel import checkpoint

    turns = _QUIET_TURNS
    while turns and queue.is_gathering(wish, anyio.current_time()):
        waiting = queue.waiting
        await checkpoint()
        turns = turns - 1 if queue.waiting <= waiting else _QUIET_TURNS
