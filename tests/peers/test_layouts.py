"""What lading exports, skopeo and tar take; what they write, lading imports; every digest stays what it is."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import tarfile
import urllib.request
from pathlib import Path

import pytest
from artifacts import INDEX, MANIFEST
from layouts import REF_NAME, HandMade
from peer_programs import DockerRegistry, Lading, Skopeo, program

LARGE = random.Random(1).randbytes(300_000)
YAML = b"agents:\n  root:\n    model: openai/gpt-4o\n"
CATALOG = ["agentcatalog/pirate", "agentcatalog/dev-team", "agentcatalog/sub-agents-from-catalog"]


def digest_in(registry: DockerRegistry, name: str, tag: str) -> str:
    """What a tag stands for, computed from the bytes that the registry gives."""
    accept = {"Accept": f"{MANIFEST}, {INDEX}"}
    request = urllib.request.Request(f"http://{registry.host}/v2/{name}/manifests/{tag}", headers=accept)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return "sha256:" + hashlib.sha256(answer.read()).hexdigest()


def copy_all(source: str, target: str) -> None:
    options = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"]
    command = [program("skopeo"), "--insecure-policy", "copy", "--quiet", *options, source, target]
    subprocess.run(command, check=True)


def platforms() -> tuple[HandMade, str, dict[str, str]]:
    """A layout with an image for two platforms; the digests of the index and of both."""
    layout = HandMade()
    manifests = {arch: layout.manifest(LARGE, arch.encode(), architecture=arch) for arch in ("amd64", "arm64")}
    digest = layout.list(layout.index(**manifests))
    return layout, digest, {arch: "sha256:" + hashlib.sha256(raw).hexdigest() for arch, raw in manifests.items()}


@pytest.mark.parametrize(("transport", "target"), [("oci", "out"), ("oci-archive", "out.tar")])
def test_skopeo_copies_what_lading_exported(
    docker_registry: DockerRegistry, skopeo: Skopeo, lading: Lading, transport: str, target: str
) -> None:
    host, path = docker_registry.host, lading.directory / target
    pinned = lading("push", "-", f"{host}/exported/agent:v1", stdin=YAML).decode().strip()
    lading("fetch", f"{host}/exported/agent:v1")
    assert lading("export", f"{host}/exported/agent:v1", target).decode() == pinned + "\n"
    skopeo.copy(f"{transport}:{path}:v1", f"docker://{host}/exported/{transport}:v1")
    assert pinned.endswith(digest_in(docker_registry, f"exported/{transport}", "v1"))
    assert lading("cat", f"{host}/exported/{transport}:v1", store="other") == YAML


def test_skopeo_finds_images_with_one_tag_by_their_whole_names(
    docker_registry: DockerRegistry, skopeo: Skopeo, lading: Lading
) -> None:
    host = docker_registry.host
    references = [f"{host}/several/{name}:v1" for name in ("one", "two")]
    pinned = [lading("push", "-", ref, stdin=YAML + ref.encode()).decode().strip() for ref in references]
    for reference in references:
        lading("fetch", reference)
    lading("export", *references, "out")
    for number, reference in enumerate(references):
        skopeo.copy(f"oci:{lading.directory}/out:{reference}", f"docker://{host}/several/copy:{number}")
        assert pinned[number].endswith(digest_in(docker_registry, "several/copy", str(number)))


def test_lading_imports_what_skopeo_wrote(docker_registry: DockerRegistry, skopeo: Skopeo, lading: Lading) -> None:
    host = docker_registry.host
    pinned = lading("push", "-", f"{host}/written/agent:v1", stdin=YAML).decode().strip()
    for source in (f"oci:{lading.directory}/written:v1", f"oci-archive:{lading.directory}/written.tar:v1"):
        skopeo.copy(f"docker://{host}/written/agent:v1", source)
        path, store = source.split(":")[1], source.partition(":")[0]
        assert lading("import", path, "--as", f"{host}/written/agent:v1", store=store).decode() == pinned + "\n"
        assert lading("cat", "--offline", pinned, store=store) == YAML
        assert lading("cat", "--offline", f"{host}/written/agent:v1", store=store) == YAML


def test_every_platform_there_and_back(docker_registry: DockerRegistry, lading: Lading) -> None:
    host = docker_registry.host
    layout, digest, images = platforms()
    copy_all(f"oci:{layout.write(lading.directory / 'made')}:v1", f"docker://{host}/there/image:v1")
    assert digest_in(docker_registry, "there/image", "v1") == digest
    lading("fetch", "--all-platforms", f"{host}/there/image:v1")
    lading("export", f"{host}/there/image:v1", "all.tar")
    copy_all(f"oci-archive:{lading.directory}/all.tar:v1", f"docker://{host}/back/image:v1")
    assert digest_in(docker_registry, "back/image", "v1") == digest

    lading("import", "all.tar", store="other")
    assert lading("export", "--platform", "linux/arm64", f"{host}/there/image:v1", "arm", store="other")
    copy_all(f"oci:{lading.directory}/arm:v1", f"docker://{host}/arm/image:v1")
    assert digest_in(docker_registry, "arm/image", "v1") == images["arm64"]


def test_skopeo_and_lading_write_one_layout(docker_registry: DockerRegistry, skopeo: Skopeo, lading: Lading) -> None:
    """What the other one put there stays, and the same tag is replaced."""
    host, out = docker_registry.host, lading.directory / "out"
    pinned = [lading("push", "-", f"{host}/shared/agent:v{n}", stdin=YAML + b"#%d" % n).decode() for n in (1, 2, 3)]
    for n in (1, 2):
        skopeo.copy(f"docker://{host}/shared/agent:v{n}", f"oci:{out}:v{n}")
        lading("fetch", f"{host}/shared/agent:v{n + 1}")
    lading("export", f"{host}/shared/agent:v2", f"{host}/shared/agent:v3", "out")
    skopeo.copy(f"docker://{host}/shared/agent:v1", f"oci:{out}:v4")
    listed = {
        entry["annotations"][REF_NAME]: entry["digest"]
        for entry in json.loads((out / "index.json").read_bytes())["manifests"]
    }
    expected = [one.strip().rpartition("@")[2] for one in [*pinned, pinned[0]]]
    assert listed == {f"v{n}": digest for n, digest in enumerate(expected, start=1)}


@pytest.mark.parametrize("name", CATALOG)
def test_docker_agents_own_artifacts(docker_agent_artifacts: Path, lading: Lading, name: str) -> None:
    ref = f"docker.io/{name}:latest"
    pinned = lading("import", str(docker_agent_artifacts), f"{name}:latest", "--as", ref).decode().strip()
    index = json.loads((docker_agent_artifacts / "index.json").read_bytes())
    (entry,) = (one for one in index["manifests"] if one["annotations"][REF_NAME] == f"{name}:latest")
    assert pinned == f"docker.io/{name}@{entry['digest']}"

    def blob(digest: str) -> bytes:
        return (docker_agent_artifacts / "blobs" / digest.replace(":", "/")).read_bytes()

    content = gzip.decompress(blob(json.loads(blob(entry["digest"]))["layers"][0]["digest"]))
    assert lading("cat", "--offline", name) == lading("cat", "--offline", pinned) == content
    lading("export", name, "out.tar")
    assert lading("import", "out.tar", store="other").decode().strip() == pinned


@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar"])
def test_a_tar_that_tar_made(lading: Lading, kind: str) -> None:
    layout, digest, _ = platforms()
    layout.write(lading.directory / "made")
    made = lading.directory / "made.tar"
    subprocess.run(
        [program("tar"), f"--format={kind}", "-C", str(lading.directory / "made"), "-cf", made, "."], check=True
    )
    ref = "ghcr.io/acme/image:v1"
    assert lading("import", "made.tar", "--as", ref).decode() == f"ghcr.io/acme/image@{digest}\n"
    lading("export", ref, "out.tar")
    lading("export", ref, "out")
    (lading.directory / "unpacked").mkdir()
    subprocess.run(
        [program("tar"), "-C", lading.directory / "unpacked", "-xf", lading.directory / "out.tar"], check=True
    )
    assert _files(lading.directory / "unpacked") == _files(lading.directory / "out")
    with tarfile.open(lading.directory / "out.tar") as archive:
        assert archive.getnames() == sorted(archive.getnames())
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in archive} == {(0, 0, 0, "")}


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
