"""What the verbs share: their argument types and options, and how a verb's coroutine is run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from lading.client import Client
from lading.errors import InvalidReference
from lading.oci.reference import Reference

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def to_reference(ctx: click.Context, param: click.Parameter, value: str) -> Reference:
    """Read an argument as a reference; text that isn't one is wrong usage."""
    try:
        return Reference.parse(value)
    except InvalidReference as error:
        raise click.BadParameter(str(error), ctx, param) from error


def as_written(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Check that an argument is a reference, and keep it as it was written."""
    to_reference(ctx, param, value)
    return value


def to_seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Check that an option is a number of seconds."""
    if value is not None and not value >= 0:
        raise click.BadParameter(f"{value} isn't a number of seconds", ctx, param)
    return value


def reference_argument(command: F) -> F:
    """Add the argument REF, as ``reference``."""
    return click.argument("reference", metavar="REF", callback=to_reference)(command)


def to_references(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Reference, ...]:
    """Read several arguments as references."""
    return tuple(to_reference(ctx, param, value) for value in values)


def json_option(command: F) -> F:
    """Add ``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def common_options(command: F) -> F:
    """Add ``--offline`` and ``--json``, as ``offline`` and ``as_json``."""
    command = json_option(command)
    return click.option("--offline", is_flag=True, help="Use no network: answer from the store, or fail.")(command)


def run(client: Client, verb: Callable[[Client], Awaitable[T]]) -> T:
    """Run a verb's coroutine with ``client`` on an event loop of its own, and close the client."""
    import logging

    import anyio

    async def session() -> T:
        async with client:
            return await verb(client)

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("lading: %(levelname)s: %(message)s"))
    logging.addLevelName(logging.WARNING, "warning")
    logger = logging.getLogger("lading")
    logger.addHandler(handler)
    try:
        return anyio.run(session)
    finally:
        logger.removeHandler(handler)
