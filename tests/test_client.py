"""How a client is constructed and opened, before it is asked for anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from artifacts import publish

import lading
from lading import Client, HostsConfig, MemoryStore, Retry, StaticCredentials, Timeouts
from lading.testing import EmbeddedRegistry

SOURCES = Path(lading.__file__).parent.parent


# What it is constructed with.


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"store": 3}, TypeError, "store must be a Store or a directory, not int"),
        ({"store": ""}, ValueError, "working directory"),
        ({"hosts": {}}, TypeError, r"hosts must be a lading\.HostsConfig, not dict"),
        ({"credentials": ("ada", "secret")}, TypeError, r"lading\.StaticCredentials does, not tuple"),
        ({"proxy": 3128}, TypeError, "proxy must be text, not int"),
        ({"retry": 3}, TypeError, r"retry must be a lading\.Retry, not int"),
        ({"timeouts": 5.0}, TypeError, r"timeouts must be a lading\.Timeouts, not float"),
        ({"concurrency": 0}, ValueError, "concurrency must be at least 1"),
        ({"concurrency": "8"}, TypeError, "concurrency must be a number of blobs, not str"),
        ({"concurrency": True}, TypeError, "not bool"),
        ({"events": []}, TypeError, "events must be called with each event, not list"),
        ({"user_agent": 3}, TypeError, "user_agent must be text, not int"),
        ({"user_agent": "a\r\nX-Evil: b"}, ValueError, "on one line"),
        ({"user_agent": "café"}, ValueError, "printable ASCII"),
    ],
)
def test_a_mistake_is_found_where_it_is_made(
    options: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said) as refused:
        Client(**{"store": MemoryStore(), **options})
    assert "secret" not in str(refused.value)
    assert os.listdir(tmp_path) == []


def test_what_it_takes(tmp_path: Path) -> None:
    class Mine:
        async def credential(self, host: str) -> None:
            return None

    for store in (tmp_path, str(tmp_path), MemoryStore()):
        for options in (
            {"hosts": HostsConfig(), "retry": Retry(), "timeouts": Timeouts(), "credentials": StaticCredentials({})},
            {"credentials": Mine(), "proxy": None, "events": print, "concurrency": 1, "user_agent": "acme/1.0 (a; b)"},
        ):
            Client(store, **options).close()


# How it is opened.

_WATCHED = """
import asyncio, sys, threading

on_the_loop = set()

class Watch:
    def find_spec(self, name, path=None, target=None):
        if is_running and threading.current_thread() is threading.main_thread():
            on_the_loop.add(name)

async def run(store, reference):
    global is_running
    is_running = True
    async with lading.Client(store) as client:
        await client.pull_agent(reference)
    is_running = False

is_running = False
sys.meta_path.insert(0, Watch())
import lading
lading.Client
asyncio.run(run(*sys.argv[1:]))
assert "lading.network" in sys.modules
print(*sorted(on_the_loop))
"""


async def test_entering_it_leaves_no_import_to_the_event_loop(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    publish(registry, b"agents: {}\n")
    command = [sys.executable, "-c", _WATCHED, str(tmp_path / "store"), f"{registry.host}/acme/triage:v1"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = await anyio.run_process(command, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    rooms = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert rooms & {"aiohttp", "anyio", "ssl", "yarl", "multidict"} == set(), done.stdout.decode()
    assert "lading.network" not in done.stdout.decode().split()


async def test_without_entering_it_what_is_cached_takes_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, lading; lading.Client(sys.argv[1]).cached('acme/triage'); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = await anyio.run_process([sys.executable, "-c", code, str(tmp_path)], env=environment)
    modules = set(done.stdout.decode().split())
    assert modules & {"aiohttp", "asyncio", "anyio", "rich", "yaml", "aiofiles"} == set()
