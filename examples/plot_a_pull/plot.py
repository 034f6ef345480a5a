"""Draws what a pull asks a registry for, on a time axis: listens to a client's events, and writes an SVG.

    python plot.py ghcr.io/acme/triage:v3 -o pull.svg

A bar is a request, from when it was sent until the head of its answer was there.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import lading
from lading import events

COLOURS = {2: "#2a7f62", 3: "#c58b00", 4: "#b3261e", 5: "#b3261e", 0: "#b3261e"}
"""By the first digit of the status; 0 is no answer at all."""

WIDTH, ROW, MARGIN = 900, 28, 20

_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]+")


@dataclass(frozen=True)
class Bar:
    """One request: in seconds since the pull began."""

    text: str
    begin: float
    end: float
    colour: str


class Recorder:
    """Turns events into bars. It is called on the event loop, so it only takes notes."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.title = ""
        self.end = 0.0
        self._began = time.perf_counter()

    def __call__(self, event: events.Event) -> None:
        now = time.perf_counter() - self._began
        match event:
            case events.RequestSent(method, url, status, seconds):
                # The event comes with the answer's head: the request was sent that many seconds before.
                path = _DIGEST.sub(r"\1…", urlsplit(url).path)
                text = f"{method} {path} {status or 'no answer'}"
                self.bars.append(Bar(text, now - seconds, now, COLOURS[status // 100]))
            case events.Retrying(reason=reason, delay=delay):
                self.bars.append(Bar(f"wait: {reason}", now, now + delay, "#9a9a9a"))
            case events.Pulled(reference, digest, origin, seconds):
                self.title = f"{reference}: {origin}, {digest[:19]}, {seconds * 1000:.1f} ms"
                self.end = now


def svg(title: str, bars: Sequence[Bar], end: float) -> str:
    """Draw bars below a time axis that ends at `end` seconds."""
    end = max(end, 0.001, *(bar.end for bar in bars)) if bars else max(end, 0.001)
    scale = (WIDTH - 2 * MARGIN) / end
    height = 4 * MARGIN + ROW * max(len(bars), 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 2}" font-size="14">{escape(title)}</text>',
    ]
    for tenth in range(0, 11, 2):
        x = MARGIN + (WIDTH - 2 * MARGIN) * tenth / 10
        anchor = "end" if tenth == 10 else "start"
        parts += [
            f'<line x1="{x:.1f}" y1="{2 * MARGIN}" x2="{x:.1f}" y2="{height - MARGIN}" stroke="#dddddd"/>',
            f'<text x="{x:.1f}" y="{height - 5}" font-size="11" text-anchor="{anchor}">{end * tenth * 100:.1f} ms'
            "</text>",
        ]
    for number, bar in enumerate(bars):
        x, y, width = MARGIN + bar.begin * scale, 2 * MARGIN + ROW * number + 4, max((bar.end - bar.begin) * scale, 1)
        # What would leave the picture on the right stands at its right end.
        on_left = x < WIDTH / 2
        at, anchor = (x + 4, "start") if on_left else (x + width - 4, "end")
        label = escape(f"{bar.text}, {(bar.end - bar.begin) * 1000:.1f} ms")
        parts += [
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{bar.colour}" opacity="0.35"/>',
            f'<text x="{at:.1f}" y="{y + 14}" font-size="12" text-anchor="{anchor}">{label}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


async def record(reference: str) -> Recorder:
    """Pull an agent, and give what that took."""
    recorder = Recorder()
    async with lading.Client(events=recorder) as client:
        await client.pull_agent(reference)
    return recorder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw what a pull asks a registry for.")
    parser.add_argument("reference")
    parser.add_argument("-o", "--output", default="pull.svg")
    given = parser.parse_args(arguments)
    recorder = asyncio.run(record(given.reference))
    Path(given.output).write_text(svg(recorder.title, recorder.bars, recorder.end))
    print(f"{given.output}: {len(recorder.bars)} requests; {recorder.title}")


if __name__ == "__main__":
    main()
