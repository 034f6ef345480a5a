"""Reaching a registry when the way there is the trouble: the proxy socket dies, mirrors are down, limits are met.

Registries are asked for as 0.0.0.0: that connects to this machine, but isn't a loopback address by name, and so isn't
exempt from proxies.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from artifacts import publish

from lading import Client, Host, HostsConfig, MemoryStore, RegistryHosts, Retry
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import BodyInterrupted, ConnectFailed, InvalidHosts, RateLimited, TlsFailed
from lading.events import CacheChecked, ConnectionStep, Event, PullFailed, Pulling, RateLimit, RequestSent, Retrying
from lading.http.proxy import Router
from lading.testing import EmbeddedProxy, EmbeddedRegistry, RecordedRequest, ThrowawayCA
from lading.testing.faults import Reset, Status

QUICK = Retry(first_delay=0.01)


def elsewhere(registry: EmbeddedRegistry) -> str:
    """Give a registry's host under a name that isn't a loopback address."""
    return f"0.0.0.0:{registry.host.rpartition(':')[2]}"


@pytest.fixture
def desktop_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Docker Desktop's socket would be for this user, whose environment says nothing else of proxies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".docker" / "desktop" / "httpproxy.sock"
    path.parent.mkdir(parents=True)
    return path


async def test_the_proxy_socket_dies_in_the_middle_of_a_batch_and_comes_back(
    registry: EmbeddedRegistry,
    desktop_socket: Path,
    connect: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    measured: Callable[[str, str], None],
) -> None:
    now = 1000.0
    monkeypatch.setattr("lading.network.Router", partial(Router, clock=lambda: now))
    host = elsewhere(registry)
    client = connect(hosts=HostsConfig({host: Host(f"http://{host}")}), retry=QUICK)
    contents = {f"batch/agent-{number}": f"number: {number}\n".encode() for number in range(201)}
    for repository, content in contents.items():
        publish(registry, content, repository)
    *batch, last = contents
    async with EmbeddedProxy(unix=desktop_socket) as proxy:
        done = 0

        async def pull(repository: str) -> None:
            nonlocal done
            agent = await client.pull_agent(f"{host}/{repository}:v1")
            assert (agent.content, agent.origin) == (contents[repository], "registry")
            done += 1

        async def kill_in_the_middle(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            if len(registry.requests) == 150:
                await proxy.kill()
            return None

        registry.intercept = kill_in_the_middle

        async with anyio.create_task_group() as group:
            for repository in batch:
                group.start_soon(pull, repository)
        passed = proxy.connections
        assert done == 200
        assert 0 < passed < 400
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [str(desktop_socket) in record.getMessage() for record in warnings] == [True]
        measured("proxy socket killed in a batch of 200", f"{done} pulled, {len(warnings)} warning, {passed} by proxy")
        await proxy.start()
        now += 31
        await pull(last)
        assert proxy.connections > passed
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.WARNING]


async def test_a_private_authority_through_the_proxy_socket(
    desktop_socket: Path, tmp_path: Path, connect: Callable[..., Client]
) -> None:
    authority = ThrowawayCA()
    authority.write(tmp_path / "ca.pem")

    class Elsewhere(ThrowawayCA):
        def server_context(self, *names: str):  # type: ignore[no-untyped-def]
            return authority.server_context("0.0.0.0", *names)

    async with EmbeddedRegistry(tls=Elsewhere()) as secure, EmbeddedProxy(unix=desktop_socket) as proxy:
        publish(secure, b"version: 1\n")
        host = elsewhere(secure)
        ref = f"{host}/acme/triage:v1"
        trusting = connect(hosts=HostsConfig({host: Host(f"https://{host}", ca=tmp_path / "ca.pem")}))
        assert (await trusting.pull_agent(ref)).content == b"version: 1\n"
        assert {(one.method, one.target) for one in proxy.requests} == {("CONNECT", host)}
        for fallback in ("any", "transient", "never"):
            with pytest.raises(TlsFailed):
                await connect().pull_agent(ref, fallback=fallback)  # cached, and yet not answered from there


async def test_an_authority_that_the_program_brings_as_bytes(connect: Callable[..., Client]) -> None:
    async with EmbeddedRegistry(tls=True) as secure:
        publish(secure, b"version: 1\n")
        ref = f"{secure.host}/acme/triage:v1"
        for ca in (secure.ca_pem, [secure.ca_pem, ThrowawayCA().pem]):
            trusting = connect(MemoryStore(), hosts=HostsConfig({secure.host: Host(secure.url, ca=ca)}))
            assert (await trusting.pull_agent(ref)).content == b"version: 1\n"
        for ca in (ThrowawayCA().pem, b"nonsense", b"\xff\x00"):
            with pytest.raises(TlsFailed if b"BEGIN" in ca else InvalidHosts):
                await connect(MemoryStore(), hosts=HostsConfig({secure.host: Host(secure.url, ca=ca)})).pull_agent(ref)


class TestHostsToml:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        (tmp_path / "certs.d" / "registry.example").mkdir(parents=True)
        return tmp_path / "certs.d"

    async def test_a_dead_first_mirror_is_asked_once_and_then_left_alone(
        self,
        registry: EmbeddedRegistry,
        config: Path,
        connect: Callable[..., Client],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with EmbeddedRegistry() as dead:
            pass
        (config / "registry.example" / "hosts.toml").write_text(
            f"""
            server = "https://registry.example"

            [host."{dead.url}"]
              capabilities = ["pull", "resolve"]
            [host."{registry.url}"]
              capabilities = ["pull", "resolve"]
              [host."{registry.url}".header]
                X-Team = ["agents"]
            """
        )
        events: list[Event] = []
        client = connect(hosts=HostsConfig(directories=[config]), retry=Retry(), events=events.append)
        for number in range(5):
            publish(registry, f"number: {number}\n".encode(), f"acme/agent-{number}")
            agent = await client.pull_agent(f"registry.example/acme/agent-{number}:v1")
            assert (agent.content, agent.reference.registry) == (f"number: {number}\n".encode(), "registry.example")
        sent = [event.url for event in events if isinstance(event, RequestSent)]
        assert sum(url.startswith(dead.url) for url in sent) == 1, "not even tried a second time"
        assert not any(isinstance(event, Retrying) for event in events)
        assert len(registry.requests) == 10
        assert all(request.query == "ns=registry.example" for request in registry.requests)
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    async def test_a_mirrors_tag_answer_is_no_answer_without_resolve(
        self, registry: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        publish(registry, b"version: new\n")
        async with EmbeddedRegistry() as mirror:
            publish(mirror, b"version: old\n")
            digest = publish(mirror, b"version: both\n", tag=None)
            hosts = RegistryHosts(Host(registry.url), (Host(mirror.url, ["pull"]),))
            client = connect(hosts=HostsConfig({"registry.example": hosts}))
            ref = "registry.example/acme/triage"
            assert (await client.pull_agent(f"{ref}:v1")).content == b"version: new\n"
            assert mirror.summary() == ["GET blob"], "it was asked for bytes, and hadn't them"
            assert (await client.pull_agent(f"{ref}@{digest}")).content == b"version: both\n"

    async def test_bytes_of_a_mirror_are_verified_and_wrong_ones_no_reason_to_fail(
        self, registry: EmbeddedRegistry, connect: Callable[..., Client], caplog: pytest.LogCaptureFixture
    ) -> None:
        digest = publish(registry, b"version: 1\n")
        async with EmbeddedRegistry() as mirror:
            publish(mirror, b"version: 1\n")

            async def poisoned(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
                return web.Response(body=b"version: 2\n") if record.kind == "blob" else None

            mirror.intercept = poisoned
            hosts = RegistryHosts(Host(registry.url), (Host(mirror.url, ["pull"]),))
            client = connect(hosts=HostsConfig({"registry.example": hosts}))
            agent = await client.pull_agent(f"registry.example/acme/triage@{digest}")
        assert agent.content == b"version: 1\n"
        assert "left alone" in caplog.text

    async def test_a_broken_file_breaks_its_registry_alone(
        self, registry: EmbeddedRegistry, config: Path, connect: Callable[..., Client]
    ) -> None:
        (config / "registry.example" / "hosts.toml").write_text("server = [")
        publish(registry, b"version: 1\n")
        client = connect(hosts=HostsConfig(directories=[config]))
        with pytest.raises(ValueError, match=r"hosts\.toml"):
            await client.pull_agent("registry.example/acme/triage:v1")
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == b"version: 1\n"


class TestRetries:
    async def test_what_passes_is_waited_for(self, registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
        events: list[Event] = []
        client = connect(retry=QUICK, events=events.append)
        publish(registry, b"version: 1\n")
        registry.faults.add(Status(503), on="GET manifest", times=2)
        registry.faults.add(Reset(4), on="GET blob", times=2)
        assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == b"version: 1\n"
        assert registry.summary() == ["GET manifest"] * 3 + ["GET blob"] * 3
        # Also what broke off in the middle of a body is told.
        assert [event.attempt for event in events if isinstance(event, Retrying)] == [1, 2, 1, 2]

    async def test_but_not_for_ever(self, registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
        client = connect(retry=QUICK)
        publish(registry, b"version: 1\n")
        registry.faults.add(Reset(4), on="GET blob", times=None)
        with pytest.raises(BodyInterrupted):
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
        assert len(registry.summary()) == 1 + QUICK.attempts

    async def test_nor_for_long_where_a_copy_can_stand_in(
        self, registry: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        client = connect(retry=QUICK)
        ref = f"{registry.host}/acme/triage:v1"
        publish(registry, b"version: 1\n")
        await client.pull_agent(ref)
        registry.faults.add(Status(503), on="HEAD manifest", times=None)
        with registry.recording() as requests:
            assert (await client.pull_agent(ref)).origin == "stale"
        assert requests.summary() == ["HEAD manifest"] * 2
        registry.faults.clear()
        registry.faults.add(Status(429, retry_after=3600), on="HEAD manifest", times=None)
        started = time.monotonic()
        assert (await client.pull_agent(ref)).origin == "stale"
        assert (await client.pull_agent(ref)).origin == "stale", "though nothing may be sent for a minute"
        assert time.monotonic() - started < 3

    async def test_a_push_is_repeated_where_that_is_safe(
        self, registry: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        client = connect(retry=QUICK)
        for kind in ("HEAD blob", "POST upload", "PUT upload", "PUT manifest"):
            registry.faults.add(Status(502), on=kind)
        pushed = await client.push_agent(b"version: 1\n", f"{registry.host}/acme/triage:v1")
        assert (await client.pull_agent(pushed.reference)).content == b"version: 1\n"

    async def test_one_pause_for_everybody_after_429(
        self, registry: EmbeddedRegistry, connect: Callable[..., Client], measured: Callable[[str, str], None]
    ) -> None:
        refused: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, RequestSent) and event.status == 429:
                refused.append(time.monotonic())

        client = connect(retry=Retry(), events=listen)
        for number in range(100):
            publish(registry, f"number: {number}\n".encode(), f"acme/agent-{number}")
        arrivals: list[float] = []

        async def clocked(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            arrivals.append(time.monotonic())
            return None

        registry.intercept = clocked
        registry.faults.add(Status(429, retry_after=2), on="GET manifest", skip=30)
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(client.pull_agent, f"{registry.host}/acme/agent-{number}:v1")
        (refusal,) = refused
        # What is on its way when the refusal comes can't be called back.
        paused = [arrival for arrival in arrivals if refusal + 0.25 < arrival < refusal + 1.99]
        assert paused == []
        assert len(arrivals) == 201
        after = min(arrival for arrival in arrivals if arrival > refusal + 0.25)
        measured("429 with Retry-After: 2 on one of 100 pulls", f"none sent for {after - refusal:.2f} s, all succeed")

    async def test_a_limit_for_strangers_is_no_limit_for_whoever_can_sign_in(
        self, registry: EmbeddedRegistry, connect: Callable[..., Client]
    ) -> None:
        publish(registry, b"version: 1\n")

        async def limited(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            if "Authorization" in request.headers:
                return None
            return web.Response(status=429, headers={"Retry-After": "3600"})

        registry.intercept = limited
        credentials = StaticCredentials({registry.host: Credential("ada", "secret")})
        client = connect(retry=Retry(), credentials=credentials)
        with anyio.fail_after(2):
            assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == b"version: 1\n"
        with pytest.raises(RateLimited), anyio.fail_after(2):
            await connect(store=MemoryStore(), retry=Retry(budget=1)).pull_agent(f"{registry.host}/acme/triage:v1")

    async def test_limits_are_told(self, registry: EmbeddedRegistry, connect: Callable[..., Client]) -> None:
        publish(registry, b"version: 1\n")

        async def limited(request: web.Request, record: RecordedRequest) -> web.StreamResponse | None:
            if record.kind != "manifest":
                return None
            return web.Response(
                status=404, headers={"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
            )

        registry.intercept = limited
        events: list[Event] = []
        with pytest.raises(Exception, match="404"):
            await connect(events=events.append).pull_agent(f"{registry.host}/acme/triage:v1")
        assert RateLimit(registry.host, 76, 100, 21600.0) in events


async def test_the_callers_deadline_ends_a_wait_between_attempts(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    client = connect(retry=Retry(first_delay=60, longest_delay=60))
    registry.faults.add(Status(503), times=None)
    before = len(asyncio.all_tasks())
    for _ in range(5):
        with anyio.move_on_after(0.05) as scope:
            await client.pull_agent(f"{registry.host}/acme/triage:v1")
        # A delay that happened to be short was followed by another one.
        assert scope.cancelled_caught
    registry.faults.clear()
    publish(registry, b"version: 1\n")
    assert (await client.pull_agent(f"{registry.host}/acme/triage:v1")).content == b"version: 1\n"
    await client.aclose()
    assert len(asyncio.all_tasks()) <= before


async def test_a_name_that_isnt_known_is_asked_for_once(connect: Callable[..., Client]) -> None:
    events: list[Event] = []
    with pytest.raises(ConnectFailed, match="isn't known"):
        await connect(retry=Retry(), events=events.append).pull_agent("no-such-host.invalid/acme/triage")
    assert [type(event) for event in events] == [Pulling, CacheChecked, ConnectionStep, RequestSent, PullFailed]


async def test_what_the_store_had_is_told_and_whether_the_registry_is_asked(
    registry: EmbeddedRegistry, connect: Callable[..., Client]
) -> None:
    events: list[Event] = []
    publish(registry, b"version: 1\n")
    client = connect(events=events.append)
    agent = await client.pull_agent(f"{registry.host}/acme/triage:v1")
    await client.pull_agent(agent.reference)
    await client.pull_agent(agent.reference, max_age=60)
    await client.pull_agent(f"{agent.reference.name}@{agent.digest}")
    told = [(event.found, event.asks) for event in events if isinstance(event, CacheChecked)]
    assert told == [("absent", True), ("intact", True), ("intact", False), ("intact", False)]
