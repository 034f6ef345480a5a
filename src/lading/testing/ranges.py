"""Byte ranges of a representation: RFC 9110, section 14. Which part is asked for; nothing is read here.

One range at a time: several in one request are ignored, as section 14.2 allows, and so is what isn't a range.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Part = tuple[int, int]
"""The bytes from the first number to the one before the second."""

# RFC 9110, section 14.1.1: range-set = range-unit "=" 1#( first-pos "-" [ last-pos ] / "-" suffix-length ). Units are
# case-insensitive; more digits than any size has would only cost time.
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,30})-([0-9]{0,30})|-([0-9]{1,30}))[ \t]*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """A range that has no byte of the representation in it."""


def asked_part(headers: Mapping[str, str], size: int, etag: str) -> Part | None:
    """Return the part that a GET asks for, None for the whole; raise `Unsatisfiable`.

    The validator of `If-Range` must be the entity tag itself (section 13.1.5): dates and weak tags never match.
    """
    condition = headers.get("If-Range")
    if condition is not None and condition.strip() != etag:
        return None
    found = _RANGE.fullmatch(headers.get("Range", "").strip())
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        return _satisfiable(max(size - int(suffix), 0), size, size)
    if last and int(last) < int(first):  # section 14.1.1: invalid, so it is as if there were none
        return None
    return _satisfiable(int(first), int(last) + 1 if last else size, size)


def content_range(part: Part, size: int) -> str:
    """Return the `Content-Range` of a part (section 14.4)."""
    return f"bytes {part[0]}-{part[1] - 1}/{size}"


def unsatisfied_range(size: int) -> str:
    """Return the `Content-Range` of a 416 (section 14.4)."""
    return f"bytes */{size}"


def _satisfiable(start: int, stop: int, size: int) -> Part:
    if start >= size:
        raise Unsatisfiable
    return start, min(stop, size)
