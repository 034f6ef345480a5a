"""Wishes: who waits for a token, and what may be asked for in one request. Decides, and sends nothing.

Only those who want to read are asked for together: what somebody may not write would spoil it for everybody.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lading.auth.scopes import Scopes, covers, is_only_pull, merge_scopes
from lading.errors import LadingError, RateLimited, TransportError
from lading.oci.strict_json import parse_json

if TYPE_CHECKING:
    import anyio

_MOST_TOGETHER = 16
_MOST_CHARACTERS = 2048
"""How many wishes, and how much text of scopes, one request holds: it is a line, and its token will be one, too, for
which servers have limits of 8 KiB."""

_AT_ONCE = 4
"""Requests to one server under way, from which on wishes wait for each other, unless they fill a request."""

_PAUSE_SECONDS = 0.02
"""How long after one request for several the next one follows at the earliest, unless it is full."""

_MOST_STRIKES = 3
"""After how many requests that were better made apart a server isn't asked for several things any more."""


@dataclass(slots=True, eq=False)
class Wish:
    """A token that tasks wait for, how many, and what came of it. ``turn`` is set when there is something to do."""

    need: Scopes
    may_share: bool
    turn: anyio.Event
    is_alone: bool
    is_under_way: bool = False
    users: int = 0
    refused: set[str] = field(default_factory=set, repr=False)
    outcome: str | LadingError | None = field(default=None, repr=False)
    is_told: bool = False

    def wake(self) -> None:
        import anyio

        self.turn.set()
        self.turn = anyio.Event()

    def give(self) -> str:
        """Give the outcome; whoever shares an error gets one of their own."""
        if isinstance(self.outcome, LadingError):
            if self.is_told:
                raise self.outcome.again()
            self.is_told = True
            raise self.outcome
        assert self.outcome is not None
        return self.outcome


class Wishes:
    """Who waits for a token of one owner, and what may be asked for together. Decides, and sends nothing.

    The first request is for one wish alone: its token tells whether this server's tokens say what they are good for.
    """

    def __init__(self) -> None:
        self._wishes: dict[tuple[Scopes, bool], Wish] = {}
        self._waiting: dict[Wish, None] = {}
        """Those that may be asked for together and aren't yet, in order."""
        self._under_way = 0
        self._tells: bool | None = None
        self._strikes = 0
        self._paused_until = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits here."""
        return bool(self._wishes)

    def join(self, need: Scopes, may_share: bool) -> Wish:
        """Give the wish for ``need``; whoever joins has to leave."""
        import anyio

        wish = self._wishes.get((need, may_share))
        if wish is None:
            is_alone = not need or not is_only_pull(need) or sum(map(len, need)) > _MOST_CHARACTERS
            wish = self._wishes[need, may_share] = Wish(need, may_share, anyio.Event(), is_alone)
            if not is_alone:
                self._waiting[wish] = None
        wish.users += 1
        return wish

    def leave(self, wish: Wish) -> None:
        wish.users -= 1
        if not wish.users:
            self._forget(wish)
        self._go_on()

    def is_combining(self, wish: Wish) -> bool:
        """Tell whether ``wish`` may be asked for with others, as far as that is known."""
        return not wish.is_alone and self._strikes < _MOST_STRIKES and (self._tells is not False or wish.may_share)

    @property
    def waiting(self) -> int:
        """How many wait to be asked for."""
        return len(self._waiting)

    def is_gathering(self, wish: Wish, now: float) -> bool:
        """Tell whether ``wish`` could be asked for now, but others that come may be with it."""
        if wish.outcome is not None or wish.is_under_way or not self.is_combining(wish):
            return False
        return self._tells is not None and not self._is_full() and self._may_start(now)

    def delay(self, wish: Wish, now: float) -> float | None:
        """Give the seconds after which ``wish`` may be taken; ``None`` if it is woken when something has changed."""
        is_next = next(iter(self._waiting), None) is wish
        return max(self._paused_until - now, 0.0) if is_next and self._is_in_time() else None

    def take(self, wish: Wish, now: float) -> list[Wish]:
        """Give what is to be asked for in one request, now, ``wish`` among it; nothing if it is to wait."""
        if wish.is_under_way or wish.outcome is not None:
            return []
        batch = [wish]
        if self.is_combining(wish):
            if not self._may_start(now):
                return []
            if self._tells is not None:
                batch = self._together(wish)
            self._paused_until = now + _PAUSE_SECONDS
        for one in batch:
            one.is_under_way = True
            self._waiting.pop(one, None)
        self._under_way += 1
        self._go_on()
        return batch

    def serve(self, batch: list[Wish], token: str, granted: Scopes | None) -> list[Wish]:
        """Settle the wishes that ``token`` is good for, and give them; what it is ``granted`` may not be known."""
        if len(batch) == 1:
            self._tells = granted is not None
            served = batch
        else:
            served = [one for one in batch if (one.may_share if granted is None else covers(granted, one.need))]
        for one in served:
            self._settle(one, token)
        self._apart([one for one in batch if one not in served], in_vain=not served)
        return served

    def fail(self, batch: list[Wish], error: LadingError) -> None:
        """Settle the wishes with ``error``, unless its reason may be that they were asked for together."""
        if self._tells is None:
            self._tells = False  # the others needn't wait for somebody who is luckier
        if len(batch) == 1 or isinstance(error, TransportError | RateLimited):
            for one in batch:
                self._settle(one, error if one is batch[0] else error.again())
            batch = []
        self._apart(batch, in_vain=bool(batch))

    def put_back(self, batch: list[Wish]) -> None:
        """Let wishes wait again, before those that came later: who asked for them was cancelled."""
        for one in batch:
            one.is_under_way = False
        first = [one for one in batch if one.users and not one.is_alone]
        self._waiting = dict.fromkeys([*first, *self._waiting])
        self._end(batch)

    def strike(self) -> None:
        """Take note of a request that had better been made apart."""
        self._strikes += 1
        self._release()

    def _apart(self, batch: list[Wish], *, in_vain: bool) -> None:
        """Let each of ``batch``, the rest of a request, be asked for alone."""
        self._strikes += in_vain
        for one in batch:
            one.is_under_way, one.is_alone = False, True
        self._end(batch)

    def _end(self, batch: list[Wish]) -> None:
        """End a request; ``batch`` is what hasn't come of it."""
        self._under_way -= 1
        for one in batch:
            one.wake()
        self._release()
        self._go_on()

    def _release(self) -> None:
        """Wake those that needn't wait for each other any more."""
        for one in self._waiting:
            if not self.is_combining(one):
                one.wake()

    def _settle(self, wish: Wish, outcome: str | LadingError) -> None:
        wish.outcome = outcome
        self._forget(wish)
        wish.wake()

    def _forget(self, wish: Wish) -> None:
        key = (wish.need, wish.may_share)
        if self._wishes.get(key) is wish:
            del self._wishes[key]
        self._waiting.pop(wish, None)

    def _is_full(self) -> bool:
        return len(self._waiting) >= _MOST_TOGETHER

    def _is_in_time(self) -> bool:
        """Tell whether one more request would be worth it, or else those that are under way are to be waited for."""
        if self._tells is None:
            return not self._under_way
        return self._under_way < _AT_ONCE or self._is_full()

    def _may_start(self, now: float) -> bool:
        return self._is_in_time() and (now >= self._paused_until or self._is_full())

    def _go_on(self) -> None:
        """Wake the next in line, if there is something to do for it."""
        if self._waiting and self._is_in_time():
            next(iter(self._waiting)).wake()

    def _together(self, wish: Wish) -> list[Wish]:
        """Give ``wish`` and those that wait, in order, as many as one request may hold."""
        batch, length = [wish], sum(map(len, wish.need))
        for other in self._waiting:
            if other is wish or not self.is_combining(other):
                continue
            length += sum(map(len, other.need))
            if len(batch) == _MOST_TOGETHER or length > _MOST_CHARACTERS:
                break
            batch.append(other)
        return batch


def told_scopes(token: str) -> Scopes | None:
    """Give what a token says that it is good for; ``None`` if it doesn't (distribution, "Token Authentication": a JSON
    Web Token whose claim ``access`` lists it). Nobody is believed here for more than the registry believes.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = parse_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    if not isinstance(claims, dict) or "access" not in claims:
        return None
    granted = []
    for entry in claims["access"] if isinstance(claims["access"], list) else ():
        fields = entry if isinstance(entry, dict) else {}
        kind, name, actions = fields.get("type"), fields.get("name"), fields.get("actions")
        if isinstance(kind, str) and isinstance(name, str) and isinstance(actions, list):
            granted.append(f"{kind}:{name}:{','.join(one for one in actions if isinstance(one, str))}")
    return merge_scopes(granted)
