"""The verbs that write to a registry: ``push``."""

from __future__ import annotations

import os
import sys

import click

from lading.cli.options import network_options, reference_argument, run
from lading.cli.render import print_json, say
from lading.client import Client
from lading.errors import InvalidDocument, LadingError
from lading.oci.reference import Reference


def _annotations(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} isn't KEY=VALUE", ctx, param)
    return dict(value.split("=", 1) for value in values)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise LadingError(f"{path}: {error.strerror or error}", hint="is the path right?") from error


def _warn_of(content: bytes) -> None:
    """Say so if docker-agent will hardly run what is about to be published."""
    from lading.agents.document import parse_document

    try:
        document = parse_document(content)
    except InvalidDocument as error:
        say(f"lading: warning: published as it is, but {error}")
    else:
        if not document.agents:
            say("lading: warning: published as it is, but it defines no agents")


@click.command()
@click.argument("source", metavar="FILE")
@reference_argument
@click.option(
    "--annotation",
    "annotations",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_annotations,
    help="Add an annotation.",
)
@click.option(
    "--inline/--no-inline",
    default=True,
    help="Embed a small agent in its manifest, so that a pull is one GET.",
)
@network_options
def push(
    source: str, reference: Reference, annotations: dict[str, str], inline: bool, offline: bool, as_json: bool
) -> None:
    """Publish the agent in FILE (- is standard input) as REF, and print the pinned reference.

    \b
    Examples:
      lading push triage.yaml acme/triage:v3
      generate-agent | lading push - ghcr.io/acme/triage
    """
    if source == "-" and sys.stdin is None:
        raise LadingError("standard input is closed", hint="name a file")
    content = sys.stdin.buffer.read() if source == "-" else _read(source)
    if not content.strip():
        raise LadingError(f"{'standard input' if source == '-' else source}: it is empty")
    _warn_of(content)
    pushed = run(
        Client(offline=offline),
        # Of a file its path, because its name goes with it; what was read from a pipe can't be read again.
        lambda client: client.push_agent(
            source if os.path.isfile(source) else content, reference, annotations=annotations, inline=inline
        ),
    )
    if as_json:
        descriptor = pushed.descriptor
        print_json({"reference": str(pushed.reference), "digest": str(descriptor.digest), "size": descriptor.size})
    else:
        print(pushed.reference)
