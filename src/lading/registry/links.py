"""``Link`` headers: where the next page of a list is (RFC 8288; distribution-spec, "Listing Tags")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lading.errors import ProtocolError
from lading.http.transport import Origin, join_url
from lading.redact import redact_url

# RFC 8288, section 3:
#   Link       = #link-value
#   link-value = "<" URI-Reference ">" *( OWS ";" OWS link-param )
#   link-param = token BWS [ "=" BWS ( token / quoted-string ) ]
_TARGET = re.compile(r"[ \t,]*<([^<>]*)>")
_PARAMETER = re.compile(
    r"""[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:=[ \t]*("(?:[^"\\]|\\.)*"|[^\s",;]+))?"""
)

_LIMIT = 16 * 1024
"""Characters of one header line at most."""


def next_page(headers: Sequence[str], url: str) -> str | None:
    """Give the absolute URL of the next page, or ``None`` on the last.

    ``headers`` are the values of the ``Link`` header, one string a line; ``url`` is what answered. A line that isn't
    a list of links counts as none.

    Raises:
        ProtocolError: the next page isn't at a URL, or on another scheme, host or port, which is never asked.
    """
    for header in headers:
        for target, relations in _links(header):
            if "next" in relations:
                return _same_origin(target, url)
    return None


def _links(header: str) -> Iterator[tuple[str, list[str]]]:
    """Give each link of one line with its relation types; stop at what isn't one."""
    position = 0
    while len(header) <= _LIMIT and (found := _TARGET.match(header, position)):
        target, position = found[1], found.end()
        relations: list[str] = []
        while parameter := _PARAMETER.match(header, position):
            position = parameter.end()
            # "occurrences after the first MUST be ignored by parsers" (section 3.3).
            if parameter[1].lower() == "rel" and not relations:
                relations = (parameter[2] or "").strip('"').lower().split()
        yield target, relations


def _same_origin(target: str, url: str) -> str | None:
    if not target:
        return None
    following = join_url(url, target)
    if Origin.of(following) != Origin.of(url):
        raise ProtocolError(
            f"{redact_url(url)}: the next page is said to be on {redact_url(following)}, another origin: refused"
        )
    return following
