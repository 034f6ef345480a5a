"""The pytest plugin: its fixtures under every kind of test, its price, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lading import Client, LadingError
from lading.testing import EmbeddedRegistry, RecordedRequest, ThreadedRegistry

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "testing_with_lading" / "test_my_agents.py"
README = PROJECT / "README.md"
YAML = b"agents: {root: {}}\n"
IMAGE = "application/vnd.oci.image.manifest.v1+json"

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run tests in a project of their own, without a trace of this one's configuration; give what pytest prints."""

    def run(source: str, *options: str, passed: int) -> str:
        (tmp_path / "test_it.py").write_text(source)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
        flags = ["-X", "dev", "-W", "error", "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"]
        command = [sys.executable, *flags, *options, "--rootdir", str(tmp_path), str(tmp_path)]
        environment = {**kept, "HOME": str(tmp_path / "home")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        output = done.stdout + done.stderr
        assert f"{passed} passed" in output, output
        assert done.returncode == 0, output
        assert "Warning" not in output, output
        assert not (tmp_path / "home").exists()
        return output

    return run


# What every project below asks of the fixtures.
SCENARIO = """
import threading

import pytest

YAML = b"agents: {root: {}}"


async def scenario(registry, client):
    reference = f"{registry.host}/acme/triage:v1"
    pushed = await client.push_agent(YAML, reference)
    with registry.recording() as requests:
        agent = await client.pull_agent(reference)
    requests.assert_requests("GET manifest")
    assert (agent.content, agent.origin) == (YAML, "registry")
    registry.stop()
    agent = await client.pull_agent(reference)
    assert agent.origin == "stale"
    registry.start()
    assert (await client.pull_agent(reference)).origin == "revalidated"
    assert client.cached(reference, max_age=60).content == YAML
    assert client.cached(pushed.reference).content == YAML


@pytest.fixture(autouse=True, scope="session")
def no_thread_is_left():
    yield
    assert [thread.name for thread in threading.enumerate() if "lading" in thread.name] == []
"""

PLAIN = (
    SCENARIO
    + """
import asyncio
import unittest
import urllib.request


def test_without_a_loop(oci_registry, lading_client):
    assert lading_client.cached(f"{oci_registry.host}/acme/triage") is None
    with urllib.request.urlopen(f"{oci_registry.url}/v2/") as response:
        assert response.status == 200
    oci_registry.assert_requests("GET ping")


def test_in_a_loop_of_its_own(oci_registry, lading_client):
    asyncio.run(scenario(oci_registry, lading_client))


def test_in_a_loop_that_is_left_open(oci_registry, lading_client):
    runner = asyncio.Runner()
    runner.run(scenario(oci_registry, lading_client))
    lading_client.close()
    runner.close()


@pytest.fixture
def open_loop():
    with asyncio.Runner() as runner:
        yield runner


def test_in_a_loop_that_outlives_the_client(open_loop, oci_registry, lading_client):
    open_loop.run(scenario(oci_registry, lading_client))


def test_several(oci_registry_factory):
    first, second = oci_registry_factory(), oci_registry_factory(writable=False, host="127.0.0.2")
    assert first.host != second.host
    assert second.host.startswith("127.0.0.2:")


def test_nothing_is_shared_by_tests(oci_registry, lading_client):
    assert oci_registry.requests == []


class TestWithUnittest(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def fixtures(self, oci_registry, lading_client):
        self.registry, self.client = oci_registry, lading_client

    async def test_in_the_loop_of_unittest(self):
        await scenario(self.registry, self.client)
"""
)

ASYNCIO = (
    SCENARIO
    + """
import pytest_asyncio


@pytest.mark.asyncio
async def test_in_the_loop_of_the_function(oci_registry, lading_client):
    await scenario(oci_registry, lading_client)


@pytest.mark.asyncio(loop_scope="module")
async def test_in_the_loop_of_the_module(oci_registry, lading_client):
    await scenario(oci_registry, lading_client)


@pytest_asyncio.fixture
async def pushed(oci_registry, lading_client):
    return await lading_client.push_agent(YAML, f"{oci_registry.host}/acme/triage:v1")


@pytest.mark.asyncio
async def test_with_a_fixture_in_the_same_loop(pushed, lading_client):
    assert (await lading_client.pull_agent(pushed.reference)).content == YAML


@pytest.mark.asyncio
async def test_closed_by_the_test(oci_registry, lading_client):
    async with lading_client:
        await scenario(oci_registry, lading_client)
"""
)

ANYIO = (
    SCENARIO
    + """
@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_alone(oci_registry, lading_client):
    await scenario(oci_registry, lading_client)


@pytest.fixture
async def pushed(oci_registry, lading_client):
    return await lading_client.push_agent(YAML, f"{oci_registry.host}/acme/triage:v1")


@pytest.mark.anyio
async def test_with_a_fixture_in_the_same_loop(pushed, lading_client):
    assert (await lading_client.pull_agent(pushed.reference)).content == YAML


@pytest.fixture(scope="module")
async def keeps_the_loop():
    yield


@pytest.mark.anyio
async def test_in_a_loop_that_outlives_the_client(keeps_the_loop, oci_registry, lading_client):
    await scenario(oci_registry, lading_client)
"""
)


def test_the_plugin_is_registered() -> None:
    (found,) = entry_points(group="pytest11", name="lading")
    assert found.value == "lading.testing.plugin", "install the project again: pip install -e ."


def test_in_plain_tests_and_those_of_unittest(run: Run) -> None:
    run(PLAIN, "-p", "no:asyncio", "-p", "no:anyio", passed=7)


def test_with_pytest_asyncio(run: Run) -> None:
    # Older versions of pytest-asyncio warn unless they are told.
    run(ASYNCIO, "-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function", passed=4)


def test_with_anyio(run: Run) -> None:
    run(ANYIO, "-p", "no:asyncio", passed=3)


def test_what_the_readme_shows(run: Run) -> None:
    (snippet,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "oci_reg" in block)
    run(snippet, "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", passed=1)


def test_the_example(run: Run) -> None:
    run(EXAMPLE.read_text(), "-p", "no:asyncio", passed=3)


def test_the_example_where_it_is(tmp_path: Path) -> None:
    """In a checkout this project's own configuration is none of its business."""
    command = [sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider", EXAMPLE.name]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=EXAMPLE.parent, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


# What it costs those who merely have it.


def test_it_imports_nothing_heavy_before_a_fixture_is_asked_for(measured: Callable[[str, str], None]) -> None:
    code = (
        "import sys, time, pytest; before = set(sys.modules); began = time.perf_counter()\n"
        "import lading.testing.plugin\n"
        "seconds = time.perf_counter() - began\n"
        "loaded = sorted(name for name in set(sys.modules) - before)\n"
        "print(seconds * 1000, *loaded)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    milliseconds, *loaded = output.split()
    measured("importing the pytest plugin", f"{float(milliseconds):.1f} ms, {len(loaded)} modules")
    assert loaded == ["lading", "lading.testing", "lading.testing.plugin"]


# The registry behind the fixtures.


@pytest.fixture
def threaded() -> Any:
    with ThreadedRegistry() as registry:
        yield registry


def test_it_is_arranged_and_inspected_from_any_thread(threaded: ThreadedRegistry) -> None:
    digest = threaded.add_blob("acme/triage", YAML)
    manifest = threaded.add_manifest("acme/triage", b"{}", IMAGE, "v1")
    assert threaded.call(lambda registry: registry._content.tags("acme/triage")) == ["v1"]
    threaded.remove_tag("acme/triage", "v1")
    threaded.remove_manifest("acme/triage", manifest)
    threaded.remove_blob("acme/triage", digest)
    with pytest.raises(KeyError):
        threaded.remove_blob("acme/triage", digest)


def test_it_has_every_method_of_the_embedded_one() -> None:
    def public(registry: EmbeddedRegistry | ThreadedRegistry) -> set[str]:
        return {name for name in dir(registry) if not name.startswith("_")}

    assert public(EmbeddedRegistry()) - public(ThreadedRegistry()) == set()


def test_it_stays_readable_and_arrangeable_while_it_is_down(threaded: ThreadedRegistry) -> None:
    threaded.stop()
    threaded.stop()
    host = threaded.host
    threaded.add_blob("acme/triage", YAML)
    assert (threaded.requests, threaded.summary(), threaded.connections) == ([], [], 0)
    threaded.start()
    assert threaded.host == host
    with pytest.raises(RuntimeError, match="already runs"):
        threaded.start()


def test_a_taken_port_is_told_to_who_starts_it(threaded: ThreadedRegistry) -> None:
    other = ThreadedRegistry(EmbeddedRegistry(int(threaded.host.rpartition(":")[2])))
    with pytest.raises(OSError, match="in use"):
        other.start()
    assert [thread.name for thread in threading.enumerate()].count("lading registry") == 1
    other.stop()


async def test_an_interceptor_may_use_it_in_its_own_thread(threaded: ThreadedRegistry, tmp_path: Path) -> None:
    async def move(request: web.Request, record: RecordedRequest) -> None:
        threaded.add_blob("acme/moved", YAML)
        with pytest.raises(RuntimeError, match="its own thread"):
            threaded.stop()

    threaded.intercept = move
    assert threaded.intercept is move
    async with Client(tmp_path) as client:
        with pytest.raises(LadingError):
            await client.pull_agent(f"{threaded.host}/acme/triage")
    assert threaded.call(lambda registry: registry._content.has_repository("acme/moved"))
    threaded.assert_requests("GET manifest")


def test_how_long_its_start_takes(measured: Callable[[str, str], None]) -> None:
    figures = []
    gc.collect()
    for _ in range(20):
        began = time.perf_counter()
        with ThreadedRegistry():
            figures.append(time.perf_counter() - began)
    measured("starting a registry in a thread, median of 20", f"{statistics.median(figures) * 1000:.1f} ms")


# The client behind the fixture.


def test_a_client_is_closed_where_no_loop_runs(threaded: ThreadedRegistry, tmp_path: Path) -> None:
    client = Client(tmp_path)
    with asyncio.Runner() as runner:
        runner.run(client.push_agent(YAML, f"{threaded.host}/acme/triage"))
        client.close()
        client.close()
        assert asyncio.all_tasks(runner.get_loop()) == set()
        assert not list(tmp_path.glob("*-wal"))  # which a store that isn't closed has
    with pytest.raises(LadingError, match="closed"):
        client.cached("acme/triage")


def test_a_client_is_closed_after_its_loop(threaded: ThreadedRegistry, tmp_path: Path) -> None:
    client = Client(tmp_path)
    asyncio.run(client.push_agent(YAML, f"{threaded.host}/acme/triage"))
    client.close()
    with pytest.raises(LadingError, match="closed"):
        client.cached("acme/triage")
    assert not list(tmp_path.glob("*-wal"))


async def test_a_client_is_not_closed_while_a_loop_runs(threaded: ThreadedRegistry, tmp_path: Path) -> None:
    reference = f"{threaded.host}/acme/triage"
    async with Client(tmp_path) as client:
        await client.push_agent(YAML, reference)
        with pytest.raises(LadingError, match="aclose"):
            client.close()
        with pytest.raises(LadingError, match="aclose"):
            await asyncio.to_thread(client.close)
        assert (await client.pull_agent(reference)).content == YAML
