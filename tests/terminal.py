"""The command ``lading`` as somebody at a terminal sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass

import anyio.to_thread
from shell import Shell

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass
class Seen:
    """How a command ended, what it wrote to standard output unless that is the terminal, and what the terminal got."""

    status: int
    out: bytes
    raw: str

    @property
    def text(self) -> str:
        """What the terminal got, without colours and movements of the cursor."""
        return _CONTROL.sub("", self.raw)


async def at_terminal(lading: Shell, *arguments: str, is_output_too: bool = False, columns: int = 80) -> Seen:
    """Run a command whose standard error is a terminal; its standard output is a pipe unless ``is_output_too``."""
    return await anyio.to_thread.run_sync(_run, lading, arguments, is_output_too, columns)


def _run(lading: Shell, arguments: tuple[str, ...], is_output_too: bool, columns: int) -> Seen:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "lading", *arguments]
    env = {**lading.env, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    out = terminal if is_output_too else subprocess.PIPE
    with subprocess.Popen(
        command, cwd=lading.directory, env=env, stdin=terminal, stdout=out, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        while piece := _read(controller):
            shown += piece
        written = process.stdout.read() if process.stdout is not None else b""
    os.close(controller)
    return Seen(process.returncode, written, shown.decode())


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # nobody has the terminal open any more
        return b""
