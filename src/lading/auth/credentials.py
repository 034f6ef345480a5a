"""Credentials: where they come from. Whoever needs one asks for a registry's host and gets that host's, or nothing.

What is wrong with one entry concerns one host; what is wrong with a whole file is an error that names the file. No
error holds anything of the content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol, runtime_checkable

from lading.auth.configfile import HUB_SERVER, ConfigFile, Credential, Program, hostname, is_hub
from lading.auth.sharing import Shared
from lading.errors import CredentialError

__all__ = ["CostlyCredentials", "Credential", "Credentials", "DockerConfig", "StaticCredentials"]

_FILE_LIMIT = 1024 * 1024
"""Bytes of a configuration file at most."""

_HELPER_SECONDS = 10.0
"""How long a credential helper may take: it may be asking a person, or a daemon that isn't there."""


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
        self._credentials = {_canonical(host): credential for host, credential in credentials.items()}

    async def credential(self, host: str) -> Credential | None:
        """Give the credential of ``host``, if there is one."""
        return self._credentials.get(_canonical(host))

    def __repr__(self) -> str:
        return f"StaticCredentials({', '.join(sorted(self._credentials))})"


@dataclass(frozen=True, slots=True)
class _Failure:
    """A location that can't be read: an error as soon as the search gets there."""

    message: str
    hint: str = ""


_Candidate = Credential | Program | _Failure


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
        helper_seconds: float = _HELPER_SECONDS,
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
            match candidate:
                case Credential():
                    return candidate
                case _Failure():
                    raise CredentialError(candidate.message, hint=candidate.hint)
                case Program():
                    if (credential := await self._ask(candidate)) is not None:
                        return credential
        return None

    async def is_costly(self, host: str) -> bool:
        """Tell whether a helper has to be run, one whose answer isn't known yet."""
        for candidate in await self._candidates(host):
            if not isinstance(candidate, Program):
                return False
            if candidate not in self._kept:
                return True
            if self._kept[candidate] is not None:
                return False
        return False

    def forget(self, host: str) -> None:
        """Drop the remembered answers of helpers for ``host``."""
        server = _server(host)
        for program in [program for program in self._kept if program.server == server]:
            del self._kept[program]

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
            inline = self._env.get("DOCKER_AUTH_CONFIG")
            sources = [*([inline] if inline else []), *_standard_paths(self._env)]
        for source in sources:
            try:
                config = _open(source)
                if config is not None:
                    found += config.find(host, _server(host))
            except CredentialError as error:
                found.append(_Failure(f"credentials of {host}: {error.message}", error.hint))
            if found and not isinstance(found[-1], Program):
                break
        return found

    async def _ask(self, program: Program) -> Credential | None:
        from lading.auth.helpers import ask_helper

        async def run() -> Credential | None:
            self._kept[program] = await ask_helper(program, self._env, seconds=self._helper_seconds)
            return self._kept[program]

        return self._kept[program] if program in self._kept else await self._runs.run(program, run)


def _canonical(host: str) -> str:
    name = hostname(host)
    return "docker.io" if is_hub(name) else name


def _server(host: str) -> str:
    """Give what a credential helper calls ``host``."""
    return HUB_SERVER if is_hub(host) else host.partition("/")[0]


def _standard_paths(env: Mapping[str, str]) -> list[Path]:
    home = env.get("HOME") or env.get("USERPROFILE")
    found = []
    if docker := env.get("DOCKER_CONFIG"):
        found.append(Path(docker, "config.json"))
    elif home:
        found.append(Path(home, ".docker", "config.json"))
    if path := env.get("REGISTRY_AUTH_FILE"):
        found.append(Path(path))
    if runtime := env.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime, "containers", "auth.json"))
    if config := env.get("XDG_CONFIG_HOME") or (home and f"{home}/.config"):
        found.append(Path(config, "containers", "auth.json"))
    return found


def _open(source: str | Path) -> ConfigFile | None:
    """Read one source: text from the environment, or a file, which may not exist. Blocking."""
    if isinstance(source, str):
        return ConfigFile.parse(source, "DOCKER_AUTH_CONFIG")
    try:
        # Non-blocking, so that a pipe that nobody writes to can't stop the search.
        with open(source, "rb", buffering=0, opener=_open_nonblocking) as file:
            raw = _read_bounded(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise CredentialError(f"{source} can't be read: {why}", hint="check who may read it") from None
    if len(raw) > _FILE_LIMIT:
        raise CredentialError(f"{source} is larger than {_FILE_LIMIT} bytes")
    return ConfigFile.parse(raw, str(source))


def _read_bounded(file: FileIO) -> bytes:
    raw = b""
    while len(raw) <= _FILE_LIMIT and (chunk := file.read(_FILE_LIMIT + 1 - len(raw))):
        raw += chunk
    return raw


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
