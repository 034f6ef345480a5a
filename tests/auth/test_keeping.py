"""Where a login is kept: with a real helper or in the file, whole or not at all, and nothing else is touched."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import logging
import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from lading.auth.credentials import Credential, DockerConfig
from lading.auth.keeping import DockerConfigWriter, Kept
from lading.errors import CredentialError

HUB = "https://index.docker.io/v1/"
ALICE = Credential("alice", "planted-password")
ALICE_ENTRY = {"auth": base64.b64encode(b"alice:planted-password").decode()}
TOKEN = Credential(identity_token="planted-token")
BOB_ENTRY = {"auth": base64.b64encode(b"bob:planted").decode()}
SECRETS = ("planted", ALICE_ENTRY["auth"], BOB_ENTRY["auth"])

# A helper that keeps what it is told, one file for each server, and notes how it was called.
KEEPER = """
input=$(cat)
case "$1" in
    store) server=$(printf %s "$input" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/');;
    *) server=$input;;
esac
file="@HOME@/kept/$(printf %s "$server" | tr '/:' '__')"
case "$1" in
    store) printf %s "$input" > "$file"; exit 0;;
    *) test -e "$file" || { echo 'credentials not found in native keychain'; exit 1; };;
esac
case "$1" in
    get) cat "$file";;
    erase) rm "$file";;
esac
"""
NOTHING = "credentials not found in native keychain"
LONG = "sleep 300"


class Home:
    """A home directory with a configuration file and helpers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / ".docker" / "config.json"
        self.env = {"HOME": str(path), "PATH": f"{path / 'bin'}:/usr/bin:/bin"}
        for name in ("bin", "kept"):
            (path / name).mkdir()

    def write(self, content: object) -> bytes:
        self.config.parent.mkdir(exist_ok=True)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.config.write_bytes(raw)
        self.config.chmod(0o600)
        return raw

    def read(self) -> Any:
        return json.loads(self.config.read_bytes())

    def add(self, script: str = KEEPER, name: str = "test") -> None:
        script = f'#!/bin/sh\necho $$ >> @HOME@/pids\n{{ echo "$0 $*"; env; }} >> @HOME@/calls\n{script}\n'
        program = self.path / "bin" / f"docker-credential-{name}"
        program.write_text(script.replace("@HOME@", str(self.path)), encoding="utf-8")
        program.chmod(0o700)

    def writer(self, seconds: float = 10.0) -> DockerConfigWriter:
        return DockerConfigWriter(env=self.env, helper_seconds=seconds)

    def reader(self) -> DockerConfig:
        return DockerConfig(env=self.env)

    @property
    def pids(self) -> list[int]:
        path = self.path / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def leftovers(self) -> list[str]:
        return [path.name for path in self.config.parent.iterdir() if path != self.config]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert not any(secret in caplog.text for secret in SECRETS)


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Whatever is raised names the parts and nothing that is planted."""
    with pytest.raises(CredentialError) as caught:
        yield
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        shown = str(error) + repr(error) + repr(vars(error))
        assert not any(secret in shown for secret in SECRETS)
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while, where the tests run as root, who may write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def ended(pids: list[int]) -> bool:
    with anyio.move_on_after(10):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110  # the kernel sets no event
            await anyio.sleep(0.01)
    return not any(is_alive(pid) for pid in pids)


# In the file


async def test_a_new_file_looks_like_the_one_of_docker(home: Home) -> None:
    kept = await home.writer().save("example.com", ALICE)
    assert kept == Kept(f"{home.config} (auths)", is_plain=True)
    text = '{\n\t"auths": {\n\t\t"example.com": {\n\t\t\t"auth": "%s"\n\t\t}\n\t}\n}'
    assert home.config.read_text() == text % ALICE_ENTRY["auth"]
    assert (mode(home.config), mode(home.config.parent)) == (0o600, 0o700)
    assert home.leftovers == []
    assert await home.reader().credential("example.com") == ALICE
    assert await home.reader().source("example.com") == kept.where


@pytest.mark.parametrize(
    ("credential", "entry"),
    [
        (ALICE, ALICE_ENTRY),
        (Credential("u", "p:ä€𝄞 \\ \"'$"), {"auth": base64.b64encode("u:p:ä€𝄞 \\ \"'$".encode()).decode()}),
        (Credential("u"), {"auth": base64.b64encode(b"u:").decode()}),
        (TOKEN, {"identitytoken": "planted-token"}),
        (Credential("u", "", "planted"), {"auth": base64.b64encode(b"u:").decode(), "identitytoken": "planted"}),
        (Credential(registry_token="planted"), {"registrytoken": "planted"}),
    ],
)
async def test_what_is_written_is_read_again(home: Home, credential: Credential, entry: dict[str, str]) -> None:
    await home.writer().save("example.com", credential)
    assert home.read() == {"auths": {"example.com": entry}}
    assert await home.reader().credential("example.com") == credential


@pytest.mark.parametrize(
    "credential",
    [
        Credential(),
        Credential("", "planted"),
        Credential("", "planted", "planted"),
        Credential("planted:x", "planted"),
        Credential("u", "planted\ud800"),
        Credential(identity_token="planted token"),
        Credential(registry_token="planted\n"),
    ],
)
async def test_what_could_not_be_read_again_is_not_written(home: Home, credential: Credential) -> None:
    with refused("can't be"):
        await home.writer().save("example.com", credential)
    assert not home.config.parent.exists()


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("example.com", "example.com"),
        ("Example.COM", "example.com"),
        ("https://example.com", "example.com"),
        ("https://example.com/v2/", "example.com"),
        ("localhost", "localhost"),
        ("localhost:5000", "localhost:5000"),
        ("http://localhost:5000/", "localhost:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("docker.io", HUB),
        ("index.docker.io", HUB),
        ("registry-1.docker.io", HUB),
        (HUB, HUB),
    ],
)
async def test_the_key_that_docker_uses(home: Home, host: str, key: str) -> None:
    await home.writer().save(host, ALICE)
    assert home.read() == {"auths": {key: ALICE_ENTRY}}
    assert await home.writer().erase(host)
    assert home.read() == {"auths": {}}


@pytest.mark.parametrize(
    "host",
    [
        "",
        "/",
        "https://",
        "example.com/acme",
        "https://example.com/acme/triage",
        "https://index.docker.io/v1/access-token",
        "ex ample.com",
        "example.com\n",
        "é.com",
        "-example.com",
        "example.com:",
        "example.com:x",
        "alice:planted@example.com",
        "https://alice:planted@example.com",
        "::1",
        "x\0",
    ],
)
async def test_what_is_not_a_host_is_refused(home: Home, host: str) -> None:
    raw = home.write({"credsStore": "test", "auths": {host: {}}})
    home.add()
    with refused("isn't a registry's host"):
        await home.writer().save(host, ALICE)
    with refused("isn't a registry's host"):
        await home.writer().erase(host)
    assert home.config.read_bytes() == raw
    assert home.pids == []


async def test_everything_else_stays_and_where_it_is(home: Home) -> None:
    home.write(
        {
            "zebra": {"b": [1, 2.5, None, True, "ä<&>"], "a": {}},
            "HttpHeaders": {"X-A": "1"},
            "auths": {
                "b.example.com": BOB_ENTRY,
                "example.com": {**BOB_ENTRY, "email": "x"},
                "a.example.com": {"y": 1},
            },
            "psFormat": "table {{.ID}}",
            "credHelpers": {"gcr.io": "gcloud"},
            "proxies": {"default": {"httpProxy": "http://p:3128"}},
            "big": 12345678901234567890,
        }
    )
    before = home.read()
    await home.writer().save("example.com", ALICE)
    assert '"ä<&>"' in home.config.read_text("utf-8")
    before["auths"]["example.com"] = ALICE_ENTRY
    assert json.dumps(home.read()) == json.dumps(before)  # the order of the keys, too
    await home.writer().save("c.example.com", ALICE)
    before["auths"]["c.example.com"] = ALICE_ENTRY
    assert json.dumps(home.read()) == json.dumps(before)
    assert await home.writer().erase("example.com")
    del before["auths"]["example.com"]
    assert json.dumps(home.read()) == json.dumps(before)


@pytest.mark.parametrize("content", [b"", b" \n", b"{}", b'{"auths":null}', b'{"auths":{},"credsStore":""}'])
async def test_a_file_that_says_nothing(home: Home, content: bytes) -> None:
    home.write(content)
    assert (await home.writer().save("example.com", ALICE)).is_plain
    assert home.read()["auths"] == {"example.com": ALICE_ENTRY}


SPELLINGS = {
    "example.com": ["example.com", "https://example.com", "http://example.com/", "example.com/v1/", "EXAMPLE.com"],
    "docker.io": [HUB, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/", "https://index.docker.io"],
}
OTHERS = [
    "example.com:5000",
    "example.com:443",
    "sub.example.com",
    "example.com.evil.net",
    "example.com/acme",
    "https://example.com/acme",
    "https://index.docker.io/v1/access-token",
    "hub.docker.com",
    "docker.io/acme",
]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_all_spellings_of_a_host_and_no_other(home: Home, host: str) -> None:
    auths = dict.fromkeys([*SPELLINGS[host], *OTHERS], BOB_ENTRY)
    home.write({"auths": auths})
    await home.writer().save(host, ALICE)
    usual = SPELLINGS[host][0]
    assert home.read()["auths"] == {usual: ALICE_ENTRY, **dict.fromkeys(OTHERS, BOB_ENTRY)}
    home.write({"auths": auths})
    assert await home.writer().erase(host)
    assert home.read()["auths"] == dict.fromkeys(OTHERS, BOB_ENTRY)
    assert not await home.writer().erase(host)


async def test_a_broken_entry_can_be_replaced_and_erased(home: Home) -> None:
    for change in (home.writer().erase("example.com"), home.writer().save("example.com", ALICE)):
        home.write({"auths": {"example.com": "planted", "x.example.com": "planted"}})
        await change
        assert home.read()["auths"]["x.example.com"] == "planted"
    assert await home.reader().credential("example.com") == ALICE


async def test_erasing_from_nothing_makes_nothing(home: Home) -> None:
    assert not await home.writer().erase("example.com")
    assert not home.config.parent.exists()
    raw = home.write({"auths": {"other.example.com": {}}, "a": 1})
    assert not await home.writer().erase("example.com")
    assert home.config.read_bytes() == raw


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"planted",
        b"[]",
        b'"planted"',
        b'{"auths":"planted"}',
        b'{"auths":[]}',
        b'{"a":"planted\xff"}',
        b'{"a":1,"a":2}',
        b'{"credsStore":5}',
        b'{"credsStore":"../x"}',
        b'{"credHelpers":"planted"}',
        b'{"credHelpers":{"example.com":5}}',
        b'{"credsStore":"test","auths":5}',
        b" " * (1024 * 1024) + b"{}",
    ],
)
async def test_a_broken_file_stays_as_it_is(home: Home, content: bytes) -> None:
    home.add()
    home.write(content)
    with refused(str(home.config)):
        await home.writer().save("example.com", ALICE)
    with refused(str(home.config)):
        await home.writer().erase("example.com")
    assert home.config.read_bytes() == content
    assert home.leftovers == []
    assert home.pids == []


@pytest.mark.parametrize("old", [0o600, 0o400, 0o644, 0o666, 0o660, 0o755, 0o640])
async def test_nobody_else_can_read_it(home: Home, old: int) -> None:
    home.write({"a": 1})
    home.config.chmod(old)
    await home.writer().save("example.com", ALICE)
    assert mode(home.config) == old & 0o600


async def test_a_file_without_change_is_not_written_but_made_private(home: Home) -> None:
    await home.writer().save("example.com", ALICE)
    before = home.config.stat()
    await home.writer().save("example.com", ALICE)
    assert home.config.stat().st_ino == before.st_ino
    home.config.chmod(0o644)
    await home.writer().save("example.com", ALICE)
    assert mode(home.config) == 0o600


@pytest.mark.parametrize("umask", [0, 0o777])
async def test_the_umask_opens_nothing(home: Home, umask: int) -> None:
    home.config.parent.mkdir()
    old = os.umask(umask)
    try:
        await home.writer().save("example.com", ALICE)
    finally:
        os.umask(old)
    assert mode(home.config) == 0o600 & ~umask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_the_file_of_a_user_stays_theirs_when_root_changes_it(home: Home) -> None:
    home.write({})
    os.chown(home.config, 12345, 23456)
    await home.writer().save("example.com", ALICE)
    assert (home.config.stat().st_uid, home.config.stat().st_gid, mode(home.config)) == (12345, 23456, 0o600)


# Where the file is


async def test_the_directory_of_docker_config_and_all_above(home: Home) -> None:
    home.env["DOCKER_CONFIG"] = str(home.path / "a" / "b")
    kept = await home.writer().save("example.com", ALICE)
    assert kept.where == f"{home.path}/a/b/config.json (auths)"
    assert mode(home.path / "a") == mode(home.path / "a" / "b") == 0o700
    assert not home.config.parent.exists()


async def test_a_given_path(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.path)
    for path in (home.path / "auth.json", "relative.json"):
        writer = DockerConfigWriter(path, {})
        await writer.save("example.com", ALICE)
        assert await DockerConfig([path], {}).credential("example.com") == ALICE
        assert "planted" not in repr(writer)
    assert sorted(path.name for path in home.path.glob("*.json")) == ["auth.json", "relative.json"]


async def test_the_environment_is_this_process_by_default(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(home.path / "mine"))
    await DockerConfigWriter().save("example.com", ALICE)
    assert (home.path / "mine" / "config.json").exists()


async def test_no_home(home: Home) -> None:
    home.env = {"REGISTRY_AUTH_FILE": str(home.path / "auth.json")}
    with refused("home directory", "DOCKER_CONFIG"):
        await home.writer().save("example.com", ALICE)
    assert not (home.path / "auth.json").exists()


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("is_relative", [True, False])
async def test_a_symbolic_link_stays_one(home: Home, exists: bool, is_relative: bool) -> None:
    dotfiles = home.path / "dotfiles"
    dotfiles.mkdir()
    real = dotfiles / "docker.json"
    if exists:
        real.write_text('{"a":1}')
    home.config.parent.mkdir()
    home.config.symlink_to("../dotfiles/docker.json" if is_relative else real)
    await home.writer().save("example.com", ALICE)
    assert home.config.is_symlink()
    assert not real.is_symlink()
    assert json.loads(real.read_bytes())["auths"] == {"example.com": ALICE_ENTRY}
    assert json.loads(real.read_bytes()).get("a") == (1 if exists else None)
    assert mode(real) == 0o600
    assert home.leftovers == []
    assert os.listdir(dotfiles) == ["docker.json"]


async def test_what_is_not_a_file_is_not_replaced(home: Home) -> None:
    home.config.parent.mkdir()
    os.mkfifo(home.config)
    with refused(str(home.config), "regular"):
        await home.writer().save("example.com", ALICE)
    assert stat.S_ISFIFO(home.config.stat().st_mode)
    home.config.unlink()
    home.config.symlink_to(home.config)
    with refused(str(home.config)):
        await home.writer().save("example.com", ALICE)
    home.config.unlink()
    home.config.mkdir()
    with refused(str(home.config)):
        await home.writer().save("example.com", ALICE)
    assert home.leftovers == []


@pytest.mark.parametrize("path", ["nul\0nul", "x" * 300, "/dev/null/config.json"])
async def test_a_path_that_is_none(path: str) -> None:
    with refused("config.json" if "/" in path else path[:3]):
        await DockerConfigWriter(path, {}).save("example.com", ALICE)


# Whole or not at all


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("exists", [True, False])
async def test_a_write_that_fails_changes_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, call: str, exists: bool
) -> None:
    raw = home.write({"auths": {"example.com": BOB_ENTRY}}) if exists else None
    home.config.parent.mkdir(exist_ok=True)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call == "chmod" and not exists:  # a new file has its mode from the start
            await home.writer().save("example.com", ALICE)
            return
        with refused(str(home.config), "Input/output error"):
            await home.writer().save("example.com", ALICE)
    assert home.leftovers == []
    assert (home.config.read_bytes() if home.config.exists() else None) == raw


async def test_a_disk_that_is_full_changes_nothing(home: Home) -> None:
    raw = home.write({"auths": {"example.com": BOB_ENTRY}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with refused(str(home.config), "File too large"):
            await home.writer().save("example.com", ALICE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert home.leftovers == []
    assert home.config.read_bytes() == raw


async def test_a_directory_that_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as directory:  # that of pytest is closed to others
        home = Home(Path(directory))
        home.path.chmod(0o755)
        home.write({"auths": {}})
        home.config.chmod(0o644)
        home.config.parent.chmod(0o555)
        with without_privileges(), refused(str(home.config), "Permission denied"):
            await home.writer().save("example.com", ALICE)
        home.config.parent.chmod(0o700)
        assert home.read() == {"auths": {}}
        assert home.leftovers == []


async def test_a_change_that_comes_between_is_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write({"auths": {}})
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        monkeypatch.setattr(os, "fsync", real)
        home.write({"auths": {"other.example.com": BOB_ENTRY}, "new": 1})

    monkeypatch.setattr(os, "fsync", fsync)
    await home.writer().save("example.com", ALICE)
    assert home.read() == {"auths": {"other.example.com": BOB_ENTRY, "example.com": ALICE_ENTRY}, "new": 1}
    assert home.leftovers == []


async def test_a_file_that_never_rests(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def fsync(_: int) -> None:
        nonlocal count
        count += 1
        home.write({"count": count})

    monkeypatch.setattr(os, "fsync", fsync)
    with refused(str(home.config), "somebody else"):
        await home.writer().save("example.com", ALICE)
    assert home.read() == {"count": count}
    assert home.leftovers == []


# With a helper


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
@pytest.mark.parametrize("credential", [ALICE, TOKEN, Credential("u", "p:ä€𝄞 \\ \"'$\n")])
@pytest.mark.parametrize(("host", "server"), [("example.com:5000", "example.com:5000"), ("docker.io", HUB)])
async def test_a_helper_keeps_gives_and_erases(
    home: Home, key: str, credential: Credential, host: str, server: str
) -> None:
    home.add()
    home.env["LADING_PASSWORD"] = "planted-password"
    named: dict[str, Any] = {"credsStore": "test"}
    if key == "credHelpers":
        named = {"credsStore": "other", "credHelpers": {host: "test"}}
    home.write({"a": 1, **named, "auths": {"other.example.com": BOB_ENTRY}, "b": 2})
    kept = await home.writer().save(host, credential)
    assert kept == Kept(f"docker-credential-test ({key} in {home.config})", is_plain=False)
    expected = {"a": 1, **named, "auths": {"other.example.com": BOB_ENTRY, server: {}}, "b": 2}
    assert json.dumps(home.read()) == json.dumps(expected)
    (file,) = (home.path / "kept").iterdir()
    username, secret = (credential.username, credential.password)
    if credential is TOKEN:
        username, secret = ("<token>", "planted-token")
    assert json.loads(file.read_bytes()) == {"ServerURL": server, "Username": username, "Secret": secret}
    reader = home.reader()
    assert await reader.source(host) == kept.where
    assert await reader.credential(host) == credential
    assert await reader.source(host) == kept.where
    assert await home.writer().erase(host)
    del expected["auths"][server]
    assert json.dumps(home.read()) == json.dumps(expected)
    assert list((home.path / "kept").iterdir()) == []
    assert await home.reader().credential(host) is None
    assert not await home.writer().erase(host)
    calls = (home.path / "calls").read_text()
    assert [line.rpartition("/")[2] for line in calls.splitlines() if line.startswith(str(home.path / "bin"))] == [
        f"docker-credential-test {action}" for action in ("store", "get", "get", "erase", "get", "get")
    ]
    assert "planted" not in calls
    assert "LADING" not in calls


async def test_what_was_written_plainly_goes_to_the_helper(home: Home) -> None:
    home.add()
    home.write(
        {
            "auths": dict.fromkeys(["https://example.com", "example.com", "example.com:1"], BOB_ENTRY),
            "credsStore": "test",
        }
    )
    await home.writer().save("example.com", ALICE)
    assert home.read()["auths"] == {"example.com": {}, "example.com:1": BOB_ENTRY}


async def test_an_empty_helper_is_the_file(home: Home) -> None:
    home.add()
    home.write({"credsStore": "test", "credHelpers": {"example.com": ""}})
    assert (await home.writer().save("example.com", ALICE)).is_plain
    assert await home.reader().source("example.com") == f"{home.config} (auths)"
    assert await home.writer().erase("example.com")
    assert home.pids == []


async def test_a_file_that_needs_no_change_need_not_be_writable(home: Home) -> None:
    home.add()
    home.write({"auths": {"example.com": {}}, "credsStore": "test"})
    home.config.chmod(0o444)
    before = home.config.stat().st_ino
    assert not (await home.writer().save("example.com", ALICE)).is_plain
    assert home.config.stat().st_ino == before


@pytest.mark.parametrize(
    "script",
    [
        "cat >/dev/null; exit 1",
        "exit 1",
        "echo planted; cat; exit 3",
        "cat >&2; exit 1",
        f"echo '{NOTHING}'; exit 1",
        "kill -9 $$",
        "cat /dev/zero",
        "yes planted & yes planted",
    ],
)
async def test_a_helper_that_fails_is_named_and_nothing_is_written(home: Home, script: str) -> None:
    home.add(script)
    raw = home.write({"auths": {"example.com": BOB_ENTRY}, "credsStore": "test"})
    with refused("docker-credential-test", "example.com"):
        await home.writer().save("example.com", ALICE)
    assert home.config.read_bytes() == raw
    assert await ended(home.pids)
    if NOTHING in script:
        assert await home.writer().erase("example.com")
        return
    with refused("docker-credential-test", "example.com"):
        await home.writer().erase("example.com")
    assert home.config.read_bytes() == raw
    assert home.leftovers == []


@pytest.mark.parametrize(
    "script", [LONG, f"cat >/dev/null; {LONG}", f"trap '' TERM; {LONG} & {LONG}", f"exec >&-; {LONG}"]
)
async def test_a_helper_that_hangs_is_ended(home: Home, script: str) -> None:
    home.add(script)
    raw = home.write({"auths": {"example.com": BOB_ENTRY}, "credsStore": "test"})
    with refused("docker-credential-test", "0.3 seconds"):
        await home.writer(0.3).save("example.com", Credential("alice", "planted" * 100_000))
    with refused("docker-credential-test", "0.3 seconds"):
        await home.writer(0.3).erase("example.com")
    assert home.config.read_bytes() == raw
    assert await ended(home.pids)


async def test_a_helper_that_is_not_installed(home: Home) -> None:
    raw = home.write({"auths": {"example.com": BOB_ENTRY}, "credsStore": "test"})
    with refused("docker-credential-test", "installed"):
        await home.writer().save("example.com", ALICE)
    with refused("docker-credential-test", "installed"):
        await home.writer().erase("example.com")
    assert home.config.read_bytes() == raw


@pytest.mark.parametrize("credential", [Credential(registry_token="planted"), Credential("<token>", "planted")])
async def test_what_a_helper_cannot_keep(home: Home, credential: Credential) -> None:
    home.add()
    raw = home.write({"credsStore": "test"})
    with refused("docker-credential-test"):
        await home.writer().save("example.com", credential)
    assert home.config.read_bytes() == raw
    assert home.pids == []


async def test_a_helper_erases_every_spelling_that_the_file_lists(home: Home) -> None:
    home.add()
    home.write({"auths": {}, "credsStore": "test"})
    for key in ("https___example.com", "example.com", "example.com_5000"):
        (home.path / "kept" / key).write_text('{"Username":"u","Secret":"planted"}')
    home.write({"auths": {"https://example.com": {}}, "credsStore": "test"})
    assert await home.writer().erase("example.com")
    assert [path.name for path in (home.path / "kept").iterdir()] == ["example.com_5000"]
    assert home.read()["auths"] == {}


@pytest.mark.parametrize(
    ("script", "was_kept"),
    [
        (f"test $1 = get && echo '{NOTHING}'; exit 1", False),  # docker-credential-osxkeychain
        ("""test $1 = get && echo '{"Username":"","Secret":""}' && exit 0; exit 1""", False),  # docker-credential-pass
        ("test $1 = erase && exit 0; echo garbage", True),  # what can't be got any more
        (f"""test $1 = get && echo '{{"Username":"u","Secret":"s"}}' && exit 0; echo '{NOTHING}'; exit 1""", False),
    ],
)
async def test_how_helpers_say_that_there_is_nothing(home: Home, script: str, was_kept: bool) -> None:
    home.add(script)
    home.write({"credsStore": "test"})
    assert await home.writer().erase("example.com") is was_kept


async def test_a_login_that_is_given_up_leaves_nothing_behind(home: Home) -> None:
    home.add(LONG)
    raw = home.write({"auths": {}, "credsStore": "test"})
    for change in (home.writer(300).save("example.com", ALICE), home.writer(300).erase("example.com")):
        started = len(home.pids)
        async with anyio.create_task_group() as tasks:

            async def run(change: Any = change) -> None:
                await change

            tasks.start_soon(run)
            while len(home.pids) == started:  # noqa: ASYNC110  # a helper sets no event
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert await ended(home.pids)
    assert home.config.read_bytes() == raw
    assert home.leftovers == []
