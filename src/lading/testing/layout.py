"""Where things are in the directory of a registry. Names come from the network: they are checked here, always.

    registry.json                            what this directory is
    blobs/sha256/<hex>                       every blob, once
    repositories/<name>/_blobs/sha256/<hex>  a hard link to it: this repository holds the blob
    repositories/<name>/_manifests/sha256/<hex>
                                             the media type in a line of its own, then the manifest byte for byte
    repositories/<name>/_tags/<tag>          the digest that the tag names, in a line
    repositories/<name>/_lock                held while manifests and tags of the repository change
    uploads/                                 what isn't whole yet

The components of a repository's name begin with a letter or a digit, never with "_". A tag in capitals is
spelled in small letters, so that it doesn't meet another one where the file system ignores case: see `tag_file`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from lading.testing import grammar
from lading.testing.content import check_repository
from lading.testing.refusals import ErrorCode, Refusal

_MARK = "registry.json"
_FORMAT = {"format": "lading-registry", "version": 1}

# In a directory that isn't marked yet: another process may be about to mark it, from a draft in "uploads".
_NEGLIGIBLE = frozenset({_MARK, "uploads", "lost+found"})


class NotARegistry(OSError):
    """The directory holds something else, or a registry in a format that this version doesn't know."""


class Layout:
    """The paths in the directory `root`; no path leads out of it, through symbolic links neither."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))
        self.mark = self._root / _MARK
        self.uploads = self._root / "uploads"
        self._repositories = self._root / "repositories"

    def check(self) -> bool:
        """Tell whether the directory is marked as a registry already; raise `NotARegistry`."""
        try:
            found = json.loads(self.mark.read_bytes())
        except FileNotFoundError:
            if not _NEGLIGIBLE.issuperset(os.listdir(self._root)):
                raise _not_a_registry("not empty, and not the directory of a registry", self._root) from None
            return False
        except ValueError:
            found = None
        if found != _FORMAT:
            raise _not_a_registry("not the mark of a registry in a format known here", self.mark)
        return True

    @staticmethod
    def marking() -> bytes:
        """Return what marks a directory as a registry."""
        return json.dumps(_FORMAT).encode() + b"\n"

    def repository(self, name: str) -> Path:
        """Return the directory of a repository; raise NAME_INVALID."""
        return self._inside(self._repositories / check_repository(name))

    def shared_blob(self, digest: str) -> Path:
        """Return where a blob is for all repositories."""
        return self._inside(self._root / "blobs" / _digest_path(digest))

    def blob(self, repository: str, digest: str) -> Path:
        """Return where a blob of a repository is."""
        return self._inside(self.repository(repository) / "_blobs" / _digest_path(digest))

    def manifest(self, repository: str, digest: str) -> Path:
        """Return where a manifest of a repository is."""
        return self._inside(self.manifests(repository) / _digest_path(digest))

    def manifests(self, repository: str) -> Path:
        """Return the directory of a repository's manifests; it is there if the repository is."""
        return self._inside(self.repository(repository) / "_manifests")

    def tag(self, repository: str, tag: str) -> Path:
        """Return where a tag of a repository is."""
        return self._inside(self.tags(repository) / tag_file(tag))

    def tags(self, repository: str) -> Path:
        """Return the directory of a repository's tags."""
        return self._inside(self.repository(repository) / "_tags")

    def lock(self, repository: str) -> Path:
        """Return the lock file of a repository."""
        return self._inside(self.repository(repository) / "_lock")

    def names(self) -> Iterator[str]:
        """Find the names of all repositories, in no order."""
        for directory, below, _ in os.walk(self._repositories):
            name = Path(directory).relative_to(self._repositories).as_posix()
            is_here = "_manifests" in below and not Path(directory, "_manifests").is_symlink()
            if is_here and grammar.is_repository(name):
                yield name
            below[:] = [component for component in below if not component.startswith("_")]

    def _inside(self, path: Path) -> Path:
        # Whoever swaps a directory for a link between this look and the use could as well change the content.
        if not Path(os.path.realpath(path)).is_relative_to(self._root):
            raise Refusal(ErrorCode.DENIED, "a symbolic link leads out of the registry's directory")
        return path


def tag_file(tag: str) -> str:
    """Return the file name of a tag: "v1" for "v1", and "v1~1" for "V1", with a bit for each capital."""
    if not grammar.is_tag(tag):
        raise ValueError(f"not a tag: {tag!r}")
    capitals = sum(1 << position for position, character in enumerate(tag) if character.isupper())
    return f"{tag.lower()}~{capitals:x}" if capitals else tag


def tag_of_file(name: str) -> str | None:
    """Return the tag that has the file name `name`; None if there is none."""
    small, _, mask = name.partition("~")
    try:
        capitals = int(mask or "0", 16)
    except ValueError:
        return None
    tag = "".join(
        character.upper() if capitals >> position & 1 else character for position, character in enumerate(small)
    )
    return tag if grammar.is_tag(tag) and tag_file(tag) == name else None


def _not_a_registry(message: str, path: Path) -> NotARegistry:
    return NotARegistry(errno.EINVAL, message, str(path))


def _digest_path(digest: str) -> Path:
    if not grammar.is_digest(digest):
        raise ValueError(f"not a digest: {digest!r}")
    algorithm, _, encoded = digest.partition(":")
    return Path(algorithm, encoded)
