"""A pull-through cache in front of a fleet, by configuration alone: docker-registry as a proxy of docker-registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from peer_programs import DockerRegistry, running_docker_registry

from lading import Client


async def test_a_fleet_behind_a_pull_through_cache(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    async with Client(tmp_path / "pusher") as client:
        await client.push_agent(b"agents: {root: {}}\n", f"{docker_registry.host}/fleet/triage:v1", inline=False)
    (tmp_path / "cache").mkdir()
    with running_docker_registry(tmp_path / "cache", proxied=docker_registry.host) as cache:
        registry = tmp_path / "config" / "containerd" / "certs.d" / docker_registry.host
        registry.mkdir(parents=True)
        (registry / "hosts.toml").write_text(
            f'server = "http://{docker_registry.host}"\n'
            f'[host."http://{cache.host}"]\n  capabilities = ["pull", "resolve"]\n'
        )

        def cat(machine: str) -> bytes:
            env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "LADING_HOME": str(tmp_path / machine)}
            command = [sys.executable, "-m", "lading", "cat", f"{docker_registry.host}/fleet/triage:v1"]
            return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout

        before = len(docker_registry.requests())
        for machine in range(5):
            assert cat(f"machine-{machine}") == b"agents: {root: {}}\n"
        upstream = [(method, path) for method, path, _ in docker_registry.requests()[before:] if path != "/v2/"]
        at_cache = [(method, path.partition("?")[0]) for method, path, _ in cache.requests()]
        blobs = [path for method, path in upstream if "/blobs/" in path and method == "GET"]
        assert len([path for method, path in at_cache if "/manifests/" in path]) == 5, "every machine asked the cache"
        # It streams a blob to the first machine before it has kept it; the second may come too early.
        assert 1 <= len(blobs) <= 2, "and the cache asked for everybody"
    # The cache is gone: the registry itself answers.
    assert cat("machine-5") == b"agents: {root: {}}\n"
