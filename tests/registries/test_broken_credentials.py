"""Credentials that are configured and can't be had: whoever is refused for want of them is told why."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from artifacts import publish

from lading import Client, MemoryStore, Retry
from lading.auth.credentials import Credential, DockerConfig, StaticCredentials
from lading.errors import CredentialError, Denied, NotFound, RateLimited, RegistryError, Unauthorized
from lading.testing import PROFILES, EmbeddedRegistry, Profile
from lading.testing.profiles import ACR, DOCKER_HUB, GHCR, RateLimit

YAML = b"agents:\n  root: {}\n"
USERS = {"ada": "planted-password"}
PRIVATE = [profile for profile in PROFILES.values() if profile.authentication != "none"]
WHY = "docker-credential-desktop took longer than 10 s"

Verb = Callable[[Client, str], Awaitable[object]]


class Broken:
    """A credential helper that never answers."""

    async def credential(self, host: str) -> Credential | None:
        raise CredentialError(WHY, hint="start Docker Desktop")

    async def is_costly(self, host: str) -> bool:
        return True

    def forget(self, host: str) -> None: ...


async def list_tags(client: Client, reference: str) -> None:
    async for _ in client.tags(reference):
        pass


VERBS: dict[str, Verb] = {
    "pull": lambda client, reference: client.pull_agent(reference),
    "resolve": lambda client, reference: client.resolve(reference),
    "tags": list_tags,
    "push": lambda client, reference: client.push_agent(YAML, reference),
    "delete": lambda client, reference: client.delete(reference),
}


def private(profile: Profile) -> EmbeddedRegistry:
    return EmbeddedRegistry(profile=profile, users=USERS, private={"acme/secret"})


def hint(host: str) -> str:
    return f"the credentials of {host} couldn't be used: {WHY} (start Docker Desktop)"


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("profile", PRIVATE, ids=lambda profile: profile.name)
async def test_who_is_refused_is_told_which_credentials_are_missing(profile: Profile, verb: Verb) -> None:
    async with (
        private(profile) as registry,
        Client(MemoryStore(), credentials=Broken(), retry=Retry(attempts=1)) as client,
    ):
        publish(registry, YAML, "acme/secret")
        for _ in range(2):
            with pytest.raises((Unauthorized, Denied)) as caught:
                await verb(client, f"{registry.host}/acme/secret:v1")
            assert caught.value.hint == hint(registry.host)


async def test_everybody_who_waits_for_one_refusal_is_told_once() -> None:
    async with (
        private(ACR) as registry,
        Client(MemoryStore(), credentials=Broken(), retry=Retry(attempts=1)) as client,
    ):
        publish(registry, YAML, "acme/secret")
        hints: list[str] = []

        async def one(number: int) -> None:
            with pytest.raises(RegistryError) as caught:
                await client.pull_agent(f"{registry.host}/acme/secret:v{number}")
            hints.append(caught.value.hint)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(one, number)
        assert hints == [hint(registry.host)] * 10


async def test_a_rate_limit_of_strangers_says_both() -> None:
    strict = replace(DOCKER_HUB, rate_limit=RateLimit(anonymous=1, user=5))
    async with (
        EmbeddedRegistry(profile=strict, users=USERS) as registry,
        Client(MemoryStore(), credentials=Broken(), retry=Retry(attempts=1)) as client,
    ):
        publish(registry, YAML, inline=True)
        await client.pull_agent(f"{registry.host}/acme/triage:v1")
        with pytest.raises(RateLimited) as caught:
            await client.pull_agent(f"{registry.host}/acme/triage:v1", force=True, fallback="never")
        assert caught.value.hint.startswith("wait, or sign in")
        assert caught.value.hint.endswith(hint(registry.host))


async def test_what_is_not_there_has_nothing_to_do_with_it() -> None:
    async with (
        private(GHCR) as registry,
        Client(MemoryStore(), credentials=Broken(), retry=Retry(attempts=1)) as client,
    ):
        publish(registry, YAML)
        with pytest.raises(Denied):
            await client.push_agent(YAML, f"{registry.host}/acme/mine:v1")
        with pytest.raises(NotFound) as caught:
            await client.pull_agent(f"{registry.host}/acme/triage:v2")
        assert "credentials" not in caught.value.hint


async def test_a_failure_is_of_one_registry() -> None:
    class Half(Broken):
        async def credential(self, host: str) -> Credential | None:
            return await super().credential(host) if host == broken.host else None

    async with (
        private(DOCKER_HUB) as broken,
        private(DOCKER_HUB) as other,
        Client(MemoryStore(), credentials=Half(), retry=Retry(attempts=1)) as client,
    ):
        hints = []
        for registry in (broken, other):
            publish(registry, YAML, "acme/secret")
            with pytest.raises(Unauthorized) as caught:
                await client.pull_agent(f"{registry.host}/acme/secret:v1")
            hints.append(caught.value.hint)
        assert hints == [hint(broken.host), f"sign in with lading login {other.host}, or check the credentials"]


async def test_the_details_of_the_refusal_stay() -> None:
    async with (
        private(DOCKER_HUB) as registry,
        Client(MemoryStore(), credentials=Broken(), retry=Retry(attempts=1)) as client,
    ):
        publish(registry, YAML, "acme/secret")
        with pytest.raises(Unauthorized) as caught:
            await client.pull_agent(f"{registry.host}/acme/secret:v1")
        error = caught.value
        assert (error.method, error.status, error.codes) == ("GET", 401, ("UNAUTHORIZED",))
        assert error.url == f"{registry.url}/v2/acme/secret/manifests/v1"
        assert f"{registry.host}/acme/secret:v1: GET answered 401" in error.message


async def test_an_old_password_is_named_where_something_else_is_refused_later() -> None:
    async with private(DOCKER_HUB) as registry:
        credentials = StaticCredentials({registry.host: Credential("ada", "planted-old-password")})
        async with Client(MemoryStore(), credentials=credentials, retry=Retry(attempts=1)) as client:
            publish(registry, YAML, "acme/secret")
            with pytest.raises(Unauthorized) as caught:
                await client.pull_agent(f"{registry.host}/acme/secret:v1")
        assert caught.value.hint.startswith(f"the credentials of {registry.host} couldn't be used: ")
        assert "token server" in caught.value.hint
        assert "log in again" in caught.value.hint
        assert "planted" not in str(caught.value)


async def test_a_helper_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    config = tmp_path / "config.json"
    config.write_text('{"credsStore": "nowhere-to-be-found"}')
    credentials = DockerConfig([config], {"PATH": str(tmp_path)})
    async with (
        private(DOCKER_HUB) as registry,
        Client(MemoryStore(), credentials=credentials, retry=Retry(attempts=1)) as client,
    ):
        publish(registry, YAML, "acme/secret")
        with pytest.raises(Unauthorized, match="docker-credential-nowhere-to-be-found"):
            await client.pull_agent(f"{registry.host}/acme/secret:v1")
