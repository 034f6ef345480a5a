"""Files that a verb writes: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

import aiofiles

from lading.errors import LadingError


def default_file_name(ref: str) -> str:
    """Give the file that ``lading pull`` writes: ``acme/triage:v3`` becomes ``acme_triage_v3.yaml``."""
    for separator in "/:@":
        ref = ref.replace(separator, "_")
    return f"{ref}.yaml"


async def write_atomically(path: str, content: bytes) -> None:
    """Make the file ``path`` hold ``content``; if that fails, it stays as it was. Raises LadingError naming the path.

    What isn't a regular file, such as a device or a pipe, is written to.
    """
    try:
        mode = _mode(path)
        if mode is not None and not stat.S_ISREG(mode):
            async with aiofiles.open(path, "wb") as file:
                await file.write(content)
        else:
            await _replace(path, content, 0o666 if mode is None else stat.S_IMODE(mode))
    except OSError as error:
        raise LadingError(
            f"{path}: can't be written: {error.strerror or error}", hint="choose another file with -o"
        ) from error


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


async def _replace(path: str, content: bytes, mode: int) -> None:
    # A symbolic link stays one: what it leads to is replaced.
    target = os.path.realpath(path)
    partial = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{secrets.token_hex(4)}.part")

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL, mode)

    try:
        async with aiofiles.open(partial, "wb", opener=create) as file:
            await file.write(content)
            await file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(partial, mode)  # the umask doesn't apply to a file that is there already
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
