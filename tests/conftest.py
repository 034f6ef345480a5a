"""What the tests of flows share: a registry on loopback, stores, clients."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from ordeal import Ordeal
from planted import WatchedRun, Watcher

from lading import Client, LocalStore, MemoryStore, Retry, Store
from lading.auth.credentials import StaticCredentials
from lading.testing import EmbeddedRegistry

ONCE = Retry(attempts=1, longest_pause=0.0)
"""Most tests want to see what one failure does, without any wait after it."""

settings.register_profile("lading", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("lading")

_MEASURED = pytest.StashKey[list[tuple[str, str]]]()
_WATCHER = pytest.StashKey[Watcher]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lading")
    group.addoption("--torture", action="store_true", help="the long form of each test that has one: hours")
    group.addoption(
        "--seed", type=int, help="of what chance decides; by default the same each time, or with --torture never"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it runs in the background so, and the processes of the tests would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        os.environ.pop("PYTHONDEVMODE", None)  # what this process starts is as without pytest-xdist
    elif sys.flags.dev_mode and getattr(config.option, "numprocesses", None):
        os.environ["PYTHONDEVMODE"] = "1"  # pytest-xdist passes no ``-X dev`` on to its processes
    config.stash[_MEASURED] = []
    run = WatchedRun()
    config.stash[_WATCHER] = run.watcher
    config.pluginmanager.register(run, "planted")


def pytest_collection_finish() -> None:
    # What was collected stays to the end: looking for garbage among thousands of tests, again and again, finds none.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["measured"] = session.config.stash[_MEASURED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from a process of pytest-xdist what it measured."""
    node.config.stash[_MEASURED].extend(getattr(node, "workeroutput", {}).get("measured", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    watcher = config.stash[_WATCHER]
    if watcher.played:
        config.stash[_MEASURED].append((f"{len(watcher.played)} planted secrets", watcher.summary()))
    if config.stash[_MEASURED]:
        terminalreporter.section("measured")
        for what, figure in config.stash[_MEASURED]:
            terminalreporter.line(f"{what}: {figure}")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Report a figure at the end of the run: what was measured, and how it came out. Figures aren't asserted."""

    def report(what: str, figure: str) -> None:
        request.config.stash[_MEASURED].append((what, figure))

    return report


@pytest.fixture
def ordeal(request: pytest.FixtureRequest) -> Ordeal:
    """Tell which form is wanted; the seed is printed, and repeats a run with ``--seed``."""
    is_long = bool(request.config.getoption("--torture"))
    seed = request.config.getoption("--seed")
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") if is_long else 20
    print(f"--seed {seed}")
    return Ordeal(is_long, seed)


@pytest.fixture
def watcher(request: pytest.FixtureRequest) -> Watcher:
    """Whoever looks for planted secrets in this run."""
    return request.config.stash[_WATCHER]


@pytest.fixture
async def registry() -> AsyncIterator[EmbeddedRegistry]:
    async with EmbeddedRegistry() as registry:
        yield registry


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store = MemoryStore() if request.param == "memory" else LocalStore(tmp_path / "store")
    yield store
    await store.aclose()


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Client]:
    async with Client(store, credentials=StaticCredentials({}), retry=ONCE) as client:
        yield client


@pytest.fixture
async def connect(store: Store) -> AsyncIterator[Callable[..., Client]]:
    """Make further clients on the same store, or on others; they are closed in the end."""
    clients: list[Client] = []

    def make(store: Store = store, **options: object) -> Client:
        clients.append(Client(store, **{"credentials": StaticCredentials({}), "retry": ONCE, **options}))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()
