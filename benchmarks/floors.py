"""What was promised, and whether it holds: the floors, each a figure of one scenario with a limit. Pure.

A ratio counts by its median; the spread stands beside it. What wasn't measured isn't met, and isn't missed either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks import figures
from benchmarks.results import Comparison, Measurement, Run, Spread

Verdict = Literal["met", "missed", "not measured"]
Figure = Callable[[Comparison], Spread | None]

PYTHON = "the fastest peer in Python"


@dataclass(frozen=True, slots=True)
class Floor:
    """One promise: a figure of a scenario is at most (or with ``is_least``, at least) ``limit``."""

    what: str
    scenario: str
    figure: Figure
    limit: float
    unit: str
    is_least: bool = False

    @property
    def wanted(self) -> str:
        """What is promised, in short."""
        return f"{'≥' if self.is_least else '≤'} {written(self.limit, self.unit)}"


@dataclass(frozen=True, slots=True)
class Judged:
    """A floor and what was measured of it."""

    floor: Floor
    found: Spread | None

    @property
    def verdict(self) -> Verdict:
        """Whether it is met."""
        if self.found is None:
            return "not measured"
        limit, found = self.floor.limit, self.found.median
        return "met" if (found >= limit if self.floor.is_least else found <= limit) else "missed"


def written(value: float, unit: str) -> str:
    """Write a figure with its unit."""
    match unit:
        case "×":
            return figures.times(value)
        case "µs":
            return f"{value:.0f} µs"
        case "MiB":
            return f"{value:.0f} MiB"
        case "RTT":
            return f"{value:.2f} RTT"
        case _:
            return f"{value:g} {unit}".rstrip()


def _slower(than: str, subject: str = "lading") -> Figure:
    """How many times as long the subject takes as another one."""

    def figure(comparison: Comparison) -> Spread | None:
        top, bottom = comparison.entry(subject), comparison.entry(than)
        return figures.ratio(top, bottom) if top is not None and bottom is not None and top.is_right else None

    return figure


def _faster(than: str, subject: str = "lading") -> Figure:
    """How many times as long another one takes; :data:`PYTHON` is whoever is best of those."""

    def figure(comparison: Comparison) -> Spread | None:
        bottom = comparison.entry(subject)
        top = figures.fastest(comparison.entries, ("python peer",)) if than == PYTHON else comparison.entry(than)
        if top is None or bottom is None or not bottom.is_right:
            return None
        return figures.ratio(top, bottom)

    return figure


def _value(metric: figures.Metric, subject: str = "lading") -> Figure:
    def figure(comparison: Comparison) -> Spread | None:
        entry = comparison.entry(subject)
        return entry.spread(metric) if entry is not None and entry.is_right else None

    return figure


def _round_trips(comparison: Comparison) -> Spread | None:
    return _value(lambda one: one.wall / comparison.rtt)(comparison) if comparison.rtt else None


def _requests_each(comparison: Comparison) -> Spread | None:
    def each(one: Measurement) -> float | None:
        return None if one.requests is None else one.requests / max(1, len(one.samples))

    return _value(each)(comparison)


def _memory() -> Figure:
    return _value(lambda one: one.rss / 2**20)


_IMAGE, _LAYER, _CAT = "12 × 40 MB", "1 × 500 MB", "`lading cat`, pinned and cached"
_NGINX, _REGISTRY = "1,000 agents from nginx", "1,000 agents from docker-registry"

FLOORS = (
    Floor("cold pull: requests", "cold@0", _requests_each, 2, "requests"),
    Floor("cold pull, inline: requests", "inline@0", _requests_each, 1, "requests"),
    Floor("cached, asked again: requests", "warm@0", _requests_each, 1, "requests"),
    Floor("pinned: requests", "pinned", _requests_each, 0, "requests"),
    Floor("fresh: requests", "fresh", _requests_each, 0, "requests"),
    Floor("cold pull at 50 ms, connection included", "cold@50", _round_trips, 3.2, "RTT"),
    Floor("cold pull at 50 ms, inline, connection included", "inline@50", _round_trips, 2.2, "RTT"),
    Floor(f"{_NGINX}, to a bare loop", "agents@nginx", _slower("bare"), 3.0, "×"),
    Floor(f"{_NGINX}, inline, to a bare loop", "agents@nginx-inline", _slower("bare"), 2.5, "×"),
    Floor(f"{_REGISTRY}, faster than {PYTHON}", "agents@registry", _faster(PYTHON), 1.4, "×", True),
    Floor(f"{_REGISTRY}, inline, faster than {PYTHON}", "agents@registry-inline", _faster(PYTHON), 4.0, "×", True),
    Floor(f"{_IMAGE}, to a bare loop that is as durable", "image", _slower("bare"), 1.15, "×"),
    Floor(f"{_IMAGE}, faster than skopeo", "image", _faster("skopeo"), 1.5, "×", True),
    Floor(f"{_IMAGE}: peak of memory", "image", _memory(), 100, "MiB"),
    Floor(f"{_LAYER}, to a bare loop that is as durable", "layer", _slower("bare"), 1.15, "×"),
    Floor(f"{_LAYER}, faster than skopeo", "layer", _faster("skopeo"), 1.5, "×", True),
    Floor(f"{_LAYER}: peak of memory", "layer", _memory(), 100, "MiB"),
    Floor("1 × 4 GB: peak of memory", "huge", _memory(), 100, "MiB"),
    Floor("cached pinned read, verified", "pinned", _value(lambda one: one.wall * 1e6), 300, "µs"),
    Floor("into a store of 100,000 references, to an empty one", "store", _slower("empty"), 1.2, "×"),
    Floor(f"{_CAT}, to `python -c pass`", "startup", _slower("python"), 9.0, "×"),
    Floor(
        f"{_CAT}: heavy modules imported", "startup", _value(lambda one: one.extra.get("heavy modules")), 0, "modules"
    ),
)
"""Every floor of the design, in its order."""


def judge(run: Run) -> list[Judged]:
    """Give every floor with what a run says of it."""
    judged = []
    for floor in FLOORS:
        comparison = run.comparison(floor.scenario)
        judged.append(Judged(floor, floor.figure(comparison) if comparison is not None else None))
    return judged
