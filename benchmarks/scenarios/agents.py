"""Many agents at once: what is bound by the number of requests, by commits, and by how deep a closure is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.plan import Contender, Prepared, Scenario, Workshop
from benchmarks.scenarios.large import spec_of
from benchmarks.servers import Server, distant, docker_registry, free_host, nginx
from benchmarks.shelf import TAG, Published, Shelf

COUNT = 1000
CONCURRENCY = 32
_RTT = 0.05
_WIDTHS = (1, 9, 20, 30, 40)
"""How many agents there are in each level of the closure: 100 in 5."""

Serve = Callable[[Path, Shelf], AbstractContextManager[Server]]


def spec_for(host: str, agents: Sequence[Published], *, inline: bool = False, concurrency: int = 1) -> dict[str, Any]:
    """Give what every job with agents is told."""
    return {
        "host": host,
        "agents": {one.repository: one.content for one in agents},
        "manifests": {one.repository: one.manifest for one in agents},
        "groups": [urls(host, one, inline=inline) for one in agents],
        "wanted": [one.manifest if inline else one.content for one in agents],
        "concurrency": concurrency,
    }


def urls(host: str, one: Published, *, inline: bool) -> list[str]:
    """Give what has to be fetched for an agent, in order."""
    base = f"http://{host}/v2/{one.repository}"
    return [f"{base}/manifests/{TAG}"] + ([] if inline else [f"{base}/blobs/{one.content}"])


def peers(spec: dict[str, Any], job: str) -> tuple[Contender, ...]:
    """Give the clients in Python, doing ``job``: ``agents`` or ``each``."""
    known = (
        ("oras-py", "oras-py", "oras"),
        ("drca", "docker-registry-client-async", "docker_registry_client_async"),
        ("dxf", "python-dxf", "dxf"),
    )
    return tuple(
        Contender(name, label, "python peer", f"peers.{name.partition('-')[0]}_{job}", spec, needs=f"python:{module}")
        for name, label, module in known
    )


@contextmanager
def _many(workshop: Workshop, name: str, serve: Serve, inline: bool) -> Iterator[Prepared]:
    directory = workshop.directory / name
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(COUNT, least=3), inline=inline)
    with serve(directory / "server", shelf) as server:
        spec = spec_for(server.host, agents, inline=inline, concurrency=CONCURRENCY)
        who = (
            Contender("lading", "lading prefetch", "lading", "agents.prefetch", spec),
            Contender(
                "uvloop",
                "lading prefetch, on uvloop",
                "lading",
                "agents.prefetch_on_uvloop",
                spec,
                needs="python:uvloop",
            ),
            Contender("bare", "bare aiohttp loop: hash", "limit", "bare_agents.fetch", spec),
            *peers(spec, "agents"),
            Contender("sqlite", "bare aiohttp loop: hash, SQLite", "limit", "bare_agents.keep_in_sqlite", spec),
            Contender(
                "files", "bare aiohttp loop: hash, a file each, fsync", "limit", "bare_agents.keep_in_files", spec
            ),
        )
        yield Prepared(who, server, len(agents))


@contextmanager
def _again(workshop: Workshop) -> Iterator[Prepared]:
    directory = workshop.directory / "again"
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(COUNT, least=3))
    with docker_registry(directory / "server", shelf) as server:
        spec = spec_for(server.host, agents, concurrency=CONCURRENCY)
        who = (
            Contender("lading", "lading prefetch, again", "lading", "agents.prefetch", spec, before="agents.prefetch"),
            Contender("bare", "bare aiohttp loop: HEAD", "limit", "bare_agents.ask", spec),
        )
        yield Prepared(who, server, len(agents))


@contextmanager
def _closure(workshop: Workshop, inline: bool) -> Iterator[Prepared]:
    directory = workshop.directory / ("closure-inline" if inline else "closure")
    shelf = Shelf(directory / "static", workshop.seed)
    widths = [workshop.scaled(width) for width in _WIDTHS]
    host = free_host()
    # What an agent names is the address of the server from afar.
    with distant(host, _RTT) as there:
        agents = shelf.tree(there, widths, inline=inline)
        with nginx(directory / "server", shelf, host) as server:
            spec = spec_for(there, agents, inline=inline, concurrency=CONCURRENCY)
            levels = [[urls(there, one, inline=inline) for one in level] for level in _levels(agents, widths)]
            spec |= {"root": agents[0].repository, "levels": levels}
            who = (
                Contender("lading", "lading prefetch, recursive", "lading", "agents.closure", spec),
                Contender("bare", "bare aiohttp loop: a level at a time", "limit", "bare_agents.fetch_levels", spec),
                Contender("flat", "bare aiohttp loop: all at once", "limit", "bare_agents.fetch", spec),
            )
            yield Prepared(who, server, len(agents), rtt=_RTT)


def _levels(agents: Sequence[Published], widths: Sequence[int]) -> list[Sequence[Published]]:
    found, start = [], 0
    for width in widths:
        found.append(agents[start : start + width])
        start += width
    return found


@contextmanager
def _lag(workshop: Workshop) -> Iterator[Prepared]:
    directory = workshop.directory / "lag"
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(COUNT, least=3))
    image = shelf.image("bench/image", [workshop.scaled(40_000_000, least=300_000)] * 4)
    with nginx(directory / "server", shelf) as server:
        spec = spec_for(server.host, agents, concurrency=CONCURRENCY)
        large = spec_of(server, shelf, image)
        who = (
            Contender("lading", "lading: 1,000 agents", "lading", "agents.beside_a_ticker", spec),
            Contender("image", "lading: 4 × 40 MB", "lading", "agents.image_beside_a_ticker", large, expected=4),
            Contender("idle", "nothing", "lading", "agents.idle_ticker", {}),
        )
        yield Prepared(who, server, len(agents))


_BOUND = "bound by the number of requests, and by aiohttp: a bare loop does nothing else"
_REGISTRY = "bound by docker-registry, which answers about 1,300 manifests and 640 small blobs a second"

SCENARIOS = (
    Scenario(
        "agents@nginx",
        "1,000 agents, 32 at once, durably committed, from nginx",
        _BOUND,
        partial(_many, name="agents-nginx", serve=nginx, inline=False),
        baseline="bare",
    ),
    Scenario(
        "agents@nginx-inline",
        "1,000 agents that are embedded in their manifests, from nginx",
        _BOUND,
        partial(_many, name="agents-nginx-inline", serve=nginx, inline=True),
        baseline="bare",
    ),
    Scenario(
        "agents@registry",
        "1,000 agents, 32 at once, durably committed, from docker-registry",
        _REGISTRY,
        partial(_many, name="agents-registry", serve=docker_registry, inline=False),
        baseline="bare",
    ),
    Scenario(
        "agents@registry-inline",
        "1,000 agents that are embedded in their manifests, from docker-registry",
        _REGISTRY,
        partial(_many, name="agents-registry-inline", serve=docker_registry, inline=True),
        baseline="bare",
    ),
    Scenario(
        "again",
        "1,000 agents that are cached, asked for again, from docker-registry",
        "bound by a HEAD for each tag",
        _again,
        baseline="bare",
    ),
    Scenario(
        "closure",
        "100 agents in 5 levels, 50 ms away",
        "bound by round trips: two to a level, and one more where connections have to be opened",
        partial(_closure, inline=False),
        baseline="bare",
    ),
    Scenario(
        "closure@inline",
        "100 agents in 5 levels that are embedded in their manifests, 50 ms away",
        "bound by round trips: one to a level, and one more where connections have to be opened",
        partial(_closure, inline=True),
        baseline="bare",
    ),
    Scenario(
        "lag",
        "How late a task that wants to run each millisecond is beside pulls",
        "bound by what runs on the event loop in one go, and by who else wants the processors",
        _lag,
    ),
)
"""What is many."""
