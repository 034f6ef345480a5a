"""The auth ring: what is sent to whom, and how often."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import anyio
import pytest
from auth.scripted import Clock, Network, Registry, Reply, manifest

from lading.auth.challenge import Challenge
from lading.auth.credentials import Credential, StaticCredentials
from lading.auth.memory import RecentChallenges
from lading.auth.transport import AuthTransport, Unproven
from lading.errors import (
    CredentialError,
    Denied,
    LadingError,
    ProtocolError,
    RateLimited,
    RegistryError,
    Unauthorized,
)
from lading.http.transport import Origin, Request

HOST = "registry.example.com"
AUTH = "auth.example.com"
NOBODY = StaticCredentials({})
ALICE = StaticCredentials({HOST: Credential("alice", "planted-password")})
BASIC = "Basic " + base64.b64encode(b"alice:planted-password").decode()


def ring(
    handler: Callable[[Request], Reply], credentials: object = NOBODY, clock: Clock | None = None
) -> tuple[AuthTransport, Network]:
    network = Network(handler)
    return AuthTransport(network, credentials, clock=clock or Clock()), network  # type: ignore[arg-type]


async def status(auth: AuthTransport, request: Request) -> int:
    async with await auth.send(request) as response:
        return response.status


def authorizations(requests: list[Request]) -> list[str]:
    return [request.headers.get("Authorization", "") for request in requests]


# Anonymous


async def test_a_registry_that_asks_for_nothing_gets_nothing() -> None:
    auth, network = ring(lambda request: Reply(), ALICE)
    assert await status(auth, manifest()) == 200
    assert authorizations(network.requests) == [""]


async def test_a_challenge_is_answered_with_an_anonymous_token() -> None:
    auth, network = ring(Registry())
    assert await status(auth, manifest()) == 200
    bare, token, again = network.requests
    assert token.url == "https://auth.example.com/token?service=registry&scope=repository:acme/triage:pull"
    assert authorizations([bare, token]) == ["", ""]
    assert again.headers["Authorization"] == "Bearer token0|-|repository:acme/triage:pull"
    assert network.left_open() == []


async def test_the_next_request_carries_the_token_at_once() -> None:
    auth, network = ring(Registry())
    assert await status(auth, manifest()) == 200
    assert await status(auth, manifest()) == 200
    assert len(network.requests) == 4


async def test_the_next_repository_needs_no_challenge() -> None:
    auth, network = ring(Registry())
    assert await status(auth, manifest("acme/triage")) == 200
    assert await status(auth, manifest("acme/other")) == 200
    assert [request.url.partition("?")[0] for request in network.requests[3:]] == [
        "https://auth.example.com/token",
        "https://registry.example.com/v2/acme/other/manifests/latest",
    ]


async def test_without_scopes_of_its_own_a_request_asks_for_what_the_challenge_says() -> None:
    registry = Registry()
    auth, network = ring(registry)
    assert await status(auth, replace(manifest(), scopes=())) == 200
    assert "scope=repository:acme/triage:pull" in network.to(AUTH)[0].url


async def test_the_scopes_of_a_request_go_before_a_placeholder() -> None:
    def handler(request: Request) -> Reply:
        if request.url.startswith("https://auth"):
            return Reply(body=b'{"token":"t"}')
        challenge = 'Bearer realm="https://auth.example.com/token",scope="repository:user/image:pull"'
        return Reply(200) if "Authorization" in request.headers else Reply(401, challenges=[challenge])

    auth, network = ring(handler)
    request = replace(manifest(), scopes=("repository:b/c:push,pull", "repository:a/b:pull", "repository:b/c:pull"))
    assert await status(auth, request) == 200
    assert network.to(AUTH)[0].url.endswith("?scope=repository:a/b:pull&scope=repository:b/c:pull,push")


# With credentials


async def test_a_token_is_asked_for_with_the_credential() -> None:
    auth, network = ring(Registry(accounts={"alice": "planted-password"}, private={"acme/triage"}), ALICE)
    assert await status(auth, manifest()) == 200
    assert authorizations(network.to(AUTH)) == [BASIC]
    assert not any(text.startswith("Basic") for text in authorizations(network.to(HOST)))


async def test_basic() -> None:
    def handler(request: Request) -> Reply:
        if request.headers.get("Authorization") == BASIC:
            return Reply()
        return Reply(401, challenges=['Basic realm="r"'])

    auth, network = ring(handler, ALICE)
    assert await status(auth, manifest()) == 200
    assert await status(auth, manifest("acme/other")) == 200
    assert authorizations(network.requests) == ["", BASIC, BASIC]


async def test_without_a_credential_a_basic_challenge_is_given_back_open() -> None:
    auth, network = ring(lambda request: Reply(401, challenges=['Basic realm="r"'], body=b"why"))
    async with await auth.send(manifest()) as response:
        assert (response.status, await response.read(100)) == (401, b"why")
    assert len(network.requests) == 1


async def test_an_identity_token_is_no_password() -> None:
    credentials = StaticCredentials({HOST: Credential("00000000", "", "planted-identity")})
    auth, network = ring(lambda request: Reply(401, challenges=['Basic realm="r"']), credentials)
    assert await status(auth, manifest()) == 401
    assert len(network.requests) == 1


async def test_a_wrong_password_is_tried_once() -> None:
    auth, network = ring(lambda request: Reply(401, challenges=['Basic realm="r"']), ALICE)
    assert await status(auth, manifest()) == 401
    assert authorizations(network.requests) == ["", BASIC]


async def test_a_registry_token_is_sent_as_it_is() -> None:
    def handler(request: Request) -> Reply:
        if request.headers.get("Authorization") == "Bearer given":
            return Reply()
        return Reply(401, challenges=['Bearer realm="https://auth.example.com/token"'])

    auth, network = ring(handler, StaticCredentials({HOST: Credential(registry_token="given")}))
    assert await status(auth, manifest()) == 200
    assert network.to(AUTH) == []


async def test_an_identity_token_goes_to_the_token_server_only() -> None:
    def handler(request: Request) -> Reply:
        if request.url.startswith("https://auth"):
            return Reply(body=b'{"access_token":"fresh"}')
        if request.headers.get("Authorization") == "Bearer fresh":
            return Reply()
        return Reply(401, challenges=['Bearer realm="https://auth.example.com/token",service="s"'])

    auth, network = ring(handler, StaticCredentials({HOST: Credential(identity_token="planted-identity")}))
    assert await status(auth, manifest()) == 200
    (token,) = network.to(AUTH)
    assert (token.method, token.url) == ("POST", "https://auth.example.com/token")
    assert isinstance(token.body, bytes)
    assert b"refresh_token=planted-identity" in token.body
    assert b"planted-identity" not in repr([request for request in network.requests if request is not token]).encode()


@pytest.mark.parametrize("refusal", [403, 429])
async def test_an_anonymous_refusal_is_answered_with_the_credential(refusal: int) -> None:
    def handler(request: Request) -> Reply:
        return Reply() if request.headers.get("Authorization") == BASIC else Reply(refusal)

    auth, network = ring(handler, ALICE)
    assert await status(auth, manifest()) == 200
    assert authorizations(network.requests) == ["", BASIC]

    auth, network = ring(handler)
    assert await status(auth, manifest()) == refusal
    assert len(network.requests) == 1


@pytest.mark.parametrize("refusal", [403, 429])
async def test_a_refused_credential_is_given_back(refusal: int) -> None:
    auth, network = ring(lambda request: Reply(refusal), ALICE)
    assert await status(auth, manifest()) == refusal
    assert authorizations(network.requests) == ["", BASIC]


@pytest.mark.parametrize("challenge", ['Bearer realm="https://10.0.0.1/token"', "Bearer realm=="])
async def test_a_refusal_with_a_bad_challenge_gets_no_credential(challenge: str) -> None:
    auth, network = ring(lambda request: Reply(403, challenges=[challenge]), ALICE)
    assert await status(auth, manifest()) == 403
    assert authorizations(network.requests) == [""]


async def test_an_old_password_keeps_nobody_from_what_is_public(caplog: pytest.LogCaptureFixture) -> None:
    auth, network = ring(Registry(accounts={"alice": "another"}), ALICE)
    assert await status(auth, manifest()) == 200
    assert authorizations(network.to(AUTH)) == [BASIC, ""]
    assert "auth.example.com" in str(auth.failures[HOST])
    assert await status(auth, manifest()) == 200
    assert len(network.to(AUTH)) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_old_password_is_an_error_where_somebody_wants_to_write() -> None:
    auth, network = ring(Registry(accounts={"alice": "another"}), ALICE)
    with pytest.raises(Unauthorized):
        await auth.send(replace(manifest(), scopes=("repository:acme/triage:pull,push",)))
    assert len(network.to(AUTH)) == 1
    assert network.left_open() == []


async def test_docker_hub_has_one_credential_under_all_its_names() -> None:
    credentials = StaticCredentials({"https://index.docker.io/v1/": Credential("alice", "planted-password")})
    auth, network = ring(Registry(host="registry-1.docker.io", accounts={"alice": "planted-password"}), credentials)
    request = replace(manifest("library/busybox", "registry-1.docker.io"), registry="docker.io")
    assert await status(auth, request) == 200
    assert authorizations(network.to(AUTH)) == [BASIC]


# Credentials that cost much, or can't be had


class Helper:
    """Credentials that a program keeps: slow to ask, and they change."""

    def __init__(self, *answers: Credential | CredentialError | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.forgotten: list[str] = []

    async def credential(self, host: str) -> Credential | None:
        self.asked.append(host)
        await anyio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CredentialError):
            raise answer
        return answer

    async def is_costly(self, host: str) -> bool:
        return True

    def forget(self, host: str) -> None:
        self.forgotten.append(host)


async def test_a_helper_is_not_asked_for_what_is_public() -> None:
    helper = Helper(Credential("alice", "planted-password"))
    auth, network = ring(Registry(), helper)
    assert await status(auth, manifest()) == 200
    assert helper.asked == []
    assert len(network.requests) == 3


async def test_a_helper_is_asked_once_for_what_is_private() -> None:
    helper = Helper(Credential("alice", "planted-password"))
    registry = Registry(accounts={"alice": "planted-password"}, private={"acme/triage", "acme/other"})
    auth, network = ring(registry, helper)
    assert await status(auth, manifest()) == 200
    assert authorizations(network.to(AUTH)) == ["", BASIC]
    assert await status(auth, manifest()) == 200
    assert await status(auth, manifest("acme/other")) == 200
    assert helper.asked == [HOST]
    assert authorizations(network.to(AUTH)) == ["", BASIC, BASIC]
    assert len(network.to(HOST)) == 5


async def test_a_helper_is_asked_at_once_by_who_wants_to_write() -> None:
    helper = Helper(Credential("alice", "planted-password"))
    auth, network = ring(Registry(accounts={"alice": "planted-password"}), helper)
    await status(auth, replace(manifest(), scopes=("repository:acme/triage:pull,push",)))
    assert authorizations(network.to(AUTH))[0] == BASIC


async def test_a_token_server_that_refuses_anonymous_clients_gets_the_credential() -> None:
    registry = Registry(accounts={"alice": "planted-password"})

    def handler(request: Request) -> Reply:
        if request.url.startswith(registry.realm) and "Authorization" not in request.headers:
            return Reply(403)
        return registry(request)

    auth, network = ring(handler, Helper(Credential("alice", "planted-password")))
    assert await status(auth, manifest()) == 200
    assert authorizations(network.to(AUTH)) == ["", BASIC]


async def test_a_refused_helper_is_asked_again_but_not_at_once() -> None:
    helper = Helper(Credential("alice", "old"), Credential("alice", "planted-password"))
    clock = Clock()

    def handler(request: Request) -> Reply:
        return Reply() if request.headers.get("Authorization") == BASIC else Reply(401, challenges=["Basic"])

    auth, network = ring(handler, helper, clock)
    for _ in range(3):
        assert await status(auth, manifest()) == 401
    assert helper.asked == [HOST]
    clock.now += 60
    assert await status(auth, manifest()) == 200
    assert (helper.asked, helper.forgotten) == ([HOST, HOST], [HOST])
    assert len(network.requests) == 9
    assert await status(auth, manifest()) == 200
    assert len(network.requests) == 10


async def test_credentials_that_cannot_be_had_are_a_warning_and_no_credentials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Helper(CredentialError("docker-credential-x for registry.example.com: it failed"))
    auth, network = ring(Registry(private={"acme/triage"}), broken)
    for _ in range(3):
        assert await status(auth, manifest()) == 401
    assert broken.asked == [HOST]
    assert [(record.name, record.levelname) for record in caplog.records] == [("lading.auth", "WARNING")]
    assert "docker-credential-x" in str(auth.failures[HOST])
    assert network.left_open() == []


@pytest.mark.parametrize("refusal", [401, 403, 429, 404, 500])
async def test_a_refusal_for_want_of_a_credential_says_so(refusal: int) -> None:
    broken = Helper(CredentialError("docker-credential-x: it failed", hint="mend it"))
    reply = Reply(refusal, {"Retry-After": "7"}, b"why", ["Basic realm=r"])
    auth, network = ring(lambda request: reply, broken)
    async with await auth.send(manifest()) as response:
        why = response.hint if isinstance(response, Unproven) else ""
        assert (response.status, response.url, await response.read(100)) == (refusal, manifest().url, b"why")
        assert response.headers.get("Retry-After") == "7"
        assert [chunk async for chunk in response.chunks()] == [b"why"]
    expected = f"the credentials of {HOST} couldn't be used: docker-credential-x: it failed (mend it)"
    assert why == (expected if refusal in (401, 403, 429) else "")
    assert network.left_open() == []


async def test_a_token_server_that_refuses_for_want_of_a_credential_says_so() -> None:
    registry = Registry()
    auth, network = ring(lambda request: Reply(403) if request.url.startswith(registry.realm) else registry(request))
    with pytest.raises(Denied) as caught:
        await auth.send(manifest())
    assert caught.value.hint == "log in as somebody who may do this"
    auth, network = ring(network._handler, Helper(CredentialError("docker-credential-x: it failed")))  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(Denied) as caught:
            await auth.send(manifest())
        assert caught.value.hint == f"the credentials of {HOST} couldn't be used: docker-credential-x: it failed"
    assert network.left_open() == []


@pytest.mark.parametrize(
    "credential",
    [Credential("a:b", "planted"), Credential("a", "planted\ud800"), Credential(registry_token="planted\r\nX: y")],
)
async def test_a_credential_that_cannot_be_written_is_not_sent(
    credential: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    auth, _ = ring(Registry(), StaticCredentials({HOST: credential}))
    assert await status(auth, manifest()) == 200
    assert "planted" not in caplog.text + str(auth.failures)
    assert len(caplog.records) == 1


async def test_a_warning_is_given_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, broken = Clock(), Helper(CredentialError("broken"))
    auth, _ = ring(Registry(private={"acme/triage"}), broken, clock)
    for _ in range(3):
        assert await status(auth, manifest()) == 401
        clock.now += 60
    assert len(broken.asked) == 3
    assert len(caplog.records) == 1


async def test_who_logs_in_later_is_known_then() -> None:
    clock, helper = Clock(), Helper(None, Credential("alice", "planted-password"))
    auth, _ = ring(Registry(accounts={"alice": "planted-password"}, private={"acme/triage"}), helper, clock)
    assert await status(auth, manifest()) == 401
    assert await status(auth, manifest()) == 401
    clock.now += 60
    assert await status(auth, manifest()) == 200


async def test_credentials_that_change_all_the_time_are_not_tried_for_ever() -> None:
    clock = Clock()

    def handler(request: Request) -> Reply:
        assert len(network.requests) < 20
        clock.now += 100
        return Reply(401, challenges=["Basic realm=r"])

    auth, network = ring(handler, Helper(*(Credential("alice", str(number)) for number in range(100))), clock)
    for _ in range(3):
        before = len(network.requests)
        assert await status(auth, manifest()) == 401
        assert len(network.requests) - before <= 3


async def test_a_rate_limit_behind_a_token_is_answered_with_the_credential() -> None:
    registry = Registry(accounts={"alice": "planted-password"})

    def handler(request: Request) -> Reply:
        return Reply(429) if "|-|" in request.headers.get("Authorization", "") else registry(request)

    auth, network = ring(handler, Helper(Credential("alice", "planted-password")))
    assert await status(auth, manifest()) == 200
    assert authorizations(network.to(AUTH)) == ["", BASIC]
    assert len(network.to(HOST)) == 3


# Challenges that are remembered


class Memory(RecentChallenges):
    """A memory that a test fills."""

    def __init__(self, challenge: Challenge | None) -> None:
        super().__init__()
        self._challenges[Origin("https", HOST, 443)] = challenge
        self.remembered: list[tuple[Origin, Challenge | None]] = []

    async def remember(self, registry: Origin, challenge: Challenge | None, /) -> None:
        await super().remember(registry, challenge)
        self.remembered.append((registry, challenge))


def bearer(realm: str) -> Challenge:
    return Challenge("bearer", {"realm": realm, "service": "registry"})


async def test_a_remembered_challenge_is_answered_in_advance() -> None:
    network, memory = Network(Registry()), Memory(bearer("https://auth.example.com/token"))
    assert await status(AuthTransport(network, NOBODY, memory=memory), manifest()) == 200
    assert [request.url.partition("?")[0] for request in network.requests] == [
        "https://auth.example.com/token",
        "https://registry.example.com/v2/acme/triage/manifests/latest",
    ]


async def test_an_accepted_answer_is_remembered() -> None:
    network, memory = Network(Registry()), Memory(None)
    auth = AuthTransport(network, NOBODY, memory=memory)
    for repository in ("acme/triage", "acme/other", "acme/triage"):
        assert await status(auth, manifest(repository)) == 200
    assert memory.remembered == [(Origin("https", HOST, 443), bearer("https://auth.example.com/token"))]


@pytest.mark.parametrize("realm", ["http://evil.example.net/", "https://127.0.0.1/", ""])
async def test_a_remembered_realm_is_judged_again(realm: str) -> None:
    network, memory = Network(lambda request: Reply(401)), Memory(bearer(realm))
    assert await status(AuthTransport(network, ALICE, memory=memory), manifest()) == 401
    assert len(network.requests) == 1


async def test_an_outdated_memory_is_put_right() -> None:
    registry = Registry(accounts={"alice": "planted-password"}, private={"acme/triage"})

    def handler(request: Request) -> Reply:
        return Reply(401) if request.url.startswith("https://old.example.com") else registry(request)

    network, memory = Network(handler), Memory(bearer("https://old.example.com/token"))
    auth = AuthTransport(network, Helper(Credential("alice", "planted-password")), memory=memory)
    assert await status(auth, manifest()) == 200
    assert [challenge and challenge.realm for _, challenge in memory.remembered] == ["https://auth.example.com/token"]


async def test_a_new_token_that_is_refused_is_not_made_again() -> None:
    registry = Registry(private={"acme/private"})
    auth, network = ring(registry)
    assert await status(auth, manifest()) == 200
    before = len(network.requests)
    assert await status(auth, manifest("acme/private")) == 401
    assert len(network.requests) == before + 2


# Expiry and renewal


async def test_a_token_is_renewed_before_it_ends() -> None:
    registry, clock = Registry(seconds=300), Clock()
    auth, network = ring(registry, clock=clock)
    for now, tokens in ((0, 1), (280, 1), (291, 2), (291 + 280, 2), (291 + 291, 3)):
        clock.now = 1000.0 + now
        assert await status(auth, manifest()) == 200
        assert len(registry.issued) == tokens
    assert len(network.to(HOST)) == 6


async def test_a_token_without_a_lifetime_lives_a_minute() -> None:
    registry, clock = Registry(seconds=None), Clock()
    auth, _ = ring(registry, clock=clock)
    for now, tokens in ((0, 1), (53, 1), (55, 2)):
        clock.now = 1000.0 + now
        await status(auth, manifest())
        assert len(registry.issued) == tokens


async def test_a_token_that_ends_at_once_is_used_once() -> None:
    registry = Registry(seconds=0)
    clock = Clock()
    auth, _ = ring(registry, clock=clock)
    assert await status(auth, manifest()) == 200


async def test_a_revoked_token_is_renewed_once() -> None:
    registry = Registry()
    auth, network = ring(registry)
    assert await status(auth, manifest()) == 200
    registry.revoked.add(registry.issued[0])
    assert await status(auth, manifest()) == 200
    assert len(registry.issued) == 2
    assert len(network.to(HOST)) == 4


@pytest.mark.parametrize("credentials", [NOBODY, ALICE])
async def test_a_registry_that_accepts_nothing_is_left_alone(credentials: StaticCredentials) -> None:
    registry = Registry(accounts={"alice": "planted-password"})

    def handler(request: Request) -> Reply:
        return registry.give(request) if request.url.startswith(registry.realm) else registry.serve(manifest("no/no"))

    auth, network = ring(handler, credentials)
    assert await status(auth, manifest()) == 401
    assert (len(network.to(HOST)), len(network.to(AUTH))) == (2, 1)
    for _ in range(5):
        before = len(network.requests)
        assert await status(auth, manifest()) == 401
        assert len(network.requests) - before <= 5
    assert network.left_open() == []


async def test_a_registry_that_names_another_realm_each_time_is_left_alone() -> None:
    realms = iter(range(1000))

    def handler(request: Request) -> Reply:
        if request.url.startswith("https://auth"):
            return Reply(body=b'{"token":"t"}')
        return Reply(401, challenges=[f'Bearer realm="https://auth{next(realms)}.example.com/"'])

    auth, network = ring(handler, ALICE)
    assert await status(auth, manifest()) == 401
    assert len(network.to(HOST)) == 2


# Many at once


async def test_fifty_requests_make_one_token_request() -> None:
    registry = Registry()
    auth, network = ring(registry)
    statuses: list[int] = []

    async def one() -> None:
        statuses.append(await status(auth, manifest()))

    async def fifty() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)

    await fifty()
    assert (statuses, len(network.to(AUTH))) == ([200] * 50, 1)
    registry.revoked.add(registry.issued[0])
    await fifty()
    assert (statuses, len(network.to(AUTH))) == ([200] * 100, 2)
    assert network.left_open() == []


@pytest.mark.parametrize("seconds", [0, 1])
async def test_fifty_requests_share_even_a_token_that_ends_at_once(seconds: int) -> None:
    registry, clock = Registry(seconds=seconds), Clock()

    def handler(request: Request) -> Reply:
        if request.url.startswith(registry.realm):
            clock.now += 100  # each token has ended before it can be used
        return registry(request)

    auth, network = ring(handler, clock=clock)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(status, auth, manifest())
    assert len(network.to(AUTH)) == 1


async def test_fifty_requests_share_one_failure() -> None:
    registry, go = Registry(), anyio.Event()

    async def fail() -> Reply:
        await go.wait()
        return Reply(503)

    network = Network(lambda request: fail() if request.url.startswith(registry.realm) else registry(request))
    auth = AuthTransport(network, NOBODY, clock=Clock())
    errors: list[RegistryError] = []

    async def one() -> None:
        with pytest.raises(RegistryError) as caught:
            await auth.send(manifest())
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert [error.status for error in errors] == [503] * 50
    assert len(network.to(AUTH)) == 1
    assert network.left_open() == []


async def test_fifty_requests_ask_a_helper_once() -> None:
    def handler(request: Request) -> Reply:
        return Reply() if request.headers.get("Authorization") == BASIC else Reply(401, challenges=["Basic realm=r"])

    helper = Helper(Credential("alice", "planted-password"))
    auth, network = ring(handler, helper)
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(status, auth, manifest())
    assert helper.asked == [HOST]
    assert network.left_open() == []


async def test_a_cancelled_first_request_does_not_take_the_others_along() -> None:
    registry = Registry()
    arrived, go = anyio.Event(), anyio.Event()

    async def slow(request: Request) -> Reply:
        arrived.set()
        await go.wait()
        return registry(request)

    network = Network(lambda request: slow(request) if request.url.startswith(registry.realm) else registry(request))
    auth = AuthTransport(network, NOBODY, clock=Clock())
    statuses: list[int] = []

    async def one(scope: anyio.CancelScope) -> None:
        with scope:
            statuses.append(await status(auth, manifest()))

    first = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, first)
        await arrived.wait()
        for _ in range(49):
            tasks.start_soon(one, anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert statuses == [200] * 49
    assert (len(network.to(AUTH)), len(registry.issued)) == (2, 1)
    assert network.left_open() == []


async def test_cancelled_at_every_await_nothing_stays_open_or_locked() -> None:
    registry = Registry(accounts={"alice": "planted-password"}, private={"acme/triage"})
    for steps in range(200):
        network = Network(registry)
        helper = Helper(Credential("alice", "planted-password"))
        auth = AuthTransport(network, helper, clock=Clock())
        done = False
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel_later(scope: anyio.CancelScope = scope, steps: int = steps) -> None:
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                tasks.start_soon(cancel_later)
                response = await auth.send(manifest())
                done = True
                async with response:
                    pass
                tasks.cancel_scope.cancel()
        assert [reply.status for reply in network.left_open() if not done] == []
        assert await status(auth, manifest()) == 200
        if done:
            break
    else:
        pytest.fail("never got through")
    assert steps > 10


# Other origins


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.net/blob",
        "https://registry.example.com:8443/v2/acme/triage/manifests/latest",
        "http://registry.example.com/v2/acme/triage/manifests/latest",
    ],
)
@pytest.mark.parametrize("refusal", [401, 403, 429])
@pytest.mark.parametrize("challenges", [[], ["Basic realm=r"], ['Bearer realm="https://evil.example.net/token"']])
async def test_another_origin_never_sees_a_credential(url: str, refusal: int, challenges: list[str]) -> None:
    registry = Registry(accounts={"alice": "planted-password"}, private={"acme/triage"})

    def handler(request: Request) -> Reply:
        if request.url.startswith(registry.realm):
            return registry(request)
        if request.url.startswith("https://evil"):
            return Reply(body=b'{"token":"harvest"}')
        return Reply(refusal, challenges=challenges) if request.url == url else registry(request)

    auth, network = ring(handler, ALICE)
    assert await status(auth, manifest()) == 200  # there are a token and a credential to be stolen
    learned = len(network.requests)
    assert await status(auth, replace(manifest(), url=url)) == refusal
    for request in network.requests[learned:]:
        assert request.headers.get("Authorization") in (None, "Bearer harvest")
        assert "alice" not in repr(request)
    assert await status(auth, manifest()) == 200
    assert network.requests[-1].headers["Authorization"] == f"Bearer {registry.issued[0]}"
    assert len(registry.issued) == 1
    assert network.left_open() == []


async def test_another_origin_is_answered_anonymously_for_one_request() -> None:
    registry = Registry(realm="https://auth.example.net/token")
    auth, network = ring(registry, StaticCredentials({HOST: Credential("alice", "planted-password")}))
    request = replace(manifest(), url="https://mirror.example.net/v2/acme/triage/manifests/latest")
    for _ in range(2):
        assert await status(auth, request) == 200
    assert authorizations(network.to("auth.example.net")) == ["", ""]
    assert len(network.to("mirror.example.net")) == 4


@pytest.mark.parametrize("realm", ["https://169.254.169.254/", "http://mirror.example.net/token", "https://h@h/", "x"])
async def test_another_origin_with_a_bad_realm_gets_its_refusal_back(realm: str) -> None:
    auth, network = ring(lambda request: Reply(401, challenges=[f'Bearer realm="{realm}"']), ALICE)
    assert await status(auth, replace(manifest(), url="https://mirror.example.net/v2/")) == 401
    assert len(network.requests) == 1


async def test_a_request_without_an_authority_never_carries_a_credential() -> None:
    auth, network = ring(lambda request: Reply(401, challenges=["Basic realm=r"]), ALICE)
    assert await status(auth, replace(manifest(), authority=None)) == 401
    assert authorizations(network.requests) == [""]


async def test_two_registries_share_nothing() -> None:
    registry = Registry(accounts={"alice": "planted-password"})
    auth, network = ring(registry, ALICE)
    assert await status(auth, manifest()) == 200
    assert await status(auth, manifest(host="other.example.com")) == 200
    assert authorizations(network.to(AUTH)) == [BASIC, ""]
    one, two = network.to(HOST)[-1], network.to("other.example.com")[-1]
    assert one.headers["Authorization"] != two.headers["Authorization"]


# Realms


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example.com/token",
        "https://169.254.169.254/latest/meta-data/",
        "https://0x7f000001/token",
        "https://user:planted-userinfo@registry.example.com/token?planted-query",
        "https://registry.example.com@attacker.example.net/token",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("credentials", [NOBODY, ALICE])
async def test_a_bad_realm_is_not_talked_to(realm: str, credentials: StaticCredentials) -> None:
    auth, network = ring(lambda request: Reply(401, challenges=[f'Bearer realm="{realm}"']), credentials)
    with pytest.raises(Unauthorized) as caught:
        await auth.send(manifest())
    assert len(network.requests) == 1
    assert caught.value.status == 401
    assert "planted" not in str(caught.value) + repr(caught.value)
    assert network.left_open() == []


async def test_basic_answers_where_the_realm_beside_it_is_bad() -> None:
    challenges = ['Bearer realm="http://evil.example.net/"', "Basic realm=r"]

    def handler(request: Request) -> Reply:
        return Reply() if request.headers.get("Authorization") == BASIC else Reply(401, challenges=challenges)

    auth, network = ring(handler, ALICE)
    assert await status(auth, manifest()) == 200
    assert {Origin.of(request.url).host for request in network.requests} == {HOST}


async def test_a_malformed_challenge_is_a_typed_error() -> None:
    auth, network = ring(lambda request: Reply(401, challenges=['Bearer realm="https://a/']), ALICE)
    with pytest.raises(Unauthorized):
        await auth.send(manifest())
    assert len(network.requests) == 1
    assert network.left_open() == []


async def test_an_unknown_scheme_is_given_back() -> None:
    auth, network = ring(lambda request: Reply(401, challenges=["Negotiate"]), ALICE)
    assert await status(auth, manifest()) == 401
    assert len(network.requests) == 1


# Token servers that fail


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(body=b""), ProtocolError),
        (Reply(body=b"[]"), ProtocolError),
        (Reply(body=b'{"token":""}'), ProtocolError),
        (Reply(body=b'{"token":"planted\\r\\nX-Evil: 1"}'), ProtocolError),
        (Reply(body=b'{"token":"' + b"x" * 70000 + b'"}'), ProtocolError),
        (Reply(429, {"Retry-After": "7"}), RateLimited),
        (Reply(500), RegistryError),
        (Reply(401), Unauthorized),
        (Reply(302, {"Location": "https://169.254.169.254/"}), ProtocolError),
    ],
)
async def test_a_token_server_that_fails_is_a_typed_error(reply: Reply, kind: type[LadingError]) -> None:
    registry = Registry()
    auth, network = ring(lambda request: reply if request.url.startswith(registry.realm) else registry(request))
    with pytest.raises(kind) as caught:
        await auth.send(manifest())
    assert "planted" not in str(caught.value)
    assert len(network.requests) == 2
    assert network.left_open() == []


async def test_a_token_server_that_fails_in_advance_is_asked_again_when_it_is_needed() -> None:
    registry = Registry()
    broken = False

    def handler(request: Request) -> Reply:
        if request.url.startswith(registry.realm) and broken:
            return Reply(503)
        if request.url.endswith("/v2/open/to-all/manifests/latest"):
            return Reply()
        return registry(request)

    auth, network = ring(handler)
    assert await status(auth, manifest()) == 200
    broken = True
    assert await status(auth, manifest("open/to-all")) == 200
    assert authorizations(network.requests[-1:]) == [""]
    with pytest.raises(RegistryError):
        await auth.send(manifest("acme/other"))


# Secrets


async def test_nothing_that_is_shown_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ["planted-password", BASIC.removeprefix("Basic "), "planted-identity", "planted-token"]

    def handler(request: Request) -> Reply:
        if request.url.startswith("https://auth"):
            return Reply(body=json.dumps({"token": "planted-token"}).encode())
        return Reply(401, challenges=['Bearer realm="https://auth.example.com/token"'])

    credential = Credential("alice", "planted-password", "planted-identity", "")
    auth, network = ring(handler, StaticCredentials({HOST: credential}))
    assert await status(auth, manifest()) == 401
    shown = caplog.text + repr([network.requests, auth, credential, vars(auth)])
    for name in ("_wallet", "_tokens", "_memory"):
        part = getattr(auth, name)
        shown += repr(getattr(part, "__dict__", part))
    assert [secret for secret in secrets if secret in shown] == []


async def test_the_request_of_the_caller_is_left_alone() -> None:
    auth, _ = ring(Registry())
    headers: Mapping[str, str] = {"Accept": "*/*"}
    request = replace(manifest(), headers=headers, method="PUT", body=b"body")
    assert await status(auth, request) == 200
    assert headers == {"Accept": "*/*"}
    assert request.body == b"body"
