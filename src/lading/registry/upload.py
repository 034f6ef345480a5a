"""Writing to one repository: a POST and a PUT a blob, then the manifest; and deletion.

distribution-spec, "Push" and "Content Management".
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

from lading.errors import DigestMismatch, ProtocolError
from lading.http.redirect import redirect_target
from lading.http.transport import Request, Response, Transport
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.redact import redact_url
from lading.registry.endpoints import Endpoints, qualified
from lading.registry.refusal import refusal


class Upload:
    """Sends content to one repository."""

    def __init__(self, transport: Transport, endpoints: Endpoints, repository: str) -> None:
        self.name = f"{endpoints.registry}/{repository}"
        self._transport = transport
        self._endpoint = endpoints.candidates("push")[0]
        self._root = f"/{repository}"
        self._scopes: tuple[str, ...] = (f"repository:{repository}:pull,push",)

    async def blob(self, descriptor: Descriptor, content: bytes, *, mount_from: str | None = None) -> None:
        """Make ``content`` exist in the repository, without sending it if it does already.

        ``mount_from`` is another repository of the same registry that is thought to have it.

        Raises:
            RegistryError, TransportError, ProtocolError: the registry didn't take it.
        """
        if await self._has(descriptor.digest):
            return
        location = await self._begin(descriptor.digest, mount_from)
        if location is None:
            return
        separator = "&" if "?" in location else "?"
        target = f"{location}{separator}digest={quote(str(descriptor.digest), safe='')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
        request = self._request("PUT", target, headers, content)
        async with await self._transport.send(request) as response:
            if response.status == 201:
                return
            error = await refusal(request, response, f"{self.name}: blob {descriptor.digest}")
        # An upload is unknown once it is complete: a PUT whose answer was lost is refused when it is sent again.
        if error.status != 404 or not await self._has(descriptor.digest):
            raise error

    async def manifest(self, selector: str, raw: bytes, media_type: str) -> None:
        """PUT a manifest under a tag or its digest.

        Raises:
            DigestMismatch: the registry says that it stored something else.
            RegistryError, TransportError: the registry didn't take it.
        """
        request = self._request("PUT", f"{self._root}/manifests/{selector}", {"Content-Type": media_type}, raw)
        async with await self._transport.send(request) as response:
            if response.status not in (201, 202):
                raise await refusal(request, response, qualified(self.name, selector))
            stored = response.headers.get("Docker-Content-Digest")
        digest = Digest.of(raw)
        if stored is not None and stored.startswith("sha256:") and stored != str(digest):
            raise DigestMismatch(f"{qualified(self.name, selector)}: the registry stored {stored} instead of {digest}")

    async def delete(self, selector: str) -> None:
        """DELETE a tag, or a manifest by its digest, with which its tags go.

        Raises:
            RegistryError, TransportError: the registry didn't.
        """
        scopes = (f"{self._scopes[0].rpartition(':')[0]}:delete,pull",)
        request = self._request("DELETE", f"{self._root}/manifests/{selector}", scopes=scopes)
        async with await self._transport.send(request) as response:
            if response.status in (400, 405) and ":" not in selector:
                error = await refusal(request, response, qualified(self.name, selector))
                error.hint = "many registries delete by digest only, and then every tag of it: see `lading resolve`"
                raise error
            if response.status not in (200, 202, 204):
                raise await refusal(request, response, qualified(self.name, selector))

    async def _has(self, digest: Digest) -> bool:
        request = self._request("HEAD", f"{self._root}/blobs/{digest}")
        async with await self._transport.send(request) as response:
            if response.status in (200, 404):
                return response.status == 200
            raise await refusal(request, response, f"{self.name}: blob {digest}")

    async def _begin(self, digest: Digest, mount_from: str | None) -> str | None:
        """Open an upload and give its URL, or ``None`` if the blob was mounted instead."""
        scopes, query = self._scopes, ""
        if mount_from is not None:
            scopes = (*scopes, f"repository:{mount_from}:pull")
            query = f"?mount={quote(str(digest), safe='')}&from={quote(mount_from, safe='')}"
        request = self._request("POST", f"{self._root}/blobs/uploads/{query}", {"Content-Length": "0"}, scopes=scopes)
        # To have opened an upload in vain harms nobody.
        request = replace(request, is_repeatable=True)
        async with await self._transport.send(request) as response:
            if response.status == 201 and mount_from is not None:
                return None
            if response.status == 202:
                return _location(response)
            if mount_from is None:
                raise await refusal(request, response, f"{self.name}: upload of {digest}")
        # Whoever may not read the other repository may still write to this one.
        return await self._begin(digest, None)

    def _request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        scopes: tuple[str, ...] | None = None,
    ) -> Request:
        return self._endpoint.request(method, url, scopes=scopes or self._scopes, headers=headers, body=body)


def _location(response: Response) -> str:
    """Give the absolute URL of an upload; it is opaque, and credentials follow it only on the same origin."""
    location = response.headers.get("Location") or ""
    if not location:
        raise ProtocolError(f"{redact_url(response.url)}: the upload has no Location")
    return redirect_target(response.url, location)
