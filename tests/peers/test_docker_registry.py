"""The main job on a real registry, counted in the registry's own access log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from peer_programs import DockerRegistry, Lading

from lading import Client, Reference

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"


async def test_every_agent_is_pushed_and_pulled_by_the_library(
    docker_registry: DockerRegistry, agents: dict[str, bytes], tmp_path: Path
) -> None:
    host = docker_registry.host
    async with Client(tmp_path / "pusher") as pusher, Client(tmp_path / "puller") as puller:
        for name, content in agents.items():
            repository = f"{host}/library/{_repository(name)}"
            pushed = await pusher.push_agent(content, repository)
            assert (await puller.pull_agent(repository)).content == content
            assert (await puller.pull_agent(pushed.reference)).origin == "pinned"


def test_every_agent_is_pushed_and_pulled_by_the_command(
    docker_registry: DockerRegistry, agents: dict[str, bytes], lading: Lading
) -> None:
    for name, content in agents.items():
        ref = f"{docker_registry.host}/command/{_repository(name)}:v1"
        lading("push", "-", ref, stdin=content)
        assert lading("cat", ref, store="other") == content


async def _requests_of(docker_registry: DockerRegistry, pull: Awaitable[object]) -> list[str]:
    before = len(docker_registry.requests())
    await pull
    return [f"{method} {path.split('/')[-2]}" for method, path, _ in docker_registry.requests()[before:]]


async def test_the_access_log_shows_the_fewest_requests(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    host = docker_registry.host
    others = len(docker_registry.requests())
    async with Client(tmp_path / "pusher") as pusher:
        await pusher.push_agent(YAML, f"{host}/acme/inline:v1")
        pushed = await pusher.push_agent(YAML, f"{host}/acme/plain:v1", inline=False)
    async with Client(tmp_path / "puller") as client:
        inline, plain = f"{host}/acme/inline:v1", f"{host}/acme/plain:v1"
        assert await _requests_of(docker_registry, client.pull_agent(inline)) == ["GET manifests"]
        assert await _requests_of(docker_registry, client.pull_agent(plain)) == ["GET manifests", "GET blobs"]
        assert await _requests_of(docker_registry, client.pull_agent(plain)) == ["HEAD manifests"]
        assert await _requests_of(docker_registry, client.pull_agent(plain, max_age=60)) == []
        assert await _requests_of(docker_registry, client.pull_agent(pushed.reference)) == []
    assert not any(path == "/v2/" for _, path, _ in docker_registry.requests()[others:])


async def test_tags_are_listed(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    repository = f"{docker_registry.host}/acme/tagged"
    async with Client(tmp_path) as client:
        for tag in ("v1", "v2"):
            await client.push_agent(YAML, f"{repository}:{tag}")
        assert [tag async for tag in client.tags(repository)] == ["v1", "v2"]


async def test_a_blob_of_another_repository_is_mounted(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    async with Client(tmp_path) as client:
        await client.push_agent(YAML + b"# mounted\n", f"{docker_registry.host}/acme/first:v1")
        before = len(docker_registry.requests())
        await client.push_agent(YAML + b"# mounted\n", f"{docker_registry.host}/acme/second:v1")
    sent = [(method, status) for method, _, status in docker_registry.requests()[before:]]
    assert sent == [("HEAD", 404), ("POST", 201), ("HEAD", 404), ("POST", 201), ("PUT", 201)]


async def test_pinned_across_processes(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    async with Client(tmp_path) as client:
        pushed = await client.push_agent(YAML, f"{docker_registry.host}/acme/processes:v1")
        await client.pull_agent(f"{docker_registry.host}/acme/processes:v1")
    async with Client(tmp_path) as client:
        agent = client.cached(pushed.reference)
        assert agent is not None
        assert isinstance(agent.reference, Reference)


def test_the_event_loop_isnt_held_up(
    docker_registry: DockerRegistry, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    """A ticker of 1 ms beside a batch of pulls: its worst slip is printed, not asserted."""
    # In a process of its own: here, the garbage of all tests is collected in between.
    command = [sys.executable, str(Path(__file__).with_name("ticker.py")), docker_registry.host, str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    assert figures["pulls"] == 201
    measured(
        "worst slip of a 1 ms ticker beside 201 pulls at once, three rounds",
        ", ".join(f"{slip * 1000:.1f} ms" for slip in figures["slips"]),
    )


def _repository(name: str) -> str:
    return name.lower().replace("_", "-")
