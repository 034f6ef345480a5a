"""An OCI registry to test against: on loopback, in this process, with every request on record.

The room's rule: it shares no code with the client. A registry that read references, digests or manifests with
lading's own parsers would agree with lading's mistakes, so this package checks them by its own small, strict
rules. The names below are imported when they are first used: pytest reads the plugin beside them at each start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lading.testing.budgets import Inspection, Recording, SeenCredential
    from lading.testing.content import Content
    from lading.testing.directory import DirectoryContent, NotARegistry
    from lading.testing.memory import MemoryContent
    from lading.testing.profiles import PROFILES, Profile
    from lading.testing.proxy import EmbeddedProxy, ProxiedRequest
    from lading.testing.record import RecordedRequest
    from lading.testing.registry import EmbeddedRegistry, Intercept
    from lading.testing.schedule import Applied, Faults
    from lading.testing.threaded import ThreadedRegistry
    from lading.testing.tls import ThrowawayCA

__all__ = [
    "PROFILES",
    "Applied",
    "Content",
    "DirectoryContent",
    "EmbeddedProxy",
    "EmbeddedRegistry",
    "Faults",
    "Inspection",
    "Intercept",
    "MemoryContent",
    "NotARegistry",
    "Profile",
    "ProxiedRequest",
    "RecordedRequest",
    "Recording",
    "SeenCredential",
    "ThreadedRegistry",
    "ThrowawayCA",
]

# Where each name is at home; a new one is added here, above, and in `__all__`.
_HOMES = {
    "PROFILES": "profiles",
    "Applied": "schedule",
    "Content": "content",
    "DirectoryContent": "directory",
    "EmbeddedProxy": "proxy",
    "EmbeddedRegistry": "registry",
    "Faults": "schedule",
    "Inspection": "budgets",
    "Intercept": "registry",
    "MemoryContent": "memory",
    "NotARegistry": "directory",
    "Profile": "profiles",
    "ProxiedRequest": "proxy",
    "RecordedRequest": "record",
    "Recording": "budgets",
    "SeenCredential": "budgets",
    "ThreadedRegistry": "threaded",
    "ThrowawayCA": "tls",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
