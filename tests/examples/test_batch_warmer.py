"""The entry point of an init container: what is in the store after it, its exit status, and signals."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from examples.loading import EXAMPLES, load, run, start

from lading import Client, LocalStore, Lockfile, MemoryStore, Retry, StaticCredentials
from lading.testing import ThreadedRegistry
from lading.testing.faults import Stall, Status

PROGRAM = (sys.executable, str(EXAMPLES / "batch_warmer" / "warm.py"))


@pytest.fixture
def listed(oci_registry: ThreadedRegistry, tmp_path: Path) -> list[str]:
    """Three agents, the first of which names the last; in a list, and locked."""
    host = oci_registry.host

    async def publish() -> list[str]:
        async with Client(MemoryStore(), credentials=StaticCredentials({})) as client:
            for name in ("writer", "reviewer"):
                await client.push_agent(b"agents: {root: {}}\n", f"{host}/acme/{name}:v1")
            lead = f"agents: {{root: {{sub_agents: [{host}/acme/reviewer:v1]}}}}\n".encode()
            await client.push_agent(lead, f"{host}/acme/lead:v1")
            references = [f"{host}/acme/lead:v1", f"{host}/acme/writer:v1"]
            (await client.lock(references)).write(tmp_path / "agents.lock")
            return references

    references = anyio.run(publish)
    (tmp_path / "agents.txt").write_text("\n".join(["# the agents", *references, ""]))
    oci_registry.clear_requests()
    return references


def stored(directory: Path) -> list[str]:
    store = LocalStore(directory / "store")
    try:
        return [str(reference) for reference, _ in store.references()]
    finally:
        store.close()


def test_it_brings_all_that_a_list_needs(listed: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, *PROGRAM, "-f", "agents.txt", "--recursive")
    assert (done.returncode, done.stderr) == (0, "")
    assert {json.loads(line)["origin"] for line in done.stdout.splitlines()} == {"registry"}
    assert [name.partition("/")[2] for name in stored(tmp_path)] == [
        "acme/lead:v1",
        "acme/reviewer:v1",
        "acme/writer:v1",
    ]


def test_with_a_lock_file_alone_it_asks_no_registry_what_a_tag_stands_for(
    listed: list[str], tmp_path: Path, oci_registry: ThreadedRegistry
) -> None:
    done = run(tmp_path, *PROGRAM, "--locked", "agents.lock")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3
    assert all("/manifests/sha256:" in request.path for request in oci_registry.requests)
    again = run(tmp_path, *PROGRAM, "--locked", "agents.lock")
    assert {json.loads(line)["origin"] for line in again.stdout.splitlines()} == {"pinned"}


def test_what_fails_for_a_while_is_tried_again(
    listed: list[str], tmp_path: Path, oci_registry: ThreadedRegistry
) -> None:
    # As many as the client's own patience makes requests for two agents.
    oci_registry.faults.add(Status(503), on="GET manifest", times=2 * Retry().attempts)
    done = run(tmp_path, *PROGRAM, "-f", "agents.txt", "--pause", "0")
    assert (done.returncode, done.stderr) == (0, "warm: 2 failed, attempt 1 of 5\n")
    assert len(stored(tmp_path)) == 2


def test_what_cannot_be_had_fails_and_nothing_else_does(
    listed: list[str], tmp_path: Path, oci_registry: ThreadedRegistry
) -> None:
    gone = f"{oci_registry.host}/acme/gone:v1"
    with (tmp_path / "agents.txt").open("a") as file:
        file.write(f"{gone}\nacme/Wrong\n")
    done = run(tmp_path, *PROGRAM, "-f", "agents.txt", "--pause", "600")
    assert done.returncode == 1
    told = {line["reference"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert "404" in told[gone]["error"]
    assert "lower case" in told["acme/Wrong"]["error"]
    assert len(stored(tmp_path)) == 2


def test_what_the_lock_file_does_not_cover_fails(
    listed: list[str], tmp_path: Path, oci_registry: ThreadedRegistry
) -> None:
    Lockfile().write(tmp_path / "agents.lock")
    done = run(tmp_path, *PROGRAM, "-f", "agents.txt", "--locked", "agents.lock")
    assert done.returncode == 1
    assert oci_registry.requests == []


def test_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path, *PROGRAM).returncode == 2
    assert run(tmp_path, *PROGRAM, "--locked", "missing.lock").returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_what_has_arrived_is_kept(
    number: signal.Signals, listed: list[str], tmp_path: Path, oci_registry: ThreadedRegistry
) -> None:
    oci_registry.faults.add(Stall(), on="GET manifest", skip=1)
    with start(tmp_path, *PROGRAM, "-f", "agents.txt") as process:
        assert process.stdout is not None
        process.stdout.readline()  # one is there, the other will never be
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert number.name in err
    assert len(stored(tmp_path)) == 1
    oci_registry.faults.clear()
    assert run(tmp_path, *PROGRAM, "-f", "agents.txt").returncode == 0


def test_errors_that_may_pass() -> None:
    from lading import errors

    may_pass: Any = load("batch_warmer/warm.py").may_pass
    assert may_pass(errors.ConnectFailed("no connection"))
    assert may_pass(errors.RateLimited("too many"))
    assert may_pass(errors.RegistryError("down", status=502))
    assert not may_pass(errors.TlsFailed("somebody else"))
    assert not may_pass(errors.NotFound("gone", status=404))
    assert not may_pass(errors.NotAnAgent("an image"))
