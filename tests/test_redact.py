"""What may be shown to people: no control characters, no secrets, and not too much."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.redact import printable, redact, redact_url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 日本, 😀", "plain, é, 日本, 😀"),
        ("\x1b]0;pwned\x07", "\\x1b]0;pwned\\x07"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\x00"),
        ("\x7f\x80\x9b\x9f", "\\x7f\\x80\\x9b\\x9f"),
        ("\u202a\u202e\u2066\u2069", "\\u202a\\u202e\\u2066\\u2069"),
        ("\u200b\u200e\u061c\ufeff\u2028\u2029", "\\u200b\\u200e\\u061c\\ufeff\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("\\x1b", "\\x1b"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_text_is_cut() -> None:
    assert printable("x" * 5000) == "x" * 2048 + "…"


@given(st.text())
def test_arbitrary_text_is_fit_to_be_shown(text: str) -> None:
    for shown in (printable(text), redact(text), redact_url(text)):
        assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)
        assert not any("\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069" for character in shown)
        shown.encode()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ghcr.io/v2/", "https://ghcr.io/v2/"),
        ("https://h:5000/v2/x%2Fy", "https://h:5000/v2/x%2Fy"),
        ("http://[::1]:5000/v2/", "http://[::1]:5000/v2/"),
        ("https://user:hunter2@h/x", "https://h/x"),
        ("https://hunter2@h:1/x", "https://h:1/x"),
        ("https://a:b@hunter2@h/x", "https://h/x"),
        ("https://h/x?sig=hunter2", "https://h/x?…"),
        ("https://h/x?", "https://h/x?…"),
        ("https://h?hunter2", "https://h?…"),
        ("https://h/x#hunter2", "https://h/x"),
        ("https://h/x#a?hunter2", "https://h/x?…"),
        ("https://h/x?a#hunter2", "https://h/x?…"),
        ("https://h/x@y", "https://h/x@y"),
        ("https://user:hunter2", "https://…"),
        ("https://user:hunter2?@h/", "https://…?…"),
        ("https://[hunter2", "https://…"),
        ("/v2/x?hunter2", "/v2/x?…"),
        ("user:hunter2@h/x", "h/x"),
        ("", ""),
        ("://", "://"),
    ],
)
def test_a_url_loses_its_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://u:hunter2@h/x?y=hunter2: lost", "GET https://h/x?… lost"),
        ("see <https://u:hunter2@h/x>, or 'http://v:hunter2@i/'", "see <https://h/x>, or 'http://i/'"),
        ("https://u:hunter2@h\thttps://u:hunter2@h", "https://h\\thttps://h"),
        ("1https://u:hunter2@h/", "1https://h/"),
        ("(oci+https://u:hunter2@h/)", "(oci+https://h/)"),
        ("GET https://h:443: lost", "GET https://h:443: lost"),
        ("no URL: a://", "no URL: a://"),
        ("ghcr.io/acme/triage@sha256:abc", "ghcr.io/acme/triage@sha256:abc"),
        ("'https://u:hunter2'", "'https://…'"),
    ],
)
def test_each_url_in_a_text_loses_its_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got Authorization: Basic YWRhOmh1bnRlcjI=, no", "got Authorization: Basic …, no"),
        ('{"authorization": "Bearer hunter2hunter2"}', '{"authorization": "Bearer …"}'),
        ('{\\"Authorization\\": \\"Bearer hunter2hunter2\\"}', '{\\"Authorization\\": \\"Bearer …\\"}'),
        ("BEARER=hunterhunterhunterhunter", "BEARER=…"),
        ("basic aHVudGVy", "basic …"),
        ("token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln is over", "token … is over"),
        ("Basic authentication is required", "Basic authentication is required"),
        ("Bearer Authentication, please", "Bearer Authentication, please"),
        ("a bearer token is missing", "a bearer token is missing"),
        ("basically something2different", "basically something2different"),
    ],
)
def test_a_proof_that_somebody_repeats_isnt_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("position", range(4050, 4110, 3))
def test_a_url_at_the_end_of_what_is_looked_at_shows_no_password(position: int) -> None:
    text = ("https://h/?" + "q" * 1000 + " ") * 4
    text = text + " " * (position - len(text)) + "https://user:hunter2hunter2@h/"
    assert "hunter" not in redact(text)


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=("L", "N")), min_size=8, max_size=20),
    st.sampled_from(["https://u:{}@h/x", "https://{}@h", "https://h/x?{}", "https://h/x?a={}&b", "https://h/#{}"]),
    st.text(max_size=50),
    st.text(max_size=50),
)
def test_a_planted_secret_is_never_shown(secret: str, url: str, before: str, after: str) -> None:
    if secret in before or secret in after:
        return
    assert secret not in redact(f"{before} {url.format(secret)} {after}")


@pytest.mark.parametrize(
    "text",
    [
        "bearer " * 1_000_000,
        "bearer " + "a" * 10_000_000,
        "eyJ" * 3_000_000,
        "a" * 10_000_000,
        "a:" * 5_000_000,
        "://" * 3_000_000,
        "a://" * 2_000_000,
        "a://@" * 2_000_000,
        "+" * 10_000_000,
    ],
    ids=["proofs", "a proof", "web tokens", "letters", "colons", "marks", "schemes", "user information", "plus"],
)
def test_hostile_text_takes_no_time(text: str) -> None:
    started = time.process_time()
    assert len(redact(text)) < 20_000
    assert time.process_time() - started < 1
