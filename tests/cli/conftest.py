from __future__ import annotations

from pathlib import Path

import pytest
from shell import Shell


@pytest.fixture
def lading(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
