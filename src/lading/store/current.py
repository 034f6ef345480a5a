"""The current index, to write to: made when there is none, migrated, repaired, opened again when others replaced it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from lading.errors import StoreCorrupted, StoreError
from lading.oci.digest import Digest
from lading.store.blobs import Blobs
from lading.store.generations import Generations, Identity, Watch, identity
from lading.store.index import Writer, build, migrate
from lading.store.index_errors import Damaged, Moved, Older

T = TypeVar("T")

_ATTEMPTS = 5
"""How often an index that others replace is opened again."""

BAD_DISK = "check the disk, or set LADING_HOME to a directory on another one"


class Current:
    """Whoever writes to the index of a store; one call at a time."""

    def __init__(self, generations: Generations, blobs: Blobs) -> None:
        self.damage: Identity | None = None
        """The index that somebody found to be damaged."""
        self._generations = generations
        self._blobs = blobs
        self._writer: Writer | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._writer is not None

    def write(self, action: Callable[[Writer], T]) -> T:
        """Let ``action`` write, beside others; what is damaged is repaired before.

        Raises:
            StoreCorrupted: it was damaged, and so is what was salvaged of it.
            StoreError: it can't be opened, made or written.
        """
        repaired = False
        for _ in range(_ATTEMPTS):
            try:
                repaired |= self._have_index()
                with self._generations.locked(alone=False):
                    return action(self._open())
            except Older:
                with contextlib.suppress(Damaged):  # the next attempt repairs it
                    self.migrate()
            except Moved:
                self._drop()
            except Damaged as damage:
                self._note_damage()
                if repaired:
                    raise StoreCorrupted(f"{damage}, and it was just repaired", hint=BAD_DISK) from damage
            except StoreError:
                self._drop()
                raise
        raise self._replaced()

    def write_alone(self, action: Callable[[Writer | None], T]) -> T:
        """Let ``action`` write while nobody else does; it gets ``None`` where there is no index. Nothing is repaired.

        Raises:
            Damaged: it is damaged.
            StoreError: it can't be opened or written.
        """
        for _ in range(_ATTEMPTS):
            try:
                with self._generations.locked(alone=True):
                    return action(self._open() if self._generations.current() else None)
            except Older:
                self.migrate()
            except Moved:
                self._drop()
            except Damaged:
                self._note_damage()
                raise
            except StoreError:
                self._drop()
                raise
        raise self._replaced()

    def migrate(self) -> None:
        """Bring the index up to date. Raises Damaged, StoreError."""
        with self._generations.locked(alone=True):
            path = self._generations.path(self._generations.current())
            try:
                migrate(path)
            except Damaged:
                self.damage = identity(path)
                raise

    def close(self) -> None:
        """Close it so that it needs no WAL, unless it is damaged: then it stays as it is."""
        writer, self._writer = self._writer, None
        if writer is not None:
            if writer.watch.identity == self.damage:
                writer.abandon()
            else:
                writer.close()

    def _have_index(self) -> bool:
        """Make an index if there is none, the next one if it is damaged; tells whether it was."""
        generations = self._generations
        number = generations.current()
        if number and not self._is_damaged(number):
            return False
        generations.prepare()
        with generations.locked(alone=True):
            number = generations.current()
            if not number:
                generations.publish(1, build)
                return False
            if not self._is_damaged(number):
                return False
            generations.publish(number + 1, partial(_salvage, generations.path(number), self._blobs))
            self.damage = None
            return True

    def _is_damaged(self, number: int) -> bool:
        return self.damage is not None and identity(self._generations.path(number)) == self.damage

    def _open(self) -> Writer:
        if self._writer is not None and self._writer.watch.holds():
            return self._writer
        self._drop()
        watch = Watch(self._generations, self._generations.current())
        try:
            self._writer = Writer(watch, self._holds)
        except Damaged:
            self.damage = watch.identity
            raise
        return self._writer

    def _holds(self, digest: str, size: int) -> bool:
        return self._blobs.holds(Digest.parse(digest), size)

    def _note_damage(self) -> None:
        if self._writer is not None:
            self.damage = self._writer.watch.identity
        self._drop()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _replaced(self) -> StoreError:
        return StoreError(f"the index of the store {self._generations.directory} is replaced all the time")


def _salvage(damaged: str, blobs: Blobs, target: str) -> None:
    from lading.store.index_salvage import salvage

    try:
        salvage(damaged, blobs, target)
    except Damaged as damage:
        raise StoreCorrupted(f"{damaged} is damaged, and can't be repaired: {damage}", hint=BAD_DISK) from damage
