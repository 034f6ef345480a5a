"""What there is of a store while somebody is at work: content on its way, and what must not go in the meantime."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from lading.oci.digest import Digest


class Ingest(Protocol):
    """One piece of content on its way into a store.

    Entering it waits as long as somebody else takes the same content; then ``is_complete`` may say that there is
    nothing to fetch, or ``gaps`` that some of it is there already, which somebody left. Leaving it unfinished may leave
    such a part too. Neither says anything about the repositories that the content may be served for.

    What is on its way isn't collected, nor is what was finished, until a commit with its descriptor.
    """

    @property
    def received(self) -> int:
        """How many bytes there are in a row, from the first one on: where to go on."""
        ...

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """What is to be fetched, in order: where each gap begins, and where it ends. Only those are written."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the whole content is there, verified: nothing is to be fetched, what is written is ignored."""
        ...

    @property
    def etag(self) -> str:
        """The entity tag that was noted for the bytes received, perhaps by an earlier process; empty if none was."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            ValueError: some of them were written before, out of order.
            StoreError: the disk refused.
        """
        ...

    async def write_at(self, offset: int, chunk: bytes) -> None:
        """Take bytes from ``offset`` on, also before those in front of them; several tasks may do that at once.

        Raises:
            SizeMismatch: there are more than the descriptor says.
            ValueError: some of them are there already.
            StoreError: the disk refused.
        """
        ...

    async def restart(self) -> None:
        """Drop every byte, and the entity tag: what comes next is byte 0. Raises StoreError."""
        ...

    async def note_etag(self, etag: str) -> None:
        """Remember the entity tag of these bytes: up to 256 visible ASCII characters, anything else is ignored."""
        ...

    async def finish(self) -> None:
        """Verify the content and make it real, durably; a commit with its descriptor then makes it visible.

        Raises:
            SizeMismatch: it is shorter than its descriptor says.
            DigestMismatch: it is something else, and all of it was dropped.
            StoreError: the disk refused.
        """
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Lease(Protocol):
    """What somebody who is at work needs: no collection removes it, nor what it reaches, before the lease is closed.

    A context manager, which closes it. It ends with its process at the latest.
    """

    def keep(self, digests: Iterable[Digest]) -> None:
        """Need ``digests`` too, whether they are there yet or not; blocking.

        Where that can't be noted, it isn't an error: what a collection takes, a commit misses.
        """
        ...

    def close(self) -> None:
        """Need nothing any more. May be called again."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
