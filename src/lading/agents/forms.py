"""The rules of fields that have a form of their own: hooks, commands, skills, safety, definitions by name."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from lading.agents.changes import Change, Place, Rule, as_one, compare_fields, frozen, judge
from lading.agents.definition import Tree
from lading.agents.kinds import environment, grants, hidden, instruction, models, nested, only, target, text
from lading.agents.tools import as_items, as_mapping, join
from lading.agents.wording import code, is_short, text_diff
from lading.redact import redact, redact_url

_OBSERVERS = frozenset(
    {
        *("session_start", "session_end", "on_user_input", "stop", "notification", "turn_end", "after_llm_call"),
        *("subagent_stop", "on_error", "on_max_iterations", "on_agent_switch", "on_session_resume"),
        *("on_tool_approval_decision", "after_compaction"),
    }
)
"""Hooks that can't refuse or change anything. Without any other one, more may be possible."""

_RUNS = re.compile(r"!`[^`]*`|!\w+\([^)]*\)|\$\{[^}]*\([^}]*\}")
"""What a prompt runs when somebody uses it: a command, a tool, an expression that calls something."""

_STRICTER = {
    *((None, "strict"), ("balanced", "strict"), ("autonomous", "strict")),
    *(("balanced", "restricted"), ("autonomous", "restricted")),
    *(("autonomous", None), ("autonomous", "balanced")),
}
"""Changes of the safety mode after which nothing runs unasked that didn't before."""


def safety(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """How much an agent may do unasked."""
    names = [one if isinstance(one, str) else "the default" for one in (new, old)]
    detail = f"{names[0]}, was {names[1]}"
    is_stricter = all(one is None or isinstance(one, str) for one in (old, new)) and (old, new) in _STRICTER
    yield place.change("lost", detail) if is_stricter else place.gained(detail)


def prompt(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Text that is used when somebody calls it by its name, and what it runs then."""
    before, after = (_RUNS.findall(one) if isinstance(one, str) else [] for one in (old, new))
    known = set(before)
    where = replace(place, label="")
    yield from (where.gained(f"runs {code(one)}") for one in dict.fromkeys(after) if one not in known)
    yield from instruction(place, old, new)


def commands(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Prompts that people use by their names: a mapping, or a list of mappings, to texts or to mappings."""
    before, after = _by_name(old), _by_name(new)
    if before is None or after is None:
        yield from hidden(place, old, new)
        return
    for name in _names(before, after):
        where = replace(place.about(f"command /{redact(name)}"), path=join(place.path, name))
        was, is_ = (_command(side.get(name)) for side in (before, after))
        if name not in after:
            yield where.change("changed", "gone")
        elif name in before:
            yield from judge(nested(_COMMAND), where, was, is_)
        else:
            parts = list(compare_fields(where, None, is_, _COMMAND))
            is_told = len(parts) == 1 and parts[0].sign == "instruction"
            yield from (replace(part, detail="new") for part in parts) if is_told else as_one(where, parts)


def _by_name(value: Tree) -> dict[str, Tree] | None:
    found: dict[str, Tree] = {}
    for part in as_items(value):
        if not isinstance(part, Mapping):
            return None
        found.update(part)
    return found


def _command(value: Tree) -> Tree:
    return {"instruction": value} if isinstance(value, str) else value


def hooks(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Commands that run at certain moments; some of them can refuse what an agent is about to do."""
    if not all(one is None or isinstance(one, Mapping) for one in (old, new)):
        yield from hidden(place, old, new)
        return
    before, after = (list(_each_hook(place.path, as_mapping(side))) for side in (old, new))
    kept = {hook.key for hook in before} & {hook.key for hook in after}
    waiting: dict[str, deque[_Hook]] = {}
    for hook in before:
        if hook.key not in kept:
            waiting.setdefault(hook.moment, deque()).append(hook)
    for hook in after:
        where = replace(place.about(f"hook {redact(hook.moment)}"), path=hook.path)
        if hook.key in kept:
            continue
        if waiting.get(hook.moment):
            yield from judge(nested(_HOOK), where, waiting[hook.moment].popleft().fields, hook.fields)
        else:
            yield runs(where, as_mapping(hook.fields).get("command"))
    for hook in (hook for rest in waiting.values() for hook in rest):
        where = replace(place.about(f"hook {redact(hook.moment)}"), path=hook.path)
        gone = runs(where, as_mapping(hook.fields).get("command")).detail
        if hook.event in _OBSERVERS:
            yield where.change("lost", f"no longer {gone}")
        else:
            yield where.gained(f"no longer {gone}, and could have refused something")


@dataclass(frozen=True, slots=True)
class _Hook:
    event: str
    moment: str
    fields: Tree
    path: str

    @property
    def key(self) -> object:
        return self.moment, frozen(self.fields)


def _each_hook(path: str, events: Mapping[str, Tree]) -> Iterator[_Hook]:
    for event, entries in events.items():
        for index, entry in enumerate(as_items(entries)):
            where = f"{join(path, event)}[{index}]"
            if not isinstance(entry, Mapping) or "hooks" not in entry:
                yield _Hook(event, event, entry, where)
                continue
            matcher = entry.get("matcher")
            rest = {name: value for name, value in entry.items() if name not in ("hooks", "matcher")}
            moment = f"{event} ({matcher})" if isinstance(matcher, str) else event
            for number, one in enumerate(as_items(entry["hooks"])):
                fields: Tree = {**rest, **one} if isinstance(one, Mapping) else one
                yield _Hook(event, moment, fields, f"{where}.hooks[{number}]")


def runs(place: Place, command: Tree, when: str = "") -> Change:
    """Say that ``command`` runs."""
    if not isinstance(command, str):
        return place.gained(f"{when}runs what isn't written as a command")
    command = command.strip("\n")
    return place.gained(f"{when}runs {code(command)}", diff=() if is_short(command) else text_diff("", command))


def after_edits(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Commands that run when files were edited."""
    place = replace(place, label="")
    before, after = ({frozen(item): item for item in as_items(side)} for side in (old, new))
    for side, other in ((after, before), (before, after)):
        for item in (item for key, item in side.items() if key not in other):
            fields = as_mapping(item)
            files = fields.get("path")
            when = f"after edits of {redact(files) if isinstance(files, str) else 'files'} "
            change = runs(place, fields.get("cmd"), when)
            yield change if side is after else place.change("lost", f"no longer {change.detail}")


def skills(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Instructions that an agent finds for itself: switched on, or a list of sources, names and definitions."""
    before, after = _Skills.read(old), _Skills.read(new)
    if before is None or after is None:
        yield from hidden(place, old, new)
        return
    for source in sorted(after.sources - before.sources):
        is_far = source != _LOCAL
        yield place.gained(f"from {redact_url(source)}", "external" if is_far else "capability")
    for source in sorted(before.sources - after.sources):
        yield place.change("lost", f"none from {redact_url(source)}")
    if before.sources and after.sources:
        yield from only(place, before.names, after.names)
    for name in _names(before.inline, after.inline):
        where = replace(place.about(f"skill {redact(name)}"), path=join(place.path, name))
        if name not in after.inline:
            yield where.change("lost")
            continue
        if name not in before.inline:
            yield where.gained()
        yield from judge(nested(_SKILL), where, before.inline.get(name), after.inline[name])


_LOCAL = "local"


@dataclass(frozen=True, slots=True)
class _Skills:
    """A field ``skills``, told apart."""

    sources: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    inline: Mapping[str, Tree] = field(default_factory=dict)

    @classmethod
    def read(cls, value: Tree) -> Self | None:
        """Give what is written, or ``None`` if it has another form."""
        if value in (None, "false", "true"):
            return cls(frozenset({_LOCAL}) if value == "true" else frozenset())
        texts = [item for item in as_items(value) if isinstance(item, str)]
        inline = {}
        for item in as_items(value):
            name = as_mapping(item).get("name")
            if isinstance(name, str):
                inline[name] = item
        if not isinstance(value, tuple) or len(texts) + len(inline) != len(value):
            return None
        sources = {one for one in texts if one == _LOCAL or one.startswith(("http://", "https://"))}
        names = tuple(one for one in texts if one not in sources)
        return cls(frozenset(sources or ({_LOCAL} if names else ())), names, inline)


def each(what: str, inner: Rule, *, limits: bool = False) -> Rule:
    """A mapping of names to what ``inner`` is the rule of; of ``limits``, one that is gone is new power."""

    def rule(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
        if not all(one is None or isinstance(one, Mapping) for one in (old, new)):
            yield from hidden(place, old, new)
            return
        before, after = as_mapping(old), as_mapping(new)
        for name in _names(before, after):
            where = replace(place.about(f"{what} {redact(name)}"), path=join(place.path, name))
            if name not in after:
                yield where.gained("gone") if limits else where.change("lost")
            elif name in before:
                yield from judge(inner, where, before[name], after[name])
            elif limits:
                yield where.change("lost")
            else:
                yield from as_one(where, inner(where, None, after[name]))

    return rule


def _names(before: Mapping[str, Tree], after: Mapping[str, Tree]) -> Iterator[str]:
    yield from after
    yield from (name for name in before if name not in after)


_COMMAND: Mapping[str, Rule] = {"instruction": prompt, "description": text, "agent": target, "url": target}

_HOOK: Mapping[str, Rule] = {
    **{"type": target, "command": target, "name": target, "args": hidden, "env": environment, "model": models},
    **{"working_dir": target, "timeout": text},
}

_SKILL: Mapping[str, Rule] = {
    **{"name": text, "description": text, "instructions": prompt, "context": text, "model": models},
    **{"allowed_tools": only, "toolsets": grants},
}
