"""lading against every kind of registry: exactly which requests, and who saw which proof.

The registry decides what it asks for; what is counted here is how little lading needs to answer it.
"""

from __future__ import annotations

import base64
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import anyio
import pytest
from artifacts import ANNOTATED, MANIFEST, manifest, publish

from lading import Client, LocalStore, MemoryStore, Retry
from lading.auth.credentials import Credential, Credentials, StaticCredentials
from lading.errors import Denied, RateLimited, StoreReadOnly, Unauthorized
from lading.store.store import Changes
from lading.testing import PROFILES, EmbeddedRegistry, Profile, RecordedRequest
from lading.testing.profiles import ACR, ARTIFACTORY, DISTRIBUTION, DOCKER_HUB, ECR, GAR, GHCR, HARBOR, QUAY, RateLimit

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
ADA = Credential("ada", "planted-password")
USERS = {"ada": "planted-password"}
BASIC = "Basic " + base64.b64encode(b"ada:planted-password").decode()
PULL = "repository:acme/triage:pull"

# What a client that knows nothing of the registry needs: for an agent that anybody may have, and for a private one.
OPEN = "GET manifest, GET blob"
TOKEN = "GET manifest, GET token, GET manifest, GET blob"
PASSWORD = "GET manifest, GET manifest, GET blob"
ELSEWHERE = ", GET storage"

# profile: (pull, nobody has to log in; pull, logged in; then warm; then pull a private one; then push)
UPLOADS = "HEAD blob, POST upload, PUT upload, HEAD blob, POST upload, PUT upload, PUT manifest"
HEAD, TWICE = "HEAD manifest", "HEAD manifest, GET manifest"
KNOWN = "GET token, GET manifest, GET blob"
BUDGETS = {
    "plain": (OPEN, OPEN, HEAD, OPEN, UPLOADS),
    "docker-hub": (TOKEN + ELSEWHERE, TOKEN + ELSEWHERE, HEAD, KNOWN + ELSEWHERE, "GET token, " + UPLOADS),
    "ghcr": (TOKEN + ELSEWHERE, TOKEN + ELSEWHERE, HEAD, KNOWN + ELSEWHERE, "GET token, " + UPLOADS),
    "ecr": (OPEN + ELSEWHERE, PASSWORD + ELSEWHERE, HEAD, OPEN + ELSEWHERE, UPLOADS),
    "gar": (TOKEN + ELSEWHERE, TOKEN + ELSEWHERE, HEAD, KNOWN + ELSEWHERE, "GET token, " + UPLOADS),
    "acr": (TOKEN + ELSEWHERE, TOKEN + ELSEWHERE, HEAD, KNOWN + ELSEWHERE, "GET token, " + UPLOADS),
    "quay": (TOKEN + ELSEWHERE, TOKEN + ELSEWHERE, HEAD, KNOWN + ELSEWHERE, "GET token, " + UPLOADS),
    "harbor": (TOKEN, TOKEN, HEAD, KNOWN, "GET token, " + UPLOADS),
    "distribution": (OPEN, PASSWORD, HEAD, OPEN, UPLOADS),
    "artifactory": (TOKEN, TOKEN, TWICE, KNOWN, "GET token, " + UPLOADS),
}

# profile: what somebody without a credential is told by a registry that has users: about a public agent, a private one.
REFUSED_AT_ONCE = "GET manifest, GET token"
REFUSED_LATER = "GET token, GET manifest"
SERVED = ""
STRANGERS = {
    "docker-hub": (SERVED, REFUSED_LATER, Unauthorized),
    "ghcr": (SERVED, "GET token, GET manifest, GET token", Denied),
    "ecr": ("GET manifest", "GET manifest", Unauthorized),
    "gar": (SERVED, REFUSED_LATER, Unauthorized),
    "acr": (REFUSED_AT_ONCE, REFUSED_AT_ONCE, Unauthorized),
    "quay": (SERVED, REFUSED_LATER, Unauthorized),
    "harbor": (SERVED, REFUSED_LATER, Unauthorized),
    "distribution": ("GET manifest", "GET manifest", Unauthorized),
    "artifactory": (SERVED, REFUSED_LATER, Unauthorized),
}

# profile: what a first process needs, and every other one, which knows nothing but what the first left in the store:
# for what anybody may have, and for what is private, by somebody whose credential a program has to be run for.
REFUSED = "GET manifest, GET token, GET manifest, GET token, GET manifest, GET blob"
DENIED = "GET manifest, GET token, GET token, GET manifest, GET blob"
PROCESSES = {
    "plain": (OPEN, OPEN, OPEN, OPEN),
    "docker-hub": (TOKEN + ELSEWHERE, KNOWN + ELSEWHERE, REFUSED + ELSEWHERE, KNOWN + ELSEWHERE),
    "ghcr": (TOKEN + ELSEWHERE, KNOWN + ELSEWHERE, DENIED + ELSEWHERE, KNOWN + ELSEWHERE),
    "ecr": (OPEN + ELSEWHERE, OPEN + ELSEWHERE, PASSWORD + ELSEWHERE, OPEN + ELSEWHERE),
    "gar": (TOKEN + ELSEWHERE, KNOWN + ELSEWHERE, REFUSED + ELSEWHERE, KNOWN + ELSEWHERE),
    "acr": (TOKEN + ELSEWHERE, KNOWN + ELSEWHERE, DENIED + ELSEWHERE, KNOWN + ELSEWHERE),
    "quay": (TOKEN + ELSEWHERE, KNOWN + ELSEWHERE, REFUSED + ELSEWHERE, KNOWN + ELSEWHERE),
    "harbor": (TOKEN, KNOWN, REFUSED, KNOWN),
    "distribution": (OPEN, OPEN, PASSWORD, OPEN),
    "artifactory": (TOKEN, KNOWN, REFUSED, KNOWN),
}

EVERY = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
WITH_USERS = pytest.mark.parametrize("profile", [PROFILES[name] for name in STRANGERS], ids=STRANGERS)
WITH_TOKENS = pytest.mark.parametrize(
    "profile", [one for one in PROFILES.values() if one.authentication == "bearer"], ids=lambda one: one.name
)


def open_to_all(profile: Profile) -> EmbeddedRegistry:
    return EmbeddedRegistry(profile=profile)


def with_users(profile: Profile) -> EmbeddedRegistry:
    if profile.authentication == "none":
        return EmbeddedRegistry(profile=profile)
    return EmbeddedRegistry(profile=profile, users=USERS, private={"acme/secret"})


def anonymous() -> Client:
    return Client(MemoryStore(), credentials=StaticCredentials({}), retry=Retry(attempts=1))


def logged_in(registry: EmbeddedRegistry, credential: Credential = ADA) -> Client:
    return Client(MemoryStore(), credentials=StaticCredentials({registry.host: credential}), retry=Retry(attempts=1))


def asked_scopes(registry: EmbeddedRegistry) -> list[list[str]]:
    """The scopes of each request for a token by GET."""
    tokens = [request for request in registry.requests if request.kind == "token"]
    return [[value for name, value in parse_qsl(request.query) if name == "scope"] for request in tokens]


def check(registry: EmbeddedRegistry, budget: str) -> None:
    registry.assert_requests(*filter(None, budget.split(", ")))
    registry.clear_requests()


def test_every_profile_has_a_budget() -> None:
    assert set(BUDGETS) == set(PROCESSES) == set(PROFILES)
    assert set(STRANGERS) == set(PROFILES) - {"plain"}


@EVERY
async def test_a_pull_from_a_registry_that_is_open_to_everybody(profile: Profile) -> None:
    cold, _, warm, known, _ = BUDGETS[profile.name]
    async with open_to_all(profile) as registry, anonymous() as client:
        digest, other = publish(registry, YAML), publish(registry, YAML, "acme/other")
        reference = f"{registry.host}/acme/triage"
        agent = await client.pull_agent(f"{reference}:v1")
        assert (agent.content, agent.digest, agent.origin) == (YAML, digest, "registry")
        check(registry, cold)
        assert (await client.pull_agent(f"{reference}:v1")).origin == "revalidated"
        check(registry, warm)
        assert (await client.pull_agent(f"{reference}@{digest}")).origin == "pinned"
        assert (await client.pull_agent(f"{reference}:v1", max_age=3600)).origin == "fresh"
        check(registry, "")
        assert (await client.pull_agent(f"{registry.host}/acme/other:v1")).digest == other
        check(registry, known)


@EVERY
async def test_a_pull_and_a_push_of_somebody_who_is_logged_in(profile: Profile) -> None:
    _, cold, warm, private, push = BUDGETS[profile.name]
    async with with_users(profile) as registry, logged_in(registry) as client:
        digest = publish(registry, YAML)
        publish(registry, YAML + b"# secret\n", "acme/secret")
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert (agent.content, agent.digest) == (YAML, digest)
        check(registry, cold)
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).origin == "revalidated"
        check(registry, warm)
        assert (await client.pull_agent(f"{registry.host}/acme/secret:v1")).content == YAML + b"# secret\n"
        check(registry, private)
        pushed = await client.push_agent(YAML + b"# mine\n", f"{registry.host}/acme/mine:v1")
        check(registry, push)
        assert (await client.pull_agent(str(pushed.reference))).content == YAML + b"# mine\n"
        check(registry, "GET manifest")  # a token that is good for more serves, and the agent is in its manifest


@WITH_USERS
async def test_somebody_who_is_nobody(profile: Profile) -> None:
    public, private, refusal = STRANGERS[profile.name]
    async with with_users(profile) as registry, anonymous() as client:
        publish(registry, YAML)
        publish(registry, YAML, "acme/secret")
        if public == SERVED:
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
            check(registry, BUDGETS[profile.name][1])
        else:
            with pytest.raises(refusal):
                await client.pull_agent(f"{registry.host}/acme/triage:v1")
            check(registry, public)
        with pytest.raises(refusal):
            await client.pull_agent(f"{registry.host}/acme/secret:v1")
        check(registry, private)
        with pytest.raises((Unauthorized, Denied)):
            await client.push_agent(YAML, f"{registry.host}/acme/mine:v1")
        assert registry.count("PUT manifest") == 0


@EVERY
async def test_every_tag_on_every_page(profile: Profile) -> None:
    names = ["a", "B", "c.d", "d", "e", "f", "g"]
    small = replace(profile, pages=replace(profile.pages, limit=3))
    async with open_to_all(small) as registry, anonymous() as client:
        for name in names:
            publish(registry, YAML, tag=name)
        assert [tag async for tag in client.tags(f"{registry.host}/acme/triage")] == names
        first = "GET tags, GET token, GET tags" if profile.authentication == "bearer" else "GET tags"
        check(registry, first + ", GET tags, GET tags")


@WITH_TOKENS
async def test_a_token_that_ended_between_two_pulls_is_one_new_token(profile: Profile) -> None:
    async with with_users(profile) as registry, logged_in(registry) as client:
        publish(registry, YAML)
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        registry.clear_requests()
        registry.expire_tokens()
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1", fallback="never")
        assert agent.origin == "revalidated"
        _, _, warm, _, _ = BUDGETS[profile.name]
        check(registry, f"HEAD manifest, GET token, {warm}")


@WITH_TOKENS
async def test_twenty_repositories_at_once_are_a_token_each(profile: Profile) -> None:
    async with with_users(profile) as registry, logged_in(registry) as client:
        for number in range(20):
            publish(registry, YAML + b"# %d\n" % number, f"acme/agent{number}", inline=True)
        warm = Counter(20 * BUDGETS[profile.name][2].split(", "))
        for budget in ({"GET manifest": 40, "GET token": 20}, warm):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(client.pull_agent, f"{registry.host}/acme/agent{number}:v1")
            assert Counter(registry.summary()) == budget
            registry.clear_requests()


@WITH_TOKENS
async def test_twenty_tags_of_one_repository_are_one_token(profile: Profile) -> None:
    async with with_users(profile) as registry, logged_in(registry) as client:
        for number in range(20):
            publish(registry, YAML + b"# %d\n" % number, tag=f"v{number}", inline=True)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(client.pull_agent, f"{registry.host}/acme/triage:v{number}")
        assert registry.token_requests == 1
        assert asked_scopes(registry) == [[PULL]]


# One process after the other.


class Helper(StaticCredentials):
    """Credentials that a program has to be run for."""

    def __init__(self, credentials: Mapping[str, Credential]) -> None:
        super().__init__(credentials)
        self.runs = 0

    async def credential(self, host: str) -> Credential | None:
        self.runs += 1
        return await super().credential(host)

    async def is_costly(self, host: str) -> bool:
        return True

    def forget(self, host: str) -> None: ...


async def pull_anew(home: Path, reference: str, credentials: Credentials) -> None:
    """Pull as another process would: with a client and a store of its own, on the same directory."""
    async with Client(LocalStore(home), credentials=credentials, retry=Retry(attempts=1)) as client:
        agent = await client.pull_agent(reference, force=True, fallback="never")
        assert agent.content == YAML
        await client._rooms.store.aclose()


@EVERY
async def test_what_is_public_in_one_process_after_the_other(profile: Profile, tmp_path: Path) -> None:
    first, other, *_ = PROCESSES[profile.name]
    # Where a registry serves nobody but its users, what is open to everybody is another registry of that kind.
    async with (with_users if profile.serves_anybody else open_to_all)(profile) as registry:
        for repository in ("acme/triage", "acme/other"):
            publish(registry, YAML, repository)
        helper = Helper({registry.host: ADA})
        for budget, repository in ((first, "triage"), (other, "triage"), (other, "other"), (other, "other")):
            await pull_anew(tmp_path, f"{registry.host}/acme/{repository}:v1", helper)
            check(registry, budget)
        assert helper.runs == 0


@EVERY
async def test_what_is_private_in_one_process_after_the_other(profile: Profile, tmp_path: Path) -> None:
    *_, first, other = PROCESSES[profile.name]
    async with with_users(profile) as registry:
        publish(registry, YAML, "acme/secret")
        secrets: set[bytes] = set()
        for budget in (first, other, other):
            helper = Helper({registry.host: ADA})
            await pull_anew(tmp_path, f"{registry.host}/acme/secret:v1", helper)
            secrets |= shown(registry)
            check(registry, budget)
            assert helper.runs == (profile.authentication != "none")
    assert bool(secrets) is (profile.authentication != "none")
    none_is_kept_in(tmp_path, secrets)


@EVERY
async def test_a_credential_at_hand_in_one_process_after_the_other(profile: Profile, tmp_path: Path) -> None:
    _, cold, _, known, _ = BUDGETS[profile.name]
    async with with_users(profile) as registry:
        publish(registry, YAML)
        publish(registry, YAML, "acme/secret")
        secrets: set[bytes] = set()
        for budget, repository in ((cold, "triage"), (known, "triage"), (known, "secret"), (known, "secret")):
            credentials = StaticCredentials({registry.host: ADA})
            await pull_anew(tmp_path, f"{registry.host}/acme/{repository}:v1", credentials)
            secrets |= shown(registry)
            check(registry, budget)
    none_is_kept_in(tmp_path, secrets)


@WITH_USERS
async def test_a_push_and_a_revalidation_in_a_second_process(profile: Profile, tmp_path: Path) -> None:
    _, _, warm, _, push = BUDGETS[profile.name]
    async with with_users(profile) as registry:
        publish(registry, YAML)
        reference = f"{registry.host}/acme/triage:v1"
        await pull_anew(tmp_path, reference, StaticCredentials({registry.host: ADA}))
        registry.clear_requests()
        for budget in ("", push):
            async with Client(tmp_path, credentials=StaticCredentials({registry.host: ADA})) as client:
                if budget:
                    await client.push_agent(YAML + b"# mine\n", f"{registry.host}/acme/mine:v1")
                    check(registry, budget)
                else:
                    assert (await client.pull_agent(reference, fallback="never")).origin == "revalidated"
                    check(registry, warm if profile.authentication == "basic" else f"GET token, {warm}")


@WITH_TOKENS
async def test_a_store_that_cannot_be_written_saves_nothing_and_breaks_nothing(
    profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    class ReadOnly(MemoryStore):
        async def commit(self, changes: Changes) -> None:
            raise StoreReadOnly("read-only")

    cold = BUDGETS[profile.name][1]
    async with with_users(profile) as registry:
        publish(registry, YAML)
        store = ReadOnly()
        for _ in range(2):
            async with Client(store, credentials=StaticCredentials({registry.host: ADA})) as client:
                await client.resolve(f"{registry.host}/acme/triage:v1")
                registry.clear_requests()
                await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True)
                check(registry, cold.removeprefix("GET manifest, GET token, "))
    assert all("not stored" in record.getMessage() for record in caplog.records), "but for what was pulled"


async def test_a_memory_is_of_one_registry_only(tmp_path: Path) -> None:
    async with with_users(GHCR) as mine, with_users(GHCR) as other:
        for registry in (mine, other):
            publish(registry, YAML, "acme/secret")
        await pull_anew(tmp_path, f"{mine.host}/acme/secret:v1", Helper({mine.host: ADA}))
        with pytest.raises(Denied):
            await pull_anew(tmp_path, f"{other.host}/acme/secret:v1", Helper({mine.host: ADA}))
        check(other, "GET manifest, GET token")


# now: the profile that a registry has by now, and what is sent then: by the first process, and by those after it.
TURNS = {
    "plain": ("GET token, GET manifest, GET blob", OPEN),
    "distribution": ("GET token, GET manifest, GET manifest, GET blob", OPEN),
    "harbor": ("GET token, GET manifest, GET token, GET manifest, GET blob", KNOWN),
    "docker-hub": ("GET token, GET manifest, GET token, GET manifest, GET blob" + ELSEWHERE, KNOWN + ELSEWHERE),
}


@pytest.mark.parametrize("before", [GHCR, QUAY, ARTIFACTORY], ids=lambda profile: profile.name)
@pytest.mark.parametrize("now", TURNS)
async def test_a_registry_that_turned_into_another_one(before: Profile, now: str, tmp_path: Path) -> None:
    async with EmbeddedRegistry(profile=before, users=USERS) as registry:
        port = port_of(registry.url)
        publish(registry, YAML)
        reference, credentials = f"{registry.host}/acme/triage:v1", StaticCredentials({registry.host: ADA})
        await pull_anew(tmp_path, reference, credentials)
    profile = PROFILES[now]
    users = None if profile.authentication == "none" else USERS
    async with EmbeddedRegistry(port, profile=profile, users=users) as registry:
        publish(registry, YAML)
        first, later = TURNS[now]
        # The realm of before is a path that nobody knows now.
        await pull_anew(tmp_path, reference, credentials)
        kinds = ["GET token" if kind not in PULLED else kind for kind in registry.summary()]
        assert kinds == first.split(", ")
        registry.clear_requests()
        for _ in range(2):
            await pull_anew(tmp_path, reference, credentials)
            check(registry, later)


async def test_a_token_service_that_moved(tmp_path: Path) -> None:
    async with with_users(DOCKER_HUB) as registry:
        port, before = port_of(registry.url), port_of(registry.token_url)
        publish(registry, YAML)
        reference, credentials = f"{registry.host}/acme/triage:v1", StaticCredentials({registry.host: ADA})
        await pull_anew(tmp_path, reference, credentials)
    with socket.socket() as taken:  # and nobody listens
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", before))
        async with EmbeddedRegistry(port, profile=DOCKER_HUB, users=USERS) as registry:
            publish(registry, YAML)
            for budget in (TOKEN + ELSEWHERE, KNOWN + ELSEWHERE):
                await pull_anew(tmp_path, reference, credentials)
                check(registry, budget)


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


PULLED = {"GET manifest", "GET blob", "GET storage"}


def shown(registry: EmbeddedRegistry) -> set[bytes]:
    """What proved who was asking: passwords as they are sent, and tokens."""
    proofs = (request.headers.get("Authorization", "").partition(" ")[2] for request in registry.requests)
    return {proof.encode() for proof in proofs if proof}


def none_is_kept_in(directory: Path, secrets: set[bytes]) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any(b"acme/secret" in path.read_bytes() for path in files), "something is kept"
    assert [(path, secret) for path in files for secret in {b"planted", *secrets} if secret in path.read_bytes()] == []


# Who saw what.


def proofs(requests: list[RecordedRequest], *, at: str, kinds: Callable[[str], bool]) -> set[str]:
    """The kinds of proof that an origin was shown: "basic", "bearer", "" for none."""
    seen = [request for request in requests if request.origin == at and kinds(request.kind)]
    return {request.headers.get("Authorization", "").partition(" ")[0].lower() for request in seen}


@WITH_USERS
async def test_each_origin_sees_what_is_for_it_and_no_more(profile: Profile) -> None:
    async with with_users(profile) as registry, logged_in(registry) as client:
        publish(registry, YAML)
        publish(registry, YAML, "acme/secret")
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        await client.pull_agent(f"{registry.host}/acme/secret:v1")
        await client.push_agent(YAML, f"{registry.host}/acme/mine:v1")
        assert [tag async for tag in client.tags(f"{registry.host}/acme/secret")] == ["v1"]
        requests = registry.requests
        scheme = "bearer" if profile.authentication == "bearer" else "basic"
        api = partial(proofs, requests, at=registry.url)
        assert api(kinds=lambda kind: kind not in ("token", "storage")) == {"", scheme}
        if profile.authentication == "bearer":
            assert proofs(requests, at=registry.token_url, kinds=lambda kind: kind == "token") == {"basic"}
            assert all(request.headers["Authorization"] == BASIC for request in requests if request.kind == "token")
        if profile.redirect is not None and profile.redirect.is_elsewhere:
            assert registry.storage_url != registry.url
            assert proofs(requests, at=registry.storage_url, kinds=lambda kind: True) == {""}
        for request in requests:
            shown = {name.lower() for name in request.headers}
            assert not shown & {"cookie", "referer", "proxy-authorization"}
            assert "planted-password" not in request.path + request.query
            assert request.kind == "storage" or "X-Signature" not in request.path + request.query


async def test_a_credential_is_for_one_registry_only() -> None:
    async with with_users(GHCR) as mine, with_users(GHCR) as other, logged_in(mine) as client:
        for registry in (mine, other):
            publish(registry, YAML, "acme/secret")
        await client.pull_agent(f"{mine.host}/acme/secret:v1")
        with pytest.raises(Denied):
            await client.pull_agent(f"{other.host}/acme/secret:v1")
        assert other.credentials == []
        assert {seen.scheme for seen in mine.credentials} == {"basic", "bearer"}


# What each kind is known for.


async def test_docker_hub_counts_get_and_not_head() -> None:
    strict = replace(DOCKER_HUB, rate_limit=RateLimit(anonymous=1, user=2))
    async with with_users(strict) as registry, anonymous() as client:
        publish(registry, YAML)
        for _ in range(5):
            await client.pull_agent(f"{registry.host}/acme/triage:v1", fallback="never")
        with pytest.raises(RateLimited):
            await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, fallback="never")
        stale = await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True)
        assert stale.origin == "stale"


async def test_docker_hub_is_shown_a_costly_credential_once_the_limit_of_strangers_is_used_up() -> None:
    strict = replace(DOCKER_HUB, rate_limit=RateLimit(anonymous=1, user=1))
    async with with_users(strict) as registry:
        publish(registry, YAML, inline=True)
        async with Client(MemoryStore(), credentials=Helper({registry.host: ADA})) as client:
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
            assert [seen.scheme for seen in registry.credentials] == ["bearer"]
            check(registry, "GET manifest, GET token, GET manifest")
            await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, fallback="never")
            assert [request.status for request in registry.requests] == [429, 200, 200]
            check(registry, "GET manifest, GET token, GET manifest")


async def test_ghcr_is_asked_for_what_is_needed_and_never_for_its_placeholder() -> None:
    async with with_users(GHCR) as registry, anonymous() as client:
        publish(registry, YAML)
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert asked_scopes(registry) == [[PULL]]


async def test_ecr_names_no_digest_with_what_it_gives() -> None:
    async with with_users(ECR) as registry, logged_in(registry) as client:
        digest = publish(registry, YAML, inline=True)
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).digest == digest
        assert str((await client.resolve(f"{registry.host}/acme/triage:v1")).digest) == digest


@pytest.mark.parametrize("profile", [GAR, GHCR, QUAY, HARBOR], ids=lambda profile: profile.name)
async def test_a_token_service_that_grants_nothing_by_post_is_asked_by_get(profile: Profile) -> None:
    both = Credential("ada", "planted-password", identity_token="planted-identity")
    async with with_users(profile) as registry, logged_in(registry, both) as client:
        publish(registry, YAML, "acme/secret", inline=True)
        await client.pull_agent(f"{registry.host}/acme/secret:v1")
        statuses = [request.status for request in registry.requests if request.kind == "token"]
        assert statuses == [404 if profile is GAR else 405, 200]
        check(registry, "GET manifest, POST token, GET token, GET manifest")


@pytest.mark.parametrize("profile", [ACR, DOCKER_HUB], ids=lambda profile: profile.name)
async def test_an_identity_token_is_a_refresh_grant(profile: Profile) -> None:
    async with with_users(profile) as registry:
        credential = Credential(identity_token=registry.identity_token("ada"))
        async with logged_in(registry, credential) as client:
            publish(registry, YAML, "acme/secret", inline=True)
            await client.pull_agent(f"{registry.host}/acme/secret:v1")
            check(registry, "GET manifest, POST token, GET manifest")


async def test_acr_refuses_an_old_identity_token_with_400_and_takes_the_password() -> None:
    both = Credential("ada", "planted-password", identity_token="planted-old-identity")
    async with with_users(ACR) as registry, logged_in(registry, both) as client:
        publish(registry, YAML, "acme/secret", inline=True)
        await client.pull_agent(f"{registry.host}/acme/secret:v1")
        assert [request.status for request in registry.requests] == [401, 400, 200, 200]


@pytest.mark.parametrize("profile", [DOCKER_HUB, GAR, HARBOR], ids=lambda profile: profile.name)
async def test_an_old_identity_token_does_not_keep_anybody_from_what_is_public(profile: Profile) -> None:
    old = Credential(identity_token="planted-old-identity")
    async with with_users(profile) as registry, logged_in(registry, old) as client:
        publish(registry, YAML, inline=True)
        publish(registry, YAML, "acme/secret")
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        check(registry, "GET manifest, POST token, GET token, GET manifest")
        with pytest.raises(Unauthorized):
            await client.pull_agent(f"{registry.host}/acme/secret:v1")


async def test_an_old_identity_token_is_told_where_nothing_is_public() -> None:
    old = Credential(identity_token="planted-old-identity")
    async with with_users(ACR) as registry, logged_in(registry, old) as client:
        publish(registry, YAML)
        with pytest.raises(Unauthorized) as caught:
            await client.push_agent(YAML, f"{registry.host}/acme/mine:v1")
        check(registry, "HEAD blob, POST token")
        assert "identity token" in caught.value.message
        assert "log in" in caught.value.hint
        assert "planted" not in str(caught.value)


async def test_harbor_gets_none_of_its_cookies_back() -> None:
    async with with_users(HARBOR) as registry, logged_in(registry) as client:
        publish(registry, YAML)
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        await client.push_agent(YAML, f"{registry.host}/acme/mine:v1")
        assert not any("Cookie" in request.headers for request in registry.requests)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ],
)
async def test_distribution_serves_every_type_that_there_is(media_type: str) -> None:
    async with open_to_all(DISTRIBUTION) as registry, anonymous() as client:
        digest = registry.add_manifest("acme/triage", b'{"schemaVersion":2}', media_type, "v1")
        assert str((await client.resolve(f"{registry.host}/acme/triage:v1")).digest) == digest


async def test_artifactory_answers_head_without_a_digest_and_an_agent_that_moved_is_noticed() -> None:
    async with with_users(ARTIFACTORY) as registry, logged_in(registry) as client:
        publish(registry, YAML, inline=True)
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        registry.clear_requests()
        moved = registry.add_manifest("acme/triage", manifest(YAML + b"#2", ANNOTATED, inline=True), MANIFEST, "v1")
        agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert (agent.digest, agent.origin) == (moved, "registry")
        check(registry, TWICE)


async def test_a_registry_without_head_is_asked_by_get() -> None:
    async with open_to_all(replace(PROFILES["plain"], has_head=False)) as registry, anonymous() as client:
        publish(registry, YAML, inline=True)
        for _ in range(2):
            await client.pull_agent(f"{registry.host}/acme/triage:v1", fallback="never")
        check(registry, "GET manifest, HEAD manifest, GET manifest")


@WITH_USERS
async def test_an_old_password_does_not_keep_anybody_from_what_is_public(profile: Profile) -> None:
    wrong = Credential("ada", "planted-old-password")
    async with with_users(profile) as registry, logged_in(registry, wrong) as client:
        publish(registry, YAML, inline=True)
        if profile.serves_anybody:
            assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML
        else:
            with pytest.raises(Unauthorized) as caught:
                await client.pull_agent(f"{registry.host}/acme/triage:v1")
            assert "planted" not in str(caught.value)
