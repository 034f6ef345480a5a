"""An OCI registry to test against: on loopback, in this process, with every request on record.

The room's rule: it shares no code with the client. A registry that read references, digests or manifests with
lading's own parsers would agree with lading's mistakes, so this package checks them by its own small, strict
rules.
"""

from __future__ import annotations

from lading.testing.content import Content
from lading.testing.directory import DirectoryContent, NotARegistry
from lading.testing.memory import MemoryContent
from lading.testing.record import RecordedRequest
from lading.testing.registry import EmbeddedRegistry, Intercept

__all__ = [
    "Content",
    "DirectoryContent",
    "EmbeddedRegistry",
    "Intercept",
    "MemoryContent",
    "NotARegistry",
    "RecordedRequest",
]
