"""Agent documents: what is read from them, what stands outside them, and what no document may do to its reader."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from vectors import DATA, MISSING

from lading.agents import definition, document
from lading.agents.definition import read_document
from lading.agents.document import (
    AgentDefinition,
    Document,
    Local,
    Metadata,
    Model,
    Oci,
    Toolset,
    Tree,
    Url,
    classify,
    parse_document,
    read_tree,
)
from lading.errors import InvalidDocument
from lading.oci.reference import Reference

Parser = Callable[[bytes], Any]

PARSERS: dict[str, Parser] = {"python": yaml.SafeLoader}
if yaml.__with_libyaml__:
    PARSERS["libyaml"] = yaml.CSafeLoader

each_parser = pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS.keys())

SECRET = "s3cr3t-t0ken-ABCDEF"

TEAM = b"""\
#!/usr/bin/env docker agent run
version: 2

metadata:
  author: Acme
  license: Apache-2.0
  version: 1.10
  readme: |
    Read me.
  tags: [triage, demo]
  colour: blue

models:
  claude: {provider: anthropic, model: claude-sonnet-4-5, max_tokens: 64000}
  router:
    routing: [{model: claude, examples: [hello]}]

agents:
  root:
    model: claude
    description: Sorts issues
    welcome_message: Hello
    instruction: |
      You sort issues.
    add_date: true
    sub_agents:
      - writer
      - agentcatalog/pirate
      - reviewer:ghcr.io/acme/review:v3
    handoffs: [https://example.com/agents/x.yaml, writer]
    toolsets:
      - type: think
      - {type: mcp, ref: docker:duckduckgo}
      - type: mcp
        command: npx
        args: [-y, server]
      - type: mcp
        remote: {url: https://mcp.example.com/sse, transport_type: sse}
      - {type: openapi, name: shop, url: https://example.com/openapi.json}
  writer:
    model: openai/gpt-4o,claude
    force_handoff: acme/editor
"""


def plain(tree: Tree) -> Any:
    """Give a tree as lists and dictionaries."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(item) for item in tree] if isinstance(tree, tuple) else tree


def test_a_document_is_read() -> None:
    team = parse_document(TEAM)
    assert list(team.agents) == ["root", "writer"]
    assert team.agents["root"] == AgentDefinition(
        name="root",
        description="Sorts issues",
        instruction="You sort issues.\n",
        model="claude",
        toolsets=(
            Toolset("think"),
            Toolset("mcp", ref="docker:duckduckgo"),
            Toolset("mcp", command="npx"),
            Toolset("mcp", url="https://mcp.example.com/sse"),
            Toolset("openapi", name="shop", url="https://example.com/openapi.json"),
        ),
        sub_agents=("writer", "agentcatalog/pirate", "reviewer:ghcr.io/acme/review:v3"),
        handoffs=("https://example.com/agents/x.yaml", "writer"),
    )
    assert team.agents["writer"] == AgentDefinition(
        name="writer", model="openai/gpt-4o,claude", force_handoff=("acme/editor",)
    )
    assert team.models == {"claude": Model("claude", "anthropic", "claude-sonnet-4-5"), "router": Model("router")}
    assert team.metadata == Metadata("Acme", "Apache-2.0", "1.10", None, "Read me.\n", ("triage", "demo"))
    assert (team.name, team.description, team.version) == ("root", "Sorts issues", "2")
    assert team.root is team.agents["root"]


def test_each_external_reference_says_who_names_it_and_where() -> None:
    references = parse_document(TEAM).references
    assert [(ref.agent, ref.field, ref.kind, ref.text, ref.target) for ref in references] == [
        ("root", "sub_agents", "oci", "agentcatalog/pirate", Oci(Reference.parse("agentcatalog/pirate"))),
        (
            "root",
            "sub_agents",
            "oci",
            "reviewer:ghcr.io/acme/review:v3",
            Oci(Reference.parse("ghcr.io/acme/review:v3"), "reviewer"),
        ),
        (
            "root",
            "handoffs",
            "url",
            "https://example.com/agents/x.yaml",
            Url("https://example.com/agents/x.yaml"),
        ),
        ("writer", "force_handoff", "oci", "acme/editor", Oci(Reference.parse("acme/editor"))),
    ]
    assert [str(ref.reference) if ref.reference else None for ref in references] == [
        "docker.io/agentcatalog/pirate:latest",
        "ghcr.io/acme/review:v3",
        None,
        "docker.io/acme/editor:latest",
    ]


def test_the_tree_keeps_what_has_no_field() -> None:
    tree = parse_document(TEAM).tree
    assert plain(tree)["metadata"]["colour"] == "blue"
    assert plain(tree)["models"]["claude"]["max_tokens"] == "64000"
    assert plain(tree)["agents"]["root"]["toolsets"][2]["args"] == ["-y", "server"]


def test_nothing_can_be_changed() -> None:
    team = parse_document(TEAM)
    for mapping in (team.agents, team.models, team.tree):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        team.version = "3"  # type: ignore[misc]


def test_urls_with_secrets_and_prompts_are_not_in_a_representation() -> None:
    content = f"""
agents:
  root:
    instruction: {SECRET}
    sub_agents: ["https://example.com/a.yaml?token={SECRET}"]
    toolsets: [{{type: mcp, remote: {{url: "https://example.com/?key={SECRET}"}}}}]
"""
    read = parse_document(content.encode())
    assert len(read.references) == 1
    assert SECRET not in repr(read)
    assert SECRET not in repr(read.references[0].target)


@pytest.mark.parametrize(
    ("content", "name", "description"),
    [
        (b"agents: {a: {description: A}, root: {description: R}}", "root", "R"),
        (b"agents: {b: {description: B}, a: {description: A}}", "b", "B"),
        (b"agents: {root: }\nmetadata: {description: M}", "root", "M"),
        (b"agents: {}\nmetadata: {description: M}", None, "M"),
        (b"agents:", None, None),
        (b"{}", None, None),
    ],
)
def test_the_agent_that_runs_is_root_or_the_first(content: bytes, name: str | None, description: str | None) -> None:
    read = parse_document(content)
    assert (read.name, read.description) == (name, description)
    assert (read.root is None) is (name is None)


def test_version_0_of_the_schema_is_read() -> None:
    read = parse_document(
        b"""
agents:
  root: {name: root, model: gpt, think: true, sub_agents: [b], toolsets: [{type: mcp, command: x}]}
  b: {model: gpt, memory: {path: ./m.db}}
models:
  gpt: {type: openai, model: gpt-4o}
env: {A: B}
"""
    )
    assert read.models == {"gpt": Model("gpt", "openai", "gpt-4o")}
    assert read.agents["root"].toolsets == (Toolset("mcp", command="x"),)
    assert read.references == ()


# What is written in a list of agents: what it stands for.
_PIRATE = Reference.parse("agentcatalog/pirate")
_PINNED = "ghcr.io/acme/a@sha256:" + "ab" * 32
CLASSES: list[tuple[str, Local | Oci | Url]] = [
    ("writer", Local("writer")),
    ("", Local("")),
    ("a b", Local("a b")),
    ("busybox:latest", Local("busybox:latest")),
    ("docker:duckduckgo", Local("docker:duckduckgo")),
    ("agentcatalog/pirate", Oci(_PIRATE)),
    ("docker.io/acme/a:v1", Oci(Reference.parse("docker.io/acme/a:v1"))),
    (_PINNED, Oci(Reference.parse(_PINNED))),
    ("localhost:5000/a", Oci(Reference.parse("localhost:5000/a"))),
    ("pirate:5000/a", Oci(Reference.parse("pirate:5000/a"))),
    ("pirate:agentcatalog/pirate", Oci(_PIRATE, "pirate")),
    ("p:localhost:5000/a:v1", Oci(Reference.parse("localhost:5000/a:v1"), "p")),
    (f"p:{_PINNED}", Oci(Reference.parse(_PINNED), "p")),
    ("http://example.com/a", Url("http://example.com/a")),
    ("https://example.com/a.yaml", Url("https://example.com/a.yaml")),
    ("x:https://example.com/a.yaml", Url("https://example.com/a.yaml", "x")),
    ("ftp://example.com/a", Local("ftp://example.com/a")),
    ("oci://ghcr.io/acme/a", Local("oci://ghcr.io/acme/a")),
    (":agentcatalog/pirate", Local(":agentcatalog/pirate")),
    ("a/b:agentcatalog/pirate", Local("a/b:agentcatalog/pirate")),
    ("p:q:agentcatalog/pirate", Local("p:q:agentcatalog/pirate")),
    ("Acme/Triage", Local("Acme/Triage")),
    ("../team", Local("../team")),
    ("/etc/agent", Local("/etc/agent")),
    ("agents/team.yaml", Local("agents/team.yaml")),
    ("agents/team.yml", Local("agents/team.yml")),
    ("agents/team:v1.YAML", Local("agents/team:v1.YAML")),
    ("p:agents/team.yaml", Local("p:agents/team.yaml")),
    ("acme/a\n", Local("acme/a\n")),
    ("a/" * 5000, Local("a/" * 5000)),
]


@pytest.mark.parametrize(("text", "expected"), CLASSES, ids=[repr(text[:40]) for text, _ in CLASSES])
def test_what_a_name_stands_for(text: str, expected: Local | Oci | Url) -> None:
    assert classify(text) == expected


@given(st.text() | st.from_regex(r"([a-z]{1,3}[:/@.]){0,4}[a-zA-Z]{1,3}", fullmatch=True))
def test_every_name_stands_for_something(text: str) -> None:
    target = classify(text)
    match target:
        case Local(name):
            assert name == text
        case Oci(reference, name):
            assert "/" in text
            assert text.endswith(f"/{reference.repository.rpartition('/')[2]}") or reference.tag or reference.digest
            assert name is None or text.startswith(f"{name}:")
        case Url(url, name):
            assert text == (url if name is None else f"{name}:{url}")
        case _:
            assert_never(target)


def test_what_the_document_defines_is_local_whatever_it_looks_like() -> None:
    read = parse_document(b"agents: {root: {sub_agents: [acme/a, 'p:acme/a', acme/b]}, acme/a: {}, 'p:acme/a': {}}")
    assert [ref.text for ref in read.references] == ["acme/b"]


# What is written, what is read.
ACCEPTED: dict[str, tuple[bytes, Any]] = {
    "a byte order mark": (b"\xef\xbb\xbfa: b", {"a": "b"}),
    "directives": (b"%YAML 1.2\n%TAG !! tag:yaml.org,2002:\n--- {a: !!str b}\n...\n", {"a": "b"}),
    "line ends of Windows": (b"a: |\r\n  b\r\n  c\r\nd: e\r\n", {"a": "b\nc\n", "d": "e"}),
    "scalars stay text": (
        b"{a: no, b: 3.10, c: 0x1F, d: 2024-01-02, e: .nan, f: 1_000, g: true, h: 12:30, i: '='}",
        {"a": "no", "b": "3.10", "c": "0x1F", "d": "2024-01-02", "e": ".nan", "f": "1_000"}
        | {"g": "true", "h": "12:30", "i": "="},
    ),
    "null": (b"- ~\n- null\n- Null\n- NULL\n-\n- !!null ''\n- nULL", [None] * 6 + ["nULL"]),
    "quoted null": (b"""["", '~', "null", !!str null, ! null]""", ["", "~", "null", "null", "null"]),
    "core tags": (b"!!map {a: !!seq [!!int 1, !!float 1.5, !!bool true, !!str x]}", {"a": ["1", "1.5", "true", "x"]}),
    "keys are text": (b"{1: a, true: b, 'x y': c, ? d : e}", {"1": "a", "true": "b", "x y": "c", "d": "e"}),
    "anchors": (b"a: &a [x, &b y]\nb: *a\n? *b\n: *b", {"a": ["x", "y"], "b": ["x", "y"], "y": "y"}),
    "an anchor that is used again": (b"[&a x, *a, &a y, *a]", ["x", "x", "y", "y"]),
    "an anchor of nothing": (b"[&a , *a]", [None, None]),
    "merge": (b"a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": "1", "y": "2"}, "b": {"x": "1", "y": "3"}}),
    "merge several": (
        b"- &a {x: 1}\n- &b {x: 2, y: 2}\n- {z: 3, <<: [*a, *b, {w: 4}]}",
        [{"x": "1"}, {"x": "2", "y": "2"}, {"z": "3", "x": "1", "y": "2", "w": "4"}],
    ),
    "merge of a merge": (
        b"- &a {x: 1}\n- &b {<<: *a, y: 2}\n- {<<: *b}",
        [{"x": "1"}, {"y": "2", "x": "1"}, {"y": "2", "x": "1"}],
    ),
    "merge of nothing": (b"{<<: [], a: b}", {"a": "b"}),
    "a quoted merge key is a key": (b"{'<<': a, \"b\": <<}", {"<<": "a", "b": "<<"}),
    "depth 64": (b"[" * 64 + b"]" * 64, None),
    "200 aliases": (b"a: &a {x: 1}\nb: [" + b"*a, " * 200 + b"]", None),
    "sixteen lines of percent": (b'a: "' + b"\n%" * 16 + b'"', {"a": " ".join([""] + ["%"] * 16)}),
    "escapes": (rb'["\x1b\u00e9\U0001F600\0\N"]', ["\x1b\u00e9\U0001f600\0\x85"]),
    "a mark in a line": ("a: b\ufeffc".encode(), {"a": "b\ufeffc"}),
    "a comment alone": (b"# nothing\n", None),
}


@each_parser
@pytest.mark.parametrize(("content", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_yaml_that_is_read(content: bytes, expected: Any, parser: Parser) -> None:
    tree = read_tree(content, parser)
    if expected is not None:
        assert plain(tree) == expected


def _levels(count: int, width: int) -> bytes:
    """Give mappings whose aliases expand to ``width ** count`` leaves."""
    lines = [b"a0: &a0 [" + b"x," * width + b"]"]
    lines += [b"a%d: &a%d [" % (i, i) + b"*a%d," % (i - 1) * width + b"]" for i in range(1, count)]
    return b"\n".join(lines)


# What is written, a part of what the refusal says.
REFUSED: dict[str, tuple[bytes, str]] = {
    "aliases that expand to a billion leaves": (_levels(9, 10), "more than 100000 .*line 5, column"),
    "aliases that double": (_levels(30, 2), "more than 100000 "),
    "merge keys that multiply": (
        b"a: &a {"
        + b",".join(b"k%d: x" % i for i in range(300))
        + b"}\n"
        + b"".join(b"m%d: {<<: [*a, *a]}\n" % i for i in range(400)),
        "more than 100000 ",
    ),
    "aliases that nest": (
        b"".join(b"- &a%d [%s]\n" % (i, b"*a%d" % (i - 1) if i else b"") for i in range(100)),
        "64, with",
    ),
    "aliases that repeat much text": (
        b'- &a "' + b"x" * 1_000_000 + b'"\n' + b"- *a\n" * 9,
        "more than 4194304 characters",
    ),
    "aliases that repeat a list of much text": (
        b'- &a ["' + b"x" * 1_000_000 + b'"]\n' + b"- *a\n" * 9,
        "more than 4194304 characters",
    ),
    "too many aliases": (b"- &a x\n" + b"- *a\n" * 1001, "more than 1000 aliases at line 1002, column 3"),
    "a list in itself": (b"a: &a [*a]", "a part of at line 1, column 8"),
    "a mapping in itself": (b"&a {b: {c: *a}}", "a part of"),
    "a merge of itself": (b"a: &a {<<: *a}", "a part of"),
    "itself under a name used before": (b"[&a x, &a [*a]]", "a part of"),
    "an alias of nothing": (b"[*a, &a x]", "doesn't come before it at line 1, column 2"),
    "depth 65": (b"[" * 65 + b"]" * 65, "deeper than 64 at line 1, column 65"),
    "depth 20,000 in flow style": (b"[" * 20_000, "(deeper than 64|nesting depth)"),
    "depth 20,000 in flow style, closed": (b"[" * 20_000 + b"]" * 20_000, "(deeper than 64|nesting depth)"),
    "depth 20,000 of flow mappings": (b"{a: " * 20_000, "deeper than 64"),
    "depth 20,000 in block style": (b"- " * 20_000 + b"x", "deeper than 64"),
    "depth 2,000 of block mappings": (b"\n".join(b" " * i + b"a:" for i in range(2000)), "deeper than 64 at line 65"),
    "depth 20,000 of keys": (b"? " * 20_000 + b"x", "a key isn't text"),
    "braces in braces": (b"{" * 20_000, "(a key isn't text|nesting depth)"),
    "many nodes": (b"[" + b"x," * 100_001 + b"]", "more than 100000 "),
    "many keys": (b"\n".join(b"k%d: x" % i for i in range(60_000)), "more than 100000 "),
    "many anchors": (b"\n".join(b"- &a%d x" % i for i in range(100_001)), "more than 100000 "),
    "many directives": (b"".join(b"%%TAG !a%d! tag:x\n" % i for i in range(100_000)) + b"--- a", "begin with %"),
    "many directives, other line ends": (b"%TAG !a! tag:x\r" * 10 + "%TAG !a! tag:x\x85".encode() * 10, "begin with %"),
    "two documents": (b"a: b\n---\nc: d\n", "second document begins at line 2, column 1"),
    "two documents, the first empty": (b"---\n---\na: b\n", "second document"),
    "a key twice": (b"a: 1\nb: 2\na: 3\n", "a key occurs twice at line 3, column 1"),
    "a key twice, deep": (b"a: [{b: {c: 1, c: 1}}]", "a key occurs twice at line 1, column 16"),
    "a key twice, once quoted": (b"{1: a, '1': b}", "a key occurs twice"),
    "two merge keys": (b"- &a {x: 1}\n- {<<: *a, <<: *a}", "a key occurs twice"),
    "a merge of text": (b"{<<: x}", "merge key"),
    "a merge of null": (b"{<<: }", "merge key"),
    "a merge of lists": (b"{<<: [[a]]}", "merge key"),
    "a list as a key": (b"{[a]: b}", "a key isn't text"),
    "a mapping as a key": (b"? {a: b}\n: c", "a key isn't text"),
    "null as a key": (b"{~: a}", "a key isn't text"),
    "no key": (b"? \n: a", "a key isn't text"),
    "a list as a key, by alias": (b"- &a [x]\n- *a : b", "a key isn't text"),
    "python/object/apply": (b"!!python/object/apply:os.system ['true']", "a tag"),
    "python/name": (b"a: !!python/name:os.system", "a tag"),
    "python/tuple": (b"a: !!python/tuple [b]", "a tag"),
    "a timestamp tag": (b"a: !!timestamp 2024-01-02", "a tag"),
    "a binary tag": (b"a: !!binary aGk=", "a tag"),
    "a set": (b"a: !!set {b}", "a tag"),
    "a tag of one's own": (b"a: !secret b", "a tag .* at line 1, column 4"),
    "a mapping's tag on text": (b"a: !!map b", "a tag"),
    "text's tag on a list": (b"a: !!str [b]", "a tag"),
    "a list's tag on a mapping": (b"a: !!seq {b: c}", "a tag"),
    "a tag under another handle": (b"%TAG !! tag:example.com,2000:\n--- !!str a", "a tag"),
    "null that isn't": (b"a: !!null b", "null is something else"),
    "UTF-16 little-endian": ("a: b".encode("utf-16"), "it is UTF-16"),
    "UTF-16 big-endian": (b"\xfe\xff" + "a: b".encode("utf-16-be"), "it is UTF-16"),
    "UTF-16 without a mark": ("a: b".encode("utf-16-le"), "a character that YAML doesn't allow at line 1, column 2"),
    "UTF-32": ("a: b".encode("utf-32"), "it is UTF-16"),
    "Latin-1": ("a: b\nc: é".encode("latin-1"), "isn't UTF-8 at line 2, column 4"),
    "UTF-8 that is too long": (b"a: \xc0\xaf", "isn't UTF-8"),
    "a surrogate in UTF-8": (b"a: \xed\xa0\x80", "isn't UTF-8"),
    "a NUL": (b"a: b\nc: \0", "a character that YAML doesn't allow at line 2, column 4"),
    "an escape sequence": (b"a: \x1b[31m", "a character that YAML doesn't allow"),
    "a lone surrogate": (rb'a: "\ud800"', ""),
    "a surrogate pair": (rb'a: "\ud83d\ude00"', ""),
    "an escape beyond Unicode": (rb'a: "\U00110000"', ""),
    "an escape far beyond Unicode": (rb'a: "\UFFFFFFFF"', ""),
    "a mark in the middle": ("a: b\n\ufeffc: d".encode(), "begins with a byte order mark"),
    "two marks": (b"\xef\xbb\xbf" * 2 + b"a: b", "begins with a byte order mark"),
    "another version": (b"%YAML 2.0\n--- a", ""),
    "a version to come": (b"%YAML 1.3\n--- a", ""),
    "a version of 100,000 digits": (b"%YAML 1." + b"1" * 100_000 + b"\n--- a", ""),
    "a tab as indentation": (b"a:\n\tb: c", "it isn't YAML at line 2, column 1"),
    "a colon too many": (b"a: b: c", "it isn't YAML at line 1, column 5"),
    "a quote that isn't closed": (b'a: "b\nc: d\n', "it isn't YAML at line 3, column 1"),
    "HTML": (b"<!DOCTYPE html>\n<html>\n<p>Sign in: here</p>\n</html>: x: y", "it isn't YAML at"),
}


@each_parser
@pytest.mark.parametrize(("content", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_at_once(content: bytes, why: str, parser: Parser) -> None:
    started = time.process_time()
    with pytest.raises(InvalidDocument, match=f"^agent document: .*{why}") as caught:
        read_tree(content, parser)
    assert time.process_time() - started < (10 if parser is yaml.SafeLoader else 1)
    assert str(caught.value).isprintable()


def test_an_alias_counts_as_all_that_it_stands_for() -> None:
    copies = b"[&a [" + b"x," * 999 + b"]," + b"*a," * 98
    assert len(plain(read_tree(copies + b"y," * 999 + b"]"))) == 99 + 999
    with pytest.raises(InvalidDocument, match="more than 100000 "):
        read_tree(copies + b"y," * 1000 + b"]")


@each_parser
def test_what_is_refused_takes_no_memory(parser: Parser) -> None:
    for content, _ in REFUSED.values():
        if len(content) > 100_000 and parser is yaml.SafeLoader:
            continue  # takes it long
        tracemalloc.start()
        try:
            with pytest.raises(InvalidDocument):
                read_tree(content, parser)
            assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
        finally:
            tracemalloc.stop()


# Where secrets may be when a parser, or what follows it, stops.
LEAKS = [
    f"a: {SECRET}: x",
    f"a: [{SECRET}",
    f"a: '{SECRET}",
    f'a: "{SECRET}\\q"',
    f"{SECRET}: 1\n{SECRET}: 2",
    f"a: *{SECRET}",
    f"a: &{SECRET} [*{SECRET}]",
    f"a: !{SECRET} x",
    f"a: !{SECRET}!x y",
    f"a: !<{SECRET}",
    f"%{SECRET} x\n--- a",
    f"%TAG !{SECRET}",
    f"--- {SECRET}\n--- b",
    f"a: {SECRET}\x1b",
    f"a: |{SECRET}",
    f"{{<<: {SECRET}}}",
    f"- {SECRET}\n{SECRET}",
    f"agents: {SECRET}",
    f"agents: {{root: {SECRET}}}",
    f"agents: {{root: {{sub_agents: {SECRET}}}}}",
    f"agents: {{root: {{model: {{{SECRET}: x}}}}}}",
    f"agents: {{root: {{handoffs: [[{SECRET}]]}}}}",
    f"models: [{SECRET}]",
    SECRET,
]


@each_parser
@pytest.mark.parametrize("text", LEAKS)
def test_no_refusal_repeats_what_is_written(text: str, parser: Parser) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_document(read_tree(text.encode(), parser))
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        assert SECRET not in repr(error)
        error = error.__cause__ or error.__context__


def test_the_parser_keeps_the_signs_of_the_grammar() -> None:
    with pytest.raises(InvalidDocument, match=r"while parsing a flow sequence.*expected ',' or ']'"):
        read_tree(b"[a", yaml.SafeLoader)


# What is written, which path the refusal names.
WRONG_TYPES = [
    (b"[]", "it is a list, not a mapping"),
    (b"text", "it is text, not a mapping"),
    (b"", "it is empty, not a mapping"),
    (b"---\n", "it is empty, not a mapping"),
    (b"agents: []", "agents is a list, not a mapping"),
    (b"agents: text", "agents is text, not a mapping"),
    (b"agents: {root: text}", "agents.root is text, not a mapping"),
    (b"agents: {root: []}", "agents.root is a list, not a mapping"),
    (b"agents: {root: {description: []}}", "agents.root.description is a list, not text"),
    (b"agents: {root: {instruction: {}}}", "agents.root.instruction is a mapping, not text"),
    (b"agents: {root: {model: [a]}}", "agents.root.model is a list, not text"),
    (b"agents: {root: {sub_agents: a}}", "agents.root.sub_agents is text, not a list"),
    (b"agents: {root: {sub_agents: {a: b}}}", "agents.root.sub_agents is a mapping, not a list"),
    (b"agents: {root: {sub_agents: [a, b, [c]]}}", "agents.root.sub_agents[2] is a list, not text"),
    (b"agents: {root: {handoffs: [a, ~]}}", "agents.root.handoffs[1] is empty, not text"),
    (b"agents: {root: {force_handoff: {a: b}}}", "agents.root.force_handoff is a mapping, not a list"),
    (b"agents: {root: {force_handoff: [{}]}}", "agents.root.force_handoff[0] is a mapping, not text"),
    (b"agents: {root: {toolsets: {type: think}}}", "agents.root.toolsets is a mapping, not a list"),
    (b"agents: {root: {toolsets: [think]}}", "agents.root.toolsets[0] is text, not a mapping"),
    (b"agents: {root: {toolsets: [{}, {command: [a]}]}}", "agents.root.toolsets[1].command is a list, not text"),
    (b"agents: {root: {toolsets: [{remote: x}]}}", "agents.root.toolsets[0].remote is text, not a mapping"),
    (b"agents: {root: {toolsets: [{remote: {url: []}}]}}", "agents.root.toolsets[0].remote.url is a list, not text"),
    (b"agents: {a.b: x}", "agents['a.b'] is text, not a mapping"),
    (b'agents: {"\\e[31m": x}', "agents['\\x1b[31m'] is text, not a mapping"),
    (b"agents: {" + b"k" * 1000 + b": x}", f"agents['{'k' * 64}…'] is text, not a mapping"),
    (b"models: []", "models is a list, not a mapping"),
    (b"models: {a: b}", "models.a is text, not a mapping"),
    (b"models: {a: {provider: []}}", "models.a.provider is a list, not text"),
    (b"version: [1]", "version is a list, not text"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_TYPES, ids=[message for _, message in WRONG_TYPES])
def test_a_field_of_the_wrong_kind_is_named(content: bytes, message: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_document(content)
    assert caught.value.message == f"agent document: {message}"


def test_null_is_as_good_as_absent() -> None:
    read = parse_document(
        b"version:\nmetadata:\nmodels: {a: }\nagents: {root: {model: , toolsets: , sub_agents: , force_handoff: }}"
    )
    assert read.agents == {"root": AgentDefinition("root")}
    assert read.models == {"a": Model("a")}
    assert (read.metadata, read.version, read.references) == (Metadata(), None, ())


@pytest.mark.parametrize("metadata", [b"x", b"[x]", b"{author: [x], readme: {}, tags: [[x], {}, ~]}"])
def test_metadata_never_stands_in_the_way(metadata: bytes) -> None:
    assert parse_document(b"metadata: " + metadata).metadata == Metadata()


def test_one_tag_needs_no_list() -> None:
    assert parse_document(b"metadata: {tags: demo}").metadata.tags == ("demo",)


def test_as_many_names_as_the_limit_are_read_at_once() -> None:
    names = b"a:a/B," * definition.NAME_LIMIT
    started = time.process_time()
    assert parse_document(b"agents: {root: {sub_agents: [" + names + b"]}}").references == ()
    assert time.process_time() - started < 5
    with pytest.raises(InvalidDocument, match="more than 10000 other agents"):
        parse_document(b"agents: {root: {sub_agents: [" + names + b"], handoffs: [acme/a]}}")


def test_shared_toolsets_by_anchor_and_merge() -> None:
    read = parse_document(
        b"""
x-tools: &tools [{type: think}, {type: shell}]
x-base: &base {model: openai/gpt-4o, toolsets: *tools}
agents:
  root: {<<: *base, description: R, sub_agents: [b]}
  b: {<<: *base, model: anthropic/claude}
"""
    )
    assert [(agent.model, len(agent.toolsets)) for agent in read.agents.values()] == [
        ("openai/gpt-4o", 2),
        ("anthropic/claude", 2),
    ]


def test_without_libyaml_the_same_is_read() -> None:
    script = (
        "import sys; sys.modules['yaml.cyaml'] = None\n"
        "from lading.agents.document import parse_document\n"
        "import yaml; assert not yaml.__with_libyaml__\n"
        "document = parse_document(sys.stdin.buffer.read())\n"
        "print(document.name, [str(ref.reference) for ref in document.references if ref.reference])"
    )
    done = subprocess.run([sys.executable, "-c", script], input=TEAM, capture_output=True, check=True, timeout=60)
    expected = ["docker.io/agentcatalog/pirate:latest", "ghcr.io/acme/review:v3", "docker.io/acme/editor:latest"]
    assert done.stdout.decode().strip() == f"root {expected}"


def test_libyaml_is_used_where_it_is() -> None:
    assert document._PARSER is PARSERS.get("libyaml", yaml.SafeLoader)


def _attempt(read: Callable[[], Any]) -> Any:
    """Give what is read, or ``...`` for a refusal; anything else that is raised fails the test."""
    try:
        return read()
    except InvalidDocument as error:
        refusal = str(error)
    assert refusal.isprintable()
    return ...


def _outcome(content: bytes, parser: Parser) -> Any:
    return _attempt(lambda: plain(read_tree(content, parser)))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"")
@example(b"%")
@example(b"\xff\xfe")
def test_arbitrary_bytes_give_a_document_or_the_typed_error(content: bytes) -> None:
    for parser in PARSERS.values():
        _outcome(content, parser)
    read = _attempt(lambda: parse_document(content))
    assert read is ... or isinstance(read, Document)


_FRAGMENTS = (
    *(
        "a",
        "b: ",
        "- ",
        "? ",
        ": ",
        "\n",
        "\n  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        '"',
        "|",
        "|-\n",
        ">",
        "&a ",
        "*a",
        "<<: ",
    ),
    *(
        "!!str ",
        "!!null ",
        "!x ",
        "! ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "%YAML 1.3\n",
        "%TAG ! x:\n",
        "#",
        "# c\n",
        "\t",
    ),
    *(
        "\r",
        "\r\n",
        "\x85",
        "\u2028",
        "é",
        "😀",
        "\ufeff",
        "\0",
        "\x1b",
        "\\u0041",
        "\\ud800",
        "\\U00110000",
        "null",
        "~",
    ),
    *("agents: ", "root: ", "sub_agents: ", "acme/a", "key: value\n", "{a: b}", "[a, b]"),
)


@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=14).map("".join))
def test_where_both_parsers_take_a_document_they_give_the_same(text: str) -> None:
    outcomes = [_outcome(text.encode(), parser) for parser in PARSERS.values()]
    taken = [outcome for outcome in outcomes if outcome is not ...]
    assert all(outcome == taken[0] for outcome in taken)


# Without the line ends of YAML 1.1, which the writer doesn't always escape.
_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=12
) | st.sampled_from(["no", "~", "<<", "1", "a/b", ""])
_TREES = st.recursive(
    st.none() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=15,
)


@given(_TREES, st.sampled_from([True, False, None]), st.booleans())
def test_what_was_written_is_read_by_both_parsers(tree: Any, flow: bool | None, unicode: bool) -> None:
    content = yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=unicode, sort_keys=False).encode()
    for parser in PARSERS.values():
        assert _outcome(content, parser) == tree


_FIELDS = ["sub_agents", "handoffs", "force_handoff", "toolsets", "model", "description", "type", "remote", "url"]
_SHAPES = st.recursive(
    st.none() | st.sampled_from(["a", "acme/a", "https://x/y", "p:acme/a", "a/b/../c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "agents": st.dictionaries(st.sampled_from(["root", "a"]), _SHAPES) | _SHAPES,
            "models": _SHAPES,
            "metadata": _SHAPES,
            "version": _SHAPES,
        },
    )
)
def test_an_arbitrary_shape_gives_a_document_or_the_typed_error(tree: Any) -> None:
    read = _attempt(lambda: parse_document(yaml.safe_dump(tree).encode()))
    assert read is ... or all(ref.agent in read.agents for ref in read.references)


REAL = sorted((DATA / "data" / "agents").glob("*.yaml"))


@pytest.mark.skipif(not REAL, reason=MISSING)
def test_the_agents_that_people_wrote_are_read() -> None:
    for path in REAL:
        content = path.read_bytes()
        read = parse_document(content)
        assert read.root is not None, path
        assert read.root.model, path
        for parser in PARSERS.values():
            assert read_tree(content, parser) == read.tree, path


@pytest.mark.skipif(not REAL, reason=MISSING)
def test_the_agents_that_people_wrote_name_one_agent_elsewhere() -> None:
    references = [(path.name, ref) for path in REAL for ref in parse_document(path.read_bytes()).references]
    assert [(name, ref.agent, ref.field, str(ref.reference)) for name, ref in references] == [
        ("sub-agents-from-catalog.yaml", "root", "sub_agents", "docker.io/agentcatalog/pirate:latest")
    ]
