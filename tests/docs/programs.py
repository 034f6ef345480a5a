"""The programs that pages and examples run, without the time that it takes to import them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import warm


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory with the programs that the pages run."""
    with tempfile.TemporaryDirectory(prefix="lading-docs-") as directory:
        path = os.path.join(directory, "socket")
        for name in warm.NAMES:
            program = Path(directory, name)
            program.write_text(warm.PROGRAM.format(python=sys.executable, socket=path, name=name))
            program.chmod(0o755)
        command = [sys.executable, "-W", "error", warm.__file__, path]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == warm.READY
            yield Path(directory)
            assert server.stdin is not None
            server.stdin.close()
