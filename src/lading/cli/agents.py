"""The verbs that read agents: ``pull`` and ``cat``."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing

import click

from lading.agents.agent import Agent
from lading.arguments import read_lock
from lading.cli.options import (
    as_written,
    common_options,
    locked_option,
    max_age_option,
    reference_argument,
    run,
    to_seconds,
    trace_options,
)
from lading.cli.render import ORIGINS, agent_fields, print_json, say
from lading.client import Client
from lading.home import default_home
from lading.oci.reference import Reference
from lading.pull.use import Uses, is_unnoted
from lading.store.local import LocalStore


@click.command()
@click.argument("ref", metavar="REF", callback=as_written)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE; - is standard output.")
@click.option("--force", is_flag=True, help="Fetch it again, even if it hasn't changed.")
@locked_option
@trace_options
@common_options
def pull(
    ref: str,
    output: str | None,
    force: bool,
    locked: str | None,
    trace: bool,
    trace_svg: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Refresh an agent from its registry and write it to a file.

    The file is named after REF (acme/triage:v3 becomes acme_triage_v3.yaml). If the registry fails, that is an error,
    and the file and the store stay as they were.

    \b
    Examples:
      lading pull acme/triage
      lading pull ghcr.io/acme/triage:v3 -o agent.yaml
      lading pull ghcr.io/acme/triage:v3 --locked agents.lock
      lading pull ghcr.io/acme/triage:v3 --trace
    """
    from lading.cli.files import default_file_name, write_atomically
    from lading.cli.trace import Tracing

    if output == "":
        raise click.UsageError("-o wants the name of a file")
    if output == "-" and as_json:
        raise click.UsageError("--json describes a file that was written, not standard output: leave out one of them")
    path = output or default_file_name(ref)
    lock = read_lock(locked)
    reference = Reference.parse(ref)
    wanted = reference if lock is None else lock.pin(reference)

    async def verb(client: Client) -> Agent:
        agent = await client.pull_agent(wanted, force=force, fallback="never")
        if path != "-":
            await write_atomically(path, agent.content)
        return agent

    with Tracing(trace, trace_svg, as_json) as tracing:
        agent = run(Client(offline=offline, events=tracing.listener), verb)
    if path == "-":
        _write(agent.content)
    elif as_json:
        print_json({**agent_fields(agent), "path": path, **tracing.fields})
    else:
        print(path)
    say(f"{reference}: {agent.digest} ({ORIGINS[agent.origin]})")


@click.command()
@reference_argument
@max_age_option
@click.option("--max-stale", type=float, callback=to_seconds, metavar="SECONDS", help="Refuse an older stand-in.")
@locked_option
@common_options
def cat(
    reference: Reference,
    max_age: float | None,
    max_stale: float | None,
    locked: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Print an agent exactly as it was published.

    A digest that is cached needs no network. If the registry fails, the cached copy is printed, with a warning.

    \b
    Examples:
      lading cat acme/triage
      lading cat ghcr.io/acme/triage@sha256:…
      lading cat acme/triage --max-age 3600
      lading cat acme/triage --locked agents.lock
    """
    lock = read_lock(locked)
    if lock is not None:
        reference = lock.pin(reference)
    with closing(LocalStore(default_home())) as store:
        client = Client(store, offline=offline)
        agent = client.cached(reference, max_age)
        if agent is None:
            agent = run(client, lambda client: client.pull_agent(reference, max_age=max_age, max_stale=max_stale))
        elif os.access(store.path, os.W_OK) and is_unnoted(store, reference, time.time()):
            import anyio

            now = time.time()
            anyio.run(Uses(store).note, reference, agent.descriptor, now - agent.age, now)
    if as_json:
        print_json({**agent_fields(agent), "content": agent.content.decode("utf-8", "replace")})
    else:
        _write(agent.content)


def _write(content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        # Unbuffered, standard output takes as much as it likes, or nothing.
        written: int | None = sys.stdout.buffer.write(rest)
        if written is None:
            raise BlockingIOError("standard output takes no more: it is a non-blocking pipe")
        rest = rest[written:]
    sys.stdout.buffer.flush()
