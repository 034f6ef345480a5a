"""The verb ``verify``: is everything in the store as it was put there, and if not, what mends it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio.to_thread
import click

from lading.cli.options import common_options, run, to_references
from lading.cli.progress import size_text
from lading.cli.render import print_json, say
from lading.client import Client
from lading.errors import BodyInterrupted, LadingError, SizeMismatch, StoreError, TimedOut
from lading.home import default_home
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import INDEXES, MANIFESTS
from lading.oci.reference import Reference
from lading.redact import printable
from lading.store.local import LocalStore
from lading.store.store import INLINE_LIMIT, Changes, Record, Seen
from lading.store.verify import Damaged, Report, Verifier

if TYPE_CHECKING:
    from rich.progress import Progress

_ATTEMPTS = 3
"""How often a body that is cut short is asked for."""

_SHOWN = 3
"""References that a line names."""


@click.command()
@click.argument("references", metavar="[REF...]", nargs=-1, callback=to_references)
@click.option("--repair", is_flag=True, help="Fetch what is damaged again, from the repository it was seen in.")
@common_options
def verify(references: tuple[Reference, ...], repair: bool, offline: bool, as_json: bool) -> int:
    """Read everything in the store again, or what REF needs, and say what is damaged: then the exit status is 1.

    What was never fetched, such as an agent's config or an image's other platforms, isn't damage.

    \b
    Examples:
      lading verify
      lading verify ghcr.io/acme/triage:v3 --repair
    """
    with closing(LocalStore(default_home())) as store, _Bar() as bar:
        mender = _Repair(store, Verifier(store, references, bar))
        client = Client(store, offline=offline)
        report = run(client, mender.run if repair else lambda client: mender.verifier.run())
    for fields, text in _findings(report, mender, is_all=not references):
        if as_json:
            print_json(fields)
        else:
            print(printable(text))
    bad = len(report.damaged) + len(report.damage)
    if as_json:
        print_json(
            {
                "state": "summary",
                "intact": report.intact,
                "bytes": report.bytes,
                "damaged": bad,
                "repaired": len(mender.mended),
                "not_fetched": len(report.absent),
                "strays": len(report.strays),
            }
        )
    say(
        f"{report.intact} intact ({size_text(report.bytes)}), {bad} damaged, {len(report.absent)} not fetched, "
        f"{len(report.strays)} unknown"
    )
    if bad and not repair:
        say("  hint: lading verify --repair fetches what is damaged again")
    return 0 if report.is_whole else 1


def _findings(report: Report, repair: _Repair, *, is_all: bool) -> Iterator[tuple[dict[str, object], str]]:
    """Give what is worth a line, for programs and for people."""
    for digest, name in repair.mended.items():
        yield {"state": "repaired", "digest": str(digest), "from": name}, f"repaired     {digest} from {name}"
    for reason in report.damage:
        yield {"state": "damaged", "reason": reason}, f"damaged      {reason}"
    for one in report.damaged:
        failure = repair.failures.get(one.digest)
        names = [str(reference) for reference in one.references]
        fields = {
            "state": "damaged",
            "digest": str(one.digest),
            "size": one.size,
            "reason": one.reason,
            "references": names,
            "failure": failure.message if failure else None,
        }
        rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        needed = f"; needed by {', '.join(names[:_SHOWN])}{rest}" if names else ""
        failed = f"; not repaired: {failure}" if failure else ""
        yield fields, f"damaged      {one.digest}: {one.reason}{needed}{failed}"
    for absent in () if is_all else report.absent:
        fields = {"state": "not fetched", "digest": str(absent.digest), "size": absent.size}
        yield fields, f"not fetched  {absent.digest} ({size_text(absent.size)}, {absent.media_type})"
    for path in report.strays:
        yield {"state": "stray", "path": path}, f"unknown      {path}: it belongs to nothing"


class _Repair:
    """Fetches what is damaged again, each piece at most once; what it was is in ``mended`` and ``failures``."""

    def __init__(self, store: LocalStore, verifier: Verifier) -> None:
        self.verifier = verifier
        self.mended: dict[Digest, str] = {}
        self.failures: dict[Digest, LadingError] = {}
        self._store = store

    async def run(self, client: Client) -> Report:
        """Verify, repair, and verify what was repaired, until nothing more can be done."""
        report = await self.verifier.run()
        is_first = True
        while not report.is_whole:
            if report.damage and is_first:
                try:
                    # A commit to a damaged index goes to a new one, with all that can be read of the old one.
                    await self._store.commit(Changes(time.time(), notes=(("verify", "repair", None),)))
                except StoreError as error:
                    say(f"lading: warning: {error}")
            untried = [one for one in report.damaged if one.digest not in self.mended | self.failures]
            if not untried and not (report.damage and is_first):
                break
            is_first = False
            for one in untried:
                await self._mend(client, one)
            # A manifest that is back may tell of more that is damaged.
            report = await self.verifier.run()
        for one in report.damaged:
            if self.mended.pop(one.digest, None):
                self.failures[one.digest] = LadingError(
                    "it was fetched again, and is damaged again", hint="check the disk"
                )
        return report

    async def _mend(self, client: Client, damaged: Damaged) -> None:
        places = await anyio.to_thread.run_sync(self._store.places, damaged.digest)
        failure = LadingError("nobody knows where it came from")
        for name in dict.fromkeys([*(reference.name for reference in damaged.references), *places]):
            try:
                await self._fetch(client, Reference.parse(name).at(damaged.digest), damaged)
                self.mended[damaged.digest] = name
                return
            except LadingError as error:
                failure = error
        self.failures[damaged.digest] = failure

    async def _fetch(self, client: Client, reference: Reference, damaged: Damaged) -> None:
        known = self._store.resolve(reference)
        media_type = damaged.media_type or (known.media_type if isinstance(known, Record) else "")
        seen = (Seen(reference.name, damaged.digest, media_type),) if media_type else ()
        if media_type in MANIFESTS | INDEXES:
            manifest = await client.manifest(reference)
            await self._store.commit(Changes(time.time(), content=((damaged.digest, manifest.raw),), seen=seen))
            return
        blob = Descriptor(media_type, damaged.digest, damaged.size)
        for attempt in range(_ATTEMPTS):
            try:
                if blob.size <= INLINE_LIMIT:
                    content = (damaged.digest, await _read(client, reference, blob))
                    await self._store.commit(Changes(time.time(), content=(content,), seen=seen))
                else:
                    await self._take(client, reference, blob)
                    await self._store.commit(Changes(time.time(), blobs=(blob,), seen=seen))
                return
            except (BodyInterrupted, TimedOut):
                if attempt == _ATTEMPTS - 1:
                    raise

    async def _take(self, client: Client, reference: Reference, blob: Descriptor) -> None:
        async with self._store.ingest(blob) as ingest:
            if not ingest.is_complete:
                await ingest.restart()
                async with client.stream_blob(reference, blob.digest) as chunks:
                    async for chunk in chunks:
                        await ingest.write(chunk)
            await ingest.finish()


async def _read(client: Client, reference: Reference, blob: Descriptor) -> bytes:
    content = bytearray()
    async with client.stream_blob(reference, blob.digest) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > blob.size:
                raise SizeMismatch(f"{reference}: more than its {blob.size} bytes")
    return blob.check(bytes(content))


class _Bar:
    """Shows how much is read, on a terminal."""

    def __init__(self) -> None:
        self._bars: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], completed=done, total=total)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

            self._bars = Progress(
                BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=Console(stderr=True), transient=True
            )
            self._bars.add_task("verify", total=None)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
