"""The auth ring: around the network, inside everything else.

A request is sent bare, or with what answered the last challenge of the same kind; a refusal is answered once, and with
a credential once; what is refused after that is given back. Credentials go to ``request.authority`` and to nobody else:
at any other origin a challenge is answered anonymously, and nothing is learned from it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from lading.auth.authorization import Secret, basic_authorization, bearer_authorization
from lading.auth.challenge import Challenge
from lading.auth.credentials import Credential, Credentials
from lading.auth.exchange import TokenServer, fetch_token
from lading.auth.means import Means, foreign_challenge, means_for, offered_challenge
from lading.auth.memory import Access, ChallengeMemory, RecentChallenges
from lading.auth.realm import is_related, realm_refusal
from lading.auth.scopes import is_only_pull, merge_scopes
from lading.auth.tokens import Tokens
from lading.auth.wallet import Wallet
from lading.errors import CredentialError, LadingError, ProtocolError, RegistryError, TransportError, Unauthorized
from lading.http.transport import Headers, Origin, Request, Response, Transport, discard

_REFUSALS = frozenset({401, 403, 429})
"""What an anonymous request may get where one with a credential is served."""

_Question = tuple[TokenServer, tuple[str, ...], Credential | None]
"""What a token server is asked for: a token of the registry, for these scopes, for this one."""


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a request carries, and the means that it was got with. ``fresh``: its token was made for this request."""

    authorization: Secret
    means: Means
    token: str = field(default="", repr=False)
    fresh: bool = False


@dataclass(slots=True)
class _Exchange:
    """One request on its way: where it goes, what it carries, and what may still be tried.

    ``needs_credential``: it was refused without one. ``is_outdated``: what is remembered of the registry led nowhere.
    ``failed``: what a token server was asked in vain, and why that needn't be asked again.
    """

    request: Request
    origin: Origin
    proof: _Proof | None = None
    may_answer: bool = True
    may_escalate: bool = True
    needs_credential: bool = False
    is_outdated: bool = False
    failed: tuple[_Question, LadingError] | None = None

    @property
    def credential(self) -> Credential | None:
        return self.proof.means.credential if self.proof else None

    @property
    def holds_token(self) -> bool:
        return self.proof is not None and bool(self.proof.token)


class AuthTransport:
    """A transport that proves who is asking when a registry wants to know (distribution-spec, "Authentication")."""

    def __init__(
        self,
        inner: Transport,
        credentials: Credentials,
        *,
        clock: Callable[[], float] = time.monotonic,
        memory: ChallengeMemory | None = None,
    ) -> None:
        self._inner = inner
        self._wallet = Wallet(credentials, clock)
        self._tokens = Tokens(inner, clock)
        self._memory = RecentChallenges() if memory is None else memory
        self._confirmed: set[Origin] = set()
        """The registries that have accepted an answer to the challenge that is remembered of them."""

    @property
    def failures(self) -> Mapping[str, CredentialError]:
        """Why a registry is talked to without the credential that is configured for it, by ``Request.registry``."""
        return self._wallet.failures

    async def send(self, request: Request) -> Response:
        """Send ``request``, again with a proof if the answer asks for one; a refusal of the proof is given back.

        Where that may be so because the credential that is configured couldn't be used, the refusal is an ``Unproven``
        one, and the hint of an error says so.

        Raises:
            Unauthorized: the registry asks for a proof that can't be had: its challenge is malformed, it names a token
                server that the realm policy refuses, or that server refuses.
            RegistryError: the token server answers with an error.
            TransportError: no answer came, from the registry or from the token server.
            ProtocolError: an answer isn't allowed.
        """
        origin = Origin.of(request.url)
        if origin != request.authority:
            return await self._send_elsewhere(request, origin)
        exchange = _Exchange(request, origin)
        exchange.proof = await self._proof_in_advance(exchange)
        while True:
            response = await self._inner.send(_carrying(request, exchange.proof))
            try:
                means = await self._next_means(exchange, response)
                if means is None:
                    await self._learn(exchange, response.status)
            except BaseException:
                await discard(response, drain=False)
                raise
            if means is None:
                why = self._why_unproven(request, response.status)
                return Unproven(response, why) if why else response
            await discard(response)
            try:
                exchange.proof = await self._prove(exchange, means)
            except RegistryError as error:
                error.hint = self._why_unproven(request, error.status) or error.hint
                raise

    def _why_unproven(self, request: Request, status: int) -> str:
        """Say which credential a refused request went without, though there should be one; empty if none is missing."""
        failure = self.failures.get(request.registry) if status in _REFUSALS else None
        return f"the credentials of {request.registry} couldn't be used: {failure}" if failure else ""

    async def _send_elsewhere(self, request: Request, origin: Origin) -> Response:
        """Send a request to somebody who must not see a credential, and learn nothing from the answer."""
        response = await self._inner.send(request)
        challenge = foreign_challenge(response, origin) if response.status == 401 else None
        if challenge is None:
            return response
        await discard(response)
        server = TokenServer(origin, challenge.realm, challenge.service, request.site)
        grant = await fetch_token(self._inner, server, merge_scopes(challenge.scopes), None)
        return await self._inner.send(_authorized(request, bearer_authorization(grant.token)))

    async def _next_means(self, exchange: _Exchange, response: Response) -> Means | None:
        """Decide how to answer a refusal; ``None`` gives it back."""
        status = response.status
        if status not in _REFUSALS:
            return None
        try:
            challenge = offered_challenge(exchange.request, exchange.origin, response) or self._recall(exchange.origin)
        except Unauthorized:
            if status == 401:
                raise
            return None  # nobody has to say why in a header; who does, and makes no sense, gets nothing
        if status == 401:
            if challenge is None:
                return None
            if exchange.may_answer and not _is_answered(exchange.proof, challenge):
                exchange.may_answer = False
                return await self._answer(exchange, challenge)
        return await self._escalate(exchange, status, challenge)

    async def _escalate(self, exchange: _Exchange, status: int, challenge: Challenge | None) -> Means | None:
        """Use the credential where none was sent, or another one where the one that was sent is an old one."""
        sent = exchange.credential
        if not exchange.may_escalate or (sent is not None and (status != 401 or exchange.holds_token)):
            return None
        exchange.may_escalate = False
        credential = await self._wallet.renewed(exchange.request.registry, sent)
        if credential is None or credential == sent:
            return None
        exchange.needs_credential |= sent is None and status != 429
        # A registry that refuses without saying how to do better takes the credential itself, if it takes one at all.
        challenge = challenge or (exchange.proof.means.challenge if exchange.proof else Challenge("basic"))
        return means_for(challenge, exchange.request, credential)

    async def _answer(self, exchange: _Exchange, challenge: Challenge) -> Means | None:
        """Answer a challenge: with a new token, or with a credential that hasn't been refused yet."""
        host, sent = exchange.request.registry, exchange.credential
        if sent is None and challenge.scheme == "bearer":
            return means_for(challenge, exchange.request, await self._readily(exchange))
        if exchange.holds_token:
            return means_for(challenge, exchange.request, await self._wallet.credential(host))
        credential = await self._wallet.renewed(host, sent)
        if credential == sent and exchange.proof and exchange.proof.means.challenge.scheme == challenge.scheme:
            return None
        exchange.needs_credential |= sent is None
        return means_for(challenge, exchange.request, credential)

    async def _readily(self, exchange: _Exchange) -> Credential | None:
        """Give the credential, unless it costs much and the registry may well serve anybody."""
        host = exchange.request.registry
        if is_only_pull(exchange.request.scopes):
            return await self._wallet.cheap(host)
        return await self._wallet.credential(host)

    async def _prove(self, exchange: _Exchange, means: Means) -> _Proof:
        """Get what ``means`` say. A token server's refusal is answered once: with a credential, or without."""
        try:
            return await self._proof(exchange, means)
        except RegistryError as error:
            second = await self._second_means(exchange, means, error)
            if second is None:
                raise
        return await self._proof(exchange, second)

    async def _second_means(self, exchange: _Exchange, means: Means, error: RegistryError) -> Means | None:
        host = exchange.request.registry
        if error.status not in _REFUSALS and not isinstance(error, Unauthorized):
            return None
        if means.credential is None:
            if not exchange.may_escalate:
                return None
            exchange.may_escalate = False
            credential = await self._wallet.credential(host)
            if credential is None:
                return None
            exchange.needs_credential |= error.status != 429
            return replace(means, credential=credential)
        if not isinstance(error, Unauthorized):
            return None
        exchange.may_escalate = False
        credential = await self._wallet.renewed(host, means.credential)
        if credential is not None and credential != means.credential:
            return replace(means, credential=credential)
        if not is_only_pull(means.scopes):
            return None
        # An old password shouldn't keep anybody from what is public.
        self._wallet.fail(host, CredentialError(f"{host}: {error.message}", hint="log in again"))
        return replace(means, credential=None)

    async def _proof(self, exchange: _Exchange, means: Means) -> _Proof:
        credential, challenge = means.credential, means.challenge
        if credential is not None and credential.registry_token:
            return _Proof(bearer_authorization(credential.registry_token), means)
        if credential is not None and challenge.scheme == "basic":
            return _Proof(basic_authorization(credential.username, credential.password), means)
        server = TokenServer(exchange.origin, challenge.realm, challenge.service, exchange.request.site)
        refused = exchange.proof.token if exchange.proof else ""
        known = self._tokens.cached(server, means.scopes, credential)
        question = (server, means.scopes, credential)
        if exchange.failed is not None and exchange.failed[0] == question:
            raise exchange.failed[1]
        try:
            token = await self._tokens.token(server, means.scopes, credential, refused=refused)
        except (RegistryError, TransportError, ProtocolError) as error:
            if not isinstance(error, RegistryError) or exchange.origin not in self._confirmed:
                exchange.failed = question, error
            raise
        return _Proof(bearer_authorization(token), means, token, fresh=token != known)

    async def _proof_in_advance(self, exchange: _Exchange) -> _Proof | None:
        """Answer the challenge that the registry will come with, if one is known and the answer likely to be right."""
        challenge = self._recall(exchange.origin)
        if challenge is None:
            return None
        request = exchange.request
        is_basic = challenge.scheme == "basic"
        need = self._memory.recall_need(_access(exchange, challenge))
        if is_basic and not need:
            return None
        if not is_basic and not request.scopes:
            return None
        if need is None:
            credential = await self._readily(exchange)
        else:
            credential = await self._wallet.credential(request.registry) if need else None
        if credential is not None and not is_basic and not self._may_be_shown(challenge, exchange.origin):
            return None
        means = means_for(challenge, request, credential)
        if means is None:
            return None
        # What only a memory says isn't worth more than one question.
        prove = self._prove if exchange.origin in self._confirmed else self._proof
        try:
            return await prove(exchange, means)
        except (RegistryError, TransportError, ProtocolError):
            exchange.is_outdated = True
            return None  # the registry may serve this one to anybody, or name another server by now

    def _may_be_shown(self, challenge: Challenge, origin: Origin) -> bool:
        """Tell whether a credential may go to a token server before the registry itself has named it in this process.

        A store that somebody else could write to may name one that wants nothing but the credential.
        """
        return origin in self._confirmed or is_related(challenge.realm, origin)

    def _recall(self, origin: Origin) -> Challenge | None:
        """Give the challenge that is remembered, if the realm policy allows to answer it."""
        challenge = self._memory.recall(origin)
        if challenge is not None and challenge.scheme == "bearer" and realm_refusal(challenge.realm, origin):
            return None
        return challenge

    async def _learn(self, exchange: _Exchange, status: int) -> None:
        """Remember what was answered and how, now that the registry has accepted it."""
        proof = exchange.proof
        if proof is None:
            if exchange.is_outdated and status < 400:
                await self._memory.remember(exchange.origin, None)
            return
        if status in _REFUSALS:
            return
        asked = proof.means.challenge
        # Without its scope, which was for this request only; the realm of Basic is a text for people.
        names = ("realm", "service") if asked.scheme == "bearer" else ()
        known = {name: asked.parameters[name] for name in names if name in asked.parameters}
        challenge = Challenge(asked.scheme, known)
        self._confirmed.add(exchange.origin)
        if self._memory.recall(exchange.origin) != challenge:
            await self._memory.remember(exchange.origin, challenge)
        is_needed = proof.means.credential is not None
        access = _access(exchange, challenge)
        await self._memory.remember_need(access, is_needed, is_certain=exchange.needs_credential)


class Unproven:
    """A refusal whose reason may be that a credential couldn't be used: ``hint`` says which, and why."""

    def __init__(self, response: Response, hint: str) -> None:
        self._response = response
        self.hint = hint

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def url(self) -> str:
        return self._response.url

    @property
    def headers(self) -> Headers:
        return self._response.headers

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.chunks()

    async def read(self, limit: int) -> bytes:
        return await self._response.read(limit)

    async def __aenter__(self) -> Self:
        await self._response.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._response.__aexit__(kind, error, traceback)


def _access(exchange: _Exchange, challenge: Challenge) -> Access:
    scopes = () if challenge.scheme == "basic" else merge_scopes(exchange.request.scopes)
    return Access(exchange.origin, exchange.request.registry, scopes)


def _is_answered(proof: _Proof | None, challenge: Challenge) -> bool:
    """Tell whether ``proof`` is the answer to this very challenge, so that another one like it wouldn't help."""
    if proof is None or not proof.fresh:
        return False
    asked = proof.means.challenge
    return (asked.scheme, asked.realm, asked.service) == (challenge.scheme, challenge.realm, challenge.service)


def _carrying(request: Request, proof: _Proof | None) -> Request:
    return request if proof is None else _authorized(request, proof.authorization)


def _authorized(request: Request, authorization: Secret) -> Request:
    return replace(request, headers={**request.headers, "Authorization": authorization})
