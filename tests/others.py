"""Other users of this machine."""

from __future__ import annotations

from pathlib import Path


def open_to_others(directory: Path) -> None:
    """Let others read a directory of a test, and get to it: those above it, however many, are closed to them."""
    for one in (directory, *directory.parents):
        if one.stat().st_mode & 0o055 != 0o055:
            one.chmod(0o755)
