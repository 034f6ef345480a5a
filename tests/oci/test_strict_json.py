"""The JSON door: what comes in is one unambiguous document, or nothing."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.oci.strict_json import parse_json

READ: dict[str, tuple[bytes | str, object]] = {
    "object": (b'{"a": [1, -2.5, true, null]}', {"a": [1, -2.5, True, None]}),
    "text": ('{"a": "\u00e9"}', {"a": "\u00e9"}),
    "UTF-8": ('"\u00e9\U0001f600"'.encode(), "\u00e9\U0001f600"),
    "surrogate pair": (rb'"\ud83d\ude00"', "\U0001f600"),
    "escaped backslash before a u": (rb'"\\ud800"', r"\ud800"),
    "escaped NUL": (rb'"a\u0000b"', "a\0b"),
    "the largest size": (b"9223372036854775807", 2**63 - 1),
    "a number of 400 digits": (b"9" * 400, 10**400 - 1),
    "white space around": (b" \t\r\n{}\n", {}),
    "the same key in two objects": (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
    "depth 100": (b"[" * 100 + b"]" * 100, json.loads("[" * 100 + "]" * 100)),
}

REFUSED: dict[str, bytes | str] = {
    "empty": b"",
    "white space": b" \n",
    "cut short": b'{"a": [1, 2',
    "trailing text": b"{} x",
    "two documents": b"{}{}",
    "single quotes": b"{'a': 1}",
    "comment": b"/* */ {}",
    "trailing comma": b'{"a": 1,}',
    "HTML": b"<!DOCTYPE html><title>Sign in</title>",
    "not UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-8 of a surrogate": b'"\xed\xa0\x80"',
    "NUL": b"\0",
    "NUL in a string": b'"a\0b"',
    "newline in a string": b'"a\nb"',
    "NaN": b"NaN",
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b"[-Infinity]",
    "a number that is infinite": b"1e400",
    "a negative number that is infinite": b"-1e400",
    "a number of 5,000 digits": b"1" * 5000,
    "a fraction of 5,000 digits": b"0." + b"1" * 5000,
    "an exponent of 5,000 digits": b"1e" + b"1" * 5000,
    "leading zero": b"01",
    "leading plus": b"+1",
    "hexadecimal": b"0x10",
    "Arabic digits": "[\u0661\u0662]".encode(),
    "duplicate key": b'{"a": 1, "a": 1}',
    "duplicate key, one escaped": rb'{"a": 1, "\u0061": 2}',
    "duplicate key, deep": b'[{"b": {"a": 1, "c": 2, "a": 3}}]',
    "lone high surrogate": rb'"\ud800"',
    "lone low surrogate": rb'["a", "\uDFFF"]',
    "lone surrogate in a key": rb'{"\udc00": 1}',
    "surrogates in the wrong order": rb'"\ude00\ud83d"',
    "surrogate in text": '"\udc80"',
    "depth 100,000 of lists": b"[" * 100_000 + b"]" * 100_000,
    "depth 100,000 of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "four million brackets": b"[" * 4_000_000,
}


@pytest.mark.parametrize(("raw", "expected"), READ.values(), ids=READ.keys())
def test_a_document_is_read(raw: bytes | str, expected: object) -> None:
    assert parse_json(raw) == expected


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_at_once(raw: bytes | str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError) as caught:
        parse_json(raw)
    assert time.process_time() - started < 1
    assert type(caught.value) is ValueError


def test_the_error_never_quotes_the_document() -> None:
    for raw in (b'{"password": "hunter2"', b'{"hunter2": 1, "hunter2": 2}', b"hunter2", b'"hunter2\xff"', b"[hunter2]"):
        with pytest.raises(ValueError) as caught:
            parse_json(raw)
        assert "hunter2" not in repr(caught.value)
        assert caught.value.__cause__ is None


_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(_DOCUMENTS, st.booleans())
def test_a_document_survives_being_written_and_read(document: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@given(st.binary() | st.text() | st.text(alphabet='[]{}",:0123456789eE+-.\\untrfalsde '))
def test_arbitrary_input_gives_a_document_that_can_be_written_or_a_value_error(raw: bytes | str) -> None:
    try:
        document = parse_json(raw)
    except (UnicodeError, json.JSONDecodeError):
        raise
    except ValueError:
        return
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
