"""Export: what the store holds of images, whole, as a layout in a directory or a tar. Blocking.

Every blob is verified while it is copied, a piece at a time. ``index.json`` comes last, so that what is interrupted
lists nothing that isn't there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lading.errors import LadingError, StoreCorrupted, StoreError
from lading.events import BlobProgress, Listener, tell
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import parse_manifest
from lading.oci.platform import Platform
from lading.oci.reference import Reference
from lading.store.disk import start_writing, sync_directory, unique, write_all
from lading.store.layout import INDEX, MARK, MARKING, add_entries, blob_path
from lading.store.layout_read import open_layout
from lading.store.layout_tar import END, member_header, padding
from lading.store.reach import narrow, reach
from lading.store.store import Absent, Corrupt, Intact, Store

Write = Callable[[bytes], object]
"""Takes the next bytes of a tar, all of them."""

_SHOWN = 3
"""Missing blobs that an error names."""

_TELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Exported:
    """One image in the layout: what it is, its root, what the layout calls it, and how many blobs and bytes it has."""

    reference: Reference
    descriptor: Descriptor
    name: str
    blobs: int
    size: int


@dataclass(frozen=True, slots=True)
class _Image:
    reference: Reference
    root: Descriptor
    parts: dict[Digest, Descriptor] = field(repr=False)


def export_images(
    store: Store,
    references: Sequence[Reference],
    target: str | Write,
    *,
    platform: Platform | None = None,
    events: Listener | None = None,
) -> list[Exported]:
    """Write images that ``store`` has whole into a layout: a directory, a file that ends in .tar, or what takes a tar.

    A directory that is a layout already is added to; what has the right size there is kept. A tar is always made anew,
    and the same for the same images. With ``platform``, the one image of each index for it, and not the index.

    Raises:
        StoreError: something isn't in the store, or is damaged there: it names what, and how to get it.
        InvalidManifest: there is nothing for the platform, or ``target`` is another kind of directory.
        LadingError: it can't be written.
    """
    gathered = [_gather(store, reference, platform) for reference in references]
    images = list({str(image.reference): image for image in gathered}.values())
    copy = _Copy(store, images, events)
    added = [(image.reference, image.root) for image in images]
    if not isinstance(target, str):
        names = _write_tar(target, copy, added)
    elif target.endswith(".tar"):
        with _replacing(target) as write:
            names = _write_tar(write, copy, added)
    else:
        with _translated(target):
            names = _write_directory(target, copy, added)
    return [
        Exported(image.reference, image.root, name, len(image.parts), sum(part.size for part in image.parts.values()))
        for name, image in zip(names, images, strict=True)
    ]


# What is exported


def _gather(store: Store, reference: Reference, platform: Platform | None) -> _Image:
    """Find everything that an image needs. Raises StoreError, InvalidManifest."""
    record = store.resolve(reference)
    if isinstance(record, Absent):
        raise StoreError(f"{reference} isn't in the store", hint=f"bring it: lading fetch {reference}")
    if isinstance(record, Corrupt):
        raise _damaged(reference, record.reason)

    def read(descriptor: Descriptor) -> bytes | None:
        found = store.read(reference.name, descriptor.digest)
        if isinstance(found, Corrupt):
            raise _damaged(reference, found.reason)
        return found.content if isinstance(found, Intact) else None

    raw = read(Descriptor(record.media_type, record.digest, 0))
    if raw is None:
        raise _incomplete(reference, [record.digest], f"lading fetch {reference}")
    artifact_type = parse_manifest(raw, record.media_type).artifact_type
    root = Descriptor(record.media_type, record.digest, len(raw), artifact_type=artifact_type)
    if platform is not None:
        root = narrow(root, read, platform)
    reached = reach(root, read)
    parts, missing = dict(reached.manifests), list(reached.missing)
    for digest, blob in reached.blobs.items():
        if blob.data is not None or store.holds(reference.name, blob):
            parts[digest] = blob
        elif isinstance(damaged := store.read(reference.name, digest), Corrupt):
            raise _damaged(reference, damaged.reason)
        elif not blob.urls:  # a foreign layer lives elsewhere
            missing.append(digest)
    if missing:
        way = f"lading fetch {reference}"
        if platform is not None:
            way = f"lading fetch --platform {platform} {reference}"
        elif reached.missing:
            way = f"lading fetch --all-platforms {reference}; or export one image of it with --platform"
        raise _incomplete(reference, missing, way)
    is_other = reference.digest is not None and reference.digest != root.digest
    return _Image(reference.at(root.digest) if is_other else reference, root, parts)


def _damaged(reference: Reference, reason: str) -> StoreCorrupted:
    return StoreCorrupted(f"{reference}: {reason}", hint=f"lading verify --repair {reference}")


def _incomplete(reference: Reference, missing: Sequence[Digest], way: str) -> StoreError:
    named = ", ".join(map(str, missing[:_SHOWN]))
    rest = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return StoreError(
        f"{reference} isn't whole in the store, which doesn't have {named}{rest}", hint=f"bring it: {way}"
    )


class _Copy:
    """Every part of some images, each once, with where in the store it is."""

    def __init__(self, store: Store, images: Sequence[_Image], events: Listener | None) -> None:
        self._store = store
        self._events = events
        self._homes: dict[Digest, tuple[Reference, Descriptor]] = {}
        for image in images:
            for digest, part in image.parts.items():
                self._homes.setdefault(digest, (image.reference, part))

    @property
    def parts(self) -> list[Descriptor]:
        """Give the parts in the order of their paths."""
        return sorted((part for _, part in self._homes.values()), key=lambda part: blob_path(part.digest))

    def pieces(self, part: Descriptor) -> Iterator[bytes]:
        """Give a part in pieces, the last one when it is verified. Raises StoreError."""
        reference = self._homes[part.digest][0]
        content = part.embedded()
        if content is not None:
            yield content
            return
        try:
            found = self._store.stream(reference.name, part.digest)
            if isinstance(found, Absent):
                raise _incomplete(reference, [part.digest], f"lading fetch {reference}")
            yield from self._told(reference, part, found)
        except StoreCorrupted as error:
            raise _damaged(reference, error.message) from error

    def _told(self, reference: Reference, part: Descriptor, pieces: Iterable[bytes]) -> Iterator[bytes]:
        done, told = 0, 0.0
        for piece in pieces:
            yield piece
            done += len(piece)
            now = time.monotonic()
            if done == part.size or now - told > _TELL_SECONDS:
                told = now
                tell(self._events, BlobProgress(str(reference), str(part.digest), done, part.size))


# A tar


def _write_tar(write: Write, copy: _Copy, added: Sequence[tuple[Reference, Descriptor]]) -> list[str]:
    index, names = add_entries(None, added)
    parts = copy.parts
    write(member_header("blobs/", 0))
    algorithm = ""
    for part in parts:
        if part.digest.algorithm != algorithm:
            algorithm = part.digest.algorithm
            write(member_header(f"blobs/{algorithm}/", 0))
        write(member_header(blob_path(part.digest), part.size))
        for piece in copy.pieces(part):
            write(piece)
        write(padding(part.size))
    for name, content in ((INDEX, index), (MARK, MARKING)):
        write(member_header(name, len(content)) + content + padding(len(content)))
    write(END)
    return names


@contextmanager
def _replacing(path: str) -> Iterator[Write]:
    """Let the file ``path`` hold what is written, if nothing fails; what isn't a regular file is written to."""
    with _translated(path):
        target = os.path.realpath(path)
        mode = os.stat(target).st_mode if os.path.exists(target) else stat.S_IFREG
        if not stat.S_ISREG(mode):
            with open(target, "wb", buffering=0) as file:
                yield lambda data: write_all(file.fileno(), data)
            return
        with _partial(target) as descriptor:
            yield lambda data: write_all(descriptor, data)


# A directory


def _write_directory(path: str, copy: _Copy, added: Sequence[tuple[Reference, Descriptor]]) -> list[str]:
    known = _known_index(path)
    index, names = add_entries(known, added)
    if not os.path.lexists(os.path.join(path, MARK)):
        with _partial(os.path.join(path, MARK)) as descriptor:
            write_all(descriptor, MARKING)
    parts = {os.path.join(path, blob_path(part.digest)): part for part in copy.parts}
    directories = {os.path.dirname(target) for target in parts}
    for directory in directories:
        os.makedirs(directory, exist_ok=True)
    for target, part in parts.items():
        if not _holds(target, part.size):
            _write_blob(target, copy.pieces(part))
    for directory in directories:
        sync_directory(directory)
    with _partial(os.path.join(path, INDEX)) as descriptor:
        write_all(descriptor, index)
    sync_directory(path)
    return names


def _known_index(path: str) -> bytes | None:
    """Make the directory, or check that it is a layout, and give its ``index.json``. Raises InvalidManifest."""
    os.makedirs(path, exist_ok=True)
    if not os.listdir(path):
        return None
    with open_layout(path) as layout:
        return layout.index()


def _holds(path: str, size: int) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _write_blob(path: str, pieces: Iterator[bytes]) -> None:
    with _partial(path) as descriptor:
        size = 0
        for piece in pieces:
            write_all(descriptor, piece)
            start_writing(descriptor, size, size + len(piece))
            size += len(piece)


@contextmanager
def _partial(path: str) -> Iterator[int]:
    """Write a file beside ``path``, for everybody to read, which takes its name when it is whole and on the disk."""
    partial = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{unique()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(partial, flags, 0o666)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LadingError(
            f"{error.filename or path}: can't be written: {error.strerror or error}",
            hint="the target is a directory, or a file whose name ends in .tar",
        ) from error
