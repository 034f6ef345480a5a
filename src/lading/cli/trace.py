"""``--trace``: the waterfall of a pull, drawn on standard error; ``--trace-svg``: the same as a picture."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

import click

from lading.cli.progress import size_text
from lading.cli.render import can_show, say
from lading.events import Event, Listener, tell
from lading.redact import printable
from lading.trace import Span, Trace
from lading.trace.axis import duration, ticks

_MOST_ROWS = 100
"""Rows that are drawn in a terminal; the picture and the JSON have all."""

_KIND = 8
"""Columns of what a span is."""

_COLOURS = {
    "prepare": "bright_black",
    "store": "bright_black",
    "dns": "cyan",
    "connect": "yellow",
    "tunnel": "yellow",
    "tls": "magenta",
    "token": "bright_yellow",
    "manifest": "green",
    "blob": "blue",
    "storage": "blue",
    "wait": "bright_black",
    "fallback": "red",
}

_NOTE = 8
"""Columns that are enough to say what failed."""


class _Marks(NamedTuple):
    """What bars are made of."""

    step: str
    waiting: str
    body: str
    pause: str
    failed: str
    tick: str
    more: str


_LINES = _Marks("▓", "░", "█", "·", "✗", "▏", "…")
_PLAIN = _Marks("+", "-", "#", ".", "!", "|", "..")


class Tracing:
    """Traces what is done inside it, if that is wished for, and draws it in the end, also of what fails.

    ``is_shown`` is ``--trace``, ``svg`` the file of ``--trace-svg``; with ``as_json`` the verb prints the trace in its
    result, and it is drawn only if there is none. ``also`` listens, too.
    """

    def __init__(self, is_shown: bool, svg: str | None, as_json: bool, also: Listener | None = None) -> None:
        if svg == "":
            raise click.UsageError("--trace-svg wants the name of a file")
        self._is_shown = is_shown
        self._svg = svg
        self._as_json = as_json
        self._trace = Trace()
        self._also = also

    @property
    def listener(self) -> Listener | None:
        """Who is to be told; nobody, where nobody wants to know."""
        return self._listen if self._is_shown or self._svg is not None else self._also

    @property
    def fields(self) -> dict[str, object]:
        """What is added to the JSON of a result."""
        self._trace.finish()
        return {"trace": self._trace.as_json()} if self._is_shown else {}

    def _listen(self, event: Event, /) -> None:
        self._trace(event)
        tell(self._also, event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._trace.finish(error)
        if self._is_shown and not (self._as_json and error is None):
            show(self._trace)
        if self._svg is not None:
            self._write(self._svg, has_failed=error is not None)

    def _write(self, path: str, *, has_failed: bool) -> None:
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(self._trace.svg())
        except OSError as error:
            if not has_failed:
                raise
            say(f"lading: warning: {path}: the trace can't be written: {error.strerror or error}")


def show(trace: Trace) -> None:
    """Draw a trace on standard error, as wide as its terminal; with the characters of ASCII elsewhere."""
    is_terminal = sys.stderr.isatty()
    has_lines = is_terminal and can_show("".join(_LINES), sys.stderr)
    for line in lines(trace, _width(), has_lines, is_terminal and not os.environ.get("NO_COLOR")):
        say(line)


def _width() -> int:
    """Give the columns of the terminal that standard error is, or 80."""
    columns = shutil.get_terminal_size((0, 0)).columns if os.environ.get("COLUMNS") else 0
    if not columns and sys.stderr.isatty():
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return columns or 80


def lines(trace: Trace, width: int, has_lines: bool, has_colours: bool) -> Iterator[str]:
    """Give the lines of the drawing, ``width`` columns at most."""
    marks = _LINES if has_lines else _PLAIN
    spans = trace.spans
    name, said = printable(trace.reference), printable(trace.summary)
    line = f"{name}: {said}" if name else said
    yield from (line,) if len(line) <= width else (name, f"  {said}")
    if not spans:
        return
    drawing = _Drawing(spans[:_MOST_ROWS], max(trace.seconds, 1e-4), width, marks, has_colours)
    yield from drawing.lines()
    if len(spans) > _MOST_ROWS:
        yield f"and {len(spans) - _MOST_ROWS} more, which --trace-svg and --json have"
    yield drawing.legend()


class _Drawing:
    """Rows of one width: a mark, what it is, what it is about, figures, and a bar on the axis."""

    def __init__(self, spans: tuple[Span, ...], seconds: float, width: int, marks: _Marks, has_colours: bool) -> None:
        self._seconds = max(seconds, *(span.end for span in spans))
        self._marks = marks
        self._has_colours = has_colours
        self._used: set[str] = set()
        self._rows = [(span, _figures(span)) for span in spans]
        figures = [max(map(len, column)) for column in zip(*(said for _, said in self._rows), strict=True)]
        self._figures = figures
        # What it is about may take a third, where it needs that; the rest is the bar's.
        longest = max(len(printable(span.what)) for span in spans)
        self._about = min(longest, max(14, width // 3 - 7))
        self._left = 2 + _KIND + 1 + self._about + sum(1 + one for one in figures if one) + 2
        self._bar = max(10, width - self._left)

    def lines(self) -> Iterator[str]:
        yield self._axis()
        for span, figures in self._rows:
            yield self._row(span, figures)

    def legend(self) -> str:
        """Say what the marks mean that were drawn."""
        marks = self._marks
        known = {
            marks.step: "a step",
            marks.waiting: "until the answer",
            marks.body: "its body",
            marks.pause: "before a retry",
            marks.failed: "failed",
        }
        return "  " + "  ".join(f"{mark} {said}" for mark, said in known.items() if mark in self._used)

    def _axis(self) -> str:
        axis = [" "] * (self._bar + 1)
        free = 0
        for at, text in ticks(self._seconds, max(1, self._bar // 6)):
            column, label = self._column(at), self._marks.tick + text
            if free <= column and column + len(label) <= self._bar:
                axis[column : column + len(label)] = label
                free = column + len(label) + 1
        return self._styled(f"{' ' * self._left}{''.join(axis)}".rstrip(), "bright_black")

    def _row(self, span: Span, figures: tuple[str, ...]) -> str:
        colour = "red" if span.is_failed else _COLOURS.get(span.kind, "white")
        sign = self._styled(self._marks.failed if span.is_failed else " ", colour)
        kind = self._styled(span.kind.ljust(_KIND), colour)
        about = _cut(printable(span.what), self._about, self._marks).ljust(self._about)
        said = "".join(f" {one:>{width}}" for one, width in zip(figures, self._figures, strict=True) if width)
        return f"{sign} {kind} {about}{said}  {self._styled(self._drawn(span), colour)}".rstrip()

    def _drawn(self, span: Span) -> str:
        begin, head, end = (self._column(at) for at in (span.begin, span.head, span.end))
        begin = max(0, min(begin, self._bar - 1))
        end = min(max(end, begin + 1), self._bar)
        marks = self._marks
        if span.url:
            head = min(max(head, begin + 1), end)
            bar = marks.waiting * (head - begin) + marks.body * (end - head)
        elif span.end > span.begin or span.error:
            bar = (marks.pause if span.kind == "wait" else marks.step) * (end - begin)
        else:
            bar = marks.tick
        self._used |= {*bar, *(marks.failed for _ in range(span.is_failed))}
        note = printable(span.what if span.kind == "fallback" else span.error)
        # Beside the bar, where there is more room, if there is some.
        before, after = begin - 1, self._bar - end - 1
        if note and len(note) > after and before > after:
            note = _cut(note, before, marks)
            return f"{note.rjust(before)} {bar}"
        note = _cut(note, after, marks) if after >= _NOTE else ""
        return f"{' ' * begin}{bar} {note}".rstrip()

    def _column(self, at: float) -> int:
        return round(at / self._seconds * self._bar)

    def _styled(self, text: str, colour: str) -> str:
        return click.style(text, fg=colour) if self._has_colours and text.strip() else text


def _figures(span: Span) -> tuple[str, str, str]:
    """Give what is said of a span in figures: its status, how many bytes came, how long it took."""
    size = f"{span.received} B" if 0 < span.received < 1000 else size_text(span.received) if span.received else ""
    took = duration(span.end - span.begin) if span.end > span.begin else ""
    return str(span.status or ""), size, took


def _cut(text: str, width: int, marks: _Marks) -> str:
    return text if len(text) <= width else text[: max(0, width - len(marks.more))] + marks.more
