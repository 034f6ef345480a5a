"""Descriptors: read strictly, written in full, and held against content."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from vectors import vectors

from lading.errors import DigestMismatch, InvalidManifest, SizeMismatch
from lading.oci.descriptor import Descriptor, Platform, shown
from lading.oci.digest import Digest
from lading.oci.strict_json import parse_json

CONTENT = b"agents: {}\n"
DIGEST = Digest.of(CONTENT)
PLAIN: dict[str, Any] = {"mediaType": "application/yaml", "digest": str(DIGEST), "size": len(CONTENT)}


def read(**fields: Any) -> Descriptor:
    return Descriptor.from_json({**PLAIN, **fields})


def test_a_descriptor_is_read() -> None:
    descriptor = read(
        urls=["https://example.com/x"],
        annotations={"org.opencontainers.image.title": "a.yaml"},
        data=base64.b64encode(CONTENT).decode(),
        artifactType="application/vnd.example",
        platform={
            "os": "windows",
            "architecture": "arm64",
            "variant": "v8",
            "os.version": "10.0",
            "os.features": ["win32k"],
        },
    )
    assert (descriptor.media_type, descriptor.digest, descriptor.size) == ("application/yaml", DIGEST, len(CONTENT))
    assert descriptor.urls == ("https://example.com/x",)
    assert descriptor.annotations == {"org.opencontainers.image.title": "a.yaml"}
    assert descriptor.data == CONTENT
    assert descriptor.artifact_type == "application/vnd.example"
    assert descriptor.platform == Platform("windows", "arm64", "v8", "10.0", ("win32k",))


@pytest.mark.parametrize("key", ["urls", "annotations", "data", "artifactType", "platform"])
def test_null_is_absent(key: str) -> None:
    assert read(**{key: None}) == Descriptor.from_json(PLAIN)


def test_unknown_fields_are_ignored() -> None:
    assert read(future={"a": 1}) == Descriptor.from_json(PLAIN)


@pytest.mark.parametrize("size", [0, 2**63 - 1])
def test_a_size_is_an_int64(size: int) -> None:
    assert read(size=size).size == size


REFUSED: dict[str, dict[str, Any]] = {
    "no media type": {"mediaType": None},
    "empty media type": {"mediaType": ""},
    "media type without a slash": {"mediaType": "yaml"},
    "media type with parameters": {"mediaType": "a/b; c=d"},
    "media type with a newline": {"mediaType": "a/b\n"},
    "media type too long": {"mediaType": "a" * 128 + "/b"},
    "media type a list": {"mediaType": ["a/b"]},
    "no digest": {"digest": None},
    "digest a number": {"digest": 5},
    "digest a path": {"digest": "sha256:../../x"},
    "digest unsupported": {"digest": "sha256+b64:" + "a" * 64},
    "no size": {"size": None},
    "negative size": {"size": -1},
    "size above int64": {"size": 2**63},
    "size a fraction": {"size": 1.5},
    "size a float": {"size": 10.0},
    "size a string": {"size": "10"},
    "size a boolean": {"size": True},
    "urls a string": {"urls": "https://example.com"},
    "urls an empty string": {"urls": ""},
    "urls false": {"urls": False},
    "urls of numbers": {"urls": [1]},
    "annotations a list": {"annotations": []},
    "annotation a number": {"annotations": {"a": 1}},
    "annotation null": {"annotations": {"a": None}},
    "data a number": {"data": 1},
    "data not base64": {"data": "a"},
    "data with white space": {"data": "YQ==\n"},
    "data in the URL alphabet": {"data": "_-8="},
    "data not ASCII": {"data": "é"},
    "artifact type a number": {"artifactType": 1},
    "platform a string": {"platform": "linux/amd64"},
    "os a number": {"platform": {"os": 1}},
    "os features a string": {"platform": {"os.features": "a"}},
    "os features an empty string": {"platform": {"os.features": ""}},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest):
        read(**fields)


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidManifest, match=r"layers\[3\] isn't a JSON object"):
        Descriptor.from_json(value, "layers[3]")


def test_the_error_says_where() -> None:
    with pytest.raises(InvalidManifest, match=r"layers\[3\]\.size: '10'"):
        Descriptor.from_json({**PLAIN, "size": "10"}, "layers[3]")


def test_an_error_shows_no_nested_value() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidManifest, match="a list isn't a digest"):
        read(digest=nested)
    while nested:  # one level at a time: its own clean-up would be as deep
        nested = nested.pop()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (None, "None"),
        (10**90, "1" + "0" * 79),
        ({"a": 1}, "an object"),
        ([1], "a list"),
        ("x" * 100, repr("x" * 80) + "…"),
    ],
)
def test_a_foreign_value_is_shown_bounded(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"urls": ["https://example.com/x"]},
        {"annotations": {"b": "1", "a": "2"}},
        {"data": base64.b64encode(CONTENT).decode()},
        {"data": ""},
        {"artifactType": "application/vnd.example"},
        {"platform": {"architecture": "arm", "os": "linux", "variant": "v7"}},
        {"platform": {"architecture": "amd64", "os": "windows", "os.version": "10", "os.features": ["a"]}},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_what_is_written_is_what_was_read(fields: dict[str, Any]) -> None:
    assert read(**fields).to_json() == {**PLAIN, **fields}


def test_content_is_given_back_if_it_is_what_is_named() -> None:
    assert read().check(CONTENT) is CONTENT


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x"])
def test_content_of_another_size_is_refused(content: bytes) -> None:
    with pytest.raises(SizeMismatch, match=f"{len(content)} bytes instead of {len(CONTENT)}"):
        read().check(content)


def test_other_content_of_the_same_size_is_refused() -> None:
    other = b"x" * len(CONTENT)
    with pytest.raises(DigestMismatch) as caught:
        read().check(other)
    assert str(DIGEST) in str(caught.value)
    assert str(Digest.of(other)) in str(caught.value)


def test_content_is_checked_with_the_algorithm_of_its_digest() -> None:
    assert read(digest=str(Digest.of(CONTENT, "sha512"))).check(CONTENT) is CONTENT


def test_embedded_content_is_verified_when_it_is_read() -> None:
    assert read(data=base64.b64encode(CONTENT).decode()).embedded() == CONTENT


def test_there_may_be_no_embedded_content() -> None:
    assert read().embedded() is None


def test_embedded_content_may_be_empty() -> None:
    empty = read(data="", size=0, digest=str(Digest.of(b"")))
    assert empty.embedded() == b""


@pytest.mark.parametrize("data", [b"", b"x", b"x" * len(CONTENT)], ids=["empty", "short", "other"])
def test_wrong_embedded_content_is_a_digest_mismatch(data: bytes) -> None:
    with pytest.raises(DigestMismatch):
        read(data=base64.b64encode(data).decode()).embedded()


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        (Platform("linux", "amd64"), "linux/amd64"),
        (Platform("linux", "arm", "v7"), "linux/arm/v7"),
        (Platform("", ""), "unknown"),
    ],
)
def test_a_platform_is_shown_as_docker_shows_it(platform: Platform, text: str) -> None:
    assert str(platform) == text


def test_descriptors_can_be_keys() -> None:
    assert len({read(annotations={"a": "b"}), read(annotations={"a": "b"}), read(size=1)}) == 2


@pytest.mark.parametrize("case", vectors("manifests.json", "descriptors"))
def test_vectors(case: dict[str, Any]) -> None:
    try:
        descriptor = Descriptor.from_json(parse_json(case["raw"]))
    except InvalidManifest:
        assert case["client_may_refuse"]
        return
    assert case["schema_valid"]
    assert descriptor.size == json.loads(case["raw"])["size"]
