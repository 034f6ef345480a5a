"""Ranges: where the body of an answer begins in the blob that was asked for (RFC 9110, section 14.4).

Whoever continues a download believes nothing but this: bytes that go to the wrong place cost the whole of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lading.errors import ProtocolError
from lading.http.transport import Headers

# RFC 9110, section 14.4:
#   Content-Range     = range-unit SP ( range-resp / unsatisfied-range )
#   range-resp        = first-pos "-" last-pos "/" ( complete-length / "*" )
#   unsatisfied-range = "*/" complete-length
# Section 14.1: "Range unit names are case-insensitive". 18 digits are more bytes than any blob has.
_RANGE_RESP = re.compile(
    r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?:(?P<complete>[0-9]{1,18})|\*)", re.ASCII | re.IGNORECASE
)

_SHOWN = 80
"""Characters of a header that an error shows."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes a body holds, from ``first`` to ``last``, both included, of ``complete``; ``None``: nobody says."""

    first: int
    last: int
    complete: int | None

    def __str__(self) -> str:
        return f"bytes {self.first}-{self.last}/{'*' if self.complete is None else self.complete}"


def parse_content_range(value: str) -> ContentRange:
    """Read the value of a ``Content-Range`` that describes a body (RFC 9110, section 14.4).

    The unsatisfied range of a 416 (``bytes */1000``) describes none, and is refused like anything else.

    Raises:
        ProtocolError: it isn't one, or it is one that the section calls invalid.
    """
    found = _RANGE_RESP.fullmatch(value)
    if found is None:
        raise ProtocolError(f"Content-Range {value[:_SHOWN]!r}: not of the form bytes first-last/complete")
    complete = found["complete"]
    content = ContentRange(int(found["first"]), int(found["last"]), None if complete is None else int(complete))
    # "invalid if it contains a range-resp that has a last-pos value less than its first-pos value, or a
    # complete-length value less than or equal to its last-pos value"
    if content.last < content.first:
        raise ProtocolError(f"Content-Range {value!r}: it ends before it begins")
    if content.complete is not None and content.complete <= content.last:
        raise ProtocolError(f"Content-Range {value!r}: it goes beyond its own end")
    return content


def continue_at(status: int, headers: Headers, offset: int, size: int) -> int:
    """Give the byte at which the body of an answer begins, in a blob of ``size`` bytes.

    The request was for ``bytes=<offset>-``, or for the whole blob, then ``offset`` is 0. The body may end before the
    blob does: whoever reads it asks again for the rest.

    Raises:
        ProtocolError: the answer isn't a part of that blob which begins there, nor the whole.
    """
    # Section 14.2: a server may ignore a Range; a 200 is then the whole, from its start.
    if status == 200:
        return 0
    lines = headers.get_all("Content-Range")
    if status == 416:
        said = f", but {lines[0][:_SHOWN]!r}" if lines else ""
        raise ProtocolError(f"asked for byte {offset} and what follows of {size}: there is nothing (status 416){said}")
    if status != 206:
        raise ProtocolError(f"asked for byte {offset} and what follows of {size}: status {status} brings no content")
    # Section 15.3.7.1: "If a single part is being transferred, the server generating the 206 response MUST generate a
    # Content-Range header field". It isn't a list: two lines are one too many, even if they say the same.
    if len(lines) != 1:
        raise ProtocolError(f"a part of a blob came (status 206) with {len(lines) or 'no'} Content-Range")
    content = parse_content_range(lines[0])
    if content.first != offset:
        raise ProtocolError(f"asked for byte {offset} and what follows: {content} came")
    if content.last >= size or content.complete not in (None, size):
        raise ProtocolError(f"asked for a blob of {size} bytes: {content} came")
    return content.first
