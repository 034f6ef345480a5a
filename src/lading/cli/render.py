"""What people see: errors and results as text. Nothing foreign reaches a terminal unescaped."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from lading.errors import LadingError


def render_error(error: LadingError) -> None:
    """Write what failed, and what the user can do, to standard error."""
    print(f"lading: error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def say(message: str) -> None:
    """Write a message for people to standard error."""
    print(message, file=sys.stderr)


def print_json(result: Mapping[str, object]) -> None:
    """Write one result as a line of JSON to standard output."""
    print(json.dumps(result))
