"""Writing to a repository, against a scripted registry."""

from __future__ import annotations

import json

import pytest
from scripted import Answer, ScriptedTransport

from lading.errors import ConnectFailed, Denied, DigestMismatch, ProtocolError, RegistryError
from lading.http.hosts import HostsConfig
from lading.http.transport import Origin
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.registry.endpoints import Endpoints
from lading.registry.upload import Upload

CONTENT = b"agents: {}\n"
BLOB = Descriptor("application/yaml", Digest.of(CONTENT), len(CONTENT))
QUOTED = f"sha256%3A{BLOB.digest.encoded}"
BASE = "https://ghcr.io/v2/acme/triage"
RAW = b'{"schemaVersion": 2}'


def script(*answers: Answer | ConnectFailed, registry: str = "ghcr.io") -> tuple[ScriptedTransport, Upload]:
    transport = ScriptedTransport(*answers)
    return transport, Upload(transport, Endpoints(registry, HostsConfig().lookup(registry)), "acme/triage")


class TestBlob:
    async def test_one_that_is_there_isnt_sent(self) -> None:
        transport, upload = script(Answer(200))
        await upload.blob(BLOB, CONTENT)
        assert transport.asked == [("HEAD", f"{BASE}/blobs/{BLOB.digest}")]
        transport.assert_done()

    async def test_one_that_isnt_is_sent_with_a_post_and_a_put(self) -> None:
        transport, upload = script(
            Answer(404), Answer(202, {"Location": "/v2/acme/triage/blobs/uploads/1"}), Answer(201)
        )
        await upload.blob(BLOB, CONTENT)
        assert transport.asked == [
            ("HEAD", f"{BASE}/blobs/{BLOB.digest}"),
            ("POST", f"{BASE}/blobs/uploads/"),
            ("PUT", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
        ]
        _, post, put = transport.requests
        assert (post.headers, post.body) == ({"Content-Length": "0"}, None)
        assert put.headers == {"Content-Type": "application/octet-stream", "Content-Length": str(len(CONTENT))}
        assert put.body == CONTENT
        transport.assert_done()

    @pytest.mark.parametrize(
        ("location", "target"),
        [
            (f"{BASE}/blobs/uploads/1", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
            ("/v2/acme/triage/blobs/uploads/1", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
            ("1", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
            ("//ghcr.io/up", f"https://ghcr.io/up?digest={QUOTED}"),
            ("/up?_state=a%2Fb%3D&x", f"https://ghcr.io/up?_state=a%2Fb%3D&x&digest={QUOTED}"),
            ("/up?state=1#fragment", f"https://ghcr.io/up?state=1&digest={QUOTED}"),
            ("/up#fragment", f"https://ghcr.io/up?digest={QUOTED}"),
            ("https://storage.example/up?sig=%2B", f"https://storage.example/up?sig=%2B&digest={QUOTED}"),
        ],
    )
    async def test_the_location_is_opaque(self, location: str, target: str) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": location}), Answer(201))
        await upload.blob(BLOB, CONTENT)
        assert transport.requests[2].url == target
        assert transport.requests[2].authority == Origin("https", "ghcr.io", 443)

    async def test_the_location_is_resolved_against_what_answered(self) -> None:
        transport, upload = script(
            Answer(404), Answer(202, {"Location": "/up"}, url="https://eu.ghcr.io/v2/x"), Answer(201)
        )
        await upload.blob(BLOB, CONTENT)
        assert transport.requests[2].url == f"https://eu.ghcr.io/up?digest={QUOTED}"

    @pytest.mark.parametrize(
        "location",
        [
            "",
            "http://ghcr.io/up?token=hunter2",
            "http://169.254.169.254/",
            "ftp://ghcr.io/up",
            "file:///tmp/x",
            "https://user:hunter2@ghcr.io/up",
            "/up load",
            "/up\r\nX-Evil: 1",
            "/é",
            "http://[::1",
            "https://ghcr.io:99999/up",
        ],
    )
    async def test_a_location_that_isnt_safe_gets_nothing(self, location: str) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": location}))
        with pytest.raises(ProtocolError) as caught:
            await upload.blob(BLOB, CONTENT)
        assert "hunter2" not in str(caught.value)
        transport.assert_done()

    async def test_no_location_is_said(self) -> None:
        transport, upload = script(Answer(404), Answer(202))
        with pytest.raises(ProtocolError, match="no Location"):
            await upload.blob(BLOB, CONTENT)
        transport.assert_done()

    async def test_a_loopback_registry_may_stay_on_http(self) -> None:
        transport, upload = script(
            Answer(404), Answer(202, {"Location": "http://localhost:5000/up"}), Answer(201), registry="localhost:5000"
        )
        await upload.blob(BLOB, CONTENT)
        assert transport.requests[2].url == f"http://localhost:5000/up?digest={QUOTED}"

    @pytest.mark.parametrize("step", [0, 1, 2], ids=["HEAD", "POST", "PUT"])
    @pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 500])
    async def test_a_refusal_at_any_step_is_typed(self, step: int, status: int) -> None:
        body = json.dumps({"errors": [{"code": "DENIED", "message": "no"}]}).encode()
        steps = [Answer(404), Answer(202, {"Location": "/up"}), Answer(201)]
        transport, upload = script(*steps[:step], Answer(status, {}, body))
        with pytest.raises(RegistryError, match=rf"ghcr\.io/acme/triage.*{BLOB.digest}") as caught:
            await upload.blob(BLOB, CONTENT)
        assert caught.value.status == status
        assert caught.value.codes == ("DENIED",)
        transport.assert_done()

    async def test_a_denial_names_repository_and_action(self) -> None:
        _, upload = script(Answer(404), Answer(403))
        with pytest.raises(Denied, match="repository:acme/triage:pull,push"):
            await upload.blob(BLOB, CONTENT)

    async def test_an_upload_that_is_created_at_once_isnt_one(self) -> None:
        _, upload = script(Answer(404), Answer(201, {"Location": "/up"}))
        with pytest.raises(RegistryError, match="answered 201"):
            await upload.blob(BLOB, CONTENT)

    async def test_no_answer_is_the_callers(self) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": "/up"}), ConnectFailed("lost"))
        with pytest.raises(ConnectFailed):
            await upload.blob(BLOB, CONTENT)
        transport.assert_done()


class TestMount:
    async def test_a_mounted_blob_isnt_sent(self) -> None:
        transport, upload = script(Answer(404), Answer(201))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        assert transport.asked[1] == ("POST", f"{BASE}/blobs/uploads/?mount={QUOTED}&from=other%2Frepo")
        transport.assert_done()

    async def test_a_blob_that_isnt_mounted_is_sent_to_the_upload_that_came_instead(self) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": "/up"}), Answer(201))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        assert transport.asked[2] == ("PUT", f"https://ghcr.io/up?digest={QUOTED}")
        assert transport.requests[2].body == CONTENT
        transport.assert_done()

    async def test_one_that_is_there_isnt_mounted(self) -> None:
        transport, upload = script(Answer(200))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        transport.assert_done()

    async def test_only_the_mount_asks_to_read_the_other_repository(self) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": "/up"}), Answer(201))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        own = "repository:acme/triage:pull,push"
        assert [request.scopes for request in transport.requests] == [
            (own,),
            (own, "repository:other/repo:pull"),
            (own,),
        ]


class TestManifest:
    @pytest.mark.parametrize("selector", ["v1", str(Digest.of(RAW))], ids=["tag", "digest"])
    @pytest.mark.parametrize("status", [201, 202])
    async def test_it_is_put_as_it_is(self, selector: str, status: int) -> None:
        transport, upload = script(Answer(status, {"Docker-Content-Digest": str(Digest.of(RAW))}))
        await upload.manifest(selector, RAW, OCI_MANIFEST)
        (request,) = transport.requests
        assert (request.method, request.url) == ("PUT", f"{BASE}/manifests/{selector}")
        assert (request.headers, request.body) == ({"Content-Type": OCI_MANIFEST}, RAW)
        transport.assert_done()

    @pytest.mark.parametrize("digest", [None, "garbage", str(Digest.of(RAW, "sha512"))])
    async def test_the_registry_neednt_say_what_it_stored(self, digest: str | None) -> None:
        transport, upload = script(Answer(201, {} if digest is None else {"Docker-Content-Digest": digest}))
        await upload.manifest("v1", RAW, OCI_MANIFEST)
        transport.assert_done()

    async def test_a_registry_that_stored_something_else_is_found_out(self) -> None:
        transport, upload = script(Answer(201, {"Docker-Content-Digest": str(Digest.of(b"other"))}))
        with pytest.raises(DigestMismatch, match=f"instead of {Digest.of(RAW)}"):
            await upload.manifest("v1", RAW, OCI_MANIFEST)
        transport.assert_done()

    @pytest.mark.parametrize("status", [200, 307, 400, 404, 413, 500])
    async def test_a_refusal_is_typed(self, status: int) -> None:
        transport, upload = script(Answer(status))
        with pytest.raises(RegistryError, match=rf"ghcr\.io/acme/triage:v1: PUT answered {status}"):
            await upload.manifest("v1", RAW, OCI_MANIFEST)
        transport.assert_done()
