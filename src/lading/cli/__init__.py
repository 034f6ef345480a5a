"""The command line: a thin layer over the client.

Results go to standard output, messages and progress to standard error. Exit status: 0 done, 1 failed, 2 wrong usage,
130 interrupted, 143 terminated, 141 when whoever reads the output has gone. What ``lading cat`` needs for a cached
agent is all that this package imports at first; each verb's module is imported when it is used.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

# What shells report of a process that a signal ended: 128 + its number.
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status; ``arguments`` default to the process's own."""
    if sys.stdout is None:
        print("lading: error: standard output is closed", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal can't show is no reason to fail
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        # The way out is the same as for Ctrl-C: tasks are cancelled, files are removed, the store is closed.
        nonlocal terminated
        terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; on the way out it would only do harm
        signal.raise_signal(signal.SIGINT)
        if is_background:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    is_background = _block_interrupts()
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("lading: terminated" if terminated else "lading: interrupted", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on: also not what the interpreter would flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        what = error.filename or "standard output"
        print(f"lading: error: {what}: {error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
        if is_background:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # and what is pending is forgotten
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return status


def _block_interrupts() -> bool:
    """Where SIGINT is ignored, block it instead, and tell so.

    A shell starts what a script runs in the background that way: Ctrl-C isn't meant for it. But what ends a task, and
    with it what SIGTERM does, is a SIGINT that isn't ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN or not hasattr(signal, "pthread_sigmask"):
        return False
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return True


def _run(arguments: Sequence[str] | None) -> int:
    import click

    from lading.cli.commands import lading
    from lading.cli.render import render_error
    from lading.errors import LadingError

    if os.environ.get("_LADING_COMPLETE"):
        from lading.cli.completion import register

        register()
    given = None if arguments is None else list(arguments)
    try:
        status = lading.main(args=given, prog_name="lading", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort as abort:
        raise KeyboardInterrupt from abort
    except SystemExit as leaving:
        if leaving.code == 0:
            return 0  # a shell was told what comes next
        # What click makes of a broken pipe, and of nothing else, when it isn't in charge of the process.
        raise BrokenPipeError from leaving
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except LadingError as error:
        render_error(error)
        return 1
    return status if isinstance(status, int) else 0
