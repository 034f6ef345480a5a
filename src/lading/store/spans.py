"""Spans: which bytes of a blob are there, when they arrive out of order."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Self


class Spans:
    """Which bytes are there: those before ``prefix``, and stretches beyond it."""

    def __init__(self, prefix: int = 0) -> None:
        self.prefix = prefix
        self._beyond: list[tuple[int, int]] = []  # in order; they don't touch each other or the prefix

    @classmethod
    def of(cls, stretches: Iterable[tuple[int, int]], size: int) -> Self:
        """Make one of ``stretches`` of ``size`` bytes. Raises ValueError if they overlap, or aren't of those."""
        spans = cls()
        for start, end in stretches:
            if not start <= end <= size:
                raise ValueError(f"from {start} to {end} isn't a stretch of {size} bytes")
            spans.add(start, end)
        return spans

    @property
    def total(self) -> int:
        """How many bytes are there."""
        return sum(end - start for start, end in self.stretches)

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """What is there, in order: where each stretch begins and where it ends; the first begins at byte 0."""
        return [(0, self.prefix), *self._beyond]

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """Give what isn't there of ``size`` bytes, in order: where each gap begins and where it ends."""
        ends = [end for _, end in self.stretches]
        starts = [*(start for start, _ in self._beyond), size]
        return [gap for gap in zip(ends, starts, strict=True) if gap[0] < gap[1]]

    def add(self, start: int, end: int) -> None:
        """Note that the bytes from ``start`` to before ``end`` are there. Raises ValueError if some already were."""
        if start < self.prefix:
            raise ValueError(f"byte {start} is already there")
        if start == end:
            return
        place = bisect.bisect(self._beyond, (start, end))
        before = self._beyond[place - 1] if place else (0, self.prefix)
        after = self._beyond[place] if place < len(self._beyond) else None
        if start < before[1] or (after and end > after[0]):
            raise ValueError(f"some of the bytes from {start} to {end} are already there")
        if after and end == after[0]:
            end = after[1]
            del self._beyond[place]
        if start == self.prefix:
            self.prefix = end
        elif place and start == before[1]:
            self._beyond[place - 1] = (before[0], end)
        else:
            self._beyond.insert(place, (start, end))
