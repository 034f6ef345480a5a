"""Partials: what there is of a blob that is on its way, whose it is, and who may go on with it.

Each is a file of one writer, whose name says which process that is, and a lock on it that ends with the process. Only
what nobody owns any more is claimed, by renaming it. Where locks do nothing, two writers each have a file of their own.

What a partial has is what it says about itself, in a record beyond the blob's last byte, and not how long it is: bytes
arrive out of order, and a hole in a file looks like content. Even that is only what to verify.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

from lading.errors import InvalidDigest
from lading.oci.digest import Digest
from lading.store.disk import Held, has_locks, read_at, unique, write_at
from lading.store.spans import Spans

KEPT = 1024 * 1024
"""Bytes: a partial of more than that is kept for whoever goes on with it; less is sooner fetched again."""

_PAGE = 4096
_RECORD_SIZE = 1024
"""Bytes: one write within one page, so that whoever is killed leaves the record from before or this one."""

_STRETCHES = 16
"""Stretches that a record holds, that from the first byte on among them: more would make it too long."""

_LONG_AGO = 3600.0
"""Seconds without a byte after which an owner who can't be seen is gone."""

OWNER = r"(?P<machine>[0-9a-f]{8})-(?P<process>[0-9]{1,10})-(?P<start>[0-9]{1,20})"
_NAME = re.compile(rf"(?P<algorithm>[a-z0-9]+)-(?P<encoded>[0-9a-f]+)\.(?:left|{OWNER})-[0-9a-f]{{16}}\.part")
_RECORD = re.compile(
    rb"lading partial 2 (?P<size>[0-9]{1,19}) (?P<stretches>[0-9]{1,19}-[0-9]{1,19}(?:,[0-9]{1,19}-[0-9]{1,19}){0,15}) "
    rb"(?P<etag>[\x21-\x7e]{0,256}) (?P<check>[0-9a-f]{8})\n\0*"
)

# RFC 9110, section 8.8.3: entity-tag = [ weak ] opaque-tag; etagc = %x21 / %x23-7E / obs-text
_ETAG = re.compile(r"[\x21-\x7e]{1,256}")


# Names and owners


def own_name(digest: Digest) -> str:
    """Give the name of a partial that this process owns; no other one ever has it."""
    return f"{_stem(digest)}.{signature()}.part"


def signature() -> str:
    """Give what says in a name that this process owns the file; no other one ever has it."""
    machine, process, start = _owner(os.getpid())
    return f"{machine}-{process}-{start}-{unique()}"


def left_name(digest: Digest) -> str:
    """Give a name for a partial that nobody owns; no other one ever has it."""
    return f"{_stem(digest)}.left-{unique()}.part"


def _stem(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.encoded}"


@lru_cache(1)
def _owner(process: int) -> tuple[str, int, int]:
    """Give the machine, number and start of this ``process``."""
    return _machine(), process, _start(process) or 0


def _machine() -> str:
    """Tell where process numbers mean the same: this machine since it was started, or a container on it."""
    name = os.uname().nodename if hasattr(os, "uname") else ""
    with contextlib.suppress(OSError):
        name = _read_text("/proc/sys/kernel/random/boot_id") + os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(name.encode()):08x}"


def _start(process: int) -> int | None:
    """Tell when ``process`` was started, in the system's own count: 0 if it has ended, None if that can't be told."""
    try:
        # proc_pid_stat(5): pid (comm) state …, and the 22nd field is starttime; comm may hold anything.
        fields = _read_text(f"/proc/{process}/stat").rpartition(")")[2].split()
        return 0 if fields[0] in "ZXx" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(4096)


def _is_running(process: int, start: int) -> bool:
    if os.name == "nt":
        return True  # where kill(0) isn't a question
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    now = _start(process)
    return now is None or (now == start if start else now > 0)


def _is_gone(name: re.Match[str], status: os.stat_result) -> bool:
    """Tell whether a file's OWNER is gone, as far as its name says; the lock on the file is another question."""
    if name["machine"] is None:
        return True
    if name["machine"] == _owner(os.getpid())[0]:
        return not _is_running(int(name["process"]), int(name["start"]))
    # The process can't be seen from here, its lock can: surely on a disk, which has a major number, else perhaps.
    return (hasattr(os, "major") and os.major(status.st_dev) != 0) or time.time() - status.st_mtime > _LONG_AGO


class Turn:
    """The lock under which a digest is fetched: others wait, so that it is fetched once. Of one thread at a time."""

    def __init__(self, directory: str, digest: Digest) -> None:
        self.path = os.path.join(directory, f"{_stem(digest)}.lock")
        self.is_held = False
        """Whether it is this one's turn."""
        self._held: Held | None = None

    def acquire(self) -> bool:
        """Take the lock unless somebody else has it; tells whether that is so. Raises OSError."""
        if not has_locks():
            self.is_held = True
            return True
        held = Held(self.path, os.O_RDWR | os.O_CREAT)
        try:
            # Whoever had it may have removed the file before it was locked here.
            if held.lock() and held.is_at(self.path):
                self._held, self.is_held = held, True
        finally:
            if not self.is_held:
                held.close()
        return self.is_held

    def release(self) -> None:
        """Let the next one have it. May be called again."""
        held, self._held, self.is_held = self._held, None, False
        if held is None:
            return
        with contextlib.suppress(OSError):
            if not held.is_inherited and held.is_at(self.path):
                os.unlink(self.path)
        with contextlib.suppress(OSError):
            held.close()


# What a partial says about itself


def is_etag(text: str) -> bool:
    """Tell whether ``text`` is an entity tag that a partial can remember."""
    return _ETAG.fullmatch(text) is not None


def write_record(held: Held, size: int, spans: Spans, etag: str) -> None:
    """Let the partial of a blob of ``size`` bytes say that ``spans`` are there, the first of them. Raises OSError."""
    stretches = ",".join(f"{start}-{end}" for start, end in spans.stretches[:_STRETCHES])
    text = f"lading partial 2 {size} {stretches} {etag} ".encode()
    record = text + f"{zlib.crc32(text):08x}\n".encode()
    write_at(held.descriptor, _place(size), record.ljust(_RECORD_SIZE, b"\0"))


def _read_record(held: Held, size: int) -> tuple[Spans, str] | None:
    record = read_at(held.descriptor, _place(size), _RECORD_SIZE + 1)
    found = _RECORD.fullmatch(record) if len(record) == _RECORD_SIZE else None
    if found is None or int(found["size"]) != size:
        return None
    if zlib.crc32(record[: found.start("check")]) != int(found["check"], 16):
        return None
    stretches = [stretch.split("-") for stretch in found["stretches"].decode("ascii").split(",")]
    try:
        spans = Spans.of(((int(start), int(end)) for start, end in stretches), size)
    except ValueError:
        return None
    return spans, found["etag"].decode("ascii")


def _place(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


# Going on


@dataclass(frozen=True, slots=True)
class Claim:
    """A partial that is this process's now; ``spans`` of it are there, unverified.

    One that ``is_sealed`` is read-only: it was whole and verified, and would have become a blob.
    """

    held: Held
    path: str
    spans: Spans
    etag: str
    is_sealed: bool


def claim(directory: str, digest: Digest, size: int) -> Claim | None:
    """Claim the partial in ``directory`` that has most, and remove the others of ``digest`` that nobody owns.

    One that says nothing about itself, or isn't a file like ours, is removed, never followed. Raises OSError.
    """
    best: Claim | None = None
    for path in _partials(directory, digest):
        try:
            found = _look_at(path, size)
        except OSError as error:
            if error.errno == errno.ELOOP:
                _remove(path)
            continue
        if found is None:
            continue
        best, rest = (found, best) if best is None or found.spans.total > best.spans.total else (best, found)
        if rest is not None:
            _drop(rest)
    if best is None or best.spans.total <= KEPT:
        if best is not None:
            _drop(best)
        return None
    path = os.path.join(directory, own_name(digest))
    try:
        os.rename(best.path, path)
    except OSError:  # where locks do nothing, somebody else may have been faster
        best.held.close()
        return None
    return replace(best, path=path)


def _partials(directory: str, digest: Digest) -> list[str]:
    stem = _stem(digest) + "."
    return [
        os.path.join(directory, name)
        for name in sorted(os.listdir(directory))
        if name.startswith(stem) and _NAME.fullmatch(name)
    ]


def growth(directory: str, digest: Digest) -> object:
    """Give something that is another one whenever somebody has come further with ``digest``. Raises OSError."""
    found = []
    for path in _partials(directory, digest):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            found.append((path, status.st_mtime_ns))
    return found


def _look_at(path: str, size: int) -> Claim | None:
    """Open a partial and see what it has; None if somebody owns it. Raises OSError."""
    name = _NAME.fullmatch(os.path.basename(path))
    if name is None or not _is_gone(name, os.lstat(path)):
        return None
    try:
        held = Held(path)
    except PermissionError:
        if not _is_sealed(os.lstat(path)):
            return None
        held = Held(path, os.O_RDONLY)
    try:
        if held.lock():
            status = held.status()
            spans, etag = _told(held, status, size)
            return Claim(held, path, spans, etag, _is_sealed(status))
    except BaseException:
        held.close()
        raise
    held.close()
    return None


def _told(held: Held, status: os.stat_result, size: int) -> tuple[Spans, str]:
    """Tell what a partial says that it has, and its entity tag."""
    if status.st_nlink != 1:
        return Spans(), ""  # writing would change a copy that somebody made with a link
    if _is_sealed(status):
        return Spans(size if status.st_size == size else 0), ""
    return _read_record(held, size) or (Spans(), "")


def _is_sealed(status: os.stat_result) -> bool:
    return not stat.S_IMODE(status.st_mode) & 0o222


def _drop(found: Claim) -> None:
    with contextlib.suppress(OSError):
        found.held.close()
    _remove(found.path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


# What others left


@dataclass(frozen=True, slots=True)
class Leftover:
    """A partial: where it is, of which blob, its ``bytes`` on the disk, its ``age`` in seconds since it last grew.

    ``is_owned`` says whether somebody may still be writing it.
    """

    path: str
    digest: Digest
    bytes: int
    age: float
    is_owned: bool


def leftovers(directory: str | os.PathLike[str]) -> list[Leftover]:
    """Give the partials in ``directory``, a store's ``ingest``, in the order of their names; blocking, changes nothing.

    Raises OSError, unless there is no such directory.
    """
    found = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    for file in names:
        name = _NAME.fullmatch(file)
        if name is None:
            continue
        path = os.path.join(directory, file)
        with contextlib.suppress(OSError, InvalidDigest):  # it may go at this moment
            digest, status = Digest(name["algorithm"], name["encoded"]), os.lstat(path)
            size = min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)  # most of it may be a hole
            age = max(0.0, time.time() - status.st_mtime)
            found.append(Leftover(path, digest, size, age, is_owned(name, path, status)))
    return found


def is_owned(name: re.Match[str], path: str, status: os.stat_result) -> bool:
    """Tell whether somebody may still write a file whose name says whose it is."""
    return not _is_gone(name, status) or is_locked(path)


def is_locked(path: str) -> bool:
    """Tell whether somebody has locked the file."""
    try:
        held = Held(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not held.lock(alone=False)
    finally:
        held.close()
