"""Figures as a page in Markdown, with plots beside it. Pure, but for :func:`write`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import figures, plot
from benchmarks.floors import Judged, judge, written
from benchmarks.results import Comparison, Run
from benchmarks.table import HEADS, caveat, cells, extras

_HEAD = """\
# Benchmarks

This page is generated: `python -m benchmarks --report` measures and writes it. What the figures mean, and what they
can't say, is in the file `benchmarks/README.md` of the project.

Everything below was measured in one run, in which contenders took turns round by round. A figure is the median, with
the least and the most in parentheses. A ratio is taken within each round. Compare ratios; seconds are this machine's.
"""


def write(run: Run, page: Path) -> list[Path]:
    """Write the page and its plots, into a directory beside it of the same name; gives what was written."""
    directory = page.with_suffix("")
    directory.mkdir(parents=True, exist_ok=True)
    paths = [page]
    page.write_text(markdown(run, directory.name), "utf-8")
    for name, drawing in plots(run).items():
        path = directory / f"{name}.svg"
        path.write_text(drawing, "utf-8")
        paths.append(path)
    return paths


def markdown(run: Run, plots_in: str) -> str:
    """Give the page; its plots are in the directory ``plots_in`` beside it."""
    parts = [_HEAD, _where(run), "## The floors\n", floors_section(judge(run), run.about), "## The scenarios\n"]
    for comparison in run.comparisons:
        parts += _section(comparison, plots_in)
    return "\n".join(parts).rstrip() + "\n"


def plots(run: Run) -> Mapping[str, str]:
    """Give a plot for each scenario in which there is something to compare."""
    found = {}
    for comparison in run.comparisons:
        drawn = [
            plot.Bar(entry.label, entry.kind, value)
            for entry in comparison.entries
            if (value := entry.spread(figures.wall)) is not None
        ]
        if len(drawn) > 1 and comparison.baseline:
            found[file_name(comparison)] = plot.bars(comparison.title, drawn, figures.seconds)
    return found


def file_name(comparison: Comparison) -> str:
    """Give the name of a scenario's plot, without its suffix."""
    return comparison.name.replace("@", "-")


def floors_section(judged: Sequence[Judged], about: Mapping[str, str]) -> str:
    """Give the floors as a table, and how many of them are met."""
    rows = []
    for one in judged:
        unit = one.floor.unit
        found = figures.spread(one.found, lambda value, unit=unit: written(value, unit))  # type: ignore[misc]
        verdict = f"**{one.verdict}**" if one.verdict == "missed" else one.verdict
        rows.append((one.floor.what, one.floor.wanted, found, verdict, f"`{one.floor.scenario}`"))
    met = sum(one.verdict == "met" for one in judged)
    measured = sum(one.found is not None for one in judged)
    table = _table(("floor", "promised", "found", "", "scenario"), rows)
    said = [f"{met} of {measured} that were measured are met.", *caveat(about)]
    return f"{table}\n{' '.join(said)}\n"


def _where(run: Run) -> str:
    rows = [*run.about.items(), *run.machine.items()]
    packages = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return _table(("", ""), rows) + f"\nVersions: {packages}.\n"


def _section(comparison: Comparison, plots_in: str) -> list[str]:
    parts = [f"### `{comparison.name}`: {comparison.title}\n", f"It is {comparison.bound_by}.{_moved(comparison)}\n"]
    if comparison.trouble:
        return [*parts, f"Not measured: {comparison.trouble}.\n"]
    told = [entry for entry in comparison.entries if entry.rounds]
    rows = [cells(comparison, entry) for entry in told]
    parts.append(_table(HEADS, [(_bold(entry.kind, row[0]), *row[1:]) for entry, row in zip(told, rows, strict=True)]))
    if said := extras(comparison):
        parts.append("".join(f"- {line}\n" for line in said))
    if missing := [entry for entry in comparison.entries if not entry.rounds]:
        parts.append("Not measured: " + "; ".join(f"{one.label} ({one.trouble})" for one in missing) + ".\n")
    if len(told) > 1 and comparison.baseline:
        parts.append(f"![{comparison.title}]({plots_in}/{file_name(comparison)}.svg)\n")
    return parts


def _moved(comparison: Comparison) -> str:
    return f" Each has to move {figures.sized(comparison.content)}." if comparison.content else ""


def _bold(kind: str, label: str) -> str:
    return f"**{label}**" if kind == "lading" else label


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
