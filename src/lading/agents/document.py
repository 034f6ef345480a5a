"""Agent documents: docker-agent's YAML as a frozen value. The only module that knows YAML.

What a registry gives is hostile until it has passed here. So the parser's *events* are counted before anything is built
from them, in a loop instead of a recursion: nodes (an alias counts as all that it stands for), depth, repeated text. No
object is constructed: a scalar stays the text that was written, or is null. ``no`` isn't a boolean, ``3.10`` isn't a
number, and libyaml and the parser in Python, where both take a document, give the same. (The latter, which stands in
where libyaml is missing, refuses some tabs that YAML allows and is ten times slower.)
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import yaml

from lading.agents.definition import AgentDefinition, Document, Metadata, Model, Toolset, Tree, read_document
from lading.agents.references import ExternalReference, Local, Oci, Url, classify
from lading.errors import InvalidDocument

__all__ = [
    "AgentDefinition",
    "Document",
    "ExternalReference",
    "Local",
    "Metadata",
    "Model",
    "Oci",
    "Toolset",
    "Tree",
    "Url",
    "classify",
    "parse_document",
]

NODE_LIMIT = 100_000
"""Scalars, lists and mappings of a document at most, each alias counted as all that it stands for."""

ALIAS_LIMIT = 1_000
"""Aliases (``*name``) of a document at most."""

REPEATED_LIMIT = 4 * 1024 * 1024
"""Characters that the aliases of a document stand for at most."""

DEPTH_LIMIT = 64
"""Lists and mappings inside one another at most."""

DIRECTIVE_LIMIT = 16
"""Lines that begin with ``%`` at most: a parser compares each ``%TAG`` with all before it, ahead of its first event."""

# YAML 1.2.2, section 10.3.2: the core schema.
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_NULL_TAG = "tag:yaml.org,2002:null"
_SCALAR_TAGS = frozenset({None, "!"} | {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool")})
_LIST_TAGS = frozenset({None, "!", "tag:yaml.org,2002:seq"})
_MAPPING_TAGS = frozenset({None, "!", "tag:yaml.org,2002:map"})
_MERGE = "<<"
_VERSIONS = ((1, 1), (1, 2))

# Section 5.4, what both parsers take for the end of a line.
_LINE_ENDS = (b"\n", b"\r", "\x85".encode(), "\u2028".encode(), "\u2029".encode())
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# Section 5.1.
_NOT_A_CHARACTER = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

# Quoted: where libyaml is missing, so is its loader.
_Parser: TypeAlias = "Callable[[bytes], yaml.CSafeLoader | yaml.SafeLoader]"

_PARSER: _Parser = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def parse_document(content: bytes) -> Document:
    """Read an agent document of any schema version: UTF-8, with or without a byte order mark.

    Raises:
        InvalidDocument: it isn't YAML, not exactly one document, more than an agent document can be, or a field of an
            agent or a model isn't what it has to be. The message says where, and doesn't repeat what is written there.
    """
    return read_document(read_tree(content))


def read_tree(content: bytes, parser_type: _Parser = _PARSER) -> Tree:
    """Read the one YAML document in ``content``, within the limits above, without what it means to docker-agent.

    Raises:
        InvalidDocument: as for :func:`parse_document`.
    """
    content = content.removeprefix(BOM_UTF8)
    _check_bytes(content)
    composer = _Composer()
    parser: yaml.CSafeLoader | yaml.SafeLoader | None = None
    try:
        parser = parser_type(content)
        while not isinstance(event := parser.get_event(), yaml.StreamEndEvent):
            composer.take(event)
        return composer.root
    except InvalidDocument:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # Not raised here: the parser's error holds a part of the document, and would go along as the context.
        refusal = _translate(error, content)
    finally:
        if parser is not None:
            parser.dispose()
    raise refusal


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A finished node, and what it would take to write it once more."""

    value: Tree
    nodes: int
    characters: int
    height: int


@dataclass(slots=True)
class _Open:
    """A list or a mapping whose end hasn't come; ``nodes`` and ``characters`` are how many came before it."""

    anchor: str | None
    is_mapping: bool
    nodes: int
    characters: int
    height: int = 1
    items: list[Tree] = field(default_factory=list)
    entries: dict[str, Tree] = field(default_factory=dict)
    key: str | None = None
    is_merging: bool = False
    merged: tuple[Mapping[str, Tree], ...] | None = None

    @property
    def expects_key(self) -> bool:
        return self.is_mapping and self.key is None

    def close(self) -> Tree:
        if not self.is_mapping:
            return tuple(self.items)
        for source in self.merged or ():
            for key, value in source.items():
                self.entries.setdefault(key, value)
        return MappingProxyType(self.entries)


class _Composer:
    """Builds the tree from events, one after the other, and keeps count."""

    def __init__(self) -> None:
        self.root: Tree = None
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}  # None: not finished
        self._documents = self._nodes = self._characters = self._aliases = self._repeated = 0

    def take(self, event: yaml.Event | None) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._document(event)

    def _document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            _refuse("a second document begins", event)
        if event.version is not None and event.version not in _VERSIONS:
            _refuse("it is another version of YAML", event)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        value: str = event.value
        is_plain = event.tag is None and not event.style
        if not value.isascii() and _SURROGATE.search(value):
            _refuse("half a surrogate pair", event)
        self._count(event, 1, len(value))
        tree: Tree = value
        if is_plain or event.tag == _NULL_TAG:
            if value in _NULLS:
                tree = None
            elif event.tag == _NULL_TAG:
                _refuse("null is something else", event)
        elif event.tag not in _SCALAR_TAGS:
            _refuse_tag(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(tree, 1, len(value), 0)
        self._add(event, tree, is_plain and value == _MERGE)

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (_MAPPING_TAGS if is_mapping else _LIST_TAGS):
            _refuse_tag(event)
        if len(self._open) >= DEPTH_LIMIT:
            _refuse(f"nested deeper than {DEPTH_LIMIT}", event)
        if self._open and self._open[-1].expects_key:
            _refuse("a key isn't text", event)
        self._count(event, 1, 0)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open(event.anchor, is_mapping, self._nodes - 1, self._characters))

    def _end(self, event: yaml.CollectionEndEvent) -> None:
        closed = self._open.pop()
        value = closed.close()
        if closed.anchor is not None:
            nodes, characters = self._nodes - closed.nodes, self._characters - closed.characters
            self._anchors[closed.anchor] = _Anchored(value, nodes, characters, closed.height)
        self._add(event, value, height=closed.height)

    def _alias(self, event: yaml.AliasEvent) -> None:
        self._aliases += 1
        if self._aliases > ALIAS_LIMIT:
            _refuse(f"more than {ALIAS_LIMIT} aliases", event)
        name = event.anchor or ""
        if name not in self._anchors:
            _refuse("an alias whose anchor doesn't come before it", event)
        anchored = self._anchors[name]
        if anchored is None:
            _refuse("an alias of what it is a part of", event)
        self._count(event, anchored.nodes, anchored.characters)
        self._repeated += anchored.characters
        if self._repeated > REPEATED_LIMIT:
            _refuse(f"aliases of more than {REPEATED_LIMIT} characters", event)
        if len(self._open) + anchored.height > DEPTH_LIMIT:
            _refuse(f"nested deeper than {DEPTH_LIMIT}, with its aliases", event)
        self._add(event, anchored.value, height=anchored.height)

    def _count(self, event: yaml.Event, nodes: int, characters: int) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes > NODE_LIMIT:
            _refuse(f"more than {NODE_LIMIT} scalars, lists and mappings, counting what aliases stand for", event)

    def _add(self, event: yaml.Event, value: Tree, is_merge: bool = False, height: int = 0) -> None:
        if not self._open:
            self.root = value
            return
        top = self._open[-1]
        top.height = max(top.height, height + 1)
        if not top.is_mapping:
            top.items.append(value)
        elif top.key is None:
            if not isinstance(value, str):
                _refuse("a key isn't text", event)
            if value in top.entries if not is_merge else top.merged is not None:
                _refuse("a key occurs twice", event)
            top.key, top.is_merging = value, is_merge
        else:
            if top.is_merging:
                top.merged = _sources(event, value)
            else:
                top.entries[top.key] = value
            top.key = None


def _sources(event: yaml.Event, value: Tree) -> tuple[Mapping[str, Tree], ...]:
    """Give the mappings that a merge key stands for (yaml.org/type/merge): the first to have a key wins."""
    sources = tuple(
        source for source in (value if isinstance(value, tuple) else (value,)) if isinstance(source, Mapping)
    )
    if len(sources) != (len(value) if isinstance(value, tuple) else 1):
        _refuse("a merge key (<<) of what isn't a mapping", event)
    return sources


def _check_bytes(content: bytes) -> None:
    """Refuse what has to be refused before a parser sees it."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise InvalidDocument("agent document: it is UTF-16", hint="save it as UTF-8")
    if _lines_with(b"%", content) > DIRECTIVE_LIMIT:
        raise InvalidDocument(f"agent document: more than {DIRECTIVE_LIMIT} lines begin with %")
    if BOM_UTF8 in content and _lines_with(BOM_UTF8, content):
        # One parser skips it, the other takes it for text.
        raise InvalidDocument("agent document: a line begins with a byte order mark")


def _lines_with(beginning: bytes, content: bytes) -> int:
    return content.startswith(beginning) + sum(content.count(end + beginning) for end in _LINE_ENDS)


def _translate(error: Exception, content: bytes) -> InvalidDocument:
    """Say what a parser found without the text that it found it in."""
    if isinstance(error, yaml.reader.ReaderError):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as failure:
            where = _position(content[: failure.start].decode("utf-8"))
            return InvalidDocument(f"agent document: it isn't UTF-8{where}", hint="save it as UTF-8")
        found = _NOT_A_CHARACTER.search(text)
        where = _position(text[: found.start()]) if found else ""
        return InvalidDocument(f"agent document: a character that YAML doesn't allow{where}")
    if isinstance(error, yaml.MarkedYAMLError):
        context, problem = (_QUOTED.sub(_spare, part or "") for part in (error.context, error.problem))
        why = ", ".join(part for part in (context, problem) if part)
        return InvalidDocument(f"agent document: it isn't YAML{_at(error.problem_mark or error.context_mark)}: {why}")
    return InvalidDocument("agent document: it isn't YAML: an escape of what isn't a character")


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _spare(quoted: re.Match[str]) -> str:
    """Keep the signs and names of the grammar that a parser quotes, and no more of the document than one character."""
    return quoted[0] if len(quoted[0]) <= 3 or quoted[0].startswith("'<") else "'…'"


def _position(before: str) -> str:
    lines = _LINE_END.split(before)
    return f" at line {len(lines)}, column {len(lines[-1]) + 1}"


def _at(mark: Any) -> str:
    return "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"


def _refuse(why: str, event: yaml.Event) -> NoReturn:
    raise InvalidDocument(f"agent document: {why}{_at(event.start_mark)}")


def _refuse_tag(event: yaml.Event) -> NoReturn:
    _refuse("a tag (!…) that isn't in the core schema of YAML", event)
