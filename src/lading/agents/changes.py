"""Differences between two documents: what they are, where they are, and how none of them is left out.

A *rule* is given what a field was and what it is, and says what of that is new power. It may say nothing where both
mean the same; :func:`judge` then says that something was written differently, so that no difference is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from lading.agents.definition import Tree
from lading.agents.tools import as_mapping, join
from lading.agents.wording import without_secrets
from lading.redact import redact

Sign = Literal["gained", "lost", "changed", "instruction"]
Weight = Literal["none", "harmless", "capability", "external", "unknown"]

SAME = "written differently, to the same effect"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, fit to be shown: escaped and without secrets, but for ``agent``.

    Attributes:
        sign: whether an agent may do more, less, neither; or is told something else.
        agent: whose it is; empty if the whole document's.
        subject: what it is about: ``shell``, ``MCP server docker:github``, ``permissions``.
        detail: what is different about it; empty if it is there, or isn't, as a whole.
        path: where it is written in the document that has it.
        weight: what is gained: a capability, one that reaches an agent outside the document (``external``), one that
            gives no power (``harmless``), or what lading doesn't know and has to take for a capability (``unknown``).
        diff: of a longer text, the lines of a unified diff.
    """

    sign: Sign
    agent: str
    subject: str
    detail: str = ""
    path: str = ""
    weight: Weight = "none"
    diff: tuple[str, ...] = ()

    @property
    def is_new_capability(self) -> bool:
        """Whether an agent may be able to do something that it couldn't do before."""
        return self.weight in ("capability", "external", "unknown")

    def __str__(self) -> str:
        is_field = self.weight == "unknown" and self.subject == redact(self.path)
        about = f"changed: {self.subject}" if is_field else self.subject
        return ": ".join(part for part in (about, self.detail) if part)


class Models(Protocol):
    """Who gets to see what is said."""

    def new_places(self, agent: str, old: Tree, new: Tree) -> list[str]:
        """Give where what is said to the models ``new`` goes now, and didn't go for ``old``, in order.

        What a new agent is told may go wherever the old document sent something already.
        """
        ...

    def is_known(self, provider: str) -> bool:
        """Tell whether the old document sent something to where ``provider`` is now."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a difference is, and what it is about; ``label`` is what of it, where that has to be said."""

    agent: str
    subject: str
    path: str
    models: Models
    label: str = ""

    def at(self, name: str, path: str = "") -> Place:
        """Give the place of the entry ``name``. What isn't about anything yet is about that."""
        where = path or join(self.path, name)
        if not self.subject:
            return replace(self, subject=redact(name), path=where)
        return replace(self, label=join(self.label, name), path=where)

    def about(self, subject: str) -> Place:
        """Give the same place with another thing that it is about."""
        return replace(self, subject=subject, label="")

    def change(self, sign: Sign, detail: str = "", weight: Weight = "none", diff: tuple[str, ...] = ()) -> Change:
        """Give a difference at this place."""
        text = redact(f"{self.label}: {detail}" if self.label and detail else self.label or detail)
        return Change(sign, self.agent, self.subject, text, self.path, weight, diff)

    def gained(self, detail: str = "", weight: Weight = "capability", diff: tuple[str, ...] = ()) -> Change:
        """Give a difference that is new power."""
        return self.change("gained", detail, weight, diff)


Rule: TypeAlias = Callable[[Place, Tree, Tree], Iterator[Change]]


def judge(rule: Rule, place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Say what the difference between ``old`` and ``new`` means; nothing only if there is none."""
    if old != new:
        found = list(rule(place, old, new))
        yield from found or [place.change("changed", SAME)]


def compare_fields(
    place: Place, old: Tree, new: Tree, rules: Mapping[str, Rule], written: Mapping[str, str] | None = None
) -> Iterator[Change]:
    """Compare two mappings, field by field: in the order of ``rules``, then what has no rule. Null is an empty one.

    ``written`` says where fields are that aren't at ``place``.
    """
    if not all(one is None or isinstance(one, Mapping) for one in (old, new)):
        yield from unknown(place, old, new)
        return
    before, after = as_mapping(old), as_mapping(new)
    names = before.keys() | after.keys()
    for name in (*(name for name in rules if name in names), *sorted(names - rules.keys())):
        where = place.at(name, (written or {}).get(name, ""))
        rule = rules.get(name, unknown)
        was, is_ = before.get(name), after.get(name)
        if was is None and is_ is None and (name in before) != (name in after):
            if rule is unknown:
                yield from unknown(where, was, is_)
            else:
                yield where.change("changed", "null" if name in after else "no longer null, but left out")
        yield from judge(rule, where, was, is_)


def unknown(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """What lading doesn't know: whatever is different may be new power, at each place where it is."""
    for path, was, is_ in differences(place.path, old, new):
        value = f" {without_secrets(is_)}" if without_secrets(is_) is not None else ""
        what = "unknown, and gone" if is_ is None and was is not None else f"unknown{',' if value else ''}{value}"
        about = f" (of {place.subject})" if place.label else ""
        yield Change("gained", place.agent, redact(path), f"{what}{about}", path, "unknown")


def differences(path: str, old: Tree, new: Tree) -> Iterator[tuple[str, Tree, Tree]]:
    """Give each path where two trees differ, the innermost ones, and what is there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old and new:
        for name in (*new, *(name for name in old if name not in new)):
            if old.get(name) != new.get(name) or (name in old) != (name in new):
                yield from differences(join(path, name), old.get(name), new.get(name))
    elif isinstance(old, tuple) and isinstance(new, tuple) and old and new:
        for index in range(max(len(old), len(new))):
            was, is_ = (side[index] if index < len(side) else None for side in (old, new))
            if was != is_ or (index < len(old)) != (index < len(new)):
                yield from differences(f"{path}[{index}]", was, is_)
    else:
        yield path, old, new


def as_one(place: Place, changes: Iterable[Change], default: Change | None = None) -> Iterator[Change]:
    """Give what is said of a thing that is new as one difference, and what is told to agents.

    It is ``default``, with the details; or new power if one of them is.
    """
    parts = list(changes)
    rest = [part for part in parts if part.sign != "instruction"]
    is_power = any(part.is_new_capability for part in rest)
    one = default or (place.gained() if is_power else place.change("changed", "new"))
    details = [one.detail]
    diff = list(one.diff)
    for part in rest:
        if part.diff:
            diff += (f"@@ {part.detail} @@", *part.diff)
        else:
            details.append(f"{part.subject} unknown" if part.weight == "unknown" else part.detail)
    yield replace(one, detail=redact("; ".join(filter(None, details))), diff=tuple(diff))
    yield from (part for part in parts if part.sign == "instruction")


def frozen(tree: Tree) -> Hashable:
    """Give what is equal for equal trees and can be a key."""
    if isinstance(tree, Mapping):
        return frozenset((name, frozen(value)) for name, value in tree.items())
    return tuple(map(frozen, tree)) if isinstance(tree, tuple) else tree
