"""Scopes: what a token is good for. Pure (distribution-spec, "token scope documentation").

::

    scope      := resource ":" action [ "," action ]*
    resource   := type ":" name           (repository:acme/triage, registry:catalog)

A name may hold colons (a port), so the actions are what follows the last one. Text of another form is a resource of its
own, asked for as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

Scopes = tuple[str, ...]


def merge_scopes(scopes: Iterable[str]) -> Scopes:
    """Give the same scopes in their one canonical form: each resource once, resources and actions sorted."""
    merged: dict[str, set[str]] = {}
    for scope in scopes:
        resource, actions = split_scope(scope)
        merged.setdefault(resource, set()).update(actions)
    return tuple(
        f"{resource}:{','.join(sorted(actions))}" if actions else resource
        for resource, actions in sorted(merged.items())
    )


def split_scope(scope: str) -> tuple[str, frozenset[str]]:
    """Tell the resource of a scope from its actions."""
    resource, _, actions = scope.rpartition(":")
    if ":" not in resource or not actions:
        return scope, frozenset()
    return resource, frozenset(action for action in actions.split(",") if action)


def covers(have: Iterable[str], need: Iterable[str]) -> bool:
    """Tell whether a token for the scopes ``have`` is one for the scopes ``need``, too."""
    granted = dict(split_scope(scope) for scope in merge_scopes(have))
    return all(
        resource in granted and actions <= granted[resource]
        for resource, actions in (split_scope(scope) for scope in need)
    )


def is_only_pull(scopes: Iterable[str]) -> bool:
    """Tell whether nothing but reading is asked for: what a registry may well allow to anybody."""
    return all(split_scope(scope)[1] <= {"pull"} for scope in scopes)
