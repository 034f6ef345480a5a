"""Where the shared test vectors are: ``LADING_SHARED``, or ``shared`` beside the checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("LADING_SHARED") or Path(__file__).parents[2].parent / "shared")


def load(name: str) -> Any:
    """Read a file of vectors; ``None`` if it isn't here."""
    path = SHARED / "vectors" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
