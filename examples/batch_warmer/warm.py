"""Brings agents into the store before a service starts: the entry point of an init container.

    python warm.py --locked agents.lock
    python warm.py -f agents.txt --recursive --attempts 10

Writes a line of JSON for each agent to standard output. What fails and may pass, such as a registry that is down, is
tried again, up to `--attempts` times in all; nothing that has arrived is fetched again. Exit status: 0 everything is in
the store, 1 something isn't, 2 wrong usage, 130 and 143 after SIGINT and SIGTERM; then the same command goes on where
this one stopped.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

import lading
from lading import errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program, and give its exit status."""
    parser = argparse.ArgumentParser(description="Bring agents into the store.")
    parser.add_argument("-f", "--file", help="references, one a line, # before a comment")
    parser.add_argument("--locked", metavar="FILE", help="pull what this lock file says; alone, all of it")
    parser.add_argument("--recursive", action="store_true", help="the agents that agents name as well")
    parser.add_argument("--attempts", type=int, default=5, metavar="N", help="how often what fails is tried (5)")
    parser.add_argument("--pause", type=float, default=5.0, metavar="SECONDS", help="before each next attempt (5)")
    given = parser.parse_args(arguments)
    if given.file is None and given.locked is None:
        parser.error("name a list with -f, a lock file with --locked, or both")
    try:
        lock = None if given.locked is None else lading.Lockfile.read(given.locked)
        references = read(given.file) if given.file else [str(entry.reference) for entry in lock.entries]
    except (OSError, lading.LadingError) as error:
        print(f"warm: {error}", file=sys.stderr)
        return 1
    return anyio.run(run, references, lock, given.recursive, given.attempts, given.pause)


def read(path: str) -> list[str]:
    """Give the references in a list."""
    lines = [line.partition("#")[0].strip() for line in Path(path).read_text().splitlines()]
    return [line for line in lines if line]


async def run(references: list[str], lock: lading.Lockfile | None, recursive: bool, attempts: int, pause: float) -> int:
    """Warm the store until everything is there, the attempts are used up, or a signal comes."""
    status = 1
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            # The first process of a container isn't ended by a signal that it doesn't listen to.
            nonlocal status
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for number in signals:
                    print(f"warm: {number.name}: what has arrived is kept", file=sys.stderr)
                    status = 128 + number
                    group.cancel_scope.cancel()
                    return

        group.start_soon(listen)
        status = await warm_all(references, lock, recursive, attempts, pause)
        group.cancel_scope.cancel()
    return status


async def warm_all(
    references: list[str], lock: lading.Lockfile | None, recursive: bool, attempts: int, pause: float
) -> int:
    """Warm the store in several attempts, and give the exit status."""
    is_whole = True
    for attempt in range(1, attempts + 1):
        failed = await warm(references, lock, recursive)
        references = [reference for reference, error in failed.items() if may_pass(error)]
        # What nobody can mend by waiting isn't tried again, and yet it isn't there.
        is_whole = is_whole and len(references) == len(failed)
        if not references:
            break
        print(f"warm: {len(references)} failed, attempt {attempt} of {attempts}", file=sys.stderr)
        if attempt < attempts:
            await anyio.sleep(pause)
    return 0 if is_whole and not references else 1


async def warm(
    references: Sequence[str], lock: lading.Lockfile | None, recursive: bool
) -> dict[str, lading.LadingError]:
    """Pull them all, tell of each, and give what failed. With `recursive`, what an agent needs fails by itself."""
    failed: dict[str, lading.LadingError] = {}
    async with lading.Client() as client, client.prefetch(references, recursive=recursive, lock=lock) as outcomes:
        async for outcome in outcomes:
            name = str(outcome.reference)
            told = {"reference": name}
            if outcome.agent is not None:
                told |= {"digest": outcome.agent.digest, "origin": outcome.agent.origin}
            if outcome.error is not None:
                told["error"] = str(outcome.error)
                failed[name] = outcome.error
            print(json.dumps(told), flush=True)
    return failed


def may_pass(error: lading.LadingError) -> bool:
    """Tell whether the same may well succeed a few seconds later."""
    if isinstance(error, errors.RegistryError):
        return error.status in (408, 429) or error.status >= 500
    return isinstance(error, errors.TransportError) and not isinstance(error, errors.TlsFailed)


if __name__ == "__main__":
    sys.exit(main())
