"""The service that runs agents: what it answers, what it asks its registry for, and that it survives an outage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from examples.loading import load
from starlette.responses import Response
from starlette.testclient import TestClient

import lading
from lading import Client, Retry, StaticCredentials
from lading.testing import ThreadedRegistry

TRIAGE = b"agents: {root: {model: openai/gpt-4o, instruction: Sort the tickets.}}\n"
WRITER = b"agents: {root: {model: openai/gpt-4o, instruction: Write letters.}}\n"


@pytest.fixture(scope="module")
def example() -> Any:
    return load("agent_service/service.py")


@pytest.fixture
def connect(tmp_path: Path) -> Callable[[], Client]:
    def connect() -> Client:
        retry = Retry(attempts=1)
        return Client(tmp_path / "store", credentials=StaticCredentials({}), retry=retry)

    return connect


@pytest.fixture
def publish(oci_registry: ThreadedRegistry, tmp_path: Path) -> Callable[[str, bytes], str]:
    """Publish an agent from another machine; gives its tag."""

    def publish(name: str, content: bytes) -> str:
        async def push() -> None:
            async with Client(tmp_path / "elsewhere", credentials=StaticCredentials({})) as client:
                await client.push_agent(content, reference, inline=False)

        reference = f"{oci_registry.host}/acme/{name}:v1"
        anyio.run(push)
        return reference

    return publish


@pytest.fixture
def serve(example: Any, connect: Callable[[], Client]) -> Callable[[dict[str, str]], Any]:
    @contextmanager
    def serve(agents: dict[str, str]) -> Iterator[TestClient]:
        with TestClient(example.create_app(agents, connect), raise_server_exceptions=False) as browser:
            yield browser

    return serve


def test_it_is_ready_after_its_start_and_then_asks_nothing(
    serve: Any, publish: Any, oci_registry: ThreadedRegistry
) -> None:
    agents = {"triage": publish("triage", TRIAGE), "writer": publish("writer", WRITER)}
    with serve(agents) as service, oci_registry.recording() as requests:
        assert service.get("/ready").status_code == 200
        answer = service.get("/agents/triage")
        assert answer.content == TRIAGE
        assert answer.headers["agent-origin"] == "fresh"
        said = service.post("/agents/writer", content="A letter, please.").json()["answer"]
        assert "Write letters." in said
        assert "A letter, please." in said
        assert service.get("/agents/nobody").status_code == 404
        assert service.post("/agents/nobody").status_code == 404
    requests.assert_requests()


def test_a_copy_that_is_not_fresh_is_served_at_once_and_revalidated(
    serve: Any, publish: Any, example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {"triage": publish("triage", TRIAGE)}
    monkeypatch.setattr(example, "MAX_AGE", 0.0)
    with serve(agents) as service:
        publish("triage", WRITER)
        answer = service.get("/agents/triage")
        assert answer.content == TRIAGE
        assert answer.headers["agent-origin"] == "stale"
        assert "background" in answer.headers["agent-stale-reason"]
        # Nobody waits for the registry, so nobody knows which request is the first to get the new version.
        answers = (service.get("/agents/triage").content for _ in range(1000))
        assert next(content for content in answers if content != TRIAGE) == WRITER


def test_it_goes_on_while_the_registry_is_down(
    serve: Any, publish: Any, example: Any, oci_registry: ThreadedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {"triage": publish("triage", TRIAGE)}
    with serve(agents):
        pass  # the first start, which fills the store
    oci_registry.stop()
    monkeypatch.setattr(example, "MAX_AGE", 0.0)
    with serve(agents) as service:
        assert service.get("/ready").status_code == 200
        assert service.get("/agents/triage").content == TRIAGE
        monkeypatch.setattr(example, "MAX_STALE", 0.0)
        assert service.get("/agents/triage").status_code == 503
        assert service.get("/ready").status_code == 503


def test_it_starts_without_an_agent_and_becomes_ready_when_there_is_one(
    serve: Any, publish: Any, oci_registry: ThreadedRegistry
) -> None:
    reference = f"{oci_registry.host}/acme/triage:v1"
    with serve({"triage": reference}) as service:
        answer = service.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {"missing": [reference]}
        refused = service.get("/agents/triage")
        assert refused.status_code == 503
        assert "404" in refused.json()["error"]
        assert "retry-after" in refused.headers
        publish("triage", TRIAGE)
        assert service.get("/ready").status_code == 200
        assert service.get("/agents/triage").content == TRIAGE


def test_what_it_tells_of_an_agent_can_be_sent(example: Any) -> None:
    descriptor = lading.Descriptor("application/yaml", lading.Digest.of(TRIAGE), len(TRIAGE))
    reference = lading.Reference.parse("ghcr.io/acme/triage:v3")
    reason = "GET https://cache.acme.dev/v2/…?… answered 503"
    agent = lading.Agent(TRIAGE, descriptor, reference, {}, "stale", age=math.inf, stale_reason=reason)
    assert "age" not in Response(headers=example.told(agent)).headers
    assert Response(headers=example.told(replace(agent, age=59.7))).headers["age"] == "60"


def test_the_variable_names_the_agents(example: Any) -> None:
    assert example.read_agents("triage=ghcr.io/acme/triage:v3 writer=acme/writer") == {
        "triage": "ghcr.io/acme/triage:v3",
        "writer": "docker.io/acme/writer:latest",
    }
    with pytest.raises(lading.errors.InvalidReference):
        example.read_agents("triage=A")
