"""What refers to a manifest: by the registry's list, by the tag that stands for one, and how that tag is kept up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted import Answer, ScriptedTransport

from lading import Client
from lading.errors import ConnectFailed, Denied, LadingError, NotFound, ProtocolError, RegistryError
from lading.http.hosts import Host, HostsConfig, RegistryHosts
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest, parse_manifest
from lading.oci.media_types import OCI_INDEX, OCI_MANIFEST
from lading.registry.endpoints import Endpoints
from lading.registry.referrers import describe, extended, referrers, referrers_tag, tagged_list
from lading.registry.repository import Repository
from lading.testing import EmbeddedRegistry

SUBJECT = Digest.of(b"the subject")
BASE = "https://ghcr.io/v2/acme/app"
LIST = f"{BASE}/referrers/{SUBJECT}"
TAG = f"{BASE}/manifests/sha256-{SUBJECT.encoded}"
SBOM, SIGNATURE = "application/vnd.acme.sbom", "application/vnd.acme.signature"


def one(number: int, artifact_type: str = SBOM) -> dict[str, Any]:
    return {
        "mediaType": OCI_MANIFEST,
        "digest": str(Digest.of(b"%d" % number)),
        "size": number,
        "artifactType": artifact_type,
    }


def page(*entries: dict[str, Any], media_type: str = OCI_INDEX, **headers: str) -> Answer:
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}).encode()
    return Answer(
        200, {"Content-Type": media_type, **{name.replace("_", "-"): text for name, text in headers.items()}}, raw
    )


def script(*answers: Answer | LadingError, hosts: RegistryHosts | None = None) -> tuple[ScriptedTransport, Repository]:
    transport = ScriptedTransport(*answers)
    endpoints = Endpoints("ghcr.io", hosts or HostsConfig().lookup("ghcr.io"))
    return transport, Repository(transport, endpoints, "acme/app", set())


async def sizes(repository: Repository, artifact_type: str | None = None) -> list[int]:
    return [found.size async for found in referrers(repository, SUBJECT, artifact_type)]


class TestTheList:
    async def test_everything_in_its_order(self) -> None:
        transport, repository = script(page(one(2), one(1, SIGNATURE)))
        found = [referrer async for referrer in referrers(repository, SUBJECT)]
        assert [(referrer.size, referrer.artifact_type) for referrer in found] == [(2, SBOM), (1, SIGNATURE)]
        assert transport.asked == [("GET", LIST)]
        assert transport.requests[0].headers["Accept"] == OCI_INDEX
        assert transport.requests[0].scopes == ("repository:acme/app:pull",)
        transport.assert_done()

    async def test_nothing(self) -> None:
        _, repository = script(page())
        assert await sizes(repository) == []

    async def test_page_by_page_each_once(self) -> None:
        transport, repository = script(
            page(one(1), one(2), Link=f'</v2/acme/app/referrers/{SUBJECT}?p=2>; rel="next"'), page(one(2), one(3))
        )
        assert await sizes(repository) == [1, 2, 3]
        assert transport.asked == [("GET", LIST), ("GET", f"{LIST}?p=2")]
        transport.assert_done()

    async def test_a_filter_that_the_registry_applies(self) -> None:
        transport, repository = script(page({**one(1), "artifactType": ""}, OCI_Filters_Applied="artifactType"))
        assert await sizes(repository, "a/b+c") == [1]
        assert transport.asked == [("GET", f"{LIST}?artifactType=a%2Fb%2Bc")]

    @pytest.mark.parametrize("filters", ["", "annotation"])
    async def test_a_filter_that_it_doesnt(self, filters: str) -> None:
        _, repository = script(page(one(1), one(2, SIGNATURE), one(3), OCI_Filters_Applied=filters))
        assert await sizes(repository, SBOM) == [1, 3]

    @pytest.mark.parametrize(
        "link", ['<https://evil.example/x>; rel="next"', '<http://ghcr.io/x>; rel="next"', f'<{LIST}>; rel="next"']
    )
    async def test_it_doesnt_lead_elsewhere_or_round_in_a_circle(self, link: str) -> None:
        _, repository = script(page(one(1), Link=link), page(one(1), Link=link))
        with pytest.raises(ProtocolError):
            await sizes(repository)

    async def test_a_page_that_is_missing_is_an_error(self) -> None:
        _, repository = script(page(one(1), Link='</next>; rel="next"'), Answer(404))
        with pytest.raises(NotFound):
            await sizes(repository)

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"schemaVersion": 2, "manifests": [{}]}', b"[" * 100_000])
    async def test_a_list_that_isnt_one(self, body: bytes) -> None:
        _, repository = script(Answer(200, {"Content-Type": OCI_INDEX}, body))
        with pytest.raises(ProtocolError, match="isn't one"):
            await sizes(repository)

    @pytest.mark.parametrize("status", [401, 403, 429, 500])
    async def test_a_refusal_is_the_callers(self, status: int) -> None:
        _, repository = script(Answer(status))
        with pytest.raises(RegistryError) as caught:
            await sizes(repository)
        assert caught.value.status == status

    async def test_no_answer_is_the_callers(self) -> None:
        _, repository = script(ConnectFailed("lost"))
        with pytest.raises(ConnectFailed):
            await sizes(repository)

    async def test_mirrors_arent_asked(self) -> None:
        hosts = RegistryHosts(Host("https://ghcr.io"), (Host("https://mirror.example"),))
        transport, repository = script(page(one(1)), hosts=hosts)
        assert await sizes(repository) == [1]
        assert transport.asked == [("GET", LIST)]


class TestTheTag:
    @pytest.mark.parametrize("status", [400, 404, 405, 406, 501])
    async def test_it_stands_in_for_a_list_that_there_isnt(self, status: int) -> None:
        transport, repository = script(Answer(status), page(one(1), one(2, SIGNATURE)))
        assert await sizes(repository) == [1, 2]
        assert transport.asked == [("GET", LIST), ("GET", TAG)]
        transport.assert_done()

    async def test_and_for_an_answer_that_is_something_else(self) -> None:
        transport, repository = script(Answer(200, {"Content-Type": "text/html"}, b"<html>"), page(one(1)))
        assert await sizes(repository) == [1]
        transport.assert_done()

    async def test_it_is_filtered_here(self) -> None:
        _, repository = script(Answer(404), page(one(1), one(2, SIGNATURE)))
        assert await sizes(repository, SIGNATURE) == [2]

    @pytest.mark.parametrize(
        "answer",
        [Answer(404), Answer(200, {"Content-Type": OCI_MANIFEST}, b"{}"), Answer(200, {"Content-Type": OCI_INDEX})],
        ids=["missing", "a manifest", "empty"],
    )
    async def test_without_one_nothing_refers(self, answer: Answer) -> None:
        _, repository = script(Answer(404), answer)
        assert await sizes(repository) == []

    async def test_a_refusal_is_the_callers(self) -> None:
        _, repository = script(Answer(404), Answer(403))
        with pytest.raises(Denied):
            await sizes(repository)

    @pytest.mark.parametrize(
        ("digest", "tag"),
        [
            (f"sha256:{'ab' * 32}", f"sha256-{'ab' * 32}"),
            (f"sha512:{'ab' * 64}", f"sha512-{'ab' * 32}"),
        ],
    )
    def test_its_name(self, digest: str, tag: str) -> None:
        assert referrers_tag(Digest.parse(digest)) == tag


class TestKeepingUp:
    NEW = Descriptor(OCI_MANIFEST, Digest.of(b"new"), 3, {"a": "b"}, SBOM)

    def test_a_first_list(self) -> None:
        raw = extended(None, [self.NEW, self.NEW])
        assert raw is not None
        index = parse_manifest(raw, OCI_INDEX)
        assert isinstance(index, Index)
        assert index.manifests == (self.NEW,)

    def test_what_is_there_stays_as_it_is(self) -> None:
        known = {"schemaVersion": 2, "manifests": [{**one(1), "x-acme": [1]}], "annotations": {"k": "v"}, "y": 2}
        raw = extended(json.dumps(known).encode(), [self.NEW])
        assert raw is not None
        assert json.loads(raw) == {**known, "manifests": [*known["manifests"], self.NEW.to_json()]}  # type: ignore[misc]

    def test_what_is_listed_isnt_listed_again(self) -> None:
        raw = extended(None, [self.NEW])
        assert extended(raw, [self.NEW]) is None
        assert extended(b'{"schemaVersion":2,"manifests":null}', []) is None

    async def test_the_list_that_there_is(self) -> None:
        _, repository = script(page(one(1)))
        raw = await tagged_list(repository, SUBJECT)
        assert raw is not None
        assert json.loads(raw)["manifests"] == [one(1)]
        _, repository = script(Answer(404))
        assert await tagged_list(repository, SUBJECT) is None

    @pytest.mark.parametrize("answer", [Answer(200, {"Content-Type": OCI_MANIFEST}, b"{}"), Answer(500)])
    async def test_a_tag_that_stands_for_something_else_isnt_overwritten(self, answer: Answer) -> None:
        _, repository = script(answer)
        with pytest.raises((ProtocolError, RegistryError)):
            await tagged_list(repository, SUBJECT)

    @pytest.mark.parametrize(
        ("given", "shown"),
        [({"artifactType": SBOM}, SBOM), ({}, "application/config"), ({"artifactType": ""}, "application/config")],
    )
    def test_how_a_manifest_is_described(self, given: dict[str, str], shown: str) -> None:
        config = {"mediaType": "application/config", "digest": str(SUBJECT), "size": 1}
        document = {"schemaVersion": 2, "config": config, "layers": [], "annotations": {"k": "v"}, **given}
        raw = json.dumps(document).encode()
        manifest = parse_manifest(raw, OCI_MANIFEST)
        assert isinstance(manifest, Manifest)
        digest = Digest.of(raw)
        assert describe(manifest, digest) == Descriptor(OCI_MANIFEST, digest, len(raw), {"k": "v"}, shown)

    def test_how_an_index_is_described(self) -> None:
        raw = b'{"schemaVersion":2,"manifests":[]}'
        assert describe(parse_manifest(raw, OCI_INDEX), SUBJECT).artifact_type == ""


def referrer(registry: EmbeddedRegistry, subject: str, artifact_type: str, repository: str = "acme/app") -> str:
    config = b"{}"
    registry.add_blob(repository, config)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(config)), "size": 2},
        "layers": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 2},
    }
    return registry.add_manifest(repository, json.dumps(document).encode(), OCI_MANIFEST)


class TestClient:
    async def test_by_a_tag_and_by_a_digest(self, registry: EmbeddedRegistry, client: Client) -> None:
        config = {"mediaType": "application/config", "digest": str(SUBJECT), "size": 11}
        raw = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
        subject = registry.add_manifest("acme/app", raw, OCI_MANIFEST, "v1")
        expected = {referrer(registry, subject, SBOM), referrer(registry, subject, SIGNATURE)}
        with registry.recording() as requests:
            found = [str(one.digest) async for one in client.referrers(f"{registry.host}/acme/app:v1")]
        assert set(found) == expected
        requests.assert_requests("HEAD manifest", "GET referrers")
        with registry.recording() as requests:
            pinned = f"{registry.host}/acme/app@{subject}"
            assert [one.artifact_type async for one in client.referrers(pinned, SBOM)] == [SBOM]
        requests.assert_requests("GET referrers")
        async for _ in client.referrers(pinned):
            break

    async def test_of_a_repository_that_doesnt_exist_there_are_none(
        self, registry: EmbeddedRegistry, client: Client
    ) -> None:
        assert [one async for one in client.referrers(f"{registry.host}/acme/nowhere@{SUBJECT}")] == []

    async def test_a_tag_that_doesnt_exist_is_an_error(self, registry: EmbeddedRegistry, client: Client) -> None:
        with pytest.raises(NotFound):
            [one async for one in client.referrers(f"{registry.host}/acme/nowhere:v1")]
