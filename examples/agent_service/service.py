"""A service that runs agents from a registry, and goes on while the registry is down.

    pip install lading starlette uvicorn
    AGENTS="triage=ghcr.io/acme/triage:v3 writer=ghcr.io/acme/writer" uvicorn --factory service:create_app

- `POST /agents/triage` with a question as its body: what the agent says to that.
- `GET /agents/triage`: the agent itself, with its digest, its age, and where it came from.
- `GET /ready`: 200 once every agent can be answered for without waiting, 503 and what is missing before that.
"""

import contextlib
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import lading

MAX_AGE = 60.0
"""Seconds for which an agent isn't asked about again. After that a request still gets the copy that is here, at once,
and the registry is asked in the background: nobody waits for it, and a new version is served a request later."""

MAX_STALE = 24 * 3600.0
"""Seconds of an outage that the service survives. An older copy is an error: somebody should know by then."""

WARM_UP = 10.0
"""Seconds that a start waits for the registry at most."""

PROBE = 2.0
"""Seconds that a readiness probe waits for what is missing."""


def create_app(
    agents: Mapping[str, str] | None = None, connect: Callable[[], lading.Client] = lading.Client
) -> Starlette:
    """Give the application for `agents`, references by name; by default what the variable AGENTS says."""
    references = read_agents(os.environ.get("AGENTS", "")) if agents is None else dict(agents)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, object]]:
        # One client for the life of the service: its connections and its store are shared by all requests.
        async with connect() as client:
            # What a start can do, no request has to wait for. A registry that is down doesn't keep it from starting.
            with anyio.move_on_after(WARM_UP):
                await missing(client, references)
            yield {"client": client, "references": references}

    routes = [
        Route("/agents/{name}", show, methods=["GET"]),
        Route("/agents/{name}", ask, methods=["POST"]),
        Route("/ready", ready),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={lading.LadingError: unavailable})


def read_agents(text: str) -> dict[str, str]:
    """Read `triage=ghcr.io/acme/triage:v3 writer=…`; a reference that isn't one is found out at the start."""
    pairs = [item.partition("=") for item in text.split()]
    return {name: str(lading.Reference.parse(reference)) for name, _, reference in pairs}


async def pull(request: Request) -> lading.Agent | None:
    """Give the agent that a request is about, `None` if there is no such name here."""
    reference = request.state.references.get(request.path_params["name"])
    if reference is None:
        return None
    client: lading.Client = request.state.client
    return await client.pull_agent(reference, max_age=MAX_AGE, max_stale=MAX_STALE, revalidate="background")


async def show(request: Request) -> Response:
    agent = await pull(request)
    if agent is None:
        return PlainTextResponse("no such agent\n", 404)
    return Response(agent.content, media_type="application/yaml", headers=told(agent))


async def ask(request: Request) -> Response:
    agent = await pull(request)
    if agent is None:
        return PlainTextResponse("no such agent\n", 404)
    question = (await request.body()).decode()
    return JSONResponse({"answer": run(agent, question)}, headers=told(agent))


def run(agent: lading.Agent, question: str) -> str:
    """Run an agent: here is where the model of your choice is asked."""
    root = yaml.safe_load(agent.content)["agents"]["root"]
    return f"{root['model']} would be told {root['instruction'].strip()!r} and asked {question!r}"


def told(agent: lading.Agent) -> dict[str, str]:
    """What whoever looks into a problem wants to know about the agent that answered."""
    headers = {"ETag": f'"{agent.digest}"', "Agent-Origin": agent.origin}
    if math.isfinite(agent.age):  # of what was imported, no registry has ever said anything
        headers["Age"] = f"{agent.age:.0f}"
    if agent.stale_reason:
        headers["Agent-Stale-Reason"] = agent.stale_reason.encode("ascii", "replace").decode()
    return headers


async def ready(request: Request) -> Response:
    left = list(request.state.references.values())
    with anyio.move_on_after(PROBE):
        left = await missing(request.state.client, request.state.references)
    return JSONResponse({"missing": left}, 503 if left else 200)


async def missing(client: lading.Client, references: Mapping[str, str]) -> list[str]:
    """Pull what isn't here yet, or is too old, and give what can't be had."""
    absent = [reference for reference in references.values() if client.cached(reference, max_age=MAX_STALE) is None]
    outcomes = [outcome async for outcome in client.prefetch(absent)]
    # What stands in for a registry that is down is of no use if it is too old to be served.
    return [str(one.reference) for one in outcomes if one.agent is None or one.agent.age > MAX_STALE]


async def unavailable(request: Request, error: Exception) -> Response:
    """Answer for an agent that can't be had: not in the store, or too old, while the registry fails."""
    return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "5"})
