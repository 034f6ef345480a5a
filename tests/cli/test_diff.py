"""``diff``: what another version may do, at the shell."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import click
import pytest
from artifacts import MANIFEST, publish, sha256
from shell import Shell

from lading import Digest, LockEntry, Lockfile, Reference, compare_agents
from lading.cli.diff import diff
from lading.cli.difference import Side, print_comparison
from lading.testing import EmbeddedRegistry

OLD = b"""\
agents:
  root:
    model: openai/gpt-4o
    instruction: |
      You sort issues.
      Never touch the code.
    toolsets:
      - type: mcp
        ref: docker:github
        tools: [list_issues]
"""
NEW = b"""\
agents:
  root:
    model: openai/gpt-4o
    instruction: |
      You sort issues.
      Fix the code, too.
    sub_agents: [acme/writer]
    toolsets:
      - type: mcp
        ref: docker:github
      - type: shell
      - type: think
permissions:
  allow: [shell]
"""

SHOWN = """\

root
  + sub-agent docker.io/acme/writer:latest: outside the document, not pinned
  + shell
  + think (harmless)
  + MCP server docker:github: tools: any, was only list_issues
  ~ instruction
       You sort issues.
      -Never touch the code.
      +Fix the code, too.

the whole document
  + permissions: allow shell

4 new capabilities: sub-agent docker.io/acme/writer:latest, shell, MCP server docker:github, permissions
"""


async def test_two_references(registry: EmbeddedRegistry, lading: Shell) -> None:
    old, new = publish(registry, OLD, tag="v1"), publish(registry, NEW, tag="v2")
    names = [f"{registry.host}/acme/triage:{tag}" for tag in ("v1", "v2")]
    found = await lading("diff", *names)
    assert (found.status, found.err) == (0, "")
    assert found.out.decode() == f"{old[:19]} -> {new[:19]}\n{names[0]} -> {names[1]}\n{SHOWN}"
    assert (await lading("diff", *names, "--fail-on-new-capabilities")).status == 1
    back = await lading("diff", *reversed(names), "--fail-on-new-capabilities")
    assert back.status == 0
    assert back.out.decode().endswith("\nno new capabilities\n")


async def test_what_the_store_has_against_what_the_registry_has_now(registry: EmbeddedRegistry, lading: Shell) -> None:
    name = f"{registry.host}/acme/triage:v1"
    nothing = await lading("diff", name)
    assert nothing.status == 1
    assert f"{name}: the store" in nothing.err
    assert f"lading pull {name}" in nothing.err

    old = publish(registry, OLD)
    await lading("cat", name)
    registry.clear_requests()
    same = await lading("diff", name)
    assert (same.status, same.out.decode().splitlines()[-1]) == (0, "no change")
    registry.assert_requests("HEAD manifest")

    new = publish(registry, NEW)
    for _ in range(2):  # what the tag stands for in the store doesn't move, so that it is found again
        found = await lading("diff", name, "--fail-on-new-capabilities")
        lines = found.out.decode().splitlines()
        assert found.status == 1
        assert lines[:2] == [f"{old[:19]} -> {new[:19]}", f"{name} in the store -> {name} in its registry"]
    await registry.stop()
    assert (await lading("cat", name)).out == OLD


async def test_what_is_locked_against_what_the_registry_has_now(registry: EmbeddedRegistry, lading: Shell) -> None:
    old, new = publish(registry, OLD), publish(registry, NEW)
    name = f"{registry.host}/acme/triage:v1"
    entry = LockEntry(Reference.parse(name), Digest.parse(old), MANIFEST, 1, is_requested=True)
    Lockfile((entry,)).write(lading.directory / "agents.lock")
    found = await lading("diff", name, "--lock", "agents.lock")
    assert found.status == 0, found.err
    assert found.out.decode().splitlines()[:2] == [
        f"{old[:19]} -> {new[:19]}",
        f"{name} in agents.lock -> {name} in its registry",
    ]
    other = await lading("diff", f"{registry.host}/acme/triage:v2", "--lock", "agents.lock")
    assert other.status == 1
    assert "not in the lock file" in other.err


async def test_files_need_neither_network_nor_store(lading: Shell) -> None:
    (lading.directory / "old.yaml").write_bytes(OLD)
    (lading.directory / "new").write_bytes(NEW)
    found = await lading("diff", "old.yaml", "new")
    assert found.status == 0
    assert found.out.decode() == f"{sha256(OLD)[:19]} -> {sha256(NEW)[:19]}\nold.yaml -> new\n{SHOWN}"
    assert not Path(lading.env["LADING_HOME"]).exists()
    (lading.directory / "new").write_bytes(b"# A comment.\n" + OLD)
    assert (await lading("diff", "old.yaml", "new")).out.endswith(b"\nno change but in comments, layout or order\n")
    missing = await lading("diff", "old.yaml", "Missing.YML")
    assert (missing.status, "Missing.YML: can't be read" in missing.err) == (1, True)
    (lading.directory / "new").write_bytes(b"agents: [s3cret")
    broken = await lading("diff", "old.yaml", "new")
    assert (broken.status, broken.out) == (1, b"")
    assert "new: agent document: " in broken.err
    assert "s3cret" not in broken.err


async def test_a_reference_against_standard_input_as_json(registry: EmbeddedRegistry, lading: Shell) -> None:
    old = publish(registry, OLD)
    name = f"{registry.host}/acme/triage:v1"
    found = await lading("diff", name, "-", "--json", stdin=NEW)
    assert found.status == 0, found.err
    result = json.loads(found.out)
    assert result["old"] == {"name": name, "digest": old}
    assert result["new"] == {"name": "standard input", "digest": sha256(NEW)}
    assert (result["is_same_content"], result["new_capabilities"]) == (False, 4)
    assert result["summary"] == SHOWN.splitlines()[-1]
    assert [one["subject"] for one in result["gained"]][1:] == [
        "shell",
        "think",
        "MCP server docker:github",
        "permissions",
    ]
    assert result["gained"][1] == {
        "agent": "root",
        "subject": "shell",
        "detail": "",
        "path": "agents.root.toolsets[1]",
        "weight": "capability",
        "diff": [],
    }
    assert result["gained"][-1]["agent"] is None
    assert result["instructions"][0]["diff"] == [" You sort issues.", "-Never touch the code.", "+Fix the code, too."]


async def test_offline_both_are_from_the_store(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, OLD, tag="v1")
    publish(registry, NEW, tag="v2")
    names = [f"{registry.host}/acme/triage:{tag}" for tag in ("v1", "v2")]
    for name in names:
        await lading("cat", name)
    registry.clear_requests()
    assert (await lading("diff", "--offline", *names)).out.decode().endswith(SHOWN)
    alone = await lading("diff", "--offline", names[0])
    assert (alone.status, "network access is switched off" in alone.err) == (1, True)
    assert registry.summary() == []


async def test_the_same_content_under_another_digest(registry: EmbeddedRegistry, lading: Shell) -> None:
    old = publish(registry, OLD, tag="v1")
    new = publish(registry, OLD, tag="v2", annotations={"io.docker.agent.version": "v2"})
    names = [f"{registry.host}/acme/triage@{digest}" for digest in (old, new)]
    found = await lading("diff", *names, "--fail-on-new-capabilities")
    assert (found.status, found.out.decode().splitlines()[-1]) == (
        0,
        "no change: the same content under another digest",
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a.yaml"], "a file has no other version"),
        ([f"acme/a@sha256:{'0' * 64}"], "stands for the same forever"),
        (["acme/a", "acme/b", "--lock", "x"], "leave out NEW"),
        (["-", "-"], "once only"),
        (["acme/A"], "lower case"),
        ([], "old"),
    ],
)
def test_wrong_usage(arguments: list[str], why: str) -> None:
    with pytest.raises(click.UsageError, match=why):
        diff.main(arguments, standalone_mode=False)


# What is shown


def shown(
    old: bytes, new: bytes, monkeypatch: pytest.MonkeyPatch, *, colours: bool = False, as_json: bool = False
) -> str:
    """Give what a terminal of 80 columns is given."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")
    before, after = (Side(name, Digest.parse(sha256(one)), one) for name, one in (("old", old), ("new", new)))
    print_comparison(before, after, compare_agents(old, new), as_json=as_json)
    return terminal.getvalue()


def test_on_a_terminal_it_is_as_wide_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = ", ".join(f"a_rather_long_tool_{number}" for number in range(8))
    new = NEW.replace(b"ref: docker:github", f"ref: docker:other\n        tools: [{tools}]".encode())
    new = new.replace(b"Fix the code, too.", b"Fix the code, too. " * 20)
    text = shown(OLD, new, monkeypatch)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if "docker:other" in line)
    assert lines[start : start + 2] == [
        "  + MCP server docker:other: tools: only a_rather_long_tool_0,",
        "    a_rather_long_tool_1, a_rather_long_tool_2, a_rather_long_tool_3,",
    ]
    assert "      +Fix the code, too. Fix the code" in text
    assert "\n       code, too. Fix" in text or "\n       too. Fix" in text or "\n       Fix" in text


def test_colours_are_added_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, coloured = shown(OLD, NEW, monkeypatch), shown(OLD, NEW, monkeypatch, colours=True)
    assert "\x1b[33m  + shell\x1b[0m" in coloured
    assert "\x1b[31m  + sub-agent" in coloured
    assert re.sub(r"\x1b\[[0-9]*m", "", coloured) == plain


HOSTILE = "\x1b]0;pwned\x07\x1b[2J\u202eevil\r\n\x9b31m"
NAMED = json.dumps(HOSTILE)
HOSTILES = [
    f"agents: {{{NAMED}: {{}}}}",
    f"agents: {{root: {{{NAMED}: {NAMED}}}}}",
    f"agents: {{root: {{description: {NAMED}, welcome_message: {NAMED}, instruction: {NAMED}, model: {NAMED}}}}}",
    f"agents: {{root: {{toolsets: [{{type: {NAMED}}}, {{type: mcp, ref: {NAMED}}}]}}}}",
    f"agents: {{root: {{toolsets: [{{type: mcp, command: {NAMED}, args: [{NAMED}]}}]}}}}",
    f"agents: {{root: {{toolsets: [{{type: mcp, remote: {{url: {NAMED}}}}}, {{type: openapi, url: {NAMED}}}]}}}}",
    f"agents: {{root: {{toolsets: [{{type: script, shell: {{{NAMED}: {{cmd: {NAMED}, {NAMED}: x}}}}}}]}}}}",
    f"agents: {{root: {{toolsets: [{{type: shell, env: {{{NAMED}: {NAMED}}}, tools: [{NAMED}]}}]}}}}",
    f"agents: {{root: {{toolsets: [{{type: shell, config: {{{NAMED}: 1}}, headers: {NAMED}, name: {NAMED}}}]}}}}",
    f"agents: {{root: {{toolsets: [{{type: filesystem, post_edit: [{{path: {NAMED}, cmd: {NAMED}}}]}}]}}}}",
    f"agents: {{root: {{sub_agents: [{NAMED}, 'https://x.example/{HOSTILE.encode('unicode_escape').decode()}']}}}}",
    f"agents: {{root: {{hooks: {{{NAMED}: [{{matcher: {NAMED}, hooks: [{{command: {NAMED}}}]}}]}}}}}}",
    f"agents: {{root: {{commands: {{{NAMED}: {NAMED}}}, skills: [{NAMED}, {{name: {NAMED}}}]}}}}",
    f"{{permissions: {{allow: [{NAMED}], deny: [{NAMED}], {NAMED}: x}}, metadata: {{{NAMED}: {NAMED}}}, {NAMED}: x}}",
    f"{{models: {{{NAMED}: {{provider: {NAMED}, base_url: {NAMED}}}}}, mcps: {{{NAMED}: {{command: {NAMED}}}}}}}",
    f"{{providers: {{{NAMED}: {{{NAMED}: x}}}}, budgets: {{{NAMED}: {{}}}}}}",
    f"{{flavors: {{{NAMED}: {{}}}}, rag: {{{NAMED}: {{}}}}}}",
]


@pytest.mark.parametrize("text", HOSTILES)
def test_what_is_hostile_cant_drive_the_terminal(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, hostile = b"agents: {root: {}}", text.encode()
    for old, new in ((nothing, hostile), (hostile, nothing)):
        for as_json in (False, True):
            output = shown(old, new, monkeypatch, as_json=as_json)
            assert "evil" in output or new == nothing
            assert not any(character in output for character in "\x1b\x07\r\u202e\x9b")


def test_a_name_cant_be_taken_for_the_conclusion(monkeypatch: pytest.MonkeyPatch) -> None:
    output = shown(
        b"agents: {root: {}}", b"agents: {root: {}, no new capabilities: {toolsets: [{type: shell}]}}", monkeypatch
    )
    assert '\n"no new capabilities"\n' in output
    assert output.endswith("\n1 new capability: shell\n")


async def test_secrets_arent_shown(lading: Shell) -> None:
    (lading.directory / "old.yaml").write_bytes(b"agents: {root: {}}")
    (lading.directory / "new.yaml").write_text(
        """\
agents:
  root:
    instruction: Ask https://user:p1ant3d@a.example/x?key=p1ant3d for more.
    sub_agents: ['https://user:p1ant3d@a.example/agent.yaml?sig=p1ant3d']
    toolsets:
      - {type: mcp, remote: {url: 'https://user:p1ant3d@b.example/?k=p1ant3d', headers: {X-Key: Bearer p1ant3d}}}
      - {type: mcp, ref: docker:x, env: {TOKEN: p1ant3d}, config: {token: p1ant3d}}
      - {type: openapi, url: 'https://c.example/?token=p1ant3d', headers: {X-Key: p1ant3d}}
      - {type: api, api_config: {endpoint: 'https://user:p1ant3d@d.example', method: GET, headers: {X-Key: p1ant3d}}}
    warp: {token: p1ant3d}
models:
  m: {provider: openai, base_url: 'https://user:p1ant3d@e.example/v1', provider_opts: {key: p1ant3d}}
"""
    )
    for options in ([], ["--json"]):
        found = await lading("diff", "old.yaml", "new.yaml", *options)
        assert found.status == 0
        assert b"a.example" in found.out
        assert b"p1ant3d" not in found.out
        assert "p1ant3d" not in found.err
