"""Reading one repository: manifests, blobs, tags (distribution-spec, "Pull" and "Content Discovery")."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from lading.errors import (
    BodyInterrupted,
    DigestMismatch,
    InvalidDigest,
    LadingError,
    ProtocolError,
    StoreError,
    TransportError,
)
from lading.http.hosts import Capability
from lading.http.retry import Attempts
from lading.http.transport import Headers, Request, Response, Transport, discard, is_close_framed
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT
from lading.oci.media_types import ACCEPT, INDEXES, MANIFESTS, essence
from lading.oci.reference import Reference
from lading.oci.strict_json import parse_json
from lading.redact import printable
from lading.registry.endpoints import Endpoint, Endpoints, qualified
from lading.registry.links import next_page
from lading.registry.ranges import continue_at
from lading.registry.refusal import refusal
from lading.registry.turns import Turns
from lading.registry.verified import Verified

_log = logging.getLogger("lading.registry")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_TAGS_BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of one page of tags at most."""

_PAGES_LIMIT = 10_000
"""Pages of tags at most."""

_LOST = "a manifest names it, but the registry doesn't have it any more: whoever publishes it has to push it again"
"""What a 404 means for a blob."""

# RFC 9110, section 8.6: Content-Length = 1*DIGIT; a manifest's is short.
_SIZE = re.compile("[0-9]{1,18}")

# RFC 9111, section 5.5 (obsolete, but the distribution specification uses it): 299 - "text".
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Served:
    """A manifest as a registry served it: exact bytes, the raw ``Content-Type``, and the verified digest."""

    raw: bytes
    media_type: str
    digest: Digest


class _Question(Protocol[T_co]):
    """What is asked of one endpoint, within one operation's patience."""

    async def __call__(self, endpoint: Endpoint, attempts: Attempts, /) -> T_co: ...


class RepositoryOf(Protocol):
    """Gives the repository that a reference is in; ``brief`` where a cached copy can stand in for its answers."""

    async def __call__(self, reference: Reference, /, *, brief: bool) -> Repository: ...


class Repository:
    """One repository of one registry. ``warned`` remembers the registry's warnings, so that each is logged once.

    Each question goes to the registry's mirrors in turn, once to each, and then to the registry itself, with the
    patience that ``begin`` gives for it. Whatever a mirror does wrong, wrong content included, is a reason to ask the
    next one.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        repository: str,
        warned: set[str],
        begin: Callable[[], Attempts] = Attempts.single,
    ) -> None:
        self.repository = repository
        self.name = f"{endpoints.registry}/{repository}"
        self._transport = transport
        self._endpoints = endpoints
        self._warned = warned
        self._begin = begin
        self._scopes = (f"repository:{repository}:pull",)

    @property
    def is_mirrored(self) -> bool:
        """Whether others than the registry itself may supply its content."""
        return bool(self._endpoints.mirrors)

    @property
    def turns(self) -> Turns:
        """Who asks its registry for content, and whose turn it is."""
        return self._endpoints.turns

    async def resolve(self, selector: str) -> Descriptor | None:
        """Ask with HEAD what a tag or digest stands for; ``None`` where the registry's answer doesn't say.

        Raises:
            RegistryError: it isn't there, or the registry refuses.
            TransportError: no answer.
        """
        return await self._ask(_capability(selector), partial(self._resolve, selector))

    async def manifest(self, selector: str) -> Served:
        """GET a manifest by tag or digest, and verify its bytes.

        Raises:
            DigestMismatch: the bytes aren't what was asked for, or what the registry says they are.
            BodyInterrupted: the same, where a lost connection looks like the end.
            RegistryError, TransportError, ProtocolError: the registry gave none.
        """
        return await self._ask(_capability(selector), partial(self._manifest, selector))

    async def blob(
        self,
        digest: Digest,
        read: Callable[[Response, Attempts], Awaitable[T]],
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> T:
        """GET a blob and give what ``read`` makes of the open answer, and of the patience that is left.

        Its status is 200, or 206 or 416 (RFC 9110, section 14). ``read`` verifies the bytes; where it raises a
        TransportError, the blob may be asked for again, with what ``headers`` says then.

        Raises:
            RegistryError, TransportError: the registry gave none.
        """
        return await self._ask("pull", partial(self._blob, digest, read, headers))

    async def blob_beside(
        self,
        digest: Digest,
        read: Callable[[Response, Attempts], Awaitable[T]],
        headers: Callable[[], Mapping[str, str]],
    ) -> T:
        """GET a part of a blob while others bring the rest: once, from whoever is asked first.

        It may fail because of the others: nothing is held against who refuses. Raises what ``blob`` does.
        """
        return await self._blob(digest, read, headers, self._endpoints.candidates("pull")[0], Attempts.single())

    @asynccontextmanager
    async def open_blob(self, digest: Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """GET a blob from the registry itself and give its chunks, whose digest is verified at the end.

        Raises:
            DigestMismatch: it was something else.
            RegistryError, TransportError: the registry gave none, or not all of it.
        """
        endpoint = self._endpoints.candidates("pull")[-1]
        request = self._request(endpoint, "GET", self._path("blobs", str(digest)), self._begin())
        what = f"{self.name}: blob {digest}"
        async with await self._send(endpoint, request) as response:
            if response.status != 200:
                raise await refusal(request, response, what)
            yield Verified(response, digest, what)

    async def open_part(self, descriptor: Descriptor, start: int = 0, *, mirrored: bool = True) -> tuple[Response, int]:
        """GET a blob from byte ``start`` on; give the open answer, and the byte at which its body really begins.

        Who asks leaves the answer. Nothing is verified; what was cut off is asked for again, where there is patience
        for that: see ``begin``. Unless ``mirrored``, the registry itself is asked.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry gave none.
        """
        question = partial(self._part, descriptor, start)
        if mirrored:
            return await self._ask("pull", question)
        return await self._patiently(self._endpoints.candidates("pull")[-1], question)

    async def get(self, path: str, accept: str, read: Callable[[Request, Response], Awaitable[T]]) -> T:
        """GET something else from the registry itself, and give what ``read`` makes of the open answer.

        ``path`` is one of the repository, or a URL that the registry gave.
        """

        async def question(endpoint: Endpoint, attempts: Attempts) -> T:
            request = self._request(endpoint, "GET", path, attempts, {"Accept": accept})
            async with await self._send(endpoint, request) as response:
                return await read(request, response)

        return await self._patiently(self._endpoints.server, question)

    def begin(self) -> Attempts:
        """Give the patience for an operation of several requests."""
        return self._begin()

    async def require_blob(self, digest: Digest) -> None:
        """Ask with HEAD whether the repository has a blob.

        Raises:
            NotFound: it hasn't.
            RegistryError, TransportError: it doesn't say.
        """
        await self._ask("pull", partial(self._head_blob, digest))

    async def tags(self) -> AsyncIterator[str]:
        """Give every tag, page by page, in the registry's order. Mirrors aren't asked: they needn't know all.

        Raises:
            ProtocolError: a page isn't a list of tags, leads to another origin, or round in a circle.
        """
        url: str | None = f"/{self.repository}/tags/list"
        visited: set[str] = set()
        while url is not None:
            if url in visited or len(visited) >= _PAGES_LIMIT:
                raise ProtocolError(f"{self.name}: the pages of its tags don't end")
            visited.add(url)
            names, url = await self._patiently(self._endpoints.server, partial(self._tags_page, url))
            for name in names:
                yield name

    async def _ask(self, capability: Capability, question: _Question[T]) -> T:
        *mirrors, last = self._endpoints.candidates(capability)
        failures: dict[Endpoint, LadingError] = {}
        for mirror in mirrors:
            try:
                answer = await question(mirror, Attempts.single())
            except StoreError:
                raise  # that isn't anything that a mirror does
            except LadingError as failure:
                self._endpoints.failed(mirror, failure)
                failures[mirror] = failure
            else:
                self._endpoints.worked(mirror)
                return answer
        try:
            return await self._patiently(last, question)
        except LadingError as failure:
            if not isinstance(failure, StoreError):
                failure.message += self._endpoints.others(capability, last, failures)
            raise

    async def _patiently(self, endpoint: Endpoint, question: _Question[T]) -> T:
        """Ask again what was answered by half: the transport does that for answers that don't even begin."""
        attempts = self._begin()
        while True:
            try:
                return await question(endpoint, attempts)
            except TransportError as failure:
                if not await attempts.again(failure):
                    raise

    async def _resolve(self, selector: str, endpoint: Endpoint, attempts: Attempts) -> Descriptor | None:
        request = self._request(endpoint, "HEAD", self._path("manifests", selector), attempts, {"Accept": ACCEPT})
        async with await self._send(endpoint, request) as response:
            # A registry that has no HEAD says so with one of these; GET decides then.
            if response.status in (405, 501):
                return None
            if response.status != 200:
                raise await refusal(request, response, qualified(self.name, selector))
            digest = _served_digest(response.headers)
            media_type = essence(response.headers.get("Content-Type") or "")
            size = response.headers.get("Content-Length") or ""
        if digest is None or media_type not in MANIFESTS | INDEXES or _SIZE.fullmatch(size) is None:
            return None
        if ":" in selector and str(digest) != selector:
            if digest.algorithm != Digest.parse(selector).algorithm:
                return None
            raise DigestMismatch(f"{self.name}@{selector}: the registry answers with {digest}")
        return Descriptor(media_type, digest, int(size))

    async def _manifest(self, selector: str, endpoint: Endpoint, attempts: Attempts) -> Served:
        request = self._request(endpoint, "GET", self._path("manifests", selector), attempts, {"Accept": ACCEPT})
        async with await self._send(endpoint, request) as response:
            if response.status != 200:
                raise await refusal(request, response, qualified(self.name, selector))
            raw = await response.read(MANIFEST_LIMIT)
            media_type = response.headers.get("Content-Type") or ""
            # What was asked for decides; a header never overrides it (CVE-2025-24882).
            expected = Digest.parse(selector) if ":" in selector else _served_digest(response.headers)
        digest = Digest.of(raw, expected.algorithm if expected else "sha256")
        if expected is not None and digest != expected:
            what = qualified(self.name, selector)
            if is_close_framed(response):
                raise BodyInterrupted(f"{what}: the manifest was cut short", url=response.url, hint="try again")
            raise DigestMismatch(
                f"{what}: got a manifest with the digest {digest} instead of {expected}",
                hint="something between here and the registry changes what it sends",
            )
        return Served(raw, media_type, digest)

    async def _blob(
        self,
        digest: Digest,
        read: Callable[[Response, Attempts], Awaitable[T]],
        headers: Callable[[], Mapping[str, str]],
        endpoint: Endpoint,
        attempts: Attempts,
    ) -> T:
        request = self._request(endpoint, "GET", self._path("blobs", str(digest)), attempts, headers())
        async with await self._send(endpoint, request) as response:
            if response.status not in (200, 206) and not (response.status == 416 and "Range" in request.headers):
                raise await refusal(request, response, f"{self.name}: blob {digest}", missing=_LOST)
            return await read(response, attempts)

    async def _part(
        self, descriptor: Descriptor, start: int, endpoint: Endpoint, attempts: Attempts
    ) -> tuple[Response, int]:
        """Give an open answer that brings a blob from ``start`` on, and the byte at which its body really begins."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        request = self._request(endpoint, "GET", self._path("blobs", str(descriptor.digest)), attempts, headers)
        response = await self._send(endpoint, request)
        try:
            if response.status not in (200, 206) and not (response.status == 416 and start):
                raise await refusal(request, response, f"{self.name}: blob {descriptor.digest}", missing=_LOST)
            return response, continue_at(response.status, response.headers, start, descriptor.size)
        except BaseException:
            await discard(response, drain=False)
            raise

    async def _head_blob(self, digest: Digest, endpoint: Endpoint, attempts: Attempts) -> None:
        request = self._request(endpoint, "HEAD", self._path("blobs", str(digest)), attempts)
        async with await self._send(endpoint, request) as response:
            if response.status != 200:
                raise await refusal(request, response, f"{self.name}: blob {digest}", missing=_LOST)

    async def _tags_page(self, url: str, endpoint: Endpoint, attempts: Attempts) -> tuple[list[str], str | None]:
        request = self._request(endpoint, "GET", url, attempts)
        async with await self._send(endpoint, request) as response:
            if response.status != 200:
                raise await refusal(request, response, f"{self.name}: tags")
            body = await response.read(_TAGS_BODY_LIMIT)
            following = next_page(response.headers.get_all("Link"), response.url)
        try:
            document = parse_json(body)
        except ValueError as error:
            raise ProtocolError(f"{self.name}: the list of tags: {error}") from None
        names = document.get("tags") if isinstance(document, dict) else ()
        # Go writes an empty list as null.
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ProtocolError(f"{self.name}: the list of tags isn't one")
        return names or [], following

    def _path(self, kind: str, selector: str) -> str:
        return f"/{self.repository}/{kind}/{selector}"

    def _request(
        self, endpoint: Endpoint, method: str, url: str, attempts: Attempts, headers: Mapping[str, str] | None = None
    ) -> Request:
        return endpoint.request(method, url, scopes=self._scopes, headers=headers, attempts=attempts)

    async def _send(self, endpoint: Endpoint, request: Request) -> Response:
        response = await self._transport.send(request)
        for line in response.headers.get_all("Warning"):
            for text in _WARNING.findall(line):
                said = f"{endpoint.registry} says: {printable(text)}"
                if said not in self._warned:
                    self._warned.add(said)
                    _log.warning("%s", said)
        return response


def _capability(selector: str) -> Capability:
    """Give what an endpoint must be able to do to say something about a tag, or to supply what a digest names."""
    return "pull" if ":" in selector else "resolve"


def _served_digest(headers: Headers) -> Digest | None:
    """Give the digest that a registry names, ``None`` where it names none that can be computed."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest") or "")
    except InvalidDigest:
        return None
