"""Findings: what was looked at and what came of it, fit to be shown to anybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Self

from lading.errors import LadingError, RateLimited, RegistryError
from lading.http.hosts import RegistryHosts
from lading.redact import redact

Verdict = Literal["ok", "note", "warning", "failure"]
"""All is well; neither good nor bad; works, but not as it should; keeps a pull from working."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``topic`` names it in a word or two, ``text`` is what was found, for people, and ``data`` the same for programs, in
    JSON values. ``hint`` is what the user can do, ``about`` which host it concerns; both may be empty. What is foreign
    is escaped, and URLs lose their secrets, when it is constructed.
    """

    topic: str
    text: str
    verdict: Verdict = "ok"
    hint: str = ""
    about: str = ""
    data: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("text", "hint", "about"):
            object.__setattr__(self, name, redact(getattr(self, name)))
        data = {name: _shown(value) for name, value in self.data.items() if value is not None}
        object.__setattr__(self, "data", MappingProxyType(data))

    @classmethod
    def of(cls, error: LadingError, topic: str, verdict: Verdict, *, about: str = "", hint: str = "") -> Self:
        """Say what failed and how to mend it, as the error does; ``hint`` is for one that doesn't know."""
        data: dict[str, object] = {"error": type(error).__name__}
        text = error.message
        if isinstance(error, RegistryError):
            data |= {"status": error.status, "codes": list(error.codes)}
        if isinstance(error, RateLimited) and error.retry_after is not None:
            data["retry_after"] = error.retry_after
            text += f": to be asked again in {error.retry_after:.0f} s"
        return cls(topic, text, verdict, error.hint or hint, about, data)

    def as_dict(self) -> dict[str, object]:
        """Give everything as JSON values."""
        return {
            "topic": self.topic,
            "about": self.about,
            "verdict": self.verdict,
            "text": self.text,
            "hint": self.hint,
            "data": dict(self.data),
        }


def ignored(hosts: RegistryHosts) -> Iterator[Finding]:
    """Say which keys of a ``hosts.toml`` mean nothing."""
    for key, meant in hosts.ignored.items():
        if meant:
            yield Finding("hosts", f"{key} is ignored: there is no such key", "warning", f"did you mean {meant}?")
        else:
            yield Finding("hosts", f"{key} is ignored", "note")


def _shown(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, float):
        return round(value, 6)
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def took(seconds: float) -> str:
    """Give a duration as people say it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def counted(number: int, what: str, many: str = "") -> str:
    """Give a number of things: ``1 mirror``, ``2 mirrors``."""
    return f"{number} {what if number == 1 else many or what + 's'}"
