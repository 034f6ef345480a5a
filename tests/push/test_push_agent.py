"""Publishing: the shape on the registry, what is sent and what isn't, and the way back."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from artifacts import publish, sha256

from lading import Client, Reference
from lading.errors import (
    ConnectFailed,
    InvalidDocument,
    InvalidReference,
    LadingError,
    NotFound,
    Offline,
    StoreReadOnly,
)
from lading.oci.digest import Digest
from lading.store.store import Changes, MemoryStore
from lading.testing import EmbeddedRegistry

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
NEW_BLOB = ["HEAD blob", "POST upload", "PUT upload"]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "triage.yaml"
    path.write_bytes(YAML)
    return path


async def _manifest(registry: EmbeddedRegistry, client: Client, ref: str) -> dict[str, object]:
    import aiohttp

    reference = Reference.parse(ref)
    async with aiohttp.ClientSession() as session:
        url = f"http://{reference.registry}/v2/{reference.repository}/manifests/{reference.selector}"
        async with session.get(url) as response:
            document: dict[str, object] = json.loads(await response.read())
            return document


async def test_the_shape_is_what_docker_agent_reads(
    registry: EmbeddedRegistry, client: Client, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    ref = f"{registry.host}/acme/triage:v1"
    await client.push_agent(document, ref)
    manifest = await _manifest(registry, client, ref)
    config = json.dumps(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(YAML)]},
        },
        separators=(",", ":"),
    ).encode()
    assert manifest == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.docker.agent.config.v1+json",
        "config": {
            "mediaType": "application/vnd.docker.agent.config.v1+json",
            "digest": sha256(config),
            "size": len(config),
            "data": base64.b64encode(config).decode(),
        },
        "layers": [
            {
                "mediaType": "application/yaml",
                "digest": sha256(YAML),
                "size": len(YAML),
                "data": base64.b64encode(YAML).decode(),
                "annotations": {"org.opencontainers.image.title": "triage.yaml"},
            }
        ],
        "annotations": {
            "io.docker.agent.version": "v1",
            "io.docker.cagent.version": "v1",
            "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
            "org.opencontainers.image.description": "OCI artifact containing triage.yaml",
        },
    }


async def test_a_push_sends_the_blobs_and_then_the_manifest(
    registry: EmbeddedRegistry, client: Client, document: Path
) -> None:
    pushed = await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    assert registry.summary() == [*NEW_BLOB, *NEW_BLOB, "PUT manifest"]
    assert pushed.reference == Reference(registry.host, "acme/triage", None, pushed.descriptor.digest)


async def test_what_was_pushed_is_pulled_byte_for_byte_in_one_get(
    registry: EmbeddedRegistry, client: Client, document: Path
) -> None:
    pushed = await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    assert registry.summary() == ["GET manifest"]
    assert (agent.content, agent.digest) == (YAML, str(pushed.descriptor.digest))


@pytest.mark.parametrize(
    "content", [YAML, b"a", b"\xef\xbb\xbfa: 1\r\n", "größe: ☃\n".encode(), b"#" * 64 * 1024, b"#" * (64 * 1024 + 1)]
)
@pytest.mark.parametrize("inline", [True, False])
async def test_every_content_survives_the_round_trip(
    registry: EmbeddedRegistry, client: Client, content: bytes, inline: bool
) -> None:
    ref = f"{registry.host}/acme/triage"
    await client.push_agent(content, ref, inline=inline)
    registry.clear_requests()
    assert (await client.pull_agent(ref)).content == content
    cold = ["GET manifest"] if inline and len(content) <= 64 * 1024 else ["GET manifest", "GET blob"]
    assert registry.summary() == cold


async def test_a_push_is_reproducible(
    registry: EmbeddedRegistry, client: Client, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    first = await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    second = await client.push_agent(document, f"{registry.host}/acme/triage:v2")
    assert first.descriptor == second.descriptor


async def test_a_time_that_isnt_one_is_refused(
    registry: EmbeddedRegistry, client: Client, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(LadingError, match="SOURCE_DATE_EPOCH"):
        await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    assert registry.summary() == []


async def test_blobs_that_exist_arent_sent_again(registry: EmbeddedRegistry, client: Client, document: Path) -> None:
    await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    await client.push_agent(document, f"{registry.host}/acme/triage:v2")
    assert registry.summary() == ["HEAD blob", "HEAD blob", "PUT manifest"]


async def test_blobs_in_another_repository_are_mounted(
    registry: EmbeddedRegistry, client: Client, document: Path
) -> None:
    await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    await client.push_agent(document, f"{registry.host}/acme/other:v1")
    assert registry.summary() == ["HEAD blob", "POST upload", "HEAD blob", "POST upload", "PUT manifest"]
    assert all("mount=sha256%3A" in r.query for r in registry.requests if r.method == "POST")
    assert (await client.pull_agent(f"{registry.host}/acme/other:v1")).content == YAML


async def test_a_mount_that_the_registry_declines_is_an_upload(
    registry: EmbeddedRegistry, client: Client, document: Path
) -> None:
    await client.push_agent(document, f"{registry.host}/acme/triage:v1")
    for request in list(registry.requests):
        if request.method == "PUT" and request.kind == "upload":
            registry.remove_blob("acme/triage", request.query.rpartition("=")[2].replace("%3A", ":"))
    registry.clear_requests()
    await client.push_agent(document, f"{registry.host}/acme/other:v1")
    assert registry.summary() == [*NEW_BLOB, *NEW_BLOB, "PUT manifest"]


async def test_annotations_are_added(registry: EmbeddedRegistry, client: Client, document: Path) -> None:
    ref = f"{registry.host}/acme/triage:v1"
    await client.push_agent(document, ref, annotations={"org.opencontainers.image.authors": "Ada"})
    assert (await client.pull_agent(ref)).annotations["org.opencontainers.image.authors"] == "Ada"


async def test_a_tag_that_this_client_moved_isnt_fresh_any_more(registry: EmbeddedRegistry, client: Client) -> None:
    ref = f"{registry.host}/acme/triage:v1"
    await client.push_agent(YAML, ref)
    await client.pull_agent(ref)
    await client.push_agent(b"version: 2\n", ref)
    assert (await client.pull_agent(ref, max_age=3600)).content == b"version: 2\n"


async def test_a_registry_that_hangs_up_leaves_what_is_cached(registry: EmbeddedRegistry, client: Client) -> None:
    ref = f"{registry.host}/acme/triage:v1"
    publish(registry, YAML)
    await client.pull_agent(ref)
    await registry.stop()
    with pytest.raises(LadingError):
        await client.push_agent(b"version: 2\n", ref)
    assert (await client.pull_agent(ref)).content == YAML


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "empty"), (b" \n", "empty"), (b"\x1f\x8b\x08", "not UTF-8"), (b"a\0b", "NUL"), (b"(\xb5/\xfd", "not UTF-8")],
)
async def test_what_isnt_text_is_refused_before_anything_is_sent(
    registry: EmbeddedRegistry, client: Client, content: bytes, why: str
) -> None:
    with pytest.raises(InvalidDocument, match=why):
        await client.push_agent(content, f"{registry.host}/acme/triage:v1")
    assert registry.summary() == []


@pytest.mark.parametrize("annotations", [{"a": 1}, {"a": None}, {"a": ["b"]}, {"a": "\ud800"}])
async def test_what_couldnt_be_pulled_isnt_published(
    registry: EmbeddedRegistry, client: Client, annotations: dict[str, str]
) -> None:
    with pytest.raises(InvalidDocument):
        await client.push_agent(YAML, f"{registry.host}/acme/triage:v1", annotations=annotations)
    assert registry.summary() == []


async def test_a_pushed_tag_is_cold_again_and_the_old_version_never_stands_in(
    registry: EmbeddedRegistry, client: Client
) -> None:
    ref = f"{registry.host}/acme/triage:v1"
    await client.push_agent(YAML, ref)
    await client.pull_agent(ref)
    await client.push_agent(b"version: 2\n", ref)
    await registry.stop()
    with pytest.raises(ConnectFailed):
        await client.pull_agent(ref)
    await registry.start()
    registry.clear_requests()
    assert (await client.pull_agent(ref)).content == b"version: 2\n"
    assert registry.summary() == ["GET manifest"]


@pytest.mark.parametrize("path", ["no\0where.yaml"])
async def test_a_path_that_isnt_one_is_refused(registry: EmbeddedRegistry, client: Client, path: str) -> None:
    with pytest.raises(InvalidDocument):
        await client.push_agent(path, f"{registry.host}/acme/triage:v1")


async def test_a_file_that_isnt_there_is_named(registry: EmbeddedRegistry, client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match=r"nowhere\.yaml"):
        await client.push_agent(tmp_path / "nowhere.yaml", f"{registry.host}/acme/triage:v1")


async def test_a_digest_cant_be_pushed_to(registry: EmbeddedRegistry, client: Client) -> None:
    with pytest.raises(InvalidReference, match="digest"):
        await client.push_agent(YAML, f"{registry.host}/acme/triage@{Digest.of(YAML)}")


async def test_offline_pushes_nothing(registry: EmbeddedRegistry) -> None:
    async with Client(MemoryStore(), offline=True) as client:
        with pytest.raises(Offline):
            await client.push_agent(YAML, f"{registry.host}/acme/triage")


async def test_a_store_that_cant_be_written_doesnt_stop_a_push(registry: EmbeddedRegistry) -> None:
    class ReadOnly(MemoryStore):
        async def commit(self, changes: Changes) -> None:
            raise StoreReadOnly("read-only")

    async with Client(ReadOnly()) as client:
        pushed = await client.push_agent(YAML, f"{registry.host}/acme/triage:v1")
        assert (await client.resolve(f"{registry.host}/acme/triage:v1")).digest == pushed.descriptor.digest
        with pytest.raises(NotFound):
            await client.resolve(f"{registry.host}/acme/triage:v2")


async def test_a_source_may_be_a_string(registry: EmbeddedRegistry, client: Client, document: Path) -> None:
    await client.push_agent(os.fspath(document), f"{registry.host}/acme/triage:v1")
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == YAML
