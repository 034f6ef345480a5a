"""What ``doctor`` finds, as values: how a reference would be pulled and whether that works; what this machine is like.

Nothing is written: not the store, not a configuration. No finding holds a secret. What keeps a pull from working is a
failure; what lading works around, such as a dead mirror or a password that is refused where anybody is served, is a
warning.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from lading.diagnose.finding import Finding, Verdict
from lading.oci.reference import Reference

if TYPE_CHECKING:
    from lading.auth.credentials import Credentials
    from lading.http.hosts import HostsConfig
    from lading.http.timeouts import Timeouts

__all__ = ["Finding", "Verdict", "diagnose"]


async def diagnose(
    reference: Reference | None = None,
    *,
    env: Mapping[str, str],
    home: str | os.PathLike[str] | None = None,
    hosts: HostsConfig | None = None,
    credentials: Credentials | None = None,
    proxy: str | None = "auto",
    timeouts: Timeouts | None = None,
    offline: bool = False,
) -> AsyncGenerator[Finding]:
    """Give each finding as soon as it is there; leave it with ``aclosing`` when not all of them are wanted.

    Without a reference this machine's configuration is looked at, and no network is used. It never raises what lading
    raises: that is what it finds.

    Args:
        env: the environment, such as ``os.environ``.
        home: the directory of the store; looked at without a reference only.
        hosts, credentials, proxy: as for :class:`~lading.client.Client`; credentials are asked for a reference only.
        timeouts: by default 5 s for a connection and 10 s for an answer.
        offline: say of a reference what can be said without the network.
    """
    from lading.auth.credentials import default_credentials
    from lading.http.hosts import HostsConfig

    hosts = HostsConfig.standard() if hosts is None else hosts
    if reference is None:
        from lading.diagnose.machine import machine

        findings = machine(env, home=home, hosts=hosts, proxy=proxy)
    else:
        from lading.diagnose.case import Case

        credentials = default_credentials(env) if credentials is None else credentials
        findings = Case(reference, hosts, credentials, proxy, env, timeouts).findings(offline=offline)
    async with aclosing(findings):
        async for finding in findings:
            yield finding
