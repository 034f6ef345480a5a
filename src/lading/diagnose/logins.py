"""Where logins are kept: what can be read there, and whether the helpers that are named are installed. None is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lading.auth.configfile import ConfigFile
from lading.auth.credentials import DockerConfig, EnvironmentCredentials
from lading.auth.helpers import find_helper, helper_of
from lading.auth.keeping import canonical_host, parse_config, read_config, server_name
from lading.diagnose.finding import Finding
from lading.errors import CredentialError
from lading.redact import redact_url

_ANYBODY = "registry.invalid"
"""A host that has no entry anywhere, for which ``credsStore`` answers (RFC 6761, section 6.4)."""


async def variables(env: Mapping[str, str]) -> Finding:
    """Say for whom the variables of CI hold a credential."""
    registry = env.get("LADING_REGISTRY") or "docker.io"
    try:
        source = await EnvironmentCredentials(env).source(registry)
    except CredentialError as error:
        return Finding.of(error, "login", "warning")
    if source is None:
        return Finding("login", "none in the variables LADING_REGISTRY, LADING_USERNAME and LADING_PASSWORD", "note")
    host = redact_url(registry)
    return Finding("login", f"{source}: for {host}", data={"hosts": [host]})


def logins(env: Mapping[str, str]) -> Iterator[Finding]:
    """Say whose logins are kept where, and what is wrong with that. Blocking."""
    sources: list[tuple[str, bytes | str]] = []
    if inline := env.get("DOCKER_AUTH_CONFIG"):
        sources.append(("DOCKER_AUTH_CONFIG", inline))
    paths = dict.fromkeys(DockerConfig(env=env).paths)
    for path in paths:
        try:
            raw = read_config(path)
        except CredentialError as error:
            yield Finding.of(error, "login", "warning")
            continue
        if raw is not None:
            sources.append((str(path), raw))
    if not sources:
        yield Finding("login", f"no file of {', '.join(map(str, paths))}", "note")
    for name, text in sources:
        try:
            document = parse_config(text, name)
        except CredentialError as error:
            yield Finding.of(error, "login", "warning")
            continue
        yield from _entries(document, name)
        yield from _helpers(document, name, env)


def _entries(document: dict[str, Any], source: str) -> Iterator[Finding]:
    auths = document.get("auths")
    hosts = []
    for key, entry in auths.items() if isinstance(auths, dict) else ():
        host = canonical_host(key)
        try:
            ConfigFile({"auths": {key: entry}}, source).find(host, server_name(host))
        except CredentialError as error:
            yield Finding.of(error, "login", "warning")
            continue
        hosts.append(redact_url(host))
    said = f"for {', '.join(dict.fromkeys(hosts))}" if hosts else "for nobody"
    yield Finding("login", f"{source}: {said}", "ok" if hosts else "note", data={"source": source, "hosts": hosts})


def _helpers(document: dict[str, Any], source: str, env: Mapping[str, str]) -> Iterator[Finding]:
    named = document.get("credHelpers")
    hosts = [*(named if isinstance(named, dict) else ()), _ANYBODY]
    told: set[str] = set()
    for host in hosts:
        try:
            found = helper_of(document, host, server_name(host), source)
        except CredentialError as error:
            if error.message not in told:
                yield Finding.of(error, "login", "warning")
            told.add(error.message)
            continue
        if found is None or found[1] in told:
            continue
        told.add(found[1])
        path = find_helper(found[0].name, env)
        data = {"helper": found[0].name, "path": path}
        if path is None:
            hint = "install it, or take it out of the configuration"
            yield Finding("helper", f"{found[1]} isn't installed", "warning", hint, data=data)
        else:
            yield Finding("helper", f"{found[1]} is {path}", data=data)
