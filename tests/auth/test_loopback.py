"""The rings on a real network: a registry, its token server and a storage server, each on a port of its own."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import anyio
import pytest
from aiohttp import web

from lading.auth.challenge import Challenge
from lading.auth.credentials import Credential, StaticCredentials
from lading.auth.memory import RecentChallenges
from lading.auth.transport import AuthTransport
from lading.errors import LadingError, Unauthorized
from lading.http.redirect import RedirectTransport
from lading.http.session import AiohttpTransport
from lading.http.transport import Origin, Request

ALICE = Credential("alice", "planted-password")
BASIC = "Basic " + base64.b64encode(b"alice:planted-password").decode()


@dataclass
class Seen:
    """What a server was sent: paths, and what proved who was asking."""

    paths: list[str] = field(default_factory=list)
    proofs: list[str | None] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)


class Site:
    """One server on loopback."""

    def __init__(self, answer: Callable[[web.Request], web.Response]) -> None:
        self._answer = answer
        self.seen = Seen()
        self.url = ""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.paths.append(request.path)
        self.seen.proofs.append(request.headers.get("Authorization"))
        self.seen.connections.add(request.transport)
        response = self._answer(request)
        if response.status != 401:
            return response
        # The body of a refusal follows its head a little later, as it does on a real network.
        head = web.StreamResponse(status=401, headers=response.headers)
        await head.prepare(request)
        await anyio.sleep(0.01)
        await head.write(b'{"errors":[]}')
        return head


class World:
    """A registry that sends to its token server, and for blobs to a storage server."""

    def __init__(self) -> None:
        self.tokens = Site(self._give)
        self.storage = Site(lambda request: web.Response(body=b"blob"))
        self.registry = Site(self._serve)
        self.current = 0
        self.realm = ""

    def _give(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") not in (None, BASIC):
            return web.Response(status=401)
        self.current += 1
        return web.json_response({"token": f"planted-token-{self.current}"})

    def _serve(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer planted-token-{self.current}":
            challenge = f'Bearer realm="{self.realm or self.tokens.url + "/token"}",service="s"'
            body = {"errors": [{"code": "UNAUTHORIZED"}]}
            return web.json_response(body, status=401, headers={"WWW-Authenticate": challenge})
        if "/blobs/" in request.path:
            return web.Response(
                status=307, headers={"Location": self.storage.url + "/data?X-Signature=planted-signature"}
            )
        return web.Response(body=b"manifest")

    def request(self, path: str) -> Request:
        url = f"{self.registry.url}/v2/acme/triage/{path}"
        host = self.registry.url.removeprefix("http://")
        return Request("GET", url, {}, None, host, Origin.of(url), ("repository:acme/triage:pull",))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    runners = [await site.start() for site in (world.tokens, world.storage, world.registry)]
    yield world
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[AiohttpTransport]:
    session = AiohttpTransport(user_agent="test")
    yield session
    await session.aclose()


def rings(world: World, session: AiohttpTransport) -> RedirectTransport:
    host = world.registry.url.removeprefix("http://")
    return RedirectTransport(AuthTransport(session, StaticCredentials({host: ALICE})))


async def read(transport: RedirectTransport, request: Request) -> bytes:
    async with await transport.send(request) as response:
        assert response.status == 200
        return await response.read(1000)


async def test_a_token_is_got_and_used(world: World, session: AiohttpTransport) -> None:
    transport = rings(world, session)
    assert await read(transport, world.request("manifests/latest")) == b"manifest"
    assert await read(transport, world.request("manifests/latest")) == b"manifest"
    assert world.tokens.seen.proofs == [BASIC]
    assert world.registry.seen.proofs == [None, "Bearer planted-token-1", "Bearer planted-token-1"]
    assert len(world.registry.seen.connections) == 1  # the refusal was read, so that its connection could be used


async def test_storage_sees_no_proof(world: World, session: AiohttpTransport) -> None:
    transport = rings(world, session)
    assert await read(transport, world.request("blobs/sha256:0")) == b"blob"
    assert (world.storage.seen.paths, world.storage.seen.proofs) == (["/data"], [None])


async def test_fifty_expired_tokens_are_one_token_request(world: World, session: AiohttpTransport) -> None:
    transport = rings(world, session)
    assert await read(transport, world.request("manifests/latest")) == b"manifest"
    world.current = 100  # the registry has forgotten the token that everybody holds
    bodies: list[bytes] = []

    async def one() -> None:
        bodies.append(await read(transport, world.request("manifests/latest")))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert bodies == [b"manifest"] * 50
    assert len(world.tokens.seen.paths) == 2


@pytest.mark.parametrize("realm", ["http://127.0.0.2:{port}/token", "http://localhost:{port}/token"])
async def test_a_loopback_registry_may_have_a_token_server_beside_it(
    world: World, session: AiohttpTransport, realm: str
) -> None:
    # 127.0.0.2 isn't listened on: that the connection is tried is what counts.
    world.realm = realm.format(port=world.tokens.url.rpartition(":")[2])
    transport = rings(world, session)
    if "localhost" in realm:
        assert await read(transport, world.request("manifests/latest")) == b"manifest"
    else:
        with pytest.raises(LadingError) as caught:
            await transport.send(world.request("manifests/latest"))
        assert not isinstance(caught.value, Unauthorized)


async def test_nothing_that_is_shown_holds_a_secret(
    world: World, session: AiohttpTransport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    transport = rings(world, session)
    await read(transport, world.request("blobs/sha256:0"))
    world.realm = "https://user:planted-user@registry.example.com/token?planted-query"
    world.current = 100
    errors: list[BaseException] = []
    for realm in (world.realm, "http://127.0.0.1:1/token"):
        world.realm = realm
        with pytest.raises(LadingError) as caught:
            await transport.send(world.request("manifests/latest"))
        error: BaseException | None = caught.value
        while error is not None:
            errors.append(error)
            error = error.__cause__ or error.__context__
    shown = caplog.text + "".join(str(error) + repr(error) + repr(error.args) + repr(vars(error)) for error in errors)
    assert "planted" not in shown
    assert BASIC.removeprefix("Basic ") not in shown


async def test_an_error_of_the_http_library_does_not_show_what_was_sent(session: AiohttpTransport) -> None:
    """Such an error keeps the headers of its request, as whoever looks at the chain of causes may see."""

    async def garbage(reader: anyio.abc.SocketStream) -> None:
        async with reader:
            await reader.receive()
            await reader.send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    url = f"http://127.0.0.1:{port}/v2/"
    request = Request("GET", url, {}, None, "it", Origin.of(url), ("repository:a:pull",))

    memory = RecentChallenges()
    await memory.remember(Origin.of(url), Challenge("bearer", {"realm": url}))
    credentials = StaticCredentials({"it": Credential(registry_token="planted-token")})
    transport = AuthTransport(session, credentials, memory=memory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, garbage)
        with pytest.raises(LadingError) as caught:
            await transport.send(request)
        tasks.cancel_scope.cancel()
    await listener.aclose()
    error: BaseException | None = caught.value
    while error is not None:
        assert "planted" not in str(error) + repr(error) + repr(error.args) + repr(vars(error))
        error = error.__cause__ or error.__context__
