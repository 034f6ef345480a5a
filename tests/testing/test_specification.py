"""The distribution specification v1.1, part by part, as docs/registry-conformance.md lists it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lading.testing import Content, EmbeddedRegistry

REPOSITORY = "acme/triage"
MANIFESTS, UPLOADS = f"/v2/{REPOSITORY}/manifests", f"/v2/{REPOSITORY}/blobs/uploads/"
TAGS, REFERRERS = f"/v2/{REPOSITORY}/tags/list", f"/v2/{REPOSITORY}/referrers"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SBOM, SIGNATURE = "application/vnd.test.sbom", "application/vnd.test.signature"
BLOB = b"agents: {}\n"
CONFIG = b"{}"

Http = aiohttp.ClientSession


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


ABSENT = digest_of(b"absent")


def described(data: bytes, media_type: str = "application/yaml") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(**fields: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": described(CONFIG),
        "layers": [described(BLOB)],
        **fields,
    }
    return json.dumps(document).encode()


async def ask(http: Http, method: str, path: str, data: bytes | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # aiohttp warns of large bodies that aren't files.
    body = None if data is None else io.BytesIO(data)
    async with http.request(method, path, data=body, headers=named) as response:
        return Answer(response, await response.read())


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


async def push_blobs(http: Http) -> None:
    for blob in (CONFIG, BLOB):
        assert (await ask(http, "POST", f"{UPLOADS}?digest={digest_of(blob)}", blob)).status == 201


async def push(http: Http, reference: str = "v1", raw: bytes | None = None, media_type: str = IMAGE) -> Answer:
    await push_blobs(http)
    return await ask(http, "PUT", f"{MANIFESTS}/{reference}", raw or image(), Content_Type=media_type)


# Pull.


async def test_version_check(http: Http) -> None:
    assert (await ask(http, "GET", "/v2/")).status == 200


async def test_manifest_by_tag(http: Http) -> None:
    await push(http)
    got = await ask(http, "GET", f"{MANIFESTS}/v1")
    assert (got.status, got.body, got.headers["Content-Type"]) == (200, image(), IMAGE)
    assert got.headers["Docker-Content-Digest"] == digest_of(image())
    assert (await ask(http, "GET", f"{MANIFESTS}/v2")).status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_manifest_by_digest(http: Http, algorithm: str) -> None:
    digest = digest_of(image(), algorithm)
    await push(http, digest)
    got = await ask(http, "GET", f"{MANIFESTS}/{digest}")
    assert (got.status, got.body, got.headers["Docker-Content-Digest"]) == (200, image(), digest)
    assert (await ask(http, "GET", f"{MANIFESTS}/{ABSENT}")).code == "MANIFEST_UNKNOWN"


async def test_manifest_exists(http: Http) -> None:
    await push(http)
    got = await ask(http, "HEAD", f"{MANIFESTS}/v1")
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", str(len(image())))
    assert got.headers["Docker-Content-Digest"] == digest_of(image())
    assert (await ask(http, "HEAD", f"{MANIFESTS}/v2")).status == 404


async def test_blob(http: Http) -> None:
    await push_blobs(http)
    got = await ask(http, "GET", f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}")
    assert (got.status, got.body) == (200, BLOB)
    assert (await ask(http, "GET", f"/v2/{REPOSITORY}/blobs/{ABSENT}")).code == "BLOB_UNKNOWN"


async def test_blob_exists(http: Http) -> None:
    await push_blobs(http)
    got = await ask(http, "HEAD", f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}")
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", str(len(BLOB)))
    assert (await ask(http, "HEAD", f"/v2/{REPOSITORY}/blobs/{ABSENT}")).status == 404


async def test_blob_range(http: Http) -> None:
    await push_blobs(http)
    path = f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}"
    whole = await ask(http, "GET", path)
    expected = {"bytes=4-": (206, BLOB[4:]), "bytes=0-3": (206, BLOB[:4]), "bytes=-3": (206, BLOB[-3:])}
    expected |= {"bytes=0-1,3-4": (200, BLOB), "bytes=99-": (416, b"")}
    for asked, (status, body) in expected.items():
        got = await ask(http, "GET", path, Range=asked, If_Range=whole.headers["ETag"])
        assert (got.status, got.body) == (status, body)
    assert got.headers["Content-Range"] == f"bytes */{len(BLOB)}"
    assert (await ask(http, "GET", path, Range="bytes=4-", If_Range='"other"')).status == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/Upper/manifests/v1", 400, "NAME_INVALID"),
        (f"{MANIFESTS}/-v1", 404, "MANIFEST_UNKNOWN"),
        (f"{MANIFESTS}/sha256:12", 400, "DIGEST_INVALID"),
        (f"/v2/{REPOSITORY}/blobs/sha256:12", 400, "DIGEST_INVALID"),
        (f"/v2/nobody/blobs/{ABSENT}", 404, "NAME_UNKNOWN"),
    ],
)
async def test_names(http: Http, path: str, status: int, code: str) -> None:
    await push(http)
    got = await ask(http, "GET", path)
    assert (got.status, got.code) == (status, code)


# Push.


async def test_upload_by_post_and_put(http: Http) -> None:
    begun = await ask(http, "POST", UPLOADS)
    assert begun.status == 202
    put = await ask(http, "PUT", f"{begun.headers['Location']}?digest={digest_of(BLOB)}", BLOB)
    assert put.status == 201
    assert (await ask(http, "GET", put.headers["Location"])).body == BLOB


async def test_upload_by_one_post(http: Http) -> None:
    posted = await ask(http, "POST", f"{UPLOADS}?digest={digest_of(BLOB)}", BLOB)
    assert posted.status == 201
    assert (await ask(http, "GET", posted.headers["Location"])).body == BLOB


async def test_upload_in_chunks(http: Http) -> None:
    location = (await ask(http, "POST", UPLOADS)).headers["Location"]
    patched = await ask(http, "PATCH", location, BLOB[:4], Content_Range="0-3")
    assert (patched.status, patched.headers["Range"]) == (202, "0-3")
    patched = await ask(http, "PATCH", patched.headers["Location"], BLOB[4:])
    assert (patched.status, patched.headers["Range"]) == (202, f"0-{len(BLOB) - 1}")
    put = await ask(http, "PUT", f"{patched.headers['Location']}?digest={digest_of(BLOB)}")
    assert put.status == 201
    assert (await ask(http, "GET", put.headers["Location"])).body == BLOB


async def test_last_chunk_closes_the_upload(http: Http) -> None:
    location = (await ask(http, "POST", UPLOADS)).headers["Location"]
    await ask(http, "PATCH", location, BLOB[:4], Content_Range="0-3")
    target = f"{location}?digest={digest_of(BLOB)}"
    put = await ask(http, "PUT", target, BLOB[4:], Content_Range=f"4-{len(BLOB) - 1}")
    assert put.status == 201
    assert (await ask(http, "GET", location)).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("content_range", ["0-3", "5-8", "4-9", "bytes 4-7"])
async def test_chunk_out_of_order(http: Http, method: str, content_range: str) -> None:
    location = (await ask(http, "POST", UPLOADS)).headers["Location"]
    await ask(http, "PATCH", location, BLOB[:4], Content_Range="0-3")
    target = f"{location}?digest={digest_of(BLOB)}"
    refused = await ask(http, method, target, BLOB[4:8], Content_Range=content_range)
    assert (refused.status, refused.headers["Range"], refused.headers["Location"]) == (416, "0-3", location)
    assert (await ask(http, "PUT", target, BLOB[4:])).status == 201


async def test_upload_status(http: Http) -> None:
    location = (await ask(http, "POST", UPLOADS)).headers["Location"]
    await ask(http, "PATCH", location, BLOB[:4])
    status = await ask(http, "GET", location)
    assert (status.status, status.headers["Range"], status.headers["Location"]) == (204, "0-3", location)


async def test_chunk_min_length(content: Content, http: Http) -> None:
    assert "OCI-Chunk-Min-Length" not in (await ask(http, "POST", UPLOADS)).headers
    async with EmbeddedRegistry(content=content, chunk_min_length=4096) as registry, Http(registry.url) as asking:
        assert (await ask(asking, "POST", UPLOADS)).headers["OCI-Chunk-Min-Length"] == "4096"


async def test_mount(registry: EmbeddedRegistry, http: Http) -> None:
    digest = registry.add_blob("acme/other", BLOB)
    mounted = await ask(http, "POST", f"{UPLOADS}?mount={digest}&from=acme/other")
    assert mounted.status == 201
    assert (await ask(http, "GET", mounted.headers["Location"])).body == BLOB
    begun = await ask(http, "POST", f"{UPLOADS}?mount={ABSENT}&from=acme/other")
    assert begun.status == 202
    assert (await ask(http, "PUT", f"{begun.headers['Location']}?digest={digest_of(CONFIG)}", CONFIG)).status == 201


async def test_wrong_digest(http: Http) -> None:
    refused = await ask(http, "POST", f"{UPLOADS}?digest={ABSENT}", BLOB)
    assert (refused.status, refused.code) == (400, "DIGEST_INVALID")
    refused = await push(http, ABSENT)
    assert (refused.status, refused.code) == (400, "DIGEST_INVALID")
    assert (await ask(http, "GET", f"/v2/{REPOSITORY}/blobs/{ABSENT}")).status == 404
    assert (await ask(http, "GET", f"{MANIFESTS}/{ABSENT}")).status == 404


async def test_push_by_tag(http: Http) -> None:
    for raw in (image(), image(annotations={"version": "2"})):
        pushed = await push(http, "v1", raw)
        assert (pushed.status, pushed.headers["Docker-Content-Digest"]) == (201, digest_of(raw))
        assert (await ask(http, "GET", pushed.headers["Location"])).body == raw


async def test_push_by_digest(http: Http) -> None:
    pushed = await push(http, digest_of(image()))
    assert pushed.status == 201
    assert (await ask(http, "GET", pushed.headers["Location"])).body == image()
    assert (await ask(http, "GET", TAGS)).json["tags"] == []


async def test_manifest_of_4_mib(http: Http) -> None:
    limit = 4 * 1024 * 1024
    bare = len(image(annotations={"note": ""}))
    assert (await push(http, "v1", image(annotations={"note": "x" * (limit - bare)}))).status == 201
    refused = await push(http, "v2", image(annotations={"note": "x" * (limit - bare + 1)}))
    assert (refused.status, refused.code) == (413, "SIZE_INVALID")


async def test_missing_content(http: Http) -> None:
    refused = await push(http, "v1", image(layers=[described(b"absent")]))
    assert (refused.status, refused.code) == (400, "MANIFEST_BLOB_UNKNOWN")


async def test_push_with_subject(http: Http) -> None:
    subject = described(b"later", IMAGE)
    pushed = await push(http, "v1", image(subject=subject))
    assert (pushed.status, pushed.headers["OCI-Subject"]) == (201, subject["digest"])
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}).encode()
    assert (await push(http, "v2", index, INDEX)).headers["OCI-Subject"] == subject["digest"]
    assert "OCI-Subject" not in (await push(http, "v3")).headers
    assert (await push(http, "v4", image(subject="nonsense"))).code == "MANIFEST_INVALID"


async def test_referrers_fallback_tag(content: Content) -> None:
    async with EmbeddedRegistry(content=content, referrers=False) as registry, Http(registry.url) as http:
        subject = (await push(http)).headers["Docker-Content-Digest"]
        raw = image(subject=described(image(), IMAGE), artifactType=SBOM)
        pushed = await push(http, digest_of(raw), raw)
        assert pushed.status == 201
        assert "OCI-Subject" not in pushed.headers
        assert (await ask(http, "GET", f"{REFERRERS}/{subject}")).status == 404
        # What the specification asks of the client then is a tag like any other to the registry.
        tag = subject.replace(":", "-")
        listed = {**described(raw, IMAGE), "artifactType": SBOM}
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]}).encode()
        assert (await push(http, tag, index, INDEX)).status == 201
        assert (await ask(http, "GET", f"{MANIFESTS}/{tag}")).json["manifests"] == [listed]
        assert (await ask(http, "GET", TAGS)).json["tags"] == [tag, "v1"]


# Content discovery.


async def test_tags(http: Http) -> None:
    for tag in ("v2", "Beta", "alpha", "v10"):
        await push(http, tag)
    got = await ask(http, "GET", TAGS)
    assert got.json == {"name": REPOSITORY, "tags": ["alpha", "Beta", "v10", "v2"]}
    assert "Link" not in got.headers


async def test_tags_in_pages(http: Http) -> None:
    for number in range(5):
        await push(http, f"v{number}")
    path, pages = f"{TAGS}?n=2", []
    while path:
        got = await ask(http, "GET", path)
        pages.append(got.json["tags"])
        path = got.headers.get("Link", "")[1:].partition(">")[0]
    assert pages == [["v0", "v1"], ["v2", "v3"], ["v4"]]
    assert (await ask(http, "GET", f"{TAGS}?n=1&last=v2")).json["tags"] == ["v3"]
    assert (await ask(http, "GET", f"{TAGS}?n=0")).json["tags"] == []


async def push_referrers(http: Http) -> tuple[str, dict[str, dict[str, Any]]]:
    """Push a manifest and three that refer to it, one by its artifactType, one by that of its config, an index."""
    await push(http)
    subject = described(image(), IMAGE)
    manifests = {
        SBOM: image(subject=subject, artifactType=SBOM, annotations={"made": "today"}),
        SIGNATURE: image(subject=subject, config={**described(CONFIG), "mediaType": SIGNATURE}),
    }
    described_as = {
        SBOM: {**described(manifests[SBOM], IMAGE), "artifactType": SBOM, "annotations": {"made": "today"}},
        SIGNATURE: {**described(manifests[SIGNATURE], IMAGE), "artifactType": SIGNATURE},
    }
    for raw in manifests.values():
        assert (await push(http, digest_of(raw), raw)).status == 201
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}).encode()
    await push(http, "index", index, INDEX)
    described_as["index"] = described(index, INDEX)
    return str(subject["digest"]), described_as


async def test_referrers(http: Http) -> None:
    subject, expected = await push_referrers(http)
    got = await ask(http, "GET", f"{REFERRERS}/{subject}")
    assert (got.status, got.headers["Content-Type"]) == (200, INDEX)
    assert (got.json["schemaVersion"], got.json["mediaType"]) == (2, INDEX)
    assert sorted(got.json["manifests"], key=str) == sorted(expected.values(), key=str)
    assert "OCI-Filters-Applied" not in got.headers


@pytest.mark.parametrize("repository", [REPOSITORY, "nobody/nothing"])
async def test_no_referrers(http: Http, repository: str) -> None:
    await push_referrers(http)
    got = await ask(http, "GET", f"/v2/{repository}/referrers/{ABSENT}")
    assert (got.status, got.json["manifests"]) == (200, [])


async def test_referrers_of_a_type(http: Http) -> None:
    subject, expected = await push_referrers(http)
    for artifact_type in (SBOM, SIGNATURE, "nobody/has-this"):
        got = await ask(http, "GET", f"{REFERRERS}/{subject}?artifactType={artifact_type}")
        assert got.headers["OCI-Filters-Applied"] == "artifactType"
        assert got.json["manifests"] == [expected[one] for one in expected if one == artifact_type]


async def test_referrers_of_nonsense(registry: EmbeddedRegistry, http: Http) -> None:
    got = await ask(http, "GET", f"{REFERRERS}/sha256:12")
    assert (got.status, got.code) == (400, "DIGEST_INVALID")
    # Content that was arranged may be anything.
    for raw in (b"", b"[]", b'{"subject": 7}', b'{"subject": {"digest": []}}', b"\xff"):
        registry.add_manifest(REPOSITORY, raw, IMAGE)
    assert (await ask(http, "GET", f"{REFERRERS}/{ABSENT}")).json["manifests"] == []


# Content management.


async def test_delete_tag(http: Http) -> None:
    await push(http)
    assert (await ask(http, "DELETE", f"{MANIFESTS}/v1")).status == 202
    assert (await ask(http, "GET", f"{MANIFESTS}/v1")).status == 404
    assert (await ask(http, "GET", f"{MANIFESTS}/{digest_of(image())}")).status == 200


async def test_delete_manifest(http: Http) -> None:
    subject, expected = await push_referrers(http)
    assert (await ask(http, "DELETE", f"{MANIFESTS}/{expected['index']['digest']}")).status == 202
    assert (await ask(http, "GET", f"{MANIFESTS}/index")).status == 404
    left = (await ask(http, "GET", f"{REFERRERS}/{subject}")).json["manifests"]
    assert expected["index"] not in left
    assert len(left) == 2
    assert (await ask(http, "DELETE", f"{MANIFESTS}/{ABSENT}")).code == "MANIFEST_UNKNOWN"


async def test_delete_blob(registry: EmbeddedRegistry, http: Http) -> None:
    await push_blobs(http)
    registry.add_blob("acme/other", BLOB)
    assert (await ask(http, "DELETE", f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}")).status == 202
    assert (await ask(http, "GET", f"/v2/{REPOSITORY}/blobs/{digest_of(BLOB)}")).status == 404
    assert (await ask(http, "GET", f"/v2/acme/other/blobs/{digest_of(BLOB)}")).status == 200
    assert (await ask(http, "DELETE", f"/v2/{REPOSITORY}/blobs/{ABSENT}")).code == "BLOB_UNKNOWN"


async def test_deletion_disabled(content: Content) -> None:
    async with EmbeddedRegistry(content=content, writable=False) as registry, Http(registry.url) as http:
        registry.add_manifest(REPOSITORY, image(), IMAGE, "v1")
        refused = await ask(http, "DELETE", f"{MANIFESTS}/v1")
        assert (refused.status, refused.code) == (405, "UNSUPPORTED")


# Errors.


async def test_error_body(http: Http) -> None:
    got = await ask(http, "GET", f"{MANIFESTS}/v1")
    assert got.headers["Content-Type"] == "application/json"
    (error,) = got.json["errors"]
    assert (error["code"], error["message"]) == ("NAME_UNKNOWN", "repository name not known to registry")
    assert error["detail"] == {"name": REPOSITORY}


def test_that_the_list_and_the_tests_agree() -> None:
    page = Path(__file__).parents[2] / "docs" / "registry-conformance.md"
    listed = re.findall(r"^\| .* \| `(test_\w+)` \|$", page.read_text("utf-8"), re.MULTILINE)
    here = [name for name in globals() if name.startswith("test_")][:-1]
    assert listed == here, "each line has its test, in the same order"
