"""lading pulls AI agents, and any other OCI artifact, from registries into a local content store.

The public names, nothing else; each is imported when it is first used::

    import lading

    async with lading.Client() as client:
        agent = await client.pull_agent("ghcr.io/acme/triage:v3")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lading import errors
    from lading.agents.agent import Agent
    from lading.agents.capabilities import Comparison, compare_agents
    from lading.auth.credentials import Credential, Credentials, StaticCredentials
    from lading.client import Client, pull_agent
    from lading.errors import LadingError
    from lading.http.hosts import Host, HostsConfig, RegistryHosts
    from lading.http.retry import Retry
    from lading.http.timeouts import Timeouts
    from lading.oci.descriptor import Descriptor
    from lading.oci.digest import Digest
    from lading.oci.manifest import Index, Manifest
    from lading.oci.platform import Platform
    from lading.oci.reference import Reference
    from lading.pull.artifact import Artifact
    from lading.pull.lockfile import LockEntry, Lockfile
    from lading.pull.prefetch import Outcome, Prefetch
    from lading.push.agent import Pushed
    from lading.push.artifact import Delivered
    from lading.store.local import LocalStore
    from lading.store.store import MemoryStore, Store

__version__ = "0.1.0.dev0"

__all__ = [
    "Agent",
    "Artifact",
    "Client",
    "Comparison",
    "Credential",
    "Credentials",
    "Delivered",
    "Descriptor",
    "Digest",
    "Host",
    "HostsConfig",
    "Index",
    "LadingError",
    "LocalStore",
    "LockEntry",
    "Lockfile",
    "Manifest",
    "MemoryStore",
    "Outcome",
    "Platform",
    "Prefetch",
    "Pushed",
    "Reference",
    "RegistryHosts",
    "Retry",
    "StaticCredentials",
    "Store",
    "Timeouts",
    "__version__",
    "compare_agents",
    "errors",
    "pull_agent",
]

_HOMES = {
    "Agent": "lading.agents.agent",
    "Artifact": "lading.pull.artifact",
    "Client": "lading.client",
    "Comparison": "lading.agents.capabilities",
    "Credential": "lading.auth.credentials",
    "Credentials": "lading.auth.credentials",
    "Delivered": "lading.push.artifact",
    "Descriptor": "lading.oci.descriptor",
    "Digest": "lading.oci.digest",
    "Host": "lading.http.hosts",
    "HostsConfig": "lading.http.hosts",
    "Index": "lading.oci.manifest",
    "LadingError": "lading.errors",
    "LocalStore": "lading.store.local",
    "LockEntry": "lading.pull.lockfile",
    "Lockfile": "lading.pull.lockfile",
    "Manifest": "lading.oci.manifest",
    "MemoryStore": "lading.store.store",
    "Outcome": "lading.pull.prefetch",
    "Platform": "lading.oci.platform",
    "Prefetch": "lading.pull.prefetch",
    "Pushed": "lading.push.agent",
    "Reference": "lading.oci.reference",
    "RegistryHosts": "lading.http.hosts",
    "Retry": "lading.http.retry",
    "StaticCredentials": "lading.auth.credentials",
    "Store": "lading.store.store",
    "Timeouts": "lading.http.timeouts",
    "compare_agents": "lading.agents.capabilities",
    "pull_agent": "lading.client",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("lading.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
