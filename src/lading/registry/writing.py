"""The requests of an upload, each by itself: whether a blob is there, opening an upload, letting go of one.

distribution-spec, "Pushing Blobs". An upload's URL is opaque, and credentials follow it only on the same origin.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from lading.errors import LadingError, ProtocolError, RegistryError
from lading.http.redirect import redirect_target
from lading.http.retry import Attempts
from lading.http.transport import Request, Response, Stream, Transport
from lading.oci.digest import Digest
from lading.redact import redact_url
from lading.registry.endpoints import Endpoint
from lading.registry.refusal import refusal

_CANCEL_SECONDS = 2.0
"""How long it may take to tell a registry that an upload is over: it finds out by itself, too."""

_BUSY_SECONDS = 0.1
"""How long a registry is left alone that still waits for the rest of what was broken off."""

_LENGTH = re.compile("[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that was opened at a URL. ``minimum`` is how many bytes a chunk has at least, 0: nothing was said."""

    location: str = field(repr=False)
    minimum: int = 0


class Writer:
    """Asks one repository, for the one purpose of writing to it."""

    def __init__(self, transport: Transport, endpoint: Endpoint, name: str, repository: str) -> None:
        self.name = name
        self.root = f"/{repository}"
        self.scopes: tuple[str, ...] = (f"repository:{repository}:pull,push",)
        self._transport = transport
        self._endpoint = endpoint

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Stream | None = None,
        *,
        scopes: tuple[str, ...] | None = None,
        attempts: Attempts | None = None,
    ) -> Request:
        """Make a request; ``url`` is a path below the registry's root, or a URL that the registry gave."""
        request = self._endpoint.request(method, url, scopes=scopes or self.scopes, headers=headers, attempts=attempts)
        return replace(request, body=body)

    async def send(self, request: Request) -> Response:
        """Send a request and give the open answer."""
        return await self._transport.send(request)

    async def has(self, digest: Digest) -> bool:
        """Ask with HEAD whether a blob is there."""
        request = self.request("HEAD", f"{self.root}/blobs/{digest}")
        async with await self.send(request) as response:
            if response.status in (200, 404):
                return response.status == 200
            raise await refusal(request, response, f"{self.name}: blob {digest}")

    async def begin(self, digest: Digest, mount_from: str | None = None) -> Begun | None:
        """Open an upload, or give ``None`` if the blob was mounted instead."""
        scopes, query = self.scopes, ""
        if mount_from is not None:
            scopes = (*scopes, f"repository:{mount_from}:pull")
            query = f"?mount={quote(str(digest), safe='')}&from={quote(mount_from, safe='')}"
        request = self.request("POST", f"{self.root}/blobs/uploads/{query}", {"Content-Length": "0"}, scopes=scopes)
        # To have opened an upload in vain harms nobody.
        request = replace(request, is_repeatable=True)
        try:
            response = await self.send(request)
        except RegistryError:
            if mount_from is None:
                raise
            # The token server may refuse, too.
            return await self.begin(digest)
        async with response:
            if response.status == 201 and mount_from is not None:
                return None
            if response.status == 202:
                minimum = response.headers.get("OCI-Chunk-Min-Length") or ""
                return Begun(location_of(response), int(minimum) if _LENGTH.fullmatch(minimum) else 0)
            if mount_from is None:
                raise await refusal(request, response, f"{self.name}: upload of {digest}")
        # Whoever may not read the other repository may still write to this one.
        return await self.begin(digest)

    async def cancel(self, location: str) -> None:
        """Tell the registry that nobody goes on with an upload, in a moment or not at all; failures are ignored."""
        import anyio

        request = self.request("DELETE", location, attempts=Attempts.single())
        with anyio.move_on_after(_CANCEL_SECONDS, shield=True), contextlib.suppress(LadingError):
            while True:
                async with await self.send(request) as response:
                    if response.status != 409:
                        return
                await anyio.sleep(_BUSY_SECONDS)


def location_of(response: Response) -> str:
    """Give the absolute URL of an upload.

    Raises:
        ProtocolError: there is none, or it leads to where nobody should go.
    """
    location = response.headers.get("Location") or ""
    if not location:
        raise ProtocolError(f"{redact_url(response.url)}: the upload has no Location")
    return redirect_target(response.url, location)


def closing(location: str, digest: Digest) -> str:
    """Give the URL whose PUT completes an upload."""
    return f"{location}{'&' if '?' in location else '?'}digest={quote(str(digest), safe='')}"
