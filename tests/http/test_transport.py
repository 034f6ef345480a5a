"""What passes through the rings: origins, URLs, header fields, requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import ProtocolError
from lading.http.transport import Headers, Origin, Request, join_url


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://ghcr.io/v2/", ("https", "ghcr.io", 443)),
        ("http://localhost/v2/", ("http", "localhost", 80)),
        ("https://ghcr.io:443/v2/", ("https", "ghcr.io", 443)),
        ("https://GHCR.io:8443", ("https", "ghcr.io", 8443)),
        ("HTTPS://ghcr.io", ("https", "ghcr.io", 443)),
        ("http://[::1]:5000/v2/", ("http", "::1", 5000)),
        ("http://h:0/", ("http", "h", 0)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert Origin.of(url) == origin


NOT_URLS = [
    "",
    "ghcr.io/v2/",
    "/v2/",
    "//ghcr.io/",
    "https://",
    "https:///v2/",
    "https://:443/",
    "ftp://ghcr.io/",
    "file:///etc/passwd",
    "data:text/plain,x",
    "javascript:alert(1)",
    "https://h:99999/",
    "https://h:x/",
    "https://h:١/",
    "https://[::1/",
    "https://[x]/",
    "https://user@ghcr.io/",
    "https://user:hunter2@ghcr.io/",
    "https://:hunter2@ghcr.io/",
    "https://@ghcr.io/",
    "https://ghcr.io\\@evil.example/",
]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h/x", "https://h:99999/", "http://u:p@h/"])
def test_what_leads_nowhere_says_who_leads_there(target: str) -> None:
    with pytest.raises(ProtocolError, match=r"^https://ghcr\.io/v2/x\?… leads on: ") as caught:
        join_url("https://ghcr.io/v2/x?signature=planted", target)
    assert "planted" not in str(caught.value)
    assert "u:p@" not in str(caught.value)


@pytest.mark.parametrize("url", NOT_URLS)
def test_what_has_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        Origin.of(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "joined"),
    [
        ("https://cdn.example/x?a=b%2Fc", "https://cdn.example/x?a=b%2Fc"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("/y", "https://h:1/y"),
        ("y?z=1", "https://h:1/a/y?z=1"),
        ("../y", "https://h:1/y"),
        ("?z=1", "https://h:1/a/b?z=1"),
        ("", "https://h:1/a/b?q=1"),
        ("y#fragment", "https://h:1/a/y"),
        ("/%7Ex/%2e%2e/é".replace("é", "%C3%A9"), "https://h:1/%7Ex/%2e%2e/%C3%A9"),
        ("y?sig=a+b%20c&&d", "https://h:1/a/y?sig=a+b%20c&&d"),
    ],
)
def test_a_target_is_joined_and_not_quoted_again(target: str, joined: str) -> None:
    assert join_url("https://h:1/a/b?q=1", target) == joined


@pytest.mark.parametrize(
    "target",
    [
        *NOT_URLS[NOT_URLS.index("https://:443/") :],
        "/a b",
        "/é",
        "https://аррӏе.com/",
        "/a\r\nX-Evil: 1",
        "/a\0",
        "/\\evil.example",
        "\\\\evil.example",
        "/\x7f",
        "//[",
    ],
)
def test_what_isnt_a_target_is_refused(target: str) -> None:
    with pytest.raises(ProtocolError):
        join_url("https://h:1/a/b", target)


@given(st.text() | st.from_regex(r"[a-z]{0,5}:?/{0,3}[a-z@:\[\]0-9.%?#/\\-]{0,20}", fullmatch=True))
def test_an_arbitrary_target_gives_a_url_or_the_typed_error(target: str) -> None:
    try:
        joined = join_url("https://h:1/a/b", target)
    except ProtocolError:
        return
    assert Origin.of(joined).scheme in ("http", "https")


def test_header_names_are_case_insensitive() -> None:
    headers = Headers([("Content-Type", "a/b"), ("link", "<1>"), ("Link", "<2>")])
    assert headers.get("content-type") == "a/b"
    assert headers.get("LINK") == "<1>"
    assert headers.get_all("Link") == ["<1>", "<2>"]
    assert headers.get("absent") is None
    assert headers.get_all("absent") == []


def test_header_fields_keep_their_order() -> None:
    assert list(Headers([("B", "1"), ("A", "2"), ("B", "3")])) == [("b", "1"), ("a", "2"), ("b", "3")]


def test_the_values_of_headers_arent_shown() -> None:
    assert "hunter2" not in repr(Headers([("Set-Cookie", "hunter2")]))


def test_a_body_isnt_shown() -> None:
    assert "hunter2" not in repr(Request("POST", "https://h/", body=b"hunter2"))
