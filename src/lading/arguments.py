"""What callers give, as what the rooms take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lading.errors import InvalidDocument
from lading.oci.reference import Reference
from lading.store.store import Store

if TYPE_CHECKING:
    from lading.oci.platform import Platform
    from lading.pull.lockfile import Lockfile

T = TypeVar("T")


def check_options(options: Mapping[str, Any]) -> None:
    """Check what a client is constructed with: a mistake is found where it was made, and not at the first request.

    Raises TypeError, ValueError.
    """
    for name, module, kind in (
        ("hosts", "lading.http.hosts", "HostsConfig"),
        ("retry", "lading.http.retry", "Retry"),
        ("timeouts", "lading.http.timeouts", "Timeouts"),
    ):
        given = options[name]
        # Who has none of them pays for none of their modules.
        if given is not None and not isinstance(given, getattr(import_module(module), kind)):
            raise TypeError(f"{name} must be a lading.{kind}, not {type(given).__name__}")
    credentials, events = options["credentials"], options["events"]
    if credentials is not None and not callable(getattr(credentials, "credential", None)):
        kind = type(credentials).__name__
        raise TypeError(f"credentials must have a method `credential`, as lading.StaticCredentials does, not {kind}")
    if events is not None and not callable(events):
        raise TypeError(f"events must be called with each event, not {type(events).__name__}")
    for name in ("proxy", "user_agent"):
        if not isinstance(options[name], str | None):
            raise TypeError(f"{name} must be text, not {type(options[name]).__name__}")
    if (agent := options["user_agent"]) is not None and not (agent.isascii() and agent.isprintable()):
        raise ValueError(f"user_agent must be printable ASCII on one line, not {agent!r}")
    if type(options["concurrency"]) is not int:
        raise TypeError(f"concurrency must be a number of blobs, not {type(options['concurrency']).__name__}")
    if options["concurrency"] < 1:
        raise ValueError("concurrency must be at least 1")


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
