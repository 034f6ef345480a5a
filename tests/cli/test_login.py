"""``login`` and ``logout``: what is believed is kept where other tools find it, and no password is shown anywhere."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import stat
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from artifacts import publish
from shell import Finished, Shell

from lading.testing import PROFILES, EmbeddedRegistry

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
PASSWORD = "planted-password"
USERS = {"ada": PASSWORD, "bob": "planted-other"}
PIPED = ("-u", "ada", "--password-stdin")
RIGHT, WRONG = PASSWORD.encode() + b"\n", b"planted-mistake\n"
HUB = "https://index.docker.io/v1/"

# Keeps one login in a file, and notes how it was called.
HELPER = """#!/bin/sh
input=$(cat)
{ echo "$0 $*"; env; } >> "$HOME/calls"
case "$1" in
    store) printf %s "$input" > "$HOME/kept";;
    get) test -e "$HOME/kept" || { echo 'credentials not found in native keychain'; exit 1; }; cat "$HOME/kept";;
    erase) rm "$HOME/kept";;
esac
"""


class Desk(Shell):
    """A shell that looks for planted secrets in everything that was said."""

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Finished:
        done = await super().__call__(*arguments, stdin=stdin)
        check_silent(done.out.decode(errors="replace") + done.err)
        assert "Traceback" not in done.err
        return done

    @property
    def config(self) -> Path:
        return self.home / ".docker" / "config.json"

    def write(self, document: dict[str, Any], mode: int = 0o600) -> bytes:
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(document))
        self.config.chmod(mode)
        return self.config.read_bytes()

    def read(self) -> Any:
        return json.loads(self.config.read_bytes())

    def add_helper(self, script: str = HELPER) -> None:
        directory = self.home / "bin"
        directory.mkdir()
        program = directory / "docker-credential-test"
        program.write_text(script)
        program.chmod(0o700)
        self.env["PATH"] = f"{directory}:{self.env['PATH']}"

    def configure(self, registry: str, server: str) -> None:
        """Write a hosts.toml."""
        directory = self.home / ".config" / "docker" / "certs.d" / registry
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(f'server = "{server}"\n')


def check_silent(text: str) -> None:
    assert "planted" not in text
    assert not any(auth(user, secret) in text for user, secret in USERS.items())


def auth(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
def lading(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def with_users(profile: str = "ghcr") -> EmbeddedRegistry:
    return EmbeddedRegistry(profile=PROFILES[profile], users=USERS, private={"acme/secret"})


@pytest.fixture
async def ghcr() -> AsyncIterator[EmbeddedRegistry]:
    async with with_users() as registry:
        yield registry


# What it is for


@pytest.mark.parametrize("profile", ["ghcr", "docker-hub", "distribution"])
async def test_from_a_login_to_a_logout(profile: str, lading: Desk) -> None:
    async with with_users(profile) as registry:
        publish(registry, YAML, "acme/secret")
        ref = f"{registry.host}/acme/secret:v1"
        assert (await lading("pull", ref)).status == 1

        done = await lading("login", registry.host, *PIPED, stdin=RIGHT)
        where = f"{lading.config} (auths)"
        assert (done.status, done.out.decode()) == (0, f"login succeeded: ada at {registry.host}, kept in {where}\n")
        assert lading.read() == {"auths": {registry.host: {"auth": auth("ada", PASSWORD)}}}
        assert stat.S_IMODE(lading.config.stat().st_mode) == 0o600
        assert "unencrypted" in done.err
        assert "credsStore" in done.err

        assert (await lading("pull", ref, "-o", "-")).out == YAML
        assert (await lading("push", "-", f"{registry.host}/acme/mine:v1", stdin=YAML)).status == 0

        out = await lading("logout", registry.host)
        assert (out.status, out.out.decode(), out.err) == (0, f"logged out of {registry.host}\n", "")
        assert lading.read() == {"auths": {}}
        refused = await lading("pull", ref)
        assert refused.status == 1
        assert "403" in refused.err if profile == "ghcr" else "401" in refused.err


async def test_a_wrong_password_changes_nothing(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    before = lading.write({"auths": {ghcr.host: {"auth": auth("bob", "planted-other")}}, "credsStore": ""})
    refused = await lading("login", ghcr.host, *PIPED, stdin=WRONG)
    assert (refused.status, refused.out) == (1, b"")
    assert f"{ghcr.host}: wrong user name or password" in refused.err
    assert "hint: " in refused.err
    assert lading.config.read_bytes() == before


async def test_the_rest_of_the_file_stays_and_its_mode_is_repaired(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    document = {
        "auths": {"other.example": {"auth": "eDp5"}, f"https://{ghcr.host}/v2/": {"auth": "eDp5"}},
        "HttpHeaders": {"X-Team": "a"},
        "currentContext": "ä",
    }
    lading.write(document, 0o644)
    assert (await lading("login", ghcr.host, *PIPED, stdin=RIGHT)).status == 0
    document["auths"] = {"other.example": {"auth": "eDp5"}, ghcr.host: {"auth": auth("ada", PASSWORD)}}
    assert lading.read() == document
    assert stat.S_IMODE(lading.config.stat().st_mode) == 0o600
    again = await lading("login", ghcr.host, "-u", "bob", "--password-stdin", stdin=b"planted-other")
    assert again.status == 0
    assert lading.read()["auths"][ghcr.host] == {"auth": auth("bob", "planted-other")}


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
async def test_a_helper_keeps_it_and_is_told_no_secret_in_its_arguments(
    key: str, ghcr: EmbeddedRegistry, lading: Desk
) -> None:
    publish(ghcr, YAML, "acme/secret")
    lading.add_helper()
    lading.write({key: "test" if key == "credsStore" else {ghcr.host: "test"}})
    done = await lading("login", ghcr.host, *PIPED, stdin=RIGHT)
    where = f"docker-credential-test ({key} in {lading.config})"
    assert (done.status, done.err) == (0, "")
    assert done.out.decode() == f"login succeeded: ada at {ghcr.host}, kept in {where}\n"
    assert lading.read()["auths"] == {ghcr.host: {}}
    kept = json.loads((lading.home / "kept").read_text())
    assert kept == {"ServerURL": ghcr.host, "Username": "ada", "Secret": PASSWORD}

    assert (await lading("pull", f"{ghcr.host}/acme/secret:v1", "-o", "-")).out == YAML
    assert (await lading("logout", ghcr.host)).err == ""
    assert not (lading.home / "kept").exists()
    again = await lading("logout", ghcr.host)
    assert (again.status, again.out) == (0, b"")
    assert f"not logged in to {ghcr.host}" in again.err
    check_silent((lading.home / "calls").read_text())


async def test_a_helper_that_fails_is_named(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    lading.add_helper('#!/bin/sh\necho "not so: $(cat)"; cat >&2; exit 3\n')
    before = lading.write({"credsStore": "test"})
    failed = await lading("login", ghcr.host, *PIPED, stdin=RIGHT)
    assert (failed.status, failed.out) == (1, b"")
    assert "docker-credential-test" in failed.err
    assert lading.config.read_bytes() == before


async def test_a_registry_that_asks_nobody(registry: EmbeddedRegistry, lading: Desk) -> None:
    done = await lading("login", registry.host, *PIPED, stdin=WRONG)
    assert done.status == 0
    assert f"login unchecked: ada at {registry.host}" in done.out.decode()
    assert f"{registry.host} doesn't ask who is there" in done.err
    assert lading.read()["auths"][registry.host] == {"auth": auth("ada", "planted-mistake")}
    as_json = await lading("login", "--json", registry.host, *PIPED, stdin=WRONG)
    assert json.loads(as_json.out)["verified"] is False


@pytest.mark.parametrize(
    ("piped", "password"),
    [
        (b"s3", "s3"),
        (b"s3\n", "s3"),
        (b"s3\r\n", "s3"),
        (b"s3\n\n", "s3\n"),
        (b" s3 \t", " s3 \t"),
        ('{\n"type": "key",\n"ü": "€"}\n'.encode(), '{\n"type": "key",\n"ü": "€"}'),
        (b"s" * 8000 + b"\n", "s" * 8000),
    ],
)
async def test_only_the_last_end_of_line_isnt_part_of_the_password(
    piped: bytes, password: str, registry: EmbeddedRegistry, lading: Desk
) -> None:
    assert (await lading("login", registry.host, *PIPED, stdin=piped)).status == 0
    assert lading.read()["auths"][registry.host] == {"auth": auth("ada", password)}


@pytest.mark.parametrize("piped", [b"", b"\n", b"planted\xff", b"planted" * 10_000])
async def test_what_is_no_password_is_sent_to_nobody(piped: bytes, ghcr: EmbeddedRegistry, lading: Desk) -> None:
    failed = await lading("login", ghcr.host, *PIPED, stdin=piped)
    assert failed.status == 1
    ghcr.assert_requests()
    assert not lading.config.exists()


async def test_json(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    done = await lading("login", "--json", f"http://{ghcr.host}/v2/", *PIPED, stdin=RIGHT)
    assert json.loads(done.out) == {
        "registry": ghcr.host,
        "username": "ada",
        "verified": True,
        "kept": f"{lading.config} (auths)",
        "unencrypted": True,
    }
    for erased in (True, False):
        out = await lading("logout", "--json", ghcr.host)
        assert (out.status, json.loads(out.out), out.err) == (0, {"registry": ghcr.host, "erased": erased}, "")


async def test_without_a_name_it_is_docker_hub(lading: Desk) -> None:
    lading.write({"auths": {HUB: {"auth": "eDp5"}, "ghcr.io": {"auth": "eDp5"}}})
    assert (await lading("logout")).out == b"logged out of docker.io\n"
    assert lading.read() == {"auths": {"ghcr.io": {"auth": "eDp5"}}}
    offline = await lading("login", "--offline", *PIPED, stdin=RIGHT)
    assert offline.status == 1
    assert "docker.io" in offline.err


# Other sources of credentials


def elsewhere(host: str, name: str, password: str) -> dict[str, dict[str, str]]:
    """Environments in which a login comes from somewhere else than the file; by what they are called for people."""
    document = json.dumps({"auths": {host: {"auth": auth(name, password)}}})
    variables = {"LADING_REGISTRY": host, "LADING_USERNAME": name, "LADING_PASSWORD": password}
    return {"DOCKER_AUTH_CONFIG": {"DOCKER_AUTH_CONFIG": document}, "LADING_USERNAME and LADING_PASSWORD": variables}


@pytest.mark.parametrize("where", ["DOCKER_AUTH_CONFIG", "LADING_USERNAME and LADING_PASSWORD"])
async def test_what_comes_before_the_login_is_named(where: str, ghcr: EmbeddedRegistry, lading: Desk) -> None:
    publish(ghcr, YAML, "acme/secret")
    lading.env.update(elsewhere(ghcr.host, "bob", "planted-other")[where])
    assert (await lading("cat", f"{ghcr.host}/acme/secret:v1")).out == YAML, "a client looks there by itself"
    done = await lading("login", ghcr.host, *PIPED, stdin=RIGHT)
    assert done.status == 0
    assert f"this login isn't used: {where} comes first" in done.err
    out = await lading("logout", ghcr.host)
    assert out.out.decode() == f"logged out of {ghcr.host}\n"
    assert f"still logged in to {ghcr.host}: {where} has another login" in out.err


async def test_a_file_that_cant_be_read_is_to_be_moved_away(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    lading.config.parent.mkdir(exist_ok=True)
    lading.config.write_text("{")
    failed = await lading("login", ghcr.host, *PIPED, stdin=RIGHT)
    assert (failed.status, failed.out) == (1, b"")
    assert f"{lading.config} isn't JSON" in failed.err
    assert "hint: repair it, or move it away and log in again" in failed.err
    assert lading.config.read_text() == "{"


async def test_a_login_of_podman_remains(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    path = lading.home / "auth.json"
    path.write_text(elsewhere(ghcr.host, "bob", "planted-other")["DOCKER_AUTH_CONFIG"]["DOCKER_AUTH_CONFIG"])
    lading.env["REGISTRY_AUTH_FILE"] = str(path)
    assert "isn't used" not in (await lading("login", ghcr.host, *PIPED, stdin=RIGHT)).err
    assert f"{path} (auths) has another login" in (await lading("logout", ghcr.host)).err


async def test_half_an_environment_is_said_to_be_one(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    lading.env.update({"LADING_REGISTRY": ghcr.host, "LADING_PASSWORD": PASSWORD})
    for done in (await lading("login", ghcr.host, *PIPED, stdin=RIGHT), await lading("logout", ghcr.host)):
        assert done.status == 0
        assert "LADING_USERNAME is not set" in done.err


# The way there


async def test_a_password_that_others_can_read_is_warned_of(lading: Desk) -> None:
    async with with_users("distribution") as registry:
        lading.configure("registry.test", "http://registry.test")
        lading.env["HTTP_PROXY"] = registry.url
        done = await lading("login", "http://registry.test", *PIPED, stdin=RIGHT)
        assert done.status == 0, done.err
        assert "registry.test can read the password" in done.err
        assert "can read" not in (await lading("login", registry.host, *PIPED, stdin=RIGHT)).err


@pytest.mark.parametrize(
    ("named", "server", "over"),
    [
        ("http://registry.test", "", "https"),
        ("https://registry.test", "http://registry.test", "http"),
        ("https://localhost:5000", "", "http"),
    ],
)
async def test_a_password_goes_the_way_that_was_written_or_nowhere(
    named: str, server: str, over: str, lading: Desk
) -> None:
    if server:
        lading.configure("registry.test", server)
    wrong = await lading("login", named, *PIPED, stdin=RIGHT)
    assert (wrong.status, wrong.out) == (2, b"")
    assert f"is asked over {over}, not " in wrong.err


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("login", "ghcr.io", "-u", "ada"), "--password-stdin"),
        (("login",), "--password-stdin"),
        (("login", "ghcr.io", "--password-stdin"), "-u"),
        (("login", "ghcr.io", "-u", "", "--password-stdin"), "user name"),
        (("login", "ghcr.io", "-u", "ada:planted", "--password-stdin"), "colon"),
        (("login", "ghcr.io", "-u", "ada", "-p", "planted"), "--password-stdin"),
        (("login", "-pplanted", "-u", "ada", "ghcr.io"), "history"),
        (("login", "ghcr.io", "-u", "ada", "--password=planted"), "--password-stdin"),
        (("login", "ghcr.io", "-u", "ada", "--password", "planted"), "--password-stdin"),
        (("login", "ghcr.io", "-u", "ada", "-p"), "--password-stdin"),
        (("login", "ghcr.io", "ada", "planted"), "one REGISTRY"),
        (("login", "https://ada:planted@ghcr.io", *PIPED), "-u"),
        (("login", "ghcr.io/acme", *PIPED), "leave out '/acme'"),
        (("login", "ghcr.io/acme/triage:v1", *PIPED), "whole registry"),
        (("login", "ghcr.io/v3/", *PIPED), "whole registry"),
        (("login", "ada", *PIPED), "isn't a registry's host"),
        (("login", "", *PIPED), "isn't a registry's host"),
        (("login", "ftp://ghcr.io", *PIPED), "isn't a registry's host"),
        (("login", "ghcr.io:port", *PIPED), "isn't a registry's host"),
        (("login", "gh cr.io\x1b[2J", *PIPED), "isn't a registry's host"),
        (("logout", "ghcr.io/acme"), "leave out '/acme'"),
        (("logout", ""), "isn't a registry's host"),
        (("logout", "ghcr.io", "docker.io"), "one REGISTRY"),
    ],
)
async def test_wrong_usage(arguments: tuple[str, ...], said: str, lading: Desk) -> None:
    wrong = await lading(*arguments, stdin=RIGHT)
    assert (wrong.status, wrong.out) == (2, b"")
    assert said in wrong.err
    assert "\x1b" not in wrong.err
    assert not lading.config.exists()


@pytest.mark.parametrize(
    "named", ["GHCR.io", "https://ghcr.io", "ghcr.io/", "https://ghcr.io/v2/", "HTTPS://ghcr.io/v2"]
)
async def test_the_ways_to_write_a_registry(named: str, lading: Desk) -> None:
    lading.write({"auths": {"ghcr.io": {"auth": "eDp5"}}})
    assert (await lading("logout", named)).out == b"logged out of ghcr.io\n"
    assert lading.read() == {"auths": {}}


async def test_a_file_that_cant_be_read_is_named(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    lading.write({})
    lading.config.write_text('{"auths": {"planted')
    for arguments in (("login", ghcr.host, *PIPED), ("logout", ghcr.host)):
        failed = await lading(*arguments, stdin=RIGHT)
        assert (failed.status, failed.out) == (1, b"")
        assert f"{lading.config} isn't JSON" in failed.err
    assert lading.config.read_text() == '{"auths": {"planted'


# At a terminal

# A terminal is a process's own once it is the leader of a session.
IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """``lading`` at a terminal of its own. Everything that appears there is in ``shown``; ``out`` is a pipe."""

    def __init__(self, lading: Shell, *arguments: str) -> None:
        self._master, self._slave = os.openpty()
        self.shown = ""
        self._seen = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, sys.executable, "-m", "lading", *arguments],
            stdin=self._slave,
            stdout=subprocess.PIPE,
            stderr=self._slave,
            cwd=lading.directory,
            env=lading.env,
            start_new_session=True,
        )

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def read_until(self, text: str) -> None:
        """Wait until ``text`` appears, behind what was waited for before."""
        while (place := self.shown.find(text, self._seen)) < 0:
            assert select.select([self._master], [], [], 30)[0], f"no {text!r} in {self.shown!r}"
            self.shown += os.read(self._master, 4096).decode(errors="replace")
        self._seen = place + len(text)

    def write(self, text: str) -> None:
        os.write(self._master, text.encode(errors="surrogateescape"))

    def leave(self, way: str | signal.Signals) -> None:
        """Type ``way``, or send it; again if the interpreter was just about to wait, and then waits nevertheless."""
        for _ in range(5):
            if isinstance(way, str):
                self.write(way)
            else:
                self.process.send_signal(way)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                return

    def end(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=30)
        while select.select([self._master], [], [], 0)[0]:
            self.shown += os.read(self._master, 4096).decode(errors="replace")
        return self.process.returncode, out.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def at_terminal(lading: Shell, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(lading, *arguments)
    try:
        yield terminal
    finally:
        terminal.close()


async def test_at_a_terminal_everything_is_asked_for(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    def log_in() -> None:
        with at_terminal(lading, "login", ghcr.host) as terminal:
            terminal.read_until("User name")
            assert ghcr.host in terminal.shown
            assert terminal.echoes
            terminal.write(" \n")
            terminal.read_until("a user name isn't empty")
            terminal.write("ada\n")
            terminal.read_until("Password")
            assert not terminal.echoes
            terminal.write("\n")
            terminal.read_until("Password")
            terminal.write(f"{PASSWORD}\n")
            status, out = terminal.end()
            assert (status, terminal.echoes) == (0, True), terminal.shown
            assert out.startswith(f"login succeeded: ada at {ghcr.host}, ")
            check_silent(terminal.shown + out)

    await to_thread.run_sync(log_in)
    assert lading.read()["auths"][ghcr.host] == {"auth": auth("ada", PASSWORD)}


async def test_what_is_asked_isnt_in_the_result(ghcr: EmbeddedRegistry, lading: Desk) -> None:
    def log_in() -> None:
        with at_terminal(lading, "login", "-u", "ada", "--json", ghcr.host) as terminal:
            terminal.read_until("Password")
            assert "User name" not in terminal.shown
            terminal.write(f"{PASSWORD}\n")
            status, out = terminal.end()
            assert (status, json.loads(out)["username"]) == (0, "ada")

    await to_thread.run_sync(log_in)


@pytest.mark.parametrize("arguments", [(), ("-u", "ada")], ids=["user name", "password"])
@pytest.mark.parametrize("way", ["\x03", "\x04", signal.SIGTERM], ids=["Ctrl-C", "Ctrl-D", "SIGTERM"])
def test_whoever_leaves_gets_the_terminal_back(
    way: str | signal.Signals, arguments: tuple[str, ...], lading: Desk
) -> None:
    with at_terminal(lading, "login", "ghcr.io", *arguments) as terminal:
        terminal.read_until("Password" if arguments else "User name")
        assert terminal.echoes is not bool(arguments)
        terminal.leave(way)
        status, out = terminal.end()
        assert (status, out) == (130 if isinstance(way, str) else 143, "")
        assert terminal.echoes
        assert "Traceback" not in terminal.shown
    assert not lading.config.exists()


@pytest.mark.parametrize("arguments", [(), ("-u", "ada")], ids=["user name", "password"])
def test_what_is_typed_has_to_be_text(arguments: tuple[str, ...], lading: Desk) -> None:
    lading.env.update({"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"})
    with at_terminal(lading, "login", "ghcr.io", *arguments) as terminal:
        terminal.read_until("Password" if arguments else "User name")
        terminal.write("typed\udcff\n")
        status, out = terminal.end()
        assert (status, out) == (1, "")
        assert "isn't text" in terminal.shown
        assert "Traceback" not in terminal.shown
        assert not arguments or "typed\ufffd" not in terminal.shown


def test_a_terminal_that_shows_what_is_typed_is_refused(lading: Desk) -> None:
    with at_terminal(lading, "login", "ghcr.io", *PIPED) as terminal:
        status, _ = terminal.end()
        assert status == 2
        assert "leave out --password-stdin" in terminal.shown
