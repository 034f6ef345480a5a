"""The programs and the registries that the pages speak of."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from docs.blocks import Block
from docs.cast import contents, registries, write_hosts
from docs.play import PROJECT, Places, Play, Terminal
from docs.programs import programs

from lading.testing import MemoryContent

__all__ = ["programs"]


@pytest.fixture(scope="session")
def cast() -> dict[str, MemoryContent]:
    return contents()


@pytest.fixture
def play(
    programs: Path, cast: dict[str, MemoryContent], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, list[Block]], None]:
    """Run a page of this name, in a directory, a home and a store of its own, with registries of its own."""

    def run(name: str, page: list[Block]) -> None:
        with ExitStack() as stack:
            # Not pytest's, whose names are too long for a socket in them.
            top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lading-page-")))
            running = registries(cast)
            if any("lading serve" in block.text for block in page if block.is_run):
                del running["localhost:5000"]
            for registry in running.values():
                stack.enter_context(registry)
            served = running.get("localhost:5000")
            port = _free_port() if served is None else int(served.host.rpartition(":")[2])
            environment = _environment(top, programs, port)
            urls = {name: registry.url for name, registry in running.items()}
            urls["localhost:5000"] = f"http://localhost:{port}"
            write_hosts(top / "home" / ".config", urls)
            if name.startswith("examples/"):
                shutil.copytree((PROJECT / name).parent, top / "work", dirs_exist_ok=True)
            monkeypatch.chdir(top / "work")
            for key in set(os.environ) - set(environment):
                monkeypatch.delenv(key)
            for key, value in environment.items():
                monkeypatch.setenv(key, value)
            terminal = stack.enter_context(Terminal(top / "work", environment))
            Play(name, terminal, Places(urls, environment["HOME"])).run(page)

    return run


def _environment(top: Path, programs: Path, port: int) -> dict[str, str]:
    for name in ("work", "home"):
        (top / name).mkdir()
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(top / "home"),
        "LADING_HOME": str(top / "store"),
        "DOCS_PORT": str(port),
        "LANG": "C.UTF-8",
        "PROJECT": str(PROJECT),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
