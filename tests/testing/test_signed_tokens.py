"""Signed tokens: what a registry that trusts the certificate can read and check."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from lading.testing.access import Access
from lading.testing.profiles import TokenRules
from lading.testing.signed_tokens import TokenSigner
from lading.testing.token_service import TokenService

SCOPES = {"repository:acme/triage": frozenset({"pull", "push"}), "repository:acme/other": frozenset[str]()}


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def read(token: str) -> tuple[Any, Any]:
    """Give the header and the claims of a token whose signature is that of the certificate in it."""
    signed, _, signature = token.rpartition(".")
    header, claims = (json.loads(decoded(part)) for part in signed.split("."))
    key = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0])).public_key()
    assert isinstance(key, RSAPublicKey)
    key.verify(decoded(signature), signed.encode(), PKCS1v15(), SHA256())
    return header, claims


def test_a_token_says_what_it_is_good_for() -> None:
    signer = TokenSigner("lading.test", clock=lambda: 1000.9)
    header, claims = read(signer("ada", SCOPES, "registry.test", 60))
    assert (header["alg"], header["typ"]) == ("RS256", "JWT")
    assert claims.pop("jti")
    assert claims == {
        "iss": "lading.test",
        "sub": "ada",
        "aud": "registry.test",
        "iat": 1000,
        "nbf": 940,
        "exp": 1061,
        "access": [{"type": "repository", "name": "acme/triage", "actions": ["pull", "push"]}],
    }
    assert read(signer(None, {}, "registry.test", 60))[1]["sub"] == ""


def test_the_certificate_is_the_signers_own() -> None:
    signer, other = TokenSigner("lading.test"), TokenSigner("lading.test")
    header, _ = read(signer("ada", SCOPES, "registry.test", 60))
    mine = x509.load_pem_x509_certificate(signer.certificate_pem)
    assert mine == x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0]))
    assert mine != x509.load_pem_x509_certificate(other.certificate_pem)
    head, claims, _ = signer.sign({"sub": "ada"}).split(".")
    forged = other.sign({"sub": "ada"}).rpartition(".")[2]
    with pytest.raises(InvalidSignature):
        read(f"{head}.{claims}.{forged}")


def test_a_token_may_say_that_it_ends_early() -> None:
    signer = TokenSigner("lading.test", early=62, clock=lambda: 1000.0)
    _, claims = read(signer("ada", SCOPES, "registry.test", 60))
    assert claims["nbf"] < claims["exp"] < 1000


def test_a_token_service_gives_them_and_knows_them_again() -> None:
    service = TokenService(TokenRules(lifetime=30), Access({"ada": "x"}), lambda: 0.0, TokenSigner("lading.test"))
    basic = "Basic " + base64.b64encode(b"ada:x").decode()
    query = [("service", "registry.test"), ("scope", "repository:acme/triage:pull")]
    answer = service.answer("GET", query, basic, b"")
    assert isinstance(answer.body, bytes)
    token = json.loads(answer.body)["token"]
    _, claims = read(token)
    assert (claims["aud"], claims["sub"], claims["access"][0]["actions"]) == ("registry.test", "ada", ["pull"])
    found = service.find(f"Bearer {token}")
    assert found is not None
    assert found.user == "ada"
