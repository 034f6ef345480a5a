"""Which proxy a request goes through, how long a dead socket is left alone, and which failures are the socket's own."""

from __future__ import annotations

import asyncio
import copy
import errno
import logging
import os
import pickle
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import vectors

from lading.errors import ConnectFailed, LadingError, ProxyFailed
from lading.http.proxy import (
    COOLDOWN,
    Direct,
    Hop,
    HopFailed,
    NoProxy,
    Proxy,
    ProxyRules,
    ProxySocket,
    Route,
    Router,
    desktop_sockets,
    is_proxy_socket_error,
)
from lading.http.transport import Origin

TARGET = Origin.of("https://registry.example/v2/")
PLAIN = Origin.of("http://registry.example/v2/")

DESKTOP = ProxySocket("/home/ada/.docker/desktop/httpproxy.sock", "Docker Desktop", may_bypass=True)
CONFIGURED = ProxySocket("/run/proxy.sock", "proxy=", may_bypass=False)
TCP = Proxy("http://proxy.example:3128", "ada", "hunter2", "HTTPS_PROXY")

E = TypeVar("E", bound=BaseException)


# What is configured.


@pytest.mark.parametrize(
    ("text", "url", "username", "password"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", "", ""),
        ("http://proxy.example:3128/", "http://proxy.example:3128", "", ""),
        ("http://proxy.example:3128/a/path?q#f", "http://proxy.example:3128", "", ""),
        ("https://proxy.example:8443", "https://proxy.example:8443", "", ""),
        ("HTTP://Proxy.Example:3128", "http://proxy.example:3128", "", ""),
        ("http://proxy.example", "http://proxy.example:80", "", ""),
        ("https://proxy.example", "https://proxy.example:443", "", ""),
        ("proxy.example:3128", "http://proxy.example:3128", "", ""),
        ("proxy.example:3128/", "http://proxy.example:3128", "", ""),
        ("ada:hunter2@proxy.example:3128", "http://proxy.example:3128", "ada", "hunter2"),
        ("  http://proxy.example:3128\n", "http://proxy.example:3128", "", ""),
        ("http://10.0.0.1:3128", "http://10.0.0.1:3128", "", ""),
        ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128", "", ""),
        ("http://[::ffff:10.0.0.1]", "http://[::ffff:10.0.0.1]:80", "", ""),
        ("http://ada@proxy.example:1", "http://proxy.example:1", "ada", ""),
        ("http://ada:@proxy.example:1", "http://proxy.example:1", "ada", ""),
        ("http://:hunter2@proxy.example:1", "http://proxy.example:1", "", "hunter2"),
        ("http://ada:a:b@proxy.example:1", "http://proxy.example:1", "ada", "a:b"),
        ("http://ada:a@b@proxy.example:1", "http://proxy.example:1", "ada", "a@b"),
        ("http://a%40b:%2F%3a%C3%BC%25@proxy.example:1", "http://proxy.example:1", "a@b", "/:ü%"),
        ("http://proxy_1.example.:65535", "http://proxy_1.example.:65535", "", ""),
    ],
)
def test_a_proxy_is_read(text: str, url: str, username: str, password: str) -> None:
    rules = ProxyRules.of(text, {})
    assert rules.http == rules.https == Proxy(url, username, password, "proxy=")
    assert rules.sockets == ()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:///run/proxy.sock", "/run/proxy.sock"),
        ("UNIX:///run/proxy.sock", "/run/proxy.sock"),
        ("unix:///run/a%20proxy.sock", "/run/a proxy.sock"),
        ("unix:///run/a@b:c.sock", "/run/a@b:c.sock"),
        ("unix:///run/%ff.sock", "/run/\udcff.sock"),
    ],
)
def test_a_socket_is_read_and_is_never_bypassed(text: str, path: str) -> None:
    rules = ProxyRules.of(text, {})
    assert rules.http == rules.https == ProxySocket(path, "proxy=", may_bypass=False)


NOT_PROXIES = [
    "",
    "proxy.example",
    "none",
    "http://",
    "http://:3128",
    "http://ada:hunter2@:3128",
    "http://ada:hunter2@",
    "http://proxy.example:",
    "http://proxy.example:0",
    "http://proxy.example:65536",
    "http://proxy.example:99999999999999999999",
    "http://proxy.example:٣١٢٨",
    "http://proxy.example:-1",
    "http://proxy.example:3128:3128",
    "http://ada:hunter2",
    "ada:hunter2",
    "http://ada:hunter2@proxy.example:port",
    "http://ada:hunter2@pro xy.example:3128",
    "http://ada:hunter2@proxy.example\t:3128",
    "http://ada:hunter2@proxy.example\\x:3128",
    "http://ada:hunter2@[::1:3128",
    "http://ada:hunter2@[proxy.example]:3128",
    "http://ada:hunter2@[10.0.0.1]:3128",
    "http://ada:hunter2@[fe80::1%eth0]:3128",
    "http://ada:hunter2@::1:3128",
    "http://ada:hunt/er2@proxy.example:3128",
    "http://ada:hunt?er2@proxy.example:3128",
    "http://ada:hunt#er2@proxy.example:3128",
    "http://ada:1/hunter2@proxy.example:3128",
    "http://a%3Ada:hunter2@proxy.example:3128",
    "http://ada:hunter2@a:1,http://ada:hunter2@b:1",
    "http:///proxy.example:3128",
    "//ada:hunter2@proxy.example:3128",
    "http:/ada:hunter2@proxy.example:3128",
    "http//ada:hunter2@proxy.example:3128",
    "ada:hunter2@http://proxy.example:3128",
    "socks5://ada:hunter2@proxy.example:1080",
    "socks5h://proxy.example:1080",
    "ftp://proxy.example",
    "://proxy.example:3128",
    "a b://ada:hunter2",
    "unix:/run/proxy.sock",
    "unix://",
    "unix://run/proxy.sock",
    "unix://ada:hunter2@/run/proxy.sock",
    "unix:///run/%00.sock",
]


@pytest.mark.parametrize("text", NOT_PROXIES)
def test_what_is_no_proxy_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(LadingError) as caught:
        ProxyRules.of(text, {})
    said = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not any(secret in said for secret in ("hunt", "er2", "ada"))
    assert caught.value.message.startswith("proxy=")
    assert "proxy=None" in caught.value.hint
    with pytest.raises(LadingError) as caught:
        Router(ProxyRules.of("auto", {"HTTPS_PROXY": text or "://"})).route(TARGET)
    said = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not any(secret in said for secret in ("hunt", "er2", "ada"))
    assert caught.value.message.startswith("HTTPS_PROXY=")
    assert "unset HTTPS_PROXY" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("socks5://ada:hunter2@proxy.example:1080", "HTTPS_PROXY=socks5://proxy.example:1080 can't be used"),
        ("http://ada:hunter2@proxy.example:99999/x?y", "HTTPS_PROXY=http://proxy.example:99999 can't be used"),
        ("http://ada:hunt/er2@proxy.example:3128", "HTTPS_PROXY=http://proxy.example:3128 can't be used"),
        ("none", "HTTPS_PROXY=http://none can't be used"),
    ],
)
def test_a_refusal_says_which_variable_and_what_is_left_of_the_url(text: str, said: str) -> None:
    router = Router(ProxyRules.of("auto", {"HTTPS_PROXY": text}))
    for _ in range(2):
        with pytest.raises(LadingError) as caught:
            router.route(TARGET)
        assert caught.value.message.startswith(said)
    # Whole, although what an error says loses the secrets in its URLs.
    assert "http://host:3128 or https://host:3128 or unix:///path" in caught.value.hint


@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTPS_PROXY"])
def test_a_variable_that_cant_be_used_is_no_harm_to_who_doesnt_use_it(name: str) -> None:
    router = Router(ProxyRules.of("auto", {name: "socks5h://127.0.0.1:1080", "NO_PROXY": "internal.example"}))
    assert isinstance(router.route(Origin.of("http://localhost:5000/")), Direct)
    assert isinstance(router.route(Origin.of("https://git.internal.example/")), Direct)
    with pytest.raises(LadingError, match="socks5h"):
        router.route(TARGET)
    if name == "HTTPS_PROXY":
        assert isinstance(router.route(PLAIN), Direct)
    everywhere = Router(ProxyRules.of("auto", {name: "socks5h://127.0.0.1:1080", "NO_PROXY": "*"}))
    assert everywhere.route(TARGET) == Direct("NO_PROXY has *")


@given(st.text())
def test_any_text_is_a_proxy_or_refused(text: str) -> None:
    try:
        rules = ProxyRules.of(text, {})
    except LadingError:
        return
    assert text == "auto" or rules.https is not None


def test_no_secret_is_shown() -> None:
    failed = HopFailed(TCP, "tunnel", 407)
    assert "hunter2" not in f"{TCP} {TCP!r} {failed} {failed!r} {failed.args}"
    assert "ada" not in f"{TCP} {TCP!r} {failed} {failed!r} {failed.args}"


@pytest.mark.parametrize(
    ("failed", "text"),
    [
        (HopFailed(CONFIGURED, "dial"), "dial unix /run/proxy.sock"),
        (HopFailed(ProxySocket("/run/\x1b[31m", "", True), "dial"), "dial unix /run/\\x1b[31m"),
        (HopFailed(TCP, "dial"), "dial http://proxy.example:3128"),
        (HopFailed(TCP, "tunnel", 502), "tunnel http://proxy.example:3128"),
    ],
)
def test_a_failed_hop_says_which(failed: HopFailed, text: str) -> None:
    assert str(failed) == text
    for twin in (copy.copy(failed), pickle.loads(pickle.dumps(failed))):
        assert (str(twin), twin.endpoint, twin.stage, twin.status) == (
            text,
            failed.endpoint,
            failed.stage,
            failed.status,
        )


# Which way.

A, B, C, D = (f"http://{letter}.example:1" for letter in "abcd")


def way(origin: Origin, proxy: str | None = "auto", **env: str) -> str:
    """Give the URL or the path of the proxy, or why there is none."""
    match Router(ProxyRules.of(proxy, env)).route(origin):
        case Proxy(url=url):
            return url
        case ProxySocket(path=path):
            return path
        case Direct(why=why):
            return why


NONE = "no proxy is configured"


@pytest.mark.parametrize(
    ("env", "https", "http"),
    [
        ({}, NONE, NONE),
        ({"HTTPS_PROXY": A}, A, NONE),
        ({"https_proxy": A}, A, NONE),
        ({"HTTP_PROXY": A}, NONE, A),
        ({"http_proxy": A}, NONE, A),
        ({"ALL_PROXY": A}, A, A),
        ({"all_proxy": A}, A, A),
        ({"HTTPS_PROXY": A, "HTTP_PROXY": B, "ALL_PROXY": C}, A, B),
        ({"HTTPS_PROXY": A, "ALL_PROXY": C}, A, C),
        ({"HTTP_PROXY": A, "ALL_PROXY": C}, C, A),
        ({"HTTPS_PROXY": A, "https_proxy": B}, B, NONE),
        ({"HTTP_PROXY": A, "http_proxy": B}, NONE, B),
        ({"ALL_PROXY": A, "all_proxy": B}, B, B),
        ({"HTTPS_PROXY": A, "all_proxy": B}, A, B),
        ({"HTTPS_PROXY": A, "https_proxy": ""}, A, NONE),
        ({"HTTPS_PROXY": "", "ALL_PROXY": B}, B, B),
        ({"HTTPS_PROXY": " ", "HTTP_PROXY": "\t", "ALL_PROXY": ""}, NONE, NONE),
        ({"HTTP_PROXY": A, "REQUEST_METHOD": "GET"}, NONE, NONE),
        ({"http_proxy": A, "HTTP_PROXY": B, "REQUEST_METHOD": "GET"}, NONE, A),
        ({"HTTP_PROXY": A, "ALL_PROXY": B, "REQUEST_METHOD": "GET"}, B, B),
        ({"HTTPS_PROXY": A, "REQUEST_METHOD": "GET"}, A, NONE),
        ({"HTTPS_PROXY": "unix:///run/proxy.sock"}, "/run/proxy.sock", NONE),
        # What nobody would use isn't read.
        ({"HTTPS_PROXY": A, "HTTP_PROXY": B, "ALL_PROXY": "socks5://c.example:1"}, A, B),
        ({"HTTP_PROXY": "socks5://c.example:1", "REQUEST_METHOD": "GET"}, NONE, NONE),
    ],
)
def test_the_environment_has_a_proxy_for_each_scheme(env: dict[str, str], https: str, http: str) -> None:
    assert way(TARGET, **env) == https
    assert way(PLAIN, **env) == http


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_knows_which_variable_it_is_from(name: str) -> None:
    assert Router(ProxyRules.of("auto", {name: A})).route(TARGET) == Proxy(A, why=name)


def test_a_proxy_that_is_given_counts_for_everything_and_before_the_environment() -> None:
    env = {"HTTPS_PROXY": A, "http_proxy": B, "ALL_PROXY": C}
    assert way(TARGET, D, **env) == way(PLAIN, D, **env) == D


def test_no_proxy_at_all_is_direct_whatever_is_there(tmp_path: Path) -> None:
    desktop(tmp_path)
    assert way(TARGET, None, HOME=str(tmp_path), HTTPS_PROXY=A) == NONE
    assert ProxyRules.of(None, {"HTTPS_PROXY": "socks5://nothing:1"}) == ProxyRules()


def test_the_environment_is_the_processs_and_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", A)
    router = Router(ProxyRules.of())
    monkeypatch.setenv("HTTPS_PROXY", B)
    assert router.route(TARGET) == Proxy(A, why="HTTPS_PROXY")


@pytest.mark.parametrize("proxy", ["auto", A, "unix:///run/proxy.sock"])
@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.255.0.1", "::1", "[::1]", "::ffff:127.0.0.1"],
)
def test_a_loopback_address_is_direct(host: str, proxy: str, tmp_path: Path) -> None:
    desktop(tmp_path)
    origin = Origin("http", host, 5000)
    assert way(origin, proxy, ALL_PROXY=B, HOME=str(tmp_path)) == "a loopback address"


@pytest.mark.parametrize("host", ["localhost.example", "127.0.0.1.example", "128.0.0.1", "::2", "::ffff:10.0.0.1"])
def test_what_only_looks_like_one_isnt(host: str) -> None:
    assert way(Origin("http", host, 5000), HTTP_PROXY=A) == A


@pytest.mark.parametrize("proxy", ["auto", A, "unix:///run/proxy.sock"])
def test_no_proxy_counts_before_every_proxy(proxy: str, tmp_path: Path) -> None:
    desktop(tmp_path)
    env = {"HOME": str(tmp_path), "ALL_PROXY": B, "NO_PROXY": "other.example,.example"}
    assert way(TARGET, proxy, **env) == "NO_PROXY has .example"
    assert way(Origin("https", "registry.test", 443), proxy, **env) not in ("NO_PROXY has .example", NONE)


@pytest.mark.parametrize(
    ("env", "is_direct"),
    [
        ({"no_proxy": "registry.example", "NO_PROXY": "other"}, True),
        ({"no_proxy": "other", "NO_PROXY": "registry.example"}, False),
        ({"no_proxy": "", "NO_PROXY": "registry.example"}, True),
        ({"no_proxy": " ", "NO_PROXY": "registry.example"}, True),
    ],
)
def test_lower_case_wins_in_no_proxy_too(env: dict[str, str], is_direct: bool) -> None:
    assert (way(TARGET, HTTPS_PROXY=A, **env) != A) is is_direct


# NO_PROXY.


@pytest.mark.parametrize(
    ("text", "host", "port", "matched"),
    [
        ("", "a.example", 443, None),
        (" ,, ,", "a.example", 443, None),
        ("*", "a.example", 443, "*"),
        ("*", "10.0.0.1", 443, "*"),
        ("x, *", "a.example", 443, "*"),
        ("*:5000", "a.example", 5000, "*:5000"),
        ("*:5000", "a.example", 443, None),
        # Domains.
        ("example.com", "example.com", 443, "example.com"),
        ("example.com", "a.b.example.com", 443, "example.com"),
        ("example.com", "notexample.com", 443, None),
        ("example.com", "example.com.evil.test", 443, None),
        ("example.com", "com", 443, None),
        (".example.com", "example.com", 443, None),
        (".example.com", "a.example.com", 443, ".example.com"),
        (".example.com", "notexample.com", 443, None),
        ("*.example.com", "example.com", 443, None),
        ("*.example.com", "a.b.example.com", 443, "*.example.com"),
        ("*.example.com", "notexample.com", 443, None),
        ("EXAMPLE.com", "A.Example.COM", 443, "EXAMPLE.com"),
        ("example.com.", "example.com", 443, "example.com."),
        ("example.com", "example.com.", 443, "example.com"),
        ("example.com.:443", "example.com.", 443, "example.com.:443"),
        ("bücher.example", "a.bücher.example", 443, "bücher.example"),
        ("registry", "registry", 443, "registry"),
        ("registry_1", "registry_1", 443, "registry_1"),
        # Separators, and the first that covers.
        ("a.test,b.test c.test", "b.test", 443, "b.test"),
        ("a.test,b.test c.test", "c.test", 443, "c.test"),
        ("\ta.test\n\nb.test ,", "b.test", 443, "b.test"),
        ("test,a.test", "a.test", 443, "test"),
        # Ports.
        ("example.com:5000", "example.com", 5000, "example.com:5000"),
        ("example.com:5000", "a.example.com", 5000, "example.com:5000"),
        ("example.com:5000", "example.com", 443, None),
        ("example.com:443", "example.com", 5000, None),
        (".example.com:5000", "a.example.com", 5000, ".example.com:5000"),
        ("10.0.0.1:5000", "10.0.0.1", 5000, "10.0.0.1:5000"),
        ("10.0.0.1:5000", "10.0.0.1", 80, None),
        ("[2001:db8::1]:5000", "2001:db8::1", 5000, "[2001:db8::1]:5000"),
        ("[2001:db8::1]:5000", "2001:db8::1", 443, None),
        ("10.0.0.0/8:5000", "10.0.0.1", 5000, "10.0.0.0/8:5000"),
        ("10.0.0.0/8:5000", "10.0.0.1", 443, None),
        # Addresses.
        ("10.0.0.1", "10.0.0.1", 443, "10.0.0.1"),
        ("10.0.0.1", "10.0.0.10", 443, None),
        ("10.0.0.1", "110.0.0.1", 443, None),
        ("10.0.0.1", "1.10.0.0.1", 443, None),
        (".0.0.1", "10.0.0.1", 443, None),
        ("0.0.1", "10.0.0.1", 443, None),
        ("10.0.0", "10.0.0.1", 443, None),
        ("2001:DB8:0::1", "2001:db8::1", 443, "2001:DB8:0::1"),
        ("2001:db8::1", "[2001:db8::1]", 443, "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]"),
        ("2001:db8::1", "2001:db8::1:5000", 443, None),
        ("::ffff:10.0.0.1", "10.0.0.1", 443, "::ffff:10.0.0.1"),
        ("10.0.0.1", "::ffff:10.0.0.1", 443, "10.0.0.1"),
        ("10.0.0.1", "::ffff:a00:1", 443, "10.0.0.1"),
        ("fe80::1", "fe80::1%eth0", 443, "fe80::1"),
        ("fe80::1%eth0", "fe80::1%eth0", 443, "fe80::1%eth0"),
        ("fe80::1%\x1b", "fe80::1", 443, "fe80::1%\\x1b"),
        ("10.0.0.1", "", 443, None),
        # Networks.
        ("10.0.0.0/8", "10.255.0.1", 443, "10.0.0.0/8"),
        ("10.0.0.0/8", "11.0.0.1", 443, None),
        ("10.1.2.3/8", "10.255.0.1", 443, "10.1.2.3/8"),
        ("0.0.0.0/0", "11.0.0.1", 443, "0.0.0.0/0"),
        ("0.0.0.0/0", "2001:db8::1", 443, None),
        ("0.0.0.0/0", "a.example", 443, None),
        ("::/0", "10.0.0.1", 443, None),
        ("2001:db8::/32", "2001:db8:1::1", 443, "2001:db8::/32"),
        ("2001:db8::/32", "2001:db9::1", 443, None),
        ("10.0.0.0/8", "::ffff:10.0.0.1", 443, "10.0.0.0/8"),
        ("::ffff:10.0.0.0/104", "10.255.0.1", 443, "::ffff:10.0.0.0/104"),
        ("::ffff:10.0.0.0/104", "11.0.0.1", 443, None),
        # A name isn't resolved, and doesn't match by what it looks like.
        ("127.0.0.0/8", "localhost", 443, None),
        ("10.0.0.0/8", "10.example", 443, None),
    ],
)
def test_no_proxy(text: str, host: str, port: int, matched: str | None) -> None:
    assert NoProxy.parse(text).match(host, port) == matched


@pytest.mark.parametrize(
    "entry",
    [
        ".",
        "..",
        "**",
        "*.*",
        "*example.com",
        "ex*mple.com",
        "a.*.example",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:999999",
        "example.com:x",
        "example.com:٥",
        ":443",
        "a:1:2",
        "[::1",
        "[::1]x",
        "::1]",
        "[example.com]:443",
        "http://example.com",
        "example.com/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/0.0.0.0",
        "10.0.0.0/255.0.0.0",
        "2001:db8::/129",
        "10.0.0.0/8/8",
        "ada:hunter2@example.com",
        "exa\x1bmple.com",
        "exa\u202emple.com",
    ],
)
def test_an_entry_that_is_none_is_ignored_and_the_others_count(entry: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "lading.http"):
        rules = NoProxy.parse(f"{entry},a.test")
    assert [one.text for one in rules.entries] == ["a.test"]
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "hunter2" not in caplog.text
    assert "\x1b" not in caplog.records[0].getMessage()


_PIECES = st.sampled_from(
    [
        "*",
        ".",
        "a",
        "example.com",
        "10.0.0.1",
        "::1",
        "::ffff:1.2.3.4",
        "[",
        "]",
        ":",
        "/",
        "%",
        "@",
        "8",
        "443",
        ",",
        " ",
    ]
)


@given(st.text() | st.lists(_PIECES).map("".join), st.text() | st.lists(_PIECES).map("".join), st.integers(0, 65535))
def test_no_text_breaks_no_proxy(text: str, host: str, port: int) -> None:
    matched = NoProxy.parse(text).match(host, port)
    assert matched is None or matched.isprintable()


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_matches_itself(address: object, port: int) -> None:
    assert NoProxy.parse(str(address)).match(str(address), port) == str(address)
    assert NoProxy.parse(f"[{address}]:{port}").match(f"[{address}]", port) is not None


@pytest.mark.parametrize(
    "text", ["*." * 60_000, "[" * 120_000, "a:" * 60_000, "1" * 120_000, "a," * 60_000, "." * 120_000]
)
def test_a_long_no_proxy_takes_no_time(text: str) -> None:
    started = time.process_time()
    NoProxy.parse(text).match("a" * 120_000, 443)
    assert time.process_time() - started < 5


# Docker Desktop's socket.


def desktop(home: Path) -> str:
    """Make what looks like Docker Desktop's socket, and give its path."""
    path = desktop_sockets({"HOME": str(home)}, sys.platform)[0]
    os.makedirs(os.path.dirname(path))
    Path(path).touch()
    return path


@pytest.mark.parametrize(
    ("env", "platform", "paths"),
    [
        ({"HOME": "/home/ada"}, "linux", [DESKTOP.path, "/run/host-services/httpproxy.sock"]),
        ({"USERPROFILE": "/home/ada"}, "linux", [DESKTOP.path, "/run/host-services/httpproxy.sock"]),
        ({"HOME": ""}, "linux", ["/run/host-services/httpproxy.sock"]),
        ({"HOME": "."}, "linux", ["/run/host-services/httpproxy.sock"]),
        ({}, "linux", ["/run/host-services/httpproxy.sock"]),
        (
            {"HOME": "/Users/ada"},
            "darwin",
            ["/Users/ada/Library/Containers/com.docker.docker/Data/httpproxy.sock"],
        ),
        ({}, "darwin", []),
        ({"HOME": "/home/ada", "USERPROFILE": "C:\\Users\\ada"}, "win32", []),
        ({"HOME": "/home/ada"}, "freebsd14", []),
    ],
)
def test_where_docker_desktop_may_be(env: dict[str, str], platform: str, paths: list[str]) -> None:
    assert list(desktop_sockets(env, platform)) == paths


def test_the_socket_is_used_while_it_exists(tmp_path: Path) -> None:
    router = Router(ProxyRules.of("auto", {"HOME": str(tmp_path)}))
    assert router.route(TARGET) == Direct(NONE)
    path = desktop(tmp_path)
    assert router.route(TARGET) == router.route(PLAIN) == ProxySocket(path, "Docker Desktop", may_bypass=True)
    os.unlink(path)
    assert router.route(TARGET) == Direct(NONE)


def test_the_socket_is_for_what_no_proxy_is_configured_for(tmp_path: Path) -> None:
    path = desktop(tmp_path)
    assert way(TARGET, HOME=str(tmp_path), HTTPS_PROXY=A) == A
    assert way(PLAIN, HOME=str(tmp_path), HTTPS_PROXY=A) == path


@pytest.mark.parametrize(
    ("value", "is_used"),
    [("1", False), ("true", False), ("yes", False), ("", True), ("0", True), ("false", True), ("FALSE", True)],
)
def test_the_socket_can_be_switched_off(value: str, is_used: bool, tmp_path: Path) -> None:
    path = desktop(tmp_path)
    assert way(TARGET, HOME=str(tmp_path), LADING_NO_DESKTOP_PROXY=value) == (path if is_used else NONE)


def test_a_proxy_that_is_configured_stays_where_the_socket_is_switched_off() -> None:
    assert way(TARGET, HTTPS_PROXY=A, LADING_NO_DESKTOP_PROXY="1") == A


# Outages.


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Two candidates for the socket, a router between them and a clock."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.paths = [str(directory / "first.sock"), str(directory / "second.sock")]
        self.first, self.second = (ProxySocket(path, "Docker Desktop", may_bypass=True) for path in self.paths)
        self.router = Router(ProxyRules(sockets=tuple(self.paths)), self.clock)
        Path(self.paths[0]).touch()

    @property
    def route(self) -> Route:
        return self.router.route(TARGET)

    def uses(self, proxy: ProxySocket) -> bool:
        return self.route == proxy


@pytest.fixture
def machine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Machine:
    caplog.set_level(logging.INFO, "lading.http")
    return Machine(tmp_path)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "lading.http"]


def test_a_socket_that_failed_is_left_alone_for_30_seconds(machine: Machine) -> None:
    machine.router.socket_failed(machine.first, "Connection refused")
    assert machine.route == Direct(f"the proxy socket {machine.first.path} failed a moment ago")
    machine.clock.now += COOLDOWN - 0.001
    assert isinstance(machine.route, Direct)
    machine.clock.now += 0.001
    assert machine.uses(machine.first)
    assert COOLDOWN == 30


def test_200_reports_are_one_warning(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(200):
        machine.router.socket_failed(machine.first, "Permission denied")
    assert levels(caplog) == ["WARNING"]
    text = caplog.records[0].getMessage()
    assert machine.first.path in text
    assert "direct" in text
    assert "30 s" in text
    assert "Permission denied" in text


def test_late_reports_dont_prolong_it(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.router.socket_failed(machine.first, "x")
    machine.clock.now += 29
    machine.router.socket_failed(machine.first, "x")
    machine.clock.now += 1
    assert machine.uses(machine.first)
    assert levels(caplog) == ["WARNING"]


def test_a_probe_that_fails_starts_another_30_seconds_and_is_no_warning(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.router.socket_failed(machine.first, "x")
    for _ in range(3):
        machine.clock.now += 30
        assert machine.uses(machine.first)
        for _ in range(10):
            machine.router.socket_failed(machine.first, "x")
        assert isinstance(machine.route, Direct)
    assert levels(caplog) == ["WARNING", "INFO", "INFO", "INFO"]


def test_a_probe_that_succeeds_ends_the_outage(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.router.socket_failed(machine.first, "x")
    machine.clock.now += 30
    for _ in range(3):
        machine.router.socket_works(machine.first)
        assert machine.uses(machine.first)
    assert caplog.records[-1].getMessage() == f"the proxy socket {machine.first.path} is used again"
    machine.router.socket_failed(machine.first, "x")
    assert levels(caplog) == ["WARNING", "INFO", "WARNING"]


def test_what_was_sent_before_the_outage_doesnt_end_it(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        machine.router.socket_failed(machine.first, "backlog full")
        machine.router.socket_works(machine.first)
    assert isinstance(machine.route, Direct)
    assert levels(caplog) == ["WARNING"]


def test_a_success_without_an_outage_says_nothing(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.router.socket_works(machine.first)
    assert levels(caplog) == []


def test_another_candidate_takes_over(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    Path(machine.paths[1]).touch()
    assert machine.uses(machine.first)
    machine.router.socket_failed(machine.first, "x")
    assert machine.uses(machine.second)
    machine.router.socket_failed(machine.second, "x")
    assert machine.route == Direct(f"the proxy socket {machine.second.path} failed a moment ago")
    machine.clock.now += 30
    assert machine.uses(machine.first)
    assert levels(caplog) == ["WARNING", "WARNING"]


def test_a_socket_that_was_configured_is_never_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    router = Router(ProxyRules(https=CONFIGURED))
    router.socket_failed(CONFIGURED, "x")
    assert router.route(TARGET) == CONFIGURED
    router.socket_works(CONFIGURED)
    assert not caplog.records


def test_a_warning_holds_no_secret_and_drives_no_terminal(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        machine.router.socket_failed(machine.first, "GET https://ada:hunter2@host/path?s1gnature#fr4gment\x1b[31m\n")
        machine.clock.now += 30
    assert levels(caplog) == ["WARNING", "INFO"]
    for message in (record.getMessage() for record in caplog.records):
        assert message.isprintable()
        assert not any(secret in message for secret in ("hunter2", "s1gnature", "fr4gment"))


# Whose failure it is.


def because(error: E, cause: BaseException | None) -> E:
    """Give ``error`` as one that was raised from ``cause``."""
    error.__cause__ = cause
    return error


def while_handling(error: E, context: BaseException | None) -> E:
    error.__context__ = context
    return error


def refused() -> OSError:
    return OSError(errno.ECONNREFUSED, "Connection refused")


def dial(cause: BaseException | None = None, endpoint: Hop = DESKTOP) -> HopFailed:
    return because(HopFailed(endpoint, "dial"), refused() if cause is None else cause)


@pytest.mark.parametrize("endpoint", [DESKTOP, CONFIGURED])
@pytest.mark.parametrize(
    "cause",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        PermissionError(errno.EACCES, "Permission denied"),
        BlockingIOError(errno.EAGAIN, "the backlog is full"),
        OSError("AF_UNIX path too long"),
        OSError(),
        OSError([], "not a number"),
        TimeoutError(),
        ValueError("embedded null byte"),
        ConnectionResetError(),
        EOFError(),
    ],
    ids=lambda cause: f"{type(cause).__name__}-{cause}",
)
def test_a_socket_that_cant_be_dialled_is_its_failure(cause: BaseException, endpoint: ProxySocket) -> None:
    assert is_proxy_socket_error(dial(cause, endpoint))


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(dial(), id="itself"),
        pytest.param(HopFailed(DESKTOP, "dial"), id="without-a-cause"),
        pytest.param(because(ProxyFailed("x"), dial()), id="cause"),
        pytest.param(
            because(because(because(ValueError(), ProxyFailed("x")), ProxyFailed("y")), dial()), id="replaced"
        ),
        pytest.param(because(ValueError(), because(KeyError(), because(ProxyFailed("x"), dial()))), id="causes"),
        pytest.param(while_handling(ProxyFailed("x"), dial()), id="context"),
        pytest.param(while_handling(because(ProxyFailed("x"), None), dial()), id="context-suppressed"),
        pytest.param(while_handling(because(ProxyFailed("x"), ValueError()), dial()), id="context-beside-a-cause"),
        pytest.param(ExceptionGroup("", [ValueError(), dial()]), id="group"),
        pytest.param(
            BaseExceptionGroup("", [asyncio.CancelledError(), ExceptionGroup("", [because(ValueError(), dial())])]),
            id="groups-beside-a-cancellation",
        ),
        pytest.param(because(ValueError(), ExceptionGroup("", [dial()])), id="cause-in-a-group"),
        pytest.param(dial(ExceptionGroup("", [refused()])), id="of-a-group"),
        pytest.param(ExceptionGroup("", [dial(OSError(errno.EMFILE, "")), dial()]), id="two-dials"),
        pytest.param(ExceptionGroup("", [OSError(errno.EMFILE, ""), dial()]), id="beside-exhaustion"),
        pytest.param(because(OSError(errno.EMFILE, ""), dial()), id="below-exhaustion"),
        pytest.param(because(OSError(errno.ECONNREFUSED, ""), dial()), id="below-a-refusal"),
        pytest.param(because(HopFailed(DESKTOP, "tunnel"), dial()), id="below-a-tunnel"),
        pytest.param(dial(TimeoutError()), id="time-is-up"),
    ],
)
def test_it_is_found_anywhere_in_a_chain(error: BaseException) -> None:
    assert is_proxy_socket_error(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(None, id="none"),
        pytest.param(refused(), id="refused-target"),
        pytest.param(because(ConnectFailed("x"), refused()), id="refused-target-translated"),
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file or directory"), id="missing-file"),
        pytest.param(because(ConnectFailed("x"), socket.gaierror(socket.EAI_NONAME, "x")), id="unresolvable-target"),
        pytest.param(ssl.SSLCertVerificationError("x"), id="tls"),
        pytest.param(ProxyFailed("dial unix /run/x: connect: connection refused", status=502), id="only-text"),
        pytest.param(RuntimeError("proxyconnect tcp: dial unix /x: no such file or directory"), id="only-text-again"),
        pytest.param(OSError(errno.ECONNREFUSED, "Connection refused", DESKTOP.path), id="a-socket-of-somebody"),
        pytest.param(dial(endpoint=TCP), id="tcp-proxy"),
        pytest.param(because(HopFailed(TCP, "tunnel", 502), refused()), id="tcp-tunnel"),
        pytest.param(because(HopFailed(DESKTOP, "tunnel", 502), refused()), id="tunnel"),
        pytest.param(because(HopFailed(CONFIGURED, "tunnel"), EOFError()), id="tunnel-of-a-configured-socket"),
        *(
            pytest.param(
                because(ProxyFailed("x"), dial(OSError(number, os.strerror(number)))), id=errno.errorcode[number]
            )
            for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
        ),
        pytest.param(dial(because(ValueError(), OSError(errno.EMFILE, ""))), id="exhaustion-deeper"),
        pytest.param(dial(while_handling(ValueError(), OSError(errno.EMFILE, ""))), id="exhaustion-as-context"),
        pytest.param(dial(ExceptionGroup("", [refused(), OSError(errno.EMFILE, "")])), id="exhaustion-in-a-group"),
        pytest.param(dial(because(ValueError(), dial(MemoryError()))), id="dial-below-a-dial"),
        pytest.param(dial(MemoryError()), id="memory"),
        pytest.param(dial(asyncio.CancelledError()), id="cancelled"),
        pytest.param(dial(because(ValueError(), asyncio.CancelledError())), id="cancelled-deeper"),
        pytest.param(dial(while_handling(refused(), asyncio.CancelledError())), id="failed-while-cancelled"),
        pytest.param(dial(BaseExceptionGroup("", [asyncio.CancelledError()])), id="cancelled-group"),
        pytest.param(while_handling(asyncio.CancelledError(), dial()), id="cancelled-while-handling-it"),
        pytest.param(
            because(ValueError(), while_handling(asyncio.CancelledError(), dial())), id="below-a-cancellation"
        ),
        pytest.param(because(TimeoutError(), while_handling(asyncio.CancelledError(), dial())), id="whole-time-is-up"),
        pytest.param(KeyboardInterrupt(), id="interrupted"),
    ],
)
def test_what_isnt_its_failure(error: BaseException | None) -> None:
    assert not is_proxy_socket_error(error)


async def by_anyio() -> None:
    with anyio.fail_after(0):
        await anyio.sleep_forever()


async def by_asyncio() -> None:
    async with asyncio.timeout(0):
        await anyio.sleep_forever()


async def by_wait_for() -> None:
    await asyncio.wait_for(anyio.sleep_forever(), 0.001)


@pytest.mark.parametrize("wait", [by_anyio, by_asyncio, by_wait_for], ids=lambda wait: wait.__name__)
async def test_a_dial_that_takes_too_long_is_its_failure_however_the_time_is_kept(wait: Any) -> None:
    with pytest.raises(TimeoutError) as caught:
        await wait()
    assert isinstance(caught.value.__context__, asyncio.CancelledError)
    assert is_proxy_socket_error(dial(caught.value))


async def test_a_cancellation_from_outside_isnt() -> None:
    async def dialling() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise HopFailed(DESKTOP, "dial") from error

    task = asyncio.create_task(dialling())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(HopFailed) as caught:
        await task
    assert not is_proxy_socket_error(caught.value)


@pytest.mark.parametrize("link", [because, while_handling], ids=["cause", "context"])
@pytest.mark.parametrize(("cause", "is_failure"), [(EOFError, True), (MemoryError, False)])
def test_a_chain_of_any_depth(link: Any, cause: type[Exception], is_failure: bool) -> None:
    chain: BaseException = dial(cause())
    for _ in range(100_000):
        chain = link(ValueError(), chain)
    started = time.process_time()
    assert is_proxy_socket_error(chain) is is_failure
    assert time.process_time() - started < 5
    dismantle(chain)


def test_a_chain_of_dials_that_are_all_excused_takes_a_walk_and_not_its_square() -> None:
    chain = dial(MemoryError())
    for _ in range(100_000):
        chain = dial(chain)
    started = time.process_time()
    assert not is_proxy_socket_error(chain)
    assert time.process_time() - started < 5
    dismantle(chain)


def test_groups_of_any_depth() -> None:
    error: Any = dial()
    for _ in range(100_000):
        error = BaseExceptionGroup("", [error])
    assert is_proxy_socket_error(error)
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions


def dismantle(error: BaseException | None) -> None:
    """Take a chain apart from its top, so that no destructor recurses."""
    while error is not None:
        below = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = below


def test_a_chain_that_bites_its_tail() -> None:
    first, second, third = ValueError(), KeyError(), OSError(errno.EMFILE, "")
    because(first, second)
    because(second, first)
    assert not is_proxy_socket_error(first)
    hop = because(dial(), second)
    because(second, hop)
    assert is_proxy_socket_error(first)
    while_handling(second, third)
    assert not is_proxy_socket_error(first)
    for error in (first, second, hop):
        error.__cause__ = error.__context__ = None


def test_a_direct_way_that_was_tried_outside_of_the_except_has_its_own_failure() -> None:
    try:
        raise dial()
    except HopFailed:
        pass
    error: BaseException
    try:
        raise ConnectFailed("the registry refused") from refused()
    except ConnectFailed as failed:
        error = failed
    assert not is_proxy_socket_error(error)


_ERRORS = st.sampled_from(
    [
        ValueError,
        refused,
        lambda: OSError(errno.EMFILE, ""),
        lambda: OSError({}, ""),
        TimeoutError,
        MemoryError,
        asyncio.CancelledError,
        lambda: HopFailed(DESKTOP, "dial"),
        lambda: HopFailed(DESKTOP, "tunnel"),
        lambda: HopFailed(TCP, "dial"),
    ]
)


@given(
    st.lists(_ERRORS, min_size=1, max_size=12),
    st.lists(st.tuples(st.booleans(), st.integers(0, 11), st.integers(0, 11)), max_size=30),
    st.booleans(),
)
def test_it_says_what_its_definition_says(
    makers: list[Any], links: list[tuple[bool, int, int]], in_group: bool
) -> None:
    errors: list[BaseException] = [make() for make in makers]
    for is_cause, above, below in links:
        if max(above, below) < len(errors):
            (because if is_cause else while_handling)(errors[above], errors[below])
    top = BaseExceptionGroup("", errors) if in_group else errors[0]
    found = [error for error in beneath(top) if is_dial(error)]
    assert is_proxy_socket_error(top) is any(not any(is_excuse(one) for one in beneath(error)) for error in found)
    for error in errors:
        error.__cause__ = error.__context__ = None


def beneath(error: BaseException) -> list[BaseException]:
    """Give an error and all that is below it, but for what is below a cancellation."""
    found = [error]
    for one in found:
        inner = [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
        if isinstance(one, TimeoutError):
            inner = [below for below in inner if not isinstance(below, asyncio.CancelledError)]
        if not isinstance(one, asyncio.CancelledError):
            found.extend(below for below in inner if below is not None and not any(below is seen for seen in found))
    return found


def is_dial(error: BaseException) -> bool:
    return isinstance(error, HopFailed) and (error.endpoint, error.stage) == (DESKTOP, "dial")


def is_excuse(error: BaseException) -> bool:
    is_exhaustion = isinstance(error, OSError) and error.errno == errno.EMFILE
    return is_exhaustion or isinstance(error, asyncio.CancelledError | MemoryError)


# The shared vectors.


def rebuilt(layers: Sequence[Any] | None) -> BaseException | None:
    """Give the chain of a case as exceptions: what Go wraps is a cause here."""
    error: BaseException | None = None
    for layer in reversed(layers or ()):
        error = rebuilt_layer(layer, error)
    return error


def rebuilt_layer(layer: dict[str, Any], below: BaseException | None) -> BaseException:
    inner = layer.get("inner", layer.get("errors", layer.get("members")))
    if isinstance(inner, dict):
        below = rebuilt_layer(inner, below)
    elif isinstance(inner, list):
        members = [rebuilt_layer(one, None) if isinstance(one, dict) else Exception(one) for one in inner]
        return because(BaseExceptionGroup(layer["type"], members), below)
    elif isinstance(inner, str):
        below = rebuilt_layer({"type": "text-only", "message": inner}, below)
    return because(rebuilt_error(layer), below or cause_of(layer))


def rebuilt_error(layer: dict[str, Any]) -> BaseException:
    kind, message = layer["type"], str(layer.get("message", ""))
    # docker-agent has no other proxy than the socket: what says "proxyconnect" stands for the dial of that one.
    says_dial = kind == "text-only" and any(text in message for text in ("proxyconnect", "dial unix"))
    is_unix = str(layer.get("net", layer.get("network", ""))).startswith("unix")
    if says_dial or layer.get("op") == "proxyconnect" or (is_unix and layer.get("op") == "dial"):
        return HopFailed(DESKTOP, "dial")
    if is_unix:
        return HopFailed(DESKTOP, "tunnel")
    if "errno" in layer:
        return errno_of(layer["errno"], message)
    if kind == "net.OpError":
        return ConnectFailed(f"{layer.get('op')} {layer.get('net')} {message}")
    return KINDS.get(kind, Exception)(message)


KINDS: dict[str, type[BaseException]] = {
    "context.Canceled": asyncio.CancelledError,
    "context.DeadlineExceeded": TimeoutError,
    "os.ErrDeadlineExceeded": TimeoutError,
    "net.timeoutError": TimeoutError,
    "net.DNSError": socket.gaierror,
    "io.EOF": EOFError,
    "io.ErrUnexpectedEOF": EOFError,
    "tls.RecordHeaderError": ssl.SSLError,
    "tls.CertificateVerificationError": ssl.SSLCertVerificationError,
    "x509.UnknownAuthorityError": ssl.SSLCertVerificationError,
    "x509.HostnameError": ssl.SSLCertVerificationError,
}


def errno_of(name: str | int, message: str) -> OSError:
    number = name if isinstance(name, int) else int(getattr(errno, name))
    return OSError(number, message or os.strerror(number))


def cause_of(layer: dict[str, Any]) -> BaseException | None:
    """Give what the text of a layer that has no inner one says that it was."""
    message = str(layer.get("message", ""))
    if layer["type"] != "text-only":
        return errno_of(layer["errno"], message) if layer["type"] == "net.OpError" and "errno" in layer else None
    if "connection refused" in message:
        return refused()
    if "no such file" in message:
        return errno_of("ENOENT", message)
    if "timed out" in message or "timeout" in message:
        return TimeoutError(message)
    return None


@pytest.mark.parametrize("case", vectors("proxy_errors.json", "cases"))
def test_the_shared_cases(case: dict[str, Any]) -> None:
    error = rebuilt(case["chain_outermost_first"])
    outcomes = {case["is_proxy_socket_failure"]} | ({True, False} if case.get("either") else set())
    assert is_proxy_socket_error(error) in outcomes


@pytest.mark.parametrize(
    ("chain", "is_failure"),
    [
        ([{"type": "url.Error"}, {"type": "net.OpError", "op": "dial", "net": "unix", "errno": "ENOENT"}], True),
        ([{"type": "net.OpError", "op": "dial", "net": "unix", "inner": {"type": "context.Canceled"}}], False),
        ([{"type": "net.OpError", "op": "dial", "net": "unix", "inner": {"type": "context.DeadlineExceeded"}}], True),
        ([{"type": "net.OpError", "op": "dial", "net": "unix"}, {"type": "syscall.Errno", "errno": "EMFILE"}], False),
        ([{"type": "net.OpError", "op": "read", "net": "unix", "inner": {"type": "io.EOF"}}], False),
        ([{"type": "net.OpError", "op": "proxyconnect", "net": "tcp", "inner": {"type": "x"}}], True),
        (
            [
                {
                    "type": "errors.joinError",
                    "errors": [{"type": "io.EOF"}, {"type": "text-only", "message": "dial unix"}],
                }
            ],
            True,
        ),
        ([{"type": "net.OpError", "op": "dial", "net": "tcp", "errno": "ECONNREFUSED"}], False),
    ],
)
def test_the_cases_are_rebuilt_as_what_they_stand_for(chain: list[Any], is_failure: bool) -> None:
    assert is_proxy_socket_error(rebuilt(chain)) is is_failure
