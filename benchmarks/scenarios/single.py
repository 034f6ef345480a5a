"""One agent at a time: what is bound by round trips, by a look-up, or by the start of a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.embedded import PASSWORD, USER
from benchmarks.plan import Contender, Prepared, Scenario, Workshop
from benchmarks.runner import do
from benchmarks.scenarios.agents import peers, spec_for
from benchmarks.servers import embedded, far
from benchmarks.shelf import TAG, Shelf

RTTS = (0, 20, 50, 100)
"""Milliseconds."""

_TIMES = 10
_REFERENCES = 100_000


def _bare(spec: dict[str, Any], job: str, label: str) -> Contender:
    return Contender("bare", f"bare aiohttp loop: {label}", "limit", f"bare_agents.{job}", spec)


@contextmanager
def _cold(workshop: Workshop, milliseconds: int, inline: bool) -> Iterator[Prepared]:
    directory = workshop.directory / f"{'inline' if inline else 'cold'}-{milliseconds}"
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(_TIMES, least=3), inline=inline)
    others = shelf.agents(1, prefix="other")
    rtt = milliseconds / 1000
    with embedded(shelf) as server, far(server, rtt) as there:
        spec = spec_for(there.host, agents, inline=inline)
        template = _filled(spec_for(there.host, others), directory)
        cat = {**spec, "arguments": ["cat", f"{there.host}/{agents[0].repository}:{TAG}"]}
        skopeo = {**spec, "ref": f"{there.host}/{agents[0].repository}:{TAG}", "layers": [agents[0].content]}
        who = (
            Contender("lading", "lading", "lading", "single.cold", spec, template=template),
            _bare(spec, "each", "manifest" if inline else "manifest, layer"),
            *peers(spec, "each"),
            Contender("new", "lading, making a store first", "lading", "single.cold", {**spec, "is_new": True}),
            Contender("cat", "lading cat, the process", "lading", "programs.cat", cat, template=template, expected=1),
            Contender("skopeo", "skopeo copy, the process", "peer", "programs.skopeo", skopeo, "skopeo", expected=1),
        )
        yield Prepared(who, there, len(agents), rtt=rtt)


def _filled(spec: dict[str, Any], directory: Path) -> Path:
    """Give a directory with a store that has the agents, pulled from where they are asked for later."""
    template = directory / "template"
    template.mkdir(parents=True)
    do("single.kept", spec, template)
    return template


@contextmanager
def _warm(workshop: Workshop, milliseconds: int) -> Iterator[Prepared]:
    directory = workshop.directory / f"warm-{milliseconds}"
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(_TIMES, least=3))
    rtt = milliseconds / 1000
    with embedded(shelf) as server, far(server, rtt) as there:
        spec = spec_for(there.host, agents)
        template = _filled(spec, directory)
        who = (
            Contender("lading", "lading: revalidated", "lading", "single.warm", spec, template=template),
            _bare(spec, "heads", "HEAD"),
            *peers(spec, "each"),
        )
        yield Prepared(who, there, len(agents), rtt=rtt)


@contextmanager
def _without_network(workshop: Workshop, name: str, job: str) -> Iterator[Prepared]:
    directory = workshop.directory / name
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(100, least=3))
    with embedded(shelf) as server:
        spec = {**spec_for(server.host, agents), "times": workshop.scaled(20)}
        template = _filled(spec, directory)
        if name == "stale":
            server.tell("stop")
        lading = Contender("lading", f"lading: {name}", "lading", job, spec, template=template)
        file = Contender("file", "a file: read, hash", "limit", "single.one_read", spec, template=shelf.root / "v2")
        if name == "stale":
            yield Prepared((lading,), None, len(agents))
        else:
            yield Prepared((lading, file), server, len(agents))


@contextmanager
def _token(workshop: Workshop) -> Iterator[Prepared]:
    directory = workshop.directory / "token"
    shelf = Shelf(directory / "static", workshop.seed)
    (agent,) = shelf.agents(1)
    with embedded(shelf, private=True) as server:
        server.tell("late", seconds=0.05)
        spec = {
            **spec_for(server.host, [agent]),
            "repository": agent.repository,
            "user": USER,
            "password": PASSWORD,
        }
        first = Contender("first", "first process: has to be told", "lading", "single.signed_in", spec)
        again = replace(
            first, name="lading", label="second process: knows what is asked for", before="single.signed_in"
        )
        who = (again, first)
        yield Prepared(who, server, 1, rtt=0.05)


@contextmanager
def _store(workshop: Workshop) -> Iterator[Prepared]:
    directory = workshop.directory / "store"
    shelf = Shelf(directory / "static", workshop.seed)
    agents = shelf.agents(workshop.scaled(50, least=3))
    with embedded(shelf) as server:
        spec = {**spec_for(server.host, agents), "references": workshop.scaled(_REFERENCES)}
        template = directory / "template"
        template.mkdir(parents=True)
        do("single.crowd", spec, template)
        count = f"{spec['references']:,}"
        who = (
            Contender(
                "lading", f"into a store of {count} references", "lading", "single.into", spec, template=template
            ),
            Contender("empty", "into an empty store", "lading", "single.into", spec),
        )
        yield Prepared(who, server, len(agents))


@contextmanager
def _startup(workshop: Workshop) -> Iterator[Prepared]:
    directory = workshop.directory / "startup"
    shelf = Shelf(directory / "static", workshop.seed)
    (agent,) = shelf.agents(1)
    with embedded(shelf) as server:
        spec = spec_for(server.host, [agent])
        template = _filled(spec, directory)
        arguments = ["cat", f"{server.host}/{agent.repository}@{agent.manifest}"]
        cat = {**spec, "arguments": arguments, "times": 5, "looks_at_imports": True}
        python = {"command": [sys.executable, "-c", "pass"], "times": 5}
        click = {"command": [sys.executable, "-c", "import click, sqlite3, hashlib, json"], "times": 5}
        who = (
            Contender("lading", "lading cat, pinned and cached", "lading", "programs.cat", cat, template=template),
            Contender("python", "python -c pass", "limit", "programs.started", python),
            Contender("imports", "python: import click, sqlite3, hashlib, json", "limit", "programs.started", click),
        )
        yield Prepared(who, server, 1)


SCENARIOS = (
    *(
        Scenario(
            f"cold@{rtt}",
            f"One agent, nothing cached, {rtt} ms away",
            "bound by three round trips: a connection, the manifest, the layer" if rtt else "bound by the processor",
            partial(_cold, milliseconds=rtt, inline=False),
            baseline="bare",
        )
        for rtt in RTTS
    ),
    *(
        Scenario(
            f"inline@{rtt}",
            f"One agent that is embedded in its manifest, nothing cached, {rtt} ms away",
            "bound by two round trips: a connection, the manifest" if rtt else "bound by the processor",
            partial(_cold, milliseconds=rtt, inline=True),
            baseline="bare",
        )
        for rtt in RTTS
    ),
    *(
        Scenario(
            f"warm@{rtt}",
            f"One agent that is cached, its tag asked for, {rtt} ms away",
            "bound by one round trip: a HEAD over a connection that is there" if rtt else "bound by the processor",
            partial(_warm, milliseconds=rtt),
            baseline="bare",
        )
        for rtt in RTTS
    ),
    Scenario(
        "fresh",
        "One agent that was confirmed a moment ago",
        "bound by two verified reads of the index; no request",
        partial(_without_network, name="fresh", job="single.fresh"),
        baseline="file",
    ),
    Scenario(
        "pinned",
        "One agent by its digest, cached: a synchronous look-up, verified each time",
        "bound by two verified reads of the index; no request",
        partial(_without_network, name="pinned", job="single.pinned"),
        baseline="file",
    ),
    Scenario(
        "stale",
        "One agent that is cached, while the registry is down",
        "bound by a refused connection and what is tried again before the copy stands in",
        partial(_without_network, name="stale", job="single.stale"),
    ),
    Scenario(
        "token",
        "One agent of a registry with tokens, each answer 50 ms late: a second process against a first",
        "bound by requests: the second process asks for a token at once, without being refused first",
        _token,
        baseline="first",
    ),
    Scenario(
        "store",
        "One agent after the other into a store of 100,000 references, against an empty one",
        "bound by commits: a page of an index that no longer fits into a cache",
        _store,
        baseline="empty",
    ),
    Scenario(
        "startup",
        "The whole process of `lading cat` with a cached, pinned reference",
        "bound by Python's own start and by imports",
        _startup,
        baseline="python",
        repeats=2,
    ),
)
"""What is single."""
