"""The verb ``copy``: any artifact or image, from one registry, or a layout, to another."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lading.cli.fetch import to_platforms
from lading.cli.options import concurrency_option, network_options, run, to_reference
from lading.cli.progress import BlobBars, size_text
from lading.cli.render import print_json, say
from lading.client import Client
from lading.errors import InvalidReference, Offline
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.push.artifact import Delivered
from lading.store.layout import MARK


def _to_source(ctx: click.Context, param: click.Parameter, value: str) -> Reference | Path:
    """Tell the path of a layout from a reference: by how it is written, and not by what happens to be there."""
    if os.path.isabs(value) or value.startswith(("./", "../")) or value.endswith("/") or value in (".", ".."):
        return Path(value)
    if value.endswith(".tar") and os.path.isfile(value):
        return Path(value)
    try:
        reference = Reference.parse(value)
    except InvalidReference as error:
        if os.path.exists(value):
            return Path(value)
        raise click.BadParameter(str(error), ctx, param) from error
    if os.path.exists(os.path.join(value, MARK)):
        raise click.BadParameter(f"{value} is a layout here, and a reference: say ./{value} or {reference}", ctx, param)
    return reference


@click.command()
@click.argument("source", metavar="SOURCE", callback=_to_source)
@click.argument("target", metavar="TARGET", callback=to_reference)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH[/VARIANT]",
    callback=to_platforms,
    help="One image of an index, which TARGET stands for then; by default the whole index.",
)
@click.option("--referrers", is_flag=True, help="Signatures, attestations and whatever else refers to it, too.")
@click.option("--image", metavar="NAME", help="Which of a layout's images: what it is called there, or its digest.")
@concurrency_option
@network_options
def copy(
    source: Reference | Path,
    target: Reference,
    platforms: tuple[Platform, ...],
    referrers: bool,
    image: str | None,
    concurrency: int,
    offline: bool,
    as_json: bool,
) -> None:
    """Copy any artifact or image from SOURCE to TARGET, whole: to another registry, repository or tag.

    It streams from one registry to the other, and nothing of it is kept here. What the target has isn't sent again;
    within one registry nothing is sent at all; and what the store has of SOURCE isn't fetched. Digests stay what they
    are. Prints TARGET, pinned.

    SOURCE may be an OCI image layout, too: a path such as ./layout, layout/, /tmp/layout or image.tar.

    \b
    Examples:
      lading copy docker.io/library/alpine:3.20 registry.acme.dev/mirror/alpine:3.20
      lading copy ghcr.io/acme/app:v1 ghcr.io/acme/app:stable
      lading copy ghcr.io/acme/app:v1 localhost:5000/app --platform linux/arm64
      lading copy ghcr.io/acme/app:v1 registry.acme.dev/app:v1 --referrers
      lading copy app.tar registry.acme.dev/app:v1
    """
    if isinstance(source, Path) and referrers:
        raise click.UsageError("a layout says nothing of what refers to an image: leave out --referrers")
    if isinstance(source, Reference) and image is not None:
        raise click.UsageError("--image is for a layout")
    if offline:
        raise Offline(f"can't copy {source}: network access is switched off", hint="leave out --offline")
    with BlobBars(is_told_first=True) as bars:

        async def verb(client: Client) -> Delivered:
            return await client.copy(source, target, platform=platforms, referrers=referrers, image=image)

        copied = run(Client(events=bars, concurrency=concurrency), verb, is_long=True)
    if as_json:
        print_json(
            {
                "source": str(source),
                "reference": str(copied.reference),
                "digest": str(copied.descriptor.digest),
                "mediaType": copied.descriptor.media_type,
                "manifests": [str(one.digest) for one in copied.manifests],
                "blobs": [{"digest": str(one.digest), "size": one.size} for one in copied.blobs],
                "mounted": [str(one.digest) for one in copied.mounted],
                "skipped": [str(one.digest) for one in copied.skipped],
                "referrers": [str(one.digest) for one in copied.referrers],
                "sent": copied.sent,
            }
        )
    else:
        print(copied.reference)
    say(_summary(copied) + bars.rate())


def _summary(copied: Delivered) -> str:
    if not copied.manifests:
        return "it was there already"
    parts = [f"{len(copied.manifests)} manifests", f"{len(copied.blobs)} blobs, {size_text(copied.sent)}, were sent"]
    if copied.mounted:
        parts.append(f"{len(copied.mounted)} blobs were there in another repository")
    if copied.skipped:
        parts.append(f"{len(copied.skipped)} foreign layers were left out")
    return "; ".join(parts)
