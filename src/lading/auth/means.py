"""How a refusal may be answered. Pure: decides, and sends nothing."""

from __future__ import annotations

from dataclasses import dataclass

from lading.auth.challenge import Challenge, choose, parse_challenges
from lading.auth.credentials import Credential
from lading.auth.realm import realm_refusal
from lading.auth.scopes import merge_scopes
from lading.errors import ProtocolError, Unauthorized
from lading.http.transport import Origin, Request, Response
from lading.redact import redact_url


@dataclass(frozen=True, slots=True)
class Means:
    """How to answer: which challenge, for which scopes, as whom (``None``: as nobody)."""

    challenge: Challenge
    scopes: tuple[str, ...]
    credential: Credential | None


def offered_challenge(request: Request, origin: Origin, response: Response) -> Challenge | None:
    """Give the challenge to answer: one that can be, if any can, and ``None`` if there is none at all.

    Raises:
        Unauthorized: what is there makes no sense, or the realm policy refuses it.
    """
    refusal = ""
    try:
        challenges = parse_challenges(response.headers.get_all("WWW-Authenticate"))
    except ProtocolError as error:
        challenges, refusal = [], error.message
    allowed = []
    for challenge in challenges:
        why = realm_refusal(challenge.realm, origin) if challenge.scheme == "bearer" else None
        if why is None:
            allowed.append(challenge)
        elif challenge.realm:
            refusal = f"it asks for a token of {redact_url(challenge.realm)}, which is refused: {why}"
    chosen = choose(allowed)
    if chosen is None and refusal:
        raise Unauthorized(
            f"{request.method} {redact_url(request.url)}: the registry wants to know who is asking, but {refusal}",
            method=request.method,
            url=request.url,
            status=response.status,
            hint="nothing was sent to anybody; ask who runs the registry",
        )
    return chosen or next(iter(challenges), None)


def foreign_challenge(response: Response, origin: Origin) -> Challenge | None:
    """Give the challenge that somebody else than the registry comes with, if it can be answered anonymously."""
    try:
        challenge = choose(parse_challenges(response.headers.get_all("WWW-Authenticate")))
    except ProtocolError:
        return None
    if challenge is None or challenge.scheme != "bearer" or realm_refusal(challenge.realm, origin):
        return None
    return challenge


def means_for(challenge: Challenge, request: Request, credential: Credential | None) -> Means | None:
    """Put together how to answer; ``None`` if this credential can't answer this challenge."""
    has_token = credential is not None and bool(credential.registry_token)
    if challenge.scheme == "bearer":
        can = has_token or bool(challenge.realm)
    else:
        can = challenge.scheme == "basic" and (has_token or (credential is not None and credential.is_basic))
    if not can:
        return None
    return Means(challenge, merge_scopes(request.scopes or challenge.scopes), credential)
