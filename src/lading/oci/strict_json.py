"""The JSON door: the only place where JSON from outside becomes objects.

RFC 8259 with what it leaves open decided: UTF-8 only, no duplicate keys (two readers could see two documents), no
``NaN`` or ``Infinity``, no half surrogate pairs (they can't be written again), bounded numbers and depth.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_DIGITS = 400
"""Characters of a number at most."""

# Only where one of these is, a string may hold half a surrogate pair (RFC 8259, section 8.2).
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


def parse_json(raw: bytes | str) -> Any:
    """Read one JSON document.

    Raises:
        ValueError: what is wrong with it; the message never contains the document.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        document = _DECODER.decode(text)
        # Decoded UTF-8 has no surrogates; an escape may still have made one.
        if ("\\u" in text or text is raw) and _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
        return document
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("a string has half a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError("a number is too long")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= _DIGITS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} isn't JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
