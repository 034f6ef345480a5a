"""What callers give, as what the rooms take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from lading.errors import InvalidDocument
from lading.oci.reference import Reference
from lading.store.store import Store

if TYPE_CHECKING:
    from lading.oci.platform import Platform
    from lading.pull.lockfile import Lockfile

T = TypeVar("T")


def given_store(store: object) -> Store:
    if not hasattr(store, "resolve"):
        raise TypeError(f"store must be a Store or a directory, not {type(store).__name__}")
    return cast("Store", store)


def to_reference(ref: str | Reference) -> Reference:
    return ref if isinstance(ref, Reference) else Reference.parse(ref)


def to_platforms(given: str | Platform | Sequence[str | Platform] | None) -> tuple[Platform, ...]:
    from lading.oci.platform import Platform

    if given is None:
        return ()
    several = [given] if isinstance(given, str | Platform) else given
    return tuple(one if isinstance(one, Platform) else Platform.parse(one) for one in several)


def to_seconds(name: str, value: float | None) -> float | None:
    if value is not None and not value >= 0:
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")
    return value


def to_one_of(name: str, value: T, values: Sequence[T]) -> T:
    if value not in values:
        raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, not {value!r}")
    return value


def read_lock(given: Lockfile | str | os.PathLike[str] | None) -> Lockfile | None:
    from lading.pull.lockfile import Lockfile

    return Lockfile.read(given) if isinstance(given, str | os.PathLike) else given


async def read_source(source: bytes | str | os.PathLike[str], reference: Reference) -> tuple[bytes, str]:
    """Give the content and the file name of what is to be published."""
    if isinstance(source, bytes):
        return source, reference.repository.rpartition("/")[2] + ".yaml"
    import aiofiles

    path = os.fspath(source)
    try:
        async with aiofiles.open(path, "rb") as file:
            return await file.read(), os.path.basename(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidDocument(f"{path}: {why}", hint="is the path right?") from error
