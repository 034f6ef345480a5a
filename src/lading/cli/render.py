"""What people see: errors and results as text. Nothing foreign reaches a terminal unescaped."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from lading.agents.agent import Agent
from lading.errors import LadingError
from lading.oci.digest import Digest
from lading.pull.policy import span
from lading.redact import printable, redact

ORIGINS = {
    "registry": "fetched",
    "revalidated": "unchanged",
    "pinned": "cached under its digest",
    "fresh": "cached, confirmed recently",
    "stale": "cached; the registry failed",
}
"""What an agent's origin is called, for people."""


def render_error(error: LadingError) -> None:
    """Write what failed, and what the user can do, to standard error."""
    say(f"lading: error: {error.message}")
    if error.hint:
        say(f"  hint: {error.hint}")


def say(message: str) -> None:
    """Write a message for people to standard error."""
    print(message, file=sys.stderr)


def print_json(result: Mapping[str, object]) -> None:
    """Write one result as a line of JSON to standard output."""
    print(json.dumps(result))


def agent_fields(agent: Agent) -> dict[str, object]:
    """Give what is said of an agent in JSON, without its content."""
    return {
        "reference": str(agent.reference),
        "digest": agent.digest,
        "origin": agent.origin,
        "stale_reason": agent.stale_reason,
        "age": agent.age if agent.age < math.inf else None,
        "size": len(agent.content),
    }


def print_columns(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to standard output: as wide as it has to be, so that it can be cut and searched."""
    lines = [titles, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fields(title: str, fields: Iterable[tuple[str, object]]) -> None:
    """Write fields under a title to standard output, each on a line of its own; URLs without their secrets."""
    lines = [(printable(name), redact(str(value)).strip()) for name, value in fields if value is not None]
    width = max((len(name) for name, _ in lines), default=0)
    print(title)
    for name, value in lines:
        print(f"  {name.ljust(width)}  {value}".rstrip())


def short_digest(digest: Digest) -> str:
    """Give as much of a digest as people compare."""
    return f"{digest.algorithm}:{digest.encoded[:12]}"


def can_show(text: str, stream: TextIO | None = None) -> bool:
    """Tell whether ``stream``, by default standard output, has these characters."""
    try:
        text.encode((stream or sys.stdout).encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def ago(seconds: float) -> str:
    """Give an age as people say it."""
    return "just now" if seconds < 1 else f"{span(seconds)} ago"
