"""Who may do what: users, what they prove themselves with, and what a request needs. Pure.

A registry without users leaves everything to everybody, but for what is private, which then is nobody's. With users,
they may do everything; who is nobody may read what isn't private, if the registry serves anybody at all.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lading.testing.endpoints import Call

Scopes = Mapping[str, frozenset[str]]
"""Actions by resource: `{"repository:acme/triage": {"pull"}}`."""

_EVERYTHING = frozenset({"pull", "push", "delete"})
_READING = frozenset({"pull"})
_CATALOG = "registry:catalog"


@dataclass(frozen=True, slots=True)
class Access:
    """The users of a registry with their passwords, and the repositories that not everybody may read."""

    users: Mapping[str, str] | None = None
    private: Collection[str] = frozenset()
    serves_anybody: bool = True

    def user(self, authorization: str) -> str | None:
        """Return who a Basic `Authorization` proves (RFC 7617), None if it proves nobody."""
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if colon and self.is_password(name, password) else None

    def is_password(self, name: str, password: str) -> bool:
        """Tell whether `password` is that of the user `name`."""
        return self.users is not None and self.users.get(name) == password

    def allows(self, user: str | None, resource: str) -> frozenset[str]:
        """Return the actions on `resource` that are open to `user`, or with None to anybody."""
        if resource == _CATALOG:
            return frozenset({"*"}) if user is not None or self.users is None else frozenset()
        if not resource.startswith("repository:"):
            return frozenset()
        if user is not None:
            return _EVERYTHING
        if resource.removeprefix("repository:") in self.private:
            return frozenset()
        if self.users is None:
            return _EVERYTHING
        return _READING if self.serves_anybody else frozenset()

    def may(self, user: str | None, needed: Scopes) -> bool:
        """Tell whether everything that is needed is open to `user`."""
        return all(actions <= self.allows(user, resource) for resource, actions in needed.items())


def needed_by(call: Call) -> Scopes:
    """Return what a call needs; nothing for a ping."""
    route = call.route
    if route.kind == "catalog":
        return {_CATALOG: frozenset({"*"})}
    if not route.repository:
        return {}
    resource = f"repository:{route.repository}"
    if call.method == "DELETE" and route.kind != "upload":
        return {resource: frozenset({"delete"})}
    if route.kind != "upload" and call.method in ("GET", "HEAD"):
        return {resource: _READING}
    needed = {resource: frozenset({"pull", "push"})}
    source = call.query.get("from") if "mount" in call.query else None
    if source and source != route.repository:
        needed[f"repository:{source}"] = _READING
    return needed


def scope_text(scopes: Scopes) -> str:
    """Return scopes as one string (distribution-spec, "Token Scope Documentation")."""
    return " ".join(f"{resource}:{','.join(sorted(actions))}" for resource, actions in sorted(scopes.items()))


def read_scopes(texts: Collection[str]) -> Scopes:
    """Return the scopes in `texts`, each of which may hold several; what isn't a scope is left out."""
    scopes: dict[str, frozenset[str]] = {}
    for text in " ".join(texts).split():
        resource, _, actions = text.rpartition(":")
        if ":" in resource:
            scopes[resource] = scopes.get(resource, frozenset()) | frozenset(filter(None, actions.split(",")))
    return scopes
