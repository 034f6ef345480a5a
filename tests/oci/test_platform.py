"""Platforms: how people write them, which of them are alike, and which image of an index is for a machine."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vectors import DATA, MISSING, vectors

from lading.errors import InvalidPlatform, LadingError
from lading.oci import descriptor
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, parse_manifest
from lading.oci.media_types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from lading.oci.platform import Platform, images, select

ATTESTATION = {"vnd.docker.reference.type": "attestation-manifest"}


def child(
    offered: Platform | str | None,
    media_type: str = OCI_MANIFEST,
    *,
    digest: Digest | None = None,
    annotations: Mapping[str, str] = MappingProxyType({}),
) -> Descriptor:
    """A child of an index whose digest is that of its platform's name, unless it has another."""
    parsed = Platform.parse(offered) if isinstance(offered, str) else offered
    return Descriptor(media_type, digest or Digest.of(repr(parsed).encode()), 5, annotations, platform=parsed)


def index(*children: Descriptor | Platform | str | None) -> Index:
    listed = tuple(one if isinstance(one, Descriptor) else child(one) for one in children)
    return Index(b"", OCI_INDEX, listed, {})


def chosen(wanted: Platform | str, *children: Descriptor | Platform | str | None) -> list[str]:
    target = Platform.parse(wanted) if isinstance(wanted, str) else wanted
    return [str(found.platform) for found in select(index(*children), target)]


def shared() -> dict[str, Any]:
    """The part of the shared vectors that isn't a list of cases, or skip."""
    path = DATA / "vectors" / "manifests.json"
    if not path.is_file():
        pytest.skip(MISSING)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))["platform"]
    return found


# How it is written: what it is, how it is shown.
WRITTEN = [
    ("linux/amd64", Platform("linux", "amd64"), "linux/amd64"),
    ("linux/amd64/v1", Platform("linux", "amd64"), "linux/amd64"),
    ("linux/amd64/v3", Platform("linux", "amd64", "v3"), "linux/amd64/v3"),
    ("linux/x86_64", Platform("linux", "amd64"), "linux/amd64"),
    ("linux/x86-64", Platform("linux", "amd64"), "linux/amd64"),
    ("linux/i386", Platform("linux", "386"), "linux/386"),
    ("linux/i386/v1", Platform("linux", "386"), "linux/386"),
    ("linux/386", Platform("linux", "386"), "linux/386"),
    ("linux/aarch64", Platform("linux", "arm64"), "linux/arm64"),
    ("linux/arm64", Platform("linux", "arm64"), "linux/arm64"),
    ("linux/arm64/v8", Platform("linux", "arm64", "v8"), "linux/arm64/v8"),
    ("linux/arm64/8", Platform("linux", "arm64", "v8"), "linux/arm64/v8"),
    ("linux/arm64/v8.0", Platform("linux", "arm64", "v8"), "linux/arm64/v8"),
    ("linux/arm64/v8.1", Platform("linux", "arm64", "v8.1"), "linux/arm64/v8.1"),
    ("linux/arm64/9.0", Platform("linux", "arm64", "v9"), "linux/arm64/v9"),
    ("linux/arm", Platform("linux", "arm"), "linux/arm"),
    ("linux/arm/v7", Platform("linux", "arm", "v7"), "linux/arm/v7"),
    ("linux/arm/7", Platform("linux", "arm", "v7"), "linux/arm/v7"),
    ("linux/arm/6", Platform("linux", "arm", "v6"), "linux/arm/v6"),
    ("linux/armhf", Platform("linux", "arm"), "linux/arm"),
    ("linux/armel", Platform("linux", "arm", "v6"), "linux/arm/v6"),
    ("Linux/AMD64", Platform("linux", "amd64"), "linux/amd64"),
    ("macOS/arm64", Platform("darwin", "arm64"), "darwin/arm64"),
    ("made_up-os/m.6_8-k/x", Platform("made_up-os", "m.6_8-k", "x"), "made_up-os/m.6_8-k/x"),
    ("windows()/amd64", Platform("windows", "amd64"), "windows/amd64"),
    ("windows(10.0.17763)/amd64", Platform("windows", "amd64", "", "10.0.17763"), "windows(10.0.17763)/amd64"),
    ("windows(1+a+b)/amd64", Platform("windows", "amd64", "", "1", ("a", "b")), "windows(1+a+b)/amd64"),
    ("linux(+b+a)/amd64", Platform("linux", "amd64", "", "", ("b", "a")), "linux(+a+b)/amd64"),
    ("linux(5%2b1+a%2Fb)/amd64", Platform("linux", "amd64", "", "5+1", ("a/b",)), "linux(5%2B1+a%2Fb)/amd64"),
    ("linux(%C3%A9)/amd64", Platform("linux", "amd64", "", "é"), "linux(%C3%A9)/amd64"),
]


@pytest.mark.parametrize(("text", "expected", "shown"), WRITTEN)
def test_a_platform_is_read(text: str, expected: Platform, shown: str) -> None:
    assert Platform.parse(text) == expected
    assert str(Platform.parse(text)) == shown


REFUSED = [
    "",
    "/",
    "linux/",
    "/amd64",
    "linux//v7",
    "linux/amd64/",
    "linux/amd64/v7/s9",
    "li nux/amd64",
    " linux/amd64",
    "linux/amd64\n",
    "linux/amd64\0",
    "linux/&arm",
    "linux/é",
    "lınux/amd64",
    "linux/*",
    "*",
    "li.nux/amd64",
    "linux/amd64(1)",
    "windows(1/amd64",
    "windows(1)x/amd64",
    "windows(1)(2)/amd64",
    "linux(+)/amd64",
    "linux(1++a)/amd64",
    "linux(%)/amd64",
    "linux(%4)/amd64",
    "linux(%zz)/amd64",
    "atari",
    "amd64(1)",
    "arm64/linux/v8/x",
    "linux/" + "a" * 2000,
    "linux(" + "+" * 100_000,
    "linux(" + "%41" * 100_000,
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_anything_else_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidPlatform) as caught:
        Platform.parse(text)
    assert time.process_time() - started < 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_what_isnt_text_is_refused() -> None:
    with pytest.raises(InvalidPlatform, match="not bytes"):
        Platform.parse(b"linux/amd64")  # type: ignore[arg-type]


def test_the_error_is_a_value_error() -> None:
    assert issubclass(InvalidPlatform, LadingError)
    assert issubclass(InvalidPlatform, ValueError)


# What Python says of the machine: what it is.
HOSTS = [
    ("linux", "x86_64", "linux/amd64"),
    ("linux", "aarch64", "linux/arm64"),
    ("linux", "armv8l", "linux/arm/v8"),
    ("linux", "armv7l", "linux/arm/v7"),
    ("linux", "armv6l", "linux/arm/v6"),
    ("linux", "armv5tejl", "linux/arm/v5"),
    ("linux", "i386", "linux/386"),
    ("linux", "i686", "linux/386"),
    ("linux", "ppc64le", "linux/ppc64le"),
    ("linux", "s390x", "linux/s390x"),
    ("linux", "riscv64", "linux/riscv64"),
    ("linux", "loongarch64", "linux/loong64"),
    ("linux", "", "linux"),
    ("darwin", "arm64", "darwin/arm64"),
    ("darwin", "x86_64", "darwin/amd64"),
    ("win32", "AMD64", "windows/amd64"),
    ("win32", "ARM64", "windows/arm64"),
    ("win32", "x86", "windows/386"),
    ("cygwin", "x86_64", "windows/amd64"),
    ("freebsd14", "amd64", "freebsd/amd64"),
    ("openbsd7", "amd64", "openbsd/amd64"),
    ("sunos5", "x86_64", "solaris/amd64"),
]


def pretend(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)


@pytest.mark.parametrize(("system", "machine", "expected"), HOSTS)
def test_this_machine(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, expected: str) -> None:
    with monkeypatch.context() as patch:
        pretend(patch, system, machine)
        host = Platform.host()
    assert str(host) == expected
    assert host.normalized() == host


@pytest.mark.parametrize(
    ("system", "machine", "text", "expected"),
    [
        ("linux", "x86_64", "linux", "linux/amd64"),
        ("linux", "x86_64", "arm64", "linux/arm64"),
        ("linux", "x86_64", "Aarch64", "linux/arm64"),
        ("linux", "x86_64", "x86_64", "linux/amd64"),
        ("linux", "x86_64", "i386", "linux/386"),
        ("linux", "x86_64", "armhf", "linux/arm"),
        ("linux", "x86_64", "armel", "linux/arm/v6"),
        ("linux", "aarch64", "windows(10.0.17763+win32k)", "windows(10.0.17763+win32k)/arm64"),
        ("linux", "armv7l", "linux", "linux/arm"),
        ("linux", "armv6l", "linux", "linux/arm/v6"),
        ("darwin", "arm64", "macOS", "darwin/arm64"),
        ("darwin", "arm64", "linux", "linux/arm64"),
        ("darwin", "arm64", "s390x", "darwin/s390x"),
    ],
)
def test_this_machine_stands_for_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, text: str, expected: str
) -> None:
    with monkeypatch.context() as patch:
        pretend(patch, system, machine)
        found = Platform.parse(text)
    assert str(found) == expected


@pytest.mark.parametrize(
    "alike",
    [
        ["linux/amd64", "linux/amd64/v1", "LINUX/x86_64"],
        ["linux/arm64", "linux/arm64/v8", "linux/arm64/8", "linux/arm64/v8.0", "linux/aarch64"],
        ["linux/arm64/v9", "linux/arm64/v9.0", "linux/arm64/9"],
        ["linux/arm", "linux/arm/v7", "linux/arm/7", "linux/armhf"],
        ["linux/arm/v6", "linux/arm/6", "linux/armel"],
        ["linux/386", "linux/i386"],
        ["darwin/arm64", "macOS/arm64"],
        ["linux(+b+a)/amd64", "linux(+a+b+a)/amd64"],
    ],
)
def test_platforms_that_are_alike(alike: list[str]) -> None:
    assert len({Platform.parse(text).normalized() for text in alike}) == 1


def test_what_nothing_is_known_about_stays() -> None:
    assert Platform("Plan10", "Z80", "V2").normalized() == Platform("plan10", "z80", "v2")
    assert Platform("", "").normalized() == Platform("", "")


def test_an_image_names_no_host_for_what_it_leaves_out() -> None:
    assert str(Platform("linux", "")) == "linux"
    assert str(Platform("", "amd64")) == "amd64"
    assert str(Platform("", "")) == "unknown"


# The machine: what it can run, the best first. The index has them the other way round, and others before and behind.
PREFERENCES = [
    ["linux/amd64", "linux/386"],
    ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"],
    ["linux/386"],
    ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
    ["linux/arm", "linux/arm/v6", "linux/arm/v5"],
    ["linux/arm/v5"],
    ["linux/arm/v4"],
    ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
    ["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64", "linux/arm/v8"],
    ["linux/arm64/v9", *(f"linux/arm64/v8.{minor}" for minor in range(5, 0, -1)), "linux/arm64/v8", "linux/arm/v8"],
    ["linux/arm64/v9.6", "linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.9", "linux/arm64", "linux/arm/v5"],
    ["linux/arm64/v10"],
    ["linux/s390x"],
    ["linux/riscv64"],
    ["freebsd/amd64", "freebsd/386"],
]


@pytest.mark.parametrize("expected", PREFERENCES, ids=lambda expected: expected[0])
def test_its_own_kind_comes_first_then_lesser_ones(expected: list[str]) -> None:
    others = ["windows/amd64", "linux/mips64le", "darwin/arm64"]
    assert chosen(expected[0], *others, *reversed(expected), *others) == expected


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/amd64", "linux/amd64/v2"),
        ("linux/amd64/v2", "linux/amd64/v3"),
        ("linux/386", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v8.1"),
        ("linux/arm64/v8.9", "linux/arm64/v9"),
        ("linux/arm64/v9", "linux/arm64/v8.6"),
        ("linux/arm64/v9.6", "linux/arm64/v8.10"),
        ("linux/arm64/v10", "linux/arm64"),
        ("linux/arm64/v7.1", "linux/arm64"),
        ("linux/arm64", "linux/arm/v4"),
        ("linux/arm64", "linux/arm/v9"),
        ("linux/s390x", "linux/s390"),
        ("linux/amd64", "windows/amd64"),
        ("darwin/arm64", "linux/arm64"),
        ("linux/amd64", "linux(+gpu)/amd64"),
        ("linux(+gpu)/amd64", "linux(+gpu+simd)/amd64"),
    ],
)
def test_what_it_cant_run_isnt_chosen(wanted: str, offered: str) -> None:
    assert chosen(wanted, offered) == []


def test_equally_good_ones_keep_their_order() -> None:
    first, second = (child("linux/amd64", digest=Digest.of(name)) for name in (b"b", b"a"))
    last = child("linux/386")
    assert select(index(last, first, second), Platform("linux", "amd64")) == [first, second, last]


def test_an_index_may_name_an_architecture_otherwise() -> None:
    assert chosen("linux/amd64", Platform("Linux", "x86_64")) == ["Linux/x86_64"]
    assert chosen("linux/arm64", Platform("linux", "arm64", "v8")) == ["linux/arm64/v8"]
    assert chosen(Platform("linux", "aarch64"), "linux/arm64") == ["linux/arm64"]


def test_the_image_that_makes_most_of_the_machine_comes_first() -> None:
    offered = ["linux/amd64", "linux(+f2)/amd64", "linux(+f1+f2)/amd64", "linux(+f3)/amd64", "linux(+f1)/386"]
    assert chosen("linux(+f2+f1)/amd64", *offered) == [
        "linux(+f1+f2)/amd64",
        "linux(+f2)/amd64",
        "linux/amd64",
        "linux(+f1)/386",
    ]


def test_only_windows_has_versions_that_matter() -> None:
    assert chosen("linux(7.2)/amd64", "linux(7.1)/amd64", "linux/amd64") == ["linux(7.1)/amd64", "linux/amd64"]


# The build of the machine and of the image: whether that runs.
BUILDS = [
    ("17763", "17763", True),
    ("17763", "20348", False),
    ("17763", "14393", False),
    ("20348", "17763", False),
    ("20348", "20348", True),
    ("20348", "22621", False),
    ("20348", "26100", False),
    ("22621", "17763", False),
    ("22621", "20348", True),
    ("25398", "17763", False),
    ("25398", "20348", True),
    ("26100", "20348", True),
    ("26100", "22621", True),
    ("26100", "26100", True),
    ("26101", "22621", False),
    ("26200", "26100", True),
    ("26200", "20348", False),
]


@pytest.mark.parametrize(("host", "offered", "runs"), BUILDS)
def test_which_windows_runs_on_which(host: str, offered: str, runs: bool) -> None:
    image = f"windows(10.0.{offered}.1)/amd64"
    assert chosen(f"windows(10.0.{host}.99)/amd64", image) == ([image] if runs else [])


@pytest.mark.parametrize("offered", ["6.3.20348", "11.0.20348", "10.1.20348", "new", "10.0", "10.0.x", "10.0.٢٠٣٤٨"])
def test_another_windows_doesnt_run(offered: str) -> None:
    assert chosen("windows(10.0.20348)/amd64", Platform("windows", "amd64", "", offered)) == []


def test_the_newest_windows_comes_first() -> None:
    versions = ["10.0.20348.5", "10.0.26100.999", "", "10.0.17763.1", "10.0.26100.3000", "10.0.26100"]
    offered = [Platform("windows", "amd64", os_version=version) for version in versions]
    found = select(index(*offered), Platform("windows", "amd64", os_version="10.0.26100.1"))
    assert [one.platform.os_version for one in found if one.platform] == [
        "10.0.26100.3000",
        "10.0.26100.999",
        "10.0.26100",
        "10.0.20348.5",
        "",
    ]


@pytest.mark.parametrize("wanted", ["windows/amd64", "windows(soon)/amd64"])
def test_any_windows_may_do_where_the_version_isnt_known(wanted: str) -> None:
    offered = ["windows(10.0.17763)/amd64", "windows/amd64", "windows(10.0.26100)/amd64"]
    assert chosen(wanted, *offered) == offered


def test_a_windows_needs_no_promise_of_win32k() -> None:
    assert chosen("windows/amd64", "windows(+win32k)/amd64") == ["windows(+win32k)/amd64"]
    assert chosen("windows/amd64", "windows(+win32k+gpu)/amd64") == []
    assert chosen("linux/amd64", "linux(+win32k)/amd64") == []


def test_attestations_are_never_chosen() -> None:
    image = child("linux/amd64")
    listed = index(
        child(Platform("unknown", "unknown"), annotations=ATTESTATION),
        child(Platform("unknown", "unknown")),
        child("linux/amd64", digest=Digest.of(b"attestation"), annotations=ATTESTATION),
        child(None, annotations=ATTESTATION),
        image,
    )
    assert images(listed) == [image]
    assert select(listed, Platform("linux", "amd64")) == [image]
    assert select(listed, Platform("unknown", "unknown")) == []


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX])
def test_manifests_and_indexes_may_be_chosen(media_type: str) -> None:
    image = child("linux/amd64", media_type)
    assert select(index(image), Platform("linux", "amd64")) == [image]


def test_nothing_else_may() -> None:
    assert (
        select(index(child("linux/amd64", "application/yaml"), child(None, "application/yaml")), Platform("", "")) == []
    )


UNSAID: list[Platform | None] = [None, Platform("", "")]


@pytest.mark.parametrize("nothing", UNSAID)
def test_an_index_without_platforms_is_for_every_one(nothing: Platform | None) -> None:
    first, second = (child(nothing, digest=Digest.of(name)) for name in (b"b", b"a"))
    for wanted in (Platform("linux", "amd64"), Platform("windows", "arm64"), Platform("", "")):
        assert select(index(first), wanted) == [first]
        assert select(index(first, child(None, annotations=ATTESTATION), second), wanted) == [first, second]


@pytest.mark.parametrize("nothing", UNSAID)
def test_beside_images_for_a_platform_one_for_none_is_never_chosen(nothing: Platform | None) -> None:
    assert chosen("linux/amd64", nothing, "linux/amd64") == ["linux/amd64"]
    assert chosen("linux/s390x", nothing, "linux/amd64") == []


@pytest.mark.parametrize("half", [Platform("linux", ""), Platform("", "amd64")])
def test_half_a_platform_isnt_one(half: Platform) -> None:
    assert chosen("linux/amd64", half) == []


def test_an_empty_index_has_nothing_to_choose() -> None:
    assert select(index(), Platform.host()) == []


def test_a_platform_is_the_one_of_descriptors() -> None:
    assert descriptor.Platform is Platform


def test_a_large_index_and_a_strange_machine_take_no_time() -> None:
    children = [child(Platform("linux", "arm64", f"v{number}")) for number in range(5_000)]
    started = time.process_time()
    for variant in ("v999999999", "v99", "9" * 100_000, "v8." + "9" * 5000, "v٨"):
        for architecture in ("amd64", "arm", "arm64"):
            select(index(*children), Platform("linux", architecture, variant, "1." * 50_000))
            select(index(*children[:9]), Platform("windows", architecture, variant, "9." * 50_000))
    assert time.process_time() - started < 5


@given(st.text() | st.text(alphabet="linux/armdv8(+%2F).\n", max_size=30) | st.from_regex(r"[a-z]+/[a-z0-9/]+\Z"))
@example("linux(%FF)/amd64")
def test_arbitrary_text_gives_a_platform_that_prints_itself_or_the_typed_error(text: str) -> None:
    try:
        found = Platform.parse(text)
    except InvalidPlatform:
        return
    again = Platform.parse(str(found))
    assert str(again) == str(found)
    assert again.normalized() == found.normalized()


_WORDS = (
    st.sampled_from(["", "linux", "windows", "amd64", "arm", "arm64", "v8", "v9.6", "v7", "10.0.20348.1"]) | st.text()
)
_PLATFORMS = st.builds(
    Platform, _WORDS, _WORDS, _WORDS, _WORDS, st.lists(st.sampled_from(["a", "win32k", ""])).map(tuple)
)


@given(_PLATFORMS)
def test_a_form_that_is_normal_stays(one: Platform) -> None:
    assert one.normalized().normalized() == one.normalized()


@given(_PLATFORMS, st.lists(st.none() | _PLATFORMS, max_size=6))
def test_what_is_chosen_is_in_the_index_once(wanted: Platform, offered: list[Platform | None]) -> None:
    listed = index(*(child(one, digest=Digest.of(bytes([number]))) for number, one in enumerate(offered)))
    found = select(listed, wanted)
    assert len(set(found)) == len(found)
    assert set(found) <= set(images(listed))


@pytest.mark.parametrize("case", vectors("manifests.json", "platform", "containerd_only", "rows"))
def test_vectors_of_what_a_machine_runs(case: dict[str, Any]) -> None:
    found = chosen(case["want"], *case["no_match"], *case["match"])
    assert sorted(found) == sorted(str(Platform.parse(text)) for text in case["match"])
    assert Platform.parse(found[0]).normalized() == Platform.parse(case["want"]).normalized()
    for text in case["no_match"]:
        assert chosen(case["want"], text) == []


# The index that the vectors call rawDockerSchema2List: a real one, shortened to what is chosen by.
LISTED = {
    "linux/386": "69168abe0494a1f1e619725d23a8f85cb156a8986f342c7dc86915b551f5a711",
    "linux/amd64": "41b9947d8f19e154a5415c88ef71b851d37fa3ceb1de56ffe88d1b616ce503d9",
    "linux/arm/v6": "e8baa0ddeed304ed91e91f155392462fcfab79df67f1052f92a377305dd521b6",
    "linux/arm/v7": "5536e52b2508b905c7f37bf120435c3c75684bab53c04467b61904be1febe5f8",
    "linux/arm64": "b302f648065bb2ba542dc75167db065781f296ef72bb504585d652b27b5079ad",
    "linux/ppc64le": "2d6a26eeb5a58c3c2534470f201b471778cc2ed37352775c9632e60880339e24",
    "linux/s390x": "201dd5b2dcc8793566b3d2cfa4d32eb3963028d20cc7befb3260de6d7ceac8a4",
}


@pytest.mark.parametrize("case", vectors("manifests.json", "platform", "selection"))
def test_vectors_of_selection(case: dict[str, Any]) -> None:
    if "index_inline" in case:
        listed = parse_manifest(json.dumps(case["index_inline"]).encode(), None)
        assert isinstance(listed, Index)
    else:
        listed = index(
            *(child(text, DOCKER_MANIFEST, digest=Digest("sha256", encoded)) for text, encoded in LISTED.items())
        )
    found = [str(one.digest) for one in select(listed, Platform.parse(case["want"]))]
    expected: Iterable[str | None] = case.get("expected_digest_any") or [case["expected_digest"]]
    assert (found[0] if found else None) in expected


def test_vectors_of_normal_forms() -> None:
    for text, expected in shared()["normalize"]["pairs"]:
        assert str(Platform.parse(text)) == expected


def test_vectors_of_what_is_no_platform() -> None:
    for text in shared()["invalid_platform_strings"]["strings"]:
        with pytest.raises(InvalidPlatform):
            Platform.parse(text)
