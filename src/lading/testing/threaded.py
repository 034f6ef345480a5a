"""A registry in a thread of its own, for tests of every kind: with any event loop, with several, or with none.

Whatever is asked of it while it runs is done by its thread, between two steps of the registry; so nothing here is
shared, and an answer that a client has got is on record by the time that anybody can ask.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self, TypeVar

from lading.testing.budgets import Inspection, Recording
from lading.testing.record import Log
from lading.testing.registry import EmbeddedRegistry, Intercept
from lading.testing.schedule import Faults

T = TypeVar("T")


class ThreadedRegistry(Inspection):
    """An `EmbeddedRegistry` whose event loop runs in a thread; every method here blocks, and none takes long.

    Use it as a context manager, or call `start` and `stop`. `registry` is what to run, a new one unless given; it
    must not be used directly while it runs: what has no method here is done by `call`.
    """

    def __init__(self, registry: EmbeddedRegistry | None = None) -> None:
        self._registry = EmbeddedRegistry() if registry is None else registry
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._lock = threading.RLock()

    # Lifecycle.

    def start(self) -> None:
        """Listen; once this returns, the registry answers. Raise `OSError` if the port is taken."""
        with self._lock:
            if self._thread is not None:
                raise RuntimeError(f"the registry already runs at {self._registry.url}")
            started: Future[None] = Future()
            # A daemon, so that a registry that nobody stops doesn't keep the process.
            thread = threading.Thread(target=self._run, args=(started,), name="lading registry", daemon=True)
            thread.start()
            try:
                started.result()
            except BaseException:
                thread.join()
                raise
            self._thread = thread

    def stop(self) -> None:
        """Refuse connections from now on, cut the open ones, and end the thread; content and records stay.

        Stopping a registry that doesn't run does nothing. Raise `RuntimeError` in its own thread.
        """
        with self._lock:
            thread, loop, ending = self._thread, self._loop, self._ending
            if thread is None or loop is None or ending is None:
                return
            if thread is threading.current_thread():
                raise RuntimeError("a registry can't be stopped by its own thread")
            loop.call_soon_threadsafe(ending.set)
            thread.join()
            self._thread = self._loop = self._ending = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, started: Future[None]) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: Future[None]) -> None:
        try:
            await self._registry.start()
        except BaseException as error:
            started.set_exception(error)
            return
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(None)
        try:
            await self._ending.wait()
        finally:
            await self._registry.stop()

    def call(self, action: Callable[[EmbeddedRegistry], T]) -> T:
        """Do something with the registry itself, between two of its steps, and return what came of it.

        `action` must not wait for anything.
        """
        if self._thread is threading.current_thread():
            return action(self._registry)  # an interceptor, or a fault
        with self._lock:
            if self._loop is None:
                return action(self._registry)
            result: Future[T] = Future()
            self._loop.call_soon_threadsafe(_settle, result, action, self._registry)
            return result.result()

    # Where it is.

    @property
    def host(self) -> str:
        """What goes in front of a reference: host and port. Raise `RuntimeError` before the first start."""
        return self._registry.host

    @property
    def url(self) -> str:
        """The origin of the registry, without a trailing slash."""
        return self._registry.url

    @property
    def token_url(self) -> str:
        """The origin of its token service; raise `RuntimeError` unless it is like one that has tokens."""
        return self._registry.token_url

    @property
    def storage_url(self) -> str:
        """The origin that it sends to for blobs; raise `RuntimeError` unless it is like one that does."""
        return self._registry.storage_url

    @property
    def ca_pem(self) -> bytes:
        """The certificate that clients have to trust, as PEM; raise `RuntimeError` without TLS."""
        return self._registry.ca_pem

    # What it was asked.

    def log(self) -> Log:
        """Return what happened so far."""
        return self.call(lambda registry: registry.log())

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record apart what happens in the block: `with registry.recording() as requests:`."""
        block = ExitStack()
        part = self.call(lambda registry: block.enter_context(registry.recording()))
        try:
            yield Recording(lambda: self.call(lambda registry: part.log()))
        finally:
            self.call(lambda registry: block.close())

    def clear_requests(self) -> None:
        """Forget the requests and the connections so far."""
        self.call(lambda registry: registry.clear_requests())

    # What is to go wrong, and who it gives tokens to.

    @property
    def faults(self) -> Faults:
        """What is to go wrong; it may be arranged from any thread by itself."""
        return self._registry.faults

    @property
    def token_requests(self) -> int:
        """How many of the requests on record are for tokens."""
        return self.call(lambda registry: registry.token_requests)

    def expire_tokens(self) -> None:
        """Let every token that was given out so far be over; raise `RuntimeError` unless it has tokens."""
        self.call(lambda registry: registry.expire_tokens())

    def identity_token(self, user: str) -> str:
        """Return a new identity token (a refresh token) of a user; raise `KeyError` for a stranger."""
        return self.call(lambda registry: registry.identity_token(user))

    @property
    def intercept(self) -> Intercept | None:
        """What is awaited with each request before the registry answers it, in the registry's thread."""
        return self.call(lambda registry: registry.intercept)

    @intercept.setter
    def intercept(self, intercept: Intercept | None) -> None:
        self.call(lambda registry: setattr(registry, "intercept", intercept))

    # What it holds.

    def add_blob(self, repository: str, data: bytes) -> str:
        """Keep a blob and return its sha256 digest."""
        return self.call(lambda registry: registry.add_blob(repository, data))

    def add_manifest(self, repository: str, raw: bytes, media_type: str, tag: str | None = None) -> str:
        """Keep a manifest, let `tag` name it, and return its sha256 digest; `raw` is not looked into."""
        return self.call(lambda registry: registry.add_manifest(repository, raw, media_type, tag))

    def remove_blob(self, repository: str, digest: str) -> None:
        """Remove a blob from one repository; raise `KeyError` if it isn't there."""
        self.call(lambda registry: registry.remove_blob(repository, digest))

    def remove_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest and the tags that name it; raise `KeyError` if it isn't there."""
        self.call(lambda registry: registry.remove_manifest(repository, digest))

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, not its manifest; raise `KeyError` if it isn't there."""
        self.call(lambda registry: registry.remove_tag(repository, tag))


def _settle(result: Future[T], action: Callable[[EmbeddedRegistry], T], registry: EmbeddedRegistry) -> None:
    try:
        result.set_result(action(registry))
    except BaseException as error:
        result.set_exception(error)
