"""The verbs that ask a registry: ``resolve``."""

from __future__ import annotations

import click

from lading.cli.options import common_options, reference_argument, run
from lading.cli.render import print_json
from lading.client import Client
from lading.oci.reference import Reference


@click.command()
@reference_argument
@common_options
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
