"""The examples as their users run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(path: str) -> Any:
    """Import an example, which is no part of a package."""
    name = f"example_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for its own
    spec.loader.exec_module(module)
    return module


def start(directory: Path, *command: str, programs: Path | None = None) -> subprocess.Popen[str]:
    """Start a program in a directory, with a home and a store of its own there, and ``programs`` first in its path."""
    (directory / "home").mkdir(exist_ok=True)
    env = {
        "PATH": f"{programs or os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "HOME": str(directory / "home"),
        "LADING_HOME": str(directory / "store"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PYTHONWARNINGS": "error",
    }
    return subprocess.Popen(
        list(command), cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(directory: Path, *command: str, programs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run such a program to its end."""
    with start(directory, *command, programs=programs) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
