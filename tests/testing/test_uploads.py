"""Uploads that nobody goes on with."""

from __future__ import annotations

import pytest

from lading.testing.memory import MemoryContent
from lading.testing.refusals import Refusal
from lading.testing.uploads import Uploads


def test_an_upload_that_is_idle_for_an_hour_is_forgotten_when_the_next_one_begins() -> None:
    now = 0.0
    uploads, content = Uploads(lambda: now), MemoryContent()
    idle, used, claimed = (uploads.begin("acme/triage", content.spool()) for _ in range(3))
    with claimed.claimed():
        now = 3000.0
        assert uploads.find("acme/triage", used.identifier) is used
        now = 4000.0
        uploads.begin("acme/triage", content.spool())
    assert uploads.find("acme/triage", used.identifier) is used
    assert uploads.find("acme/triage", claimed.identifier) is claimed
    with pytest.raises(Refusal):
        uploads.find("acme/triage", idle.identifier)
