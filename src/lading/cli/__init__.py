"""The command line: a thin layer over the client.

Results go to standard output, messages and progress to standard error. Exit status: 0 done, 1 failed, 2 wrong usage,
130 interrupted. What ``lading cat`` needs for a cached agent is all that this package imports at first; each verb's
module is imported when it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""128 + SIGINT, what shells report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status; ``arguments`` default to the process's own."""
    import click

    from lading.cli.commands import lading
    from lading.cli.render import render_error
    from lading.errors import LadingError

    try:
        status = lading.main(
            args=None if arguments is None else list(arguments), prog_name="lading", standalone_mode=False
        )
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("lading: interrupted", file=sys.stderr)
        return INTERRUPTED
    except LadingError as error:
        render_error(error)
        return 1
    return status if isinstance(status, int) else 0
