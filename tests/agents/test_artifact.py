"""Agent artifacts: which manifests hold an agent, where in them it is, and how it is unpacked."""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from vectors import layout

from lading.agents.artifact import AGENT_LIMIT, accept, choose, is_compressed, unpack
from lading.errors import NotAnAgent
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest, parse_manifest
from lading.oci.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

VERSION = "io.docker.agent.version"
LEGACY = "io.docker.cagent.version"
YAML = b"agents:\n  root:\n    model: auto\n" * 50


def named(name: str) -> str:
    return str(Digest.of(name.encode()))


def manifest(annotations: dict[str, str] | None, *sizes: int, **fields: Any) -> Manifest:
    descriptors = [
        {"mediaType": "application/yaml", "digest": named(str(position)), "size": size}
        for position, size in enumerate(sizes)
    ]
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/json", "digest": named("config"), "size": 2},
        "layers": descriptors,
        "annotations": annotations,
        **fields,
    }
    parsed = parse_manifest(json.dumps(document).encode(), OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    return parsed


def child(name: str, platform: str | None, media_type: str = OCI_MANIFEST, **annotations: str) -> dict[str, Any]:
    """Describe a manifest; its digest is that of ``name``."""
    descriptor: dict[str, Any] = {"mediaType": media_type, "digest": named(name), "size": 5, "annotations": annotations}
    if platform is not None:
        system, _, architecture = platform.partition("/")
        descriptor["platform"] = {"os": system, "architecture": architecture}
    return descriptor


def index(*children: dict[str, Any]) -> Index:
    parsed = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": children}).encode(), OCI_INDEX)
    assert isinstance(parsed, Index)
    return parsed


class TestAccept:
    @pytest.mark.parametrize(
        "annotations",
        [{VERSION: "v1"}, {LEGACY: "v1"}, {VERSION: "v1", LEGACY: "v2"}, {VERSION: ""}, {LEGACY: "", "other": "x"}],
        ids=["new", "legacy", "both", "empty", "others too"],
    )
    def test_either_annotation_marks_an_agent(self, annotations: dict[str, str]) -> None:
        assert accept(manifest(annotations, 10)).size == 10

    @pytest.mark.parametrize("annotations", [None, {}, {"io.docker.agent.versions": "v1"}, {VERSION.upper(): "v1"}])
    def test_without_one_it_is_no_agent(self, annotations: dict[str, str] | None) -> None:
        with pytest.raises(NotAnAgent, match=f"neither {VERSION} nor {LEGACY}"):
            accept(manifest(annotations, 10))

    def test_types_say_nothing(self) -> None:
        accept(manifest({VERSION: "v1"}, 10, artifactType="application/vnd.example", mediaType=OCI_MANIFEST))

    def test_the_first_layer_holds_the_agent(self) -> None:
        assert accept(manifest({VERSION: "v1"}, 10, 20)).size == 10

    def test_without_a_layer_it_is_no_agent(self) -> None:
        with pytest.raises(NotAnAgent, match="no layer"):
            accept(manifest({VERSION: "v1"}))

    def test_a_layer_has_32_mebibytes_at_most(self) -> None:
        assert accept(manifest({VERSION: "v1"}, AGENT_LIMIT)).size == AGENT_LIMIT
        with pytest.raises(NotAnAgent, match=f"{AGENT_LIMIT + 1} bytes, more than {AGENT_LIMIT}"):
            accept(manifest({VERSION: "v1"}, AGENT_LIMIT + 1))

    def test_the_size_of_further_layers_says_nothing(self) -> None:
        assert accept(manifest({VERSION: "v1"}, 10, 2**40)).size == 10


CHOICES: dict[str, list[dict[str, Any]]] = {
    "linux/amd64": [child("no", "linux/arm64"), child("yes", "linux/amd64")],
    "no platform": [child("no", "linux/arm64"), child("yes", None)],
    "the first of several": [child("yes", None), child("no", "linux/amd64"), child("no", None)],
    "the only one": [child("yes", "linux/arm64")],
    "Docker's type": [child("yes", "linux/amd64", DOCKER_MANIFEST)],
    "an attestation first": [
        child("no", "unknown/unknown", **{"vnd.docker.reference.type": "attestation-manifest"}),
        child("yes", "linux/amd64"),
    ],
    "an attestation for no platform": [
        child("no", None, **{"vnd.docker.reference.type": "attestation-manifest"}),
        child("yes", "linux/arm64"),
    ],
    "an index beside": [child("no", None, OCI_INDEX), child("yes", None)],
    "something else beside": [child("no", None, "application/vnd.example"), child("yes", None)],
}

NO_CHOICE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing": ([], "it has none"),
    "others only": ([child("a", "linux/arm64"), child("b", "windows/amd64")], "it has linux/arm64, windows/amd64"),
    "an index only": ([child("a", None, OCI_INDEX)], "it has none"),
    "an attestation only": ([child("a", None, **{"vnd.docker.reference.type": "x"})], "it has none"),
}


class TestChoose:
    @pytest.mark.parametrize("children", CHOICES.values(), ids=CHOICES.keys())
    def test_the_manifest_that_may_hold_the_agent(self, children: list[dict[str, Any]]) -> None:
        assert str(choose(index(*children)).digest) == named("yes")

    @pytest.mark.parametrize(("children", "said"), NO_CHOICE.values(), ids=NO_CHOICE.keys())
    def test_where_there_is_none_the_error_lists_what_is_there(self, children: list[dict[str, Any]], said: str) -> None:
        with pytest.raises(NotAnAgent, match=said):
            choose(index(*children))


def gzip_bomb(size: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    zeros = bytes(1024 * 1024)
    return b"".join([*(compressor.compress(zeros) for _ in range(size // len(zeros))), compressor.flush()])


def zstd_bomb(blocks: int) -> bytes:
    """A frame of RFC 8878 whose blocks of 4 bytes stand for 128 KiB each."""
    header = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + bytes([0x00, 0x38])
    size, repeated, last = 128 * 1024 << 3, 1 << 1, 1
    return (
        header
        + ((size | repeated).to_bytes(3, "little") + b"a") * (blocks - 1)
        + (size | repeated | last).to_bytes(3, "little")
        + b"a"
    )


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}
packers = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())


class TestUnpack:
    @pytest.mark.parametrize("layer", [YAML, b"", b"\x1f", b"PK\x03\x04", b"\x28\xb5\x2f", b"\0" * 10])
    def test_what_isnt_compressed_is_given_as_it_is(self, layer: bytes) -> None:
        assert not is_compressed(layer)
        assert unpack(layer) is layer

    @packers
    @pytest.mark.parametrize(
        "content", [b"", YAML, random.Random(1).randbytes(300_000)], ids=["empty", "YAML", "noise"]
    )
    def test_the_bytes_decide(self, pack: Callable[[bytes], bytes], content: bytes) -> None:
        assert is_compressed(pack(content))
        assert unpack(pack(content)) == content

    @packers
    def test_it_unpacks_once_only(self, pack: Callable[[bytes], bytes]) -> None:
        assert unpack(pack(pack(YAML))) == pack(YAML)

    def test_a_gzip_name_and_comment_are_skipped(self) -> None:
        header = b"\x1f\x8b\x08" + bytes([0x08 | 0x10]) + bytes(6) + b"triage.yaml\0a comment\0"
        assert unpack(header + gzip.compress(YAML)[10:]) == YAML

    @packers
    def test_the_parts_of_a_stream_are_joined(self, pack: Callable[[bytes], bytes]) -> None:
        assert unpack(pack(YAML) + pack(b"") + pack(b"# end\n")) == YAML + b"# end\n"

    @packers
    def test_a_part_may_begin_at_any_byte(self, pack: Callable[[bytes], bytes]) -> None:
        noise = random.Random(1).randbytes(64 * 1024)
        for length in range(len(noise) - 40, len(noise)):
            assert unpack(pack(noise[:length]) + pack(YAML)) == noise[:length] + YAML

    @packers
    def test_a_hundred_parts_are_enough(self, pack: Callable[[bytes], bytes]) -> None:
        assert unpack(pack(b"a") * 100) == b"a" * 100
        with pytest.raises(NotAnAgent, match="more than 100"):
            unpack(pack(b"a") * 101)

    @packers
    def test_a_million_empty_parts_are_refused_at_once(self, pack: Callable[[bytes], bytes]) -> None:
        started = time.process_time()
        with pytest.raises(NotAnAgent, match="more than 100"):
            unpack(pack(b"") * 1_000_000)
        assert time.process_time() - started < 1

    @packers
    def test_trailing_zeros_are_padding(self, pack: Callable[[bytes], bytes]) -> None:
        assert unpack(pack(YAML) + bytes(1000)) == YAML

    @packers
    @pytest.mark.parametrize("rest", [b"x", b"\0\0x", b"\x1f", YAML], ids=["text", "padded", "half a magic", "YAML"])
    def test_anything_else_that_follows_is_refused(self, pack: Callable[[bytes], bytes], rest: bytes) -> None:
        with pytest.raises(NotAnAgent, match="follows"):
            unpack(pack(YAML) + rest)

    @packers
    def test_it_is_refused_wherever_it_is_cut_short(self, pack: Callable[[bytes], bytes]) -> None:
        layer = pack(YAML)
        for length in range(4, len(layer)):
            with pytest.raises(NotAnAgent, match="cut short"):
                unpack(layer[:length])

    @packers
    def test_it_is_refused_where_its_second_part_is_cut_short(self, pack: Callable[[bytes], bytes]) -> None:
        layer = pack(YAML)
        with pytest.raises(NotAnAgent, match="cut short"):
            unpack(layer + layer[:-1])

    @packers
    def test_damage_is_the_typed_error(self, pack: Callable[[bytes], bytes]) -> None:
        layer = pack(YAML)
        for position in range(4, len(layer)):
            damaged = bytearray(layer)
            damaged[position] ^= 0x55
            try:
                unpack(bytes(damaged))
            except NotAnAgent:
                continue

    def test_a_wrong_checksum_is_refused(self) -> None:
        layer = bytearray(gzip.compress(YAML))
        layer[-8] ^= 1
        with pytest.raises(NotAnAgent, match="damaged"):
            unpack(bytes(layer))

    @pytest.mark.parametrize("mebibytes", [31, 32])
    def test_32_mebibytes_are_unpacked(self, mebibytes: int) -> None:
        assert len(unpack(gzip_bomb(mebibytes * 1024 * 1024))) == mebibytes * 1024 * 1024

    @pytest.mark.parametrize(
        "bomb",
        [gzip_bomb(AGENT_LIMIT + 1024 * 1024), gzip_bomb(512 * 1024 * 1024), zstd_bomb(257), zstd_bomb(100_000)],
        ids=["gzip, 33 MiB", "gzip, 512 MiB", "zstd, 32 MiB and a block", "zstd, 12 GiB"],
    )
    def test_a_bomb_is_defused_in_bounded_memory(self, bomb: bytes) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(NotAnAgent, match=f"more than {AGENT_LIMIT} bytes"):
                unpack(bomb)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 64 * 1024 * 1024

    def test_a_zstd_window_that_is_too_large_is_refused(self) -> None:
        # RFC 8878, section 3.1.1.1.2: a window descriptor of 0xff asks for more than a terabyte.
        with pytest.raises(NotAnAgent, match="damaged"):
            unpack(zstandard.MAGIC_NUMBER.to_bytes(4, "little") + bytes([0x00, 0xFF, 0x01, 0x00, 0x00]))

    def test_without_the_package_zstd_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(NotAnAgent, match=r"pip install 'lading\[zstd\]'"):
            unpack(zstandard.compress(YAML))


class TestRealArtifacts:
    @pytest.mark.parametrize("name", ["pirate", "dev-team", "sub-agents-from-catalog"])
    def test_what_docker_agent_pushed_is_an_agent(self, name: str) -> None:
        blobs = layout("docker-agent-artifacts", "blobs", "sha256")
        entries = json.loads(layout("docker-agent-artifacts", "index.json").read_bytes())["manifests"]
        entry = next(
            Descriptor.from_json(entry)
            for entry in entries
            if entry["annotations"]["org.opencontainers.image.ref.name"] == f"agentcatalog/{name}:latest"
        )
        document = parse_manifest(entry.check((blobs / entry.digest.encoded).read_bytes()), entry.media_type)
        assert isinstance(document, Manifest)
        layer = accept(document)
        packed = layer.check((blobs / layer.digest.encoded).read_bytes())
        assert is_compressed(packed)
        content = unpack(packed)
        assert content == layout("agents", f"{name}.yaml").read_bytes()
        config = json.loads((blobs / document.config.digest.encoded).read_bytes())
        assert config["rootfs"]["diff_ids"] == [str(Digest.of(content))]
