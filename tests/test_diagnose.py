"""What the doctor finds: on real registries, proxies and files, and never a secret.

Where a proxy matters the registry is asked for as 0.0.0.0: that connects to this machine, but isn't a loopback address
by name, and so isn't exempt from proxies.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener
from artifacts import MANIFEST, publish

from lading import Client, Host, HostsConfig, LadingError, LocalStore, Reference, RegistryHosts, Timeouts
from lading.auth.credentials import Credential, DockerConfig, StaticCredentials
from lading.diagnose import Finding, diagnose
from lading.errors import RateLimited
from lading.oci.digest import Digest
from lading.store.index_schema import MIGRATIONS
from lading.store.store import Changes
from lading.testing import PROFILES, EmbeddedProxy, EmbeddedRegistry, RecordedRequest, ThrowawayCA

YAML = b"agents: {root: {}}\n"
USERS = {"alice": "correct-horse"}
SHORT = Timeouts(connect=0.5, first_byte=0.5, stall=0.5)
NOBODY = StaticCredentials({})
DEAD = "http://127.0.0.1:1"
"""Where nobody listens."""

SECRETS = ("proxy-s3cret", "pass-s3cret", "token-s3cret", "header-s3cret", "query-s3cret", "cHJveHktczNjcmV0")


class Found(list[Finding]):
    """Findings, and what is asked about them."""

    def __getitem__(self, topic: object) -> Any:
        """Give the last finding on a topic."""
        of_it = [one for one in list(self) if one.topic == topic]
        assert of_it, f"nothing on {topic} among {self.topics()}"
        return of_it[-1]

    def first(self, topic: str) -> Finding:
        return next(one for one in list(self) if one.topic == topic)

    def topics(self, about: str = "") -> list[str]:
        return [one.topic for one in self if one.about.startswith(about)]

    @property
    def failures(self) -> list[str]:
        return [one.topic for one in self if one.verdict == "failure"]

    @property
    def warnings(self) -> list[str]:
        return [one.topic for one in self if one.verdict == "warning"]


async def examine(ref: str | None = None, **options: Any) -> Found:
    """Give all findings, and make sure that none shows a secret, and that they can be written as JSON."""
    options = {"env": {}, "hosts": HostsConfig(), **options}
    reference = None if ref is None else Reference.parse(ref)
    with anyio.fail_after(30):
        async with aclosing(diagnose(reference, **options)) as findings:
            found = Found([finding async for finding in findings])
    shown = json.dumps([finding.as_dict() for finding in found]) + repr(list(found))
    assert not [secret for secret in SECRETS if secret in shown]
    return found


def served(registry: EmbeddedRegistry, **options: Any) -> HostsConfig:
    """Configure a registry that listens on all addresses."""
    return HostsConfig({registry.host: Host(registry.url, **options)})


def answering(status: int, headers: dict[str, str] | None = None, only: str = "", **options: Any) -> Any:
    """Give an interceptor that answers with ``status``, to requests of one kind alone if told so."""

    async def answer(request: web.Request, record: RecordedRequest) -> web.Response | None:
        return None if only and record.kind != only else web.Response(status=status, headers=headers, **options)

    return answer


async def hang(request: web.Request, record: RecordedRequest) -> None:
    await anyio.sleep_forever()


@asynccontextmanager
async def wrapped(proxy: EmbeddedProxy, authority: ThrowawayCA) -> AsyncIterator[str]:
    """Put TLS in front of a proxy, and give its URL."""
    port = int(proxy.url.rpartition(":")[2])

    async def pump(source: ByteStream, target: ByteStream) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await target.send(await source.receive())
        await target.aclose()

    async def serve(stream: ByteStream) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as inner, anyio.create_task_group() as both:
            both.start_soon(pump, stream, inner)
            await pump(inner, stream)

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    listener = TLSListener(plain, authority.server_context(), standard_compatible=False)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield f"https://127.0.0.1:{plain.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


def home_with(directory: Path, config: dict[str, Any] | str, *helpers: tuple[str, str]) -> dict[str, str]:
    """Make a home with Docker's configuration, and programs on its PATH; give the environment."""
    (directory / ".docker").mkdir(parents=True)
    (directory / "bin").mkdir()
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / ".docker" / "config.json").write_text(text)
    for name, script in helpers:
        program = directory / "bin" / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return {"HOME": str(directory), "PATH": f"{directory / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class TestValues:
    def test_what_is_foreign_is_made_fit_to_be_shown(self) -> None:
        url = "https://user:pass-s3cret@host/path?sig=query-s3cret"
        finding = Finding("ping", f"\x1b[2J {url}", "note", f"see {url}", f"server {url}", {"urls": [url, None, 1]})
        shown = json.dumps(finding.as_dict()) + repr(finding)
        assert "s3cret" not in shown
        assert "\x1b" not in finding.text
        assert finding.data["urls"] == ["https://host/path?…", None, 1]

    def test_an_error_says_how_to_mend_it(self) -> None:
        error = RateLimited("too many", url="https://x", hint="wait", retry_after=30.0, codes=("TOOMANYREQUESTS",))
        finding = Finding.of(error, "manifest", "failure", about="server x")
        assert (finding.text, finding.hint) == ("too many: to be asked again in 30 s", "wait")
        assert finding.data == {
            "error": "RateLimited",
            "status": 429,
            "codes": ["TOOMANYREQUESTS"],
            "retry_after": 30.0,
        }
        assert Finding.of(LadingError("x"), "y", "note", hint="z").hint == "z"


class TestAReference:
    async def test_all_is_well(self, registry: EmbeddedRegistry) -> None:
        digest = publish(registry, YAML)
        found = await examine(f"{registry.host}/acme/triage:v1")
        assert found.topics() == [
            "reference",
            "hosts",
            "asked for",
            "route",
            "trust",
            "credentials",
            "connection",
            "ping",
            "manifest",
        ]
        assert {finding.verdict for finding in found} == {"ok", "note"}
        assert found["route"].data == {"route": "direct", "why": "a loopback address"}
        assert found["asked for"].data == {"root": f"{registry.url}/v2", "capabilities": ["pull", "push", "resolve"]}
        assert (found["manifest"].data["digest"], found["manifest"].data["method"]) == (digest, "HEAD")
        assert "127.0.0.1" in found["connection"].text
        registry.assert_requests("GET ping", "HEAD manifest")

    async def test_it_is_said_before_it_is_tried(self, registry: EmbeddedRegistry) -> None:
        async with aclosing(
            diagnose(Reference.parse(f"{registry.host}/acme/triage"), env={}, hosts=HostsConfig())
        ) as findings:
            async for finding in findings:
                if finding.topic == "connection":
                    break
                assert registry.connections == 0

    async def test_a_digest(self, registry: EmbeddedRegistry) -> None:
        digest = publish(registry, YAML)
        found = await examine(f"{registry.host}/acme/triage@{digest}")
        assert found["manifest"].data["digest"] == digest

    async def test_offline_nothing_is_tried(self, registry: EmbeddedRegistry) -> None:
        found = await examine(f"{registry.host}/acme/triage", offline=True)
        assert found.topics()[-2:] == ["credentials", "network"]
        assert found.failures == []
        assert registry.connections == 0

    async def test_docker_hub(self) -> None:
        found = await examine("triage", offline=True, credentials=NOBODY)
        assert found["reference"].text == "docker.io/library/triage:latest"
        assert found["asked for"].data["root"] == "https://registry-1.docker.io/v2"
        assert found["trust"].data["tls"] is True
        assert found["credentials"].data["host"] == "docker.io"

    async def test_what_isnt_there(self, registry: EmbeddedRegistry) -> None:
        found = await examine(f"{registry.host}/acme/nowhere:v1")
        assert found.failures == ["manifest"]
        assert "404" in found["manifest"].text
        assert "name and the tag" in found["manifest"].hint

    async def test_a_host_that_isnt_known(self) -> None:
        found = await examine("nowhere.invalid/acme/triage")
        assert found.failures == ["dns"]
        assert "'nowhere.invalid' isn't known" in found["dns"].text
        assert found.topics()[-1] == "dns"

    async def test_a_name_is_looked_up(self, registry: EmbeddedRegistry) -> None:
        publish(registry, YAML)
        port = registry.host.rpartition(":")[2]
        found = await examine(f"localhost:{port}/acme/triage:v1")
        assert "127.0.0.1" in found["dns"].data["addresses"]
        assert found.failures == []

    async def test_nobody_listens(self) -> None:
        found = await examine("127.0.0.1:1/acme/triage")
        assert found.failures == ["connection"]
        assert "Connection refused" in found["connection"].text

    @pytest.mark.parametrize("only", ["ping", "manifest"])
    async def test_a_registry_that_hangs_is_given_up(self, registry: EmbeddedRegistry, only: str) -> None:
        async def hang_there(request: web.Request, record: RecordedRequest) -> None:
            if record.kind == only:
                await anyio.sleep_forever()

        registry.intercept = hang_there
        began = time.monotonic()
        found = await examine(f"{registry.host}/acme/triage", timeouts=SHORT)
        assert time.monotonic() - began < 10
        assert found.failures == [only]
        assert "no answer in time" in found[only].text

    async def test_what_listens_and_says_nothing_is_given_up(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = f"127.0.0.1:{silent.getsockname()[1]}"
            found = await examine(
                f"{host}/acme/triage", timeouts=SHORT, hosts=HostsConfig({host: Host(f"https://{host}")})
            )
        assert found.failures == ["tls"]
        assert found["tls"].data["error"] == "TimedOut"

    @pytest.mark.parametrize("status", [403, 404, 503])
    async def test_a_ping_that_is_refused_isnt_a_failure(self, registry: EmbeddedRegistry, status: int) -> None:
        publish(registry, YAML)
        registry.intercept = answering(status, only="ping")
        found = await examine(f"{registry.host}/acme/triage:v1")
        assert (found.warnings, found.failures) == (["ping"], [])
        assert str(status) in found["ping"].text
        assert found["ping"].hint
        assert found["manifest"].verdict == "ok"

    async def test_a_web_page_in_place_of_a_registry(self, registry: EmbeddedRegistry) -> None:
        registry.intercept = answering(200, text="<html>log in</html>", content_type="text/html")
        found = await examine(f"{registry.host}/acme/triage:v1")
        assert "web page" in found["ping"].text
        assert found.failures == ["manifest"]

    async def test_a_redirect_is_said(self, registry: EmbeddedRegistry) -> None:
        async def elsewhere(request: web.Request, record: RecordedRequest) -> web.Response | None:
            if request.path == "/v2/":
                return web.Response(status=307, headers={"Location": "/portal?sig=query-s3cret"})
            return web.Response() if request.path == "/portal" else None

        publish(registry, YAML)
        registry.intercept = elsewhere
        found = await examine(f"{registry.host}/acme/triage:v1")
        assert f"redirected to {registry.url}/portal" in found["ping"].text

    async def test_what_isnt_http(self) -> None:
        async def talk(stream: ByteStream) -> None:
            async with stream:
                await stream.send(b"220 mail.example ESMTP\r\n")

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, talk)
            port = listener.extra(SocketAttribute.local_port)
            found = await examine(f"127.0.0.1:{port}/acme/triage", timeouts=SHORT)
            group.cancel_scope.cancel()
        assert found.failures == ["ping"]

    async def test_head_that_isnt_enough(self) -> None:
        async with EmbeddedRegistry(profile=replace(PROFILES["artifactory"], authentication="none")) as registry:
            digest = publish(registry, YAML)
            found = await examine(f"{registry.host}/acme/triage:v1")
            assert found.failures == []
            assert found["manifest"].data["method"] == "GET"
            assert found["manifest"].data["digest"] == digest

    async def test_what_the_registry_warns_of(self, registry: EmbeddedRegistry) -> None:
        publish(registry, YAML)
        raw = b"{}"
        headers = {
            "Warning": '299 - "it ends \x1b[2J today"'.replace("\x1b", ""),
            "Docker-Content-Digest": registry.add_manifest("acme/x", raw, MANIFEST, tag="v1"),
            "Content-Type": MANIFEST,
            "Content-Length": "2",
        }
        registry.intercept = answering(200, headers, only="manifest")
        found = await examine(f"{registry.host}/acme/x:v1")
        assert "it ends" in found["registry"].text

    async def test_a_rate_limit_that_is_used_up(self, registry: EmbeddedRegistry) -> None:
        headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600", "Retry-After": "60"}
        registry.intercept = answering(429, headers, only="manifest")
        began = time.monotonic()
        found = await examine(f"{registry.host}/acme/triage:v1")
        assert time.monotonic() - began < 10
        assert found.failures == ["manifest"]
        assert found["manifest"].data["retry_after"] == 60.0
        assert "in 60 s" in found["manifest"].text
        assert found["rate limit"].text == "0 of 100 requests are left in 6 hours"
        assert found["rate limit"].verdict == "warning"

    async def test_a_pause_isnt_waited_for(self, registry: EmbeddedRegistry) -> None:
        registry.intercept = answering(429, {"Retry-After": "60"}, only="manifest")
        mirror = Host(f"{registry.url}/v2", ["resolve"], override_path=True, headers={"X-Team": "header-s3cret"})
        hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), (mirror,))})
        began = time.monotonic()
        found = await examine(f"{registry.host}/acme/triage:v1", hosts=hosts)
        assert time.monotonic() - began < 10
        assert (found.warnings, found.failures) == (["manifest"], ["ping"])
        assert "nothing was sent" in found["ping"].text

    async def test_leaving_early_closes_everything(self, registry: EmbeddedRegistry) -> None:
        reference = Reference.parse(f"{registry.host}/acme/triage:v1")
        for topic in ("reference", "route", "connection", "ping", "manifest"):
            async with aclosing(diagnose(reference, env={}, hosts=HostsConfig())) as findings:
                async for finding in findings:
                    if finding.topic == topic:
                        break
        gc.collect()
        # An unclosed connection would be a ResourceWarning, which is an error here.

    async def test_cancelling_ends_it(self, registry: EmbeddedRegistry) -> None:
        registry.intercept = hang
        for seconds in (0.0, 0.3):
            with anyio.move_on_after(seconds) as scope:
                await examine(f"{registry.host}/acme/triage")
            assert scope.cancelled_caught

    async def test_cancelling_at_any_moment_leaves_nothing_open(self, tmp_path: Path) -> None:
        authority = ThrowawayCA()
        authority.write(tmp_path / "ca.pem")
        async with EmbeddedRegistry(host="0.0.0.0", tls=authority) as registry, EmbeddedProxy() as proxy:
            publish(registry, YAML)
            options = {"env": {"https_proxy": proxy.url}, "hosts": served(registry, ca=tmp_path / "ca.pem")}
            for moment in range(60):
                with anyio.move_on_after(moment / 1000):
                    await examine(f"{registry.host}/acme/triage:v1", **options)
        # An unclosed connection would be a ResourceWarning, which is an error here.
        gc.collect()


class TestHosts:
    async def test_a_dead_mirror_is_a_warning(self, registry: EmbeddedRegistry) -> None:
        publish(registry, YAML)
        mirror = Host("http://127.0.0.1:1", headers={"X-Team": "header-s3cret"})
        hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), (mirror,))})
        found = await examine(f"{registry.host}/acme/triage:v1", hosts=hosts)
        assert (found.warnings, found.failures) == (["connection"], [])
        titles = list(dict.fromkeys(finding.about for finding in found if finding.about))
        assert titles == ["mirror http://127.0.0.1:1/v2", f"server {registry.url}/v2"]
        assert found["headers"].data["names"] == ["X-Team"]
        assert found["manifest"].about == titles[1]
        planned = [finding.topic for finding in found].index("connection")
        assert found.topics()[:planned].count("route") == 2

    @pytest.mark.parametrize("capabilities", [["pull", "resolve"], ["resolve"]])
    async def test_a_server_that_isnt_needed_is_a_warning(
        self, registry: EmbeddedRegistry, capabilities: list[str]
    ) -> None:
        """Without the right to give content, though, the mirror alone is no use."""
        publish(registry, YAML)
        hosts = HostsConfig({"dead.example": RegistryHosts(Host(DEAD), (Host(registry.url, capabilities),))})
        found = await examine("dead.example/acme/triage:v1", hosts=hosts)
        serves = "pull" in capabilities
        assert found.failures == ([] if serves else ["connection"])
        assert found.warnings == (["connection"] if serves else [])
        assert found["manifest"].about.startswith("mirror")
        found = await examine("dead.example/acme/triage:v2", hosts=hosts)
        assert found.failures == ["connection"], "the mirror doesn't have it"

    async def test_a_misspelt_key(self, registry: EmbeddedRegistry, tmp_path: Path) -> None:
        publish(registry, YAML)
        directory = tmp_path / registry.host
        directory.mkdir()
        text = f'server = "{registry.url}"\ncapabilites = ["pull"]\ndial_timeout = 1\n'
        (directory / "hosts.toml").write_text(text)
        hosts = HostsConfig(directories=[tmp_path])
        for ref in (f"{registry.host}/acme/triage:v1", None):
            found = await examine(ref, hosts=hosts)
            assert (found.failures, found.warnings) == ([], ["hosts"])
            warning = next(one for one in list(found) if one.verdict == "warning")
            assert f"{directory}/hosts.toml: capabilites is ignored" in warning.text
            assert warning.hint == "did you mean capabilities?"
            assert any("dial_timeout is ignored" in one.text and one.verdict == "note" for one in list(found))

    async def test_a_mirror_that_isnt_asked_for_tags(self, registry: EmbeddedRegistry) -> None:
        digest = publish(registry, YAML)
        async with EmbeddedRegistry() as other:
            mirror = Host(other.url, ["pull"])
            hosts = HostsConfig({registry.host: RegistryHosts(Host(registry.url), (mirror,))})
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=hosts)
            assert found.warnings == []
            assert found.topics("mirror")[-1] == "manifest"
            assert other.summary() == ["GET ping"]
            other.clear_requests()
            found = await examine(f"{registry.host}/acme/triage@{digest}", hosts=hosts)
            assert (found.warnings, found.failures) == (["manifest"], []), "the mirror doesn't have it"
            assert other.requests[-1].query == f"ns={registry.host}"

    async def test_nobody_may_be_asked(self, registry: EmbeddedRegistry) -> None:
        hosts = HostsConfig({registry.host: Host(registry.url, ["push"])})
        found = await examine(f"{registry.host}/acme/triage:v1", hosts=hosts)
        assert found.failures == ["hosts"]
        assert "resolve" in found["hosts"].text

    async def test_a_broken_configuration(self, tmp_path: Path) -> None:
        directory = tmp_path / "certs.d" / "ghcr.io"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text('server = "https://user:pass-s3cret@ghcr.io"')
        found = await examine("ghcr.io/acme/triage", hosts=HostsConfig(directories=[tmp_path / "certs.d"]))
        assert found.failures == ["hosts"]
        assert str(directory / "hosts.toml") in found["hosts"].text
        assert found.topics() == ["reference", "hosts", "credentials"]

    async def test_the_first_hop_is_the_one_that_is_configured(self, registry: EmbeddedRegistry) -> None:
        publish(registry, YAML)
        hosts = HostsConfig({"registry.example": Host(registry.url)})
        found = await examine("registry.example/acme/triage:v1", hosts=hosts)
        assert found.failures == []
        assert found["hosts"].data["server"] == f"{registry.url}/v2"


class TestTls:
    @asynccontextmanager
    async def secure(self, directory: Path) -> AsyncIterator[tuple[EmbeddedRegistry, Path]]:
        async with EmbeddedRegistry(tls=True) as registry:
            publish(registry, YAML)
            path = directory / "ca.pem"
            path.write_bytes(registry.ca_pem)
            yield registry, path

    async def test_an_authority_of_ones_own(self, tmp_path: Path) -> None:
        async with self.secure(tmp_path) as (registry, ca):
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=served(registry, ca=ca))
            assert found.failures == []
            assert str(ca) in found["trust"].text
            assert found["tls"].data["version"] == "TLSv1.3"
            assert "trustme" in found["tls"].data["issuer"]
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=served(registry, ca=registry.ca_pem))
            assert found.failures == []
            assert "BEGIN" not in found["trust"].text + json.dumps(found["trust"].as_dict())

    async def test_an_authority_that_nobody_knows(self, tmp_path: Path) -> None:
        async with self.secure(tmp_path) as (registry, _):
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=served(registry))
            assert found.failures == ["tls"]
            assert found["tls"].data["error"] == "TlsFailed"
            assert "certs.d" in found["tls"].hint
            assert registry.requests == []

    async def test_any_certificate_is_a_warning(self, tmp_path: Path) -> None:
        async with self.secure(tmp_path) as (registry, _):
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=served(registry, insecure=True))
            assert (found.warnings, found.failures) == (["trust"], [])

    async def test_a_certificate_that_ends_soon(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lading.diagnose.connection._SOON_SECONDS", 1e12)
        async with self.secure(tmp_path) as (registry, ca):
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=served(registry, ca=ca))
            assert (found.warnings, found.failures) == (["tls"], [])

    async def test_a_client_certificate_that_isnt_one(self, tmp_path: Path) -> None:
        async with self.secure(tmp_path) as (registry, ca):
            hosts = served(registry, ca=ca, certificates=[(ca, "")])
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=hosts)
            assert found.failures == ["trust"]
            assert str(ca) in found["trust"].text
            assert registry.connections == 0, "a request would fail in the same way"

    async def test_a_registry_without_tls(self, registry: EmbeddedRegistry) -> None:
        hosts = HostsConfig({registry.host: Host(f"https://{registry.host}")})
        found = await examine(f"{registry.host}/acme/triage:v1", hosts=hosts)
        assert found.failures == ["tls"]
        assert "plain http" in found["tls"].hint

    async def test_a_handshake_that_is_broken_off(self) -> None:
        async def leave(stream: ByteStream) -> None:
            await stream.receive()
            await stream.aclose()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, leave)
            host = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            found = await examine(f"{host}/acme/triage", hosts=HostsConfig({host: Host(f"https://{host}")}))
            group.cancel_scope.cancel()
        assert found.failures == ["tls"]
        assert found["tls"].data["error"] == "ConnectFailed"

    async def test_plain_http_elsewhere_is_a_warning(self) -> None:
        async with EmbeddedRegistry(host="0.0.0.0") as registry:
            publish(registry, YAML)
            found = await examine(f"{registry.host}/acme/triage:v1", hosts=served(registry))
            assert (found.warnings, found.failures) == (["trust"], [])


class TestProxies:
    @asynccontextmanager
    async def around(self, tls: ThrowawayCA | None = None, **options: Any) -> AsyncIterator[Any]:
        async with EmbeddedRegistry(host="0.0.0.0", tls=tls or False) as registry, EmbeddedProxy(**options) as proxy:
            publish(registry, YAML)
            yield registry, proxy

    def with_password(self, proxy: EmbeddedProxy, password: str) -> str:
        return proxy.url.replace("://", f"://user:{password}@")

    async def test_plain_http(self) -> None:
        async with self.around(credentials=("user", "proxy-s3cret")) as (registry, proxy):
            env = {"http_proxy": self.with_password(proxy, "proxy-s3cret")}
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=served(registry))
            assert found.failures == []
            assert found["route"].data == {"route": "proxy", "proxy": proxy.url, "why": "http_proxy"}
            assert found["route"].text == f"through the proxy {proxy.url} with a user name and password: http_proxy"
            assert "proxy" in found.topics()
            assert [request.method for request in proxy.requests] == ["GET", "HEAD"]

    async def test_plain_http_with_the_wrong_password(self) -> None:
        async with self.around(credentials=("user", "right")) as (registry, proxy):
            env = {"http_proxy": self.with_password(proxy, "proxy-s3cret")}
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=served(registry))
            assert found.failures == ["ping"]
            assert "407" in found["ping"].text

    async def test_a_tunnel(self, tmp_path: Path) -> None:
        authority = ThrowawayCA()
        authority.write(tmp_path / "ca.pem")
        async with self.around(authority, credentials=("user", "proxy-s3cret")) as (registry, proxy):
            env = {"HTTPS_PROXY": self.with_password(proxy, "proxy-s3cret")}
            hosts = served(registry, ca=tmp_path / "ca.pem")
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=hosts)
            assert found.failures == []
            assert found.topics()[-5:] == ["proxy", "tunnel", "tls", "ping", "manifest"]
            assert all(request.is_tunnel for request in proxy.requests)

    @pytest.mark.parametrize(("fault", "says"), [(None, "407"), (502, "502"), ("abort", "Connection reset")])
    async def test_a_tunnel_that_is_refused(self, fault: Any, says: str) -> None:
        async with self.around(ThrowawayCA(), credentials=("user", "right")) as (registry, proxy):
            proxy.fault = fault
            env = {"https_proxy": self.with_password(proxy, "proxy-s3cret")}
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=served(registry))
            assert found.failures == ["tunnel"]
            assert says in found["tunnel"].text
            assert found["tunnel"].hint
            assert registry.connections == 0

    async def test_a_proxy_that_hangs_is_given_up(self) -> None:
        async with self.around(ThrowawayCA()) as (registry, proxy):
            proxy.fault = "hang"
            options = {"env": {"https_proxy": proxy.url}, "hosts": served(registry), "timeouts": SHORT}
            found = await examine(f"{registry.host}/acme/triage:v1", **options)
            assert found.failures == ["tunnel"]
            assert "in 0.5 s" in found["tunnel"].text

    async def test_what_isnt_a_proxy(self) -> None:
        async def talk(stream: ByteStream) -> None:
            async with stream:
                await stream.send(b"220 mail.example\r\n\r\n")
                await stream.receive()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, talk)
            port = listener.extra(SocketAttribute.local_port)
            found = await examine("ghcr.io/acme/triage", env={"https_proxy": f"127.0.0.1:{port}"})
            group.cancel_scope.cancel()
        assert found.failures == ["tunnel"]
        assert "HTTP" in found["tunnel"].text

    async def test_a_proxy_that_is_down(self) -> None:
        found = await examine("ghcr.io/acme/triage", env={"HTTPS_PROXY": "http://user:proxy-s3cret@127.0.0.1:1"})
        assert found.failures == ["proxy"]
        assert "Connection refused" in found["proxy"].text
        assert "HTTPS_PROXY" in found["proxy"].hint
        assert "dns" not in found.topics(), "the proxy would look it up"

    async def test_a_proxy_that_cant_be_used(self) -> None:
        found = await examine("ghcr.io/acme/triage", env={"HTTPS_PROXY": "socks5://user:proxy-s3cret@127.0.0.1:1"})
        assert found.failures == ["proxy"]
        assert found.topics()[-1] == "network"

    async def test_one_that_cant_be_used_is_no_harm_to_who_needs_none(self) -> None:
        async with self.around() as (registry, _):
            env = {"ALL_PROXY": "socks5h://user:proxy-s3cret@127.0.0.1:1", "NO_PROXY": "0.0.0.0"}
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=served(registry))
            assert found.failures == []
            assert found["manifest"].verdict == "ok"
            found = await examine(f"localhost:{registry.host.rpartition(':')[2]}/acme/triage:v1", env=env)
            assert found.failures == []
            assert [one.topic for one in await examine(env=env) if one.verdict == "failure"] == ["proxy"]

    async def test_who_needs_none(self) -> None:
        async with self.around() as (registry, proxy):
            env = {"HTTP_PROXY": proxy.url, "NO_PROXY": "example.com,0.0.0.0/8"}
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=served(registry))
            assert found["route"].text == "direct: NO_PROXY has 0.0.0.0/8"
            assert (found.failures, proxy.requests) == ([], [])

    async def test_a_proxy_that_speaks_tls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        authority = ThrowawayCA()
        authority.write(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with self.around(authority) as (registry, proxy), wrapped(proxy, authority) as url:
            found = await examine(f"{registry.host}/acme/triage:v1", env={"HTTPS_PROXY": url}, hosts=served(registry))
            assert found.failures == []
            assert found.topics()[-5:] == ["proxy", "tunnel", "tls", "ping", "manifest"]

    async def test_a_proxy_that_doesnt_speak_tls(self) -> None:
        async with self.around() as (registry, proxy):
            env = {"HTTP_PROXY": proxy.url.replace("http:", "https:")}
            found = await examine(f"{registry.host}/acme/x:v1", env=env, hosts=served(registry), timeouts=SHORT)
            assert found.failures == ["proxy"]

    async def test_docker_desktop(self, tmp_path: Path) -> None:
        path = tmp_path / ".docker" / "desktop" / "httpproxy.sock"
        path.parent.mkdir(parents=True)
        async with self.around(unix=path) as (registry, proxy):
            options = {"env": {"HOME": str(tmp_path)}, "hosts": served(registry)}
            found = await examine(f"{registry.host}/acme/triage:v1", **options)
            assert found.failures == []
            assert found["route"].data == {"route": "proxy", "proxy": str(path), "why": "Docker Desktop"}
            assert len(proxy.requests) == 2

            await proxy.refuse()
            found = await examine(f"{registry.host}/acme/triage:v1", **options)
            assert found.failures == []
            assert "proxy" in found.warnings
            assert found["proxy"].hint.startswith("start Docker Desktop")
            assert found["route"].data["route"] == "direct", "that is what a request does"
            assert found["manifest"].verdict == "ok"

    async def test_a_socket_that_was_asked_for_is_never_passed_over(self, tmp_path: Path) -> None:
        async with self.around() as (registry, _):
            env = {"http_proxy": f"unix://{tmp_path}/none.sock"}
            found = await examine(f"{registry.host}/acme/triage:v1", env=env, hosts=served(registry))
            assert found.failures == ["proxy"]
            assert registry.connections == 0


class TestCredentials:
    @asynccontextmanager
    async def private(self, profile: str) -> AsyncIterator[EmbeddedRegistry]:
        async with EmbeddedRegistry(profile=PROFILES[profile], users=USERS, private=["acme/secret"]) as registry:
            for repository in ("acme/secret", "acme/open"):
                publish(registry, YAML, repository)
            yield registry

    @pytest.mark.parametrize("profile", ["ghcr", "docker-hub", "ecr"])
    async def test_the_right_password(self, tmp_path: Path, profile: str) -> None:
        async with self.private(profile) as registry:
            env = home_with(tmp_path, {"auths": {registry.host: basic("alice", USERS["alice"])}})
            found = await examine(f"{registry.host}/acme/secret:v1", env=env)
            assert (found.warnings, found.failures) == ([], [])
            assert found["credentials"].text == f"{tmp_path}/.docker/config.json (auths)"
            assert found["credential"].text == "there is a user name and password"
            if profile == "ecr":
                assert found["challenge"].data["scheme"] == "basic"
                assert found["password"].data == {"status": 200}
            else:
                assert found["challenge"].data["realm"].startswith("http://127.0.0.1:")
                assert found["token"].text.endswith("gave one to the credential")
            shown = " ".join(f"{one.text} {one.hint} {dict(one.data)}" for one in found)
            assert "alice" not in shown
            assert USERS["alice"] not in shown

    @pytest.mark.parametrize("profile", ["ghcr", "docker-hub", "ecr"])
    async def test_nobody(self, profile: str) -> None:
        async with self.private(profile) as registry:
            found = await examine(f"{registry.host}/acme/secret:v1", credentials=NOBODY)
            assert found.failures == ["manifest"]
            assert found["credentials"].text == f"none for {registry.host}: requests go as nobody"
            assert found["manifest"].data["status"] in (401, 403)
            assert found["manifest"].hint

    @pytest.mark.parametrize("profile", ["ghcr", "docker-hub", "ecr"])
    async def test_the_wrong_password(self, tmp_path: Path, profile: str) -> None:
        async with self.private(profile) as registry:
            env = home_with(tmp_path, {"auths": {registry.host: basic("alice", "pass-s3cret")}})
            found = await examine(f"{registry.host}/acme/secret:v1", env=env)
            assert found.failures == ["manifest"]
            refused = found.first("password" if profile == "ecr" else "token")
            assert (refused.verdict, refused.data["status"]) == ("warning", 401)
            assert "log in" in refused.hint

    async def test_the_wrong_password_where_anybody_is_served(self, tmp_path: Path) -> None:
        async with self.private("docker-hub") as registry:
            env = home_with(tmp_path, {"auths": {registry.host: basic("alice", "pass-s3cret")}})
            found = await examine(f"{registry.host}/acme/open:v1", env=env)
            assert found.failures == []
            assert found.warnings == ["token"], "it is said once"
            assert found.first("token").data == {"status": 401, "refused": True}
            assert found["manifest"].verdict == "ok"

    async def test_what_is_left_of_the_rate_limit(self) -> None:
        async with self.private("docker-hub") as registry:
            found = await examine(f"{registry.host}/acme/open:v1", credentials=NOBODY)
            assert found["rate limit"].text == "100 of 100 requests are left in 6 hours"
            assert found["token"].text.endswith("gave one to nobody in particular")
            assert found.failures == []

    async def test_an_identity_token(self) -> None:
        async with self.private("docker-hub") as registry:
            credential = Credential(identity_token=registry.identity_token("alice"))
            credentials = StaticCredentials({registry.host: credential})
            found = await examine(f"{registry.host}/acme/secret:v1", credentials=credentials)
            assert found.failures == []
            assert found["credentials"].text == "StaticCredentials"
            assert found["credential"].text == "there is an identity token"

    async def test_a_registry_token(self, registry: EmbeddedRegistry) -> None:
        publish(registry, YAML)
        credentials = StaticCredentials({registry.host: Credential(registry_token="token-s3cret")})
        found = await examine(f"{registry.host}/acme/triage:v1", credentials=credentials)
        assert found["credential"].text == "there is a registry token"

    async def test_a_helper(self, tmp_path: Path) -> None:
        async with self.private("ghcr") as registry:
            answer = json.dumps({"Username": "alice", "Secret": USERS["alice"]})
            env = home_with(tmp_path, {"credsStore": "vault"}, ("vault", f"cat > /dev/null; echo '{answer}'"))
            found = await examine(f"{registry.host}/acme/secret:v1", env=env)
            assert found.failures == []
            where = f"docker-credential-vault (credsStore in {tmp_path}/.docker/config.json)"
            assert found["credentials"].text == f"{where}, asked where anybody is refused"
            assert found["credential"].verdict == "ok"

    async def test_offline_no_helper_is_run(self, tmp_path: Path) -> None:
        env = home_with(tmp_path, {"credsStore": "vault"}, ("vault", f"touch {tmp_path}/ran"))
        await examine("ghcr.io/acme/triage", env=env, offline=True)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("script", "verdict"),
        [("exit 1", "warning"), ("echo 'credentials not found in native keychain'; exit 1", "note")],
    )
    async def test_a_helper_that_has_none(self, tmp_path: Path, script: str, verdict: str) -> None:
        async with self.private("ghcr") as registry:
            env = home_with(tmp_path, {"credsStore": "vault"}, ("vault", f"cat > /dev/null; {script}"))
            found = await examine(f"{registry.host}/acme/open:v1", env=env)
            assert found.failures == []
            assert found["credential"].verdict == verdict
            assert found.topics().count("credential") == 1, "it is said once"

    async def test_a_file_that_is_broken(self, registry: EmbeddedRegistry, tmp_path: Path) -> None:
        publish(registry, YAML)
        env = home_with(tmp_path, '{"auths": pass-s3cret')
        found = await examine(f"{registry.host}/acme/triage:v1", env=env)
        assert (found.warnings, found.failures) == (["credentials"], [])
        assert f"{tmp_path}/.docker/config.json" in found["credentials"].text

    async def test_the_variables_of_ci_come_first(self, tmp_path: Path) -> None:
        async with self.private("ghcr") as registry:
            env = home_with(tmp_path, {"auths": {registry.host: basic("alice", "pass-s3cret")}})
            env |= {"LADING_REGISTRY": registry.host, "LADING_USERNAME": "alice", "LADING_PASSWORD": USERS["alice"]}
            found = await examine(f"{registry.host}/acme/secret:v1", env=env)
            assert found.failures == []
            assert "LADING_PASSWORD" in found["credentials"].text

    @pytest.mark.parametrize(
        ("challenge", "says"),
        [
            ('Bearer realm="http://169.254.169.254/token?x=query-s3cret",service="x"', "refused"),
            ("Negotiate abc", "negotiate"),
            ('Bearer realm="x', "WWW-Authenticate"),
            ("Bearer", "of whom"),
            (None, "doesn't say"),
        ],
    )
    async def test_a_challenge_that_cant_be_answered(
        self, registry: EmbeddedRegistry, challenge: str | None, says: str
    ) -> None:
        registry.intercept = answering(401, {"WWW-Authenticate": challenge} if challenge else None)
        found = await examine(f"{registry.host}/acme/triage:v1", credentials=NOBODY)
        assert says in found["challenge"].text
        assert found["challenge"].verdict == "warning"
        assert found.failures == ["manifest"]

    async def test_a_token_server_that_fails(self) -> None:
        async with self.private("ghcr") as registry:
            registry.intercept = answering(500, only="token")
            found = await examine(f"{registry.host}/acme/open:v1", credentials=NOBODY)
            assert found.failures == ["manifest"]
            assert (found["token"].verdict, found["token"].data["status"]) == ("warning", 500)


class TestThisMachine:
    async def test_an_empty_one(self, tmp_path: Path) -> None:
        home = tmp_path / "store"
        found = await examine(home=home, env={"HOME": str(tmp_path)})
        assert found.failures == []
        assert "isn't there yet" in found["store"].text
        assert not home.exists(), "looking at a store doesn't make it"
        assert "python" in found["version"].data
        assert found.topics().count("proxy") == 2

    async def test_a_store(self, registry: EmbeddedRegistry, tmp_path: Path) -> None:
        publish(registry, YAML)
        async with Client(tmp_path / "store", credentials=NOBODY) as client:
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
            in_use = await examine(home=tmp_path / "store")
            assert in_use["store"].data["references"] == 1
        before = _state(tmp_path)
        found = await examine(home=tmp_path / "store")
        assert _state(tmp_path) == before
        assert (found.warnings, found.failures) == ([], [])
        assert found["store"].data["references"] == 1
        assert found["store"].data["bytes"] > 0
        assert found["space"].data["writable"] is True

    async def test_a_store_that_is_damaged(self, registry: EmbeddedRegistry, tmp_path: Path) -> None:
        (tmp_path / "index-1.db").write_bytes(b"not a database" * 1000)
        before = _state(tmp_path)
        found = await examine(home=tmp_path)
        assert (found.warnings, found.failures) == (["store"], [])
        assert "repairs" in found["store"].hint
        assert _state(tmp_path) == before

    @pytest.mark.parametrize(("version", "verdict"), [(0xFFFF, "failure"), (1, "note")])
    async def test_a_store_of_another_format(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, verdict: str
    ) -> None:
        store = LocalStore(tmp_path)
        await store.commit(Changes(time.time(), content=((Digest.of(b"x"), b"x"),)))
        await store.aclose()
        index = tmp_path / "index-1.db"
        raw = bytearray(index.read_bytes())
        if version == 1:
            # A newer program: what there is now is then the older format.
            monkeypatch.setattr("lading.store.index.MIGRATIONS", (*MIGRATIONS, ("SELECT 1",)))
        else:
            raw[60:64] = version.to_bytes(4, "big")  # SQLite, "Database File Format": the user version
            index.write_bytes(raw)
        before = _state(tmp_path)
        found = await examine(home=tmp_path)
        assert found["store"].verdict == verdict
        assert _state(tmp_path) == before, "nothing is migrated"

    async def test_a_file_where_a_directory_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "store").write_text("x")
        found = await examine(home=tmp_path / "store")
        assert found.failures == ["store"]
        assert "LADING_HOME" in found["store"].hint

    async def test_a_store_that_cant_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        found = await examine(home=tmp_path)
        assert found.warnings == ["space"]
        assert found["space"].data == {"writable": False}

    async def test_proxies(self, tmp_path: Path) -> None:
        env = {"HTTPS_PROXY": "http://user:proxy-s3cret@proxy.example:3128", "no_proxy": ".example.com 10.0.0.0/8"}
        found = await examine(env=env)
        https, http = (one for one in found if one.topic == "proxy")
        assert https.data == {"scheme": "https", "proxy": "http://proxy.example:3128", "why": "HTTPS_PROXY"}
        assert https.text.startswith("https goes through the proxy http://proxy.example:3128 with a user name")
        assert http.text == "http goes direct: no proxy is configured"
        assert found["no proxy"].data == {"entries": [".example.com", "10.0.0.0/8"]}

    async def test_a_proxy_that_cant_be_used(self) -> None:
        found = await examine(env={"HTTPS_PROXY": "socks5://user:proxy-s3cret@x:1"})
        assert found.failures == ["proxy"]
        assert found.topics()[-1] == "login", "the rest is looked at all the same"

    async def test_docker_desktop(self, tmp_path: Path) -> None:
        path = tmp_path / ".docker" / "desktop" / "httpproxy.sock"
        path.parent.mkdir(parents=True)
        env = {"HOME": str(tmp_path)}
        async with EmbeddedProxy(unix=path) as proxy:
            found = await examine(env=env)
            assert found["desktop"].verdict == "ok"
            assert found["proxy"].data["proxy"] == str(path)
            await proxy.refuse()
            found = await examine(env=env)
            assert found["desktop"].verdict == "warning"
            assert "Connection refused" in found["desktop"].text
        found = await examine(env={**env, "LADING_NO_DESKTOP_PROXY": "1"})
        assert "desktop" not in found.topics()

    async def test_a_socket_whose_backlog_is_full(self, tmp_path: Path) -> None:
        path = tmp_path / "proxy.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(0)
            waiting = []
            try:
                for _ in range(4):
                    waiting.append(socket.socket(socket.AF_UNIX))
                    waiting[-1].setblocking(False)
                    waiting[-1].connect_ex(str(path))
                found = await examine(env={"https_proxy": f"unix://{path}"})
            finally:
                for one in waiting:
                    one.close()
        assert found.failures == ["proxy"]
        assert "backlog" in found["proxy"].text

    async def test_hosts(self, tmp_path: Path) -> None:
        files = {
            "ghcr.io/hosts.toml": '[host."https://mirror.example"]\n',
            "registry.example_5000_/hosts.toml": 'server = "http://registry.example:5000"',
            "_default/hosts.toml": '[host."https://mirror.example"]\n[host."https://mirror.example".header]\n'
            'X-Team = "header-s3cret"',
            "broken.example/hosts.toml": "server = pass-s3cret",
            "quay.io/client.cert": "x",
            "NOT A HOST/hosts.toml": "",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text(text)
        found = await examine(hosts=HostsConfig(directories=[tmp_path / "none", tmp_path]))
        said = {one.text.partition(": ")[0]: one for one in found if one.topic == "hosts"}
        assert sorted(one.text for one in found if one.verdict == "failure") == [
            f"{tmp_path}/broken.example/hosts.toml isn't TOML (at line 1, column 10)",
            f"{tmp_path}/quay.io/client.key is missing: client.cert is there",
        ]
        assert said[f"{tmp_path}/ghcr.io"].text.endswith("https://mirror.example/v2 then https://ghcr.io/v2")
        assert "http://registry.example:5000/v2" in said[f"{tmp_path}/registry.example_5000_"].text
        assert said[f"{tmp_path}/_default"].text.endswith("https://mirror.example/v2 then the registry")
        assert said[f"{tmp_path}/NOT A HOST is for nobody"].verdict == "note"

    async def test_logins(self, tmp_path: Path) -> None:
        config = {
            "auths": {
                "https://index.docker.io/v1/": basic("alice", "pass-s3cret"),
                "ghcr.io": {"auth": "token-s3cret"},
                "quay.io": {},
            },
            "credsStore": "desktop",
            "credHelpers": {"gcr.io": "gcloud", "ecr.example": "gcloud", "x.example": "../sh", "y.example": 1},
        }
        env = home_with(tmp_path, config, ("gcloud", f"touch {tmp_path}/ran"))
        found = await examine(env=env)
        assert found.failures == []
        assert found["login"].verdict == "warning"
        source = f"{tmp_path}/.docker/config.json"
        kept = next(one for one in found if one.data.get("source") == source)
        assert kept.data["hosts"] == ["docker.io", "quay.io"]
        assert any("'auth' of ghcr.io" in one.text for one in found)
        helpers = {one.data["helper"]: one for one in found if one.topic == "helper"}
        assert helpers["gcloud"].text.endswith(f"is {tmp_path}/bin/docker-credential-gcloud")
        assert (helpers["desktop"].verdict, helpers["desktop"].data.get("path")) == ("warning", None)
        assert sum("x.example" in one.text for one in found) == 1
        assert not (tmp_path / "ran").exists(), "no helper is run"

    async def test_logins_that_cant_be_read(self, tmp_path: Path) -> None:
        env = home_with(tmp_path, "pass-s3cret")
        env |= {"DOCKER_AUTH_CONFIG": "{pass-s3cret", "LADING_REGISTRY": "ghcr.io", "LADING_PASSWORD": "token-s3cret"}
        os.mkfifo(tmp_path / "auth.json")
        env["REGISTRY_AUTH_FILE"] = str(tmp_path / "auth.json")
        found = await examine(env=env)
        warnings = [one.text for one in found if one.verdict == "warning"]
        assert any(text.startswith("DOCKER_AUTH_CONFIG isn't JSON") for text in warnings)
        assert any(text.startswith(f"{tmp_path}/.docker/config.json isn't JSON") for text in warnings)
        assert any("LADING_USERNAME is not set" in text for text in warnings)

    async def test_the_variables_of_ci(self) -> None:
        env = {"LADING_REGISTRY": "ghcr.io", "LADING_USERNAME": "bot", "LADING_PASSWORD": "pass-s3cret"}
        found = await examine(env=env)
        assert found.first("login").data == {"hosts": ["ghcr.io"]}

    async def test_no_network(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the network was used")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(anyio, "connect_tcp", refuse)
        env = {"HTTPS_PROXY": "http://127.0.0.1:1", "HOME": str(tmp_path)}
        assert (await examine(env=env, home=tmp_path)).failures == []


def _state(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Tell whether anything in a directory was touched."""
    statuses = {str(path): path.stat() for path in directory.rglob("*")}
    return {path: (one.st_size, one.st_mtime_ns, stat.S_IMODE(one.st_mode)) for path, one in statuses.items()}


def test_docker_config_names_its_files(tmp_path: Path) -> None:
    env = {"HOME": "/home/x", "XDG_RUNTIME_DIR": "/run/x"}
    assert [str(path) for path in DockerConfig(env=env).paths] == [
        "/home/x/.docker/config.json",
        "/run/x/containers/auth.json",
        "/home/x/.config/containers/auth.json",
    ]
    assert DockerConfig([tmp_path / "a"]).paths == (tmp_path / "a",)
