"""What a client tells while it works: frozen events, and the protocol of who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request got an answer's head (or failed: ``status`` is 0). ``seconds`` is how long that took.

    ``url`` has lost its user information and query. ``error`` is the name of the error's class, if no answer came.
    ``number`` counts a client's requests from 1: what else is told of this one has it, too. ``registry`` is whose
    content was asked for, also where the URL is a mirror's or a storage's; empty if it was a token.
    """

    method: str
    url: str
    status: int
    seconds: float
    error: str = ""
    number: int = 0
    registry: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionStep:
    """A step towards a connection has ended, for the request ``number``; it took ``seconds``.

    The steps of a request come before its ``RequestSent``, in this order, and again for each address that is tried.
    Over a connection that was open already, there are none. ``stage`` is one of

    - ``dns``: the name of ``endpoint`` was looked up, which takes no time if it was a moment ago;
    - ``connect``: TCP, or a Unix socket; ``endpoint`` is ``host:port`` or a path, of the proxy if there is one;
    - ``tunnel``: a proxy was asked for the way to ``endpoint``;
    - ``tls``: the handshake with ``endpoint``.

    ``error`` is the name of the error's class, where it failed.
    """

    number: int
    stage: Literal["dns", "connect", "tunnel", "tls"]
    endpoint: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class BodyReceived:
    """The body of the answer to the request ``number`` was left, after ``received`` bytes of it had come.

    ``seconds`` is from its head to its end; to where it was left, if ``is_whole`` is false. Not told if it was empty.
    """

    number: int
    method: str
    url: str
    received: int
    seconds: float
    is_whole: bool


@dataclass(frozen=True, slots=True)
class FallingBack:
    """``endpoint`` fails for ``reason`` and is left alone for ``seconds``.

    ``kind`` is ``proxy``: the proxy socket that was found on this machine, without which requests go directly; or
    ``mirror``: the next one is asked, in the end the registry itself. (That a cached copy stands in, ``Pulled`` tells.)
    """

    kind: Literal["proxy", "mirror"]
    endpoint: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CacheChecked:
    """The store was asked for ``reference``. If ``asks`` is false, what was found is the answer.

    Else the registry is asked: whether it is still right if it is ``intact``, else for all of it.
    """

    reference: str
    found: Literal["intact", "damaged", "absent"]
    asks: bool


@dataclass(frozen=True, slots=True)
class Pulling:
    """``pull_agent`` begins; what is told next in its task, and in those that it begins, is for this reference."""

    reference: str


@dataclass(frozen=True, slots=True)
class PullFailed:
    """``pull_agent`` gave no agent out: ``error`` is the name of the error's class, ``reason`` its message.

    A pull that is cancelled ends so, too.
    """

    reference: str
    error: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Pulled:
    """``pull_agent`` gave an agent out. ``origin`` and ``seconds`` tell where from and how long it took."""

    reference: str
    digest: str
    origin: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Retrying:
    """A request failed for ``reason`` and is sent again after ``delay`` seconds; ``attempt`` counts from 1."""

    method: str
    url: str
    reason: str
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What ``host`` says of its rate limit: ``remaining`` of ``limit`` requests in ``window`` seconds.

    ``limit`` and ``window`` are ``None`` where the registry doesn't say.
    """

    host: str
    remaining: int
    limit: int | None = None
    window: float | None = None


@dataclass(frozen=True, slots=True)
class BlobExpected:
    """The blob ``digest`` of ``reference``, ``size`` bytes, is to be moved: told as soon as its manifest is known."""

    reference: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class BlobProgress:
    """``received`` of ``size`` bytes of the blob ``digest`` of ``reference`` are here; told ten times a second.

    Of a large blob that is pulled, the first that is told is how much of it was here before, and the last is all of it,
    once that is verified. Of one that is pushed to ``reference``, the bytes are those that are there: none at first, or
    all at once, if the registry has it.
    """

    reference: str
    digest: str
    received: int
    size: int


Event = (
    RequestSent
    | ConnectionStep
    | BodyReceived
    | FallingBack
    | CacheChecked
    | Pulling
    | Pulled
    | PullFailed
    | Retrying
    | RateLimit
    | BlobExpected
    | BlobProgress
)


class Listener(Protocol):
    """Called with each event, on the event loop, synchronously: it must return at once. What it raises is logged."""

    def __call__(self, event: Event, /) -> None: ...


def tell(listener: Listener | None, event: Event) -> None:
    """Tell ``listener`` of ``event``, if there is one. A listener that fails doesn't fail what it listens to."""
    if listener is None:
        return
    try:
        listener(event)
    except Exception:
        import logging

        logging.getLogger("lading").exception("the listener failed at %r", event)
