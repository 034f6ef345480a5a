"""Trying what would be done: each host in order, from the first hop to the manifest, by the rings that a pull uses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from lading import __version__
from lading.auth.credentials import Credential
from lading.auth.means import offered_challenge
from lading.auth.transport import AuthTransport
from lading.diagnose.case import Asked, Case, route_finding
from lading.diagnose.connection import Connection
from lading.diagnose.finding import Finding, counted, took
from lading.errors import CredentialError, LadingError
from lading.events import Event, RateLimit
from lading.http.hosts import RegistryHosts
from lading.http.limits import Pauses
from lading.http.proxy import ProxySocket, Router
from lading.http.redirect import RedirectTransport
from lading.http.retry import Attempts, Retry, RetryTransport
from lading.http.session import AiohttpTransport
from lading.http.transport import Origin, Request, Response, Transport, discard
from lading.oci.descriptor import Descriptor
from lading.oci.manifest import parse_manifest
from lading.redact import redact_url
from lading.registry.endpoints import Endpoints
from lading.registry.refusal import refusal
from lading.registry.repository import Repository

_LOG_IN = "log in to the registry again"
_ASK = "ask who runs the registry"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back for a request that proved who is asking, or asked for a token to do so."""

    url: str
    status: int
    is_for_token: bool
    has_credential: bool


class _Watch:
    """Notes, between the auth ring and the network, what became of tokens and passwords; none of them itself."""

    def __init__(self, inner: Transport) -> None:
        self.answers: list[_Answer] = []
        self._inner = inner

    async def send(self, request: Request) -> Response:
        response = await self._inner.send(request)
        authorization = request.headers.get("Authorization", "")
        if request.authority is None:
            has_credential = bool(authorization) or request.method == "POST"
            self.answers.append(_Answer(redact_url(request.url), response.status, True, has_credential))
        elif authorization.startswith("Basic "):
            self.answers.append(_Answer(redact_url(request.url), response.status, False, True))
        return response


class Trial:
    """The rings of one client, without any patience; for one event loop."""

    def __init__(self, case: Case, router: Router, hosts: RegistryHosts) -> None:
        pauses = Pauses()
        self._case = case
        self._router = router
        self._hosts = hosts
        self._limits: list[RateLimit] = []
        self._session = AiohttpTransport(
            user_agent=f"lading/{__version__}", router=router, pauses=pauses, timeouts=case.timeouts
        )
        self._bare = RedirectTransport(self._session)
        self._watch = _Watch(self._session)
        self._auth = AuthTransport(self._watch, case.credentials)
        once = Retry(attempts=1, budget=0.0)
        self._whole = RetryTransport(RedirectTransport(self._auth), once, pauses, events=self._listen)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.aclose()

    async def findings(self, asked: Asked) -> AsyncGenerator[Finding]:
        """Try one host, up to where there is no use in going on."""
        about = asked.title
        request = asked.endpoint.request("GET", "/", scopes=(), attempts=Attempts.single())
        is_reached = True
        async with aclosing(self._connect(request, asked)) as steps:
            async for finding in steps:
                is_reached = "error" not in finding.data
                yield finding
        if not is_reached:
            return
        pinged, is_answered = await self._ping(request, asked)
        for finding in pinged:
            yield finding
        if not is_answered:
            return
        if self._case.capability not in asked.endpoint.capabilities:
            text = f"isn't asked for it: that needs the capability {self._case.capability!r}"
            yield Finding("manifest", text, "note", about=about)
            return
        if asked.endpoint.registry in self._case.known:
            yield await self._credential(asked)
        for finding in await self._manifest(asked):
            yield finding

    def _listen(self, event: Event) -> None:
        if isinstance(event, RateLimit):
            self._limits.append(event)

    async def _connect(self, request: Request, asked: Asked) -> AsyncGenerator[Finding]:
        """Connect by the way that requests take, and by the next one where Docker Desktop's socket is dead."""
        about, origin = asked.title, Origin.of(request.url)
        while True:
            route = self._router.route(origin)
            connection = Connection(request, route, self._case.tls)
            failed: LadingError | None = None
            try:
                await connection.make(self._case.timeouts.connect)
            except LadingError as error:
                failed = error
            for step in connection.steps:
                yield Finding(step.stage, step.text, step.verdict, step.hint, about, step.data)
            if failed is None:
                return
            if connection.stage == "proxy" and isinstance(route, ProxySocket) and route.may_bypass:
                hint = "start Docker Desktop again, or set LADING_NO_DESKTOP_PROXY=1"
                text = f"{failed.message}; requests go another way meanwhile"
                yield Finding("proxy", text, "warning", hint, about)
                self._router.socket_failed(route, failed.message)
                yield route_finding(self._router.route(origin), about)
                continue
            yield Finding.of(failed, connection.stage, asked.bad, about=about)
            return

    async def _ping(self, request: Request, asked: Asked) -> tuple[list[Finding], bool]:
        """Ask for the root of the API without credentials; tells whether it answered at all.

        No refusal is a failure here: a pull doesn't ask for this.
        """
        began, about = time.perf_counter(), asked.title
        try:
            async with await self._bare.send(request) as response:
                seconds = time.perf_counter() - began
                if response.status not in (200, 401):
                    error = await refusal(request, response, asked.endpoint.root)
                    hint = "is this the root of a registry's API?" if response.status in (403, 404) else error.hint
                    return [Finding("ping", error.message, "warning", hint, about, {"status": response.status})], True
                found = _answered(response, request, about, seconds)
                challenge = _challenge(response, request, about) if response.status == 401 else []
                await discard(response)
        except LadingError as error:
            return [Finding.of(error, "ping", asked.bad, about=about)], False
        return [found, *challenge], True

    async def _credential(self, asked: Asked) -> Finding:
        """Get the credential, which may mean to run a helper."""
        host = asked.endpoint.registry
        try:
            credential = await self._case.credentials.credential(host)
        except CredentialError as error:
            self._case.told.add(error.message)
            return Finding.of(error, "credential", "warning", about=asked.title)
        if credential is None:
            text = f"{self._case.known[host]} has none for {host}: requests go as nobody"
            return Finding("credential", text, "note", about=asked.title)
        return Finding("credential", f"there is {_kind(credential)}", about=asked.title)

    async def _manifest(self, asked: Asked) -> list[Finding]:
        """Ask what the reference stands for, and say what that took."""
        self._watch.answers.clear()
        self._limits.clear()
        warned: set[str] = set()
        # The same endpoint, alone: whether others answer is said of them.
        alone = Endpoints(self._case.reference.registry, self._hosts)
        alone.server, alone.mirrors = asked.endpoint, ()
        name = self._case.reference.repository
        repository = Repository(self._whole, alone, name, warned, self._whole.operation)
        began, about = time.perf_counter(), asked.title
        try:
            descriptor, method = await _resolve(repository, self._case.reference.selector)
            data = {"digest": str(descriptor.digest), "size": descriptor.size, "media_type": descriptor.media_type}
            seconds = time.perf_counter() - began
            text = f"{method} says {descriptor.digest}, {counted(descriptor.size, 'byte')}, {took(seconds)}"
            last = Finding("manifest", text, about=about, data={**data, "method": method, "seconds": seconds})
        except LadingError as error:
            last = Finding.of(error, "manifest", asked.bad, about=about)
        said = [Finding("registry", text, "note", about=about) for text in warned]
        return [*self._proofs(asked), *said, last, *self._left(about)]

    def _proofs(self, asked: Asked) -> list[Finding]:
        """Say what became of credentials and tokens."""
        found = []
        for answer in dict.fromkeys(self._watch.answers):
            who = "the credential" if answer.has_credential else "nobody in particular"
            is_good = answer.status not in (401, 403) if not answer.is_for_token else answer.status == 200
            gave = f"{answer.url} answered {answer.status} to {who}"
            if answer.is_for_token and is_good:
                gave = f"{answer.url} gave one to {who}"
            # RFC 6749, section 5.2: an identity token that isn't good any more is 400.
            refused = (answer.has_credential and answer.status in (400, 401)) or None
            hint = _LOG_IN if refused else ""
            topic, data = "token" if answer.is_for_token else "password", {"status": answer.status, "refused": refused}
            found.append(Finding(topic, gave, "ok" if is_good else "warning", hint, asked.title, data))
        failure = self._auth.failures.get(asked.endpoint.registry)
        is_said = any(one.data.get("refused") for one in found)
        if failure is not None and not is_said and failure.message not in self._case.told:
            self._case.told.add(failure.message)
            found.append(Finding.of(failure, "credential", "warning", about=asked.title))
        return found

    def _left(self, about: str) -> list[Finding]:
        """Say what is left of the rate limit, if that was said."""
        if not self._limits:
            return []
        limit = self._limits[-1]
        of = "" if limit.limit is None else f" of {limit.limit}"
        window = "" if limit.window is None else f" in {_window(limit.window)}"
        text = f"{limit.remaining}{of} requests are left{window}"
        data = {"remaining": limit.remaining, "limit": limit.limit, "window": limit.window}
        if limit.remaining:
            return [Finding("rate limit", text, about=about, data=data)]
        return [Finding("rate limit", text, "warning", "wait, or log in for a higher limit", about, data)]


async def _resolve(repository: Repository, selector: str) -> tuple[Descriptor, str]:
    """Ask with HEAD what a selector stands for, and with GET where HEAD isn't enough, as a pull does."""
    descriptor = await repository.resolve(selector)
    if descriptor is not None:
        return descriptor, "HEAD"
    served = await repository.manifest(selector)
    document = parse_manifest(served.raw, served.media_type)
    return Descriptor(document.media_type, served.digest, len(served.raw)), "GET"


def _answered(response: Response, request: Request, about: str, seconds: float) -> Finding:
    redirected = f", redirected to {redact_url(response.url)}" if response.url != request.url else ""
    data = {"status": response.status, "seconds": seconds}
    text = f"GET {redact_url(request.url)} answers {response.status}{redirected}, {took(seconds)}"
    if response.status == 200 and (response.headers.get("Content-Type") or "").startswith("text/html"):
        hint = "something between here and the registry may answer in its place"
        return Finding("ping", f"{text}: it is a web page, not a registry", "warning", hint, about, data)
    return Finding("ping", text, about=about, data=data)


def _challenge(response: Response, request: Request, about: str) -> list[Finding]:
    """Say what a registry asks for that wants to know who is asking."""
    try:
        challenge = offered_challenge(request, Origin.of(response.url), response)
    except LadingError as error:
        return [Finding.of(error, "challenge", "warning", about=about)]
    if challenge is None:
        text = "it doesn't say how to prove who is asking"
        return [Finding("challenge", text, "warning", _ASK, about)]
    data = {"scheme": challenge.scheme, "realm": redact_url(challenge.realm), "service": challenge.service}
    if challenge.scheme == "bearer" and not challenge.realm:
        return [Finding("challenge", "a token, but it doesn't say of whom", "warning", _ASK, about, data)]
    if challenge.scheme == "bearer":
        service = f" for the service {challenge.service}" if challenge.service else ""
        return [Finding("challenge", f"a token of {redact_url(challenge.realm)}{service}", about=about, data=data)]
    if challenge.scheme == "basic":
        return [Finding("challenge", "a user name and password", about=about, data=data)]
    text = f"{challenge.scheme}, which isn't supported"
    return [Finding("challenge", text, "warning", _ASK, about, data)]


def _kind(credential: Credential) -> str:
    if credential.registry_token:
        return "a registry token"
    return "an identity token" if credential.identity_token else "a user name and password"


def _window(seconds: float) -> str:
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")
