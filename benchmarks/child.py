"""One measurement in a process of its own: ``python -m benchmarks.child`` reads what to do, and prints how it went.

A job is a function ``MODULE.FUNCTION`` of ``benchmarks.jobs`` that takes a mapping and gives an :class:`Outcome`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.meter import Usage

Spec = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """How a job went: what it took, how many things were right (``None`` if it kept none), what else is worth knowing.

    ``samples`` are the seconds of each repetition, where there are several; ``wall`` is their median then.
    """

    usage: Usage
    verified: int | None
    samples: list[float] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)


Job = Callable[[Spec], Outcome]


def main() -> None:
    """Do the job that standard input asks for."""
    spec: Spec = json.load(sys.stdin)
    module, _, function = str(spec.pop("job")).partition(".")
    job: Job = getattr(importlib.import_module(f"benchmarks.jobs.{module}"), function)
    print(json.dumps(asdict(job(spec))))


if __name__ == "__main__":
    main()
