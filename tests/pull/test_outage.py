"""A registry that goes away in the middle of a blob, and comes back: what has begun is brought to its end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from artifacts import MANIFEST, describe, sha256

from lading import Client, Retry
from lading.auth.credentials import StaticCredentials
from lading.errors import LadingError
from lading.events import Event, Retrying
from lading.testing import EmbeddedRegistry, RecordedRequest
from lading.testing.faults import Close

MIB = 1024 * 1024
REPOSITORY = "acme/image"
QUICK = Retry(attempts=3, first_delay=0.001, longest_delay=0.002)
LAYER = random.Random(8).randbytes(4 * MIB)


def put(registry: EmbeddedRegistry, *layers: bytes) -> str:
    for blob in (b"{}", *layers):
        registry.add_blob(REPOSITORY, blob)
    kind = "application/vnd.oci.image.layer.v1.tar"
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": [describe(kind, layer) for layer in layers],
    }
    registry.add_manifest(REPOSITORY, json.dumps(document).encode(), MANIFEST, tag="v1")
    return f"{registry.host}/{REPOSITORY}:v1"


class Outage:
    """After so many bytes there are no layers until ``is_over``; who asks for ``late`` is kept waiting till then."""

    def __init__(self, registry: EmbeddedRegistry, status: int, is_over: Callable[[], bool], late: str = "-") -> None:
        self._registry = registry
        self._status = status
        self._late = late
        self._is_over = is_over
        registry.faults.add(Close(3 * MIB), on="GET blob", times=None)
        registry.intercept = self

    async def __call__(self, request: web.Request, record: RecordedRequest) -> web.Response | None:
        while self._late in record.path and self._registry.bytes_sent < 3 * MIB:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        if self._is_over():
            self._registry.faults.clear()
            return None
        if self._registry.bytes_sent < 3 * MIB or sha256(b"{}") in record.path:
            return None
        if not self._status and request.transport is not None:
            request.transport.abort()
        return web.Response(status=self._status or 500)


@pytest.mark.parametrize("status", [0, 502, 503], ids=["no connection", "502", "503"])
async def test_an_outage_longer_than_the_attempts_is_survived(
    registry: EmbeddedRegistry, tmp_path: Path, status: int
) -> None:
    ref = put(registry, LAYER)
    events: list[Event] = []

    def again() -> int:
        return len([event for event in events if isinstance(event, Retrying)])

    Outage(registry, status, lambda: again() >= 5 * QUICK.attempts)
    async with Client(tmp_path, credentials=StaticCredentials({}), retry=QUICK, events=events.append) as client:
        with anyio.fail_after(30):
            artifact = await client.pull(ref)
        assert await artifact.read(artifact.blobs[1]) == LAYER
    assert again() >= 5 * QUICK.attempts
    assert artifact.fetched == len(LAYER) + 2, "nothing came twice"


@pytest.mark.parametrize("retry", [Retry(attempts=1), Retry(first_delay=0.001, longest_delay=0.01, budget=0.2)])
async def test_one_that_lasts_is_an_error_and_the_next_pull_goes_on(
    registry: EmbeddedRegistry, tmp_path: Path, retry: Retry
) -> None:
    ref = put(registry, LAYER)
    Outage(registry, 503, lambda: False)
    async with Client(tmp_path, credentials=StaticCredentials({}), retry=retry) as client:
        with anyio.fail_after(30), pytest.raises(LadingError):
            await client.pull(ref)
        registry.intercept = None
        registry.faults.clear()
        # What was in a buffer when the connection was lost has to come again: 2 MiB at most.
        assert (await client.pull(ref)).fetched <= len(LAYER) - MIB + 2


async def test_what_had_not_begun_waits_for_what_had(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    """The second layer is asked for when the outage has begun: the first one's patience is enough for both."""
    second = random.Random(9).randbytes(MIB)
    ref = put(registry, LAYER, second)
    events: list[Event] = []

    def is_over() -> bool:
        return len([event for event in events if isinstance(event, Retrying)]) >= 30

    Outage(registry, 503, is_over, sha256(second))
    async with Client(
        tmp_path, credentials=StaticCredentials({}), retry=QUICK, events=events.append, concurrency=2
    ) as client:
        with anyio.fail_after(30):
            artifact = await client.pull(ref)
        assert [await artifact.read(blob) for blob in artifact.blobs[1:]] == [LAYER, second]
