"""lading on a network that goes wrong: the right bytes or a typed error, in time, and a store that stays intact."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from artifacts import publish
from ordeal import Ordeal

from lading import Client, Host, HostsConfig, LocalStore, MemoryStore, Reference, Retry, Store, Timeouts
from lading.auth.credentials import StaticCredentials
from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    Denied,
    DigestMismatch,
    LadingError,
    NotFound,
    ProtocolError,
    RateLimited,
    RegistryError,
    SizeMismatch,
    TimedOut,
    Unauthorized,
)
from lading.testing import EmbeddedRegistry
from lading.testing.faults import (
    FAULTS,
    AnswerLost,
    Bandwidth,
    Close,
    ContentRange,
    Drip,
    ETagChanged,
    ExpiredToken,
    Fault,
    Framing,
    Latency,
    LongBody,
    RangeIgnored,
    RangeUnasked,
    RangeWrong,
    Redirect,
    Reset,
    ShortBody,
    Stall,
    Status,
    TokenRefused,
    Unsatisfiable,
    WrongBytes,
    WrongContentLength,
)

REPOSITORY = "acme/triage"
DEADLINE = 10.0
"""Seconds within which everything here has ended, one way or the other."""

IMPATIENT = Timeouts(stall=0.1, first_byte=0.1)
"""Let silence count as such at once."""


def agent(version: int, size: int) -> bytes:
    return f"version: {version}\n#".encode() + b"x" * size


SMALL, LARGE = 1000, 300_000
"""Sizes of a layer that is kept in the store's index, and of one that isn't."""


Outcome = type[LadingError] | tuple[type[LadingError], ...] | None


@dataclass(frozen=True)
class Case:
    """What goes wrong with each request of a kind, and what comes of it; None: the right bytes all the same."""

    faults: tuple[Fault, ...]
    outcome: Outcome


def case(*faults: Fault, outcome: Outcome = None) -> Case:
    return Case(faults, outcome)


ANY_GET = [
    case(Reset(), outcome=ConnectFailed),
    case(Reset(0), outcome=BodyInterrupted),
    case(Reset(300), outcome=BodyInterrupted),
    case(Close(), outcome=ConnectFailed),
    case(Close(0), outcome=BodyInterrupted),
    case(Close(300), outcome=BodyInterrupted),
    case(AnswerLost(), outcome=ConnectFailed),
    case(ExpiredToken(300), outcome=BodyInterrupted),
    case(TokenRefused(), outcome=RegistryError),
    case(TokenRefused("http://169.254.169.254/token"), outcome=Unauthorized),
    case(WrongContentLength(10), outcome=BodyInterrupted),
    case(Framing("chunked")),
    case(Framing("close")),
    case(Framing("chunked"), Close(300), outcome=BodyInterrupted),
    case(Framing("close"), Close(300), outcome=BodyInterrupted),
    case(WrongBytes(300), outcome=DigestMismatch),
    case(Drip(chunk=30_000, seconds=0.001)),
    case(Drip(chunk=100, seconds=0.0)),
    case(Bandwidth(10_000_000)),
    case(Latency(0.001)),
    case(Status(500), outcome=RegistryError),
    case(Status(503, retry_after=7), outcome=RegistryError),
    case(Status(408), outcome=RegistryError),
    case(Status(404), outcome=NotFound),
    case(Status(403), outcome=Denied),
    case(Status(401), outcome=Unauthorized),
    case(Status(416), outcome=RegistryError),
    case(Status(429), outcome=RateLimited),
    case(Redirect(loop=True), outcome=ProtocolError),
    case(Redirect("http://127.0.0.1:1/"), outcome=ConnectFailed),
    case(Redirect("ftp://127.0.0.1/"), outcome=ProtocolError),
    case(Redirect("//user:secret@127.0.0.1/"), outcome=ProtocolError),
]
ON_MANIFEST = [
    *ANY_GET,
    case(ShortBody(10), outcome=DigestMismatch),
    case(LongBody(10), outcome=DigestMismatch),
    case(WrongContentLength(-10), outcome=(DigestMismatch, ProtocolError)),
]
ON_BLOB = [
    *ANY_GET,
    case(ShortBody(10), outcome=SizeMismatch),
    case(LongBody(1), outcome=SizeMismatch),
    case(LongBody(5_000_000), outcome=SizeMismatch),
    # What is too much is the beginning of another answer, if it comes in time: one that isn't HTTP.
    case(WrongContentLength(-10), outcome=(SizeMismatch, ProtocolError)),
    case(ETagChanged()),
    case(RangeUnasked(500), outcome=BodyInterrupted),
    # Nothing asks for a range yet.
    case(RangeIgnored()),
    case(RangeWrong(-10)),
    case(ContentRange(None)),
    case(Unsatisfiable()),
]
ON_HEAD = [
    case(Reset(), outcome=ConnectFailed),
    case(Close(), outcome=ConnectFailed),
    case(AnswerLost(), outcome=ConnectFailed),
    case(Status(503), outcome=RegistryError),
    case(Status(429, retry_after="soon"), outcome=RateLimited),
    case(Status(401), outcome=Unauthorized),
    case(Status(405)),
    case(Latency(0.001)),
    case(ShortBody(10)),
    case(WrongContentLength(10)),
    case(Redirect(loop=True), outcome=ProtocolError),
]
ON_TAGS = [
    *[one for one in ANY_GET if one.faults not in ((WrongBytes(300),), (Framing("close"), Close(300)))],
    case(WrongBytes(0), outcome=ProtocolError),
    # Without a length or a digest nobody can tell a list that was cut from one that isn't a list.
    case(Framing("close"), Close(300), outcome=ProtocolError),
    case(ShortBody(1), outcome=ProtocolError),
    case(LongBody(1), outcome=ProtocolError),
]
ON_PUSH = [
    case(Reset(), outcome=ConnectFailed),
    case(Close(), outcome=ConnectFailed),
    case(AnswerLost(), outcome=ConnectFailed),
    case(Status(503), outcome=RegistryError),
    case(Status(403), outcome=Denied),
    case(Status(429, retry_after=7), outcome=RateLimited),
    case(Redirect(loop=True), outcome=ProtocolError),
    case(Latency(0.001)),
    case(ETagChanged()),
]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[" ".join(map(repr, one.faults)) for one in cases])


async def outcome_of(client: Client, ref: str, expected: Outcome, content: bytes) -> None:
    """Pull, and see that what comes of it is what is expected."""
    with anyio.fail_after(DEADLINE):
        if expected is None:
            assert (await client.pull_agent(ref, fallback="never")).content == content
            return
        with pytest.raises(expected):
            await client.pull_agent(ref, fallback="never")


async def next_pulls_are_right(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], ref: str, content: bytes
) -> None:
    """See that nothing wrong is left behind: in this client, and in the store as another client finds it."""
    registry.faults.clear()
    with anyio.fail_after(DEADLINE):
        assert (await client.pull_agent(ref, fallback="never")).content == content
        cached = connect().cached(ref, max_age=3600)
    assert cached is not None
    assert cached.content == content


# A pull of what isn't cached.


@each(ON_BLOB)
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_cold_pull_when_the_blob_goes_wrong(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], size: int, case: Case
) -> None:
    content = agent(1, size)
    publish(registry, content)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    registry.faults.add(*case.faults, on="GET blob", times=None)
    await outcome_of(client, ref, case.outcome, content)
    if case.outcome is not None:
        assert {one.fault for one in registry.faults.applied} == set(case.faults)
        assert client.cached(ref, max_age=3600) is None
    await next_pulls_are_right(registry, client, connect, ref, content)


@each(ON_MANIFEST)
async def test_a_cold_pull_when_the_manifest_goes_wrong(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], case: Case
) -> None:
    content = agent(1, SMALL)
    publish(registry, content)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    registry.faults.add(*case.faults, on="GET manifest", times=None)
    await outcome_of(client, ref, case.outcome, content)
    assert {one.fault for one in registry.faults.applied} == set(case.faults)
    await next_pulls_are_right(registry, client, connect, ref, content)


async def test_no_error_quotes_what_came_in_place_of_an_answer(registry: EmbeddedRegistry, client: Client) -> None:
    secret = "instructions for nobody else"
    content = f"version: 1\n{secret}\n".encode()
    publish(registry, content)
    # Nearly all of the body is where the next answer should begin.
    registry.faults.add(WrongContentLength(1 - len(content)), on="GET blob")
    with anyio.fail_after(DEADLINE), pytest.raises((SizeMismatch, ProtocolError)) as raised:
        await client.pull_agent(f"{registry.host}/{REPOSITORY}:v1")
    assert secret not in "".join(traceback.format_exception(raised.value))


# A pull of what is cached, and has changed.


async def cached_then_moved(registry: EmbeddedRegistry, client: Client, size: int = SMALL) -> tuple[str, bytes, bytes]:
    old, new = agent(1, size), agent(2, size)
    publish(registry, old)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    await client.pull_agent(ref)
    publish(registry, new)
    return ref, old, new


@each(ON_BLOB)
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_what_is_cached_stays_when_its_successor_goes_wrong(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], size: int, case: Case
) -> None:
    ref, old, new = await cached_then_moved(registry, client, size)
    registry.faults.add(*case.faults, on="GET blob", times=None)
    await outcome_of(client, ref, case.outcome, new)
    cached = client.cached(ref, max_age=3600)
    assert cached is not None
    assert cached.content == (new if case.outcome is None else old)
    await next_pulls_are_right(registry, client, connect, ref, new)


@each(ON_HEAD)
async def test_what_is_cached_when_the_head_goes_wrong(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], case: Case
) -> None:
    ref, old, new = await cached_then_moved(registry, client)
    registry.faults.add(*case.faults, on="HEAD manifest", times=None)
    await outcome_of(client, ref, case.outcome, new)
    assert {one.fault for one in registry.faults.applied} == set(case.faults)
    if case.outcome is not None:
        cached = client.cached(ref, max_age=3600)
        assert cached is not None
        assert cached.content == old
    await next_pulls_are_right(registry, client, connect, ref, new)


# Silence.


@pytest.mark.parametrize(
    ("on", "after"),
    [("HEAD manifest", None), *((f"GET {kind}", after) for kind in ("manifest", "blob") for after in (None, 0, 300))],
)
@pytest.mark.parametrize("deadline", ["the caller's", "lading's"])
async def test_a_registry_that_falls_silent(
    registry: EmbeddedRegistry,
    connect: Callable[..., Client],
    on: str,
    after: int | None,
    deadline: str,
) -> None:
    client = connect(timeouts=IMPATIENT if deadline == "lading's" else None)
    ref, old, new = await cached_then_moved(registry, client)
    registry.faults.add(Stall(after), on=on, times=None)
    with anyio.fail_after(DEADLINE):
        if deadline == "lading's":
            with pytest.raises(TimedOut):
                await client.pull_agent(ref, fallback="never")
        else:
            with anyio.move_on_after(0.1) as scope:
                await client.pull_agent(ref, fallback="never")
            assert scope.cancelled_caught
    cached = client.cached(ref, max_age=3600)
    assert cached is not None
    assert cached.content == old
    await next_pulls_are_right(registry, client, connect, ref, new)


# Retry-After.


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        (7, 7, 7),
        (timedelta(hours=1), 3500, 3600),
        (datetime(2001, 1, 1, tzinfo=UTC), 0, 0),
        (999_999_999, 999_999_999, 999_999_999),
    ],
)
async def test_a_registry_that_asks_to_wait(
    registry: EmbeddedRegistry, client: Client, retry_after: int | timedelta | datetime, least: float, most: float
) -> None:
    registry.faults.add(Status(429, retry_after=retry_after))
    with anyio.fail_after(DEADLINE), pytest.raises(RateLimited) as raised:
        await client.pull_agent(f"{registry.host}/{REPOSITORY}:v1")
    assert raised.value.retry_after is not None
    assert least <= raised.value.retry_after <= most


@pytest.mark.parametrize("retry_after", [None, "soon", "", -5, 10**30, "1e3", "7.5", "\u00b2", "Mon, 99 Foo 2030"])
async def test_a_registry_that_asks_for_nonsense(
    registry: EmbeddedRegistry, client: Client, retry_after: int | str | None
) -> None:
    registry.faults.add(Status(429, retry_after=retry_after))
    with anyio.fail_after(DEADLINE), pytest.raises(RateLimited) as raised:
        await client.pull_agent(f"{registry.host}/{REPOSITORY}:v1")
    assert raised.value.retry_after is None


# Redirects.


async def test_a_blob_from_elsewhere(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client]
) -> None:
    content = agent(1, LARGE)
    publish(registry, content)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    async with EmbeddedRegistry() as elsewhere:
        digest = elsewhere.add_blob("cdn", content)
        registry.faults.add(Redirect(f"{elsewhere.url}/v2/cdn/blobs/{digest}"), on="GET blob", times=None)
        await outcome_of(client, ref, None, content)
        assert elsewhere.summary() == ["GET blob"]
    await next_pulls_are_right(registry, client, connect, ref, content)


async def test_a_downgrade_is_refused(
    registry: EmbeddedRegistry, connect: Callable[..., Client], tmp_path: Path
) -> None:
    content = agent(1, SMALL)
    publish(registry, content)
    async with EmbeddedRegistry(tls=True) as secure:
        digest = publish(secure, content)
        (tmp_path / "ca.pem").write_bytes(secure.ca_pem)
        client = connect(hosts=HostsConfig({secure.host: Host(secure.url, ca=tmp_path / "ca.pem")}))
        ref = f"{secure.host}/{REPOSITORY}"
        secure.faults.add(Redirect(f"{registry.url}/v2/{REPOSITORY}/manifests/{digest}"), on="GET manifest")
        await outcome_of(client, f"{ref}@{digest}", ProtocolError, content)
        assert secure.summary() == ["GET manifest"]
        assert registry.summary() == [], "nothing was asked without TLS"
        await outcome_of(client, f"{ref}@{digest}", None, content)


# Tags.


@each(ON_TAGS)
async def test_tags(registry: EmbeddedRegistry, client: Client, case: Case) -> None:
    tags = [f"tag-{number:04}" for number in range(100)]
    for tag in tags:
        publish(registry, agent(1, SMALL), tag=tag)
    registry.faults.add(*case.faults, on="GET tags", times=None)
    with anyio.fail_after(DEADLINE):
        if case.outcome is None:
            assert [tag async for tag in client.tags(f"{registry.host}/{REPOSITORY}")] == tags
        else:
            with pytest.raises(case.outcome):
                [tag async for tag in client.tags(f"{registry.host}/{REPOSITORY}")]
    assert {one.fault for one in registry.faults.applied} == set(case.faults)
    registry.faults.clear()
    assert [tag async for tag in client.tags(f"{registry.host}/{REPOSITORY}")] == tags


# Push.


@each(ON_PUSH)
@pytest.mark.parametrize("on", ["HEAD blob", "POST upload", "PUT upload", "PUT manifest"])
async def test_push(
    registry: EmbeddedRegistry, client: Client, connect: Callable[..., Client], on: str, case: Case
) -> None:
    old, new = agent(1, LARGE), agent(2, LARGE)
    ref = f"{registry.host}/{REPOSITORY}:v1"
    await client.push_agent(old, ref)
    registry.faults.add(*case.faults, on=on, times=None)
    with anyio.fail_after(DEADLINE):
        if case.outcome is None:
            await client.push_agent(new, ref)
        else:
            with pytest.raises(case.outcome):
                await client.push_agent(new, ref)
            assert {one.fault for one in registry.faults.applied} == set(case.faults)
    registry.faults.clear()
    await client.push_agent(new, ref)
    await next_pulls_are_right(registry, client, connect, ref, new)


# Chance.


def misfortunes(seed: int) -> list[Fault]:
    """Every kind of fault that lading may meet now, at places that the seed chooses."""
    dice = random.Random(seed)
    at = dice.choice([0, 1, dice.randrange(SMALL), dice.randrange(SMALL)])
    return [
        Reset(),
        Reset(at),
        Close(),
        Close(at),
        Stall(dice.choice([None, at])),
        AnswerLost(),
        ShortBody(dice.randrange(1, SMALL)),
        LongBody(dice.randrange(1, 100_000)),
        WrongContentLength(dice.choice([-1, 1]) * dice.randrange(1, 300)),
        Framing(dice.choice(["chunked", "close"])),
        WrongBytes(at),
        Drip(chunk=dice.randrange(300, 1000), seconds=0.0),
        Latency(0.0),
        Status(dice.choice([401, 403, 404, 408, 416, 429, 500, 502, 503, 504]), dice.choice([None, 1, "soon", -1])),
        TokenRefused(),
        ExpiredToken(at),
        Redirect(loop=True),
        RangeUnasked(dice.randrange(1, SMALL)),
        ETagChanged(),
    ]


@pytest.mark.parametrize("seed", range(300))
async def test_chaos(registry: EmbeddedRegistry, tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    await chaos(registry, tmp_path, seed)


@pytest.mark.torture
async def test_much_chaos(tmp_path: Path, ordeal: Ordeal, measured: Callable[[str, str], None]) -> None:
    """Each run finishes or raises a typed error within its deadline, and gives the right bytes or none."""
    met, answers, errors = Counter[str](), Counter[str](), 0
    began = time.monotonic()
    runs = ordeal.rounds(20, 8_000)
    for number in range(runs):
        seed = ordeal.seed * 10_000 + number
        print(f"seed {seed}")
        async with EmbeddedRegistry() as registry:
            outcomes = await chaos(registry, tmp_path / str(number), seed, met)
        answers.update(outcomes)
        errors += sum(count for name, count in outcomes.items() if name not in ORIGINS)
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    assert answers["registry"] >= runs / 2
    if ordeal.is_long:
        assert set(met) == {type(fault).__name__ for fault in misfortunes(0)}
        took = f"{time.monotonic() - began:.0f} s"
        measured(f"{runs} runs of three versions, chaos", f"{sum(met.values())} faults, {errors} typed errors, {took}")
        measured("faults", ", ".join(f"{name} {count}" for name, count in met.most_common()))
        measured("outcomes of pulls", ", ".join(f"{name} {count}" for name, count in answers.most_common()))


ORIGINS = ("registry", "revalidated", "pinned", "fresh", "stale")


async def chaos(registry: EmbeddedRegistry, home: Path, seed: int, met: Counter[str] | None = None) -> Counter[str]:
    """Publish and pull three versions while anything may go wrong; give what came of the pulls."""
    outcomes = Counter[str]()
    store: Store = MemoryStore() if seed % 2 else LocalStore(home)
    versions = [agent(version, SMALL if seed % 3 else LARGE) for version in range(3)]
    ref, published = f"{registry.host}/{REPOSITORY}:v1", set[bytes]()
    registry.faults.chaos(seed=seed, rate=0.3, faults=misfortunes(seed))
    retry = Retry(first_delay=0.01, longest_pause=0.05) if seed % 4 else Retry(attempts=1)
    async with Client(store, credentials=StaticCredentials({}), timeouts=IMPATIENT, retry=retry) as client:
        with anyio.fail_after(DEADLINE):
            for version in versions:
                published.add(version)
                try:
                    await client.push_agent(version, ref, inline=False)
                except LadingError:
                    publish(registry, version)
                for _ in range(2):
                    try:
                        pulled = await client.pull_agent(ref)
                    except LadingError as error:
                        outcomes[type(error).__name__] += 1
                        continue
                    outcomes[pulled.origin] += 1
                    assert pulled.content == version or (pulled.origin == "stale" and pulled.content in published)
                with contextlib.suppress(LadingError):
                    assert [tag async for tag in client.tags(f"{registry.host}/{REPOSITORY}")] == ["v1"]
            if met is not None:
                met.update(type(one.fault).__name__ for one in registry.faults.applied)
    registry.faults.clear()
    # A patient one: nothing goes wrong any more, but the machine may be busy.
    async with Client(store, credentials=StaticCredentials({})) as client:
        assert (await client.pull_agent(ref, fallback="never")).content == versions[-1]
    async with Client(store, offline=True) as client:
        cached = await client.pull_agent(Reference.parse(ref))
        assert (cached.content, cached.origin) == (versions[-1], "stale")
    await store.aclose()
    return outcomes


def test_every_fault_is_met_by_lading() -> None:
    met = {type(fault) for one in [*ON_BLOB, *ON_MANIFEST, *ON_HEAD, *ON_TAGS, *ON_PUSH] for fault in one.faults}
    assert met | {Stall} == set(FAULTS)
