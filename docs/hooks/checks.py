"""Fails a build in which a page loads anything from elsewhere, or shows markup that nobody has turned into text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
"""What a browser fetches by itself: a font, a script, an image. A link that a reader may follow is no such thing."""

_MARKUP = re.compile(r":(?:class|meth|func|data|attr|mod|exc):`|``|\]\[|^:::|--8<--")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in ("code", "script", "style")
        url = dict(attrs).get(_LOADED.get(tag, ""))
        if url is not None and (url.startswith("//") or "://" in url):
            self.found.append(f"<{tag}> loads {url}")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code and _MARKUP.search(data):
            self.found.append(f"shows markup: {data.strip()}")


def on_post_build(config: MkDocsConfig) -> None:
    from mkdocs.exceptions import PluginError

    paths = sorted(Path(config.site_dir).rglob("*.html"))
    found = [f"{path}: {fault}" for path in paths for fault in faults(path.read_text("utf-8"))]
    if found:
        raise PluginError("\n".join(["pages aren't what they should be:", *found]))


def faults(page: str) -> Iterator[str]:
    """Give what is wrong with a page."""
    parser = _Page()
    parser.feed(page)
    yield from parser.found
