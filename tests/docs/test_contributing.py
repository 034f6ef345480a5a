"""The house is drawn as it is."""

from __future__ import annotations

from docs.blocks import blocks
from docs.play import PROJECT
from test_imports import LAYERS


def test_the_house_is_drawn_as_it_is() -> None:
    page = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
    drawing = next(block.text for block in blocks(page) if block.language == "text")
    drawn = [room for line in reversed(drawing.splitlines()) for room in line.partition("   ")[0].split(", ")]
    assert sorted(drawn) == sorted(room for layer in LAYERS for room in layer)
    height = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    assert [height[room] for room in drawn] == sorted(height.values())


def test_the_sessions_that_are_named_exist() -> None:
    page = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
    sessions = (PROJECT / "noxfile.py").read_text("utf-8")
    for line in page.splitlines():
        command, _, rest = line.partition("nox -s ")
        if command.startswith("$ "):
            for name in rest.partition("#")[0].partition("--")[0].split():
                assert f"def {name}(" in sessions
