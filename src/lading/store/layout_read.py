"""Layouts as they come: directories and tars, opened and read without trusting any of it.

Paths are made of validated digests alone, only regular files are opened, no symbolic link is followed inside of the
layout, and no more is read than a descriptor says. Blocking; one call at a time.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Self

from lading.errors import DigestMismatch, InvalidManifest, LadingError, SizeMismatch
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.store.disk import COPY_SIZE, open_regular, read_at
from lading.store.layout import DOCUMENT_LIMIT, INDEX, MARK, Entry, blob_path, check_mark, read_entries
from lading.store.layout_tar import Member, read_members

_HERE = re.compile(r"\A(?:\./)++")
_DOCKER = "manifest.json"
_DOCKER_HINT = "convert it: skopeo copy docker-archive:FILE oci-archive:OTHER.tar"


class Layout(ABC):
    """An OCI image layout that is open for reading; ``where`` names it in errors. Leave it as a context manager."""

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    def _find(self, path: str) -> int | None:
        """Give the size of the regular file at ``path``, ``None`` if there is nothing."""

    @abstractmethod
    def _open(self, path: str) -> tuple[int, int]:
        """Give a descriptor of that file, and where it begins there."""

    def _release(self, descriptor: int) -> None:
        """Let go of a descriptor that :meth:`_open` gave."""
        os.close(descriptor)

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    def entries(self) -> list[Entry]:
        """Give the images that the layout lists.

        Raises:
            InvalidManifest: it isn't a layout.
            LadingError: it can't be read.
        """
        index = self.index()
        try:
            if index is None:
                raise InvalidManifest(f"it has no {INDEX}")
            return read_entries(index)
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.where}: {error.message}") from error

    def index(self) -> bytes | None:
        """Give ``index.json``; ``None`` where the layout isn't finished. Raises likewise."""
        mark = self._document(MARK)
        if mark is None:
            if self._find(_DOCKER) is not None:
                raise InvalidManifest(f"{self.where}: a Docker archive, not an OCI image layout", hint=_DOCKER_HINT)
            raise InvalidManifest(f"{self.where}: not an OCI image layout: it has no {MARK}")
        try:
            check_mark(mark)
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.where}: {error.message}") from error
        return self._document(INDEX)

    def size(self, digest: Digest) -> int | None:
        """Give the size of a blob, ``None`` if it isn't there. Raises InvalidManifest if it isn't a regular file."""
        return self._find(blob_path(digest))

    def pieces(self, blob: Descriptor, start: int = 0) -> Generator[bytes, None, None]:
        """Give a blob from byte ``start`` on, as far as its descriptor says, unverified. Raises LadingError."""
        path = blob_path(blob.digest)
        with self._reading(path):
            descriptor, begin = self._open(path)
            try:
                while start < blob.size and (
                    piece := read_at(descriptor, begin + start, min(COPY_SIZE, blob.size - start))
                ):
                    start += len(piece)
                    yield piece
            finally:
                self._release(descriptor)

    def read(self, blob: Descriptor) -> bytes | None:
        """Give a blob, verified; ``None`` if it isn't there.

        Raises:
            SizeMismatch, DigestMismatch: it isn't what the descriptor names.
            LadingError: it can't be read.
        """
        if not self.has(blob):
            return None
        try:
            return blob.check(b"".join(self.pieces(blob)))
        except (SizeMismatch, DigestMismatch) as error:
            raise type(error)(f"{self.where}: {error.message}") from error

    def has(self, blob: Descriptor) -> bool:
        """Tell whether a blob is there, by its size. Raises SizeMismatch for another one."""
        found = self.size(blob.digest)
        if found is not None and found != blob.size:
            raise SizeMismatch(f"{self.where}: {blob.digest}: {found} bytes instead of {blob.size}")
        return found is not None

    def _document(self, name: str) -> bytes | None:
        size = self._find(name)
        if size is None:
            return None
        if size > DOCUMENT_LIMIT:
            raise InvalidManifest(f"{self.where}: {name} has more than {DOCUMENT_LIMIT} bytes")
        with self._reading(name):
            descriptor, begin = self._open(name)
            try:
                return read_at(descriptor, begin, size)
            finally:
                self._release(descriptor)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise InvalidManifest(f"{self.where}: {path} isn't a regular file") from error
            raise LadingError(f"{self.where}: {path} can't be read: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Directory(Layout):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        for directory in ("blobs", "blobs/sha256", "blobs/sha512"):
            if os.path.islink(os.path.join(path, directory)):
                raise InvalidManifest(f"{path}: {directory} is a symbolic link, which isn't followed")

    def _find(self, path: str) -> int | None:
        with self._reading(path):
            try:
                status = os.lstat(os.path.join(self.where, path))
            except FileNotFoundError:
                return None
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ELOOP, "not a regular file")
            return status.st_size

    def _open(self, path: str) -> tuple[int, int]:
        return open_regular(os.path.join(self.where, path))[0], 0

    def close(self) -> None:
        pass  # each file is closed when it was read


class _Tar(Layout):
    def __init__(self, descriptor: int, where: str) -> None:
        super().__init__(where)
        self._descriptor = descriptor
        self._members: dict[str, Member] = {}
        self._end = os.fstat(descriptor).st_size
        try:
            with self._reading("the archive"):
                self._index()
        except InvalidManifest as error:
            raise InvalidManifest(f"{where}: {error.message}", hint=error.hint) from error

    def _index(self) -> None:
        for member in read_members(self._read):
            if member.offset + member.size > self._end:
                raise InvalidManifest("a tar that is cut short")
            name = _HERE.sub("", member.name)
            if name in (MARK, INDEX) and name in self._members:
                raise InvalidManifest(f"a tar with {name} twice")
            if name in (MARK, INDEX, _DOCKER) or name.startswith("blobs/"):
                self._members[name] = member

    def _read(self, offset: int, size: int) -> bytes:
        return read_at(self._descriptor, offset, size)

    def _find(self, path: str) -> int | None:
        member = self._members.get(path)
        if member is None:
            return None
        if not member.is_regular:
            raise InvalidManifest(f"{self.where}: {path} isn't a regular file")
        return member.size

    def _open(self, path: str) -> tuple[int, int]:
        return self._descriptor, self._members[path].offset

    def _release(self, descriptor: int) -> None:
        pass

    def close(self) -> None:
        os.close(self._descriptor)


def open_layout(source: str | BinaryIO) -> Layout:
    """Open the layout in a directory, in a tar, or in an open file or pipe that a tar comes from.

    What can only be read once is copied to a temporary file first.

    Raises:
        InvalidManifest: it is something else.
        LadingError: it can't be read.
    """
    where = source if isinstance(source, str) else "standard input"
    try:
        if isinstance(source, str):
            if os.path.isdir(source):
                return _Directory(source)
            descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        else:
            descriptor = os.dup(source.fileno())
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                _spool(descriptor)
            return _Tar(descriptor, where)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise LadingError(f"{where}: {error.strerror or error}", hint="is the path right?") from error


def _spool(descriptor: int) -> None:
    """Let ``descriptor``, a pipe, be a file with what comes out of it: blobs may come before what names them."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        while piece := os.read(descriptor, COPY_SIZE):
            file.write(piece)
        file.flush()
        os.dup2(file.fileno(), descriptor, inheritable=False)
