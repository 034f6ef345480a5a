"""``doctor`` at the shell: what it prints, where, and with which status."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from aiohttp import web
from artifacts import publish
from shell import Finished, Shell

from lading.testing import PROFILES, EmbeddedProxy, EmbeddedRegistry, RecordedRequest

YAML = b"agents: {root: {}}\n"
SECRETS = ("proxy-s3cret", "pass-s3cret", "header-s3cret", "token-s3cret", "alice")


def findings(done: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def of(done: Finished, topic: str) -> dict[str, Any]:
    """Give the last finding on a topic."""
    return [one for one in findings(done) if one["topic"] == topic][-1]


def configure(lading: Shell, registry: str, text: str) -> Path:
    """Write a ``hosts.toml`` for a registry, where containerd looks for it as well; give its directory."""
    base = lading.directory.parent / "config"
    directory = base / "containerd" / "certs.d" / registry
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.toml").write_text(text)
    lading.env["XDG_CONFIG_HOME"] = str(base)
    return directory


def log_in(lading: Shell, host: str, password: str) -> None:
    path = lading.home / ".docker" / "config.json"
    path.parent.mkdir(exist_ok=True)
    auth = base64.b64encode(f"alice:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))


async def test_all_is_well(registry: EmbeddedRegistry, lading: Shell) -> None:
    digest = publish(registry, YAML)
    done = await lading("doctor", f"{registry.host}/acme/triage:v1")
    assert (done.status, done.err) == (0, "lading: nothing is wrong\n")
    lines = [re.sub(r"[0-9.]+ m?s$", "N ms", line) for line in done.out.decode().splitlines()]
    assert lines == [
        f"ok   reference   {registry.host}/acme/triage:v1",
        f"--   hosts       nothing is configured for {registry.host}: only the registry itself",
        f"server {registry.url}/v2",
        "ok   asked for   pull, push, resolve",
        "ok   route       direct: a loopback address",
        "--   trust       plain http, which stays on this machine",
        f"--   credentials none for {registry.host}: requests go as nobody",
        f"ok   connection  to {registry.host}, N ms",
        f"ok   ping        GET {registry.url}/v2/ answers 200, N ms",
        f"ok   manifest    HEAD says {digest}, {len_of(registry)} bytes, N ms",
    ]
    registry.assert_requests("GET ping", "HEAD manifest")
    assert not Path(lading.env["LADING_HOME"]).exists(), "the store isn't made"
    assert os.listdir(lading.directory) == os.listdir(lading.home) == []


def len_of(registry: EmbeddedRegistry) -> int:
    from artifacts import manifest

    return len(manifest(YAML))


async def test_a_failure_has_a_hint_and_a_status(registry: EmbeddedRegistry, lading: Shell) -> None:
    done = await lading("doctor", f"{registry.host}/acme/nowhere:v1")
    assert (done.status, done.err) == (1, "lading: 1 failure\n")
    *_, failure, hint = done.out.decode().splitlines()
    assert failure.startswith(f"FAIL manifest    {registry.host}/acme/nowhere:v1: HEAD answered 404")
    assert hint == "                 hint: check the name and the tag; a private repository may look like a missing one"


async def test_json_is_a_line_for_each_finding(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    done = await lading("doctor", "--json", f"{registry.host}/acme/triage:v1")
    assert done.status == 0
    assert all(set(one) == {"topic", "about", "verdict", "text", "hint", "data"} for one in findings(done))
    assert of(done, "route")["data"] == {"route": "direct", "why": "a loopback address"}


async def test_offline(registry: EmbeddedRegistry, lading: Shell) -> None:
    done = await lading("doctor", "--offline", f"{registry.host}/acme/triage:v1")
    assert done.status == 0
    assert done.out.decode().splitlines()[-1] == "--   network     not tried"
    assert registry.connections == 0


async def test_a_private_authority(lading: Shell) -> None:
    async with EmbeddedRegistry(tls=True) as registry:
        publish(registry, YAML)
        ref = f"{registry.host}/acme/triage:v1"
        toml = f'server = "{registry.url}"\n'
        directory = configure(lading, registry.host, toml)
        refused = await lading("doctor", "--json", ref)
        assert refused.status == 1
        assert of(refused, "tls")["data"]["error"] == "TlsFailed"
        (directory / "ca.pem").write_bytes(registry.ca_pem)
        configure(lading, registry.host, toml + 'ca = "ca.pem"\n')
        trusted = await lading("doctor", "--json", ref)
        assert trusted.status == 0
        assert of(trusted, "trust")["data"]["ca"] == [str(directory / "ca.pem")]
        assert of(trusted, "tls")["data"]["version"] == "TLSv1.3"


async def test_a_dead_mirror(registry: EmbeddedRegistry, lading: Shell) -> None:
    publish(registry, YAML)
    configure(
        lading,
        registry.host,
        f'server = "{registry.url}"\n[host."http://127.0.0.1:1"]\n'
        '[host."http://127.0.0.1:1".header]\nX-Team = "header-s3cret"\n',
    )
    done = await lading("doctor", f"{registry.host}/acme/triage:v1")
    assert (done.status, done.err) == (0, "lading: 1 warning\n")
    text = done.out.decode()
    assert "!!   connection  GET http://127.0.0.1:1/v2/?… no connection: Connection refused\n" in text
    assert "--   headers     X-Team: sent with each request, as configured\n" in text
    assert text.index("mirror http://127.0.0.1:1/v2") < text.index(f"server {registry.url}/v2")


async def test_no_secret_is_shown(lading: Shell) -> None:
    async with (
        EmbeddedRegistry(
            host="0.0.0.0", profile=PROFILES["ghcr"], users={"alice": "right"}, private=["acme/triage"]
        ) as registry,
        EmbeddedProxy(credentials=("proxyuser", "proxy-s3cret")) as proxy,
    ):
        publish(registry, YAML)
        configure(lading, registry.host, f'server = "{registry.url}"\n[header]\nX-Team = "header-s3cret"\n')
        log_in(lading, registry.host, "pass-s3cret")
        lading.env["HTTP_PROXY"] = proxy.url.replace("://", "://proxyuser:proxy-s3cret@")
        ref = f"{registry.host}/acme/triage:v1"
        for arguments in (["doctor", ref], ["doctor", ref, "--json"], ["doctor"], ["doctor", "--json"]):
            done = await lading(*arguments)
            shown = done.out.decode() + done.err
            assert not [secret for secret in (*SECRETS, "proxyuser") if secret in shown]
            assert "HTTP_PROXY" in shown
            if len(arguments) > 1 and arguments[1] == ref:
                assert done.status == 1
                assert "X-Team" in shown
        assert registry.credentials, "they were used, though"


async def test_a_password(lading: Shell) -> None:
    async with EmbeddedRegistry(
        profile=PROFILES["ghcr"], users={"alice": "right"}, private=["acme/triage"]
    ) as registry:
        publish(registry, YAML)
        ref = f"{registry.host}/acme/triage:v1"
        for password, status in (("right", 0), ("wrong", 1)):
            log_in(lading, registry.host, password)
            done = await lading("doctor", ref)
            assert done.status == status, done.out
        assert "answered 401 to the credential" in done.out.decode()
        assert done.err == "lading: 1 failure, 2 warnings\n"


async def test_a_rate_limit(registry: EmbeddedRegistry, lading: Shell) -> None:
    async def limit(request: web.Request, record: RecordedRequest) -> web.Response | None:
        headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600", "Retry-After": "30"}
        return web.Response(status=429, headers=headers) if record.kind == "manifest" else None

    registry.intercept = limit
    done = await lading("doctor", f"{registry.host}/acme/triage:v1")
    assert done.status == 1
    assert "to be asked again in 30 s" in done.out.decode()
    assert "!!   rate limit  0 of 100 requests are left in 6 hours" in done.out.decode()


async def test_docker_desktop(lading: Shell) -> None:
    path = lading.home / ".docker" / "desktop" / "httpproxy.sock"
    path.parent.mkdir(parents=True)
    async with EmbeddedRegistry(host="0.0.0.0") as registry, EmbeddedProxy(unix=path) as proxy:
        publish(registry, YAML)
        configure(lading, registry.host, f'server = "{registry.url}"\n')
        ref = f"{registry.host}/acme/triage:v1"
        alive = await lading("doctor", ref)
        assert alive.status == 0
        assert f"through the proxy socket {path}: Docker Desktop" in alive.out.decode()
        await proxy.refuse()
        dead = await lading("doctor", ref)
        assert dead.status == 0
        assert "hint: start Docker Desktop again" in dead.out.decode()
        machine = await lading("doctor")
        assert "!!   desktop" in machine.out.decode()


async def test_a_proxy_that_is_down(lading: Shell) -> None:
    lading.env["HTTPS_PROXY"] = "http://127.0.0.1:1"
    done = await lading("doctor", "ghcr.io/acme/triage")
    assert done.status == 1
    assert "hint: is the proxy up? it is used because of HTTPS_PROXY" in done.out.decode()


async def test_this_machine(lading: Shell) -> None:
    directory = configure(lading, "ghcr.io", "server = 1\n")
    log_in(lading, "quay.io", "pass-s3cret")
    done = await lading("doctor")
    assert (done.status, done.err) == (1, "lading: 1 failure\n")
    text = done.out.decode()
    assert f"FAIL hosts       {directory}/hosts.toml: server: there must be a string here" in text
    assert f"ok   login       {lading.home}/.docker/config.json: for quay.io" in text
    assert f"{lading.env['LADING_HOME']} isn't there yet" in text
    assert not Path(lading.env["LADING_HOME"]).exists()


async def test_a_user_without_a_home(lading: Shell) -> None:
    del lading.env["LADING_HOME"], lading.env["HOME"]
    code = (
        "import pwd; pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid)); "
        "from lading.cli import main; raise SystemExit(main(['doctor']))"
    )
    done = await anyio.run_process([sys.executable, "-c", code], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 1
    assert done.stdout.startswith(b"FAIL store       this user has no home directory")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["acme/UPPER"], ["a b"], ["acme/triage", "acme/other"], ["--nonsense"]])
async def test_wrong_usage(lading: Shell, arguments: list[str]) -> None:
    wrong = await lading("doctor", *arguments)
    assert (wrong.status, wrong.out) == (2, b"")


async def test_help(lading: Shell) -> None:
    shown = await lading("doctor", "--help")
    assert shown.status == 0
    assert b"lading doctor ghcr.io/acme/triage:v3" in shown.out
    assert b"doctor" in (await lading("--help")).out


@pytest.mark.parametrize(("variables", "has_colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_a_terminal(lading: Shell, variables: dict[str, str], has_colours: bool) -> None:
    lading.env |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **variables}
    shown = await anyio.to_thread.run_sync(_on_a_terminal, lading, "doctor", "127.0.0.1:1/acme/triage")
    assert ("\x1b[" in shown) is has_colours
    assert "✗" in shown
    assert "FAIL" not in shown


def _on_a_terminal(lading: Shell, *arguments: str) -> str:
    """Give what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lading", *arguments]
    with subprocess.Popen(command, cwd=lading.directory, env=lading.env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # EIO is the end, on Linux
            pass
        process.wait()
    os.close(ours)
    return shown.decode()


async def test_without_a_reference_nothing_heavy_is_imported(lading: Shell) -> None:
    code = "import sys; from lading.cli import main; main(['doctor']); sys.exit('aiohttp' in sys.modules)"
    done = await anyio.run_process([sys.executable, "-c", code], check=False, cwd=lading.directory, env=lading.env)
    assert done.returncode == 0, done.stderr
