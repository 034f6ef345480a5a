"""The verb ``fetch``: any artifact or image, whole, into the store."""

from __future__ import annotations

import click

from lading.cli.options import common_options, concurrency_option, reference_argument, run, trace_options
from lading.cli.progress import BlobBars, size_text
from lading.cli.render import print_json, say
from lading.cli.trace import Tracing
from lading.client import Client
from lading.errors import InvalidPlatform, LadingError
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.pull.artifact import Artifact


def to_platforms(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Platform, ...]:
    """Read platforms; text that isn't one is wrong usage."""
    try:
        return tuple(Platform.parse(value) for value in values)
    except InvalidPlatform as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command()
@reference_argument
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH[/VARIANT]",
    callback=to_platforms,
    help="Which image of an index; by default the best one for this machine. May be given more than once.",
)
@click.option("--all-platforms", is_flag=True, help="Every image of an index.")
@click.option("--force", is_flag=True, help="Trust nothing that is there: verify what is large, fetch the rest again.")
@concurrency_option
@trace_options
@common_options
def fetch(
    reference: Reference,
    platforms: tuple[Platform, ...],
    all_platforms: bool,
    force: bool,
    concurrency: int,
    trace: bool,
    trace_svg: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Bring any artifact or image into the store, whole: its manifests, configs and layers.

    What is in the store isn't fetched again, and what was interrupted goes on where it stopped. Prints what REF stands
    for, pinned.

    \b
    Examples:
      lading fetch docker.io/library/alpine:3.20
      lading fetch ghcr.io/acme/model:v1 --platform linux/arm64
      lading fetch ghcr.io/acme/base@sha256:… --all-platforms
      lading fetch ghcr.io/acme/model:v1 --trace
    """
    if platforms and all_platforms:
        raise click.UsageError("--platform and --all-platforms say two things: leave out one of them")

    async def verb(client: Client) -> Artifact:
        return await client.pull(reference, force=force, platform=platforms or None, all_platforms=all_platforms)

    try:
        bars = BlobBars(is_told_first=True)
        with Tracing(trace, trace_svg, as_json, also=bars) as tracing, bars:
            client = Client(events=tracing.listener, offline=offline, concurrency=concurrency)
            artifact = run(client, verb, is_long=True)
    except (KeyboardInterrupt, LadingError) as ended:
        if isinstance(ended, KeyboardInterrupt) or bars.has_some:
            say("what has arrived is kept: the same command goes on where this one stopped")
        raise
    pinned = str(artifact.reference.at(artifact.descriptor.digest))
    if as_json:
        print_json(
            {
                "reference": str(artifact.reference),
                "digest": str(artifact.descriptor.digest),
                "mediaType": artifact.descriptor.media_type,
                "manifests": [str(one.digest) for one in artifact.manifests],
                "blobs": [{"digest": str(one.digest), "size": one.size} for one in artifact.blobs],
                "skipped": [str(one.digest) for one in artifact.skipped],
                "fetched": artifact.fetched,
                **tracing.fields,
            }
        )
    else:
        print(pinned)
    total = sum(one.size for one in artifact.blobs)
    fetched = size_text(artifact.fetched)
    say(f"{len(artifact.blobs)} blobs, {size_text(total)}, of which {fetched} were fetched{bars.rate()}")
