"""Leases: what somebody who is at work needs, so that no collection takes it away.

A lease is a file beside the index that names digests. Whose it is says its name, and a lock on it that ends with the
process. Digests are noted under the lock of the generations, which a collection holds alone: whoever noted a digest and
then finds its content has it, whoever comes too late doesn't find it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from lading.errors import StoreError
from lading.oci.digest import Digest
from lading.store.disk import Held, write_all
from lading.store.generations import Generations
from lading.store.partials import OWNER, is_owned, signature

_NAME = re.compile(rf"lease-{OWNER}-[0-9a-f]{{16}}")
_LINE = re.compile(rb"([+-])([a-z0-9]+:[0-9a-f]+)\n")

_SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes of a lease that are read at most."""


class LocalLease:
    """What one pull needs, or what a store has on its way. Blocking, for any thread.

    There is a file as long as something is needed. Where it can't be written nothing is protected: that is no error,
    because a commit makes sure that it has what it needs.
    """

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._gate = threading.Lock()
        self._needed: Counter[Digest] = Counter()
        self._held: Held | None = None
        self._path = ""
        self._is_over = False

    def keep(self, digests: Iterable[Digest]) -> None:
        """Need ``digests`` too, each once more."""
        wanted = list(digests)
        with self._gate, contextlib.suppress(OSError, StoreError):
            if self._is_over or not wanted:
                return
            self._needed.update(wanted)
            self._generations.prepare()
            with self._generations.locked(alone=False):
                if self._held is None:
                    self._path = os.path.join(self._generations.directory, f"lease-{signature()}")
                    self._held = Held.create(self._path)
                    self._held.lock()
                self._write(b"+", wanted)

    def drop(self, digests: Iterable[Digest]) -> None:
        """Need ``digests`` once less, if they were."""
        with self._gate, contextlib.suppress(OSError):
            unneeded = [digest for digest in digests if self._needed[digest] > 0]
            self._needed.subtract(unneeded)
            self._needed += Counter()
            if not self._needed:
                self._leave()
            elif self._held is not None:
                self._write(b"-", unneeded)

    def close(self) -> None:
        """Need nothing any more. May be called again."""
        with self._gate, contextlib.suppress(OSError):
            self._is_over = True
            self._needed.clear()
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, sign: bytes, digests: Iterable[Digest]) -> None:
        if self._held is not None and not self._held.is_inherited:
            write_all(self._held.descriptor, b"".join(sign + str(digest).encode() + b"\n" for digest in digests))

    def _leave(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            try:
                if not held.is_inherited:
                    os.unlink(self._path)
            finally:
                held.close()


def is_lease(name: str) -> bool:
    """Tell whether a file is named like a lease."""
    return _NAME.fullmatch(name) is not None


def leased(directory: str) -> tuple[set[str], list[str]]:
    """Give what the leases in ``directory`` need, as text, and the paths of those whose processes are gone.

    Raises OSError.
    """
    needed: set[str] = set()
    ended: list[str] = []
    for file in sorted(os.listdir(directory)):
        name = _NAME.fullmatch(file)
        if name is None:
            continue
        path = os.path.join(directory, file)
        try:
            if not is_owned(name, path, os.lstat(path)):
                ended.append(path)
                continue
            needed |= _read(path)
        except FileNotFoundError:
            continue  # it was closed at this moment
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise  # nobody knows what it needs
            ended.append(path)  # not a file of ours
    return needed, ended


def _read(path: str) -> set[str]:
    held = Held(path, os.O_RDONLY)
    try:
        text = os.read(held.descriptor, _SIZE_LIMIT)
    finally:
        held.close()
    needed: Counter[str] = Counter()
    for sign, digest in _LINE.findall(text):
        needed[digest.decode()] += 1 if sign == b"+" else -1
    return {digest for digest, count in needed.items() if count > 0}
