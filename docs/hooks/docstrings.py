"""Reads the docstrings of the sources, which are written for `help()`, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from griffe import Alias, Extension, Object

_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):`~?([\w.]+)`")
_LITERAL = re.compile(r"^( *)(.*?)::$", re.MULTILINE)
_CODE = re.compile(r"``(.+?)``", re.DOTALL)
_SECTION = re.compile(r"(?:Args|Attributes|Raises):")
_ITEM = re.compile(r"( +)(\w+(?:, \w+)+): (.*)")

_WHOLE = ("lading.errors.", "lading.events.")
"""Modules all of whose names are on a page."""


class Docstrings(Extension):
    """Turns the little reStructuredText that docstrings have into Markdown, before they are shown."""

    def on_package(self, *, pkg: Object, **kwargs: Any) -> None:
        public = {
            member.target_path: f"{pkg.path}.{name}"
            for name, member in pkg.members.items()
            if isinstance(member, Alias)
        }
        for found in _all(pkg):
            if found.docstring is not None:
                found.docstring.value = markdown(found.docstring.value, public)


def _all(top: Object) -> Iterator[Object]:
    rest = [top]
    while rest:
        one = rest.pop()
        yield one
        rest += [member for member in one.members.values() if not isinstance(member, Alias)]


def markdown(text: str, public: Mapping[str, str]) -> str:
    """Give a docstring as Markdown, with links to the names that are `public`, by where they are defined."""

    def link(found: re.Match[str]) -> str:
        name = public.get(found[1], found[1] if found[1].startswith(_WHOLE) else "")
        shown = f"`{found[1].rpartition('.')[2]}`"
        return f"[{shown}][{name}]" if name else shown

    text = _LITERAL.sub(lambda found: f"{found[1]}{found[2]}:" if found[2] else "", "\n".join(_lines(text)))
    return _CODE.sub(r"`\1`", _ROLE.sub(link, text))


def _lines(text: str) -> Iterator[str]:
    """Give the lines, in sections one item for each name of those that are described together."""
    lines = text.splitlines()
    is_section = False
    while lines:
        line = lines.pop(0)
        if line and not line.startswith(" "):
            is_section = _SECTION.fullmatch(line) is not None
        item = _ITEM.fullmatch(line) if is_section else None
        if item is None:
            yield line
            continue
        more = []
        while lines and lines[0].startswith(f"{item[1]} "):
            more.append(lines.pop(0))
        for name in item[2].split(", "):
            yield f"{item[1]}{name}: {item[3]}"
            yield from more
