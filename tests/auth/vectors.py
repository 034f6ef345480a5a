"""Whole files of the shared test vectors, for tests that go through several parts of one."""

from __future__ import annotations

import json
from typing import Any

from vectors import DATA


def load(name: str) -> Any:
    """Read a file of vectors; ``None`` if it isn't here."""
    path = DATA / "vectors" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
