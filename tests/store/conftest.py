"""Directories that can't be written, disks that are full, stores on disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lading.store.local import LocalStore


class Mounts:
    """Mounts that are undone in the end; where this user may not mount, the test is skipped."""

    def __init__(self) -> None:
        self._points: list[Path] = []

    def disk(self, point: Path, size: str) -> Path:
        """A file system in memory with ``size`` of space (``2m``)."""
        point.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={size}", "none", str(point))
        self._points.append(point)
        return point

    def make_read_only(self, directory: Path) -> None:
        """Let nobody write to ``directory``, not even root."""
        self._mount("--bind", str(directory), str(directory))
        self._points.append(directory)
        self._mount("-o", "remount,bind,ro", str(directory))

    def undo(self) -> None:
        for point in reversed(self._points):
            subprocess.run(["umount", str(point)], check=True)
        self._points.clear()

    def _mount(self, *arguments: str) -> None:
        try:
            done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting isn't allowed here: {done.stderr.strip()}")


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    mounts = Mounts()
    yield mounts
    mounts.undo()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the store is; there is nothing yet."""
    return tmp_path / "data" / "store"


@pytest.fixture
async def open_store(home: Path, mounts: Mounts) -> AsyncIterator[Callable[[], LocalStore]]:
    """Open the store at ``home`` once more; all of them are closed in the end."""
    stores: list[LocalStore] = []

    def open_one() -> LocalStore:
        stores.append(LocalStore(home))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.aclose()


def descriptors() -> set[str]:
    """The files that this process has open."""
    directory = "/proc/self/fd"
    return {
        os.readlink(f"{directory}/{name}") for name in os.listdir(directory) if os.path.exists(f"{directory}/{name}")
    }
