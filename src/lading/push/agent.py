"""Publishing an agent, in the shape that docker-agent reads and that a cold pull gets in one GET.

An OCI manifest with the artifact type and both version annotations; the config is an image config whose
``rootfs.diff_ids`` names the YAML (docker-agent finds no layer without it); the one layer is the YAML, byte for byte.
Small content is embedded in the descriptors' ``data`` too (image-spec, descriptor.md, "Embedded Content").
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from lading.agents.artifact import AGENT_LIMIT, LEGACY_VERSION_ANNOTATION, VERSION_ANNOTATION, accept
from lading.errors import InvalidDocument, InvalidManifest, InvalidReference, LadingError, NotAnAgent, StoreError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Manifest, parse_manifest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import DEFAULT_TAG, Reference
from lading.registry.upload import Upload
from lading.store.store import Changes, Record, Seen, Store

_log = logging.getLogger("lading.push")

ARTIFACT_TYPE = "application/vnd.docker.agent.config.v1+json"
CONFIG_TYPE = "application/vnd.docker.agent.config.v1+json"
LAYER_TYPE = "application/yaml"

_VERSION = "v1"
_CREATED = "org.opencontainers.image.created"
_DESCRIPTION = "org.opencontainers.image.description"
_TITLE = "org.opencontainers.image.title"

EMBED_LIMIT = 64 * 1024
"""Bytes of content at most that are embedded in the manifest as well."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push published: the manifest's descriptor, and the reference pinned to it."""

    descriptor: Descriptor
    reference: Reference


@dataclass(frozen=True, slots=True)
class AgentArtifact:
    """An agent, packed: the manifest's exact bytes, and the blobs that it names."""

    manifest: bytes = field(repr=False)
    blobs: tuple[tuple[Descriptor, bytes], ...] = field(repr=False)


def pack(
    content: bytes,
    *,
    file_name: str,
    created: datetime,
    annotations: Mapping[str, str] | None = None,
    inline: bool = True,
) -> AgentArtifact:
    """Pack the YAML ``content``; the same arguments give the same bytes.

    ``annotations`` are added to the manifest's, and win.

    Raises:
        InvalidDocument: it is empty, too large, or not text, so that no agent can be in it; or the annotations aren't
            text.
    """
    _check(content, file_name)
    layer = _describe(LAYER_TYPE, content, inline, {_TITLE: file_name})
    image: dict[str, Any] = {
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)]},
    }
    config_content = _json(image)
    config = _describe(CONFIG_TYPE, config_content, inline)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": config.to_json(),
        "layers": [layer.to_json()],
        "annotations": {
            VERSION_ANNOTATION: _VERSION,
            LEGACY_VERSION_ANNOTATION: _VERSION,
            _CREATED: created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            _DESCRIPTION: f"OCI artifact containing {file_name}",
            **(annotations or {}),
        },
    }
    raw = _json(manifest)
    try:
        # What is published can be pulled: the rule of the one is the rule of the other.
        accept(cast(Manifest, parse_manifest(raw, OCI_MANIFEST)))
    except (InvalidManifest, NotAnAgent) as error:
        raise InvalidDocument(f"{file_name}: it can't be published like this: {error.message}") from error
    return AgentArtifact(raw, ((config, config_content), (layer, content)))


class AgentPusher:
    """Pushes agents. ``clock`` gives seconds since the epoch."""

    def __init__(
        self, store: Store, upload: Callable[[Reference], Awaitable[Upload]], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._upload = upload
        self._clock = clock

    async def push(
        self,
        content: bytes,
        reference: Reference,
        *,
        file_name: str,
        annotations: Mapping[str, str] | None = None,
        inline: bool = True,
    ) -> Pushed:
        """Publish ``content`` as ``reference``; see :meth:`lading.Client.push_agent`."""
        if reference.digest is not None:
            raise InvalidReference(f"{reference}: a digest can't be chosen", hint="push to a tag")
        artifact = pack(
            content,
            file_name=file_name,
            created=_created(self._clock),
            annotations=annotations,
            inline=inline,
        )
        upload = await self._upload(reference)
        for descriptor, blob in artifact.blobs:
            await upload.blob(descriptor, blob, mount_from=self._other_home(reference, descriptor.digest))
        await upload.manifest(reference.tag or DEFAULT_TAG, artifact.manifest, OCI_MANIFEST)
        digest = Digest.of(artifact.manifest)
        await self._remember(reference, digest, artifact)
        return Pushed(Descriptor(OCI_MANIFEST, digest, len(artifact.manifest)), reference.at(digest))

    def _other_home(self, reference: Reference, digest: Digest) -> str | None:
        """Give another repository of the same registry that has the content, as far as the store knows."""
        try:
            homes = self._store.repositories(reference.registry, digest)
        except StoreError as error:
            _log.debug("%s: %s", reference, error)
            return None
        return next((home for home in homes if home != reference.repository), None)

    async def _remember(self, reference: Reference, digest: Digest, artifact: AgentArtifact) -> None:
        """Note where the blobs are now, for later mounts, and forget what the tag stood for: that is past."""
        try:
            blobs = tuple(Seen(reference.name, blob.digest, blob.media_type) for blob, _ in artifact.blobs)
            known = self._store.resolve(reference)
            is_moved = isinstance(known, Record) and known.digest != digest
            await self._store.commit(Changes(self._clock(), seen=blobs, forgotten=(reference,) if is_moved else ()))
        except StoreError as error:
            _log.debug("%s: %s", reference, error)


def _check(content: bytes, file_name: str) -> None:
    if not content.strip():
        raise InvalidDocument(f"{file_name}: it is empty")
    if len(content) > AGENT_LIMIT:
        raise InvalidDocument(f"{file_name}: {len(content)} bytes, an agent has at most {AGENT_LIMIT}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidDocument(
            f"{file_name}: not UTF-8 text at byte {error.start}", hint="an agent is a YAML document"
        ) from error
    if "\0" in text:
        raise InvalidDocument(f"{file_name}: not text, it has a NUL", hint="an agent is a YAML document")


def _describe(
    media_type: str, content: bytes, inline: bool, annotations: Mapping[str, str] | None = None
) -> Descriptor:
    descriptor = Descriptor(media_type, Digest.of(content), len(content), annotations or {})
    return replace(descriptor, data=content) if inline and len(content) <= EMBED_LIMIT else descriptor


def _json(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, TypeError) as error:
        raise InvalidDocument(f"the file name or an annotation isn't text: {error}") from error


def _created(clock: Callable[[], float]) -> datetime:
    """Give the time of publication: SOURCE_DATE_EPOCH (reproducible-builds.org) where it is set, else now."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        if epoch is not None and not (epoch.isascii() and epoch.isdigit()):
            raise ValueError("not a whole number")
        return datetime.fromtimestamp(clock() if epoch is None else int(epoch), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise LadingError(
            f"SOURCE_DATE_EPOCH={epoch!r}: not a time in seconds since 1970",
            hint="unset it, or set a whole number",
        ) from error
