"""The auth ring: around the network, inside everything else.

A request is sent bare, or with what answered the last challenge of the same kind; a refusal is answered once, and with
a credential once; what is refused after that is given back. Credentials go to ``request.authority`` and to nobody else:
at any other origin a challenge is answered anonymously, and nothing is learned from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lading.auth.authorization import Secret, basic_authorization, bearer_authorization
from lading.auth.challenge import Challenge
from lading.auth.credentials import Credential, Credentials
from lading.auth.exchange import TokenServer, fetch_token
from lading.auth.means import Means, foreign_challenge, means_for, offered_challenge
from lading.auth.memory import ChallengeMemory, RecentChallenges
from lading.auth.realm import realm_refusal
from lading.auth.scopes import is_only_pull, merge_scopes
from lading.auth.tokens import Tokens
from lading.auth.wallet import Wallet
from lading.errors import CredentialError, RegistryError, Unauthorized
from lading.http.transport import Origin, Request, Response, Transport, discard

_REFUSALS = frozenset({401, 403, 429})
"""What an anonymous request may get where one with a credential is served."""

_MOST_NEEDS = 65536


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a request carries, and the means that it was got with. ``fresh``: its token was made for this request."""

    authorization: Secret
    means: Means
    token: str = field(default="", repr=False)
    fresh: bool = False


@dataclass(slots=True)
class _Exchange:
    """One request on its way: where it goes, what it carries, and what may still be tried."""

    request: Request
    origin: Origin
    proof: _Proof | None = None
    may_answer: bool = True
    may_escalate: bool = True

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
        # Whether (origin, registry, scopes) was served only to somebody with a credential.
        self._needs: dict[tuple[Origin, str, tuple[str, ...]], bool] = {}

    @property
    def failures(self) -> Mapping[str, CredentialError]:
        """Why a registry is talked to without the credential that is configured for it, by ``Request.registry``."""
        return self._wallet.failures

    async def send(self, request: Request) -> Response:
        """Send ``request``, again with a proof if the answer asks for one; a refusal of the proof is given back.

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
            except BaseException:
                await discard(response, drain=False)
                raise
            if means is None:
                self._learn(exchange, response.status)
                return response
            await discard(response)
            exchange.proof = await self._prove(exchange, means)

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
            return None if credential is None else replace(means, credential=credential)
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
        token = await self._tokens.token(server, means.scopes, credential, refused=refused)
        return _Proof(bearer_authorization(token), means, token, fresh=token != known)

    async def _proof_in_advance(self, exchange: _Exchange) -> _Proof | None:
        """Answer the challenge that the registry will come with, if one is known and the answer likely to be right."""
        challenge = self._recall(exchange.origin)
        if challenge is None:
            return None
        request = exchange.request
        is_basic = challenge.scheme == "basic"
        need = self._needs.get((exchange.origin, request.registry, () if is_basic else merge_scopes(request.scopes)))
        if is_basic and not need:
            return None
        if not is_basic and not request.scopes:
            return None
        if need is None:
            credential = await self._readily(exchange)
        else:
            credential = await self._wallet.credential(request.registry) if need else None
        means = means_for(challenge, request, credential)
        if means is None:
            return None
        try:
            return await self._prove(exchange, means)
        except RegistryError:
            return None  # the registry may serve this one to anybody, or name another server by now

    def _recall(self, origin: Origin) -> Challenge | None:
        """Give the challenge that is remembered, if the realm policy allows to answer it."""
        challenge = self._memory.recall(origin)
        if challenge is not None and challenge.scheme == "bearer" and realm_refusal(challenge.realm, origin):
            return None
        return challenge

    def _learn(self, exchange: _Exchange, status: int) -> None:
        """Remember what was answered and how, now that the registry has accepted it."""
        proof = exchange.proof
        if proof is None or status in _REFUSALS:
            return
        request, asked = exchange.request, proof.means.challenge
        # Without its scope, which was for this request only.
        known = {name: asked.parameters[name] for name in ("realm", "service") if name in asked.parameters}
        challenge = Challenge(asked.scheme, known)
        if self._memory.recall(exchange.origin) != challenge:
            self._memory.remember(exchange.origin, challenge)
        if len(self._needs) >= _MOST_NEEDS:
            self._needs.clear()
        scopes = () if challenge.scheme == "basic" else merge_scopes(request.scopes)
        self._needs[exchange.origin, request.registry, scopes] = proof.means.credential is not None


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

