"""Measuring a part of a process: wall, processor time, peak of memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(slots=True)
class Usage:
    """What a measured part took: seconds, seconds of processors (children that were waited for included), bytes."""

    wall: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    """The most memory that was resident, of this process, what it had imported included."""


@contextmanager
def metered() -> Iterator[Usage]:
    """Measure what happens in the block."""
    usage = Usage()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): forget the peak so far
    cpu, started = _cpu(), time.perf_counter()
    yield usage
    usage.wall = time.perf_counter() - started
    usage.cpu = _cpu() - cpu
    usage.rss = peak()


def peak() -> int:
    """Give the most bytes that this process had resident.

    Not ``ru_maxrss``, where there is something better: a process inherits that from whoever started it.
    """
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def children_peak() -> int:
    """Give the most bytes that a child which was waited for had resident; at least what this process had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
