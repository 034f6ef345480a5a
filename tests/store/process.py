"""Scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def start(
    script: str, home: Path, *arguments: str, output: bool = False, takes_input: bool = False
) -> subprocess.Popen[str]:
    """Begin to run ``script`` with the path of a store as its first argument; warnings are errors there too."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), str(home), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdin=subprocess.PIPE if takes_input else None,
        stdout=subprocess.PIPE if output else None,
    )


def run(script: str, home: Path, *arguments: str) -> str:
    """Run ``script``, which must succeed; gives what it printed."""
    process = start(script, home, *arguments, output=True)
    output, _ = process.communicate()
    assert process.returncode == 0
    return output.strip()
