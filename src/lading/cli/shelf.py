"""The verbs about the local store: ``ls``, ``inspect`` and ``rm``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import click

from lading.cli.options import common_options, json_option, reference_argument, run, to_references
from lading.cli.render import ORIGINS, agent_fields, ago, print_columns, print_fields, print_json, say
from lading.client import Client
from lading.errors import InvalidDocument, LadingError, NotAnAgent
from lading.home import default_home
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.pull.lookup import Located, locate
from lading.store.local import LocalStore
from lading.store.store import ABSENT, NEVER, Changes, Record

if TYPE_CHECKING:
    from lading.agents.agent import Agent
    from lading.agents.definition import Document, Toolset


@click.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the agents in the store.

    \b
    Example:
      lading ls
    """
    with closing(LocalStore(default_home())) as store:
        known = store.references()
    if as_json:
        for reference, record in known:
            print_json({"reference": str(reference), "digest": str(record.digest), "validated": record.validated})
        return
    if not known:
        say(f"nothing in {store.path}")
        return
    now = time.time()
    rows = [(str(reference), _short(record.digest), _confirmed(record, now)) for reference, record in known]
    print_columns(("REFERENCE", "DIGEST", "CONFIRMED"), rows)


@click.command()
@reference_argument
@common_options
def inspect(reference: Reference, offline: bool, as_json: bool) -> None:
    """Show what an agent is, and what is known of its artifact; or the platforms, layers and sizes of any other one.

    It is looked up like `lading cat` does: in the store, and in its registry where that has to be asked.

    \b
    Examples:
      lading inspect acme/triage
      lading inspect --offline ghcr.io/acme/triage:v3 --json
      lading inspect docker.io/library/alpine:3.20
    """
    with closing(LocalStore(default_home())) as store:
        client = Client(store, offline=offline)
        try:
            agent = client.cached(reference) or run(client, lambda client: client.pull_agent(reference))
        except NotAnAgent as error:
            from lading.cli.contents import look_into, show_contents

            contents = run(Client(store, offline=offline), lambda client: look_into(client, reference))
            show_contents(reference, *contents, as_json=as_json)
            say(error.message)
            return
        located = locate(store, reference.at(Digest.parse(agent.digest)))
    artifact = _artifact(agent, located if isinstance(located, Located) else None)
    try:
        document = _document(agent.content)
    except InvalidDocument as error:
        document = None
        say(f"lading: warning: {error}")
    if as_json:
        print_json({**artifact, "agent": _definition(document) if document else None})
        return
    print_fields("artifact", _origin(agent, located if isinstance(located, Located) else None))
    if document is not None:
        print_fields("agent", _summary(document))
    print_fields("annotations", agent.annotations.items())


@click.command("rm")
@click.argument("references", metavar="REF...", nargs=-1, required=True, callback=to_references)
@json_option
def rm(references: tuple[Reference, ...], as_json: bool) -> None:
    """Remove agents from the store; the registry keeps them.

    \b
    Example:
      lading rm acme/triage:v2 acme/triage:v3
    """
    import anyio

    store = LocalStore(default_home())
    references = tuple(dict.fromkeys(references))
    removed, held = anyio.run(_forget, store, references)
    for reference in removed:
        if as_json:
            print_json({"removed": str(reference)})
        else:
            print(reference)
    if held:
        raise LadingError(
            f"a tag in the store stands for {', '.join(map(str, held))}", hint="remove the tag: see `lading ls`"
        )
    if missing := [str(reference) for reference in references if reference not in removed]:
        raise LadingError(f"not in the store {store.path}: {', '.join(missing)}", hint="see `lading ls`")


async def _forget(store: LocalStore, references: tuple[Reference, ...]) -> tuple[list[Reference], list[Reference]]:
    """Forget what is known of ``references``; give what is gone, and what isn't because a tag stands for it."""
    try:
        known = [reference for reference in references if store.resolve(reference) != ABSENT]
        await store.commit(Changes(time.time(), forgotten=tuple(known)))
        held = [reference for reference in known if store.resolve(reference) != ABSENT]
    finally:
        await store.aclose()
    return [reference for reference in known if reference not in held], held


def _artifact(agent: Agent, located: Located | None) -> dict[str, object]:
    fields = agent_fields(agent)
    if located is not None:
        fields["packed"] = located.layer.size
        fields["layer"] = located.layer.media_type
        fields["embedded"] = located.layer.data is not None
        fields["manifest"] = len(located.manifest.raw)
        fields["artifact_type"] = located.manifest.artifact_type or None
    fields["annotations"] = dict(agent.annotations)
    return fields


def _origin(agent: Agent, located: Located | None) -> Iterator[tuple[str, object]]:
    yield "reference", agent.reference
    yield "digest", agent.digest
    is_confirmed = located is None or located.record.validated > NEVER
    yield "confirmed", f"{ago(agent.age)}, by {agent.reference.registry}" if is_confirmed else "never: it was imported"
    yield "answered by", f"the cache: {agent.stale_reason}" if agent.stale_reason else ORIGINS[agent.origin]
    yield "size", f"{len(agent.content)} bytes"
    if located is not None:
        embedded = ", embedded in the manifest" if located.layer.data is not None else ""
        yield "layer", f"{located.layer.size} bytes, {located.layer.media_type}{embedded}"
        yield "manifest", f"{len(located.manifest.raw)} bytes, {located.manifest.media_type}"
        yield "artifact type", located.manifest.artifact_type or None


def _document(content: bytes) -> Document:
    from lading.agents.document import parse_document

    return parse_document(content)


def _definition(document: Document) -> dict[str, object]:
    return {
        "name": document.name,
        "description": document.description,
        "models": {name: {"provider": model.provider, "model": model.model} for name, model in document.models.items()},
        "agents": {
            name: {
                "description": agent.description,
                "model": agent.model,
                "toolsets": [_tool(toolset) for toolset in agent.toolsets],
                "sub_agents": [*agent.sub_agents, *agent.handoffs, *agent.force_handoff],
            }
            for name, agent in document.agents.items()
        },
        "references": [reference.text for reference in document.references],
    }


def _summary(document: Document) -> Iterator[tuple[str, object]]:
    yield "description", document.description
    for name, model in document.models.items():
        yield "model", f"{name}: {model.provider}/{model.model}"
    for name, agent in document.agents.items():
        yield "agent", f"{name} ({agent.model})" if agent.model else name
        for toolset in agent.toolsets:
            yield "  toolset", _tool(toolset)
        for other in (*agent.sub_agents, *agent.handoffs, *agent.force_handoff):
            yield "  hands over to", other


def _tool(toolset: Toolset) -> str:
    return " ".join(part for part in (toolset.type, toolset.ref or toolset.name or toolset.command) if part)


def _confirmed(record: Record, now: float) -> str:
    return ago(now - record.validated) if record.validated > NEVER else "never"


def _short(digest: Digest) -> str:
    return f"{digest.algorithm}:{digest.encoded[:12]}"
