"""What the harness is made of beside figures: content, distance, servers' counts, whose turn it is."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from pathlib import Path

import pytest

from benchmarks import delay, scenarios, servers
from benchmarks.plan import Contender
from benchmarks.runner import in_turn, last_words
from benchmarks.shelf import Shelf, digest_of, lay_out_docker_registry

# Content


def contents(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): digest_of(path.read_bytes()) for path in files}


def fill(root: Path, seed: int) -> Shelf:
    shelf = Shelf(root, seed)
    shelf.agents(3)
    shelf.image("bench/image", [20_000, 70_000])
    return shelf


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second, third = (fill(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert contents(first.root) == contents(second.root) != contents(third.root)
    assert first.published == second.published


def test_every_blob_is_where_its_digest_says(tmp_path: Path) -> None:
    for name, digest in contents(fill(tmp_path, 0).root).items():
        assert name.rpartition("/")[2] in (digest, "v1")


def test_layers_are_gzip_of_what_the_config_says(tmp_path: Path) -> None:
    shelf = fill(tmp_path, 0)
    home = shelf.root / "v2" / "bench" / "image"
    manifest = json.loads((home / "manifests" / "v1").read_bytes())
    config = json.loads((home / "blobs" / manifest["config"]["digest"]).read_bytes())
    layers = [(home / "blobs" / layer["digest"]).read_bytes() for layer in manifest["layers"]]
    assert [layer["size"] for layer in manifest["layers"]] == [len(layer) for layer in layers]
    assert config["rootfs"]["diff_ids"] == [digest_of(gzip.decompress(layer)) for layer in layers]


def test_a_tree_names_every_agent_of_the_next_level(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    tree = shelf.tree("localhost:5000", [1, 2, 5])
    yaml = {one.repository: (shelf.root / "v2" / one.repository / "blobs" / one.content).read_text() for one in tree}
    named = {name for name in yaml if any(f"localhost:5000/{name}:v1" in text for text in yaml.values())}
    assert len(tree) == 8
    assert named == set(yaml) - {tree[0].repository}


def test_docker_registrys_own_layout_has_the_same_bytes(tmp_path: Path) -> None:
    shelf = fill(tmp_path / "shelf", 0)
    lay_out_docker_registry(shelf, tmp_path / "storage")
    data = {digest_of(path.read_bytes()) for path in (tmp_path / "storage").rglob("data")}
    assert data == set(contents(shelf.root).values())


# Distance


def test_a_round_trip_is_two_halves() -> None:
    there, back = delay.Schedule(0.025), delay.Schedule(0.025)
    assert back.due(there.due(10.0, 100), 100) == pytest.approx(10.05)


def test_a_handshake_takes_a_round_trip_before_anything_sets_out() -> None:
    there = delay.Schedule(0.025, ready=10.05)
    assert there.due(10.0, 100) == pytest.approx(10.075)
    assert there.due(11.0, 100) == pytest.approx(11.025)


def test_bandwidth_spaces_bytes_out_and_is_not_saved_up() -> None:
    back = delay.Schedule(0.0, bandwidth=1000)
    assert [back.due(now, 500) for now in (0.0, 0.0, 9.0)] == pytest.approx([0.5, 1.0, 9.5])


async def test_what_goes_through_the_proxy_comes_out_unchanged() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    payload = bytes(range(256)) * 2000
    async with (
        await asyncio.start_server(echo, "127.0.0.1", 0) as server,
        delay.proxying(server.sockets[0].getsockname(), 0.001, None) as listener,
    ):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(payload)
        writer.write_eof()
        assert hashlib.sha256(await reader.read()).digest() == hashlib.sha256(payload).digest()
        writer.close()
        await writer.wait_closed()


# Counts of servers


def test_an_access_log_is_counted() -> None:
    log = "1 100 /v2/a/manifests/v1\n1 50 /v2/a/blobs/b\n2 7 /v2/c/manifests/v1\n3 9 /mark-1234\n"
    assert servers.counted(log) == servers.Counts(requests=3, bytes=157, connections=2)


def test_metrics_are_added_up() -> None:
    metrics = (
        'registry_http_requests_total{code="200",handler="manifest",method="get"} 1000\n'
        'registry_http_requests_total{code="200",handler="blob",method="get"} 1.5e+03\n'
        'registry_http_response_size_bytes_sum{handler="blob"} 2.5e+06\n'
        'registry_http_response_size_bytes_bucket{handler="blob",le="1024"} 7\n'
    )
    assert servers.metered(metrics) == servers.Counts(requests=2500, bytes=2_500_000)


def test_counts_since_know_no_more_than_both() -> None:
    assert servers.Counts(5, 50, 3).since(servers.Counts(2, 10, 1)) == servers.Counts(3, 40, 2)
    assert servers.Counts(5, 50).since(servers.Counts(2, 10)) == servers.Counts(3, 40, None)


# Turns


def test_contenders_take_turns_to_be_first() -> None:
    three = tuple(Contender(name, name, "limit", "", {}) for name in "abc")
    assert ["".join(one.name for one in in_turn(three, number)) for number in range(4)] == ["abc", "bca", "cab", "abc"]


def test_what_is_not_installed_says_so() -> None:
    assert "isn't installed" in Contender("a", "a", "peer", "", {}, needs="no-such-program").missing
    assert "isn't installed" in Contender("a", "a", "peer", "", {}, needs="python:no_such_module").missing
    assert Contender("a", "a", "peer", "", {}, needs="python:json").missing == ""


def test_the_last_words_of_a_group_of_errors_are_no_frame() -> None:
    assert last_words("Traceback\n  | ValueError: it broke\n  +------------------------------------\n") == (
        "ValueError: it broke"
    )


def test_scenarios_are_named_one_by_one_or_together() -> None:
    assert [one.name for one in scenarios.chosen(["cold", "image"])] == [
        "cold@0",
        "cold@20",
        "cold@50",
        "cold@100",
        "image",
    ]
    assert "huge" not in [one.name for one in scenarios.chosen([])]
    assert "huge" in [one.name for one in scenarios.chosen([], everything=True)]
    with pytest.raises(ValueError, match="no scenario"):
        scenarios.chosen(["nonsense"])


def test_names_of_scenarios_are_unique() -> None:
    assert len({one.name for one in scenarios.EVERY}) == len(scenarios.EVERY)
