"""What refers to a manifest by its ``subject``: signatures, attestations, bills of materials.

distribution-spec, "Listing Referrers"; where a registry has no such list, a tag made of the subject's digest stands for
one, which those who push keep up ("Referrers Tag Schema").
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lading.errors import InvalidManifest, ProtocolError
from lading.http.transport import Request, Response
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, Manifest, parse_manifest
from lading.oci.media_types import ACCEPT, OCI_INDEX, essence
from lading.registry.links import next_page
from lading.registry.refusal import refusal
from lading.registry.repository import Repository

_NO_LIST = frozenset({400, 404, 405, 406, 501})
"""How registries answer that don't have the list: with 404, says the specification."""

_NO_TAG = frozenset({404})

_PAGES_LIMIT = 1_000
_REFERRERS_LIMIT = 10_000
"""Pages of one list, and what they name, at most."""

_NOT_IN_TAGS = re.compile("[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class _Page:
    """One page of a list, unread: ``filters`` are what it was filtered by, ``following`` is the next one's URL."""

    raw: bytes
    media_type: str
    filters: str
    following: str | None

    @property
    def index(self) -> Index | None:
        """The page, read; ``None`` if it isn't a list."""
        try:
            index = parse_manifest(self.raw, self.media_type)
        except InvalidManifest:
            return None
        return index if isinstance(index, Index) else None

    def of_type(self, artifact_type: str | None) -> list[Descriptor]:
        """Give what it lists of one type, or all; whoever answered may have filtered it already."""
        index = self.index
        listed = list(index.manifests) if index is not None else []
        if artifact_type is None or "artifacttype" in re.split("[, \t]+", self.filters.lower()):
            return listed
        return [one for one in listed if one.artifact_type == artifact_type]


def referrers_tag(subject: Digest) -> str:
    """Give the tag that stands for the list of what refers to ``subject``."""
    return _NOT_IN_TAGS.sub("-", f"{subject.algorithm[:32]}-{subject.encoded[:64]}")


async def referrers(
    repository: Repository, subject: Digest, artifact_type: str | None = None
) -> AsyncIterator[Descriptor]:
    """Give what refers to ``subject``, each once: all of it, or what is of one type.

    Raises:
        ProtocolError: the registry's list isn't one, leads to another origin, or doesn't end.
        RegistryError, TransportError: the registry didn't say.
    """
    what = f"{repository.name}: what refers to {subject}"
    query = "" if artifact_type is None else f"?artifactType={quote(artifact_type, safe='')}"
    url: str | None = f"/{repository.repository}/referrers/{subject}{query}"
    visited: set[str] = set()
    given: set[Digest] = set()
    while url is not None:
        if url in visited or len(visited) >= _PAGES_LIMIT or len(given) >= _REFERRERS_LIMIT:
            raise ProtocolError(f"{what}: the list doesn't end")
        page = await _get(repository, url, OCI_INDEX, frozenset() if visited else _NO_LIST)
        visited.add(url)
        url = None
        if page is not None and essence(page.media_type) == OCI_INDEX:
            url = page.following
            if page.index is None:
                raise ProtocolError(f"{what}: the list isn't one")
        else:
            page = await _get_tag(repository, subject)
        for one in page.of_type(artifact_type) if page is not None else ():
            if one.digest not in given:
                given.add(one.digest)
                yield one


async def tagged_list(repository: Repository, subject: Digest) -> bytes | None:
    """Give the list that a tag stands for, as it is, ``None`` where there is none.

    Raises:
        ProtocolError: the tag stands for something else.
        RegistryError, TransportError: the registry didn't say.
    """
    page = await _get_tag(repository, subject)
    if page is None:
        return None
    if page.index is None:
        raise ProtocolError(f"{repository.name}:{referrers_tag(subject)}: not a list of what refers to {subject}")
    return page.raw


def extended(raw: bytes | None, referrers: Iterable[Descriptor]) -> bytes | None:
    """Give the list ``raw`` with ``referrers`` in it as well; ``None`` where they are in it already."""
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if raw is not None:
        index = json.loads(raw)
    listed = list(index["manifests"] or ())
    known = {one["digest"] for one in listed}
    new = {str(one.digest): one.to_json() for one in referrers if str(one.digest) not in known}
    if not new:
        return None
    return json.dumps({**index, "manifests": [*listed, *new.values()]}, separators=(",", ":")).encode()


def describe(document: Manifest | Index, digest: Digest) -> Descriptor:
    """Describe a manifest as lists of referrers do: with its annotations, and what type it says that it is."""
    artifact_type = document.artifact_type
    if not artifact_type and isinstance(document, Manifest):
        artifact_type = document.config.media_type
    return Descriptor(document.media_type, digest, len(document.raw), document.annotations, artifact_type)


async def _get_tag(repository: Repository, subject: Digest) -> _Page | None:
    path = f"/{repository.repository}/manifests/{referrers_tag(subject)}"
    return await _get(repository, path, ACCEPT, _NO_TAG)


async def _get(repository: Repository, url: str, accept: str, absent: frozenset[int]) -> _Page | None:
    """GET a list, ``None`` where the answer is one of ``absent``. Mirrors aren't asked: they needn't know all."""

    async def read(request: Request, response: Response) -> _Page | None:
        if response.status in absent:
            return None
        if response.status != 200:
            raise await refusal(request, response, f"{repository.name}: referrers")
        headers = response.headers
        following = next_page(headers.get_all("Link"), response.url)
        raw = await response.read(MANIFEST_LIMIT)
        return _Page(raw, headers.get("Content-Type") or "", headers.get("OCI-Filters-Applied") or "", following)

    return await repository.get(url, accept, read)
