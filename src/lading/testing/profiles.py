"""What registries do differently, as data: a profile says it, and one set of rules acts on it.

No rule here, and no I/O: a registry that nobody foresaw is `dataclasses.replace(GHCR, …)`, not a subclass. The ready
profiles show what each kind of registry is known for, on loopback; they don't imitate anybody's limits to the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Authentication = Literal["none", "basic", "bearer"]
Grant = Literal["refresh_token", "password"]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How a token service behaves (distribution-spec, "Token Authentication" and "OAuth2 Token").

    `path` is where it answers: on the registry's own origin, or with `is_elsewhere` on an origin of its own. GET is
    always understood; POST for `grants` only, and `post_status` is the answer to any other POST. A token lives for
    `lifetime` seconds, which the answer tells if `tells_lifetime`, under each name in `keys`. Who asks for more than
    they may have gets what they may have, or with `denies_excess` 403 and nothing. `placeholder` is the scope that the
    challenge of `/v2/` names, though it is good for nothing.
    """

    path: str = "/token"
    is_elsewhere: bool = False
    service: str = "registry"
    grants: frozenset[Grant] = frozenset()
    post_status: int = 405
    lifetime: float = 300.0
    tells_lifetime: bool = True
    keys: tuple[Literal["token", "access_token"], ...] = ("token",)
    denies_excess: bool = False
    placeholder: str | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Blobs are elsewhere: at a signed URL, which is good for `uses` requests (None: any number) and `seconds`.

    They are on an origin of their own, or, unless `is_elsewhere`, at a relative `Location` on the registry's. Storage
    that `refuses_authorization` answers 400 to whoever shows it more than the signature.
    """

    status: int = 307
    methods: frozenset[str] = frozenset({"GET"})
    is_elsewhere: bool = True
    uses: int | None = None
    seconds: float = 600.0
    refuses_authorization: bool = True


@dataclass(frozen=True, slots=True)
class Pages:
    """How lists are cut: at most `limit` names a page (None: as many as there are), and how the next one is named.

    `is_opaque`: by a cursor that only the registry understands, instead of the last name.
    """

    link: Literal["relative", "absolute"] = "relative"
    is_opaque: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many manifests may be got: by GET, HEAD is free. The limit is for each user, and for all who are nobody."""

    anonymous: int = 100
    user: int = 200
    window: int = 21600


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of registry.

    With `authentication` "bearer", `tokens` says how tokens are got. `serves_anybody`: who has users still lets
    everybody read what isn't private. `digest_on` are the methods whose answer to a manifest names its digest;
    `has_head` tells whether HEAD on a manifest is known at all (405 otherwise). `needs_accept`: a manifest whose type
    isn't in `Accept` is 404. `has_etags`: manifests have an ETag, and a request that knows it is answered 304.
    `cookie` is the name of one that every answer sets; a write that sends it back is refused, as from a browser.
    `upload_location` is how the `Location` of an upload is written; with `upload_state` it carries a query, which has
    to come back.
    """

    name: str
    authentication: Authentication = "none"
    tokens: TokenRules = TokenRules()
    serves_anybody: bool = True
    digest_on: frozenset[str] = frozenset({"GET", "HEAD"})
    has_head: bool = True
    needs_accept: bool = False
    has_etags: bool = False
    redirect: Redirect | None = None
    pages: Pages = Pages()
    rate_limit: RateLimit | None = None
    cookie: str | None = None
    upload_location: Literal["relative", "absolute"] = "relative"
    upload_state: bool = False


PLAIN = Profile("plain")
"""The distribution-spec and nothing else: open to everybody."""

DOCKER_HUB = Profile(
    "docker-hub",
    authentication="bearer",
    tokens=TokenRules(
        is_elsewhere=True,
        service="registry.docker.io",
        grants=frozenset({"refresh_token", "password"}),
        keys=("token", "access_token"),
    ),
    redirect=Redirect(methods=frozenset({"GET", "HEAD"})),
    rate_limit=RateLimit(),
    pages=Pages(limit=100),
    upload_location="absolute",
    upload_state=True,
)
"""Tokens from another origin; HEAD on a manifest is free, GET counts against a limit that the answers tell."""

GHCR = Profile(
    "ghcr",
    authentication="bearer",
    tokens=TokenRules(
        service="ghcr.io",
        tells_lifetime=False,
        denies_excess=True,
        placeholder="repository:user/image:pull",
    ),
    redirect=Redirect(),
    pages=Pages(limit=100),
)
"""Asking for more than is allowed is 403; the scope in the challenge of `/v2/` is a placeholder."""

ECR = Profile(
    "ecr",
    authentication="basic",
    serves_anybody=False,
    digest_on=frozenset({"HEAD"}),
    redirect=Redirect(),
    pages=Pages(link="absolute", is_opaque=True, limit=100),
    upload_location="absolute",
)
"""Passwords only; no digest on GET; blobs on storage that refuses Authorization; opaque pages."""

GAR = Profile(
    "gar",
    authentication="bearer",
    tokens=TokenRules(path="/v2/token", service="gar", post_status=404, lifetime=3600.0),
    redirect=Redirect(status=302, is_elsewhere=False, refuses_authorization=False),
    upload_location="relative",
)
"""POST to the token service is 404; uploads and blobs are at a relative Location."""

ACR = Profile(
    "acr",
    authentication="bearer",
    tokens=TokenRules(
        path="/oauth2/token",
        service="acr",
        grants=frozenset({"refresh_token"}),
        post_status=400,
        tells_lifetime=False,
        keys=("access_token",),
    ),
    serves_anybody=False,
    redirect=Redirect(),
    pages=Pages(limit=100),
)
"""Identity tokens are a refresh grant, every other POST is 400; the token is called `access_token`."""

QUAY = Profile(
    "quay",
    authentication="bearer",
    tokens=TokenRules(path="/v2/auth", service="quay.io"),
    redirect=Redirect(status=302),
    pages=Pages(is_opaque=True, limit=50),
)
"""A relative Link with an opaque cursor."""

HARBOR = Profile(
    "harbor",
    authentication="bearer",
    tokens=TokenRules(
        path="/service/token", service="harbor-registry", lifetime=1800.0, keys=("token", "access_token")
    ),
    cookie="sid",
    upload_location="absolute",
    upload_state=True,
)
"""Every answer sets a cookie, and who keeps it is taken for a browser and may not write."""

DISTRIBUTION = Profile(
    "distribution",
    authentication="basic",
    serves_anybody=False,
    needs_accept=True,
    has_etags=True,
    upload_location="absolute",
    upload_state=True,
)
"""docker-registry: 404 if Accept lacks the stored type; ETag and 304 on manifests."""

ARTIFACTORY = Profile(
    "artifactory",
    authentication="bearer",
    tokens=TokenRules(path="/v2/token", service="artifactory", post_status=401, lifetime=3600.0),
    digest_on=frozenset({"GET"}),
)
"""HEAD on a manifest names no digest; POST to the token service is 401."""

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (PLAIN, DOCKER_HUB, GHCR, ECR, GAR, ACR, QUAY, HARBOR, DISTRIBUTION, ARTIFACTORY)
    }
)
"""The ready profiles by their names."""
