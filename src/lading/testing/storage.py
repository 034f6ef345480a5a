"""Where blobs are that a registry redirects to: at URLs that are signed, and good for a while. No HTTP.

A signature stands for one blob. It is all that a request needs, and storage of the kind that counts its proofs refuses
one that shows another.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

from lading.testing.endpoints import Answer, Call
from lading.testing.profiles import Redirect
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.routes import Route

PREFIX = "/storage/"


@dataclass(slots=True)
class _Signed:
    route: Route
    expires: float
    uses: int


class Storage:
    """Signs URLs of blobs and knows them again. Time is the registry's clock's."""

    def __init__(self, rules: Redirect, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._signed: dict[str, _Signed] = {}

    def location(self, route: Route, origin: str) -> str:
        """Return a signed URL for the blob of `route`; `origin` is "" for a relative one."""
        # Quoted as no client would by itself: whoever quotes it again breaks it.
        key = quote(f"{route.repository}/{route.reference}", safe="")
        query = f"X-Expires={self._rules.seconds:.0f}&X-Signature={secrets.token_urlsafe(24)}%3D%3d"
        place = f"{PREFIX}{key}?{query}"
        self._signed[place] = _Signed(route, self._clock() + self._rules.seconds, 0)
        return f"{origin}{place}"

    def admit(self, call: Call) -> Call:
        """Return the call that a request for a signed URL stands for; raise DENIED, or UNSUPPORTED with 400."""
        if self._rules.refuses_authorization and "Authorization" in call.headers:
            raise Refusal(ErrorCode.UNSUPPORTED, "only one way to prove who is asking is allowed", status=400)
        signed = self._signed.get(call.route.reference)
        if signed is None or call.method not in ("GET", "HEAD"):
            raise Refusal(ErrorCode.DENIED, "the signature does not match")
        if self._clock() >= signed.expires or (self._rules.uses is not None and signed.uses >= self._rules.uses):
            raise Refusal(ErrorCode.DENIED, "the URL has expired")
        signed.uses += 1
        return replace(call, route=signed.route)


def of_storage(answer: Answer) -> Answer:
    """Return an answer as storage gives it, which knows no registry's headers."""
    headers = {name: value for name, value in answer.headers.items() if name != "Docker-Content-Digest"}
    return replace(answer, headers=headers)
