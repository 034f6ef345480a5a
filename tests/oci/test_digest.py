"""Digests: what may name content, and nothing else."""

from __future__ import annotations

import hashlib
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import vectors

from lading.errors import InvalidDigest
from lading.oci.digest import Digest

SHA256 = "sha256:" + "a1" * 32
SHA512 = "sha512:" + "b2" * 64

REFUSED = {
    "empty": "",
    "no algorithm": ":" + "a" * 64,
    "no hash": "sha256:",
    "no colon": "sha256" + "a" * 64,
    "only a colon": ":",
    "dash for a colon": "sha256-" + "a" * 64,
    "one character short": "sha256:" + "a" * 63,
    "one character long": "sha256:" + "a" * 65,
    "the length of the other algorithm": "sha512:" + "a" * 64,
    "upper-case hash": "sha256:" + "A" * 64,
    "upper-case algorithm": "SHA256:" + "a" * 64,
    "not hexadecimal": "sha256:" + "g" * 64,
    "weak algorithm": "sha1:" + "a" * 40,
    "algorithm with a separator": "sha256+b64:" + "a" * 64,
    "path": "sha256:../../../../etc/passwd",
    "path of the right length": "sha256:" + "../" * 21 + "a",
    "percent-encoded path": "sha256:" + "%2e" * 21 + "a",
    "trailing newline": SHA256 + "\n",
    "leading newline": "\n" + SHA256,
    "trailing space": SHA256 + " ",
    "trailing part": SHA256 + ":x",
    "NUL": "sha256:" + "a" * 63 + "\0",
    "Arabic digits": "sha256:" + "١" * 64,
    "full-width letters": "sha256:" + "ａ" * 64,
    "lone surrogate": "sha256:" + "\ud800" * 64,
    "bidi control": SHA256 + "\u202e",
    "a million characters": "sha256:" + "a" * 1_000_000,
    "a million separators": "a+" * 500_000 + ":b",
}


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_a_digest_is_its_algorithm_and_its_hash(text: str) -> None:
    digest = Digest.parse(text)
    assert f"{digest.algorithm}:{digest.encoded}" == text
    assert str(digest) == text


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidDigest):
        Digest.parse(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("value", [None, 5, SHA256.encode()], ids=["None", "number", "bytes"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidDigest, match="text"):
        Digest.parse(cast(str, value))


def test_an_unsupported_algorithm_is_named_with_the_supported_ones() -> None:
    with pytest.raises(InvalidDigest, match=r"'blake3'.*sha256 and sha512"):
        Digest.parse("blake3:" + "a" * 64)


def test_the_error_shows_no_control_characters() -> None:
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse("sha256:\x1b[2J\u202e")
    assert str(caught.value).isprintable()


def test_an_invalid_digest_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        Digest.parse("")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_matches_its_own_digest_only(algorithm: str) -> None:
    digest = Digest.of(b"agents:", algorithm)
    assert digest == Digest(algorithm, hashlib.new(algorithm, b"agents:").hexdigest())
    assert digest.matches(b"agents:")
    assert not digest.matches(b"agents")


def test_content_is_hashed_piece_by_piece() -> None:
    digest = Digest.of(b"agents:")
    hasher = digest.hasher()
    hasher.update(b"age")
    hasher.update(b"nts:")
    assert hasher.hexdigest() == digest.encoded


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_survives_being_written_and_read(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest


@given(st.text() | st.from_regex(r"[a-z0-9+._-]{0,9}:[a-f0-9./%]{0,70}", fullmatch=True))
def test_arbitrary_text_gives_a_digest_or_the_typed_error(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except InvalidDigest:
        return
    assert str(digest) == text


@pytest.mark.parametrize("case", vectors("digests.json", "cases"))
def test_vectors(case: dict[str, Any]) -> None:
    if not case["accept_as_content_address"]:
        with pytest.raises(InvalidDigest):
            Digest.parse(case["input"])
        return
    digest = Digest.parse(case["input"])
    assert digest.algorithm == case["expected"]["algorithm"]
    assert digest.encoded == case["expected"]["encoded"]
