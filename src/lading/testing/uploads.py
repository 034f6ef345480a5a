"""Blob uploads under way: bytes that are no blob yet, in order, without holes.

A request adds all of its bytes or none: what came of one that broke is forgotten.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lading.testing.content import Spool
from lading.testing.refusals import ErrorCode, Refusal

# Uploads that nobody goes on with would pile up in a registry that runs for long.
_IDLE_SECONDS = 3600.0


class Upload:
    """The bytes received so far for one blob of one repository."""

    __slots__ = ("_claim", "_size", "identifier", "last_used", "location", "spool")

    def __init__(self, repository: str, spool: Spool) -> None:
        self.identifier = str(uuid.uuid4())
        self.location = f"/v2/{repository}/blobs/uploads/{self.identifier}"
        self.spool = spool
        self._claim = threading.Lock()
        self.last_used = 0.0
        self._size = 0

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Let one request at a time add bytes; raise BLOB_UPLOAD_INVALID with 409 if another one does."""
        if not self._claim.acquire(blocking=False):
            raise Refusal(ErrorCode.BLOB_UPLOAD_INVALID, "another request writes to this upload", status=409)
        try:
            yield
        finally:
            self._claim.release()

    @property
    def is_claimed(self) -> bool:
        """Whether a request is adding bytes."""
        return self._claim.locked()

    def check_range(self, content_range: str | None, length: int | None) -> None:
        """Raise BLOB_UPLOAD_INVALID with 416 if a chunk doesn't continue the upload; None: its length isn't known."""
        if content_range is None:
            return
        given = content_range.strip()
        if length is None:
            is_next = given.startswith(f"{self._size}-")
        else:
            is_next = given == f"{self._size}-{self._size + length - 1}"
        if not is_next:
            raise Refusal(
                ErrorCode.BLOB_UPLOAD_INVALID,
                "the chunk does not continue the upload",
                detail={"Content-Range": content_range, "received": self._size, "length": length},
                status=416,
                headers=self.headers(),
            )

    def accept(self) -> None:
        """Count the bytes in the spool as received."""
        self._size = self.spool.size

    def reject(self) -> None:
        """Forget the bytes that weren't accepted."""
        self.spool.truncate(self._size)

    def headers(self) -> dict[str, str]:
        """Return the headers that tell a client where to go on, and from which byte."""
        return {
            "Location": self.location,
            # An upload that holds nothing says 0-0 too: the spec has no notation for an empty range.
            "Range": f"0-{max(self._size - 1, 0)}",
            "Docker-Upload-UUID": self.identifier,
        }


class Uploads:
    """The uploads under way, each of which is known in its own repository only.

    One that nobody has used for an hour is forgotten when the next one begins.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uploads: dict[tuple[str, str], Upload] = {}

    def begin(self, repository: str, spool: Spool) -> Upload:
        """Start an upload."""
        self._forget_idle()
        upload = Upload(repository, spool)
        upload.last_used = self._clock()
        self._uploads[repository, upload.identifier] = upload
        return upload

    def find(self, repository: str, identifier: str) -> Upload:
        """Return an upload under way; raise BLOB_UPLOAD_UNKNOWN."""
        try:
            upload = self._uploads[repository, identifier]
        except KeyError:
            raise Refusal(
                ErrorCode.BLOB_UPLOAD_UNKNOWN,
                "blob upload unknown to registry",
                detail={"name": repository, "upload": identifier},
            ) from None
        upload.last_used = self._clock()
        return upload

    def end(self, repository: str, identifier: str) -> None:
        """Forget an upload, whether it became a blob or not."""
        self._uploads.pop((repository, identifier), None)

    def _forget_idle(self) -> None:
        oldest = self._clock() - _IDLE_SECONDS
        for key, upload in tuple(self._uploads.items()):  # in one step: uploads begin and end in other threads
            if upload.last_used < oldest and not upload.is_claimed:
                self._uploads.pop(key, None)
                upload.spool.discard()
