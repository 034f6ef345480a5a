"""Images and large layers: what is bound by the disk, by one connection, or by what was there before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.plan import Contender, Prepared, Scenario, Workshop
from benchmarks.servers import Server, far, nginx
from benchmarks.shelf import TAG, Published, Shelf

_MB = 1_000_000
CONCURRENCY = 8
"""Blobs in flight at once: lading's default, and what everybody else who can be told is told."""


def spec_of(server: Server, shelf: Shelf, image: Published) -> dict[str, Any]:
    """Give what every job with an image is told."""
    return {
        "ref": f"{server.host}/{image.repository}:{TAG}",
        "blobs": dict(image.blobs),
        "layers": list(image.layers),
        "blobs_url": f"http://{server.host}/v2/{image.repository}/blobs",
        "shelf": str(shelf.root / "v2" / image.repository / "blobs"),
        "concurrency": CONCURRENCY,
    }


def contenders(spec: dict[str, Any]) -> tuple[Contender, ...]:
    """Give everybody who pulls an image, and the limits."""
    return (
        Contender("lading", "lading", "lading", "large.pull", spec),
        Contender("uvloop", "lading, on uvloop", "lading", "large.pull_on_uvloop", spec, needs="python:uvloop"),
        Contender("bare", "bare aiohttp loop: write, hash, fsync", "limit", "bare.written", spec),
        Contender("skopeo", "skopeo copy", "peer", "programs.skopeo", spec, needs="skopeo"),
        Contender("crane", "crane pull", "peer", "programs.crane", spec, needs="crane"),
        Contender("oras", "oras copy", "peer", "programs.oras", spec, needs="oras"),
        Contender("regctl", "regctl image copy", "peer", "programs.regctl", spec, needs="regctl"),
        Contender("oras-py", "oras-py", "python peer", "peers.oras_image", spec, needs="python:oras"),
        Contender("dxf", "python-dxf", "python peer", "peers.dxf_image", spec, needs="python:dxf"),
        Contender(
            "drca",
            "docker-registry-client-async",
            "python peer",
            "peers.drca_image",
            spec,
            needs="python:docker_registry_client_async",
        ),
        Contender("sockets", "blocking sockets in threads: write, hash, fsync", "limit", "bare.sockets", spec),
        Contender("hash", "bare aiohttp loop: hash", "limit", "bare.hashed", spec),
        Contender("discard", "bare aiohttp loop: discard", "limit", "bare.discard", spec),
        Contender("curl", "curl --parallel: write", "limit", "programs.curl", spec, needs="curl"),
        Contender("sha256", "no network: hash", "limit", "bare.sha256", spec),
        Contender("disk", "no network: write, fsync", "limit", "bare.disk", spec),
    )


@contextmanager
def _published(workshop: Workshop, name: str, sizes: Sequence[int]) -> Iterator[tuple[Server, Shelf, Published]]:
    directory = workshop.directory / name
    shelf = Shelf(directory / "static", workshop.seed)
    image = shelf.image("bench/image", [workshop.scaled(size, least=300_000) for size in sizes])
    with nginx(directory / "nginx", shelf) as server:
        yield server, shelf, image


@contextmanager
def _whole(workshop: Workshop, name: str, sizes: Sequence[int], names: Sequence[str] = ()) -> Iterator[Prepared]:
    with _published(workshop, name, sizes) as (server, shelf, image):
        who = tuple(one for one in contenders(spec_of(server, shelf, image)) if not names or one.name in names)
        yield Prepared(who, server, len(image.layers), sum(image.blobs.values()))


_image = partial(_whole, name="image", sizes=[40 * _MB] * 12)
_layer = partial(_whole, name="layer", sizes=[500 * _MB])
_huge = partial(_whole, name="huge", sizes=[4000 * _MB], names=("lading", "bare", "skopeo"))


@contextmanager
def _limited(workshop: Workshop) -> Iterator[Prepared]:
    with _published(workshop, "bandwidth", [120 * _MB]) as (server, shelf, image), far(server, 0.02, 10e6) as distant:
        who = contenders(spec_of(distant, shelf, image))
        chosen = tuple(one for one in who if one.name in ("lading", "bare", "skopeo", "crane", "oras", "curl"))
        yield Prepared(chosen, distant, len(image.layers), sum(image.blobs.values()), rtt=0.02)


@contextmanager
def _resumed(workshop: Workshop) -> Iterator[Prepared]:
    with _published(workshop, "resume", [400 * _MB]) as (server, shelf, image), far(server, 0.0, 200e6) as distant:
        spec = spec_of(distant, shelf, image)
        who = (
            Contender("lading", "lading, after a kill", "lading", "large.pull", spec, before="large.kill_halfway"),
            Contender("anew", "lading, from the start", "lading", "large.pull", spec),
            Contender("skopeo", "skopeo copy", "peer", "programs.skopeo", spec, needs="skopeo"),
        )
        yield Prepared(who, distant, len(image.layers), sum(image.blobs.values()))


@contextmanager
def _processes(workshop: Workshop) -> Iterator[Prepared]:
    with _published(workshop, "processes", [40 * _MB] * 4) as (server, shelf, image):
        spec = spec_of(server, shelf, image)
        who = (
            Contender("lading", "8 processes", "lading", "large.together", {**spec, "processes": 8}),
            Contender("one", "1 process", "lading", "large.together", {**spec, "processes": 1}),
        )
        yield Prepared(who, server, len(image.layers), sum(image.blobs.values()))


SCENARIOS = (
    Scenario(
        "image",
        "An image of 12 × 40 MB, from nginx",
        "bound by hashing and by the disk: everything is brought to it (fsync) before it counts",
        _image,
        baseline="bare",
    ),
    Scenario(
        "layer",
        "A layer of 500 MB, from nginx",
        "bound by one connection, by hashing, which can't be divided, and by the disk",
        _layer,
        baseline="bare",
    ),
    Scenario(
        "huge",
        "A layer of 4 GB, from nginx",
        "bound by the disk; the peak of memory is what is looked at",
        _huge,
        baseline="bare",
        most_rounds=3,
        on_request=True,
    ),
    Scenario(
        "bandwidth",
        "A layer of 120 MB where a connection gives 10 MB/s, 20 ms away",
        "bound by the bandwidth of a connection: several of them, each for a range, bring more",
        _limited,
        baseline="bare",
    ),
    Scenario(
        "resume",
        "A layer of 400 MB at 200 MB/s, pulled again after a kill halfway",
        "bound by what is left to be fetched, and by hashing what was there: a length proves nothing",
        _resumed,
        baseline="anew",
    ),
    Scenario(
        "processes",
        "An image of 4 × 40 MB, pulled by 8 processes at once into one store",
        "bound by starting eight processes: the bytes are fetched once",
        _processes,
        baseline="one",
    ),
)
"""What is large."""
