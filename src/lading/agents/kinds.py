"""The kinds of fields that there are: what a difference in each of them means. Each is a rule.

Where it isn't certain that less is possible than before, more may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from lading.agents.changes import Change, Place, Rule, as_one, compare_fields, differences, frozen, judge, unknown
from lading.agents.definition import Tree
from lading.agents.tools import as_items, as_mapping, join
from lading.agents.wording import code, is_short, listing, shown, text_diff, without_secrets
from lading.redact import redact, redact_url

_WORDS = 24
"""Characters that a text has at most, so that another can be beside it."""

# Fields that give no power


def text(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """What is for people, or a matter of taste."""
    if not all(one is None or isinstance(one, str) for one in (old, new)):
        for path, was, is_ in differences(place.label, old, new):
            yield replace(place, label=path).change("changed", _was(shown(is_), shown(was), was))
    elif all(len(one) <= _WORDS and is_short(one) for one in _texts(old, new)):
        yield place.change("changed", _was(shown(new), shown(old), old))
    else:
        yield place.change("changed", diff=text_diff(*_texts(old, new)))


def instruction(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """What an agent is told."""
    if all(one is None or isinstance(one, str) for one in (old, new)):
        yield place.change("instruction", diff=text_diff(*_texts(old, new)))
    else:
        yield from unknown(place, old, new)


# Fields that say what is reached or run: any other value is new power, and so is none, which stands for a default.


def target(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A path, a name, a command."""
    if all(one is None or isinstance(one, str) for one in (old, new)) and not all(map(is_short, _texts(old, new))):
        yield place.gained(diff=text_diff(*_texts(old, new)))
    else:
        yield from _reached(place, old, new, code)


def address(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A URL, which may hold a secret."""
    yield from _reached(place, old, new, redact_url)


def hidden(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Anything, of which secrets may be a part: only where it differs is shown."""
    for path, was, is_ in differences(place.label, old, new):
        yield replace(place, label=path).gained(_hidden(was, is_))


def environment(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Variables or headers: their names, and the values that are placeholders."""
    if any(not isinstance(one, Mapping) and one is not None for one in (old, new)):
        yield from hidden(place, old, new)
        return
    before, after = as_mapping(old), as_mapping(new)
    for name in (*after, *(name for name in before if name not in after)):
        if before.get(name) != after.get(name) or (name in before) != (name in after):
            label = f"{place.label or place.subject} {name}"
            yield replace(place, label=label, path=join(place.path, name)).gained(
                _hidden(before.get(name), after.get(name)) if name in before or after.get(name) is not None else ""
            )


# Fields that are lists


def grants(place: Place, old: Tree, new: Tree, there: str = "{}", gone: str = "no longer {}") -> Iterator[Change]:
    """A list of what may be done."""
    more, less = _apart(as_items(old), as_items(new))
    yield from (place.gained(there.format(item)) for item in more)
    yield from (place.change("lost", gone.format(item)) for item in less)


def blocks(place: Place, old: Tree, new: Tree, there: str = "{}", gone: str = "no longer {}") -> Iterator[Change]:
    """A list of what may not be done: what leaves it is new power."""
    more, less = _apart(as_items(old), as_items(new))
    yield from (place.gained(gone.format(item)) for item in less)
    yield from (place.change("lost", there.format(item)) for item in more)


def worded(rule: Callable[..., Iterator[Change]], there: str, gone: str) -> Rule:
    """A list of which each item is said in words of its own."""

    def with_words(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
        yield from rule(replace(place, label=""), old, new, there, gone)

    return with_words


def only(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A list of all that may be used: an empty one, or none, is no limit."""
    before, after = as_items(old), as_items(new)
    if before and not after:
        yield place.gained(f"any, was only {listing(map(shown, before))}")
    elif after and not before:
        yield place.change("lost", f"only {listing(map(shown, after))}")
    else:
        yield from grants(place, old, new, "{}, too")


# Fields that are a switch or a number


def enables(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A switch that gives power; off unless it is written."""
    yield from _switch(place, old, new, gives=True, default=False)


def confines(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A switch that takes power away; off unless it is written."""
    yield from _switch(place, old, new, gives=False, default=False)


def confines_by_default(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A switch that takes power away; on unless it is written."""
    yield from _switch(place, old, new, gives=False, default=True)


def ceiling(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """A number that something ends at; none, or 0, is no limit."""
    was, is_ = _limit(old), _limit(new)
    detail = _was(*("no limit" if limit == math.inf else shown(one) for limit, one in ((is_, new), (was, old))))
    if was is None or is_ is None or is_ > was:
        yield place.gained(detail)
    elif is_ < was:
        yield place.change("lost", detail)


# What is made of them


def nested(rules: Mapping[str, Rule]) -> Rule:
    """A mapping whose fields are of these kinds."""

    def rule(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
        yield from compare_fields(place, old, new, rules)

    return rule


def rows(rules: Mapping[str, Rule]) -> Rule:
    """A list of such mappings, compared by their places in it."""

    def rule(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
        before, after = as_items(old), as_items(new)
        for index in range(max(len(before), len(after))):
            where = replace(place, label=f"{place.label}[{index}]", path=f"{place.path}[{index}]")
            if index >= len(after):
                yield where.change("lost", "gone")
            elif index >= len(before):
                yield from as_one(where, compare_fields(where, None, after[index], rules))
            else:
                yield from judge(nested(rules), where, before[index], after[index])

    return rule


def models(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Names of models: another provider, or another address, gets to see what is said."""
    places = place.models.new_places(place.agent, old, new)
    detail = _was(shown(new), shown(old), old)
    if places:
        yield place.gained(f"{detail}; conversations go to {listing(places)}")
    else:
        yield place.change("changed", detail)


def _apart(old: tuple[Tree, ...], new: tuple[Tree, ...]) -> tuple[list[str], list[str]]:
    """Give what is only in the new list, and what is only in the old one, each once, fit to be shown."""
    before, after = ({frozen(item): item for item in side} for side in (old, new))
    apart = (
        [redact(item) if isinstance(item, str) else shown(item) for key, item in side.items() if key not in other]
        for side, other in ((after, before), (before, after))
    )
    more, less = apart
    return more, less


def _reached(place: Place, old: Tree, new: Tree, show: Callable[[str], str]) -> Iterator[Change]:
    if not all(one is None or isinstance(one, str) for one in (old, new)):
        yield from hidden(place, old, new)
        return
    before, after = _texts(old, new)
    is_ = show(after) if new is not None else "the default"
    yield place.gained(_was(is_, show(before), old) if old is not None else is_)


def _switch(place: Place, old: Tree, new: Tree, *, gives: bool, default: bool) -> Iterator[Change]:
    was, is_ = _state(old, default), _state(new, default)
    if was is is_ and is_ is not None:
        return
    detail = {True: "on", False: "off", None: shown(new)}[is_]
    if is_ is None or is_ is gives:
        yield place.gained(detail)
    else:
        yield place.change("lost", detail)


def _state(value: Tree, default: bool) -> bool | None:
    if value is None:
        return default
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _limit(value: Tree) -> float | None:
    if value is None:
        return math.inf
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    if math.isnan(number):
        return None
    return number if number > 0 else math.inf


def _hidden(old: Tree, new: Tree) -> str:
    value = without_secrets(new)
    if new is None:
        return "gone" if old is not None else ""
    return f"{value}{' instead' if old is not None else ''}" if value else "changed" if old is not None else ""


def _was(new: str, old: str, was: Tree = "") -> str:
    if was is None:
        return new
    return f"{new}, was {old}" if new != old else f"{new} (what is different isn't shown)"


def _texts(old: Tree, new: Tree) -> tuple[str, str]:
    return (old if isinstance(old, str) else ""), (new if isinstance(new, str) else "")
