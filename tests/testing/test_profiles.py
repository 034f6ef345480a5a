"""The embedded registry's profiles as any client sees them: each kind's own manners, over real HTTP."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import aiohttp
import pytest
from yarl import URL

from lading.testing import PROFILES, DirectoryContent, EmbeddedRegistry, Profile
from lading.testing.content import BlobReader
from lading.testing.profiles import (
    ACR,
    ARTIFACTORY,
    DISTRIBUTION,
    DOCKER_HUB,
    ECR,
    GAR,
    GHCR,
    HARBOR,
    PLAIN,
    QUAY,
    Pages,
    RateLimit,
    Redirect,
)

IMAGE = "application/vnd.oci.image.manifest.v1+json"
RAW = b'{"schemaVersion":2}'
BLOB = b"agents: {}\n"
REPOSITORY = "acme/triage"
PULL = f"repository:{REPOSITORY}:pull"
MANIFEST = f"/v2/{REPOSITORY}/manifests/v1"
USERS = {"ada": "secret"}
UNKNOWN = "sha256:" + "0" * 64


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


ADA = basic("ada", "secret")
EVERY = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
WITH_TOKENS = pytest.mark.parametrize(
    "profile", [one for one in PROFILES.values() if one.authentication == "bearer"], ids=lambda one: one.name
)


class Clock:
    """Time that goes on when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Reply:
    """A response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    async def of(cls, response: aiohttp.ClientResponse) -> Reply:
        return cls(response.status, response.headers, await response.read())

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["errors"][0]["code"])


@asynccontextmanager
async def running(profile: Profile, **options: Any) -> AsyncIterator[tuple[EmbeddedRegistry, aiohttp.ClientSession]]:
    """A registry that holds an image and a blob, and a client that follows nothing and keeps no cookies."""
    async with EmbeddedRegistry(profile=profile, **options) as registry:
        registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
        registry.add_blob(REPOSITORY, BLOB)
        async with aiohttp.ClientSession(registry.url, cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield registry, http


async def get(http: aiohttp.ClientSession, url: str, method: str = "GET", **options: Any) -> Reply:
    async with http.request(method, URL(url, encoded=True), allow_redirects=False, **options) as response:
        return await Reply.of(response)


def challenge(response: Reply) -> dict[str, str]:
    assert response.status == 401
    header = response.headers["WWW-Authenticate"]
    assert header.startswith("Bearer ")
    return dict(re.findall(r'(\w+)="([^"]*)"', header))


async def ask(
    http: aiohttp.ClientSession,
    asked: dict[str, str],
    *scopes: str,
    auth: dict[str, str] | None = None,
) -> Reply:
    query = [("service", asked["service"]), *(("scope", scope) for scope in scopes)]
    async with http.get(asked["realm"], params=query, headers=auth) as response:
        return await Reply.of(response)


async def bearer(http: aiohttp.ClientSession, *scopes: str, auth: dict[str, str] | None = None) -> dict[str, str]:
    """The header that a token for `scopes` is."""
    response = await ask(http, challenge(await get(http, "/v2/")), *scopes, auth=auth)
    assert response.status == 200
    body = response.json()
    return {"Authorization": f"Bearer {body.get('token') or body['access_token']}"}


async def proof(http: aiohttp.ClientSession, profile: Profile, scope: str = PULL) -> dict[str, str]:
    return await bearer(http, scope) if profile.authentication == "bearer" else {}


# Profiles are data.


def test_a_profile_is_a_value() -> None:
    assert PROFILES["ghcr"] is GHCR
    assert EmbeddedRegistry(profile=replace(GHCR, cookie="sid")).intercept is None
    with pytest.raises(FrozenInstanceError):
        GHCR.cookie = "sid"  # type: ignore[misc]
    with pytest.raises(TypeError):
        PROFILES["mine"] = PLAIN  # type: ignore[index]


async def test_plain_has_no_users_tokens_or_storage() -> None:
    for options in ({"users": USERS}, {"private": {"acme/secret"}}):
        with pytest.raises(ValueError, match="has no users"):
            EmbeddedRegistry(**options)
    async with running(PLAIN) as (registry, http):
        for use in (lambda: registry.token_url, lambda: registry.storage_url, registry.expire_tokens):
            with pytest.raises(RuntimeError, match="profile"):
                use()
        assert (await get(http, MANIFEST)).status == 200
        assert [request.origin for request in registry.requests] == [registry.url]


# Tokens.


@WITH_TOKENS
async def test_a_token_is_good_for_its_scopes(profile: Profile) -> None:
    async with running(profile, users=USERS, private={"acme/secret"}) as (registry, http):
        refused = await get(http, MANIFEST)
        asked = challenge(refused)
        assert asked["realm"] == registry.token_url + profile.tokens.path
        assert (asked["service"], asked["scope"]) == (profile.tokens.service, PULL)
        assert "error" not in asked
        headers = await bearer(http, PULL, auth=ADA)
        assert (await get(http, MANIFEST, headers=headers)).status == 200
        assert (await get(http, "/v2/", headers=headers)).status == 200
        other = challenge(await get(http, "/v2/acme/other/tags/list", headers=headers))
        assert (other["scope"], other["error"]) == ("repository:acme/other:pull", "insufficient_scope")
        pushing = challenge(await get(http, f"/v2/{REPOSITORY}/blobs/uploads/", "POST", headers=headers))
        assert pushing["scope"] == f"repository:{REPOSITORY}:pull,push"
        deleting = challenge(await get(http, MANIFEST, "DELETE", headers=headers))
        assert deleting["scope"] == f"repository:{REPOSITORY}:delete"
        assert registry.token_requests == 1
        assert [request.origin for request in registry.requests if request.kind == "token"] == [registry.token_url]
        assert (registry.token_url != registry.url) == profile.tokens.is_elsewhere


async def test_a_mount_needs_to_read_where_it_comes_from() -> None:
    async with running(QUAY, users=USERS) as (_, http):
        path = f"/v2/acme/mine/blobs/uploads/?mount={UNKNOWN}&from={REPOSITORY}"
        scope = challenge(await get(http, path, "POST"))["scope"]
        assert scope == f"repository:acme/mine:pull,push {PULL}"
        headers = await bearer(http, scope, auth=ADA)
        assert (await get(http, path, "POST", headers=headers)).status == 202


async def test_several_scopes_in_one_token() -> None:
    async with running(QUAY, users=USERS) as (registry, http):
        registry.add_manifest("acme/other", RAW, IMAGE, "v1")
        headers = await bearer(http, PULL, "repository:acme/other:pull", auth=ADA)
        for repository in (REPOSITORY, "acme/other"):
            assert (await get(http, f"/v2/{repository}/manifests/v1", headers=headers)).status == 200


@WITH_TOKENS
async def test_strangers_read_what_is_public(profile: Profile) -> None:
    async with running(profile, users=USERS, private={"acme/secret"}) as (registry, http):
        asked = challenge(await get(http, "/v2/"))
        registry.add_manifest("acme/secret", RAW, IMAGE, "v1")
        answer = await ask(http, asked, PULL)
        assert answer.status == (200 if profile.serves_anybody else 401)
        secret = await ask(http, asked, "repository:acme/secret:pull")
        if secret.status == 200:
            body = secret.json()
            headers = {"Authorization": f"Bearer {body['token']}"}
            assert (await get(http, "/v2/acme/secret/manifests/v1", headers=headers)).status == 401
        assert secret.status == (403 if profile is GHCR else answer.status)
        ours = await bearer(http, "repository:acme/secret:pull", auth=ADA)
        assert (await get(http, "/v2/acme/secret/manifests/v1", headers=ours)).status == 200


@WITH_TOKENS
async def test_a_wrong_password_gets_no_token(profile: Profile) -> None:
    async with running(profile, users=USERS) as (_, http):
        asked = challenge(await get(http, "/v2/"))
        for auth in (basic("ada", "wrong"), basic("bob", "secret")):
            assert (await ask(http, asked, PULL, auth=auth)).status == 401


@WITH_TOKENS
async def test_without_users_everything_is_everybodys(profile: Profile) -> None:
    async with running(profile) as (_, http):
        headers = await bearer(http, f"repository:{REPOSITORY}:pull,push,delete", "registry:catalog:*")
        for path in (MANIFEST, "/v2/_catalog"):
            assert (await get(http, path, headers=headers)).status == 200
        assert (await get(http, MANIFEST, "DELETE", headers=headers)).status == 202


async def test_the_catalog_is_for_users() -> None:
    async with running(QUAY, users=USERS) as (_, http):
        catalog = "registry:catalog:*"
        assert challenge(await get(http, "/v2/_catalog"))["scope"] == catalog
        assert (await get(http, "/v2/_catalog", headers=await bearer(http, catalog))).status == 401
        assert (await get(http, "/v2/_catalog", headers=await bearer(http, catalog, auth=ADA))).status == 200


@WITH_TOKENS
async def test_a_token_ends(profile: Profile) -> None:
    clock = Clock()
    async with running(profile, clock=clock) as (registry, http):
        headers = await bearer(http, PULL)
        clock.now += profile.tokens.lifetime - 1
        assert (await get(http, MANIFEST, headers=headers)).status == 200
        clock.now += 1
        assert challenge(await get(http, MANIFEST, headers=headers))["error"] == "invalid_token"
        headers = await bearer(http, PULL)
        registry.expire_tokens()
        assert challenge(await get(http, MANIFEST, headers=headers))["error"] == "invalid_token"


@WITH_TOKENS
async def test_what_a_token_is_called_and_whether_its_life_is_told(profile: Profile) -> None:
    async with running(profile) as (_, http):
        body = (await ask(http, challenge(await get(http, "/v2/")), PULL)).json()
        named = {"token", "access_token"} & set(body)
        assert named == {ACR: {"access_token"}, DOCKER_HUB: {"token", "access_token"}}.get(
            profile, {"token", "access_token"} if profile is HARBOR else {"token"}
        )
        assert ("expires_in" in body) == (profile not in (GHCR, ACR))


@WITH_TOKENS
async def test_grants_by_post(profile: Profile) -> None:
    async with running(profile, users=USERS) as (registry, http):
        asked = challenge(await get(http, "/v2/"))
        refresh = {"grant_type": "refresh_token", "refresh_token": registry.identity_token("ada"), "scope": PULL}
        password = {"grant_type": "password", "username": "ada", "password": "secret", "scope": PULL}
        stale = {"grant_type": "refresh_token", "refresh_token": "unknown", "scope": PULL}
        statuses = [(await get(http, asked["realm"], "POST", data=form)).status for form in (refresh, password, stale)]
        assert statuses == {
            "docker-hub": [200, 200, 400],
            "acr": [200, 400, 400],
            "gar": [404, 404, 404],
            "artifactory": [401, 401, 401],
        }.get(profile.name, [405, 405, 405])
        assert (await get(http, asked["realm"], "DELETE")).status == 405
        with pytest.raises(KeyError):
            registry.identity_token("bob")


async def test_the_refresh_grant_gives_what_its_user_may_have() -> None:
    async with running(ACR, users=USERS, private={REPOSITORY}) as (registry, http):
        asked = challenge(await get(http, MANIFEST))
        form = {"grant_type": "refresh_token", "refresh_token": registry.identity_token("ada"), "scope": asked["scope"]}
        registry.expire_tokens()  # identity tokens stay
        async with http.post(asked["realm"], data=form) as response:
            token = (await response.json())["access_token"]
        assert (await get(http, MANIFEST, headers={"Authorization": f"Bearer {token}"})).status == 200


async def test_ghcr_denies_whoever_asks_for_too_much() -> None:
    async with running(GHCR, users=USERS) as (_, http):
        asked = challenge(await get(http, "/v2/"))
        assert asked["scope"] == "repository:user/image:pull"  # a placeholder: nothing is there
        denied = await ask(http, asked, f"repository:{REPOSITORY}:pull,push")
        assert (denied.status, denied.code) == (403, "DENIED")
        assert (await ask(http, asked, PULL)).status == 200


async def test_others_grant_what_is_allowed_of_what_is_asked() -> None:
    async with running(QUAY, users=USERS) as (_, http):
        headers = await bearer(http, f"repository:{REPOSITORY}:pull,push")
        assert (await get(http, MANIFEST, headers=headers)).status == 200
        assert (await get(http, f"/v2/{REPOSITORY}/blobs/uploads/", "POST", headers=headers)).status == 401


# Passwords.


@pytest.mark.parametrize("profile", [ECR, DISTRIBUTION], ids=lambda profile: profile.name)
async def test_a_registry_that_takes_passwords(profile: Profile) -> None:
    headers = {"Accept": IMAGE}
    async with running(profile, users=USERS) as (registry, http):
        for path in ("/v2/", MANIFEST):
            refused = await get(http, path, headers=headers)
            assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
            assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
            assert (await get(http, path, headers={**headers, **ADA})).status == 200
            assert (await get(http, path, headers={**headers, **basic("ada", "no")})).status == 401
        for wrong in ("Basic", "Basic !", "Basic YWRh", "Basic /w==", "Bearer secret"):
            assert (await get(http, "/v2/", headers={"Authorization": wrong})).status == 401
        assert registry.token_requests == 0
    async with running(profile) as (_, http):
        assert (await get(http, "/v2/")).status == 200


async def test_a_wrong_password_is_refused_even_for_what_anybody_may_read() -> None:
    profile = replace(ECR, serves_anybody=True)
    async with running(profile, users=USERS, private={"acme/secret"}) as (_, http):
        assert (await get(http, MANIFEST)).status == 200
        assert (await get(http, MANIFEST, headers=basic("ada", "wrong"))).status == 401
        assert (await get(http, "/v2/acme/secret/tags/list")).status == 401
        assert (await get(http, MANIFEST, "DELETE")).status == 401


# What answers carry.


@EVERY
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_digest_of_a_manifest(profile: Profile, method: str) -> None:
    async with running(profile) as (_, http):
        headers = {"Accept": IMAGE, **await proof(http, profile)}
        answer = await get(http, MANIFEST, method, headers=headers)
        missing = {(ECR, "GET"), (ARTIFACTORY, "HEAD")}
        assert ("Docker-Content-Digest" in answer.headers) == ((profile, method) not in missing)
        assert answer.headers["Content-Length"] == str(len(RAW))


async def test_a_registry_without_head() -> None:
    async with running(replace(PLAIN, has_head=False)) as (_, http):
        assert (await get(http, MANIFEST, "HEAD")).status == 405
        assert (await get(http, MANIFEST)).status == 200


@pytest.mark.parametrize("profile", [GHCR, ECR, ACR, QUAY, DOCKER_HUB], ids=lambda profile: profile.name)
async def test_blobs_are_on_another_origin_that_wants_no_authorization(profile: Profile) -> None:
    async with running(profile) as (registry, http):
        digest = registry.add_blob(REPOSITORY, BLOB)
        headers = await proof(http, profile)
        path = f"/v2/{REPOSITORY}/blobs/{digest}"
        answer = await get(http, path, headers=headers)
        assert answer.status == (302 if profile is QUAY else 307)
        location = answer.headers["Location"]
        assert location.startswith(registry.storage_url + "/")
        assert registry.storage_url != registry.url
        assert (await get(http, location, headers={"Authorization": "Bearer planted"})).status == 400
        blob = await get(http, location)
        assert (blob.status, blob.body) == (200, BLOB)
        assert "Docker-Content-Digest" not in blob.headers
        assert (await get(http, location, "PUT")).status == 403
        assert (await get(http, location.replace("%3D", "%3d"))).status == 403  # quoted anew, it isn't what was signed
        assert (await get(http, location.partition("?")[0])).status == 403
        assert (await get(http, path, "HEAD", headers=headers)).status == (307 if profile is DOCKER_HUB else 200)
        assert (await get(http, f"/v2/{REPOSITORY}/blobs/{UNKNOWN}", headers=headers)).status == 404
        assert (await get(http, registry.storage_url + MANIFEST)).status == 404


async def test_gar_sends_for_blobs_to_a_relative_location() -> None:
    async with running(GAR) as (registry, http):
        digest = registry.add_blob(REPOSITORY, BLOB)
        answer = await get(http, f"/v2/{REPOSITORY}/blobs/{digest}", headers=await bearer(http, PULL))
        assert answer.status == 302
        assert answer.headers["Location"].startswith("/")
        assert (await get(http, answer.headers["Location"])).body == BLOB


async def test_a_signed_url_ends() -> None:
    clock = Clock()
    async with running(replace(PLAIN, redirect=Redirect(uses=2, seconds=60)), clock=clock) as (registry, http):
        path = f"/v2/{REPOSITORY}/blobs/{registry.add_blob(REPOSITORY, BLOB)}"
        location = (await get(http, path)).headers["Location"]
        assert [(await get(http, location)).status for _ in range(3)] == [200, 200, 403]
        location = (await get(http, path)).headers["Location"]
        clock.now += 60
        expired = await get(http, location)
        assert (expired.status, expired.code) == (403, "DENIED")


async def test_a_range_of_a_redirected_blob() -> None:
    async with running(ECR) as (registry, http):
        path = f"/v2/{REPOSITORY}/blobs/{registry.add_blob(REPOSITORY, BLOB)}"
        headers = {"Range": "bytes=2-4"}
        answer = await get(http, path, headers=headers)
        assert answer.status == 307
        part = await get(http, answer.headers["Location"], headers=headers)
        assert (part.status, part.body) == (206, BLOB[2:5])


async def test_a_large_blob_is_let_go_of_when_it_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = DirectoryContent(tmp_path)
    readers: list[Any] = []
    find = content.blob

    def noted(repository: str, digest: str) -> bytes | BlobReader:
        reader = find(repository, digest)
        assert not isinstance(reader, bytes)
        readers.append(mock.Mock(wraps=reader, size=reader.size))
        return cast(BlobReader, readers[-1])

    async with running(ECR, content=content) as (registry, http):
        data = bytes(3 * 1024 * 1024)
        path = f"/v2/{REPOSITORY}/blobs/{registry.add_blob(REPOSITORY, data)}"
        monkeypatch.setattr(content, "blob", noted)
        answer = await get(http, path)
        assert [(reader.read.called, reader.close.called) for reader in readers] == [(False, True)]
        assert (await get(http, answer.headers["Location"])).body == data


async def test_docker_hub_counts_get_and_tells_what_is_left() -> None:
    clock = Clock()
    strict = replace(DOCKER_HUB, rate_limit=RateLimit(anonymous=2, user=3, window=100))
    async with running(strict, users=USERS, clock=clock) as (_, http):
        nobody = await bearer(http, PULL)

        async def left(method: str, headers: dict[str, str]) -> tuple[int, str, str]:
            answer = await get(http, MANIFEST, method, headers=headers)
            return answer.status, answer.headers["RateLimit-Limit"], answer.headers["RateLimit-Remaining"]

        assert await left("HEAD", nobody) == (200, "2;w=100", "2;w=100")
        assert await left("GET", nobody) == (200, "2;w=100", "1;w=100")
        assert await left("GET", nobody) == (200, "2;w=100", "0;w=100")
        assert await left("GET", nobody) == (429, "2;w=100", "0;w=100")
        assert await left("HEAD", nobody) == (200, "2;w=100", "0;w=100")
        assert (await get(http, MANIFEST, headers=nobody)).code == "TOOMANYREQUESTS"
        assert await left("GET", await bearer(http, PULL, auth=ADA)) == (200, "3;w=100", "2;w=100")
        missing = await get(http, f"/v2/{REPOSITORY}/manifests/none", headers=await bearer(http, PULL, auth=ADA))
        assert missing.status == 404
        clock.now += 100
        assert await left("GET", nobody) == (200, "2;w=100", "1;w=100")


async def test_harbor_sets_a_cookie_and_takes_who_keeps_it_for_a_browser() -> None:
    async with running(HARBOR) as (_, http):
        answer = await get(http, "/v2/")
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("sid=")
        headers = await bearer(http, f"repository:{REPOSITORY}:pull,push")
        kept = {**headers, "Cookie": cookie.partition(";")[0]}
        path = f"/v2/{REPOSITORY}/blobs/uploads/"
        assert (await get(http, MANIFEST, headers=kept)).status == 200
        refused = await get(http, path, "POST", headers=kept)
        assert (refused.status, refused.code) == (403, "DENIED")
        assert (await get(http, path, "POST", headers=headers)).status == 202
        assert "Set-Cookie" in (await get(http, MANIFEST, headers=headers)).headers


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (IMAGE, 200),
        (f"application/json, {IMAGE};q=0.5", 200),
        ("*/*", 404),
        ("application/vnd.oci.image.index.v1+json", 404),
    ],
)
async def test_distribution_has_nothing_for_who_does_not_accept_its_type(accept: str, status: int) -> None:
    async with running(DISTRIBUTION) as (_, http):
        for method in ("GET", "HEAD"):
            assert (await get(http, MANIFEST, method, headers={"Accept": accept})).status == status


async def test_distribution_reads_all_lines_of_accept() -> None:
    async with running(DISTRIBUTION) as (_, http):
        lines = [("Accept", "application/json"), ("Accept", IMAGE)]
        assert (await get(http, MANIFEST, headers=lines)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_distribution_has_etags(method: str) -> None:
    async with running(DISTRIBUTION) as (registry, http):
        answer = await get(http, MANIFEST, method, headers={"Accept": IMAGE})
        etag = answer.headers["ETag"]
        assert etag == f'"{answer.headers["Docker-Content-Digest"]}"'
        known = await get(http, MANIFEST, method, headers={"Accept": IMAGE, "If-None-Match": etag})
        assert (known.status, known.body, known.headers["ETag"]) == (304, b"", etag)
        registry.add_manifest(REPOSITORY, RAW + b" ", IMAGE, "v1")
        moved = await get(http, MANIFEST, method, headers={"Accept": IMAGE, "If-None-Match": etag})
        assert moved.status == 200


# Where things are.


@EVERY
async def test_the_location_of_an_upload(profile: Profile) -> None:
    async with running(profile) as (registry, http):
        headers = await proof(http, profile, f"repository:{REPOSITORY}:pull,push")
        location = (await get(http, f"/v2/{REPOSITORY}/blobs/uploads/", "POST", headers=headers)).headers["Location"]
        is_absolute = profile in (DOCKER_HUB, ECR, HARBOR, DISTRIBUTION)
        assert location.startswith(registry.url + "/v2/" if is_absolute else "/v2/")
        assert ("?" in location) == (profile in (DOCKER_HUB, HARBOR, DISTRIBUTION))
        chunk = await get(http, location, "PATCH", headers=headers, data=b"{")
        assert chunk.status == 202
        location = chunk.headers["Location"]
        if "?" in location:
            lost = await get(http, location.partition("?")[0], "PATCH", headers=headers, data=b"}")
            assert (lost.status, lost.code) == (400, "BLOB_UPLOAD_INVALID")
        digest = registry.add_blob("acme/other", b"{}")
        target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        done = await get(http, target, "PUT", headers=headers, data=b"}")
        assert (done.status, done.headers["Docker-Content-Digest"]) == (201, digest)
        assert done.headers["Location"].startswith(registry.url if is_absolute else "/v2/")


@EVERY
async def test_tags_in_pages(profile: Profile) -> None:
    names = [f"v{number}" for number in range(1, 8)]
    small = replace(profile, pages=replace(profile.pages, limit=3))
    async with running(small) as (registry, http):
        for name in names:
            registry.add_manifest(REPOSITORY, RAW, IMAGE, name)
        headers = await proof(http, profile)
        url: str | None = f"/v2/{REPOSITORY}/tags/list?n=5"
        pages, links = [], []
        while url is not None:
            answer = await get(http, url, headers=headers)
            pages.append(answer.json()["tags"])
            link = answer.headers.get("Link")
            links += [link] if link else []
            found = re.fullmatch(r'<([^>]+)>; rel="next"', link) if link else None
            url = found[1] if found else None
        assert pages == [names[:3], names[3:6], names[6:]]
        is_opaque = profile in (ECR, QUAY)
        assert all(("last=" in link) != is_opaque for link in links)
        assert all(link.startswith(f"<{registry.url}/" if profile is ECR else "</v2/") for link in links)


async def test_a_cursor_that_nobody_gave_out_is_refused() -> None:
    async with running(replace(PLAIN, pages=Pages(is_opaque=True))) as (_, http):
        for cursor in ("v1", "djE=", "%FF"):
            assert (await get(http, f"/v2/{REPOSITORY}/tags/list?next_page={cursor}")).status == 400
        assert (await get(http, f"/v2/{REPOSITORY}/tags/list?n=x")).status == 400
        whole = await get(http, f"/v2/{REPOSITORY}/tags/list?last=v1")  # it only knows its own cursors
        assert whole.json()["tags"] == ["v1"]


# Its life.


async def test_every_origin_stays_where_it_is_over_stop_and_start() -> None:
    async with running(DOCKER_HUB) as (registry, http):
        origins = registry.url, registry.token_url, registry.storage_url
        assert len(set(origins)) == 3
        headers = await bearer(http, PULL)
        await registry.stop()
        for origin in origins:
            with pytest.raises(aiohttp.ClientConnectionError):
                await get(http, origin + "/")
        await registry.start()
        assert (registry.url, registry.token_url, registry.storage_url) == origins
        assert (await get(http, MANIFEST, headers=headers)).status == 200


async def test_a_port_that_is_taken_leaves_nothing_listening() -> None:
    async with EmbeddedRegistry(profile=DOCKER_HUB) as first:
        port = int(first.storage_url.rpartition(":")[2])
        second = EmbeddedRegistry(port=port, profile=DOCKER_HUB)
        with pytest.raises(OSError):
            await second.start()
        await second.stop()


@EVERY
async def test_what_is_no_endpoint_is_not_there(profile: Profile) -> None:
    async with running(profile) as (registry, http):
        answer = await get(http, "/elsewhere")
        assert (answer.status, answer.code) == (404, "UNSUPPORTED")
        assert registry.summary() == ["GET other"]
