"""The verbs that speak the OCI image layout: ``export`` and ``import``. They use no network."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from lading.cli.options import common_options, to_reference, to_references
from lading.cli.progress import BlobBars, size_text
from lading.cli.render import print_json, say
from lading.errors import InvalidPlatform, InvalidReference, LadingError
from lading.home import default_home
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.store.disk import write_all
from lading.store.layout import Entry, choose
from lading.store.layout_read import Layout, open_layout
from lading.store.layout_write import Exported, export_images
from lading.store.local import LocalStore

if TYPE_CHECKING:
    from lading.store.layout_import import Imported


_COMPRESSED = re.compile(r"\.(?:tgz|tar\.[A-Za-z0-9]+)$")


def _platform(ctx: click.Context, param: click.Parameter, value: str | None) -> Platform | None:
    try:
        return None if value is None else Platform.parse(value)
    except InvalidPlatform as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _target(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Refuse what was hardly meant as the name of a directory or a tar."""
    if not value:
        raise click.UsageError("TARGET wants a name")
    if found := _COMPRESSED.search(value):
        raise click.BadParameter(f"of a layout only the layers are compressed: not {found[0]}, but .tar", ctx, param)
    with suppress(InvalidReference):
        reference = Reference.parse(value)
        # The last of several references, where TARGET was forgotten.
        is_whole = value.startswith(f"{reference.registry}/") or reference.tag is not None or reference.is_pinned
        if is_whole and not os.path.exists(value) and not os.path.isdir(os.path.dirname(value)):
            raise click.BadParameter(f"{value} is a reference; a directory of that name would be ./{value}", ctx, param)
    return value


def _reference(ctx: click.Context, param: click.Parameter, value: str | None) -> Reference | None:
    return None if value is None else to_reference(ctx, param, value)


_platform_option = click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", callback=_platform, help="Of an index, the image for it alone."
)


@click.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True, callback=to_references)
@click.argument("target", metavar="TARGET", callback=_target)
@_platform_option
@common_options
def export(
    references: tuple[Reference, ...], target: str, platform: Platform | None, offline: bool, as_json: bool
) -> None:
    """Write what is in the store as an OCI image layout, for skopeo, podman, crane, oras, and `lading import`.

    TARGET is a directory, which may be a layout already; or a tar, if it ends in .tar, which replaces only another
    layout; or - for a tar on standard output. No network is used: what isn't whole in the store is named, with what
    fetches it.

    \b
    Examples:
      lading export ghcr.io/acme/triage:v3 triage.tar
      lading export acme/triage acme/writer agents/
      lading export docker.io/library/alpine:3.20 - | ssh host lading import -
    """
    if target == "-" and as_json:
        raise click.UsageError("--json describes what was written, not standard output: leave out one of them")
    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("a tar isn't for a terminal: write it to a file, or into a pipe")
    _check_replaced(target)
    with closing(LocalStore(default_home())) as store, BlobBars() as bars:
        sink = partial(write_all, sys.stdout.fileno()) if target == "-" else target
        exported = export_images(store, references, sink, platform=platform, events=bars)
    for one in exported:
        pinned = one.reference.at(one.descriptor.digest)
        if as_json:
            print_json(_exported(one))
        elif target != "-":
            print(pinned)
        where = "standard output" if target == "-" else target
        say(f"{where}: {one.reference}, called {one.name} there: {one.blobs} blobs, {size_text(one.size)}")


def _check_replaced(target: str) -> None:
    """Raise LadingError if a tar would replace a file that is something else."""
    if not target.endswith(".tar") or not os.path.isfile(target) or not os.path.getsize(target):
        return
    try:
        with open_layout(target) as layout:
            layout.index()
    except LadingError as error:
        raise LadingError(
            f"{target} is there, and isn't an OCI image layout: it isn't replaced",
            hint="choose another name, or remove it",
        ) from error


def _exported(one: Exported) -> dict[str, object]:
    return {
        "reference": str(one.reference),
        "digest": str(one.descriptor.digest),
        "mediaType": one.descriptor.media_type,
        "name": one.name,
        "blobs": one.blobs,
        "size": one.size,
    }


@click.command("import")
@click.argument("source", metavar="SOURCE")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--as", "reference", metavar="REF", callback=_reference, help="What it becomes in the store.")
@click.option("--all", "is_all", is_flag=True, help="Every image, as what the layout calls it.")
@_platform_option
@common_options
def import_(
    source: str,
    name: str | None,
    reference: Reference | None,
    is_all: bool,
    platform: Platform | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Bring what is in an OCI image layout into the store, whole and verified.

    SOURCE is a directory, a tar, or - for a tar from standard input. NAME chooses one of several images: what the
    layout calls it, or its digest. Without --as, it becomes what the layout says, if that is a whole reference.

    No registry has confirmed what is imported: of a tag, it is asked the next time.

    \b
    Examples:
      lading import triage.tar
      lading import layout/ v3 --as ghcr.io/acme/triage:v3
      skopeo copy docker://alpine oci:alpine:3.20 && lading import alpine --as docker.io/library/alpine:3.20
    """
    import anyio

    if is_all and (name or reference):
        raise click.UsageError("--all is every image: leave out NAME and --as")
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError("standard input has no tar")
    with open_layout(sys.stdin.buffer if source == "-" else source) as layout, BlobBars() as bars:
        entries = _chosen(layout, name, is_all)
        anyio.run(_import, layout, entries, reference, platform, bars, as_json)


def _chosen(layout: Layout, name: str | None, is_all: bool) -> list[Entry]:
    entries = layout.entries()
    try:
        if not is_all or not entries:
            return [choose(entries, name)]
        if nameless := [entry for entry in entries if entry.reference is None]:
            raise LadingError(
                f"nothing says what {', '.join(map(str, nameless))} becomes", hint="import it alone, --as REF"
            )
        return entries
    except LadingError as error:
        raise LadingError(f"{layout.where}: {error.message}", hint=error.hint) from error


async def _import(
    layout: Layout,
    entries: Sequence[Entry],
    reference: Reference | None,
    platform: Platform | None,
    bars: BlobBars,
    as_json: bool,
) -> None:
    from lading.store.layout_import import import_image

    store = LocalStore(default_home())
    try:
        for entry in entries:
            one = await import_image(store, layout, entry, name=reference, platform=platform, events=bars)
            if as_json:
                print_json(_imported(one))
            else:
                print(one.reference.at(one.descriptor.digest))
            size = sum(blob.size for blob in one.blobs)
            skipped = f", without {len(one.skipped)} foreign layers" if one.skipped else ""
            say(f"{one.reference}: {len(one.blobs)} blobs, {size_text(size)}{skipped}")
    finally:
        await store.aclose()


def _imported(one: Imported) -> dict[str, object]:
    return {
        "reference": str(one.reference),
        "digest": str(one.descriptor.digest),
        "mediaType": one.descriptor.media_type,
        "manifests": [str(manifest.digest) for manifest in one.manifests],
        "blobs": [{"digest": str(blob.digest), "size": blob.size} for blob in one.blobs],
        "skipped": [str(blob.digest) for blob in one.skipped],
    }
