"""Attacks on sign-in, each done for real: an attacker on loopback keeps every byte that it gets, and gets no secret.

What the attackers received is printed at the end of the run. Where an attack needs an address that isn't this
machine's, the way there is a proxy in the test, which plays all of the internet and sees whom a client tries to reach.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from artifacts import MANIFEST, describe, manifest
from raw_server import NOTHING, Answer, RawServer, Reply, Seen

from lading import Client, Host, HostsConfig, MemoryStore, RegistryHosts, Retry
from lading.auth.credentials import Credential, Credentials, DockerConfig, StaticCredentials
from lading.errors import Denied, LadingError, NotFound, ProtocolError, ProxyFailed, Unauthorized
from lading.testing import EmbeddedProxy, ThrowawayCA

YAML = b"agents: {root: {}}\n"
MINE = YAML + b"# mine\n"
CONFIG = b"{}"
BLOB = "sha256:" + hashlib.sha256(YAML).hexdigest()

PASSWORD = "attacked-password-hunter2"
TOKEN = "attacked-access-token-5c1d"
REGISTRY_TOKEN = "attacked-registry-token-77aa"
IDENTITY = "attacked-identity-token-90ee"
HEADER = "attacked-header-value-1b2c"
COOKIE = "attacked-cookie-value-3d4e"
PROXY_USER, PROXY_PASSWORD = "attacked-proxy-user", "attacked-proxy-password-6f"
SECRETS = (PASSWORD, TOKEN, REGISTRY_TOKEN, IDENTITY, HEADER, COOKIE, PROXY_USER, PROXY_PASSWORD)
BASIC = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()

ADA = Credential("ada", PASSWORD)
LOGINS = {
    "password": ADA,
    "access token": ADA,
    "registry token": Credential(registry_token=REGISTRY_TOKEN),
    "identity token": Credential(identity_token=IDENTITY),
}
ONCE = Retry(attempts=1, longest_pause=0.0)

Report = Callable[[str, str], None]

every_login = pytest.mark.parametrize("login", LOGINS)


class Registry(RawServer):
    """A registry that asks who is there, and then does what ``attack`` says; ``None`` is what an honest one would do.

    It sets a cookie with every answer.
    """

    def __init__(self, login: str = "password", **options: object) -> None:
        super().__init__(self._answer, **options)  # type: ignore[arg-type]
        self.login = login
        self.attack: Callable[[Seen], Reply | None] = lambda seen: None
        self.realm = ""
        """Where its tokens are, if not at itself."""
        self.challenge = ""
        """What it asks instead of what it should."""
        self.origin = ""
        """What it calls itself, if that isn't where it listens."""

    def _answer(self, seen: Seen) -> Reply:
        reply = self._decide(replace(seen, target=_in_origin_form(seen.target)))
        return replace(reply, more=[("Set-Cookie", f"sid={COOKIE}; Path=/")])

    def _decide(self, seen: Seen) -> Reply:
        if seen.path == "/token":
            proof = seen.authorization == BASIC or IDENTITY.encode() in seen.body
            return Reply.json({"token": TOKEN}) if proof else Reply(401)
        if not self._is_proved(seen):
            return Reply.challenge(self.challenge or self._challenge)
        reply = self.attack(seen)
        return honest(seen) if reply is None else reply

    @property
    def _challenge(self) -> str:
        if self.login == "password":
            return 'Basic realm="registry"'
        return f'Bearer realm="{self.realm or (self.origin or self.url) + "/token"}",service="registry"'

    def _is_proved(self, seen: Seen) -> bool:
        return seen.authorization in (BASIC, f"Bearer {TOKEN}", f"Bearer {REGISTRY_TOKEN}")

    @property
    def saw_proof(self) -> bool:
        """Whether somebody proved here who they are: otherwise an attack didn't even begin."""
        return any(self._is_proved(seen) for seen in self.requests)


def honest(seen: Seen) -> Reply:
    if "/manifests/" in seen.path:
        if seen.method == "PUT":
            return Reply(201)
        raw = manifest(YAML)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        return Reply(200, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest}, raw)
    if seen.path.endswith(f"/blobs/{BLOB}"):
        return Reply(200, {}, YAML)
    if seen.path.endswith("/tags/list"):
        return Reply.json({"tags": ["v1"]})
    return Reply(200) if seen.path == "/v2/" else NOTHING


def _always(reply: Reply, seen: Seen) -> Reply:
    return reply


def _in_origin_form(target: str) -> str:
    parts = urlsplit(target)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def known(registry: RawServer, login: str = "password") -> StaticCredentials:
    return StaticCredentials({registry.host: LOGINS[login]})


@asynccontextmanager
async def connected(credentials: Credentials, **options: object) -> AsyncIterator[Client]:
    given = {"credentials": credentials, "retry": ONCE, "proxy": None, "hosts": HostsConfig(), **options}
    async with Client(MemoryStore(), **given) as client:  # type: ignore[arg-type]
        yield client


async def pull(client: Client, registry: str) -> bytes:
    agent = await client.pull_agent(f"{registry}/acme/triage:v1", fallback="never")
    return agent.content


# Redirects


@pytest.fixture(scope="module")
def authority() -> ThrowawayCA:
    return ThrowawayCA()


@asynccontextmanager
async def attacking(authority: ThrowawayCA, where: str, answer: Answer) -> AsyncIterator[tuple[RawServer, str]]:
    """An attacker on another port, host or scheme than a registry's, and the URL of it."""
    tls = authority.server_context() if where == "scheme" else None
    async with RawServer(answer, tls=tls) as attacker:
        url = f"http://localhost:{attacker.port}" if where == "host" else attacker.url
        yield attacker, url


def trusting(registry: RawServer, authority: ThrowawayCA, directory: Path) -> HostsConfig:
    path = directory / "ca.pem"
    authority.write(path)
    return HostsConfig({registry.host: Host(registry.url, ca=path)})


@pytest.mark.parametrize("where", ["port", "host", "scheme"])
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
@every_login
async def test_a_redirect_elsewhere_takes_nothing_along(
    login: str, kind: str, where: str, authority: ThrowawayCA, tmp_path: Path, measured: Report
) -> None:
    served = manifest(YAML) if kind == "manifests" else YAML
    reply = Reply(200, {"Content-Type": MANIFEST}, served)
    async with Registry(login) as registry, attacking(authority, where, lambda seen: reply) as (attacker, url):
        registry.attack = lambda seen: Reply.to(f"{url}/x") if f"/{kind}/" in seen.path else None
        async with connected(known(registry, login), hosts=trusting(registry, authority, tmp_path)) as client:
            assert await pull(client, registry.host) == YAML
    assert registry.saw_proof
    assert len(attacker.requests) == 1
    attacker.check_innocent(SECRETS)
    registry_cookies = [seen for seen in registry.requests if "Cookie" in seen.shows or "Referer" in seen.shows]
    assert registry_cookies == []
    if kind == "blobs" and login == "access token":
        measured(f"attack: redirect to another {where}", attacker.told())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_redirect_is_followed_bare(status: int, measured: Report) -> None:
    async with Registry() as registry, RawServer(lambda seen: Reply(200, {}, YAML)) as attacker:
        registry.attack = lambda seen: Reply.to(f"{attacker.url}/{status}", status) if "/blobs/" in seen.path else None
        async with connected(known(registry)) as client:
            assert await pull(client, registry.host) == YAML
    attacker.check_innocent(SECRETS)
    measured(f"attack: redirect with {status}", attacker.told())


async def test_https_doesnt_go_on_as_http(authority: ThrowawayCA, tmp_path: Path, measured: Report) -> None:
    async with Registry(tls=authority.server_context()) as registry, RawServer() as attacker:
        registry.attack = lambda seen: Reply.to(f"{attacker.url}/x") if "/blobs/" in seen.path else None
        async with connected(known(registry), hosts=trusting(registry, authority, tmp_path)) as client:
            with pytest.raises(ProtocolError, match="refused"):
                await pull(client, registry.host)
    assert registry.saw_proof
    measured("attack: redirect from https to http", attacker.told())
    assert attacker.received == b""


# What two programs may read differently; {registry} and {attacker} are host:port.
TRICKS = [
    "http://{registry}@{attacker}/x",
    "http://ada:x@{attacker}/x",
    "http://{attacker}#@{registry}/x",
    "http://{attacker}/x#@{registry}/x",
    "http://{attacker}?@{registry}/x",
    "http://{attacker}\\@{registry}/x",
    "http://{registry}\\@{attacker}/x",
    "http://{registry};@{attacker}/x",
    "http://{registry}%40{attacker}/x",
    "http:\\\\{attacker}\\x",
    "//{attacker}/x",
    "///{attacker}/x",
    "/\\{attacker}/x",
    "http:{attacker}/x",
    "http:/{attacker}/x",
    "http:///{attacker}/x",
    " http://{attacker}/x",
    "http://{attacker} @{registry}/x",
    "HTTP://{attacker}/x",
    "http://{attacker}.:80@{registry}/x",
    "http://[::ffff:127.0.0.1]:{port}/x",
    "http://127.1:{port}/x",
    "http://2130706433:{port}/x",
    "http://0x7f000001:{port}/x",
    "http://LOCALHOST:{port}/x",
    "http://localhost.:{port}/x",
    "http://127.0.0.1:0{port}/x",
    "javascript://{attacker}/x",
    "ftp://{attacker}/x",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_url_that_can_be_read_in_two_ways_takes_nothing_along(trick: str) -> None:
    async with Registry() as registry, RawServer(lambda seen: Reply(200, {}, YAML)) as attacker:
        url = trick.format(registry=registry.host, attacker=attacker.host, port=attacker.port)
        registry.attack = lambda seen: Reply.to(url) if "/blobs/" in seen.path else None
        async with connected(known(registry)) as client:
            with suppress(LadingError):
                await pull(client, registry.host)
    assert registry.saw_proof
    attacker.check_innocent(SECRETS)


async def test_what_comes_back_is_given_a_proof_again_and_nobody_else_sees_it(measured: Report) -> None:
    """The registry's own origin is given what it is due, whoever sent there: what it serves is the client's alone."""
    async with Registry() as registry, RawServer() as attacker:
        attacker.answer = lambda seen: Reply.to(f"{registry.url}/v2/acme/triage/blobs/{BLOB}?back")
        registry.attack = lambda seen: (
            Reply.to(f"{attacker.url}/x") if "/blobs/" in seen.path and "back" not in seen.target else None
        )
        async with connected(known(registry)) as client:
            assert await pull(client, registry.host) == YAML
    attacker.check_innocent(SECRETS)
    measured("attack: redirect there and back", attacker.told())


# A redirect target that asks who is there


@pytest.mark.parametrize(
    "challenge",
    [
        'Basic realm="registry"',
        'Bearer realm="{attacker}/token",service="registry"',
        'Bearer realm="{registry}/token",service="registry",scope="repository:acme/triage:pull,push"',
        'Bearer realm="{registry}/token",service="registry",error="invalid_token", Basic realm="registry"',
        'Negotiate, NTLM, Digest realm="registry",nonce="0"',
    ],
)
@pytest.mark.parametrize("status", [401, 403, 407, 429])
@every_login
async def test_a_redirect_targets_challenge_harvests_nothing(
    login: str, status: int, challenge: str, measured: Report
) -> None:
    async with Registry(login) as registry, RawServer() as attacker:

        def harvest(seen: Seen) -> Reply:
            if seen.path == "/token":
                return Reply.json({"token": "chosen-by-the-attacker"})
            fields = {name: challenge.format(attacker=attacker.url, registry=registry.url) for name in names}
            return Reply(status, fields)

        names = ("WWW-Authenticate", "Proxy-Authenticate")
        attacker.answer = harvest
        async with connected(known(registry, login)) as client:
            assert await pull(client, registry.host) == YAML  # what is got now is what could be taken
            tokens = [seen for seen in registry.requests if seen.path == "/token" and seen.authorization]
            registry.attack = lambda seen: Reply.to(f"{attacker.url}/x") if "/blobs/" in seen.path else None
            with pytest.raises(LadingError):
                await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, fallback="never")
            registry.attack = lambda seen: None
            before = len(registry.requests)
            await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, fallback="never")
            after = registry.requests[before:]
    assert attacker.requests
    for seen in attacker.requests:  # a token that anybody gets may come back to who asked for it, and nothing else
        assert seen.authorization in ("", "Bearer chosen-by-the-attacker")
    for secret in SECRETS:
        assert secret.encode() not in attacker.received
    assert BASIC.encode() not in attacker.received
    # No token was asked for in the user's name, and the one that was there still serves at once.
    assert [seen for seen in registry.requests if seen.path == "/token" and seen.authorization] == tokens
    assert not any(b"chosen-by-the-attacker" in seen.raw for seen in registry.requests)
    assert all(registry._is_proved(seen) for seen in after)
    if status == 401 and login == "access token":
        shown = challenge.format(attacker="attacker", registry="registry")
        measured(f"attack: redirect, then {shown}", attacker.told())


async def test_a_challenge_elsewhere_gets_a_token_that_anybody_gets(measured: Report) -> None:
    """Where the token server serves strangers, too, a redirect target can have what it could get by itself."""

    def give(seen: Seen) -> Reply:
        return Reply.json({"token": TOKEN if seen.authorization == BASIC else "anybodys-token"})

    async with Registry("access token") as registry, RawServer(give) as tokens, RawServer() as attacker:
        registry.realm = f"{tokens.url}/token"
        wide = f'Bearer realm="{tokens.url}/token",service="registry",scope="repository:acme/other:pull,push"'
        attacker.answer = lambda seen: Reply.challenge(wide)
        async with connected(known(registry)) as client:
            assert await pull(client, registry.host) == YAML
            registry.attack = lambda seen: Reply.to(f"{attacker.url}/x") if "/blobs/" in seen.path else None
            with pytest.raises(Unauthorized):
                await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, fallback="never")
    assert [seen.authorization for seen in attacker.requests] == ["", "Bearer anybodys-token"]
    assert [seen.authorization for seen in tokens.requests] == [BASIC, ""]
    assert not any("anybodys-token" in seen.authorization for seen in registry.requests)
    for secret in SECRETS:
        assert secret.encode() not in attacker.received
    measured("attack: redirect, then a challenge that names the registry's token server", attacker.told())


# Uploads


@pytest.mark.parametrize("where", ["port", "host", "scheme"])
@every_login
async def test_an_upload_elsewhere_takes_no_proof_along(
    login: str, where: str, authority: ThrowawayCA, tmp_path: Path, measured: Report
) -> None:
    async with Registry(login) as registry, attacking(authority, where, lambda seen: Reply(201)) as (attacker, url):
        registry.attack = lambda seen: (
            Reply(202, {"Location": f"{url}/upload?state=1"}) if seen.method == "POST" else None
        )
        async with connected(known(registry, login), hosts=trusting(registry, authority, tmp_path)) as client:
            await client.push_agent(MINE, f"{registry.host}/acme/mine:v1", inline=False)
    assert registry.saw_proof
    assert [seen.method for seen in attacker.requests] == ["PUT", "PUT"]
    attacker.check_innocent(SECRETS)
    if login == "access token":
        measured(f"attack: upload Location on another {where}", attacker.told())


@pytest.mark.parametrize("status", [307, 308])
async def test_an_upload_that_is_redirected_takes_no_proof_along(status: int, measured: Report) -> None:
    async with Registry() as registry, RawServer(lambda seen: Reply(201)) as attacker:

        def attack(seen: Seen) -> Reply | None:
            if seen.method == "POST":
                return Reply(202, {"Location": "/v2/acme/mine/blobs/uploads/1"})
            return Reply.to(f"{attacker.url}/x", status) if "/uploads/" in seen.path else None

        registry.attack = attack
        async with connected(known(registry)) as client:
            await client.push_agent(MINE, f"{registry.host}/acme/mine:v1", inline=False)
    assert registry.saw_proof
    attacker.check_innocent(SECRETS)
    measured(f"attack: PUT of an upload redirected with {status}", attacker.told())


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_write_that_is_redirected_as_if_it_were_a_read_goes_nowhere(status: int) -> None:
    async with Registry() as registry, RawServer() as attacker:
        registry.attack = lambda seen: Reply.to(attacker.url, status) if seen.method in ("POST", "PUT") else None
        async with connected(known(registry)) as client:
            with pytest.raises(LadingError):
                await client.push_agent(MINE, f"{registry.host}/acme/mine:v1")
    assert attacker.received == b""


@pytest.mark.parametrize(
    "location", ["http://ada:x@{attacker}/x", "ftp://{attacker}/x", "http://{attacker}\\x", "", "?"]
)
async def test_an_upload_at_no_url_goes_nowhere(location: str) -> None:
    async with Registry() as registry, RawServer() as attacker:
        registry.attack = lambda seen: (
            Reply(202, {"Location": location.format(attacker=attacker.host)}) if seen.method == "POST" else None
        )
        async with connected(known(registry)) as client:
            with pytest.raises(LadingError):
                await client.push_agent(MINE, f"{registry.host}/acme/mine:v1")
    assert attacker.received == b""


# Pages


LINKS = [
    "<http://{attacker}/v2/acme/triage/tags/list?n=1>; rel=next",
    '<//{attacker}/x>; rel="next"',
    "<http://{registry}@{attacker}/x>; rel=next",
    "<https://{registry}/v2/acme/triage/tags/list>; rel=next",
    "<http://localhost:{port}/x>; rel=next",
    "<ftp://{registry}/x>; rel=next",
]


@pytest.mark.parametrize("link", LINKS)
async def test_the_next_page_elsewhere_is_never_asked_for(link: str, measured: Report) -> None:
    async with Registry() as registry, RawServer() as attacker:
        line = link.format(attacker=attacker.host, registry=registry.host, port=registry.port)
        registry.attack = lambda seen: Reply(200, {"Link": line}, b'{"tags":["v1"]}') if "/tags/" in seen.path else None
        async with connected(known(registry)) as client:
            with pytest.raises(ProtocolError):
                _ = [tag async for tag in client.tags(f"{registry.host}/acme/triage")]
    assert registry.saw_proof
    assert len([seen for seen in registry.requests if "/tags/" in seen.path and seen.authorization]) == 1
    measured(f"attack: Link: {link}", attacker.told())
    assert attacker.received == b""


async def test_pages_after_a_redirect_are_asked_for_bare(measured: Report) -> None:
    def page(seen: Seen) -> Reply:
        return Reply(200, {} if "last" in seen.target else {"Link": "</next?last>; rel=next"}, b'{"tags":["v1"]}')

    async with Registry() as registry, RawServer(page) as attacker:
        registry.attack = lambda seen: Reply.to(f"{attacker.url}/first") if "/tags/" in seen.path else None
        async with connected(known(registry)) as client:
            assert [tag async for tag in client.tags(f"{registry.host}/acme/triage")] == ["v1", "v1"]
    assert [seen.target for seen in attacker.requests] == ["/first", "/next?last"]
    attacker.check_innocent(SECRETS)
    measured("attack: tags redirected, then a Link from there", attacker.told())


# Foreign layers


async def test_foreign_urls_of_a_layer_are_never_fetched(measured: Report) -> None:
    """CVE-2020-15157: neither where the registry has the layer, nor where it hasn't."""
    async with Registry() as registry, RawServer(lambda seen: Reply(200, {}, YAML)) as attacker:
        foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        document = json.loads(manifest(YAML))
        document["layers"] = [describe(foreign, YAML, urls=[f"{attacker.url}/layer"])]
        document["config"]["urls"] = [f"{attacker.url}/config"]
        raw = json.dumps(document).encode()

        def attack(seen: Seen) -> Reply | None:
            if "/manifests/" in seen.path:
                return Reply(200, {"Content-Type": MANIFEST}, raw)
            return Reply(200, {}, CONFIG if BLOB not in seen.path else YAML)

        registry.attack = attack
        async with connected(known(registry)) as client:
            assert await pull(client, registry.host) == YAML
            await client.pull(f"{registry.host}/acme/triage:v1")
        registry.attack = lambda seen: attack(seen) if "/manifests/" in seen.path else NOTHING
        async with connected(known(registry)) as client:
            with pytest.raises(NotFound):
                await pull(client, registry.host)
            with suppress(NotFound):  # an image may be whole without its foreign layers
                await client.pull(f"{registry.host}/acme/triage:v1")
    assert registry.saw_proof
    measured("attack: foreign layer urls", attacker.told())
    assert attacker.received == b""


# Realms


class Internet(RawServer):
    """All of it: a proxy that answers for every host by what ``hosts`` say, and makes no tunnels.

    Whoever wants more than http is told no, and remembered: ``reached`` is whom anybody tried to reach.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(self._pass_on, **options)  # type: ignore[arg-type]
        self.hosts: dict[str, Answer] = {}

    def _pass_on(self, seen: Seen) -> Reply:
        if seen.method == "CONNECT":
            return Reply(502)
        answer = self.hosts.get(urlsplit(seen.target).netloc)
        return NOTHING if answer is None else answer(seen)

    @property
    def reached(self) -> set[str]:
        return {one.target if one.method == "CONNECT" else urlsplit(one.target).netloc for one in self.requests}

    @property
    def proxy(self) -> str:
        return f"http://{PROXY_USER}:{PROXY_PASSWORD}@{self.host}"

    def visited(self, host: str) -> list[Seen]:
        return [seen for seen in self.requests if urlsplit(seen.target).netloc == host]


NAME = "registry.test"


@asynccontextmanager
async def abroad(
    internet: Internet, registry: Registry, credentials: Credentials | None = None, **options: object
) -> AsyncIterator[Client]:
    """A client of a registry that isn't on this machine."""
    internet.hosts[NAME] = registry.answer
    registry.origin = f"http://{NAME}"
    hosts = HostsConfig({NAME: Host(f"http://{NAME}")})
    given = {"hosts": hosts, "proxy": internet.proxy, **options}
    login = StaticCredentials({NAME: LOGINS[registry.login]})
    async with connected(login if credentials is None else credentials, **given) as client:
        yield client


METADATA = "169.254.169.254"
REALMS = {
    "on another host or port, over http": [
        "http://attacker.test/token",
        "http://registry.test:81/token",
        "http://registry.test.attacker.test/token",
    ],
    "on this machine": [
        "http://{loopback}/token",
        "https://{loopback}/token",
        "http://localhost:{port}/token",
        "https://localhost:{port}/token",
        "https://token.localhost/",
        "https://127.1/",
        "https://[::1]:{port}/token",
        "https://0.0.0.0/",
        "https://[::]/",
    ],
    "at a metadata service": [
        f"http://{METADATA}/latest/meta-data/iam/security-credentials/",
        f"https://{METADATA}/latest/meta-data/",
        f"https://{METADATA}./",
        f"http://{METADATA}:80/",
        "https://[fd00:ec2::254]/",
    ],
    "at a metadata service in another spelling": [
        "https://2852039166/",
        "https://0xA9FEA9FE/",
        "https://0xa9.0xfe.0xa9.0xfe/",
        "https://0251.0376.0251.0376/",
        "https://169.16689662/",
        "https://169.254.43518/",
        "https://[::ffff:169.254.169.254]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[2002:a9fe:a9fe::1]/",
        "https://１６９.254.169.254/",
    ],
    "on a private or reserved network": [
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fc00::1]/",
        "https://10.0.0.1/",
        "https://10.255.255.255:8443/token",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://255.255.255.255/",
        "https://224.0.0.1/",
    ],
    "with user information": [
        "https://ada:secret@auth.test/token",
        "https://registry.test@attacker.test/token",
        "http://registry.test@attacker.test/token",
        "https://registry.test%40attacker.test/token",
        "https://registry.test\\@attacker.test/token",
    ],
    "that is no URL of a token server": [
        "https://auth.test/token#fragment",
        "//attacker.test/token",
        "attacker.test/token",
        "file:///etc/passwd",
        "ftp://attacker.test/token",
        "gopher://attacker.test:70/_",
        "unix:///run/docker.sock",
    ],
}


@pytest.mark.parametrize("where", REALMS)
async def test_a_token_server_that_isnt_to_be_talked_to_isnt(where: str, measured: Report) -> None:
    """Neither with a password, nor with an identity token, nor as nobody; neither for a pull nor for a login."""
    async with Internet() as internet, RawServer() as attacker:
        for realm in REALMS[where]:
            there = realm.format(loopback=attacker.host, port=attacker.port)
            for login in ("access token", "identity token"):
                registry = Registry(login)
                registry.challenge = f'Bearer realm="{there}",service="registry"'
                await _refuse_realm(internet, registry)
    assert attacker.received == b""
    assert internet.reached == {NAME}
    assert all(seen.authorization == "" for seen in internet.requests)
    for secret in (PASSWORD, IDENTITY):
        assert secret.encode() not in internet.received
    assert BASIC.removeprefix("Basic ").encode() not in internet.received
    measured(f"attack: a realm {where}, {len(REALMS[where])} of them", "nothing")


async def _refuse_realm(internet: Internet, registry: Registry) -> None:
    for credentials in (None, StaticCredentials({})):
        async with abroad(internet, registry, credentials) as client:
            with pytest.raises(Unauthorized) as caught:
                await pull(client, NAME)
            assert "refused" in caught.value.message
            assert "nothing was sent" in caught.value.hint
            if credentials is None:
                with pytest.raises(Unauthorized):
                    await client.push_agent(MINE, f"{NAME}/acme/mine:v1")
                with pytest.raises(Unauthorized):
                    await client.verify_login(NAME, LOGINS[registry.login])


REALM_REDIRECTS = [
    "http://attacker.test/token",
    "https://attacker.test/token",
    "http://{loopback}/token",
    f"http://{METADATA}/latest/meta-data/",
    f"https://{METADATA}/latest/meta-data/",
    "https://2852039166/",
    "https://[fc00::1]/",
    "//attacker.test/token",
    "http://registry.test@attacker.test/token",
    "http://registry.test:81/token",
]


@pytest.mark.parametrize("login", ["access token", "identity token", "nobody"])
async def test_a_token_server_that_redirects_takes_nothing_along(login: str, measured: Report) -> None:
    """No credential goes to another origin; and who is nobody isn't sent to where a realm mustn't be."""
    targets = [one for one in REALM_REDIRECTS if login != "nobody" or one != "https://attacker.test/token"]
    async with Internet() as internet, RawServer() as attacker:
        for target in targets:
            registry = Registry("access token" if login == "nobody" else login)
            there = target.format(loopback=attacker.host)
            answer = registry.answer
            registry.answer = partial(_redirected, there, answer)
            credentials = StaticCredentials({}) if login == "nobody" else None
            async with abroad(internet, registry, credentials) as client:
                with pytest.raises(ProtocolError):
                    await pull(client, NAME)
                if login != "nobody":
                    with pytest.raises(ProtocolError):
                        await client.verify_login(NAME, LOGINS[login])
    asked = [seen for seen in internet.visited(NAME) if "/token" in seen.target]
    assert len(asked) == len(targets) * (1 if login == "nobody" else 2)  # what was to be taken along was on its way
    assert internet.reached == {NAME}
    assert attacker.received == b""
    measured(f"attack: {login}, a realm that redirects to {len(targets)} other origins", "nothing")


def _redirected(target: str, answer: Answer, seen: Seen) -> Reply:
    return Reply.to(target) if urlsplit(seen.target).path == "/token" else answer(seen)


async def test_a_realm_at_another_server_gets_only_what_is_this_registrys() -> None:
    """Any https host may be a token server: it gets the credential of the registry that named it, and no other one."""
    async with Internet() as internet:
        registry = Registry("access token")
        registry.realm = "https://auth.docker.test/token"
        others = {"docker.io": Credential("ada", IDENTITY), "auth.docker.test": Credential("ada", REGISTRY_TOKEN)}
        async with abroad(internet, registry, StaticCredentials(others)) as client:
            with pytest.raises(LadingError):
                await pull(client, NAME)
    assert internet.reached == {NAME, "auth.docker.test:443"}
    for secret in (IDENTITY, REGISTRY_TOKEN):
        assert secret.encode() not in internet.received


# Proxies


BASIC_CHALLENGE, BEARER_CHALLENGE = (
    'Basic realm="registry"',
    'Bearer realm="http://{attacker}/token",service="registry"',
)


@pytest.mark.parametrize("challenge", [BASIC_CHALLENGE, BEARER_CHALLENGE])
@pytest.mark.parametrize("status", [401, 403, 407])
async def test_a_proxy_that_asks_like_a_registry_gets_nothing_of_the_registrys(
    status: int, challenge: str, authority: ThrowawayCA, tmp_path: Path, measured: Report
) -> None:
    """For a tunnel: what is behind it is the registry, and the proxy isn't."""
    async with RawServer() as proxy, RawServer() as attacker:
        asked = challenge.format(attacker=attacker.host)
        proxy.answer = lambda seen: Reply(status, {"WWW-Authenticate": asked, "Proxy-Authenticate": asked})
        url = f"http://{PROXY_USER}:{PROXY_PASSWORD}@{proxy.host}"
        for login, credential in LOGINS.items():
            async with connected(StaticCredentials({NAME: credential}), proxy=url) as client:
                with pytest.raises(ProxyFailed):
                    await pull(client, NAME)
                with pytest.raises(ProxyFailed):
                    await client.verify_login(NAME, credential)
                assert login
    assert {seen.method for seen in proxy.requests} == {"CONNECT"}
    assert all(seen.shows == ["Proxy-Authorization"] for seen in proxy.requests)
    for secret in (PASSWORD, REGISTRY_TOKEN, IDENTITY):
        assert secret.encode() not in proxy.received
    assert BASIC.removeprefix("Basic ").encode() not in proxy.received
    assert attacker.received == b""
    if challenge == BEARER_CHALLENGE:
        measured(
            f"attack: a proxy that answers CONNECT with {status} and a registry's challenge",
            f"{proxy.requests[0].method} with its own login; nobody else anything",
        )


async def test_a_proxy_that_wants_to_know_who_asks_isnt_told_who_asks_the_registry(measured: Report) -> None:
    """407 on the way to a registry without TLS, with and without a login for the proxy."""
    for login in ("", f"{PROXY_USER}:{PROXY_PASSWORD}@"):
        async with Internet() as internet, RawServer() as attacker:
            asked = BEARER_CHALLENGE.format(attacker=attacker.host)
            registry = Registry()
            url = f"http://{login}{internet.host}"
            async with abroad(internet, registry, proxy=url) as client:
                fields = {"Proxy-Authenticate": BASIC_CHALLENGE, "WWW-Authenticate": asked}
                internet.hosts[NAME] = partial(_always, Reply(407, fields))
                with pytest.raises(ProxyFailed):
                    await pull(client, NAME)
                assert len(internet.requests) == 1
                assert internet.requests[0].shows == (["Proxy-Authorization"] if login else [])
            assert attacker.received == b""


async def test_a_registry_behind_a_proxy_never_sees_the_proxys_login(
    authority: ThrowawayCA, tmp_path: Path, measured: Report
) -> None:
    """Neither through a tunnel, nor where the registry sends its client past the proxy."""
    async with RawServer() as attacker, Internet() as internet:
        registry = Registry()
        registry.attack = lambda seen: Reply.to(f"{attacker.url}/x") if "/blobs/" in seen.path else None
        attacker.answer = lambda seen: Reply(407, {"Proxy-Authenticate": BASIC_CHALLENGE})
        async with abroad(internet, registry) as client:
            with pytest.raises(LadingError):
                await pull(client, NAME)
    assert all("Proxy-Authorization" in seen.shows for seen in internet.requests)
    assert all(PROXY_PASSWORD not in seen.authorization for seen in internet.requests)
    attacker.check_innocent(SECRETS)
    measured("attack: redirect past the proxy, 407 there", attacker.told())


async def test_in_a_tunnel_everybody_gets_what_is_for_them(
    authority: ThrowawayCA, tmp_path: Path, measured: Report
) -> None:
    path = tmp_path / "ca.pem"
    authority.write(path)
    async with (
        Registry(tls=authority.server_context("0.0.0.0")) as registry,
        EmbeddedProxy(credentials=(PROXY_USER, PROXY_PASSWORD)) as proxy,
    ):
        # An address that isn't a loopback one by name, so that the proxy is used.
        name = f"0.0.0.0:{registry.port}"
        url = proxy.url.replace("http://", f"http://{PROXY_USER}:{PROXY_PASSWORD}@")
        hosts = HostsConfig({name: Host(f"https://{name}", ca=path)})
        async with connected(StaticCredentials({name: ADA}), proxy=url, hosts=hosts) as client:
            assert await pull(client, name) == YAML
        (tunnel, *_) = proxy.requests
    assert (tunnel.method, "authorization" in tunnel.headers) == ("CONNECT", False)
    assert registry.saw_proof
    assert not any("Proxy-Authorization" in seen.shows for seen in registry.requests)
    measured("a registry in a tunnel received", "its own Authorization, no Proxy-Authorization")


# Mirrors


@pytest.mark.parametrize("challenge", [BASIC_CHALLENGE, BEARER_CHALLENGE, 'Bearer realm="{registry}/token"'])
@every_login
async def test_a_mirror_never_gets_the_registrys_credentials(login: str, challenge: str, measured: Report) -> None:
    async with Registry(login) as registry, RawServer() as mirror:
        asked = challenge.format(attacker=mirror.host, registry=registry.url)
        mirror.answer = lambda seen: (
            Reply.json({"token": "of-the-mirror"}) if seen.path == "/token" else Reply.challenge(asked)
        )
        hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), (Host(mirror.url),))})
        async with connected(known(registry, login), hosts=hosts) as client:
            assert await pull(client, registry.host) == YAML
    assert registry.saw_proof
    assert mirror.requests
    for seen in mirror.requests:
        assert seen.authorization in ("", "Bearer of-the-mirror")
        assert seen.shows in ([], ["Authorization"])
    for secret in SECRETS:
        assert secret.encode() not in mirror.received
    assert BASIC.removeprefix("Basic ").encode() not in mirror.received
    # Nor was the token server of the registry asked in the user's name because of what the mirror said.
    asked_for = [seen for seen in registry.requests if seen.path == "/token" and "of-the-mirror" in str(seen)]
    assert asked_for == []
    if login == "access token":
        shown = challenge.format(attacker="mirror", registry="registry")
        measured(f"attack: a mirror that asks for {shown}", mirror.told().replace(registry.host, "registry"))


async def test_a_mirror_that_redirects_to_the_registry_doesnt_speak_for_it(measured: Report) -> None:
    """What a mirror sends to the registry's own address goes there bare: it is the mirror's request."""
    async with Registry() as registry, RawServer() as mirror:
        mirror.answer = lambda seen: Reply.to(f"{registry.url}/v2/private/manifests/v1")
        hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), (Host(mirror.url),))})
        async with connected(known(registry), hosts=hosts) as client:
            assert await pull(client, registry.host) == YAML
    assert {seen.authorization for seen in registry.to("/v2/private/manifests/v1")} == {""}
    mirror.check_innocent(SECRETS)


# Configured headers


@pytest.mark.parametrize("name", ["X-Secret", "Authorization", "Cookie"])
async def test_a_configured_header_stays_at_its_host(name: str, tmp_path: Path, measured: Report) -> None:
    """The header of a hosts.toml: not on a redirect, not at a token server, not at the mirror beside it."""
    async with (
        Registry("access token") as registry,
        RawServer() as tokens,
        RawServer() as mirror,
        RawServer() as attacker,
    ):
        tokens.answer = lambda seen: Reply.json({"token": TOKEN})
        registry.realm = f"{tokens.url}/token"
        registry.attack = lambda seen: Reply.to(f"{attacker.url}/x") if "/blobs/" in seen.path else None
        mirror.answer = lambda seen: Reply.to(f"{attacker.url}/y")
        attacker.answer = lambda seen: Reply(200, {}, YAML) if seen.path == "/x" else NOTHING
        directory = tmp_path / f"127.0.0.1_{registry.port}_"
        directory.mkdir()
        (directory / "hosts.toml").write_text(
            f'server = "{registry.url}"\n[header]\n{name} = "{HEADER}"\n[host."{mirror.url}"]\n'
        )
        hosts = HostsConfig(directories=[tmp_path])
        async with connected(known(registry), hosts=hosts) as client:
            assert await pull(client, registry.host) == YAML
    assert any(seen.headers.get(name.lower()) == HEADER for seen in registry.requests)
    assert len(attacker.requests) >= 2
    for server in (attacker, mirror):
        server.check_innocent(SECRETS)
    assert HEADER.encode() not in tokens.received
    measured(f"attack: a configured header {name}, redirects of the registry and of a mirror", attacker.told())


async def test_a_mirrors_header_stays_at_the_mirror(measured: Report) -> None:
    async with Registry() as registry, RawServer() as mirror, RawServer() as attacker:
        mirror.answer = lambda seen: Reply.to(f"{attacker.url}/x")
        secret = Host(mirror.url, headers={"X-Secret": HEADER})
        hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), (secret,))})
        async with connected(known(registry), hosts=hosts) as client:
            assert await pull(client, registry.host) == YAML
    assert any(seen.headers.get("x-secret") == HEADER for seen in mirror.requests)
    assert HEADER.encode() not in registry.received
    attacker.check_innocent(SECRETS)
    measured("attack: a mirror's header, redirect", attacker.told())


# Look-alikes


LOOK_ALIKES = [
    "evil-ghcr.io",
    "ghcr.io.evil.example",
    "ghcr.io:8443",
    "ghcr.io:443",
    "sub.ghcr.io",
    "ghcr.i",
    "ghcr.ioo",
    "ghcr-io",
    "xn--ghcr-io.example",
]

HELPER = """#!/bin/sh
cat >> "$0.asked"
echo >> "$0.asked"
echo '{"ServerURL":"x","Username":"ada","Secret":"%s"}'
"""


def helper(directory: Path) -> tuple[DockerConfig, Path]:
    """A login of ghcr.io by a helper, and one of its own in the same file; and what the helper is asked for."""
    program = directory / "docker-credential-cloud"
    program.write_text(HELPER % PASSWORD)
    program.chmod(0o700)
    config = directory / "config.json"
    written = {"auth": base64.b64encode(f"ada:{PASSWORD}".encode()).decode()}
    config.write_text(json.dumps({"credHelpers": {"ghcr.io": "cloud"}, "auths": {"https://ghcr.io/v2/": written}}))
    env = {"PATH": f"{directory}:/usr/bin:/bin", "HOME": str(directory)}
    return DockerConfig([config], env), Path(f"{program}.asked")


@pytest.mark.parametrize("host", LOOK_ALIKES)
@pytest.mark.parametrize("login", ["password", "access token"])
async def test_a_look_alike_runs_no_helper_and_gets_no_login(
    login: str, host: str, tmp_path: Path, measured: Report
) -> None:
    credentials, asked = helper(tmp_path)
    reference = host if "." in host else f"{host}:80"
    async with Internet() as internet:
        attacker = Registry(login)
        attacker.origin = f"http://{reference}"
        internet.hosts[reference.removesuffix(":80")] = internet.hosts[reference] = attacker.answer
        hosts = HostsConfig({reference: Host(f"http://{reference}")})
        async with connected(credentials, hosts=hosts, proxy=internet.proxy) as client:
            with pytest.raises((Unauthorized, Denied)):
                await pull(client, reference)
            with pytest.raises((Unauthorized, Denied)):
                await client.push_agent(MINE, f"{reference}/acme/mine:v1")
    assert internet.requests
    assert {seen.authorization for seen in internet.requests} == {""}
    for secret in (PASSWORD, BASIC.removeprefix("Basic ")):
        assert secret.encode() not in internet.received
    assert not asked.exists()
    if login == "access token":
        first = f"{internet.requests[0].method} {urlsplit(internet.requests[0].target).path}"
        measured(f"attack: the look-alike {host} of ghcr.io", f"{first}, no Authorization, and no helper was run")


async def test_the_real_one_runs_it(tmp_path: Path) -> None:
    credentials, asked = helper(tmp_path)
    async with Internet() as internet:
        registry = Registry()
        internet.hosts["ghcr.io"] = registry.answer
        hosts = HostsConfig({"ghcr.io": Host("http://ghcr.io")})
        async with connected(credentials, hosts=hosts, proxy=internet.proxy) as client:
            assert await pull(client, "ghcr.io") == YAML
    assert asked.read_text() == "ghcr.io\n"


# Logging in


@pytest.mark.parametrize("login", ["password", "access token", "identity token"])
async def test_a_login_goes_to_the_registry_that_was_named(login: str, measured: Report) -> None:
    async with Registry(login) as attacker, Registry(login) as registry:
        registry.attack = lambda seen: Reply.to(f"{attacker.url}/v2/")
        registry.answer = lambda seen: Reply.to(f"{attacker.url}/v2/")
        async with connected(StaticCredentials({})) as client:
            with pytest.raises(ProtocolError, match="leads to"):
                await client.verify_login(registry.host, LOGINS[login])
    attacker.check_innocent(SECRETS)
    if login == "access token":
        measured("attack: login, /v2/ redirected", attacker.told())


# What a browser would send


async def test_no_cookie_and_no_referer_is_ever_sent(measured: Report) -> None:
    """Every answer of everybody sets cookies, for hosts and for domains."""
    many = [("Set-Cookie", f"{name}={COOKIE}; Path=/; {more}") for name, more in (("a", ""), ("b", "Domain=localhost"))]

    def with_cookies(answer: Answer) -> Answer:
        return lambda seen: replace(answer(seen), more=many)

    async with Registry("access token") as registry, RawServer() as tokens, RawServer() as storage:
        tokens.answer = with_cookies(lambda seen: Reply.json({"token": TOKEN}))
        storage.answer = with_cookies(lambda seen: Reply(201 if seen.method == "PUT" else 200, {}, YAML))
        registry.realm = f"{tokens.url}/token"
        registry.attack = lambda seen: Reply.to(f"{storage.url}/x") if f"/blobs/{BLOB}" in seen.path else None
        registry.answer = with_cookies(registry.answer)
        async with connected(known(registry)) as client:
            for _ in range(2):
                await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True)
            with suppress(LadingError):
                await client.push_agent(MINE, f"{registry.host}/acme/mine:v1")
            assert [tag async for tag in client.tags(f"{registry.host}/acme/triage")] == ["v1"]
    everybody = [*registry.requests, *tokens.requests, *storage.requests]
    assert len(everybody) > 8
    assert not any({"Cookie", "Referer"} & set(seen.shows) for seen in everybody)
    assert COOKIE.encode() not in registry.received + tokens.received + storage.received
    measured(f"cookies and referers in {len(everybody)} requests to those who set cookies", "none")
