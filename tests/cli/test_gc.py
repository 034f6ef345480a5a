"""``gc``: what the store doesn't need any more, said and removed; and what was imported, which nobody confirmed."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import anyio
import pytest
from artifacts import ANNOTATED, publish
from layouts import HandMade
from shell import Finished, Shell

from lading import LocalStore, Reference
from lading.cli.gc import to_age, to_size
from lading.oci.digest import Digest
from lading.store.store import Changes, use
from lading.testing import EmbeddedRegistry

YAML = b"agents:\n  root: {}\n"
LARGE = YAML + b"# " + b"x" * 200_000 + b"\n"
DAY = 86_400.0


def lines(done: Finished) -> list[str]:
    return done.out.decode().splitlines()


async def pulled(registry: EmbeddedRegistry, lading: Shell, *names: str) -> list[str]:
    """Pull an agent for each name; gives what they are called."""
    references = []
    for number, name in enumerate(names):
        publish(registry, (LARGE if number % 2 else YAML) + name.encode(), f"acme/{name}")
        references.append(f"{registry.host}/acme/{name}:v1")
        assert (await lading("pull", references[-1])).status == 0
    return references


async def used(lading: Shell, days: dict[str, float]) -> None:
    """Let references have been confirmed some days ago."""
    store = LocalStore(lading.env["LADING_HOME"])
    for name, record in store.references():
        at = time.time() - days[str(name)] * DAY
        await store.commit(Changes(at, references=((name, record.digest, record.media_type),)))
    await store.aclose()


async def test_where_there_is_nothing_there_is_nothing_to_do(lading: Shell) -> None:
    done = await lading("gc")
    assert (done.status, done.out) == (0, b"")
    assert "nothing to remove; 0 references, 0 bytes stay" in done.err
    assert not os.path.exists(lading.env["LADING_HOME"])


async def test_what_a_tag_left_goes_and_nothing_else(registry: EmbeddedRegistry, lading: Shell) -> None:
    (ref, other) = await pulled(registry, lading, "triage", "writer")
    old = Digest.parse(json.loads((await lading("ls", "--json")).out.splitlines()[0])["digest"])
    publish(registry, YAML + b"# newer\n")
    assert (await lading("pull", ref)).status == 0
    would = await lading("gc", "--dry-run")
    assert (would.status, len(lines(would))) == (0, 2)
    assert any(line.startswith(f"remove  {old} (") for line in lines(would))
    assert "2 pieces of content: " in would.err
    assert "would be free again; 2 references, 200.9 kB stay" in would.err
    assert (await lading("cat", "--offline", f"{ref.removesuffix(':v1')}@{old}")).status == 0, "nothing has changed"
    done = await lading("gc")
    assert lines(done) == lines(would)
    assert "are free again" in done.err
    assert (await lading("cat", "--offline", f"{ref.removesuffix(':v1')}@{old}")).status == 1
    assert (await lading("cat", "--offline", ref)).out == YAML + b"# newer\n"
    assert (await lading("cat", "--offline", other)).out == LARGE + b"writer"
    again = await lading("gc", "--offline")
    assert (again.out, again.status) == (b"", 0)


async def test_a_digest_that_was_pulled_stays_when_its_tag_moves(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    ref, pinned = f"{registry.host}/acme/triage:v1", f"{registry.host}/acme/triage@{digest}"
    await lading("pull", ref)
    registry.clear_requests()
    assert (await lading("pull", pinned)).status == 0
    assert registry.summary() == [], "it was there, and yet it is kept from now on"
    publish(registry, YAML + b"# newer\n")
    await lading("pull", ref)
    assert lines(await lading("gc")) == []
    assert (await lading("cat", "--offline", pinned)).out == YAML
    assert (await lading("rm", pinned)).status == 0
    assert len(lines(await lading("gc"))) == 2
    assert (await lading("cat", "--offline", pinned)).status == 1


async def test_what_wasnt_used_for_some_time_is_forgotten_first(registry: EmbeddedRegistry, lading: Shell) -> None:
    young, old, older = await pulled(registry, lading, "young", "old", "older")
    await used(lading, {young: 1, old: 20, older: 40})
    done = await lading("gc", "--older-than", "30d", "--json")
    results = [json.loads(line) for line in lines(done)]
    assert results[0] == {"state": "forgotten", "reference": older}
    assert [result["kind"] for result in results[1:-1]] == ["content", "content"]
    freed = sum(result["size"] for result in results[1:-1])
    assert results[-1] == {
        "state": "summary",
        "references": 1,
        "contents": 2,
        "files": 0,
        "freed": freed,
        "shrunk": 0,
        "references_left": 2,
        "bytes_left": results[-1]["bytes_left"],
        "dry_run": False,
    }
    assert "1 reference forgotten, 2 pieces of content: " in done.err
    assert lines(await lading("gc", "--older-than", "12h", "--dry-run"))[:2] == [f"forget  {old}", f"forget  {young}"]


async def test_what_was_used_the_longest_time_ago_makes_room(registry: EmbeddedRegistry, lading: Shell) -> None:
    small, large, other, larger = await pulled(registry, lading, "small", "large", "other", "larger")
    await used(lading, {small: 4, large: 3, other: 2, larger: 1})
    done = await lading("gc", "--max-size", "210kB")
    assert [line for line in lines(done) if line.startswith("forget")] == [f"forget  {large}", f"forget  {small}"]
    assert "2 references, " in done.err
    assert [line.split()[0] for line in lines(await lading("ls"))[1:]] == [larger, other]


async def test_what_is_read_every_day_is_in_use(registry: EmbeddedRegistry, lading: Shell) -> None:
    read, idle = await pulled(registry, lading, "read", "idle")
    digest = json.loads((await lading("ls", "--json")).out.splitlines()[1])["digest"]
    pinned = f"{registry.host}/acme/read@{digest}"
    await lading("pull", pinned)
    await used(lading, {read: 40, idle: 40, pinned: 40})
    await registry.stop()
    assert (await lading("cat", read)).out == YAML + b"read", "though its registry is down"
    assert (await lading("cat", pinned)).out == YAML + b"read"
    gone = [line for line in lines(await lading("gc", "--older-than", "30d")) if line.startswith("forget")]
    assert gone == [f"forget  {idle}"]


async def test_to_read_is_not_to_keep(registry: EmbeddedRegistry, lading: Shell) -> None:
    (ref,) = await pulled(registry, lading, "triage")
    digest = json.loads((await lading("ls", "--json")).out)["digest"]
    assert (await lading("cat", f"{registry.host}/acme/triage@{digest}")).status == 0
    assert [line.split()[0] for line in lines(await lading("ls"))[1:]] == [ref]


async def test_partial_downloads_and_temporary_files(lading: Shell) -> None:
    ingest = Path(lading.env["LADING_HOME"], "ingest")
    ingest.mkdir(parents=True)
    partial = ingest / f"sha256-{'a' * 64}.left-0123456789abcdef.part"
    partial.write_bytes(bytes(2_000_000))
    (ingest / "index-1.0123456789abcdef.part").write_bytes(bytes(5000))
    blob = ingest.parent / "blobs" / "sha256" / ("b" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(300_000))
    done = await lading("gc")
    assert lines(done) == [
        f"remove  {blob} (blob that belongs to nothing, 300.0 kB)",
        f"remove  {partial} (partial download, 2.0 MB)",
        f"remove  {ingest}/index-1.0123456789abcdef.part (temporary file, 5.0 kB)",
    ]
    assert "1 blob that belongs to nothing, 1 partial download, 1 temporary file: 2.3 MB are free again" in done.err
    assert list(ingest.iterdir()) == []


async def test_a_store_that_is_damaged_says_so(registry: EmbeddedRegistry, lading: Shell) -> None:
    await pulled(registry, lading, "triage")
    path = Path(lading.env["LADING_HOME"], "index-1.db")
    path.write_bytes(b"garbage" * 10_000)
    done = await lading("gc")
    assert (done.status, done.out) == (1, b"")
    assert "is damaged, and no content was collected" in done.err
    assert "hint: `lading verify --repair`" in done.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--older-than", "30"), "write 45m, 12h, 30d or 8w"),
        (("--older-than", "-1d"), "write 45m"),
        (("--older-than", "1y"), "write 45m"),
        (("--older-than", "nan"), "write 45m"),
        (("--max-size", "-1"), "write 500MB"),
        (("--max-size", "2XB"), "write 500MB"),
        (("--max-size", "inf"), "write 500MB"),
        (("--max-size", "٢GB"), "write 500MB"),
        (("--max-size", ""), "write 500MB"),
        (("what",), "unexpected"),
    ],
)
async def test_wrong_usage(lading: Shell, arguments: tuple[str, ...], why: str) -> None:
    done = await lading("gc", *arguments)
    assert done.status == 2
    assert why in done.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("12h", 43_200), ("30d", 30 * DAY), (" 1.5D", 1.5 * DAY), ("2w", 14 * DAY)],
)
def test_ages(text: str, seconds: float) -> None:
    assert to_age(None, None, text) == seconds  # type: ignore[arg-type]
    assert to_age(None, None, None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("7b", 7),
        ("500MB", 500_000_000),
        ("2 GB", 2_000_000_000),
        ("2g", 2_000_000_000),
        ("1.5GiB", 3 * 2**29),
        ("1tib", 2**40),
        ("64k", 64_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert to_size(None, None, text) == size  # type: ignore[arg-type]
    assert to_size(None, None, None) is None  # type: ignore[arg-type]


async def test_nothing_of_the_network_is_imported(lading: Shell) -> None:
    script = """
import sys
from lading.cli import main
status = main(["gc"])
print(status, [name for name in ("aiohttp", "lading.network", "yaml", "rich") if name in sys.modules], file=sys.stderr)
"""
    done = await anyio.run_process([sys.executable, "-c", script], cwd=lading.directory, env=lading.env)
    assert done.stderr.decode().splitlines()[-1] == "0 []"


# What was imported


async def imported(lading: Shell) -> str:
    made = HandMade()
    made.list(made.manifest(YAML, annotations=ANNOTATED), "v1", "ghcr.io/acme/triage:v1")
    made.write(lading.directory / "made")
    assert (await lading("import", "made")).status == 0
    return "ghcr.io/acme/triage:v1"


async def test_what_was_imported_was_never_confirmed(lading: Shell) -> None:
    ref = await imported(lading)
    listed = lines(await lading("ls"))
    assert listed[1].split()[0] == ref
    assert listed[1].endswith("  never")
    digest = json.loads((await lading("ls", "--json")).out)["digest"]
    shown = await lading("inspect", "--offline", f"ghcr.io/acme/triage@{digest}")
    assert "never: it was imported" in shown.out.decode()
    assert "days ago" not in shown.out.decode()
    answer = json.loads((await lading("cat", "--offline", "--json", "--max-age", "inf", ref)).out)
    assert (answer["content"], answer["origin"]) == (YAML.decode(), "stale"), "it is never fresh"


async def test_what_was_imported_isnt_old(lading: Shell) -> None:
    ref = await imported(lading)
    assert lines(await lading("gc", "--older-than", "1d")) == []
    store = LocalStore(lading.env["LADING_HOME"])
    await store.commit(Changes(0.0, notes=(use(Reference.parse(ref), time.time() - 2 * DAY),)))
    await store.aclose()
    assert lines(await lading("gc", "--older-than", "1d"))[0] == f"forget  {ref}"
