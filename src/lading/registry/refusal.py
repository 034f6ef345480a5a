"""What a registry's refusal means: from a status and a body to a typed error."""

from __future__ import annotations

from collections.abc import Mapping

from lading.auth.transport import Unproven
from lading.errors import (
    Denied,
    NotFound,
    ProtocolError,
    RateLimited,
    RegistryError,
    TransportError,
    Unauthorized,
)
from lading.http.limits import retry_after
from lading.http.transport import Request, Response
from lading.oci.strict_json import parse_json

__all__ = ["refusal", "retry_after"]

_BODY_LIMIT = 8 * 1024
"""Bytes of an error body that are read."""

_ERRORS_LIMIT = 8
"""Entries of an error body that are shown."""

_KINDS: Mapping[int, tuple[type[RegistryError], str]] = {
    401: (Unauthorized, "sign in with lading login {registry}, or check the credentials"),
    403: (Denied, "ask the registry's owner for access"),
    404: (NotFound, "check the name and the tag; a private repository may look like a missing one"),
}
"""The error for each status, and what the user can do."""

_READ_ONLY = "it takes no pushes: a cache or a mirror doesn't, and lading serve does with --writable"
"""What a 405 means for who wants to write."""


async def refusal(request: Request, response: Response, what: str, *, missing: str = "") -> RegistryError:
    """Read the error body of an open ``response`` and give the error to raise; ``what`` names what was asked for.

    ``missing`` is what the user can do if it isn't there.
    """
    try:
        body = await response.read(_BODY_LIMIT)
    except (ProtocolError, TransportError):
        body = b""
    codes, details = _read_errors(body)
    said = f": {details}" if details else ""
    message = f"{what}: {request.method} answered {response.status}{said}"
    method, url, status = request.method, request.url, response.status
    why = response.hint if isinstance(response, Unproven) else ""
    if status == 429:
        after = retry_after(response.headers)
        wait = "wait" if after is None else f"wait {after:.0f} s"
        hint = f"{wait}, or sign in for a higher limit{'; ' if why else ''}{why}"
        return RateLimited(message, method=method, url=url, codes=codes, hint=hint, retry_after=after)
    kind, hint = _KINDS.get(status, (RegistryError, "try again later" if status >= 500 else ""))
    hint = (missing if status == 404 else "") or hint.format(registry=request.registry)
    if status == 405 and method not in ("GET", "HEAD", "DELETE"):
        hint = _READ_ONLY
    if kind in (Denied, Unauthorized) and request.scopes:  # registries of distribution say 401 for either
        message += f" (needed {' '.join(request.scopes)})"
    return kind(message, method=method, url=url, status=status, codes=codes, hint=why or hint)


def _read_errors(body: bytes) -> tuple[tuple[str, ...], str]:
    """Give the codes and the messages of an error body (distribution-spec, "Error Codes"); nothing if it has none."""
    try:
        document = parse_json(body)
    except ValueError:
        return (), ""
    entries = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return (), ""
    codes: list[str] = []
    said: list[str] = []
    for entry in entries[:_ERRORS_LIMIT]:
        fields = entry if isinstance(entry, dict) else {}
        code, message = fields.get("code"), fields.get("message")
        if isinstance(code, str):
            codes.append(code)
        said.append(" ".join(part for part in (code, message) if isinstance(part, str) and part))
    return tuple(codes), "; ".join(part for part in said if part)
