"""The verb ``tree``: an agent, and the agents that it needs, drawn.

Each agent is drawn whole once, as close to the root as it is named; where else it is named, that is said. So a drawing
is never deeper than the closure is, and the same every time.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import click

from lading.agents.references import Url
from lading.arguments import read_lock
from lading.cli.options import common_options, locked_option, max_age_option, reference_argument, run
from lading.cli.prefetch import outcome_fields
from lading.cli.progress import CountBar, size_text
from lading.cli.render import ORIGINS, can_show, print_json, say, short_digest
from lading.client import Client
from lading.oci.reference import Reference
from lading.pull.prefetch import Outcome
from lading.redact import printable, redact_url

_NARROWEST = 20
"""Columns that text gets at least, however deep it is."""


@click.command()
@reference_argument
@locked_option
@max_age_option
@common_options
def tree(reference: Reference, locked: str | None, max_age: float | None, offline: bool, as_json: bool) -> int:
    """Draw an agent and the agents that it needs, down to 10 levels, with digests, sizes, and where each came from.

    They are pulled into the store. Agents at URLs are listed, and not fetched. If anything can't be had, that is said
    in its place, and the exit status is 1. With --json, a line an agent.

    \b
    Examples:
      lading tree acme/triage:v3
      lading tree acme/triage:v3 --locked agents.lock --offline
    """
    lock = read_lock(locked)

    async def verb(client: Client) -> dict[str, Outcome]:
        async with client.prefetch([reference], recursive=True, lock=lock, max_age=max_age) as outcomes:
            return {str(outcome.reference): outcome async for outcome in outcomes}

    with CountBar() as bar:
        outcomes = run(Client(offline=offline, events=bar), verb)
    shape = Shape(reference, outcomes)
    if as_json:
        for name in shape.parents:
            if name in outcomes:
                names = [str(one.reference) for one in outcomes[name].references if one.reference is not None]
                print_json({**outcome_fields(outcomes[name]), "references": list(dict.fromkeys(names))})
    else:
        for line in draw(shape, _width(), can_show("├└│─")):
            print(line)
    failed = sum(outcome.error is not None for outcome in outcomes.values())
    if failed:
        say(f"{failed} of {len(outcomes)} failed")
    return 1 if failed else 0


def _width() -> int | None:
    """Give the columns of the terminal that standard output is, ``None`` if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@dataclass(slots=True)
class Shape:
    """Under which agent each is drawn: the first that names it, level by level, in the order in which they do."""

    root: Reference
    outcomes: Mapping[str, Outcome]
    parents: dict[str, str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.parents = {str(self.root): None}
        level = [str(self.root)]
        while level:
            below: list[str] = []
            for name in level:
                for child in self.children(name):
                    if not child.is_url and child.name not in self.parents:
                        self.parents[child.name] = name
                        below.append(child.name)
            level = below

    def children(self, name: str) -> list[Child]:
        """Give what an agent names, each once."""
        outcome = self.outcomes.get(name)
        found: dict[Child, None] = {}
        for one in outcome.references if outcome else ():
            is_url = isinstance(one.target, Url)
            found[Child(redact_url(one.target.url) if isinstance(one.target, Url) else str(one.reference), is_url)] = (
                None
            )
        return list(found)

    def is_below(self, name: str, other: str) -> bool:
        """Tell whether ``other`` is ``name``, or drawn above it on the way from the root."""
        step: str | None = name
        while step is not None and step != other:
            step = self.parents[step]
        return step is not None


@dataclass(frozen=True, slots=True)
class Child:
    """What an agent names: another, or a URL."""

    name: str
    is_url: bool


def draw(shape: Shape, width: int | None, has_lines: bool) -> Iterator[str]:
    """Give the lines of the drawing, ``width`` columns at most; with the characters of ASCII unless ``has_lines``."""
    fork, last, bar = ("├── ", "└── ", "│   ") if has_lines else ("|-- ", "`-- ", "|   ")
    drawn: set[str] = set()

    def agent(name: str, head: str, tail: str) -> Iterator[str]:
        drawn.add(name)
        children = shape.children(name)
        said = _said(name, shape.outcomes.get(name))
        yield from _wrapped(name, said, head, tail + (bar if children else "    "), width)
        for number, child in enumerate(children, 1):
            is_last = number == len(children)
            here = tail + (last if is_last else fork), tail + ("    " if is_last else bar)
            if child.is_url:
                yield from _wrapped(child.name, "a URL, not fetched", here[0], here[1] + "    ", width)
            elif child.name not in drawn and shape.parents[child.name] == name:
                yield from agent(child.name, *here)
            else:
                if shape.is_below(name, child.name):
                    why = "a cycle"
                else:
                    why = "drawn above" if child.name in drawn else "drawn below"
                yield from _wrapped(child.name, why, here[0], here[1] + "    ", width)

    yield from agent(str(shape.root), "", "")


def _said(name: str, outcome: Outcome | None) -> str:
    """Give what is said of an agent."""
    if outcome is None:
        return "not followed"
    facts = []
    if agent := outcome.agent:
        facts = [short_digest(agent.descriptor.digest), size_text(len(agent.content)), ORIGINS[agent.origin]]
    if outcome.error is not None:
        facts.append(f"failed: {outcome.error.message.removeprefix(f'{name}: ')}")
    return ", ".join(facts)


def _wrapped(name: str, said: str, head: str, tail: str, width: int | None) -> Iterator[str]:
    """Give a node, on one line if it fits: ``head`` is before its first line, ``tail`` before the others."""
    line = printable(f"{name}  {said}")
    if width is None or len(head) + len(line) <= width:
        yield head + line
        return
    room = max(_NARROWEST, width - len(tail))
    first, *others = [
        part for text in (name, said) for part in textwrap.wrap(printable(text), room, break_on_hyphens=False)
    ]
    yield head + first
    for other in others:
        yield tail + other
