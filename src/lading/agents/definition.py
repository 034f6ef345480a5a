"""What an agent document says: frozen values, read from the tree that its YAML is.

Unknown fields are ignored: other versions of the schema have others. A field of an agent or a model that is there has
to be what it should be, or the document would be read as saying less than it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn, TypeAlias

from lading.agents.references import ExternalReference, Local, ReferenceField, classify
from lading.errors import InvalidDocument

Tree: TypeAlias = "str | tuple[Tree, ...] | Mapping[str, Tree] | None"
"""A document as it was written: text, null, lists, mappings with text as keys; nothing in it can be changed."""

NAME_LIMIT = 10_000
"""Other agents that the agents of a document name at most."""


@dataclass(frozen=True, slots=True)
class Toolset:
    """A group of tools that an agent may use; ``url`` is its own or that of its ``remote``."""

    type: str | None
    name: str | None = None
    ref: str | None = None
    command: str | None = None
    url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AgentDefinition:
    """One agent of a document; ``model`` and the names of other agents are as written."""

    name: str
    description: str | None = None
    instruction: str | None = field(default=None, repr=False)
    model: str | None = None
    toolsets: tuple[Toolset, ...] = ()
    sub_agents: tuple[str, ...] = field(default=(), repr=False)
    handoffs: tuple[str, ...] = field(default=(), repr=False)
    force_handoff: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a document names."""

    name: str
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an author says about a document, for people only."""

    author: str | None = None
    license: str | None = None
    version: str | None = None
    description: str | None = None
    readme: str | None = field(default=None, repr=False)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """An agent document.

    Attributes:
        agents: in the order in which they were written.
        models: in the order in which they were written.
        metadata: what its author says about it.
        references: the agents outside the document that its agents name, in the order of the agents.
        version: of docker-agent's schema.
        tree: everything that was written, also what has no field here.
    """

    agents: Mapping[str, AgentDefinition]
    models: Mapping[str, Model]
    metadata: Metadata
    references: tuple[ExternalReference, ...]
    version: str | None
    tree: Mapping[str, Tree] = field(repr=False)

    @property
    def root(self) -> AgentDefinition | None:
        """The agent that runs: the one called ``root``, else the first; ``None`` if there is none."""
        return self.agents.get("root") or next(iter(self.agents.values()), None)

    @property
    def name(self) -> str | None:
        """What the agent that runs is called."""
        return self.root.name if self.root else None

    @property
    def description(self) -> str | None:
        """What the agent that runs says that it does, else what the metadata says."""
        return (self.root.description if self.root else None) or self.metadata.description


_METADATA_TEXTS = ("author", "license", "version", "description", "readme")


def read_document(tree: Tree) -> Document:
    """Read the tree of an agent document of any schema version.

    Raises:
        InvalidDocument: it has another shape; the message says where and doesn't repeat what is written there.
    """
    if not isinstance(tree, Mapping):
        raise InvalidDocument(f"agent document: it is {_kind(tree)}, not a mapping", hint="agents are under `agents:`")
    agents = {name: _agent(name, fields) for name, fields in _mapping(tree, "agents", "").items()}
    models = {name: _model(name, fields) for name, fields in _mapping(tree, "models", "").items()}
    return Document(
        agents=MappingProxyType(agents),
        models=MappingProxyType(models),
        metadata=_metadata(tree.get("metadata")),
        references=_references(agents),
        version=_text(tree, "version", ""),
        tree=tree,
    )


def _agent(name: str, value: Tree) -> AgentDefinition:
    path = _join("agents", name)
    fields = _fields(value, path)
    return AgentDefinition(
        name=name,
        description=_text(fields, "description", path),
        instruction=_text(fields, "instruction", path),
        model=_text(fields, "model", path),
        toolsets=tuple(
            _toolset(_fields(item, where), where) for where, item in _items(fields.get("toolsets"), f"{path}.toolsets")
        ),
        sub_agents=_texts(fields.get("sub_agents"), f"{path}.sub_agents"),
        handoffs=_texts(fields.get("handoffs"), f"{path}.handoffs"),
        force_handoff=_text_or_texts(fields.get("force_handoff"), f"{path}.force_handoff"),
    )


def _toolset(fields: Mapping[str, Tree], path: str) -> Toolset:
    return Toolset(
        type=_text(fields, "type", path),
        name=_text(fields, "name", path),
        ref=_text(fields, "ref", path),
        command=_text(fields, "command", path),
        url=_text(fields, "url", path) or _text(_mapping(fields, "remote", path), "url", f"{path}.remote"),
    )


def _model(name: str, value: Tree) -> Model:
    path = _join("models", name)
    fields = _fields(value, path)
    # Version 0 of the schema calls the provider a type.
    provider = _text(fields, "provider", path) or _text(fields, "type", path)
    return Model(name=name, provider=provider, model=_text(fields, "model", path))


def _metadata(value: Tree) -> Metadata:
    """Read what nothing depends on: what isn't text is left out, so that it never stands in the way of an agent."""
    fields = value if isinstance(value, Mapping) else {}
    tags = fields.get("tags")
    texts = {name: text for name in _METADATA_TEXTS if isinstance(text := fields.get(name), str)}
    return Metadata(
        **texts,
        tags=tuple(tag for tag in (tags if isinstance(tags, tuple) else (tags,)) if isinstance(tag, str)),
    )


def _references(agents: Mapping[str, AgentDefinition]) -> tuple[ExternalReference, ...]:
    references: list[ExternalReference] = []
    seen = 0
    for agent in agents.values():
        named: tuple[tuple[ReferenceField, tuple[str, ...]], ...] = (
            ("sub_agents", agent.sub_agents),
            ("handoffs", agent.handoffs),
            ("force_handoff", agent.force_handoff),
        )
        for place, texts in named:
            seen += len(texts)
            if seen > NAME_LIMIT:
                raise InvalidDocument(f"agent document: its agents name more than {NAME_LIMIT} other agents")
            for text in texts:
                # What the document defines itself goes first, whatever it looks like.
                target = Local(text) if text in agents else classify(text)
                if not isinstance(target, Local):
                    references.append(ExternalReference(agent.name, place, text, target))
    return tuple(references)


def _mapping(fields: Mapping[str, Tree], name: str, path: str) -> Mapping[str, Tree]:
    return _fields(fields.get(name), _join(path, name))


def _fields(value: Tree, path: str) -> Mapping[str, Tree]:
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else _refuse_type(value, path, "a mapping")


def _items(value: Tree, path: str) -> list[tuple[str, Tree]]:
    if value is None:
        return []
    if not isinstance(value, tuple):
        _refuse_type(value, path, "a list")
    return [(f"{path}[{index}]", item) for index, item in enumerate(value)]


def _text(fields: Mapping[str, Tree], name: str, path: str) -> str | None:
    value = fields.get(name)
    return value if value is None or isinstance(value, str) else _refuse_type(value, _join(path, name), "text")


def _texts(value: Tree, path: str) -> tuple[str, ...]:
    return tuple(
        item if isinstance(item, str) else _refuse_type(item, where, "text") for where, item in _items(value, path)
    )


def _text_or_texts(value: Tree, path: str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else _texts(value, path)


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _join(path: str, name: str) -> str:
    if _PLAIN_KEY.fullmatch(name) is None:
        return f"{path}[{name if len(name) <= 64 else name[:64] + '…'!r}]"
    return f"{path}.{name}" if path else name


def _refuse_type(value: Tree, path: str, expected: str) -> NoReturn:
    raise InvalidDocument(f"agent document: {path} is {_kind(value)}, not {expected}")


def _kind(value: Tree) -> str:
    if value is None:
        return "empty"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, tuple) else "a mapping"
