"""Which resource a path names. The path alone decides: methods and names are the endpoints' matter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# "token" and "storage" are no paths of the specification: what a profile adds, it also routes.
Kind = Literal["manifest", "blob", "upload", "tags", "referrers", "catalog", "ping", "token", "storage", "other"]

# distribution-spec v1.1, "Endpoints"; the catalog is what other registries have besides. Names are greedy because a
# repository may itself be called "a/blobs/b".
_PATHS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("ping", re.compile(r"/v2/")),
    ("catalog", re.compile(r"/v2/_catalog")),
    ("manifest", re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)")),
    ("tags", re.compile(r"/v2/(?P<repository>.+)/tags/list")),
    ("referrers", re.compile(r"/v2/(?P<repository>.+)/referrers/(?P<reference>[^/]+)")),
    ("upload", re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/(?P<reference>[^/]*)")),
    ("blob", re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<reference>[^/]+)")),
)


@dataclass(frozen=True, slots=True)
class Route:
    """A resource of the registry.

    `reference` is a tag or a digest (manifest), a digest (blob, referrers), an upload's identifier or "" for a new one
    (upload).
    """

    kind: Kind
    repository: str = ""
    reference: str = ""


def parse_route(path: str) -> Route:
    """Return the resource that the percent-decoded `path` names; anything unknown is of kind "other"."""
    for kind, pattern in _PATHS:
        found = pattern.fullmatch(path)
        if found is not None:
            return Route(kind, **found.groupdict())
    return Route("other")
