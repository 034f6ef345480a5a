"""Runs a page from its first block to its last, as somebody would who reads it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Self

from docs.blocks import Block, Command, commands, matches

SECONDS = 30
"""A command that takes longer hangs."""

PROJECT = Path(__file__).resolve().parents[2]

_END = "\x1e"


class Wrong(AssertionError):
    """A page says something else than what happens."""


class Terminal:
    """A shell, with its standard output and error together, as a terminal has them."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._shell.stdout is not None
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._shell.stdout, selectors.EVENT_READ)
        self._came = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._ready.close()
        if error is not None:
            os.killpg(self._shell.pid, signal.SIGTERM)  # a command may hang in the foreground
        with contextlib.suppress(BrokenPipeError):
            # What is still there is what was started in the background: the streams are only at an end without it.
            self._shell.stdin.write(b"jobs -p | xargs -r kill\nwait\n")
            self._shell.stdin.close()
        self._shell.stdout.read()
        self._shell.stdout.close()
        self._shell.wait()

    def run(self, text: str) -> tuple[int, str]:
        """Run a command to its end; give its exit status and what it wrote."""
        self._write(f"{{ {text}\n}} </dev/null\nprintf '{_END}%s{_END}' $?\n")
        ended = self._read(re.compile(rf"{_END}(\d+){_END}"))
        return int(ended[1]), ended.string[: ended.start()]

    def wait_for(self, lines: int) -> str:
        """Wait until what runs in the background has written so many lines, and give them."""
        return self._read(re.compile(r"(?:.*\n)" * lines))[0]

    def _write(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())
        self._shell.stdin.flush()

    def _read(self, until: re.Pattern[str]) -> re.Match[str]:
        assert self._shell.stdout is not None
        deadline = time.monotonic() + SECONDS
        while not (found := until.search(self._came)):
            if not self._ready.select(deadline - time.monotonic()):
                raise Wrong(f"nothing more came within {SECONDS} s; so far:\n{self._came}")
            piece = os.read(self._shell.stdout.fileno(), 65536)
            if not piece:
                raise Wrong(f"the shell ended; before that:\n{self._came}")
            self._came += piece.decode()
        came, self._came = found.string[: found.end()], found.string[found.end() :]
        match = until.search(came)
        assert match is not None
        return match


class Places:
    """Where the registries of a page really are.

    Commands find them by their configuration. What a page configures itself is changed on the way in, and what shows
    where they are is changed on the way out.
    """

    def __init__(self, urls: Mapping[str, str], home: str) -> None:
        self._urls = dict(urls)
        self._port = self._urls.pop("localhost:5000").rpartition(":")[2]
        self._home = home

    def real(self, text: str) -> str:
        """Give what is configured in ``text`` as it has to be here."""
        for name, url in self._urls.items():
            text = re.sub(rf"https?://{re.escape(name)}\b", url, text)
        return text.replace("localhost:5000", f"localhost:{self._port}")

    def shown(self, text: str) -> str:
        """Give output as it would be anywhere else."""
        text = text.replace(self._home, "/home/ada")
        text = re.sub(rf"(?<=[:_]){self._port}(?![0-9])", "5000", text)
        for name, url in self._urls.items():
            text = re.sub(rf"{re.escape(url)}\b", f"https://{name}", text)
            text = re.sub(rf"{re.escape(url.partition('://')[2])}\b", name, text)
        return text


class Play:
    """The blocks of one page, run one after the other: one shell, one event loop, one namespace."""

    def __init__(self, page: str, terminal: Terminal, places: Places) -> None:
        self._page = page
        self._terminal = terminal
        self._places = places
        self._names: dict[str, Any] = {"__name__": "__page__"}

    def run(self, blocks: list[Block]) -> None:
        """Run what can be run.

        Raises:
            Wrong: a block fails, or writes something else than the page shows.
        """
        with asyncio.Runner() as runner:
            for block, after in zip(blocks, [*blocks[1:], None], strict=True):
                if "before" in block.marks and not block.why_not:
                    self._run_commands(Block("sh", block.marks["before"], block.line))
                if block.title:
                    self._write(block)
                elif block.is_run and block.language == "python":
                    self._run_python(runner, block, after)
                elif block.is_run:
                    self._run_commands(block)

    def _write(self, block: Block) -> None:
        path = Path(block.title).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (PROJECT / block.included).read_text("utf-8") if block.included else block.text + "\n"
        path.write_text(self._places.real(text) if path.suffix in (".py", ".toml") else text)

    def _run_commands(self, block: Block) -> None:
        given = commands(block)
        for command in given:
            status, came = self._run(command)
            where = f"{self._page}:{block.line}: $ {command.text}\n"
            expected = block.status if command is given[-1] else 0
            if status != expected:
                raise Wrong(f"{where}exit status {status}, not {expected}\n{came}")
            if command.shown is not None and "output" not in block.marks:
                _compare(where, command.shown, came)

    def _run(self, command: Command) -> tuple[int, str]:
        status, came = self._terminal.run(command.text)
        if command.is_background:
            # Whoever starts a server reads that it is there before going on.
            came += self._terminal.wait_for(len(command.shown) if command.shown else 1)
        return status, self._places.shown(came)

    def _run_python(self, runner: asyncio.Runner, block: Block, after: Block | None) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                coroutine = eval(_compiled(self._page, block.line, self._places.real(block.text)), self._names)
                if inspect.iscoroutine(coroutine):
                    runner.run(coroutine)
            except Exception as error:
                raise Wrong(f"{self._page}:{block.line}: {error!r}") from error
        came = self._places.shown(out.getvalue())
        if after is not None and after.language == "text" and not after.marks:
            _compare(f"{self._page}:{block.line}\n", tuple(after.text.splitlines()), came)


def _compare(where: str, shown: tuple[str, ...], came: str) -> None:
    if not matches(shown, came):
        lines = "\n".join(shown)
        raise Wrong(f"{where}the page shows\n{lines}\nbut this came:\n{came}")


def _compiled(page: str, line: int, text: str) -> CodeType:
    # Empty lines first, so that a traceback names the line of the page.
    code: CodeType = compile("\n" * line + text, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code
