"""The plot of a pull: a bar a request, in a picture that is well-formed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest
from examples.loading import EXAMPLES, load, run

from lading import Client, MemoryStore, StaticCredentials, events
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
    """The texts of the bars in a picture."""
    texts = [element.text or "" for element in ElementTree.parse(path).iter(f"{SVG}text")]
    return [text for text in texts if text.endswith(" ms") and "/" in text and not text.startswith("127.")]


def test_a_cold_pull_is_two_bars_and_a_warm_one_is_one(reference: str, tmp_path: Path) -> None:
    cold = run(tmp_path, *PROGRAM, reference, "-o", "cold.svg")
    assert cold.returncode == 0, cold.stderr
    assert cold.stdout.startswith(f"cold.svg: 2 requests; {reference}: registry, sha256:")
    assert [bar.partition(" /v2/")[0] for bar in bars(tmp_path / "cold.svg")] == ["GET", "GET"]
    warm = run(tmp_path, *PROGRAM, reference, "-o", "warm.svg")
    assert warm.returncode == 0, warm.stderr
    assert [bar.rpartition(",")[0] for bar in bars(tmp_path / "warm.svg")] == ["HEAD /v2/acme/triage/manifests/v1 200"]


def test_everything_stays_in_the_picture(tmp_path: Path) -> None:
    plot: Any = load("plot_a_pull/plot.py")
    recorder = plot.Recorder()
    recorder(events.RequestSent("GET", "http://a/<b>&", 0, 0.0))
    recorder(events.Retrying("GET", "http://a/", "no connection", 1, 0.5))
    recorder(events.RequestSent("GET", "http://a/v2/x/blobs/" + "0" * 64, 200, 0.0))
    recorder(events.Pulled("a/b:c", "sha256:" + "0" * 64, "registry", 0.6))
    root = ElementTree.fromstring(plot.svg(recorder.title, recorder.bars, recorder.end))
    rectangles = list(root.iter(f"{SVG}rect"))[1:]
    assert len(rectangles) == 3
    for rectangle in rectangles:
        assert 0 <= float(rectangle.attrib["x"]) <= plot.WIDTH
        assert float(rectangle.attrib["x"]) + float(rectangle.attrib["width"]) <= plot.WIDTH


def test_of_a_pinned_agent_there_is_nothing_to_draw() -> None:
    plot: Any = load("plot_a_pull/plot.py")
    assert ElementTree.fromstring(plot.svg("pinned", [], 0.0)) is not None
