"""Inputs like the usual ones, and wrong: cut, doubled, mixed, with the signs of the grammar where they don't belong.

What ends in a JSON document is changed as that, too: still one, and no longer what it should be.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

_CHANGES = 4
"""Changes of one input at most."""

_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        2**63,
        1e300,
        -0.0,
        "",
        "a",
        "\x00",
        "\u202e",
        "\ud800",
        "../x",
        [],
        {},
        [[]],
        [{}],
    ),
    *({"": None}, "sha256:" + "a" * 64, "sha512:" + "a" * 128, "application/json", "linux", "e30=", "x" * 300, ["a"]),
)


def mutations(dice: random.Random, samples: Sequence[bytes], words: Sequence[bytes]) -> Iterator[bytes]:
    """Give wrong inputs without end."""
    while True:
        raw = dice.choice(samples) if dice.random() < 0.8 else b"".join(dice.choices(words, k=dice.randrange(1, 12)))
        yield changed(dice, raw, samples, words)


def changed(dice: random.Random, raw: bytes, samples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Give ``raw`` with a few changes."""
    for _ in range(dice.randrange(1, _CHANGES + 1)):
        document = _document_changed(dice, raw) if dice.random() < 0.5 else None
        raw = _bytes_changed(dice, raw, samples, words) if document is None else document
    return raw


def _document_changed(dice: random.Random, raw: bytes) -> bytes | None:
    """Change the JSON document that ``raw`` ends with; ``None`` where there is none."""
    start = min((place for sign in (b"{", b"[") if (place := raw.find(sign)) >= 0), default=-1)
    if start < 0:
        return None
    try:
        document = json.loads(raw[start:])
    except (ValueError, RecursionError):
        return None
    places = list(_places(document))
    if not places:
        return None
    inside, key = dice.choice(places)
    match dice.randrange(5):
        case 0:
            del inside[key]
        case 1:
            other, name = dice.choice(places)
            inside[key] = json.loads(json.dumps(other[name]))
        case 2 if isinstance(inside, dict):
            inside[dice.choice((*inside, "", "a", key + "s"))] = inside.pop(key)
        case _:
            inside[key] = dice.choice(_VALUES)
    return raw[:start] + json.dumps(document).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Give every place in a document: what it is in, and its key there."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _bytes_changed(dice: random.Random, raw: bytes, samples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
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
