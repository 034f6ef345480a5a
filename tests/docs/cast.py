"""What the pages speak of: agents, an image, a model, in the registries where they are said to be."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import anyio
from layouts import HandMade

from lading import Client, Host, HostsConfig, MemoryStore, StaticCredentials
from lading.testing import PROFILES, EmbeddedRegistry, MemoryContent, ThreadedRegistry

OPEN = ("ghcr.io", "docker.io", "registry.acme.dev", "cache.acme.dev", "localhost:5000")
PRIVATE = "private.acme.dev"
"""Asks who is there, for everything but the front page."""
USERS = {"ada": "correct horse"}

IMAGES = ("library/alpine:3.20", "acme/app:v1")


def _agent(instruction: str, *, tools: str = "", sub_agents: str = "") -> bytes:
    lines = ["agents:", "  root:", "    model: openai/gpt-4o", f"    instruction: {instruction}"]
    if tools:
        lines += ["    toolsets:", *(f"      - type: {tool}" for tool in tools.split())]
    if sub_agents:
        lines += ["    sub_agents:", *(f"      - {name}" for name in sub_agents.split())]
    return ("\n".join(lines) + "\n").encode()


AGENTS: Mapping[str, bytes] = {
    "acme/triage:v1": _agent("Sort the tickets."),
    "acme/triage:v2": _agent("Sort the tickets, the oldest first."),
    "acme/triage:v3": _agent("Sort the tickets by urgency.", tools="think", sub_agents="ghcr.io/acme/writer:v2"),
    "acme/triage:v4": _agent("Sort the tickets by urgency.", tools="think shell", sub_agents="ghcr.io/acme/writer:v2"),
    "acme/triage:latest": _agent("Sort the tickets by urgency.", tools="think"),
    "acme/writer:v1": _agent("Write letters."),
    "acme/writer:v2": _agent("Write short letters.", sub_agents="ghcr.io/acme/reviewer:v1"),
    "acme/writer:latest": _agent("Write short letters."),
    "acme/reviewer:v1": _agent("Read what others wrote."),
    "acme/lead:v1": _agent("Lead.", sub_agents="ghcr.io/acme/writer:v2 ghcr.io/acme/reviewer:v1"),
}


def contents() -> dict[str, MemoryContent]:
    """Publish everything in the open registries, by name."""
    return {name: anyio.run(_published, name) for name in OPEN}


async def _published(name: str) -> MemoryContent:
    content = MemoryContent()
    if name not in ("ghcr.io", "docker.io"):
        return content
    async with EmbeddedRegistry(content=content) as registry:
        hosts = HostsConfig({name: Host(registry.url)})
        async with Client(MemoryStore(), hosts=hosts, credentials=StaticCredentials({})) as client:
            for reference, yaml in AGENTS.items():
                await client.push_agent(yaml, f"{name}/{reference}")
        for reference in IMAGES:
            _add_image(registry, *reference.split(":"))
        _add_model(registry, "acme/model", "v1")
    return content


def _add_image(registry: EmbeddedRegistry, repository: str, tag: str) -> None:
    """Add an index of two images."""
    made = HandMade()
    images = {
        architecture: made.manifest(f"{repository} on {architecture}".encode() * 20_000, architecture=architecture)
        for architecture in ("amd64", "arm64")
    }
    index = made.index(**images)
    for path, blob in made.files.items():
        if path.startswith("blobs/"):
            registry.add_blob(repository, blob)
    for raw in (*images.values(), index):
        registry.add_manifest(repository, raw, json.loads(raw)["mediaType"], tag if raw is index else None)


def _add_model(registry: EmbeddedRegistry, repository: str, tag: str) -> None:
    """Add an artifact of one layer."""
    made = HandMade()
    raw = made.manifest(b"weights" * 100_000)
    for blob in made.files.values():
        registry.add_blob(repository, blob)
    registry.add_manifest(repository, raw, json.loads(raw)["mediaType"], tag)


def registries(contents: Mapping[str, MemoryContent]) -> dict[str, ThreadedRegistry]:
    """Give the registries by the names that the pages use, none of them started; what one page does no other sees."""
    found = {
        name: ThreadedRegistry(EmbeddedRegistry(content=copy.deepcopy(content))) for name, content in contents.items()
    }
    found[PRIVATE] = ThreadedRegistry(
        EmbeddedRegistry(profile=PROFILES["harbor"], users=USERS, private={"acme/triage", "acme/secret"})
    )
    return found


def write_hosts(directory: Path, urls: Mapping[str, str]) -> None:
    """Configure, the way that a user would, that these URLs answer for these registries."""
    for name, url in urls.items():
        home = directory / "containerd" / "certs.d" / name
        home.mkdir(parents=True)
        (home / "hosts.toml").write_text(f'server = "{url}"\n')
