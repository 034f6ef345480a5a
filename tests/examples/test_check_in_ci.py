"""The check in CI: it fails when a moved tag may do more, and only then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest
from examples.loading import EXAMPLES
from examples.loading import run as run_in

from lading import Client, MemoryStore, StaticCredentials
from lading.testing import ThreadedRegistry

CHECK = str(EXAMPLES / "check_in_ci" / "check.sh")


def agent(instruction: str, *tools: str, needs: str = "") -> bytes:
    toolsets = ", ".join(f"{{type: {tool}}}" for tool in tools)
    return f"agents: {{root: {{instruction: {instruction}, toolsets: [{toolsets}], sub_agents: [{needs}]}}}}\n".encode()


def push(content: bytes, reference: str) -> None:
    async def verb() -> None:
        async with Client(MemoryStore(), credentials=StaticCredentials({})) as client:
            await client.push_agent(content, reference)

    anyio.run(verb)


Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, programs: Path) -> Run:
    return partial(run_in, tmp_path, programs=programs)


@pytest.fixture
def writer(oci_registry: ThreadedRegistry, tmp_path: Path) -> str:
    """An agent that is locked because another one needs it."""
    writer, lead = f"{oci_registry.host}/acme/writer:v1", f"{oci_registry.host}/acme/lead:v1"
    push(agent("Write."), writer)
    push(agent("Lead.", needs=writer), lead)

    async def lock() -> None:
        async with Client(MemoryStore(), credentials=StaticCredentials({})) as client:
            (await client.lock([lead])).write(tmp_path / "agents.lock")

    anyio.run(lock)
    return writer


def test_nothing_moved(writer: str, run: Run) -> None:
    done = run(CHECK)
    assert (done.returncode, done.stdout) == (0, "2 agents, none of which may do more than before\n"), done.stderr


def test_another_instruction_is_no_new_capability(writer: str, run: Run) -> None:
    push(agent("Write well."), writer)
    assert run(CHECK).returncode == 0


def test_a_new_tool_fails_it_and_is_named(writer: str, run: Run) -> None:
    push(agent("Write.", "shell"), writer)
    done = run(CHECK, "agents.lock")
    assert done.returncode == 1
    assert f"== {writer}\n" in done.stdout
    assert "+ shell" in done.stdout
    assert "1 of 2 agents may do more" in done.stdout
    accepted = run("lading", "lock", "--update")
    assert accepted.returncode == 0, accepted.stderr
    assert run(CHECK).returncode == 0


def test_what_cannot_be_had_fails_it(writer: str, run: Run, oci_registry: ThreadedRegistry) -> None:
    oci_registry.remove_tag("acme/writer", "v1")
    done = run(CHECK)
    assert done.returncode == 1
    assert "404" in done.stdout


def test_a_lock_file_that_is_not_there(run: Run) -> None:
    done = run(CHECK, "missing.lock")
    assert (done.returncode, done.stderr) == (1, "missing.lock: no such file\n")
