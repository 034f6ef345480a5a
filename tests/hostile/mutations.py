"""Inputs like the usual ones, and wrong: cut, doubled, mixed, with the signs of the grammar where they don't belong."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_CHANGES = 4
"""Changes of one input at most."""


def mutations(dice: random.Random, samples: Sequence[bytes], words: Sequence[bytes]) -> Iterator[bytes]:
    """Give wrong inputs without end."""
    while True:
        raw = dice.choice(samples) if dice.random() < 0.8 else b"".join(dice.choices(words, k=dice.randrange(1, 12)))
        for _ in range(dice.randrange(1, _CHANGES + 1)):
            raw = _changed(dice, raw, samples, words)
        yield raw


def _changed(dice: random.Random, raw: bytes, samples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    start = dice.randrange(len(raw) + 1)
    stop = min(len(raw), start + dice.choice((1, 1, 2, 4, 16, len(raw) or 1)))
    match dice.randrange(8):
        case 0:
            new = b""
        case 1:
            new = raw[start:stop] * dice.choice((2, 3, 17))
        case 2:
            new = dice.choice(words)
        case 3:
            new = dice.choice(words) + raw[start:stop] + dice.choice(words)
        case 4:
            other = dice.choice(samples)
            new = other[dice.randrange(len(other) + 1) :][: dice.randrange(1, 64)]
        case 5:
            new = bytes([dice.randrange(256)])
        case 6:
            new = raw[start:stop][::-1]
        case _:
            new = dice.choice(("0", "-1", "9" * 20, "1e400", "\u0661", "\ud7ff", "\u202e", "\x00")).encode()
    return raw[:start] + new + raw[stop:]
