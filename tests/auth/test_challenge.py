"""Challenges: the grammar, and that nothing but the grammar gets through."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from auth import vectors
from hypothesis import given
from hypothesis import strategies as st

from lading.auth.challenge import Challenge, choose, parse_challenges
from lading.errors import ProtocolError

VECTORS = vectors.load("challenges.json")
LIMIT = 16 * 1024

READ: list[tuple[str, list[tuple[str, dict[str, str]]]]] = [
    ("", []),
    (" , ,\t,", []),
    ("Basic", [("basic", {})]),
    ("BEARER   ", [("bearer", {})]),
    ('Basic realm="r"', [("basic", {"realm": "r"})]),
    ("Basic realm=r", [("basic", {"realm": "r"})]),
    ('Bearer REALM="https://a/t",Service="s"', [("bearer", {"realm": "https://a/t", "service": "s"})]),
    ('Bearer realm = "https://a/t" , service\t=\ts', [("bearer", {"realm": "https://a/t", "service": "s"})]),
    (
        'Bearer realm="https://a/t",,service="s", ,scope=""',
        [("bearer", {"realm": "https://a/t", "service": "s", "scope": ""})],
    ),
    ('Bearer ,realm="https://a/t"', [("bearer", {"realm": "https://a/t"})]),
    (', Bearer realm="https://a/t",', [("bearer", {"realm": "https://a/t"})]),
    ('Basic realm="a, Bearer realm=b"', [("basic", {"realm": "a, Bearer realm=b"})]),
    (r'Basic realm="a\"b\\c\d"', [("basic", {"realm": 'a"b\\cd'})]),
    ('Basic realm="a", Bearer realm="https://b/"', [("basic", {"realm": "a"}), ("bearer", {"realm": "https://b/"})]),
    ("Negotiate, Basic", [("negotiate", {}), ("basic", {})]),
    ("Negotiate , Basic realm=r", [("negotiate", {}), ("basic", {"realm": "r"})]),
    ('Basic realm="r", NTLM', [("basic", {"realm": "r"}), ("ntlm", {})]),
    ('Basic realm="höhe"', [("basic", {"realm": "höhe"})]),
    ('Basic realm="it\'s %7e*"', [("basic", {"realm": "it's %7e*"})]),
    (
        'Digest realm="r", qop="auth,auth-int", nonce=abc',
        [("digest", {"realm": "r", "qop": "auth,auth-int", "nonce": "abc"})],
    ),
]

REFUSED = [
    '"Bearer" realm="x"',
    "=",
    "Bearer =",
    "Bearer ==",
    'Bearer="x"',
    'Bearer, realm="https://a/t"',
    "Bearer realm=https://a/t",
    'Bearer realm="https://a/t',
    'Bearer realm="https://a/t\\"',
    'Bearer realm="https://a/t",service=',
    'Bearer realm="https://a/t" service="s"',
    'Bearer realm="https://a/t"service="s"',
    'Bearer realm="https://a/t";service="s"',
    'Bearer realm="https://a/t" Basic realm="r"',
    'Bearer realm="https://a/t",realm="https://b/t"',
    'Bearer realm="https://a/t",REALM="https://a/t"',
    'Bearer realm, service="s"',
    "Bearer a b",
    "Bearer abc= =",
    'Bearer realm=""x',
    "Bearer realm=ü",
    "Bearör realm=a",
    'Bearer realm="a\r\nX-Evil: 1"',
    'Bearer realm="a\0"',
    'Bearer realm="a\x7f"',
    "Bearer\nrealm=a",
    'Basic realm="' + "x" * LIMIT + '"',
]


def plain(challenges: list[Challenge]) -> list[tuple[str, dict[str, str]]]:
    return [(challenge.scheme, dict(challenge.parameters)) for challenge in challenges]


@pytest.mark.parametrize(("header", "expected"), READ)
def test_reads_the_grammar(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert plain(parse_challenges([header])) == expected


@pytest.mark.parametrize("header", REFUSED)
def test_refuses_what_is_not_the_grammar(header: str) -> None:
    with pytest.raises(ProtocolError):
        parse_challenges([header])


def test_one_bad_line_spoils_the_answer() -> None:
    with pytest.raises(ProtocolError):
        parse_challenges(['Basic realm="r"', "Bearer realm"[:6] + " ="])


def test_lines_are_read_one_after_the_other() -> None:
    assert plain(parse_challenges(["Negotiate", "", 'Basic realm="r"'])) == [
        ("negotiate", {}),
        ("basic", {"realm": "r"}),
    ]
    with pytest.raises(ProtocolError):
        parse_challenges(["Basic"] * 1000)


@pytest.mark.parametrize("token68", ["TlRMTVNTUAACAAAA==", "abc", "a", "-._~+/", "realm=", "a==="])
def test_token68(token68: str) -> None:
    for header in (f"NTLM {token68}", f"NTLM {token68} ,", f"NTLM  {token68}, Basic realm=r"):
        first, *rest = parse_challenges([header])
        assert (first.scheme, first.token68, dict(first.parameters)) == ("ntlm", token68, {})
        assert plain(rest) in ([], [("basic", {"realm": "r"})])


def test_scopes_are_split_on_spaces_each_once() -> None:
    (challenge,) = parse_challenges(['Bearer realm="https://a/",scope=" b:x:pull  a:y:pull,push b:x:pull "'])
    assert challenge.scopes == ("b:x:pull", "a:y:pull,push")
    assert parse_challenges(["Bearer"])[0].scopes == ()


def test_a_challenge_is_a_value() -> None:
    (one,), (two,) = (
        parse_challenges(['Basic realm="planted-secret"']),
        parse_challenges(["basic realm=planted-secret"]),
    )
    assert one == two
    assert hash(one) == hash(two)
    assert "planted-secret" not in repr(one)
    with pytest.raises(TypeError):
        one.parameters["realm"] = "other"  # type: ignore[index]


@pytest.mark.parametrize(
    ("header", "scheme"),
    [
        ('Basic realm="r", Bearer realm="https://a/t"', "bearer"),
        ('Bearer realm="", Basic realm="r"', "basic"),
        ("Bearer, Basic", "basic"),
        ("BASIC", "basic"),
        ("Negotiate, NTLM abc=", None),
        ("", None),
    ],
)
def test_bearer_is_chosen_before_basic(header: str, scheme: str | None) -> None:
    chosen = choose(parse_challenges([header]))
    assert (chosen.scheme if chosen else None) == scheme


@given(st.lists(st.text(max_size=200), max_size=3))
def test_any_text_is_read_or_refused(headers: list[str]) -> None:
    try:
        challenges = parse_challenges(headers)
    except ProtocolError:
        return
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in challenges)


@given(st.text(alphabet='Bearrlm ="\\,\t/:a=~', max_size=60))
def test_text_like_the_grammar_is_read_or_refused(header: str) -> None:
    with contextlib.suppress(ProtocolError):
        parse_challenges([header])


@pytest.mark.parametrize(
    "piece", ["a", " ", ",", '"', "\\", "=", "a ", "a=", 'a="', '\\"', "a,", 'a="",', "a=b,", "\t,"]
)
def test_the_longest_header_is_no_work(piece: str) -> None:
    for start in ("", "Bearer ", 'Bearer a="'):
        header = start + piece * ((LIMIT - len(start)) // len(piece))
        with contextlib.suppress(ProtocolError):
            parse_challenges([header] * 8)


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize("case", VECTORS["cases"] if VECTORS else [], ids=lambda case: case["id"])
def test_vectors(case: dict[str, Any]) -> None:
    outcome: Any
    try:
        challenges = parse_challenges(case["headers"])
    except ProtocolError:
        outcome, challenges = "error", []
    else:
        outcome = [
            {"scheme": challenge.scheme, "params": dict(challenge.parameters)}
            | ({"token68": challenge.token68} if challenge.token68 else {})
            | ({"scope_list": list(challenge.scopes)} if challenge.scopes else {})
            for challenge in challenges
        ]
    assert outcome in [case["expected"], *case.get("accept_also", [])]
    if "choose" in case:
        chosen = choose(challenges)
        assert chosen is not None
        assert chosen.scheme == case["choose"]
