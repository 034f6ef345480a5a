"""A registry on either content, and a plain HTTP client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from lading.testing import Content, DirectoryContent, EmbeddedRegistry, MemoryContent


@pytest.fixture(params=["memory", "directory"])
def content(request: pytest.FixtureRequest, tmp_path: Path) -> Content:
    return MemoryContent() if request.param == "memory" else DirectoryContent(tmp_path / "registry")


@pytest.fixture
async def registry(content: Content) -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry(content=content) as running:
        yield running


@pytest.fixture
async def http(registry: EmbeddedRegistry) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(registry.url) as session:
        yield session
