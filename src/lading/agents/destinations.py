"""Where what is said to a model goes: to a provider, or to an address that the document gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from lading.agents.definition import Document, Tree
from lading.agents.tools import as_items, as_mapping
from lading.redact import redact_url

_ROLES = ("model", "compaction_model")
"""The fields of an agent that name models; those of its ``fallback`` are beside them."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where the models of a document are; ``everywhere`` is where any of its agents and models sends something."""

    models: Mapping[str, Tree] = field(repr=False)
    providers: Mapping[str, Tree] = field(repr=False)
    agents: Mapping[str, frozenset[str]] = field(repr=False)
    everywhere: frozenset[str]

    @classmethod
    def of(cls, document: Document) -> Self:
        """Read them off a document."""
        tree = document.tree
        sections = as_mapping(tree.get("models")), as_mapping(tree.get("providers"))
        bare = cls(*sections, {}, frozenset())
        agents = {}
        for name, value in as_mapping(tree.get("agents")).items():
            fields = as_mapping(value)
            named = [fields.get(role) for role in _ROLES]
            agents[name] = bare.reached_by((*named, *as_items(as_mapping(fields.get("fallback")).get("models"))))
        reached = bare.reached_by(sections[0]).union(*agents.values())
        return cls(*sections, agents, reached)

    def reached_by(self, names: Iterable[Tree]) -> frozenset[str]:
        """Give where what is said to these models goes: ``anthropic``, or an address."""
        waiting = [part.strip() for name in names if isinstance(name, str) for part in name.split(",")]
        seen = set(waiting)
        found = set()
        while waiting:
            name = waiting.pop()
            model = self.models.get(name)
            if not isinstance(model, Mapping):
                found.add(self.address(name.partition("/")[0]))
                continue
            provider = model.get("provider") or model.get("type")
            if isinstance(provider, str):
                found.add(self.address(provider, model.get("base_url")))
            others = [*as_items(model.get("first_available"))]
            others += [as_mapping(row).get("model") for row in as_items(model.get("routing"))]
            others += [model.get("title_model"), model.get("compaction_model")]
            for other in others:
                if isinstance(other, str) and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return frozenset(found)

    def address(self, provider: str, base_url: Tree = None) -> str:
        """Give where a provider is, as far as that is written; else who it is."""
        fields = as_mapping(self.providers.get(provider))
        for value in (base_url, fields.get("base_url"), fields.get("provider")):
            if isinstance(value, str) and value:
                return redact_url(value)
        return provider
