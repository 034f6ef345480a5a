"""A bar plot as SVG: a bar is a median, the line on it goes from the least to the most. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.results import Spread

_WIDTH, _LABELS, _FIGURES = 820, 330, 150
_BAR, _GAP, _TOP = 16, 10, 34
_COLOURS = {"lading": "#1f6f8b", "peer": "#c9a227", "python peer": "#c9a227", "limit": "#9aa5ab"}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: whose it is, and how long."""

    label: str
    kind: str
    value: Spread


def bars(title: str, given: Sequence[Bar], write: Callable[[float], str]) -> str:
    """Draw bars that begin at nothing, one below the other, each with its figure in words."""
    height = _TOP + len(given) * (_BAR + _GAP) + _GAP
    room = _WIDTH - _LABELS - _FIGURES
    longest = max((bar.value.most for bar in given), default=0.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title, quote=True)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="14" font-weight="bold" fill="#222222">{escape(title)}</text>',
    ]
    for number, bar in enumerate(given):
        y = _TOP + number * (_BAR + _GAP)
        middle, base = y + _BAR / 2, y + _BAR - 4
        ends = [_LABELS + room * value / longest for value in (bar.value.median, bar.value.least, bar.value.most)]
        colour = _COLOURS.get(bar.kind, "#9aa5ab")
        weight = ' font-weight="bold"' if bar.kind == "lading" else ""
        parts += [
            f'<text x="{_LABELS - 8}" y="{base}" text-anchor="end" fill="#222222"{weight}>{escape(bar.label)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{max(1.0, ends[0] - _LABELS):.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<path d="M{ends[1]:.1f} {middle}H{ends[2]:.1f}" stroke="#222222" stroke-width="1.5"/>',
            f'<text x="{ends[2] + 8:.1f}" y="{base}" fill="#222222">{escape(write(bar.value.median))}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
