"""What is compared with what: each module has the scenarios of one kind, ``EVERY`` has them all, in order."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.plan import Scenario
from benchmarks.scenarios import agents, large, single

EVERY: tuple[Scenario, ...] = (*large.SCENARIOS, *agents.SCENARIOS, *single.SCENARIOS)


def chosen(names: Sequence[str], *, everything: bool = False) -> list[Scenario]:
    """Give the scenarios that ``names`` name (``cold`` is ``cold@0``, ``cold@20``, … too).

    Without any name, all, those on request if ``everything`` is asked for. Raises ValueError for a name that nothing
    has.
    """
    if not names:
        return [one for one in EVERY if everything or not one.on_request]
    found = []
    for name in names:
        matches = [one for one in EVERY if one.name == name or one.name.startswith(f"{name}@")]
        if not matches:
            raise ValueError(f"there is no scenario {name!r}; --list shows them")
        found += [one for one in matches if one not in found]
    return found
