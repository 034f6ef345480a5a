"""The verb ``doctor``: how a reference would be pulled, whether that works, and how this machine is set up."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import aclosing

import click

from lading.cli.options import to_reference
from lading.cli.render import print_json, say
from lading.diagnose import Finding, Verdict, diagnose
from lading.errors import StoreError
from lading.home import default_home
from lading.oci.reference import Reference

_MARKS: dict[Verdict, tuple[str, str, str]] = {
    "ok": ("ok", "✓", "green"),
    "note": ("--", "·", "bright_black"),
    "warning": ("!!", "!", "yellow"),
    "failure": ("FAIL", "✗", "red"),
}
"""How each verdict is shown: in a file, on a terminal, and in which colour there."""

_TOPIC_WIDTH = 11


def _reference(ctx: click.Context, param: click.Parameter, value: str | None) -> Reference | None:
    return None if value is None else to_reference(ctx, param, value)


@click.command()
@click.argument("reference", metavar="[REF]", required=False, callback=_reference)
@click.option("--offline", is_flag=True, help="Say of REF what can be said without the network.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each finding.")
def doctor(reference: Reference | None, offline: bool, as_json: bool) -> int:
    """Show how REF would be pulled and why, try it, and say what is wrong.

    Which mirrors are asked, through which proxy, whom a connection trusts, and where credentials come from; then each
    host is tried, up to what REF stands for. Nothing is pulled or written, and no secret is shown.

    Without REF: what is configured on this machine, without any network.

    The exit status is 1 if something keeps REF from being pulled, or the configuration from being used.

    \b
    Examples:
      lading doctor
      lading doctor ghcr.io/acme/triage:v3
      lading doctor acme/triage --json
    """
    import logging

    import anyio

    # What would be logged is said as a finding.
    logging.getLogger("lading").addHandler(logging.NullHandler())
    shown = _Shown(as_json)
    anyio.run(_examine, reference, offline, shown)
    return 1 if shown.verdicts["failure"] else 0


async def _examine(reference: Reference | None, offline: bool, shown: _Shown) -> None:
    home = None
    if reference is None:
        try:
            home = default_home()
        except StoreError as error:
            shown.show(Finding.of(error, "store", "failure"))
    async with aclosing(diagnose(reference, env=os.environ, home=home, offline=offline)) as findings:
        async for finding in findings:
            shown.show(finding)
    shown.sum_up()


class _Shown:
    """Findings as they are shown, each at once, on standard output."""

    def __init__(self, as_json: bool) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self._as_json = as_json
        self._is_terminal = sys.stdout.isatty()
        self._has_colours = self._is_terminal and not os.environ.get("NO_COLOR")
        self._about = ""

    def show(self, finding: Finding) -> None:
        """Show one finding."""
        self.verdicts[finding.verdict] += 1
        if self._as_json:
            print_json(finding.as_dict())
        else:
            self._print(finding)
        sys.stdout.flush()

    def sum_up(self) -> None:
        """Say on standard error how bad it is."""
        parts = [
            f"{count} {verdict}{'' if count == 1 else 's'}"
            for verdict in ("failure", "warning")
            if (count := self.verdicts[verdict])
        ]
        say(f"lading: {', '.join(parts)}" if parts else "lading: nothing is wrong")

    def _print(self, finding: Finding) -> None:
        plain, sign, colour = _MARKS[finding.verdict]
        if finding.about != self._about:
            self._about = finding.about
            if finding.about:
                print(self._styled(finding.about, bold=True))
        mark = self._styled(sign if self._is_terminal else plain.ljust(4), fg=colour)
        indent = " " * (2 if self._is_terminal else 5)
        print(f"{mark} {finding.topic.ljust(_TOPIC_WIDTH)} {finding.text}")
        if finding.hint:
            print(f"{indent}{' ' * _TOPIC_WIDTH} {self._styled('hint:', dim=True)} {finding.hint}")

    def _styled(self, text: str, **style: str | bool) -> str:
        return click.style(text, **style) if self._has_colours else text  # type: ignore[arg-type]
