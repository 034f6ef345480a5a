"""The verbs ``login`` and ``logout``. A password is believed by its registry before it is kept, and shown nowhere.

It comes from a terminal or from standard input: what stands in a command line, every process can read.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import click

from lading.cli.options import json_option, network_options, run
from lading.cli.render import print_json, say
from lading.client import Client
from lading.errors import CredentialError, InvalidReference, LadingError, Offline
from lading.oci.reference import DEFAULT_REGISTRY, Reference
from lading.redact import printable
from lading.store.store import MemoryStore

if TYPE_CHECKING:
    from lading.auth.keeping import Kept
    from lading.http.hosts import HostsConfig

_PASSWORD_LIMIT = 64 * 1024
"""Bytes of a password at most; the longest are keys in JSON and tokens, a few thousand."""

_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)

_ROOTS = frozenset({"", "v1", "v1/", "v2", "v2/"})
"""What may stand behind the host and still mean the whole registry: docker's documentation writes some of them."""

_STORES = "https://docs.docker.com/go/credential-store/"


class _Named(NamedTuple):
    """A registry as it was named; ``scheme`` is empty where none was written."""

    host: str
    scheme: str


def _to_registry(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> _Named:
    """Read what was named, if anything; what may be a password in the wrong place isn't repeated."""
    from lading.auth.keeping import canonical_host

    if len(values) > 1:
        raise click.UsageError("there is one REGISTRY to name; a user name goes with -u", ctx)
    text = values[0] if values else DEFAULT_REGISTRY
    if "@" in text:
        raise click.BadParameter("a registry's name holds no user and no @: name the user with -u", ctx, param)
    match = _SCHEME.match(text)
    written, _, path = text[match.end() if match else 0 :].partition("/")
    host = canonical_host(written) if written else ""
    if not _is_host(host):
        raise click.BadParameter(f"{text!r} isn't a registry's host, such as ghcr.io or localhost:5000", ctx, param)
    if path not in _ROOTS:
        raise click.BadParameter(f"a login is for a whole registry: leave out {'/' + path!r}", ctx, param)
    return _Named(host, match[1].lower() if match else "")


def _is_host(name: str) -> bool:
    """Tell whether a reference could be to this registry."""
    try:
        return Reference.parse(f"{name}/image").registry == name
    except InvalidReference:
        return False


def _to_user_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not value or ":" in value):
        # Not repeated either: somebody may have written user:password.
        raise click.BadParameter("a user name isn't empty and has no colon", ctx, param)
    return value


class _WithoutPassword(click.Command):
    """A command whose password isn't an option; whoever tries is told why, and the password isn't repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(one.startswith(("-p", "--password=")) or one == "--password" for one in args):
            raise click.UsageError(
                "there is no -p: other processes and the shell's history would see the password."
                " Use --password-stdin, or wait to be asked.",
                ctx,
            )
        return super().parse_args(ctx, args)


registry_argument = click.argument("registry", metavar="[REGISTRY]", nargs=-1, callback=_to_registry)


@click.command(cls=_WithoutPassword)
@registry_argument
@click.option("-u", "--username", metavar="NAME", callback=_to_user_name, help="Log in as NAME.")
@click.option("--password-stdin", "is_piped", is_flag=True, help="Take the password, or a token, from standard input.")
@network_options
def login(registry: _Named, username: str | None, is_piped: bool, offline: bool, as_json: bool) -> None:
    """Log in to REGISTRY, by default Docker Hub.

    The registry has to believe the password first. Then it is kept where `docker login` keeps it: with a credential
    helper if one is configured, else in docker's config.json. What isn't given is asked for.

    \b
    Examples:
      lading login ghcr.io
      pass show ghcr.io | lading login ghcr.io -u ada --password-stdin
    """
    from lading.auth.credentials import Credential
    from lading.auth.keeping import DockerConfigWriter
    from lading.http.hosts import HostsConfig

    host, hosts = registry.host, HostsConfig.standard()
    _check_input(username, is_piped)
    if offline:
        raise Offline(f"can't log in to {host}: network access is switched off")
    _check_way(registry, hosts)
    name, password = (username or "", _read_password()) if is_piped else _ask(host, username)
    credential = Credential(name, password)

    async def verb(client: Client) -> tuple[bool, Kept, str]:
        is_verified = await client.verify_login(host, credential)
        kept = await DockerConfigWriter().save(host, credential)
        return is_verified, kept, await _hiding(host, kept)

    # What is in the store doesn't matter, and whether there can be one doesn't either.
    is_verified, kept, hiding = run(Client(MemoryStore(), hosts=hosts), verb)
    if not is_verified:
        _warn(f"{host} doesn't ask who is there: the password is kept, but nobody has checked it")
    if kept.is_plain:
        where = f'add "credsStore": "pass" or the name of another one, see {_STORES}'
        _warn(f"the password is kept unencrypted in {kept.where}", hint=f"use a credential helper: {where}")
    if hiding:
        _warn(f"this login isn't used: {hiding}")
    if as_json:
        fields = {"registry": host, "username": name, "verified": is_verified}
        print_json({**fields, "kept": kept.where, "unencrypted": kept.is_plain})
    else:
        how = "succeeded" if is_verified else "unchecked"
        print(printable(f"login {how}: {name} at {host}, kept in {kept.where}"))


@click.command()
@registry_argument
@json_option
def logout(registry: _Named, as_json: bool) -> None:
    """Forget the login at REGISTRY, by default Docker Hub.

    \b
    Example:
      lading logout ghcr.io
    """
    import anyio

    host = registry.host
    was_kept, remains = anyio.run(_forget, host)
    if remains:
        _warn(f"still logged in to {host}: {remains}")
    if as_json:
        print_json({"registry": host, "erased": was_kept})
    elif was_kept:
        print(f"logged out of {host}")
    else:
        say(f"not logged in to {host}: nothing was kept")


def _check_input(username: str | None, is_piped: bool) -> None:
    """Make sure that what isn't given can be asked for, and that no password is typed where it can be seen."""
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if is_piped and username is None:
        raise click.UsageError("--password-stdin wants the user name: give it with -u")
    if is_piped and sys.stdin is None:
        raise click.UsageError("--password-stdin wants a standard input, but it is closed")
    if is_piped and is_terminal:
        raise click.UsageError("standard input is a terminal, which shows what is typed: leave out --password-stdin")
    if not is_piped and not is_terminal:
        raise click.UsageError("there is no terminal to ask for the password: use --password-stdin, with -u")


def _check_way(registry: _Named, hosts: HostsConfig) -> None:
    """Make sure that the password goes the way that was written, and say so if others can read it there.

    Raises:
        InvalidHosts: what is configured for the registry can't be used.
    """
    from lading.http.transport import is_loopback

    origin = hosts.lookup(registry.host).server.origin
    if registry.scheme not in ("", origin.scheme):
        raise click.UsageError(
            f"{registry.host} is asked over {origin.scheme}, not {registry.scheme}:"
            f" leave out {registry.scheme}://, or set `server` in its hosts.toml"
        )
    if origin.scheme == "http" and not is_loopback(f"[{origin.host}]" if ":" in origin.host else origin.host):
        _warn(f"hosts.toml says http: whoever is between here and {origin.host} can read the password")


def _ask(host: str, username: str | None) -> tuple[str, str]:
    """Ask at the terminal for the password, and for the user name if it isn't given."""
    with suppress(UnicodeDecodeError):
        name = username or _ask_name(host)
        return name, str(click.prompt("Password", hide_input=True, err=True))
    # Raised out here, because the decoder's error holds what was typed.
    raise LadingError("what was typed isn't text", hint="is the terminal's encoding this machine's?")


def _ask_name(host: str) -> str:
    # Not with input(), which swallows a signal that comes while it shows its prompt.
    while True:
        print(f"User name at {host}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise click.Abort
        name = line.strip()
        if name and ":" not in name:
            return name
        say("a user name isn't empty and has no colon")


def _read_password() -> str:
    """Read the password from standard input, without the end of its last line."""
    raw = sys.stdin.buffer.read(_PASSWORD_LIMIT + 1)
    if len(raw) > _PASSWORD_LIMIT:
        raise LadingError(f"standard input holds more than {_PASSWORD_LIMIT} bytes: that is no password")
    # What isn't text stays in there, and is refused before it is sent: no error has to hold it.
    password = raw.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if not password:
        raise LadingError("standard input holds no password", hint="is the variable or the file empty?")
    return password


async def _hiding(host: str, kept: Kept) -> str:
    """Say what hides the login that was just kept, or nothing."""
    from lading.auth.credentials import default_credentials

    try:
        where = await default_credentials().source(host)
    except CredentialError as error:
        return str(error)
    return "" if where == kept.where else f"{where} comes first"


async def _forget(host: str) -> tuple[bool, str]:
    """Erase the login; tell whether there was one, and what there still is."""
    from lading.auth.credentials import default_credentials
    from lading.auth.keeping import DockerConfigWriter

    was_kept = await DockerConfigWriter().erase(host)
    credentials = default_credentials()
    try:
        # A helper has to be asked: that it is there doesn't say that it keeps something.
        if await credentials.credential(host) is None:
            return was_kept, ""
        return was_kept, f"{await credentials.source(host)} has another login"
    except CredentialError as error:
        return was_kept, str(error)


def _warn(message: str, hint: str = "") -> None:
    say(f"lading: warning: {printable(message)}")
    if hint:
        say(f"  hint: {hint}")
