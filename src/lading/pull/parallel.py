"""Several connections for one blob, where a server limits each of them.

That is found out while the blob is on its way: one more connection asks for the blob's last piece, and if more comes in
all, others bring the pieces before that one, up to a limit. The first one then ends where they began. Where ranges
aren't honoured, or one connection is as fast as two, it just goes on, to the last piece or the end.

What an earlier attempt left may have gaps, where its connections were interrupted: then as many of them begin at once,
when the registry has shown that it honours ranges, and only the gaps are asked for.

Nothing may fail because of those that only make it faster: they ask once, leave when they are refused, and make room
for whatever else waits for the registry.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import anyio
from anyio.abc import TaskGroup

from lading.errors import BodyInterrupted, LadingError, ProtocolError, RegistryError, StoreError, TransportError
from lading.http.retry import Attempts
from lading.http.transport import Response
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.pull.groups import first_failure
from lading.registry.ranges import continue_at
from lading.registry.repository import Repository
from lading.store.store import Ingest

PIECE = 8 * 1024 * 1024
"""Bytes that are asked for at a time."""

CONNECTIONS = 8
"""Connections for one blob at most."""

_WORTH = 3
"""Pieces that have to be left for another connection to be worth it."""

_PATIENCE_SECONDS = 1.0
"""How long one connection is watched before there is another: most blobs are there by then."""

_WINDOW_SECONDS = 0.5
"""How long the rate is measured after that."""

_WINDOWS = 4
"""How often it is measured at most until more comes: a connection is slow at first."""

_GAIN = 1.2
"""How much more has to come for more connections to be worth it."""

_GREAT_GAIN = 1.7
"""How much more has to come by the second one for all of them to begin at once."""


def range_headers(etag: str, first: int, last: int | None = None) -> dict[str, str]:
    """Give the header fields that ask for bytes from ``first`` on (RFC 9110, sections 14.2 and 13.1.5)."""
    if first == 0 and last is None:
        return {}
    headers = {"Range": f"bytes={first}-{'' if last is None else last}"}
    # A weak tag says nothing about bytes, and what has no quotes is taken for a date.
    if len(etag) > 1 and etag[0] == etag[-1] == '"':
        headers["If-Range"] = etag
    return headers


_Ask = Callable[
    [Digest, Callable[[Response, Attempts], Awaitable[None]], Callable[[], Mapping[str, str]]], Awaitable[None]
]
"""How a piece is asked for: patiently, or once."""


@dataclass(slots=True)
class _Piece:
    """What somebody is to bring: from ``position``, which moves on, to before ``stop``."""

    position: int
    stop: int


def _cut(start: int, end: int) -> list[_Piece]:
    """Cut a gap into pieces; all but the outer ones are of the same size."""
    edges = [start, *range((start // PIECE + 1) * PIECE, end, PIECE), end]
    return [_Piece(one, other) for one, other in pairwise(edges)]


class Pieces:
    """One blob on its way by a first connection, and the pieces of it that others bring.

    ``arrived`` is told of each number of bytes that was written. With ``is_alone`` there are no others.
    """

    def __init__(
        self,
        repository: Repository,
        descriptor: Descriptor,
        ingest: Ingest,
        arrived: Callable[[int], None],
        *,
        is_alone: bool = False,
    ) -> None:
        gaps = [(0, descriptor.size)] if is_alone else ingest.gaps
        self.end = gaps[0][1] if gaps else 0
        """Where the first connection may stop."""
        self.are_begun = False
        """Whether others bring a part of the blob, or have brought it."""
        self.are_wrong = False
        """Whether something else came for a piece."""
        self._repository = repository
        self._descriptor = descriptor
        self._ingest = ingest
        self._arrived = arrived
        self._helpers: TaskGroup | None = None
        self._are_off = is_alone
        self._began = 0.0
        self._position = 0  # of the first connection
        self._left: list[_Piece] = []  # what others couldn't bring
        self._workers = 0
        self._connections = max(1, min(len(gaps), CONNECTIONS))  # as many as were found to help
        if self._connections > 1:
            self._left = [piece for gap in gaps for piece in _cut(*gap)]
            self.end = self._left.pop(0).stop
        self._may_try = not is_alone and self._connections == 1 and self.end > _WORTH * PIECE
        self._next = self._stop = self.end  # nobody was asked yet for what is between
        self._changed = anyio.Event()  # one of them has ended
        self._came = 0

    @property
    def is_all_asked(self) -> bool:
        """Whether the first connection is to bring everything to the end."""
        return self.end == self._descriptor.size

    async def beside(self, first: Callable[[], Awaitable[None]]) -> None:
        """Run ``first``, the first connection, with others beside it; when this returns every byte is there.

        Raises:
            LadingError: what ``first`` raised, or who brought what was left in the end.
        """
        if not (self._may_try or self._left):
            await first()
            return
        try:
            async with anyio.create_task_group() as self._helpers:
                await first()
                await self._finish()
                self._helpers.cancel_scope.cancel()  # whoever is just finding out whether others would help
            return
        except BaseExceptionGroup as failures:
            failed = first_failure(failures)
        raise failed

    def begin(self, start: int) -> None:
        """Take note that the first connection delivers from ``start`` on."""
        self._position = start
        if not self._began:
            self._began = time.monotonic()
            self._hire()

    def give_up(self) -> None:
        """Take note that ranges aren't honoured: the first connection brings everything, nobody else begins."""
        self._are_off = True
        self.end = self._next = self._stop = self._descriptor.size
        self._left.clear()

    def share(self, position: int, chunk: bytes) -> bytes:
        """Give the part of the first connection's ``chunk`` that is still its own to deliver."""
        self._position = position + len(chunk)
        if self._may_try and time.monotonic() - self._began > _PATIENCE_SECONDS:
            self._begin_trial()
        return chunk[: max(0, self.end - position)]

    async def write(self, position: int, chunk: bytes) -> None:
        """Write what arrived, whoever brought it."""
        if chunk:
            await self._ingest.write_at(position, chunk)
            self._came += len(chunk)
            self._arrived(len(chunk))

    def headers(self, first: int, last: int | None = None) -> Mapping[str, str]:
        """Give the header fields that ask for bytes from ``first`` on."""
        # An entity tag means something to whoever gave it, and with mirrors nobody knows who that was.
        return range_headers("" if self._repository.is_mirrored else self._ingest.etag, first, last)

    async def _finish(self) -> None:
        """Bring what is left, when the first connection has delivered its part."""
        while True:
            changed = self._changed
            if (piece := self._take()) is not None:
                try:
                    await self._repository.turns.large(partial(self._bring, piece, self._repository.blob))
                except (RegistryError, TransportError):
                    if not self._workers:
                        raise
                    self._left.append(piece)
                    await changed.wait()
                else:
                    self._hire()
            elif self._workers:
                await changed.wait()
            else:
                return

    def _begin_trial(self) -> None:
        self._may_try = False
        if self._helpers is None or self._are_off:
            return
        if self._repository.turns.has_room:
            self._helpers.start_soon(self._try)
        else:
            self._try_later()

    def _try_later(self) -> None:
        """Take note that there is no room for others now."""
        self._may_try, self._began = True, time.monotonic()

    async def _try(self) -> None:
        """Find out whether another connection brings more, and again with twice as many."""
        helpers = self._helpers
        assert helpers is not None
        before = await self._rate(self._came, time.monotonic())
        tail = _Piece((self.end - PIECE) // PIECE * PIECE, self.end)
        if tail.position - self._position < (_WORTH - 1) * PIECE:
            return
        answered, ended = anyio.Event(), anyio.Event()
        helpers.start_soon(self._bring_tail, tail, answered, ended)
        await answered.wait()
        if not self.are_begun:
            return
        self._connections = 2
        while self._connections < CONNECTIONS and (rate := await self._gain(before, ended)) is not None:
            if self._connections == 2:
                # The first connection ends at the next piece, and those from there on are handed out.
                self._stop = self.end
                self.end = self._next = min((self._position // PIECE + 1) * PIECE, self._stop)
            is_great = self._connections == 2 and rate > _GREAT_GAIN * before
            self._connections = CONNECTIONS if is_great else min(2 * self._connections, CONNECTIONS)
            self._hire()
            if not self._has_more:
                return
            before, ended = rate, anyio.Event()

    def _hire(self) -> None:
        """Have as many others as help, while there is work and room for them."""
        if self._helpers is None:
            return
        while self._workers < self._connections - 1 and self._has_more and self._repository.turns.has_room:
            self._workers += 1
            self._helpers.start_soon(self._work)

    async def _gain(self, before: float, ended: anyio.Event) -> float | None:
        """Give how many bytes a second come now, None if that isn't worth it; something may end meanwhile."""
        came, began = self._came, time.monotonic()
        for _ in range(_WINDOWS):
            rate = await self._rate(came, began, ended)
            if rate >= _GAIN * before:
                return rate
            if ended.is_set():
                break
        return None

    async def _rate(self, came: int, began: float, ended: anyio.Event | None = None) -> float:
        """Wait for the end of a window, or of something else, and give how many bytes a second came since then."""
        with anyio.move_on_after(_WINDOW_SECONDS):
            await (ended or anyio.Event()).wait()
        return (self._came - came) / max(time.monotonic() - began, 0.001)

    async def _bring_tail(self, tail: _Piece, answered: anyio.Event, ended: anyio.Event) -> None:
        """Ask for the last piece, and if it comes, let the first connection end there."""

        def begin() -> bool:
            # The first connection may have come that far in the meantime, or may have had to begin anew.
            if not (self.are_begun or self._are_off) and self._position < tail.position:
                self.end = self._next = self._stop = tail.position
                self.are_begun = True
                self._workers += 1
            answered.set()
            return self.are_begun

        turns = self._repository.turns
        try:
            if not turns.has_room:
                self._try_later()
                return
            with turns.taken():
                await self._attempt(tail, begin)
        finally:
            if self.are_begun:
                self._leave()
            answered.set()
            ended.set()

    async def _work(self) -> None:
        turns = self._repository.turns
        try:
            # Others may have been quicker to take the place that there was.
            if not turns.has_room:
                return
            with turns.taken():
                while not turns.is_crowded and (piece := self._take()) is not None and await self._attempt(piece):
                    pass
        finally:
            self._leave()

    def _leave(self) -> None:
        self._workers -= 1
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    @property
    def _has_more(self) -> bool:
        return bool(self._left) or self._next < self._stop

    def _take(self) -> _Piece | None:
        """Give the next piece: one that somebody couldn't bring, or that nobody was asked for yet."""
        if not self._has_more:
            return None
        self.are_begun = True
        if self._left:
            return self._left.pop(0)
        start, self._next = self._next, min(self._next + PIECE, self._stop)
        return _Piece(start, self._next)

    async def _attempt(self, piece: _Piece, begin: Callable[[], bool] | None = None) -> bool:
        """Bring a piece, or leave what is missing of it to others; tells which."""
        try:
            await self._bring(piece, self._repository.blob_beside, begin)
        except StoreError:
            raise
        except LadingError as failure:
            self._repository.turns.refused(failure)
            if self.are_begun:
                self._left.append(piece)
            return False
        return True

    async def _bring(self, piece: _Piece, ask: _Ask, begin: Callable[[], bool] | None = None) -> None:
        """Bring a piece; ``begin`` is asked, at the head of an answer, whether to."""
        what = f"{self._repository.name}: blob {self._descriptor.digest}"

        async def read(response: Response, attempts: Attempts) -> None:
            try:
                start = continue_at(response.status, response.headers, piece.position, self._descriptor.size)
                if start != piece.position:
                    raise ProtocolError("a part was asked for, and the whole came")
            except ProtocolError as error:
                self.are_wrong = self.are_wrong or self.are_begun
                raise ProtocolError(f"{what}: {error.message}", hint=error.hint) from error
            if begin is not None and not begin():
                return
            async for chunk in response.chunks():
                taken = chunk[: piece.stop - piece.position]
                await self.write(piece.position, taken)
                piece.position += len(taken)
                attempts.progress()
                if piece.position == piece.stop:
                    return
            raise BodyInterrupted(f"{what}: a part of it was cut short", url=response.url, hint="try again")

        await ask(self._descriptor.digest, read, lambda: self.headers(piece.position, piece.stop - 1))
