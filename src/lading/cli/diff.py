"""The verb ``diff``: what another version of an agent may do that this one doesn't.

Looking changes nothing: what is fetched is kept under its digest, and what a tag stands for in the store stays.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import closing

import click

from lading.agents.artifact import AGENT_LIMIT
from lading.agents.capabilities import Capabilities, capabilities, compare
from lading.cli.difference import Side, print_comparison
from lading.cli.options import common_options, run, to_reference
from lading.client import Client
from lading.errors import InvalidDocument, LadingError, StoreCorrupted
from lading.home import default_home
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.store.local import LocalStore
from lading.store.store import Absent, Corrupt


def _source(ctx: click.Context, param: click.Parameter, value: str | None) -> str | Reference | None:
    """Tell a file from a reference, as docker-agent does: by how it ends, or because it is there."""
    if value is None or value == "-" or value.lower().endswith((".yaml", ".yml")) or value.startswith("/dev/fd/"):
        return value
    if os.path.exists(value) and not os.path.isdir(value):
        return value
    return to_reference(ctx, param, value)


@click.command()
@click.argument("old", metavar="OLD", callback=_source)
@click.argument("new", metavar="[NEW]", required=False, callback=_source)
@click.option("--lock", metavar="FILE", help="Compare what this lock file says of OLD with what OLD is now.")
@click.option("--fail-on-new-capabilities", "is_strict", is_flag=True, help="Exit with 1 if there is any.")
@common_options
def diff(
    old: str | Reference, new: str | Reference | None, lock: str | None, is_strict: bool, offline: bool, as_json: bool
) -> int:
    """Say what the agent NEW may do that OLD may not, and what else is different.

    Each is a reference, or a YAML file (- is standard input). Without NEW, what the store has for OLD, the copy that
    was confirmed last, is compared with what its registry has now; with --lock, what the lock file says is.

    A restriction that is gone is a new capability, and so is what lading doesn't know. What a tag stands for in the
    store stays as it is.

    \b
    Examples:
      lading diff acme/triage:v3 acme/triage:v4
      lading diff acme/triage
      lading diff acme/triage --lock agents.lock --fail-on-new-capabilities
      lading diff acme/triage:v4 triage.yaml
    """
    if new is None and not isinstance(old, Reference):
        raise click.UsageError("a file has no other version: name what to compare it with")
    if new is None and isinstance(old, Reference) and old.is_pinned:
        raise click.UsageError("a digest stands for the same forever: name what to compare it with")
    if lock is not None and new is not None:
        raise click.UsageError("--lock says what OLD was: leave out NEW, or --lock")
    if old == new == "-":
        raise click.UsageError("standard input can be read once only")
    before, after = _sides(old, new, lock, offline)
    comparison = compare(_read(before), _read(after))
    print_comparison(before, after, comparison, as_json=as_json)
    return 1 if is_strict and comparison.new_capabilities else 0


def _sides(old: str | Reference, new: str | Reference | None, lock: str | None, offline: bool) -> tuple[Side, Side]:
    """Get both versions: without network and store, if both are files."""
    files = {source: _file(source) for source in (old, new) if isinstance(source, str)}
    if isinstance(old, str) and isinstance(new, str):
        return files[old], files[new]
    with closing(LocalStore(default_home())) as store:

        async def get(client: Client, source: str | Reference, digest: Digest | None, how: str = "") -> Side:
            if isinstance(source, str):
                return files[source]
            if digest is None and offline:
                digest = _stored(store, source)
            elif digest is None:
                digest = source.digest or (await client.resolve(source)).digest
            agent = await client.pull_agent(source.at(digest))
            return Side(f"{source}{how}", digest, agent.content)

        async def verb(client: Client) -> tuple[Side, Side]:
            if new is not None:
                return await get(client, old, None), await get(client, new, None)
            assert isinstance(old, Reference)
            if lock is not None:
                digest, how = _locked(lock, old), f" in {lock}"
            else:
                digest, how = _stored(store, old), " in the store"
            current = (await client.resolve(old)).digest
            return await get(client, old, digest, how), await get(client, old, current, " in its registry")

        return run(Client(store, offline=offline), verb)


def _stored(store: LocalStore, reference: Reference) -> Digest:
    record = store.resolve(reference)
    match record:
        case Absent():
            raise LadingError(
                f"{reference}: the store {store.path} has no copy to compare",
                hint=f"lading pull {reference} keeps one; or compare two references",
            )
        case Corrupt(reason):
            raise StoreCorrupted(f"{reference}: the cached copy is damaged: {reason}", hint="lading verify --repair")
    return record.digest


def _locked(path: str, reference: Reference) -> Digest:
    from lading.pull.lockfile import Lockfile

    digest = Lockfile.read(path).pin(reference).digest
    assert digest is not None
    return digest


def _file(path: str) -> Side:
    """Read a file, or standard input; as much of it as an agent may have."""
    name = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise LadingError("standard input is closed", hint="name a file")
    try:
        if path == "-":
            content = sys.stdin.buffer.read(AGENT_LIMIT + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(AGENT_LIMIT + 1)
    except OSError as error:
        raise LadingError(f"{name}: can't be read: {error.strerror or error}", hint="is the path right?") from error
    if len(content) > AGENT_LIMIT:
        raise LadingError(f"{name}: more than {AGENT_LIMIT} bytes: not an agent")
    return Side(name, Digest.parse(f"sha256:{hashlib.sha256(content).hexdigest()}"), content)


def _read(side: Side) -> Capabilities:
    from lading.agents.document import parse_document

    try:
        return capabilities(parse_document(side.content))
    except InvalidDocument as error:
        raise InvalidDocument(f"{side.name}: {error.message}", hint=error.hint) from error
