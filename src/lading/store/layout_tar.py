"""Layouts in a tar (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").

Reading gives where the regular members are, and nothing else: no name of an archive ever becomes a path. The standard
library's reader takes names and extensions of any length into memory, which a hostile archive may have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lading.errors import InvalidManifest

BLOCK = 512
END = bytes(2 * BLOCK)
"""What an archive ends with."""

_MEMBERS_LIMIT = 200_000
_SIZE_LIMIT = 2**62
"""Bytes of a member at most: what no file has, and no offset in one can skip."""

_EXTENSION_LIMIT = 1024 * 1024
"""Bytes of a pax header or of a GNU long name at most."""

_REGULAR = frozenset((b"0", b"\0", b"7"))
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]{1,1000})=")


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its data are ``size`` bytes from ``offset`` on."""

    name: str
    offset: int
    size: int
    is_regular: bool


def read_members(read_at: Callable[[int, int], bytes]) -> Iterator[Member]:
    """Give the members of an archive in their order; ``read_at`` reads up to so many bytes from an offset.

    Raises:
        InvalidManifest: it isn't a tar, or is cut short.
    """
    offset = count = 0
    extended: dict[str, bytes] = {}
    while any(header := read_at(offset, BLOCK)):
        _check(header, offset)
        kind, offset = header[156:157], offset + BLOCK
        size = _number(extended.pop("size", b"") or header[124:136], offset)
        count += 1
        if count > _MEMBERS_LIMIT:
            raise InvalidManifest(f"a tar with more than {_MEMBERS_LIMIT} members")
        if size > _SIZE_LIMIT:
            raise InvalidManifest("a tar that is cut short")
        if kind == b"S":
            raise InvalidManifest("a tar with sparse files", hint="make it again without them (tar without --sparse)")
        if kind in b"xL":
            if size > _EXTENSION_LIMIT:
                raise InvalidManifest(f"a tar with a header of {size} bytes")
            data = read_at(offset, size)
            extended |= _records(data) if kind == b"x" else {"path": data.rstrip(b"\0")}
        elif kind not in b"gK":
            name = extended.get("path") or _name(header)
            yield Member(name.decode("utf-8", "surrogateescape"), offset, size, kind in _REGULAR)
            extended = {}
        offset += -(-size // BLOCK) * BLOCK
    if len(header) < BLOCK and (header or not count):
        raise InvalidManifest("not a tar" if not count else "a tar that is cut short")


def member_header(name: str, size: int) -> bytes:
    """Give what comes before the data of a member, always the same; with a / at its end a name is a directory's."""
    import tarfile

    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """Give what comes after ``size`` bytes of data."""
    return bytes(-size % BLOCK)


def _check(header: bytes, offset: int) -> None:
    told = _OCTAL.fullmatch(header[148:156])
    if len(header) < BLOCK or told is None or int(told[1] or b"0", 8) != sum(header[:148]) + 256 + sum(header[156:]):
        if not offset:
            hint = "it is compressed: decompress it first" if header[:2] == b"\x1f\x8b" else ""
            raise InvalidManifest("neither a directory nor a tar", hint=hint)
        raise InvalidManifest(f"a tar that is damaged, or cut short, at byte {offset}")


def _number(field: bytes, offset: int) -> int:
    if field[0] == 0x80:  # GNU: a binary number where octal digits don't suffice
        return int.from_bytes(field[1:], "big")
    digits = _OCTAL.fullmatch(field)
    if digits is None:
        raise InvalidManifest(f"a tar that is damaged at byte {offset - BLOCK}")
    return int(digits[1] or b"0", 8)


def _name(header: bytes) -> bytes:
    name, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
    return prefix + b"/" + name if header[257:263] == b"ustar\0" and prefix else name


def _records(data: bytes) -> dict[str, bytes]:
    """Read the records of a pax header that say what a member is called, and how large it is."""
    found: dict[str, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        record = _RECORD.match(data, position)
        end = position + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data):
            raise InvalidManifest("a tar with a pax header that is damaged")
        key, value = record[2], data[record.end() : end - 1]
        if key == b"path":
            found["path"] = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise InvalidManifest("a tar with a pax header that is damaged")
            found["size"] = b"\x80" + int(value).to_bytes(11, "big")
        position = end
    return found
