"""The verbs about what is in a registry: ``resolve``, ``tags`` and ``delete``."""

from __future__ import annotations

import click

from lading.cli.options import network_options, reference_argument, run, to_reference
from lading.cli.render import print_json
from lading.client import Client
from lading.oci.reference import Reference
from lading.redact import printable


@click.command()
@reference_argument
@network_options
def resolve(reference: Reference, offline: bool, as_json: bool) -> None:
    """Print the digest that REF stands for now.

    \b
    Example:
      lading resolve ghcr.io/acme/triage:v3
    """
    descriptor = run(Client(offline=offline), lambda client: client.resolve(reference))
    if as_json:
        print_json({"digest": str(descriptor.digest), "mediaType": descriptor.media_type, "size": descriptor.size})
    else:
        print(descriptor.digest)


@click.command()
@click.argument("reference", metavar="REPOSITORY", callback=to_reference)
@network_options
def tags(reference: Reference, offline: bool, as_json: bool) -> None:
    """List the tags of a repository, in the registry's order.

    \b
    Example:
      lading tags ghcr.io/acme/triage
    """

    async def verb(client: Client) -> None:
        async for tag in client.tags(reference):
            if as_json:
                print_json({"tag": tag, "reference": f"{reference.name}:{tag}"})
            else:
                print(printable(tag))

    run(Client(offline=offline), verb)


@click.command()
@reference_argument
@network_options
def delete(reference: Reference, offline: bool, as_json: bool) -> None:
    """Delete REF from its registry: a tag, or what a digest names with every tag of it.

    Many registries delete by digest only. The store keeps its copy: see `lading rm`.

    \b
    Examples:
      lading delete localhost:5000/acme/triage:v1
      lading delete localhost:5000/acme/triage@sha256:…
    """
    run(Client(offline=offline), lambda client: client.delete(reference))
    if as_json:
        print_json({"deleted": str(reference)})
    else:
        print(reference)
