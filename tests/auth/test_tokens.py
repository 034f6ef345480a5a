"""Tokens: how they are asked for, read, kept and shared."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from auth import vectors
from auth.scripted import Clock, Network, Reply
from hypothesis import given
from hypothesis import strategies as st

from lading.auth.credentials import Credential
from lading.auth.exchange import TokenServer, fetch_token, read_grant
from lading.auth.tokens import Tokens
from lading.errors import Denied, LadingError, ProtocolError, RateLimited, RegistryError, Unauthorized
from lading.http.transport import Origin, Request

VECTORS = vectors.load("challenges.json")
REGISTRY = Origin("https", "registry.example.com", 443)
SERVER = TokenServer(REGISTRY, "https://auth.example.com/token", "registry")
PULL = ("repository:acme/triage:pull",)
TOKEN = Reply(body=b'{"token":"t"}')


def query(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.url).query)


def form(request: Request) -> dict[str, list[str]]:
    return parse_qs((request.body or b"").decode())


def authorization(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


# The question


async def test_an_anonymous_question() -> None:
    network = Network(lambda request: TOKEN)
    assert (await fetch_token(network, SERVER, ("a:b:pull", "c:d:pull,push"), None)).token == "t"
    (request,) = network.requests
    assert (request.method, request.body, request.authority) == ("GET", None, None)
    assert query(request) == {"service": ["registry"], "scope": ["a:b:pull", "c:d:pull,push"]}
    assert "Authorization" not in request.headers


async def test_what_the_challenge_does_not_say_is_left_out_and_what_the_realm_says_is_kept() -> None:
    network = Network(lambda request: TOKEN)
    await fetch_token(network, TokenServer(REGISTRY, "https://auth.example.com/token?x=1&y=%2F", ""), (), None)
    await fetch_token(network, TokenServer(REGISTRY, "https://auth.example.com/token?x=1", "a b&c\udce4"), PULL, None)
    assert [request.url for request in network.requests] == [
        "https://auth.example.com/token?x=1&y=%2F",
        "https://auth.example.com/token?x=1&service=a%20b%26c%E4&scope=repository:acme/triage:pull",
    ]


@pytest.mark.parametrize(("username", "password"), [("alice", "secret"), ("alice", ""), ("ä", "p:ä€𝄞")])
async def test_a_password_is_sent_as_basic(username: str, password: str) -> None:
    network = Network(lambda request: TOKEN)
    await fetch_token(network, SERVER, PULL, Credential(username, password))
    (request,) = network.requests
    assert request.headers["Authorization"] == authorization(username, password)
    assert (request.method, request.body) == ("GET", None)


async def test_an_identity_token_is_exchanged() -> None:
    network = Network(lambda request: Reply(body=b'{"access_token":"a","refresh_token":"r"}'))
    credential = Credential("alice", "", "identity+/=")
    assert (await fetch_token(network, SERVER, ("a:b:pull", "c:d:pull"), credential)).token == "a"
    (request,) = network.requests
    assert (request.method, request.url) == ("POST", SERVER.realm)
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in request.headers
    assert form(request) == {
        "grant_type": ["refresh_token"],
        "client_id": ["lading"],
        "refresh_token": ["identity+/="],
        "service": ["registry"],
        "scope": ["a:b:pull c:d:pull"],
    }


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_server_that_exchanges_nothing_gets_the_password(status: int) -> None:
    network = Network(lambda request: TOKEN if request.method == "GET" else Reply(status))
    await fetch_token(network, SERVER, PULL, Credential("alice", "secret", "identity"))
    assert [request.method for request in network.requests] == ["POST", "GET"]
    assert network.requests[1].headers["Authorization"] == authorization("alice", "secret")
    with pytest.raises(RegistryError):
        await fetch_token(network, SERVER, PULL, Credential("00000000", "", "identity"))
    assert [request.method for request in network.requests] == ["POST", "GET", "POST"]


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_a_refused_identity_token_is_not_followed_by_a_password(status: int) -> None:
    network = Network(lambda request: Reply(status))
    with pytest.raises(RegistryError):
        await fetch_token(network, SERVER, PULL, Credential("alice", "secret", "identity"))
    assert len(network.requests) == 1


@pytest.mark.parametrize("realm", ["http://auth.example.com/", "https://127.0.0.1/", "https://u:planted@a.example/"])
async def test_a_refused_realm_is_not_asked(realm: str) -> None:
    network = Network(lambda request: TOKEN)
    with pytest.raises(Unauthorized) as caught:
        await fetch_token(network, TokenServer(REGISTRY, realm, ""), PULL, Credential("alice", "secret"))
    assert network.requests == []
    assert "planted" not in str(caught.value)


# Redirects


def redirects(targets: Mapping[str, str], status: int = 307) -> Callable[[Request], Reply]:
    def handler(request: Request) -> Reply:
        target = targets.get(request.url.partition("?")[0])
        return Reply(status, {"Location": target}) if target else TOKEN

    return handler


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_realm_is_followed(status: int) -> None:
    network = Network(redirects({SERVER.realm: "/v2/token?scope=x"}, status))
    await fetch_token(network, SERVER, PULL, Credential("alice", "secret"))
    assert network.requests[1].url == "https://auth.example.com/v2/token?scope=x"
    assert network.requests[1].headers["Authorization"] == authorization("alice", "secret")
    assert network.left_open() == []


@pytest.mark.parametrize(
    "target",
    [
        "http://auth.example.com/token2",
        "https://169.254.169.254/",
        "https://127.1/",
        "https://u:p@auth.example.com/",
        "https://auth.example.com/#f",
        "//[::1/",
        "ftp://auth.example.com/",
    ],
)
async def test_a_redirect_is_judged_like_a_realm(target: str) -> None:
    network = Network(redirects({SERVER.realm: target}))
    for credential in (None, Credential("alice", "secret")):
        with pytest.raises(ProtocolError):
            await fetch_token(network, SERVER, PULL, credential)
    assert {request.url.partition("?")[0] for request in network.requests} == {SERVER.realm}
    assert network.left_open() == []


async def test_a_credential_does_not_follow_to_another_origin() -> None:
    network = Network(redirects({SERVER.realm: "https://auth2.example.com/token"}))
    await fetch_token(network, SERVER, PULL, None)
    assert len(network.requests) == 2
    for credential in (Credential("alice", "secret"), Credential(identity_token="identity")):
        with pytest.raises(ProtocolError):
            await fetch_token(network, SERVER, PULL, credential)
    assert len(network.to("auth2.example.com")) == 1


async def test_an_identity_token_is_not_redirected_at_all() -> None:
    network = Network(redirects({SERVER.realm: SERVER.realm + "/"}))
    with pytest.raises(ProtocolError):
        await fetch_token(network, SERVER, PULL, Credential("", "", "identity"))
    assert len(network.requests) == 1


async def test_redirects_end() -> None:
    network = Network(redirects({SERVER.realm: SERVER.realm}))
    with pytest.raises(ProtocolError):
        await fetch_token(network, SERVER, PULL, None)
    assert len(network.requests) == 4


# The answer


@pytest.mark.parametrize(
    ("body", "token", "seconds"),
    [
        ('{"token":"t"}', "t", 60),
        ('{"access_token":"t"}', "t", 60),
        ('{"token":"","access_token":"t"}', "t", 60),
        ('{"token":null,"access_token":"t"}', "t", 60),
        ('{"token":"t","access_token":"t","expires_in":300,"issued_at":"1970-01-01T00:00:00Z"}', "t", 300),
        ('{"token":"t","expires_in":1.5}', "t", 1.5),
        ('{"token":"t","expires_in":0}', "t", 60),
        ('{"token":"t","expires_in":-5}', "t", 60),
        ('{"token":"t","expires_in":"300"}', "t", 60),
        ('{"token":"t","expires_in":true}', "t", 60),
        ('{"token":"t","expires_in":null}', "t", 60),
        ('{"token":"t","expires_in":99999999999999999999999999}', "t", 86400),
        ('{"token":"a.b-c_d~e+f/g=="}', "a.b-c_d~e+f/g==", 60),
    ],
)
def test_reads_an_answer(body: str, token: str, seconds: float) -> None:
    grant = read_grant(body.encode())
    assert (grant.token, grant.seconds) == (token, seconds)
    assert token not in repr(grant).replace("Grant", "").replace("seconds", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"planted",
        b"[]",
        b'"planted"',
        b"null",
        b"{}",
        b'{"token":""}',
        b'{"token":["planted"]}',
        b'{"token":5}',
        b'{"token":"planted a"}',
        b'{"token":"planted\\r\\nX-Evil: 1"}',
        b'{"token":"planted\\u0000"}',
        b'{"token":"planted\\u00e9"}',
        b'{"token":"planted\\ud800"}',
        b'{"token":"planted","token":"planted2"}',
        b'{"token":"planted","expires_in":NaN}',
        b'{"token":"planted","expires_in":' + b"9" * 5000 + b"}",
        b'{"token":"planted"}{}',
        b'{"token":"planted\xff"}',
        b'{"x":' * 60000,
        b"[" * 100000,
    ],
)
def test_refuses_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_grant(body)
    error: BaseException | None = caught.value
    while error is not None:
        assert "planted" not in str(error) + repr(error)
        error = error.__cause__ or error.__context__


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read_grant(body)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(401), Unauthorized),
        (Reply(403), Denied),
        (Reply(429), RateLimited),
        (Reply(404), RegistryError),
        (Reply(503), RegistryError),
        (Reply(204), RegistryError),
        (Reply(304), RegistryError),
        (Reply(body=b"x" * (64 * 1024 + 1)), ProtocolError),
    ],
)
async def test_another_status_is_an_error(reply: Reply, kind: type[LadingError]) -> None:
    network = Network(lambda request: reply)
    with pytest.raises(kind) as caught:
        await fetch_token(network, SERVER, PULL, Credential("alice", "secret"))
    if isinstance(caught.value, RegistryError):
        assert caught.value.status == reply.status
    assert network.left_open() == []


@pytest.mark.parametrize(
    ("field", "seconds"), [("7", 7.0), ("0", 0.0), ("", None), ("-1", None), ("٧", None), ("soon", None)]
)
async def test_retry_after(field: str, seconds: float | None) -> None:
    network = Network(lambda request: Reply(429, {"Retry-After": field}))
    with pytest.raises(RateLimited) as caught:
        await fetch_token(network, SERVER, PULL, None)
    assert caught.value.retry_after == seconds


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize("case", VECTORS["token_responses"] if VECTORS else [], ids=lambda case: case["body"])
def test_vectors(case: dict[str, Any]) -> None:
    outcome: Any
    try:
        grant = read_grant(case["body"].encode())
    except ProtocolError:
        outcome, wanted = "error", [case.get("expected")]
    else:
        outcome, wanted = grant.token, [case.get("expected")]
        if isinstance(case.get("expected"), dict):
            outcome = {"token": grant.token, "expires_in": grant.seconds}
    assert outcome in case.get("expected_any", wanted)


# The cache


async def test_a_token_that_is_good_for_more_serves() -> None:
    network = Network(lambda request: TOKEN)
    tokens = Tokens(network, Clock())
    await tokens.token(SERVER, ["repository:a:pull,push", "repository:b:pull"], None)
    for need in (["repository:a:pull"], ["repository:b:pull"], ["repository:b:pull", "repository:a:push"]):
        assert await tokens.token(SERVER, need, None) == "t"
    assert len(network.requests) == 1
    for need in (["repository:a:delete"], ["repository:b:push"], ["repository:c:pull"], []):
        await tokens.token(SERVER, need, None)
    assert len(network.requests) == 5


async def test_a_token_is_for_one_registry_server_service_and_credential() -> None:
    network = Network(lambda request: TOKEN)
    tokens = Tokens(network, Clock())
    elsewhere = Origin("https", "registry.example.com", 8443)
    for server in (
        SERVER,
        TokenServer(elsewhere, SERVER.realm, SERVER.service),
        TokenServer(REGISTRY, SERVER.realm + "2", SERVER.service),
        TokenServer(REGISTRY, SERVER.realm, "other"),
    ):
        for credential in (None, Credential("a", "b"), Credential("a", "c")):
            await tokens.token(server, PULL, credential)
    assert len(network.requests) == 12


async def test_a_refused_token_is_replaced_wherever_it_was_kept() -> None:
    count = iter(range(100))
    network = Network(lambda request: Reply(body=f'{{"token":"t{next(count)}"}}'.encode()))
    tokens = Tokens(network, Clock())
    assert await tokens.token(SERVER, ["repository:a:pull,push"], None) == "t0"
    assert await tokens.token(SERVER, ["repository:a:pull"], None, refused="t0") == "t1"
    assert await tokens.token(SERVER, ["repository:a:pull"], None) == "t1"
    assert await tokens.token(SERVER, ["repository:a:pull"], None, refused="t0") == "t1"
    assert len(network.requests) == 2
    assert await tokens.token(SERVER, ["repository:a:push"], None) == "t2"


async def test_the_cache_is_bounded() -> None:
    network, clock = Network(lambda request: TOKEN), Clock()
    tokens = Tokens(network, clock)
    for number in range(5000):
        await tokens.token(SERVER, [f"repository:r{number}:pull"], None)
        clock.now += 0.001
    assert len(vars(tokens)["_tokens"]) <= 4096
    clock.now += 1000
    for number in range(5000):
        await tokens.token(SERVER, [f"repository:s{number}:pull"], None)
    assert len(vars(tokens)["_tokens"]) <= 4096
    assert len(vars(tokens)["_by_resource"]) <= 4097
    assert "'t'" not in repr(vars(tokens))
