"""Lists in pages: between the words of a kind of registry and those of the endpoints, `n` and `last`. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, quote, urlsplit

from lading.testing.profiles import Pages
from lading.testing.refusals import ErrorCode, Refusal

_CURSOR = "next_page"
_NEXT = re.compile(r'<([^>]*)>; rel="next"')
_MARK = "after:"


def understood(rules: Pages, query: Mapping[str, str]) -> Mapping[str, str]:
    """Return the query that the endpoints understand; refuse a cursor that nobody gave out."""
    words = dict(query)
    if rules.is_opaque:
        words.pop("last", None)
        cursor = words.pop(_CURSOR, None)
        if cursor is not None:
            words["last"] = _read(cursor)
    if rules.limit is not None:
        wanted = words.get("n", "")
        is_number = wanted.isascii() and wanted.isdigit()
        if not wanted or (is_number and int(wanted) > rules.limit):
            words["n"] = str(rules.limit)
    return words


def worded(rules: Pages, headers: Mapping[str, str], origin: str) -> dict[str, str]:
    """Return the `Link` that this kind of registry writes; `origin` is "" for a relative one."""
    found = _NEXT.fullmatch(headers.get("Link", ""))
    if found is None:
        return {}
    target = found[1]
    if rules.is_opaque:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        target = f"{parts.path}?n={query['n'][0]}&{_CURSOR}={quote(_cursor(query['last'][0]), safe='')}"
    return {"Link": f'<{origin}{target}>; rel="next"'}


def _cursor(last: str) -> str:
    return base64.b64encode(f"{_MARK}{last}".encode()).decode()


def _read(cursor: str) -> str:
    try:
        text = base64.b64decode(cursor, validate=True).decode()
    except ValueError:
        text = ""
    if not text.startswith(_MARK):
        raise Refusal(ErrorCode.UNSUPPORTED, "the cursor is not valid", status=400)
    return text.removeprefix(_MARK)
