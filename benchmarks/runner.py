"""Running scenarios: contenders take turns, round by round, each time in a new process and a new directory.

Small files aren't deleted before the end: a file system that has just deleted thousands of them creates new ones slowly
for a while, and the next contender would pay for it. Before each measurement what others wrote is brought to the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.plan import Contender, Prepared, Scenario, Workshop
from benchmarks.results import Comparison, Entry, Measurement
from benchmarks.servers import ROOT, Missing

_LIMIT_SECONDS = 900
_LARGE = 1_000_000
"""Bytes of a file from which on it is deleted at once."""

_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")

Tell = Callable[[str], None]


class JobFailed(Exception):
    """A job came to a bad end; the message is the last of what it said."""


def measure(scenario: Scenario, workshop: Workshop, tell: Tell) -> Comparison:
    """Run one scenario, and give its figures; what can't be run says why."""
    given = partial(Comparison, scenario.name, scenario.title, scenario.bound_by, scenario.baseline, scenario.subject)
    tell(f"{scenario.name}: preparing")
    try:
        with scenario.prepare(workshop) as prepared:
            entries = tuple(_rounds(scenario, prepared, workshop, tell))
            return given(entries, prepared.content, prepared.rtt)
    except (Missing, JobFailed) as trouble:
        return given((), trouble=str(trouble))


def _rounds(scenario: Scenario, prepared: Prepared, workshop: Workshop, tell: Tell) -> Iterable[Entry]:
    contenders = tuple(one for one in prepared.contenders if workshop.admits(one))
    trouble = {one.name: one.missing for one in contenders if one.missing}
    found: dict[str, list[Measurement]] = {one.name: [] for one in contenders}
    count = min(scenario.most_rounds, workshop.rounds * scenario.repeats)
    for number in range(count):
        for contender in in_turn(contenders, number):
            if contender.name in trouble:
                continue
            tell(f"{scenario.name}: round {number + 1} of {count}: {contender.label}")
            directory = workshop.directory / "rounds" / scenario.name / f"{number}-{contender.name}"
            try:
                found[contender.name].append(_measured(contender, prepared, directory))
            except JobFailed as failure:
                trouble[contender.name] = str(failure)
    for one in contenders:
        yield Entry(one.name, one.label, one.kind, tuple(found[one.name]), trouble.get(one.name, ""))


def in_turn(contenders: tuple[Contender, ...], number: int) -> tuple[Contender, ...]:
    """Give the order of a round: whoever was second before is first now."""
    first = number % max(1, len(contenders))
    return contenders[first:] + contenders[:first]


def _measured(contender: Contender, prepared: Prepared, directory: Path) -> Measurement:
    directory.parent.mkdir(parents=True, exist_ok=True)
    if contender.template is not None:
        shutil.copytree(contender.template, directory)
    else:
        directory.mkdir()
    if contender.before:
        do(contender.before, contender.spec, directory)
    if hasattr(os, "sync"):
        os.sync()
    server = prepared.server
    before = server.counts() if server is not None else None
    outcome = do(contender.job, contender.spec, directory)
    counts = server.counts().since(before) if server is not None and before is not None else None
    forget(directory)
    usage, samples = outcome["usage"], tuple(outcome["samples"])
    return Measurement(
        wall=statistics.median(samples) if samples else usage["wall"],
        cpu=usage["cpu"],
        rss=usage["rss"],
        requests=counts.requests if counts is not None else None,
        bytes=counts.bytes if counts is not None else None,
        connections=counts.connections if counts is not None else None,
        verified=outcome["verified"],
        expected=prepared.expected if contender.expected is None else contender.expected,
        samples=samples,
        extra=outcome["extra"],
    )


def forget(directory: Path) -> None:
    """Delete the large files that were written: few, so that it is no burden to who comes next.

    It gives the disk back, and the memory that holds them. Where a machine is a virtual one, fresh memory costs several
    times as much as writing to it does: everybody shall get what was used before.
    """
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= _LARGE:
            path.unlink()


def do(job: str, spec: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Do a job in a process of its own, and give its outcome. Raises JobFailed."""
    home = directory.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.child"],
            input=json.dumps({**spec, "job": job, "directory": str(directory)}),
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            cwd=ROOT,
            env={**environment, "HOME": str(home)},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise JobFailed(f"{job} didn't end within {_LIMIT_SECONDS} s") from error
    if done.returncode:
        raise JobFailed(f"{job}: {last_words(done.stderr) or done.returncode}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def last_words(text: str) -> str:
    """Give the last line of a traceback that says something: groups of exceptions end with a frame."""
    lines = [line.strip(" |+-") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
