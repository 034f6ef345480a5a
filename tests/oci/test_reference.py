"""References: read as Docker reads them, and written in full."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import vectors

from lading.errors import InvalidReference
from lading.oci.digest import Digest
from lading.oci.reference import Reference

D = "sha256:" + "a1" * 32

# text: registry, repository, tag, digest, str()
READ = {
    "busybox": ("docker.io", "library/busybox", None, None, "docker.io/library/busybox:latest"),
    "busybox:1.36": ("docker.io", "library/busybox", "1.36", None, "docker.io/library/busybox:1.36"),
    "acme/triage": ("docker.io", "acme/triage", None, None, "docker.io/acme/triage:latest"),
    "docker.io/busybox": ("docker.io", "library/busybox", None, None, "docker.io/library/busybox:latest"),
    "index.docker.io/busybox": ("docker.io", "library/busybox", None, None, "docker.io/library/busybox:latest"),
    "index.docker.io/a/b:c": ("docker.io", "a/b", "c", None, "docker.io/a/b:c"),
    "ghcr.io/acme/triage:v3": ("ghcr.io", "acme/triage", "v3", None, "ghcr.io/acme/triage:v3"),
    "ghcr.io/busybox": ("ghcr.io", "busybox", None, None, "ghcr.io/busybox:latest"),
    f"ghcr.io/acme/triage@{D}": ("ghcr.io", "acme/triage", None, D, f"ghcr.io/acme/triage@{D}"),
    f"ghcr.io/acme/triage:v3@{D}": ("ghcr.io", "acme/triage", "v3", D, f"ghcr.io/acme/triage@{D}"),
    f"busybox@{D}": ("docker.io", "library/busybox", None, D, f"docker.io/library/busybox@{D}"),
    "localhost/a": ("localhost", "a", None, None, "localhost/a:latest"),
    "localhost:5000/a:b": ("localhost:5000", "a", "b", None, "localhost:5000/a:b"),
    "localhost": ("docker.io", "library/localhost", None, None, "docker.io/library/localhost:latest"),
    "localhost:5000": ("docker.io", "library/localhost", "5000", None, "docker.io/library/localhost:5000"),
    "LOCALDOMAIN/a": ("LOCALDOMAIN", "a", None, None, "LOCALDOMAIN/a:latest"),
    "127.0.0.1:5000/a/b": ("127.0.0.1:5000", "a/b", None, None, "127.0.0.1:5000/a/b:latest"),
    "[::1]:5000/a": ("[::1]:5000", "a", None, None, "[::1]:5000/a:latest"),
    "[2001:db8::1]/a": ("[2001:db8::1]", "a", None, None, "[2001:db8::1]/a:latest"),
    "host:1/a:t": ("host:1", "a", "t", None, "host:1/a:t"),
    "a-b/c": ("docker.io", "a-b/c", None, None, "docker.io/a-b/c:latest"),
    "a__b/c.d/e---f": ("docker.io", "a__b/c.d/e---f", None, None, "docker.io/a__b/c.d/e---f:latest"),
    "a:" + "t" * 128: ("docker.io", "library/a", "t" * 128, None, "docker.io/library/a:" + "t" * 128),
    "h.io/" + "r" * 255: ("h.io", "r" * 255, None, None, f"h.io/{'r' * 255}:latest"),
    "f" * 63: ("docker.io", "library/" + "f" * 63, None, None, f"docker.io/library/{'f' * 63}:latest"),
}

REFUSED = {
    "empty": "",
    "scheme": "https://ghcr.io/a/b",
    "docker scheme": "docker://busybox",
    "leading slash": "/busybox",
    "trailing slash": "acme/",
    "empty component": "a//b",
    "empty tag": "busybox:",
    "empty tag with a digest": f"busybox:@{D}",
    "empty digest": "busybox@",
    "two digests": f"busybox@{D}@{D}",
    "short digest": "busybox@sha256:abcd",
    "weak digest": "busybox@sha1:" + "a" * 40,
    "unsupported digest": "busybox@blake3:" + "a" * 64,
    "upper-case digest": "busybox@sha256:" + "A" * 64,
    "tag behind the digest": f"busybox@{D}:tag",
    "upper-case repository": "ghcr.io/Acme/triage",
    "upper-case name": "Busybox",
    "long tag": "a:" + "t" * 129,
    "tag that begins with a dot": "a:.t",
    "tag that begins with a dash": "a:-t",
    "two tags": "acme/a:b:c",
    "long repository": "h.io/" + "r" * 256,
    "an identifier": "f" * 64,
    "leading separator": "_a/b",
    "trailing separator": "a/b-",
    "three underscores": "a___b/c",
    "two dots": "h.io/a..b",
    "parent directory": "h.io/../etc/passwd",
    "dot": ".",
    "tilde": "~/x",
    "host that ends in a dot": "docker./a",
    "host with an underscore": "a_b.com:80/c",
    "IPv6 without brackets": "fc00::1:5000/a",
    "IPv6 with a zone": "[fe80::1%eth0]:5000/a",
    "IPv6 unclosed": "[::1/a",
    "port with letters": "h.io:80a/b",
    "user information": "user:hunter2@ghcr.io/a",
    "space": "white space",
    "trailing space": "busybox ",
    "trailing newline": "busybox\n",
    "trailing newline behind a tag": "busybox:latest\n",
    "trailing newline behind a digest": f"busybox@{D}\n",
    "header injection": "ghcr.io/a\r\nX-Evil: 1",
    "NUL": "ghcr.io/a\0b",
    "query": "ghcr.io/a?b",
    "percent": "ghcr.io/a%2fb",
    "command": "a/b`id`",
    "Arabic digits in a tag": "a:١٢",
    "Arabic digits in a port": "h.io:١٢/a",
    "Arabic digits in a name": "h.io/١٢",
    "Cyrillic host": "аррӏе.com/a",
    "lone surrogate": "h.io/\ud800",
    "a million characters": "a" * 1_000_000,
    "a million slashes": "a/" * 500_000 + "a",
    "almost a host": "a." * 2000 + "!/a",
    "almost a name": "a-" * 2000,
    "colons": ":" * 4000,
    "ats": "@" * 4000,
}


@pytest.mark.parametrize(("text", "expected"), READ.items(), ids=[text[:40] for text in READ])
def test_a_reference_is_read_as_docker_reads_it(
    text: str, expected: tuple[str, str, str | None, str | None, str]
) -> None:
    registry, repository, tag, digest, full = expected
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag) == (registry, repository, tag)
    assert reference.digest == (Digest.parse(digest) if digest else None)
    assert str(reference) == full


@pytest.mark.parametrize("text", READ, ids=[text[:40] for text in READ])
def test_the_full_form_stands_for_the_same(text: str) -> None:
    reference = Reference.parse(text)
    again = Reference.parse(str(reference))
    assert (again.name, again.selector, str(again)) == (reference.name, reference.selector, str(reference))


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert time.process_time() - started < 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 8192


@pytest.mark.parametrize("value", [None, 5, b"busybox"], ids=["None", "number", "bytes"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidReference, match="text"):
        Reference.parse(cast(str, value))


def test_an_invalid_reference_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        Reference.parse("")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ghcr.io/Acme/triage", "did you mean 'ghcr.io/acme/triage'"),
        ("https://ghcr.io/a/b", "leave out https://"),
        ("f" * 64, f"sha256:{'f' * 64}"),
        ("a:-t", "'-t' isn't a tag"),
        ("busybox@sha256:abcd", "64 characters"),
        ("h.io/a b", "'a b' isn't part of a repository name"),
    ],
)
def test_the_error_says_what_is_wrong_and_what_to_do(text: str, said: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "user:hunter2@ghcr.io/acme/triage",
        "user:hunter2@ghcr.io",
        "user:hunter2@ghcr.io:443",
        "USER:hunter2@ghcr.io/acme/triage",
        "user:x@hunter2@ghcr.io/acme/triage",
        "https://user:hunter2@ghcr.io/acme/triage",
        "https://user:hunt#hunter2@ghcr.io/acme",
    ],
)
def test_the_error_holds_no_password(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__


def test_a_digest_pins() -> None:
    assert Reference.parse(f"a@{D}").is_pinned
    assert Reference.parse(f"a:b@{D}").is_pinned
    assert not Reference.parse("a:b").is_pinned


@pytest.mark.parametrize(("text", "selector"), [("a", "latest"), ("a:b", "b"), (f"a@{D}", D), (f"a:b@{D}", D)])
def test_the_selector_is_the_digest_else_the_tag_else_latest(text: str, selector: str) -> None:
    assert Reference.parse(text).selector == selector


def test_a_reference_is_pinned_in_its_own_repository() -> None:
    pinned = Reference.parse("ghcr.io/acme/triage:v3").at(Digest.parse(D))
    assert str(pinned) == f"ghcr.io/acme/triage@{D}"
    assert pinned.tag is None


def test_the_same_name_in_two_registries_is_two_references() -> None:
    assert Reference.parse("ghcr.io/acme/triage") != Reference.parse("quay.io/acme/triage")


_COMPONENT = st.from_regex(r"[a-z0-9]{1,5}(([._]|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
_HOST = st.from_regex(r"[A-Za-z0-9]{1,5}(-[a-z0-9]{1,3})?\.[a-z]{2,3}(:[0-9]{1,5})?", fullmatch=True)
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)


@given(
    _HOST | st.just("localhost:5000"),
    st.lists(_COMPONENT, min_size=1, max_size=4),
    st.none() | _TAG,
    st.none() | st.binary(max_size=4).map(Digest.of),
)
def test_every_part_survives_being_written_and_read(
    host: str, components: list[str], tag: str | None, digest: Digest | None
) -> None:
    path = "/".join(components)
    reference = Reference.parse(f"{host}/{path}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}")
    assert reference == Reference(host, path, tag, digest)
    again = Reference.parse(str(reference))
    assert again == Reference(host, path, None if digest else tag or "latest", digest)


@given(st.text() | st.from_regex(r"[A-Za-z0-9._:/@\[\]-]{0,40}", fullmatch=True))
def test_arbitrary_text_gives_a_reference_or_the_typed_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert str(Reference.parse(str(reference))) == str(reference)


@pytest.mark.parametrize("case", vectors("references.json", "cases"))
def test_vectors(case: dict[str, Any]) -> None:
    if not case["valid"]:
        with pytest.raises(InvalidReference):
            Reference.parse(case["input"])
        return
    expected = case["expected"]
    reference = Reference.parse(case["input"])
    assert reference.registry == expected["registry"]
    assert reference.repository == expected["repository"]
    assert reference.tag == expected["tag"]
    assert (str(reference.digest) if reference.digest else None) == expected["digest"]
    assert str(reference) == expected["pull_reference"]
