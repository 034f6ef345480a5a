"""Link headers: the next page, on the same origin only."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import vectors

from lading.errors import ProtocolError
from lading.http.transport import Origin
from lading.registry.links import next_page

URL = "https://registry.example/v2/acme/triage/tags/list?n=2"
NEXT = "https://registry.example/v2/acme/triage/tags/list?last=b&n=2"

FOUND = {
    "path": ['</v2/acme/triage/tags/list?last=b&n=2>; rel="next"'],
    "absolute": [f'<{NEXT}>; rel="next"'],
    "without a scheme": ['<//registry.example/v2/acme/triage/tags/list?last=b&n=2>; rel="next"'],
    "query only": ['<?last=b&n=2>; rel="next"'],
    "relative path": ['<list?last=b&n=2>; rel="next"'],
    "no quotes": ["<?last=b&n=2>; rel=next"],
    "no space": ['<?last=b&n=2>;rel="next"'],
    "much space": ['  <?last=b&n=2>  ;  rel  =  "next"  '],
    "upper case": ['<?last=b&n=2>; REL="NEXT"'],
    "several relations": ['<?last=b&n=2>; rel="last next"'],
    "other parameters": ['<?last=b&n=2>; title="a; b, <c>"; rel="next"; x'],
    "a flag before it": ['<?last=b&n=2>; x; rel="next"'],
    "an escaped quote": [r'<?last=b&n=2>; title="a\"; rel=\"prev"; rel="next"'],
    "behind another link": ['<?first>; rel="first", <?last=b&n=2>; rel="next"'],
    "in another line": ['<?first>; rel="first"', '<?last=b&n=2>; rel="next"'],
    "the first of two": ['<?last=b&n=2>; rel="next", <?other>; rel="next"'],
    "fragment": ['<?last=b&n=2#top>; rel="next"'],
    "its first rel counts": ['<?other>; rel="prev"; rel="next", <?last=b&n=2>; rel="next"'],
}

MISSING: dict[str, list[str]] = {
    "no header": [],
    "empty": [""],
    "another relation": ['<?x>; rel="prev"'],
    "a longer relation": ['<?x>; rel="nextish"'],
    "a relation that contains it": ['<?x>; rel="not-next"'],
    "no relation": ["<?x>"],
    "no target": ['<>; rel="next"'],
    "no brackets": ['/v2/x; rel="next"'],
    "bracket not closed": ['</v2/x; rel="next"'],
    "bracket not opened": ['/v2/x>; rel="next"'],
    "it is in a title": ['<?x>; title="rel=next"'],
    "quote not closed": ['<?x>; rel="next'],
    "garbage": ["\\", "<", ">", ";;;", ",,,"],
    "too long": ["<" + "a" * 200_000 + '>; rel="next"'],
}

REFUSED = {
    "another host": "https://evil.example/v2/",
    "another port": "https://registry.example:8443/v2/",
    "plain http": "http://registry.example/v2/",
    "without a scheme, another host": "//evil.example/v2/",
    "a metadata service": "http://169.254.169.254/latest/meta-data/",
    "user information": "https://registry.example@evil.example/",
    "user information on the same host": "https://user:hunter2@registry.example/v2/",
    "a file": "file:///etc/passwd",
    "a backslash": "/\\evil.example/v2/",
    "a space": "/v2/a b",
    "not ASCII": "/v2/é",
    "a control character": "/v2/\x1b[2J",
    "a broken host": "http://[::1",
    "a broken port": "https://registry.example:x/",
}


@pytest.mark.parametrize("headers", FOUND.values(), ids=FOUND.keys())
def test_the_next_page(headers: list[str]) -> None:
    assert next_page(headers, URL) == NEXT


@pytest.mark.parametrize("headers", MISSING.values(), ids=MISSING.keys())
def test_the_last_page(headers: list[str]) -> None:
    assert next_page(headers, URL) is None


@pytest.mark.parametrize("target", REFUSED.values(), ids=REFUSED.keys())
def test_another_origin_is_refused(target: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        next_page([f'<{target}>; rel="next"'], URL)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_only_the_next_page_has_to_be_on_the_same_origin() -> None:
    assert next_page(['<https://docs.example/>; rel="help", <?last=b&n=2>; rel="next"'], URL) == NEXT


@pytest.mark.parametrize("target", ["https://registry.example:443/x", "https://REGISTRY.example/x"])
def test_the_same_origin_may_be_written_otherwise(target: str) -> None:
    assert next_page([f'<{target}>; rel="next"'], URL) == target


@pytest.mark.parametrize(
    "header",
    [
        "<a>;" * 4000,
        "<a>; x=" + '"' * 16_000,
        "<a>; x=" + "\\" * 16_000,
        '<a>; x="' + "\\" * 16_000,
        "<a>" + " " * 16_000 + "x",
        "," * 16_000,
        "<a>; " + "rel " * 4000,
        "<a>; rel=" + "a" * 16_000,
    ],
)
def test_hostile_headers_take_no_time(header: str) -> None:
    started = time.process_time()
    assert next_page([header], URL) is None
    assert time.process_time() - started < 1


@given(st.lists(st.text() | st.text(alphabet='<>;,="\\ relnxt/?a:@[]'), max_size=3))
def test_arbitrary_headers_give_a_page_of_the_same_origin_or_the_typed_error(headers: list[str]) -> None:
    try:
        found = next_page(headers, URL)
    except ProtocolError:
        return
    assert found is None or Origin.of(found) == Origin.of(URL)


@pytest.mark.parametrize("case", vectors("link_headers.json", "cases"))
def test_vectors(case: dict[str, Any]) -> None:
    started = time.process_time()
    try:
        found = next_page(case["headers"], case["request_url"])
    except ProtocolError:
        outcome = {"refuse", "error_or_no_next", "refuse_or_follow_without_wider_scope"}
        assert case.get("either") or case.get("expect") in outcome
    else:
        if found is None:
            assert case.get("either") or case.get("expect") in {"missing", "error_or_no_next"}
        elif "expect_next_url" in case:
            assert found.replace(":443/", "/") == case["expect_next_url"]
        else:
            assert case["expect"] == "refuse_or_follow_without_wider_scope"
    assert time.process_time() - started < 1
