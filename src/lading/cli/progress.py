"""Progress: bars on a terminal, a line for each blob elsewhere. Only large blobs are worth one."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.events import BlobProgress, Event, Pulled

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SHOWN = 1024 * 1024
"""Bytes of a blob above which it gets a bar."""

_PAUSE = 0.1
"""Seconds between two changes of a bar that counts: what nobody can see isn't worth its time."""


def size_text(size: float) -> str:
    """Give a number of bytes as people read it (decimal units, as registries and disks have them)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def rate_text(count: int, seconds: float) -> str:
    """Give how fast things were done, for people."""
    rate = count / seconds if seconds > 0 else 0.0
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


class BlobBars:
    """Listens to what moves, and shows each large blob and the total on standard error.

    ``is_told_first``: the first that is told of a blob is how much of it was here before.
    """

    def __init__(self, title: str, *, is_told_first: bool = False) -> None:
        self._title = title
        self._is_told_first = is_told_first
        self._began = time.monotonic()
        self._first: dict[str, int] = {}
        self._received: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._ended: set[str] = set()
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        self._total: TaskID | None = None

    def __call__(self, event: Event, /) -> None:
        if not isinstance(event, BlobProgress):
            return
        digest, known = event.digest, event.digest in self._sizes
        self._sizes[digest], self._received[digest] = event.size, event.received
        if not known:
            self._first[digest] = event.received
        if event.size < _SHOWN:
            return
        if self._bars is None:
            self._tell(event, is_first=not known)
            return
        if self._total is None:
            self._total = self._bars.add_task("total", total=0)
        if digest not in self._tasks:
            self._tasks[digest] = self._bars.add_task(digest[:19], total=event.size, completed=event.received)
        self._bars.update(self._tasks[digest], completed=event.received)
        shown = list(self._tasks)
        self._bars.update(
            self._total,
            total=sum(self._sizes[one] for one in shown),
            completed=sum(self._received[one] for one in shown),
        )

    def _tell(self, event: BlobProgress, *, is_first: bool) -> None:
        """Write a line where a blob is gone on with, and one when it is here."""
        what = event.digest[:19]
        if is_first and self._is_told_first and 0 < event.received < event.size:
            print(f"{what} goes on at {size_text(event.received)} of {size_text(event.size)}", file=sys.stderr)
        if event.received == event.size and event.digest not in self._ended:
            self._ended.add(event.digest)
            print(f"{what} {size_text(event.size)}", file=sys.stderr)

    def rate(self) -> str:
        """Give how fast what was fetched came, for people."""
        seconds = time.monotonic() - self._began
        came = sum(self._received[one] - self._first[one] for one in self._received)
        return f", {size_text(came / seconds)}/s" if came > _SHOWN and seconds > 0 else ""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # else it is no business of the terminal
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


class CountBar:
    """Shows how many are done, on a terminal, and how many of them failed.

    ``total`` is how many there are, ``None`` if nobody knows. As a listener, it counts what is pulled.
    """

    def __init__(self, total: int | None = None, *, is_shown: bool = True) -> None:
        self._is_shown = is_shown
        self._total = total
        self._done = self._failed = 0
        self._began = self._told = time.monotonic()
        self._bars: Progress | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Pulled):
            self.advance()

    def advance(self, *, has_failed: bool = False) -> None:
        """Count one more."""
        self._done += 1
        self._failed += has_failed
        now = time.monotonic()
        if self._bars is not None and now - self._told >= _PAUSE:
            self._told = now
            self._bars.update(self._bars.task_ids[0], description=self._text(now), completed=self._done)

    def expect(self, more: int) -> None:
        """Take note that there are more than was known."""
        if self._total is not None and more:
            self._total += more
            if self._bars is not None:
                self._bars.update(self._bars.task_ids[0], total=self._total)

    def _text(self, now: float) -> str:
        of = "" if self._total is None else f"/{self._total}"
        failed = f", [red]{self._failed} failed[/red]" if self._failed else ""
        return f"{self._done}{of}{failed}, {rate_text(self._done, now - self._began)}"

    def __enter__(self) -> Self:
        if self._is_shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bars = Progress(
                *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
            )
            self._bars.add_task(self._text(self._began), total=self._total)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
