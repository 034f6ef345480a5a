"""From outcomes to a lock file: every reference of a closure, and who names it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable

from lading.agents.agent import Agent
from lading.errors import LadingError
from lading.flight import Flights
from lading.oci.reference import Reference
from lading.pull.kept import Fetched
from lading.pull.lockfile import LockEntry, Lockfile
from lading.pull.prefetch import Outcome, Prefetch, Pull, References


async def lock(refs: References, pull: Pull, flights: Flights, keep: Lockfile | None) -> Lockfile:
    """Pull ``refs`` and all that their agents name, and lock them; what ``keep`` covers, to what it says.

    Raises:
        LadingError: one of them can't be had; the error's notes name the others that can't.
    """

    def pull_kept(reference: Reference, /, *, fetched: Fetched) -> Awaitable[Agent]:
        kept = None if keep is None else keep.find(reference)
        return pull(reference if kept is None else kept.pinned, fetched=fetched)

    async with Prefetch(refs, pull_kept, flights, recursive=True) as outcomes:
        return await _lock_outcomes(outcomes)


async def _lock_outcomes(outcomes: AsyncIterable[Outcome]) -> Lockfile:
    """Lock what a recursive, strict prefetch gives.

    Raises:
        LadingError: one of the outcomes is an error: the first in the order of their names; its notes name the others.
    """
    got: dict[str, Outcome] = {}
    failed: dict[str, LadingError] = {}
    parents: dict[str, set[str]] = {}
    async for outcome in outcomes:
        name = str(outcome.reference)
        if outcome.error is not None:
            failed[name] = outcome.error
            continue
        got[name] = outcome
        for one in outcome.references:
            if one.reference is not None:
                parents.setdefault(str(one.reference), set()).add(name)
    if failed:
        first, *others = sorted(failed)
        error = failed[first]
        for name in others:
            error.add_note(
                f"{name}: {failed[name].message}" if name not in failed[name].message else failed[name].message
            )
        raise error
    return Lockfile(tuple(_entry(outcome, parents.get(name, set())) for name, outcome in got.items()))


def _entry(outcome: Outcome, parents: set[str]) -> LockEntry:
    agent, reference = outcome.agent, outcome.reference
    assert agent is not None
    assert isinstance(reference, Reference)
    return LockEntry(
        reference,
        agent.descriptor.digest,
        agent.descriptor.media_type,
        agent.descriptor.size,
        tuple(map(Reference.parse, parents)),
        is_requested=outcome.depth == 0,
    )
