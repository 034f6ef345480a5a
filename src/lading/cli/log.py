"""What the library logs, as people see it: a few lines of each kind, however many there are."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from lading.cli.render import say

_SHOWN = 3
"""Lines of one kind: a thousand stale copies say no more than the first ones do."""


def show_everything() -> None:
    """Write all that the library logs to standard error, with the time since the start, as long as the process runs."""
    handler = _Everything()
    handler.setFormatter(logging.Formatter("%(relativeCreated)7d ms %(levelname)-7s %(name)s: %(message)s"))
    logger = logging.getLogger("lading")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


@contextmanager
def shown_log() -> Iterator[None]:
    """Write the library's warnings to standard error; in the end, how many more of a kind there were."""
    logger = logging.getLogger("lading")
    if any(isinstance(one, _Everything) for one in logger.handlers):
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("lading: %(levelname)s: %(message)s"))
    few = _Few()
    handler.addFilter(few)
    logging.addLevelName(logging.WARNING, "warning")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        for line in few.others():
            say(line)


class _Everything(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: bars stand in for it while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


class _Few(logging.Filter):
    """Lets a few records of each kind through: those that say the same of different things."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[object, int] = {}
        self._lasts: dict[object, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.pathname, record.lineno
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] > _SHOWN:
            return False
        self._lasts[kind] = record.getMessage()
        return True

    def others(self) -> Iterator[str]:
        """Give a line for each kind of which not all were shown."""
        for kind, count in self._counts.items():
            if count > _SHOWN:
                yield f"lading: warning: {count - _SHOWN} more like this: {self._lasts[kind]}"
