"""A network that is written in a test: it answers from a function, and remembers what it saw and what was left open."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

import anyio

from lading.errors import ProtocolError
from lading.http.transport import Headers, Origin, Request


@dataclass
class Reply:
    """What the network answers, and whether whoever got it has let go of it."""

    status: int = 200
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    challenges: list[str] = field(default_factory=list)
    url: str = ""
    is_open: bool = False

    @property
    def headers(self) -> Headers:
        return Headers([*self.fields.items(), *(("WWW-Authenticate", line) for line in self.challenges)])

    async def chunks(self) -> AsyncIterator[bytes]:
        await anyio.lowlevel.checkpoint()
        yield self.body

    async def read(self, limit: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        if len(self.body) > limit:
            raise ProtocolError(f"more than {limit} bytes")
        return self.body

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_open = False


Handler = Callable[[Request], "Reply | Awaitable[Reply]"]


class Network:
    """The innermost transport: ``handler`` answers, ``requests`` are what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[Request] = []
        self.replies: list[Reply] = []

    async def send(self, request: Request) -> Reply:
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()
        answer = self._handler(request)
        reply = answer if isinstance(answer, Reply) else await answer
        reply.url = reply.url or request.url
        reply.is_open = True
        self.replies.append(reply)
        return reply

    def to(self, host: str) -> list[Request]:
        """What was sent to one host and port."""
        return [request for request in self.requests if urlsplit(request.url).netloc == host]

    def left_open(self) -> list[Reply]:
        """The answers that nobody has closed."""
        return [reply for reply in self.replies if reply.is_open]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Registry:
    """A registry that wants tokens, and the server that gives them, as functions of what they are asked.

    ``accounts`` are user names with passwords, ``private`` the repositories that only they may read.
    """

    host: str = "registry.example.com"
    realm: str = "https://auth.example.com/token"
    accounts: dict[str, str] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    seconds: int | None = 300
    issued: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)

    def __call__(self, request: Request) -> Reply:
        if request.url.startswith(self.realm):
            return self.give(request)
        return self.serve(request)

    def give(self, request: Request) -> Reply:
        """Give a token; its text says for whom and for what."""
        user = "-"
        if authorization := request.headers.get("Authorization"):
            name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            if self.accounts.get(name) != password:
                return Reply(401)
            user = name
        scopes = parse_qs(urlsplit(request.url).query).get("scope", [])
        token = f"token{len(self.issued)}|{user}|{'+'.join(scopes)}"
        self.issued.append(token)
        body = {"token": token} | ({} if self.seconds is None else {"expires_in": self.seconds})
        return Reply(body=json.dumps(body).encode())

    def serve(self, request: Request) -> Reply:
        """Serve ``/v2/<repository>/manifests/<tag>`` to whom may read it."""
        repository = urlsplit(request.url).path.removeprefix("/v2/").partition("/manifests/")[0]
        scope = f"repository:{repository}:pull"
        challenge = f'Bearer realm="{self.realm}",service="registry",scope="{scope}"'
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.issued or token in self.revoked:
            return Reply(401, challenges=[challenge], body=b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        _, user, scopes = token.split("|")
        if scope not in scopes.split("+") or (repository in self.private and user == "-"):
            return Reply(401, challenges=[challenge + ',error="insufficient_scope"'])
        return Reply(body=b"manifest")


def manifest(repository: str = "acme/triage", host: str = "registry.example.com", scheme: str = "https") -> Request:
    """The request for a manifest, as the registry room makes it."""
    url = f"{scheme}://{host}/v2/{repository}/manifests/latest"
    return Request("GET", url, {}, None, host, Origin.of(url), (f"repository:{repository}:pull",))
