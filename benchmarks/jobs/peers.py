"""The clients in Python, each used at its best: clients and connections kept, as many threads or tasks as lading has.

Where a peer checks no digest, it isn't made to; none brings anything to the disk, so none waits for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import aiofiles

from benchmarks.child import Outcome, Spec
from benchmarks.jobs.checking import files_below, right_files
from benchmarks.meter import metered
from benchmarks.shelf import TAG

_PIECE = 1024 * 1024

Pull = Callable[[str, str, Path], None]
"""Pulls what a repository of a host has, into a directory."""


def _layers(manifest: Any) -> Iterable[str]:
    return [layer["digest"] for layer in manifest["layers"]]


# oras-py


def _oras_puller() -> Pull:
    oras = import_module("oras.client")
    kept = threading.local()

    def pull(host: str, repository: str, directory: Path) -> None:
        if not hasattr(kept, "client"):
            kept.client = oras.OrasClient(insecure=True)
        client, name = kept.client, kept.client.get_container(f"{host}/{repository}:{TAG}")
        # Not its `pull`, which would unpack the layers of an image.
        for digest in _layers(client.get_manifest(name)):
            client.download_blob(name, digest, str(directory / digest))

    return pull


def oras_image(spec: Spec) -> Outcome:
    """Pull an image with oras-py: one layer after the other, unverified."""
    return _one(spec, _oras_puller())


def oras_agents(spec: Spec) -> Outcome:
    """Pull many agents with oras-py in threads, each with a client of its own."""
    return _many(spec, _oras_puller())


def oras_each(spec: Spec) -> Outcome:
    """Pull one agent after the other with oras-py, each with a new client."""
    return _each(spec, _oras_puller)


# python-dxf


def _dxf_puller() -> Pull:
    dxf, requests = import_module("dxf"), import_module("requests")
    kept = threading.local()

    def pull(host: str, repository: str, directory: Path) -> None:
        client = dxf.DXF(host, repository, insecure=True)
        if not hasattr(kept, "session"):
            kept.session = requests.Session()
        client._sessions = [kept.session]
        manifest, _ = client.get_manifest_and_response(TAG)
        for digest in _layers(json.loads(manifest)):
            with (directory / digest).open("wb") as file:
                for piece in client.pull_blob(digest, chunk_size=_PIECE):
                    file.write(piece)

    return pull


def dxf_image(spec: Spec) -> Outcome:
    """Pull an image with python-dxf: one layer after the other, verified."""
    return _one(spec, _dxf_puller())


def dxf_agents(spec: Spec) -> Outcome:
    """Pull many agents with python-dxf in threads, each with connections of its own."""
    return _many(spec, _dxf_puller())


def dxf_each(spec: Spec) -> Outcome:
    """Pull one agent after the other with python-dxf, each with new connections."""
    return _each(spec, _dxf_puller)


# docker-registry-client-async


def _drca() -> Any:
    """Give the module; what is measured calls this before the clock starts, so that the import isn't."""
    return import_module("docker_registry_client_async")


async def _drca_pull(client: Any, host: str, repository: str, directory: Path) -> None:
    name = _drca().ImageName(repository, endpoint=host, tag=TAG)
    taken = await client.get_manifest(name, protocol="http")
    for digest in _layers(taken.manifest.get_json()):
        blob = (await client.get_blob(name, _drca().FormattedSHA256.parse(digest), protocol="http")).blob
        assert "sha256:" + hashlib.sha256(blob).hexdigest() == digest
        (directory / digest).write_bytes(blob)


def drca_image(spec: Spec) -> Outcome:
    """Pull an image with docker-registry-client-async, layers at the same time, through aiofiles."""
    host, _, repository = spec["ref"].removesuffix(f":{TAG}").partition("/")
    directory = Path(spec["directory"])

    async def run() -> None:
        limit = asyncio.Semaphore(spec["concurrency"])
        name = _drca().ImageName(repository, endpoint=host, tag=TAG)

        async def fetch(digest: str) -> None:
            async with limit, aiofiles.open(directory / digest, "w+b") as file:
                expected = _drca().FormattedSHA256.parse(digest)
                found = await client.get_blob_to_disk(name, expected, file, protocol="http")
            assert found.digest == digest

        async with _drca().DockerRegistryClientAsync() as client, asyncio.TaskGroup() as group:
            manifest = (await client.get_manifest(name, protocol="http")).manifest
            for digest in _layers(manifest.get_json()):
                group.create_task(fetch(digest))

    _drca()
    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, right_files(files_below(directory), spec["layers"]))


def drca_agents(spec: Spec) -> Outcome:
    """Pull many agents with docker-registry-client-async, with one client."""
    directory = Path(spec["directory"])

    async def run() -> None:
        limit = asyncio.Semaphore(spec["concurrency"])

        async def pull(repository: str) -> None:
            async with limit:
                await _drca_pull(client, spec["host"], repository, directory)

        async with _drca().DockerRegistryClientAsync() as client, asyncio.TaskGroup() as group:
            for repository in spec["agents"]:
                group.create_task(pull(repository))

    _drca()
    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, right_files(files_below(directory), spec["agents"].values()))


def drca_each(spec: Spec) -> Outcome:
    """Pull one agent after the other with docker-registry-client-async, each with a new client."""

    async def one(repository: str) -> float:
        started = time.perf_counter()
        async with _drca().DockerRegistryClientAsync() as client:
            await _drca_pull(client, spec["host"], repository, directory)
            return time.perf_counter() - started

    async def run() -> list[float]:
        return [await one(repository) for repository in spec["agents"]]

    directory = Path(spec["directory"])
    _drca()
    with metered() as usage:
        samples = asyncio.run(run())
    return Outcome(usage, right_files(files_below(directory), spec["agents"].values()), samples)


# What they have in common


def _one(spec: Spec, pull: Pull) -> Outcome:
    host, _, repository = spec["ref"].removesuffix(f":{TAG}").partition("/")
    directory = Path(spec["directory"])
    with metered() as usage:
        pull(host, repository, directory)
    return Outcome(usage, right_files(files_below(directory), spec["layers"]))


def _many(spec: Spec, pull: Pull) -> Outcome:
    directory = Path(spec["directory"])
    places = {repository: directory / repository.replace("/", "_") for repository in spec["agents"]}
    for place in places.values():
        place.mkdir()
    with metered() as usage, ThreadPoolExecutor(spec["concurrency"]) as threads:
        list(threads.map(lambda repository: pull(spec["host"], repository, places[repository]), places))
    return Outcome(usage, right_files(files_below(directory), spec["agents"].values()))


def _each(spec: Spec, puller: Callable[[], Pull]) -> Outcome:
    directory = Path(spec["directory"])
    samples = []
    puller()
    with metered() as usage:
        for repository in spec["agents"]:
            place = directory / repository.replace("/", "_")
            place.mkdir()
            started = time.perf_counter()
            puller()(spec["host"], repository, place)
            samples.append(time.perf_counter() - started)
    return Outcome(usage, right_files(files_below(directory), spec["agents"].values()), samples)
