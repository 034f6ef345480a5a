"""Whether what was written is right, by digests that the seed gave and nothing of what is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_PIECE = 4 * 1024 * 1024


def file_digest(path: Path) -> str:
    """Give the digest of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def right_files(paths: Iterable[Path], digests: Iterable[str]) -> int:
    """Count how many of ``digests`` are those of a file."""
    found = {file_digest(path) for path in paths if path.is_file()}
    return len(found & set(digests))


def files_below(directory: Path) -> list[Path]:
    """Give the files in a directory and below it."""
    return [path for path in directory.rglob("*") if path.is_file()]
