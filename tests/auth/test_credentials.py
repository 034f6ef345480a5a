"""Credentials: where they are looked for, whose they are, and what is said when they can't be had."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from auth import vectors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.auth.configfile import ConfigFile, hostname
from lading.auth.credentials import (
    CostlyCredentials,
    Credential,
    Credentials,
    DockerConfig,
    EnvironmentCredentials,
    FirstOf,
    StaticCredentials,
)
from lading.errors import CredentialError

VECTORS = vectors.load("docker_config.json")
FOO = {"auth": base64.b64encode(b"foo:bar").decode()}
FOO_CREDENTIAL = Credential("foo", "bar")


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def config(tmp_path: Path, content: object) -> DockerConfig:
    return DockerConfig([write(tmp_path / "config.json", content)], {})


async def found(tmp_path: Path, auths: Mapping[str, object], host: str) -> Credential | None:
    return await config(tmp_path, {"auths": auths}).credential(host)


# Whose it is


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("example.com", "example.com"),
        ("example.com/", "example.com"),
        ("example.com/v1/", "example.com"),
        ("https://example.com", "example.com"),
        ("http://example.com/", "example.com"),
        ("https://example.com/v1", "example.com"),
        ("https://example.com/v1/", "example.com"),
        ("https://example.com/v2/", "example.com"),
        ("Example.COM", "example.com"),
        ("example.com:5000", "example.com:5000"),
        ("http://example.com:5000/v2/", "example.com:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("https://[::1]:5000/v2/", "[::1]:5000"),
        ("https://::1:5000/v2/", "[::1]:5000"),
        ("https://[::1]/v2/", "[::1]"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://index.docker.io/v1/", "index.docker.io"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("example.com", "example.com/acme/triage"),
        ("example.com/acme", "example.com/acme/triage"),
        ("example.com/acme/triage", "example.com/acme/triage"),
    ],
)
async def test_a_key_that_is_for_the_host(tmp_path: Path, key: str, host: str) -> None:
    assert await found(tmp_path, {key: FOO}, host) == FOO_CREDENTIAL


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("example.com", "evil.example.com"),
        ("example.com", "notexample.com"),
        ("example.com", "example.com.evil.net"),
        ("example.com", "example.org"),
        ("example.com", "example.com:5000"),
        ("example.com:5000", "example.com"),
        ("example.com:5000", "example.com:50"),
        ("example.com:443", "example.com"),
        ("example.com/acme", "example.com"),
        ("example.com/acme", "example.com/other"),
        ("example.com/acme", "example.com/acmeother"),
        ("example.com/v1", "example.com"),
        ("https://example.com/acme", "example.com"),
        ("https://index.docker.io/v1/access-token", "docker.io"),
        ("https://index.docker.io/v1/refresh-token", "docker.io"),
        ("https://index.docker.io/v1/", "mirror.gcr.io"),
        ("https://index.docker.io/v1/", "docker.io.evil.net"),
        ("https://index.docker.io/v1/", "hub.docker.com"),
        ("https://user@example.com", "example.com"),
        ("", "example.com"),
        ("/", "example.com"),
        ("https://", "example.com"),
        ("example.com", ""),
    ],
)
async def test_a_key_that_is_for_somebody_else(tmp_path: Path, key: str, host: str) -> None:
    assert await found(tmp_path, {key: FOO}, host) is None


async def test_the_usual_key_wins_whatever_the_order(tmp_path: Path) -> None:
    other = {"username": "x", "password": "y"}
    for usual, host in (("https://index.docker.io/v1/", "docker.io"), ("example.com", "example.com")):
        for auths in ({usual: FOO, f"http://{host}": other}, {f"http://{host}": other, usual: FOO}):
            assert await found(tmp_path, auths, host) == FOO_CREDENTIAL
    assert await found(tmp_path, {"example.com": {}, "https://example.com": FOO}, "example.com") == FOO_CREDENTIAL


# What it is


@pytest.mark.parametrize(
    ("entry", "credential"),
    [
        (FOO, FOO_CREDENTIAL),
        ({"auth": "Zm9v\r\nOmJhcg==\n"}, FOO_CREDENTIAL),
        ({"auth": base64.b64encode(b"u:").decode()}, Credential("u", "")),
        ({"auth": base64.b64encode(b"u:a:b").decode()}, Credential("u", "a:b")),
        ({"auth": base64.b64encode(b"u:p\0").decode()}, Credential("u", "p")),
        ({"auth": base64.b64encode("u:pä€𝄞".encode()).decode()}, Credential("u", "pä€𝄞")),
        ({"username": "u", "password": "p"}, Credential("u", "p")),
        (FOO | {"username": "u", "password": "p"}, FOO_CREDENTIAL),
        ({"identitytoken": "it"}, Credential(identity_token="it")),
        (FOO | {"identitytoken": "it"}, Credential("foo", "bar", "it")),
        ({"registrytoken": "rt"}, Credential(registry_token="rt")),
        (FOO | {"email": "x@y", "something": [1, {"else": None}]}, FOO_CREDENTIAL),
        ({"auth": None, "username": "u", "password": "p"}, Credential("u", "p")),
        ({}, None),
        (None, None),
        ({"email": "x@y"}, None),
        ({"auth": "", "identitytoken": ""}, None),
    ],
)
async def test_an_entry(tmp_path: Path, entry: object, credential: Credential | None) -> None:
    assert await found(tmp_path, {"example.com": entry}, "example.com") == credential


@pytest.mark.parametrize(
    "entry",
    [
        "planted",
        ["planted"],
        5,
        {"auth": "planted:password"},
        {"auth": "cGxhbnRlZA"},
        {"auth": "Zm9v!OmJhcg=="},
        {"auth": "Zm9vOmJhcg"},
        {"auth": "cGxhbnRlZA=="},
        {"auth": base64.b64encode(b"planted:\xff").decode()},
        {"auth": base64.urlsafe_b64encode(b"planted:??>>??").decode()},
        {"auth": 5},
        {"identitytoken": 123},
        {"identitytoken": "planted token"},
        {"registrytoken": "planted\r\nX-Evil: 1"},
        {"username": "planted:x", "password": "planted"},
        {"username": ["planted"]},
    ],
)
async def test_a_broken_entry_is_an_error_for_its_host_only(tmp_path: Path, entry: object) -> None:
    credentials = config(tmp_path, {"auths": {"broken.example.com": entry, "example.com": FOO}})
    assert await credentials.credential("example.com") == FOO_CREDENTIAL
    with pytest.raises(CredentialError) as caught:
        await credentials.credential("broken.example.com")
    assert "broken.example.com" in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert_silent(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "planted",
        "[]",
        '"planted"',
        '{"auths":"planted"}',
        '{"auths":[]}',
        '{"credHelpers":"planted"}',
        '{"credHelpers":{"example.com":5}}',
        '{"credsStore":5}',
        '{"credsStore":["planted"]}',
        '{"auths":{"planted":{}}}{}',
        '{"auths":{"a":{},"a":{"auth":"planted"}}}',
        '{"planted":' * 100000,
        '{"a":NaN}',
        '{"auths":{"a":{"password":"planted\\ud800"}}}',
        '{"a":"planted\\q"}',
        " " * (1024 * 1024) + "{}",
    ],
)
async def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    with pytest.raises(CredentialError) as caught:
        await config(tmp_path, content).credential("example.com")
    assert "example.com" in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert_silent(caught.value)


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


def assert_silent(error: BaseException | None) -> None:
    """Nothing that is planted is shown, by the error or by what caused it."""
    while error is not None:
        assert "planted" not in str(error) + repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__


async def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"planted":"\xff"}')
    with pytest.raises(CredentialError) as caught:
        await DockerConfig([tmp_path / "config.json"], {}).credential("example.com")
    assert_silent(caught.value)


@pytest.mark.parametrize("content", ["", " \n", "{}", '{"auths":null,"credHelpers":null,"credsStore":null}'])
async def test_a_file_that_says_nothing(tmp_path: Path, content: str) -> None:
    assert await config(tmp_path, content).credential("example.com") is None


def test_a_credential_does_not_show_its_secrets() -> None:
    credential = Credential("alice", "planted", "planted", "planted")
    assert repr(credential) == "Credential(username='alice')"
    assert "planted" not in repr(StaticCredentials({"example.com": credential}))


# Where it is looked for


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Every standard location, in order, the first being the environment itself."""
    return {
        "DOCKER_CONFIG": tmp_path / "docker" / "config.json",
        "HOME": tmp_path / "home" / ".docker" / "config.json",
        "REGISTRY_AUTH_FILE": tmp_path / "auth.json",
        "XDG_RUNTIME_DIR": tmp_path / "run" / "containers" / "auth.json",
        "XDG_CONFIG_HOME": tmp_path / "config" / "containers" / "auth.json",
    }


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "HOME": str(tmp_path / "home"),
        "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


async def test_the_first_place_that_holds_the_host_wins(places: dict[str, Path], env: dict[str, str]) -> None:
    for name, path in places.items():
        write(path, {"auths": {"example.com": {"username": name, "password": "p"}, "other.example.com": {}}})
    env["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {"example.com": {"username": "inline", "password": "p"}}})
    for name in ("inline", "DOCKER_CONFIG", "HOME", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        credential = await DockerConfig(env=env).credential("example.com")
        assert credential is not None
        assert credential.username == name
        if name == "inline":
            del env["DOCKER_AUTH_CONFIG"]
        elif name == "DOCKER_CONFIG":
            del env["DOCKER_CONFIG"]
        else:
            write(places[name], {"auths": {"example.com": {}}})
    assert await DockerConfig(env=env).credential("example.com") is None


async def test_docker_config_replaces_the_home(places: dict[str, Path], env: dict[str, str]) -> None:
    write(places["HOME"], {"auths": {"example.com": FOO}})
    assert await DockerConfig(env=env).credential("example.com") is None


async def test_the_podman_file_is_under_the_home_by_default(tmp_path: Path) -> None:
    write(tmp_path / ".config" / "containers" / "auth.json", {"auths": {"example.com": FOO}})
    assert await DockerConfig(env={"HOME": str(tmp_path)}).credential("example.com") == FOO_CREDENTIAL
    assert await DockerConfig(env={}).credential("example.com") is None


async def test_given_paths_are_the_only_places(tmp_path: Path, places: dict[str, Path], env: dict[str, str]) -> None:
    write(places["HOME"], {"auths": {"example.com": FOO}})
    env["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {"example.com": FOO}})
    assert await DockerConfig([], env).credential("example.com") is None
    paths = [tmp_path / "none", write(tmp_path / "some", {"auths": {"example.com": FOO}})]
    assert await DockerConfig(paths, env).credential("example.com") == FOO_CREDENTIAL


async def test_the_environment_is_this_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"example.com": FOO}}))
    assert await DockerConfig().credential("example.com") == FOO_CREDENTIAL


async def test_a_file_is_read_anew(tmp_path: Path) -> None:
    credentials = config(tmp_path, {})
    assert await credentials.credential("example.com") is None
    write(tmp_path / "config.json", {"auths": {"example.com": FOO}})
    assert await credentials.credential("example.com") == FOO_CREDENTIAL


async def test_a_broken_place_hides_what_is_behind_it_and_nothing_before(
    places: dict[str, Path], env: dict[str, str]
) -> None:
    write(places["DOCKER_CONFIG"], {"auths": {"example.com": FOO}})
    write(places["REGISTRY_AUTH_FILE"], "{")
    write(places["XDG_RUNTIME_DIR"], {"auths": {"other.example.com": FOO}})
    credentials = DockerConfig(env=env)
    assert await credentials.credential("example.com") == FOO_CREDENTIAL
    with pytest.raises(CredentialError):
        await credentials.credential("other.example.com")


async def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "no-such-file")
    write(tmp_path / "file", "")
    paths = [tmp_path / "dangling", tmp_path / "none", tmp_path / "file" / "config.json", Path(os.devnull)]
    assert await DockerConfig(paths, {}).credential("example.com") is None


async def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "loop", tmp_path / "directory", Path("nul\0nul"), tmp_path / ("x" * 300)):
        with pytest.raises(CredentialError):
            await DockerConfig([path], {}).credential("example.com")


async def test_a_pipe_that_nobody_writes_to_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert await DockerConfig([tmp_path / "pipe"], {}).credential("example.com") is None


async def test_no_permission_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    credentials = config(tmp_path, {"auths": {"example.com": FOO}})
    (tmp_path / "config.json").chmod(0)
    with without_privileges(), pytest.raises(CredentialError, match=re.escape(str(tmp_path / "config.json"))):
        await credentials.credential("example.com")


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
async def test_static_credentials(host: str) -> None:
    for key in ("docker.io", "https://index.docker.io/v1/"):
        assert await StaticCredentials({key: FOO_CREDENTIAL}).credential(host) == FOO_CREDENTIAL
    assert await StaticCredentials({"example.com": FOO_CREDENTIAL}).credential(host) is None


# Where it would come from


@pytest.mark.parametrize(
    ("content", "host", "source"),
    [
        ({"auths": {"example.com": FOO}}, "example.com", "@ (auths)"),
        ({"auths": {"example.com": FOO}}, "example.com/acme/triage", "@ (auths)"),
        ({"auths": {"example.com": FOO}}, "example.com:5000", None),
        ({"auths": {"example.com": {}}}, "example.com", None),
        ({"auths": {"https://index.docker.io/v1/": FOO}}, "docker.io", "@ (auths)"),
        ({"credsStore": "x"}, "example.com", "docker-credential-x (credsStore in @)"),
        ({"credsStore": "x", "auths": {"example.com": FOO}}, "example.com", "docker-credential-x (credsStore in @)"),
        (
            {"credsStore": "x", "credHelpers": {"example.com": "y"}},
            "example.com",
            "docker-credential-y (credHelpers in @)",
        ),
        (
            {"credsStore": "x", "credHelpers": {"example.com": "y"}},
            "example.org",
            "docker-credential-x (credsStore in @)",
        ),
        ({"credsStore": "x", "credHelpers": {"docker.io": "x"}}, "docker.io", "docker-credential-x (credHelpers in @)"),
        ({"credsStore": "x", "credHelpers": {"example.com": ""}}, "example.com", None),
        ({}, "example.com", None),
    ],
)
async def test_where_a_credential_would_come_from(
    tmp_path: Path, content: dict[str, object], host: str, source: str | None
) -> None:
    path = tmp_path / "config.json"
    assert await config(tmp_path, content).source(host) == (source and source.replace("@", str(path)))


async def test_where_an_inline_credential_would_come_from(tmp_path: Path) -> None:
    env = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {"example.com": FOO}}), "HOME": str(tmp_path)}
    assert await DockerConfig(env=env).source("example.com") == "DOCKER_AUTH_CONFIG"
    assert await DockerConfig(env=env).source("example.org") is None
    env["DOCKER_AUTH_CONFIG"] = '{"credsStore":"x"}'
    assert await DockerConfig(env=env).source("a") == "docker-credential-x (credsStore in DOCKER_AUTH_CONFIG)"


async def test_no_source_is_asked_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    write(tmp_path / "docker-credential-x", helper_script({}, ran)).chmod(0o700)
    path = write(tmp_path / "config.json", {"credsStore": "x", "auths": {"example.com": FOO}})
    credentials = DockerConfig([path], {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert await credentials.source("example.com") == f"docker-credential-x (credsStore in {path})"
    assert not ran.exists()
    assert await credentials.credential("example.com") == FOO_CREDENTIAL
    assert ran.exists()
    # Now it is known that the helper has nothing.
    assert await credentials.source("example.com") == f"{path} (auths)"
    for content in ('{"planted"', {"auths": {"example.com": "planted"}}):
        with pytest.raises(CredentialError, match=r"example\.com") as caught:
            await config(tmp_path, content).source("example.com")
        assert_silent(caught.value)


# The environment alone


FULL = {"LADING_REGISTRY": "example.com", "LADING_USERNAME": "foo", "LADING_PASSWORD": "bar"}


async def test_the_credential_of_the_environment() -> None:
    credentials = EnvironmentCredentials(FULL)
    for host in ("example.com", "Example.COM", "example.com/acme/triage"):
        assert await credentials.credential(host) == FOO_CREDENTIAL
        assert await credentials.source(host) == "LADING_USERNAME and LADING_PASSWORD"
    for host in ("example.com:5000", "evil.example.com", "example.com.evil.net", "docker.io", ""):
        assert await credentials.credential(host) is None
        assert await credentials.source(host) is None
    assert not isinstance(credentials, CostlyCredentials)
    assert "bar" not in repr(credentials)


@pytest.mark.parametrize("registry", ["docker.io", "index.docker.io", "https://index.docker.io/v1/"])
async def test_the_credential_of_the_environment_for_the_hub(registry: str) -> None:
    credentials = EnvironmentCredentials({**FULL, "LADING_REGISTRY": registry})
    assert await credentials.credential("registry-1.docker.io") == FOO_CREDENTIAL
    assert await credentials.credential("example.com") is None


@pytest.mark.parametrize("missing", [names for n in (1, 2) for names in itertools.combinations(FULL, n)], ids="+".join)
@pytest.mark.parametrize("is_empty", [True, False])
async def test_half_a_credential_is_an_error(missing: tuple[str, ...], is_empty: bool) -> None:
    values = {**FULL, "LADING_PASSWORD": "planted"}
    env = {name: "" if name in missing else value for name, value in values.items() if is_empty or name not in missing}
    credentials = EnvironmentCredentials(env)
    for ask in (credentials.credential, credentials.source):
        with pytest.raises(CredentialError) as caught:
            await ask("example.com")
        assert {name for name in FULL if name in caught.value.message} == set(missing)
        assert_silent(caught.value)
        if "LADING_REGISTRY" in missing:
            with pytest.raises(CredentialError, match=re.escape("other.example.com")):
                await ask("other.example.com")
        else:
            assert await ask("other.example.com") is None


@pytest.mark.parametrize("env", [{}, dict.fromkeys(FULL, ""), {"LADING_HOME": "x"}])
async def test_no_credential_in_the_environment(env: dict[str, str]) -> None:
    assert await EnvironmentCredentials(env).credential("example.com") is None
    assert await EnvironmentCredentials(env).source("example.com") is None


async def test_the_credential_of_the_environment_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FULL.items():
        monkeypatch.setenv(name, value)
    assert await EnvironmentCredentials().credential("example.com") == FOO_CREDENTIAL


# Several sources


class Slow:
    """A source that has to run a program, until it has been asked."""

    def __init__(self, credential: Credential | None) -> None:
        self.answer = credential
        self.calls: list[str] = []
        self.is_known = False

    async def credential(self, host: str) -> Credential | None:
        self.calls.append(host)
        self.is_known = True
        return self.answer

    async def is_costly(self, host: str) -> bool:
        return not self.is_known

    def forget(self, host: str) -> None:
        self.calls.append(f"forget {host}")
        self.is_known = False


async def test_the_first_source_that_has_one_wins(tmp_path: Path) -> None:
    docker = config(tmp_path, {"auths": {host: {"username": "d", "password": "p"} for host in ("example.com", "d.io")}})
    credentials = FirstOf(EnvironmentCredentials(FULL), docker, StaticCredentials({"s.io": Credential("s", "p")}))
    for host, username, source in (
        ("example.com", "foo", "LADING_USERNAME and LADING_PASSWORD"),
        ("d.io", "d", f"{tmp_path / 'config.json'} (auths)"),
        ("s.io", "s", "StaticCredentials"),
    ):
        credential = await credentials.credential(host)
        assert credential is not None
        assert credential.username == username
        assert await credentials.source(host) == source
        assert not await credentials.is_costly(host)
    assert await credentials.credential("none.io") is None
    assert await credentials.source("none.io") is None
    assert await FirstOf().credential("none.io") is None
    assert not await FirstOf().is_costly("none.io")
    assert "bar" not in repr(credentials)


async def test_sources_behind_the_first_are_not_asked() -> None:
    slow = Slow(FOO_CREDENTIAL)
    credentials = FirstOf(StaticCredentials({"example.com": FOO_CREDENTIAL}), slow)
    assert await credentials.credential("example.com") == FOO_CREDENTIAL
    assert not await credentials.is_costly("example.com")
    assert slow.calls == []


async def test_what_costs_much_in_several_sources() -> None:
    first, second = Slow(None), Slow(FOO_CREDENTIAL)
    credentials: Credentials = FirstOf(StaticCredentials({}), first, second)
    assert isinstance(credentials, CostlyCredentials)
    assert await credentials.is_costly("example.com")
    assert (first.calls, second.calls) == ([], [])
    await first.credential("example.com")
    assert await credentials.is_costly("example.com")
    assert second.calls == []
    assert await credentials.credential("example.com") == FOO_CREDENTIAL
    assert not await credentials.is_costly("example.com")
    credentials.forget("example.com")
    assert first.calls[-1] == second.calls[-1] == "forget example.com"
    assert await credentials.is_costly("example.com")


async def test_a_source_that_would_cost_much_is_not_run_to_name_it() -> None:
    slow = Slow(FOO_CREDENTIAL)
    credentials = FirstOf(slow, StaticCredentials({"example.com": FOO_CREDENTIAL}))
    assert await credentials.source("example.com") == "StaticCredentials"
    assert slow.calls == []
    await slow.credential("example.com")
    assert await credentials.source("example.com") == "Slow"


async def test_an_error_hides_the_sources_behind_it() -> None:
    slow = Slow(FOO_CREDENTIAL)
    credentials = FirstOf(EnvironmentCredentials({"LADING_USERNAME": "foo"}), slow)
    assert not await credentials.is_costly("example.com")
    for ask in (credentials.credential, credentials.source):
        with pytest.raises(CredentialError, match="LADING_PASSWORD"):
            await ask("example.com")
    assert slow.calls == []


# Any text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["example.com", "auth"]) | st.text(), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["auths", "credHelpers", "credsStore"]), JSON) | JSON, st.text(max_size=20))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_document_is_read_or_refused(document: object, host: str) -> None:
    for wanted in (host, "example.com"):
        with contextlib.suppress(CredentialError):
            ConfigFile.parse(json.dumps(document), "test").find(wanted, wanted)


@given(st.text(max_size=40))
def test_any_key_has_a_host(key: str) -> None:
    hostname(key)
    ConfigFile({"auths": {key: FOO}, "credHelpers": {key: "x"}}, "test").find(key, key)


# Vectors


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize(
    "case", VECTORS["hostname_normalization"]["cases"] if VECTORS else [], ids=lambda case: case["input"]
)
def test_hostname_vectors(case: dict[str, str]) -> None:
    assert hostname(case["input"]) == case["expected"]


def helper_script(behaviour: Mapping[str, Any], ran: Path) -> str:
    """A ``docker-credential-…`` that behaves as a vector says, and leaves a trace that it ran."""
    lines = ["#!/bin/sh", f"echo ran >> '{ran}'", "read server"]
    if "signal" in behaviour:
        lines.append(f"kill -{behaviour['signal']} $$")
    if "stdout" in behaviour:
        lines += [f"cat <<'END'\n{behaviour['stdout']}\nEND", f"exit {behaviour.get('exit', 0)}"]
    lines.append('case "$server" in')
    for server, answer in behaviour.get("get", {}).items():
        lines += [f"'{server}')", f"cat <<'END'\n{json.dumps(answer)}\nEND", "exit 0;;"]
    missing = behaviour.get("not_found_stdout", "credentials not found in native keychain")
    lines += ["esac", f"echo '{missing}'", "exit 1"]
    return "\n".join(lines)


def lay_out(case: Mapping[str, Any], home: Path) -> dict[str, str]:
    """Write what a vector describes, and give the environment that it describes."""
    env = {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin"}
    files: dict[str, Any] = {**case.get("files", {})}
    for name in ("config", "config_raw"):
        if name in case:
            files["config.json"] = case[name]
    for name, content in files.items():
        path = home / ".docker" / "config.json"
        if name == "$REGISTRY_AUTH_FILE":
            path = home / "registry_auth.json"
            env["REGISTRY_AUTH_FILE"] = str(path)
        if content == "<symlink to no-such-file>":
            path.parent.mkdir(parents=True)
            path.symlink_to("no-such-file")
        elif content == "<mode 000>":
            write(path, "{}").chmod(0)
        else:
            write(path, content)
    for name, behaviour in case.get("helpers", {}).items():
        write(home / "bin" / f"docker-credential-{name}", helper_script(behaviour, home / "ran")).chmod(0o700)
    return {**env, **case.get("env", {})}


def shown(credential: Credential | None) -> dict[str, str]:
    """A credential as the vectors write it."""
    if credential is None:
        return {"kind": "anonymous"}
    if credential.registry_token:
        return {"kind": "registrytoken", "token": credential.registry_token}
    if credential.identity_token:
        return {"kind": "identitytoken", "token": credential.identity_token}
    return {"kind": "basic", "username": credential.username, "password": credential.password}


async def outcome_of(credentials: DockerConfig, host: str) -> dict[str, str]:
    """What a look-up gives, as the vectors write it."""
    try:
        return shown(await credentials.credential(host))
    except CredentialError as error:
        return {"kind": "error"} if host in str(error) else {"kind": "an error that doesn't name the host"}


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize("case", VECTORS["cases"] if VECTORS else [], ids=lambda case: case["id"])
async def test_vectors(case: dict[str, Any], tmp_path: Path) -> None:
    credentials = DockerConfig(env=lay_out(case, tmp_path))
    for lookup in case["lookups"]:
        expected = dict(lookup["expect"])
        with without_privileges() if "<mode 000>" in case.get("files", {}).values() else contextlib.nullcontext():
            outcome = await outcome_of(credentials, lookup["host"])
        if expected["kind"] == "basic_or_error":
            expected["kind"] = outcome["kind"] if outcome == {"kind": "error"} else "basic"
        if expected["kind"] != "any" and not lookup.get("either"):
            assert outcome.items() <= expected.items()
            assert outcome["kind"] == expected["kind"]
        assert not (lookup.get("must_not_execute") and (tmp_path / "ran").exists())


#: What is chosen where the vectors allow two outcomes.
CHOSEN = {
    "cfg-015": {"kind": "basic", "username": "foo", "password": "bar"},
    "cfg-027": {"kind": "error"},
    "cfg-037": {"kind": "basic", "username": "file", "password": "pw"},
    "cfg-086": {"kind": "anonymous"},
    "cfg-097": {"kind": "error"},
}


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize("identity", CHOSEN)
async def test_what_is_chosen_where_two_outcomes_are_allowed(identity: str, tmp_path: Path) -> None:
    (case,) = (case for case in VECTORS["cases"] if case["id"] == identity)
    credentials = DockerConfig(env=lay_out(case, tmp_path))
    (lookup,) = (lookup for lookup in case["lookups"] if lookup.get("either"))
    assert await outcome_of(credentials, lookup["host"]) == CHOSEN[identity]
