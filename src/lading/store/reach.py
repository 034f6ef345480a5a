"""What a manifest or an index reaches: every manifest and blob below it, each once. No files here, and no network.

Whoever asks says how a manifest is read; what isn't there is told, not an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lading.errors import InvalidManifest
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, Manifest, parse_manifest
from lading.oci.media_types import INDEXES, MANIFESTS
from lading.oci.platform import Platform, images, select

Read = Callable[[Descriptor], bytes | None]
"""Gives the verified bytes of a manifest, ``None`` if it isn't there."""

_DEPTH_LIMIT = 8
_MANIFESTS_LIMIT = 1_000
_BLOBS_LIMIT = 20_000
"""Indexes within indexes, manifests and blobs below one root at most: as a pull has them."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found below a root: ``manifests`` that were read, the root first, and the ``blobs`` that they name.

    ``missing`` are manifests that aren't there; what they would reach nobody knows. ``links`` are (parent, child).
    """

    manifests: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    missing: dict[Digest, Descriptor] = field(default_factory=dict)
    links: dict[tuple[Digest, Digest], None] = field(default_factory=dict)

    @property
    def all(self) -> dict[Digest, Descriptor]:
        """Everything, whether it is there or not."""
        return {**self.manifests, **self.missing, **self.blobs}


def reach(root: Descriptor, read: Read) -> Reached:
    """Follow ``root`` down to every blob.

    Raises:
        InvalidManifest: something on the way isn't a manifest, or there is too much of it.
    """
    reached = Reached()
    known = {root.digest: root}
    waiting = deque([(root, 0)])
    while waiting:
        descriptor, depth = waiting.popleft()
        document = read_document(descriptor, read)
        if document is None:
            reached.missing[descriptor.digest] = descriptor
            continue
        reached.manifests[descriptor.digest] = descriptor
        below = document.manifests if isinstance(document, Index) else (document.config, *document.layers)
        reached.links.update(dict.fromkeys((descriptor.digest, child.digest) for child in below))
        for child in below:
            if not isinstance(document, Index) or child.media_type not in MANIFESTS | INDEXES:
                _is_new(child, reached.blobs)
            elif _is_new(child, known):
                waiting.append((child, depth + 1))
        for count, limit, what in (
            (depth, _DEPTH_LIMIT, "indexes within each other"),
            (len(known), _MANIFESTS_LIMIT, "manifests"),
            (len(reached.blobs), _BLOBS_LIMIT, "blobs"),
        ):
            if count > limit:
                raise InvalidManifest(f"{root.digest}: more than {limit} {what}")
    return reached


def narrow(root: Descriptor, read: Read, platform: Platform) -> Descriptor:
    """Give the image below ``root`` that is the best for ``platform``; what isn't an index is the image itself.

    Raises:
        InvalidManifest: there is none, or something on the way isn't a manifest.
    """
    for _ in range(_DEPTH_LIMIT):
        document = read_document(root, read)
        if not isinstance(document, Index):
            return root
        found = select(document, platform)
        if not found:
            offered = ", ".join(str(one.platform) for one in images(document) if one.platform) or "nothing for any"
            raise InvalidManifest(f"{root.digest}: nothing in it is for {platform}", hint=f"it has {offered}")
        root = replace(found[0], annotations={}, data=None, urls=())
    raise InvalidManifest(f"{root.digest}: more than {_DEPTH_LIMIT} indexes within each other")


def read_document(descriptor: Descriptor, read: Read) -> Manifest | Index | None:
    """Read and parse a manifest. Raises InvalidManifest, which names it."""
    if descriptor.media_type not in MANIFESTS | INDEXES or descriptor.size > MANIFEST_LIMIT:
        raise InvalidManifest(f"{descriptor.digest}: not a manifest: {descriptor.media_type}, {descriptor.size} bytes")
    raw = read(descriptor)
    if raw is None:
        return None
    if len(raw) != descriptor.size:
        raise InvalidManifest(f"{descriptor.digest}: {len(raw)} bytes instead of {descriptor.size}")
    try:
        return parse_manifest(raw, descriptor.media_type)
    except InvalidManifest as error:
        raise InvalidManifest(f"{descriptor.digest}: {error.message}") from error


def _is_new(descriptor: Descriptor, known: dict[Digest, Descriptor]) -> bool:
    """Tell whether a descriptor isn't ``known``, and make it so."""
    found = known.setdefault(descriptor.digest, descriptor)
    if found.size != descriptor.size:
        raise InvalidManifest(f"{descriptor.digest} can't have both {found.size} and {descriptor.size} bytes")
    return found is descriptor
