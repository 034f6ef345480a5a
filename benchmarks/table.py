"""Figures as a table in a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks import figures
from benchmarks.figures import seconds, sized, spread, times
from benchmarks.floors import Judged, written
from benchmarks.results import Comparison, Entry

HEADS = ("", "wall", "ratio", "CPU", "peak", "requests", "received", "right")


def cells(comparison: Comparison, entry: Entry) -> tuple[str, ...]:
    """Give one entry as a row, in the order of :data:`HEADS`."""
    if not entry.rounds:
        return (entry.label, entry.trouble or "—", "", "", "", "", "", "")
    busier = figures.to_baseline(comparison, entry, lambda one: one.cpu)
    cpu, rss = entry.spread(lambda one: one.cpu), entry.spread(lambda one: one.rss)
    requests, received = entry.spread(lambda one: one.requests), entry.spread(lambda one: one.bytes)
    assert cpu is not None
    assert rss is not None
    return (
        entry.label,
        spread(entry.spread(figures.wall), seconds),
        spread(figures.to_baseline(comparison, entry), times),
        seconds(cpu.median) + ("" if busier is None else f", {times(busier.median)}"),
        f"{rss.most / 2**20:.0f} MiB",
        "" if requests is None else f"{requests.median:.0f}",
        "" if received is None else sized(received.median),
        _right(entry),
    )


def _right(entry: Entry) -> str:
    if all(one.verified is None for one in entry.rounds):
        return "—"
    if not entry.is_right:
        return f"WRONG: {min(one.verified or 0 for one in entry.rounds)} of {entry.rounds[0].expected}"
    return f"{entry.rounds[0].expected} of {entry.rounds[0].expected}" + (f"; {entry.trouble}" if entry.trouble else "")


def extras(comparison: Comparison) -> list[str]:
    """Give what else lading said of itself in a scenario, a line each."""
    lines = []
    for entry in comparison.entries:
        if entry.kind == "lading" and entry.rounds:
            names = [name for name in entry.rounds[0].extra if all(name in one.extra for one in entry.rounds)]
            said = []
            for name in names:
                found = entry.spread(lambda one, name=name: one.extra[name])  # type: ignore[misc]
                assert found is not None
                said.append(f"{name} {found.median:.4g}")
            if said:
                lines.append(f"{entry.label}: {'; '.join(said)}")
    return lines


def drawn(rows: Sequence[Sequence[str]]) -> str:
    """Draw rows with a head: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    lines.insert(1, "─" * max(len(line) for line in lines))
    return "\n".join(lines)


def comparison_table(comparison: Comparison) -> str:
    """Give a scenario as a table, with its title."""
    head = f"{comparison.name}: {comparison.title}"
    if comparison.trouble:
        return f"{head}\n  not measured: {comparison.trouble}"
    rows = [cells(comparison, entry) for entry in comparison.entries]
    missing = [row for entry, row in zip(comparison.entries, rows, strict=True) if not entry.rounds]
    told = [row for entry, row in zip(comparison.entries, rows, strict=True) if entry.rounds]
    lines = [head, drawn([HEADS, *told])] if told else [head]
    lines += [f"not measured: {row[0]}: {row[1]}" for row in missing]
    lines += extras(comparison)
    return "\n".join(lines)


def floors_table(judged: Sequence[Judged], about: Mapping[str, str]) -> str:
    """Give the floors as a table; ``about`` says how much was measured."""
    rows = [("floor", "wanted", "found", "")]
    for one in judged:
        unit = one.floor.unit
        found = spread(one.found, lambda value, unit=unit: written(value, unit))  # type: ignore[misc]
        rows.append((one.floor.what, one.floor.wanted, found, one.verdict))
    return "\n".join([drawn(rows), *caveat(about)])


def caveat(about: Mapping[str, str]) -> list[str]:
    """Give what has to be said of figures that aren't of the size that the floors are about."""
    scale = about.get("scale", "1")
    return (
        [] if scale == "1" else [f"At scale {scale} what is fixed weighs more: these verdicts aren't about the floors."]
    )
