"""The TOML door: TOML 1.0, bounded ahead of the parser of the standard library.

For a key of many parts (``a.b.c``) that one keeps every beginning of it: its memory grows with the square of their
number, and one line of a small file would be enough to use up all there is.
"""

from __future__ import annotations

import tomllib
from typing import Any

_FEW = 32
"""Dots of a line that cost nothing: what is usual."""

_WORK = 10_000_000
"""Squares of the dots of all lines that have more, in sum: a fraction of a second, and some 50 MB."""


def parse_toml(text: str) -> dict[str, Any]:
    """Read one TOML document.

    Raises:
        ValueError: what is wrong with it; of the parser's own error (``tomllib.TOMLDecodeError``) the message may
            quote the document.
    """
    if sum(dots * dots for line in text.split("\n") if (dots := line.count(".")) > _FEW) > _WORK:
        raise ValueError("a key of too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
