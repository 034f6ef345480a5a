"""How to test your own code that pulls agents: against a real registry, in milliseconds, without any network.

    pip install 'lading[testing]'
    pytest test_my_agents.py

The fixtures `oci_registry` and `lading_client` come with lading. The tests are asynchronous by anyio's plugin, which is
there because lading needs anyio; pytest-asyncio does as well, and so do synchronous tests.
"""

import pytest

import lading

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
