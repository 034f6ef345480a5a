"""Manifests and indexes: what they are served as, what they say they are and what they look like is one thing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import vectors

from lading.errors import InvalidManifest
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, Manifest, parse_manifest
from lading.oci.media_types import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, essence, is_media_type

DIGEST = "sha256:" + "a1" * 32
DESCRIPTOR: dict[str, Any] = {"mediaType": "application/yaml", "digest": DIGEST, "size": 10}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [{**DESCRIPTOR, "mediaType": OCI_MANIFEST}]}


def raw(document: dict[str, Any], **fields: Any) -> bytes:
    merged = {**document, **fields}
    return json.dumps({key: value for key, value in merged.items() if value is not ...}).encode()


def test_a_manifest_is_read() -> None:
    content = raw(
        MANIFEST, mediaType=OCI_MANIFEST, artifactType="a/b", annotations={"k": "v"}, subject=DESCRIPTOR, future=1
    )
    manifest = parse_manifest(content, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert manifest.raw is content
    assert manifest.media_type == OCI_MANIFEST
    assert manifest.config.digest == Digest.parse(DIGEST)
    assert [layer.size for layer in manifest.layers] == [10]
    assert manifest.annotations == {"k": "v"}
    assert manifest.artifact_type == "a/b"
    assert manifest.subject == manifest.config


def test_an_index_is_read() -> None:
    content = raw(INDEX, mediaType=OCI_INDEX, artifactType="a/b", annotations={"k": "v"}, subject=DESCRIPTOR)
    index = parse_manifest(content, OCI_INDEX)
    assert isinstance(index, Index)
    assert index.raw is content
    assert [child.media_type for child in index.manifests] == [OCI_MANIFEST]
    assert (index.annotations, index.artifact_type) == ({"k": "v"}, "a/b")
    assert index.subject is not None


# What a document is served as, what it says it is, its shape: what it is (None: refused).
AGREEMENT = [
    (OCI_MANIFEST, OCI_MANIFEST, MANIFEST, OCI_MANIFEST),
    (DOCKER_MANIFEST, DOCKER_MANIFEST, MANIFEST, DOCKER_MANIFEST),
    (OCI_INDEX, OCI_INDEX, INDEX, OCI_INDEX),
    (DOCKER_INDEX, DOCKER_INDEX, INDEX, DOCKER_INDEX),
    (OCI_MANIFEST, ..., MANIFEST, OCI_MANIFEST),
    (DOCKER_MANIFEST, ..., MANIFEST, DOCKER_MANIFEST),
    (OCI_INDEX, ..., INDEX, OCI_INDEX),
    (None, OCI_MANIFEST, MANIFEST, OCI_MANIFEST),
    (None, DOCKER_INDEX, INDEX, DOCKER_INDEX),
    (None, ..., MANIFEST, OCI_MANIFEST),
    (None, ..., INDEX, OCI_INDEX),
    ("", ..., MANIFEST, OCI_MANIFEST),
    (f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST, MANIFEST, OCI_MANIFEST),
    (f"{OCI_MANIFEST.upper()} ;x", ..., MANIFEST, OCI_MANIFEST),
    (OCI_MANIFEST, None, MANIFEST, OCI_MANIFEST),
    (OCI_INDEX, OCI_MANIFEST, MANIFEST, None),
    (OCI_MANIFEST, OCI_INDEX, MANIFEST, None),
    (OCI_INDEX, OCI_INDEX, MANIFEST, None),
    (OCI_INDEX, ..., MANIFEST, None),
    (DOCKER_INDEX, ..., MANIFEST, None),
    (OCI_MANIFEST, OCI_MANIFEST, INDEX, None),
    (OCI_MANIFEST, ..., INDEX, None),
    (OCI_MANIFEST, OCI_INDEX, INDEX, None),
    (OCI_INDEX, OCI_MANIFEST, INDEX, None),
    (None, OCI_INDEX, MANIFEST, None),
    (None, OCI_MANIFEST, INDEX, None),
    ("text/html", OCI_MANIFEST, MANIFEST, None),
    ("application/json", ..., MANIFEST, None),
    (None, "application/json", MANIFEST, None),
    (OCI_MANIFEST, 5, MANIFEST, None),
    (OCI_MANIFEST, "", {**MANIFEST, **INDEX}, None),
    (OCI_MANIFEST, OCI_MANIFEST, {**MANIFEST, "manifests": None}, None),
    (OCI_INDEX, OCI_INDEX, {**INDEX, "layers": []}, None),
    (OCI_INDEX, OCI_INDEX, {**INDEX, "config": DESCRIPTOR}, None),
    (OCI_MANIFEST, OCI_MANIFEST, {**MANIFEST, "config": ...}, None),
    (OCI_MANIFEST, OCI_MANIFEST, {**MANIFEST, "layers": ...}, None),
    (OCI_MANIFEST, OCI_MANIFEST, {"schemaVersion": 2}, None),
    (None, ..., {"schemaVersion": 1, "fsLayers": [], "history": []}, None),
    (OCI_MANIFEST, OCI_MANIFEST, {**MANIFEST, "fsLayers": []}, None),
]


@pytest.mark.parametrize(("served", "declared", "document", "kind"), AGREEMENT)
def test_header_media_type_and_shape_agree(
    served: str | None, declared: object, document: dict[str, Any], kind: str | None
) -> None:
    content = raw(document, mediaType=declared)
    if kind is None:
        with pytest.raises(InvalidManifest):
            parse_manifest(content, served)
    else:
        assert parse_manifest(content, served).media_type == kind


REFUSED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"<html>",
    "cut short": raw(MANIFEST)[:-20],
    "not UTF-8": raw(MANIFEST, artifactType="é").replace(b"\\u00e9", b"\xe9"),
    "NUL bytes": b"\0" * 100,
    "NaN": raw(MANIFEST, x=float("nan")),
    "a list": b"[]",
    "a string": b'"x"',
    "a number of 5,000 digits": raw(MANIFEST, x=1)[:-2] + b"1" * 5000 + b"}",
    "a size of 5,000 digits": raw(MANIFEST).replace(b"10", b"1" * 5000),
    "Arabic digits": raw(MANIFEST).replace(b"10", "١٠".encode()),
    "duplicate key": raw(MANIFEST)[:-1] + b',"layers":[]}',
    "duplicate media type": b'{"mediaType":"a/b",' + raw(MANIFEST, mediaType=OCI_MANIFEST)[1:],
    "lone surrogate": raw(MANIFEST, annotations={"a": "\ud800"}),
    "depth 100,000": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "depth 100,000 in the middle": raw(MANIFEST)[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no schema version": raw(MANIFEST, schemaVersion=...),
    "schema version 1": raw(MANIFEST, schemaVersion=1),
    "schema version a string": raw(MANIFEST, schemaVersion="2"),
    "schema version null": raw(MANIFEST, schemaVersion=None),
    "schema version true": raw(MANIFEST, schemaVersion=True),
    "schema version a list": raw(MANIFEST, schemaVersion=[2]),
    "config null": raw(MANIFEST, config=None),
    "config a list": raw(MANIFEST, config=[]),
    "layers an object": raw(MANIFEST, layers={}),
    "layers a string": raw(MANIFEST, layers="x"),
    "a layer null": raw(MANIFEST, layers=[None]),
    "a layer without a digest": raw(MANIFEST, layers=[{**DESCRIPTOR, "digest": None}]),
    "a layer's digest a path": raw(MANIFEST, layers=[{**DESCRIPTOR, "digest": "sha256:../../x"}]),
    "manifests an object": raw(INDEX, manifests={}),
    "a manifest's size negative": raw(INDEX, manifests=[{**DESCRIPTOR, "size": -1}]),
    "annotations a list": raw(MANIFEST, annotations=["a"]),
    "an annotation a number": raw(MANIFEST, annotations={"a": 1}),
    "artifact type an object": raw(MANIFEST, artifactType={}),
    "subject a string": raw(MANIFEST, subject="x"),
    "one byte too large": b" " * (MANIFEST_LIMIT + 1 - len(raw(MANIFEST))) + raw(MANIFEST),
    "as many descriptors as fit": b'{"schemaVersion":2,"config":{},"layers":[' + b"{}," * 1_390_000 + b"{}]}",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_at_once(content: bytes) -> None:
    started = time.process_time()
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(content, None)
    assert time.process_time() - started < 5
    assert str(caught.value).isprintable()


def test_a_manifest_of_four_mebibytes_is_read() -> None:
    content = b" " * (MANIFEST_LIMIT - len(raw(MANIFEST))) + raw(MANIFEST)
    assert parse_manifest(content, OCI_MANIFEST).raw is content


@pytest.mark.parametrize("document", [{**MANIFEST, "layers": None}, {**MANIFEST, "layers": []}])
def test_an_empty_list_of_layers_may_be_null(document: dict[str, Any]) -> None:
    manifest = parse_manifest(raw(document), None)
    assert isinstance(manifest, Manifest)
    assert manifest.layers == ()


def test_an_empty_index_may_be_null() -> None:
    index = parse_manifest(raw(INDEX, manifests=None), None)
    assert isinstance(index, Index)
    assert index.manifests == ()


def test_a_size_beyond_any_disk_is_read_and_left_to_policy() -> None:
    manifest = parse_manifest(raw(MANIFEST, layers=[{**DESCRIPTOR, "size": 2**63 - 1}]), None)
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].size == 2**63 - 1


def test_the_page_of_a_captive_portal_is_named_as_such() -> None:
    with pytest.raises(InvalidManifest, match=r"served as 'text/html'.*sign-in page"):
        parse_manifest(b"<html>", "text/html")


def test_schema_1_says_what_to_do() -> None:
    with pytest.raises(InvalidManifest, match=r"schema 1.*push the image again"):
        parse_manifest(b'{"schemaVersion": 1, "fsLayers": []}', None)


def test_annotations_cant_be_changed() -> None:
    manifest = parse_manifest(raw(MANIFEST, annotations={"a": "b"}), None)
    with pytest.raises(TypeError):
        manifest.annotations["a"] = "c"  # type: ignore[index]


@given(st.binary() | st.text().map(str.encode), st.none() | st.sampled_from([OCI_MANIFEST, OCI_INDEX]) | st.text())
def test_arbitrary_bytes_give_the_typed_error(content: bytes, content_type: str | None) -> None:
    with pytest.raises(InvalidManifest):
        parse_manifest(content, content_type)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([DIGEST, OCI_MANIFEST, 2]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*DESCRIPTOR, "data"]), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [*MANIFEST, *INDEX, "mediaType", "annotations", "subject", "artifactType", "fsLayers", "platform"]
        ),
        _VALUES,
    ),
    st.sampled_from([MANIFEST, INDEX, {}]),
)
def test_an_arbitrary_document_gives_a_manifest_or_the_typed_error(
    fields: dict[str, Any], base: dict[str, Any]
) -> None:
    content = json.dumps({**base, **fields}).encode()
    try:
        document = parse_manifest(content, None)
    except InvalidManifest:
        return
    assert document.raw == content


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [("a/b", "a/b"), ("A/B; charset=utf-8", "a/b"), (" a/b\t;", "a/b"), ("", ""), (";a/b", "")],
)
def test_the_essence_of_a_content_type(content_type: str, expected: str) -> None:
    assert essence(content_type) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/vnd.docker.agent.config.v1+json", True),
        ("a" * 127 + "/" + "b" * 127, True),
        ("a" * 128 + "/b", False),
        ("a/b/c", False),
        ("a/", False),
        ("/b", False),
        ("a/b ", False),
        ("a/b\n", False),
        ("a/é", False),
        ("a/b;c", False),
        ("", False),
    ],
)
def test_what_is_a_media_type(text: str, expected: bool) -> None:
    assert is_media_type(text) is expected


@pytest.mark.parametrize("case", vectors("manifests.json", "manifests"))
def test_vectors(case: dict[str, Any]) -> None:
    content = case["raw"].encode("utf-8", "surrogatepass")
    try:
        parse_manifest(content, case["content_type"])
    except InvalidManifest:
        assert not case["verdict"].startswith("accept")
    else:
        assert case["verdict"] != "reject"


@pytest.mark.parametrize("case", vectors("manifests.json", "media_type_confusion"))
def test_vectors_of_confusion(case: dict[str, Any]) -> None:
    fields = json.loads(case["raw"])
    declared = fields.get("mediaType")
    # A vector says only what is confused: the rest of a document of the declared kind makes it whole.
    base = {} if declared is None else INDEX if declared in (OCI_INDEX, DOCKER_INDEX) else MANIFEST
    try:
        parse_manifest(raw(base, **fields), case["served_as"])
    except InvalidManifest:
        assert not case["media_type_check_ok"]
    else:
        assert case["media_type_check_ok"]
