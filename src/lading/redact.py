"""What may be shown to people: text without control characters, URLs without secrets.

Everything that a registry, a proxy or an artifact says is hostile until it has passed through here: it may
try to drive the terminal (C0, C1 and bidirectional control characters), and a URL may carry a password or a
signature.
"""

from __future__ import annotations

import re

_LIMIT = 2048
"""Characters of foreign text that one message shows at most."""

# C0 and DEL, C1, and the bidirectional and invisible formatting characters of Unicode (UAX #9, section 2).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"'<>]*")

# RFC 9110, section 11.6.2: what an Authorization field holds, which a server may repeat. A word of a sentence that
# follows the name of a scheme is short and has no digits and no capitals within; a JSON Web Token is one in any place.
_PROOF = re.compile(
    r"(?i:\b(basic|bearer)\b)([\s\"':=\\]{1,8})"
    r"(?=[A-Za-z0-9\-._~+/]{20}|[A-Za-z0-9\-._~+/]*[0-9]|[A-Za-z0-9\-._~+/]+[A-Z])[A-Za-z0-9\-._~+/]{8,}=*"
)
_WEB_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")

# RFC 3986, section 3.2: host [ ":" port ], and the colon of a sentence. Anything else may be user information that
# was cut or badly quoted.
_HOST = re.compile(r"(?:[^:@\[\]]*|\[[^@\]]*\])(?::[0-9]*)?:?")


def printable(text: str) -> str:
    """Give ``text`` with every control character escaped and its length bounded."""
    if len(text) > _LIMIT:
        text = text[:_LIMIT] + "…"
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "replace").decode("ascii"), text)


def redact_url(url: str) -> str:
    """Give ``url`` without user information, query and fragment: those may hold secrets.

    Works on any text, also on what isn't a URL; never raises.
    """
    head, mark, rest = url.partition("://")
    if not mark:
        head, rest = "", url
    rest, query, _ = rest.partition("?")
    rest = rest.partition("#")[0]
    authority, slash, path = rest.partition("/")
    authority = authority.rpartition("@")[2]
    if mark and _HOST.fullmatch(authority) is None:
        authority = "…"
    return printable(f"{head}{mark}{authority}{slash}{path}{'?…' if query else ''}")


def redact(text: str) -> str:
    """Give foreign ``text`` fit to be shown: escaped, bounded, each URL in it without its secrets, and no proof of
    identity that somebody repeats.
    """
    text = _URL.sub(lambda match: redact_url(match[0]), text[: 2 * _LIMIT])
    return printable(_WEB_TOKEN.sub("…", _PROOF.sub(r"\1\2…", text)))
