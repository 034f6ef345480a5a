"""Writing to one repository: a POST and a PUT a blob, then the manifest; and deletion.

distribution-spec, "Push" and "Content Management".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lading.errors import DigestMismatch, InvalidDigest
from lading.http.retry import Attempts
from lading.http.transport import Transport
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import ACCEPT
from lading.registry.chunks import Content, OpenAt, Transfer
from lading.registry.endpoints import Endpoints, qualified
from lading.registry.refusal import refusal
from lading.registry.writing import Begun, Writer, closing

Outcome = Literal["found", "mounted", "sent"]
"""How a blob got there: it was there, it was taken from another repository of the registry, or it was sent."""


class Upload:
    """Sends content to one repository. ``begin`` gives the patience for a blob."""

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        repository: str,
        begin: Callable[[], Attempts] = Attempts.single,
    ) -> None:
        self.name = f"{endpoints.registry}/{repository}"
        self._writer = Writer(transport, endpoints.candidates("push")[0], self.name, repository)
        self._begin = begin

    async def blob(self, descriptor: Descriptor, content: bytes, *, mount_from: str | None = None) -> Outcome:
        """Make ``content`` exist in the repository, without sending it if it does already.

        ``mount_from`` is another repository of the same registry that is thought to have it.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't take it.
        """
        place = await self._place(descriptor.digest, mount_from)
        if not isinstance(place, Begun):
            return place
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
        request = self._writer.request("PUT", closing(place.location, descriptor.digest), headers, content)
        async with await self._writer.send(request) as response:
            if response.status == 201:
                return "sent"
            error = await refusal(request, response, f"{self.name}: blob {descriptor.digest}")
        # An upload is unknown once it is complete: a PUT whose answer was lost is refused when it is sent again.
        if error.status != 404 or not await self._writer.has(descriptor.digest):
            raise error
        return "sent"

    async def stream(
        self,
        descriptor: Descriptor,
        open_at: OpenAt,
        *,
        mount_from: str | None = None,
        progress: Callable[[int], object] = lambda sent: None,
    ) -> Outcome:
        """Do the same with content that is read while it is sent, and verified: ``open_at`` gives it from a byte on.

        It is read from its start to its end, and a part of it again only where that wasn't taken. ``progress`` is told
        how many bytes of it were read.

        Raises:
            IntegrityError: it isn't what the descriptor names; then the registry hasn't got it either.
            RegistryError, TransportError, ProtocolError: the registry didn't take it.
            Exception: whatever the source raised.
        """
        place = await self._place(descriptor.digest, mount_from)
        if not isinstance(place, Begun):
            return place
        content = Content(descriptor, f"{self.name}: blob {descriptor.digest}", open_at, progress)
        await Transfer(self._writer, content, self._begin()).run(place)
        return "sent"

    async def find(self, selector: str) -> tuple[bool, Digest | None]:
        """Ask with HEAD whether there is a manifest under a tag or a digest, and what its digest is said to be.

        Raises:
            RegistryError, TransportError: the registry doesn't say.
        """
        request = self._writer.request("HEAD", f"{self._writer.root}/manifests/{selector}", {"Accept": ACCEPT})
        async with await self._writer.send(request) as response:
            # A registry that has no HEAD says so with one of the last two: what it is given again does no harm.
            if response.status in (404, 405, 501):
                return False, None
            if response.status != 200:
                raise await refusal(request, response, qualified(self.name, selector))
            said = response.headers.get("Docker-Content-Digest")
        try:
            return True, None if said is None else Digest.parse(said)
        except InvalidDigest:
            return True, None

    async def manifest(self, selector: str, raw: bytes, media_type: str) -> bool:
        """PUT a manifest under a tag or its digest, and tell whether the registry knows what its ``subject`` is for.

        Raises:
            DigestMismatch: the registry says that it stored something else.
            RegistryError, TransportError: the registry didn't take it.
        """
        url = f"{self._writer.root}/manifests/{selector}"
        request = self._writer.request("PUT", url, {"Content-Type": media_type}, raw)
        async with await self._writer.send(request) as response:
            if response.status not in (201, 202):
                raise await refusal(request, response, qualified(self.name, selector))
            stored = response.headers.get("Docker-Content-Digest")
            subject = response.headers.get("OCI-Subject")
        digest = Digest.of(raw)
        if stored is not None and stored.startswith("sha256:") and stored != str(digest):
            raise DigestMismatch(f"{qualified(self.name, selector)}: the registry stored {stored} instead of {digest}")
        return subject is not None

    async def delete(self, selector: str) -> None:
        """DELETE a tag, or a manifest by its digest, with which its tags go.

        Raises:
            RegistryError, TransportError: the registry didn't.
        """
        scopes = (f"{self._writer.scopes[0].rpartition(':')[0]}:delete,pull",)
        request = self._writer.request("DELETE", f"{self._writer.root}/manifests/{selector}", scopes=scopes)
        async with await self._writer.send(request) as response:
            if response.status in (400, 405) and ":" not in selector:
                error = await refusal(request, response, qualified(self.name, selector))
                error.hint = "many registries delete by digest only, and then every tag of it: see `lading resolve`"
                raise error
            if response.status not in (200, 202, 204):
                raise await refusal(request, response, qualified(self.name, selector))

    async def _place(self, digest: Digest, mount_from: str | None) -> Begun | Outcome:
        """Give the upload that a blob goes into, or how else it got there."""
        if await self._writer.has(digest):
            return "found"
        begun = await self._writer.begin(digest, mount_from)
        return "mounted" if begun is None else begun
