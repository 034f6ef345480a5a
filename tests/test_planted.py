"""Twenty secrets, each really used where it belongs, while everything goes right and while everything goes wrong.

What is said meanwhile, in this run and in the programs that it starts, is searched for them (see ``planted``); and what
is left in the stores is. Each test also shows that its secret was in play: it reached the server or the program that it
was meant for.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from artifacts import MANIFEST, manifest
from planted import MARK, PLACES, SECRETS, Watcher
from raw_server import NOTHING, Answer, RawServer, Reply, Seen, forms
from shell import Shell

from lading import Client, Host, HostsConfig, LocalStore, Reference, RegistryHosts, Retry
from lading.auth.credentials import (
    Credential,
    Credentials,
    DockerConfig,
    StaticCredentials,
    default_credentials,
)
from lading.auth.keeping import DockerConfigWriter
from lading.errors import LadingError, NotFound, RateLimited
from lading.events import RequestSent, Retrying
from lading.http.proxy import Proxy, ProxyRules, Router
from lading.http.session import AiohttpResponse, AiohttpTransport
from lading.http.timeouts import Timeouts
from lading.http.transport import Request

YAML = b"agents: {root: {}}\n"
MINE = YAML + b"# mine\n"
BLOB = "sha256:" + hashlib.sha256(YAML).hexdigest()
BOB = Credential("bob", "not planted")
SMALL_PATIENCE = Retry(attempts=2, first_delay=0.001, longest_pause=0.001)
_SNAPSHOTS = 20
HURRY = Timeouts(connect=0.2, first_byte=0.5, stall=0.5)

# How a server may go wrong. {query} is one that is as secret as the one that was asked for.
FAILURES: Mapping[str, Reply] = {
    "refuses": Reply(401),
    "forbids": Reply.json({"errors": [{"code": "DENIED", "message": "no"}]}, 403),
    "has nothing": Reply(404),
    "has enough": Reply(429, {"Retry-After": "0"}),
    "is broken": Reply(503),
    "says something else": Reply(200, {}, b"<html>sign in here</html>"),
    "cuts the body": Reply(200, {"Content-Length": "1000"}, b"short", ends=True),
    "cuts the line": Reply(cut=True),
    "isn't HTTP": Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "lies about lengths": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
    "packs": Reply(200, {"Content-Encoding": "gzip"}, b"packed"),
    "leads in a circle": Reply(307, {"Location": "?"}),
    "leads to nobody": Reply.to("http://127.0.0.1:1/x"),
    "leads to no URL": Reply.to("http://[::1/x"),
    "asks what nobody understands": Reply.challenge('Bearer realm="'),
}


def is_there(secret: str, evidence: bytes | bytearray) -> bool:
    return any(form.encode() in evidence for form in forms(secret))


@dataclass
class Desk:
    """A test's own place: its store is searched in the end, and what it prints is while it does."""

    directory: Path
    watcher: Watcher
    place: str
    monkeypatch: pytest.MonkeyPatch
    old: list[object] = field(default_factory=list)
    told: list[object] = field(default_factory=list)

    @property
    def secret(self) -> str:
        return SECRETS[self.place]

    def play(self, evidence: bytes | bytearray | str) -> None:
        """Take note that the secret really was where it belongs."""
        raw = evidence.encode() if isinstance(evidence, str) else bytes(evidence)
        assert is_there(self.secret, raw), f"the secret of {self.place} never was in play"
        self.watcher.played.add(self.place)

    def show(self, *objects: object) -> None:
        """Show objects as a debugger or a log line would."""
        for one in objects:
            if isinstance(one, str):
                continue  # what a caller gives as text, a caller shows
            self.watcher.look(f"repr of {type(one).__name__}", f"{one!r} {one}")

    def watch_objects(self) -> None:
        """From now on, show everything of lading's that is there when a request is under way, the first few times."""
        send, left = AiohttpTransport.send, [_SNAPSHOTS]

        async def watched(transport: AiohttpTransport, request: Request) -> AiohttpResponse:
            self.show(request)
            response = await send(transport, request)
            if left[0]:
                left[0] -= 1
                self.show(*self.old, *filter(_is_ladings, gc.get_objects()))
            return response

        self.monkeypatch.setattr(AiohttpTransport, "send", watched)

    @asynccontextmanager
    async def client(self, credentials: Credentials | None = None, **options: object) -> AsyncIterator[Client]:
        store = LocalStore(self.directory / "store")
        known = StaticCredentials({}) if credentials is None else credentials
        given = {"proxy": None, "hosts": HostsConfig(), "retry": SMALL_PATIENCE, "timeouts": HURRY, **options}
        async with Client(store, credentials=known, events=self.told.append, **given) as client:  # type: ignore[arg-type]
            yield client
            network = client._rooms._network
            self.show(client, known, store, *given.values())
            if network is not None:
                auth = vars(vars(vars(network)["_transport"])["_inner"])["_inner"]
                self.show(network, *vars(network).values(), auth, *vars(auth).values())
        await store.aclose()
        self.search_store()

    def search_store(self) -> None:
        for path in (self.directory / "store").rglob("*"):
            if path.is_file():
                self.watcher.look(f"store, {path.name}", path.read_bytes().decode("latin-1"))

    async def fail(self, attempt: Awaitable[object]) -> None:
        """Let something fail; what it raises is searched when it is gone, like every error."""
        with suppress(LadingError):
            await attempt

    async def everything(self, client: Client, registry: str, login: Credential = BOB) -> None:
        """Do all that can be done with a registry, whatever comes of it."""
        ref = f"{registry}/acme/triage:v1"
        await self.fail(client.pull_agent(ref, force=True))
        await self.fail(client.pull(ref, force=True))
        await self.fail(client.push_agent(MINE, f"{registry}/acme/mine:v1", inline=False))
        await self.fail(client.resolve(ref))
        await self.fail(_all(client.tags(ref)))
        await self.fail(client.delete(ref))
        await self.fail(client.verify_login(registry, login))


def _is_ladings(one: object) -> bool:
    module = str(type(one).__module__)
    return module.startswith("lading.") and not module.startswith("lading.testing")


async def _all(names: AsyncIterator[str]) -> list[str]:
    return [name async for name in names]


class Registry(RawServer):
    """A registry of one agent. ``proof`` is what it wants to be shown, ``challenge`` how it asks for that.

    While ``fails`` isn't empty, who has proved who they are is answered so; ``special`` answers before it does.
    """

    def __init__(self, proof: str = "", challenge: str = 'Basic realm="registry"') -> None:
        super().__init__(self._answer)
        self.proof = proof
        self.ask = challenge
        self.fails: Reply | None = None
        self.special: Callable[[Seen], Reply | None] = lambda seen: None

    def _answer(self, seen: Seen) -> Reply:
        parts = urlsplit(seen.target)
        seen = replace(seen, target=f"{parts.path}?{parts.query}" if parts.query else parts.path)
        if self.proof and not is_there(self.proof, seen.authorization.encode()):
            return Reply.challenge(self.ask)
        special = self.special(seen)
        if special is not None:
            return special
        return self.fails if self.fails is not None else honest(seen)


def honest(seen: Seen) -> Reply:
    if seen.method == "POST":
        return Reply(202, {"Location": "/v2/acme/mine/blobs/uploads/1"})
    if seen.method == "PUT":
        return Reply(201)
    if "/manifests/" in seen.path:
        raw = manifest(YAML)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        return Reply(200, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest}, raw)
    if "/blobs/" in seen.path:
        return Reply(200, {}, YAML) if BLOB in seen.path else Reply(200, {}, b"{}") if seen.method == "GET" else NOTHING
    if seen.path.endswith("/tags/list"):
        return Reply.json({"tags": ["v1"]})
    return Reply(200) if seen.path == "/v2/" else NOTHING


async def with_login(desk: Desk, registry: Registry, credential: Credential) -> None:
    """Use a login for everything, while the registry is well and while it isn't."""
    known = StaticCredentials({registry.host: credential})
    async with desk.client(known) as client:
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert agent.content == YAML
        await desk.everything(client, registry.host, credential)
        for reply in FAILURES.values():
            registry.fails = reply
            await desk.everything(client, registry.host, credential)
    desk.show(credential, agent, known)


# The places


async def the_password(desk: Desk) -> None:
    async with Registry(desk.secret) as registry:
        await with_login(desk, registry, Credential("ada", desk.secret))
        desk.play(registry.received)
        # And where it is wrong.
        async with desk.client(StaticCredentials({registry.host: Credential("ada", desk.secret)})) as client:
            registry.proof = "another"
            await desk.everything(client, registry.host)
    await by_command(desk)


async def by_command(desk: Desk) -> None:
    """The same, as a person does it at a shell, whose output is searched, too."""
    async with Registry(desk.secret) as registry:
        home = desk.directory / "shell"
        home.mkdir()
        lading = Shell(home)
        ref = f"{registry.host}/acme/triage:v1"
        commands: list[tuple[str, ...]] = [
            ("login", registry.host, "-u", "ada", "--password-stdin"),
            ("cat", ref),
            ("doctor", ref),
            ("push", "-", f"{registry.host}/acme/mine:v1"),
            ("login", "--json", registry.host, "-u", "ada", "--password-stdin"),
            ("logout", registry.host),
            ("cat", ref),
        ]
        for command in commands:
            await _watched(desk, lading, *command)
        for reply in (FAILURES["is broken"], FAILURES["isn't HTTP"], FAILURES["forbids"]):
            registry.fails = reply
            await _watched(desk, lading, *commands[0])
        for misplaced in (f"ada:{desk.secret}@{registry.host}", f"http://ada:{desk.secret}@{registry.host}/"):
            await _watched(desk, lading, "login", misplaced, "-u", "ada", "--password-stdin")
        await _watched(desk, lading, "login", registry.host, "-u", f"ada:{desk.secret}", "--password-stdin")
        await _watched(desk, lading, "login", registry.host, "-u", "ada", "-p", desk.secret)
        await _watched(desk, lading, "login", registry.host, "-u", "ada", f"--password={desk.secret}")
        desk.play(registry.received)


async def _watched(desk: Desk, lading: Shell, *command: str) -> None:
    done = await lading(*command, stdin=desk.secret.encode())
    assert "Traceback" not in done.err
    desk.watcher.look(f"output of {command[0]}", done.out.decode() + done.err)


@asynccontextmanager
async def with_tokens(
    desk: Desk, answer: Answer, token: str, query: str = ""
) -> AsyncIterator[tuple[Registry, RawServer]]:
    async with RawServer(answer) as tokens, Registry(token) as registry:
        registry.ask = f'Bearer realm="{tokens.url}/token{query}",service="registry"'
        yield registry, tokens


async def break_tokens(desk: Desk, registry: Registry, tokens: RawServer, credential: Credential) -> None:
    """Let the token server go wrong in every way."""
    for reply in FAILURES.values():
        tokens.answer = partial(_always, reply)
        async with desk.client(StaticCredentials({registry.host: credential})) as client:
            await desk.everything(client, registry.host, credential)


def _always(reply: Reply, seen: Seen) -> Reply:
    return reply


async def the_identity_token(desk: Desk) -> None:
    login = Credential("ada", "", desk.secret)
    async with with_tokens(desk, lambda seen: Reply.json({"access_token": "granted"}), "granted") as (registry, tokens):
        await with_login(desk, registry, login)
        desk.play(tokens.received)
        assert not is_there(desk.secret, registry.received)
        await break_tokens(desk, registry, tokens, login)
        writer = DockerConfigWriter(desk.directory / "config.json", {})
        desk.show(writer, await writer.save(registry.host, login))


async def the_registry_token(desk: Desk) -> None:
    async with Registry(desk.secret) as registry:
        registry.ask = f'Bearer realm="{registry.url}/token",service="registry"'
        await with_login(desk, registry, Credential(registry_token=desk.secret))
        desk.play(registry.received)
    async with desk.client(
        StaticCredentials({"x.test": Credential(registry_token=f"{desk.secret} with spaces")})
    ) as client:
        await desk.everything(client, "x.test")


async def the_access_token(desk: Desk) -> None:
    login = Credential("ada", "not planted")
    answer = Reply.json({"token": desk.secret, "expires_in": 300})
    async with with_tokens(desk, partial(_always, answer), desk.secret) as (registry, tokens):
        await with_login(desk, registry, login)
        desk.play(registry.received)
        # Answers that can't be used, and hold it nevertheless.
        for body in (
            f'{{"token":"{desk.secret}',
            f'{{"token":["{desk.secret}"]}}',
            f'{{"token":"{desk.secret} x"}}',
            desk.secret,
        ):
            tokens.answer = partial(_always, Reply(200, {}, body.encode()))
            async with desk.client(StaticCredentials({registry.host: login})) as client:
                await desk.everything(client, registry.host)
        await break_tokens(desk, registry, tokens, login)


async def the_refresh_token(desk: Desk) -> None:
    login = Credential("ada", "not planted")
    sent = Reply.json({"token": "granted", "refresh_token": desk.secret})
    async with with_tokens(desk, partial(_always, sent), "granted") as (registry, tokens):
        await with_login(desk, registry, login)
        assert tokens.requests
        desk.play(sent.body)
        tokens.answer = partial(_always, Reply.json({"refresh_token": desk.secret, "expires_in": "soon"}))
        async with desk.client(StaticCredentials({registry.host: login})) as client:
            await desk.everything(client, registry.host)
        # Nobody asked for it, so it goes nowhere.
        assert not is_there(desk.secret, tokens.received + registry.received)


async def the_realm_query(desk: Desk) -> None:
    login = Credential("ada", "not planted")
    answer = partial(_always, Reply.json({"token": "granted"}))
    query = f"?key={desk.secret}"
    async with with_tokens(desk, answer, "granted", query) as (registry, tokens):
        await with_login(desk, registry, login)
        desk.play(tokens.received)
        await break_tokens(desk, registry, tokens, login)
        for realm in (
            "http://attacker.test/token",
            "https://ada:x@auth.test/token",
            "https://10.0.0.1/",
            "nothing",
            "http:/x",
        ):
            registry.ask = f'Bearer realm="{realm}{query}",service="registry"'
            async with desk.client(StaticCredentials({registry.host: login})) as client:
                await desk.everything(client, registry.host)


async def the_signed_redirect(desk: Desk) -> None:
    async with RawServer(lambda seen: Reply(200, {}, YAML)) as storage, Registry() as registry:
        for base in (f"{storage.url}/data", "/data", "http://127.0.0.1:1/data"):
            location = f"{base}?X-Amz-Signature={desk.secret}&Expires=1"
            registry.special = lambda seen, location=location: Reply.to(location) if "/blobs/" in seen.path else None  # type: ignore[misc]
            async with desk.client() as client:
                await desk.everything(client, registry.host)
        desk.play(storage.received)
        location = f"{storage.url}/data?X-Amz-Signature={desk.secret}"
        registry.special = lambda seen: Reply.to(location) if seen.method in ("GET", "HEAD") else None
        for reply in FAILURES.values():
            again = reply
            if reply.fields.get("Location") == "?":
                again = Reply.to(f"{location}&again")
            echo = reply.body or f"<Error>{location}</Error>".encode()
            storage.answer = partial(_always, replace(again, body=echo) if reply.status >= 400 else again)
            async with desk.client() as client:
                await desk.everything(client, registry.host)
        # Where the URL itself can't be followed.
        for odd in (
            "ftp://x.test/data",
            "s3:bucket/data",
            "http://x:y@x.test/data",
            "http://[::1/data",
            "http:/data",
            "//",
        ):
            registry.special = lambda seen, odd=odd: Reply.to(f"{odd}?X-Amz-Signature={desk.secret}")  # type: ignore[misc]
            async with desk.client() as client:
                await desk.everything(client, registry.host)
    async with Registry() as registry:
        # No proxy to blame, and no server at all: whom the connection is refused by.
        registry.special = lambda seen: Reply.to(f"https://{registry.host}/data?X-Amz-Signature={desk.secret}")
        async with desk.client() as client:
            await desk.everything(client, registry.host)


async def the_upload_location(desk: Desk) -> None:
    async with Registry() as registry:
        for base in (
            "/v2/acme/mine/blobs/uploads/1",
            f"{registry.url}/u",
            "ftp://x.test/u",
            "s3:bucket/u",
            "http://127.0.0.1:1/u",
        ):
            location = f"{base}?_state={desk.secret}"
            registry.special = lambda seen, location=location: (
                Reply(202, {"Location": location}) if seen.method == "POST" else None
            )  # type: ignore[misc]
            async with desk.client() as client:
                await desk.fail(client.push_agent(MINE, f"{registry.host}/acme/mine:v1", inline=False))
                for reply in FAILURES.values():
                    registry.fails = reply
                    await desk.fail(client.push_agent(MINE, f"{registry.host}/acme/mine:v1", inline=False))
                registry.fails = None
        desk.play(registry.received)


async def the_next_page(desk: Desk) -> None:
    async with Registry() as registry:
        for base in ("/v2/acme/triage/tags/list", "http://attacker.test/x", "ftp://x.test/x", "http://[::1/x", "s3:x"):
            link = {"Link": f'<{base}?cursor={desk.secret}>; rel="next"'}

            def paged(seen: Seen, link: Mapping[str, str] = link) -> Reply | None:
                is_first = "/tags/" in seen.path and "cursor" not in seen.target
                return Reply(200, link, b'{"tags":["v1"]}') if is_first else None

            registry.special = paged
            async with desk.client() as client:
                await desk.everything(client, registry.host)
                for reply in FAILURES.values():
                    registry.fails = reply
                    await desk.fail(_all(client.tags(f"{registry.host}/acme/triage")))
                registry.fails = None
        desk.play(registry.received)


async def the_proxy_password(desk: Desk) -> None:
    await through_a_proxy(desk, "somebody", desk.secret)


async def the_proxy_user(desk: Desk) -> None:
    await through_a_proxy(desk, desk.secret, "anything")


async def through_a_proxy(desk: Desk, user: str, password: str) -> None:
    async with Registry() as registry, RawServer(registry.answer) as proxy:
        hosts = HostsConfig({"registry.test": Host("http://registry.test"), "tls.test": Host("https://tls.test")})
        url = f"http://{user}:{password}@{proxy.host}"
        for reply in (None, *FAILURES.values(), Reply(407), Reply(502)):
            proxy.answer = registry.answer if reply is None else partial(_always, reply)
            async with desk.client(hosts=hosts, proxy=url) as client:
                await desk.everything(client, "registry.test")
                await desk.fail(client.pull_agent("tls.test/acme/triage"))
        desk.play(proxy.received)
        desk.show(Proxy(proxy.url, user, password), ProxyRules.of(url), Router(ProxyRules.of(url)))
    for broken in (
        url,  # nobody listens there any more
        f"socks5://{user}:{password}@proxy.test:1080",
        f"http://{user}:{password}@proxy.test:port",
        f"http://{user}:{password}@",
        f"http:/{user}:{password}@proxy.test",
        f"{user}:{password}@proxy.test",
        f"http://{user}:{password}/x@proxy.test:3128",
        f"https://{user}:{password}@127.0.0.1:1",
        f"unix://{user}:{password}@relative",
    ):
        for name in ("proxy", "HTTPS_PROXY"):
            if name != "proxy":
                desk.monkeypatch.setenv(name, broken)
                desk.monkeypatch.setenv("HTTP_PROXY", broken)
            with suppress(LadingError):
                async with desk.client(hosts=hosts, proxy=broken if name == "proxy" else "auto") as client:
                    await desk.everything(client, "registry.test")
        desk.monkeypatch.delenv("HTTPS_PROXY")
        desk.monkeypatch.delenv("HTTP_PROXY")


async def the_configured_header(desk: Desk) -> None:
    async with Registry() as registry:
        directory = desk.directory / "certs.d" / f"127.0.0.1_{registry.port}_"
        directory.mkdir(parents=True)
        file = directory / "hosts.toml"
        good = f'server = "{registry.url}"\n[header]\nX-Key = "{desk.secret}"\n'
        for text in (
            good,
            good.replace('X-Key = "', 'Authorization = "Bearer '),
            good.replace("X-Key", '"X Key"'),
            good.replace("X-Key", "Host"),
            good.replace(f'"{desk.secret}"', f'"{desk.secret}\\u0001"'),
            good.replace(f'"{desk.secret}"', f'["{desk.secret}", 1]'),
            good.replace(f'"{desk.secret}"', f'"{desk.secret}'),
            good.replace("[header]\nX-Key", "header"),
            good.replace("X-Key", f'"{desk.secret}: x"'),
        ):
            file.write_text(text)
            for reply in (None, *FAILURES.values()):
                registry.fails = reply
                hosts = HostsConfig(directories=[desk.directory / "certs.d"])
                async with desk.client(hosts=hosts) as client:
                    await desk.everything(client, registry.host)
                with suppress(LadingError):
                    desk.show(found := hosts.lookup(registry.host), found.server.site, found.server)
        desk.play(registry.received)
        given = Host(registry.url, headers={"X-Key": desk.secret})
        desk.show(given, given.site, RegistryHosts(given, (given,)), HostsConfig({registry.host: given}))


async def the_environments_password(desk: Desk) -> None:
    async with Registry(desk.secret) as registry:
        for name, value in (("REGISTRY", registry.host), ("USERNAME", "ada"), ("PASSWORD", desk.secret)):
            desk.monkeypatch.setenv(f"LADING_{name}", value)
        desk.monkeypatch.setenv("HOME", str(desk.directory))
        await from_outside(desk, registry)
        desk.play(registry.received)
        desk.monkeypatch.delenv("LADING_USERNAME")
        await from_outside(desk, registry)
        desk.monkeypatch.setenv("LADING_USERNAME", "ada:x")
        await from_outside(desk, registry)


async def from_outside(desk: Desk, registry: Registry, credentials: Credentials | None = None) -> None:
    """Use what is configured outside of the program, while the registry is well and while it isn't."""
    for reply in (None, *FAILURES.values()):
        registry.fails = reply
        known = default_credentials() if credentials is None else credentials
        async with desk.client(known) as client:
            await desk.everything(client, registry.host)
        desk.show(known)
        with suppress(LadingError):
            desk.show(await known.credential(registry.host))
            desk.show(await known.source(registry.host))  # type: ignore[attr-defined]
    registry.fails = None


def pair(secret: str) -> str:
    return base64.b64encode(f"ada:{secret}".encode()).decode()


def broken_entries(host: str, secret: str) -> list[str]:
    """Configuration files that hold a secret and aren't right."""
    whole = json.dumps({"auths": {host: {"auth": pair(secret)}}})
    entries: list[object] = [
        {"auth": secret},
        {"auth": f"!{pair(secret)}"},
        {"auth": [pair(secret)]},
        {"auth": base64.b64encode(secret.encode()).decode()},
        {"username": f"ada:{secret}", "password": secret},
        {"username": "ada", "password": secret + "\ud800"},
        {"identitytoken": f"{secret} x"},
        {"registrytoken": f"{secret}\n"},
        [secret],
        secret,
    ]
    return [
        whole[:-3],
        whole + whole,
        whole.replace('"auth"', f'"auth": "{secret}", "auth"'),
        json.dumps({"auths": [secret]}),
        json.dumps({"credHelpers": {host: f"../{secret}"}}),
        json.dumps({"credsStore": [secret]}),
        f"[{json.dumps(secret)}]",
        *(json.dumps({"auths": {host: entry}}) for entry in entries),
    ]


async def the_environments_file(desk: Desk) -> None:
    async with Registry(desk.secret) as registry:
        desk.monkeypatch.setenv("HOME", str(desk.directory))
        whole = json.dumps({"auths": {registry.host: {"auth": pair(desk.secret)}}})
        desk.monkeypatch.setenv("DOCKER_AUTH_CONFIG", whole)
        await from_outside(desk, registry)
        desk.play(registry.received)
        for text in broken_entries(registry.host, desk.secret):
            desk.monkeypatch.setenv("DOCKER_AUTH_CONFIG", text)
            async with desk.client(default_credentials()) as client:
                await desk.everything(client, registry.host)


async def the_configuration_file(desk: Desk) -> None:
    async with Registry(desk.secret) as registry:
        config = desk.directory / "config.json"
        config.write_text(json.dumps({"auths": {registry.host: {"auth": pair(desk.secret)}}}))
        await from_outside(desk, registry, DockerConfig([config], {}))
        desk.play(registry.received)
        for text in broken_entries(registry.host, desk.secret):
            config.write_text(text)
            known, writer = DockerConfig([config], {}), DockerConfigWriter(config, {})
            async with desk.client(known) as client:
                await desk.everything(client, registry.host)
            await desk.fail(writer.save(registry.host, Credential("ada", desk.secret)))
            await desk.fail(writer.erase(registry.host))
            desk.show(known, writer)


def add_helper(desk: Desk, registry: RawServer, script: str) -> DockerConfig:
    program = desk.directory / "docker-credential-planted"
    program.write_text(f"#!/bin/sh\ntouch {desk.directory}/ran\n{script}\n")
    program.chmod(0o700)
    config = desk.directory / "config.json"
    config.write_text(json.dumps({"credHelpers": {registry.host: "planted"}}))
    return DockerConfig([config], {"PATH": f"{desk.directory}:/usr/bin:/bin"}, helper_seconds=5)


async def the_helpers_answer(desk: Desk) -> None:
    answer = json.dumps({"ServerURL": "x", "Username": "ada", "Secret": desk.secret})
    async with Registry(desk.secret) as registry:
        await from_outside(desk, registry, add_helper(desk, registry, f"echo '{answer}'"))
        desk.play(registry.received)
        for script in (
            f"echo '{answer}'; exit 1",
            f"echo '{answer[:-2]}'",
            f"echo '{desk.secret}'",
            f'echo \'{{"Username":1,"Secret":"{desk.secret}"}}\'',
            f"echo '{answer}{answer}'",
            f"yes '{desk.secret}'",
            f"echo '{desk.secret}'; kill -9 $$",
        ):
            known = add_helper(desk, registry, script)
            async with desk.client(known) as client:
                await desk.everything(client, registry.host)
            writer = DockerConfigWriter(desk.directory / "config.json", {"PATH": f"{desk.directory}:/usr/bin:/bin"})
            await desk.fail(writer.save(registry.host, Credential("ada", desk.secret)))
            await desk.fail(writer.erase(registry.host))


async def the_helpers_complaint(desk: Desk) -> None:
    proof = desk.directory / "said"
    async with Registry("another") as registry:
        for end in ("exit 1", "exit 0", "echo nonsense", "kill -9 $$"):
            script = f"echo 'denied: {desk.secret}' >&2; echo 'denied: {desk.secret}' > {proof}; {end}"
            known = add_helper(desk, registry, script)
            async with desk.client(known) as client:
                await desk.everything(client, registry.host)
        desk.play(proof.read_bytes())


async def the_challenges_description(desk: Desk) -> None:
    parts = [
        'Bearer realm="{url}/token",error="invalid_token",error_description="{secret}"',
        'Basic realm="{secret}"',
        'Bearer realm="{url}/token",error_description="{secret}',
        'Bearer error_description="{secret}",error_description="{secret}"',
        "Bearer {secret}",
        "Negotiate {secret}==",
        'Digest realm="x",nonce="{secret}"',
    ]
    async with Registry("another") as registry:
        for part in parts:
            registry.ask = part.format(url=registry.url, secret=desk.secret)
            for login in (None, Credential("ada", "not planted"), Credential(identity_token="not-planted")):
                known = StaticCredentials({registry.host: login} if login else {})
                async with desk.client(known) as client:
                    await desk.everything(client, registry.host)
        assert registry.requests
        desk.play(registry.ask)


async def the_echo(desk: Desk) -> None:
    """A registry that repeats what it was shown, wherever it can."""
    kinds: dict[str, Callable[[Seen], object]] = {
        "message": lambda seen: {"errors": [{"code": "DENIED", "message": f"got Authorization: {seen.authorization}"}]},
        "header": lambda seen: {"errors": [{"code": "DENIED", "message": json.dumps(dict(seen.headers))}]},
        "bare": lambda seen: {"errors": [{"code": "DENIED", "message": seen.authorization}]},
        "code": lambda seen: {"errors": [{"code": seen.authorization, "message": "no"}]},
        "detail": lambda seen: {"errors": [{"code": "DENIED", "message": "no", "detail": seen.authorization}]},
        "text": lambda seen: seen.authorization,
    }
    for login, scheme in (
        (Credential("ada", desk.secret), "Basic"),
        (Credential(registry_token=desk.secret), "Bearer"),
        (Credential(registry_token=f"eyJhbGciOiJSUzI1NiJ9.{pair(desk.secret).rstrip('=')}.c2lnbmF0dXJl"), "Bearer"),
    ):
        async with Registry(desk.secret) as registry:
            registry.ask = 'Basic realm="x"' if scheme == "Basic" else f'Bearer realm="{registry.url}/token"'
            for echo in kinds.values():
                for status in (400, 401, 403, 404, 405, 429, 500, 503):
                    registry.special = lambda seen, echo=echo, status=status: Reply.json(echo(seen), status)  # type: ignore[misc]
                    async with desk.client(StaticCredentials({registry.host: login})) as client:
                        await desk.everything(client, registry.host)
            desk.play(registry.received)


async def the_user_information(desk: Desk) -> None:
    async with Registry(desk.secret) as registry, RawServer(registry.answer) as proxy:
        # Where it may be: in a proxy's URL, and then it is the proxy's.
        url = f"http://ada:{desk.secret}@{proxy.host}"
        async with desk.client(hosts=HostsConfig({"x.test": Host("http://x.test")}), proxy=url) as client:
            await desk.everything(client, "x.test")
        desk.play(proxy.received)
    for text in (
        "https://ada:{}@ghcr.io/acme/triage:v1",
        "ada:{}@ghcr.io/acme/triage",
        "https://{}@ghcr.io/acme/triage",
        "oci://ada:{}@ghcr.io/acme/triage@sha256:0",
        "//ada:{}@ghcr.io/acme",
        "https:/ada:{}@ghcr.io/acme",
    ):
        written = text.format(desk.secret)
        with suppress(LadingError):
            Reference.parse(written)
        async with desk.client() as client:
            await desk.everything(client, written)
            await desk.fail(client.verify_login(written, Credential("ada", "not planted")))
        with suppress(LadingError):
            Host(written)
        with suppress(LadingError):
            HostsConfig({written: Host("https://x.test")})
        with suppress(LadingError):
            HostsConfig().lookup(written)
        with suppress(LadingError):
            ProxyRules.of(written)
        await desk.fail(DockerConfigWriter(desk.directory / "config.json", {}).save(written, Credential("ada", "x")))
        await desk.fail(DockerConfig([desk.directory / "config.json"], {}).credential(written))
    directory = desk.directory / "certs.d" / "x.test"
    directory.mkdir(parents=True)
    for text in ('server = "https://ada:{}@x.test"', '[host."https://ada:{}@x.test"]', '[host."ada:{}@x.test"]'):
        (directory / "hosts.toml").write_text(text.format(desk.secret))
        with suppress(LadingError):
            HostsConfig(directories=[directory.parent]).lookup("x.test")
    home = desk.directory / "shell"
    home.mkdir()
    lading = Shell(home)
    for command in (
        ("pull", f"https://ada:{desk.secret}@ghcr.io/acme/triage"),
        ("cat", f"ada:{desk.secret}@ghcr.io/acme/triage"),
        ("login", f"https://ada:{desk.secret}@ghcr.io", "-u", "ada", "--password-stdin"),
        ("logout", f"https://ada:{desk.secret}@ghcr.io"),
    ):
        await _watched(desk, lading, *command)


FLOWS: Mapping[str, Callable[[Desk], Awaitable[None]]] = {
    "password": the_password,
    "identity token": the_identity_token,
    "registry token": the_registry_token,
    "access token of a token server": the_access_token,
    "refresh token in a token answer": the_refresh_token,
    "realm query": the_realm_query,
    "signed redirect query": the_signed_redirect,
    "upload Location query": the_upload_location,
    "Link query": the_next_page,
    "proxy password": the_proxy_password,
    "proxy user": the_proxy_user,
    "configured header": the_configured_header,
    "LADING_PASSWORD": the_environments_password,
    "DOCKER_AUTH_CONFIG": the_environments_file,
    "helper stdout": the_helpers_answer,
    "helper stderr": the_helpers_complaint,
    "config.json auth": the_configuration_file,
    "WWW-Authenticate error_description": the_challenges_description,
    "error body that echoes Authorization": the_echo,
    "user information in a URL": the_user_information,
}


def test_there_are_twenty_secrets_in_twenty_places() -> None:
    assert list(FLOWS) == list(PLACES)
    assert len(set(SECRETS.values())) == len(PLACES) == 20
    assert all(MARK in secret for secret in SECRETS.values())


@pytest.fixture(scope="module")
def old() -> list[object]:
    """What of lading's was there before the tests were: it is frozen, and so in no list of objects."""
    gc.unfreeze()
    found = [*filter(_is_ladings, gc.get_objects())]
    gc.collect()
    gc.freeze()
    return found


@pytest.mark.parametrize("place", PLACES)
async def test_a_secret_is_used_and_never_shown(
    place: str, tmp_path: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, old: list[object]
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    before = len(watcher.leaks)
    desk = Desk(tmp_path, watcher, place, monkeypatch, old)
    desk.watch_objects()
    await FLOWS[place](desk)
    assert place in watcher.played
    gc.collect()  # what is in a cycle is looked at when it is collected
    watcher.look_at_the_living()
    assert [str(leak) for leak in watcher.leaks[before:]] == []


# That the watch would find one


SOMETHING = "Jv8unplantedQm"
"""The mark of a watch of its own, so that what is leaked here on purpose doesn't fail the run."""


@pytest.fixture
def other() -> Iterator[Watcher]:
    watcher = Watcher(SOMETHING)
    watcher.start()
    yield watcher
    watcher.stop()


def _with_cause(error: LadingError, cause: BaseException) -> LadingError:
    error.__cause__ = cause
    return error


def _with_context(error: LadingError, context: BaseException) -> LadingError:
    error.__context__ = context
    return error


def _log_exception(logger: logging.Logger) -> None:
    try:
        raise ValueError(SOMETHING)
    except ValueError:
        logger.debug("failed", exc_info=True)


quiet = logging.getLogger("planted.quiet")
quiet.propagate = False
quiet.setLevel(logging.CRITICAL)

ENCODED = [base64.b64encode(f"{user}:{SOMETHING}".encode()).decode() for user in ("a", "ab", "abc")]
LEAKS: Mapping[str, Callable[[], object]] = {
    "a log line": lambda: logging.getLogger("lading.http").warning("got %s", SOMETHING),
    "at DEBUG": lambda: logging.getLogger("aiohttp.client").debug(SOMETHING),
    "below DEBUG": lambda: logging.getLogger("asyncio").log(1, SOMETHING),
    "by a logger that is off": lambda: quiet.debug(SOMETHING),
    "in an argument that isn't shown": lambda: quiet.debug("%.1s", SOMETHING),
    "in a traceback": lambda: _log_exception(quiet),
    "in base64": lambda: quiet.debug(ENCODED[0]),
    "in base64, further on": lambda: quiet.debug(ENCODED[1]),
    "in base64, further still": lambda: quiet.debug(ENCODED[2]),
    "in an error": lambda: LadingError(f"got {SOMETHING}"),
    "in a hint": lambda: LadingError("", hint=SOMETHING),
    "in a field": lambda: RateLimited(url=f"https://x.test/{SOMETHING}"),
    "in a code": lambda: NotFound(codes=[SOMETHING]),
    "in a field that was added": lambda: setattr(LadingError("no"), "more", [SOMETHING]),
    "in a cause": lambda: _with_cause(LadingError("no"), ValueError(SOMETHING)),
    "in a context": lambda: _with_context(LadingError("no"), OSError(1, SOMETHING)),
    "in the cause of a cause": lambda: _with_cause(LadingError(), _with_cause(LadingError(), KeyError(SOMETHING))),
    "in a group": lambda: _with_cause(LadingError(), ExceptionGroup("two", [ValueError(), ValueError(SOMETHING)])),
    "in an event": lambda: RequestSent("GET", f"https://x.test/{SOMETHING}", 200, 0.1),
    "in another event": lambda: Retrying("GET", "https://x.test/", SOMETHING, 1, 0.1),
}


@pytest.mark.parametrize("where", LEAKS)
def test_a_leak_is_found(where: str, other: Watcher) -> None:
    LEAKS[where]()
    gc.collect()
    assert other.leaks
    assert "test_a_leak_is_found" in str(other.leaks[0])


def test_what_is_harmless_is_not(other: Watcher) -> None:
    quiet.debug("got %s", SOMETHING[:-1])
    logging.getLogger("lading.http").warning("%d", 1)
    with suppress(LadingError):
        raise LadingError("no") from ValueError(SOMETHING[1:])
    RequestSent("GET", "https://x.test/", 200, 0.1)
    LadingError("a URL", hint=f"https://x.test/?{SOMETHING}")
    gc.collect()
    assert other.leaks == []
    assert (other.lines, other.errors, other.told) == (2, 2, 1)


def test_a_living_error_is_looked_at_in_the_end(other: Watcher) -> None:
    error = LadingError(SOMETHING)
    assert other.leaks == []
    other.look_at_the_living()
    assert len(other.leaks) == 1
    del error


def test_watching_changes_nothing(other: Watcher, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("planted.loud")
    logger.debug("1")
    logger.info("2")
    logger.warning("3")
    quiet.warning("4")
    assert [record.message for record in caplog.records] == ["3"]
    with caplog.at_level(logging.DEBUG):
        logger.debug("5")
    logging.disable(logging.WARNING)
    logger.warning("6")
    logging.disable(logging.NOTSET)
    logger.debug("7")
    assert [record.message for record in caplog.records] == ["3", "5"]
    assert caplog.records[0].funcName == "test_watching_changes_nothing"
    assert (logger.level, logger.getEffectiveLevel()) == (logging.NOTSET, logging.getLogger().level)
    assert other.lines == 7
    # An error lives as long as without.
    error = LadingError("no")
    again, gone = error.again(), weakref.ref(error)
    assert (str(again), again.__cause__) == ("no", error)
    del error, again
    assert gone() is None


def test_everything_is_put_back() -> None:
    before = [dict(vars(owner)) for owner in (logging.Logger, LadingError, RequestSent)]
    watcher = Watcher(SOMETHING)
    watcher.start()
    assert [dict(vars(owner)) for owner in (logging.Logger, LadingError, RequestSent)] != before
    watcher.stop()
    assert [dict(vars(owner)) for owner in (logging.Logger, LadingError, RequestSent)] == before


@pytest.mark.parametrize(
    ("processes", "leak", "status"),
    [
        ("", "pass", 0),
        ("", "logging.getLogger('x').debug('got %s', planted.SECRETS['password'])", 1),
        ("", "kept.append(LadingError('no', hint=planted.SECRETS['proxy user']))", 1),
        ("", "RequestSent('GET', planted.SECRETS['Link query'], 200, 0.1)", 1),
        ("-n 1", "pass", 0),
        ("-n 1", "kept.append(LadingError('no', hint=planted.SECRETS['proxy user']))", 1),
    ],
)
def test_a_run_with_a_leak_fails_though_every_test_of_it_passes(
    processes: str, leak: str, status: int, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(
        "import planted\ndef pytest_configure(config):\n    config.pluginmanager.register(planted.WatchedRun())\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import logging, planted\nfrom lading.errors import LadingError\nfrom lading.events import RequestSent\n"
        f"kept = []\ndef test_it():\n    {leak}\n"
    )
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    command += processes.split()
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in done.stdout
    assert done.returncode == status, done.stdout
    assert ("planted secrets were seen" in done.stdout) is bool(status)
