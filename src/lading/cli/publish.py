"""The verbs that write to a registry: ``push``."""

from __future__ import annotations

import sys

import click

from lading.cli.options import common_options, reference_argument, run
from lading.cli.render import print_json
from lading.client import Client
from lading.errors import LadingError
from lading.oci.reference import Reference


def _annotations(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} isn't KEY=VALUE", ctx, param)
    return dict(value.split("=", 1) for value in values)


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
@common_options
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
    content = sys.stdin.buffer.read() if source == "-" else source
    pushed = run(
        Client(offline=offline),
        lambda client: client.push_agent(content, reference, annotations=annotations, inline=inline),
    )
    if as_json:
        descriptor = pushed.descriptor
        print_json({"reference": str(pushed.reference), "digest": str(descriptor.digest), "size": descriptor.size})
    else:
        print(pushed.reference)
