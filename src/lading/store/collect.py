"""Collection in a directory: what the rules of ``gc`` say of the index, and files that belong to nothing.

A collection decides and removes while it holds the lock of the generations alone. Commits hold it shared, and so does
whoever notes in a lease what is needed: nothing becomes needed between the decision and its end. Rows go before their
files, durably; files are only set aside then, because removing what is large takes time, for which nobody has to wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Set
from contextlib import suppress

from lading.errors import StoreCorrupted, StoreError
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT
from lading.store.blobs import Blobs
from lading.store.current import Current
from lading.store.disk import translated
from lading.store.gc import Collected, Families, Holdings, Limits, Plan, Stray, plan
from lading.store.generations import Generations, Watch
from lading.store.index import Writer, open_reader, open_untouched
from lading.store.index_collect import holdings, in_files, is_in_file, reading, remove
from lading.store.index_errors import Damaged, Moved, Older
from lading.store.index_inventory import Query
from lading.store.index_reader import Reader
from lading.store.leases import leased
from lading.store.strays import Strays, is_directory, size_on_disk
from lading.store.values import Intact

_ASIDE = 30 * 86_400.0
"""Seconds for which a damaged index is kept that was left aside: somebody may want to look at it."""

_ATTEMPTS = 5
"""How often an index that others replace is opened again."""

_NOTHING = Plan()
_EMPTY = Holdings((), {}, {})


class Collection:
    """One collection of the store in the directory ``path``: it opens the index for itself, as another process would.

    With ``dry_run`` it only looks, and leaves no trace.
    """

    def __init__(self, path: str, limits: Limits, *, dry_run: bool) -> None:
        self._path = path
        self._limits = limits
        self._dry_run = dry_run
        self._generations = Generations(path)
        self._blobs = Blobs(path)
        self._current = Current(self._generations, self._blobs)
        self._strays = Strays(self._generations, self._blobs.ingest)
        self._families = Families()
        self._busy = threading.Lock()
        self._is_over = False

    async def run(self) -> Collected:
        """Collect, in a thread. Raises what :meth:`lading.store.store.Store.collect` raises."""
        import anyio.to_thread

        try:
            return await anyio.to_thread.run_sync(self._run, abandon_on_cancel=True)
        except BaseException:
            self._is_over = True
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._wait)
            raise

    def _wait(self) -> None:
        with self._busy:
            pass

    def _go_on(self) -> None:
        if self._is_over:
            raise StoreError(f"the collection of the store {self._path} was interrupted")

    def _run(self) -> Collected:
        with self._busy:
            self._go_on()
            number = self._generations.current()
            if not number and not any(map(os.path.lexists, (self._blobs.ingest, self._blobs.top))):
                return Collected.of(_NOTHING, _EMPTY)
            try:
                return self._look() if self._dry_run else self._collect(number)
            except Damaged as damage:
                raise StoreCorrupted(
                    f"the store {self._path} is damaged, and no content was collected: {damage}",
                    hint="`lading verify --repair` repairs it; see with `lading ls` what is left, then collect again",
                ) from damage

    def _look(self) -> Collected:
        """Say what would go."""
        files = self._files()
        with translated(self._path, "read"):
            needed, ended = leased(self._path)
            strays = self._found(needed, ended)
        held, todo, rowed = self._decide(needed)
        return Collected.of(todo, held, [*strays, *_orphans(files, needed | rowed)])

    def _collect(self, number: int) -> Collected:
        # What is found out now needn't be while everybody waits.
        _, todo, _ = self._decide(set())
        if todo.forgotten or todo.removed:
            self._check_index()
        shrunk = 0
        try:
            with self._generations.locked(alone=True), translated(self._path, "remove"):
                strays = [stray for stray in self._found(*leased(self._path)) if self._strays.set_aside(stray.path)]
            self._strays.destroy()  # before anything is written: the disk may be full
            self._go_on()
            held, todo, orphans = self._current.write_alone(self._remove)
            self._strays.destroy()
            self._go_on()
            if number:
                with suppress(StoreError):  # there may be no space for it, or no time; the pages are used again
                    shrunk = self._current.write(Writer.compact)
        finally:
            self._strays.destroy()
            self._current.close()
        return Collected.of(todo, held, [*strays, *orphans], shrunk)

    def _found(self, needed: Set[str], ended: list[str]) -> list[Stray]:
        age = _ASIDE if self._limits.older_than is None else self._limits.older_than
        leases = [Stray("temporary", path, size_on_disk(path)) for path in ended]
        return [*leases, *self._strays.unowned(needed), *self._strays.left_aside(age)]

    # Content

    def _decide(self, needed: Set[str]) -> tuple[Holdings, Plan, set[str]]:
        """Give what there is, what of it is to go, and what is in files of its own."""
        reader = self._open_reader()
        if reader is None:
            return _EMPTY, _NOTHING, set()
        try:
            return reader.snapshot(lambda query: self._plan(query, needed))
        finally:
            reader.close()

    def _check_index(self) -> None:
        """Make sure that the index shows all that it has: content of a row that it hides looks like garbage."""
        self._go_on()
        reader = self._open_reader()
        if reader is not None:
            try:
                reader.check()
            finally:
                reader.close()
        self._go_on()

    def _plan(self, query: Query, needed: Set[str]) -> tuple[Holdings, Plan, set[str]]:
        held = holdings(query, needed)
        todo = plan(held, self._limits, self._families, reading(query, self._read_file))
        return held, todo, in_files(query)

    def _remove(self, writer: Writer | None) -> tuple[Holdings, Plan, list[Stray]]:
        """Remove content while nobody else writes. Raises Damaged, Moved, StoreError."""
        files = self._files()
        with translated(self._path, "read"):
            needed, _ = leased(self._path)
        if writer is None:
            orphans = _orphans(files, needed)
            self._set_aside({stray.path for stray in orphans})
            return _EMPTY, _NOTHING, orphans
        with writer.transaction(durable=True) as query:
            held, todo, rowed = self._plan(query, needed)
            remove(query, todo, held.links)
        orphans = _orphans(files, needed | rowed)
        # Where locks do nothing, somebody may have committed again what was just removed.
        with writer.transaction(durable=False) as query:
            gone = {path for path, digest in files.items() if digest not in needed and not is_in_file(query, digest)}
            self._set_aside(gone)
        return held, todo, [stray for stray in orphans if stray.path in gone]

    def _files(self) -> dict[str, str]:
        """Give the files that are named like blobs, and their digests."""
        return {path: str(digest) for path, digest in self._blobs.files().items() if digest and not is_directory(path)}

    def _set_aside(self, paths: Set[str]) -> None:
        for path in sorted(paths):
            with translated(path, "remove"):
                self._strays.set_aside(path)

    def _read_file(self, digest: str, size: int) -> bytes | None:
        if size > MANIFEST_LIMIT:
            return None
        try:
            found = self._blobs.read(Digest.parse(digest), size)
        except StoreError:
            return None
        return found.content if isinstance(found, Intact) else None

    def _open_reader(self) -> Reader | None:
        for _ in range(_ATTEMPTS):
            number = self._generations.current()
            if not number:
                return None
            watch = Watch(self._generations, number)
            with suppress(Moved):
                try:
                    return open_reader(watch)
                except Older:
                    return open_untouched(watch, upgrade=True)
        raise StoreError(f"the index of the store {self._path} is replaced all the time")


def _orphans(files: dict[str, str], wanted: Set[str]) -> list[Stray]:
    """Give those of ``files`` whose digests aren't ``wanted``."""
    return [Stray("blob", path, size_on_disk(path)) for path, digest in files.items() if digest not in wanted]
