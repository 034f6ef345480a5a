"""References from arguments and files, one a line: read as they are needed, never a whole file in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio

from lading.errors import InvalidReference, LadingError
from lading.oci.reference import Reference

LINE_LIMIT = 8192
"""Bytes of a line at most; a comment may be longer."""

_CHUNK = 64 * 1024
_BOM = b"\xef\xbb\xbf"

Refuse = Callable[[str, LadingError], None]
"""Told of what can't be asked for: the text, and why not. Work goes on."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file that isn't blank: ``where`` it is, and what it says without its comment."""

    where: str
    text: str
    is_whole: bool = True

    def reference(self) -> Reference:
        """Read it. Raises InvalidReference, which says where it is."""
        if not self.is_whole:
            raise InvalidReference(f"{self.where}: the line is longer than {LINE_LIMIT} bytes", hint=_ONE_A_LINE)
        try:
            return Reference.parse(self.text)
        except InvalidReference as error:
            hint = _ONE_A_LINE if len(self.text.split()) > 1 else error.hint
            raise InvalidReference(f"{self.where}: {error.message}", hint=hint) from error


class Lines:
    """Cuts what a file gives into lines, in memory that is bounded whatever it gives."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._number = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Give the lines that ``chunk`` completes; an empty one is the end of the file."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk:
            whole, self._rest = [self._rest], b""
        self._rest = self._rest[: LINE_LIMIT + 1]  # enough to see that it is too long
        for raw in whole:
            self._number += 1
            text, comment, _ = raw[: LINE_LIMIT + 1].partition(b"#")
            said = text.removeprefix(_BOM if self._number == 1 else b"").decode("utf-8", "backslashreplace").strip()
            if said:
                is_whole = bool(comment) or len(text) <= LINE_LIMIT
                yield Line(f"{self._name}:{self._number}", said if is_whole else said[:64] + "…", is_whole)


class Sources:
    """The references of arguments, then those of files; ``-`` is standard input. A context manager.

    The files are opened when it is entered: one that can't be opened is known before any work begins.
    """

    def __init__(self, references: Sequence[Reference], paths: Sequence[str]) -> None:
        self._references = references
        self._paths = paths
        self._files: list[tuple[str, int]] = []
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            for path in self._paths:
                self._files.append(_open(path, opened))
            self._closing = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.close()

    def count(self) -> int | None:
        """Give how many there are, duplicates included; ``None`` if only reading them can tell. Blocking."""
        if not all(stat.S_ISREG(os.fstat(descriptor).st_mode) for _, descriptor in self._files):
            return None
        return len(self._references) + sum(_count(descriptor) for _, descriptor in self._files)

    def read(self, refuse: Refuse) -> Iterator[Reference]:
        """Give them all; blocking. What isn't a reference is refused."""
        yield from self._references
        for name, descriptor in self._files:
            lines, chunk = Lines(name), b"-"
            while chunk:
                try:
                    chunk = os.read(descriptor, _CHUNK)
                except OSError as error:
                    refuse(name, _unreadable(name, error))
                    break
                yield from _references(lines, chunk, refuse)

    async def stream(self, refuse: Refuse) -> AsyncGenerator[Reference, None]:
        """Give each as soon as it is there. What isn't a reference is refused."""
        for reference in self._references:
            yield reference
        for name, descriptor in self._files:
            lines, chunk = Lines(name), b"-"
            while chunk:
                try:
                    chunk = await _read(descriptor)
                except OSError as error:
                    refuse(name, _unreadable(name, error))
                    break
                for reference in _references(lines, chunk, refuse):
                    yield reference


_ONE_A_LINE = "one reference a line, and # before a comment"


def _references(lines: Lines, chunk: bytes, refuse: Refuse) -> Iterator[Reference]:
    for line in lines.feed(chunk):
        try:
            reference = line.reference()
        except InvalidReference as error:
            refuse(line.text, error)
        else:
            yield reference


def _open(path: str, closing: contextlib.ExitStack) -> tuple[str, int]:
    """Give the name and the descriptor of a file that can be read."""
    if path == "-":
        if sys.stdin is None:
            raise LadingError("standard input is closed", hint="name a file")
        return "standard input", sys.stdin.fileno()
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        closing.callback(os.close, descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(0, "it is a directory")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return path, descriptor


def _unreadable(name: str, error: OSError | ValueError) -> LadingError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return LadingError(f"{name}: can't be read: {why}", hint="is the path right?")


def _count(descriptor: int) -> int:
    """Count the lines of a regular file from where it would be read next, and go back there."""
    offset = os.lseek(descriptor, 0, os.SEEK_CUR)
    lines, chunk, count = Lines(""), b"-", 0
    while chunk:
        chunk = os.read(descriptor, _CHUNK)
        count += sum(1 for _ in lines.feed(chunk))
    os.lseek(descriptor, offset, os.SEEK_SET)
    return count


async def _read(descriptor: int) -> bytes:
    """Read some, in a thread that the process doesn't wait for at its end: a pipe may never give anything."""
    loop, came = asyncio.get_running_loop(), anyio.Event()
    chunk, failure = b"", None

    def read() -> None:
        nonlocal chunk, failure
        try:
            chunk = os.read(descriptor, _CHUNK)
        except OSError as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(came.set)

    threading.Thread(target=read, name="lading reads references", daemon=True).start()
    await came.wait()
    if failure is not None:
        raise failure
    return chunk
