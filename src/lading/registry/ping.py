"""Whether a registry answers, and whether it believes somebody (distribution-spec, "Determining Support").

The auth ring of every other request does without a credential where it can, also after one was refused: what is served
then proves nothing. The ring here answers a challenge with the one credential that is to be proved, or not at all.
"""

from __future__ import annotations

from dataclasses import replace

from lading.auth.authorization import Secret, basic_authorization, bearer_authorization
from lading.auth.credentials import Credential
from lading.auth.exchange import TokenServer, fetch_token
from lading.auth.means import Means, means_for, offered_challenge
from lading.errors import Denied, ProtocolError, RegistryError, Unauthorized
from lading.http.transport import Origin, Request, Response, Transport, discard
from lading.redact import redact_url
from lading.registry.endpoints import Endpoint
from lading.registry.refusal import refusal

_NOT_BELIEVED = "many registries want an access token in place of the account's password"


async def ping(transport: Transport, endpoint: Endpoint) -> None:
    """Ask the root of a registry's API for nothing but its status.

    Raises:
        RegistryError: the registry refuses, or isn't one.
        ProtocolError: it leads to somebody else.
        TransportError: no answer.
    """
    request = endpoint.request("GET", "/", scopes=())
    async with await transport.send(request) as response:
        if Origin.of(response.url) != endpoint.site.origin:
            # Whose credentials are others, and go to nobody from here.
            raise ProtocolError(
                f"{endpoint.registry}: {redact_url(request.url)} leads to {redact_url(response.url)}",
                hint="name the registry that it leads to",
            )
        if response.status != 200:
            error = await refusal(request, response, endpoint.registry)
            if error.status == 404:
                error.hint = "is it a registry? Check the name"
            raise error


class ProvingTransport:
    """An auth ring with one credential, which has to be believed by the ``authority`` of a request.

    ``is_proved`` tells whether the last answer was given to somebody who had to prove this credential, and did.
    """

    def __init__(self, inner: Transport, credential: Credential) -> None:
        self.is_proved = False
        self._inner = inner
        self._credential = credential

    async def send(self, request: Request) -> Response:
        """Send ``request`` bare, and again with a proof if that is asked for; answers of others are given back.

        Raises:
            Unauthorized: the registry or its token server doesn't believe the credential, or asks for a proof that
                can't be given with it, or in a way that isn't allowed.
            Denied: one of them believes it, or says so, and refuses nevertheless.
            RegistryError, TransportError, ProtocolError: the token server gave no token, or the registry no answer.
        """
        self.is_proved = False
        origin = Origin.of(request.url)
        response = await self._inner.send(request)
        if response.status != 401 or origin != request.authority:
            return response
        try:
            means = self._means(request, origin, response)
        finally:
            await discard(response)
        proof = await self._prove(request, origin, means)
        response = await self._inner.send(replace(request, headers={**request.headers, "Authorization": proof}))
        if response.status in (401, 403):
            await discard(response)
            raise _disbelief(request, response.status, request.url)
        self.is_proved = response.status < 400
        return response

    def _means(self, request: Request, origin: Origin, response: Response) -> Means:
        challenge = offered_challenge(request, origin, response)
        means = None if challenge is None else means_for(challenge, request, self._credential)
        if means is not None:
            return means
        how = "without saying how" if challenge is None else f"by {challenge.scheme!r}"
        raise Unauthorized(
            f"{request.registry} wants to know who is asking, {how}: these credentials can't answer that",
            method=request.method,
            url=request.url,
            status=response.status,
            hint="ask who runs the registry",
        )

    async def _prove(self, request: Request, origin: Origin, means: Means) -> Secret:
        credential, challenge = self._credential, means.challenge
        if credential.registry_token:
            return bearer_authorization(credential.registry_token)
        if challenge.scheme == "basic":
            return basic_authorization(credential.username, credential.password)
        server = TokenServer(origin, challenge.realm, challenge.service, request.site)
        try:
            # Without any scope, as docker login does it: the one that the challenge of a ping names is made up at GHCR.
            grant = await fetch_token(self._inner, server, (), credential)
        except (Unauthorized, Denied) as error:
            raise _disbelief(request, error.status, error.url) from error
        return bearer_authorization(grant.token)


def _disbelief(request: Request, status: int, url: str) -> RegistryError:
    """Give the error for a refused credential; ``url`` is who refused it."""
    # GHCR's token server answers a wrong password with 403.
    kind, why = (Denied, "refused") if status == 403 else (Unauthorized, "wrong")
    return kind(
        f"{request.registry}: {why} user name or password ({redact_url(url)} answered {status})",
        method=request.method,
        url=url,
        status=status,
        hint=_NOT_BELIEVED,
    )
