"""The verb ``serve``: a registry over a directory, for sharing agents and for trying things out."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

import click

from lading.cli.render import say
from lading.errors import LadingError

if TYPE_CHECKING:
    from lading.testing import EmbeddedRegistry

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that mean all of a machine's, and how this machine itself gets there."""

_RECORDS = 100
"""Requests that a server which may run for months remembers."""


@click.command()
@click.option("--store", "directory", metavar="DIR", help="Keep the content in DIR; by default it is gone in the end.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0 chooses a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option("--writable", is_flag=True, help="Allow pushes and deletions, by anybody who can connect.")
def serve(directory: str | None, port: int, host: str, writable: bool) -> None:
    """Run a registry until it is interrupted.

    It has no users and no TLS: whoever can connect can read, and with --writable write.

    \b
    Examples:
      lading serve --writable --store ./registry
      lading push triage.yaml localhost:5000/acme/triage
    """
    import anyio

    if not host or directory == "":
        raise click.UsageError("--host and --store want a value")
    anyio.run(_serve, directory, port, host, writable)


async def _serve(directory: str | None, port: int, host: str, writable: bool) -> None:
    import anyio

    from lading.http.transport import is_loopback

    _prepare_for_many()
    registry = _registry(directory, port, host, writable)
    try:
        await registry.start()
    except OSError as error:
        raise LadingError(
            f"can't listen on {host}:{port}: {error.strerror or error}", hint="choose another --port or --host"
        ) from error
    try:
        what = f"{directory or 'memory'}, {'writable' if writable else 'read-only'}"
        if not is_loopback(host):
            where = "all addresses of this machine" if host in _EVERYWHERE else host
            say(f"lading: warning: listening on {where}: whoever can reach it can read{' and write' * writable}")
        print(registry.host.replace(host, _EVERYWHERE.get(host, host)), flush=True)
        say(f"serving {what}; stop with Ctrl-C")
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                break
    finally:
        await registry.stop()
    say("stopped")


def _prepare_for_many() -> None:
    """Allow as many connections as there may be, and say once what would be said for each that is too many."""
    import asyncio
    import logging
    from typing import Any

    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # What isn't HTTP is answered with 400; a traceback for each says nothing more.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    told = False

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif not told:
            told = True
            say("lading: warning: out of file descriptors: connections have to wait")

    asyncio.get_running_loop().set_exception_handler(handle)


def _registry(directory: str | None, port: int, host: str, writable: bool) -> EmbeddedRegistry:
    from lading.testing import DirectoryContent, EmbeddedRegistry

    if directory is not None and os.path.exists(directory) and not os.path.isdir(directory):
        raise LadingError(f"{directory}: not a directory", hint="choose another --store")
    try:
        content = None if directory is None else DirectoryContent(directory)
    except OSError as error:
        raise LadingError(f"{directory}: {error.strerror or error}", hint="choose another --store") from error
    return EmbeddedRegistry(port, host, content=content, writable=writable, records=_RECORDS)
