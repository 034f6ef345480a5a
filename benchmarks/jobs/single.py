"""lading and one agent at a time, in every way that a pull can go; samples are seconds of one pull."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from pathlib import Path

import lading
import lading.network  # what the first request would import isn't measured here
from benchmarks.child import Outcome, Spec
from benchmarks.meter import metered
from benchmarks.shelf import OCI_MANIFEST, TAG

_AT_ONCE = 1000


def cold(spec: Spec) -> Outcome:
    """Pull one agent after the other, each with a new client and new connections, into the store that is there.

    With ``is_new`` each has a new store, too. The clock includes the construction.
    """

    async def one(repository: str, number: int) -> float:
        home = Path(spec["directory"]) / (str(number) if spec.get("is_new") else "store")
        started = time.perf_counter()
        async with lading.Client(home) as client:
            agent = await client.pull_agent(f"{spec['host']}/{repository}:{TAG}")
            elapsed = time.perf_counter() - started
        right.append(_is_right(spec, repository, agent))
        return elapsed

    async def run() -> list[float]:
        return [await one(repository, number) for number, repository in enumerate(spec["agents"])]

    right: list[bool] = []
    with metered() as usage:
        samples = asyncio.run(run())
    return Outcome(usage, sum(right), samples)


def into(spec: Spec) -> Outcome:
    """Pull one agent after the other into the store that is there."""
    return asyncio.run(_each(spec, Path(spec["directory"]) / "store"))


def kept(spec: Spec) -> Outcome:
    """Fill a store, unmeasured, so that others find it filled."""
    asyncio.run(_each(spec, Path(spec["directory"]) / "store"))
    with metered() as usage:
        pass
    return Outcome(usage, None)


def warm(spec: Spec) -> Outcome:
    """Pull what is cached: its tag is asked for, over a connection that is there but for the first time."""
    return asyncio.run(_each(spec, Path(spec["directory"]) / "store", expected="revalidated"))


def fresh(spec: Spec) -> Outcome:
    """Pull what was confirmed a moment ago."""
    return asyncio.run(_each(spec, Path(spec["directory"]) / "store", expected="fresh", max_age=3600))


def stale(spec: Spec) -> Outcome:
    """Pull what is cached while the registry is down."""
    return asyncio.run(_each(spec, Path(spec["directory"]) / "store", expected="stale"))


def pinned(spec: Spec) -> Outcome:
    """Read what is cached by its digest, as a synchronous look-up in one process, verified each time."""
    with _Offline(spec) as client:
        refs = {name: f"{spec['host']}/{name}@{digest}" for name, digest in spec["manifests"].items()}
        for ref in refs.values():
            client.cached(ref)
        samples, right = [], 0
        with metered() as usage:
            for _ in range(spec["times"]):
                for name, ref in refs.items():
                    started = time.perf_counter()
                    agent = client.cached(ref)
                    samples.append(time.perf_counter() - started)
                    right += agent is not None and _is_right(spec, name, agent)
    hundredths = statistics.quantiles(samples, n=100)
    extra = {"p99, µs": hundredths[98] * 1e6}
    return Outcome(usage, right // spec["times"], [statistics.median(samples)], extra)


def one_read(spec: Spec) -> Outcome:
    """Read the same number of files and hash them: what a verified read costs at least."""
    paths = [path for path in Path(spec["directory"]).rglob("*") if path.is_file()]
    samples = []
    with metered() as usage:
        for _ in range(spec["times"]):
            for path in paths:
                started = time.perf_counter()
                with open(path, "rb") as file:
                    hashlib.sha256(file.read()).hexdigest()
                samples.append(time.perf_counter() - started)
    return Outcome(usage, None, [statistics.median(samples)])


class _Offline:
    """A client without network on the store that is there."""

    def __init__(self, spec: Spec) -> None:
        self._client = lading.Client(Path(spec["directory"]) / "store", offline=True)

    def __enter__(self) -> lading.Client:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


async def _each(
    spec: Spec,
    home: Path,
    *,
    expected: str = "registry",
    max_age: float | None = None,
) -> Outcome:
    samples, right = [], 0
    async with lading.Client(home) as client:
        with metered() as usage:
            for repository in spec["agents"]:
                started = time.perf_counter()
                agent = await client.pull_agent(f"{spec['host']}/{repository}:{TAG}", max_age=max_age)
                samples.append(time.perf_counter() - started)
                right += agent.origin == expected and _is_right(spec, repository, agent)
    return Outcome(usage, right, samples)


def signed_in(spec: Spec) -> Outcome:
    """Fetch one agent of a registry that asks for tokens, as a new process does, with the store that is there."""
    from lading.auth.credentials import Credential, StaticCredentials

    async def run() -> lading.Agent:
        known = StaticCredentials({spec["host"]: Credential(spec["user"], spec["password"])})
        async with lading.Client(Path(spec["directory"]) / "store", credentials=known) as client:
            return await client.pull_agent(f"{spec['host']}/{spec['repository']}:{TAG}", force=True)

    with metered() as usage:
        agent = asyncio.run(run())
    return Outcome(usage, int(_is_right(spec, spec["repository"], agent)))


def _is_right(spec: Spec, repository: str, agent: lading.Agent) -> bool:
    return bool("sha256:" + hashlib.sha256(agent.content).hexdigest() == spec["agents"][repository])


def crowd(spec: Spec) -> Outcome:
    """Fill a store with many references, unmeasured: manifests of a usual size, as if they had been pulled."""
    from lading.store.store import Changes, Seen

    async def run() -> None:
        store = lading.LocalStore(Path(spec["directory"]) / "store")
        for start in range(0, spec["references"], _AT_ONCE):
            numbers = range(start, start + _AT_ONCE)
            contents = [b'{"number": %d, "padding": "%s"}' % (number, b"x" * 900) for number in numbers]
            digests = [lading.Digest.of(content) for content in contents]
            refs = [lading.Reference.parse(f"registry.example/crowd/agent-{number}:v1") for number in numbers]
            pairs = list(zip(refs, digests, strict=True))
            changes = Changes(
                time.time(),
                content=tuple(zip(digests, contents, strict=True)),
                seen=tuple(Seen(ref.name, digest, OCI_MANIFEST) for ref, digest in pairs),
                references=tuple((ref, digest, OCI_MANIFEST) for ref, digest in pairs),
            )
            await store.commit(changes)
        await store.aclose()

    with metered() as usage:
        asyncio.run(run())
    return Outcome(usage, None)
