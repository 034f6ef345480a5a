"""References inside an agent: what the names of other agents stand for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lading.errors import InvalidReference
from lading.oci.reference import Reference

ReferenceField = Literal["sub_agents", "handoffs", "force_handoff"]
"""The fields of an agent that name other agents."""


@dataclass(frozen=True, slots=True)
class Local:
    """The name of an agent in the same document."""

    name: str


@dataclass(frozen=True, slots=True)
class Oci:
    """An agent in a registry; ``name`` is what it is called here, ``None`` if the document doesn't say."""

    reference: Reference
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Url:
    """An agent at an http or https URL, which may hold a secret; ``name`` as for :class:`Oci`."""

    url: str = dataclasses.field(repr=False)
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ExternalReference:
    """An agent outside the document.

    Attributes:
        agent: the agent that names it.
        field: where it names it.
        text: as written, a local name included; may hold a secret if it is a URL.
        target: what it stands for.
    """

    agent: str
    field: ReferenceField
    text: str = dataclasses.field(repr=False)
    target: Oci | Url

    @property
    def kind(self) -> Literal["oci", "url"]:
        """Where the agent is: in a registry or at a URL."""
        return "oci" if isinstance(self.target, Oci) else "url"

    @property
    def reference(self) -> Reference | None:
        """What to ask a registry for; ``None`` if it is a URL."""
        return self.target.reference if isinstance(self.target, Oci) else None


def classify(text: str) -> Local | Oci | Url:
    """Tell what ``text`` in ``sub_agents``, ``handoffs`` or ``force_handoff`` stands for, as docker-agent does.

    An http or https URL, or a reference with a ``/`` in it, is outside the document; so is ``name:`` before one of
    them, unless the whole is a reference already (``localhost:5000/triage``). All else is local, a file as well.
    """
    target = _external(text, None)
    if target is None:
        name, _, rest = text.partition(":")
        if name and "/" not in name:
            target = _external(rest, name)
    return Local(text) if target is None else target


def _external(text: str, name: str | None) -> Oci | Url | None:
    if text.startswith(("http://", "https://")):
        return Url(text, name)
    if "/" not in text or text.lower().endswith((".yaml", ".yml")):
        return None
    try:
        return Oci(Reference.parse(text), name)
    except InvalidReference:
        return None
