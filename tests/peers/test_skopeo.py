"""What lading pushes, skopeo takes; what skopeo pushes, lading pulls."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from peer_programs import DockerRegistry, Skopeo

from lading import Client

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
CATALOG = ["agentcatalog/pirate", "agentcatalog/dev-team", "agentcatalog/sub-agents-from-catalog"]


@pytest.mark.parametrize("inline", [True, False])
async def test_skopeo_copies_an_agent_that_lading_pushed(
    docker_registry: DockerRegistry, skopeo: Skopeo, tmp_path: Path, inline: bool
) -> None:
    host = docker_registry.host
    async with Client(tmp_path / "store") as client:
        pushed = await client.push_agent(YAML, f"{host}/skopeo/from:v1", inline=inline)
        skopeo.copy(f"docker://{host}/skopeo/from:v1", f"docker://{host}/skopeo/to:v1")
        agent = await client.pull_agent(f"{host}/skopeo/to:v1")
    assert (agent.content, agent.digest) == (YAML, str(pushed.descriptor.digest))


async def test_lading_pulls_what_skopeo_pushed(docker_registry: DockerRegistry, skopeo: Skopeo, tmp_path: Path) -> None:
    host = docker_registry.host
    async with Client(tmp_path / "store") as client:
        pushed = await client.push_agent(YAML, f"{host}/skopeo/layout:v1")
        skopeo.copy(f"docker://{host}/skopeo/layout:v1", f"oci:{tmp_path / 'layout'}:v1")
        skopeo.copy(f"oci:{tmp_path / 'layout'}:v1", f"docker://{host}/skopeo/back:v1")
        agent = await client.pull_agent(f"{host}/skopeo/back:v1")
    assert (agent.content, agent.digest) == (YAML, str(pushed.descriptor.digest))


@pytest.mark.parametrize("name", CATALOG)
async def test_docker_agents_own_artifacts_are_pulled_as_yaml(
    docker_registry: DockerRegistry, skopeo: Skopeo, docker_agent_artifacts: Path, tmp_path: Path, name: str
) -> None:
    skopeo.copy(f"oci:{docker_agent_artifacts}:{name}:latest", f"docker://{docker_registry.host}/{name}:latest")
    async with Client(tmp_path) as client:
        agent = await client.pull_agent(f"{docker_registry.host}/{name}")
    layout = json.loads((docker_agent_artifacts / "index.json").read_bytes())
    (entry,) = (
        m for m in layout["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == f"{name}:latest"
    )
    assert agent.digest == entry["digest"]
    manifest = json.loads(_blob(docker_agent_artifacts, entry["digest"]))
    assert agent.content == gzip.decompress(_blob(docker_agent_artifacts, manifest["layers"][0]["digest"]))
    assert b"\nagents:\n" in agent.content


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()
