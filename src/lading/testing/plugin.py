"""The pytest plugin: registries to test against, and a client for them.

pytest reads this module at every start, also of projects that never use it: it imports nothing but pytest, and each
fixture what it needs. It is the one part of this room that knows the client, because it hands one out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lading.client import Client
    from lading.testing.threaded import ThreadedRegistry


@pytest.fixture
def oci_registry_factory() -> Iterator[Callable[..., ThreadedRegistry]]:
    """Start OCI registries on loopback, with the options of ``lading.testing.EmbeddedRegistry``.

    Each runs in a thread of its own, so that it suits synchronous tests and those of every asynchronous plugin. They
    are stopped after the test.
    """
    from lading.testing.registry import EmbeddedRegistry
    from lading.testing.threaded import ThreadedRegistry

    with ExitStack() as running:

        def start(*arguments: Any, **options: Any) -> ThreadedRegistry:
            return running.enter_context(ThreadedRegistry(EmbeddedRegistry(*arguments, **options)))

        yield start


@pytest.fixture
def oci_registry(oci_registry_factory: Callable[..., ThreadedRegistry]) -> ThreadedRegistry:
    """A fresh OCI registry on loopback, empty and writable, which records its requests."""
    return oci_registry_factory()


@pytest.fixture
def lading_client_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Client]]:
    """Make clients, each on an empty temporary store, with the options of ``lading.Client``; no credentials by default.

    The network of each belongs to the event loop that first uses it, and they are closed after the test.
    """
    from lading.auth.credentials import StaticCredentials
    from lading.client import Client

    with ExitStack() as open_clients:

        def make(**options: Any) -> Client:
            store = tmp_path_factory.mktemp("lading-store")
            client = Client(**{"store": store, "credentials": StaticCredentials({}), **options})
            open_clients.callback(client.close)
            return client

        yield make


@pytest.fixture
def lading_client(lading_client_factory: Callable[..., Client]) -> Client:
    """A ``lading.Client`` on an empty temporary store and without credentials.

    Its network belongs to the event loop that first uses it, and it is closed after the test.
    """
    return lading_client_factory()
