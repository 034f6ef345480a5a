"""An agent as it is given out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lading.oci.descriptor import Descriptor
from lading.oci.reference import Reference

AgentOrigin = Literal["registry", "revalidated", "pinned", "fresh", "stale"]
"""Where an agent came from: just fetched; cached and confirmed just now; cached under its digest; cached and confirmed
within ``max_age``; cached, while the registry failed."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent definition, verified.

    Attributes:
        content: the YAML, byte for byte as published (decompressed).
        descriptor: what the reference resolves to: the manifest, or the index that wraps it.
        reference: fully qualified.
        annotations: of the manifest that holds the agent.
        origin: where this copy came from; ``"stale"`` says that the registry couldn't be asked.
        stale_reason: why not; ``None`` unless ``origin`` is ``"stale"``.
        age: seconds since the registry last confirmed that the reference stands for this; ``math.inf`` if none ever
            did, which is so of what was imported.
    """

    content: bytes = field(repr=False)
    descriptor: Descriptor = field(repr=False)
    reference: Reference
    annotations: Mapping[str, str] = field(repr=False)
    origin: AgentOrigin
    age: float = 0.0
    stale_reason: str | None = None

    @property
    def digest(self) -> str:
        """What the reference resolves to: ``sha256:…``."""
        return str(self.descriptor.digest)
