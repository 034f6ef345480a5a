"""Whether a registry believes a credential: that one and no other, and nothing that anybody would get is a proof."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from scripted import Answer, ScriptedTransport

from lading import Client, Host, HostsConfig, MemoryStore, RegistryHosts, Retry
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import (
    ConnectFailed,
    CredentialError,
    Denied,
    InvalidHosts,
    LadingError,
    NotFound,
    Offline,
    ProtocolError,
    RegistryError,
    TlsFailed,
    Unauthorized,
)
from lading.http.transport import Origin, Request
from lading.registry.endpoints import Endpoints
from lading.registry.ping import ProvingTransport, ping
from lading.testing import PROFILES, EmbeddedRegistry, Profile, RecordedRequest
from lading.testing.faults import Status
from lading.testing.profiles import DISTRIBUTION, GHCR, QUAY

ADA = Credential("ada", "planted-password")
WRONG = Credential("ada", "planted-mistake")
USERS = {"ada": "planted-password"}
BASIC = "Basic " + base64.b64encode(b"ada:planted-password").decode()
SECRETS = ("planted", *(base64.b64encode(f"ada:{one.password}".encode()).decode() for one in (ADA, WRONG)))

ASKING = [profile for profile in PROFILES.values() if profile.authentication != "none"]
WITH_USERS = pytest.mark.parametrize("profile", ASKING, ids=lambda profile: profile.name)


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert not any(secret in caplog.text for secret in SECRETS)


def with_users(profile: Profile, *, tls: bool = False) -> EmbeddedRegistry:
    return EmbeddedRegistry(profile=profile, users=USERS, private={"acme/secret"}, tls=tls)


def client(
    hosts: HostsConfig | None = None,
    *,
    attempts: int = 1,
    kept: Credential | None = None,
    host: str = "",
    proxy: str | None = "auto",
) -> Client:
    credentials = StaticCredentials({} if kept is None else {host: kept})
    retry = Retry(attempts=attempts, first_delay=0)
    return Client(MemoryStore(), hosts=hosts, credentials=credentials, retry=retry, proxy=proxy)


def check_silent(error: BaseException | None) -> None:
    while error is not None:
        fields = vars(error) if isinstance(error, LadingError) else {}
        assert not any(secret in f"{error!s}{error!r}{fields!r}" for secret in SECRETS)
        error = error.__cause__ or error.__context__


# Every kind of registry


@WITH_USERS
async def test_the_right_password_is_proved_with_as_few_requests_as_can_be(profile: Profile) -> None:
    async with with_users(profile) as registry, client() as lading:
        assert await lading.verify_login(registry.host, ADA) is True
        token = ["GET token"] if profile.authentication == "bearer" else []
        registry.assert_requests("GET ping", *token, "GET ping")
        assert [request.status for request in registry.requests] == [401, *(200 for _ in token), 200]
        for request in registry.requests:
            assert request.kind != "token" or (
                request.headers.get("Authorization") == BASIC and "scope" not in request.query
            )


@WITH_USERS
@pytest.mark.parametrize("wrong", [WRONG, Credential("bob", "planted-password")], ids=["password", "name"])
async def test_a_wrong_one_is_an_error_and_nobody_is_asked_for_what_anybody_gets(
    profile: Profile, wrong: Credential
) -> None:
    async with with_users(profile) as registry, client() as lading:
        with pytest.raises(Unauthorized, match="wrong user name or password") as caught:
            await lading.verify_login(registry.host, wrong)
        registry.assert_requests("GET ping", "GET token" if profile.authentication == "bearer" else "GET ping")
        assert registry.requests[1].headers["Authorization"].startswith("Basic ")
        assert (caught.value.status, registry.host in caught.value.message) == (401, True)
        assert "access token" in caught.value.hint
        check_silent(caught.value)


@WITH_USERS
async def test_what_the_client_has_besides_is_no_proof(profile: Profile) -> None:
    """Neither the credential that it is configured with, nor the tokens that it has."""
    async with with_users(profile) as registry, client(kept=ADA, host=registry.host) as lading:
        with pytest.raises(NotFound):
            await lading.resolve(f"{registry.host}/acme/secret:v1")
        with pytest.raises(Unauthorized):
            await lading.verify_login(registry.host, WRONG)


async def test_a_registry_that_asks_nobody_proves_nothing() -> None:
    async with EmbeddedRegistry() as registry, client() as lading:
        assert await lading.verify_login(registry.host, ADA) is False
        registry.assert_requests("GET ping")
        assert registry.credentials == []


async def test_a_token_server_that_answers_403_doesnt_believe_it_either() -> None:
    async def refuse(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return web.json_response({"errors": [{"code": "DENIED"}]}, status=403) if record.kind == "token" else None

    async with with_users(GHCR) as registry, client() as lading:
        registry.intercept = refuse
        with pytest.raises(Denied, match="refused user name or password") as caught:
            await lading.verify_login(registry.host, WRONG)
        registry.assert_requests("GET ping", "GET token")
        check_silent(caught.value)


async def test_a_token_for_anybody_has_to_convince_the_registry() -> None:
    async def give(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return web.json_response({"token": "anybodys"}) if record.kind == "token" else None

    async with with_users(QUAY) as registry, client() as lading:
        registry.intercept = give
        with pytest.raises(Unauthorized, match=r"wrong user name or password.*/v2/ answered 401"):
            await lading.verify_login(registry.host, WRONG)
        registry.assert_requests("GET ping", "GET token", "GET ping")


# The way there


async def test_it_goes_the_way_that_is_configured(tmp_path: Path) -> None:
    async with with_users(DISTRIBUTION, tls=True) as registry:
        (tmp_path / "ca.pem").write_bytes(registry.ca_pem)
        trusting = HostsConfig({"registry.test": Host(registry.url, ca=tmp_path / "ca.pem")})
        async with client(trusting) as lading:
            assert await lading.verify_login("https://Registry.test/v2/", ADA)
        registry.clear_requests()
        async with client(HostsConfig({"registry.test": Host(registry.url)})) as lading:
            with pytest.raises(TlsFailed):
                await lading.verify_login("registry.test", ADA)
        registry.assert_requests()


async def test_it_goes_to_the_registry_and_not_to_its_mirrors() -> None:
    async with with_users(DISTRIBUTION) as registry, EmbeddedRegistry() as mirror:
        hosts = HostsConfig({"registry.test": RegistryHosts(Host(registry.url), (Host(mirror.url),))})
        async with client(hosts) as lading:
            assert await lading.verify_login("registry.test", ADA)
        mirror.assert_requests()


async def test_it_goes_through_the_proxy() -> None:
    async with with_users(DISTRIBUTION) as proxied:
        hosts = HostsConfig({"registry.test": Host("http://registry.test")})
        async with client(hosts, proxy=proxied.url) as lading:
            assert await lading.verify_login("registry.test", ADA)
        assert {request.headers["Host"] for request in proxied.requests} == {"registry.test"}


@pytest.mark.parametrize("kind", ["GET ping", "GET token"])
async def test_what_passes_is_tried_again(kind: str) -> None:
    async with with_users(GHCR) as registry, client(attempts=2) as lading:
        registry.faults.add(Status(503), on=kind)
        assert await lading.verify_login(registry.host, ADA)
        with pytest.raises(Unauthorized):
            await lading.verify_login(registry.host, WRONG)
        assert registry.count("GET token") == (3 if kind == "GET token" else 2)


async def test_a_registry_that_isnt_there() -> None:
    async with with_users(GHCR) as registry, client() as lading:
        await registry.stop()
        with pytest.raises(ConnectFailed):
            await lading.verify_login(registry.host, ADA)


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (403, Denied), (500, RegistryError)])
async def test_a_refusal_that_asks_nobody(status: int, kind: type[RegistryError]) -> None:
    async def answer(request: web.Request, record: RecordedRequest) -> web.Response:
        return web.Response(status=status)

    async with with_users(GHCR) as registry, client() as lading:
        registry.intercept = answer
        with pytest.raises(kind) as caught:
            await lading.verify_login(registry.host, ADA)
        assert caught.value.status == status
        assert status != 404 or "is it a registry" in caught.value.hint
        registry.assert_requests("GET ping")
        assert registry.credentials == []


@pytest.mark.parametrize("profile", [PROFILES["plain"], DISTRIBUTION, GHCR], ids=lambda profile: profile.name)
async def test_somebody_else_cant_answer_for_it(profile: Profile) -> None:
    users = None if profile.name == "plain" else USERS
    async with with_users(GHCR) as registry, EmbeddedRegistry(profile=profile, users=users) as other:

        async def lead_on(request: web.Request, record: RecordedRequest) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{other.url}/v2/?secret=planted"})

        registry.intercept = lead_on
        async with client() as lading:
            with pytest.raises(ProtocolError, match=f"leads to {other.url}/v2/") as caught:
                await lading.verify_login(registry.host, ADA)
        other.assert_requests("GET ping")
        assert registry.credentials == other.credentials == []
        check_silent(caught.value)


async def test_nothing_is_asked_for_what_cant_be() -> None:
    async with with_users(GHCR) as registry, client() as lading:
        with pytest.raises(CredentialError):
            await lading.verify_login(registry.host, replace(ADA, username="a:b"))
        with pytest.raises(InvalidHosts):
            await lading.verify_login("not a host", ADA)
        async with Client(MemoryStore(), offline=True) as offline:
            with pytest.raises(Offline, match=registry.host):
                await offline.verify_login(registry.host, ADA)
        registry.assert_requests()


# The ring alone

ROOT = "https://ghcr.io/v2/"
REQUEST = Request("GET", ROOT, registry="ghcr.io", authority=Origin.of(ROOT))


def challenged(*challenges: str) -> Answer:
    return Answer(401, [("WWW-Authenticate", challenge) for challenge in challenges])


TOKENS = 'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"'


@pytest.mark.parametrize(
    ("credential", "challenge", "proof"),
    [
        (ADA, 'Basic realm="x"', BASIC),
        (Credential(registry_token="planted-token"), TOKENS, "Bearer planted-token"),
        (Credential(registry_token="planted-token"), 'Basic realm="x"', "Bearer planted-token"),
    ],
)
async def test_an_answer_without_a_token_server(credential: Credential, challenge: str, proof: str) -> None:
    script = ScriptedTransport(challenged(challenge), Answer())
    ring = ProvingTransport(script, credential)
    async with await ring.send(REQUEST):
        assert ring.is_proved
    assert [request.headers.get("Authorization") for request in script.requests] == [None, proof]
    script.assert_done()


async def test_an_identity_token_is_exchanged() -> None:
    script = ScriptedTransport(challenged(TOKENS), Answer(body=b'{"token": "t"}'), Answer())
    ring = ProvingTransport(script, Credential(identity_token="planted-token"))
    async with await ring.send(REQUEST):
        assert ring.is_proved
    assert [request.method for request in script.requests] == ["GET", "POST", "GET"]
    body = script.requests[1].body
    assert isinstance(body, bytes)
    assert b"scope" not in body
    script.assert_done()


@pytest.mark.parametrize(
    "challenges",
    [
        (),
        ("Negotiate",),
        ('Bearer realm="',),
        ('Bearer realm="http://169.254.169.254/token"',),
        ('Bearer realm="http://tokens.example/"',),
        ("Bearer",),
    ],
)
async def test_what_cant_be_answered_isnt(challenges: tuple[str, ...]) -> None:
    script = ScriptedTransport(challenged(*challenges))
    with pytest.raises(Unauthorized) as caught:
        await ProvingTransport(script, ADA).send(REQUEST)
    assert "wrong" not in caught.value.message, "nobody has looked at the password"
    script.assert_done()


async def test_an_identity_token_is_no_answer_to_basic() -> None:
    script = ScriptedTransport(challenged('Basic realm="x"'))
    with pytest.raises(Unauthorized, match="can't answer that"):
        await ProvingTransport(script, Credential(identity_token="planted-token")).send(REQUEST)
    script.assert_done()


async def test_an_answer_after_the_proof_is_looked_at() -> None:
    for status, proved in ((200, True), (307, True), (404, False), (503, False)):
        script = ScriptedTransport(challenged('Basic realm="x"'), Answer(status))
        ring = ProvingTransport(script, ADA)
        async with await ring.send(REQUEST) as response:
            assert (response.status, ring.is_proved) == (status, proved)
    script.assert_done()


async def test_a_proof_is_for_one_answer_only() -> None:
    script = ScriptedTransport(challenged('Basic realm="x"'), Answer(), Answer())
    ring = ProvingTransport(script, ADA)
    for proved in (True, False):
        async with await ring.send(REQUEST):
            assert ring.is_proved is proved


async def test_a_request_without_an_authority_is_left_alone() -> None:
    script = ScriptedTransport(challenged('Basic realm="x"'))
    async with await ProvingTransport(script, ADA).send(replace(REQUEST, authority=None)) as response:
        assert response.status == 401
    script.assert_done()


async def test_the_ping_itself() -> None:
    script = ScriptedTransport(Answer())
    await ping(script, Endpoints("docker.io", HostsConfig().lookup("docker.io")).server)
    assert script.asked == [("GET", "https://registry-1.docker.io/v2/")]
    assert script.requests[0].scopes == ()
    script.assert_done()
