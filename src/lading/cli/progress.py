"""Progress: bars on a terminal, a line for each blob elsewhere. Only large blobs are worth one."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lading.events import BlobExpected, BlobProgress, Event, Pulled

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
    """Listens to what moves, and shows each large blob that is on its way, and the total, on standard error.

    ``is_told_first``: the first that is told of a blob is how much of it was there before.
    """

    def __init__(self, *, is_told_first: bool = False) -> None:
        self._is_told_first = is_told_first
        self._began = time.monotonic()
        self._first: dict[str, int] = {}
        self._received: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._whole = self._come = 0  # the sums of the last two: there may be thousands of blobs
        self._ended: set[str] = set()
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        self._total: TaskID | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, BlobExpected):
            self._expect(event.digest, event.size)
        elif isinstance(event, BlobProgress):
            is_first = event.digest not in self._first
            self._expect(event.digest, event.size)
            self._first.setdefault(event.digest, event.received)
            self._come += event.received - self._received.get(event.digest, 0)
            self._received[event.digest] = event.received
            if self._bars is not None:
                self._show(self._bars, event)
            elif event.size >= _SHOWN:
                self._tell(event, is_first=is_first)

    def _expect(self, digest: str, size: int) -> None:
        if digest in self._sizes:
            return
        self._sizes[digest] = size
        self._whole += size
        if self._bars is not None and self._total is None and size >= _SHOWN:
            self._total = self._bars.add_task("total", total=0)

    def _show(self, bars: Progress, event: BlobProgress) -> None:
        if self._total is not None:
            bars.update(self._total, total=self._whole, completed=self._come)
        if event.received == event.size:
            # Its row makes room for those that are on their way.
            if event.digest in self._tasks:
                bars.remove_task(self._tasks.pop(event.digest))
        elif event.digest in self._tasks:
            bars.update(self._tasks[event.digest], completed=event.received)
        elif event.size >= _SHOWN:
            self._tasks[event.digest] = bars.add_task(event.digest[:19], total=event.size, completed=event.received)

    def _tell(self, event: BlobProgress, *, is_first: bool) -> None:
        """Write a line where a blob is gone on with, and one when it is here."""
        what = event.digest[:19]
        if is_first and self._is_told_first and event.received > 0:
            if event.received < event.size:
                print(f"{what} goes on at {size_text(event.received)} of {size_text(event.size)}", file=sys.stderr)
            else:
                self._ended.add(event.digest)  # it was there already
        if event.received == event.size and event.digest not in self._ended:
            self._ended.add(event.digest)
            print(f"{what} {size_text(event.size)}", file=sys.stderr)

    @property
    def has_some(self) -> bool:
        """Whether anything has arrived of a large blob, now or before."""
        return any(received and self._sizes[one] >= _SHOWN for one, received in self._received.items())

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
