"""A server that is written in a test, over bare sockets: it keeps every byte that it is sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from http.client import responses
from types import TracebackType
from typing import Self

_LENGTH = re.compile(rb"(?im)^content-length: *([0-9]+)\r$")

_DIGEST = re.compile(r"sha256(?::|%3A)[0-9a-f]{64}")

TELLING = ("Authorization", "Proxy-Authorization", "Cookie", "Referer")
"""The fields that may hold what is nobody else's business."""


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    raw: bytes
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Seen:
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return cls(raw, method, target, headers, body)

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def shows(self) -> list[str]:
        """Which of the telling fields it has."""
        return [name for name in TELLING if name.lower() in self.headers]

    def __str__(self) -> str:
        body = f" with {len(self.body)} bytes" if self.body else ""
        shown = [f"{name}: {self.headers[name.lower()]}" for name in self.shows]
        kept = [f"no {name}" for name in ("Authorization", "Cookie") if name not in self.shows]
        return ", ".join([f"{self.method} {_DIGEST.sub('sha256:…', self.target)}{body}", *shown, *kept])


@dataclass(frozen=True)
class Reply:
    """What is answered; with ``cut`` the connection ends instead, with ``ends`` after it. ``raw`` is sent as it is."""

    status: int = 200
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    more: Iterable[tuple[str, str]] = ()
    cut: bool = False
    ends: bool = False
    raw: bytes = b""

    @classmethod
    def json(cls, document: object, status: int = 200) -> Reply:
        return cls(status, {"Content-Type": "application/json"}, json.dumps(document).encode())

    @classmethod
    def to(cls, location: str, status: int = 307) -> Reply:
        return cls(status, {"Location": location})

    @classmethod
    def challenge(cls, challenge: str, body: bytes = b"", status: int = 401) -> Reply:
        return cls(status, {"WWW-Authenticate": challenge}, body)

    def encode(self, method: str) -> bytes:
        if self.raw:
            return self.raw
        fields = {"Content-Length": str(len(self.body)), **self.fields}
        if method == "CONNECT" and self.status == 200:
            del fields["Content-Length"]
        lines = [f"{name}: {value}" for name, value in (*fields.items(), *self.more)]
        head = "\r\n".join([f"HTTP/1.1 {self.status} {responses.get(self.status, '')}", *lines, "", ""])
        return head.encode() + (b"" if method == "HEAD" else self.body)


NOTHING = Reply(404)

Answer = Callable[[Seen], Reply]


class RawServer:
    """Answers on loopback by what ``answer`` gives; ``received`` is everything that came, also what is no request."""

    def __init__(self, answer: Answer = lambda seen: NOTHING, *, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Seen] = []
        self.received = bytearray()
        self.port = 0
        self._tls = tls
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.host}"

    def to(self, path: str) -> list[Seen]:
        """The requests for one path."""
        return [seen for seen in self.requests if seen.path == path]

    def told(self) -> str:
        """Say what came, for people."""
        if not self.requests:
            return f"{len(self.received)} bytes that are no request" if self.received else "nothing"
        return "; ".join(dict.fromkeys(map(str, self.requests)))

    def check_innocent(self, secrets: Collection[str] = ()) -> None:
        """Assert that nothing came that was for somebody else: none of ``secrets``, however encoded."""
        for seen in self.requests:
            assert seen.shows == [], str(seen)
        for secret in secrets:
            for form in forms(secret):
                assert form.encode() not in self.received, f"{secret} arrived"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError, ssl.SSLError):
                await self._serve(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        while piece := await reader.read(65536):
            self.received += piece
            buffer += piece
            while (whole := _length(buffer)) is not None:
                seen, buffer = Seen.parse(buffer[:whole]), buffer[whole:]
                self.requests.append(seen)
                reply = self.answer(seen)
                if reply.cut:
                    return
                writer.write(reply.encode(seen.method))
                await writer.drain()
                if reply.raw or reply.ends:
                    return


def forms(secret: str) -> set[str]:
    """Give what a secret looks like on the way: as it is, and in the middle of something in base64."""
    found = {secret}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode().rstrip("=")
        # The characters at both ends depend on the neighbours, too.
        found.add(encoded[(0, 2, 3)[before] : -1])
    return found


def _length(buffer: bytes) -> int | None:
    """Give how long the first request is; ``None`` if it isn't all there."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = _LENGTH.search(buffer[: end + 2])
    whole = end + 4 + (int(found[1]) if found else 0)
    return whole if len(buffer) >= whole else None
