"""A transport that answers from a script: the protocol of the rings, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Self

from lading.errors import LadingError, ProtocolError
from lading.http.transport import Headers, Request

CHUNK = 1024


class Answer:
    """One answer of the script. ``error`` is raised where its body ends; ``url`` stands for a followed redirect."""

    def __init__(
        self,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        error: LadingError | None = None,
        url: str = "",
    ) -> None:
        self.status = status
        self.headers = Headers(headers.items() if isinstance(headers, Mapping) else headers)
        self.body = body
        self.error = error
        self.url = url
        self.taken = 0
        """Bytes of the body that were read."""
        self.is_closed = False

    def chunks(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), CHUNK):
            chunk = self.body[start : start + CHUNK]
            self.taken += len(chunk)
            yield chunk
        if self.error is not None:
            raise self.error

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise ProtocolError(f"{self.url}: more than {limit} bytes")
        return bytes(body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_closed = True


class ScriptedTransport:
    """Gives the answers of the script in order, raises those that are errors, and remembers the requests."""

    def __init__(self, *script: Answer | LadingError) -> None:
        self.script = list(script)
        self.requests: list[Request] = []
        self._given: list[Answer] = []

    async def send(self, request: Request) -> Answer:
        self.requests.append(request)
        assert self.script, f"one request too many: {request.method} {request.url}"
        answer = self.script.pop(0)
        if isinstance(answer, LadingError):
            raise answer
        answer.url = answer.url or request.url
        self._given.append(answer)
        return answer

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The method and URL of each request."""
        return [(request.method, request.url) for request in self.requests]

    def assert_done(self) -> None:
        """Assert that the whole script was played, and that every answer was closed."""
        assert not self.script, "fewer requests than expected"
        assert all(answer.is_closed for answer in self._given), "an answer was left open"
