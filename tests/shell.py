"""The command ``lading`` as a shell runs it."""

from __future__ import annotations

import array
import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import Process

from docs import warm

SECONDS = 60.0
"""A command that takes longer hangs."""


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
            **_interpreters(),
        }
        _warm()  # whoever counts what this process has open counts that too

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Finished:
        status, out, err = await anyio.to_thread.run_sync(run, arguments, self.directory, dict(self.env), stdin)
        return Finished(status, out, err.decode())

    async def start(self, *arguments: str) -> Process:
        """Start a command that ends when it is told to; leave it as an async context manager."""
        command = [sys.executable, "-m", "lading", *arguments]
        return await anyio.open_process(command, cwd=self.directory, env=self.env)


def run(arguments: tuple[str, ...], directory: Path, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Run ``python -m lading`` to its end; give its exit status, its standard output and its standard error."""
    if {name: value for name, value in env.items() if name.startswith(("PYTHON", "LANG", "LC_"))} != _interpreters():
        command = [sys.executable, "-m", "lading", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=directory, env=env, check=False)
        return done.returncode, done.stdout, done.stderr
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(SECONDS)
            server.connect(_warm())
            asked = json.dumps([warm.MODULE, arguments, dict(env), str(directory)]).encode()
            streams = array.array("i", [stream.fileno() for stream in (given, out, err)])
            server.sendmsg([len(asked).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            server.sendall(asked)
            pid = int(server.recv(16))
            try:
                status = int(server.recv(16) or -1)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def _interpreters() -> dict[str, str]:
    """Give what an interpreter looks at before it runs anything."""
    return {"PYTHONWARNINGS": "error", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


@functools.cache
def _warm() -> str:
    """Start what commands are forked from, which has imported what they need; give the path of its socket."""
    directory = tempfile.mkdtemp(prefix="lading-shell-")
    path = os.path.join(directory, "socket")
    server = subprocess.Popen(
        [sys.executable, "-P", warm.__file__, path],
        env={"PATH": os.environ["PATH"], **_interpreters()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline().decode().strip() == warm.READY

    def stop() -> None:
        server.communicate()  # it ends when its standard input does
        shutil.rmtree(directory)

    atexit.register(stop)
    return path
