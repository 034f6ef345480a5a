"""Completion, as a shell asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest
from shell import Shell

ASK = """
source <(lading completion bash) || exit 1
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
compopt() { echo "compopt $1 $2"; }
_lading_completion lading
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with the command."""
    directory = tmp_path / "bin"
    directory.mkdir()
    command = directory / "lading"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lading "$@"\n')
    command.chmod(0o755)
    return directory


async def bash(lading: Shell, programs: Path, *words: str) -> list[str]:
    """Give what bash offers for the last of the words."""
    env = {**lading.env, "PATH": f"{programs}:{lading.env['PATH']}"}

    def ask() -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-c", ASK, "bash", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=lading.directory, check=True)

    done = await anyio.to_thread.run_sync(ask)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("lading", "pu"), ["pull", "push"]),
        (("lading", "pull", "--tr"), ["--trace", "--trace-svg"]),
        (("lading", "completion", ""), ["bash", "zsh", "fish"]),
        (("lading", "push", "tri"), ["compopt -o default", ""]),
        (("lading", "pull", "acme/triage", "-o", ""), ["compopt -o default", ""]),
        (("lading", "none", "--x"), [""]),
    ],
)
async def test_bash_offers(lading: Shell, programs: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert await bash(lading, programs, *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
async def test_others_get_a_script_of_their_own(lading: Shell, shell: str) -> None:
    done = await lading("completion", shell)
    assert done.status == 0
    assert f"_LADING_COMPLETE={shell}_complete" in done.out.decode()
    assert done.err == ""


async def test_a_shell_that_is_not_known(lading: Shell) -> None:
    assert (await lading("completion", "csh")).status == 2
