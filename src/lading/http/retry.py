"""The retry ring: outermost. It sends again what may well succeed, while the operation has patience left.

It ends at the head of an answer: whoever reads a body asks :class:`Attempts` whether to go on, and sends a new request.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from lading.errors import (
    LadingError,
    RateLimited,
    RegistryError,
    TimedOut,
    TlsFailed,
    TransportError,
    Unauthorized,
)
from lading.events import Listener, RateLimit, Retrying, tell
from lading.http.limits import Pauses, StillPaused, rate_limit, retry_after, sleep
from lading.http.transport import Origin, Request, Response, Transport, discard
from lading.redact import redact_url

_log = logging.getLogger("lading.http")

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that say something about the moment, and not about the request."""

_LASTING = frozenset({501, 505})
"""RFC 9110, section 15.6: server errors that stay."""

_UNTOUCHED = frozenset({429, 503})
"""Answers of a server that did nothing."""

_REPEATABLE = frozenset({"GET", "HEAD", "PUT"})
"""Methods that mean the same when they are sent twice (RFC 9110, section 9.2.2). DELETE does, too, but what its second
answer says isn't what its first one said.
"""

_MOST_DOUBLINGS = 60
"""What is more than that is longer than anybody waits, or too large a number."""

_MOST_LIMITS = 1024
"""Hosts whose rate limits are remembered."""

_LONG_SECONDS = 2.0
"""Waiting for longer than this is worth a warning: somebody may wonder."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is; times are in seconds.

    Args:
        attempts: how often one request is sent at most, the first time included. While bytes of a body have come, an
            outage isn't counted but timed: as long as no request gets an answer, the budget alone ends it.
        first_delay: before the second time; doubled each time. A delay is random, between 0 and that ("full jitter").
        longest_delay: up to which it is doubled.
        longest_pause: up to which a server's ``Retry-After`` is believed.
        budget: after which an operation begins no further attempt, counted from its beginning or the last progress.

    Raises:
        ValueError: fewer than one attempt, or a time that isn't one.
    """

    attempts: int = 4
    first_delay: float = 0.2
    longest_delay: float = 10.0
    longest_pause: float = 60.0
    budget: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be at least 1")
        for name in ("first_delay", "longest_delay", "longest_pause"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of seconds, not {getattr(self, name)!r}")
        if not self.budget >= 0:
            raise ValueError(f"budget must be a number of seconds, not {self.budget!r}")

    def brief(self) -> Retry:
        """Give the patience for a request whose answer a cached copy can stand in for: two attempts, five seconds."""
        return replace(self, attempts=min(self.attempts, 2), budget=min(self.budget, 5.0))


class Attempts:
    """What is left of one operation's patience. Its requests carry it, and whoever reads their bodies shares it.

    ``deadline`` is the time of the monotonic clock after which no attempt begins.
    """

    def __init__(
        self,
        policy: Retry,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = sleep,
        random: Callable[[], float] = random.random,
        events: Listener | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._events = events
        self._failures = 0
        self._spent = 0
        self._is_under_way = False
        self.deadline = clock() + policy.budget

    @classmethod
    def single(cls) -> Attempts:
        """Give the patience for one attempt, now or never: it doesn't wait for the end of a pause either."""
        return cls(Retry(attempts=1, budget=0.0))

    def delay(
        self, failure: LadingError | None, retry_after: float | None = None, *, is_unanswered: bool = False
    ) -> float | None:
        """Spend an attempt, and give the seconds to wait before the next one; ``None`` is to give up.

        ``failure`` is what went wrong (``None``: an answer whose status is known to pass), ``retry_after`` how many
        seconds the server asked for: that long at least, but no longer than the policy believes. What
        ``is_unanswered`` spends no attempt when bytes have come before: that is an outage, and outages end.
        """
        if failure is not None and not _is_passing(failure):
            return None
        policy = self._policy
        self._failures += 1
        if not (is_unanswered and self._is_under_way):
            self._spent += 1
        if self._spent >= policy.attempts or policy.attempts == 1:
            return None
        doublings = min(self._failures - 1, _MOST_DOUBLINGS)
        seconds = self._random() * min(policy.first_delay * 2.0**doublings, policy.longest_delay)
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, policy.longest_pause))
        return seconds if self._clock() + seconds <= self.deadline else None

    async def again(self, failure: TransportError) -> bool:
        """Wait after a body failed, and tell whether to ask for the rest: not if that won't help, or time is up."""
        delay = self.delay(failure)
        if delay is None:
            return False
        _log.log(_level(delay, failure), "%s: again in %.2f s", failure.message, delay)
        tell(self._events, Retrying("GET", failure.url, failure.message, self._failures, delay))
        await self._sleep(delay)
        return True

    def progress(self) -> None:
        """Take note that bytes arrived: patience is for failures without progress, and starts anew."""
        self._failures = self._spent = 0
        self._is_under_way = True
        self.deadline = self._clock() + self._policy.budget


class RetryTransport:
    """Sends a request again after what may pass, once the time has come.

    A request that does more when it is sent twice is only sent again if it certainly did nothing. What a server asks
    for with 429 holds for every request to that origin.
    """

    def __init__(
        self,
        inner: Transport,
        policy: Retry,
        pauses: Pauses,
        *,
        events: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._pauses = pauses
        self._events = events
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._limits: dict[str, RateLimit] = {}

    def operation(self, policy: Retry | None = None) -> Attempts:
        """Begin an operation: give the patience for its requests, by default as much as this client has."""
        chosen = self._policy if policy is None else policy
        return Attempts(chosen, clock=self._clock, sleep=self._sleep, random=self._random, events=self._events)

    async def send(self, request: Request) -> Response:
        """Send ``request``, and again while that may help; give the last answer's head, whatever its status.

        Raises:
            RateLimited: its origin is paused for longer than the operation has time: nothing was sent.
            TransportError, RegistryError: the last attempt's.
            ProtocolError: an answer isn't allowed.
        """
        origin = Origin.of(request.url)
        attempts = request.attempts
        if attempts is None:
            attempts = self.operation()
            request = replace(request, attempts=attempts)
        attempt = 0
        while True:
            if self._pauses.remaining(origin):
                await self._pauses.wait(origin, attempts.deadline)
            attempt += 1
            try:
                response = await self._inner.send(request)
            except (TransportError, RegistryError) as error:
                delay = self._delay_after_error(request, origin, attempts, error)
                if delay is None:
                    raise
                reason, level = error.message, _level(delay, error)
            else:
                delay = self._delay_after_answer(request, origin, attempts, response)
                if delay is None:
                    return response
                reason, level = self._said(response), _level(delay)
                await discard(response)
            url = redact_url(request.url)
            what = reason if reason.startswith(f"{request.method} ") else f"{request.method} {url}: {reason}"
            _log.log(level, "%s: again in %.2f s (attempt %d)", what, delay, attempt)
            tell(self._events, Retrying(request.method, url, reason, attempt, delay))
            await self._sleep(delay)

    def _delay_after_error(
        self, request: Request, origin: Origin, attempts: Attempts, error: TransportError | RegistryError
    ) -> float | None:
        """Decide what follows when no answer came: the seconds to wait, or ``None`` to raise the error."""
        if not _is_passing(error):
            return None
        if isinstance(error, TransportError):
            may_repeat = _is_repeatable(request) or not error.was_sent
            return self._delay(origin, attempts, 0, None) if may_repeat else None
        # The auth ring raises what the token server answered.
        if not _is_repeatable(request) and error.status not in _UNTOUCHED:
            return None
        after = error.retry_after if isinstance(error, RateLimited) else None
        return self._delay(origin, attempts, error.status, after)

    def _delay_after_answer(
        self, request: Request, origin: Origin, attempts: Attempts, response: Response
    ) -> float | None:
        """Decide what follows an answer: the seconds to wait before the next try, or ``None`` to give it back."""
        if self._events is not None:
            self._tell_limit(response)
        status = response.status
        if status not in _PASSING or not (_is_repeatable(request) or status in _UNTOUCHED):
            return None
        return self._delay(origin, attempts, status, retry_after(response.headers))

    def _delay(self, origin: Origin, attempts: Attempts, status: int, after: float | None) -> float | None:
        if status == 429 and after is not None:
            # Also if this very request gives up.
            self._pauses.pause(origin, min(after, self._policy.longest_pause))
        delay = attempts.delay(None, after, is_unanswered=True)
        if delay is None:
            return None
        if status == 429 and after is None:
            self._pauses.pause(origin, delay)
        delay = max(delay, self._pauses.remaining(origin))
        return delay if self._clock() + delay <= attempts.deadline else None

    def _said(self, response: Response) -> str:
        """Say what an answer was that has to be asked for again."""
        after = retry_after(response.headers)
        wish = f", and asks to wait {after:.0f} s" if after is not None and after > self._policy.longest_pause else ""
        return f"answered {response.status}{wish}"

    def _tell_limit(self, response: Response) -> None:
        limit = rate_limit(urlsplit(response.url).netloc.lower(), response.headers)
        if limit is None or self._limits.get(limit.host) == limit:
            return
        if len(self._limits) >= _MOST_LIMITS:
            self._limits.clear()
        self._limits[limit.host] = limit
        tell(self._events, limit)


def _is_passing(failure: LadingError) -> bool:
    """Tell whether the same request may well succeed in a moment."""
    if isinstance(failure, RegistryError):
        # A pause that is too long stays too long.
        if isinstance(failure, Unauthorized | StillPaused):
            return False
        return failure.status in _PASSING or (500 <= failure.status < 600 and failure.status not in _LASTING)
    return isinstance(failure, TransportError) and not isinstance(failure, TlsFailed) and not failure.is_final


def _level(delay: float, failure: LadingError | None = None) -> int:
    """Give how loudly to say that something is tried again: louder where it takes a while, or has taken one."""
    return logging.WARNING if delay > _LONG_SECONDS or isinstance(failure, TimedOut) else logging.DEBUG


def _is_repeatable(request: Request) -> bool:
    return request.is_repeatable or request.method in _REPEATABLE
