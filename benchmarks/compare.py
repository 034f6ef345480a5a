"""What has changed between two runs, such as those of two commits. Pure.

Two runs are of two times: a ratio between them holds what the machine did besides. So what is compared is, where there
is one, lading's ratio to the baseline that was measured beside it, and seconds only where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import figures
from benchmarks.results import Comparison, Run, Spread
from benchmarks.table import drawn


@dataclass(frozen=True, slots=True)
class Change:
    """What one contender of one scenario took, before and after; ``relative`` are ratios to the baseline."""

    scenario: str
    label: str
    before: Spread
    after: Spread
    relative: tuple[Spread, Spread] | None

    @property
    def factor(self) -> float:
        """How many times as long it takes now, relative to the baseline where there is one."""
        before, after = self.relative or (self.before, self.after)
        return after.median / before.median

    @property
    def is_clear(self) -> bool:
        """Whether what was measured after lies outside of all that was measured before, and the other way round."""
        before, after = self.relative or (self.before, self.after)
        return after.least > before.most or after.most < before.least


def changes(before: Run, after: Run) -> list[Change]:
    """Give what can be compared, in the order of ``after``."""
    found = []
    for new in after.comparisons:
        old = before.comparison(new.name)
        if old is not None:
            found += _changes(old, new)
    return found


def _changes(old: Comparison, new: Comparison) -> list[Change]:
    found = []
    for entry in new.entries:
        other = old.entry(entry.name)
        if other is None or entry.kind != "lading" or not (entry.rounds and other.rounds):
            continue
        walls = other.spread(figures.wall), entry.spread(figures.wall)
        ratios = figures.to_baseline(old, other), figures.to_baseline(new, entry)
        assert walls[0] is not None
        assert walls[1] is not None
        has_baseline = entry.name != new.baseline and new.baseline == old.baseline and None not in ratios
        relative = (ratios[0], ratios[1]) if has_baseline and ratios[0] and ratios[1] else None
        found.append(Change(new.name, entry.label, walls[0], walls[1], relative))
    return found


def table(before: Run, after: Run) -> str:
    """Give the changes as a table."""
    rows = [("", "A", "B", "ratio in A", "ratio in B", "B to A", "")]
    for one in changes(before, after):
        relative = ("", "") if one.relative is None else tuple(figures.times(found.median) for found in one.relative)
        verdict = ("slower" if one.factor > 1 else "faster") if one.is_clear else "within the spread"
        walls = figures.seconds(one.before.median), figures.seconds(one.after.median)
        name, change = f"{one.scenario}: {one.label}", figures.times(one.factor)
        rows.append((name, *walls, relative[0], relative[1], change, verdict))
    heads = [f"{name}: {run.about['commit']}, {run.about['date']}" for name, run in (("A", before), ("B", after))]
    return "\n".join([*heads, drawn(rows) if len(rows) > 1 else "the two have no scenario in common"])
