"""Tokens: how they are asked for, read, kept and shared."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from auth import vectors
from auth.scripted import Clock, Network, Reply
from hypothesis import given
from hypothesis import strategies as st

from lading.auth.credentials import Credential
from lading.auth.exchange import TokenServer, fetch_token, read_grant
from lading.auth.tokens import Tokens
from lading.auth.wishes import told_scopes
from lading.errors import (
    ConnectFailed,
    Denied,
    LadingError,
    ProtocolError,
    RateLimited,
    RegistryError,
    Unauthorized,
)
from lading.http.transport import Origin, Request

VECTORS = vectors.load("challenges.json")
REGISTRY = Origin("https", "registry.example.com", 443)
SERVER = TokenServer(REGISTRY, "https://auth.example.com/token", "registry")
PULL = ("repository:acme/triage:pull",)
TOKEN = Reply(body=b'{"token":"t"}')


def query(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.url).query)


def form(request: Request) -> dict[str, list[str]]:
    assert isinstance(request.body, bytes)
    return parse_qs(request.body.decode())


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


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        (REGISTRY, "registry.example.com"),
        (Origin("https", "registry-1.docker.io", 443), "docker.io"),
        (Origin("https", "r.example", 8443), "r.example:8443"),
        (Origin("https", "2001:db8::1", 5000), "[2001:db8::1]:5000"),
    ],
)
async def test_an_error_names_the_registry_and_its_token_server(registry: Origin, name: str) -> None:
    server = TokenServer(registry, SERVER.realm, "registry")
    realm = SERVER.realm.partition("?")[0]
    for body, why in (
        (b"<html>log in</html>", "isn't JSON"),
        (b"[]", "isn't a JSON object"),
        (b"{}", "holds no token"),
    ):
        with pytest.raises(ProtocolError) as caught:
            await fetch_token(Network(lambda request, body=body: Reply(body=body)), server, PULL, None)  # type: ignore[misc]
        assert caught.value.message.startswith(f"{name} asks for a token of {realm}")
        assert why in caught.value.message
        assert caught.value.__context__ is None
    with pytest.raises(Unauthorized) as refused:
        await fetch_token(Network(lambda request: Reply(401)), server, PULL, None)
    assert refused.value.hint == f"log in to the registry: lading login {name}"


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


# Many at once


def telling(scopes: Sequence[str]) -> str:
    """A token that says what it is good for, as those of most registries do; nobody looks at its signature here."""
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, {"sub": "", "access": access})]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"signature"))


class Giver:
    """A token server: ``private`` is what it grants nobody, ``tells`` whether its tokens say what they are good for.

    ``most`` is how many scopes it grants in one token, without a word about the others; ``refuses`` is its status for
    whoever asks for several, or for what is private. ``go`` lets its answers out, once it is set.
    """

    def __init__(
        self,
        *,
        tells: bool = True,
        private: Collection[str] = (),
        most: int = 1000,
        refuses: int = 0,
        breaks: LadingError | None = None,
    ) -> None:
        self.tells = tells
        self.private = private
        self.most = most
        self.refuses = refuses
        self.breaks = breaks
        self.go = anyio.Event()
        self.go.set()
        self.asked: list[list[str]] = []
        self.granted: dict[str, list[str]] = {}
        self.network = Network(self)

    async def __call__(self, request: Request) -> Reply:
        scopes = query(request)["scope"]
        self.asked.append(scopes)
        await self.go.wait()
        if len(scopes) > 1 and self.breaks is not None:
            raise self.breaks
        if self.refuses and (len(scopes) > 1 or scopes[0] in self.private):
            return Reply(self.refuses)
        granted = [scope for scope in scopes[: self.most] if scope not in self.private]
        token = f"opaque{len(self.granted)}" if not self.tells else telling(granted) + f"{len(self.granted)}"
        self.granted[token] = granted
        return Reply(body=json.dumps({"token": token, "expires_in": 300}).encode())


def pulls(count: int, start: int = 0) -> list[str]:
    return [f"repository:acme/agent-{number:03}:pull" for number in range(start, start + count)]


Outcomes = dict[str, "str | LadingError"]


async def wish_all(tokens: Tokens, scopes: Sequence[str], *, may_share: bool = False) -> Outcomes:
    """Wish for a token for each scope at the same time; give what came of each wish."""
    outcomes: Outcomes = {}

    async def wish(scope: str) -> None:
        try:
            outcomes[scope] = await tokens.token(SERVER, [scope], None, may_share=may_share)
        except LadingError as error:
            outcomes[scope] = error

    async with anyio.create_task_group() as tasks:
        for scope in scopes:
            tasks.start_soon(wish, scope)
    assert set(outcomes) == set(scopes)
    return outcomes


def check_granted(giver: Giver, outcomes: Outcomes, scopes: Sequence[str]) -> None:
    for scope in scopes:
        token = outcomes[scope]
        assert isinstance(token, str)
        assert scope in giver.granted[token]


async def test_fifty_repositories_are_asked_for_together_after_the_first() -> None:
    giver = Giver()
    tokens = Tokens(giver.network, Clock())
    scopes = pulls(50)
    outcomes = await wish_all(tokens, scopes)
    check_granted(giver, outcomes, scopes)
    assert [len(asked) for asked in giver.asked] == [1, 16, 16, 16, 1]
    assert all(asked == sorted(asked) for asked in giver.asked)
    assert await wish_all(tokens, scopes) == outcomes
    assert len(giver.asked) == 5
    # Now it is known what this server's tokens are like.
    later = pulls(50, 50)
    check_granted(giver, await wish_all(tokens, later), later)
    assert [len(asked) for asked in giver.asked[5:]] == [16, 16, 16, 2]


async def test_the_request_for_several_is_the_same_whatever_their_order() -> None:
    urls = set()
    for turned in (False, True):
        giver = Giver()
        tokens = Tokens(giver.network, Clock())
        await wish_all(tokens, ["repository:first:pull"])
        await wish_all(tokens, pulls(3)[:: -1 if turned else 1])
        urls.add(giver.network.requests[1].url)
    (url,) = urls
    names = "&".join(f"scope=repository:acme/agent-00{number}:pull" for number in range(3))
    assert url == f"https://auth.example.com/token?service=registry&{names}"


async def test_an_identity_token_is_exchanged_for_several_at_once() -> None:
    def handler(request: Request) -> Reply:
        (scopes,) = form(request)["scope"]
        return Reply(body=json.dumps({"access_token": telling(scopes.split())}).encode())

    network = Network(handler)
    tokens = Tokens(network, Clock())
    credential = Credential("alice", "", "identity")
    async with anyio.create_task_group() as tasks:
        for scope in pulls(9):
            tasks.start_soon(tokens.token, SERVER, [scope], credential)
    assert [len(form(request)["scope"][0].split()) for request in network.requests] == [1, 8]


async def test_one_alone_waits_for_nobody_and_a_few_are_one_request() -> None:
    giver = Giver()
    tokens = Tokens(giver.network, Clock())
    giver.go = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wish_all, tokens, pulls(1))
        await anyio.wait_all_tasks_blocked()
        assert giver.asked == [pulls(1)]
        giver.go.set()
    giver.go = anyio.Event()
    async with anyio.create_task_group() as tasks:
        # Up to four requests are under way at once, so that one that is slow doesn't hold up the next.
        for number in range(6):
            tasks.start_soon(wish_all, tokens, pulls(2, 10 + 2 * number))
            await anyio.wait_all_tasks_blocked()
        assert [len(asked) for asked in giver.asked] == [1, 2, 2, 2, 2]
        giver.go.set()
    assert [len(asked) for asked in giver.asked] == [1, 2, 2, 2, 2, 4]


async def test_who_wants_to_write_or_wants_everything_is_asked_for_alone() -> None:
    giver = Giver()
    tokens = Tokens(giver.network, Clock())
    await wish_all(tokens, ["repository:first:pull"])
    scopes = ["repository:acme/a:pull,push", "repository:acme/b:delete", "registry:catalog:*", *pulls(3)]
    await wish_all(tokens, scopes)
    assert sorted(len(asked) for asked in giver.asked) == [1, 1, 1, 1, 3]


async def test_a_request_stays_short() -> None:
    giver = Giver()
    tokens = Tokens(giver.network, Clock())
    scopes = [f"repository:acme/{'x' * 200}{number:03}:pull" for number in range(40)]
    endless = "repository:" + "y" * 5000 + ":pull"
    outcomes = await wish_all(tokens, [*scopes, endless])
    check_granted(giver, outcomes, [*scopes, endless])
    assert max(sum(map(len, asked)) for asked in giver.asked if asked != [endless]) <= 2048
    assert [endless] in giver.asked
    assert len(giver.asked) < 12


async def test_who_isnt_served_by_a_shared_token_is_asked_for_alone() -> None:
    scopes = pulls(20)
    giver = Giver(private={scopes[7]})
    tokens = Tokens(giver.network, Clock())
    outcomes = await wish_all(tokens, scopes)
    check_granted(giver, outcomes, [scope for scope in scopes if scope != scopes[7]])
    assert giver.granted[str(outcomes[scopes[7]])] == []  # what the registry makes of that is its own affair
    assert sorted(len(asked) for asked in giver.asked) == [1, 1, 3, 16]
    for _ in range(10):  # and it isn't held against the others
        await wish_all(tokens, [scopes[7]])
    later = pulls(16, 50)
    await wish_all(tokens, later)
    assert giver.asked[-1] == later


@pytest.mark.parametrize("status", [400, 401, 403, 414, 500])
async def test_a_refusal_of_several_is_answered_by_asking_for_each(status: int) -> None:
    scopes = pulls(20)
    giver = Giver(refuses=status, private={scopes[7]})
    tokens = Tokens(giver.network, Clock())
    outcomes = await wish_all(tokens, scopes)
    check_granted(giver, outcomes, [scope for scope in scopes if scope != scopes[7]])
    error = outcomes[scopes[7]]
    assert isinstance(error, RegistryError)
    assert error.status == status
    assert sorted(asked[0] for asked in giver.asked if len(asked) == 1) == scopes
    assert scopes[7] in str(error)
    assert scopes[8] not in str(error)


async def test_a_server_that_never_grants_several_isnt_asked_for_them_for_long() -> None:
    giver = Giver(refuses=403)
    tokens = Tokens(giver.network, Clock())
    for start in range(0, 200, 20):
        scopes = pulls(20, start)
        check_granted(giver, await wish_all(tokens, scopes), scopes)
    # Three, and what was under way with the third.
    together = sum(len(asked) > 1 for asked in giver.asked)
    assert 3 <= together <= 4
    assert len(giver.asked) == 200 + together


@pytest.mark.parametrize("failure", [ConnectFailed("no connection"), RateLimited("wait", retry_after=1.0)])
async def test_a_failure_of_the_moment_is_everybodys(failure: LadingError) -> None:
    scopes = pulls(18)
    giver = Giver(breaks=failure)
    tokens = Tokens(giver.network, Clock())
    outcomes = await wish_all(tokens, scopes)
    failed = [error for error in outcomes.values() if isinstance(error, LadingError)]
    assert [len(asked) for asked in giver.asked] == [1, 16, 1]
    assert len(failed) == len({id(error) for error in failed}) == 16
    assert {str(error) for error in failed} == {str(failure)}
    giver.breaks = None
    check_granted(giver, await wish_all(tokens, scopes), scopes)


async def test_nobody_waits_for_the_luck_of_others_where_the_first_fails() -> None:
    giver = Giver(refuses=403, private=pulls(50))
    tokens = Tokens(giver.network, Clock())
    outcomes = await wish_all(tokens, pulls(50))
    assert all(isinstance(error, Denied) for error in outcomes.values())
    assert len(giver.asked) == 50
    giver = Giver(refuses=403, private=pulls(50))
    giver.go = anyio.Event()
    tokens = Tokens(giver.network, Clock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wish_all, tokens, pulls(50))
        await anyio.wait_all_tasks_blocked()
        assert len(giver.asked) == 1
        giver.go.set()
        giver.go = anyio.Event()
        await anyio.wait_all_tasks_blocked()
        assert len(giver.asked) == 50
        giver.go.set()


async def test_a_token_that_doesnt_say_what_it_is_good_for_is_shared_with_those_only_who_said_they_may() -> None:
    giver = Giver(tells=False)
    tokens = Tokens(giver.network, Clock())
    scopes = pulls(50)
    check_granted(giver, await wish_all(tokens, scopes), scopes)
    assert [len(asked) for asked in giver.asked] == [1] * 50
    shared = pulls(50, 50)
    outcomes = await wish_all(tokens, shared, may_share=True)
    check_granted(giver, outcomes, shared)
    assert [len(asked) for asked in giver.asked[50:]] == [16, 16, 16, 2]
    assert all(tokens.is_unsure(str(token)) for token in outcomes.values())
    # Who mayn't share doesn't get one that is there either.
    check_granted(giver, await wish_all(tokens, shared[:1]), shared[:1])
    assert giver.asked[54:] == [shared[:1]]


async def test_a_server_that_grants_less_than_it_was_asked_for_is_found_out() -> None:
    giver = Giver(tells=False, most=1)
    tokens = Tokens(giver.network, Clock())
    for start in range(0, 160, 16):
        outcomes = await wish_all(tokens, pulls(16, start), may_share=True)
        for scope, token in outcomes.items():
            assert isinstance(token, str)
            if scope not in giver.granted[token]:
                assert tokens.is_unsure(token)
                alone = await tokens.token(SERVER, [scope], None, refused=token)
                assert giver.granted[alone] == [scope]
                assert not tokens.is_unsure(alone)
                assert await tokens.token(SERVER, [scope], None, may_share=True) == alone
    assert sum(len(asked) > 1 for asked in giver.asked) == 3


async def test_a_shared_token_that_ended_is_one_request() -> None:
    giver, clock = Giver(), Clock()
    tokens = Tokens(giver.network, clock)
    scopes = pulls(10)
    await wish_all(tokens, ["repository:first:pull"])
    await wish_all(tokens, scopes)
    clock.now += 1000
    check_granted(giver, await wish_all(tokens, scopes), scopes)
    assert [len(asked) for asked in giver.asked] == [1, 10, 10]


@pytest.mark.parametrize("giver", [{}, {"private": pulls(1, 7)}, {"refuses": 403}, {"tells": False}], ids=str)
async def test_who_is_cancelled_takes_nobody_along(giver: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of those who wait are cancelled, at every step: whoever asks for all of them may be one."""
    monkeypatch.setattr("lading.auth.wishes._PAUSE_SECONDS", 0.0005)
    for after in range(1, 60):
        server = Giver(**giver)
        server.go = anyio.Event()
        tokens = Tokens(server.network, Clock())
        outcomes: Outcomes = {}
        scopes = pulls(24)

        async def wish(
            scope: str,
            cancelled: anyio.CancelScope | None,
            tokens: Tokens = tokens,
            outcomes: Outcomes = outcomes,
        ) -> None:
            with cancelled or contextlib.nullcontext():
                outcomes[scope] = await tokens.token(SERVER, [scope], None)

        unlucky = {scope: anyio.CancelScope() for scope in scopes[::3]}
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for scope in scopes:
                    tasks.start_soon(wish, scope, unlucky.get(scope))
                for step in range(after):
                    if step == 5:
                        server.go.set()
                    await anyio.lowlevel.checkpoint()
                for one in unlucky.values():
                    one.cancel()
                server.go.set()
        lucky = [scope for scope in scopes if scope not in unlucky]
        assert set(outcomes) >= set(lucky)
        assert not any(queue.is_busy for queue in vars(tokens)["_queues"].values())
        assert server.network.left_open() == []
        await wish_all(tokens, scopes)


async def test_owners_are_forgotten_where_there_are_too_many() -> None:
    network = Network(lambda request: TOKEN)
    tokens = Tokens(network, Clock())
    for number in range(3000):
        await tokens.token(TokenServer(REGISTRY, f"https://auth{number}.example.com/", ""), PULL, None)
    assert len(vars(tokens)["_queues"]) <= 1024


@pytest.mark.parametrize(
    ("token", "scopes"),
    [
        (telling(["repository:a/b:pull"]), ("repository:a/b:pull",)),
        (telling(["repository:a/b:push,pull", "repository:c:pull"]), ("repository:a/b:pull,push", "repository:c:pull")),
        (telling([]), ()),
        ("e30.eyJhY2Nlc3MiOm51bGx9.", ()),  # {"access":null}, as Go writes an empty list
        ("e30.eyJhY2Nlc3MiOlsxLHsidHlwZSI6MX0seyJ0eXBlIjoiYSIsIm5hbWUiOiJiIiwiYWN0aW9ucyI6WzFdfV19.", ("a:b:",)),
        ("e30.e30.", None),
        ("e30.W10.", None),
        ("e30.!.", None),
        ("e30.eyJ.", None),
        ("a.b", None),
        ("a.b.c.d", None),
        ("opaque", None),
        ("." * 2, None),
    ],
)
def test_what_a_token_says(token: str, scopes: tuple[str, ...] | None) -> None:
    assert told_scopes(token) == scopes


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=200))
def test_any_token_says_something_or_nothing(token: str) -> None:
    told_scopes(token)
    told_scopes(f"e30.{token}.e30")
