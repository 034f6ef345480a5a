"""Reading ``certs.d``: containerd's ``hosts.toml`` (its docs/hosts.md), and Docker's certificates by file name.

A broken directory is an error of that registry alone. What a file names is checked here, so that the error can name the
file and the key; the content of certificates isn't read.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from errno import EINVAL, ENAMETOOLONG
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lading.errors import InvalidHosts
from lading.http.hosts import ALL, HUB_HOST, Host, RegistryHosts, arranged, default_url, shown_url
from lading.http.transport import is_loopback
from lading.oci.strict_toml import parse_toml
from lading.redact import printable

_log = logging.getLogger("lading.http")

_FILE_LIMIT = 1024 * 1024
"""Bytes of a hosts.toml at most."""

_FILE = "hosts.toml"
_DEFAULT = "_default"

_T = TypeVar("_T")
_KINDS: dict[type, str] = {bool: "true or false", dict: "a table", list: "a list of strings", str: "a string"}

_HOST_KEYS = {"capabilities", "ca", "client", "skip_verify", "header", "override_path"}
_ROOT_KEYS = _HOST_KEYS | {"server", "host"}

# containerd knows it, too; here nothing depends on it.
_REFERRERS = "referrers"

# containerd's own documentation writes this, but the name only redirects to a web site.
_HUB_URL = re.compile(r"https://docker\.io(?::443)?/?(?:v2/?)?", re.IGNORECASE)

# tomllib's message quotes what it met; only the place is surely no secret.
_PLACE = re.compile(r"\(at [a-z0-9, ]+\)\Z")


def read_hosts(roots: Sequence[Path], registry: str, *, is_strict: bool) -> RegistryHosts:
    """Give what the ``roots``, each a ``certs.d``, say about a registry (in canonical form). Blocking.

    ``is_strict`` refuses a root that this user may not enter.

    Raises:
        InvalidHosts: what is there can't be read, doesn't make sense, or names files that can't be read.
    """
    own: list[Path] = []
    defaults: list[Path] = []
    holders: list[Path] = []
    for root in roots:
        if not _may_be_entered(root, is_strict=is_strict):
            continue
        mine = [path for name in _names(registry) if _is_directory(path := root / name)]
        fallback = [path for path in (root / _DEFAULT,) if not mine and _is_directory(path)]
        # Docker names directories after the host that it talks to.
        real = [path for path in (root / HUB_HOST,) if registry == "docker.io" and _is_directory(path)]
        own += mine
        defaults += fallback
        holders += [*mine, *fallback, *real]
    found = (hosts for path in (*own, *defaults) if (hosts := _read_toml(path, registry)) is not None)
    hosts = next(found, None) or RegistryHosts(Host(default_url(registry)))
    return replace(hosts, server=_with_certificates(hosts.server, holders))


def _names(registry: str) -> list[str]:
    """Give the names that a registry's directory may have, containerd's own way of writing a port first."""
    host, colon, port = registry.rpartition(":")
    has_port = colon and not registry.endswith("]")
    return [f"{host}_{port}_", registry] if has_port else [registry]


def _may_be_entered(root: Path, *, is_strict: bool) -> bool:
    try:
        os.stat(os.path.join(root, "."))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        if is_strict or not isinstance(error, PermissionError):
            _refuse_path(root, error)
        _log.debug("%s is passed over: %s", root, error.strerror)
        return False
    return True


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return False
        _refuse_path(path, error)


# Docker's files


def _with_certificates(server: Host, directories: Iterable[Path]) -> Host:
    """Add Docker's files to a server: ``*.crt`` to trust, ``*.cert`` with its ``*.key`` to show.

    Not those beside a ``hosts.toml``: there it says what each file is for.
    """
    ca = list(server.ca)
    certificates = list(server.certificates)
    for directory in directories:
        try:
            if _is_written(directory / _FILE):
                continue
            with os.scandir(directory) as entries:
                files = sorted(entry.name for entry in entries if not entry.is_dir())
        except OSError as error:
            _refuse_path(directory, error)
        ca += [str(directory / name) for name in files if name.endswith(".crt")]
        for stem in [name.removesuffix(".cert") for name in files if name.endswith(".cert")]:
            _check_pair(directory, f"{stem}.key", f"{stem}.cert", files)
            certificates.append((str(directory / f"{stem}.cert"), str(directory / f"{stem}.key")))
        for stem in [name.removesuffix(".key") for name in files if name.endswith(".key")]:
            _check_pair(directory, f"{stem}.cert", f"{stem}.key", files)
    return replace(server, ca=tuple(ca), certificates=tuple(certificates))


def _check_pair(directory: Path, wanted: str, because: str, files: Sequence[str]) -> None:
    if wanted not in files:
        raise InvalidHosts(
            f"{directory / wanted} is missing: {because} is there",
            hint="a client certificate is a .cert and a .key with the same name; an authority's certificate is a .crt",
        )


def _is_written(path: Path) -> bool:
    """Tell whether there is such a file; an empty one doesn't count, like in containerd."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


# hosts.toml


def _read_toml(directory: Path, registry: str) -> RegistryHosts | None:
    """Give what the ``hosts.toml`` of a directory says, ``None`` if there isn't one."""
    path = directory / _FILE
    try:
        raw = _read(path, _FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        _refuse_path(path, error)
    if len(raw) > _FILE_LIMIT:
        raise InvalidHosts(f"{path} is larger than {_FILE_LIMIT} bytes", hint="is this the right file?")
    document = _parse(raw)
    # Not raised where it was caught: the original holds the text.
    if isinstance(document, str):
        raise InvalidHosts(f"{path} isn't TOML{document}", hint="containerd's docs/hosts.md describes this file")
    _log.debug("hosts of %s: %s", registry, path)
    return _HostsFile(path).hosts(document, registry)


def _parse(raw: bytes) -> dict[str, Any] | str:
    """Give the document, or the place where it is broken as far as that is known."""
    try:
        return parse_toml(raw.decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        return f" {place[0]}" if place else ""
    except ValueError:
        return ""


class _HostsFile:
    """One ``hosts.toml``: its errors name the file and the key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ignored: dict[str, str] = {}

    def hosts(self, document: Mapping[str, Any], registry: str) -> RegistryHosts:
        server = self._typed(str, document.get("server", ""), "server")
        self._note(document.keys(), _ROOT_KEYS)
        mirrors = []
        for url, table in self._typed(dict, document.get("host", {}), "host").items():
            key = f'host."{shown_url(url)}"'
            settings = self._typed(dict, table, key)
            self._note(settings.keys(), _HOST_KEYS, f"{key}.")
            mirrors.append(self._host(_absolute(url), settings, key, f"{key}."))
        url = _absolute(server) if server else default_url(registry)
        hosts = arranged(self._host(url, document, "server", ""), mirrors)
        if misspelt := [f"{key} (did you mean {meant}?)" for key, meant in self._ignored.items() if meant]:
            _log.warning("%s: ignored: %s", self._path, ", ".join(misspelt))
        return replace(hosts, ignored={f"{self._path}: {key}": meant for key, meant in self._ignored.items()})

    def _host(self, url: str, table: Mapping[str, Any], name: str, prefix: str) -> Host:
        """Make the host that the table called ``name`` describes; its keys are called after ``prefix``."""
        ca = self._paths(table.get("ca", []), f"{prefix}ca")
        certificates = self._pairs(table.get("client", []), f"{prefix}client")
        insecure = self._typed(bool, table.get("skip_verify", False), f"{prefix}skip_verify")
        override_path = self._typed(bool, table.get("override_path", False), f"{prefix}override_path")
        headers = self._headers(table.get("header", {}), f"{prefix}header")
        capabilities = self._strings(table.get("capabilities", []), f"{prefix}capabilities")
        with self._named(name):
            host = Host(url, (), ca, certificates, insecure, {}, override_path)
        with self._named(f"{prefix}capabilities"):
            # None named means all, in containerd.
            granted = [text.lower() for text in capabilities if text.lower() != _REFERRERS]
            host = replace(host, capabilities=Host(url, granted).capabilities if capabilities else ALL)
        with self._named(f"{prefix}header"):
            return replace(host, headers=headers)

    def _paths(self, value: object, key: str) -> list[str]:
        return [self._path_of(name, key) for name in ([value] if isinstance(value, str) else self._strings(value, key))]

    def _pairs(self, value: object, key: str) -> list[tuple[str, str]]:
        """Read ``client``: a name alone is a file that holds both, the certificate and its key."""
        found = []
        for item in [value] if isinstance(value, str) else self._typed(list, value, key):
            names = [item, ""] if isinstance(item, str) else self._strings(item, key)
            if len(names) != 2:
                self._refuse(key, "it must be a file, a list of files or a list of pairs of files")
            certificate, private = names
            found.append((self._path_of(certificate, key), self._path_of(private, key) if private else ""))
        return found

    def _path_of(self, name: str, key: str) -> str:
        """Give the path that ``name`` means: relative to the directory of the file that names it."""
        path = str(self._path.parent / name)
        check_file(path, f"{self._path}: {key}")
        return path

    def _headers(self, value: object, key: str) -> dict[str, str]:
        found = {}
        for name, content in self._typed(dict, value, key).items():
            lines = [content] if isinstance(content, str) else self._strings(content, key)
            if lines:
                found[name] = ", ".join(lines)  # RFC 9110, 5.3: the same as many lines
        return found

    def _strings(self, value: object, key: str) -> list[str]:
        return [self._typed(str, item, key) for item in self._typed(list, value, key)]

    def _typed(self, kind: type[_T], value: object, key: str) -> _T:
        return value if isinstance(value, kind) else self._refuse(key, f"there must be {_KINDS[kind]} here")

    def _note(self, keys: Set[str], known: Set[str], prefix: str = "") -> None:
        """Take note of keys that aren't known: of others' tools perhaps, or misspelt."""
        from difflib import get_close_matches

        for key in sorted(keys - known):
            meant = get_close_matches(key.lower(), known, 1)
            self._ignored[printable(prefix + key)] = meant[0] if meant else ""
            if not meant:
                _log.debug("%s: %s is ignored", self._path, printable(prefix + key))

    @contextmanager
    def _named(self, key: str) -> Iterator[None]:
        try:
            yield
        except InvalidHosts as error:
            raise InvalidHosts(f"{self._path}: {key}: {error.message}", hint=error.hint) from error

    def _refuse(self, key: str, why: str) -> NoReturn:
        raise InvalidHosts(f"{self._path}: {key}: {why}", hint="containerd's docs/hosts.md describes this file")


def _absolute(url: str) -> str:
    """Give what a file calls a host as a URL: where it has no scheme, the one that a registry's name would get."""
    if "://" not in url:
        url = f"{'http' if is_loopback(url.partition('/')[0].lower()) else 'https'}://{url}"
    return f"https://{HUB_HOST}" if _HUB_URL.fullmatch(url) else url


# Files


def check_file(path: str, where: str) -> None:
    """Raise InvalidHosts if a file can't be opened, after what ``where`` says about who named it. Blocking."""
    try:
        _read(path, 0)
    except (OSError, ValueError) as error:
        _refuse_path(f"{where}: {path}", error)


def _read(path: str | Path, limit: int) -> bytes:
    """Give up to ``limit`` bytes of a file, and of nothing that only looks like one: a pipe could stop the program."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(EINVAL, "not a regular file")
        return file.read(limit)


def _refuse_path(path: object, error: OSError | ValueError) -> NoReturn:
    why = error.strerror if isinstance(error, OSError) else "not a path"
    raise InvalidHosts(f"{path} can't be read: {why}", hint="check its name, and who may read it") from error
