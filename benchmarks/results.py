"""Figures as values, and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one contender: seconds, seconds of processors, bytes of memory, and what the server counted.

    ``verified`` of ``expected`` things were right when they were read back; ``None`` of those who keep nothing.
    """

    wall: float
    cpu: float
    rss: int
    requests: int | None = None
    bytes: int | None = None
    connections: int | None = None
    verified: int | None = None
    expected: int = 0
    samples: tuple[float, ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether everything was."""
        return self.verified is None or self.verified == self.expected


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was measured several times."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Give the spread of some values, one at least."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Entry:
    """All rounds of one contender; ``trouble`` says why there are none, or why they count for nothing."""

    name: str
    label: str
    kind: str
    rounds: tuple[Measurement, ...] = ()
    trouble: str = ""

    def spread(self, metric: Callable[[Measurement], float | None]) -> Spread | None:
        """Give the spread of a figure, ``None`` if it isn't known."""
        values = [value for one in self.rounds if (value := metric(one)) is not None]
        return Spread.of(values) if values else None

    @property
    def is_right(self) -> bool:
        """Whether everything was right in every round."""
        return bool(self.rounds) and all(one.is_right for one in self.rounds)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One scenario, measured."""

    name: str
    title: str
    bound_by: str
    baseline: str
    subject: str
    entries: tuple[Entry, ...]
    content: int = 0
    rtt: float = 0.0
    trouble: str = ""

    def entry(self, name: str) -> Entry | None:
        """Give what a contender did, if it took part."""
        return next((one for one in self.entries if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that was measured in one go, and where."""

    about: Mapping[str, str]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    comparisons: tuple[Comparison, ...]

    def comparison(self, name: str) -> Comparison | None:
        """Give a scenario, if it was measured."""
        return next((one for one in self.comparisons if one.name == name), None)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read what was written. Raises ValueError for anything else."""
        document = json.loads(path.read_text("utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"{path} holds no figures of format {FORMAT}")
        return cls(
            document["about"],
            document["machine"],
            document["versions"],
            tuple(_comparison(one) for one in document["comparisons"]),
        )


def _comparison(document: dict[str, Any]) -> Comparison:
    return Comparison(**{**document, "entries": tuple(_entry(one) for one in document["entries"])})


def _entry(document: dict[str, Any]) -> Entry:
    rounds = (Measurement(**{**one, "samples": tuple(one["samples"])}) for one in document["rounds"])
    return Entry(**{**document, "rounds": tuple(rounds)})
