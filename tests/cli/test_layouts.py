"""``export``, ``import`` and ``verify`` at the shell."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from artifacts import INDEX, MANIFEST, index, manifest, publish, sha256
from layouts import HandMade, image
from shell import Finished, Shell

from lading.testing import EmbeddedRegistry
from lading.testing.faults import Reset

YAML = b"agents:\n  root:\n    description: Sorts bug reports\n"
LARGE = random.Random(7).randbytes(3 * 1024 * 1024)


@pytest.fixture
def home(lading: Shell) -> Path:
    return Path(lading.env["LADING_HOME"])


def lines(done: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def add_image(registry: EmbeddedRegistry, *layers: bytes, repository: str = "acme/image", tag: str = "v1") -> str:
    """Put an image into the registry without HTTP, and give its digest."""
    made = HandMade()
    raw = made.manifest(*layers)
    for path, content in made.files.items():
        if path.startswith("blobs/"):
            registry.add_blob(repository, content)
    return registry.add_manifest(repository, raw, MANIFEST, tag=tag)


# Export and import


async def test_there_and_back_without_a_network(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    assert (await lading("fetch", ref)).status == 0
    registry.clear_requests()
    for target in ("triage.tar", "triage"):
        exported = await lading("export", ref, target)
        assert (exported.status, exported.out.decode()) == (0, f"{registry.host}/acme/triage@{digest}\n"), exported.err
        assert f"{target}: {ref}, called v1 there: 3 blobs" in exported.err
        lading.env["LADING_HOME"] = str(lading.home / target)
        imported = await lading("import", target)
        assert (imported.status, imported.out) == (0, exported.out), imported.err
        assert (await lading("cat", "--offline", ref)).out == YAML
        assert (await lading("cat", f"{registry.host}/acme/triage@{digest}")).out == YAML
        assert json.loads((await lading("cat", "--offline", "--json", ref)).out)["age"] is None, "never confirmed"
        lading.env["LADING_HOME"] = str(lading.home.parent / "store")
    assert registry.summary() == []


async def test_a_tar_through_a_pipe(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = add_image(registry, LARGE)
    await lading("fetch", f"{registry.host}/acme/image:v1")
    exported = await lading("export", f"{registry.host}/acme/image:v1", "-")
    assert exported.status == 0
    assert "standard output" in exported.err
    lading.env["LADING_HOME"] += "-other"
    imported = await lading("import", "-", "--as", "ghcr.io/acme/image:v2", stdin=exported.out)
    assert (imported.status, imported.out.decode()) == (0, f"ghcr.io/acme/image@{digest}\n"), imported.err
    cut = await lading("import", "-", stdin=exported.out[:-2000])
    assert cut.status == 1
    assert "standard input" in cut.err


async def test_json(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = add_image(registry, LARGE, b"x")
    ref = f"{registry.host}/acme/image:v1"
    await lading("fetch", ref)
    (exported,) = lines(await lading("export", "--json", ref, "out"))
    assert (exported["reference"], exported["digest"], exported["name"], exported["blobs"]) == (ref, digest, "v1", 4)
    assert exported["mediaType"] == MANIFEST
    (imported,) = lines(await lading("import", "--json", "out", "--as", "ghcr.io/acme/image:v1"))
    assert (imported["reference"], imported["digest"]) == ("ghcr.io/acme/image:v1", digest)
    assert {(blob["digest"], blob["size"]) for blob in imported["blobs"]} >= {(sha256(LARGE), len(LARGE))}
    assert (imported["manifests"], imported["skipped"]) == ([digest], [])


async def test_every_image_of_a_layout(registry: EmbeddedRegistry, lading: Shell) -> None:
    for name in ("one", "two"):
        publish(registry, YAML + name.encode(), f"acme/{name}")
        await lading("fetch", f"{registry.host}/acme/{name}:v1")
    references = [f"{registry.host}/acme/{name}:v1" for name in ("one", "two")]
    assert (await lading("export", *references, "both.tar")).status == 0
    lading.env["LADING_HOME"] += "-other"
    refused = await lading("import", "both.tar")
    assert (refused.status, references[0] in refused.err, references[1] in refused.err) == (1, True, True)
    assert (await lading("import", "both.tar", references[1])).status == 0
    imported = await lading("import", "--all", "both.tar")
    assert (imported.status, len(imported.out.splitlines())) == (0, 2)
    for reference in references:
        assert (await lading("cat", "--offline", reference)).status == 0
    HandMade().write(lading.directory / "empty")
    for arguments in (("empty",), ("--all", "empty")):
        refused = await lading("import", *arguments)
        assert (refused.status, "nothing is in it" in refused.err) == (1, True)
    image().write(lading.directory / "nameless")
    refused = await lading("import", "--all", "nameless")
    assert refused.status == 1
    assert "--as REF" in refused.err


async def test_what_is_imported_is_asked_for_the_next_time(registry: EmbeddedRegistry, lading: Shell) -> None:
    """A pinned reference needs no network; of a tag the registry is asked, whatever --max-age says."""
    digest = publish(registry, YAML)
    ref, pinned = f"{registry.host}/acme/triage:v1", f"{registry.host}/acme/triage@{digest}"
    await lading("fetch", ref)
    await lading("export", ref, "triage.tar")
    lading.env["LADING_HOME"] += "-other"
    await lading("import", "triage.tar")
    registry.clear_requests()
    assert (await lading("cat", pinned)).out == YAML
    assert registry.summary() == []
    assert (await lading("cat", "--max-age", "1000000000", ref)).out == YAML
    assert registry.summary() == ["HEAD manifest"]
    assert (await lading("cat", "--max-age", "3600", ref)).out == YAML
    assert registry.summary() == ["HEAD manifest"], "now it is confirmed"
    await lading("import", "triage.tar")
    assert (await lading("cat", "--max-age", "3600", ref)).out == YAML
    assert registry.summary() == ["HEAD manifest"], "and stays so"


async def test_a_tag_that_has_moved_since(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("fetch", ref)
    await lading("export", ref, "triage.tar")
    publish(registry, YAML + b"# new\n")
    lading.env["LADING_HOME"] += "-other"
    await lading("import", "triage.tar")
    assert (await lading("cat", "--offline", ref)).out == YAML
    assert (await lading("cat", ref)).out == YAML + b"# new\n"
    refused = await lading("import", "triage.tar")
    assert refused.status == 1
    assert f"--as {ref}" in refused.err
    assert (await lading("cat", "--offline", ref)).out == YAML + b"# new\n"


async def test_an_agent_that_was_only_pulled(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("cat", ref)
    refused = await lading("export", ref, "out.tar")
    assert refused.status == 1
    assert sha256(b"{}") in refused.err
    assert f"lading fetch {ref}" in refused.err
    assert not (lading.directory / "out.tar").exists()
    assert (await lading("fetch", ref)).status == 0
    assert (await lading("export", ref, "out.tar")).status == 0


async def test_what_is_there_and_no_layout_is_left_alone(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("fetch", ref)
    for name in ("notes.tar", "empty.tar", "v1.d/notes.tar"):
        (lading.directory / name).parent.mkdir(exist_ok=True)
        (lading.directory / name).write_text("" if name == "empty.tar" else "mine")
    for name in ("notes.tar", "v1.d/notes.tar"):
        refused = await lading("export", ref, name)
        assert (refused.status, refused.out) == (1, b"")
        assert f"{name} is there, and isn't an OCI image layout" in refused.err
        assert (lading.directory / name).read_text() == "mine"
    for name in ("empty.tar", "empty.tar", "v1.d/directory", "./a.b/c"):
        assert (await lading("export", ref, name)).status == 0, name


async def test_one_platform_of_several(registry: EmbeddedRegistry, lading: Shell) -> None:
    made = HandMade()
    images = {
        architecture: made.manifest(architecture.encode(), architecture=architecture)
        for architecture in ("amd64", "arm64")
    }
    root = made.index(**images)
    for content in made.files.values():
        registry.add_blob("acme/image", content)
    for raw in images.values():
        registry.add_manifest("acme/image", raw, MANIFEST)
    registry.add_manifest("acme/image", root, INDEX, tag="v1")
    ref = f"{registry.host}/acme/image:v1"
    await lading("fetch", "--platform", "linux/arm64", ref)
    refused = await lading("export", ref, "out")
    assert refused.status == 1
    assert f"lading fetch --all-platforms {ref}" in refused.err
    assert "--platform" in refused.err
    exported = await lading("export", "--platform", "linux/arm64", ref, "out")
    assert exported.out.decode() == f"{registry.host}/acme/image@{sha256(images['arm64'])}\n"
    await lading("fetch", "--all-platforms", ref)
    assert (await lading("export", ref, "all")).out.decode() == f"{registry.host}/acme/image@{sha256(root)}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("export",),
        ("export", "acme/image"),
        ("export", "not a reference", "out"),
        ("export", "acme/image", ""),
        ("export", "acme/image", "localhost:5000/acme/other:v1"),
        ("export", "acme/image", "ghcr.io/acme/other"),
        ("export", "acme/image", "acme/other:v1"),
        ("export", "acme/image", "out.tar.gz"),
        ("export", "acme/image", "out.tgz"),
        ("export", "--json", "acme/image", "-"),
        ("export", "--platform", "a/b/c/d", "acme/image", "out"),
        ("import",),
        ("import", "--all", "out", "v1"),
        ("import", "--all", "--as", "acme/image", "out"),
        ("import", "--as", "not a reference", "out"),
        ("verify", "not a reference"),
    ],
)
async def test_wrong_usage(lading: Shell, arguments: tuple[str, ...]) -> None:
    done = await lading(*arguments)
    assert (done.status, done.out) == (2, b""), done.err
    assert list(lading.directory.iterdir()) == []


def test_a_tar_isnt_for_a_terminal(lading: Shell) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "lading", "export", "acme/image", "-"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=lading.env, check=False)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


async def test_nobody_reads_the_tar(registry: EmbeddedRegistry, lading: Shell) -> None:
    add_image(registry, LARGE)
    await lading("fetch", f"{registry.host}/acme/image:v1")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lading", "export", f"{registry.host}/acme/image:v1", "-"]
    done = await anyio.run_process(command, stdout=writing, env=lading.env, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


async def test_what_a_layout_says_cant_drive_the_terminal(lading: Shell) -> None:
    hostile = "\x1b]0;pwned\x07\x1b[2J\u202eevil"
    made = image(b"one", name=hostile)
    made.list(made.manifest(b"two"), "v2", hostile)
    made.write(lading.directory / "made")
    for arguments in ((), ("v3",), (hostile,), ("--all",)):
        done = await lading("import", "made", *arguments)
        assert done.status == 1
        assert "evil" in done.err
        assert not any(character in done.err for character in "\x1b\x07\u202e")


HEAVY = """
import sys
from lading.cli import main
status = main(sys.argv[1:])
heavy = [name for name in ("aiohttp", "lading.network", "lading.http.session", "yaml", "rich") if name in sys.modules]
print(status, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [("export", "ghcr.io/acme/image:v1", "out"), ("import", "made"), ("verify",), ("verify", "--repair")]
)
async def test_nothing_of_the_network_is_imported(lading: Shell, arguments: tuple[str, ...]) -> None:
    image(LARGE, called="ghcr.io/acme/image:v1").write(lading.directory / "made")
    assert (await lading("import", "made")).status == 0
    command = [sys.executable, "-c", HEAVY, *arguments]
    done = await anyio.run_process(command, cwd=lading.directory, env=lading.env)
    assert done.stderr.decode().splitlines()[-1] == "0 []"


# Verify


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def on_disk(home: Path, content: bytes) -> Path:
    path = home / "blobs" / "sha256" / sha256(content).removeprefix("sha256:")
    path.chmod(0o600)
    return path


def sql(home: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(home / "index-1.db", isolation_level=None)) as connection:
        assert connection.execute(statement, parameters).rowcount >= 1
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def test_a_store_that_is_whole(registry: EmbeddedRegistry, lading: Shell) -> None:
    empty = await lading("verify")
    assert (empty.status, empty.out) == (0, b"")
    assert "0 intact" in empty.err
    publish(registry, YAML)
    add_image(registry, LARGE)
    await lading("cat", f"{registry.host}/acme/triage:v1")
    await lading("fetch", f"{registry.host}/acme/image:v1")
    registry.clear_requests()
    done = await lading("verify")
    assert (done.status, done.out) == (0, b"")
    assert "5 intact (3.1 MB), 0 damaged, 1 not fetched, 0 unknown" in done.err
    assert (await lading("verify", "--repair")).status == 0
    one = await lading("verify", f"{registry.host}/acme/triage:v1")
    assert one.status == 0
    assert f"not fetched  {sha256(b'{}')}" in one.out.decode()
    unknown = await lading("verify", "ghcr.io/acme/unknown")
    assert unknown.status == 1
    assert "lading fetch ghcr.io/acme/unknown:latest" in unknown.err
    assert registry.summary() == []


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte less": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_blob_is_found_and_repaired(
    registry: EmbeddedRegistry, lading: Shell, home: Path, damage: Callable[[Path], object]
) -> None:
    digest = add_image(registry, LARGE, b"small")
    ref = f"{registry.host}/acme/image:v1"
    await lading("fetch", ref)
    path = on_disk(home, LARGE)
    damage(path)
    before = (await lading("ls", "--json")).out
    registry.clear_requests()
    found = await lading("verify")
    assert found.status == 1
    (line,) = found.out.decode().splitlines()
    assert line.startswith(f"damaged      {sha256(LARGE)}: the blob {path} ")
    assert line.endswith(f"; needed by {ref}")
    assert "lading verify --repair" in found.err
    (as_json, summary) = lines(await lading("verify", "--json"))
    assert (as_json["state"], as_json["size"], as_json["references"]) == ("damaged", len(LARGE), [ref])
    assert (summary["state"], summary["damaged"], summary["intact"]) == ("summary", 1, 3)
    assert registry.summary() == []

    offline = await lading("verify", "--repair", "--offline")
    assert offline.status == 1
    assert f"not repaired: can't stream {sha256(LARGE)} of {registry.host}/acme/image" in offline.out.decode()
    assert registry.summary() == []

    repaired = await lading("verify", ref, "--repair")
    assert (repaired.status, repaired.out.decode()) == (
        0,
        f"repaired     {sha256(LARGE)} from {registry.host}/acme/image\n",
    )
    assert registry.summary() == ["GET blob"], "what is intact isn't fetched again"
    assert path.read_bytes() == LARGE
    assert (await lading("ls", "--json")).out == before
    assert (await lading("verify")).status == 0
    assert (await lading("export", ref, "out")).out.decode() == f"{registry.host}/acme/image@{digest}\n"


async def test_damaged_content_in_the_index_is_repaired(registry: EmbeddedRegistry, lading: Shell, home: Path) -> None:
    digest = publish(registry, YAML)
    publish(registry, YAML + b"#", "acme/other")
    ref = f"{registry.host}/acme/triage:v1"
    await lading("cat", ref)
    await lading("cat", f"{registry.host}/acme/other:v1")
    for damaged, requests in ((sha256(YAML), ["GET blob"]), (digest, ["GET manifest"])):
        number = max(int(path.stem.removeprefix("index-")) for path in home.glob("index-*.db"))
        with closing(sqlite3.connect(home / f"index-{number}.db", isolation_level=None)) as connection:
            connection.execute("UPDATE content SET data = x'00' WHERE digest = ?", (damaged,))
        registry.clear_requests()
        assert (await lading("verify")).status == 1
        assert (await lading("cat", "--offline", ref)).status == 1
        repaired = await lading("verify", "--repair", "--json")
        assert repaired.status == 0, repaired.err
        assert [line["digest"] for line in lines(repaired) if line["state"] == "repaired"] == [damaged]
        assert registry.summary() == requests
        assert (await lading("cat", "--offline", ref)).out == YAML
        assert (await lading("verify")).status == 0


async def test_rows_that_are_damaged_are_repaired(registry: EmbeddedRegistry, lading: Shell, home: Path) -> None:
    """What is lost with a row of what was seen is asked for again where the reference says."""
    digest = publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("cat", ref)
    sql(home, "UPDATE seen SET checksum = 'x' WHERE digest = ?", digest)
    found = await lading("verify")
    assert found.status == 1
    assert f"the row of {digest} in {registry.host}/acme/triage is damaged" in found.out.decode()
    repaired = await lading("verify", "--repair")
    assert repaired.status == 0, repaired.out
    assert f"repaired     {digest}" in repaired.out.decode()
    assert (await lading("cat", "--offline", ref)).out == YAML


async def test_an_index_that_is_lost_is_left_aside(registry: EmbeddedRegistry, lading: Shell, home: Path) -> None:
    publish(registry, YAML)
    ref = f"{registry.host}/acme/triage:v1"
    await lading("cat", ref)
    (home / "index-1.db").write_bytes(b"garbage" * 1000)
    found = await lading("verify")
    assert found.status == 1
    assert "index-1.db" in found.out.decode()
    repaired = await lading("verify", "--repair")
    assert repaired.status == 0, repaired.out
    assert sorted(path.name for path in home.glob("index-*.db")) == ["index-1.db", "index-2.db"]
    assert (await lading("cat", ref)).out == YAML


async def test_what_a_tag_stood_for_before_is_repaired_by_its_digest(
    registry: EmbeddedRegistry, lading: Shell, home: Path
) -> None:
    old = add_image(registry, LARGE)
    ref = f"{registry.host}/acme/image:v1"
    await lading("fetch", ref)
    new = add_image(registry, b"new")
    await lading("fetch", ref)
    flip(on_disk(home, LARGE))
    repaired = await lading("verify", "--repair")
    assert repaired.status == 0, repaired.out
    listed = lines(await lading("ls", "--json"))
    assert [(line["reference"], line["digest"]) for line in listed] == [(ref, new)]
    assert (await lading("export", f"{registry.host}/acme/image@{old}", "out")).status == 0


async def test_a_body_that_is_cut_short_is_asked_for_again(
    registry: EmbeddedRegistry, lading: Shell, home: Path
) -> None:
    add_image(registry, LARGE)
    await lading("fetch", f"{registry.host}/acme/image:v1")
    flip(on_disk(home, LARGE))
    registry.faults.add(Reset(1_500_000), on="GET blob")
    assert (await lading("verify", "--repair")).status == 0
    assert on_disk(home, LARGE).read_bytes() == LARGE


async def test_the_registry_doesnt_have_it_any_more(registry: EmbeddedRegistry, lading: Shell, home: Path) -> None:
    """Then that is said, and the rest is repaired; another repository that had it is asked, too."""
    other = LARGE[::-1]
    add_image(registry, LARGE)
    add_image(registry, LARGE, repository="acme/second")
    add_image(registry, other, repository="acme/third")
    for name in ("image", "second", "third"):
        await lading("fetch", f"{registry.host}/acme/{name}:v1")
    flip(on_disk(home, LARGE))
    flip(on_disk(home, other))
    registry.remove_blob("acme/image", sha256(LARGE))
    registry.remove_blob("acme/third", sha256(other))
    done = await lading("verify", "--repair")
    assert done.status == 1
    repaired, failed = done.out.decode().splitlines()
    assert repaired == f"repaired     {sha256(LARGE)} from {registry.host}/acme/second"
    assert failed.startswith(f"damaged      {sha256(other)}")
    assert "not repaired" in failed
    assert "404" in failed
    assert (await lading("verify", f"{registry.host}/acme/image:v1")).status == 0


async def test_what_was_imported_is_repaired_like_anything_else(
    registry: EmbeddedRegistry, lading: Shell, home: Path
) -> None:
    add_image(registry, LARGE)
    made = HandMade()
    made.list(made.manifest(LARGE))
    made.write(lading.directory / "made")
    await lading("import", "made", "--as", f"{registry.host}/acme/image:v1")
    await lading("import", "made", "--as", "registry.invalid/acme/image:v1")
    flip(on_disk(home, LARGE))
    assert (await lading("verify", "--repair")).status == 0
    flip(on_disk(home, LARGE))
    again = await lading("import", "made", "--as", "registry.invalid/acme/image:v1")
    assert again.status == 0
    assert (await lading("verify")).status == 0


async def test_strays(registry: EmbeddedRegistry, lading: Shell, home: Path) -> None:
    add_image(registry, LARGE)
    await lading("fetch", f"{registry.host}/acme/image:v1")
    stray = home / "blobs" / "sha256" / "hello\x1b[2J"
    stray.write_bytes(b"")
    done = await lading("verify")
    assert done.status == 0
    assert done.out.decode() == f"unknown      {home}/blobs/sha256/hello\\x1b[2J: it belongs to nothing\n"
    stray_line, summary = lines(await lading("verify", "--json"))
    assert stray_line == {"state": "stray", "path": str(stray)}
    assert summary["strays"] == 1


async def test_an_index_of_agents(registry: EmbeddedRegistry, lading: Shell) -> None:
    raw = manifest(YAML)
    registry.add_blob("acme/triage", YAML)
    registry.add_blob("acme/triage", b"{}")
    registry.add_manifest("acme/triage", raw, MANIFEST)
    digest = registry.add_manifest("acme/triage", index(raw), INDEX, tag="v1")
    ref = f"{registry.host}/acme/triage:v1"
    await lading("fetch", "--all-platforms", ref)
    await lading("export", ref, "out.tar")
    with tarfile.open(lading.directory / "out.tar") as archive:
        assert len([name for name in archive.getnames() if name.startswith("blobs/sha256/")]) == 4
    lading.env["LADING_HOME"] += "-other"
    assert (await lading("import", "out.tar")).out.decode() == f"{registry.host}/acme/triage@{digest}\n"
    assert (await lading("cat", "--offline", ref)).out == YAML
