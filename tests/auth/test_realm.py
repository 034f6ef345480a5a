"""The realm policy: where a registry may send its clients."""

from __future__ import annotations

from typing import Any

import pytest
from auth import vectors
from hypothesis import given
from hypothesis import strategies as st

from lading.auth.realm import realm_refusal
from lading.http.transport import Origin

VECTORS = vectors.load("challenges.json")

ALLOWED = [
    ("https://registry.example.com", "https://auth.example.com/token"),
    ("https://registry.example.com", "https://auth.example.com:8443/token?x=1&y=2"),
    ("https://registry.example.com", "HTTPS://AUTH.example.com/token"),
    ("https://registry.example.com", "https://registry.example.com/token"),
    ("https://registry.example.com", "https://registry.example.com:8443/token"),
    ("https://registry.example.com", "https://8.8.8.8/token"),
    ("https://registry.example.com", "https://[2606:4700::1111]/token"),
    ("https://registry.example.com", "https://auth_server.example.com/token"),
    ("http://registry.lan:5000", "http://registry.lan:5000/token"),
    ("http://registry.lan:5000", "https://registry.lan:5001/token"),
    ("http://registry.lan:5000", "https://auth.example.com/token"),
    ("https://10.0.0.5:5000", "https://10.0.0.5:5000/token"),
    ("https://10.0.0.5:5000", "https://10.0.0.5:5001/token"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
    ("http://localhost:5000", "http://127.0.0.1:5001/token"),
    ("http://127.0.0.1:5000", "http://[::1]:5001/token"),
    ("http://127.0.0.1:5000", "https://localhost:5001/token"),
    ("https://[::1]:5000", "https://[::1]:5000/token"),
]

REFUSED = [
    # Not https.
    ("https://registry.example.com", "http://auth.example.com/token"),
    ("https://registry.example.com", "http://registry.example.com/token"),
    ("http://registry.example.com", "http://registry.example.com:81/token"),
    ("http://registry.example.com", "http://auth.example.com/token"),
    ("https://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
    ("http://10.0.0.5:5000", "http://10.0.0.5:5001/token"),
    ("http://registry.example.com", "http://127.0.0.1/token"),
    ("http://127.0.0.1:5000", "http://10.0.0.5:5001/token"),
    ("http://127.0.0.1:5000", "http://169.254.169.254/token"),
    *(
        ("https://registry.example.com", realm)
        for realm in [
            # Inside.
            "https://127.0.0.1/token",
            "https://localhost/token",
            "https://LOCALHOST./token",
            "https://a.localhost/token",
            "https://10.0.0.5/token",
            "https://172.16.0.1/token",
            "https://192.168.1.1/token",
            "https://100.64.0.1/token",
            "https://169.254.169.254/latest/meta-data/",
            "https://0.0.0.0:8443/token",
            "https://224.0.0.1/token",
            "https://240.0.0.1/token",
            "https://255.255.255.255/token",
            "https://192.0.2.1/token",
            "https://[::]/token",
            "https://[::1]/token",
            "https://[fd00:ec2::254]/token",
            "https://[fe80::1]/token",
            "https://[ff02::1]/token",
            "https://[::ffff:127.0.0.1]/token",
            "https://[::ffff:10.0.0.5]/token",
            "https://[::127.0.0.1]/token",
            "https://[64:ff9b::10.0.0.5]/token",
            "https://[2002:7f00:1::]/token",
            "https://[2002:a00:5::1]/token",
            # In disguise.
            "https://0x7f000001/token",
            "https://0X7F.1/token",
            "https://2130706433/token",
            "https://017700000001/token",
            "https://0177.0.0.1/token",
            "https://127.1/token",
            "https://127.0.1/token",
            "https://127.0.0.1./token",
            "https://10.0.0.5./token",
            "https://10.0.0.5../token",
            "https://134744072/token",
            "https://08.8.8.8/token",
            "https://256.1.1.1/token",
            "https://1.2.3.4.5/token",
            "https://example.0x/token",
            "https://127%2e0.0.1/token",
            "https://①②⑦.0.0.1/token",
            "https://127。0。0。1/token",
            "https://loc\u00adalhost/token",
            "https://[fe80::1%25eth0]/token",
            "https://[fe80::1%eth0]/token",
            "https://[v1.x]/token",
            # Two readings.
            "https://user:pw@registry.example.com/token",
            "https://@registry.example.com/token",
            "https://registry.example.com@attacker.example.net/token",
            "https://registry.example.com\\@attacker.example.net/token",
            "https://auth.example.com/token#fragment",
            "https://auth.example.com/token#",
            "https://auth.example.com:99999/token",
            "https://auth.example.com:/token",
            "https://auth.example.com:+443/token",
            "https://auth.example.com:٤٤٣/token",
            "https://auth.example.com /token",
            "https://auth.example.com/to\tken",
            "https://auth.example.com/to\r\nken",
            " https://auth.example.com/token",
            # No URL of a web server.
            "",
            "token",
            "/token",
            "//auth.example.com/token",
            "https:///token",
            "https://",
            "https:auth.example.com",
            "ftp://auth.example.com/token",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://[::1/token",
            "https://.",
            "https://" + "a" * 5000,
        ]
    ),
]


@pytest.mark.parametrize(("registry", "realm"), ALLOWED)
def test_allowed(registry: str, realm: str) -> None:
    assert realm_refusal(realm, Origin.of(registry)) is None


@pytest.mark.parametrize(("registry", "realm"), REFUSED)
def test_refused(registry: str, realm: str) -> None:
    why = realm_refusal(realm, Origin.of(registry))
    assert why
    assert "pw" not in why


@given(st.text(max_size=80), st.text(alphabet="0123456789abcdefx.:[]%@/#?", max_size=40))
def test_any_text_has_a_verdict(text: str, host: str) -> None:
    registry = Origin("https", "registry.example.com", 443)
    realm_refusal(text, registry)
    realm_refusal(f"https://{host}/token", registry)


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize("case", VECTORS["realm_policy"] if VECTORS else [], ids=lambda case: case["realm"])
def test_vectors(case: dict[str, Any]) -> None:
    host = case["registry_host"] or "registry.example.com"
    allowed = realm_refusal(case["realm"], Origin.of(f"{case['registry_scheme']}://{host}")) is None
    assert case["may_send_credentials"] in ("policy", allowed)
