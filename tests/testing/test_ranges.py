"""Ranges of blobs: RFC 9110, section 14, from memory and from files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testing.raw import fetch

from lading.testing import DirectoryContent, EmbeddedRegistry
from lading.testing.ranges import Unsatisfiable, asked_part

REPOSITORY = "acme/triage"
SMALL = bytes(range(250)) * 4
LARGE = bytes(range(251)) * 12_000
ETAG = '"tag"'


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=400-", (400, 1000)),
        ("bytes=400-499", (400, 500)),
        ("bytes=400-5000", (400, 1000)),
        ("bytes=999-", (999, 1000)),
        ("bytes=-1", (999, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("BYTES=0-9", (0, 10)),
        ("bytes= 0-9 ", (0, 10)),
        ("bytes=0-" + "9" * 30, (0, 1000)),
        # Nothing that could be answered with one range: as if it weren't there.
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=9-0", None),
        ("bytes=0-9,20-29", None),
        ("bytes=a-b", None),
        ("bytes 0-9", None),
        ("lines=0-9", None),
        ("bytes=\u0661-", None),
        ("bytes=+1-2", None),
        ("bytes=0-9\n", (0, 10)),
        ("bytes=0-" + "9" * 31, None),
    ],
)
def test_which_part_is_asked_for(asked: str, part: tuple[int, int] | None) -> None:
    assert asked_part({"Range": asked}, 1000, ETAG) == part


@pytest.mark.parametrize(
    ("asked", "size"), [("bytes=1000-", 1000), ("bytes=1000-2000", 1000), ("bytes=-0", 1000), ("bytes=0-", 0)]
)
def test_a_range_with_nothing_in_it(asked: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        asked_part({"Range": asked}, size, ETAG)


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [(ETAG, True), (f" {ETAG} ", True), ('"other"', False), (f"W/{ETAG}", False), ("tag", False), ("", False)],
)
def test_if_range(condition: str, is_met: bool) -> None:
    headers = {"Range": "bytes=400-", "If-Range": condition}
    assert asked_part(headers, 1000, ETAG) == ((400, 1000) if is_met else None)
    assert asked_part({"If-Range": condition}, 1000, ETAG) is None


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def blob(request: pytest.FixtureRequest) -> bytes:
    data: bytes = request.param
    return data


@pytest.fixture
def path(registry: EmbeddedRegistry, blob: bytes) -> str:
    return f"/v2/{REPOSITORY}/blobs/{registry.add_blob(REPOSITORY, blob)}"


@pytest.mark.parametrize(("asked", "first", "last"), [("0-9", 0, 9), ("400-", 400, None), ("-7", -7, None)])
async def test_one_range_is_answered_with_206(
    registry: EmbeddedRegistry, blob: bytes, path: str, asked: str, first: int, last: int | None
) -> None:
    received = await fetch(registry, path, headers={"Range": f"bytes={asked}"})
    expected = blob[first : None if last is None else last + 1]
    start = first % len(blob)
    assert (received.status, received.body) == (206, expected)
    assert received.headers["Content-Length"] == str(len(expected))
    assert received.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{len(blob)}"


async def test_a_range_beyond_the_end_is_answered_with_416(registry: EmbeddedRegistry, blob: bytes, path: str) -> None:
    received = await fetch(registry, path, headers={"Range": f"bytes={len(blob)}-"})
    assert (received.status, received.headers["Content-Range"]) == (416, f"bytes */{len(blob)}")
    assert received.body == b""


async def test_several_ranges_are_answered_whole(registry: EmbeddedRegistry, blob: bytes, path: str) -> None:
    received = await fetch(registry, path, headers={"Range": "bytes=0-9,20-29"})
    assert (received.status, received.body) == (200, blob)
    assert "Content-Range" not in received.headers


async def test_if_range_with_the_entity_tag(registry: EmbeddedRegistry, blob: bytes, path: str) -> None:
    head = await fetch(registry, path, "HEAD")
    assert head.headers["Accept-Ranges"] == "bytes"
    etag = head.headers["ETag"]
    received = await fetch(registry, path, headers={"Range": "bytes=400-", "If-Range": etag})
    assert (received.status, received.body, received.headers["ETag"]) == (206, blob[400:], etag)
    received = await fetch(registry, path, headers={"Range": "bytes=400-", "If-Range": '"other"'})
    assert (received.status, received.body) == (200, blob)


async def test_only_get_has_ranges(registry: EmbeddedRegistry, blob: bytes, path: str) -> None:
    received = await fetch(registry, path, "HEAD", {"Range": "bytes=0-9"})
    assert (received.status, received.headers["Content-Length"]) == (200, str(len(blob)))


async def test_nothing_of_a_large_file_is_read_but_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole_read = os.read

    def counting(descriptor: int, size: int) -> bytes:
        piece = whole_read(descriptor, size)
        read.append(len(piece))
        return piece

    content = DirectoryContent(tmp_path)
    async with EmbeddedRegistry(content=content) as registry:
        digest = registry.add_blob(REPOSITORY, LARGE)
        monkeypatch.setattr("lading.testing.files.os.read", counting)
        received = await fetch(registry, f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": "bytes=2000000-2000099"})
        assert received.body == LARGE[2_000_000:2_000_100]
        monkeypatch.undo()
    assert sum(read) == 100


async def test_all_of_a_large_file_as_a_range_is_verified(tmp_path: Path) -> None:
    content = DirectoryContent(tmp_path)
    async with EmbeddedRegistry(content=content) as registry:
        digest = registry.add_blob(REPOSITORY, LARGE)
        (file,) = (tmp_path / "repositories" / REPOSITORY / "_blobs" / "sha256").iterdir()
        file.chmod(0o644)
        with file.open("r+b") as damaged:
            damaged.write(b"damage")
        received = await fetch(registry, f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": "bytes=0-"})
        assert received.status == 206
        assert len(received.body) < len(LARGE), "the last bytes are withheld"
