"""Deletion over HTTP: distribution-spec v1.1, "Content Management"."""

from __future__ import annotations

import hashlib

import aiohttp
import pytest

from lading.testing import EmbeddedRegistry

REPOSITORY = "acme/triage"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
UNKNOWN = "sha256:" + "0" * 64
RAW = b'{"schemaVersion":2}'


async def status(http: aiohttp.ClientSession, path: str, method: str = "GET") -> int:
    async with http.request(method, f"/v2/{path}") as response:
        return response.status


async def tags(http: aiohttp.ClientSession) -> list[str]:
    async with http.get(f"/v2/{REPOSITORY}/tags/list") as response:
        found: list[str] = (await response.json())["tags"]
        return found


async def test_a_manifest_goes_with_its_tags(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
    registry.add_manifest(REPOSITORY, RAW, IMAGE, "V1")
    other = registry.add_manifest(REPOSITORY, b"{}", IMAGE, "v2")
    assert await status(http, f"{REPOSITORY}/manifests/{digest}", "DELETE") == 202
    assert await status(http, f"{REPOSITORY}/manifests/{digest}") == 404
    assert await status(http, f"{REPOSITORY}/manifests/v1") == 404
    assert await status(http, f"{REPOSITORY}/manifests/{other}") == 200
    assert await tags(http) == ["v2"]


async def test_a_tag_goes_alone(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
    registry.add_manifest(REPOSITORY, RAW, IMAGE, "v2")
    assert await status(http, f"{REPOSITORY}/manifests/v1", "DELETE") == 202
    assert await status(http, f"{REPOSITORY}/manifests/v1") == 404
    assert await status(http, f"{REPOSITORY}/manifests/{digest}") == 200
    assert await tags(http) == ["v2"]


async def test_a_blob_goes_from_one_repository(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_blob(REPOSITORY, b"layer")
    registry.add_blob("acme/other", b"layer")
    assert await status(http, f"{REPOSITORY}/blobs/{digest}", "DELETE") == 202
    assert await status(http, f"{REPOSITORY}/blobs/{digest}") == 404
    async with http.get(f"/v2/acme/other/blobs/{digest}") as response:
        assert await response.read() == b"layer"


async def test_a_manifest_of_another_repository_stays(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    for repository in (REPOSITORY, "acme/other"):
        digest = registry.add_manifest(repository, RAW, IMAGE, "v1")
    assert await status(http, f"{REPOSITORY}/manifests/{digest}", "DELETE") == 202
    assert await status(http, "acme/other/manifests/v1") == 200


async def test_a_repository_without_manifests_leaves_the_catalog(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    digest = registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
    registry.add_manifest("acme/other", RAW, IMAGE)
    await status(http, f"{REPOSITORY}/manifests/{digest}", "DELETE")
    assert await tags(http) == []
    async with http.get("/v2/_catalog") as response:
        assert await response.json() == {"repositories": ["acme/other"]}


async def test_what_was_deleted_can_be_pushed_again(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_blob(REPOSITORY, b"layer")
    await status(http, f"{REPOSITORY}/blobs/{digest}", "DELETE")
    params = {"digest": digest}
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=params, data=b"layer") as response:
        assert response.status == 201
    assert await status(http, f"{REPOSITORY}/blobs/{digest}") == 200


@pytest.mark.parametrize(
    ("path", "expected", "code"),
    [
        (f"{REPOSITORY}/manifests/v2", 404, "MANIFEST_UNKNOWN"),
        (f"{REPOSITORY}/manifests/.not-a-tag", 404, "MANIFEST_UNKNOWN"),
        (f"{REPOSITORY}/manifests/{UNKNOWN}", 404, "MANIFEST_UNKNOWN"),
        (f"{REPOSITORY}/manifests/sha256:12", 400, "DIGEST_INVALID"),
        (f"{REPOSITORY}/blobs/{UNKNOWN}", 404, "BLOB_UNKNOWN"),
        (f"{REPOSITORY}/blobs/sha256:{hashlib.sha256(b'theirs').hexdigest()}", 404, "BLOB_UNKNOWN"),
        (f"{REPOSITORY}/blobs/sha256:12", 400, "DIGEST_INVALID"),
        ("acme/nobody/manifests/v1", 404, "NAME_UNKNOWN"),
        (f"acme/nobody/manifests/{UNKNOWN}", 404, "NAME_UNKNOWN"),
        (f"acme/nobody/blobs/{UNKNOWN}", 404, "NAME_UNKNOWN"),
        ("Acme/manifests/v1", 400, "NAME_INVALID"),
    ],
)
async def test_what_is_not_there_cannot_be_deleted(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, path: str, expected: int, code: str
) -> None:
    registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
    registry.add_blob("acme/other", b"theirs")
    async with http.delete(f"/v2/{path}") as response:
        assert response.status == expected
        assert (await response.json())["errors"][0]["code"] == code
