"""Credential helpers: real programs, some of them broken, some of them hostile."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import anyio
import pytest

from lading.auth.configfile import Program
from lading.auth.credentials import Credential, DockerConfig
from lading.auth.helpers import erase_from_helper, store_in_helper
from lading.errors import CredentialError

FOUND = """echo '{"ServerURL":"x","Username":"alice","Secret":"planted-secret"}'"""
ALICE = Credential("alice", "planted-secret")
LONG = "sleep 300"


class Helpers:
    """A directory of helpers, and a configuration that names them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir()
        self.path = f"{self.bin}:/usr/bin:/bin"

    def add(self, script: str, name: str = "test") -> None:
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\necho $$ >> '{self.home}/pids'\n{script}\n", encoding="utf-8")
        path.chmod(0o700)

    def config(self, content: str = '{"credsStore":"test"}', seconds: float = 10.0) -> DockerConfig:
        path = self.home / "config.json"
        path.write_text(content, encoding="utf-8")
        return DockerConfig([path], {"PATH": self.path, "PLANTED": "in-the-environment"}, helper_seconds=seconds)

    @property
    def pids(self) -> list[int]:
        path = self.home / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def error(self, seconds: float = 10.0) -> CredentialError:
        with pytest.raises(CredentialError) as caught:
            await self.config(seconds=seconds).credential("example.com")
        assert "docker-credential-test" in str(caught.value)
        assert "example.com" in str(caught.value)
        error: BaseException | None = caught.value
        while error is not None:
            assert "planted" not in str(error) + repr(error) + repr(vars(error))
            error = error.__cause__ or error.__context__
        return caught.value


@pytest.fixture
def helpers(tmp_path: Path) -> Helpers:
    return Helpers(tmp_path)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs (one that only waits to be reaped doesn't)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def ended(pids: list[int]) -> bool:
    """Wait until none of the processes runs: they have been killed, and only the kernel is still busy with them."""
    with anyio.move_on_after(10):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110  # the kernel sets no event
            await anyio.sleep(0.01)
    return not any(is_alive(pid) for pid in pids)


async def test_a_helper_is_told_the_host(helpers: Helpers) -> None:
    helpers.add(f'test "$1" = get && test "$(cat)" = example.com:5000 && {FOUND}')
    assert await helpers.config().credential("example.com:5000") == ALICE
    assert await helpers.config().credential("example.com:5000/acme/triage") == ALICE


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
async def test_a_helper_is_told_what_docker_calls_the_hub(helpers: Helpers, host: str) -> None:
    helpers.add(f'test "$(cat)" = https://index.docker.io/v1/ && {FOUND}')
    assert await helpers.config().credential(host) == ALICE
    for key in ("https://index.docker.io/v1/", "docker.io"):
        assert await helpers.config(f'{{"credHelpers":{{"{key}":"test"}}}}').credential(host) == ALICE


async def test_a_helper_gets_the_given_environment(helpers: Helpers) -> None:
    helpers.add(f'test "$PLANTED" = in-the-environment && test -z "$HOME" && {FOUND}')
    assert await helpers.config().credential("example.com") == ALICE


@pytest.mark.parametrize(
    ("output", "credential"),
    [
        ('{"Username":"<token>","Secret":"planted"}', Credential(identity_token="planted")),
        ('{"Username":"","Secret":"planted"}', Credential("", "planted")),
        ('{"Username":"","Secret":""}', None),
        ('{"Username":"<token>","Secret":""}', None),
    ],
)
async def test_what_a_helper_may_say(helpers: Helpers, output: str, credential: Credential | None) -> None:
    helpers.add(f"echo '{output}'")
    assert await helpers.config().credential("example.com") == credential


async def test_nothing_kept_is_nothing(helpers: Helpers) -> None:
    helpers.add("echo 'credentials not found in native keychain'; exit 1")
    assert await helpers.config().credential("example.com") is None


async def test_what_is_written_answers_where_the_helper_keeps_nothing(helpers: Helpers) -> None:
    helpers.add("echo 'credentials not found in native keychain'; exit 1")
    content = '{"credsStore":"test","auths":{"example.com":{"username":"u","password":"p"}}}'
    assert await helpers.config(content).credential("example.com") == Credential("u", "p")


@pytest.mark.parametrize(
    "script",
    [
        "echo planted",
        "echo 'planted\xff'",
        "echo '[\"planted\"]'",
        "echo '\"planted\"'",
        """echo '{"Username":"planted"}'""",
        """echo '{"Username":"planted","Secret":5}'""",
        """echo '{"Username":"planted","Secret":"\\ud800"}'""",
        """echo '{"Username":"a","Username":"b","Secret":"planted"}'""",
        f"{FOUND}; {FOUND}",
        f"{FOUND}; exit 3",
        "echo planted; exit 1",
        "echo planted >&2; exit 1",
        "echo 'credentials not found in native keychain planted'; exit 1",
        "echo 'credentials not found in native keychain'",
        "",
        "exit 1",
        "kill -9 $$",
        f"{FOUND}; kill -15 $$",
        f"exec <&-; {FOUND}; exit 2",
    ],
)
async def test_a_broken_helper_is_an_error_that_tells_nothing(helpers: Helpers, script: str) -> None:
    helpers.add(script)
    await helpers.error()
    assert await ended(helpers.pids)


@pytest.mark.parametrize("script", ["cat /dev/zero", "yes planted", "yes planted & yes planted"])
async def test_a_helper_that_prints_without_end(helpers: Helpers, script: str) -> None:
    helpers.add(script)
    assert "65536 bytes" in str(await helpers.error())
    assert await ended(helpers.pids)


async def test_a_helper_that_does_not_ask_which_server(helpers: Helpers) -> None:
    helpers.add(f"exec <&-; {FOUND}")
    assert await helpers.config().credential("example.com") == ALICE


async def test_a_helper_that_is_not_installed(helpers: Helpers) -> None:
    assert "installed" in str(await helpers.error())
    helpers.add(FOUND)
    (helpers.bin / "docker-credential-test").chmod(0o600)
    await helpers.error()


async def test_a_helper_that_is_not_a_program(helpers: Helpers) -> None:
    path = helpers.bin / "docker-credential-test"
    path.write_bytes(b"\x7fELF planted")
    path.chmod(0o700)
    await helpers.error()


async def test_a_relative_path_runs_nothing(helpers: Helpers, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.add(FOUND)
    monkeypatch.chdir(helpers.bin)
    for path in ("", ".", ":", "../bin", "bin"):
        helpers.path = path
        await helpers.error()
    assert helpers.pids == []


@pytest.mark.parametrize(
    "name",
    [
        "../test",
        "/test",
        "./test",
        "a/b",
        "a b",
        "x;id",
        "x`id`",
        "x$(id)",
        "-x",
        ".x",
        "_x",
        "C:\\evil",
        "té",
        "x\n",
        "x" * 65,
    ],
)
async def test_a_name_that_is_none_is_not_run(helpers: Helpers, name: str) -> None:
    for content in ({"credsStore": name}, {"credHelpers": {"example.com": name}}):
        with pytest.raises(CredentialError, match="valid name"):
            await helpers.config(json.dumps(content)).credential("example.com")
    assert helpers.pids == []


@pytest.mark.parametrize("host", ["example.com\nevil", "example.com\r", "ex ample.com", "é.com", "a\0b"])
async def test_a_host_that_is_none_is_not_asked_for(helpers: Helpers, host: str) -> None:
    helpers.add(FOUND)
    with pytest.raises(CredentialError):
        await helpers.config().credential(host)
    assert helpers.pids == []


@pytest.mark.parametrize("script", [LONG, f"trap '' TERM INT HUP; {LONG}", f"exec >&-; {LONG}", f"{LONG} & wait"])
async def test_a_helper_that_hangs_is_ended_with_its_children(helpers: Helpers, script: str) -> None:
    helpers.add(f"sh -c 'echo $$ >> {helpers.home}/pids; {LONG}' & {script}")
    assert "0.3 seconds" in str(await helpers.error(seconds=0.3))
    assert await ended(helpers.pids)


async def test_a_child_that_holds_the_pipe_holds_nobody_up(helpers: Helpers) -> None:
    helpers.add(f"sh -c 'echo $$ >> {helpers.home}/pids; {LONG}' & {FOUND}")
    assert await helpers.config().credential("example.com") == ALICE
    assert await ended(helpers.pids)


async def test_a_lookup_that_is_given_up_leaves_nothing_behind(helpers: Helpers) -> None:
    helpers.add(LONG)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(helpers.config(seconds=300).credential, "example.com")
        while not helpers.pids:  # noqa: ASYNC110  # neither does a helper
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert await ended(helpers.pids)


async def test_one_run_for_all_and_its_answer_is_kept(helpers: Helpers) -> None:
    helpers.add(FOUND)
    config, found = helpers.config(), []

    async def one(host: str) -> None:
        found.append(await config.credential(host))

    for _ in range(2):
        assert await config.is_costly("example.com") is (not found)
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one, "example.com")
        assert len(helpers.pids) == 1
    await one("other.example.com")
    assert len(helpers.pids) == 2
    config.forget("example.com")
    assert await config.is_costly("example.com")
    await one("example.com")
    await one("other.example.com")
    assert len(helpers.pids) == 3
    assert found == [ALICE] * 43


async def test_one_failure_for_all(helpers: Helpers) -> None:
    helpers.add("read server; sleep 0.2; exit 1")
    config, errors = helpers.config(), []

    async def one() -> None:
        with pytest.raises(CredentialError) as caught:
            await config.credential("example.com")
        errors.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one)
    assert len(errors) == 20
    assert len(helpers.pids) == 1


async def test_what_costs_much(helpers: Helpers) -> None:
    helpers.add("echo 'credentials not found in native keychain'; exit 1")
    entry = '"auths":{"example.com":{"username":"u","password":"p"}}'
    assert not await helpers.config(f"{{{entry}}}").is_costly("example.com")
    assert not await helpers.config("{}").is_costly("example.com")
    config = helpers.config(f'{{"credsStore":"test",{entry}}}')
    assert await config.is_costly("example.com")
    await config.credential("example.com")
    assert not await config.is_costly("example.com")


async def test_a_helper_of_one_host_is_not_run_for_another(helpers: Helpers) -> None:
    helpers.add(FOUND)
    config = helpers.config('{"credHelpers":{"example.com":"test"}}')
    for host in ("example.com:443", "evil.example.com", "example.com.evil.net", "docker.io"):
        assert await config.credential(host) is None
    assert helpers.pids == []


async def test_descriptors_beyond_1024(helpers: Helpers) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("not enough descriptors")
    helpers.add(FOUND)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert await helpers.config().credential("example.com") == ALICE
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# What a helper is told to keep and to drop

PROGRAM = Program("test", "example.com")


async def store(helpers: Helpers, credential: Credential, seconds: float = 10.0) -> None:
    await store_in_helper(PROGRAM, credential, {"PATH": helpers.path}, seconds=seconds)


async def test_a_helper_is_told_what_to_keep(helpers: Helpers) -> None:
    helpers.add(f'test "$1" = store && test $# = 1 && cat > {helpers.home}/told')
    for credential, username, secret in (
        (ALICE, "alice", "planted-secret"),
        (Credential("ä€", "𝄞\n\0'\""), "ä€", "𝄞\n\0'\""),
        (Credential("u"), "u", ""),
        (Credential("u", "p", "planted"), "<token>", "planted"),
    ):
        await store(helpers, credential)
        told = (helpers.home / "told").read_bytes()
        assert json.loads(told) == {"ServerURL": "example.com", "Username": username, "Secret": secret}
        assert told.count(b"\n") == told.endswith(b"\n") == 1  # some read a line, some to the end


@pytest.mark.parametrize(
    "script",
    [
        "cat > $TOLD",
        "exec >&-; cat > $TOLD",
        "head -c 65536 /dev/zero; cat > $TOLD",
        "sleep 0.2; cat > $TOLD",
        "cat > $TOLD; sleep 300 &",
    ],
)
async def test_a_secret_that_is_larger_than_a_pipe(helpers: Helpers, script: str) -> None:
    helpers.add(f"TOLD={helpers.home}/told; {script}")
    secret = "planted" * 100_000
    await store(helpers, Credential("u", secret))
    assert json.loads((helpers.home / "told").read_bytes())["Secret"] == secret


@pytest.mark.parametrize(
    "script", ["exit 0", "exec <&-; exit 0", "head -c 10 >/dev/null; exit 0", "sleep 300 & exit 0"]
)
async def test_a_helper_that_does_not_listen_to_the_end(helpers: Helpers, script: str) -> None:
    helpers.add(script)
    await store(helpers, Credential("u", "planted" * 100_000))
    assert await ended(helpers.pids)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("cat; exit 1", "status 1"),
        ("exit 7", "status 7"),
        ("kill -9 $$", "signal 9"),
        ("yes planted", "65536 bytes"),
        (LONG, "0.3 seconds"),
        ("echo 'credentials not found in native keychain'; exit 1", "status 1"),
    ],
)
async def test_a_helper_that_does_not_keep_it(helpers: Helpers, script: str, why: str) -> None:
    helpers.add(script)
    with pytest.raises(CredentialError, match=why) as caught:
        await store(helpers, ALICE, 0.3 if script == LONG else 10)
    assert "docker-credential-test" in str(caught.value)
    assert "planted" not in str(caught.value) + repr(caught.value.__context__) + repr(vars(caught.value))
    assert await ended(helpers.pids)


@pytest.mark.parametrize(
    "credential",
    [
        Credential("", "planted"),
        Credential("<token>", "planted"),
        Credential(registry_token="planted"),
        Credential("u", "planted", registry_token="planted"),
    ],
)
async def test_what_a_helper_cannot_keep_is_not_told(helpers: Helpers, credential: Credential) -> None:
    helpers.add("cat >/dev/null")
    with pytest.raises(CredentialError) as caught:
        await store(helpers, credential)
    assert "planted" not in str(caught.value)
    assert helpers.pids == []


async def test_a_helper_is_told_what_to_drop(helpers: Helpers) -> None:
    helpers.add('test "$1" = erase && test "$(cat)" = example.com')
    assert await erase_from_helper(PROGRAM, {"PATH": helpers.path}, seconds=10)
    helpers.add("echo credentials not found in native keychain; exit 1")
    assert not await erase_from_helper(PROGRAM, {"PATH": helpers.path}, seconds=10)
    helpers.add("echo planted; exit 1")
    with pytest.raises(CredentialError, match="status 1"):
        await erase_from_helper(PROGRAM, {"PATH": helpers.path}, seconds=10)


async def test_a_helper_does_not_inherit_our_own_secret(helpers: Helpers) -> None:
    helpers.add('test -z "$LADING_PASSWORD" && test "$OTHER" = other')
    env = {"PATH": helpers.path, "LADING_PASSWORD": "planted", "OTHER": "other"}
    await store_in_helper(PROGRAM, ALICE, env, seconds=10)
