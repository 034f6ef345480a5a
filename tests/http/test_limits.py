"""What servers say of their limits, and the pauses that an origin's requests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import RateLimited
from lading.events import RateLimit
from lading.http.limits import Pauses, StillPaused, rate_limit, retry_after
from lading.http.transport import Headers, Origin

HUB = Origin("https", "registry-1.docker.io", 443)
OTHER = Origin("https", "ghcr.io", 443)


class Time:
    """A clock that goes on only while somebody sleeps. ``meanwhile`` is what happens during the next sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
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


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def pauses(time: Time) -> Pauses:
    return Pauses(time, time.sleep)


def fields(**values: str) -> Headers:
    return Headers([(name.replace("_", "-"), value) for name, value in values.items()])


class TestRetryAfter:
    @pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), (" 120 ", 120), ("999999999", 999_999_999)])
    def test_seconds(self, value: str, seconds: float) -> None:
        assert retry_after(fields(Retry_After=value)) == seconds

    @pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
    def test_a_date(self, zone: str) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=100)).replace("+0000", zone)
        seconds = retry_after(fields(Retry_After=date))
        assert seconds is not None
        assert 90 < seconds <= 100

    def test_a_date_in_the_past_is_now(self) -> None:
        assert retry_after(fields(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")) == 0

    def test_a_date_far_away(self) -> None:
        seconds = retry_after(fields(Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"))
        assert seconds is not None
        assert seconds > 1e11

    @pytest.mark.parametrize(
        ("now", "seconds"), [("Wed, 21 Oct 2015 07:27:30 GMT", 30), ("Wed, 21 Oct 2015 07:28:30 GMT", 0)]
    )
    def test_a_date_is_compared_with_the_clock_of_who_said_it(self, now: str, seconds: float) -> None:
        assert retry_after(fields(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT", Date=now)) == seconds

    def test_seconds_need_no_clock(self) -> None:
        assert retry_after(fields(Retry_After="7", Date="Wed, 21 Oct 2015 07:28:00 GMT")) == 7

    @pytest.mark.parametrize("now", ["", "yesterday", "Wed, 99 Oct 2015 07:28:00 GMT", "x" * 5000])
    def test_whose_clock_is_broken_is_told_by_ours(self, now: str) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        seconds = retry_after(fields(Retry_After=date, Date=now))
        assert seconds is not None
        assert 90 < seconds <= 100

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "soon",
            "-1",
            "1.5",
            "1e5",
            "NaN",
            "١٢",
            "²",
            "9" * 10,
            "9" * 5000,
            "7\n8",
            "1, 2",
            "Wed,",
            "\0",
            "Wed, 99 Oct 2015 07:28:00 GMT",
            "Wed, 21 Oct 2015 07:28:00 GMT" + " " * 64 + "x",
        ],
    )
    def test_garbage_is_none(self, value: str) -> None:
        assert retry_after(fields(Retry_After=value)) is None

    def test_nothing_is_none(self) -> None:
        assert retry_after(Headers()) is None

    @given(st.text() | st.text(alphabet="0123456789:,+- MonJanGMT"), st.text(alphabet="0123456789:,+- MonJanGMT"))
    def test_arbitrary_text_gives_seconds_or_none(self, value: str, date: str) -> None:
        seconds = retry_after(fields(Retry_After=value, Date=date))
        assert seconds is None or seconds >= 0


RATE_LIMITS: list[tuple[dict[str, str], tuple[int, int | None, float | None] | None]] = [
    # Docker Hub: remaining, limit, window.
    ({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}, (76, 100, 21600)),
    ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}, (0, 100, 21600)),
    ({"RateLimit-Limit": " 100 ; w=21600 ", "RateLimit-Remaining": " 76 "}, (76, 100, 21600)),
    ({"RateLimit-Limit": "100", "RateLimit-Remaining": "76;w=60"}, (76, 100, 60)),
    ({"RateLimit-Remaining": "76;w=21600"}, (76, None, 21600)),
    ({"RateLimit-Remaining": "76"}, (76, None, None)),
    ({"RateLimit-Limit": "100;w=21600"}, None),
    ({"RateLimit-Limit": "10, 10;w=1, 50;w=60", "RateLimit-Remaining": "9"}, (9, 10, None)),
    ({"RateLimit-Limit": '100;w=3600;comment="x"', "RateLimit-Remaining": "9"}, (9, 100, 3600)),
    # Plain numbers.
    (
        {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "4999", "X-RateLimit-Reset": "1372700873"},
        (4999, 5000, None),
    ),
    ({"X-RateLimit-Remaining": "4999"}, (4999, None, None)),
    ({"X-RateLimit-Limit": "5000"}, None),
    ({"RateLimit-Remaining": "1", "X-RateLimit-Remaining": "2", "RateLimit": "remaining=3"}, (1, None, None)),
    ({"RateLimit-Remaining": "x", "X-RateLimit-Remaining": "2", "RateLimit": "remaining=3"}, (2, None, None)),
    # The draft's dictionary.
    ({"RateLimit": "limit=100, remaining=50, reset=30"}, (50, 100, None)),
    ({"RateLimit": "remaining=50,reset=30,limit=100"}, (50, 100, None)),
    ({"RateLimit": "limit=100;w=60, remaining=50;w=60"}, (50, 100, 60)),
    ({"RateLimit": "remaining=50"}, (50, None, None)),
    ({"RateLimit": "limit=100, reset=30"}, None),
    ({"RateLimit": "limit=100, remaining=, reset=30"}, None),
    ({"RateLimit": "remaining"}, None),
    ({"RateLimit": "=,=,,"}, None),
    # What is garbage isn't said.
    ({"RateLimit-Remaining": "76", "RateLimit-Limit": "many"}, (76, None, None)),
    ({"RateLimit-Remaining": "76;w=", "RateLimit-Limit": "100;w=x"}, (76, 100, None)),
    ({"RateLimit-Remaining": ""}, None),
    ({"RateLimit-Remaining": "-1"}, None),
    ({"RateLimit-Remaining": "7.5"}, None),
    ({"RateLimit-Remaining": "٧"}, None),
    ({"RateLimit-Remaining": "²"}, None),
    ({"RateLimit-Remaining": "1e3"}, None),
    ({"RateLimit-Remaining": "9" * 10}, None),
    ({"RateLimit-Remaining": "9" * 5000}, None),
    ({"RateLimit-Remaining": "76;w=" + "9" * 5000}, (76, None, None)),
    ({"RateLimit-Remaining": "76 or so"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("said", "expected"), RATE_LIMITS, ids=lambda value: str(value)[:60])
def test_rate_limit(said: dict[str, str], expected: tuple[int, int | None, float | None] | None) -> None:
    limit = rate_limit("h:5000", Headers(said.items()))
    assert limit == (None if expected is None else RateLimit("h:5000", *expected))


@given(st.text(), st.text(alphabet="0123456789;=w, remaining"), st.text(alphabet="0123456789;=w, remaininglt"))
def test_arbitrary_text_gives_a_rate_limit_or_none(limit: str, remaining: str, everything: str) -> None:
    said = {"RateLimit-Limit": limit, "RateLimit-Remaining": remaining, "RateLimit": everything}
    found = rate_limit("h", Headers(said.items()))
    assert found is None or 0 <= found.remaining < 10**9


class TestPauses:
    async def test_without_a_pause_there_is_no_await(self, pauses: Pauses, time: Time) -> None:
        waiting = pauses.wait(HUB, time.now)
        with pytest.raises(StopIteration):
            waiting.send(None)
        assert pauses.remaining(HUB) == 0
        assert time.slept == []

    async def test_a_pause_is_waited_for(self, pauses: Pauses, time: Time) -> None:
        pauses.pause(HUB, 2)
        assert pauses.remaining(HUB) == 2
        time.now += 0.5
        assert pauses.remaining(HUB) == 1.5
        await pauses.wait(HUB)
        assert time.slept == [1.5]
        assert pauses.remaining(HUB) == 0
        await pauses.wait(HUB)
        assert time.slept == [1.5]

    async def test_an_origin_waits_for_itself_only(self, pauses: Pauses, time: Time) -> None:
        pauses.pause(HUB, 2)
        for other in (OTHER, Origin("https", HUB.host, 5000), Origin("http", HUB.host, 443)):
            assert pauses.remaining(other) == 0
            await pauses.wait(other)
        assert time.slept == []

    async def test_a_pause_is_extended_and_never_shortened(self, pauses: Pauses) -> None:
        pauses.pause(HUB, 5)
        pauses.pause(HUB, 2)
        assert pauses.remaining(HUB) == 5
        pauses.pause(HUB, 9)
        assert pauses.remaining(HUB) == 9

    @pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
    async def test_no_time_is_no_pause(self, pauses: Pauses, seconds: float) -> None:
        pauses.pause(HUB, seconds)
        assert pauses.remaining(HUB) == 0

    async def test_a_pause_that_was_extended_meanwhile_is_waited_for(self, pauses: Pauses, time: Time) -> None:
        pauses.pause(HUB, 2)
        time.meanwhile = lambda: pauses.pause(HUB, 3)
        await pauses.wait(HUB, time.now + 3)
        assert time.slept == [2, 1]

    async def test_a_pause_that_ends_in_time_is_waited_for(self, pauses: Pauses, time: Time) -> None:
        pauses.pause(HUB, 2)
        await pauses.wait(HUB, time.now + 2)
        assert time.slept == [2]

    async def test_a_pause_beyond_the_time_is_an_error_at_once(self, pauses: Pauses, time: Time) -> None:
        pauses.pause(HUB, 30)
        with pytest.raises(RateLimited, match=r"https://registry-1\.docker\.io:443/ asked to wait .* 30 s") as caught:
            await pauses.wait(HUB, time.now + 5)
        assert time.slept == []
        assert (caught.value.retry_after, caught.value.status) == (30, 429)
        assert isinstance(caught.value, StillPaused)

    async def test_a_pause_that_is_extended_beyond_the_time_is_an_error_then(self, pauses: Pauses, time: Time) -> None:
        pauses.pause(HUB, 2)
        time.meanwhile = lambda: pauses.pause(HUB, 60)
        with pytest.raises(RateLimited) as caught:
            await pauses.wait(HUB, time.now + 5)
        assert time.slept == [2]
        assert caught.value.retry_after == 58

    async def test_whoever_has_no_time_left_may_still_send_where_there_is_no_pause(
        self, pauses: Pauses, time: Time
    ) -> None:
        await pauses.wait(HUB, time.now - 1)
        pauses.pause(HUB, 0.001)
        with pytest.raises(RateLimited):
            await pauses.wait(HUB, time.now - 1)

    async def test_an_address_is_written_as_in_a_url(self, pauses: Pauses, time: Time) -> None:
        loopback = Origin("http", "::1", 5000)
        pauses.pause(loopback, 30)
        with pytest.raises(RateLimited) as caught:
            await pauses.wait(loopback, time.now)
        assert caught.value.url == "http://[::1]:5000/"

    async def test_pauses_of_hosts_that_are_never_asked_again_arent_kept(self, pauses: Pauses, time: Time) -> None:
        for number in range(1000):
            pauses.pause(Origin("https", f"h{number}", 443), 2)
            time.now += 1
        assert len(pauses._ends) <= 3

    async def test_cancellation(self) -> None:
        async def forever(seconds: float) -> None:
            scope.cancel()
            await anyio.sleep_forever()

        pauses = Pauses(Time(), forever)
        pauses.pause(HUB, 2)
        with anyio.CancelScope() as scope:
            await pauses.wait(HUB)
        assert scope.cancelled_caught
        assert pauses.remaining(HUB) == 2

    async def test_by_default_time_is_real(self) -> None:
        pauses = Pauses()
        pauses.pause(HUB, 0.001)
        with anyio.fail_after(5):
            await pauses.wait(HUB)
        assert pauses.remaining(HUB) == 0


async def test_what_a_policy_is_made_of_imports_no_event_loop() -> None:
    code = "import sys, lading.http.retry; print([name for name in ('anyio', 'asyncio') if name in sys.modules])"
    done = await anyio.run_process([sys.executable, "-c", code])
    assert done.stdout.strip() == b"[]"
