"""How to test your own code that pulls agents: against a real registry, in milliseconds, without any network.

    pip install 'lading[testing]'
    pytest test_my_agents.py

The fixtures `oci_registry`, `lading_client` and their factories come with lading. The tests are asynchronous by anyio's
plugin, which is there because lading needs anyio; pytest-asyncio does as well, and so do synchronous tests.
"""

import pytest

import lading
from lading.testing import PROFILES

pytestmark = pytest.mark.anyio

TRIAGE = b"""\
agents:
  root:
    model: openai/gpt-4o
    instruction: Sort the tickets.
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


# The code under test, which would be imported from your own project.


class HelpDesk:
    """Runs an agent that is published in a registry."""

    def __init__(self, client: lading.Client, reference: str) -> None:
        self._client = client
        self._reference = reference
        self.is_degraded = False

    async def instructions(self) -> str:
        agent = await self._client.pull_agent(self._reference)
        self.is_degraded = agent.origin == "stale"
        return agent.content.decode()


# The tests.


@pytest.fixture
def reference(oci_registry):
    return f"{oci_registry.host}/acme/triage:v1"


async def test_it_asks_no_more_than_it_has_to(oci_registry, lading_client, reference):
    await lading_client.push_agent(TRIAGE, reference, inline=False)
    help_desk = HelpDesk(lading_client, reference)

    with oci_registry.recording() as requests:
        assert "Sort the tickets" in await help_desk.instructions()
    requests.assert_requests("GET manifest", "GET blob")

    with oci_registry.recording() as requests:
        await help_desk.instructions()
    requests.assert_requests("HEAD manifest")

    assert oci_registry.credentials == []


async def test_it_goes_on_when_the_registry_is_down(oci_registry, lading_client, reference):
    await lading_client.push_agent(TRIAGE, reference)
    help_desk = HelpDesk(lading_client, reference)
    await help_desk.instructions()

    oci_registry.stop()
    assert "Sort the tickets" in await help_desk.instructions()
    assert help_desk.is_degraded

    oci_registry.start()
    await help_desk.instructions()
    assert not help_desk.is_degraded


async def test_it_can_sign_in(oci_registry_factory, lading_client_factory):
    """A registry with TLS, users and a token service, and a client that trusts it and may come in."""
    registry = oci_registry_factory(tls=True, profile=PROFILES["ghcr"], users={"ada": "secret"})
    client = lading_client_factory(
        hosts=lading.HostsConfig({registry.host: lading.Host(registry.url, ca=registry.ca_pem)}),
        credentials=lading.StaticCredentials({registry.host: lading.Credential("ada", "secret")}),
    )
    reference = f"{registry.host}/acme/triage:v1"
    await client.push_agent(TRIAGE, reference)
    assert "Sort the tickets" in await HelpDesk(client, reference).instructions()
    assert "bearer" in {credential.scheme for credential in registry.credentials}
