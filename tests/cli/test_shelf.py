"""``ls``, ``inspect`` and ``rm``: the store at the shell."""

from __future__ import annotations

import json

from artifacts import ANNOTATED, INDEX, MANIFEST, describe, manifest, publish, sha256
from shell import Shell

from lading import Platform
from lading.testing import EmbeddedRegistry

YAML = b"""\
agents:
  root:
    model: fast
    description: Sorts bug reports
    toolsets:
      - type: filesystem
      - type: mcp
        ref: docker:duckduckgo
    sub_agents: [acme/writer]
models:
  fast:
    provider: openai
    model: gpt-4o
"""


async def test_ls_lists_what_was_pulled(registry: EmbeddedRegistry, lading: Shell) -> None:
    empty = await lading("ls")
    assert (empty.status, empty.out) == (0, b"")
    assert "nothing in" in empty.err
    digest = publish(registry, YAML)
    publish(registry, YAML, "acme/other", "v2")
    await lading("cat", f"{registry.host}/acme/triage:v1")
    await lading("cat", f"{registry.host}/acme/other:v2")
    listed = (await lading("ls")).out.decode().splitlines()
    assert [line.split()[0] for line in listed] == [
        "REFERENCE",
        f"{registry.host}/acme/other:v2",
        f"{registry.host}/acme/triage:v1",
    ]
    assert digest[:19] in listed[2]
    as_json = [json.loads(line) for line in (await lading("ls", "--json")).out.splitlines()]
    assert as_json[1] == {
        "reference": f"{registry.host}/acme/triage:v1",
        "digest": digest,
        "validated": as_json[1]["validated"],
    }


async def test_inspect_shows_what_the_agent_is(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    shown = await lading("inspect", f"{registry.host}/acme/triage:v1")
    assert shown.status == 0, shown.err
    text = shown.out.decode()
    for expected in (
        digest,
        "Sorts bug reports",
        "openai/gpt-4o",
        "filesystem",
        "mcp docker:duckduckgo",
        "acme/writer",
    ):
        assert expected in text
    assert "io.docker.agent.version" in text


async def test_inspect_as_json(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    shown = json.loads((await lading("inspect", "--json", f"{registry.host}/acme/triage:v1")).out)
    assert (shown["digest"], shown["size"], shown["annotations"]) == (digest, len(YAML), ANNOTATED)
    assert shown["agent"]["references"] == ["acme/writer"]
    assert shown["agent"]["agents"]["root"]["toolsets"] == ["filesystem", "mcp docker:duckduckgo"]


async def test_inspect_offline(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    await lading("cat", f"{registry.host}/acme/triage:v1")
    registry.clear_requests()
    assert (await lading("inspect", "--offline", f"{registry.host}/acme/triage@{digest}")).status == 0
    assert registry.summary() == []


async def test_inspect_of_what_isnt_an_agent(registry: EmbeddedRegistry, lading: Shell) -> None:
    title = {"org.opencontainers.image.title": "weights.bin"}
    document = json.loads(manifest(b"x" * 2_000, {"key": "value"}))
    document |= {"artifactType": "application/vnd.acme.model"}
    document["layers"][0]["annotations"] = title
    for blob in (b"x" * 2_000, b"{}"):
        registry.add_blob("acme/model", blob)
    digest = registry.add_manifest("acme/model", json.dumps(document).encode(), MANIFEST, "v1")
    ref = f"{registry.host}/acme/model:v1"
    shown = await lading("inspect", ref)
    assert shown.status == 0, shown.err
    for expected in (digest, "application/vnd.acme.model", "2.0 kB in 2 blobs", sha256(b"x" * 2_000), "weights.bin"):
        assert expected in shown.out.decode()
    assert "not an agent" in shown.err
    await lading("fetch", ref)
    registry.clear_requests()
    offline = await lading("inspect", "--offline", "--json", ref)
    registry.assert_requests()
    result = json.loads(offline.out)
    assert (result["digest"], result["agent"], result["images"]) == (digest, None, [])
    assert [(layer["size"], layer["title"]) for layer in result["layers"]] == [(2_000, "weights.bin")]
    assert "it is in the store, but not an agent" in offline.err


async def test_inspect_of_several_platforms(registry: EmbeddedRegistry, lading: Shell) -> None:
    children = []
    for platform in (Platform.host(), Platform("plan9", "sparc")):
        layer = str(platform).encode()
        registry.add_blob("acme/image", layer)
        registry.add_blob("acme/image", b"{}")
        digest = registry.add_manifest("acme/image", manifest(layer, {}), MANIFEST)
        children.append({**describe(MANIFEST, manifest(layer, {})), "platform": platform.to_json()})
        assert children[-1]["digest"] == digest
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    registry.add_manifest("acme/image", raw, INDEX, "v1")
    shown = await lading("inspect", f"{registry.host}/acme/image:v1")
    assert shown.status == 0, shown.err
    for child in children:
        assert child["digest"] in shown.out.decode()
    assert "plan9/sparc" in shown.out.decode()
    assert sha256(str(Platform.host()).encode()) in shown.out.decode(), "the layer for this machine"
    missing = await lading("inspect", f"{registry.host}/acme/image:v2")
    assert (missing.status, missing.out) == (1, b"")


async def test_what_inspect_shows_cant_drive_the_terminal(registry: EmbeddedRegistry, lading: Shell) -> None:
    hostile = "\x1b]0;pwned\x07\x1b[2J\u202eevil\r\n"
    content = f"agents:\n  root:\n    description: {json.dumps(hostile)}\n".encode()
    publish(registry, content, annotations={**ANNOTATED, "title": hostile, hostile: "x"})
    shown = (await lading("inspect", f"{registry.host}/acme/triage:v1")).out.decode()
    assert "evil" in shown
    assert not any(character in shown for character in "\x1b\x07\r\u202e")


async def test_inspect_shows_no_secret_of_a_url(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, b"agents: {root: {sub_agents: ['https://ada:pass-word@example.com/a.yaml?sig=s3cr3t']}}\n")
    shown = await lading("inspect", f"{registry.host}/acme/triage:v1")
    assert b"https://example.com/a.yaml" in shown.out
    assert b"pass-word" not in shown.out
    assert b"s3cr3t" not in shown.out


async def test_inspect_of_what_isnt_yaml_says_so(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, b"agents: [unclosed\n")
    shown = await lading("inspect", f"{registry.host}/acme/triage:v1")
    assert shown.status == 0
    assert "sha256:" in shown.out.decode()
    assert "agent document" in shown.err


async def test_rm_forgets(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("cat", ref)
    removed = await lading("rm", ref)
    assert (removed.status, removed.out.decode()) == (0, ref + "\n")
    assert (await lading("cat", "--offline", ref)).status == 1
    assert (await lading("cat", "--offline", f"{registry.host}/acme/triage@{digest}")).status == 1
    again = await lading("rm", ref)
    assert again.status == 1
    assert ref in again.err


async def test_rm_of_a_digest_that_a_tag_stands_for(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    await lading("cat", f"{registry.host}/acme/triage:v1")
    publish(registry, YAML, "acme/other")
    await lading("cat", f"{registry.host}/acme/other:v1")
    refused = await lading("rm", f"{registry.host}/acme/other:v1", f"{registry.host}/acme/triage@{digest}")
    assert refused.status == 1
    assert refused.out.decode() == f"{registry.host}/acme/other:v1\n", "what is gone is said"
    assert "tag" in refused.err
