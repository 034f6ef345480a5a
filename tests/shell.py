"""The command ``lading`` as a shell runs it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process


@dataclass
class Finished:
    status: int
    out: bytes
    err: str


class Shell:
    """Runs ``lading`` in a process of its own, in an empty directory with an empty HOME."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "work"
        self.home = directory / "home"
        self.directory.mkdir()
        self.home.mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LADING_HOME": str(directory / "store"),
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Finished:
        done = await anyio.run_process(
            [sys.executable, "-m", "lading", *arguments], input=stdin, check=False, cwd=self.directory, env=self.env
        )
        return Finished(done.returncode, done.stdout, done.stderr.decode())

    async def start(self, *arguments: str) -> Process:
        """Start a command that ends when it is told to; leave it as an async context manager."""
        command = [sys.executable, "-m", "lading", *arguments]
        return await anyio.open_process(command, cwd=self.directory, env=self.env)
