"""When faults happen: by script, one request after the other, or by chance with a seed. Decides, does nothing.

May be used from any thread: a registry needn't run in the thread of those who arrange its faults.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import get_args

from lading.testing.faults import Fault, Redirect, needs_range
from lading.testing.record import RecordedRequest
from lading.testing.routes import Kind

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LOOP = ("loop=a", "loop=b")


@dataclass(frozen=True, slots=True)
class Applied:
    """A fault, and the request that it happened to, as the request arrived."""

    request: RecordedRequest
    fault: Fault


@dataclass(frozen=True, slots=True)
class Matcher:
    """Which requests are meant: by method and kind, by path, by whether they ask for a range."""

    method: str
    kind: str
    path: str
    ranged: bool | None

    @classmethod
    def parse(cls, on: str, path: str | None, ranged: bool | None) -> Matcher:
        """Read "GET blob", "GET *", "* blob" or "*", with a glob for the path; raise `ValueError`."""
        method, _, kind = on.partition(" ")
        kind = kind or "*"
        if method not in {*_METHODS, "*"} or kind not in {*get_args(Kind), "*"}:
            raise ValueError(f'not a method and a kind of request, like "GET blob": {on!r}')
        return cls(method, kind, path or "*", ranged)

    def matches(self, request: RecordedRequest) -> bool:
        """Tell whether the request is meant."""
        is_ranged = "Range" in request.headers
        return (
            self.method in ("*", request.method)
            and self.kind in ("*", request.kind)
            and fnmatchcase(request.path, self.path)
            and self.ranged in (None, is_ranged)
        )


@dataclass(slots=True)
class _Rule:
    matcher: Matcher
    faults: tuple[Fault, ...]
    skip: int
    times: int | None


@dataclass(slots=True)
class _Chance:
    matcher: Matcher
    faults: tuple[Fault, ...]
    seed: int
    rate: float
    seen: Counter[str] = field(default_factory=Counter)

    def draw(self, request: RecordedRequest) -> tuple[Fault, ...]:
        """Decide from the seed, the request and how often it came: the order among different requests is no matter."""
        # The path of an upload is different each time.
        name = f"{request.method} {request.kind if request.kind == 'upload' else request.path}"
        self.seen[name] += 1
        dice = random.Random(f"{self.seed} {self.seen[name]} {name}")
        return (dice.choice(self.faults),) if dice.random() < self.rate else ()


class Faults:
    """The faults of a registry to come, and those that were.

    Rules with a number of `times` are a script: each request takes the first one that means it and isn't used up.
    Rules without (`times=None`), and chance, hold besides, for every request that they mean.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._chances: list[_Chance] = []
        self._loops: dict[str, Redirect] = {}
        self._applied: list[Applied] = []

    def add(self, *faults: Fault, on: str = "*", times: int | None = 1, skip: int = 0, path: str | None = None) -> None:
        """Let the next `times` requests that `on` and `path` mean suffer `faults` together, after `skip` that don't.

        `on` is a method and a kind as in `summary()`, either may be "*"; `path` is a glob. `times=None` is for ever.
        Faults of ranges mean requests for ranges only. Raise `ValueError` for what means nothing.
        """
        if not faults or skip < 0 or (times is not None and times < 1):
            raise ValueError("at least one fault, at least one time")
        rule = _Rule(Matcher.parse(on, path, needs_range(faults)), faults, skip, times)
        with self._lock:
            self._rules.append(rule)

    def chaos(self, *, seed: int, rate: float, faults: Sequence[Fault], on: str = "*", path: str | None = None) -> None:
        """Let each request that `on` and `path` mean suffer one of `faults` with the probability `rate`.

        The same seed decides the same for the same requests, whatever others come in between.
        """
        if not faults or not 0 <= rate <= 1:
            raise ValueError("at least one fault, a rate from 0 to 1")
        chance = _Chance(Matcher.parse(on, path, None), tuple(faults), seed, rate)
        with self._lock:
            self._chances.append(chance)

    def clear(self) -> None:
        """Let nothing go wrong from now on, and forget what did."""
        with self._lock:
            self._rules.clear()
            self._chances.clear()
            self._loops.clear()
            self._applied.clear()

    @property
    def applied(self) -> list[Applied]:
        """What went wrong so far, in order."""
        with self._lock:
            return list(self._applied)

    # For the registry.

    def due(self, request: RecordedRequest) -> tuple[Fault, ...]:
        """Return what goes wrong with a request that has just arrived; each call uses the script up."""
        with self._lock:
            if not (self._rules or self._chances or self._loops):
                return ()
            if request.query in _LOOP and request.path in self._loops:
                return (self._loops[request.path],)
            found: list[Fault] = []
            for rule in self._due_rules(request):
                found.extend(rule.faults)
            for chance in self._chances:
                if chance.matcher.matches(request):
                    found.extend(chance.draw(request))
            return tuple(found)

    def note(self, request: RecordedRequest, fault: Fault) -> None:
        """Enter what is about to go wrong."""
        with self._lock:
            self._applied.append(Applied(request, fault))

    def follow(self, request: RecordedRequest, fault: Fault) -> None:
        """Let the next request for a range of the same thing suffer `fault`, before the rest of the script."""
        rule = _Rule(Matcher(request.method, request.kind, _literal(request.path), True), (fault,), 0, 1)
        with self._lock:
            self._rules.insert(0, rule)

    def turn(self, request: RecordedRequest, redirect: Redirect) -> str:
        """Return where a loop leads that a request has come into, and remember the loop."""
        with self._lock:
            self._loops[request.path] = redirect
        return f"{request.path}?{_LOOP[request.query == _LOOP[0]]}"

    def _due_rules(self, request: RecordedRequest) -> list[_Rule]:
        due: list[_Rule] = []
        is_scripted = False
        for rule in tuple(self._rules):
            if (rule.times is not None and is_scripted) or not rule.matcher.matches(request):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            due.append(rule)
            if rule.times is not None:
                is_scripted = True
                rule.times -= 1
                if not rule.times:
                    self._rules.remove(rule)
        return due


def _literal(path: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
