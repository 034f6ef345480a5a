"""The waterfall as an SVG: a row a span, all on one time axis. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from lading.redact import printable
from lading.trace.axis import duration, ticks

if TYPE_CHECKING:
    from lading.trace import Span, Trace

_WIDTH, _LABELS, _FIGURES, _MARGIN = 960, 256, 130, 16
_ROW, _BAR, _TOP, _BOTTOM = 22, 12, 70, 22
_LETTER = 6.5
"""How wide a letter of a figure is, more or less."""

_LETTERS = 27
"""Letters of what a span was about that fit before the bars."""

_COLOURS = {
    "prepare": "#9aa5ab",
    "store": "#7d8b99",
    "dns": "#0f8b8d",
    "connect": "#d98c1f",
    "tunnel": "#b56576",
    "tls": "#8e6bbf",
    "token": "#c2a500",
    "manifest": "#2a7f62",
    "blob": "#1f6f8b",
    "storage": "#1f6f8b",
    "request": "#5c6b73",
    "wait": "#c4c4c4",
    "fallback": "#b3261e",
}
_FAILED = "#b3261e"
_LEGEND = "pale: until the answer's head; full: its body"


def draw(trace: Trace) -> str:
    """Draw all spans of a trace. From when a request was sent to its answer's head, the bar is pale."""
    spans = trace.spans
    height = _TOP + max(len(spans), 1) * _ROW + _BOTTOM
    # An axis needs some length; and room for all that is on it.
    seconds = max([trace.seconds, 0.001, *(span.end for span in spans)])
    title = printable(trace.reference or "a trace")
    said = printable(trace.summary)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(f"{title}: {said}", quote=True)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="22" font-size="14" font-weight="bold" fill="#222222">{escape(title)}</text>',
        f'<text x="{_MARGIN}" y="40" fill="#555555">{escape(said)}</text>',
        f'<text x="{_WIDTH - _MARGIN}" y="40" font-size="11" text-anchor="end" fill="#777777">{_LEGEND}</text>',
    ]
    parts += _axis(seconds, height)
    for number, span in enumerate(spans):
        parts += _row(span, _TOP + number * _ROW, seconds)
    return "\n".join([*parts, "</svg>", ""])


def _axis(seconds: float, height: int) -> Iterator[str]:
    for at, text in ticks(seconds, 8):
        x = _x(at, seconds)
        yield f'<path d="M{x:.1f} {_TOP - 6}V{height - _BOTTOM}" stroke="#e3e3e3"/>'
        yield f'<text x="{x:.1f}" y="{_TOP - 11}" font-size="11" text-anchor="middle" fill="#777777">{text}</text>'


def _row(span: Span, top: int, seconds: float) -> Iterator[str]:
    begin, head, end = (_x(at, seconds) for at in (span.begin, span.head, span.end))
    end = max(end, begin + 1.5)
    colour = _FAILED if span.is_failed else _COLOURS[span.kind]
    base = top + _BAR
    what = printable(span.what)
    facts = [
        printable(span.error) or (str(span.status) if span.status else ""),
        f"{span.received:,} bytes" if span.received else "",
    ]
    about = ", ".join(fact for fact in (f"{span.kind} {what}", printable(span.url), *facts) if fact)
    yield "<g>"
    yield f"<title>{escape(f'{about}: {duration(span.end - span.begin)}')}</title>"
    yield f'<text x="{_MARGIN}" y="{base}" fill="{colour}" font-weight="bold">{span.kind}</text>'
    short = what if len(what) <= _LETTERS else what[: _LETTERS - 1] + "…"
    yield f'<text x="{_MARGIN + 70}" y="{base}" fill="#222222">{escape(short)}</text>'
    if span.url:
        # What was waited for is pale; what came is not.
        yield _bar(begin, max(head, begin + 1.5), top, colour, 0.4)
        yield _bar(head, end, top, colour, 1.0)
    else:
        yield _bar(begin, end, top, colour, 1.0)
    figure = duration(span.end - span.begin) if span.end > span.begin else ""
    text = ", ".join(fact for fact in (facts[0], figure) if fact)
    ink = _FAILED if span.is_failed else "#555555"
    # What would leave the picture on the right stands on the left.
    fits = end + 6 + len(text) * _LETTER <= _WIDTH
    place = f'x="{end + 6:.1f}" text-anchor="start"' if fits else f'x="{begin - 6:.1f}" text-anchor="end"'
    yield f'<text {place} y="{base}" font-size="11" fill="{ink}">{escape(text)}</text>'
    yield "</g>"


def _bar(begin: float, end: float, top: int, colour: str, opacity: float) -> str:
    place = f'x="{begin:.1f}" y="{top + 2}" width="{max(end - begin, 0.0):.1f}" height="{_BAR}"'
    return f'<rect {place} fill="{colour}" fill-opacity="{opacity}"/>'


def _x(at: float, seconds: float) -> float:
    return _LABELS + (_WIDTH - _LABELS - _FIGURES) * at / seconds
