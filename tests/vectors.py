"""The test vectors: inputs and expected results that are shared between implementations, and real artifacts.

They live in the directory that ``LADING_TEST_DATA`` names, else in ``shared`` beside the checkout. Where they are
missing, the tests that need them are skipped and say so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("LADING_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared")

MISSING = f"the shared test data isn't in {DATA}; LADING_TEST_DATA says where it is"

_GENERATED = ("input", "raw", "headers")
"""The fields that are null where a case is generated."""


def vectors(file: str, *keys: str) -> list[Any]:
    """Give the cases at ``keys`` of ``vectors/<file>`` as parameters; one that is skipped where they are missing."""
    path = DATA / "vectors" / file
    if not path.is_file():
        return [pytest.param({}, marks=pytest.mark.skip(reason=MISSING), id=f"{file}-missing")]
    cases: Any = json.loads(path.read_text("utf-8"))
    for key in keys:
        cases = cases[key]
    return [
        pytest.param(_generated(case), id=str(case.get("id", f"{keys[-1]}-{number}")))
        for number, case in enumerate(cases)
    ]


def layout(*parts: str) -> Path:
    """Give a path in ``data``, or skip the test that asks where the data is missing."""
    path = DATA.joinpath("data", *parts)
    if not path.exists():
        pytest.skip(MISSING)
    return path


def _generated(case: dict[str, Any]) -> dict[str, Any]:
    """Fill in an input that is too large to be stored."""
    if "generate" not in case:
        return case
    value = eval(case["generate"]["python"], {})
    return {
        key: ([value] if key == "headers" else value) if old is None and key in _GENERATED else old
        for key, old in case.items()
    }
