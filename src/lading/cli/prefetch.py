"""The verb ``prefetch``: many agents into the store, whatever becomes of each."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace

import click

from lading.agents.references import Url
from lading.arguments import read_lock
from lading.cli.options import common_options, files_option, locked_option, max_age_option, run, to_references
from lading.cli.progress import CountBar, rate_text
from lading.cli.render import agent_fields, print_json, render_error, say
from lading.cli.sources import Sources
from lading.client import Client
from lading.errors import LadingError, StoreError
from lading.home import default_home
from lading.oci.reference import Reference
from lading.pull.policy import Fallback
from lading.pull.prefetch import Outcome
from lading.redact import printable, redact_url
from lading.store.local import LocalStore
from lading.store.store import Record

WORDS = {
    "registry": "pulled",
    "revalidated": "unchanged",
    "pinned": "cached",
    "fresh": "cached",
    "stale": "stale",
}
"""What the summary calls an agent's origin, in its order."""


@click.command()
@click.argument("references", metavar="[REF...]", nargs=-1, callback=to_references)
@files_option
@click.option("--recursive", is_flag=True, help="The agents that agents name as well, 10 levels deep at most.")
@locked_option
@max_age_option
@click.option("--strict", is_flag=True, help="No cached copy stands in for a registry that fails.")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), default=32, show_default=True, metavar="N", help="Pulls at once."
)
@common_options
def prefetch(
    references: tuple[Reference, ...],
    files: tuple[str, ...],
    recursive: bool,
    locked: str | None,
    max_age: float | None,
    strict: bool,
    concurrency: int,
    offline: bool,
    as_json: bool,
) -> int:
    """Pull many agents into the store; no failure stops the others, but the exit status is 1 then.

    Prints what each stands for, pinned, unless that is a terminal; failures and a summary go to standard error. With
    --locked and nothing else, all that the lock file holds. Interrupted, the same command goes on.

    \b
    Examples:
      lading prefetch acme/triage:v3 ghcr.io/acme/writer
      lading prefetch -f agents.txt --recursive --locked agents.lock
      lading ls --json | jq -r .reference | lading prefetch -f - --max-age 3600
    """
    lock = read_lock(locked)
    if not references and not files:
        if lock is None:
            raise click.UsageError("no references: name some, or a file of them with -f")
        references = tuple(entry.reference for entry in lock.entries)
    is_shown = sys.stderr.isatty() and not (as_json and sys.stdout.isatty())
    fallback: Fallback = "never" if strict else "any"
    with (
        Sources(references, files) as sources,
        closing(LocalStore(default_home())) as store,
        CountBar(sources.count() if is_shown else None, is_shown=is_shown) as bar,
    ):
        desk = _Desk(store, bar, as_json=as_json)

        async def verb(client: Client) -> None:
            async with (
                aclosing(sources.stream(desk.refuse)) as stream,
                client.prefetch(stream, concurrency, recursive, lock, max_age, fallback) as outcomes,
            ):
                async for outcome in outcomes:
                    desk.take(outcome)

        try:
            run(Client(store, offline=offline), verb, is_long=True)
            is_interrupted = False
        except KeyboardInterrupt:
            is_interrupted = True
    if desk.tally.total or not files:
        say(desk.tally.text())
    if is_interrupted:
        say(_CONTINUE)
        raise KeyboardInterrupt
    if not desk.tally.total and files:
        raise click.UsageError(f"no references in {', '.join(files)}")
    return 1 if desk.tally.counts["failed"] else 0


_CONTINUE = """\
what has arrived is kept: the same command goes on where this one stopped;
with --max-age 3600 it asks no registry about what it has"""


class _Desk:
    """Takes what became of each reference: counts it, and writes it where it belongs."""

    def __init__(self, store: LocalStore, bar: CountBar, *, as_json: bool) -> None:
        self.tally = Tally()
        self._store = store
        self._bar = bar
        self._as_json = as_json
        self._prints = as_json or not sys.stdout.isatty()

    def refuse(self, text: str, error: LadingError) -> None:
        """Take what can't be asked for."""
        self.take(Outcome(text, error=error))

    def take(self, outcome: Outcome) -> None:
        if outcome.error is None and self._is_lost(outcome):
            error = StoreError(f"{outcome.reference}: pulled, but the store didn't keep it", hint=_NOT_KEPT)
            outcome = replace(outcome, error=error)
        self._bar.expect(self.tally.take(outcome))
        self._bar.advance(has_failed=outcome.error is not None)
        if outcome.error is not None:
            render_failure(outcome)
        if self._as_json:
            print_json(outcome_fields(outcome))
        elif self._prints and outcome.error is None and outcome.agent is not None:
            print(outcome.agent.reference.at(outcome.agent.descriptor.digest))
        if self._prints:
            sys.stdout.flush()  # who reads it wants to know now

    def _is_lost(self, outcome: Outcome) -> bool:
        # A store that can't be written doesn't stop an agent from being given out, but here nobody takes it.
        agent = outcome.agent
        if agent is None or agent.origin != "registry":
            return False
        try:
            return not isinstance(self._store.resolve(agent.reference.at(agent.descriptor.digest)), Record)
        except StoreError:
            return True


_NOT_KEPT = "a warning above says why; LADING_HOME names another store"


@dataclass(slots=True)
class Tally:
    """What became of how many, since when."""

    counts: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    # Hashes: of a million names the names themselves would be too much.
    named: set[int] = field(default_factory=set)
    urls: set[int] = field(default_factory=set)

    @property
    def total(self) -> int:
        return self.counts.total()

    def take(self, outcome: Outcome) -> int:
        """Count it; gives how many agents it names that nobody has named before."""
        agent = outcome.agent if outcome.error is None else None
        self.counts["failed" if agent is None else WORDS[agent.origin]] += 1
        self.urls.update(hash(one.text) for one in outcome.references if one.reference is None)
        before = len(self.named)
        self.named.update(hash(str(one.reference)) for one in outcome.references if one.reference is not None)
        return len(self.named) - before

    def text(self) -> str:
        """Give the summary: ``950 pulled, 50 failed; 3 URLs are not fetched; 12.3 s, 81/s``."""
        seconds = time.monotonic() - self.began
        words = (*dict.fromkeys(WORDS.values()), "failed")
        parts = [f"{self.counts[word]} {word}" for word in words if self.counts[word]]
        text = ", ".join(parts) or "nothing to pull"
        if self.urls:
            text += f"; {len(self.urls)} {'URL is' if len(self.urls) == 1 else 'URLs are'} not fetched"
        return f"{text}; {seconds:.1f} s, {rate_text(self.total, seconds)}" if self.total else text


def render_failure(outcome: Outcome) -> None:
    """Write to standard error what couldn't be had, why, and what the user can do."""
    error = outcome.error
    assert error is not None
    name = printable(str(outcome.reference))
    needed = f"; needed by {outcome.needed_by}" if outcome.needed_by else ""
    is_named = name in error.message or not isinstance(outcome.reference, Reference)
    render_error(LadingError(f"{'' if is_named else f'{name}: '}{error.message}{needed}", hint=error.hint))


def outcome_fields(outcome: Outcome) -> dict[str, object]:
    """Give what is said of an outcome in JSON."""
    fields: dict[str, object] = {}
    if outcome.agent is not None:
        fields |= agent_fields(outcome.agent)
    fields["reference"] = str(outcome.reference)  # as it was asked for: a lock file pins it
    fields["depth"] = outcome.depth
    fields["needed_by"] = str(outcome.needed_by) if outcome.needed_by else None
    if urls := [redact_url(one.target.url) for one in outcome.references if isinstance(one.target, Url)]:
        fields["not_fetched"] = urls
    if outcome.error is not None:
        fields |= {"error": outcome.error.message, "hint": outcome.error.hint, "type": type(outcome.error).__name__}
    return fields
