"""An application that mocks aiohttp in its own tests can mock lading's requests with it."""

from __future__ import annotations

import pytest
from aioresponses import aioresponses
from artifacts import MANIFEST, manifest, sha256

from lading import Client, MemoryStore
from lading.auth.credentials import StaticCredentials
from lading.errors import NotFound

YAML = b"agents:\n  root: {}\n"
BASE = "https://registry.example/v2/acme/triage"


async def test_a_pull_is_mocked() -> None:
    raw = manifest(YAML)
    with aioresponses() as mocked:
        mocked.get(f"{BASE}/manifests/v1", body=raw, headers={"Content-Type": MANIFEST})
        mocked.get(f"{BASE}/blobs/{sha256(YAML)}", body=YAML)
        async with Client(MemoryStore(), credentials=StaticCredentials({})) as client:
            agent = await client.pull_agent("registry.example/acme/triage:v1")
    assert (agent.content, agent.digest) == (YAML, sha256(raw))


async def test_an_error_is_mocked() -> None:
    with aioresponses() as mocked:
        body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
        mocked.get(f"{BASE}/manifests/v1", status=404, body=body)
        async with Client(MemoryStore(), credentials=StaticCredentials({})) as client:
            with pytest.raises(NotFound, match="manifest unknown") as caught:
                await client.pull_agent("registry.example/acme/triage:v1")
    assert caught.value.codes == ("MANIFEST_UNKNOWN",)
