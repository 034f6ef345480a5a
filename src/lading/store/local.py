"""The store in a directory: look-ups that verify, commits that share transactions, damage that is repaired.

Nothing is created before something is written. Look-ups are synchronous and take a lock for their query only.
Commits of one moment are one transaction, made in a thread: a ticket is settled there, whatever became of the task
that waits for it. A store that was inherited through a fork is opened anew.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from lading.errors import LadingError, OutOfSpace, StoreCorrupted, StoreError, StoreReadOnly
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.blobs import Blobs
from lading.store.current import Current
from lading.store.generations import Generations, Watch
from lading.store.index import open_reader, open_untouched
from lading.store.index_errors import Damaged, Gone, Moved, Older
from lading.store.index_reader import Reader
from lading.store.ingest import LocalIngest
from lading.store.leases import LocalLease
from lading.store.rows import Rows
from lading.store.tickets import Ticket, Turns
from lading.store.values import ABSENT, INLINE_LIMIT, Absent, Changes, Corrupt, Intact, Inventory, Lost, Record
from lading.store.work import Ingest

if TYPE_CHECKING:
    from lading.store.gc import Collected

T = TypeVar("T")

_ATTEMPTS = 5
"""How often an index that others replace is opened again."""

_TOGETHER = 32
"""Commits that wait for no more: a larger transaction costs hardly less for each."""

_INHERITED: list[tuple[Reader | None, Current]] = []
"""What a forked child must not close."""


class LocalStore:
    """Content in the directory ``path``; many processes may use it at once.

    Nothing is read or written before it is needed. Look-ups raise StoreError where the directory can't be read, holds
    a store of a newer format, or is on a network file system.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.transactions = 0
        """How many transactions the commits so far took."""
        self._generations = Generations(self.path)
        self._blobs = Blobs(self.path)
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        """Have nothing open."""
        self._process = os.getpid()
        self._reading = threading.Lock()
        self._reader: Reader | None = None
        self._watch: Watch | None = None
        self._writing = threading.Lock()
        self._current = Current(self._generations, self._blobs)
        self._taken = LocalLease(self._generations)  # what is on its way, or finished and not committed yet
        self._queue = threading.Lock()
        self._pending: list[Ticket] = []
        self._turns = Turns()

    # Look-ups

    def resolve(self, reference: Reference) -> Record | Absent | Corrupt:
        """Tell what ``reference`` stood for; a pinned one is known if its digest was seen in its repository."""
        if reference.digest is None:
            name = str(reference)
            return self._look_up(lambda reader: reader.reference(name))
        name, digest = reference.name, str(reference.digest)
        return self._look_up(lambda reader: reader.seen(name, digest))

    def read(self, name: str, digest: Digest) -> Intact | Absent | Corrupt:
        """Give the content ``digest`` if it was seen in the repository ``name`` (``docker.io/acme/triage``)."""
        found = self._content(name, digest)
        if not isinstance(found, int):
            return found
        read = self._blobs.read(digest, found)
        # What isn't where it should be may just have been collected, row and all.
        return read if isinstance(read, Intact) or self._content(name, digest) == found else ABSENT

    def _content(self, name: str, digest: Digest) -> Intact | int | Absent | Corrupt:
        return self._look_up(lambda reader: reader.content(name, digest))

    def holds(self, name: str, descriptor: Descriptor) -> bool:
        """Tell whether :meth:`read` would give the content; of what is large only the size is looked at."""
        found = self._content(name, descriptor.digest)
        size = len(found.content) if isinstance(found, Intact) else found
        return size == descriptor.size and (not isinstance(found, int) or self._blobs.holds(descriptor.digest, found))

    def repositories(self, registry: str, digest: Digest) -> list[str]:
        """Give the repositories of ``registry`` that ``digest`` was seen in (``acme/triage``), in stable order."""
        found = self._look_up(lambda reader: reader.repositories(f"{registry}/", str(digest)))
        return [name.removeprefix(f"{registry}/") for name in found] if isinstance(found, list) else []

    def places(self, digest: Digest) -> list[str]:
        """Give the repositories of all registries that ``digest`` was seen in (``docker.io/acme/triage``), in order."""
        found = self._look_up(lambda reader: reader.repositories("", str(digest)))
        return found if isinstance(found, list) else []

    def stream(self, name: str, digest: Digest) -> Iterator[bytes] | Absent:
        """Give what :meth:`read` gives in pieces. Raises StoreCorrupted, at any piece."""
        return self._blobs.stream(digest, self._content(name, digest))

    def check(self, digest: Digest, go_on: Callable[[int], None]) -> int | Absent | Corrupt:
        """Verify ``digest``, wherever it was seen, and give its size; ``go_on`` is told the bytes that were read."""
        size = 0
        try:
            pieces = self._blobs.stream(digest, self._look_up(lambda reader: reader.held(digest)))
            for piece in () if isinstance(pieces, Absent) else pieces:
                size += len(piece)
                go_on(len(piece))
        except StoreCorrupted as damage:
            return Corrupt(damage.message)
        return pieces if isinstance(pieces, Absent) else size

    def inventory(self) -> Inventory:
        """Give what the store has, without verifying content; blocking."""
        files = self._blobs.files()
        found = self._look_up(lambda reader: reader.inventory(files))
        if isinstance(found, Corrupt):
            return Inventory(damage=(found.reason,))
        if isinstance(found, Absent):
            return Inventory(strays=tuple(files))
        if found.damage:
            self._note_damage()
        return found

    def references(self) -> list[tuple[Reference, Record]]:
        """Give every reference and what it stands for, in the order of their names.

        Raises:
            StoreCorrupted: the index is damaged; the next commit repairs it.
        """
        found = self._look_up(lambda reader: reader.references())
        if isinstance(found, Corrupt):
            raise StoreCorrupted(
                f"the store {self.path} is damaged: {found.reason}", hint="the next pull repairs what can be repaired"
            )
        return [] if isinstance(found, Absent) else [(Reference.parse(name), record) for name, record in found]

    def last_used(self, reference: Reference) -> float | None:
        """Tell when ``reference`` was last brought, confirmed or answered with; ``None`` if nothing keeps it."""
        found = self._look_up(lambda reader: reader.last_used(str(reference)))
        return found if isinstance(found, float) else None

    def recall(self, kind: str, key: str) -> str | None:
        """Give the value of a note; ``None`` if there is none, or it is damaged."""
        found = self._look_up(lambda reader: reader.note(kind, key))
        return found if isinstance(found, str) else None

    def _look_up(self, query: Callable[[Reader], T | None]) -> T | Absent | Corrupt:
        self._check_process()
        with self._reading:
            self._check_open()
            try:
                reader = self._reader
                if reader is None or not reader.watch.holds():
                    reader = self._open_reader()
                found = None if reader is None else query(reader)
            except Damaged as damage:
                self._note_damage()
                return Corrupt(str(damage))
        return ABSENT if found is None else found

    def _note_damage(self) -> None:
        """Let the next commit repair the index that was just read."""
        if self._watch is not None and not self._watch.is_frozen:
            self._current.damage = self._watch.identity

    def _open_reader(self) -> Reader | None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        open_index: Callable[[Watch], Reader] = open_reader
        for _ in range(_ATTEMPTS):
            number = self._generations.current()
            if not number:
                return None
            self._watch = Watch(self._generations, number)
            try:
                self._reader = open_index(self._watch)
                self._watch = self._reader.watch
                return self._reader
            except Older:
                try:
                    self._current.migrate()
                except (StoreReadOnly, OutOfSpace):
                    open_index = partial(open_untouched, upgrade=True)
            except Moved:
                continue
        raise StoreError(f"the index of the store {self.path} is replaced all the time")

    # Writing

    def ingest(self, descriptor: Descriptor) -> Ingest:
        """Begin to take the content that ``descriptor`` names: ``async with store.ingest(d) as ingest: …``."""
        self._check_usable()
        return LocalIngest(descriptor, self._blobs, self._taken)

    def lease(self) -> LocalLease:
        """Begin to need content that no reference reaches yet: ``with store.lease() as lease: …``."""
        self._check_usable()
        return LocalLease(self._generations)

    async def commit(self, changes: Changes) -> None:
        """Make ``changes`` true at once: when this returns they are visible, and survive a crash if durable.

        Raises:
            StoreReadOnly: the store can't be written.
            OutOfSpace: the disk is full; nothing of ``changes`` is visible, all that was there before still is.
            Lost: a blob, or what is required, isn't there: it was never finished, or was collected.
            StoreCorrupted: the index was damaged, and so is what was salvaged of it.
            StoreError: the store can't be opened or repaired.
        """
        import anyio.to_thread

        self._check_usable()
        if changes.is_empty:
            return
        ticket = Ticket(changes)
        with self._queue:
            self._pending.append(ticket)
        try:
            turn = self._turns.current()
            if not self._can_wait():
                turn.hurry()
            while not ticket.settled:
                if turn.is_taken:
                    await turn.ended.wait()
                    continue
                turn.take()
                try:
                    if self._can_wait():
                        await turn.gather(changes.linger)
                    await anyio.to_thread.run_sync(self._commit_pending)
                finally:
                    turn.end()
        finally:
            with self._queue:
                if ticket in self._pending:
                    self._pending.remove(ticket)
        if ticket.error is not None:
            raise ticket.error

    def _can_wait(self) -> bool:
        """Tell whether all that is pending may wait for more."""
        with self._queue:
            return len(self._pending) < _TOGETHER and all(ticket.changes.linger for ticket in self._pending)

    def _commit_pending(self) -> None:
        """Commit what is pending, in a thread; when this returns every ticket that it took is settled."""
        with self._writing:
            with self._queue:
                tickets, self._pending = self._pending, []
            try:
                self._settle([ticket for ticket in tickets if self._prepare(ticket)])
            finally:
                for ticket in tickets:
                    if not ticket.settled:
                        ticket.settle(StoreError(f"the commit to the store {self.path} was interrupted"))
                    self._taken.drop(ticket.put)

    def _prepare(self, ticket: Ticket) -> bool:
        """Do what concerns one ticket alone, so that its failure is its own."""
        try:
            self._check_open()
            large = [(digest, content) for digest, content in ticket.changes.content if len(content) > INLINE_LIMIT]
            ticket.put = [digest for digest, _ in large]
            self._taken.keep(ticket.put)
            for digest, content in large:
                self._blobs.put(digest, content)
            # Once more in the transaction: but only there nobody can collect it any more.
            if lost := [one.digest for one in ticket.changes.blobs if not self._blobs.holds(one.digest, one.size)]:
                raise Lost(lost, f"the store {self.path}")
            ticket.rows = Rows.of(ticket.changes)
        except Exception as error:
            ticket.settle(error)
            return False
        return True

    def _settle(self, tickets: list[Ticket]) -> None:
        """Write ``tickets`` in one transaction, or one each if the disk hasn't space for all, or some lack content."""
        if not tickets:
            return
        try:
            self._write(tickets)
        except Exception as error:
            if isinstance(error, OutOfSpace | Gone) and len(tickets) > 1:
                for ticket in tickets:
                    self._settle([ticket])
                return
            if isinstance(error, Gone):
                error = Lost(map(Digest.parse, error.digests), f"the store {self.path}")
            for ticket in tickets:
                ticket.settle(error.again() if isinstance(error, LadingError) else error)
        else:
            for ticket in tickets:
                ticket.settle(None)
                self._taken.drop(blob.digest for blob in ticket.changes.blobs)

    def _write(self, tickets: list[Ticket]) -> None:
        rows, durable = Rows.together(ticket.rows for ticket in tickets), any(t.changes.durable for t in tickets)
        self._current.write(lambda writer: writer.apply(rows, durable=durable))
        self.transactions += 1

    # Collection

    async def collect(
        self,
        *,
        older_than: float | None = None,
        max_size: int | None = None,
        dry_run: bool = False,
        now: float | None = None,
    ) -> Collected:
        """Remove what no reference reaches and nobody is at work on; see :meth:`lading.store.store.Store.collect`.

        Also blobs that a crash left without a row, partial downloads that nobody owns, and indexes that were left aside
        when they were damaged, 30 days ago or ``older_than`` seconds. Pages of the index that are free then are given
        back where that is worth it.
        """
        from lading.store.collect import Collection
        from lading.store.gc import Limits

        self._check_usable()
        limits = Limits(time.time() if now is None else now, older_than, max_size)
        return await Collection(self.path, limits, dry_run=dry_run).run()

    # The end

    def close(self) -> None:
        """Let go of everything; the store is then cleanly closed on disk. Blocking; may be called again."""
        self._check_process()
        self._closed = True
        with self._writing:
            with self._reading:
                reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
            self._current.close()
        self._taken.close()

    async def aclose(self) -> None:
        """Let go of everything; the store is then cleanly closed on disk. May be called again."""
        self._check_process()
        self._closed = True
        if self._reader is None and not self._current.is_open and not self._writing.locked():
            self._taken.close()
            return
        import anyio.to_thread

        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)
        except BaseException:
            self.close()  # cancelled from outside of anyio, perhaps before the thread began
            raise

    def _check_usable(self) -> None:
        self._check_process()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.path} is closed")

    def _check_process(self) -> None:
        """In a forked child leave what is open to the parent: a connection must not be used, nor closed, by two."""
        if self._process != os.getpid():
            _INHERITED.append((self._reader, self._current))
            self._reset()
