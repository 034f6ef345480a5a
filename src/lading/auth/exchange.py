"""The conversation with a token server (distribution-spec, "Token Authentication" and "OAuth2 Token").

One question, one token. The realm policy is applied to every URL that is asked, a credential goes to the realm's own
origin only, and what the server says is bounded and checked before it may become a header.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

from lading.auth.authorization import Secret, basic_authorization, is_token
from lading.auth.configfile import Credential, is_hub
from lading.auth.realm import realm_refusal
from lading.errors import Denied, LadingError, ProtocolError, RateLimited, RegistryError, Unauthorized
from lading.http.limits import retry_after
from lading.http.transport import Headers, Origin, Request, Site, Transport
from lading.oci.strict_json import parse_json
from lading.redact import redact_url

_BODY_LIMIT = 64 * 1024
"""Bytes of a token server's answer at most."""

_HOPS = 3
"""Redirects that are followed at most."""

_DEFAULT_SECONDS = 60.0
"""How long a token lives that doesn't say (distribution-spec, "expires_in")."""

_LONGEST_SECONDS = 24 * 3600.0
"""How long a token is believed at most, whatever it says."""

_CLIENT_ID = "lading"


@dataclass(frozen=True, slots=True)
class TokenServer:
    """Who gives tokens for ``registry``, as its challenge says: the URL ``realm``, and what it calls the registry.

    ``site`` is what is configured for connections on behalf of that registry.
    """

    registry: Origin
    realm: str = field(repr=False)
    service: str
    site: Site | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, and for how many seconds it is good from now on."""

    token: str = field(repr=False)
    seconds: float


async def fetch_token(
    transport: Transport, server: TokenServer, scopes: tuple[str, ...], credential: Credential | None
) -> Grant:
    """Ask for a token for ``scopes``, anonymously if there is no credential.

    An identity token is exchanged (RFC 6749, section 6); where the server doesn't know how and there is a password, and
    in every other case, the older GET is used.

    Raises:
        Unauthorized: the realm policy refuses the server, or the server refuses the credential.
        RegistryError: the server answers with an error.
        ProtocolError: its answer isn't one.
        TransportError: there is no answer.
    """
    if why := realm_refusal(server.realm, server.registry):
        raise _refused_realm(server, why)
    if credential is not None and credential.identity_token:
        answer = await _send(transport, server, _post(server, scopes, credential.identity_token))
        if answer.status not in (400, 404, 405):
            return _grant(answer, server, scopes)
        if not credential.is_basic:
            # RFC 6749, section 5.2: a grant that isn't valid any more is 400, and means what 401 means elsewhere.
            raise _refused_identity(answer, server)
    answer = await _send(transport, server, _get(server, scopes, credential))
    return _grant(answer, server, scopes)


def read_grant(body: bytes) -> Grant:
    """Read a token server's answer.

    Raises:
        ProtocolError: it holds no token, or one that can't be a header; the message holds nothing of it.
    """
    answer: Any = None
    why = ""
    try:
        answer = parse_json(body)
    except ValueError as error:
        why = str(error)
    # Raised out here, because the error of the JSON reader holds the text.
    if why:
        raise ProtocolError(f"the token server's answer isn't JSON: {why}")
    if not isinstance(answer, dict):
        raise ProtocolError("the token server's answer isn't a JSON object")
    token = answer.get("token") or answer.get("access_token")
    if not token:
        raise ProtocolError("the token server's answer holds no token")
    if not isinstance(token, str) or not is_token(token):
        raise ProtocolError("the token server's answer holds a token that isn't visible ASCII")
    seconds = answer.get("expires_in")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        seconds = _DEFAULT_SECONDS
    return Grant(Secret(token), float(min(seconds, _LONGEST_SECONDS)))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Headers
    body: bytes = field(repr=False)


def _get(server: TokenServer, scopes: tuple[str, ...], credential: Credential | None) -> Request:
    query = [("service", server.service)] if server.service else []
    query += [("scope", scope) for scope in scopes]
    parts = urlsplit(server.realm)
    text = "&".join(part for part in (parts.query, _form(query)) if part)
    headers = {"Accept": "application/json"}
    if credential is not None and credential.is_basic:
        headers["Authorization"] = basic_authorization(credential.username, credential.password)
    return Request("GET", urlunsplit(parts._replace(query=text)), headers, site=server.site)


def _post(server: TokenServer, scopes: tuple[str, ...], identity_token: str) -> Request:
    form = [("grant_type", "refresh_token"), ("client_id", _CLIENT_ID), ("refresh_token", identity_token)]
    form += [("service", server.service)] if server.service else []
    form += [("scope", " ".join(scopes))] if scopes else []
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    return Request("POST", server.realm, headers, _form(form).encode("ascii"), site=server.site)


def _form(pairs: list[tuple[str, str]]) -> str:
    # What came as bytes beyond ASCII in a header goes back as the same bytes.
    return urlencode(pairs, safe="/:,", quote_via=quote, errors="surrogateescape")


async def _send(transport: Transport, server: TokenServer, request: Request) -> _Answer:
    """Send a request to the token server; each redirect is judged like the realm itself."""
    for _ in range(_HOPS + 1):
        async with await transport.send(request) as response:
            if response.status not in (301, 302, 303, 307, 308):
                # What an error says isn't read: it may repeat what it was asked.
                body = await response.read(_BODY_LIMIT) if response.status == 200 else b""
                return _Answer(response.status, response.headers, body)
            location = response.headers.get("Location") or ""
        request = _redirected(request, location, server)
    raise ProtocolError(f"token server {redact_url(server.realm)}: more than {_HOPS} redirects")


def _redirected(request: Request, location: str, server: TokenServer) -> Request:
    place = f"token server {redact_url(server.realm)}"
    if request.method != "GET":
        raise ProtocolError(f"{place}: it redirects a request that holds an identity token")
    try:
        url = urljoin(request.url, location)
    except ValueError:
        url = ""
    if why := realm_refusal(url, server.registry):
        raise ProtocolError(f"{place}: it redirects to {redact_url(url)}, which is refused: {why}")
    if "Authorization" in request.headers and Origin.of(url) != Origin.of(request.url):
        raise ProtocolError(f"{place}: it redirects a request with credentials to {redact_url(url)}")
    return Request("GET", url, request.headers, site=server.site)


def _grant(answer: _Answer, server: TokenServer, scopes: tuple[str, ...]) -> Grant:
    if answer.status != 200:
        raise _refused(answer, server, scopes)
    try:
        return read_grant(answer.body)
    except ProtocolError as error:
        why = error.message
    hint = "something between here and there may answer in its place"
    raise ProtocolError(f"{_name(server)} asks for a token of {redact_url(server.realm)}: {why}", hint=hint)


def _refused(answer: _Answer, server: TokenServer, scopes: tuple[str, ...]) -> LadingError:
    realm, status = server.realm, answer.status
    message = f"token server {redact_url(realm)} answered {status} to a request for {' '.join(scopes) or 'a token'}"
    if status == 401:
        hint = f"log in to the registry: lading login {_name(server)}"
        return Unauthorized(message, method="GET", url=realm, status=status, hint=hint)
    if status == 403:
        return Denied(message, method="GET", url=realm, status=status, hint="log in as somebody who may do this")
    if status == 429:
        return RateLimited(message, method="GET", url=realm, retry_after=retry_after(answer.headers))
    return RegistryError(message, method="GET", url=realm, status=status)


def _refused_identity(answer: _Answer, server: TokenServer) -> Unauthorized:
    return Unauthorized(
        f"token server {redact_url(server.realm)} answered {answer.status}: it doesn't take the identity token",
        method="POST",
        url=server.realm,
        status=answer.status,
        hint=f"log in to the registry again: lading login {_name(server)}",
    )


def _name(server: TokenServer) -> str:
    """Give the name of the registry that a token is for, as it is logged in to."""
    scheme, host, port = server.registry
    if is_hub(host):
        return "docker.io"
    name = f"[{host}]" if ":" in host else host
    return name if port == (443 if scheme == "https" else 80) else f"{name}:{port}"


def _refused_realm(server: TokenServer, why: str) -> Unauthorized:
    return Unauthorized(
        f"{server.registry.scheme}://{server.registry.host}:{server.registry.port} asks for a token of"
        f" {redact_url(server.realm)}, which is refused: {why}",
        method="GET",
        url=server.realm,
        status=401,
        hint="nothing was sent to it; ask who runs the registry",
    )
