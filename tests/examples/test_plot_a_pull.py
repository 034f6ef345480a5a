"""The plot of a pull: a bar for each request, in a picture that is well-formed."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest
from examples.loading import EXAMPLES, run

from lading import Client, MemoryStore, StaticCredentials
from lading.testing import ThreadedRegistry

PROGRAM = (sys.executable, str(EXAMPLES / "plot_a_pull" / "plot.py"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def reference(oci_registry: ThreadedRegistry) -> str:
    async def publish() -> str:
        reference = f"{oci_registry.host}/acme/triage:v1"
        async with Client(MemoryStore(), credentials=StaticCredentials({})) as client:
            await client.push_agent(b"agents: {root: {}}\n", reference, inline=False)
        return reference

    return anyio.run(publish)


def bars(path: Path) -> list[str]:
    """What the rows of a picture are about, but for what isn't a request."""
    titles = [element.text or "" for element in ElementTree.parse(path).iter(f"{SVG}title")]
    return [title for title in titles if "/v2/" in title]


def test_a_cold_pull_is_two_bars_and_a_warm_one_is_one(reference: str, tmp_path: Path) -> None:
    cold = run(tmp_path, *PROGRAM, reference, "-o", "cold.svg")
    assert cold.returncode == 0, cold.stderr
    assert cold.stdout.startswith(f"cold.svg: 2 requests; {reference}: registry, sha256:")
    assert "2 RequestSent" in cold.stdout
    assert [bar.partition(" ")[0] for bar in bars(tmp_path / "cold.svg")] == ["manifest", "blob"]
    warm = run(tmp_path, *PROGRAM, reference, "-o", "warm.svg")
    assert warm.returncode == 0, warm.stderr
    assert "revalidated" in warm.stdout
    (head,) = bars(tmp_path / "warm.svg")
    assert head.startswith("manifest HEAD v1, ")
