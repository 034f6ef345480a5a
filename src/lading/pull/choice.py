"""What is below a manifest or an index, and which images of an index a pull brings. Pure."""

from __future__ import annotations

from dataclasses import replace

from lading.errors import InvalidManifest
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest
from lading.oci.platform import Platform, images, select
from lading.oci.reference import Reference


def chosen(reference: Reference, index: Index, platforms: tuple[Platform, ...] | None) -> list[Descriptor]:
    """Give the children of an index that are wanted: the best for each platform, ``()`` is this machine, ``None`` all.

    Raises:
        InvalidManifest: there is none for one of them.
    """
    every = {one.digest: one for one in index.manifests}
    # Where nothing is for a platform, there is nothing to choose: it isn't whole without all of it.
    if platforms is None or not (platforms or any(one.platform for one in index.manifests)):
        return list(every.values())
    wanted: dict[Digest, Descriptor] = {}
    for platform in platforms or (Platform.host(),):
        found = select(index, platform)
        if not found and not platforms:
            # What a machine with another system runs in a virtual one.
            found = select(index, replace(platform, os="linux"))
        if not found:
            offered = ", ".join(str(one.platform) for one in images(index) if one.platform) or "nothing for any"
            raise InvalidManifest(f"{reference}: nothing in it is for {platform}", hint=f"it has {offered}")
        wanted.setdefault(found[0].digest, found[0])
    return list(wanted.values())


def below(document: Manifest | Index | None) -> tuple[Descriptor, ...]:
    """Give what a document names; nothing below what isn't one."""
    if isinstance(document, Index):
        return document.manifests
    return () if document is None else (document.config, *document.layers)
