"""A profile at work: what happens to a call before the endpoints decide it, and to their answer after.

Before: who is asking, what they may, how often, in which words. After: which headers, and where things are said to be.
The endpoints know nothing of it, and a registry without quirks never comes here.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from lading.testing import pages
from lading.testing.access import Access, Scopes, needed_by, scope_text
from lading.testing.content import unknown_manifest
from lading.testing.endpoints import Answer, Call, refuse
from lading.testing.profiles import Profile
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.routes import Route, parse_route
from lading.testing.storage import PREFIX, Storage, of_storage
from lading.testing.token_service import TokenService

Site = Literal["registry", "token", "storage"]
"""What listens on a port of its own."""

_READING = ("GET", "HEAD")
_COOKIE = re.compile(r"(?:^|;)\s*([^=;\s]+)=")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call in the words of the endpoints, and who asks."""

    call: Call
    user: str | None


class Quirks:
    """What one registry of a kind does beside the endpoints.

    `origins` says where each of `sites` is; whoever listens fills it in. Time is the `clock`'s, in seconds.
    """

    def __init__(self, profile: Profile, access: Access, clock: Callable[[], float]) -> None:
        if profile.authentication == "none" and (access.users is not None or access.private):
            raise ValueError(f"the profile {profile.name!r} asks nobody who they are: it has no users")
        self.origins: dict[Site, str] = {}
        self.tokens = TokenService(profile.tokens, access, clock)
        self._profile = profile
        self._access = access
        self._clock = clock
        self._storage = Storage(profile.redirect, clock) if profile.redirect else None
        self._pulls: dict[str | None, tuple[float, int]] = {}
        self._secret = secrets.token_bytes(16)

        sites: dict[Site, bool] = {
            "token": self.has_tokens and profile.tokens.is_elsewhere,
            "storage": profile.redirect is not None and profile.redirect.is_elsewhere,
        }
        self.sites: tuple[Site, ...] = tuple(site for site, is_elsewhere in sites.items() if is_elsewhere)

    @property
    def has_tokens(self) -> bool:
        """Whether this kind of registry has a token service."""
        return self._profile.authentication == "bearer"

    @property
    def has_storage(self) -> bool:
        """Whether this kind of registry sends elsewhere for blobs."""
        return self._storage is not None

    def origin_of(self, site: Site) -> str:
        """Return where a site is, which may be on the registry's own origin."""
        return self.origins[self._home(site)]

    def _home(self, site: Site) -> Site:
        return site if site in self.sites else "registry"

    def route(self, site: Site, path: str, raw: str) -> Route:
        """Return what a request to `site` is about; `path` is percent-decoded, `raw` as sent with its query."""
        if self.has_tokens and site == self._home("token") and path == self._profile.tokens.path:
            return Route("token")
        if self.has_storage and site == self._home("storage") and path.startswith(PREFIX):
            return Route("storage", reference=raw)
        return parse_route(path) if site == "registry" else Route("other")

    async def answer(
        self, call: Call, read: Callable[[], Awaitable[bytes]], serve: Callable[[Call], Awaitable[Answer]]
    ) -> Answer:
        """Decide a call: `read` gives the body of one that isn't served, `serve` asks the endpoints."""
        try:
            if call.route.kind == "token":
                body = await read() if call.method == "POST" else b""
                authorization = call.headers.get("Authorization")
                answer = self.tokens.answer(call.method, call.query.items(), authorization, body)
            elif call.route.kind == "storage" and self._storage is not None:
                return of_storage(await serve(self._storage.admit(call)))
            elif call.route.kind == "other":
                answer = await serve(call)
            else:
                asked = self._before(call)
                answer = self._after(asked, await serve(asked.call))
        except Refusal as refusal:
            answer = refuse(refusal)
        if self._profile.cookie is not None:
            cookie = f"{self._profile.cookie}={secrets.token_hex(8)}; Path=/; HttpOnly"
            answer = _with(answer, {"Set-Cookie": cookie})
        return answer

    # Before the endpoints.

    def _before(self, call: Call) -> _Asked:
        profile, kind = self._profile, call.route.kind
        if profile.cookie in _COOKIE.findall(call.headers.get("Cookie", "")) and call.method not in _READING:
            raise Refusal(ErrorCode.DENIED, "CSRF token not found in request")
        user = self._authenticate(call)
        if kind == "manifest" and call.method == "HEAD" and not profile.has_head:
            raise Refusal(ErrorCode.UNSUPPORTED, "HEAD is not supported here")
        if kind == "manifest" and call.method == "GET" and self._is_used_up(user):
            headers = self._limit_headers(user)
            raise Refusal(ErrorCode.TOOMANYREQUESTS, "you have reached your pull rate limit", headers=headers)
        if kind == "upload" and call.route.reference and profile.upload_state:
            path = f"/v2/{call.route.repository}/blobs/uploads/{call.route.reference}"
            if call.query.get("_state") != self._state(path):
                raise Refusal(ErrorCode.BLOB_UPLOAD_INVALID, "the state of the upload is not valid")
        if kind in ("tags", "catalog") and call.method in _READING:
            call = replace(call, query=pages.understood(profile.pages, call.query))
        return _Asked(call, user)

    def _authenticate(self, call: Call) -> str | None:
        """Return who asks, None for nobody; refuse who may not have what they ask for."""
        match self._profile.authentication:
            case "none":
                return None
            case "basic":
                return self._by_password(call)
            case "bearer":
                return self._by_token(call)

    def _by_password(self, call: Call) -> str | None:
        authorization, needed = call.headers.get("Authorization"), needed_by(call)
        user = self._access.user(authorization) if authorization is not None else None
        is_stranger = authorization is not None and user is None and self._access.users is not None
        is_asked = not needed and user is None and self._access.users is not None
        if is_stranger or is_asked or not self._access.may(user, needed):
            challenge = f'Basic realm="{self.origins["registry"]}/",service="{self._profile.name}"'
            raise _unauthorized(challenge, "authentication required")
        return user

    def _by_token(self, call: Call) -> str | None:
        authorization, needed = call.headers.get("Authorization"), needed_by(call)
        token = self.tokens.find(authorization) if authorization is not None else None
        if token is None:
            error = "" if authorization is None else ',error="invalid_token"'
            raise _unauthorized(self._challenge(needed) + error, "authentication required")
        if not all(actions <= token.scopes.get(resource, frozenset()) for resource, actions in needed.items()):
            raise _unauthorized(self._challenge(needed) + ',error="insufficient_scope"', "access denied")
        return token.user

    def _challenge(self, needed: Scopes) -> str:
        rules = self._profile.tokens
        scope = scope_text(needed) if needed else rules.placeholder
        challenge = f'Bearer realm="{self.origin_of("token")}{rules.path}",service="{rules.service}"'
        return challenge + (f',scope="{scope}"' if scope else "")

    # After them.

    def _after(self, asked: _Asked, answer: Answer) -> Answer:
        call = asked.call
        if call.route.kind == "manifest" and call.method in _READING and answer.status == 200:
            answer = self._manifest(asked, answer)
        elif call.route.kind == "blob" and answer.status in (200, 206, 416):
            answer = self._blob(call, answer)
        elif call.route.kind in ("tags", "catalog"):
            origin = self.origins["registry"] if self._profile.pages.link == "absolute" else ""
            answer = _with(answer, pages.worded(self._profile.pages, answer.headers, origin))
        return self._placed(call, answer)

    def _manifest(self, asked: _Asked, answer: Answer) -> Answer:
        call, profile = asked.call, self._profile
        if profile.needs_accept and answer.headers["Content-Type"] not in _accepted(call.headers):
            return refuse(unknown_manifest(call.route.repository, call.route.reference))
        digest = answer.headers["Docker-Content-Digest"]
        if profile.has_etags:
            answer = _with(answer, {"ETag": f'"{digest}"'})
            if digest in call.headers.get("If-None-Match", "").replace('"', ""):
                answer = Answer(304, {"ETag": f'"{digest}"', "Docker-Content-Digest": digest})
        if profile.rate_limit is not None:
            if call.method == "GET":
                self._count(asked.user)
            answer = _with(answer, self._limit_headers(asked.user))
        if call.method not in profile.digest_on:
            answer = _without(answer, "Docker-Content-Digest")
        return answer

    def _blob(self, call: Call, answer: Answer) -> Answer:
        redirect = self._profile.redirect
        if redirect is None or self._storage is None or call.method not in redirect.methods:
            return answer
        if not isinstance(answer.body, bytes):
            answer.body.close()
        origin = self.origins["storage"] if redirect.is_elsewhere else ""
        return Answer(redirect.status, {"Location": self._storage.location(call.route, origin)})

    def _placed(self, call: Call, answer: Answer) -> Answer:
        """Write the `Location` of an upload, and of what was uploaded, as this kind of registry does."""
        location = answer.headers.get("Location", "")
        if (call.method in _READING and call.route.kind != "upload") or not location.startswith("/"):
            return answer
        if self._profile.upload_state and "/blobs/uploads/" in location:
            location = f"{location}?_state={self._state(location)}"
        if self._profile.upload_location == "absolute":
            location = self.origins["registry"] + location
        return _with(answer, {"Location": location})

    def _state(self, path: str) -> str:
        return hashlib.sha256(self._secret + path.encode()).hexdigest()[:32]

    # The rate limit.

    def _limit(self, user: str | None) -> int | None:
        limit = self._profile.rate_limit
        if limit is None:
            return None
        return limit.anonymous if user is None else limit.user

    def _used(self, user: str | None) -> tuple[float, int]:
        limit, now = self._profile.rate_limit, self._clock()
        since, used = self._pulls.get(user, (now, 0))
        return (now, 0) if limit is not None and now - since >= limit.window else (since, used)

    def _is_used_up(self, user: str | None) -> bool:
        limit = self._limit(user)
        return limit is not None and self._used(user)[1] >= limit

    def _count(self, user: str | None) -> None:
        since, used = self._used(user)
        self._pulls[user] = (since, used + 1)

    def _limit_headers(self, user: str | None) -> dict[str, str]:
        limit, rules = self._limit(user), self._profile.rate_limit
        if limit is None or rules is None:
            return {}
        window = f";w={rules.window}"
        return {
            "RateLimit-Limit": f"{limit}{window}",
            "RateLimit-Remaining": f"{max(limit - self._used(user)[1], 0)}{window}",
        }


def _accepted(headers: Mapping[str, str]) -> set[str]:
    lines = [value for name, value in headers.items() if name.lower() == "accept"]
    return {item.partition(";")[0].strip() for item in ",".join(lines).split(",")}


def _unauthorized(challenge: str, message: str) -> Refusal:
    return Refusal(ErrorCode.UNAUTHORIZED, message, headers={"WWW-Authenticate": challenge})


def _with(answer: Answer, headers: Mapping[str, str]) -> Answer:
    return replace(answer, headers={**answer.headers, **headers})


def _without(answer: Answer, name: str) -> Answer:
    return replace(answer, headers={key: value for key, value in answer.headers.items() if key != name})
