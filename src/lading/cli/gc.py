"""The verb ``gc``: what in the store nothing needs any more, removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from lading.cli.options import common_options
from lading.cli.progress import size_text
from lading.cli.render import print_json, say
from lading.home import default_home
from lading.redact import printable
from lading.store.local import LocalStore

if TYPE_CHECKING:
    from lading.store.gc import Collected

_AGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?)b?|b)?", re.ASCII | re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}

_KINDS = {
    "blob": ("blob that belongs to nothing", "blobs that belong to nothing"),
    "partial": ("partial download", "partial downloads"),
    "temporary": ("temporary file", "temporary files"),
    "index": ("file of a damaged index", "files of damaged indexes"),
}


def to_age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read an age, such as 30d or 12h, as seconds."""
    if value is None:
        return None
    found = _AGE.fullmatch(value.strip().lower())
    if found is None:
        raise click.BadParameter(f"{value!r} isn't an age: write 45m, 12h, 30d or 8w", ctx, param)
    return float(found[1]) * _SECONDS[found[2]]


def to_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a size, such as 500MB, 2GB or 1.5GiB, as bytes."""
    if value is None:
        return None
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} isn't a size: write 500MB, 2GB or 1.5GiB", ctx, param)
    unit = (1024 if found[3] else 1000) ** _POWERS[found[2].lower()] if found[2] else 1
    return int(float(found[1]) * unit)


@click.command()
@click.option(
    "--older-than",
    metavar="AGE",
    callback=to_age,
    help="Forget first what wasn't pulled, confirmed, imported or printed for so long: 12h, 30d, 8w.",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=to_size,
    help="Forget first what was used the longest time ago, until the rest fits: 500MB, 2GB, 1.5GiB.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@common_options
def gc(older_than: float | None, max_size: int | None, dry_run: bool, offline: bool, as_json: bool) -> None:
    """Remove from the store what nothing needs any more.

    That is content that no reference in `lading ls` reaches, such as what a tag stood for before it moved, and what
    interrupted or killed commands left: partial downloads, temporary files. What a running command needs stays, so it
    may run at any time. Without an option no reference is forgotten, not even one that names a digest.

    \b
    Examples:
      lading gc --dry-run
      lading gc --older-than 30d
      lading gc --max-size 2GB
    """
    import anyio

    collected = anyio.run(_collect, older_than, max_size, dry_run)
    for fields, text in _lines(collected):
        if as_json:
            print_json(fields)
        else:
            print(printable(text))
    if as_json:
        print_json(
            {
                "state": "summary",
                "references": len(collected.references),
                "contents": len(collected.contents),
                "files": len(collected.files),
                "freed": collected.freed,
                "shrunk": collected.shrunk,
                "references_left": collected.references_left,
                "bytes_left": collected.bytes_left,
                "dry_run": dry_run,
            }
        )
    say(_summary(collected, dry_run))


async def _collect(older_than: float | None, max_size: int | None, dry_run: bool) -> Collected:
    store = LocalStore(default_home())
    try:
        return await store.collect(older_than=older_than, max_size=max_size, dry_run=dry_run)
    finally:
        await store.aclose()


def _lines(collected: Collected) -> Iterator[tuple[dict[str, object], str]]:
    """Give what goes, for programs and for people."""
    for reference in collected.references:
        yield {"state": "forgotten", "reference": str(reference)}, f"forget  {reference}"
    for digest, size in collected.contents:
        fields = {"state": "removed", "kind": "content", "digest": str(digest), "size": size}
        yield fields, f"remove  {digest} ({size_text(size)})"
    for stray in collected.files:
        fields = {"state": "removed", "kind": stray.kind, "path": stray.path, "size": stray.size}
        yield fields, f"remove  {stray.path} ({_KINDS[stray.kind][0]}, {size_text(stray.size)})"


def _summary(collected: Collected, dry_run: bool) -> str:
    kinds = Counter(stray.kind for stray in collected.files)
    counts = [
        *_counted(len(collected.references), ("reference forgotten", "references forgotten")),
        *_counted(len(collected.contents), ("piece of content", "pieces of content")),
        *(text for kind, names in _KINDS.items() for text in _counted(kinds[kind], names)),  # type: ignore[index]
    ]
    left = f"{collected.references_left} references, {size_text(collected.bytes_left)} stay"
    if not counts:
        return f"nothing to remove; {left}"
    freed = size_text(collected.freed)
    return f"{', '.join(counts)}: {freed} {'would be free' if dry_run else 'are free'} again; {left}"


def _counted(count: int, names: tuple[str, str]) -> list[str]:
    return [f"{count} {names[0 if count == 1 else 1]}"] if count else []
