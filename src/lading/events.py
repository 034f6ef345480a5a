"""What a client tells while it works: frozen events, and the protocol of who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request got an answer's head (or failed: ``status`` is 0). ``seconds`` is how long that took.

    ``url`` has lost its user information and query.
    """

    method: str
    url: str
    status: int
    seconds: float


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


Event = RequestSent | Pulling | Pulled | PullFailed | Retrying | RateLimit | BlobExpected | BlobProgress


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
