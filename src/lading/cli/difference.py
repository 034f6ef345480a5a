"""How two versions of an agent differ, for people and as JSON."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import click

from lading.agents.capabilities import Change, Comparison, Sign
from lading.cli.render import print_json, short_digest
from lading.oci.digest import Digest
from lading.redact import printable

_SIGNS: dict[Sign, tuple[str, str | None]] = {
    "gained": ("+", "yellow"),
    "lost": ("-", "cyan"),
    "changed": ("~", None),
    "instruction": ("~", None),
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,200}")
_DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_INDENT = " " * 6
"""Before a line of a text."""

_NARROWEST = 20
"""Columns that text gets at least."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two versions: where it is from, and what it is."""

    name: str
    digest: Digest
    content: bytes = field(repr=False)


def print_comparison(old: Side, new: Side, comparison: Comparison, *, as_json: bool) -> None:
    """Write a comparison to standard output: as one line of JSON, or to be read."""
    if as_json:
        print_json(
            {
                "old": {"name": old.name, "digest": str(old.digest)},
                "new": {"name": new.name, "digest": str(new.digest)},
                "is_same_content": old.content == new.content,
                "summary": comparison.summary,
                "new_capabilities": len(comparison.new_capabilities),
                "gained": [_fields(change) for change in comparison.gained],
                "lost": [_fields(change) for change in comparison.lost],
                "changed": [_fields(change) for change in comparison.changed],
                "instructions": [_fields(change) for change in comparison.instructions],
            }
        )
        return
    paper = _Paper()
    paper.write(f"{short_digest(old.digest)} -> {short_digest(new.digest)}", bold=True)
    paper.write(f"{printable(old.name)} -> {printable(new.name)}", dim=True)
    for agent, changes in groupby(comparison.changes, lambda change: change.agent):
        paper.write("")
        paper.write(_heading(agent), bold=True)
        for change in changes:
            _write(paper, change)
    paper.write("")
    paper.write(_conclusion(old, new, comparison), bold=True)


def _heading(agent: str) -> str:
    """Give an agent's name, quoted if it could be taken for something else that is said here."""
    if not agent:
        return "the whole document"
    return agent if _PLAIN_NAME.fullmatch(agent) else f'"{printable(agent)}"'


def _conclusion(old: Side, new: Side, comparison: Comparison) -> str:
    if comparison:
        return comparison.summary
    if old.content != new.content:
        return "no change but in comments, layout or order"
    return "no change" if old.digest == new.digest else "no change: the same content under another digest"


def _write(paper: _Paper, change: Change) -> None:
    sign, colour = _SIGNS[change.sign]
    if change.weight in ("external", "unknown"):
        colour = "red"
    elif change.weight == "harmless":
        colour = "green"
    note = " (harmless)" if change.weight == "harmless" and change.subject != "agent" else ""
    paper.write(f"  {sign} {change}{note}", fg=colour)
    for line in change.diff:
        paper.write(_INDENT + line, fg=_DIFF_COLOURS.get(line[:1]))


def _fields(change: Change) -> dict[str, object]:
    return {
        "agent": change.agent or None,
        "subject": change.subject,
        "detail": change.detail,
        "path": change.path,
        "weight": change.weight,
        "diff": list(change.diff),
    }


class _Paper:
    """Standard output: on a terminal, no line is wider than it is, and some have colours."""

    def __init__(self) -> None:
        is_terminal = sys.stdout.isatty()
        self._width = max(_NARROWEST, shutil.get_terminal_size().columns) if is_terminal else None
        self._has_colours = is_terminal and not os.environ.get("NO_COLOR")

    def write(self, line: str, **style: str | bool | None) -> None:
        """Write a line; what doesn't fit goes on under where its text begins."""
        for part in self._parts(line):
            print(click.style(part, **style) if self._has_colours and part else part)  # type: ignore[arg-type]

    def _parts(self, line: str) -> Iterator[str]:
        if self._width is None or len(line) <= self._width:
            yield line
            return
        text = line.lstrip(" +-~@")
        hang = min(len(line) - len(text), self._width // 2)
        yield from textwrap.wrap(
            line,
            self._width,
            subsequent_indent=" " * hang,
            expand_tabs=False,
            replace_whitespace=False,
            drop_whitespace=True,
            break_on_hyphens=False,
        )
