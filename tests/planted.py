"""Twenty secrets, and whoever looks for them in everything that a run of tests says.

The secrets are planted where secrets are: tests let real flows use them. All of them share a mark that is in no other
text of this project, so that one short search finds any of them, also in base64. A whole run is watched: each record of
each logger at every level, each error of lading's with its chain of causes, each event. Nothing of what a test sees is
changed by that: no level, no handler, no lifetime of an object.
"""

from __future__ import annotations

import functools
import logging
import os
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from raw_server import forms

from lading import events
from lading.errors import LadingError

MARK = "Zq7pl4ntedXk"

PLACES = (
    "password",
    "identity token",
    "registry token",
    "access token of a token server",
    "refresh token in a token answer",
    "realm query",
    "signed redirect query",
    "upload Location query",
    "Link query",
    "proxy password",
    "proxy user",
    "configured header",
    "LADING_PASSWORD",
    "DOCKER_AUTH_CONFIG",
    "helper stdout",
    "helper stderr",
    "config.json auth",
    "WWW-Authenticate error_description",
    "error body that echoes Authorization",
    "user information in a URL",
)
SECRETS = {place: f"{MARK}{number:02}w" for number, place in enumerate(PLACES, 1)}

_CHAIN = 50
"""Causes and contexts of one error that are looked at."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Where a secret was seen, and in which test."""

    kind: str
    text: str
    test: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text!r} ({self.test})"


@dataclass(eq=False)
class Watcher:
    """Looks for ``mark`` in everything that it is shown, and from ``start`` to ``stop`` in everything that is said."""

    mark: str = MARK
    lines: int = 0
    errors: int = 0
    told: int = 0
    leaks: list[Leak] = field(default_factory=list)
    played: set[str] = field(default_factory=set)
    """The places whose secrets were really used."""

    def __post_init__(self) -> None:
        self._needles = tuple(forms(self.mark))
        self._alive: weakref.WeakSet[LadingError] = weakref.WeakSet()
        self._undo: list[Callable[[], None]] = []

    def look(self, kind: str, text: str) -> None:
        """Look for the mark in ``text``."""
        for needle in self._needles:
            if needle in text:
                self.leaks.append(Leak(kind, text[:2000], os.environ.get("PYTEST_CURRENT_TEST", "")))
                return

    def look_at_record(self, record: logging.LogRecord) -> None:
        """Look at everything that a handler could make of a record."""
        self.lines += 1
        try:
            self.look(f"log {record.name}", record.getMessage())
        except (TypeError, ValueError):
            self.look(f"log {record.name}", str(record.msg))  # logging complains of it by itself
        if record.args:
            self.look(f"log {record.name}", repr(record.args))
        if record.exc_info:
            self.look(f"log {record.name}", "".join(traceback.format_exception(*record.exc_info)))

    def look_at_error(self, error: BaseException) -> None:
        """Look at an error: its texts, its fields, and those of what it was raised from or during."""
        pending: list[BaseException | None] = [error]
        seen: set[int] = set()
        while pending and len(seen) < _CHAIN:
            one = pending.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            self.look(f"error {type(error).__name__}", _shown(one))
            pending += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                pending += one.exceptions

    def look_at_the_living(self) -> None:
        """Look at the errors that nobody has let go of yet."""
        for error in list(self._alive):
            self.look_at_error(error)

    def start(self) -> None:
        """Begin to watch this process."""
        self._watch_logging()
        self._watch_errors()
        for event in get_args(events.Event):
            self._watch_events(event)

    def stop(self) -> None:
        """Leave everything as it was."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _replace(self, owner: type, name: str, value: object) -> None:
        missing = object()
        old = vars(owner).get(name, missing)
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if old is missing else setattr(owner, name, old))

    def _watch_logging(self) -> None:
        """Have a record made of every call, and show it to whoever would have got it alone."""
        is_enabled, handle = logging.Logger.isEnabledFor, logging.Logger.handle

        def watched(logger: logging.Logger, record: logging.LogRecord) -> None:
            self.look_at_record(record)
            if is_enabled(logger, record.levelno):
                handle(logger, record)

        self._replace(logging.Logger, "handle", watched)
        self._replace(logging.Logger, "isEnabledFor", lambda logger, level: True)

    def _watch_errors(self) -> None:
        """Look at each error when it ends, when it has everything that it will ever have; nobody keeps it for that."""
        construct = LadingError.__init__

        @functools.wraps(construct)
        def watched(error: LadingError, *args: Any, **options: Any) -> None:
            self.errors += 1
            self._alive.add(error)
            construct(error, *args, **options)

        def ended(error: LadingError) -> None:
            self.look_at_error(error)

        self._replace(LadingError, "__init__", watched)
        self._replace(LadingError, "__del__", ended)

    def _watch_events(self, event: Any) -> None:
        construct = event.__init__

        @functools.wraps(construct)
        def watched(told: Any, *args: Any, **options: Any) -> None:
            construct(told, *args, **options)
            self.told += 1
            self.look(f"event {type(told).__name__}", repr(told))

        self._replace(event, "__init__", watched)

    def report(self) -> dict[str, Any]:
        """Give what was seen, in simple types, for the watcher of another process to `add`."""
        leaks = [(leak.kind, leak.text, leak.test) for leak in self.leaks]
        return {"counts": [self.lines, self.errors, self.told], "leaks": leaks, "played": sorted(self.played)}

    def add(self, report: dict[str, Any]) -> None:
        """Add what the watcher of another process has seen."""
        lines, errors, told = report["counts"]
        self.lines += lines
        self.errors += errors
        self.told += told
        self.leaks += [Leak(*leak) for leak in report["leaks"]]
        self.played.update(report["played"])

    def summary(self) -> str:
        """Say what was searched, and what was found."""
        found = f"{len(self.leaks)} found" if self.leaks else "none found"
        return f"{self.lines} log lines, {self.errors} errors, {self.told} events searched, {found}"


class WatchedRun:
    """The pytest plugin: watches a whole run, and fails it if a secret was seen."""

    def __init__(self) -> None:
        self.watcher = Watcher()

    def pytest_configure(self) -> None:
        self.watcher.start()

    def pytest_unconfigure(self) -> None:
        self.watcher.stop()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.watcher.look_at_the_living()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["watched"] = self.watcher.report()
        if self.watcher.leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear from a process of pytest-xdist what was seen there."""
        if watched := getattr(node, "workeroutput", {}).get("watched"):
            self.watcher.add(watched)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.watcher.leaks:
            terminalreporter.section("planted secrets were seen", red=True)
            for leak in dict.fromkeys(self.watcher.leaks):
                terminalreporter.line(str(leak), red=True)


def _shown(error: BaseException) -> str:
    """Give all that an error shows of itself."""
    try:
        return f"{error} {error!r} {error.args!r} {vars(error)!r}"
    except Exception as failure:  # some that come from elsewhere can't
        return f"{error.args!r} {failure!r}"
