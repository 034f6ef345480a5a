"""Files that a verb writes: whole or not at all."""

from __future__ import annotations

import contextlib
import os

import aiofiles

from lading.errors import LadingError


def default_file_name(ref: str) -> str:
    """Give the file that ``lading pull`` writes: ``acme/triage:v3`` becomes ``acme_triage_v3.yaml``."""
    for separator in "/:@":
        ref = ref.replace(separator, "_")
    return f"{ref}.yaml"


async def write_atomically(path: str, content: bytes) -> None:
    """Make ``path`` hold ``content``; if that fails, it stays as it was. Raises LadingError naming the path."""
    # A symbolic link stays one: what it leads to is replaced.
    target = os.path.realpath(path)
    partial = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{os.getpid()}.part")
    try:
        async with aiofiles.open(partial, "xb") as file:
            await file.write(content)
            await file.flush()
            os.fsync(file.fileno())
        _keep_mode(target, partial)
        os.replace(partial, target)
    except OSError as error:
        raise LadingError(
            f"{path}: can't be written: {error.strerror or error}", hint="choose another file with -o"
        ) from error
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)


def _keep_mode(target: str, partial: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.chmod(partial, os.stat(target).st_mode & 0o7777)
