"""Content in a directory: it lasts, is shared, is verified, and stays inside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import io
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import aiohttp
import pytest

from lading.testing import DirectoryContent, EmbeddedRegistry, NotARegistry
from lading.testing.content import Content, StoredManifest
from lading.testing.files import Draft
from lading.testing.layout import tag_file, tag_of_file
from lading.testing.refusals import Refusal

REPOSITORY = "acme/triage"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
SMALL = b"agents: {}\n"
LARGE = bytes(range(256)) * 12_000  # three pieces, the last one not full
RAW = b'{"schemaVersion": 2}'


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
async def registry(root: Path) -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry(content=DirectoryContent(root)) as running:
        yield running


def blob_file(root: Path, digest: str, repository: str = REPOSITORY) -> Path:
    return root / "repositories" / repository / "_blobs" / digest.replace(":", "/")


def shared_file(root: Path, digest: str) -> Path:
    return root / "blobs" / digest.replace(":", "/")


def damage(file: Path, change: str) -> None:
    data = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(data[:-1] if change == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))


async def push_blob(http: aiohttp.ClientSession, data: bytes, repository: str = REPOSITORY) -> str:
    digest = digest_of(data)
    params = {"digest": digest}
    async with http.post(f"/v2/{repository}/blobs/uploads/", params=params, data=io.BytesIO(data)) as response:
        assert response.status == 201
    return digest


# It lasts.


async def test_what_was_pushed_is_there_for_the_next_registry(registry: EmbeddedRegistry, root: Path) -> None:
    async with aiohttp.ClientSession(registry.url) as http:
        digests = [await push_blob(http, data) for data in (b"", SMALL, LARGE)]
    manifest = registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
    again = DirectoryContent(root)
    assert again.manifest(REPOSITORY, "v1") == StoredManifest(manifest, IMAGE, RAW)
    assert again.tags(REPOSITORY) == ["v1"]
    async with EmbeddedRegistry(content=again) as second, aiohttp.ClientSession(second.url) as http:
        for digest, data in zip(digests, (b"", SMALL, LARGE), strict=True):
            async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
                assert await response.read() == data


async def test_people_can_look_into_it(registry: EmbeddedRegistry, root: Path) -> None:
    blob = registry.add_blob(REPOSITORY, SMALL)
    manifest = registry.add_manifest(REPOSITORY, RAW, IMAGE, "v1")
    assert shared_file(root, blob).read_bytes() == blob_file(root, blob).read_bytes() == SMALL
    home = root / "repositories" / REPOSITORY
    assert (home / "_tags" / "v1").read_text() == manifest + "\n"
    assert (home / "_manifests" / manifest.replace(":", "/")).read_bytes() == IMAGE.encode() + b"\n" + RAW


def test_tags_that_differ_in_case_have_files_that_differ_in_more() -> None:
    tags = ["v1", "V1", "latest", "LATEST", "LaTest", "A" * 128, "aA" * 64, "_", "1.0-RC.1"]
    files = [tag_file(tag) for tag in tags]
    assert len({file.lower() for file in files}) == len(tags)
    assert all(len(file) < 255 for file in files)
    assert [tag_of_file(file) for file in files] == tags
    assert [tag_of_file(file) for file in ("v1~", "v1~2", "v1~x", "V1", ".v1", "v1~0")] == [None] * 6


@pytest.mark.parametrize("repository", ["acme/blobs/x", "blobs", "uploads", "repositories", "manifests/sha256", "acme"])
async def test_names_that_look_like_the_layout(root: Path, repository: str) -> None:
    content = DirectoryContent(root)
    content.put_blob("acme/blobs", digest_of(SMALL), SMALL)
    content.put_manifest("acme/blobs", StoredManifest(digest_of(RAW), IMAGE, RAW), "v1")
    assert not content.has_repository(repository)
    content.put_manifest(repository, StoredManifest(digest_of(b"{}"), IMAGE, b"{}"), "x")
    assert content.repositories() == sorted(["acme/blobs", repository])
    assert content.tags("acme/blobs") == ["v1"]
    assert content.tags(repository) == ["x"]


async def test_a_push_that_changes_nothing_writes_nothing(root: Path) -> None:
    content = DirectoryContent(root)
    manifest = StoredManifest(digest_of(RAW), IMAGE, RAW)
    content.put_manifest(REPOSITORY, manifest, "v1")
    files = [path for path in root.rglob("*") if path.is_file()]
    before = [path.stat().st_ino for path in files]
    content.put_manifest(REPOSITORY, manifest, "v1")
    assert [path.stat().st_ino for path in files] == before


# It is shared.


async def test_repositories_share_bytes_until_the_last_one_lets_go(root: Path) -> None:
    content, digest = DirectoryContent(root), digest_of(LARGE)
    content.put_blob("a", digest, LARGE)
    content.put_blob("b", digest, LARGE)
    assert content.mount_blob("c", digest, "a")
    assert content.mount_blob("c", digest, "a")
    assert len({blob_file(root, digest, name).stat().st_ino for name in "abc"}) == 1
    for name in "abc":
        assert shared_file(root, digest).exists()
        content.remove_blob(name, digest)
    assert not shared_file(root, digest).exists()
    assert not content.mount_blob("d", digest, "a")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK])
async def test_without_hard_links_there_are_copies(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    content, digest = DirectoryContent(root), digest_of(LARGE)
    content.put_blob("a", digest, LARGE)
    content.put_blob("b", digest, LARGE)
    assert content.mount_blob("c", digest, "b")
    content.remove_blob("a", digest)
    assert {blob_file(root, digest, name).read_bytes() for name in "bc"} == {LARGE}
    assert os.listdir(root / "uploads") == []


def _push_and_delete(root: str, worker: int) -> None:
    content = DirectoryContent(root)
    name = f"worker{worker}"
    for turn in range(40):
        raw = b'{"turn": %d}' % (turn % 3)
        content.put_blob(name, digest_of(SMALL), SMALL)
        content.put_manifest("shared", StoredManifest(digest_of(raw), IMAGE, raw), f"v{turn % 2}")
        assert content.blob(name, digest_of(SMALL)) == SMALL
        if turn % 4 == worker:
            with contextlib.suppress(KeyError):  # another one did
                content.remove_manifest("shared", digest_of(raw))
        content.remove_blob(name, digest_of(SMALL))
    content.put_blob(name, digest_of(SMALL), SMALL)


def test_processes_on_one_directory_do_not_corrupt_it(root: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        for working in [pool.submit(_push_and_delete, str(root), worker) for worker in range(3)]:
            working.result(timeout=60)
    content = DirectoryContent(root)
    for tag in content.tags("shared"):
        assert content.manifest("shared", tag).raw.startswith(b'{"turn"')
    assert [content.blob(f"worker{worker}", digest_of(SMALL)) for worker in range(3)] == [SMALL] * 3
    assert os.listdir(root / "uploads") == []


def test_a_tag_that_moves_while_its_old_manifest_goes_is_found(root: Path) -> None:
    content, stop = DirectoryContent(root), threading.Event()
    raws = [b'{"turn": %d}' % turn for turn in range(2)]

    def move() -> None:
        for turn in range(40):
            new, old = raws[turn % 2], raws[(turn + 1) % 2]
            content.put_manifest(REPOSITORY, StoredManifest(digest_of(new), IMAGE, new), "v1")
            if turn:
                content.remove_manifest(REPOSITORY, digest_of(old))
        stop.set()

    content.put_manifest(REPOSITORY, StoredManifest(digest_of(raws[0]), IMAGE, raws[0]), "v1")
    mover = threading.Thread(target=move)
    mover.start()
    while not stop.is_set():
        assert content.manifest(REPOSITORY, "v1").raw in raws
    mover.join()


# It is verified.


@pytest.mark.parametrize("change", ["truncated", "flipped"])
async def test_a_damaged_small_blob_is_unknown_until_it_is_pushed_again(
    registry: EmbeddedRegistry, root: Path, change: str
) -> None:
    digest = registry.add_blob(REPOSITORY, SMALL)
    damage(blob_file(root, digest), change)
    async with aiohttp.ClientSession(registry.url) as http:
        for method in ("HEAD", "GET"):
            async with http.request(method, f"/v2/{REPOSITORY}/blobs/{digest}") as response:
                assert response.status == 404
        await push_blob(http, SMALL)
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
            assert await response.read() == SMALL


@pytest.mark.parametrize("change", ["truncated", "flipped"])
async def test_a_damaged_large_blob_is_never_sent_whole(registry: EmbeddedRegistry, root: Path, change: str) -> None:
    digest = registry.add_blob(REPOSITORY, LARGE)
    damage(blob_file(root, digest), change)
    async with aiohttp.ClientSession(registry.url) as http:
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
            assert response.status == 404
        await push_blob(http, LARGE)
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}") as response:
            assert await response.read() == LARGE


async def test_damage_is_not_mounted_over_good_bytes_nor_kept_for_others(root: Path) -> None:
    content, digest = DirectoryContent(root), digest_of(SMALL)
    content.put_blob("a", digest, SMALL)
    damage(blob_file(root, digest, "a"), "flipped")
    assert not content.mount_blob("b", digest, "a")
    content.put_blob("b", digest, SMALL)
    assert content.blob("b", digest) == SMALL
    assert content.mount_blob("a", digest, "b")
    assert content.blob("a", digest) == SMALL


@pytest.mark.parametrize("change", ["truncated", "flipped"])
async def test_a_damaged_manifest_is_unknown(root: Path, change: str) -> None:
    content, manifest = DirectoryContent(root), StoredManifest(digest_of(RAW), IMAGE, RAW)
    content.put_manifest(REPOSITORY, manifest, "v1")
    damage(root / "repositories" / REPOSITORY / "_manifests" / manifest.digest.replace(":", "/"), change)
    for reference in ("v1", manifest.digest):
        with pytest.raises(Refusal, match="MANIFEST_UNKNOWN"):
            content.manifest(REPOSITORY, reference)
    content.put_manifest(REPOSITORY, manifest, "v1")
    assert content.manifest(REPOSITORY, "v1") == manifest


# It stays inside.


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc", "a//b", "a/", "_blobs", "a/_tags", "A", "", "a\0"])
def test_a_name_that_is_none_builds_no_path(root: Path, name: str) -> None:
    content, digest = DirectoryContent(root), digest_of(SMALL)
    content.put_blob(REPOSITORY, digest, SMALL)
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(Refusal, match="NAME_INVALID"):
        content.put_blob(name, digest, SMALL)
    with pytest.raises(Refusal, match="NAME_INVALID"):
        content.put_manifest(name, StoredManifest(digest_of(RAW), IMAGE, RAW), "v1")
    with pytest.raises(Refusal, match="MANIFEST_INVALID"):
        content.put_manifest(REPOSITORY, StoredManifest(digest_of(RAW), IMAGE, RAW), "../v1")
    with pytest.raises(KeyError):
        content.remove_tag(REPOSITORY, "../v1")
    with pytest.raises(KeyError):
        content.remove_blob(REPOSITORY, "sha256:../../x")
    assert content.blob_size(name, digest) is None
    assert not content.mount_blob(REPOSITORY, digest, name)
    assert sorted(root.parent.rglob("*")) == before


@pytest.mark.parametrize("what", ["acme", "acme/triage/_blobs", "acme/triage/_manifests", "acme/triage/_tags"])
def test_a_symbolic_link_is_not_followed_out(root: Path, tmp_path: Path, what: str) -> None:
    content, outside = DirectoryContent(root), tmp_path / "outside"
    manifest = StoredManifest(digest_of(RAW), IMAGE, RAW)
    content.put_blob(REPOSITORY, digest_of(SMALL), SMALL)
    content.put_manifest(REPOSITORY, manifest, "v1")
    inside = root / "repositories" / what
    inside.rename(outside)
    inside.symlink_to(outside, target_is_directory=True)
    before = sorted(outside.rglob("*"))
    refused: list[str] = []
    for attempt in (
        lambda: content.blob(REPOSITORY, digest_of(SMALL)),
        lambda: content.manifest(REPOSITORY, "v1"),
        lambda: content.tags(REPOSITORY),
        lambda: content.put_blob(REPOSITORY, digest_of(LARGE), LARGE),
        lambda: content.put_manifest(REPOSITORY, manifest, "v2"),
        lambda: content.remove_tag(REPOSITORY, "v1"),
        lambda: content.remove_blob(REPOSITORY, digest_of(SMALL)),
    ):
        try:
            attempt()
        except Refusal as refusal:
            refused.append(refusal.code)
    assert set(refused) == {"DENIED"}
    assert len(refused) >= 2
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_plain_file_is_no_blob(root: Path, kind: str) -> None:
    content, digest = DirectoryContent(root), digest_of(SMALL)
    content.put_blob(REPOSITORY, digest, SMALL)
    file = blob_file(root, digest)
    file.unlink()
    if kind == "link":
        file.symlink_to(shared_file(root, digest))
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(Refusal, match="BLOB_UNKNOWN"):
        content.blob(REPOSITORY, digest)


def test_a_directory_of_something_else_is_left_alone(root: Path) -> None:
    root.mkdir()
    (root / "index.json").write_text("{}")
    with pytest.raises(NotARegistry):
        DirectoryContent(root)
    assert os.listdir(root) == ["index.json"]


@pytest.mark.parametrize("mark", [b"", b"{", b'{"format": "lading-registry", "version": 2}'])
def test_a_format_from_the_future_is_left_alone(root: Path, mark: bytes) -> None:
    DirectoryContent(root)
    (root / "registry.json").chmod(0o644)
    (root / "registry.json").write_bytes(mark)
    with pytest.raises(NotARegistry):
        DirectoryContent(root)


# Uploads.


async def test_a_large_upload_does_not_stay_in_memory_or_the_loop(root: Path) -> None:
    """Every piece goes to the file in another thread, and none is larger than two."""
    content, sizes, threads = DirectoryContent(root), list[int](), set[int]()

    class Watched(Draft):
        def append(self, piece: bytes) -> None:
            sizes.append(len(piece))
            threads.add(threading.get_ident())
            super().append(piece)

        def keep(self, repository: str, digest: str) -> None:
            content.keep(repository, digest, self)

    content.spool = lambda: Watched(root / "uploads")  # type: ignore[method-assign,assignment,return-value]
    data = bytes(8 * 1024 * 1024 + 1)
    async with EmbeddedRegistry(content=content) as registry, aiohttp.ClientSession(registry.url) as http:
        await push_blob(http, data)
    assert sum(sizes) == len(data)
    assert max(sizes) < 2 * 1024 * 1024
    assert threading.get_ident() not in threads


async def test_a_dropped_upload_takes_its_file_along(root: Path) -> None:
    spool = DirectoryContent(root).spool()
    assert os.listdir(root / "uploads") == []
    spool.append(SMALL)
    assert len(os.listdir(root / "uploads")) == 1
    del spool
    gc.collect()
    assert os.listdir(root / "uploads") == []


def test_a_draft_can_go_back(tmp_path: Path) -> None:
    draft = Draft(tmp_path)
    draft.append(b"12345678")
    draft.truncate(4)
    assert draft.digest("sha256") == digest_of(b"1234")
    draft.append(b"abcd")
    assert draft.digest("sha256") == digest_of(b"1234abcd")
    assert draft.digest("sha512") == digest_of(b"1234abcd", "sha512")
    draft.replace(tmp_path / "whole")
    draft.discard()
    assert (tmp_path / "whole").read_bytes() == b"1234abcd"
    assert os.listdir(tmp_path) == ["whole"]


async def test_a_full_disk_is_said_and_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    content: Content = DirectoryContent(root)
    async with EmbeddedRegistry(content=content) as registry, aiohttp.ClientSession(registry.url) as http:
        monkeypatch.setattr(os, "fsync", full)
        params = {"digest": digest_of(SMALL)}
        async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=params, data=SMALL) as response:
            assert response.status == 507
            assert "No space left" in (await response.json())["errors"][0]["message"]
        monkeypatch.undo()
        assert os.listdir(root / "uploads") == []
        await push_blob(http, SMALL)


SERVER = """
import asyncio, sys
from lading.testing import DirectoryContent, EmbeddedRegistry

async def main():
    async with EmbeddedRegistry(content=DirectoryContent(sys.argv[1])) as registry:
        print(registry.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
async def test_a_registry_killed_in_the_middle_of_a_push_loses_that_push_only(root: Path) -> None:
    command = (sys.executable, "-c", SERVER, str(root))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with aiohttp.ClientSession(url) as http:
        kept = await push_blob(http, SMALL)
        async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/") as response:
            location = response.headers["Location"]
        async with http.patch(location, data=io.BytesIO(LARGE)) as response:
            assert response.status == 202
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert [path.stat().st_size for path in (root / "uploads").iterdir()] == [len(LARGE)]
    content = DirectoryContent(root)
    assert os.listdir(root / "uploads") == []
    assert content.blob(REPOSITORY, kept) == SMALL
    assert content.blob_size(REPOSITORY, digest_of(LARGE)) is None


async def test_a_start_leaves_the_uploads_of_others_alone(root: Path) -> None:
    spool = DirectoryContent(root).spool()
    spool.append(SMALL)
    DirectoryContent(root)
    spool.keep(REPOSITORY, digest_of(SMALL))
    spool.discard()
    assert DirectoryContent(root).blob(REPOSITORY, digest_of(SMALL)) == SMALL


# Work in threads.


async def test_cancelled_work_ends_before_its_caller_goes_on(root: Path) -> None:
    content, started, go_on, done = DirectoryContent(root), threading.Event(), threading.Event(), list[bool]()

    def work() -> None:
        started.set()
        go_on.wait(10)
        done.append(True)

    async with asyncio.TaskGroup() as group:
        working = group.create_task(content.run(work))
        await asyncio.to_thread(started.wait)
        for _ in range(2):
            working.cancel()
            await asyncio.sleep(0)
        assert not working.done()
        go_on.set()
    assert working.cancelled()
    assert done == [True]


async def test_a_read_only_directory_is_served(root: Path) -> None:
    DirectoryContent(root).put_manifest(REPOSITORY, StoredManifest(digest_of(RAW), IMAGE, RAW), "v1")
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
    try:
        for directory in directories:
            directory.chmod(0o555)
        assert DirectoryContent(root).manifest(REPOSITORY, "v1").raw == RAW
    finally:
        for directory in directories:
            directory.chmod(0o755)
