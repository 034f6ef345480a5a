"""What is remembered of a registry's challenges: the seam where a store may stand in."""

from __future__ import annotations

from typing import Protocol

from lading.auth.challenge import Challenge
from lading.http.transport import Origin


class ChallengeMemory(Protocol):
    """Where the challenge of a registry is remembered, so that the next request can answer it in advance.

    A remembered challenge has its ``realm`` and ``service`` only, no secret, and is judged again when it is recalled.
    """

    def recall(self, registry: Origin, /) -> Challenge | None:
        """Give the last challenge of ``registry`` that was answered."""
        ...

    def remember(self, registry: Origin, challenge: Challenge, /) -> None:
        """Keep ``challenge``, whose answer ``registry`` has accepted. Called on the event loop: returns at once."""
        ...


class RecentChallenges:
    """A challenge memory that lives as long as its client."""

    def __init__(self) -> None:
        self._challenges: dict[Origin, Challenge] = {}

    def recall(self, registry: Origin, /) -> Challenge | None:
        return self._challenges.get(registry)

    def remember(self, registry: Origin, challenge: Challenge, /) -> None:
        self._challenges[registry] = challenge
