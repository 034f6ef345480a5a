"""The bounds of a closure, without any network."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lading import Reference
from lading.agents.references import ExternalReference, Oci, Url
from lading.pull.closure import Asked, Closure

ROOT = Reference.parse("ghcr.io/acme/root:v1")


def named(*names: str) -> list[ExternalReference]:
    return [
        ExternalReference("root", "sub_agents", name, Url(name) if "://" in name else Oci(Reference.parse(name)))
        for name in names
    ]


def test_each_is_met_once() -> None:
    closure = Closure()
    assert closure.meet(ROOT)
    assert not closure.meet(Reference.parse("ghcr.io/acme/root:v1"))
    assert closure.follow(Asked(ROOT), 10, named("acme/a", str(ROOT), "acme/b", "acme/a:latest", "https://x/y")) is None
    level = closure.next_level()
    assert [str(one.reference) for one in level] == ["docker.io/acme/a:latest", "docker.io/acme/b:latest"]
    assert {(one.depth, one.needed_by) for one in level} == {(1, ROOT)}
    assert closure.next_level() == []


def test_depth() -> None:
    closure = Closure(depth=1)
    assert closure.follow(Asked(ROOT), 1, named("acme/a")) is None
    (first,) = closure.next_level()
    too_much = closure.follow(first, 1, named("acme/b", "acme/c"))
    assert too_much is not None
    assert (str(too_much[0].reference), too_much[0].needed_by) == ("docker.io/acme/b:latest", first.reference)
    assert "acme/b:latest: not followed from docker.io/acme/a:latest: agents are nested deeper" in str(too_much[1])
    assert closure.next_level() == []


def test_count() -> None:
    closure = Closure(count=2)
    too_much = closure.follow(Asked(ROOT), 1, named("acme/a", "acme/b", "acme/c", "acme/d"))
    assert too_much is not None
    assert (str(too_much[0].reference), "too many" in str(too_much[1])) == ("docker.io/acme/c:latest", True)
    assert len(closure.next_level()) == 2


def test_bytes() -> None:
    """What was asked for counts for nothing: somebody wanted that."""
    closure = Closure(size=100)
    assert closure.follow(Asked(ROOT), 1000, named("acme/a", "acme/b")) is None
    first, second = closure.next_level()
    assert closure.follow(first, 100, named("acme/c")) is None
    too_much = closure.follow(second, 1, named("acme/d"))
    assert too_much is not None
    assert "too large" in str(too_much[1])


@given(st.lists(st.sampled_from([f"acme/{name}" for name in "abcdefgh"]), max_size=30))
def test_a_level_has_each_once(names: list[str]) -> None:
    closure = Closure()
    closure.follow(Asked(ROOT), 1, named(*names))
    assert len(closure.next_level()) == len(set(names))
