"""This machine: what is installed and configured, and whether it can be used. No network; no program is run."""

from __future__ import annotations

import os
import platform
import re
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import anyio.to_thread

from lading import __version__
from lading.diagnose.finding import Finding, ignored
from lading.diagnose.logins import logins, variables
from lading.diagnose.storage import store
from lading.errors import InvalidHosts, LadingError
from lading.http.hosts import Host, HostsConfig
from lading.http.proxy import Hop, Proxy, ProxyRules, ProxySocket

_MOST_REGISTRIES = 1_000
"""Directories of registries that are read."""

_PORT = re.compile(r"(.+)_([0-9]+)_")
"""How containerd may write a port in the name of a directory (its docs/hosts.md)."""

_DEFAULT = "_default"


async def machine(
    env: Mapping[str, str], *, home: str | os.PathLike[str] | None, hosts: HostsConfig, proxy: str | None
) -> AsyncGenerator[Finding]:
    """Give what is found, room by room."""
    parts: list[Callable[[], Iterator[Finding]]] = [_versions, _authorities]
    if home is not None:
        parts.append(partial(store, os.path.abspath(home)))
    for part in parts:
        for finding in await _apart(part):
            yield finding
    async for finding in _proxies(env, proxy):
        yield finding
    for finding in await _apart(partial(_hosts, hosts)):
        yield finding
    yield await variables(env)
    for finding in await _apart(partial(logins, env)):
        yield finding


async def _apart(part: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run what reads files in a thread."""
    return await anyio.to_thread.run_sync(lambda: list(part()))


def _versions() -> Iterator[Finding]:
    data = {"lading": __version__, "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
    text = f"lading {__version__}, Python {data['python']}, {ssl.OPENSSL_VERSION}, {sys.platform}"
    yield Finding("version", text, data={**data, "platform": sys.platform})


def _authorities() -> Iterator[Finding]:
    """Say where this Python finds the certificates to trust."""
    paths = ssl.get_default_verify_paths()
    where = paths.cafile or paths.capath
    if where is None and sys.platform != "win32":
        hint = "install the system's certificates, or set SSL_CERT_FILE"
        yield Finding("authorities", "this Python finds no certificates to trust", "warning", hint)
        return
    yield Finding("authorities", where or "those of Windows", data={"path": where})


# The way out


async def _proxies(env: Mapping[str, str], proxy: str | None) -> AsyncGenerator[Finding]:
    try:
        rules = ProxyRules.of(proxy, env)
    except LadingError as error:
        yield Finding.of(error, "proxy", "failure")
        return
    sockets = [path for path in rules.sockets if os.path.exists(path)]
    found = [_proxy(scheme, hop, sockets) for scheme, hop in (("https", rules.https), ("http", rules.http))]
    for finding in dict.fromkeys(found):  # what is wrong with ALL_PROXY is said once
        yield finding
    if rules.no_proxy.entries:
        entries = [entry.text for entry in rules.no_proxy.entries]
        yield Finding("no proxy", f"for {', '.join(entries)}", "note", data={"entries": entries})
    configured = [hop.path for hop in (rules.https, rules.http) if isinstance(hop, ProxySocket)]
    for path in dict.fromkeys([*configured, *sockets]):
        yield _socket(path, path in sockets)


def _proxy(scheme: str, hop: Hop | LadingError | None, sockets: list[str]) -> Finding:
    data: dict[str, object] = {"scheme": scheme}
    if isinstance(hop, LadingError):
        return Finding.of(hop, "proxy", "failure")
    if hop is not None:
        shows = " with a user name and password" if isinstance(hop, Proxy) and (hop.username or hop.password) else ""
        data |= {"proxy": hop.url if isinstance(hop, Proxy) else hop.path, "why": hop.why}
        return Finding("proxy", f"{scheme} goes through {hop}{shows}: {hop.why}", data=data)
    if sockets:
        data |= {"proxy": sockets[0], "why": "Docker Desktop"}
        return Finding("proxy", f"{scheme} goes through the proxy socket {sockets[0]}: Docker Desktop", data=data)
    return Finding("proxy", f"{scheme} goes direct: no proxy is configured", "note", data=data)


def _socket(path: str, is_found: bool) -> Finding:
    """Say whether anybody listens on a proxy socket."""
    from lading.diagnose.connection import dial_socket

    topic = "desktop" if is_found else "proxy"
    try:
        dial_socket(path)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        text = f"the proxy socket {path} can't be reached: {why}"
        if not is_found:
            return Finding(topic, text, "failure", "start the proxy, or unset the variable", data={"path": path})
        hint = "start Docker Desktop again, or set LADING_NO_DESKTOP_PROXY=1"
        return Finding(topic, f"{text}; requests go direct meanwhile", "warning", hint, data={"path": path})
    return Finding(topic, f"the proxy socket {path} answers", data={"path": path})


# Mirrors and certificates


def _hosts(config: HostsConfig) -> Iterator[Finding]:
    found = False
    for directory in config.directories:
        try:
            with os.scandir(directory) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield Finding(
                "hosts", f"{directory} is passed over: {error.strerror}", "note", data={"path": str(directory)}
            )
            continue
        for name in names[:_MOST_REGISTRIES]:
            found = True
            yield from _registry(directory, name)
    if not found:
        where = [str(directory) for directory in config.directories]
        yield Finding("hosts", f"nothing in {', '.join(where) or 'any directory'}", "note", data={"directories": where})


def _registry(directory: Path, name: str) -> Iterator[Finding]:
    """Read what one directory of a ``certs.d`` says about its registry."""
    path = str(directory / name)
    port = _PORT.fullmatch(name)
    registry = f"{port[1]}:{port[2]}" if port else name
    data: dict[str, object] = {"path": path}
    if name == _DEFAULT:
        registry = "every-other.invalid"
    elif not _is_registry(registry):
        yield Finding("hosts", f"{path} is for nobody: that isn't the name of a registry", "note", data=data)
        return
    try:
        hosts = HostsConfig(directories=[directory]).lookup(registry)
    except InvalidHosts as error:
        yield Finding.of(error, "hosts", "failure")
        return
    mirrors = [mirror.root for mirror in hosts.mirrors]
    # No comma behind a URL: it would be a part of it.
    order = " then ".join([*mirrors, "the registry" if name == _DEFAULT else hosts.server.root])
    yield Finding("hosts", f"{path}: {order}", data={**data, "mirrors": mirrors})
    yield from ignored(hosts)


def _is_registry(name: str) -> bool:
    try:
        HostsConfig({name: Host("https://registry.invalid")})
    except InvalidHosts:
        return False
    return True
