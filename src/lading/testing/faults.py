"""What can go wrong on the way from a registry, as values, and the schedule that says when.

A fault is data: `sabotage` acts on it. Positions are bytes of the body that would have been sent, a range's body from
its own beginning; a body that ends at a position or before isn't cut there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (RST) after `after` bytes of the body; None: before the head, with nothing done."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed (FIN) after `after` bytes of the body; None: before the head, with nothing done."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """After `after` bytes of the body (None: before the head) no byte follows until the client or the registry ends."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """What was asked for is done, and the connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class ExpiredToken:
    """The connection is closed after `after` bytes; the next request for a range of the same thing is refused.

    With 401, as if a token had expired meanwhile: see `TokenRefused`.
    """

    after: int
    realm: str = ""


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """401 with a Bearer challenge that says invalid_token; `realm` "" is /token on the registry's own origin."""

    realm: str = ""


@dataclass(frozen=True, slots=True)
class ShortBody:
    """The last `by` bytes are missing, and the Content-Length is that of what comes."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class LongBody:
    """`by` zero bytes follow, and the Content-Length counts them."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class WrongContentLength:
    """The Content-Length is wrong by `delta`: whatever it says the body is sent, then the connection closed."""

    delta: int


@dataclass(frozen=True, slots=True)
class Framing:
    """The body has no length: it ends with the last chunk, or ("close") with the connection."""

    by: Literal["chunked", "close"]


@dataclass(frozen=True, slots=True)
class WrongBytes:
    """The byte at `at` is another one."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class Drip:
    """The body comes in pieces of `chunk` bytes, with `seconds` after each."""

    chunk: int = 1
    seconds: float = 0.01


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bodies come at this rate; a connection carries one at a time, so that it is the connection's."""

    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Latency:
    """The answer begins after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """Answered with the status `code`; nothing is done.

    `retry_after`: seconds, a moment (an HTTP date), a while from now (an HTTP date too), or any text as it stands.
    """

    code: int
    retry_after: int | str | datetime | timedelta | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sent elsewhere: to the URL `to`, or with `loop` round in a circle on this registry, which has no way out."""

    to: str = ""
    loop: bool = False
    status: int = 307


@dataclass(frozen=True, slots=True)
class ETagChanged:
    """The entity tag of the answer is another one, so that `If-Range` with the true one is answered whole."""

    etag: str = '"changed"'


@dataclass(frozen=True, slots=True)
class RangeIgnored:
    """A request for a range is answered 200, from the start."""


@dataclass(frozen=True, slots=True)
class RangeWrong:
    """A request for a range is answered with another one, `offset_delta` bytes further on (or back, below zero).

    The Content-Range tells; unless `honest`, it claims to be what was asked for.
    """

    offset_delta: int
    honest: bool = True


@dataclass(frozen=True, slots=True)
class RangeUnasked:
    """A request without a range is answered 206, with the first `size` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The Content-Range of a 206 is this text, None: there is none. It may use {first}, {last} and {complete}."""

    text: str | None = None


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A request for a range is answered 416; `complete` is the size that it claims, None for the true one."""

    complete: int | None = None


Fault = (
    Reset
    | Close
    | Stall
    | AnswerLost
    | ExpiredToken
    | TokenRefused
    | ShortBody
    | LongBody
    | WrongContentLength
    | Framing
    | WrongBytes
    | Drip
    | Bandwidth
    | Latency
    | Status
    | Redirect
    | ETagChanged
    | RangeIgnored
    | RangeWrong
    | RangeUnasked
    | ContentRange
    | Unsatisfiable
)

FAULTS: tuple[type[Fault], ...] = get_args(Fault)
"""Every kind of fault."""


def needs_range(faults: tuple[Fault, ...]) -> bool | None:
    """Tell which requests faults make sense for: those for a range, those for no range (False), or any (None)."""
    if any(isinstance(fault, RangeUnasked) for fault in faults):
        return False
    if any(isinstance(fault, RangeIgnored | RangeWrong | ContentRange | Unsatisfiable) for fault in faults):
        return True
    return None
