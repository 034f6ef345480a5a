"""The closure of a set of agents: they, and what their agents name, level by level, each once. Pure.

Level 0 is what was asked for; what an agent of one level names, and was not met before, is of the next. An agent that
is named again, also by one that it names itself, is not asked for again: a cycle just ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from lading.agents.references import ExternalReference
from lading.errors import LadingError
from lading.oci.reference import Reference

DEPTH_LIMIT = 10
"""How far below what was asked for an agent may be: docker-agent goes no deeper either."""

COUNT_LIMIT = 100_000
"""Agents that others name at most."""

BYTES_LIMIT = 1024 * 1024 * 1024
"""Bytes of the content of the agents that others name at most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One reference of a closure: how deep it is, and the first agent that names it."""

    reference: Reference
    depth: int = 0
    needed_by: Reference | None = None


class Closure:
    """Knows what was met, and collects the next level.

    What was met costs about 80 bytes a reference: a million of them are bounded by nothing else.
    """

    def __init__(self, depth: int = DEPTH_LIMIT, count: int = COUNT_LIMIT, size: int = BYTES_LIMIT) -> None:
        self._depth = depth
        self._count = count
        self._size = size
        self._met: set[bytes] = set()
        self._next: list[Asked] = []

    def meet(self, reference: Reference) -> bool:
        """Take note of a reference; tells whether it is met for the first time."""
        # 15 bytes: enough never to meet two names with one hash, and with its header just three words of 16.
        key = blake2b(str(reference).encode(), digest_size=15).digest()
        if key in self._met:
            return False
        self._met.add(key)
        return True

    def follow(
        self, asked: Asked, size: int, references: Iterable[ExternalReference]
    ) -> tuple[Asked, LadingError] | None:
        """Collect what an agent of ``size`` bytes of content names; gives the first that is too much, and why."""
        if asked.depth:
            self._size -= size
        for one in references:
            if one.reference is None or not self.meet(one.reference):
                continue
            new = Asked(one.reference, asked.depth + 1, asked.reference)
            why = self._why_not(new)
            if why:
                message = f"{new.reference}: not followed from {asked.reference}: {why}"
                return new, LadingError(message, hint="pull it by itself, if it is meant to be there")
            self._count -= 1
            self._next.append(new)
        return None

    def next_level(self) -> list[Asked]:
        """Give what is to be asked for next; empty at the end."""
        level, self._next = self._next, []
        return level

    def _why_not(self, new: Asked) -> str:
        if new.depth > self._depth:
            return f"agents are nested deeper than {self._depth}"
        if self._count <= 0:
            return "agents name too many others, all in all"
        if self._size < 0:
            return "the agents that others name are too large, all in all"
        return ""
