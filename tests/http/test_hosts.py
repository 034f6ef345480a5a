"""Hosts: what is configured for a registry, by a program or in a certs.d, and what is said when it can't be used."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from others import open_to_others

from lading.errors import InvalidHosts, LadingError
from lading.http.hosts import Capability, Host, HostsConfig, RegistryHosts
from lading.http.transport import Origin, Site

REGISTRY = "registry.example"
SERVER = Host(f"https://{REGISTRY}")
ALL: frozenset[Capability] = frozenset({"pull", "resolve", "push"})


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def toml(root: Path, text: str, name: str = REGISTRY) -> Path:
    return write(root / name / "hosts.toml", text)


def lookup(root: Path, text: str, registry: str = REGISTRY) -> RegistryHosts:
    """Look a registry up whose hosts.toml this is."""
    toml(root, text, registry)
    return HostsConfig(directories=[root]).lookup(registry)


def refusal(config: HostsConfig, registry: str = REGISTRY) -> InvalidHosts:
    with pytest.raises(InvalidHosts) as caught:
        config.lookup(registry)
    return caught.value


def assert_silent(error: BaseException | None) -> None:
    """Nothing that is planted is shown, by the error or by what caused it."""
    while error is not None:
        assert "planted" not in str(error) + repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while, where the tests run as root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable(tmp_path: Path) -> Path:
    """Give a directory that also nobody gets to."""
    open_to_others(tmp_path)
    return tmp_path


# A host


@pytest.mark.parametrize(
    ("url", "override_path", "root"),
    [
        ("https://mirror.example", False, "https://mirror.example/v2"),
        ("https://mirror.example/", False, "https://mirror.example/v2"),
        ("https://mirror.example:5000", False, "https://mirror.example:5000/v2"),
        ("http://127.0.0.1:5001", False, "http://127.0.0.1:5001/v2"),
        ("http://[::1]:5001/", False, "http://[::1]:5001/v2"),
        ("HTTPS://Mirror.Example/Team", False, "https://mirror.example/Team/v2"),
        ("https://mirror.example/team/", False, "https://mirror.example/team/v2"),
        ("https://mirror.example/v2", False, "https://mirror.example/v2"),
        ("https://mirror.example/v2/", False, "https://mirror.example/v2"),
        ("https://mirror.example/team/v2", False, "https://mirror.example/team/v2"),
        ("https://mirror.example/teamv2", False, "https://mirror.example/teamv2/v2"),
        ("https://mirror.example/v2/team", False, "https://mirror.example/v2/team/v2"),
        ("https://mirror.example//a/../b", False, "https://mirror.example/b/v2"),
        ("https://mirror.example/a/..", False, "https://mirror.example/v2"),
        ("https://mirror.example", True, "https://mirror.example"),
        ("https://mirror.example/", True, "https://mirror.example"),
        ("https://mirror.example/v2/team", True, "https://mirror.example/v2/team"),
        ("https://mirror.example/api/", True, "https://mirror.example/api"),
    ],
)
def test_the_root_of_the_api(url: str, override_path: bool, root: str) -> None:
    assert Host(url, override_path=override_path).root == root


def test_a_host_is_a_value_that_may_do_everything_at_first() -> None:
    host = Host("https://mirror.example:5000")
    assert (host.capabilities, host.ca, host.certificates, host.insecure) == (ALL, (), (), False)
    assert (dict(host.headers), host.override_path) == ({}, False)
    assert host == Host("https://mirror.example:5000", capabilities=["push", "pull", "resolve", "pull"])
    assert host != replace(host, headers={"X-Team": "a"})
    assert len({host, replace(host), replace(host, headers={"X-Team": "a"})}) == 2
    assert host.origin == Origin("https", "mirror.example", 5000)


def test_a_host_keeps_what_it_was_given() -> None:
    headers = {"X-Team": "a"}
    pairs = [("a.cert", Path("a.key"))]
    host = Host("https://h", {"pull"}, [Path("a.pem")], pairs, True, headers)
    headers["X-Team"] = "b"
    pairs.clear()
    assert host.site == Site(
        Origin("https", "h", 443), ("a.pem",), (("a.cert", "a.key"),), True, headers=(("X-Team", "a"),)
    )
    with pytest.raises(TypeError):
        host.headers["X-Team"] = "c"  # type: ignore[index]
    assert Host("https://h", "pull", "a.pem").ca == ("a.pem",)
    assert Host("https://h", "pull").capabilities == {"pull"}
    assert Host("https://h", ()).capabilities == set()


def test_a_host_doesnt_show_its_headers() -> None:
    host = Host("https://h", headers={"Authorization": "planted"})
    assert "planted" not in repr(host) + repr(host.site) + repr(RegistryHosts(host)) + repr(HostsConfig({"h": host}))


NOT_URLS = [
    "",
    "mirror.example",
    "mirror.example:5000",
    "//mirror.example",
    "https://",
    "https://:443",
    "https:///v2",
    "https://h:",
    "https://h:x",
    "https://h:99999",
    "https://[::1",
    "https://[x]",
    "https://[v1.x]",
    "https://h%2e",
    "https://*.example",
    "https://a,b",
    "ftp://h",
    "unix:///run/registry.sock",
    "https://h?ns=x",
    "https://h/?",
    "https://h/#v2",
    "https://h/a b",
    "https://h\\evil",
    "https://h/\r\n",
    " https://h",
    "https://bücher.example",
    "https://user@h",
    "https://user:planted@h",
    "https://user:planted pass@h",
    "https://user:plan/planted@h",
    "https://user:p?planted@h",
    "user:planted@h",
    "user:planted@h?at=https://h",
]


@pytest.mark.parametrize("url", NOT_URLS)
def test_what_isnt_a_url_of_a_host(url: str) -> None:
    with pytest.raises(InvalidHosts) as caught:
        Host(url)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LadingError)
    assert caught.value.hint
    assert_silent(caught.value)


@pytest.mark.parametrize("url", ["https://h/[x]", "https://my_mirror", "https://h/@team", "http://10.0.0.1:80/a~b%20c"])
def test_what_is_one_after_all(url: str) -> None:
    assert Host(url).root == f"{url}/v2"


@pytest.mark.parametrize("capabilities", [["fly"], ["pull", "PULL"], "fly", [""], ["referrers"]])
def test_unknown_capabilities_are_refused(capabilities: list[str]) -> None:
    with pytest.raises(InvalidHosts, match="capability"):
        Host("https://h", capabilities)


@pytest.mark.parametrize(
    "headers",
    [
        {"": "planted"},
        {"X Team": "planted"},
        {"X-Team:": "planted"},
        {"Authorization: Bearer planted": ""},
        {"X-Tëam": "planted"},
        {"X-Team": "planted\r\nX-Evil: 1"},
        {"X-Team": "planted\n"},
        {"X-Team": "planted\t"},
        {"X-Team": "planted\0"},
        {"X-Team": "plantéd planted"},
        {"Host": "planted"},
        {"host": "planted"},
        {"Content-Length": "planted"},
        {"Transfer-Encoding": "planted"},
        {"CONNECTION": "planted"},
        {"Proxy-Authorization": "planted"},
        {"X-Team": "planted", "x-team": "planted"},
    ],
)
def test_headers_that_cant_be_sent(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidHosts, match="header") as caught:
        Host("https://h", headers=headers)
    assert_silent(caught.value)


def test_headers_that_can() -> None:
    headers = {"Authorization": "Basic Zm9v", "X-Empty": "", "x_!#$": "~ !"}
    assert dict(Host("https://h", headers=headers).headers) == headers


# A program's values


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("index.docker.io", "https://registry-1.docker.io"),
        ("registry-1.docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("GHCR.io", "https://ghcr.io"),
        ("registry.example:5000", "https://registry.example:5000"),
        ("localhost", "http://localhost"),
        ("LOCALHOST:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.8.8.8", "http://127.8.8.8"),
        ("[::1]", "http://[::1]"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[2001:db8::1]:5000", "https://[2001:db8::1]:5000"),
        ("10.0.0.1:80", "https://10.0.0.1:80"),
        ("localhost.example", "https://localhost.example"),
    ],
)
def test_a_registry_for_which_nothing_is_configured(tmp_path: Path, registry: str, url: str) -> None:
    for config in (HostsConfig(), HostsConfig(directories=[tmp_path, tmp_path / "absent", write(tmp_path / "file")])):
        assert config.lookup(registry) == RegistryHosts(Host(url))


NOT_REGISTRIES = [
    "",
    ".",
    "..",
    "../docker.io",
    "docker.io/..",
    "a/b",
    "/etc",
    "a\\b",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a b",
    "a\n",
    "a\0",
    "_default",
    "registry.example_5000_",
    "https://ghcr.io",
    "ghcr.io:",
    "ghcr.io:٣",
    "ghcr.io:99999",
    "[::1",
    "[:::]",
    "[..]",
    "İ",
    "user:planted@ghcr.io",
]


@pytest.mark.parametrize("registry", NOT_REGISTRIES)
def test_what_isnt_the_name_of_a_registry(tmp_path: Path, registry: str) -> None:
    root = tmp_path / "a" / "certs.d"
    for name in ("a/certs.d/_default", "a/certs.d", "a", "a/docker.io"):
        toml(tmp_path, 'server = "https://planted.example"', name)
    error = refusal(HostsConfig(directories=[root]), registry)
    assert_silent(error)


def test_a_name_that_no_directory_can_have(tmp_path: Path) -> None:
    name = "a" * 300
    assert HostsConfig(directories=[tmp_path]).lookup(name).server.url == f"https://{name}"


def test_a_host_alone_is_the_server() -> None:
    server = Host("https://hub.internal/proxy", ["pull", "resolve"])
    for key in ("docker.io", "index.docker.io", "Registry-1.docker.io"):
        config = HostsConfig({key: server}, default_mirrors=[Host("https://mirror.example")])
        assert config.lookup("docker.io") == config.lookup("index.docker.io") == RegistryHosts(server)
        assert config.lookup("ghcr.io").mirrors == (Host("https://mirror.example"),)


def test_two_configurations_of_one_registry_are_refused() -> None:
    with pytest.raises(InvalidHosts, match="two"):
        HostsConfig({"docker.io": SERVER, "index.docker.io": SERVER})
    with pytest.raises(InvalidHosts, match="name of a registry"):
        HostsConfig({"https://ghcr.io": SERVER})


def test_values_win_over_files(tmp_path: Path) -> None:
    toml(tmp_path, "broken")
    write(tmp_path / REGISTRY / "ca.crt")
    hosts = RegistryHosts(SERVER, (Host("http://127.0.0.1:5001"), Host("https://mirror.example")))
    assert HostsConfig({REGISTRY: hosts}, directories=[tmp_path]).lookup(REGISTRY) == hosts


def test_default_mirrors_replace_those_of_files_and_leave_the_server(tmp_path: Path) -> None:
    toml(tmp_path, 'server = "http://registry.example"\n[host."https://file.example"]')
    toml(tmp_path, '[host."https://all.example"]', "_default")
    mirror = Host("https://mirror.example", ["pull"])
    config = HostsConfig(default_mirrors=[mirror], directories=[tmp_path])
    assert config.lookup(REGISTRY) == RegistryHosts(Host("http://registry.example"), (mirror,))
    assert config.lookup("ghcr.io") == RegistryHosts(Host("https://ghcr.io"), (mirror,))
    assert config.lookup("mirror.example") == RegistryHosts(Host("https://mirror.example"))


def test_files_that_a_program_names_must_exist(tmp_path: Path) -> None:
    here = str(write(tmp_path / "here.pem"))
    absent = str(tmp_path / "absent.pem")
    good = Host("https://good.example", ca=[here], certificates=[(here, ""), (here, here)])
    assert HostsConfig({REGISTRY: good}).lookup(REGISTRY).server == good
    for bad in (
        replace(good, ca=(here, absent)),
        replace(good, certificates=((absent, here),)),
        replace(good, certificates=((here, absent),)),
        replace(good, ca=(str(tmp_path),)),
        replace(good, ca=("nul\0nul",)),
    ):
        for config in (
            HostsConfig({REGISTRY: bad}),
            HostsConfig({REGISTRY: RegistryHosts(SERVER, (bad,))}),
            HostsConfig(default_mirrors=[bad]),
        ):
            error = refusal(config)
            assert REGISTRY in str(error)
            assert "https://good.example" in str(error)
            assert error.hint


# hosts.toml


def test_a_local_mirror_of_the_hub(tmp_path: Path) -> None:
    ca = write(tmp_path / "docker.io" / "internal.crt")
    text = """
        server = "https://registry-1.docker.io"

        [host."https://public.mirror.example"]
          capabilities = ["pull"]
        [host."https://docker.internal"]
          capabilities = ["pull", "Resolve"]
          ca = "internal.crt"
    """
    for registry in ("docker.io", "index.docker.io"):
        toml(tmp_path, text, "docker.io")
        assert HostsConfig(directories=[tmp_path]).lookup(registry) == RegistryHosts(
            Host("https://registry-1.docker.io"),
            (
                Host("https://public.mirror.example", ["pull"]),
                Host("https://docker.internal", ["pull", "resolve"], ca=[ca]),
            ),
        )


def test_the_first_example_of_the_documentation_leaves_the_hub_able_to_push(tmp_path: Path) -> None:
    text = 'server = "https://docker.io"\n[host."https://registry-1.docker.io"]\ncapabilities = ["pull", "resolve"]'
    assert lookup(tmp_path, text, "docker.io") == RegistryHosts(Host("https://registry-1.docker.io"))


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    directory = tmp_path / REGISTRY
    for name in ("root.pem", "tls/mirror.pem", "own.cert", "own.key", "both.pem"):
        write(directory / name)
    elsewhere = write(tmp_path / "elsewhere.pem")
    text = f"""
        server = "https://upstream.example:8443/team"
        ca = "root.pem"
        client = "both.pem"
        skip_verify = true
        capabilities = ["pull", "resolve"]

        [header]
          x-one = "a"

        [host."https://all.example/eu"]
          capabilities = ["pull", "resolve", "push", "referrers"]
          ca = ["tls/mirror.pem", "{elsewhere}"]
          client = [["own.cert", "own.key"], ["both.pem", ""], "both.pem"]
          [host."https://all.example/eu".header]
            x-one = ["a", "b"]
            x-none = []

        [host."http://plain.example"]
          capabilities = []
          skip_verify = false
          dial_timeout = "3s"

        [host."https://odd.example/v2/prefix"]
          override_path = true

        [host."https://lists.example"]
          client = ["both.pem", "own.cert"]

        [host."https://only-headers.example".header]
          x-two = "c"

        [host."https://referrers.example"]
          capabilities = ["referrers"]
    """
    at = {path.name: str(path) for path in (*directory.iterdir(), directory / "tls" / "mirror.pem")}
    both = (at["both.pem"], "")
    assert lookup(tmp_path, text) == RegistryHosts(
        Host(
            "https://upstream.example:8443/team",
            ["pull", "resolve"],
            ca=[at["root.pem"]],
            certificates=[both],
            insecure=True,
            headers={"x-one": "a"},
        ),
        (
            Host(
                "https://all.example/eu",
                ca=[at["mirror.pem"], elsewhere],
                certificates=[(at["own.cert"], at["own.key"]), both, both],
                headers={"x-one": "a, b"},
            ),
            Host("http://plain.example"),
            Host("https://odd.example/v2/prefix", override_path=True),
            Host("https://lists.example", certificates=[both, (at["own.cert"], "")]),
            Host("https://only-headers.example", headers={"x-two": "c"}),
            Host("https://referrers.example", []),
        ),
    )


def test_without_a_server_the_registry_itself_is_configured(tmp_path: Path) -> None:
    text = 'skip_verify = true\ncapabilities = ["pull"]\n[header]\nx-one = "a"'
    assert lookup(tmp_path, text) == RegistryHosts(
        replace(SERVER, capabilities=frozenset({"pull"}), insecure=True, headers={"x-one": "a"})
    )
    assert lookup(tmp_path, "") == lookup(tmp_path, 'server = ""') == RegistryHosts(SERVER)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mirror.example", "https://mirror.example"),
        ("mirror.example:5000/team", "https://mirror.example:5000/team"),
        ("10.0.0.1:80", "https://10.0.0.1:80"),
        ("httpd.example", "https://httpd.example"),
        ("http://mirror.example", "http://mirror.example"),
        ("localhost:5000", "http://localhost:5000"),
        ("Localhost", "http://Localhost"),
        ("127.0.0.1:5000/team", "http://127.0.0.1:5000/team"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("https://localhost:5000", "https://localhost:5000"),
        ("docker.io", "https://registry-1.docker.io"),
        ("https://docker.io/v2/", "https://registry-1.docker.io"),
        ("https://docker.io/team", "https://docker.io/team"),
    ],
)
def test_a_url_without_a_scheme(tmp_path: Path, text: str, url: str) -> None:
    assert lookup(tmp_path, f'server = "{text}"').server == Host(url)
    assert lookup(tmp_path, f'[host."{text}"]').mirrors == (Host(url),)


def test_mirrors_keep_the_order_of_the_file(tmp_path: Path) -> None:
    urls = [f"https://{name}.example" for name in "zaymbx"]
    text = "\n".join(f'[host."{url}"]\n[host."{url}".header]\nx-one = "a"' for url in urls)
    assert [mirror.url for mirror in lookup(tmp_path, text).mirrors] == urls


@pytest.mark.parametrize("url", ["https://registry.example", "https://Registry.example:443/v2/", "registry.example"])
def test_a_mirror_that_is_the_server_adds_to_the_servers_configuration(tmp_path: Path, url: str) -> None:
    for name in ("a.pem", "b.pem"):
        write(tmp_path / REGISTRY / name)
    text = f"""
        capabilities = ["pull"]
        ca = ["a.pem"]
        header = {{ x-one = "server", X-Two = "server" }}
        [host."https://mirror.example"]
        [host."{url}"]
          capabilities = ["resolve"]
          ca = ["b.pem", "a.pem"]
          client = "b.pem"
          skip_verify = true
          header = {{ x-two = "mirror" }}
    """
    a, b = (str(tmp_path / REGISTRY / name) for name in ("a.pem", "b.pem"))
    server = Host(
        "https://registry.example",
        ["pull", "resolve"],
        ca=[b, a],
        certificates=[(b, "")],
        insecure=True,
        headers={"x-one": "server", "x-two": "mirror"},
    )
    assert lookup(tmp_path, text) == RegistryHosts(server, (Host("https://mirror.example"),))


@pytest.mark.parametrize(
    "url", ["http://registry.example", "https://registry.example:5000", "https://registry.example/eu"]
)
def test_a_mirror_at_the_servers_name_may_still_be_another_host(tmp_path: Path, url: str) -> None:
    assert lookup(tmp_path, f'[host."{url}"]\nskip_verify = true') == RegistryHosts(SERVER, (Host(url, insecure=True),))


def test_plain_http_to_another_machine_is_never_inferred(tmp_path: Path) -> None:
    text = 'server = "10.0.0.1:80"\nskip_verify = true\n[host."mirror.example:80"]\nskip_verify = true'
    hosts = lookup(tmp_path, text)
    assert [host.origin.scheme for host in (hosts.server, *hosts.mirrors)] == ["https", "https"]


def test_keys_that_mean_nothing_here_are_ignored_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lading")
    text = 'proxy = "http://planted"\ndial_timeout = 1\n[host."https://m.example"]\ndial_timeout = "planted"\n[extra]\n'
    assert lookup(tmp_path, text) == RegistryHosts(SERVER, (Host("https://m.example"),))
    for key in ("proxy", "dial_timeout", 'host."https://m.example".dial_timeout', "extra"):
        assert f": {key} is ignored" in caplog.text
    assert "planted" not in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_misspelt_key_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        'sever = "https://planted"\nextra = 1\n[host."https://m.example"]\ncapabilites = ["planted"]\nCA = "planted"\n'
    )
    hosts = lookup(tmp_path, text)
    assert hosts == RegistryHosts(SERVER, (Host("https://m.example"),))
    file = tmp_path / REGISTRY / "hosts.toml"
    assert hosts.ignored == {
        f"{file}: extra": "",
        f"{file}: sever": "server",
        f'{file}: host."https://m.example".CA': "ca",
        f'{file}: host."https://m.example".capabilites': "capabilities",
    }
    assert caplog.messages == [
        f"{file}: ignored: sever (did you mean server?), "
        'host."https://m.example".CA (did you mean ca?), '
        'host."https://m.example".capabilites (did you mean capabilities?)'
    ]


def test_default_mirrors_dont_hide_it(tmp_path: Path) -> None:
    lookup(tmp_path, "skip_verfy = true\n")
    config = HostsConfig(directories=[tmp_path], default_mirrors=[Host("https://m.example")])
    assert list(config.lookup(REGISTRY).ignored.values()) == ["skip_verify"]


BROKEN = [
    ("planted", ""),
    ('planted = "\\q"', "line 1"),
    ('x = "planted', ""),
    ('[host."https://h"]\n[host."https://h"]', "line 2"),
    ("x = " + "[" * 100_000, ""),
    ("x = " + "1" * 5000, ""),
    ("#" + "x" * 1024 * 1024, "1048576 bytes"),
    ("server = 5", ": server:"),
    ('server = "ftp://h"', ": server:"),
    ('server = "https://user:planted@h"', ": server:"),
    ('server = "user:planted@h"', ": server:"),
    ('server = "https:/h"', ": server:"),
    ('server = "a b"', ": server:"),
    ('server = "https://h?planted=1"', ": server:"),
    ('server = "/etc"', ": server:"),
    ("host = 5", ": host:"),
    ("host = []", ": host:"),
    ("[[host]]", ": host:"),
    ('host."https://h" = 5', ': host."https://h":'),
    ('[host."https://h#planted"]', ': host."https://h":'),
    ('[host."https://user:plan ted@h/planted"]', ': host."https://…":'),
    ('[host."user:planted@h"]\nca = 5', ': host."…".ca:'),
    ('[host.""]', ': host."":'),
    ("ca = 5", ": ca:"),
    ("ca = [5]", ": ca:"),
    ('ca = [["a.pem"]]', ": ca:"),
    ('ca = "absent.pem"', "/absent.pem"),
    ('ca = ["a.pem", "/planet/absent.pem"]', "/planet/absent.pem"),
    ('ca = ""', ": ca:"),
    ('ca = "nul\\u0000nul"', ": ca:"),
    (f'ca = "{"x" * 300}"', ": ca:"),
    ("client = 5", ": client:"),
    ("client = [5]", ": client:"),
    ('client = [["a.pem"]]', ": client:"),
    ("client = [[]]", ": client:"),
    ('client = [["a.pem", "a.pem", "a.pem"]]', ": client:"),
    ('client = [["a.pem", 5]]', ": client:"),
    ('client = [["", "a.pem"]]', ": client:"),
    ('client = [["a.pem", "absent.key"]]', "/absent.key"),
    ('client = "absent.pem"', "/absent.pem"),
    ('skip_verify = "false"', ": skip_verify:"),
    ("skip_verify = 1", ": skip_verify:"),
    ('override_path = "true"', ": override_path:"),
    ('capabilities = "pull"', ": capabilities:"),
    ("capabilities = [5]", ": capabilities:"),
    ('capabilities = ["pull", "fly"]', ": capabilities: 'fly'"),
    ('[host."https://h"]\ncapabilities = ["fly"]', ': host."https://h".capabilities:'),
    ('[host."https://h"]\nskip_verify = 0', ': host."https://h".skip_verify:'),
    ('header = "X-Team: planted"', ": header:"),
    ("header = { X-Team = 5 }", ": header:"),
    ('header = { X-Team = ["planted", 5] }', ": header:"),
    ('header = { X-Team = "planted\\n" }', ": header: the value of the header X-Team"),
    ('header = { X-Team = ["planted", "é"] }', ": header:"),
    ('header = { "X-Team: planted" = "" }', ": header:"),
    ('header = { X-Team = "planted", x-team = "planted" }', ": header:"),
    ('[host."https://h".header]\nHost = "planted"', ': host."https://h".header: the header Host'),
]


@pytest.mark.parametrize(("text", "names"), BROKEN, ids=[text[:60] for text, _ in BROKEN])
def test_a_broken_file_is_an_error_that_names_it_and_the_key(tmp_path: Path, text: str, names: str) -> None:
    write(tmp_path / REGISTRY / "a.pem")
    path = toml(tmp_path, text)
    config = HostsConfig(directories=[tmp_path])
    error = refusal(config)
    assert str(path) in str(error)
    assert names in str(error)
    assert error.hint
    assert_silent(error)
    assert config.lookup("other.example") == RegistryHosts(Host("https://other.example"))


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = toml(tmp_path, "")
    path.write_bytes(b'x = "planted \xff"')
    error = refusal(HostsConfig(directories=[tmp_path]))
    assert str(path) in str(error)
    assert_silent(error)


def test_a_file_of_exactly_the_limit(tmp_path: Path) -> None:
    text = "skip_verify = true #"
    assert lookup(tmp_path, text + "x" * (1024 * 1024 - len(text))).server.insecure


def test_what_only_looks_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / REGISTRY / "hosts.toml"
    path.mkdir(parents=True)
    assert str(path) in str(refusal(HostsConfig(directories=[tmp_path])))
    path.rmdir()
    path.symlink_to(path)
    assert str(path) in str(refusal(HostsConfig(directories=[tmp_path])))
    path.unlink()
    os.mkfifo(path)
    assert str(path) in str(refusal(HostsConfig(directories=[tmp_path])))
    path.unlink()
    os.mkfifo(tmp_path / "pipe")
    toml(tmp_path, 'ca = "../pipe"')
    assert "pipe" in str(refusal(HostsConfig(directories=[tmp_path])))


# Which directory


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        ("registry.example", ["registry.example"]),
        ("registry.example:5000", ["registry.example_5000_", "registry.example:5000"]),
        ("[::1]:5000", ["[::1]_5000_", "[::1]:5000"]),
        ("[::1]", ["[::1]"]),
        ("docker.io", ["docker.io"]),
        ("Registry.Example", ["registry.example"]),
    ],
)
def test_the_names_of_a_registrys_directory_the_first_first(tmp_path: Path, registry: str, names: list[str]) -> None:
    for name in reversed([*names, "_default"]):
        toml(tmp_path, f'server = "https://winner.example/{name}"', name)
        server = HostsConfig(directories=[tmp_path]).lookup(registry).server
        assert server.url == f"https://winner.example/{name}"


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        ("registry.example", "registry.example:5000"),
        ("registry.example", "registry.example_5000_"),
        ("registry.example:5000", "registry.example"),
        ("docker.io", "registry-1.docker.io"),
        ("docker.io", "index.docker.io"),
        ("[::1]", "[:_1]_"),
    ],
)
def test_a_directory_of_another_name_is_another_registrys(tmp_path: Path, registry: str, name: str) -> None:
    toml(tmp_path, "broken", name)
    write(tmp_path / name / "ca.crt")
    config = HostsConfig(directories=[tmp_path])
    assert config.lookup(registry) == HostsConfig().lookup(registry)


def test_the_default_holds_for_every_registry_without_a_directory(tmp_path: Path) -> None:
    toml(tmp_path, 'skip_verify = true\n[host."https://mirror.example"]\ncapabilities = ["pull"]', "_default")
    (tmp_path / "own.example").mkdir()
    write(tmp_path / "file.example")
    config = HostsConfig(directories=[tmp_path])
    mirrors = (Host("https://mirror.example", ["pull"]),)
    assert config.lookup("docker.io") == RegistryHosts(Host("https://registry-1.docker.io", insecure=True), mirrors)
    assert config.lookup("file.example:5") == RegistryHosts(Host("https://file.example:5", insecure=True), mirrors)
    assert config.lookup("file.example").mirrors == mirrors
    assert config.lookup("own.example") == RegistryHosts(Host("https://own.example"))
    assert config.lookup("mirror.example") == RegistryHosts(Host("https://mirror.example", insecure=True))


def test_a_server_of_the_default_answers_for_all_of_them(tmp_path: Path) -> None:
    toml(tmp_path, 'server = "https://proxy.example"', "_default")
    for registry in ("docker.io", "ghcr.io", "localhost:5000"):
        assert HostsConfig(directories=[tmp_path]).lookup(registry) == RegistryHosts(Host("https://proxy.example"))


def test_the_first_root_with_a_file_wins(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in "abc"]
    config = HostsConfig(directories=["absent", *map(str, roots)])
    assert config.directories == (Path("absent"), *roots)
    (roots[0] / REGISTRY).mkdir(parents=True)
    for root in reversed(roots[1:]):
        toml(root, f'server = "https://{root.name}.example"')
        assert config.lookup(REGISTRY).server.url == f"https://{root.name}.example"
    toml(roots[0], "")
    assert config.lookup(REGISTRY) == RegistryHosts(SERVER)


def test_a_registrys_own_file_wins_over_a_default_before_it(tmp_path: Path) -> None:
    toml(tmp_path / "a", '[host."https://mirror.example"]', "_default")
    toml(tmp_path / "b", 'server = "http://registry.example"')
    config = HostsConfig(directories=[tmp_path / "a", tmp_path / "b"])
    assert config.lookup(REGISTRY) == RegistryHosts(Host("http://registry.example"))
    assert config.lookup("ghcr.io").mirrors == (Host("https://mirror.example"),)


def test_a_root_that_isnt_a_path() -> None:
    assert "nul" in str(refusal(HostsConfig(directories=["nul\0nul"])))


def test_a_directory_that_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / REGISTRY
    path.symlink_to("absent")
    config = HostsConfig(directories=[tmp_path])
    assert config.lookup(REGISTRY) == RegistryHosts(SERVER)
    path.unlink()
    path.symlink_to(path)
    assert str(path) in str(refusal(config))


def test_no_permission_is_an_error_of_that_registry(reachable: Path) -> None:
    path = toml(reachable, "")
    key = write(reachable / "key.example" / "secret.pem")
    toml(reachable, 'client = "secret.pem"', "key.example")
    closed = toml(reachable, "", "closed.example").parent
    config = HostsConfig(directories=[reachable])
    for file in (path, key, closed):
        file.chmod(0)
    with without_privileges():
        assert str(path) in str(refusal(config))
        assert str(key) in str(refusal(config, "key.example"))
        assert str(closed) in str(refusal(config, "closed.example"))
        assert config.lookup("other.example") == RegistryHosts(Host("https://other.example"))
    closed.chmod(0o755)


def test_a_directory_that_can_be_entered_and_not_listed(reachable: Path) -> None:
    directory = reachable / REGISTRY
    directory.mkdir()
    directory.chmod(0o111)
    with without_privileges():
        assert str(directory) in str(refusal(HostsConfig(directories=[reachable])))
    directory.chmod(0o755)


def test_a_root_of_others_is_passed_over_where_the_program_didnt_name_it(
    reachable: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "lading")
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda: str(reachable))
    closed = reachable / "containerd" / "certs.d"
    toml(closed, "broken")
    toml(reachable / "docker" / "certs.d", 'server = "http://registry.example"')
    closed.chmod(0)
    with without_privileges():
        assert HostsConfig.standard().lookup(REGISTRY).server.url == "http://registry.example"
        assert f"{closed} is passed over" in caplog.text
        assert str(closed) in str(refusal(HostsConfig(directories=[closed])))
    closed.chmod(0o755)


def test_the_standard_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda: str(tmp_path))
    system = (Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))
    user = (tmp_path / "containerd" / "certs.d", tmp_path / "docker" / "certs.d")
    assert HostsConfig.standard().directories == (*user, *system)
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda: "~/.config")
    assert HostsConfig.standard().directories == system

    def homeless() -> str:
        raise RuntimeError("no home")

    monkeypatch.setattr(platformdirs, "user_config_dir", homeless)
    assert HostsConfig.standard().directories == system
    assert HostsConfig().directories == ()


# Docker's certificates


def test_dockers_files_are_the_servers(tmp_path: Path) -> None:
    directory = tmp_path / "registry.example:5000"
    for name in ("b.crt", "a.crt", "z.cert", "z.key", "client.cert", "client.key", "README", "x.pem", "notes.txt"):
        write(directory / name)
    (directory / "old.crt").mkdir()
    (directory / "old.key").mkdir()
    at = {path.name: str(path) for path in directory.iterdir()}
    assert HostsConfig(directories=[tmp_path]).lookup("registry.example:5000") == RegistryHosts(
        Host(
            "https://registry.example:5000",
            ca=[at["a.crt"], at["b.crt"]],
            certificates=[(at["client.cert"], at["client.key"]), (at["z.cert"], at["z.key"])],
        )
    )
    assert HostsConfig(directories=[tmp_path]).lookup(REGISTRY) == RegistryHosts(SERVER)


@pytest.mark.parametrize(("there", "missing"), [("own.cert", "own.key"), ("own.key", "own.cert")])
def test_half_a_pair_is_refused(tmp_path: Path, there: str, missing: str) -> None:
    write(tmp_path / REGISTRY / there)
    write(tmp_path / REGISTRY / "other.cert")
    write(tmp_path / REGISTRY / "other.key")
    error = refusal(HostsConfig(directories=[tmp_path]))
    assert str(tmp_path / REGISTRY / missing) in error.message
    assert error.hint


def test_a_certificate_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / REGISTRY).mkdir()
    (tmp_path / REGISTRY / "ca.crt").symlink_to("absent")
    assert str(tmp_path / REGISTRY / "ca.crt") in str(refusal(HostsConfig(directories=[tmp_path])))


def test_dockers_files_of_every_root_join_a_hosts_file(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for root in (a, b, c):
        write(root / REGISTRY / "ca.crt")
    write(c / REGISTRY / "ca.cert")
    write(c / REGISTRY / "ca.key")
    # Beside a hosts.toml, certificates are what it says, and an empty one says nothing.
    toml(b, 'server = "https://upstream.example"\nca = "ca.crt"\n[host."https://mirror.example"]')
    toml(a, "")
    at = [str(root / REGISTRY / "ca.crt") for root in (a, b, c)]
    pair = (str(c / REGISTRY / "ca.cert"), str(c / REGISTRY / "ca.key"))
    assert HostsConfig(directories=[b, a, c]).lookup(REGISTRY) == RegistryHosts(
        Host("https://upstream.example", ca=[at[1], at[0], at[2]], certificates=[pair]),
        (Host("https://mirror.example"),),
    )
    assert HostsConfig(directories=[a, b, c]).lookup(REGISTRY) == RegistryHosts(
        replace(SERVER, ca=(at[0], at[2]), certificates=(pair,))
    )


def test_a_dockers_directory_hides_the_default_of_its_root_alone(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    ca = write(a / REGISTRY / "ca.crt")
    toml(a, '[host."https://hidden.example"]', "_default")
    assert HostsConfig(directories=[a]).lookup(REGISTRY) == RegistryHosts(replace(SERVER, ca=(str(ca),)))
    toml(b, '[host."https://mirror.example"]', "_default")
    assert HostsConfig(directories=[a, b]).lookup(REGISTRY) == RegistryHosts(
        replace(SERVER, ca=(str(ca),)), (Host("https://mirror.example"),)
    )


def test_certificates_in_the_default_directory(tmp_path: Path) -> None:
    ca = write(tmp_path / "_default" / "ca.crt")
    write(tmp_path / "own.example" / "README")
    config = HostsConfig(directories=[tmp_path])
    assert config.lookup(REGISTRY).server == replace(SERVER, ca=(str(ca),))
    assert config.lookup("own.example").server == Host("https://own.example")


def test_the_hubs_certificates_are_also_found_by_the_name_that_docker_gives_them(tmp_path: Path) -> None:
    own = write(tmp_path / "docker.io" / "ca.crt")
    real = write(tmp_path / "registry-1.docker.io" / "ca.crt")
    write(tmp_path / "index.docker.io" / "ca.crt")
    hosts = HostsConfig(directories=[tmp_path]).lookup("docker.io")
    assert hosts == RegistryHosts(Host("https://registry-1.docker.io", ca=[own, real]))
    toml(tmp_path, '[host."https://mirror.example"]', "_default")
    own.unlink()
    own.parent.rmdir()
    hosts = HostsConfig(directories=[tmp_path]).lookup("docker.io")
    assert hosts == RegistryHosts(Host("https://registry-1.docker.io", ca=[real]), (Host("https://mirror.example"),))


# Any text

SCALARS = st.booleans() | st.integers() | st.sampled_from(["pull", "a.pem", "", "https://h", "h@h", "\0"]) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
WORDS = r"""(server|host|"https://h"|"h:1"|ca|client|header|capabilities|skip_verify|override_path|dial_timeout|"pull"
|"a\.pem"|"X-Team"|true|5|1979-05-27|[ =.\[\]{},"])*"""
KEYS = ["server", "ca", "client", "header", "capabilities", "skip_verify", "override_path", "dial_timeout", "X-Team"]


def quoted(value: Any) -> str:
    """Write a value in TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case list():
            return f"[{', '.join(map(quoted, value))}]"
        case _:
            return str(value)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Draw what is TOML, and nearly a hosts.toml."""
    tables = ["", "[header]", '[host."https://h"]', '[host."https://registry.example"]', '[host."h".header]']
    text = ""
    for table in draw(st.lists(st.sampled_from(tables), unique=True)):
        keys = draw(st.dictionaries(st.sampled_from(KEYS) | st.text(), VALUES, max_size=3))
        text += "\n".join([table, *(f"{quoted(key)} = {quoted(value)}" for key, value in keys.items()), ""])
    return text


@given(
    st.text() | st.from_regex(WORDS, fullmatch=True) | documents() | st.binary().map(lambda raw: raw.decode("latin-1"))
)
@example("[" * 5000)
@example('ca = "\\ud800"')
def test_arbitrary_text_gives_hosts_or_the_typed_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp() / "arbitrary"
    write(root / REGISTRY / "a.pem")
    path = root / REGISTRY / "hosts.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        hosts = HostsConfig(directories=[root]).lookup(REGISTRY)
    except InvalidHosts as error:
        if str(path) not in error.message:
            raise
        return
    for host in (hosts.server, *hosts.mirrors):
        assert host.root.startswith(("http://", "https://"))
        assert host.site.origin == host.origin
        assert hash(host) == hash(replace(host))
        assert all(isinstance(file, str) and Path(file).is_file() for file in host.ca)


@given(st.text() | st.from_regex(r"[a-z:./\\\[\]_-]{0,12}", fullmatch=True))
def test_no_name_leads_out_of_a_root(tmp_path_factory: pytest.TempPathFactory, registry: str) -> None:
    base = tmp_path_factory.getbasetemp() / "names"
    root = base / "certs.d" / "root"
    root.mkdir(parents=True, exist_ok=True)
    for directory in (base, base / "certs.d", root):
        write(directory / "hosts.toml", 'server = "https://planted.example"')
    try:
        hosts = HostsConfig(directories=[root]).lookup(registry)
    except InvalidHosts:
        return
    assert hosts == HostsConfig().lookup(registry)


@given(st.text() | st.from_regex(r"(https?://)?[a-z@:\[\]0-9.%?#/\\-]{0,20}", fullmatch=True))
def test_an_arbitrary_url_gives_a_host_or_the_typed_error(url: str) -> None:
    try:
        host = Host(url)
    except InvalidHosts:
        return
    assert Host(host.root).root == host.root
    assert host.root.endswith("/v2")
    assert host.origin == Origin.of(host.root)
