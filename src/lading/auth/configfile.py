"""The format of Docker's and podman's credential files. Pure: text in, values out.

A host gets what is written for exactly this host and port, never for a look-alike, a sub-domain or one repository.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lading.errors import CredentialError
from lading.oci.strict_json import parse_json

HUB_SERVER = "https://index.docker.io/v1/"
"""What Docker's tools call Docker Hub, in files and to credential helpers."""

_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})

# docker/docker-credential-helpers: the program is docker-credential-<name>.
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Old Docker versions wrote the API's root behind the host. Any longer path means something else: one repository in
# podman's files, a token (``…/access-token``) in Docker Desktop's.
_ROOTS = frozenset({"", "/", "/v1/", "/v2/"})
_ROOTS_BEHIND_SCHEME = _ROOTS | {"/v1", "/v2"}

_REPAIR = "repair it, or move it away and log in again"
"""What to do about a file that can't be read as a whole: nobody can log in before that either."""

_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves who is asking: user name and password, an identity token (a refresh token that the token server
    takes), or a registry token (a bearer token that the registry takes as it is). Empty is what isn't known.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def is_basic(self) -> bool:
        """Whether there is a user name and password to send; next to an identity token an empty one isn't meant so."""
        return bool(self.password or (self.username and not self.identity_token))


@dataclass(frozen=True, slots=True)
class Program:
    """A credential helper, and what it calls the registry."""

    name: str
    server: str


def is_hub(host: str) -> bool:
    """Tell whether ``host`` is one of the names of Docker Hub."""
    return host.partition("/")[0].lower() in _HUB_HOSTS


def hostname(key: str) -> str:
    """Give the host, with its port, that a key of ``auths`` is for: in lower case, without scheme and path."""
    scheme, mark, rest = key.partition("://")
    authority = (rest if mark else scheme).partition("/")[0]
    if not authority:
        return key.partition("/")[0].lower()
    name, _, port = authority.rpartition(":")
    if mark and ":" in name and not authority.startswith("[") and port.isascii() and port.isdigit():
        authority = f"[{name}]:{port}"  # an IPv6 address that somebody forgot to put into brackets
    return authority.lower()


class ConfigFile:
    """One file, read but not yet believed: each part is checked when it is needed.

    ``source`` is what errors call it.
    """

    __slots__ = ("_document", "_source")

    def __init__(self, document: dict[str, Any], source: str) -> None:
        self._document = document
        self._source = source

    @classmethod
    def parse(cls, raw: bytes | str, source: str) -> ConfigFile:
        """Read the text of a file; an empty one says nothing.

        Raises:
            CredentialError: it isn't a JSON object.
        """
        why = ""
        document: Any = {}
        try:
            document = parse_json(raw) if raw.strip() else {}
        except ValueError as error:
            why = str(error)
        # Raised out here, because the error of the JSON reader holds the text.
        if why:
            raise CredentialError(f"{source} isn't JSON: {why}", hint=_REPAIR)
        if not isinstance(document, dict):
            raise CredentialError(f"{source} isn't a JSON object", hint=_REPAIR)
        return cls(document, source)

    def find(self, host: str, server: str) -> list[Credential | Program]:
        """Give what may answer for ``host`` in order: a helper, which calls it ``server``, before what is written here.

        ``host`` may go on with a repository (``ghcr.io/acme/triage``): podman keeps credentials for these, too.

        Raises:
            CredentialError: what the file says about this host makes no sense.
        """
        found: list[Credential | Program] = []
        helper = self._helper(host)
        if helper:
            if not _HELPER.fullmatch(helper):
                self._refuse(f"the credential helper of {host} doesn't have a valid name")
            found.append(Program(helper, server))
        credential = self._written(host)
        if credential is not None:
            found.append(credential)
        return found

    def _helper(self, host: str) -> str | None:
        """Give the helper for ``host``; one that is named for it wins, also an empty one (this file itself)."""
        helpers = self._object("credHelpers")
        for key in _matching(helpers, host.partition("/")[0]):
            if not isinstance(helpers[key], str):
                self._refuse(f"the credential helper of {host} isn't text")
            return str(helpers[key])
        store = self._document.get("credsStore")
        if store is not None and not isinstance(store, str):
            self._refuse("credsStore isn't text")
        return store

    def _written(self, host: str) -> Credential | None:
        """Give the credential that is written for ``host``, for its repository before the whole host."""
        entries = self._object("auths")
        scope = host
        while "/" in scope:
            if scope in entries and (credential := self._entry(scope, entries[scope])) is not None:
                return credential
            scope = scope.rpartition("/")[0]
        for key in _matching(entries, scope):
            if (credential := self._entry(host, entries[key])) is not None:
                return credential
        return None

    def _entry(self, host: str, entry: Any) -> Credential | None:
        """Read one entry of ``auths``; one that holds nothing, as helpers leave behind, is none."""
        if entry is None:
            return None
        if not isinstance(entry, dict):
            self._refuse(f"the entry of {host} isn't an object")
        texts = {}
        for name in ("auth", "username", "password", "identitytoken", "registrytoken"):
            text = entry.get(name)
            if text is None:
                text = ""
            if not isinstance(text, str):
                self._refuse(f"{name!r} of {host} isn't text")
            texts[name] = text
        username, password = texts["username"], texts["password"]
        if texts["auth"]:
            username, password = self._pair(host, texts["auth"])
        for name in ("identitytoken", "registrytoken"):
            if texts[name] and not _VISIBLE.fullmatch(texts[name]):
                self._refuse(f"{name!r} of {host} holds characters that no token has")
        if ":" in username:
            self._refuse(f"the user name of {host} has a colon")  # RFC 7617, section 2
        credential = Credential(username, password, texts["identitytoken"], texts["registrytoken"])
        return None if credential == Credential() else credential

    def _pair(self, host: str, auth: str) -> tuple[str, str]:
        """Read ``auth``: base64 of user name, colon, password (RFC 7617, section 2)."""
        pair = None
        with contextlib.suppress(binascii.Error, UnicodeDecodeError, ValueError):
            # Like Go's decoder: lines may be broken, but padding and alphabet are strict.
            pair = base64.b64decode(auth.replace("\r", "").replace("\n", ""), validate=True).decode("utf-8")
        if pair is None:
            self._refuse(f"'auth' of {host} isn't base64 of UTF-8 text")
        username, colon, password = pair.partition(":")
        if not colon:
            self._refuse(f"'auth' of {host} isn't a user name, a colon and a password")
        return username, password.strip("\0")

    def _object(self, name: str) -> dict[str, Any]:
        value = self._document.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._refuse(f"{name!r} isn't an object")
        return value

    def _refuse(self, why: str) -> NoReturn:
        raise CredentialError(f"{self._source}: {why}", hint="repair it, or log in again")


def _matching(entries: dict[str, Any], host: str) -> list[str]:
    """Give the keys that are for exactly this host, the way it is usually written first."""
    wanted = "docker.io" if is_hub(host) else _bare(host.lower())
    usual = HUB_SERVER if is_hub(host) else host
    found = []
    for key in entries:
        mark = "://" in key
        _, slash, path = key.partition("://")[2 if mark else 0].partition("/")
        if slash + path not in (_ROOTS_BEHIND_SCHEME if mark else _ROOTS):
            continue
        name = hostname(key)
        if ("docker.io" if is_hub(name) else _bare(name)) == wanted:
            found.append(key)
    return sorted(found, key=lambda key: key != usual)


def _bare(host: str) -> str:
    """Give an IPv6 address without its brackets, anything else as it is."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host
