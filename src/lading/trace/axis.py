"""The time axis of a drawing, and how times are written. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

_STEPS = (1.0, 2.0, 5.0)


def ticks(seconds: float, most: int) -> Iterator[tuple[float, str]]:
    """Give about ``most`` round times from 0 to ``seconds``, in equal steps, and what is written at each.

    The first is written with the unit of all.
    """
    wanted = max(seconds, 1e-6) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next((one * power for one in _STEPS if one * power >= wanted * (1 - 1e-9)), 10 * power)
    is_long = step >= 1.0
    count = math.floor(seconds / step * (1 + 1e-9))
    for number in range(count + 1):
        at = number * step
        unit = (" s" if is_long else " ms") if number == 0 else ""
        yield at, f"{at if is_long else at * 1000:.6g}{unit}"


def duration(seconds: float) -> str:
    """Write how long something took, in eight characters at most: ``12.3 ms``, ``1.23 s``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 1000 else f"{seconds:.0f} s"
