"""The embedded registry as a client sees it: the distribution-spec over real HTTP, and what tests arrange."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from lading.testing import Content, EmbeddedRegistry, RecordedRequest

REPOSITORY = "acme/triage"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
UNKNOWN = "sha256:" + "0" * 64
BLOB = b"agents: {}\n"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def descriptor(data: bytes, media_type: str = "application/yaml") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(b"{}"),
        "layers": [descriptor(BLOB)],
    }
    return document | changes


def add_image(registry: EmbeddedRegistry, tag: str | None = "v1") -> tuple[str, bytes]:
    registry.add_blob(REPOSITORY, b"{}")
    registry.add_blob(REPOSITORY, BLOB)
    raw = json.dumps(image()).encode()
    return registry.add_manifest(REPOSITORY, raw, IMAGE, tag), raw


async def put_manifest(
    http: aiohttp.ClientSession, raw: bytes, reference: str = "v1", media_type: str = IMAGE
) -> tuple[int, str | None]:
    path = f"/v2/{REPOSITORY}/manifests/{reference}"
    async with http.put(path, data=raw, headers={"Content-Type": media_type}) as response:
        return response.status, None if response.status == 201 else await code(response)


async def code(response: aiohttp.ClientResponse) -> str:
    errors = (await response.json())["errors"]
    assert len(errors) == 1
    assert set(errors[0]) == {"code", "message", "detail"}
    return str(errors[0]["code"])


async def begin_upload(http: aiohttp.ClientSession, repository: str = REPOSITORY) -> str:
    async with http.post(f"/v2/{repository}/blobs/uploads/") as response:
        assert response.status == 202
        return response.headers["Location"]


# Pull.


async def test_ping(http: aiohttp.ClientSession) -> None:
    async with http.get("/v2/") as response:
        assert response.status == 200
        assert response.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_manifest_is_served_byte_for_byte_with_its_media_type(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, by: str
) -> None:
    digest, raw = add_image(registry)
    async with http.get(f"/v2/{REPOSITORY}/manifests/{'v1' if by == 'tag' else digest}") as response:
        assert response.status == 200
        assert await response.read() == raw
        assert response.headers["Content-Type"] == IMAGE
        assert response.headers["Docker-Content-Digest"] == digest


async def test_blob_is_served(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_blob(REPOSITORY, BLOB)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert response.status == 200
        assert await response.read() == BLOB
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Docker-Content-Digest"] == digest == digest_of(BLOB)


async def test_large_blob_is_served_whole(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    data = bytes(range(256)) * 4096 + b"tail"
    digest = registry.add_blob(REPOSITORY, data)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert response.headers["Content-Length"] == str(len(data))
        assert await response.read() == data


async def test_empty_blob_is_served(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_blob(REPOSITORY, b"")
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == "0"
        assert await response.read() == b""


@pytest.mark.parametrize("what", ["manifest", "small blob", "large blob", "unknown"])
async def test_head_has_the_headers_of_get_and_no_body(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, what: str
) -> None:
    add_image(registry)
    large = registry.add_blob(REPOSITORY, bytes(1_000_000))
    path = {
        "manifest": f"/v2/{REPOSITORY}/manifests/v1",
        "small blob": f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}",
        "large blob": f"/v2/{REPOSITORY}/blobs/{large}",
        "unknown": f"/v2/{REPOSITORY}/manifests/v2",
    }[what]
    async with http.get(path) as got, http.head(path) as headed:
        assert headed.status == got.status
        assert await headed.read() == b""
        assert headed.headers["Content-Length"] == str(len(await got.read()))
        for headers in (got.headers, headed.headers):
            assert "Transfer-Encoding" not in headers
        ignored = {"Date"}
        assert {k: v for k, v in headed.headers.items() if k not in ignored} == {
            k: v for k, v in got.headers.items() if k not in ignored
        }


async def test_percent_encoded_digest_is_understood(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_blob(REPOSITORY, BLOB)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest.replace(':', '%3A')}") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        (f"/v2/{REPOSITORY}/manifests/v2", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/{REPOSITORY}/manifests/{UNKNOWN}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/{REPOSITORY}/manifests/.not-a-tag", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/{REPOSITORY}/manifests/sha256:12", 400, "DIGEST_INVALID"),
        (f"/v2/{REPOSITORY}/blobs/{UNKNOWN}", 404, "BLOB_UNKNOWN"),
        (f"/v2/{REPOSITORY}/blobs/{UNKNOWN.upper()}", 400, "DIGEST_INVALID"),
        (f"/v2/{REPOSITORY}/blobs/md5:{'0' * 32}", 400, "DIGEST_INVALID"),
        (f"/v2/{REPOSITORY}/blobs/{UNKNOWN}%0A", 400, "DIGEST_INVALID"),
        (f"/v2/{REPOSITORY}/blobs/uploads/unknown", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/nobody/nothing/manifests/v1", 404, "NAME_UNKNOWN"),
        ("/v2/nobody/nothing/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/Upper/manifests/v1", 400, "NAME_INVALID"),
        ("/v2/a//b/manifests/v1", 400, "NAME_INVALID"),
        (f"/v2/{'a' * 256}/manifests/v1", 400, "NAME_INVALID"),
        ("/v1/_ping", 404, "UNSUPPORTED"),
    ],
)
async def test_what_is_not_there_is_refused(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, path: str, status: int, expected: str
) -> None:
    add_image(registry)
    async with http.get(URL(path, encoded=True)) as response:
        assert (response.status, await code(response)) == (status, expected)


async def test_a_blob_of_another_repository_is_unknown(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    add_image(registry)
    digest = registry.add_blob("acme/other", b"private")
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert (response.status, await code(response)) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"/v2/{REPOSITORY}/tags/list"),
        ("POST", f"/v2/{REPOSITORY}/blobs/{UNKNOWN}"),
        ("PUT", f"/v2/{REPOSITORY}/blobs/uploads/"),
        ("POST", f"/v2/{REPOSITORY}/blobs/uploads/some-upload"),
    ],
)
async def test_other_methods_are_unsupported(http: aiohttp.ClientSession, method: str, path: str) -> None:
    async with http.request(method, path) as response:
        assert (response.status, await code(response)) == (405, "UNSUPPORTED")


# Tags.


async def test_tags_are_listed_whole_and_sorted_without_regard_to_case(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    for tag in ("v2", "Beta", "v10", "alpha"):
        add_image(registry, tag)
    async with http.get(f"/v2/{REPOSITORY}/tags/list") as response:
        assert await response.json() == {"name": REPOSITORY, "tags": ["alpha", "Beta", "v10", "v2"]}
        assert "Link" not in response.headers


async def test_tags_come_in_pages_behind_relative_links(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    for number in range(5):
        add_image(registry, f"v{number}")
    path, pages = f"/v2/{REPOSITORY}/tags/list?n=2", []
    while path:
        async with http.get(path) as response:
            pages.append((await response.json())["tags"])
            link = response.headers.get("Link", "")
        assert not link or (link.startswith("</v2/") and link.endswith('>; rel="next"'))
        path = link[1:].partition(">")[0]
    assert pages == [["v0", "v1"], ["v2", "v3"], ["v4"]]


async def test_a_full_last_page_has_no_link(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    add_image(registry, "v1")
    add_image(registry, "v2")
    async with http.get(f"/v2/{REPOSITORY}/tags/list?n=2") as response:
        assert "Link" not in response.headers


async def test_tags_go_on_after_a_tag_that_is_gone(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    add_image(registry, "v1")
    add_image(registry, "v3")
    async with http.get(f"/v2/{REPOSITORY}/tags/list?last=v2") as response:
        assert (await response.json())["tags"] == ["v3"]


async def test_a_page_of_none_is_empty(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    add_image(registry)
    async with http.get(f"/v2/{REPOSITORY}/tags/list?n=0") as response:
        assert (await response.json())["tags"] == []
        assert "Link" not in response.headers


@pytest.mark.parametrize("size", ["-1", "x", "", "%D9%A1"])
async def test_a_page_size_that_is_no_number_is_refused(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, size: str
) -> None:
    add_image(registry)
    async with http.get(f"/v2/{REPOSITORY}/tags/list?n={size}") as response:
        assert response.status == 400


# Catalog.


async def test_the_catalog_comes_in_pages(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    for repository in ("b", "acme/triage", "acme", "acme/blobs/x"):
        registry.add_manifest(repository, b"{}", IMAGE)
    registry.add_blob("only/blobs", BLOB)
    path, pages = "/v2/_catalog?n=3", []
    while path:
        async with http.get(path) as response:
            pages.append((await response.json())["repositories"])
            path = response.headers.get("Link", "")[1:].partition(">")[0]
    assert pages == [["acme", "acme/blobs/x", "acme/triage"], ["b"]]
    assert registry.summary() == ["GET catalog"] * 2


async def test_the_catalog_of_an_empty_registry(http: aiohttp.ClientSession) -> None:
    async with http.get("/v2/_catalog") as response:
        assert (response.status, await response.json()) == (200, {"repositories": []})


async def test_the_catalog_goes_on_after_a_name(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    registry.add_manifest("a", b"{}", IMAGE)
    registry.add_manifest("c", b"{}", IMAGE)
    async with http.get("/v2/_catalog?last=b") as response:
        assert await response.json() == {"repositories": ["c"]}


# Read-only.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v2/{REPOSITORY}/blobs/uploads/"),
        ("PATCH", f"/v2/{REPOSITORY}/blobs/uploads/some-upload"),
        ("PUT", f"/v2/{REPOSITORY}/manifests/v1"),
        ("DELETE", f"/v2/{REPOSITORY}/manifests/v1"),
        ("DELETE", f"/v2/{REPOSITORY}/blobs/{UNKNOWN}"),
    ],
)
async def test_a_read_only_registry_serves_and_refuses_changes(content: Content, method: str, path: str) -> None:
    async with EmbeddedRegistry(content=content, writable=False) as registry:
        digest, raw = add_image(registry)
        async with aiohttp.ClientSession(registry.url) as http:
            async with http.request(method, path, data=b"") as response:
                assert (response.status, await code(response)) == (405, "UNSUPPORTED")
                assert response.headers["Allow"] == "GET, HEAD"
            async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as response:
                assert (await response.read(), response.headers["Docker-Content-Digest"]) == (raw, digest)


# Push: blobs.


async def test_post_then_put(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http)
    assert location.startswith(f"/v2/{REPOSITORY}/blobs/uploads/")
    async with http.put(location, params={"digest": digest_of(BLOB)}, data=BLOB) as response:
        assert response.status == 201
        assert response.headers["Docker-Content-Digest"] == digest_of(BLOB)
        blob = response.headers["Location"]
    async with http.get(blob) as response:
        assert await response.read() == BLOB


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_post_with_digest_uploads_in_one_request(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, algorithm: str
) -> None:
    digest = digest_of(BLOB, algorithm)
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest}", data=BLOB) as response:
        assert response.status == 201
        assert response.headers["Location"] == f"/v2/{REPOSITORY}/blobs/{digest}"
    async with http.head(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert response.status == 200


async def test_chunks_are_appended_in_order(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http)
    for start in (0, 4):
        headers = {"Content-Range": f"{start}-{start + 3}"}
        async with http.patch(location, data=BLOB[start : start + 4], headers=headers) as response:
            assert (response.status, response.headers["Range"]) == (202, f"0-{start + 3}")
            location = response.headers["Location"]
    async with http.get(location) as response:
        assert (response.status, response.headers["Range"]) == (204, "0-7")
    async with http.put(location, params={"digest": digest_of(BLOB)}, data=BLOB[8:]) as response:
        assert response.status == 201


@pytest.mark.parametrize("content_range", ["4-7", "0-4", "bytes 0-3", "nonsense"])
async def test_a_chunk_out_of_order_is_refused_with_where_to_go_on(
    http: aiohttp.ClientSession, content_range: str
) -> None:
    location = await begin_upload(http)
    headers = {"Content-Range": content_range}
    async with http.patch(location, data=b"four", headers=headers) as response:
        assert (response.status, await code(response)) == (416, "BLOB_UPLOAD_INVALID")
        assert response.headers["Location"] == location
        assert response.headers["Range"] == "0-0"


@pytest.mark.parametrize("digest", [UNKNOWN, "sha256:12", ""])
async def test_a_blob_with_another_digest_is_refused_and_not_kept(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, digest: str
) -> None:
    location = await begin_upload(http)
    async with http.put(location, params={"digest": digest}, data=BLOB) as response:
        assert (response.status, await code(response)) == (400, "DIGEST_INVALID")
    add_image(registry)
    async with http.head(f"/v2/{REPOSITORY}/blobs/{UNKNOWN}") as response:
        assert response.status == 404


async def test_an_upload_that_failed_is_over(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http)
    async with http.put(location, params={"digest": UNKNOWN}, data=BLOB) as response:
        assert response.status == 400
    async with http.put(location, params={"digest": digest_of(BLOB)}, data=BLOB) as response:
        assert (response.status, await code(response)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_an_upload_belongs_to_its_repository(http: aiohttp.ClientSession) -> None:
    location = (await begin_upload(http)).replace(REPOSITORY, "acme/other")
    async with http.put(location, params={"digest": digest_of(BLOB)}, data=BLOB) as response:
        assert (response.status, await code(response)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_chunk_that_turns_out_too_short_is_forgotten(http: aiohttp.ClientSession) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"thr"
        yield b"ee"

    location = await begin_upload(http)
    async with http.patch(location, data=body(), headers={"Content-Range": "0-9"}) as response:
        assert (response.status, response.headers["Range"]) == (416, "0-0")
    async with http.put(location, params={"digest": digest_of(BLOB)}, data=BLOB) as response:
        assert response.status == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_request_that_broke_adds_nothing(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, algorithm: str
) -> None:
    location = await begin_upload(http)
    async with http.patch(location, data=BLOB[:4]) as response:
        assert response.status == 202
    reader, writer = await asyncio.open_connection(*registry.host.split(":"))
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".encode())
    writer.write(bytes(2_000_000))
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    async with http.get(location) as response:
        assert response.headers["Range"] == "0-3"
    params = {"digest": digest_of(BLOB, algorithm)}
    async with http.put(location, params=params, data=BLOB[4:]) as response:
        assert response.status == 201


async def test_one_request_at_a_time_writes_to_an_upload(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield BLOB[:4]
        await go_on.wait()
        yield BLOB[4:]

    async def note(request: web.Request, recorded: RecordedRequest) -> None:
        arrived.set()

    async def patch() -> int:
        async with http.patch(location, data=body()) as response:
            return response.status

    location = await begin_upload(http)
    registry.intercept = note
    async with asyncio.TaskGroup() as group:
        first = group.create_task(patch())
        await arrived.wait()
        async with http.patch(location, data=b"second") as response:
            assert (response.status, await code(response)) == (409, "BLOB_UPLOAD_INVALID")
        go_on.set()
    assert first.result() == 202
    async with http.put(location, params={"digest": digest_of(BLOB)}) as response:
        assert response.status == 201


async def test_an_upload_can_be_cancelled(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http)
    async with http.patch(location, data=BLOB) as response:
        assert response.status == 202
    for expected in (204, 404):
        async with http.delete(location) as response:
            assert response.status == expected


async def test_mount_of_a_blob_that_the_source_holds(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest = registry.add_blob("acme/other", BLOB)
    params = {"mount": digest, "from": "acme/other"}
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=params) as response:
        assert response.status == 201
        assert response.headers["Location"] == f"/v2/{REPOSITORY}/blobs/{digest}"
        assert response.headers["Docker-Content-Digest"] == digest
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert await response.read() == BLOB


@pytest.mark.parametrize("source", ["acme/other", "acme/nobody", None])
async def test_mount_of_a_blob_that_the_source_lacks_becomes_an_upload(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, source: str | None
) -> None:
    registry.add_blob("acme/other", b"something else")
    params = {"mount": digest_of(BLOB)} | ({"from": source} if source else {})
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=params) as response:
        assert response.status == 202
        location = response.headers["Location"]
    async with http.put(location, params={"digest": digest_of(BLOB)}, data=BLOB) as response:
        assert response.status == 201


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"mount": "sha256:12", "from": "acme/other"}, "DIGEST_INVALID"),
        ({"mount": UNKNOWN, "from": "../other"}, "NAME_INVALID"),
    ],
)
async def test_a_malformed_mount_is_refused(http: aiohttp.ClientSession, params: dict[str, str], expected: str) -> None:
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=params) as response:
        assert (response.status, await code(response)) == (400, expected)


# Push: manifests.


async def test_put_manifest_by_tag(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest, raw = add_image(registry, None)
    headers = {"Content-Type": IMAGE}
    async with http.put(f"/v2/{REPOSITORY}/manifests/v1", data=raw, headers=headers) as response:
        assert response.status == 201
        assert response.headers["Docker-Content-Digest"] == digest
        assert response.headers["Location"] == f"/v2/{REPOSITORY}/manifests/v1"
    async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as response:
        assert (await response.read(), response.headers["Content-Type"]) == (raw, IMAGE)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_put_manifest_by_digest_makes_no_tag(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, algorithm: str
) -> None:
    _, raw = add_image(registry, None)
    digest = digest_of(raw, algorithm)
    assert await put_manifest(http, raw, digest) == (201, None)
    async with http.get(f"/v2/{REPOSITORY}/manifests/{digest}") as response:
        assert response.headers["Docker-Content-Digest"] == digest
    async with http.get(f"/v2/{REPOSITORY}/tags/list") as response:
        assert (await response.json())["tags"] == []


async def test_put_manifest_by_another_digest_is_refused(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    _, raw = add_image(registry, None)
    assert await put_manifest(http, raw, UNKNOWN) == (400, "DIGEST_INVALID")


async def test_put_moves_a_tag(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    old, _ = add_image(registry)
    raw = json.dumps(image(annotations={"edition": "2"})).encode()
    assert await put_manifest(http, raw) == (201, None)
    async with http.head(f"/v2/{REPOSITORY}/manifests/v1") as response:
        assert response.headers["Docker-Content-Digest"] == digest_of(raw)
    async with http.head(f"/v2/{REPOSITORY}/manifests/{old}") as response:
        assert response.status == 200


@pytest.mark.parametrize("media_type", [IMAGE, INDEX])
async def test_a_manifest_whose_content_is_not_there_is_refused(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, media_type: str
) -> None:
    registry.add_blob(REPOSITORY, b"{}")
    registry.add_blob("acme/other", BLOB)
    document = image() if media_type == IMAGE else index(descriptor(b"child", IMAGE))
    raw = json.dumps(document).encode()
    assert await put_manifest(http, raw, media_type=media_type) == (400, "MANIFEST_BLOB_UNKNOWN")


def index(*children: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children)}


async def test_put_index_of_a_manifest_that_is_there(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    _, raw = add_image(registry, None)
    document = index(descriptor(raw, IMAGE))
    assert await put_manifest(http, json.dumps(document).encode(), media_type=INDEX) == (201, None)


async def test_a_subject_and_a_layer_from_elsewhere_need_not_be_there(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    add_image(registry)
    elsewhere = descriptor(b"elsewhere") | {"urls": ["https://example.com/layer"]}
    document = image(subject=descriptor(b"later", IMAGE), layers=[descriptor(BLOB), elsewhere])
    assert await put_manifest(http, json.dumps(document).encode()) == (201, None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{} {}",
        b'{"schemaVersion": 2, "schemaVersion": 2}',
        b'{"schemaVersion": NaN}',
        b"[" * 100_000,
        json.dumps(image()).encode("utf-16"),
        json.dumps(image(schemaVersion=1)).encode(),
        json.dumps(image(schemaVersion=2.0)).encode(),
        json.dumps(image(mediaType=INDEX)).encode(),
        json.dumps(image(manifests=[])).encode(),
        json.dumps(image(config=None)).encode(),
        json.dumps(image(layers={})).encode(),
        json.dumps(image(layers=[descriptor(BLOB) | {"digest": "sha256:12"}])).encode(),
        json.dumps(image(layers=[descriptor(BLOB) | {"size": -1}])).encode(),
        json.dumps(image(layers=[descriptor(BLOB) | {"size": len(BLOB) + 1}])).encode(),
        json.dumps(image(layers=[{"digest": digest_of(BLOB), "size": len(BLOB)}])).encode(),
    ],
)
async def test_an_invalid_manifest_is_refused(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, raw: bytes
) -> None:
    add_image(registry)
    assert await put_manifest(http, raw) == (400, "MANIFEST_INVALID")


async def test_a_manifest_needs_the_media_type_of_one(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    add_image(registry)
    document = image()
    del document["mediaType"]
    raw = json.dumps(document).encode()
    assert await put_manifest(http, raw, media_type="application/json") == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("tag", [".v1", "-v1", "v" * 129, "v 1"])
async def test_a_malformed_tag_is_refused(registry: EmbeddedRegistry, http: aiohttp.ClientSession, tag: str) -> None:
    _, raw = add_image(registry)
    assert await put_manifest(http, raw, tag) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_manifest_above_4_mib_is_refused(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, framing: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(4 * 1024 * 1024)
        yield b"1"

    data = chunks() if framing == "chunked" else io.BytesIO(bytes(4 * 1024 * 1024 + 1))
    headers = {"Content-Type": IMAGE}
    async with http.put(f"/v2/{REPOSITORY}/manifests/v1", data=data, headers=headers) as response:
        assert (response.status, await code(response)) == (413, "SIZE_INVALID")


# Records.


async def test_requests_are_recorded_as_they_came(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    add_image(registry)
    async with http.get(f"/v2/{REPOSITORY}/tags/list?n=1&last=a%20b", headers={"X-Trace": "7"}) as response:
        body = await response.read()
    (recorded,) = registry.requests
    assert (recorded.method, recorded.kind, recorded.status) == ("GET", "tags", 200)
    assert (recorded.path, recorded.query) == (f"/v2/{REPOSITORY}/tags/list", "n=1&last=a%20b")
    assert recorded.headers["x-trace"] == "7"
    assert recorded.bytes_sent == len(body)


async def test_summary_is_method_and_kind_in_order(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http)
    for method, path in (
        ("PUT", location),
        ("GET", "/v2/"),
        ("HEAD", f"/v2/{REPOSITORY}/manifests/v1"),
        ("GET", f"/v2/{REPOSITORY}/blobs/{UNKNOWN}"),
        ("GET", f"/v2/{REPOSITORY}/tags/list"),
        ("GET", "/favicon.ico"),
    ):
        async with http.request(method, path):
            pass
    assert registry.summary() == [
        "POST upload",
        "PUT upload",
        "GET ping",
        "HEAD manifest",
        "GET blob",
        "GET tags",
        "GET other",
    ]
    registry.clear_requests()
    assert registry.requests == []


@pytest.mark.parametrize("size", [0, 11, 1_000_003])
async def test_bytes_sent_counts_the_body_alone(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, size: int
) -> None:
    path = f"/v2/{REPOSITORY}/blobs/{registry.add_blob(REPOSITORY, bytes(size))}"
    async with http.get(path) as response:
        await response.read()
    async with http.head(path) as response:
        await response.read()
    assert [request.bytes_sent for request in registry.requests] == [size, 0]


async def test_a_record_is_a_value(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    async with http.get("/v2/"):
        pass
    recorded = registry.requests[0]
    assert registry.requests[0] == recorded
    with pytest.raises(FrozenInstanceError):
        recorded.status = 500  # type: ignore[misc]


async def test_status_is_unknown_until_the_answer(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    seen: list[RecordedRequest] = []

    async def look(request: web.Request, recorded: RecordedRequest) -> None:
        seen.append(recorded)
        assert registry.requests == [recorded]

    registry.intercept = look
    async with http.get("/v2/") as response:
        assert response.status == 200
    assert [request.status for request in seen] == [None]


async def test_the_latest_records_are_enough_for_who_says_so() -> None:
    async with EmbeddedRegistry(records=2) as registry, aiohttp.ClientSession(registry.url) as http:
        for path in ("/v2/", "/v2/_catalog", f"/v2/{REPOSITORY}/tags/list"):
            async with http.get(path) as response:
                await response.read()
    assert registry.summary() == ["GET catalog", "GET tags"]


# Interception.


async def test_an_interceptor_answers_instead(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    async def fail(request: web.Request, recorded: RecordedRequest) -> web.StreamResponse | None:
        return web.Response(status=503, text="later") if recorded.kind == "manifest" else None

    add_image(registry)
    registry.intercept = fail
    async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as response:
        assert (response.status, await response.text()) == (503, "later")
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}") as response:
        assert response.status == 200
    assert [(request.status, request.bytes_sent) for request in registry.requests] == [(503, 5), (200, 11)]


async def test_an_interceptor_may_move_a_tag_between_two_requests(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    async def move(request: web.Request, recorded: RecordedRequest) -> None:
        if recorded.method == "GET":
            registry.remove_manifest(REPOSITORY, old)
            registry.add_manifest(REPOSITORY, b"new", IMAGE, "v1")

    old, _ = add_image(registry)
    registry.intercept = move
    async with http.head(f"/v2/{REPOSITORY}/manifests/v1") as response:
        digest = response.headers["Docker-Content-Digest"]
    async with http.get(f"/v2/{REPOSITORY}/manifests/{digest}") as response:
        assert response.status == 404
    registry.intercept = None
    async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as response:
        assert await response.read() == b"new"


async def test_an_interceptor_may_read_the_body(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    bodies: list[bytes] = []

    async def read(request: web.Request, recorded: RecordedRequest) -> None:
        bodies.append(await request.read())

    registry.intercept = read
    digest = digest_of(BLOB)
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest}", data=BLOB) as response:
        assert response.status == 201
    assert bodies == [BLOB]


async def test_the_bytes_of_a_broken_answer_are_counted(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    async def cut(request: web.Request, recorded: RecordedRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    registry.intercept = cut
    async with http.get("/v2/") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert [(request.status, request.bytes_sent) for request in registry.requests] == [(200, 9)]


async def test_a_dropped_connection_has_no_status(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    async def drop(request: web.Request, recorded: RecordedRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    registry.intercept = drop
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post("/v2/")  # not idempotent: aiohttp's client doesn't try again
    assert [request.status for request in registry.requests] == [None]


async def test_a_raised_answer_is_recorded(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    async def deny(request: web.Request, recorded: RecordedRequest) -> None:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Bearer realm="x"'})

    registry.intercept = deny
    async with http.get("/v2/") as response:
        assert response.status == 401
    assert [request.status for request in registry.requests] == [401]


# Arrangement.


async def test_a_manifest_without_its_blobs_can_be_arranged(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    registry.add_manifest(REPOSITORY, b"<html>", "text/html", "v1")
    async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as response:
        assert (await response.read(), response.headers["Content-Type"]) == (b"<html>", "text/html")


async def test_removed_content_is_gone(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest, _ = add_image(registry)
    registry.remove_tag(REPOSITORY, "v1")
    registry.remove_blob(REPOSITORY, digest_of(BLOB))
    expected = {
        f"manifests/{digest}": 200,
        "manifests/v1": 404,
        f"blobs/{digest_of(BLOB)}": 404,
        f"blobs/{digest_of(b'{}')}": 200,
    }
    for path, status in expected.items():
        async with http.get(f"/v2/{REPOSITORY}/{path}") as response:
            assert response.status == status


async def test_removing_a_manifest_removes_its_tags(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    digest, _ = add_image(registry)
    registry.remove_manifest(REPOSITORY, digest)
    async with http.get(f"/v2/{REPOSITORY}/tags/list") as response:
        assert (await response.json())["tags"] == []


async def test_removing_what_is_not_there_fails(registry: EmbeddedRegistry) -> None:
    add_image(registry)
    with pytest.raises(KeyError):
        registry.remove_blob(REPOSITORY, UNKNOWN)
    with pytest.raises(KeyError):
        registry.remove_manifest("acme/nobody", UNKNOWN)
    with pytest.raises(KeyError):
        registry.remove_tag(REPOSITORY, "v2")


# Lifecycle.


async def test_host_and_url_name_the_port(registry: EmbeddedRegistry) -> None:
    address, _, port = registry.host.partition(":")
    assert address == "127.0.0.1"
    assert port.isdigit()
    assert registry.url == f"http://{registry.host}"


async def test_there_is_no_host_before_the_first_start() -> None:
    with pytest.raises(RuntimeError):
        _ = EmbeddedRegistry().host


async def test_connections_are_kept_alive(registry: EmbeddedRegistry, http: aiohttp.ClientSession) -> None:
    ports = set()

    async def port(request: web.Request, recorded: RecordedRequest) -> None:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))

    registry.intercept = port
    for path in ("/v2/", f"/v2/{REPOSITORY}/manifests/v1", "/v2/"):
        async with http.get(path) as response:
            await response.read()
    assert len(ports) == 1


async def test_down_and_up_again_at_the_same_address_with_the_same_content(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    digest, _ = add_image(registry)
    host = registry.host
    async with http.get("/v2/"):
        pass
    await registry.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get("/v2/")
    await registry.start()
    assert registry.host == host
    async with http.get(f"/v2/{REPOSITORY}/manifests/{digest}") as response:
        assert response.status == 200


async def test_stop_does_not_wait_for_a_hanging_interceptor(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    hanging = asyncio.Event()
    cancelled = asyncio.Event()

    async def hang(request: web.Request, recorded: RecordedRequest) -> None:
        hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    registry.intercept = hang
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_fails(http))
        await hanging.wait()
        async with asyncio.timeout(1):
            await registry.stop()
        assert cancelled.is_set()
    assert asking.result()
    assert [request.status for request in registry.requests] == [None]


async def _fails(http: aiohttp.ClientSession) -> bool:
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get("/v2/")
    return True


async def test_stop_does_not_wait_for_a_client_that_does_not_read(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession
) -> None:
    digest = registry.add_blob(REPOSITORY, bytes(32 * 1024 * 1024))
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
        assert await response.content.readexactly(1) == b"\0"
        async with asyncio.timeout(1):
            await registry.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert 0 < registry.requests[0].bytes_sent < 32 * 1024 * 1024


async def test_a_client_that_leaves_in_the_middle_of_a_push_does_no_harm(
    registry: EmbeddedRegistry, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(*registry.host.split(":"))
    path = f"/v2/{REPOSITORY}/manifests/v1"
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: {registry.host}\r\nContent-Length: 9\r\n\r\nhalf".encode())
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    async with http.get("/v2/") as response:
        assert response.status == 200
    assert [request.status for request in registry.requests] == [None, 200]
    assert caplog.messages == []


async def test_stop_twice_and_start_twice() -> None:
    registry = EmbeddedRegistry()
    await registry.stop()
    async with registry:
        with pytest.raises(RuntimeError):
            await registry.start()
        await registry.stop()
    await registry.stop()


async def test_a_taken_port_is_an_error(registry: EmbeddedRegistry) -> None:
    other = EmbeddedRegistry(port=int(registry.host.partition(":")[2]))
    with pytest.raises(OSError, match="ddress already in use"):
        await other.start()


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6_loopback(), reason="no ::1 on this machine")
async def test_it_listens_on_ipv6() -> None:
    async with EmbeddedRegistry(host="::1") as registry, aiohttp.ClientSession() as session:
        assert registry.host.startswith("[::1]:")
        async with session.get(f"{registry.url}/v2/") as response:
            assert response.status == 200


def test_it_leaves_nothing_behind_in_a_loop_of_its_own() -> None:
    async def run() -> set[asyncio.Task[Any]]:
        async with (
            EmbeddedRegistry() as registry,
            aiohttp.ClientSession(registry.url) as session,
            session.get("/v2/") as response,
        ):
            await response.read()
        return asyncio.all_tasks() - {current for current in [asyncio.current_task()] if current}

    assert asyncio.run(run(), debug=True) == set()
