"""What a server says of its limits: when to come back, how many requests are left; and the pauses that follow from it.

What a header says is a stranger's word: garbage is as good as nothing, and digits are ASCII and few.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from lading.errors import RateLimited
from lading.events import RateLimit
from lading.http.transport import Headers, Origin

_SECONDS = re.compile(r"[0-9]{1,9}")
"""RFC 9110, section 10.2.3: delay-seconds = 1*DIGIT."""

_QUOTA = re.compile(r"([0-9]{1,9})(?:[ \t]*;[ \t]*w=([0-9]{1,9}))?(?:[ \t]*[;,].*)?")
"""draft-ietf-httpapi-ratelimit-headers-03, section 3: a number, and perhaps its window in seconds (``100;w=21600``)."""

_FAMILIES = ("RateLimit", "X-RateLimit")
"""What Docker Hub says, and what was usual before."""

_DATE_LIMIT = 64
"""Characters of a date at most; the longest that HTTP knows has 33."""


async def sleep(seconds: float) -> None:
    """Sleep on whichever event loop runs: what only names a policy needn't import one."""
    import anyio

    await anyio.sleep(seconds)


def retry_after(headers: Headers) -> float | None:
    """Give the seconds that ``Retry-After`` asks to wait (RFC 9110, section 10.2.3), ``None`` for none or garbage.

    They are never negative, and as many as a server cares to say. A moment is compared with the ``Date`` of the same
    answer, if it has one: the two clocks needn't agree.
    """
    value = (headers.get("Retry-After") or "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = _moment(value)
    if until is None:
        return None
    return max(0.0, (until - (_moment(headers.get("Date") or "") or datetime.now(UTC))).total_seconds())


def rate_limit(host: str, headers: Headers) -> RateLimit | None:
    """Give what an answer of ``host`` says of its rate limit; ``None`` if it doesn't say how many requests are left.

    Read are ``RateLimit-Limit: 100;w=21600`` and ``RateLimit-Remaining: 76;w=21600``, the same as ``X-RateLimit-…``
    and as plain numbers, and ``RateLimit: limit=100, remaining=50, reset=30``. A ``reset`` isn't a window.
    """
    for family in _FAMILIES:
        remaining, window = _quota(headers.get(f"{family}-Remaining"))
        if remaining is not None:
            limit, own_window = _quota(headers.get(f"{family}-Limit"))
            return RateLimit(host, remaining, limit, window if own_window is None else own_window)
    # draft-ietf-httpapi-ratelimit-headers-07, section 3: all of it in one dictionary.
    said: dict[str, str] = {}
    for part in (headers.get("RateLimit") or "").split(","):
        key, _, value = part.partition("=")
        said[key.strip()] = value.strip()
    remaining, window = _quota(said.get("remaining"))
    return None if remaining is None else RateLimit(host, remaining, _quota(said.get("limit"))[0], window)


class StillPaused(RateLimited):
    """An origin asked for a pause that would last too long: nothing was sent."""


class Pauses:
    """The pauses that servers asked for: one an origin, shared by all the requests of a client."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[object]] = sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._ends: dict[Origin, float] = {}

    def pause(self, origin: Origin, seconds: float) -> None:
        """Let nobody send anything to ``origin`` for ``seconds`` from now on. A longer pause stays as it is."""
        now = self._clock()
        # Who paused once may never be asked again.
        self._ends = {one: end for one, end in self._ends.items() if end > now}
        end = now + seconds
        if end > self._ends.get(origin, now):
            self._ends[origin] = end

    def remaining(self, origin: Origin) -> float:
        """Give the seconds that are left of the pause of ``origin``, 0 if there is none."""
        end = self._ends.get(origin)
        return 0.0 if end is None else max(0.0, end - self._clock())

    async def wait(self, origin: Origin, until: float | None = None) -> None:
        """Return when ``origin`` isn't paused any more: without an await if it isn't now.

        Args:
            until: a time of the monotonic clock beyond which waiting would be in vain.

        Raises:
            RateLimited: the pause lasts longer than that; or it was extended, and does now. Raised at once.
        """
        # Again and again: who wakes up may find that another answer has extended the pause meanwhile.
        while (seconds := self.remaining(origin)) > 0:
            if until is not None and self._clock() + seconds > until:
                url = f"{origin.scheme}://{f'[{origin.host}]' if ':' in origin.host else origin.host}:{origin.port}/"
                raise StillPaused(
                    f"{url} asked to wait for another {seconds:.3g} s, which is too long: nothing was sent",
                    url=url,
                    hint="try again later, or sign in for a higher limit",
                    retry_after=seconds,
                )
            await self._sleep(seconds)


def _moment(text: str) -> datetime | None:
    """Read an HTTP date (RFC 9110, section 5.6.7), or one that only a mail may have."""
    if len(text) > _DATE_LIMIT:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _quota(text: str | None) -> tuple[int | None, float | None]:
    """Give a number of requests and its window in seconds, ``None`` for what isn't said, or isn't a number."""
    match = None if text is None else _QUOTA.fullmatch(text.strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] is None else float(match[2])
