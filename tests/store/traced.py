"""Processes that are stopped at every system call that concerns one directory: killed there, or told that it failed.

For Linux on x86-64, by ptrace(2). All threads of the process are followed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

# ptrace(2)
_TRACEME, _PEEKUSER, _POKEUSER, _SYSCALL, _SETOPTIONS = 0, 3, 6, 24, 0x4200
_SYSGOOD, _CLONE, _EXITKILL = 1, 8, 1 << 20
_STOPPED_IN_CALL = signal.SIGTRAP | 0x80
_ALL_THREADS = 0x40000000  # __WALL

# sys/user.h: where struct user has the registers, in bytes
_RESULT, _NUMBER = 80, 120
_ARGUMENTS = (112, 104, 96, 56, 72, 44)

READING = {0: "read", 17: "pread64", 217: "getdents64"}
WRITING = {1: "write", 18: "pwrite64", 77: "ftruncate", 285: "fallocate"}
SYNCING = {74: "fsync", 75: "fdatasync"}
LOCKING = {72: "fcntl", 73: "flock"}
OTHERS = {91: "fchmod"}
OF_FILES = {**READING, **WRITING, **SYNCING, **LOCKING, **OTHERS}
"""System calls whose first argument is a descriptor."""

OF_PATHS = {82: "rename", 83: "mkdir", 86: "link", 87: "unlink"}
"""System calls whose first argument is a path."""

OF_PATHS_AT = {257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 316: "renameat2"}
"""System calls whose second argument is a path."""


@dataclass
class Ran:
    """What became of a process: its exit code, negative if it was killed, and which calls it made."""

    code: int = 0
    calls: list[str] = field(default_factory=list)
    failed: int = 0


def why_not() -> str:
    """Say why no process can be traced here; an empty string if it can."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "system calls are told apart on Linux on x86-64 only"
    ran = traced(lambda: 0, "/")
    return "" if ran.code == 0 else "this process may not trace its children"


def traced(
    work: Callable[[], int],
    directory: str,
    at: int = -1,
    *,
    after: bool = False,
    code: int = 0,
    goes_on: bool = False,
    only: frozenset[str] = frozenset(),
) -> Ran:
    """Fork, do ``work`` in the child, and watch its calls on what is below ``directory``, or ``only`` some of them.

    Call number ``at`` is its last one: it is killed before the call, or ``after`` it. With a ``code`` it isn't killed:
    that call fails so, and if it ``goes_on`` so do all later ones.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    child = os.fork()
    if not child:
        status = 99
        try:
            if libc.ptrace(_TRACEME, 0, None, None) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
                status = work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            status = 98
        finally:
            os._exit(status)
    return _Tracer(libc, child, os.path.abspath(directory), at, after, code, goes_on, only).run()


@dataclass
class _Tracer:
    libc: ctypes.CDLL
    child: int
    directory: str
    at: int
    after: bool
    code: int
    goes_on: bool
    only: frozenset[str]
    ran: Ran = field(default_factory=Ran)
    inside: dict[int, int] = field(default_factory=dict)
    """By thread that is in a call: what is to be done at its end."""

    NOTHING, FAIL, KILL = 0, 1, 2

    def run(self) -> Ran:
        _, status = os.waitpid(self.child, 0)
        if not os.WIFSTOPPED(status):
            self.ran.code = os.waitstatus_to_exitcode(status)
            return self.ran
        self._ptrace(_SETOPTIONS, self.child, 0, _SYSGOOD | _CLONE | _EXITKILL)
        self._ptrace(_SYSCALL, self.child)
        begun = {self.child}
        while True:
            thread, status = os.waitpid(-1, _ALL_THREADS)
            if not os.WIFSTOPPED(status):
                if thread == self.child:
                    self.ran.code = os.waitstatus_to_exitcode(status)
                    return self.ran
                continue
            what, signalled = os.WSTOPSIG(status), 0
            if what == _STOPPED_IN_CALL:
                self._call(thread)
            elif what == signal.SIGSTOP and thread not in begun:
                begun.add(thread)
            elif status >> 16 == 0 and what != signal.SIGTRAP:
                signalled = what
            self._ptrace(_SYSCALL, thread, 0, signalled)

    def _call(self, thread: int) -> None:
        """A thread begins a call, or ends it."""
        if thread in self.inside:
            todo = self.inside.pop(thread)
            if todo == self.KILL:
                os.kill(self.child, signal.SIGKILL)
            elif todo == self.FAIL:
                self._ptrace(_POKEUSER, thread, _RESULT, (-self.code) & (2**64 - 1))
            return
        self.inside[thread] = self.NOTHING
        name = self._name(thread)
        if not name or (self.only and name not in self.only):
            return
        number = len(self.ran.calls)
        self.ran.calls.append(name)
        if self.code and (number == self.at or (self.goes_on and number > self.at >= 0)):
            self.ran.failed += 1
            self._ptrace(_POKEUSER, thread, _NUMBER, 2**64 - 1)  # no call at all
            self.inside[thread] = self.FAIL
        elif not self.code and number == self.at:
            if self.after:
                self.inside[thread] = self.KILL
            else:
                os.kill(self.child, signal.SIGKILL)

    def _name(self, thread: int) -> str:
        """Give the name of the call that a thread begins, if it concerns the directory."""
        number = self._register(thread, _NUMBER)
        if number in OF_FILES:
            try:
                path = os.readlink(f"/proc/{thread}/fd/{self._register(thread, _ARGUMENTS[0]) & 0xFFFFFFFF}")
            except OSError:
                return ""
            return OF_FILES[number] if self._is_below(path) else ""
        if number in OF_PATHS:
            return OF_PATHS[number] if self._is_below(self._text(thread, _ARGUMENTS[0])) else ""
        if number in OF_PATHS_AT:
            return OF_PATHS_AT[number] if self._is_below(self._text(thread, _ARGUMENTS[1])) else ""
        return ""

    def _is_below(self, path: str) -> bool:
        return path == self.directory or path.startswith(self.directory + "/")

    def _text(self, thread: int, register: int) -> str:
        place = self._register(thread, register)
        try:
            with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
                memory.seek(place)
                return memory.read(4096).partition(b"\0")[0].decode("utf-8", "surrogateescape")
        except (OSError, OverflowError):
            return ""

    def _register(self, thread: int, place: int) -> int:
        ctypes.set_errno(0)
        return int(self.libc.ptrace(_PEEKUSER, thread, place, None)) & (2**64 - 1)

    def _ptrace(self, request: int, thread: int, place: int = 0, value: int = 0) -> None:
        if self.libc.ptrace(request, thread, place, value) and ctypes.get_errno() != errno.ESRCH:  # it was just killed
            raise OSError(ctypes.get_errno(), "ptrace")
