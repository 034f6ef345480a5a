"""A batch over fifty repositories of one registry: how few tokens it takes, and that nobody pays for somebody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Sequence
from urllib.parse import parse_qsl

import anyio
import pytest
from artifacts import publish

from lading import Client, MemoryStore, Retry
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import Denied, LadingError, Unauthorized
from lading.testing import PROFILES, EmbeddedRegistry, Profile
from lading.testing.access import Scopes
from lading.testing.profiles import GHCR, HARBOR

COUNT = 50
FEW = 8
SECRET = "acme/agent-7"
USERS = {"ada": "planted-password"}
BEARER = [one for one in PROFILES.values() if one.authentication == "bearer"]
WITH_TOKENS = pytest.mark.parametrize("profile", BEARER, ids=lambda one: one.name)
FOR_STRANGERS = pytest.mark.parametrize(
    "profile", [one for one in BEARER if one.serves_anybody], ids=lambda one: one.name
)


def content(repository: str) -> bytes:
    return f"# {repository}\n".encode()


def telling(user: str | None, scopes: Scopes, service: str, seconds: float) -> str:
    """A token that says what it is good for, as those of most registries do."""
    access = []
    for resource, actions in sorted(scopes.items()):
        kind, _, name = resource.partition(":")
        access.append({"type": kind, "name": name, "actions": sorted(actions)})
    claims = {"sub": user or "", "access": access}
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in ({}, claims, {}))


def fifty(profile: Profile, *, tells: bool, private: Collection[str] = ()) -> EmbeddedRegistry:
    """A registry with fifty agents, whose tokens say what they are good for, or don't."""
    registry = EmbeddedRegistry(profile=profile, users=USERS, private=private)
    if tells:
        registry._with_tokens().tokens.mint = telling
    for name in names():
        publish(registry, content(name), name, inline=True)
    return registry


def names() -> list[str]:
    return [f"acme/agent-{number}" for number in range(COUNT)]


def somebody(registry: EmbeddedRegistry, known: bool = True) -> Client:
    logins = {registry.host: Credential("ada", USERS["ada"])} if known else {}
    return Client(MemoryStore(), credentials=StaticCredentials(logins), retry=Retry(attempts=1))


def asked(registry: EmbeddedRegistry) -> list[list[str]]:
    """The scopes of each request for a token."""
    tokens = [request for request in registry.requests if request.kind == "token"]
    return [[value for name, value in parse_qsl(request.query) if name == "scope"] for request in tokens]


async def pull_all(client: Client, registry: EmbeddedRegistry, repositories: Sequence[str]) -> dict[str, LadingError]:
    """Pull everything at once, check what came, and give what failed."""
    failed: dict[str, LadingError] = {}

    async def pull(repository: str) -> None:
        try:
            agent = await client.pull_agent(f"{registry.host}/{repository}:v1", fallback="never")
            assert agent.content == content(repository)
        except LadingError as error:
            failed[repository] = error

    async with anyio.create_task_group() as tasks:
        for repository in repositories:
            tasks.start_soon(pull, repository)
    return failed


@WITH_TOKENS
async def test_a_batch_takes_few_tokens(profile: Profile, measured: Callable[[str, str], None]) -> None:
    async with fifty(profile, tells=True) as registry, somebody(registry) as client:
        assert await pull_all(client, registry, names()) == {}
        figures = [len(asked(registry))]
        assert sorted(scope for scopes in asked(registry) for scope in scopes) == sorted(
            f"repository:{name}:pull" for name in names()
        )
        # Every token ended: the ones that come in their place are as few.
        registry.expire_tokens()
        registry.clear_requests()
        assert await pull_all(client, registry, names()) == {}
        figures.append(len(asked(registry)))
    measured(
        f"{profile.name}: tokens that say what they are good for, {COUNT} repositories at once, and once they ended",
        " and ".join(f"{figure} token requests" for figure in figures),
    )
    assert max(figures) <= FEW


@WITH_TOKENS
async def test_a_batch_with_tokens_that_say_nothing(profile: Profile, measured: Callable[[str, str], None]) -> None:
    async with fifty(profile, tells=False) as registry, somebody(registry) as client:
        assert await pull_all(client, registry, names()) == {}
        figure = len(asked(registry))
    measured(f"{profile.name}: tokens that say nothing, {COUNT} repositories at once", f"{figure} token requests")
    assert figure <= COUNT


@pytest.mark.parametrize("tells", [True, False], ids=["tells", "says nothing"])
@FOR_STRANGERS
async def test_what_is_private_doesnt_fail_the_others(profile: Profile, tells: bool) -> None:
    async with fifty(profile, tells=tells, private={SECRET}) as registry, somebody(registry, known=False) as client:
        for _ in range(2):
            (failed,) = (await pull_all(client, registry, names())).items()
            assert failed[0] == SECRET
            assert isinstance(failed[1], Unauthorized | Denied)
        others = [name for name in names() if name != SECRET]
        registry.clear_requests()
        assert await pull_all(client, registry, others) == {}
        assert asked(registry) == []


async def test_a_credential_is_used_for_the_private_one_alone() -> None:
    class Costly(StaticCredentials):
        async def is_costly(self, host: str) -> bool:
            return True

        def forget(self, host: str) -> None: ...

    async with fifty(HARBOR, tells=True, private={SECRET}) as registry:
        known = Costly({registry.host: Credential("ada", USERS["ada"])})
        async with Client(MemoryStore(), credentials=known, retry=Retry(attempts=1)) as client:
            assert await pull_all(client, registry, names()) == {}
        shown = [request for request in registry.requests if request.kind == "token"]
        with_password = [request.query for request in shown if "Authorization" in request.headers]
    assert len(with_password) == 1
    assert f"repository:{SECRET}:pull" in with_password[0]
    assert len(shown) <= FEW + 2


async def test_who_asks_for_too_much_together_is_served_one_by_one() -> None:
    """GHCR answers 403 to a request that holds one thing too many."""
    async with fifty(GHCR, tells=True, private={SECRET}) as registry, somebody(registry, known=False) as client:
        assert list(await pull_all(client, registry, names())) == [SECRET]
        refused = [request for request in registry.requests if request.kind == "token" and request.status == 403]
    assert any(request.query.count("scope=") > 1 for request in refused)
    assert any(request.query.endswith(f"scope=repository:{SECRET}:pull") for request in refused)


async def test_a_push_in_the_middle_asks_for_itself() -> None:
    async with fifty(HARBOR, tells=True) as registry, somebody(registry) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pull_all, client, registry, names())
            for number in range(5):
                tasks.start_soon(client.push_agent, b"agents: {}\n", f"{registry.host}/acme/mine-{number}:v1")
        pushes = [scopes for scopes in asked(registry) if any("push" in scope for scope in scopes)]
    assert sorted(pushes) == [[f"repository:acme/mine-{number}:pull,push"] for number in range(5)]


async def test_what_one_registry_grants_another_one_never_sees() -> None:
    async with fifty(HARBOR, tells=True) as one, fifty(HARBOR, tells=True) as other:
        logins = {registry.host: Credential("ada", USERS["ada"]) for registry in (one, other)}
        known = StaticCredentials(logins)
        async with Client(MemoryStore(), credentials=known) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(pull_all, client, one, names())
            tasks.start_soon(pull_all, client, other, names())
        for registry in (one, other):
            assert len(asked(registry)) <= FEW
            shown = {request.headers.get("Authorization") for request in registry.requests if request.kind != "token"}
            issued = vars(registry._with_tokens().tokens)["_tokens"]
            assert shown - {None} <= {f"Bearer {token}" for token in issued}
