"""Credential helpers: programs that keep credentials (docker/docker-credential-helpers, "Development").

A helper is somebody else's program and may do anything: hang, print without end, print a secret where an error belongs,
leave children behind. So its name is checked, there is no shell, its time and its output are bounded, it runs in a
process group of its own that is killed as a whole, and nothing that it printed is ever shown.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from lading.auth.configfile import Credential, Program
from lading.errors import CredentialError
from lading.oci.strict_json import parse_json

_OUTPUT_LIMIT = 64 * 1024
"""Bytes that a helper may print."""

_TICK_SECONDS = 0.05
"""How often a silent helper is looked at: has it ended, or been given up?"""

_NOT_FOUND = b"credentials not found in native keychain"
"""What a helper prints when it has nothing for a server (docker-credential-helpers, credentials/error.go)."""

_SERVER_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:/[]")

_IDENTITY_USER = "<token>"
"""The user name that says that the secret is an identity token."""


async def ask_helper(program: Program, env: Mapping[str, str], *, seconds: float) -> Credential | None:
    """Ask a credential helper for what it keeps for ``program.server``; ``None`` if it keeps nothing.

    Raises:
        CredentialError: it isn't there, failed, took longer than ``seconds``, or printed what isn't a credential.
    """
    from anyio import to_thread

    given_up = threading.Event()
    try:
        output, status = await to_thread.run_sync(_run, program, dict(env), seconds, given_up, abandon_on_cancel=True)
    finally:
        given_up.set()  # the thread then ends at its next tick, and takes the helper's whole group with it
    if status != 0:
        if output.strip() == _NOT_FOUND:
            return None
        _refuse(program, f"it failed with status {status}" if status > 0 else f"signal {-status} ended it")
    return _read(program, output)


def _read(program: Program, output: bytes) -> Credential | None:
    """Read a helper's answer: an object with ``Username`` and ``Secret``."""
    answer: Any = None
    with contextlib.suppress(ValueError):
        answer = parse_json(output)
    if not isinstance(answer, dict):
        _refuse(program, "it didn't print a JSON object")
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        _refuse(program, "it didn't print a user name and a secret")
    if username == _IDENTITY_USER:
        return Credential(identity_token=secret) if secret else None
    return Credential(username, secret) if username or secret else None


def _run(program: Program, env: dict[str, str], seconds: float, given_up: threading.Event) -> tuple[bytes, int]:
    """Run a helper to its end and give what it printed and its status. Blocking."""
    if not _SERVER_CHARACTERS.issuperset(program.server):
        _refuse(program, "the host isn't one")
    # An entry of PATH that is relative would run a program of the directory that somebody happens to be in.
    path = os.pathsep.join(entry for entry in env.get("PATH", "").split(os.pathsep) if os.path.isabs(entry))
    executable = shutil.which(f"docker-credential-{program.name}", path=path) if path else None
    if executable is None:
        _refuse(program, "it isn't installed", hint="install it, or take it out of the configuration")
    deadline = time.monotonic() + seconds
    try:
        process = subprocess.Popen(
            [executable, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        _refuse(program, f"it can't be run: {error.strerror}")
    with process:
        try:
            if os.name == "nt":  # pipes can't be waited for there
                output, _ = process.communicate(program.server.encode("ascii"), timeout=seconds)
            else:
                output = _converse(program, process, deadline, given_up)
        except subprocess.TimeoutExpired:
            _refuse(program, f"it took longer than {seconds:g} seconds")
        finally:
            _end(process)
    return output, process.returncode


def _converse(program: Program, process: subprocess.Popen[bytes], deadline: float, given_up: threading.Event) -> bytes:
    """Tell the helper the server and take what it prints, until it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):  # it may have ended without asking which server
        process.stdin.write(program.server.encode("ascii"))
        process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    output, complete = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            # Looked at before the pipe: what a helper printed before it ended is in the pipe by then.
            ended = process.poll() is not None
            if complete:
                if ended:
                    return output
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_SECONDS)
            elif selector.select(0 if ended else _TICK_SECONDS):
                chunk = os.read(process.stdout.fileno(), _OUTPUT_LIMIT)
                output += chunk
                complete = not chunk
                if len(output) > _OUTPUT_LIMIT:
                    _refuse(program, f"it printed more than {_OUTPUT_LIMIT} bytes")
            elif ended:
                return output  # somebody whom it left behind still holds the pipe
            if given_up.is_set() or time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("", 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the helper and whatever it started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()


def _refuse(program: Program, why: str, hint: str = "") -> NoReturn:
    hint = hint or "run it by hand to see what is wrong"
    raise CredentialError(f"credential helper docker-credential-{program.name} for {program.server}: {why}", hint=hint)
