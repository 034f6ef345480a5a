"""The lock file: which digest each reference of a set of agents, and of what they need, stood for.

It is TOML (1.0), written in one stable order, so that two versions of it differ where what they lock differs::

    version = 1

    [[agent]]
    reference = "docker.io/acme/triage:v3"
    digest = "sha256:…"
    media-type = "application/vnd.oci.image.manifest.v1+json"
    size = 1043
    requested = true

    [[agent]]
    reference = "ghcr.io/acme/writer:latest"
    digest = "sha256:…"
    media-type = "application/vnd.oci.image.manifest.v1+json"
    size = 978
    needed-by = ["docker.io/acme/triage:v3"]

``size`` is that of the manifest in bytes. ``requested`` are those that somebody asked for, ``needed-by`` are those
whose agents name this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

from lading.errors import InvalidDigest, InvalidLockfile, InvalidReference, LadingError, LockMismatch
from lading.oci.digest import Digest
from lading.oci.media_types import is_media_type
from lading.oci.reference import Reference
from lading.oci.strict_toml import parse_toml

VERSION = 1
"""Of the format."""

LENGTH_LIMIT = 32 * 1024 * 1024
"""Bytes of a lock file at most."""

_SIZE_LIMIT = 2**63 - 1

_HEADING = "# Written by `lading lock`; `lading lock --update` moves it."
_KEYS = {"reference", "digest", "media-type", "size", "requested", "needed-by"}


@dataclass(frozen=True, slots=True)
class LockEntry:
    """What one reference is locked to.

    Attributes:
        reference: fully qualified.
        digest: what it stands for: a manifest, or the index that wraps it.
        media_type: of that.
        size: of that, in bytes.
        referenced_by: the references whose agents name this one, in order.
        is_requested: whether somebody asked for it, rather than only an agent.
    """

    reference: Reference
    digest: Digest
    media_type: str
    size: int
    referenced_by: tuple[Reference, ...] = ()
    is_requested: bool = False

    def __post_init__(self) -> None:
        # As they are written and read again, so that what is equal there is equal here.
        object.__setattr__(self, "reference", Reference.parse(str(self.reference)))
        parents = {str(parent) for parent in self.referenced_by}
        object.__setattr__(self, "referenced_by", tuple(map(Reference.parse, sorted(parents))))

    @property
    def pinned(self) -> Reference:
        """The reference to exactly this content, the tag kept."""
        return Reference(self.reference.registry, self.reference.repository, self.reference.tag, self.digest)


@dataclass(frozen=True, slots=True)
class LockChange:
    """How one reference differs between two lock files; ``old`` or ``new`` is ``None`` where it isn't in that one."""

    reference: Reference
    old: LockEntry | None
    new: LockEntry | None

    @property
    def kind(self) -> Literal["added", "removed", "moved"]:
        """What happened to it."""
        if self.old is None:
            return "added"
        return "removed" if self.new is None else "moved"


@dataclass(frozen=True, slots=True)
class Lockfile:
    """What a set of references is locked to: ``entries``, each reference once, in the order of their names."""

    entries: tuple[LockEntry, ...] = ()
    _by_name: Mapping[str, LockEntry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[str, LockEntry] = {}
        for entry in sorted(self.entries, key=lambda entry: str(entry.reference)):
            if by_name.setdefault(str(entry.reference), entry) is not entry:
                raise InvalidLockfile(f"{entry.reference} is locked twice")
            if entry.reference.digest not in (None, entry.digest):
                raise InvalidLockfile(f"{entry.reference} is locked to another digest, {entry.digest}")
        object.__setattr__(self, "entries", tuple(by_name.values()))
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))

    @property
    def requested(self) -> tuple[Reference, ...]:
        """The references that somebody asked for."""
        return tuple(entry.reference for entry in self.entries if entry.is_requested)

    def find(self, reference: Reference) -> LockEntry | None:
        """Give what ``reference`` is locked to."""
        return self._by_name.get(str(reference))

    def pin(self, reference: Reference) -> Reference:
        """Give the reference to exactly what ``reference`` is locked to.

        Raises:
            LockMismatch: it isn't locked.
        """
        entry = self.find(reference)
        if entry is None:
            raise LockMismatch(f"{reference}: not in the lock file", hint=f"add it: lading lock {reference}")
        return entry.pinned

    def changes(self, newer: Lockfile) -> tuple[LockChange, ...]:
        """Give what stands for something else in ``newer``, or is in one of them only, in the order of the names."""
        names = sorted(self._by_name.keys() | newer._by_name.keys())
        pairs = ((self._by_name.get(name), newer._by_name.get(name)) for name in names)
        return tuple(
            LockChange((new or old).reference, old, new)  # type: ignore[union-attr]  # it is in one of them
            for old, new in pairs
            if old is None or new is None or old.digest != new.digest
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a lock file.

        Raises:
            InvalidLockfile: it isn't one, or of a version that isn't known.
        """
        try:
            document = parse_toml(text)
        except ValueError as error:
            # The two sides of a merge that nobody resolved, most likely.
            hint = (
                "resolve the conflict, or remove the file and write it anew: lading lock"
                if "\n<<<<<<<" in f"\n{text}"
                else _ANEW
            )
            raise InvalidLockfile(f"not TOML: {error}", hint=hint) from error
        version = document.get("version")
        if version != VERSION or type(version) is not int:
            hint = "a newer lading may read it" if isinstance(version, int) and version > VERSION else _ANEW
            raise InvalidLockfile(f"version {version!r} isn't known: it should be {VERSION}", hint=hint)
        tables = document.get("agent", [])
        if document.keys() - {"version", "agent"} or not isinstance(tables, list):
            raise InvalidLockfile("it has other keys than version and agent", hint=_ANEW)
        return cls(tuple(_read_entry(table, f"agent {number}") for number, table in enumerate(tables, 1)))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a lock file; blocking.

        Raises:
            InvalidLockfile: there is none, it can't be read, or it isn't one.
        """
        where = os.fspath(path)
        try:
            with open(where, "rb") as file:
                raw = file.read(LENGTH_LIMIT + 1)
            if len(raw) > LENGTH_LIMIT:
                raise InvalidLockfile(f"larger than {LENGTH_LIMIT} bytes")
            return cls.parse(raw.decode())
        except OSError as error:
            hint = "lading lock writes one" if isinstance(error, FileNotFoundError) else "is the path right?"
            raise InvalidLockfile(f"{where}: {error.strerror or error}", hint=hint) from error
        except UnicodeDecodeError as error:
            raise InvalidLockfile(f"{where}: not UTF-8", hint=_ANEW) from error
        except InvalidLockfile as error:
            raise InvalidLockfile(f"{where}: {error.message}", hint=error.hint) from error

    def text(self) -> str:
        """Give the text of the lock file: the same for the same entries, whatever order they came in."""
        return "\n".join([f"{_HEADING}\nversion = {VERSION}\n", *map(_entry_text, self.entries)])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the lock file, whole or not at all; what the file held before is replaced. Blocking.

        Raises:
            LadingError: it can't be written.
        """
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.write(self.text())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        except OSError as error:
            raise LadingError(f"{os.fspath(path)}: can't be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


_ANEW = "remove it, and write it anew: lading lock"


def _entry_text(entry: LockEntry) -> str:
    lines = [
        "[[agent]]",
        f"reference = {_quoted(str(entry.reference))}",
        f"digest = {_quoted(str(entry.digest))}",
        f"media-type = {_quoted(entry.media_type)}",
        f"size = {entry.size}",
    ]
    if entry.is_requested:
        lines.append("requested = true")
    if entry.referenced_by:
        lines += ["needed-by = [", *(f"    {_quoted(str(parent))}," for parent in entry.referenced_by), "]"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON string of ASCII is a basic string of TOML.
    return json.dumps(text)


def _read_entry(table: object, where: str) -> LockEntry:
    if not isinstance(table, dict):
        raise InvalidLockfile(f"{where} isn't a table", hint=_ANEW)
    if unknown := table.keys() - _KEYS:
        raise InvalidLockfile(f"{where}: {sorted(unknown)[0]!r} isn't known", hint="a newer lading may read it")
    try:
        reference = Reference.parse(_text(table, "reference", where))
        digest = Digest.parse(_text(table, "digest", where))
        parents = tuple(Reference.parse(_item(name, f"{where}: needed-by")) for name in _list(table, where))
    except (InvalidReference, InvalidDigest) as error:
        raise InvalidLockfile(f"{where}: {error.message}", hint=_ANEW) from error
    media_type, size, requested = (
        _text(table, "media-type", where),
        table.get("size"),
        table.get("requested", False),
    )
    if not is_media_type(media_type):
        raise InvalidLockfile(f"{where}: media-type: {media_type!r} isn't a media type", hint=_ANEW)
    if type(size) is not int or not 0 <= size <= _SIZE_LIMIT:
        raise InvalidLockfile(f"{where}: size: {size!r} isn't a size in bytes", hint=_ANEW)
    if type(requested) is not bool:
        raise InvalidLockfile(f"{where}: requested: {requested!r} is neither true nor false", hint=_ANEW)
    return LockEntry(reference, digest, media_type, size, parents, requested)


def _text(table: Mapping[str, object], key: str, where: str) -> str:
    if key not in table:
        raise InvalidLockfile(f"{where}: {key} is missing", hint=_ANEW)
    return _item(table[key], f"{where}: {key}")


def _item(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidLockfile(f"{where}: {value!r} isn't text", hint=_ANEW)
    return value


def _list(table: Mapping[str, object], where: str) -> list[object]:
    value = table.get("needed-by", [])
    if not isinstance(value, list):
        raise InvalidLockfile(f"{where}: needed-by isn't a list", hint=_ANEW)
    return value
