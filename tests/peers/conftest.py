"""Real programs on loopback, and the real data where it is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from peer_programs import DockerRegistry, Lading, Skopeo, running_docker_registry, shared


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with running_docker_registry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def skopeo() -> Skopeo:
    return Skopeo()


@pytest.fixture(scope="session")
def agents() -> dict[str, bytes]:
    """Agents by name: the real ones where they are at hand, else a few of our own."""
    directory = shared() / "data" / "agents"
    if directory.is_dir():
        return {path.stem: path.read_bytes() for path in sorted(directory.glob("*.yaml"))}
    return {
        f"agent-{number}": f"agents:\n  root:\n    description: number {number}\n".encode() + b"#" * number * 1000
        for number in range(12)
    }


@pytest.fixture
def lading(tmp_path: Path) -> Lading:
    return Lading(tmp_path)


@pytest.fixture(scope="session")
def docker_agent_artifacts() -> Path:
    """An OCI layout of what docker-agent's own push wrote."""
    layout = shared() / "data" / "docker-agent-artifacts"
    if not layout.is_dir():
        pytest.skip(f"{layout} isn't there")
    return layout
