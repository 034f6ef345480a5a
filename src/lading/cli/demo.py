"""The verb ``demo``: every way to an agent, shown on a registry of its own, measured as it happens."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

import click

from lading.agents.agent import Agent
from lading.client import Client
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import Reference
from lading.store.local import LocalStore
from lading.store.store import Changes, MemoryStore, Seen

if TYPE_CHECKING:
    from lading.testing import EmbeddedRegistry

BATCH = 200
"""Agents that are pulled at once in the end."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row: what was done, what it asked the registry for, where the agent came from, and how long it took."""

    title: str
    requests: tuple[tuple[str, int], ...]
    origin: str | None
    seconds: float


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the steps as JSON.")
def demo(as_json: bool) -> None:
    """Show what lading does, on this machine, without any network.

    Starts a registry on a loopback address, publishes a few agents to it, and pulls them in every way: cold and
    cached, with the registry down, from a damaged store, many at once. Every number is measured in this run, and
    nothing is left behind.
    """
    import logging

    import anyio

    # What the demo breaks on purpose is in its table; the warnings would only say it twice.
    logging.getLogger("lading").setLevel(logging.CRITICAL)
    steps = anyio.run(perform)
    if as_json:
        print(json.dumps([_as_json(step) for step in steps]))
    else:
        _render(steps)


async def perform() -> list[Step]:
    """Play the whole demo and give its steps."""
    from lading.testing import EmbeddedRegistry

    with tempfile.TemporaryDirectory(prefix="lading-demo-") as home:
        async with EmbeddedRegistry() as registry:
            stage = Stage(registry, home)
            await stage.publish()
            await stage.pull()
            await stage.suffer()
            await stage.pull_many()
    return stage.steps


class Stage:
    """A registry, a store in ``home``, and the steps that were played on them."""

    def __init__(self, registry: EmbeddedRegistry, home: str) -> None:
        self.steps: list[Step] = []
        self._registry = registry
        self._home = home
        self._refs: dict[str, Reference] = {}

    async def publish(self) -> None:
        """Push the bundled agents."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client(self._home))

            async def push() -> None:
                for file in sorted(files("lading.cli").joinpath("demo_agents").iterdir(), key=lambda file: file.name):
                    name = file.name.removesuffix(".yaml")
                    content = file.read_bytes().replace(b"REGISTRY", self._registry.host.encode())
                    ref = f"{self._registry.host}/demo/{name}:v1"
                    # One of them is published without the copy in its manifest, to show the difference.
                    self._refs[name] = (await client.push_agent(content, ref, inline=name != "triage")).reference

            await self._play("publish 4 agents", push)

    async def pull(self) -> None:
        """Pull in the ways that work while all is well."""
        tag, pinned = f"{self._registry.host}/demo/triage:v1", self._refs["triage"]
        async with Client(self._home) as client:
            await self._pull("cold: manifest, then layer", client, tag)
            inline = f"{self._registry.host}/demo/writer:v1"
            await self._pull("cold: embedded in the manifest", client, inline)
            await self._pull("warm: has the tag moved?", client, tag)
            await self._pull("fresh: confirmed a moment ago", client, tag, max_age=60)
            await self._pull("pinned: a digest can't change", client, pinned)
            async with Client(MemoryStore()) as somebody_else:
                next_version = b"agents: {root: {description: the next version}}\n"
                await somebody_else.push_agent(next_version, tag, inline=False)
            await self._pull("moved tag: by its new digest", client, tag)

    async def suffer(self) -> None:
        """Pull while something is broken."""
        tag = f"{self._registry.host}/demo/triage:v1"
        await self._registry.stop()
        async with Client(self._home) as client:
            await self._pull("registry down: cached copy", client, tag)
        await self._registry.start()
        _garble_index(self._home)
        async with Client(self._home) as client:
            await self._pull("damaged store: repaired", client, tag)
        await self._poison(Reference.parse(tag))
        async with Client(self._home) as client:
            await self._pull("cached, but no agent: a miss", client, tag)

    async def pull_many(self) -> None:
        """Pull a batch of agents at once, each of them cold and durably stored."""
        from lading.push.agent import pack

        for number in range(BATCH):
            content = f"agents: {{root: {{description: number {number}}}}}\n".encode()
            artifact = pack(content, file_name="agent.yaml", created=datetime.now(UTC), inline=False)
            repository = f"batch/agent-{number}"
            for _, blob in artifact.blobs:
                self._registry.add_blob(repository, blob)
            self._registry.add_manifest(repository, artifact.manifest, OCI_MANIFEST, tag="v1")
        async with Client(self._home) as client:
            await self._play(f"{BATCH} cold ones, 32 at once", lambda: self._batch(client))

    async def _batch(self, client: Client) -> str:
        import anyio

        limit = anyio.CapacityLimiter(32)

        async def pull(number: int) -> None:
            async with limit:
                await client.pull_agent(f"{self._registry.host}/batch/agent-{number}:v1")

        async with anyio.create_task_group() as group:
            for number in range(BATCH):
                group.start_soon(pull, number)
        return "registry"

    async def _pull(self, title: str, client: Client, ref: str | Reference, max_age: float | None = None) -> None:
        async def pull() -> str:
            agent: Agent = await client.pull_agent(ref, max_age=max_age)
            return agent.origin

        await self._play(title, pull)

    async def _play(self, title: str, action: Callable[[], Awaitable[str | None]]) -> None:
        self._registry.clear_requests()
        started = time.perf_counter()
        origin = await action()
        seconds = time.perf_counter() - started
        counted = Counter(self._registry.summary())
        self.steps.append(Step(title, tuple(counted.items()), origin, seconds))

    async def _poison(self, reference: Reference) -> None:
        """Put an entry into the store that no pull would put there: a manifest without the agent's annotation."""
        raw = b'{"schemaVersion":2,"config":' + _EMPTY + b',"layers":[' + _EMPTY + b"]}"
        digest = Digest.of(raw)
        store = LocalStore(self._home)
        try:
            entry = (Seen(reference.name, digest, OCI_MANIFEST),)
            references = ((reference, digest, OCI_MANIFEST),)
            await store.commit(Changes(time.time(), content=((digest, raw),), seen=entry, references=references))
        finally:
            await store.aclose()


# image-spec, manifest.md, "Guidance for an Empty Descriptor".
_EMPTY = (
    b'{"mediaType":"application/vnd.oci.empty.v1+json","size":2,'
    b'"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}'
)


def _garble_index(home: str) -> None:
    for name in os.listdir(home):
        if name.startswith("index-") and name.endswith(".db"):
            with open(os.path.join(home, name), "r+b") as index:
                index.write(b"not a database " * 100)


def _asked(step: Step) -> str:
    """Give the requests of a step by method: "1 HEAD, 2 GET"."""
    methods: Counter[str] = Counter()
    for what, count in step.requests:
        methods[what.partition(" ")[0]] += count
    return ", ".join(f"{count} {method}" for method, count in methods.items()) or "none"


def _as_json(step: Step) -> dict[str, object]:
    return {
        "step": step.title,
        "requests": dict(step.requests),
        "origin": step.origin,
        "seconds": round(step.seconds, 6),
    }


def _render(steps: list[Step]) -> None:
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Only what a step is called gives way where there is little room.
    table.add_column("step", overflow="fold")
    table.add_column("requests", no_wrap=True, min_width=8)
    table.add_column("answered by", no_wrap=True, min_width=11)
    table.add_column("time", justify="right", no_wrap=True, min_width=8)
    for step in steps:
        asked = _asked(step)
        table.add_row(
            f"[bold]{step.title}[/bold]",
            f"[green]{asked}[/green]" if asked == "none" else asked,
            f"[yellow]{step.origin}[/yellow]" if step.origin == "stale" else step.origin or "—",
            f"{step.seconds * 1000:.1f} ms",
        )
    console = Console(highlight=False)
    console.print(table)
    last = steps[-1]
    closing = (
        f"{len(steps)} steps on a registry and a store of their own, which are gone again: agents came with two "
        "requests, with one and with none, with the registry down, and out of a store that was damaged. "
        f"{BATCH} cold ones took {last.seconds:.2f} s, {BATCH / last.seconds:.0f} a second."
    )
    console.print(Padding(closing, (0, 1)))
