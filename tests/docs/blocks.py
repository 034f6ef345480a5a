"""The code blocks of a page, as they are written. Pure: nothing is run here.

What a block is for stands in its first line, and in HTML comments right before it, which readers don't see:

- ``title="triage.yaml"`` makes it the content of that file.
- ``<!-- not run: why -->``: it can't be run, for the reason that is given.
- ``<!-- before: command -->``: what a reader has done by then, for the shell.
- ``<!-- status: 1 -->``: the exit status of its last command; without that, 0.
- ``<!-- output: why -->``: what is shown stands for something else, for the reason that is given; it isn't compared.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

RUNNABLE = ("python", "console", "sh")

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,})(?: \{ \.)?(?P<language>[a-z0-9+-]*)(?P<rest>[^`\n]*)")
_TITLE = re.compile(r'title="([^"]+)"')
_COMMENT = re.compile(r" *<!-- (?P<text>.*?) -->")
_MARK = re.compile(r"(not run|before|status|output): (.+)")
_INCLUDED = re.compile(r'\s*--8<-- "([^"]+)"\s*')


@dataclass(frozen=True, slots=True)
class Block:
    """One code block; ``line`` is that of its fence, from 1."""

    language: str
    text: str
    line: int
    title: str = ""
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def why_not(self) -> str:
        """Why it isn't run; empty if it is."""
        return self.marks.get("not run", "")

    @property
    def is_run(self) -> bool:
        return self.language in RUNNABLE and not (self.title or self.why_not or self.included)

    @property
    def status(self) -> int:
        return int(self.marks.get("status", "0"))

    @property
    def included(self) -> str:
        """The file that it consists of, if it is nothing but an include."""
        match = _INCLUDED.fullmatch(self.text)
        return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a ``console`` block, and what is shown below it; ``shown`` is ``None`` where nothing is."""

    text: str
    shown: tuple[str, ...] | None

    @property
    def is_background(self) -> bool:
        return re.search(r"&\s*(#.*)?$", self.text) is not None


def blocks(page: str) -> Iterator[Block]:
    """Give the code blocks of a page in their order."""
    lines = enumerate(page.splitlines(), 1)
    marks: dict[str, str] = {}
    for number, line in lines:
        opening = _FENCE.fullmatch(line)
        if opening is None:
            comment = _COMMENT.fullmatch(line)
            mark = _MARK.fullmatch(comment["text"]) if comment else None
            if mark:
                marks[mark[1]] = mark[2]
            elif line.strip() and not comment:
                marks = {}
            if re.fullmatch(r"[ >*-]*`{3,}.*", line):
                raise ValueError(f"line {number}: a code block that this can't read")
            continue
        body = []
        for _, inside in lines:
            if inside.strip() == opening["fence"]:
                break
            body.append(inside)
        title = _TITLE.search(opening["rest"])
        text = textwrap.dedent("\n".join(body))
        yield Block(opening["language"], text, number, title[1] if title else "", marks)
        marks = {}


def commands(block: Block) -> list[Command]:
    """Give the commands of a block: of ``console`` what follows ``$ ``, of ``sh`` all of it, without output."""
    if block.language == "sh":
        return [Command(block.text, None)]
    found: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif not found:
            raise ValueError(f"line {block.line}: a console block begins with a command")
        elif line.startswith("> ") and not found[-1][1]:
            found[-1][0].append(line[2:])
        else:
            found[-1][1].append(line.rstrip())
    return [Command("\n".join(text), tuple(_stripped(shown)) or None) for text, shown in found]


def matches(shown: tuple[str, ...], came: str) -> bool:
    """Tell whether output is what a page shows: ``…`` is any text, on a line of its own any lines, even none.

    Two spaces and more are any number of them.
    """
    pattern = ""
    for line in shown:
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            # Columns are as wide as what is in them.
            words = [re.escape(word) for word in re.split(r" {2,}", line)]
            pattern += " +".join(words).replace("…", ".*") + "\n"
    lines = _stripped([line.rstrip() for line in came.splitlines()])
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _stripped(lines: list[str]) -> list[str]:
    """Leave out empty lines around the others."""
    while lines and not lines[0]:
        lines = lines[1:]
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines
