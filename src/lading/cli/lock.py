"""The verb ``lock``: which digest each of a set of agents, and of what they need, stands for, in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import click

from lading.cli.options import common_options, files_option, run, to_references
from lading.cli.progress import CountBar
from lading.cli.render import can_show, print_json, render_error, say, short_digest
from lading.cli.sources import Sources
from lading.client import Client
from lading.errors import LadingError
from lading.oci.reference import Reference
from lading.pull.lockfile import LockChange, Lockfile

DEFAULT = "agents.lock"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be locked: what is requested, and the locks that stay what they are."""

    requested: tuple[Reference, ...]
    keep: Lockfile | None


@click.command()
@click.argument("references", metavar="[REF...]", nargs=-1, callback=to_references)
@files_option
@click.option("--lock-file", "path", default=DEFAULT, show_default=True, metavar="FILE", help="Where it is kept.")
@click.option("--update", is_flag=True, help="Move all that is locked to what it stands for now, or REF alone.")
@click.option("--remove", "removed", multiple=True, metavar="REF", callback=to_references, help="Request it no more.")
@common_options
def lock(
    references: tuple[Reference, ...],
    files: tuple[str, ...],
    path: str,
    update: bool,
    removed: tuple[Reference, ...],
    offline: bool,
    as_json: bool,
) -> int:
    """Write a lock file: the digests of agents, and of all that they need, for `--locked`.

    REF is added to what the file has; with -f, exactly what is listed is requested. What is locked stays what it is,
    unless it is to be moved with --update. Prints what changed. If anything can't be had, the file stays as it was.

    \b
    Examples:
      lading lock acme/triage:v3
      lading lock -f agents.txt
      lading lock --update
      lading lock --update acme/triage:v3
      lading lock --remove acme/triage:v3
    """
    if files and removed:
        raise click.UsageError("-f lists all that is requested: leave out --remove, and the reference there")
    if not path:
        raise click.UsageError("--lock-file wants the name of a file")
    old = Lockfile.read(path) if os.path.exists(path) else None
    listed, refused = _listed(() if update else references, files)
    if files and not listed and not refused:
        raise click.UsageError(f"no references in {', '.join(files)}")
    plan = plan_lock(old, listed, references if update else (), removed, is_exact=bool(files), update=update)
    _check_directory(path)
    new = _locked(plan, path, offline=offline)
    if new is None or refused:
        say(f"{path} stays as it was" if old else f"{path} isn't written")
        return 1
    _write(path, old, new, as_json=as_json)
    return 0


def plan_lock(
    old: Lockfile | None,
    listed: Sequence[Reference],
    moved: Sequence[Reference],
    removed: Sequence[Reference],
    *,
    is_exact: bool,
    update: bool,
) -> Plan:
    """Decide what is to be locked.

    Args:
        old: what is locked, if anything is.
        listed: what is asked for, now; ``is_exact`` if that is all.
        moved: with ``update``, what alone is to be moved; all, if it is empty.
        removed: what isn't requested any more.

    Raises:
        LadingError: something of that isn't locked.
        click.UsageError: there is nothing to lock.
    """
    locked = old or Lockfile()
    for reference in moved:
        if locked.find(reference) is None:
            raise LadingError(f"{reference}: not in the lock file", hint=f"add it: lading lock {reference}")
    for reference in removed:
        entry = locked.find(reference)
        if entry is None or not entry.is_requested:
            needed = ", ".join(map(str, entry.referenced_by)) if entry else ""
            why = f"nobody requested it, it is needed by {needed}" if needed else "not in the lock file"
            raise LadingError(f"{reference}: can't be removed: {why}", hint="see the file for what is requested")
    if old is None and not listed and not is_exact:
        raise click.UsageError("no references, and no lock file that has any: name some, or a file of them with -f")
    # By their names: acme/triage and acme/triage:latest are one.
    requested = {str(reference): reference for reference in (*(() if is_exact else locked.requested), *listed)}
    for reference in removed:
        requested.pop(str(reference), None)
    keep = None
    if old is not None and (moved or not update):
        free = set(map(str, moved))
        keep = Lockfile(tuple(entry for entry in old.entries if str(entry.reference) not in free))
    return Plan(tuple(requested.values()), keep)


def _listed(references: Sequence[Reference], files: Sequence[str]) -> tuple[list[Reference], int]:
    """Give what is asked for; how many lines aren't a reference, which is said of each."""
    refused = 0

    def refuse(text: str, error: LadingError) -> None:
        nonlocal refused
        refused += 1
        render_error(error)

    with Sources(references, files) as sources:
        return list(sources.read(refuse)), refused


def _locked(plan: Plan, path: str, *, offline: bool) -> Lockfile | None:
    """Ask for what everything stands for; says what can't be had, and gives ``None`` then."""
    try:
        with CountBar() as bar:
            client = Client(offline=offline, events=bar)
            return run(client, lambda client: client.lock(plan.requested, plan.keep), is_long=True)
    except KeyboardInterrupt:
        say(f"{path} stays as it was; what has arrived is kept, and isn't fetched again")
        raise
    except LadingError as error:
        render_error(error)
        for note in getattr(error, "__notes__", ()):
            say(f"lading: error: {note}")
        return None


def _check_directory(path: str) -> None:
    """Raise LadingError where the file can't be written because of its directory: before anything is pulled."""
    directory = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(directory):
        raise LadingError(f"{path}: {directory} isn't a directory", hint="make it, or choose another --lock-file")


def _write(path: str, old: Lockfile | None, new: Lockfile, *, as_json: bool) -> None:
    """Write the file, unless it says so already, and print what changed."""
    is_same = old is not None and _content(path) == new.text().encode()
    if not is_same:
        new.write(path)
    changes = (old or Lockfile()).changes(new)
    for change in changes:
        if as_json:
            print_json(_fields(change))
        else:
            print(_line(change))
    if is_same:
        say(f"{path}: no change")
        return
    counts = [(kind, sum(change.kind == kind for change in changes)) for kind in ("added", "moved", "removed")]
    said = ", ".join(f"{count} {kind}" for kind, count in counts if count) or "written anew, no digest changed"
    say(f"{path}: {said}; {len(new.requested)} requested, {len(new.entries)} in all")


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _line(change: LockChange) -> str:
    arrow = "→" if can_show("→") else "->"
    match change.old, change.new:
        case None, new if new is not None:
            return f"+ {change.reference} {short_digest(new.digest)}"
        case old, new if old is not None and new is not None:
            return f"~ {change.reference} {short_digest(old.digest)} {arrow} {short_digest(new.digest)}"
        case _:
            return f"- {change.reference}"


def _fields(change: LockChange) -> dict[str, object]:
    return {
        "change": change.kind,
        "reference": str(change.reference),
        "old": str(change.old.digest) if change.old else None,
        "new": str(change.new.digest) if change.new else None,
        "requested": change.new is not None and change.new.is_requested,
    }
