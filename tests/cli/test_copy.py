"""``lading copy``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from artifacts import INDEX, MANIFEST, describe, index, manifest, publish, sha256
from layouts import HandMade, image
from shell import Shell

from lading.testing import EmbeddedRegistry

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
REPOSITORY = "acme/triage"


@pytest.fixture
async def target() -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry() as target:
        yield target


def ref(registry: EmbeddedRegistry, selector: str = ":v1") -> str:
    return f"{registry.host}/{REPOSITORY}{selector}"


async def test_it_prints_where_it_is_now(registry: EmbeddedRegistry, target: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    copied = await lading("copy", ref(registry), ref(target))
    assert copied.status == 0, copied.err
    assert copied.out.decode() == f"{ref(target, '@')}{digest}\n"
    assert "1 manifests; 2 blobs, 43 bytes, were sent" in copied.err
    assert (await lading("cat", ref(target))).out == YAML
    again = await lading("copy", ref(registry), ref(target))
    assert (again.status, again.out) == (0, copied.out)
    assert "it was there already" in again.err


async def test_within_a_registry(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    copied = await lading("copy", ref(registry), f"{registry.host}/acme/other:v1")
    assert copied.status == 0, copied.err
    assert "0 blobs, 0 bytes, were sent; 2 blobs were there in another repository" in copied.err


async def test_as_json(registry: EmbeddedRegistry, target: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    copied = await lading("copy", "--json", ref(registry), ref(target))
    result: dict[str, Any] = json.loads(copied.out)
    assert sorted(result.pop("blobs"), key=lambda one: one["size"]) == [
        {"digest": sha256(b"{}"), "size": 2},
        {"digest": sha256(YAML), "size": len(YAML)},
    ]
    assert result == {
        "source": ref(registry),
        "reference": ref(target, f"@{digest}"),
        "digest": digest,
        "mediaType": MANIFEST,
        "manifests": [digest],
        "mounted": [],
        "skipped": [],
        "referrers": [],
        "sent": len(YAML) + 2,
    }


async def test_a_large_blob_is_shown(registry: EmbeddedRegistry, target: EmbeddedRegistry, lading: Shell) -> None:
    large = bytes(2_000_000)
    publish(registry, large)
    copied = await lading("copy", ref(registry), ref(target))
    assert f"{sha256(large)[:19]} 2.0 MB" in copied.err


async def test_one_platform(registry: EmbeddedRegistry, target: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML, tag=None)
    raw = index(manifest(YAML), platform={"os": "linux", "architecture": "arm64"})
    registry.add_manifest(REPOSITORY, raw, INDEX, "v1")
    copied = await lading("copy", "--platform", "linux/arm64", ref(registry), ref(target))
    assert copied.out.decode() == f"{ref(target, '@')}{sha256(manifest(YAML))}\n"
    missing = await lading("copy", "--platform", "linux/s390x", ref(registry), ref(target))
    assert (missing.status, missing.out) == (1, b"")
    assert "it has linux/arm64" in missing.err


async def test_with_what_refers_to_it(registry: EmbeddedRegistry, target: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    document = json.loads(manifest(b"signature"))
    document["subject"] = describe(MANIFEST, manifest(YAML))
    assert document["subject"]["digest"] == digest
    registry.add_blob(REPOSITORY, b"signature")
    signature = registry.add_manifest(REPOSITORY, json.dumps(document).encode(), MANIFEST)
    copied = await lading("copy", "--referrers", "--json", ref(registry), ref(target))
    assert json.loads(copied.out)["referrers"] == [signature]
    assert target._content.manifest(REPOSITORY, signature).raw == json.dumps(document).encode()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("acme/a:v1",), 2, "Missing argument 'TARGET'"),
        (("acme/a:v1", "UPPER case"), 2, "TARGET"),
        (("acme/a:v1", "acme/a:v1"), 1, "source and target are the same"),
        (("acme/a:v1", "acme/b:v1", "--platform", "/"), 2, "--platform"),
        (("acme/a:v1", "acme/b:v1", "--image", "v1"), 2, "--image is for a layout"),
        (("./a", "acme/b:v1", "--referrers"), 2, "leave out --referrers"),
        (("./a", "localhost:1/b:v1"), 1, "No such file"),
        (("UPPER", "localhost:1/b:v1"), 2, "SOURCE"),
        (("acme/a:v1", "acme/b:v1", "--offline"), 1, "network access is switched off"),
    ],
)
async def test_what_cant_be_done(lading: Shell, arguments: tuple[str, ...], status: int, said: str) -> None:
    refused = await lading("copy", *arguments)
    assert (refused.status, refused.out) == (status, b"")
    assert said in refused.err


@pytest.mark.parametrize("source", ["./made", "made/", "made.tar", "./made.tar"])
async def test_from_a_layout(target: EmbeddedRegistry, lading: Shell, source: str) -> None:
    made = HandMade()
    digests = [made.list(made.manifest(layer), name) for name, layer in (("v1", YAML), ("v2", b"other"))]
    made.write(lading.directory / "made")
    made.tar(lading.directory / "made.tar")
    copied = await lading("copy", source, ref(target), "--image", "v2")
    assert (copied.status, copied.out.decode()) == (0, f"{ref(target, '@')}{digests[1]}\n"), copied.err
    assert target._content.manifest(REPOSITORY, "v1").digest == digests[1]
    unsaid = await lading("copy", source, ref(target))
    assert (unsaid.status, unsaid.out) == (1, b"")
    assert "say which one: v1, v2" in unsaid.err


async def test_a_name_that_is_a_layout_here_and_a_reference(target: EmbeddedRegistry, lading: Shell) -> None:
    image(YAML).write(lading.directory / "acme" / "triage")
    refused = await lading("copy", "acme/triage", ref(target))
    assert (refused.status, refused.out) == (2, b"")
    assert "say ./acme/triage or docker.io/acme/triage:latest" in refused.err
    target.assert_requests()


async def test_what_the_store_has_isnt_fetched(
    registry: EmbeddedRegistry, target: EmbeddedRegistry, lading: Shell
) -> None:
    publish(registry, bytes(2_000_000))
    await lading("fetch", ref(registry))
    registry.clear_requests()
    assert (await lading("copy", ref(registry), ref(target))).status == 0
    registry.assert_requests("HEAD manifest")


async def test_a_refusal(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    async with EmbeddedRegistry(writable=False) as target:
        refused = await lading("copy", ref(registry), ref(target))
    assert (refused.status, refused.out) == (1, b"")
    assert f"{target.host}/{REPOSITORY}" in refused.err
    missing = await lading("copy", ref(registry, ":v2"), ref(registry, ":v3"))
    assert f"{registry.host}/{REPOSITORY}:v2" in missing.err
