"""What a document lets its agents do, and what another version of it lets them do that this one doesn't.

Pure, and careful: what isn't certainly harmless counts as new power, such as a restriction that is gone, a server that
is reached at another address, and any field that isn't known. No difference is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Self, assert_never

from lading.agents.changes import SAME, Change, Place, Sign, compare_fields, judge, unknown
from lading.agents.definition import AgentDefinition, Document, Tree
from lading.agents.destinations import Destinations
from lading.agents.fields import AGENT, DOCUMENT
from lading.agents.matching import Matched, compare_tools, match
from lading.agents.references import Local, Oci, ReferenceField, Url, classify
from lading.agents.tools import Tool, as_items, as_mapping, definitions_of, join, tools_of
from lading.agents.wording import listing
from lading.redact import redact, redact_url

__all__ = ["Capabilities", "Change", "Comparison", "Sign", "Tool", "capabilities", "compare", "compare_agents"]

_SIGNS: tuple[Sign, ...] = ("gained", "lost", "changed", "instruction")
_SECTIONS = ("mcps", "rag", "toolsets")
_TOOLSETS = ("toolsets", "use_toolsets", "rag")
_OTHERS: dict[ReferenceField, str] = {
    "sub_agents": "sub-agent",
    "handoffs": "handoff to",
    "force_handoff": "forced handoff to",
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A document, with what the names in it stand for.

    Attributes:
        document: as it was read.
        tools: of each agent, in the order of the document.
        definitions: the tools that are defined for agents to name, by their paths.
        destinations: where what is said to a model goes.
    """

    document: Document
    tools: Mapping[str, tuple[Tool, ...]]
    definitions: Mapping[str, tuple[Tool, ...]] = field(repr=False)
    destinations: Destinations = field(repr=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two documents differ: all ``changes``, agent by agent, then those of the whole document."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def gained(self) -> tuple[Change, ...]:
        """What agents may do that they couldn't do; what is harmless says so."""
        return self._of("gained")

    @property
    def lost(self) -> tuple[Change, ...]:
        """What they may no longer do."""
        return self._of("lost")

    @property
    def changed(self) -> tuple[Change, ...]:
        """What is different and gives no power."""
        return self._of("changed")

    @property
    def instructions(self) -> tuple[Change, ...]:
        """What they are told otherwise."""
        return self._of("instruction")

    @property
    def new_capabilities(self) -> tuple[Change, ...]:
        """What is gained and isn't harmless."""
        return tuple(change for change in self.changes if change.is_new_capability)

    @property
    def summary(self) -> str:
        """What it comes to, in a line, fit to be shown."""
        new = self.new_capabilities
        if not new:
            return "no new capabilities" if self.changes else "no change"
        unknown_ = sum(change.weight == "unknown" for change in new)
        subjects = dict.fromkeys(change.subject for change in new)
        plural = "y" if len(new) == 1 else "ies"
        doubt = f" ({unknown_} of them unknown)" if 0 < unknown_ < len(new) else " (unknown)" if unknown_ else ""
        return f"{len(new)} new capabilit{plural}{doubt}: {listing(subjects)}"

    def _of(self, sign: Sign) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.sign == sign)


def capabilities(document: Document) -> Capabilities:
    """Read what ``document`` lets its agents do."""
    return Capabilities(document, tools_of(document), definitions_of(document), Destinations.of(document))


def compare_agents(old: bytes, new: bytes) -> Comparison:
    """Compare two agents as they were published.

    Raises:
        InvalidDocument: one of them can't be read.
    """
    from lading.agents.document import parse_document

    return compare(*(capabilities(parse_document(content)) for content in (old, new)))


def compare(old: Capabilities, new: Capabilities) -> Comparison:
    """Tell what ``new`` may do that ``old`` may not, and all other differences between their documents."""
    place = Place("", "", "", _Sides(old, new))
    matches = {name: match(old.tools.get(name, ()), new.tools.get(name, ())) for name in _names(new.tools, old.tools)}
    changes = [change for name in matches for change in _agent(place, old, new, name, matches[name])]
    changes += _first(place, old, new)
    changes += _definitions(place, old, new, changes, matches.values())
    before, after = (_without(side.document.tree, ("agents", *_SECTIONS)) for side in (old, new))
    changes += compare_fields(place, before, after, DOCUMENT)
    if not changes and old.document.tree != new.document.tree:
        changes.append(place.about("the document").gained("different", "unknown"))
    ranks = {name: rank for rank, name in enumerate((*matches, ""))}
    changes.sort(key=lambda one: (ranks[one.agent], _SIGNS.index(one.sign), one.weight != "external"))
    return Comparison(tuple(changes))


@dataclass(frozen=True, slots=True)
class _Sides:
    """Where both documents send what is said to their models."""

    old: Capabilities
    new: Capabilities

    def new_places(self, agent: str, old: Tree, new: Tree) -> list[str]:
        before, after = self.old.destinations, self.new.destinations
        known = before.agents.get(agent, before.everywhere) | before.reached_by(as_items(old))
        return sorted(after.reached_by(as_items(new)) - known)

    def is_known(self, provider: str) -> bool:
        return self.new.destinations.address(provider) in self.old.destinations.everywhere


def _without(fields: Tree, names: Iterable[str]) -> Mapping[str, Tree]:
    return {name: value for name, value in as_mapping(fields).items() if name not in names}


def _names(*sides: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for side in sides for name in side))


def _first(place: Place, old: Capabilities, new: Capabilities) -> Iterator[Change]:
    """Say so if another agent is the one that runs."""
    was, is_ = old.document.name, new.document.name
    if was != is_ and was is not None and is_ is not None:
        where = place.about("the agent that runs")
        detail = f"{redact(is_)}, was {redact(was)}"
        yield where.gained(detail) if is_ in old.tools else where.change("changed", detail)


def _agent(place: Place, old: Capabilities, new: Capabilities, name: str, matched: Matched) -> Iterator[Change]:
    """Compare one agent."""
    place = replace(place, agent=name, path=join("agents", name))
    was, is_ = (as_mapping(side.document.tree.get("agents")).get(name) for side in (old, new))
    if name not in new.tools:
        tools = listing(tool.subject for tool in old.tools[name])
        yield place.about("agent").change("lost", f"with {tools}" if tools else "")
        return
    changes = [*_toolsets(place, was, is_, matched), *_others(place, old, new, name)]
    before, after = (_without(one, (*_TOOLSETS, *_OTHERS)) for one in (was, is_))
    changes += compare_fields(place, before, after, AGENT)
    if not changes and was != is_ and name in old.tools:
        changes.append(place.about("agent").change("changed", SAME))
    if name in old.tools:
        yield from changes
        return
    # What limits or describes a new agent is a detail of it.
    is_detail = [change.sign in ("lost", "changed") and not change.diff for change in changes]
    details = [str(change) for change in compress(changes, is_detail)]
    yield place.about("agent").gained("; ".join(("new", *details)), "harmless")
    yield from (change for change, is_one in zip(changes, is_detail, strict=True) if not is_one)


def _toolsets(place: Place, old: Tree, new: Tree, matched: Matched) -> Iterator[Change]:
    """Compare the tools of an agent, whatever they are written as."""
    is_empty = True
    for change in compare_tools(place, matched):
        is_empty = False
        yield change
    if is_empty:
        for name in _TOOLSETS:
            was, is_ = (as_mapping(side) for side in (old, new))
            if was.get(name) != is_.get(name) or (name in was) != (name in is_):
                yield place.at(name).change("changed", "in another order, or written differently")


def _others(place: Place, old: Capabilities, new: Capabilities, name: str) -> Iterator[Change]:
    """Compare whom an agent can hand work to. The same name may stand for another agent."""
    none = AgentDefinition(name)
    was, is_ = (side.document.agents.get(name, none) for side in (old, new))
    for field_, what in _OTHERS.items():
        before, after = (
            dict.fromkeys((text, text in side.document.agents) for text in getattr(agent, field_))
            for side, agent in ((old, was), (new, is_))
        )
        where = place.at(field_)
        for text, is_here in after:
            if (text, is_here) not in before:
                subject, reached = _other(text, is_here)
                yield where.about(f"{what} {subject}").gained(reached, "external" if reached else "capability")
        for text, is_here in before:
            if (text, is_here) not in after:
                yield where.about(f"{what} {_other(text, is_here)[0]}").change("lost")
        fields = [as_mapping(as_mapping(side.document.tree.get("agents")).get(name)) for side in (old, new)]
        raw = [side.get(field_) for side in fields]
        if before == after and (raw[0] != raw[1] or (field_ in fields[0]) != (field_ in fields[1])):
            yield where.change("changed", SAME)


def _other(text: str, is_here: bool) -> tuple[str, str]:
    """Give what another agent is called; if it is outside the document, what that means."""
    target = Local(text) if is_here else classify(text)
    match target:
        case Oci(reference, name):
            pinned = "outside the document" if reference.is_pinned else "outside the document, not pinned"
            return f"{redact(name)} ({reference})" if name else str(reference), pinned
        case Url(url, name):
            return f"{redact(name)} ({redact_url(url)})" if name else redact_url(url), "outside the document, at a URL"
        case Local(name):
            return redact(name), ""
        case _:
            assert_never(target)


def _definitions(
    place: Place, old: Capabilities, new: Capabilities, changes: list[Change], matches: Iterable[Matched]
) -> Iterator[Change]:
    """Compare the definitions of tools, as far as what differs hasn't been found at an agent that uses them."""
    uses = _Uses.of(matches)
    found = {change.path for change in changes}
    for section in _SECTIONS:
        before, after = (side.document.tree.get(section) for side in (old, new))
        is_there = [section in side.document.tree for side in (old, new)]
        if not all(one is None or isinstance(one, Mapping) for one in (before, after)):
            yield from judge(unknown, place.at(section), before, after)
        elif not before and not after and (before != after or is_there[0] != is_there[1]):
            yield place.at(section).change("changed", SAME)
        was, is_ = as_mapping(before), as_mapping(after)
        for name in _names(is_, was):
            if was.get(name) != is_.get(name) or (name in was) != (name in is_):
                yield from _definition(place, old, new, join(section, name), uses, found)


def _definition(
    place: Place, old: Capabilities, new: Capabilities, path: str, uses: _Uses, found: set[str]
) -> Iterator[Change]:
    """Compare a definition. One that no agent is seen to use may be used in a way that isn't known: it counts."""
    is_old, is_new = path in old.definitions, path in new.definitions
    where = replace(place.about(redact(path)), path=path)
    if path in uses.gained or (path in uses.lost and not is_new):
        return
    if path in uses.after and not is_old:
        yield where.change("changed", "new")
    elif path in uses.before and not is_new:
        yield where.change("changed", "gone")
    else:
        here = list(compare_tools(place, match(old.definitions.get(path, ()), new.definitions.get(path, ()))))
        yield from (change for change in here if change.path not in found)
        if not here:
            yield where.change("changed", SAME)


@dataclass(frozen=True, slots=True)
class _Uses:
    """The paths of the definitions behind tools that were gained and lost, and that are still there."""

    gained: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    before: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, matches: Iterable[Matched]) -> Self:
        uses = cls()
        for matched in matches:
            for paths, tools in ((uses.gained, matched.gained), (uses.lost, matched.lost)):
                paths.update(path for tool in tools for path in tool.definitions)
            for old, new in matched.pairs:
                uses.before.update(old.definitions)
                uses.after.update(new.definitions)
        return uses
