"""The retry ring: what is sent again, when, how often, and what all the requests to a server have in common."""

from __future__ import annotations

import asyncio
import logging
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Answer, ScriptedTransport

from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    CredentialError,
    Denied,
    DigestMismatch,
    LadingError,
    NotFound,
    Offline,
    ProtocolError,
    ProxyFailed,
    RateLimited,
    RegistryError,
    TimedOut,
    TlsFailed,
    TransportError,
    Unauthorized,
)
from lading.events import Event, RateLimit, Retrying
from lading.http.limits import Pauses, StillPaused
from lading.http.retry import Attempts, Retry, RetryTransport
from lading.http.transport import Origin, Request

URL = "https://registry.example/v2/acme/triage/manifests/v1"
ORIGIN = Origin.of(URL)
OTHER = Origin.of("https://other.example/")
METHODS = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]
READING = {"GET", "HEAD", "PUT"}


class Time:
    """A clock that goes on only while somebody sleeps. ``meanwhile`` is what happens during the next sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] | None = None

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self.now += seconds


class Ring:
    """A retry ring around a script, and what belongs to it. Chance always gives ``chance``."""

    def __init__(
        self,
        *script: Answer | LadingError,
        policy: Retry | None = None,
        chance: float = 1.0,
        sleep: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        self.time = Time()
        self.inner = ScriptedTransport(*script)
        self.pauses = Pauses(self.time, sleep or self.time.sleep)
        self.events: list[Event] = []
        self.transport = RetryTransport(
            self.inner,
            Retry() if policy is None else policy,
            self.pauses,
            events=self.events.append,
            clock=self.time,
            sleep=sleep or self.time.sleep,
            random=lambda: chance,
        )

    async def status(self, request: Request | None = None) -> int:
        """Send a request and give the status of the answer that came in the end."""
        async with await self.transport.send(request or get()) as response:
            return response.status


def get(method: str = "GET", **fields: Any) -> Request:
    return Request(method, URL, **fields)


def too_many(after: object = None) -> Answer:
    return Answer(429, {} if after is None else {"Retry-After": str(after)})


class TestPolicy:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"attempts": 0},
            {"attempts": -1},
            {"first_delay": -0.1},
            {"first_delay": float("inf")},
            {"first_delay": float("nan")},
            {"longest_delay": -1.0},
            {"longest_delay": float("nan")},
            {"longest_pause": -1.0},
            {"longest_pause": float("inf")},
            {"budget": -1.0},
            {"budget": float("nan")},
        ],
        ids=str,
    )
    def test_what_isnt_one(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Retry(**wrong)

    @pytest.mark.parametrize(
        "right",
        [{}, {"attempts": 1}, {"first_delay": 0.0}, {"longest_delay": 0.0}, {"budget": 0.0}, {"budget": float("inf")}],
        ids=str,
    )
    def test_what_is_one(self, right: dict[str, Any]) -> None:
        assert Retry(**right).attempts >= 1

    def test_brief(self) -> None:
        assert Retry().brief() == Retry(attempts=2, budget=5.0)
        hasty = Retry(attempts=1, first_delay=0.1, longest_delay=1.0, longest_pause=2.0, budget=3.0)
        assert hasty.brief() == hasty


# What is repeated


@dataclass(frozen=True)
class Case:
    """What goes wrong, and the methods that are sent again after it."""

    failure: int | LadingError
    repeated: set[str]

    def __str__(self) -> str:
        failure = self.failure
        if isinstance(failure, int):
            return str(failure)
        marks = [str(getattr(failure, "status", "")), "" if getattr(failure, "was_sent", True) else "unsent"]
        return "-".join(filter(None, [type(failure).__name__, *marks, "final" * getattr(failure, "is_final", False)]))


ALL = set(METHODS)
NONE: set[str] = set()
CASES = [
    *(Case(status, READING) for status in (408, 500, 502, 504)),
    *(Case(status, ALL) for status in (429, 503)),
    *(
        Case(status, NONE)
        for status in (200, 201, 202, 206, 301, 307, 304, 400, 401, 403, 404, 405, 409, 412, 413, 416)
    ),
    *(Case(status, NONE) for status in (425, 501, 505, 507, 511, 521, 599)),
    Case(ConnectFailed("reset", url=URL), READING),
    Case(ConnectFailed("refused", url=URL, was_sent=False), ALL),
    Case(ConnectFailed("too many open files", url=URL, was_sent=False, is_final=True), NONE),
    Case(ConnectFailed("reset", url=URL, is_final=True), NONE),
    Case(ProxyFailed("lost", url=URL), READING),
    Case(ProxyFailed("no tunnel", url=URL, was_sent=False), ALL),
    Case(ProxyFailed("wants a password", url=URL, was_sent=False, is_final=True), NONE),
    Case(TimedOut("silent", url=URL), READING),
    Case(TimedOut("no connection", url=URL, was_sent=False), ALL),
    Case(BodyInterrupted("of a token", url=URL), READING),
    Case(TransportError("something", url=URL), READING),
    Case(TlsFailed("untrusted", url=URL), NONE),
    Case(TlsFailed("untrusted", url=URL, was_sent=False), NONE),
    *(Case(RegistryError("token server", status=status), READING) for status in (408, 500, 502, 504, 507, 599)),
    Case(RegistryError("token server", status=503), ALL),
    Case(RateLimited("token server"), ALL),
    *(Case(RegistryError("token server", status=status), NONE) for status in (0, 400, 405, 501, 505, 600)),
    Case(Unauthorized("no", status=401), NONE),
    Case(Unauthorized("no", status=503), NONE),
    Case(Denied("no", status=403), NONE),
    Case(NotFound("no", status=404), NONE),
    Case(ProtocolError("nonsense"), NONE),
    Case(CredentialError("no helper"), NONE),
    Case(DigestMismatch("other bytes"), NONE),
    Case(Offline("off"), NONE),
    Case(LadingError("the client is closed"), NONE),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_what_is_repeated(case: Case, method: str) -> None:
    failure = case.failure
    first = Answer(failure) if isinstance(failure, int) else failure
    if method in case.repeated:
        ring = Ring(first, Answer(299))
        assert await ring.status(get(method)) == 299
        assert len(ring.time.slept) == 1
    elif isinstance(failure, int):
        ring = Ring(first)
        assert await ring.status(get(method)) == failure
    else:
        ring = Ring(first)
        with pytest.raises(type(failure)) as caught:
            await ring.status(get(method))
        assert caught.value is failure
    if method not in case.repeated:
        assert ring.time.slept == []
        assert ring.events == []
    ring.inner.assert_done()


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("failure", [ConnectFailed("reset"), Answer(500), RegistryError("token server", status=500)])
async def test_what_says_that_it_may_be_repeated_is(method: str, failure: Answer | LadingError) -> None:
    ring = Ring(failure, Answer(202))
    assert await ring.status(get(method, is_repeatable=True)) == 202
    ring.inner.assert_done()


async def test_a_request_is_sent_again_as_it_is() -> None:
    ring = Ring(Answer(503), ConnectFailed("reset"), Answer(201))
    request = Request("PUT", URL, {"Content-Type": "a/b"}, b"body", "registry.example", ORIGIN, ("scope",))
    assert await ring.status(request) == 201
    assert ring.inner.requests == [request] * 3
    assert len({id(sent.attempts) for sent in ring.inner.requests}) == 1


async def test_the_operations_patience_travels_inwards() -> None:
    ring = Ring(Answer(), Answer())
    await ring.status()
    assert [sent.attempts is not None for sent in ring.inner.requests] == [True]
    attempts = ring.transport.operation()
    await ring.status(get(attempts=attempts))
    assert ring.inner.requests[1].attempts is attempts


async def test_a_url_that_isnt_one_is_never_sent() -> None:
    ring = Ring()
    with pytest.raises(ProtocolError):
        await ring.status(Request("GET", "ftp://registry.example/"))


# How often, and after which delay


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_the_last_answer_is_given_back(attempts: int) -> None:
    last = Answer(503, body=b"sorry")
    ring = Ring(*[Answer(500) for _ in range(attempts - 1)], last, policy=Retry(attempts=attempts))
    async with await ring.transport.send(get()) as response:
        assert response.status == 503
        assert await response.read(10) == b"sorry"
    ring.inner.assert_done()
    assert len(ring.time.slept) == attempts - 1


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_the_last_error_is_raised(attempts: int) -> None:
    last = ConnectFailed("the last one")
    ring = Ring(*[TimedOut("silent") for _ in range(attempts - 1)], last, policy=Retry(attempts=attempts))
    with pytest.raises(ConnectFailed) as caught:
        await ring.status()
    assert caught.value is last
    assert caught.value.__context__ is None
    ring.inner.assert_done()


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
async def test_delays_double_up_to_the_longest(chance: float) -> None:
    policy = Retry(attempts=8, first_delay=0.5, longest_delay=6.0)
    ring = Ring(*[Answer(500) for _ in range(7)], Answer(), policy=policy, chance=chance)
    assert await ring.status() == 200
    assert ring.time.slept == [chance * most for most in (0.5, 1, 2, 4, 6, 6, 6)]


@given(st.integers(2, 5000), st.floats(0, 1e300), st.floats(0, 1e300), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_longer_than_the_longest(attempts: int, first: float, longest: float, chance: float) -> None:
    policy = Retry(attempts=attempts, first_delay=first, longest_delay=longest, budget=float("inf"))
    patience = Attempts(policy, random=lambda: chance)
    for spent in range(1, min(attempts, 1100)):
        delay = patience.delay(None)
        assert delay is not None
        assert 0 <= delay <= min(longest, first * 2.0 ** min(spent - 1, 1000))
    if attempts <= 1100:
        assert patience.delay(None) is None


async def test_chance_is_real_by_default() -> None:
    delays = {Attempts(Retry()).delay(None) for _ in range(100)}
    assert len(delays) > 90
    assert all(delay is not None and 0 <= delay <= 0.2 for delay in delays)


# What a server asks for


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("after", "least", "most"),
    [
        ("7", 7.0, 7.0),
        (" 7 ", 7.0, 7.0),
        ("0", 0.1, 0.1),
        ("999999999", 60.0, 60.0),
        ("61", 60.0, 60.0),
        ("soon", 0.1, 0.1),
        ("-5", 0.1, 0.1),
        ("1e3", 0.1, 0.1),
        ("9" * 5000, 0.1, 0.1),
        ("", 0.1, 0.1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.1, 0.1),
        pytest.param(in_seconds(10**6), 60.0, 60.0, id="in 12 days"),
        ("Wed, 99 Oct 2015 07:28:00 GMT", 0.1, 0.1),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_retry_after(status: int, after: str, least: float, most: float) -> None:
    ring = Ring(Answer(status, {"Retry-After": after}), Answer(), chance=0.5)
    assert await ring.status() == 200
    [slept] = ring.time.slept
    assert least <= slept <= most


async def test_retry_after_as_a_date() -> None:
    ring = Ring(Answer(503, {"Retry-After": in_seconds(30)}), Answer())
    assert await ring.status() == 200
    [slept] = ring.time.slept
    assert 20 < slept <= 30


@pytest.mark.parametrize(
    ("failure", "pause"),
    [
        (too_many(2), 2.0),
        (too_many(0), 0.0),
        (too_many(3600), 60.0),
        (too_many(), 0.2),
        (too_many("soon"), 0.2),
        (RateLimited("token server", retry_after=2.0), 2.0),
        (RateLimited("token server", retry_after=3600.0), 60.0),
        (RateLimited("token server"), 0.2),
        (Answer(503, {"Retry-After": "2"}), 0.0),
        (Answer(503), 0.0),
        (Answer(500), 0.0),
        (RegistryError("token server", status=503), 0.0),
        (ConnectFailed("reset"), 0.0),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_holds_for_everybody(failure: Answer | LadingError, pause: float, method: str) -> None:
    ring = Ring(replay(failure), Answer(), Answer())
    seen: list[float] = []
    ring.time.meanwhile = lambda: seen.extend([ring.pauses.remaining(ORIGIN), ring.pauses.remaining(OTHER)])
    try:
        await ring.status(get(method))
    except ConnectFailed:
        assert method == "POST"
    except RegistryError:
        pytest.fail("it is sent again")
    assert seen in ([], [pause, 0.0])
    assert seen or method == "POST"


def replay(failure: Answer | LadingError) -> Answer | LadingError:
    """Give a fresh copy of what a table holds."""
    return Answer(failure.status, failure.headers) if isinstance(failure, Answer) else failure.again()


async def test_a_pause_is_waited_for_before_the_first_try() -> None:
    ring = Ring(Answer())
    ring.pauses.pause(ORIGIN, 2)
    assert await ring.status() == 200
    assert ring.time.slept == [2]
    assert ring.events == []


async def test_a_pause_of_somebody_else_isnt_waited_for() -> None:
    ring = Ring(Answer())
    ring.pauses.pause(OTHER, 2)
    assert await ring.status() == 200
    assert ring.time.slept == []


async def test_a_pause_counts_as_a_delay() -> None:
    ring = Ring(ConnectFailed("reset"), Answer())
    attempts = ring.transport.operation()
    ring.inner.send = after(ring.inner.send, lambda: ring.pauses.pause(ORIGIN, 3))  # type: ignore[method-assign]
    assert await ring.status(get(attempts=attempts)) == 200
    assert ring.time.slept == [3]
    assert [event.delay for event in ring.events if isinstance(event, Retrying)] == [3]


def after(send: Callable[[Request], Awaitable[Answer]], act: Callable[[], object]) -> Any:
    async def sending(request: Request) -> Answer:
        try:
            return await send(request)
        finally:
            act()

    return sending


async def test_a_pause_that_is_extended_during_the_delay_is_waited_for() -> None:
    ring = Ring(Answer(503), Answer())
    ring.time.meanwhile = lambda: ring.pauses.pause(ORIGIN, 5)
    assert await ring.status() == 200
    assert ring.time.slept == [0.2, 4.8]


async def test_a_pause_longer_than_the_operation_is_an_error_at_once() -> None:
    ring = Ring(policy=Retry(budget=5.0))
    ring.pauses.pause(ORIGIN, 30)
    with pytest.raises(RateLimited, match="asked to wait") as caught:
        await ring.status()
    assert caught.value.retry_after == 30
    assert ring.time.slept == []
    assert ring.inner.requests == []


async def test_a_pause_that_becomes_too_long_during_the_delay_is_an_error_then() -> None:
    ring = Ring(Answer(503), policy=Retry(budget=5.0))
    ring.time.meanwhile = lambda: ring.pauses.pause(ORIGIN, 30)
    with pytest.raises(RateLimited):
        await ring.status()
    ring.inner.assert_done()


async def test_a_single_attempt_doesnt_wait() -> None:
    ring = Ring(Answer())
    attempts = Attempts.single()
    assert attempts.deadline <= time.monotonic()
    ring.time.now = attempts.deadline
    assert await ring.status(get(attempts=attempts)) == 200
    ring.pauses.pause(ORIGIN, 1)
    with pytest.raises(RateLimited):
        await ring.status(get(attempts=attempts))
    assert ring.time.slept == []


async def test_a_pause_that_the_network_refuses_to_wait_for_is_final() -> None:
    # It may be that of a token server, or of where a redirect leads: this origin isn't paused for it.
    ring = Ring(StillPaused("too long", retry_after=1.0))
    with pytest.raises(StillPaused):
        await ring.status()
    assert ring.pauses.remaining(ORIGIN) == 0
    assert ring.time.slept == []
    ring.inner.assert_done()


# Until when


async def test_a_wait_beyond_the_deadline_is_none() -> None:
    ring = Ring(too_many(30), policy=Retry(budget=5.0))
    async with await ring.transport.send(get()) as response:
        assert response.status == 429
        assert response.headers.get("Retry-After") == "30"
    assert ring.time.slept == []
    assert ring.pauses.remaining(ORIGIN) == 30
    ring.inner.assert_done()


async def test_who_gives_up_pauses_the_others_all_the_same() -> None:
    ring = Ring(too_many(30), policy=Retry(attempts=1))
    assert await ring.status() == 429
    assert ring.pauses.remaining(ORIGIN) == 30


async def test_a_pause_of_others_beyond_the_deadline_ends_it_with_the_answer() -> None:
    ring = Ring(Answer(500), policy=Retry(budget=5.0))
    ring.inner.send = after(ring.inner.send, lambda: ring.pauses.pause(ORIGIN, 30))  # type: ignore[method-assign]
    assert await ring.status() == 500
    assert ring.time.slept == []


async def test_the_budget_ends_it() -> None:
    policy = Retry(attempts=100, first_delay=2.0, longest_delay=2.0, budget=5.0)
    ring = Ring(Answer(500), Answer(500), Answer(500), policy=policy)
    assert await ring.status() == 500
    assert ring.time.slept == [2, 2]
    ring.inner.assert_done()


async def test_the_time_that_answers_take_counts() -> None:
    ring = Ring(TimedOut("silent"), TimedOut("silent"))
    ring.inner.send = after(ring.inner.send, lambda: setattr(ring.time, "now", ring.time.now + 60))  # type: ignore[method-assign]
    with pytest.raises(TimedOut):
        await ring.status()
    assert len(ring.inner.requests) == 2


async def test_the_requests_of_an_operation_share_its_patience() -> None:
    ring = Ring(Answer(500), Answer(200), Answer(500), Answer(500), policy=Retry(attempts=3, budget=5.0))
    attempts = ring.transport.operation()
    assert await ring.status(get(attempts=attempts)) == 200
    assert await ring.status(get(attempts=attempts)) == 500
    ring.inner.script.append(Answer(500))
    assert await ring.status(get(attempts=attempts)) == 500
    assert ring.time.slept == [0.2, 0.4]
    ring.inner.assert_done()


async def test_each_request_without_an_operation_has_its_own_patience() -> None:
    ring = Ring(Answer(500), Answer(), Answer(500), Answer(), policy=Retry(attempts=2))
    assert [await ring.status(), await ring.status()] == [200, 200]


async def test_the_first_try_of_a_request_is_always_made() -> None:
    ring = Ring(Answer(), Answer(500))
    attempts = ring.transport.operation()
    ring.time.now += 1000
    assert await ring.status(get(attempts=attempts)) == 200
    assert await ring.status(get(attempts=attempts)) == 500
    ring.inner.assert_done()


async def test_an_operation_has_its_own_policy() -> None:
    ring = Ring(Answer(500), Answer(500))
    attempts = ring.transport.operation(Retry().brief())
    assert attempts.deadline == ring.time.now + 5
    assert ring.transport.operation().deadline == ring.time.now + 120
    assert await ring.status(get(attempts=attempts)) == 500
    ring.inner.assert_done()


# Bodies


class TestBodies:
    def attempts(self, **policy: Any) -> tuple[Attempts, Time]:
        time = Time()
        return Attempts(Retry(**policy), clock=time, sleep=time.sleep, random=lambda: 1.0), time

    async def test_an_interruption_is_waited_for(self) -> None:
        attempts, time = self.attempts(attempts=3)
        outcomes = [await attempts.again(BodyInterrupted("lost")) for _ in range(4)]
        assert outcomes == [True, True, False, False]
        assert time.slept == [0.2, 0.4]

    @pytest.mark.parametrize(
        "failure", [TlsFailed("untrusted"), TransportError("full", is_final=True), TimedOut("x", is_final=True)]
    )
    async def test_what_stays_is_final(self, failure: TransportError) -> None:
        attempts, time = self.attempts()
        assert not await attempts.again(failure)
        assert time.slept == []
        assert await attempts.again(TimedOut("silent"))

    @pytest.mark.parametrize(
        ("failure", "delay"),
        [
            (None, 0.2),
            (BodyInterrupted("lost"), 0.2),
            (RegistryError("no", status=503), 0.2),
            (RateLimited("no"), 0.2),
            (RegistryError("no", status=501), None),
            (Unauthorized("no", status=401), None),
            (ProtocolError("no"), None),
            (DigestMismatch("no"), None),
            (CredentialError("no"), None),
            (StillPaused("no"), None),
        ],
    )
    async def test_whether_a_failure_may_pass(self, failure: LadingError | None, delay: float | None) -> None:
        attempts, _ = self.attempts()
        assert attempts.delay(failure) == delay

    async def test_heads_and_bodies_share_the_attempts(self) -> None:
        ring = Ring(Answer(500), Answer(200), Answer(500), policy=Retry(attempts=3))
        attempts = ring.transport.operation()
        assert await ring.status(get(attempts=attempts)) == 200
        assert await attempts.again(BodyInterrupted("lost"))
        assert await ring.status(get(attempts=attempts)) == 500
        assert ring.time.slept == [0.2, 0.4]
        ring.inner.assert_done()

    async def test_failures_with_progress_use_nothing_up(self) -> None:
        attempts, time = self.attempts(attempts=2)
        for _ in range(1000):
            attempts.progress()
            assert await attempts.again(BodyInterrupted("lost"))
        assert not await attempts.again(BodyInterrupted("lost"))
        assert time.slept == [0.2] * 1000

    async def test_with_one_attempt_not_even_progress_helps(self) -> None:
        attempts, _ = self.attempts(attempts=1)
        attempts.progress()
        assert not await attempts.again(BodyInterrupted("lost"))

    @pytest.mark.parametrize("failure", [ConnectFailed("refused"), Answer(503), Answer(502), TimedOut("silent")])
    async def test_an_outage_is_timed_and_not_counted(self, failure: Answer | LadingError) -> None:
        """Once bytes have come, it is known that they can come."""
        script = [replay(failure) for _ in range(20)]
        ring = Ring(*script, Answer(206), policy=Retry(attempts=3, longest_delay=5.0))
        attempts = ring.transport.operation()
        attempts.progress()
        assert await ring.status(get(attempts=attempts)) == 206
        assert ring.time.slept == [0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 15]
        ring.inner.assert_done()

    async def test_which_ends_with_the_budget(self) -> None:
        ring = Ring(*[ConnectFailed("refused") for _ in range(7)], policy=Retry(attempts=2, budget=10.0))
        attempts = ring.transport.operation()
        attempts.progress()
        with pytest.raises(ConnectFailed):
            await ring.status(get(attempts=attempts))
        assert sum(ring.time.slept) == pytest.approx(0.2 + 0.4 + 0.8 + 1.6 + 3.2)

    async def test_answers_whose_bodies_bring_nothing_are_counted_in_an_outage_too(self) -> None:
        ring = Ring(Answer(503), Answer(200), Answer(503), Answer(200), policy=Retry(attempts=2))
        attempts = ring.transport.operation()
        attempts.progress()
        assert await ring.status(get(attempts=attempts)) == 200
        assert await attempts.again(BodyInterrupted("lost"))
        assert await ring.status(get(attempts=attempts)) == 200
        assert not await attempts.again(BodyInterrupted("lost"))

    @pytest.mark.parametrize("failure", [ConnectFailed("refused"), Answer(503)])
    async def test_without_patience_there_is_none_in_an_outage(self, failure: Answer | LadingError) -> None:
        ring = Ring(replay(failure), policy=Retry(attempts=1))
        attempts = ring.transport.operation()
        attempts.progress()
        with suppress(ConnectFailed):
            assert await ring.status(get(attempts=attempts)) == 503
        ring.inner.assert_done()

    async def test_the_budget_is_measured_from_the_last_progress(self) -> None:
        attempts, time = self.attempts(attempts=100, budget=5.0)
        for _ in range(10):
            time.now += 4
            attempts.progress()
        assert attempts.deadline == time.now + 5
        time.now += 4
        assert await attempts.again(BodyInterrupted("lost"))
        time.now += 1
        assert not await attempts.again(BodyInterrupted("lost"))
        attempts.progress()
        assert await attempts.again(BodyInterrupted("lost"))

    async def test_the_log_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "lading.http")
        attempts, _ = self.attempts()
        await attempts.again(BodyInterrupted("GET https://h/x?sig=hunter2 : lost"))
        assert caplog.messages == ["GET https://h/x?… : lost: again in 0.20 s"]


# What becomes of a refused answer


async def test_a_refused_answer_is_read_so_that_its_connection_can_be_used_again() -> None:
    refused = Answer(503, body=b"x" * 8000)
    ring = Ring(refused, Answer())
    assert await ring.status() == 200
    assert refused.taken == 8000
    ring.inner.assert_done()


@pytest.mark.parametrize(
    "refused", [Answer(503, body=b"x" * 10**6), Answer(503, error=BodyInterrupted("lost")), Answer(503)]
)
async def test_a_refused_answer_is_closed_whatever_its_body(refused: Answer) -> None:
    ring = Ring(refused, Answer())
    assert await ring.status() == 200
    assert refused.is_closed
    assert refused.taken <= 10 * 1024


async def test_it_is_closed_before_anybody_waits() -> None:
    refused = Answer(503)
    ring = Ring(refused, Answer())
    closed: list[bool] = []
    ring.time.meanwhile = lambda: closed.append(refused.is_closed)
    assert await ring.status() == 200
    assert closed == [True]


# What is told


async def test_each_repetition_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lading.http")
    ring = Ring(Answer(503, {"Retry-After": "7"}), ConnectFailed("GET https://u:hunter2@h/?s=hunter2 : no"), Answer())
    request = Request("GET", "https://registry.example/v2/x?token=hunter2")
    assert await ring.status(request) == 200
    assert ring.events == [
        Retrying("GET", "https://registry.example/v2/x?…", "answered 503", 1, 7.0),
        Retrying("GET", "https://registry.example/v2/x?…", "GET https://h/?… : no", 2, 0.4),
    ]
    assert len(caplog.messages) == 2
    assert "answered 503: again in 7.00 s (attempt 1)" in caplog.messages[0]
    assert "hunter2" not in caplog.text + repr(ring.events)


@pytest.mark.parametrize(
    ("failure", "level", "said"),
    [
        (Answer(503), "DEBUG", f"GET {URL}: answered 503: again in 0.20 s (attempt 1)"),
        (Answer(503, {"Retry-After": "2"}), "DEBUG", f"GET {URL}: answered 503: again in 2.00 s (attempt 1)"),
        (Answer(503, {"Retry-After": "7"}), "WARNING", f"GET {URL}: answered 503: again in 7.00 s (attempt 1)"),
        (
            Answer(429, {"Retry-After": "3600"}),
            "WARNING",
            f"GET {URL}: answered 429, and asks to wait 3600 s: again in 60.00 s (attempt 1)",
        ),
        (ConnectFailed(f"GET {URL}: refused"), "DEBUG", f"GET {URL}: refused: again in 0.20 s (attempt 1)"),
        (TimedOut(f"GET {URL}: silent"), "WARNING", f"GET {URL}: silent: again in 0.20 s (attempt 1)"),
    ],
)
async def test_who_waits_for_long_is_told_why(
    failure: Answer | LadingError, level: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "lading.http")
    assert await Ring(replay(failure), Answer()).status() == 200
    assert [(record.levelname, record.message) for record in caplog.records] == [(level, said)]


async def test_a_body_that_stalls_is_told(caplog: pytest.LogCaptureFixture) -> None:
    attempts = Attempts(Retry(), sleep=Time().sleep, random=lambda: 1.0)
    await attempts.again(BodyInterrupted("lost"))
    await attempts.again(TimedOut("no byte came"))
    assert caplog.messages == ["no byte came: again in 0.40 s"]


async def test_a_listener_that_fails_fails_nothing() -> None:
    def listen(event: Event) -> None:
        raise RuntimeError("no")

    time = Time()
    inner = ScriptedTransport(Answer(503, {"RateLimit-Remaining": "1"}), Answer())
    ring = RetryTransport(
        inner, Retry(), Pauses(time, time.sleep), events=listen, clock=time, sleep=time.sleep, random=lambda: 1.0
    )
    async with await ring.send(get()) as response:
        assert response.status == 200
    inner.assert_done()


async def test_nobody_has_to_listen() -> None:
    time = Time()
    inner = ScriptedTransport(Answer(503, {"RateLimit-Remaining": "1"}), Answer())
    ring = RetryTransport(inner, Retry(), Pauses(time, time.sleep), clock=time, sleep=time.sleep)
    async with await ring.send(get()) as response:
        assert response.status == 200
    assert 0 <= time.slept[0] <= 0.2


def limited(remaining: object, status: int = 200, url: str = "") -> Answer:
    said = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": f"{remaining};w=21600"}
    return Answer(status, said, url=url)


async def test_a_rate_limit_is_told_when_it_changes() -> None:
    ring = Ring(limited(76), limited(76), limited("many"), Answer(), limited(75), limited(0, 429), limited(100))
    for _ in range(6):
        await ring.status()
    limits = [event for event in ring.events if isinstance(event, RateLimit)]
    assert limits == [RateLimit("registry.example", left, 100, 21600) for left in (76, 75, 0, 100)]


async def test_a_rate_limit_is_that_of_who_answered() -> None:
    elsewhere = "https://CDN.example:8443/x?sig=hunter2"
    ring = Ring(limited(76), limited(76, url=elsewhere), limited(76), limited(76, url=elsewhere))
    for _ in range(4):
        await ring.status()
    limits = [event.host for event in ring.events if isinstance(event, RateLimit)]
    assert limits == ["registry.example", "cdn.example:8443"]


async def test_the_limits_of_many_hosts_arent_kept_for_ever() -> None:
    ring = Ring(*[limited(1, url=f"https://h{number}.example/") for number in range(3000)])
    for _ in range(3000):
        await ring.status()
    assert len(ring.events) == 3000
    assert len(ring.transport._limits) <= 1024


# Cancellation


class Stuck(Answer):
    """An answer whose body doesn't come."""

    def __init__(self, status: int, reached: Callable[[], Awaitable[object]]) -> None:
        super().__init__(status)
        self.reached = reached

    async def read(self, limit: int) -> bytes:
        await self.reached()
        raise AssertionError("unreachable")


@pytest.mark.parametrize("how", ["anyio", "asyncio"])
@pytest.mark.parametrize("where", ["pause", "request", "refused answer", "delay", "body"])
async def test_cancelled_while_it_waits_for(where: str, how: str) -> None:
    scope = anyio.CancelScope()
    task = asyncio.current_task()
    assert task is not None
    reached: list[str] = []

    async def cancelled(_: object = None) -> None:
        reached.append(where)
        if how == "anyio":
            scope.cancel()
        else:
            task.cancel()
        await anyio.sleep_forever()

    refused = Stuck(503, cancelled) if where == "refused answer" else Answer(503)
    ring = Ring(refused, Answer(), sleep=cancelled)
    if where == "pause":
        ring.pauses.pause(ORIGIN, 2)
        refused.is_closed = True
    if where == "request":
        ring.inner.send = cancelled  # type: ignore[assignment, method-assign]
        refused.is_closed = True

    async def act() -> None:
        if where == "body":
            refused.is_closed = True
            await ring.transport.operation().again(BodyInterrupted("lost"))
        else:
            await ring.status()
        pytest.fail("it went on")

    with scope:
        if how == "anyio":
            await act()
        else:
            with pytest.raises(asyncio.CancelledError):
                await act()
            task.uncancel()
    assert scope.cancelled_caught == (how == "anyio")
    assert reached == [where]
    assert refused.is_closed


# Time that passes only while everybody waits


class _Skipping(selectors.DefaultSelector):
    """Doesn't wait for the time to pass, but lets it pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            # Who sleeps for ever has asked to be woken up in a day.
            assert timeout is not None, "everybody waits for ever"
            assert timeout < 3600, "everybody waits for ever"
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """Answers each request 0.1 s after it came, with the status that ``statuses`` has for its number, or with 200.

    Not more than ``connections`` requests are under way; who waits for one asks for a pause again.
    """

    def __init__(self, pauses: Pauses, statuses: dict[int, Answer], connections: int = 1000) -> None:
        self.came: list[float] = []
        self.refused: list[float] = []
        self._pauses = pauses
        self._statuses = statuses
        self._numbers = count()
        self._connections = anyio.CapacityLimiter(connections)

    async def send(self, request: Request) -> Answer:
        async with self._connections:
            if self._pauses.remaining(ORIGIN):
                await self._pauses.wait(ORIGIN, request.attempts.deadline if request.attempts else None)
            self.came.append(now())
            answer = self._statuses.get(next(self._numbers), Answer())
            await anyio.sleep(0.1)
            if answer.status == 429:
                self.refused.append(now())
            return answer


async def storm(starts: Sequence[float], statuses: dict[int, Answer], connections: int = 1000) -> Server:
    """Send a request at each of ``starts``; each gets its 200."""
    pauses = Pauses(now)
    server = Server(pauses, statuses, connections)
    ring = RetryTransport(server, Retry(), pauses, clock=now, random=lambda: 0.5)

    async def ask(start: float) -> None:
        await anyio.sleep(start)
        async with await ring.send(get()) as response:
            assert response.status == 200

    async with anyio.create_task_group() as group:
        for start in starts:
            group.start_soon(ask, start)
    return server


def test_one_of_a_hundred_is_refused_and_nobody_sends_during_the_pause() -> None:
    async def main() -> None:
        server = await storm([number * 0.01 for number in range(100)], {3: too_many(2)})
        [refused] = server.refused
        assert len(server.came) == 101
        assert [came for came in server.came if refused < came < refused + 2] == []
        assert sum(came >= refused + 2 for came in server.came) == 101 - sum(came <= refused for came in server.came)
        # Nor does anybody wait for longer than that.
        assert max(server.came) == pytest.approx(refused + 2)

    in_virtual_time(main())


def test_who_waits_for_a_connection_waits_for_the_pause_too() -> None:
    async def main() -> None:
        server = await storm([0.0] * 100, {3: too_many(2)}, connections=4)
        [refused] = server.refused
        assert len(server.came) == 101
        assert [came for came in server.came if refused < came < refused + 2] == []

    in_virtual_time(main())


def test_a_hundred_refusals_are_one_pause() -> None:
    async def main() -> None:
        answers = {number: too_many(2 + number % 3) for number in range(100)}
        server = await storm([0.0] * 100, answers)
        assert len(server.came) == 200
        assert server.came[:100] == [0.0] * 100
        assert server.came[100:] == pytest.approx([4.1] * 100)

    in_virtual_time(main())


def test_a_refused_answer_that_doesnt_end_is_left_after_a_second() -> None:
    async def main() -> None:
        refused = Stuck(503, anyio.sleep_forever)
        inner = ScriptedTransport(refused, Answer())
        ring = RetryTransport(inner, Retry(), Pauses(now), clock=now, random=lambda: 0.5)
        async with await ring.send(get()) as response:
            assert response.status == 200
        assert now() == pytest.approx(1.1)
        inner.assert_done()

    in_virtual_time(main())


@pytest.mark.parametrize("how", [anyio.fail_after, asyncio.timeout], ids=["anyio", "asyncio"])
def test_a_callers_deadline_ends_every_wait(how: Callable[[float], Any]) -> None:
    async def main() -> None:
        for wait in ("pause", "refused answer", "delay"):
            refused = Stuck(503, anyio.sleep_forever) if wait == "refused answer" else Answer(503, {"Retry-After": "7"})
            inner = ScriptedTransport(refused, Answer())
            pauses = Pauses(now)
            ring = RetryTransport(inner, Retry(), pauses, clock=now)
            if wait == "pause":
                pauses.pause(ORIGIN, 10)
            start = now()
            with pytest.raises(TimeoutError):
                await _within(how(0.5), ring)
            assert now() - start == pytest.approx(0.5)
            assert refused.is_closed == (wait != "pause")
            assert len(inner.requests) == (wait != "pause")

    async def _within(deadline: Any, ring: RetryTransport) -> None:
        if how is asyncio.timeout:
            async with deadline:
                await ring.send(get())
        else:
            with deadline:
                await ring.send(get())

    in_virtual_time(main())


def test_by_default_it_sleeps_on_the_loop_that_runs() -> None:
    async def main() -> None:
        inner = ScriptedTransport(Answer(503, {"Retry-After": "7"}), Answer())
        ring = RetryTransport(inner, Retry(), Pauses(now), clock=now)
        async with await ring.send(replace(get(), method="POST")) as response:
            assert response.status == 200
        assert now() == pytest.approx(7)

    in_virtual_time(main())
