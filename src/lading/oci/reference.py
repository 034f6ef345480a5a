"""References: the names of things in registries, normalised the way Docker does.

The grammar is that of ``distribution/reference``; it is walked from left to right after one linear match each for
the name, the tag and the digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn, Self

from lading.errors import InvalidDigest, InvalidReference
from lading.oci.digest import Digest

#   reference       := name [ ":" tag ] [ "@" digest ]
#   name            := [domain "/"] path-component ["/" path-component]*
#   domain          := host [":" port-number]
#   host            := domain-name | IPv4address | "[" IPv6address "]"
#   domain-name     := domain-component ["." domain-component]*
#   domain-component:= /([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])/
#   port-number     := /[0-9]+/
#   path-component  := alpha-numeric [separator alpha-numeric]*
#   alpha-numeric   := /[a-z0-9]+/
#   separator       := /[_.]|__|[-]*/
#   tag             := /[\w][\w.-]{0,127}/
_COMPONENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")

_NAME_LIMIT = 255
"""Characters of a repository name at most."""

_TEXT_LIMIT = 4096
"""Characters of a whole reference at most: more isn't worth looking at."""

DEFAULT_REGISTRY = "docker.io"
_LEGACY_DEFAULT_REGISTRY = "index.docker.io"
_OFFICIAL = "library"
DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of something in a registry.

    ``registry`` is a host with an optional port (``docker.io``, never ``index.docker.io``), ``repository`` the full
    path in it (``library/busybox``); ``tag`` and ``digest`` are what was written, ``None`` where it wasn't.
    ``str()`` gives the fully-qualified form, with ``:latest`` filled in; a digest wins over a tag.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        _check(self.name, self.registry, self.repository, self.tag)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as a person writes it: ``acme/triage``, ``ghcr.io/acme/triage:v3``, ``…@sha256:…``.

        Raises:
            InvalidReference: the text isn't a reference; the message says which part is wrong.
        """
        if not isinstance(text, str):
            raise InvalidReference(f"a reference is text, not {type(text).__name__}")
        if len(text) > _TEXT_LIMIT:
            _refuse(text[:64] + "…", "it is too long")
        if not text:
            _refuse(text, "it is empty")
        if "://" in text:
            _refuse(text, "it has a scheme", hint=f"leave out {text.partition('://')[0]}://")
        rest, at, digest_text = text.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        name, tag = _split_tag(rest)
        registry, repository = _split_name(name)
        # Before the constructor does, so that the error shows what was written.
        _check(text, registry, repository, tag)
        return cls(registry, repository, tag, digest)

    @property
    def is_pinned(self) -> bool:
        """Whether the digest is known, so that the content can't change."""
        return self.digest is not None

    @property
    def name(self) -> str:
        """Registry and repository: where the content lives, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """What a registry is asked for: the digest, else the tag, else ``latest``."""
        return str(self.digest) if self.digest else self.tag or DEFAULT_TAG

    def at(self, digest: Digest) -> Reference:
        """Give the reference to exactly this content of the same repository."""
        return Reference(self.registry, self.repository, None, digest)

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.selector}"


def _parse_digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest.parse(digest_text)
    except InvalidDigest as error:
        if digest_text.startswith("sha"):
            raise InvalidReference(f"reference {text!r}: {error.message}", hint=error.hint) from error
    # user:password@host: what is before the last @ isn't shown, nor chained.
    raise InvalidReference(
        f"reference …@{digest_text.rpartition('@')[2]!r}: no digest follows the @",
        hint="a digest looks like sha256:…; to be someone, use docker login",
    )


def _split_tag(text: str) -> tuple[str, str | None]:
    """Cut the tag off: what follows the last colon behind the last slash."""
    name, colon, tag = text.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (text, None)


def _split_name(name: str) -> tuple[str, str]:
    """Tell the registry from the repository, as ``distribution/reference`` normalises them."""
    first, slash, rest = name.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first.lower() != first
    registry, repository = (first, rest) if slash and is_host else (DEFAULT_REGISTRY, name)
    if registry == _LEGACY_DEFAULT_REGISTRY:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"{_OFFICIAL}/{repository}"
    return registry, repository


def _check(text: str, registry: str, repository: str, tag: str | None) -> None:
    if tag is not None and _TAG.fullmatch(tag) is None:
        _refuse(text, f"{tag!r} isn't a tag", hint="a tag has up to 128 letters, digits, '_', '.' and '-'")
    if _DOMAIN.fullmatch(registry) is None:
        _refuse(text, f"{registry!r} isn't a registry host", hint="a host looks like ghcr.io or localhost:5000")
    if repository.lower() != repository:
        helps = all(_PATH_COMPONENT.fullmatch(component) for component in repository.lower().split("/"))
        hint = f"did you mean {text.lower()!r}?" if helps else "and it has other characters that a name can't have"
        _refuse(text, f"the repository {repository!r} must be lower case", hint=hint)
    for component in repository.split("/"):
        if _PATH_COMPONENT.fullmatch(component) is None:
            _refuse(
                text,
                f"{component!r} isn't part of a repository name",
                hint="lower-case letters and digits, with '.', '_', '__' or '-' between them",
            )
    if len(repository) > _NAME_LIMIT:
        _refuse(text, f"the repository name is longer than {_NAME_LIMIT} characters")
    if _IDENTIFIER.fullmatch(text):
        _refuse(text, "64 hexadecimal digits are an identifier, not a name", hint=f"did you mean sha256:{text}?")


def _refuse(text: str, why: str, hint: str = "") -> NoReturn:
    raise InvalidReference(f"reference {text!r}: {why}", hint=hint)
