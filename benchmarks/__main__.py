"""Measures lading beside other clients: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import compare, machine, report, scenarios
from benchmarks.figures import sized
from benchmarks.floors import judge
from benchmarks.plan import Scenario, Workshop
from benchmarks.results import Run
from benchmarks.runner import measure
from benchmarks.servers import ROOT
from benchmarks.table import comparison_table, floors_table

_QUICK_SCALE, _QUICK_ROUNDS, _ROUNDS = 0.1, 2, 5
_BYTES, _MOST_BYTES = 3e9, 12e9
"""What is on the disk at once, at most: without the scenarios on request, and with them."""

_PAGE = ROOT / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and give the exit status: 1 if something that was written isn't right."""
    given = _parser().parse_args(arguments)
    if given.list:
        for one in scenarios.EVERY:
            print(f"{one.name:<24} {one.title}{' (on request)' if one.on_request else ''}")
        return 0
    if given.compare:
        print(compare.table(*map(Run.read, given.compare)))
        return 0
    if given.render:
        _say_written(report.write(Run.read(given.render), given.report or _PAGE))
        return 0
    try:
        chosen = scenarios.chosen(given.only, everything=given.all)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    scale = given.scale or (_QUICK_SCALE if given.quick else 1.0)
    rounds = given.rounds or (_QUICK_ROUNDS if given.quick else _ROUNDS)
    needed = scale * (_MOST_BYTES if any(one.on_request for one in chosen) else _BYTES)
    if shutil.disk_usage(given.directory or tempfile.gettempdir()).free < needed:
        print(f"benchmarks: that needs {sized(needed)} of disk; --directory says where", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="lading-benchmarks-", dir=given.directory) as directory:
        workshop = Workshop(Path(directory), given.seed, scale, rounds, tuple(given.who))
        run = _measure(chosen, workshop, given.json)
        _finish(run, given)
        _tell("deleting what was written")
    _tell("")
    return 0 if all(entry.is_right for one in run.comparisons for entry in one.entries if entry.rounds) else 1


def _measure(chosen: Sequence[Scenario], workshop: Workshop, path: Path | None) -> Run:
    """Measure, and write what there is to ``path`` after each scenario: a run takes long, and may be interrupted."""
    about = machine.about(workshop.seed, workshop.scale, workshop.rounds)
    run = Run(about, machine.machine(workshop.directory), machine.versions(), ())
    for scenario in chosen:
        comparison = measure(scenario, workshop, _tell)
        _tell("")
        print(comparison_table(comparison), end="\n\n", flush=True)
        run = replace(run, comparisons=(*run.comparisons, comparison))
        if path is not None:
            run.write(path)
    return run


def _finish(run: Run, given: argparse.Namespace) -> None:
    judged = [one for one in judge(run) if one.found is not None]
    print(floors_table(judged, run.about) if judged else "no floor is about what was measured")
    if given.json:
        _say_written([given.json])
    if given.report:
        _say_written(report.write(run, given.report))


def _tell(message: str) -> None:
    """Say what is being done, where a person may be looking."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


def _say_written(paths: Sequence[Path]) -> None:
    print(f"wrote {paths[0]}" + (f" and {len(paths) - 1} plots" if len(paths) > 1 else ""), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules[__name__].__doc__)
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--list", action="store_true", help="list the scenarios")
    doing.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="what changed from A to B")
    doing.add_argument("--render", type=Path, metavar="A.json", help="write the page from figures that are there")
    parser.add_argument("--only", nargs="+", default=[], metavar="SCENARIO", help="these; cold means each cold@…")
    parser.add_argument("--all", action="store_true", help="those on request, too")
    parser.add_argument("--who", nargs="+", default=[], metavar="NAME", help="these alone: lading bare skopeo …")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"how often each is measured ({_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, two rounds: to see that it works")
    parser.add_argument("--scale", type=float, metavar="X", help="another size: 1 is that of the floors")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another content (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument(
        "--report",
        type=Path,
        nargs="?",
        const=_PAGE,
        metavar="FILE",
        help="write a page, and plots (docs/benchmarks.md)",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where content is written: the disk to be measured"
    )
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nbenchmarks: interrupted", file=sys.stderr)
        sys.exit(130)
