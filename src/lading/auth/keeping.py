"""Where Docker's tools keep logins: how the file is read, and how it is changed, the way ``docker login`` does it.

A change is whole or it isn't made, keeps what it isn't about, and is decided on what the file holds at that moment.
Errors name the file or the helper and hold nothing of what is kept.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lading.auth.authorization import check_credential, is_token
from lading.auth.configfile import HUB_SERVER, ConfigFile, Credential, Program, hostname, is_hub
from lading.errors import CredentialError
from lading.oci.strict_json import parse_json

HELPER_SECONDS = 10.0
"""How long a credential helper may take: it may be asking a person, or a daemon that isn't there."""

_FILE_LIMIT = 1024 * 1024
"""Bytes of a configuration file at most."""

_TRIES = 16
"""How often a change is made anew because somebody else has changed the file meanwhile."""

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a login is kept, for people; ``is_plain``: whoever can read the file can read the secret."""

    where: str
    is_plain: bool


class DockerConfigWriter:
    """Keeps logins where ``docker login`` keeps them: with a host's credential helper, or else in the file itself.

    ``path`` is the configuration file; ``None`` means ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``.
    ``env`` is the environment, also that of helpers; ``None`` means this process's. A helper may take
    ``helper_seconds`` for each answer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        *,
        helper_seconds: float = HELPER_SECONDS,
    ) -> None:
        from lading.auth.helpers import environment

        self._env = environment(env)
        self._given = None if path is None else Path(path)
        self._seconds = helper_seconds

    async def save(self, host: str, credential: Credential) -> Kept:
        """Keep ``credential`` as the only one of ``host``.

        Raises:
            CredentialError: it can't be kept by a file or a helper, the file can't be read or written, or the helper
                isn't there, fails or takes too long. The file then stays as it is; a helper that has taken the
                credential before the file couldn't be written keeps it.
        """
        from anyio import to_thread

        from lading.auth.helpers import helper_of, store_in_helper

        host, path = _checked(host), self._path()
        _check_keepable(credential)
        document = await to_thread.run_sync(_load, path)
        _spellings(document, host, path)  # an error before anything is kept
        helper = helper_of(document, host, server_name(host), str(path))
        if helper is None:
            entry = _entry(credential)
            await to_thread.run_sync(partial(_rewrite, path, partial(_enter, host=host, entry=entry), is_secret=True))
            return Kept(f"{path} (auths)", True)
        program, where = helper
        await store_in_helper(program, credential, self._env, seconds=self._seconds)
        # Docker's tools list the hosts that have an entry, also an empty one.
        await to_thread.run_sync(partial(_rewrite, path, partial(_enter, host=host, entry={})))
        return Kept(where, False)

    async def erase(self, host: str) -> bool:
        """Drop what is kept for exactly ``host``, however it is spelled; false if nothing was kept.

        Raises:
            CredentialError: the file can't be read or written, or the helper isn't there, fails or takes too long.
                The file then stays as it is.
        """
        from anyio import to_thread

        from lading.auth.helpers import helper_of

        host, path = _checked(host), self._path()
        document = await to_thread.run_sync(_load, path)
        spellings = _spellings(document, host, path)
        was_kept = bool(spellings)
        if helper := helper_of(document, host, server_name(host), str(path)):
            for server in dict.fromkeys([server_name(host), *spellings]):
                was_kept |= await self._erase(Program(helper[0].name, server))
        await to_thread.run_sync(partial(_rewrite, path, partial(_enter, host=host, entry=None)))
        return was_kept

    def __repr__(self) -> str:
        return f"DockerConfigWriter({'standard location' if self._given is None else str(self._given)})"

    async def _erase(self, program: Program) -> bool:
        """Erase with a helper; false if it had nothing: some then succeed, others fail in ways of their own."""
        from lading.auth.helpers import ask_helper, erase_from_helper

        with contextlib.suppress(CredentialError):  # what can't be got may still be erased
            if await ask_helper(program, self._env, seconds=self._seconds) is None:
                return False
        return await erase_from_helper(program, self._env, seconds=self._seconds)

    def _path(self) -> Path:
        path = docker_path(self._env) if self._given is None else self._given
        if path is None:
            raise CredentialError("there is no home directory to keep credentials in", hint="set DOCKER_CONFIG")
        return path


def docker_path(env: Mapping[str, str]) -> Path | None:
    """Give where Docker's configuration file is, if the environment tells."""
    if directory := env.get("DOCKER_CONFIG"):
        return Path(directory, "config.json")
    home = env.get("HOME") or env.get("USERPROFILE")
    return Path(home, ".docker", "config.json") if home else None


def canonical_host(host: str) -> str:
    """Give the one name for all spellings of a host: ``ghcr.io`` for ``https://GHCR.io/v2/``."""
    name = hostname(host)
    return "docker.io" if is_hub(name) else name


def server_name(host: str) -> str:
    """Give what Docker's tools call ``host``, in files and to credential helpers."""
    return HUB_SERVER if is_hub(host) else host.partition("/")[0]


def parse_config(raw: bytes | str, source: str) -> dict[str, Any]:
    """Read the text of a configuration file, which errors call ``source``, to change or to describe it.

    Raises:
        CredentialError: it isn't a JSON object.
    """
    ConfigFile.parse(raw, source)  # says what is wrong with it
    document: dict[str, Any] = parse_json(raw) if raw.strip() else {}
    return document


def read_config(path: Path) -> bytes | None:
    """Read a configuration file; ``None`` if there is none. Blocking.

    Raises:
        CredentialError: it can't be read, or is too large.
    """
    try:
        # Non-blocking, so that a pipe that nobody writes to can't stop the search.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            raw = file.read(_FILE_LIMIT + 1) or b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise CredentialError(f"{path} can't be read: {why}", hint="check who may read it") from None
    if len(raw) > _FILE_LIMIT:
        raise CredentialError(f"{path} is larger than {_FILE_LIMIT} bytes")
    return raw


def _checked(host: str) -> str:
    name = canonical_host(host)
    # A repository's credential is another one than its host's.
    if not _HOST.fullmatch(name) or not _spellings({"auths": {host: {}}}, name, Path()):
        shown = host.rpartition("@")[2]  # what is before it may be a password
        raise CredentialError(f"{shown!r} isn't a registry's host", hint="a host looks like ghcr.io or localhost:5000")
    return name


def _check_keepable(credential: Credential) -> None:
    """Make sure that what is kept can be read again, also by Docker. Raises CredentialError."""
    check_credential(credential)
    if credential == Credential():
        raise CredentialError("an empty credential can't be kept")
    if credential.password and not credential.username:
        raise CredentialError("a password without a user name can't be kept", hint="give a user name")
    if credential.identity_token and not is_token(credential.identity_token):
        raise CredentialError("an identity token with other characters than visible ASCII can't be kept")


def _entry(credential: Credential) -> dict[str, str]:
    """Give what stands in ``auths`` for a credential (docker/cli, ``types.AuthConfig``)."""
    pair = f"{credential.username}:{credential.password}" if credential.username else ""
    texts = {
        "auth": base64.b64encode(pair.encode()).decode("ascii"),
        "identitytoken": credential.identity_token,
        "registrytoken": credential.registry_token,
    }
    return {name: text for name, text in texts.items() if text}


def _spellings(document: dict[str, Any], host: str, path: Path) -> list[str]:
    """Give the keys of ``auths`` whose entries are read for ``host``. Raises CredentialError."""
    auths = document.get("auths")
    if auths is not None and not isinstance(auths, dict):
        raise CredentialError(f"{path}: 'auths' isn't an object", hint="repair it")
    return [key for key in auths or {} if ConfigFile({"auths": {key: {"username": "x"}}}, "").find(host, "")]


def _enter(document: dict[str, Any], path: Path, *, host: str, entry: dict[str, str] | None) -> None:
    """Make ``entry`` the only one of ``host``; ``None`` is none at all."""
    for key in _spellings(document, host, path):
        if entry is None or key != server_name(host):
            del document["auths"][key]
    if entry is not None:
        document["auths"] = {**(document.get("auths") or {}), server_name(host): entry}


def _load(path: Path) -> dict[str, Any]:
    return parse_config(read_config(path) or b"", str(path))


def _rewrite(path: Path, change: Callable[[dict[str, Any], Path], None], *, is_secret: bool = False) -> None:
    """Change what the file holds; one that needs no change isn't written. Blocking.

    Raises:
        CredentialError: it can't be read or written, and is what it was.
    """
    for _ in range(_TRIES):
        raw = read_config(path)
        document = parse_config(raw or b"", str(path))
        before = _render(document)
        change(document, path)
        after = _render(document)
        try:
            # A symbolic link stays one: what it leads to is replaced.
            target = Path(os.path.realpath(path))
            old = None if raw is None else target.stat()
            is_private = old is None or not old.st_mode & 0o077
            if (after == before and (is_private or not is_secret)) or _replace(target, raw, old, after):
                return
        except OSError as error:
            why = error.strerror or "its directory can't be used"
            raise CredentialError(f"{path} can't be written: {why}", hint="check who may write it") from error
    raise CredentialError(f"{path} is being changed by somebody else", hint="try again")


def _render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent="\t", ensure_ascii=False).encode()  # the shape that Docker writes


def _replace(target: Path, raw: bytes | None, old: os.stat_result | None, content: bytes) -> bool:
    """Make ``target`` hold ``content`` if it still holds ``raw``. Raises OSError."""
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    for directory in reversed([one for one in target.parents if not one.exists()]):
        directory.mkdir(0o700, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            if old is not None:
                with contextlib.suppress(AttributeError, OSError):  # a user's file stays theirs when root changes it
                    os.chown(temporary, old.st_uid, old.st_gid)
                os.chmod(temporary, old.st_mode & 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if read_config(target) != raw:
            return False
        os.replace(temporary, target)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
