"""Tests that need aioresponses, which works with aiohttp below 3.14 only: collected only where both are installed."""

from importlib.metadata import version
from importlib.util import find_spec

_WORKS = find_spec("aioresponses") is not None and tuple(map(int, version("aiohttp").split(".")[:2])) < (3, 14)

collect_ignore_glob = [] if _WORKS else ["test_*.py"]
