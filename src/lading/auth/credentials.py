"""Credentials: where they come from. Whoever needs one asks for a registry's host and gets that host's, or nothing.

What is wrong with one entry concerns one host; what is wrong with a whole file is an error that names the file. No
error holds anything of the content.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from lading.auth.configfile import ConfigFile, Credential, Program
from lading.auth.keeping import HELPER_SECONDS, canonical_host, docker_path, parse_config, read_config, server_name
from lading.auth.sharing import Shared
from lading.errors import CredentialError

__all__ = [
    "CostlyCredentials",
    "Credential",
    "Credentials",
    "DockerConfig",
    "EnvironmentCredentials",
    "FirstOf",
    "StaticCredentials",
    "default_credentials",
]

_INLINE = "DOCKER_AUTH_CONFIG"
"""The variable that holds a whole configuration file."""

_VARIABLES = ("LADING_REGISTRY", "LADING_USERNAME", "LADING_PASSWORD")


class Credentials(Protocol):
    """Whoever knows the credentials of registries."""

    async def credential(self, host: str, /) -> Credential | None:
        """Give what is known for ``host`` (``ghcr.io``, ``localhost:5000``, ``docker.io``).

        Raises:
            CredentialError: there should be one, but it can't be had.
        """
        ...


@runtime_checkable
class CostlyCredentials(Credentials, Protocol):
    """Credentials that may take long to get, so that it is worth trying without them first."""

    async def is_costly(self, host: str, /) -> bool:
        """Tell whether a program would have to be run to answer for ``host``."""
        ...

    def forget(self, host: str, /) -> None:
        """Drop what is remembered for ``host``: a registry has refused it."""
        ...


class StaticCredentials:
    """Credentials that a program brings along, by host."""

    def __init__(self, credentials: Mapping[str, Credential]) -> None:
        self._credentials = {canonical_host(host): credential for host, credential in credentials.items()}

    async def credential(self, host: str) -> Credential | None:
        """Give the credential of ``host``, if there is one."""
        return self._credentials.get(canonical_host(host))

    def __repr__(self) -> str:
        return f"StaticCredentials({', '.join(sorted(self._credentials))})"


class EnvironmentCredentials:
    """The credential of one registry, for CI: ``LADING_REGISTRY``, ``LADING_USERNAME`` and ``LADING_PASSWORD``.

    An empty variable counts as one that isn't set. ``env`` is the environment; ``None`` means this process's.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env

    async def credential(self, host: str) -> Credential | None:
        """Give the credential if ``host`` is the registry that it is for.

        Raises:
            CredentialError: it is, or no registry is named, and only some of the variables are set.
        """
        registry, username, password = values = [self._env.get(name, "") for name in _VARIABLES]
        if not any(values) or (registry and canonical_host(registry) != canonical_host(host)):
            return None
        if missing := [name for name, value in zip(_VARIABLES, values, strict=True) if not value]:
            why = f"credentials of {host}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
            raise CredentialError(why, hint=f"set all of {', '.join(_VARIABLES)}, or none")
        return Credential(username, password)

    async def source(self, host: str) -> str | None:
        """Tell, for people, where the credential of ``host`` comes from. Raises what ``credential`` raises."""
        return None if await self.credential(host) is None else " and ".join(_VARIABLES[1:])

    def __repr__(self) -> str:
        return "EnvironmentCredentials()"


class FirstOf:
    """Several sources of credentials, asked in order: the first that has one for a host wins.

    A source that can't give what it should have is an error, which hides the sources behind it.
    """

    def __init__(self, *sources: Credentials) -> None:
        self._sources = sources

    async def credential(self, host: str) -> Credential | None:
        """Give the first credential for ``host``. Raises CredentialError."""
        for source in self._sources:
            if (credential := await source.credential(host)) is not None:
                return credential
        return None

    async def is_costly(self, host: str) -> bool:
        """Tell whether a source has to run a program before one is known to have the credential of ``host``."""
        for source in self._sources:
            if isinstance(source, CostlyCredentials) and await source.is_costly(host):
                return True
            with contextlib.suppress(CredentialError):  # whoever asks for the credential gets the error, and at once
                if await source.credential(host) is None:
                    continue
            return False
        return False

    def forget(self, host: str) -> None:
        """Drop what the sources remember for ``host``."""
        for source in self._sources:
            if isinstance(source, CostlyCredentials):
                source.forget(host)

    async def source(self, host: str) -> str | None:
        """Tell, for people, where the credential of ``host`` would come from. Runs no program; raises CredentialError.

        A source that can't tell is called by the name of its class, if it has the credential at hand.
        """
        for source in self._sources:
            if isinstance(source, _Describing):
                where = await source.source(host)
            elif isinstance(source, CostlyCredentials) and await source.is_costly(host):
                continue
            else:
                where = None if await source.credential(host) is None else type(source).__name__
            if where is not None:
                return where
        return None

    def __repr__(self) -> str:
        return f"FirstOf({', '.join(map(repr, self._sources))})"


@runtime_checkable
class _Describing(Protocol):
    async def source(self, host: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What may answer, or why that can't be said, and the text that it is in, with its name."""

    answer: Credential | Program | CredentialError
    name: str
    raw: bytes | str = field(default="", repr=False)


class DockerConfig:
    """The credentials that ``docker login`` and ``podman login`` keep.

    ``paths`` are the configuration files to look in, and nowhere else; ``None`` means the standard locations:
    ``DOCKER_AUTH_CONFIG``, then ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``, then podman's
    ``$REGISTRY_AUTH_FILE``, ``$XDG_RUNTIME_DIR/containers/auth.json`` and ``$XDG_CONFIG_HOME/containers/auth.json``.
    The first that holds the host wins. ``env`` is the environment, also that of credential helpers; ``None`` means this
    process's.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]] | None = None,
        env: Mapping[str, str] | None = None,
        *,
        helper_seconds: float = HELPER_SECONDS,
    ) -> None:
        self._paths = None if paths is None else tuple(Path(path) for path in paths)
        self._env = os.environ if env is None else env
        self._helper_seconds = helper_seconds
        self._kept: dict[Program, Credential | None] = {}
        self._runs: Shared[Program, Credential | None] = Shared()

    async def credential(self, host: str) -> Credential | None:
        """Give the credential of ``host``; a helper's answer is remembered as long as this object lives.

        Raises:
            CredentialError: a file, its entry for the host or a helper is broken; it names them, never their content.
        """
        for candidate in await self._candidates(host):
            match candidate.answer:
                case Credential() as credential:
                    return credential
                case CredentialError() as error:
                    raise error
                case Program() as program:
                    if (answer := await self._ask(program)) is not None:
                        return answer
        return None

    async def source(self, host: str) -> str | None:
        """Tell, for people, where the credential of ``host`` would come from; runs no helper.

        Raises:
            CredentialError: a file or its entry for the host is broken.
        """
        from lading.auth.helpers import helper_of

        for candidate in await self._candidates(host):
            match candidate.answer:
                case Credential():
                    return candidate.name if candidate.name == _INLINE else f"{candidate.name} (auths)"
                case CredentialError() as error:
                    raise error
                case Program() as program if self._kept.get(program, program) is not None:
                    document = parse_config(candidate.raw, candidate.name)
                    found = helper_of(document, host, program.server, candidate.name)
                    return None if found is None else found[1]
        return None

    async def is_costly(self, host: str) -> bool:
        """Tell whether a helper has to be run, one whose answer isn't known yet."""
        for candidate in await self._candidates(host):
            program = candidate.answer
            if not isinstance(program, Program):
                return False
            if program not in self._kept:
                return True
            if self._kept[program] is not None:
                return False
        return False

    def forget(self, host: str) -> None:
        """Drop the remembered answers of helpers for ``host``."""
        server = server_name(host)
        for program in [program for program in self._kept if program.server == server]:
            del self._kept[program]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are looked in, the first first."""
        return tuple(_standard_paths(self._env)) if self._paths is None else self._paths

    def __repr__(self) -> str:
        return f"DockerConfig({'standard locations' if self._paths is None else list(map(str, self._paths))})"

    async def _candidates(self, host: str) -> list[_Candidate]:
        from anyio import to_thread

        return await to_thread.run_sync(self._search, host)

    def _search(self, host: str) -> list[_Candidate]:
        """Give what may answer for ``host``, in order, up to what certainly does. Blocking."""
        found: list[_Candidate] = []
        sources: list[str | Path] = list(self._paths or ())
        if self._paths is None:
            sources = [*filter(None, [self._env.get(_INLINE)]), *_standard_paths(self._env)]
        for source in sources:
            name = _INLINE if isinstance(source, str) else str(source)
            try:
                raw = source if isinstance(source, str) else read_config(source)
                if raw is not None:
                    answers = ConfigFile.parse(raw, name).find(host, server_name(host))
                    found += [_Candidate(answer, name, raw) for answer in answers]
            except CredentialError as error:
                failure = CredentialError(f"credentials of {host}: {error.message}", hint=error.hint)
                found.append(_Candidate(failure, name))
            if found and not isinstance(found[-1].answer, Program):
                break
        return found

    async def _ask(self, program: Program) -> Credential | None:
        from lading.auth.helpers import ask_helper

        async def run() -> Credential | None:
            self._kept[program] = await ask_helper(program, self._env, seconds=self._helper_seconds)
            return self._kept[program]

        return self._kept[program] if program in self._kept else await self._runs.run(program, run)


def default_credentials(env: Mapping[str, str] | None = None) -> FirstOf:
    """Give what a client uses that isn't told anything else; ``None`` means this process's environment."""
    return FirstOf(EnvironmentCredentials(env), DockerConfig(env=env))


def _standard_paths(env: Mapping[str, str]) -> list[Path]:
    home = env.get("HOME") or env.get("USERPROFILE")
    found = [path for path in [docker_path(env)] if path]
    if path := env.get("REGISTRY_AUTH_FILE"):
        found.append(Path(path))
    if runtime := env.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime, "containers", "auth.json"))
    if config := env.get("XDG_CONFIG_HOME") or (home and f"{home}/.config"):
        found.append(Path(config, "containers", "auth.json"))
    return found
