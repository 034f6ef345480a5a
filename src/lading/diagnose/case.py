"""One reference: how it would be pulled and why, said before anything is tried. Here nothing uses the network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio.to_thread

from lading.auth.credentials import CostlyCredentials, Credentials
from lading.diagnose.finding import Finding, Verdict, counted, ignored
from lading.errors import CredentialError, InvalidHosts, LadingError
from lading.http.hosts import Capability, Host, HostsConfig, RegistryHosts, default_url
from lading.http.proxy import Direct, Proxy, ProxyRules, Route, Router
from lading.http.timeouts import Timeouts
from lading.http.tls import TlsContexts
from lading.http.transport import Site, is_loopback
from lading.oci.reference import Reference
from lading.registry.endpoints import Endpoint, Endpoints

_TIMEOUTS = Timeouts(connect=5.0, first_byte=10.0, stall=10.0, rate_window=10.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A host that would be asked, what it is called, and what it is when it fails.

    The registry must not, as long as it ``is_needed``: no mirror has said what the reference stands for.
    """

    endpoint: Endpoint
    is_server: bool
    is_needed: bool = True

    @property
    def title(self) -> str:
        """What it is called, for people."""
        return f"{'server' if self.is_server else 'mirror'} {self.endpoint.root}"

    @property
    def bad(self) -> Verdict:
        """The verdict on what doesn't work there."""
        return "failure" if self.is_server and self.is_needed else "warning"


class Case:
    """A reference, and what a pull of it would use."""

    def __init__(
        self,
        reference: Reference,
        hosts: HostsConfig,
        credentials: Credentials,
        proxy: str | None,
        env: Mapping[str, str],
        timeouts: Timeouts | None = None,
    ) -> None:
        self.reference = reference
        self.credentials = credentials
        self.timeouts = _TIMEOUTS if timeouts is None else timeouts
        self.tls = TlsContexts()
        self.known: dict[str, str] = {}
        """Where the credential for a host is, for people."""
        self.told: set[str] = set()
        """What is wrong with credentials, as far as it was said."""
        self._config = hosts
        self._proxy = proxy
        self._env = env
        self._unusable: set[Endpoint] = set()

    @property
    def capability(self) -> Capability:
        """What a host must have been given to be asked for the reference."""
        return "pull" if self.reference.is_pinned else "resolve"

    async def findings(self, *, offline: bool) -> AsyncGenerator[Finding]:
        """Say what would be done, then do it, unless ``offline``."""
        reference = self.reference
        data = {"reference": str(reference), "registry": reference.registry, "repository": reference.repository}
        yield Finding("reference", str(reference), data=data)
        hosts = router = None
        try:
            hosts = await anyio.to_thread.run_sync(self._config.lookup, reference.registry)
        except InvalidHosts as error:
            yield Finding.of(error, "hosts", "failure")
        try:
            router = Router(ProxyRules.of(self._proxy, self._env))
        except LadingError as error:
            yield Finding.of(error, "proxy", "failure")
        if hosts is None:
            yield await self._credentials(reference.registry, "")
            return
        for finding in (_hosts(reference.registry, hosts), *ignored(hosts)):
            yield finding
        endpoints = Endpoints(reference.registry, hosts)
        asked = [*(Asked(mirror, False) for mirror in endpoints.mirrors), Asked(endpoints.server, True)]
        try:
            endpoints.candidates(self.capability)
        except InvalidHosts as error:
            yield Finding.of(error, "hosts", "failure")
        for one in asked:
            for finding in await self._plan(one, router):
                yield finding
        asked = [one for one in asked if one.endpoint not in self._unusable]
        if offline or router is None or not asked:
            yield Finding("network", "not tried", "note")
            return
        from lading.diagnose.trial import Trial

        trial = Trial(self, router, hosts)
        is_answered = False
        try:
            for one in asked:
                async with aclosing(trial.findings(replace(one, is_needed=not is_answered))) as tried:
                    async for finding in tried:
                        is_said = finding.topic == "manifest" and finding.verdict == "ok"
                        is_answered = is_answered or (is_said and "pull" in one.endpoint.capabilities)
                        yield finding
        finally:
            await trial.aclose()

    async def _plan(self, asked: Asked, router: Router | None) -> list[Finding]:
        endpoint = asked.endpoint
        what = sorted(endpoint.capabilities)
        data = {"root": endpoint.root, "capabilities": what}
        found = [Finding("asked for", ", ".join(what) or "nothing", about=asked.title, data=data)]
        if router is not None:
            found.append(_route(router, asked))
        found.append(await self._trust(endpoint.site, asked))
        if any("error" in one.data for one in found):
            self._unusable.add(endpoint)
        if endpoint.site.headers:
            names = [name for name, _ in endpoint.site.headers]
            text = f"{', '.join(names)}: sent with each request, as configured"
            found.append(Finding("headers", text, "note", about=asked.title, data={"names": names}))
        return [*found, await self._credentials(endpoint.registry, asked.title)]

    async def _trust(self, site: Site, asked: Asked) -> Finding:
        """Say whom a connection would trust; what is configured for that is tried."""
        data: dict[str, object] = {"tls": site.origin.scheme == "https"}
        if site.origin.scheme == "http":
            if is_loopback(site.origin.host):
                return Finding("trust", "plain http, which stays on this machine", "note", about=asked.title, data=data)
            text = "plain http: whoever is on the way can read and change everything"
            hint = "use https, if the registry has it"
            return Finding("trust", text, "warning", hint, asked.title, data)
        try:
            await self.tls.context(site, site.origin)
        except InvalidHosts as error:
            return Finding.of(error, "trust", asked.bad, about=asked.title)
        certificates = [file for file, _ in site.certificates]
        ca = [file if isinstance(file, str) else "certificates that the program brings" for file in site.ca]
        data |= {"ca": ca, "certificates": certificates, "insecure": site.insecure}
        shows = f"; shows the client certificate {', '.join(certificates)}" if certificates else ""
        if site.insecure:
            hint = "name the authority that signed it, as ca, instead of skip_verify"
            return Finding("trust", f"any certificate at all{shows}", "warning", hint, asked.title, data)
        text = f"{' and '.join(['the authorities that this system knows', *ca])}{shows}"
        return Finding("trust", text, about=asked.title, data=data)

    async def _credentials(self, host: str, about: str) -> Finding:
        """Say where a credential for ``host`` would come from."""
        data: dict[str, object] = {"host": host}
        try:
            source = await _source(self.credentials, host)
            costly = isinstance(self.credentials, CostlyCredentials) and await self.credentials.is_costly(host)
        except CredentialError as error:
            self.told.add(error.message)
            return Finding.of(error, "credentials", "warning", about=about)
        if source is None:
            return Finding("credentials", f"none for {host}: requests go as nobody", "note", about=about, data=data)
        self.known[host] = source
        text = f"{source}, asked where anybody is refused" if costly else source
        return Finding("credentials", text, about=about, data={**data, "source": source})


async def _source(credentials: Credentials, host: str) -> str | None:
    """Give where the credential of ``host`` is, for people, without running a program."""
    describe = getattr(credentials, "source", None)
    if describe is not None:
        source: str | None = await describe(host)
        return source
    return None if await credentials.credential(host) is None else type(credentials).__name__


def _hosts(registry: str, hosts: RegistryHosts) -> Finding:
    data = {"mirrors": [mirror.root for mirror in hosts.mirrors], "server": hosts.server.root}
    if hosts == RegistryHosts(Host(default_url(registry.lower()))):
        return Finding("hosts", f"nothing is configured for {registry}: only the registry itself", "note", data=data)
    before = f"{counted(len(hosts.mirrors), 'mirror')} before it" if hosts.mirrors else "no mirrors"
    return Finding("hosts", f"configured for {registry}: {before}", data=data)


def _route(router: Router, asked: Asked) -> Finding:
    try:
        return route_finding(router.route(asked.endpoint.site.origin), asked.title)
    except LadingError as error:
        return Finding.of(error, "proxy", asked.bad, about=asked.title)


def route_finding(route: Route, about: str) -> Finding:
    """Say which way requests take, and why."""
    if isinstance(route, Direct):
        return Finding("route", f"direct: {route.why}", about=about, data={"route": "direct", "why": route.why})
    where = route.url if isinstance(route, Proxy) else route.path
    shows = " with a user name and password" if isinstance(route, Proxy) and (route.username or route.password) else ""
    data = {"route": "proxy", "proxy": where, "why": route.why}
    return Finding("route", f"through {route}{shows}: {route.why}", about=about, data=data)
