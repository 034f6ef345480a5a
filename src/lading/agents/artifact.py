"""The rules of agent artifacts: which manifests hold an agent, where in them it is, and how it is unpacked.

They are docker-agent's: an annotation says that a manifest holds an agent, and the first layer is its YAML. Media
types say nothing, because docker-agent's own push mislabels what it writes; the bytes decide.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from lading.errors import NotAnAgent
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import Index, Manifest
from lading.oci.media_types import MANIFESTS

VERSION_ANNOTATION = "io.docker.agent.version"
LEGACY_VERSION_ANNOTATION = "io.docker.cagent.version"
"""Either one marks an agent; presence is enough."""

AGENT_LIMIT = 32 * 1024 * 1024
"""Bytes of an agent at most, packed and unpacked."""

_WAY_OUT = "`lading fetch` takes any artifact"

_ATTESTATION = "vnd.docker.reference.type"
"""BuildKit marks what isn't an image with this annotation."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MEMBERS = 100
"""Members of one compressed stream at most: each costs, and nobody writes more than one."""
_PIECE = 64 * 1024
_ZSTD_PIECE = 256
"""Bytes that zstd gets at once: a block of 4 can stand for 128 KiB (RFC 8878, section 3.1.1.2)."""


def accept(manifest: Manifest) -> Descriptor:
    """Give the layer that holds the agent, if ``manifest`` is one that does.

    The one rule for what was just fetched and for what was cached.

    Raises:
        NotAnAgent: it isn't annotated, has no layer, or one that is too large.
    """
    if VERSION_ANNOTATION not in manifest.annotations and LEGACY_VERSION_ANNOTATION not in manifest.annotations:
        raise NotAnAgent(
            f"not an agent: the manifest has neither {VERSION_ANNOTATION} nor {LEGACY_VERSION_ANNOTATION}",
            hint=f"it wasn't published by `docker agent share push` or `lading push`; {_WAY_OUT}",
        )
    if not manifest.layers:
        raise NotAnAgent("not an agent: the manifest has no layer", hint=_WAY_OUT)
    layer = manifest.layers[0]
    if layer.size > AGENT_LIMIT:
        raise NotAnAgent(f"not an agent: its layer has {layer.size} bytes, more than {AGENT_LIMIT}", hint=_WAY_OUT)
    return layer


def choose(index: Index) -> Descriptor:
    """Give the manifest of ``index`` that may hold the agent: for linux/amd64 or for no platform, the first such one.

    Raises:
        NotAnAgent: there is none.
    """
    candidates = [
        child for child in index.manifests if child.media_type in MANIFESTS and _ATTESTATION not in child.annotations
    ]
    for child in candidates:
        if child.platform is None or (child.platform.os, child.platform.architecture) == ("linux", "amd64"):
            return child
    if len(candidates) == 1:
        return candidates[0]
    offered = ", ".join(str(child.platform) for child in candidates) or "none"
    raise NotAnAgent(
        f"not an agent: the index has no manifest for linux/amd64 or for no platform (it has {offered})", hint=_WAY_OUT
    )


def is_compressed(layer: bytes) -> bool:
    """Tell whether the bytes of a layer have to be unpacked, by how they begin."""
    return layer.startswith((_GZIP_MAGIC, _ZSTD_MAGIC))


def unpack(layer: bytes) -> bytes:
    """Give the YAML in the bytes of a layer: gzip, zstd or plain, decided by how they begin.

    Raises:
        NotAnAgent: it doesn't decompress, or to more than 32 MiB.
    """
    if layer.startswith(_GZIP_MAGIC):
        return _bounded(_gunzip(layer))
    if layer.startswith(_ZSTD_MAGIC):
        return _bounded(_unzstd(layer))
    return layer


def _bounded(pieces: Iterator[bytes]) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > AGENT_LIMIT:
            raise NotAnAgent(f"not an agent: its layer decompresses to more than {AGENT_LIMIT} bytes")
    return bytes(content)


def _gunzip(layer: bytes) -> Iterator[bytes]:
    """Decompress every member of a gzip stream (RFC 1952, section 2.2), a bounded piece at a time."""
    position, members = 0, 0
    while position < len(layer) and layer[position : position + 2] == _GZIP_MAGIC:
        members += 1
        if members > _MEMBERS:
            raise NotAnAgent(f"not an agent: its layer has more than {_MEMBERS} gzip members")
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        while not stream.eof:
            piece = stream.unconsumed_tail
            if not piece:
                piece = layer[position : position + _PIECE]
                position += len(piece)
            if not piece:
                raise NotAnAgent("not an agent: its gzip layer is cut short")
            try:
                yield stream.decompress(piece, _PIECE)
            except zlib.error as error:
                raise NotAnAgent(f"not an agent: its gzip layer is damaged: {error}") from error
        position -= len(stream.unused_data)
    _expect_padding(layer, position)


def _unzstd(layer: bytes) -> Iterator[bytes]:
    """Decompress every frame of a zstd stream (RFC 8878, section 3), a bounded piece at a time."""
    try:
        import zstandard
    except ImportError as error:
        raise NotAnAgent(
            "not an agent that can be read here: its layer is compressed with zstd",
            hint="pip install 'lading[zstd]'",
        ) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=AGENT_LIMIT)
    position, frames = 0, 0
    while layer[position : position + 4] == _ZSTD_MAGIC:
        frames += 1
        if frames > _MEMBERS:
            raise NotAnAgent(f"not an agent: its layer has more than {_MEMBERS} zstd frames")
        # Not a reader: that one takes a frame that is cut short for a whole one.
        frame = decompressor.decompressobj()
        while not frame.eof:
            piece = layer[position : position + _ZSTD_PIECE]
            position += len(piece)
            if not piece:
                raise NotAnAgent("not an agent: its zstd layer is cut short")
            try:
                yield frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise NotAnAgent(f"not an agent: its zstd layer is damaged: {error}") from error
        position -= len(frame.unused_data)
    _expect_padding(layer, position)


def _expect_padding(layer: bytes, position: int) -> None:
    """Refuse what follows a compressed stream, unless it is zeros: a reader elsewhere may take it for content."""
    if layer[position:].strip(b"\0"):
        raise NotAnAgent("not an agent: something follows the compressed content of its layer")
