"""What ``inspect`` says of an artifact or image that isn't an agent: its platforms, layers and sizes."""

from __future__ import annotations

from collections.abc import Iterator

from lading.cli.progress import size_text
from lading.cli.render import print_fields, print_json
from lading.client import Client
from lading.errors import InvalidManifest, NotFound, Offline
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest
from lading.oci.platform import images
from lading.oci.reference import Reference
from lading.pull.choice import chosen

_TITLE = "org.opencontainers.image.title"


async def look_into(client: Client, reference: Reference) -> tuple[Manifest | Index, Manifest | None]:
    """Give what ``reference`` stands for, and, of an index, the image for this machine if there is one to be had."""
    document = await client.manifest(reference)
    if not isinstance(document, Index):
        return document, None
    try:
        best = chosen(reference, document, ())
        # Not all of them: where pulls are counted, each manifest is one.
        image = await client.manifest(reference.at(best[0].digest)) if len(best) == 1 else None
    except (InvalidManifest, NotFound, Offline):
        return document, None
    return document, image if isinstance(image, Manifest) else None


def show_contents(reference: Reference, document: Manifest | Index, image: Manifest | None, *, as_json: bool) -> None:
    """Write it to standard output."""
    digest = reference.digest or Digest.of(document.raw)
    if as_json:
        shown = image if isinstance(document, Index) else document
        print_json(
            {
                "reference": str(reference),
                "digest": str(digest),
                "media_type": document.media_type,
                "artifact_type": document.artifact_type or None,
                "images": [_listed(one) for one in _listed_in(document)],
                "config": None if shown is None else _part(shown.config),
                "layers": [] if shown is None else [_part(layer) for layer in shown.layers],
                "annotations": dict(document.annotations),
                "agent": None,
            }
        )
        return
    fields = [("reference", reference), ("digest", digest), ("media type", document.media_type)]
    print_fields("artifact", [*fields, ("artifact type", document.artifact_type or None)])
    if isinstance(document, Index):
        print_fields("images", [(str(one.platform or "any"), one.digest) for one in _listed_in(document)])
    if image is not None:
        print_fields("the image for this machine", _parts(image))
    elif isinstance(document, Manifest):
        print_fields("contents", _parts(document))
    if document.annotations:
        print_fields("annotations", document.annotations.items())


def _listed_in(document: Manifest | Index) -> list[Descriptor]:
    return images(document) if isinstance(document, Index) else []


def _parts(manifest: Manifest) -> Iterator[tuple[str, object]]:
    parts = {part.digest: part for part in (manifest.config, *manifest.layers)}
    yield "size", f"{size_text(sum(part.size for part in parts.values()))} in {len(parts)} blobs"
    for name, part in (("config", manifest.config), *(("layer", layer) for layer in manifest.layers)):
        title = f", {part.annotations[_TITLE]}" if _TITLE in part.annotations else ""
        yield name, f"{part.digest}, {size_text(part.size)}, {part.media_type}{title}"


def _part(part: Descriptor) -> dict[str, object]:
    title = part.annotations.get(_TITLE)
    return {"digest": str(part.digest), "size": part.size, "media_type": part.media_type, "title": title}


def _listed(one: Descriptor) -> dict[str, object]:
    return {"platform": str(one.platform) if one.platform else None, "digest": str(one.digest), "size": one.size}
