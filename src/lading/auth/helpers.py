"""Credential helpers: programs that keep credentials (docker/docker-credential-helpers, "Development").

A helper is somebody else's program and may do anything: hang, print without end, print a secret where an error belongs,
leave children behind. So its name is checked, there is no shell, its time and its output are bounded, it runs in a
process group of its own that is killed as a whole, and nothing that it printed is ever shown. A secret is told it on
standard input and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from lading.auth.configfile import ConfigFile, Credential, Program
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

_OWN_SECRETS = frozenset({"LADING_PASSWORD"})
"""Variables that are for us alone; no helper has a use for them."""


def environment(env: Mapping[str, str] | None) -> Mapping[str, str]:
    """Give the environment that helpers run in and files are looked for by: ``None`` means this process's."""
    return os.environ if env is None else env


def helper_of(document: dict[str, Any], host: str, server: str, source: str) -> tuple[Program, str] | None:
    """Give the helper that a configuration file names for ``host``, and for people which it is and who says so.

    Raises:
        CredentialError: what the file says about it makes no sense.
    """

    def find(document: dict[str, Any]) -> list[Program]:
        return [one for one in ConfigFile(document, source).find(host, server) if isinstance(one, Program)]

    if not (programs := find({**document, "auths": None})):
        return None
    key = "credHelpers" if find({"credHelpers": document.get("credHelpers")}) else "credsStore"
    return programs[0], f"docker-credential-{programs[0].name} ({key} in {source})"


def find_helper(name: str, env: Mapping[str, str]) -> str | None:
    """Give the path of the program of the helper ``name``, ``None`` if it isn't installed. Blocking."""
    # An entry of PATH that is relative would run a program of the directory that somebody happens to be in.
    path = os.pathsep.join(entry for entry in env.get("PATH", "").split(os.pathsep) if os.path.isabs(entry))
    return shutil.which(f"docker-credential-{name}", path=path) if path else None


async def ask_helper(program: Program, env: Mapping[str, str], *, seconds: float) -> Credential | None:
    """Ask a credential helper for what it keeps for ``program.server``; ``None`` if it keeps nothing.

    Raises:
        CredentialError: it isn't there, failed, took longer than ``seconds``, or printed what isn't a credential.
    """
    output, status = await _converse(program, "get", program.server, env, seconds)
    if status != 0:
        if output.strip() == _NOT_FOUND:
            return None
        _refuse_status(program, status)
    return _read(program, output)


async def store_in_helper(program: Program, credential: Credential, env: Mapping[str, str], *, seconds: float) -> None:
    """Have a credential helper keep ``credential`` for ``program.server``; an identity token alone, if there is one.

    Raises:
        CredentialError: a helper can't keep such a credential, or this one isn't there, failed, or took longer than
            ``seconds``.
    """
    if credential.registry_token:
        _refuse(program, "a helper can't keep a registry token", hint="keep it in auths of the configuration file")
    username, secret = credential.username, credential.password
    if credential.identity_token:
        username, secret = _IDENTITY_USER, credential.identity_token
    elif username in ("", _IDENTITY_USER):
        _refuse(program, "a helper keeps no password without a user name", hint="give a user name")
    message = json.dumps({"ServerURL": program.server, "Username": username, "Secret": secret}) + "\n"
    _, status = await _converse(program, "store", message, env, seconds)
    if status != 0:
        _refuse_status(program, status)


async def erase_from_helper(program: Program, env: Mapping[str, str], *, seconds: float) -> bool:
    """Have a credential helper drop what it keeps for ``program.server``; false if it says that it kept nothing.

    Many helpers are content with having nothing to erase, and true then says nothing.

    Raises:
        CredentialError: it isn't there, failed, or took longer than ``seconds``.
    """
    output, status = await _converse(program, "erase", program.server, env, seconds)
    if status == 0:
        return True
    if output.strip() != _NOT_FOUND:
        _refuse_status(program, status)
    return False


async def _converse(
    program: Program, action: str, message: str, env: Mapping[str, str], seconds: float
) -> tuple[bytes, int]:
    """Run a helper for ``action`` and give what it printed and its status."""
    from anyio import to_thread

    if not _SERVER_CHARACTERS.issuperset(program.server):
        _refuse(program, "the host isn't one")
    given_up = threading.Event()
    inherited = {name: value for name, value in env.items() if name not in _OWN_SECRETS}
    raw = message.encode("ascii")
    try:
        return await to_thread.run_sync(
            _run, program, action, raw, inherited, seconds, given_up, abandon_on_cancel=True
        )
    finally:
        given_up.set()  # the thread then ends at its next tick, and takes the helper's whole group with it


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


def _run(
    program: Program, action: str, message: bytes, env: dict[str, str], seconds: float, given_up: threading.Event
) -> tuple[bytes, int]:
    """Run a helper to its end and give what it printed and its status. Blocking."""
    executable = find_helper(program.name, env)
    if executable is None:
        _refuse(program, "it isn't installed", hint="install it, or take it out of the configuration")
    deadline = time.monotonic() + seconds
    try:
        process = subprocess.Popen(
            [executable, action],
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
                output, _ = process.communicate(message, timeout=seconds)
            else:
                output = _exchange(program, process, message, deadline, given_up)
        except subprocess.TimeoutExpired:
            _refuse(program, f"it took longer than {seconds:g} seconds")
        finally:
            _end(process)
    return output, process.returncode


def _exchange(
    program: Program, process: subprocess.Popen[bytes], message: bytes, deadline: float, given_up: threading.Event
) -> bytes:
    """Tell the helper the message and take what it prints, until it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdin.fileno(), False)  # a message may be longer than what a pipe holds
    output, complete = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            # Looked at before the pipe: what a helper printed before it ended is in the pipe by then.
            ended = process.poll() is not None
            if complete and ended:
                return output
            if complete and not message:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_SECONDS)
                ready = []
            else:
                ready = [key.fileobj for key, _ in selector.select(0 if ended else _TICK_SECONDS)]
            if process.stdin in ready:
                message = _tell(process.stdin, message)
                if not message:
                    selector.unregister(process.stdin)
                    process.stdin.close()
            if process.stdout in ready:
                chunk = os.read(process.stdout.fileno(), _OUTPUT_LIMIT)
                output += chunk
                if len(output) > _OUTPUT_LIMIT:
                    _refuse(program, f"it printed more than {_OUTPUT_LIMIT} bytes")
                if not chunk:
                    complete = True
                    selector.unregister(process.stdout)
            elif ended:
                return output  # somebody whom it left behind still holds the pipe
            if given_up.is_set() or time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("", 0)


def _tell(pipe: IO[bytes], message: bytes) -> bytes:
    """Write what the pipe takes and give the rest: nothing if nobody listens any more."""
    try:
        return message[os.write(pipe.fileno(), message) :]
    except BlockingIOError:
        return message
    except OSError:
        return b""  # it may have ended without asking


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the helper and whatever it started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()


def _refuse_status(program: Program, status: int) -> NoReturn:
    _refuse(program, f"it failed with status {status}" if status > 0 else f"signal {-status} ended it")


def _refuse(program: Program, why: str, hint: str = "") -> NoReturn:
    hint = hint or "run it by hand to see what is wrong"
    raise CredentialError(f"credential helper docker-credential-{program.name} for {program.server}: {why}", hint=hint)
