"""The tools of an agent, with what the names in its toolsets stand for.

A toolset may be written where it is used, or be defined once (``mcps``, ``rag``, ``toolsets``) and named there: what an
agent can do is the same. So tools are compared as what they stand for, and each field knows where it was written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from lading.agents.definition import Document, Tree
from lading.agents.wording import code
from lading.redact import redact, redact_url

HARMLESS = frozenset(
    {"think", "todo", "memory", "tasks", "plan", "session_plan", "user_prompt", "model_picker"}  # version 15
)
"""Types of toolsets that give an agent no power over anything but itself."""

KNOWN = HARMLESS | {
    *("a2a", "api", "background_agents", "background_jobs", "environment", "fetch", "file", "filesystem", "git"),
    *("handoff", "lsp", "mcp", "mcp_catalog", "open_url", "openapi", "rag", "scheduler", "script", "session_context"),
    *("shell", "transfer_task", "webhook"),
}
"""Types of toolsets in version 15 of docker-agent's schema."""

_SECTIONS = {"mcp": "mcps", "rag": "rag"}
"""Where a ``ref`` of a toolset of this type is defined."""

_SCRIPTS = ("script", "")
"""The identity of a ``script`` toolset, as far as it isn't the tools that it defines."""

_IDENTITY = frozenset({"type", "ref", "command", "args", "url"})
_PARTS = {"remote": ("url",), "api_config": ("endpoint", "method")}

_LONG = 64
_PLAIN_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{_LONG}}}")

_EMPTY: tuple[Tree, ...] = (None, "", (), MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Tool:
    """A toolset as it takes effect, or one tool of those that a ``script`` toolset defines.

    Attributes:
        type: of the toolset; empty if it has none.
        subject: what it is called, fit to be shown: ``shell``, ``MCP server docker:github``.
        identity: equal for tools that are the same one, however its fields differ.
        path: where it is written.
        fields: what is written of it, its definition's fields included.
        written: where those fields are, that aren't at ``path``.
        definitions: the paths of what it is defined by.
    """

    type: str
    subject: str
    identity: Hashable
    path: str
    fields: Mapping[str, Tree] = field(repr=False)
    written: Mapping[str, str] = field(default_factory=dict, repr=False)
    definitions: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether lading knows what tools of this type do."""
        return self.type in KNOWN

    @property
    def line(self) -> str:
        """The command line that starts it; empty if none does."""
        command = self.fields.get("command")
        if not isinstance(command, str) or self.type not in ("mcp", "lsp"):
            return ""
        return " ".join((command, *(item for item in as_items(self.fields.get("args")) if isinstance(item, str))))

    @property
    def is_script(self) -> bool:
        """Whether it is one that a ``script`` toolset defines."""
        return self.type == "script" and self.identity != _SCRIPTS

    @property
    def options(self) -> Mapping[str, Tree]:
        """The fields, but for those that make it the one that it is."""
        options = {name: value for name, value in self.fields.items() if name not in _IDENTITY}
        for name, parts in _PARTS.items():
            inner = options.get(name)
            if isinstance(inner, Mapping):
                options[name] = {part: value for part, value in inner.items() if part not in parts}
        return {name: value for name, value in options.items() if value != {} or self.fields[name] == {}}


def tools_of(document: Document) -> Mapping[str, tuple[Tool, ...]]:
    """Give the tools of each agent, in the order in which they are written."""
    agents = as_mapping(document.tree.get("agents"))
    return MappingProxyType(
        {
            name: tuple(_agent_tools(document.tree, join("agents", name), as_mapping(fields)))
            for name, fields in agents.items()
        }
    )


def definitions_of(document: Document) -> Mapping[str, tuple[Tool, ...]]:
    """Give what is defined for agents to name, by its path."""
    found = {}
    for section, type_ in (("mcps", "mcp"), ("rag", "rag"), ("toolsets", "")):
        for name, fields in as_mapping(document.tree.get(section)).items():
            path = join(section, name)
            own = {"type": type_, **as_mapping(fields)} if type_ else as_mapping(fields)
            raw = _Raw(own, path, {}, (path,))
            tools = _expanded(raw if section == "mcps" else _resolved(document.tree, raw), name)
            found[path] = tuple(replace(tool, subject=f"{tool.subject} ({redact(path)})") for tool in tools)
    return MappingProxyType(found)


def as_mapping(value: Tree) -> Mapping[str, Tree]:
    """Give a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_items(value: Tree) -> tuple[Tree, ...]:
    """Give a list as it is, and anything else as a list of it, or of nothing."""
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def join(path: str, name: str) -> str:
    """Give the path of the entry ``name`` of a mapping: another for each name, and never long."""
    if _PLAIN_KEY.fullmatch(name):
        return f"{path}.{name}" if path else name
    if len(name) > _LONG:
        # A document may have many names that begin alike.
        name = f"{name[:_LONG]}… {hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return f"{path}[{name!r}]"


@dataclass(frozen=True, slots=True)
class _Raw:
    """A toolset before it is told what it is."""

    fields: Mapping[str, Tree]
    path: str
    written: Mapping[str, str]
    definitions: tuple[str, ...] = ()


def _agent_tools(tree: Mapping[str, Tree], path: str, agent: Mapping[str, Tree]) -> Iterator[Tool]:
    for index, item in enumerate(as_items(agent.get("toolsets"))):
        yield from _expanded(_resolved(tree, _Raw(as_mapping(item), f"{path}.toolsets[{index}]", {})), "")
    for field_, section in (("use_toolsets", "toolsets"), ("rag", "rag")):
        for index, name in enumerate(as_items(agent.get(field_))):
            where = f"{path}.{field_}[{index}]"
            if isinstance(name, str):
                own: Mapping[str, Tree] = {"type": "rag"} if section == "rag" else {}
                yield from _expanded(_resolved(tree, _defined(tree, _Raw(own, where, {}), section, name)), name)
            else:
                yield Tool("", f"{field_} of what isn't text", (field_, index), where, {})


def _resolved(tree: Mapping[str, Tree], raw: _Raw) -> _Raw:
    """Fill in what a toolset names with ``ref``, as docker-agent does: what is written in the toolset wins."""
    type_, ref = raw.fields.get("type"), raw.fields.get("ref")
    section = _SECTIONS.get(type_) if isinstance(type_, str) else None
    if section is None or not isinstance(ref, str) or ref.startswith("docker:"):
        return raw
    if ref not in as_mapping(tree.get(section)):
        return raw
    own = {name: value for name, value in raw.fields.items() if name != "ref"}
    return _defined(tree, _Raw(own, raw.path, raw.written, raw.definitions), section, ref)


def _defined(tree: Mapping[str, Tree], raw: _Raw, section: str, name: str) -> _Raw:
    definition = as_mapping(tree.get(section)).get(name)
    path = join(section, name)
    if not isinstance(definition, Mapping):
        return _Raw({"ref": name, **raw.fields}, raw.path, raw.written, (*raw.definitions, path))
    fields = dict(definition)
    written = {key: join(path, key) for key in definition}
    for key, value in raw.fields.items():
        theirs = definition.get(key)
        if value in _EMPTY and key in definition:
            continue
        if key == "env" and isinstance(value, Mapping) and isinstance(theirs, Mapping):
            fields[key] = MappingProxyType({**theirs, **value})
            continue
        fields[key] = value
        written.pop(key, None)
    return _Raw(MappingProxyType(fields), raw.path, {**written, **raw.written}, (*raw.definitions, path))


def _expanded(raw: _Raw, name: str) -> Iterator[Tool]:
    """Tell what a toolset is; a script toolset is as many tools as it defines, and itself."""
    type_ = raw.fields.get("type")
    kind = type_ if isinstance(type_, str) else ""
    fields = raw.fields
    scripts = fields.get("shell")
    if kind == "script" and isinstance(scripts, Mapping):
        at = raw.written.get("shell", join(raw.path, "shell"))
        for script, entry in scripts.items():
            own = entry if isinstance(entry, Mapping) else MappingProxyType({"cmd": entry})
            subject = f"script tool {redact(script)}"
            yield Tool(kind, subject, (kind, "tool", script), join(at, script), own, {}, raw.definitions)
        if scripts and fields.keys() <= {"type", "shell"}:
            return
        fields = MappingProxyType({key: value for key, value in fields.items() if key != "shell"})
    subject, identity = _named(kind, fields, name)
    yield Tool(kind, subject, (kind, identity), raw.path, fields, raw.written, raw.definitions)


def _named(kind: str, fields: Mapping[str, Tree], name: str) -> tuple[str, Hashable]:
    """Give what a toolset is called, and what makes it the one that it is."""
    ref, command, url = fields.get("ref"), fields.get("command"), fields.get("url")
    remote = as_mapping(fields.get("remote")).get("url")
    api = as_mapping(fields.get("api_config"))
    match kind:
        case "mcp" if isinstance(ref, str) and ref:
            is_defined = ref.startswith("docker:")
            return f"MCP server {redact(ref)}{'' if is_defined else ', which is not defined'}", ("ref", ref)
        case ("mcp" | "lsp") as server if isinstance(command, str) and command:
            line = [command, *(item for item in as_items(fields.get("args")) if isinstance(item, str))]
            return f"{server.upper()} server {code(' '.join(line))}", ("command", tuple(line))
        case "mcp" if isinstance(remote, str) and remote:
            return f"MCP server {redact_url(remote)}", ("url", remote)
        case "a2a" | "openapi" | "open_url" if isinstance(url, str) and url:
            what = {"a2a": "agent", "openapi": "API", "open_url": "page"}[kind]
            return f"{what} {redact_url(url)} ({kind})", url
        case "api" if isinstance(endpoint := api.get("endpoint"), str):
            method = api.get("method")
            verb = f"{redact(method)} " if isinstance(method, str) else ""
            return f"API {verb}{redact_url(endpoint)}", (endpoint, method if isinstance(method, str) else None)
        case "rag":
            source = name or (ref if isinstance(ref, str) else "") or fields.get("name")
            return (f"RAG source {redact(source)}", source) if isinstance(source, str) and source else ("RAG", "")
        case "script":
            return "script tools", ""
        case "":
            called = ref if isinstance(ref, str) else name
            return f"toolset {redact(called)}".strip() + ", of no type that is written", called
        case _:
            return (kind if kind in KNOWN else f"toolset {redact(kind)}"), ""
