"""The chunks of a body that is passed on while it comes: its digest is verified at the end."""

from __future__ import annotations

from typing import Self

from lading.errors import BodyInterrupted, DigestMismatch
from lading.http.transport import Response, is_close_framed
from lading.oci.digest import Digest


class Verified:
    """The chunks of a body. An iterator and not a generator: a consumer that breaks off leaves nothing behind."""

    def __init__(self, response: Response, digest: Digest, what: str) -> None:
        self._response = response
        self._chunks = response.chunks()
        self._digest = digest
        self._hasher = digest.hasher()
        self._what = what

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        async for chunk in self._chunks:
            self._hasher.update(chunk)
            return chunk
        if self._hasher.hexdigest() != self._digest.encoded:
            if is_close_framed(self._response):
                url = self._response.url
                raise BodyInterrupted(f"{self._what}: it was cut short", url=url, hint="try again")
            raise DigestMismatch(
                f"{self._what}: something else came", hint="something on the way changes what it sends"
            )
        raise StopAsyncIteration
