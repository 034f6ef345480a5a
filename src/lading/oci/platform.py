"""Platforms: what an image runs on, how people write that, and which images of an index a machine can run.

The rules are containerd's (containerd/platforms: ``Parse``, ``Normalize``, ``Only``), which Docker follows, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from lading.errors import InvalidPlatform
from lading.oci.media_types import INDEXES, MANIFESTS

if TYPE_CHECKING:
    # A descriptor holds a platform, so its module can't be imported before this one is.
    from lading.oci.descriptor import Descriptor
    from lading.oci.manifest import Index

# containerd/platforms, "Platform Specifiers":
#   platform     := os [ options ] "/" architecture [ "/" variant ] | os [ options ] | architecture
#   options      := "(" [ version ] [ "+" feature ]* ")"
#   os           := /[A-Za-z0-9_-]+/
#   architecture := /[A-Za-z0-9_.-]+/
#   variant      := /[A-Za-z0-9_.-]+/
#   version      := /[A-Za-z0-9_.%-]+/
#   feature      := /[A-Za-z0-9_.%-]+/
_OPTION = "(?:[A-Za-z0-9_.-]|%[0-9A-Fa-f]{2})"
_PLATFORM = re.compile(
    r"(?P<os>[A-Za-z0-9_-]+)"
    rf"(?:\((?P<version>{_OPTION}*)(?P<features>(?:\+{_OPTION}+)*)\))?"
    r"(?:/(?P<architecture>[A-Za-z0-9_.-]+)(?:/(?P<variant>[A-Za-z0-9_.-]+))?)?"
)
_RESERVED = re.compile("[^A-Za-z0-9_.-]")

_TEXT_LIMIT = 1024
"""Characters of a platform at most: more isn't worth looking at."""

# The values that Go knows (image-spec, config.md: "os" and "architecture" are from its GOOS and GOARCH).
_SYSTEMS = (
    "aix|android|darwin|dragonfly|freebsd|hurd|illumos|ios|js|linux|nacl|netbsd|openbsd|plan9|solaris|windows|zos"
)
_ARCHITECTURES = (
    "386|amd64|amd64p32|arm|armbe|arm64|arm64be|loong64|mips|mipsle|mips64|mips64le|mips64p32|mips64p32le|ppc|ppc64|"
    "ppc64le|riscv|riscv64|s390|s390x|sparc|sparc64|wasm"
)

# containerd/platforms, "Normalization" and "ARM Support".
_KINDS: Mapping[str, tuple[str, str]] = {"armhf": ("arm", "v7"), "armel": ("arm", "v6"), "i386": ("386", "")}
"""Names that say the variant, too."""
_ALIASES: Mapping[str, str] = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
_VARIANTS: Mapping[str, Mapping[str, str]] = {
    "amd64": {"v1": ""},
    "arm": {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"},
    "arm64": {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"},
}

# What a kernel calls itself, where neither Go nor the aliases do.
_MACHINES: Mapping[str, str] = {
    **dict.fromkeys(("i486", "i586", "i686", "x86"), "i386"),
    "loongarch64": "loong64",
}
_ARM_MACHINE = re.compile("armv([3-8]).*")
_HOSTS: Mapping[str, str] = {"win32": "windows", "cygwin": "windows", "sunos5": "solaris"}

# Digits are bounded, because each number means one more variant.
_NUMBERED = re.compile("v?([0-9]{1,2})")
_ARM64_VERSION = re.compile(r"v([89])(?:\.([0-9]))?")

_WINDOWS_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,5})(?:\.([0-9]{0,9}).*)?")
# learn.microsoft.com, "Windows container version compatibility": from Server 2022 on, a host runs what is built for
# itself and for anything since the long-term release before it; an older one runs its own build alone.
_STABLE_RELEASES = (20348, 26100)
"""Builds of Windows Server 2022 and 2025."""

_ATTESTATION = "vnd.docker.reference.type"
"""BuildKit marks what isn't an image with this annotation."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on (image-spec, image-index.md, "platform"); empty strings where it says nothing.

    ``str()`` gives what :meth:`parse` reads.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a platform as a person writes it: ``linux/arm64/v8``, ``windows(10.0.20348)/amd64``, ``arm64``.

        This machine's operating system or architecture stands for the one that is left out.

        Raises:
            InvalidPlatform: the text isn't a platform.
        """
        if not isinstance(text, str):
            raise InvalidPlatform(f"a platform is text, not {type(text).__name__}")
        found = _PLATFORM.fullmatch(text) if len(text) <= _TEXT_LIMIT else None
        if found is None:
            raise InvalidPlatform(
                f"platform {text[:64]!r}: not of the form os/architecture/variant",
                hint="a platform looks like linux/amd64 or linux/arm/v7",
            )
        os, architecture, variant = _system(found["os"]), found["architecture"], found["variant"]
        if architecture is None:
            os, architecture, variant = cls._completed(text, os)
        architecture, normal = _kind(architecture, variant or "")
        # The usual variant stays if it was written, and stays away if it wasn't.
        if found["variant"] is None and (architecture, normal) == ("arm", "v7"):
            normal = ""
        elif found["variant"] is not None and (architecture, normal) == ("arm64", ""):
            normal = "v8"
        # Whoever looks up what is stored pays for this module, and not for what only reading text takes.
        from urllib.parse import unquote

        features = tuple(unquote(feature) for feature in (found["features"] or "").split("+")[1:])
        return cls(os, architecture, normal, unquote(found["version"] or ""), features)

    @classmethod
    def _completed(cls, text: str, os: str) -> tuple[str, str, str]:
        """Give operating system, architecture and variant where one word says the first or the second."""
        host = cls.host()
        if re.fullmatch(_SYSTEMS, os):
            return os, host.architecture, host.variant
        architecture, variant = _kind(text, "")
        if re.fullmatch(_ARCHITECTURES, architecture) is None:
            raise InvalidPlatform(
                f"platform {text!r}: neither an operating system nor an architecture that is known",
                hint="a platform looks like linux/amd64 or linux/arm/v7",
            )
        return host.os, architecture, variant

    @classmethod
    def host(cls) -> Self:
        """Give the platform of this machine, as its kernel and Python name it."""
        import platform

        machine = platform.machine()
        arm = _ARM_MACHINE.fullmatch(machine)
        kind = ("arm", f"v{arm[1]}") if arm else _kind(_MACHINES.get(machine, machine), "")
        # FreeBSD and its relatives have their version in their name.
        return cls(_HOSTS.get(sys.platform) or sys.platform.rstrip("0123456789"), *kind)

    def normalized(self) -> Self:
        """Give the one form that equal platforms have (containerd/platforms, "Normalization")."""
        architecture, variant = _kind(self.architecture, self.variant)
        features = tuple(sorted(set(self.os_features)))
        return replace(self, os=_system(self.os), architecture=architecture, variant=variant, os_features=features)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON object; ``os`` and ``architecture`` are always in it."""
        fields: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            fields["os.version"] = self.os_version
        if self.os_features:
            fields["os.features"] = list(self.os_features)
        if self.variant:
            fields["variant"] = self.variant
        return fields

    def __str__(self) -> str:
        features = "".join(f"+{_quoted(feature)}" for feature in sorted(set(self.os_features)) if feature)
        options = f"{_quoted(self.os_version)}{features}"
        os = f"{self.os}({options})" if options else self.os
        return "/".join(part for part in (os, self.architecture, self.variant) if part) or "unknown"


def images(index: Index) -> list[Descriptor]:
    """Give the manifests and indexes that ``index`` lists, without those that only attest something of another."""
    return [
        child
        for child in index.manifests
        if (child.media_type in MANIFESTS or child.media_type in INDEXES)
        and _ATTESTATION not in child.annotations
        and (child.platform is None or "unknown" not in (child.platform.os, child.platform.architecture))
    ]


def select(index: Index, wanted: Platform) -> list[Descriptor]:
    """Give the images of ``index`` that ``wanted`` can run, the best first; equally good ones keep their order.

    That is its own kind, then the lesser variants of it, then older kinds that it runs, too. An index without a
    platform in it is one for no platform in particular: each of its images may be chosen.
    """
    children = images(index)
    if not any(_says_something(child.platform) for child in children):
        return children
    target = wanted.normalized()
    ranks = {kind: rank for rank, kind in enumerate(_runnable(target.architecture, target.variant))}
    found = [
        (rank, child)
        for child in children
        if child.platform is not None and (rank := _rank(target, ranks, child.platform.normalized())) is not None
    ]
    return [child for _, child in sorted(found, key=lambda one: one[0])]


def _says_something(offered: Platform | None) -> bool:
    # Go writes a platform that isn't set as two empty strings.
    return offered is not None and bool(offered.os or offered.architecture)


def _rank(
    target: Platform, ranks: Mapping[tuple[str, str], int], offered: Platform
) -> tuple[int, tuple[int, ...], int] | None:
    """Give what sorts ``offered`` among what ``target`` can run, ``None`` where it can't. Both are normalised."""
    rank = ranks.get((offered.architecture, offered.variant))
    if rank is None or offered.os != target.os:
        return None
    age: tuple[int, ...] = ()
    # image-spec, image-index.md: os.features are what an image requires of its host. Every Windows has win32k, except
    # for a Nano Server; so nobody says that it has.
    required = set(offered.os_features)
    if target.os == "windows":
        required.discard("win32k")
        host, version = _windows_version(target.os_version), _windows_version(offered.os_version)
        if any(host):
            if offered.os_version and not _runs_windows(host, version):
                return None
            age = tuple(-number for number in version)
    if not required <= set(target.os_features):
        return None
    return rank, age, -len(offered.os_features)


def _runnable(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    """Give what a machine of a normalised kind runs, the best first (containerd/platforms, ``Only``)."""
    yield architecture, variant
    numbered = _NUMBERED.fullmatch(variant)
    number = int(numbered[1]) if numbered else 0
    if architecture == "amd64":
        yield from (_kind("amd64", f"v{lesser}") for lesser in range(number - 1, 0, -1))
        yield "386", ""
    elif architecture == "arm":
        yield from (("arm", f"v{lesser}") for lesser in range(number - 1, 4, -1))
    elif architecture == "arm64" and (version := _ARM64_VERSION.fullmatch(variant or "v8")):
        minor = int(version[2] or 0)
        below = minor
        if version[1] == "9":
            yield from (_kind("arm64", f"v9.{lesser}") for lesser in range(minor - 1, -1, -1))
            # Arm: v9.0 has what v8.5 has, and so on; there is no v8.10.
            below = min(minor + 5, 9) + 1
        yield from (_kind("arm64", f"v8.{lesser}") for lesser in range(below - 1, -1, -1))
        yield from (("arm", f"v{lesser}") for lesser in range(8, 4, -1))


def _system(os: str) -> str:
    os = os.lower()
    return "darwin" if os == "macos" else os


def _kind(architecture: str, variant: str) -> tuple[str, str]:
    """Give architecture and variant in the form that equal ones have."""
    architecture, variant = architecture.lower(), variant.lower()
    if architecture in _KINDS:
        return _KINDS[architecture]
    architecture = _ALIASES.get(architecture, architecture)
    return architecture, _VARIANTS.get(architecture, {}).get(variant, variant)


def _windows_version(text: str) -> tuple[int, int, int, int]:
    """Give major and minor version, build and revision; zeros where ``text`` isn't a version of Windows."""
    found = _WINDOWS_VERSION.fullmatch(text)
    if found is None:
        return 0, 0, 0, 0
    return int(found[1]), int(found[2]), int(found[3]), int(found[4] or 0)


def _runs_windows(host: tuple[int, int, int, int], image: tuple[int, int, int, int]) -> bool:
    build = host[2]
    if host[:2] != image[:2]:
        return False
    if build < _STABLE_RELEASES[0]:
        return build == image[2]
    oldest = max((release for release in _STABLE_RELEASES if release < build), default=build)
    return oldest <= image[2] <= build


def _quoted(option: str) -> str:
    return _RESERVED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), option)
