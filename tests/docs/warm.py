"""Runs the programs of the pages in processes that need not import anything first.

``serve`` imports what they need, and forks a process for each that a shell starts. ``PROGRAM`` is what the shell
finds under their names: it hands its arguments, environment, directory and standard streams over, passes signals on,
and ends as the real one does.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

PROGRAM = """\
#!{python} -IS
import array, json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    asked = json.dumps([{name!r}, sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    streams = array.array("i", [0, 1, 2])
    server.sendmsg([len(asked).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    server.sendall(asked)
    pid = int(server.recv(16).decode())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    sys.exit(int(server.recv(16).decode() or 255))
"""

READY = "ready"

MODULE = "python -m lading"
"""Asks for a process whose standard streams are the interpreter's own, as that command's are."""


def serve(path: str) -> None:
    """Answer at a Unix socket until standard input ends."""
    _import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print(READY, flush=True)
        if os.fork() == 0:
            _accept(listener)
        sys.stdin.read()
    os.killpg(0, signal.SIGTERM)


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run(connection)
        connection.close()


def _run(connection: socket.socket) -> None:
    """Be the program that is asked for, and tell how it ended."""
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, arguments, environment, directory = _receive(connection)
    connection.sendall(f"{os.getpid():16}".encode())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    if name == MODULE:
        _run_module(connection, arguments)
    # As at a terminal: each line when it is written.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, "w" if number else "r", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        for number in range(3)
    )
    status = _status(lambda: _PROGRAMS[name](arguments))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    connection.sendall(f"{status:16}".encode())
    os._exit(status)


def _run_module(connection: socket.socket, arguments: Sequence[str]) -> NoReturn:
    import lading
    from lading.cli import main

    sys.argv = [os.path.join(os.path.dirname(lading.__file__), "__main__.py"), *arguments]
    status = _status(main)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gc.collect()  # tells of what was left open, as the interpreter's end does; that takes long with so much imported
    atexit._run_exitfuncs()
    connection.sendall(f"{status:16}".encode())
    os._exit(status)


def _receive(connection: socket.socket) -> tuple[str, list[str], dict[str, str], str]:
    """Take what a program was given, and put its streams where standard streams are."""
    head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_LEN(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    asked = b""
    while len(asked) < int.from_bytes(head, "big"):
        asked += connection.recv(65536)
    name, arguments, environment, directory = json.loads(asked)
    return name, arguments, environment, directory


def _status(run: Callable[[], int | None]) -> int:
    """Run a program, and give the exit status that its process would have."""
    try:
        return run() or 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1


def _lading(arguments: Sequence[str]) -> int:
    from lading.cli import main

    # A page's registry is at localhost:5000; here that port may be taken, and another one answers for it.
    if arguments[:1] == ["serve"] and "--port" not in arguments:
        arguments = [*arguments, "--port", os.environ["DOCS_PORT"]]
    sys.argv = ["lading", *arguments]
    return main()


def _python(arguments: Sequence[str]) -> int | None:
    if arguments[0] == "-m":
        return _PROGRAMS[arguments[1]](arguments[2:])
    sys.argv = list(arguments)
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    # A program is asked to end by a signal that it may not have heard of.
    signal.signal(signal.SIGTERM, _terminate)
    runpy.run_path(arguments[0], run_name="__main__")
    return None


def _terminate(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _pytest(arguments: Sequence[str]) -> int:
    import warnings

    import pytest

    # What is imported already isn't imported again, which is what pytest warns of here.
    early = pytest.PytestAssertRewriteWarning
    warnings.filterwarnings("ignore", category=early)
    sys.path.insert(0, os.getcwd())
    options = ["-W", "error", "-W", f"ignore::pytest.{early.__name__}", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    return int(pytest.main([*options, *arguments]))


_PROGRAMS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "lading": _lading,
    "python": _python,
    "pytest": _pytest,
}

NAMES = tuple(_PROGRAMS)


def _import_all() -> None:
    """Import what programs need; nothing is opened, and no thread is started."""
    from importlib import import_module

    from lading.cli.commands import lading

    for name in lading.list_commands(None):  # type: ignore[arg-type]
        lading.get_command(None, name)  # type: ignore[arg-type]
    for module in ("lading.network", "lading.testing.registry", "lading.testing.threaded", "pytest", "rich.progress"):
        import_module(module)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    serve(sys.argv[1])
