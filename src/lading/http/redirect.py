"""The redirect ring: follows redirects by hand, so that each hop decides anew what it may carry."""

from __future__ import annotations

from dataclasses import replace

from lading.errors import ProtocolError
from lading.http.transport import Origin, Request, Response, Transport, join_url
from lading.redact import redact_url

MAX_HOPS = 10

_ANY_METHOD = frozenset({307, 308})
"""RFC 9110, section 15.4: these keep the method and the body."""

_READ_ONLY = frozenset({301, 302, 303, 307, 308})
"""What a GET or a HEAD follows, with its method kept."""


class RedirectTransport:
    """Follows at most ten redirects, never from https to http.

    The request keeps its ``authority``: the ring inside compares it with each hop's origin, so credentials don't
    follow to another scheme, host or port.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    async def send(self, request: Request) -> Response:
        """Send ``request`` and give the answer that isn't a redirect any more.

        Raises:
            ProtocolError: too many hops, a hop from https to http, or a target that isn't an http(s) URL.
        """
        followed = _READ_ONLY if request.method in ("GET", "HEAD") else _ANY_METHOD
        for _ in range(MAX_HOPS + 1):
            response = await self._inner.send(request)
            location = response.headers.get("Location")
            if response.status not in followed or not location:
                return response
            async with response:
                request = replace(request, url=redirect_target(request.url, location))
        raise ProtocolError(f"{request.method} {redact_url(request.url)}: more than {MAX_HOPS} redirects")


def redirect_target(url: str, location: str) -> str:
    """Give the URL that ``location`` means in the answer to ``url`` (RFC 9110, section 10.2.2).

    Raises:
        ProtocolError: it isn't an http(s) URL, carries user information, or leads from https to http.
    """
    target = join_url(url, location)
    if Origin.of(url).scheme == "https" and Origin.of(target).scheme != "https":
        raise ProtocolError(
            f"{redact_url(url)}: to go on from https to {redact_url(target)} is refused",
            hint="the registry, or something before it, is configured wrongly",
        )
    return target
