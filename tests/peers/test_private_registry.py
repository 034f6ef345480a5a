"""A registry that asks who is there: Debian's docker-registry with passwords in a file, and with signed tokens."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

import anyio
import pytest
from aiohttp import web
from anyio import to_thread
from peer_programs import DockerRegistry, program, running_docker_registry
from shell import Shell

from lading import Client, Retry
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import RegistryError, Unauthorized
from lading.testing.access import Access
from lading.testing.profiles import TokenRules
from lading.testing.signed_tokens import TokenSigner
from lading.testing.token_service import TokenService

YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
PASSWORD = "planted-password"
USERS = {"ada": PASSWORD, "bob": "planted-other"}
PIPED = ("-u", "ada", "--password-stdin")
RIGHT, WRONG = PASSWORD.encode() + b"\n", b"planted-mistake\n"

# bcrypt, the only kind that docker-registry reads, of PASSWORD; made once, with few rounds.
HTPASSWD = "ada:$2b$04$lM38bkjJN1xaB1lDMk7VBeCXDqngHvgMBvHqxhZa5xw.bkcXh8Awe\n"

BELIEVED_LONGER = 60.0
"""Seconds for which docker-registry believes a token that has ended."""


@dataclass(frozen=True, slots=True)
class PerUser(Access):
    """Ada may do everything, everybody else what is below their own name."""

    def allows(self, user: str | None, resource: str) -> frozenset[str]:
        if user != "ada" and not resource.startswith(f"repository:{user}/"):
            return frozenset()
        return Access.allows(self, user, resource)


class TokenServer:
    """The embedded registry's token service, alone, with tokens that another registry can check."""

    def __init__(self, signer: TokenSigner, rules: TokenRules) -> None:
        self.url = ""
        self.asked: list[list[str]] = []
        """The scopes of each request for a token."""
        self._service = TokenService(rules, PerUser(USERS, serves_anybody=False), time.monotonic, signer)

    async def __aenter__(self) -> Self:
        server = web.Server(self._answer)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append([value for name, value in parse_qsl(request.query_string) if name == "scope"])
        authorization, body = request.headers.get("Authorization"), await request.read()
        answer = self._service.answer(request.method, request.query.items(), authorization, body)
        assert isinstance(answer.body, bytes)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@dataclass
class Private:
    """A registry that only users may use, and its token server if it has one."""

    registry: DockerRegistry
    tokens: TokenServer | None = None

    @property
    def host(self) -> str:
        return self.registry.host


@asynccontextmanager
async def configured(directory: Path, monkeypatch: pytest.MonkeyPatch, auth: Mapping[str, str]) -> AsyncIterator[str]:
    """Run docker-registry with this part of a configuration, which its environment may hold as well."""
    directory.mkdir()
    with monkeypatch.context() as patched:
        for name, value in auth.items():
            patched.setenv(f"REGISTRY_AUTH{name}", value)
        running = running_docker_registry(directory)
        registry = await to_thread.run_sync(running.__enter__)
    try:
        yield registry.host
    finally:
        await to_thread.run_sync(running.__exit__, None, None, None)


@asynccontextmanager
async def with_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Private]:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(HTPASSWD)
    auth = {"": "htpasswd", "_HTPASSWD_REALM": "private", "_HTPASSWD_PATH": str(passwords)}
    async with configured(tmp_path / "registry", monkeypatch, auth) as host:
        yield Private(DockerRegistry(host, tmp_path / "registry" / "access.log"))


@asynccontextmanager
async def with_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 300.0, told: float | None = None
) -> AsyncIterator[Private]:
    """``seconds`` is how long a token lives at least (and a second more at most), ``told`` what clients are told."""
    rules = TokenRules(service="registry.test", lifetime=seconds if told is None else told)
    signer = TokenSigner("lading.test", early=BELIEVED_LONGER + rules.lifetime - seconds)
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(signer.certificate_pem)
    async with TokenServer(signer, rules) as tokens:
        auth = {
            "": "token",
            "_TOKEN_REALM": tokens.url,
            "_TOKEN_SERVICE": rules.service,
            "_TOKEN_ISSUER": signer.issuer,
            "_TOKEN_ROOTCERTBUNDLE": str(bundle),
        }
        async with configured(tmp_path / "registry", monkeypatch, auth) as host:
            yield Private(DockerRegistry(host, tmp_path / "registry" / "access.log"), tokens)


@pytest.fixture(params=["htpasswd", "token"])
async def private(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Private]:
    kind = with_passwords if request.param == "htpasswd" else with_tokens
    async with kind(tmp_path, monkeypatch) as private:
        yield private


@pytest.fixture
def lading(tmp_path: Path) -> Shell:
    (tmp_path / "desk").mkdir()
    return Shell(tmp_path / "desk")


async def skopeo(*arguments: str, env: Mapping[str, str], stdin: bytes = b"") -> bytes:
    command = [program("skopeo"), *arguments]
    done = await anyio.run_process(command, input=stdin, env={**os.environ, **env}, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def ada(private: Private) -> StaticCredentials:
    return StaticCredentials({private.host: Credential("ada", PASSWORD)})


async def push_all(private: Private, home: Path, contents: Mapping[str, bytes]) -> None:
    async with Client(home, credentials=ada(private)) as client, anyio.create_task_group() as tasks:
        for ref, content in contents.items():
            tasks.start_soon(client.push_agent, content, ref)


async def test_from_a_login_to_a_logout(private: Private, lading: Shell) -> None:
    ref = f"{private.host}/acme/secret:v1"
    nobody = await lading("push", "-", ref, stdin=YAML)
    assert (nobody.status, "401" in nobody.err) == (1, True)

    wrong = await lading("login", private.host, *PIPED, stdin=WRONG)
    assert wrong.status == 1
    assert f"{private.host}: wrong user name or password" in wrong.err
    assert not (lading.home / ".docker").exists()

    done = await lading("login", private.host, *PIPED, stdin=RIGHT)
    assert (done.status, f"login succeeded: ada at {private.host}" in done.out.decode()) == (0, True)
    pushed = await lading("push", "-", ref, stdin=YAML)
    assert (pushed.status, pushed.err) == (0, "")
    lading.env["LADING_HOME"] = str(lading.directory / "another store")
    pulled = await lading("pull", ref, "-o", "-")
    assert (pulled.status, pulled.out) == (0, YAML)

    assert (await lading("logout", private.host)).status == 0
    assert PASSWORD not in (lading.home / ".docker" / "config.json").read_text()
    refused = await lading("pull", ref, "-o", "-")
    assert (refused.status, refused.out) == (1, b"")
    assert "401" in refused.err
    assert "sign in with lading login" in refused.err or "log in to the registry" in refused.err


async def test_a_blob_of_its_own_is_pushed_and_pulled_by_the_library(private: Private, tmp_path: Path) -> None:
    content = YAML + b"#" * 200_000
    async with Client(tmp_path / "pusher", credentials=ada(private)) as client:
        # The second time it is a blob of another repository, which the token has to be good for, too.
        pushed = {
            name: await client.push_agent(content, f"{private.host}/acme/{name}:v1", inline=False)
            for name in ("large", "mounted")
        }
    async with Client(tmp_path / "puller", credentials=ada(private)) as client:
        for name, expected in pushed.items():
            agent = await client.pull_agent(f"{private.host}/acme/{name}:v1")
            assert (agent.content, agent.digest) == (content, str(expected.descriptor.digest))
    sent = [(method, status) for method, path, status in private.registry.requests() if "/mounted/blobs" in path]
    assert ("POST", 201) in sent


async def test_skopeo_logs_in_and_reads_what_lading_pushed_and_the_reverse(
    private: Private, lading: Shell, tmp_path: Path
) -> None:
    assert (await lading("login", private.host, *PIPED, stdin=RIGHT)).status == 0
    assert (await lading("push", "-", f"{private.host}/acme/mine:v1", stdin=YAML)).status == 0

    own = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    await skopeo("login", "--tls-verify=false", private.host, *PIPED, env=own, stdin=RIGHT)
    raw = await skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{private.host}/acme/mine:v1", env=own)
    assert "io.docker.agent.version" in json.loads(raw)["annotations"]

    # Each with the login of the other one.
    docker = {"DOCKER_CONFIG": str(lading.home / ".docker"), "REGISTRY_AUTH_FILE": str(lading.home / "none.json")}
    options = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    copied = [f"docker://{private.host}/acme/mine:v1", f"docker://{private.host}/acme/copied:v1"]
    docker["REGISTRY_AUTH_FILE"] = str(lading.home / ".docker" / "config.json")
    await skopeo(*options, "--preserve-digests", *copied, env=docker)
    assert (await lading("logout", private.host)).status == 0
    lading.env |= own
    assert (await lading("cat", f"{private.host}/acme/copied:v1")).out == YAML


async def test_who_may_not_is_told_what_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lading: Shell) -> None:
    async with with_tokens(tmp_path, monkeypatch) as private:
        async with Client(tmp_path / "store", credentials=ada(private)) as client:
            await client.push_agent(YAML, f"{private.host}/ada/secret:v1")
        login = await lading("login", private.host, "-u", "bob", "--password-stdin", stdin=b"planted-other")
        assert login.status == 0
        assert (await lading("push", "-", f"{private.host}/bob/own:v1", stdin=YAML)).status == 0
        for verb, action in ((("pull",), "pull"), (("push", "-"), "pull,push")):
            refused = await lading(*verb, f"{private.host}/ada/secret:v1", stdin=YAML)
            assert refused.status == 1
            assert "401" in refused.err
            assert f"repository:ada/secret:{action}" in refused.err
        bob = StaticCredentials({private.host: Credential("bob", "planted-other")})
        async with Client(tmp_path / "bobs", credentials=bob) as client:
            with pytest.raises(Unauthorized) as caught:
                await client.pull_agent(f"{private.host}/ada/secret:v1")
        assert "repository:ada/secret:pull" in str(caught.value)


@pytest.mark.parametrize("told", [None, 300.0], ids=["which say when they end", "which say that they live longer"])
async def test_tokens_that_end_during_a_batch(
    told: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[[str, str], None]
) -> None:
    lifetime, renewals, batch = 2.0, 1, 200
    refs = [f"acme/short{number % 10}:v{number // 10}" for number in range(batch)]
    failures: list[RegistryError] = []
    async with with_tokens(tmp_path, monkeypatch, seconds=lifetime, told=told) as private:
        assert private.tokens is not None
        contents = {f"{private.host}/{ref}": YAML + b"# %d\n" % number for number, ref in enumerate(refs)}
        await push_all(private, tmp_path / "pusher", contents)
        private.tokens.asked.clear()
        before = len(private.registry.requests())
        pulls, started = 0, time.monotonic()
        async with Client(tmp_path / "puller", credentials=ada(private), retry=Retry(attempts=1)) as client:
            limiter = anyio.CapacityLimiter(50)

            async def pull(ref: str, content: bytes) -> None:
                async with limiter:
                    try:
                        agent = await client.pull_agent(ref, force=True, fallback="never")
                        assert agent.content == content
                    except RegistryError as error:
                        failures.append(error)

            # As many batches as it takes for tokens to end in the middle, however fast this machine is.
            while time.monotonic() < started + (renewals + 0.5) * (lifetime + 1):
                async with anyio.create_task_group() as tasks:
                    for ref, content in contents.items():
                        tasks.start_soon(pull, ref, content)
                pulls += batch
        seconds = time.monotonic() - started
        refused = sum(status == 401 for _, _, status in private.registry.requests()[before:])
        asked = private.tokens.asked
    assert failures == []
    # Never more than one a repository and life, and mostly fewer.
    assert renewals < len(asked) <= 10 * math.ceil(seconds / lifetime)
    if told is None:
        assert refused <= 100  # the fifty that came before the first token; and some, where this machine stalls
    lives = f"{lifetime:g} to {lifetime + 1:g} s" + ("" if told is None else f" and say {told:g} s")
    measured(
        f"{pulls} pulls from ten private repositories in {seconds:.1f} s, tokens live {lives}",
        f"{len(asked)} requests for tokens, {refused} refusals on the way, no failure",
    )


async def test_fifty_repositories_take_few_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[[str, str], None]
) -> None:
    names = [f"acme/agent-{number}" for number in range(50)]
    async with with_tokens(tmp_path, monkeypatch) as private:
        assert private.tokens is not None
        await push_all(private, tmp_path / "pusher", {f"{private.host}/{name}": YAML for name in names})
        private.tokens.asked.clear()
        puller = Client(tmp_path / "puller", credentials=ada(private))
        async with puller as client, anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(client.pull_agent, f"{private.host}/{name}")
    assert sorted({scope for scopes in private.tokens.asked for scope in scopes}) == sorted(
        f"repository:{name}:pull" for name in names
    )
    count = len(private.tokens.asked)
    assert count <= 20  # on a busy machine; five on one that is idle
    measured("docker-registry with signed tokens, 50 repositories at once", f"{count} token requests")


def test_the_password_file_is_what_it_says() -> None:
    """Nobody can read it off the hash: another implementation of bcrypt has to agree, where there is one."""
    script = "import crypt,sys; print(crypt.crypt(sys.argv[1], sys.argv[2]) == sys.argv[2])"
    for python in ("/usr/bin/python3",):
        if not os.path.exists(python):
            continue
        command = [python, "-W", "ignore", "-c", script, PASSWORD, HTPASSWD.strip().partition(":")[2]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            assert done.stdout.strip() == "True"
            return
    pytest.skip("no other implementation of bcrypt is here")
