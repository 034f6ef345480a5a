"""How parts of a document are shown to people: escaped, without secrets, and what is long as a unified diff.

Everything here takes time in proportion to the text, whatever it is: a document is hostile.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

from lading.agents.definition import Tree
from lading.redact import printable, redact

_SHORT = 100
"""Characters that a value has at most to be shown within a line."""

_BEGINNING = 60
"""Characters of a longer one that are."""

_FEW = 8
"""Items of a list that are named within a line; the others are counted."""

_PIECE = 1_500
"""Characters of a line that are looked at together: less than what :func:`redact` cuts off."""

_CONTEXT = 3
"""Lines around a difference that are shown with it."""

_ROUNDS = 12
"""How often the gaps between matching lines are searched for more of them."""

_WORDS = re.compile(r"\S+|\s+")
_PLACEHOLDER = re.compile(r"(?:(?:Bearer|Basic|Token|token) )?\$(?:\{[A-Za-z0-9_.]{1,100}\}|[A-Za-z0-9_]{1,100})")
_FLAG = re.compile(r"(?:true|false|yes|no|on|off|-?[0-9]{1,4})", re.ASCII | re.IGNORECASE)


def fit(line: str) -> str:
    """Give a line fit to be shown, at any length: a piece at a time, cut between words. A word is bounded."""
    pieces: list[list[str]] = [[]]
    length = 0
    for word in _WORDS.findall(line):
        # What proves an identity stays with the word that says so.
        is_proof = any(before.lower().endswith(("basic", "bearer")) for before in pieces[-1][-2:])
        if length + len(word) > _PIECE and not is_proof:
            pieces.append([])
            length = 0
        pieces[-1].append(word)
        length += len(word)
    return "".join(redact("".join(piece)) for piece in pieces)


def is_short(text: str) -> bool:
    """Tell whether a text can be shown within a line."""
    return len(text) <= _SHORT and "\n" not in text


def shown(value: Tree) -> str:
    """Give a value within a line: text, or how it begins; of all else what it is."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return redact(value) if is_short(value) else f"{redact(value)[:_BEGINNING]}…"
    if not isinstance(value, tuple):
        return "a mapping" if value else "an empty mapping"
    return listing(shown(item) for item in value) if value else "an empty list"


def listing(items: Iterable[str]) -> str:
    """Give a few items, and how many more there are."""
    every = list(items)
    rest = len(every) - _FEW
    return ", ".join(every[:_FEW]) + (f" and {rest} more" if rest > 0 else "")


def code(text: str) -> str:
    """Give a command, or how it begins, quoted."""
    return f"`{shown(text)}`"


def without_secrets(value: Tree) -> str | None:
    """Give a value where secrets are kept, if it certainly is none: a placeholder, a number, true or false."""
    if isinstance(value, str) and (_PLACEHOLDER.fullmatch(value) or _FLAG.fullmatch(value)):
        return printable(value)
    return None


def text_diff(old: str, new: str) -> tuple[str, ...]:
    """Give the lines of a unified diff, fit to be shown."""
    # Who sees that a text is another needn't see whether its last line ends, unless that is all.
    ends = [one.removesuffix("\n") for one in (old, new)]
    before, after = (one.split("\n") if one else [] for one in (ends if ends[0] != ends[1] else (old, new)))
    return tuple(_hunks(list(_lines(before, after))))


_Line = tuple[str, str]
"""A mark (space, minus or plus) and the text."""


def _lines(before: list[str], after: list[str]) -> Iterator[_Line]:
    """Give all lines of both, those that match once."""
    i = j = 0
    for a, b in [*_matching(before, after), (len(before), len(after))]:
        yield from (("-", line) for line in before[i:a])
        yield from (("+", line) for line in after[j:b])
        if a < len(before):
            yield " ", before[a]
        i, j = a + 1, b + 1


def _matching(before: list[str], after: list[str]) -> list[tuple[int, int]]:
    """Match lines by the patience method: those that both have once, in order, are fixed; then what is between.

    Unlike the longest common subsequence, this takes no more than n log n for each of a few rounds.
    """
    found: list[tuple[int, int]] = []
    gaps = [(0, len(before), 0, len(after))]
    for _ in range(_ROUNDS):
        narrower = []
        for gap in gaps:
            a, b, c, d = _trim(before, after, gap, found)
            fixed = _unique(before, after, (a, b, c, d))
            found += fixed
            edges = [(a - 1, c - 1), *fixed, (b, d)]
            if fixed:
                narrower += [
                    (start + 1, end, other + 1, last)
                    for (start, other), (end, last) in pairwise(edges)
                    if start + 1 < end and other + 1 < last
                ]
        gaps = narrower
        if not gaps:
            break
    return sorted(found)


def _trim(
    before: list[str], after: list[str], gap: tuple[int, int, int, int], found: list[tuple[int, int]]
) -> tuple[int, int, int, int]:
    """Match the lines at both ends of a gap, and give what is left of it."""
    a, b, c, d = gap
    while a < b and c < d and before[a] == after[c]:
        found.append((a, c))
        a, c = a + 1, c + 1
    while a < b and c < d and before[b - 1] == after[d - 1]:
        b, d = b - 1, d - 1
        found.append((b, d))
    return a, b, c, d


def _unique(before: list[str], after: list[str], gap: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """Give the longest increasing run of lines that occur once in each side of a gap."""
    a, b, c, d = gap
    ours, theirs = _once(before, a, b), _once(after, c, d)
    pairs = [(index, theirs[line]) for line, index in ours.items() if line in theirs]
    tails: list[int] = []
    heads: list[int] = []
    back: list[int] = []
    for number, (_, j) in enumerate(pairs):
        at = bisect_left(tails, j)
        back.append(heads[at - 1] if at else -1)
        tails[at : at + 1] = [j]
        heads[at : at + 1] = [number]
    run = []
    number = heads[-1] if heads else -1
    while number >= 0:
        run.append(pairs[number])
        number = back[number]
    return run[::-1]


def _once(lines: list[str], start: int, end: int) -> dict[str, int]:
    seen: dict[str, int] = {}
    for index in range(start, end):
        seen[lines[index]] = -1 if lines[index] in seen else index
    return {line: index for line, index in seen.items() if index >= 0}


def _hunks(lines: list[_Line]) -> Iterator[str]:
    """Give the lines near a difference, each run of them under where it is."""
    near = bytearray(len(lines))
    for index, (mark, _) in enumerate(lines):
        if mark != " ":
            start, end = max(0, index - _CONTEXT), min(len(lines), index + _CONTEXT + 1)
            near[start:end] = b"\1" * (end - start)
    a = c = 1
    index = 0
    while index < len(lines):
        if not near[index]:
            index, a, c = index + 1, a + 1, c + 1
            continue
        end = near.find(0, index)
        end = end if end >= 0 else len(lines)
        hunk = lines[index:end]
        gone, come = sum(mark != "+" for mark, _ in hunk), sum(mark != "-" for mark, _ in hunk)
        if len(lines) > len(hunk):
            yield f"@@ -{a},{gone} +{c},{come} @@"
        yield from (mark + fit(line) for mark, line in hunk)
        index, a, c = end, a + gone, c + come
