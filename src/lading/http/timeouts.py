"""How long the other side may take, before that counts as a failure."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which something is :class:`~lading.errors.TimedOut`; ``math.inf`` means never.

    ``connect``: no connection, with DNS, proxy and TLS. ``first_byte``: no answer's head since the request was sent.
    ``stall``: no byte of a body. ``minimum_rate`` is how many bytes per second a body has to bring on average over
    each ``rate_window``; what the receiver takes to write them down doesn't count.

    Raises:
        ValueError: one isn't a number above 0.
    """

    connect: float = 15.0
    first_byte: float = 30.0
    stall: float = 30.0
    minimum_rate: float = 1024.0
    rate_window: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 and not (field.name == "minimum_rate" and value == 0):
                raise ValueError(f"{field.name} must be above 0, not {value!r}")

    def head(self, body: int) -> float | None:
        """Give how long a head may take in all, for a request with a body of this many bytes; ``None``: for ever."""
        sending = body / self.minimum_rate if self.minimum_rate else math.inf if body else 0.0
        return finite(self.connect + self.first_byte + sending)


def finite(seconds: float) -> float | None:
    """Give ``seconds`` as aiohttp and asyncio want them: ``None`` for never."""
    return None if math.isinf(seconds) else seconds
