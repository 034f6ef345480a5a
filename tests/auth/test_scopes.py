"""Scopes: one canonical form, and what covers what."""

from __future__ import annotations

from typing import Any

import pytest
from auth import vectors

from lading.auth.scopes import covers, is_only_pull, merge_scopes

VECTORS = vectors.load("challenges.json")


@pytest.mark.parametrize(
    ("scopes", "merged"),
    [
        ([], ()),
        (["repository:a/b:pull"], ("repository:a/b:pull",)),
        (["repository:a/b:push,pull,pull"], ("repository:a/b:pull,push",)),
        (["repository:b:pull", "repository:a:pull"], ("repository:a:pull", "repository:b:pull")),
        (["repository:a:push", "repository:a:pull"], ("repository:a:pull,push",)),
        (["repository:host:5000/a:pull", "repository:host:5000/a:push"], ("repository:host:5000/a:pull,push",)),
        (["registry:catalog:*"], ("registry:catalog:*",)),
        (["repository(plugin):a:pull"], ("repository(plugin):a:pull",)),
        (["aws", "aws", "a:b", ""], ("", "a:b", "aws")),
        (["repository:a:"], ("repository:a:",)),
    ],
)
def test_merge(scopes: list[str], merged: tuple[str, ...]) -> None:
    assert merge_scopes(scopes) == merged
    assert merge_scopes(reversed(scopes)) == merged
    assert merge_scopes(merged) == merged


@pytest.mark.parametrize(
    ("have", "need", "is_covered"),
    [
        ([], [], True),
        (["repository:a:pull,push"], [], True),
        (["repository:a:pull,push"], ["repository:a:pull"], True),
        (["repository:a:pull", "repository:b:pull"], ["repository:b:pull"], True),
        (["repository:a:pull"], ["repository:a:pull,push"], False),
        (["repository:a:pull"], ["repository:ab:pull"], False),
        (["repository:a:pull"], ["repository:a:pull", "repository:b:pull"], False),
        ([], ["repository:a:pull"], False),
        (["aws"], ["aws"], True),
    ],
)
def test_covers(have: list[str], need: list[str], is_covered: bool) -> None:
    assert covers(have, need) is is_covered


def test_what_anybody_may_be_allowed() -> None:
    assert is_only_pull(["repository:a:pull", "repository:b:pull"])
    assert is_only_pull([])
    assert not is_only_pull(["repository:a:pull", "repository:b:pull,push"])
    assert not is_only_pull(["repository:a:delete"])
    assert not is_only_pull(["registry:catalog:*"])


@pytest.mark.skipif(VECTORS is None, reason="the shared vectors aren't here")
@pytest.mark.parametrize("case", VECTORS["scopes"] if VECTORS else [], ids=str)
def test_vectors(case: dict[str, Any]) -> None:
    if "expected_sorted_union" in case:
        assert list(merge_scopes([*case["request_scopes"], *case["common_scopes"]])) == case["expected_sorted_union"]
    else:
        actions = "pull,push" if case["push"] else "pull"
        assert merge_scopes([f"repository:{case['repository']}:{actions}"]) == (case["expected_scope"],)
