"""Figures from figures: ratios, round by round, of two who were measured in the same surroundings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.results import Comparison, Entry, Measurement, Spread

Metric = Callable[[Measurement], float | None]


def wall(one: Measurement) -> float:
    """Give the seconds that passed."""
    return one.wall


def ratio(top: Entry, bottom: Entry, metric: Metric = wall) -> Spread | None:
    """Give how many times as much ``top`` took as ``bottom``, in each round; ``None`` if that can't be said."""
    pairs = zip(top.rounds, bottom.rounds, strict=False)
    values = [over / under for a, b in pairs if (over := metric(a)) is not None and (under := metric(b))]
    return Spread.of(values) if values else None


def fastest(entries: Sequence[Entry], kinds: Sequence[str]) -> Entry | None:
    """Give whoever of some kinds has the lowest median of seconds, and wrote what was right."""
    able = [
        (found.median, one) for one in entries if one.kind in kinds and one.is_right and (found := one.spread(wall))
    ]
    return min(able, key=lambda pair: pair[0])[1] if able else None


def to_baseline(comparison: Comparison, entry: Entry, metric: Metric = wall) -> Spread | None:
    """Give the ratio of an entry to what its scenario compares with."""
    baseline = comparison.entry(comparison.baseline)
    return ratio(entry, baseline, metric) if baseline is not None else None


def seconds(value: float) -> str:
    """Write seconds, in the unit that suits them."""
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1e3:.{1 if value < 0.1 else 0}f} ms"
    return f"{value:.2f} s"


def sized(value: float) -> str:
    """Write bytes, in powers of ten as registries do."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def times(value: float) -> str:
    """Write a ratio."""
    return f"{value:.2f}×" if value < 10 else f"{value:.0f}×"


def spread(found: Spread | None, write: Callable[[float], str]) -> str:
    """Write a figure and how far it spreads."""
    if found is None:
        return ""
    if found.least == found.most:
        return write(found.median)
    return f"{write(found.median)} ({write(found.least)} … {write(found.most)})"
