"""Tests with a short form, for each run, and a long one, on request: ``--torture``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ordeal:
    """How long a test goes on that has a short form, for each run, and a long one, on request."""

    is_long: bool
    seed: int

    def rounds(self, short: int, long: int) -> int:
        return long if self.is_long else short
