"""Which tool of one version of an agent is which of the other, and what differs between the two."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from lading.agents.changes import Change, Place, Rule, Weight, as_one, compare_fields, frozen
from lading.agents.fields import SCRIPT, TOOL
from lading.agents.tools import HARMLESS, Tool
from lading.agents.wording import is_short, text_diff


@dataclass(frozen=True, slots=True)
class Matched:
    """Tools that both have, and those of one only; ``repeated`` are in both, but not as often."""

    pairs: tuple[tuple[Tool, Tool], ...] = ()
    gained: tuple[Tool, ...] = ()
    lost: tuple[Tool, ...] = ()
    repeated: tuple[Tool, ...] = ()


def match(old: tuple[Tool, ...], new: tuple[Tool, ...]) -> Matched:
    """Match tools: those that are equal, then those that are the same one, in their order."""
    keys: dict[int, Hashable] = {id(tool): (tool.identity, frozen(tool.fields)) for tool in (*old, *new)}
    pairs, before, after = _pairs(old, new, keys)
    more, before, after = _pairs(before, after, {id(tool): tool.identity for tool in (*old, *new)})
    of_old, of_new = ({keys[id(tool)] for tool in side} for side in (old, new))
    in_both = of_old & of_new
    return Matched(
        (*pairs, *more),
        tuple(tool for tool in after if keys[id(tool)] not in in_both),
        tuple(tool for tool in before if keys[id(tool)] not in in_both),
        tuple(tool for tool in (*after, *before) if keys[id(tool)] in in_both),
    )


def _pairs(
    old: tuple[Tool, ...], new: tuple[Tool, ...], keys: dict[int, Hashable]
) -> tuple[tuple[tuple[Tool, Tool], ...], tuple[Tool, ...], tuple[Tool, ...]]:
    """Pair tools with equal keys; give the pairs and what is left of both sides."""
    waiting: dict[Hashable, list[Tool]] = {}
    for tool in reversed(old):
        waiting.setdefault(keys[id(tool)], []).append(tool)
    pairs, rest = [], []
    for tool in new:
        if waiting.get(keys[id(tool)]):
            pairs.append((waiting[keys[id(tool)]].pop(), tool))
        else:
            rest.append(tool)
    paired = {id(tool) for tool, _ in pairs}
    return tuple(pairs), tuple(tool for tool in old if id(tool) not in paired), tuple(rest)


def compare_tools(place: Place, matched: Matched) -> Iterator[Change]:
    """Say how tools differ."""
    for tool in matched.gained:
        where = _at(place, tool)
        parts = list(compare_fields(where, None, tool.options, _rules(tool)))
        is_harmless = tool.type in HARMLESS and not any(part.is_new_capability for part in parts)
        weight: Weight = "harmless" if is_harmless else "external" if tool.type == "a2a" else "capability"
        # What is too long for a line, but is what runs.
        diff = () if is_short(tool.line) else text_diff("", tool.line)
        yield from as_one(where, parts, where.gained(weight=weight if tool.is_known else "unknown", diff=diff))
    for tool in matched.lost:
        yield _at(place, tool).change("lost")
    for old, new in matched.pairs:
        written = {name: path for name, path in old.written.items() if name not in new.fields} | {**new.written}
        yield from compare_fields(_at(place, new), old.fields, new.fields, _rules(new), written)
    for tool in matched.repeated:
        yield _at(place, tool).change("changed", "not listed as often as it was")


def _at(place: Place, tool: Tool) -> Place:
    return replace(place, subject=tool.subject, path=tool.path, label="")


def _rules(tool: Tool) -> Mapping[str, Rule]:
    return SCRIPT if tool.is_script else TOOL
