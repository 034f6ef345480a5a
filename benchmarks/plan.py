"""What a scenario is, as values: what is compared with what, and in which surroundings."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.servers import Server

Kind = Literal["lading", "peer", "python peer", "limit"]
"""Who does it: lading, a program, a library for Python, or a loop that promises nothing."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do what a scenario is about: a job and what it is told.

    ``needs`` is a program, or a module as ``python:name``; ``before`` is a job that is done in the same directory
    beforehand, unmeasured; ``template`` is a directory that is copied to begin with. ``expected`` is how many things it
    has to get right, where that isn't what the scenario says.
    """

    name: str
    label: str
    kind: Kind
    job: str
    spec: Mapping[str, Any]
    needs: str = ""
    before: str = ""
    template: Path | None = None
    expected: int | None = None

    @property
    def missing(self) -> str:
        """What it needs and isn't installed, as a reason; empty if everything is there."""
        if not self.needs:
            return ""
        language, _, module = self.needs.rpartition(":")
        is_there = importlib.util.find_spec(module) if language == "python" else shutil.which(module)
        return "" if is_there else f"{module} isn't installed"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scenario that is ready to run: who competes, against which server, and how many things each has to get right.

    ``content`` is how many bytes of blobs each has to move, ``rtt`` the seconds of a round trip, where there are any.
    """

    contenders: tuple[Contender, ...]
    server: Server | None
    expected: int
    content: int = 0
    rtt: float = 0.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where scenarios are prepared: a directory of one's own, the seed, and how much is done.

    ``scale`` is 1 for the figures of the design, less to see that it works; ``rounds`` is how often it is done; ``who``
    are the only contenders that take part, by name, if any are named.
    """

    directory: Path
    seed: int = 0
    scale: float = 1.0
    rounds: int = 5
    who: tuple[str, ...] = ()

    def admits(self, contender: Contender) -> bool:
        """Tell whether a contender takes part."""
        return not self.who or contender.name in self.who

    def scaled(self, count: int, least: int = 1) -> int:
        """Give a count or a size at this scale."""
        return max(least, int(count * self.scale))


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that people do. ``bound_by`` says, in a sentence, what it waits for at best.

    Ratios are those of ``subject`` to ``baseline``, contenders both; they are what is looked at, and what floors are
    about. ``repeats`` multiplies the rounds, ``most_rounds`` bounds them; one that is ``on_request`` runs only if it is
    named.
    """

    name: str
    title: str
    bound_by: str
    prepare: Callable[[Workshop], AbstractContextManager[Prepared]] = field(repr=False)
    baseline: str = ""
    subject: str = "lading"
    repeats: int = 1
    most_rounds: int = 1000
    on_request: bool = False
