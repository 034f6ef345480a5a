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


def locked_option(command: F) -> F:
    """Add ``--locked``, as ``locked``: the path of a lock file."""
    return click.option(
        "--locked", metavar="FILE", help="Pull what this lock file says; fail for what it doesn't cover."
    )(command)


def max_age_option(command: F) -> F:
    """Add ``--max-age``, as ``max_age``."""
    return click.option(
        "--max-age", type=float, callback=to_seconds, metavar="SECONDS", help="Trust a copy confirmed this recently."
    )(command)


def files_option(command: F) -> F:
    """Add ``-f``, as ``files``: paths of lists of references."""
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE",
        help="References from FILE, one a line, # before comments; - is standard input. May be given more than once.",
    )(command)


def concurrency_option(command: F) -> F:
    """Add ``--concurrency``, as ``concurrency``."""
    return click.option(
        "--concurrency",
        type=click.IntRange(1, 100),
        default=8,
        show_default=True,
        metavar="N",
        help="Large blobs at once, over four times as many connections at most; fewer where a registry refuses more.",
    )(command)


def trace_options(command: F) -> F:
    """Add ``--trace`` and ``--trace-svg``, as ``trace`` and ``trace_svg``."""
    command = click.option("--trace-svg", metavar="FILE", help="Write the same to FILE, as a picture.")(command)
    return click.option(
        "--trace", is_flag=True, help="Draw what took how long, on standard error; with --json it is in the result."
    )(command)


def json_option(command: F) -> F:
    """Add ``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def common_options(command: F) -> F:
    """Add ``--offline`` and ``--json``, as ``offline`` and ``as_json``."""
    command = json_option(command)
    return click.option("--offline", is_flag=True, help="Use no network: answer from the store, or fail.")(command)


def network_options(command: F) -> F:
    """Add the same to a verb that the store can't answer."""
    command = json_option(command)
    return click.option("--offline", is_flag=True, help="Use no network: this verb needs it, and fails.")(command)


def run(client: Client, verb: Callable[[Client], Awaitable[T]], *, is_long: bool = False) -> T:
    """Run a verb's coroutine with ``client`` on an event loop of its own, and close the client.

    One that ``is_long`` runs on uvloop, where that is installed: it takes a moment to load.
    """
    from importlib.util import find_spec

    import anyio

    from lading.cli.log import shown_log

    async def session() -> T:
        # Not entered: that would import what a verb that asks no registry doesn't need.
        try:
            return await verb(client)
        finally:
            await client.aclose()

    with shown_log():
        return anyio.run(session, backend_options={"use_uvloop": is_long and find_spec("uvloop") is not None})
