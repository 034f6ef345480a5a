"""Each fault as a client sees it that knows nothing but sockets, and the schedule that says when it happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from testing.raw import RawClient, Received, fetch

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
BLOB = bytes(range(250)) * 4
LARGE = bytes(range(256)) * 12_000
IMAGE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def path(registry: EmbeddedRegistry) -> str:
    return blob_path(registry.add_blob(REPOSITORY, BLOB))


def blob_path(digest: str) -> str:
    return f"/v2/{REPOSITORY}/blobs/{digest}"


async def get(registry: EmbeddedRegistry, path: str, range_: str | None = None, **headers: str) -> Received:
    if range_ is not None:
        headers["Range"] = range_
    return await fetch(registry, path, headers=headers)


def applied(registry: EmbeddedRegistry) -> list[Fault]:
    return [one.fault for one in registry.faults.applied]


# The connection.


@pytest.mark.parametrize(("fault", "ended"), [(Reset, "reset"), (Close, "eof")])
@pytest.mark.parametrize("after", [0, 1, 999])
async def test_cut_in_the_body(
    registry: EmbeddedRegistry, path: str, fault: type[Reset | Close], ended: str, after: int
) -> None:
    registry.faults.add(fault(after))
    received = await get(registry, path)
    assert (received.status, received.body, received.ended) == (200, BLOB[:after], ended)
    assert received.headers["Content-Length"] == "1000"
    assert [(one.request.path, one.fault) for one in registry.faults.applied] == [(path, fault(after))]
    assert registry.requests[0].bytes_sent == after
    assert (await get(registry, path)).body == BLOB


@pytest.mark.parametrize(("fault", "ended"), [(Reset(), "reset"), (Close(), "eof")])
async def test_cut_before_the_head(registry: EmbeddedRegistry, path: str, fault: Fault, ended: str) -> None:
    registry.faults.add(fault)
    received = await get(registry, path)
    assert (received.status, received.body, received.ended) == (None, b"", ended)
    assert registry.requests[0].status is None


@pytest.mark.parametrize(
    ("fault", "status", "ended"), [(Close(), None, "eof"), (Reset(), None, "reset"), (Status(503), 503, "eof")]
)
async def test_a_body_that_nobody_wants_is_read_first(
    registry: EmbeddedRegistry, fault: Fault, status: int | None, ended: str
) -> None:
    registry.faults.add(fault)
    client = await RawClient.connect(registry)
    # Closed with something unread, a connection is reset.
    await client.ask(f"/v2/{REPOSITORY}/blobs/uploads/", "POST", {"Connection": "close"}, bytes(8_000_000))
    received = await client.read_to_the_end()
    assert (received.status, received.ended) == (status, ended)
    await client.leave()


@pytest.mark.parametrize("ended", ["reset", "eof"])
async def test_a_large_body_arrives_up_to_the_cut(registry: EmbeddedRegistry, ended: str) -> None:
    digest = registry.add_blob(REPOSITORY, LARGE)
    registry.faults.add(Reset(3_000_001) if ended == "reset" else Close(3_000_001))
    received = await get(registry, blob_path(digest))
    assert (len(received.body), received.ended) == (3_000_001, ended)
    assert LARGE.startswith(received.body)


@pytest.mark.parametrize("fault", [Reset(1000), Close(5000), Stall(1000), ExpiredToken(1000), WrongBytes(1000)])
async def test_what_is_beyond_the_end_does_not_happen(registry: EmbeddedRegistry, path: str, fault: Fault) -> None:
    registry.faults.add(fault)
    assert (await get(registry, path)).body == BLOB
    assert applied(registry) == []


@pytest.mark.parametrize("after", [None, 0, 7])
async def test_a_stall_lasts_until_the_client_leaves(registry: EmbeddedRegistry, path: str, after: int | None) -> None:
    registry.faults.add(Stall(after))
    client = await RawClient.connect(registry)
    await client.ask(path)
    if after is not None:
        await client.read_head()
        assert await client.read_exactly(after) == BLOB[:after]
    waiting = asyncio.create_task(client.read_exactly(1))
    await _until(lambda: applied(registry) == [Stall(after)])
    assert len(registry._active) == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await client.leave()
    await _until(lambda: not registry._active)


async def test_a_stall_ends_with_the_registry(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Stall(7))
    client = await RawClient.connect(registry)
    await client.ask(path)
    await client.read_head()
    await client.read_exactly(7)
    async with asyncio.timeout(5):
        await registry.stop()
    assert (await client.read_to_the_end()).body == b""
    await client.leave()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0)


async def test_a_lost_answer_was_done_all_the_same(registry: EmbeddedRegistry) -> None:
    registry.add_manifest(REPOSITORY, b"{}", IMAGE, "v1")
    registry.faults.add(AnswerLost(), on="DELETE manifest")
    path = f"/v2/{REPOSITORY}/manifests/v1"
    assert (await fetch(registry, path, "DELETE")).status is None
    assert (await fetch(registry, path)).status == 404


@pytest.mark.parametrize("fault", [Reset(), Close(), Status(503)])
async def test_what_fails_before_the_head_was_not_done(registry: EmbeddedRegistry, fault: Fault) -> None:
    registry.add_manifest(REPOSITORY, b"{}", IMAGE, "v1")
    registry.faults.add(fault, on="DELETE manifest")
    path = f"/v2/{REPOSITORY}/manifests/v1"
    await fetch(registry, path, "DELETE")
    assert (await fetch(registry, path)).status == 200


@pytest.mark.parametrize("fault", [Drip(chunk=100, seconds=0.0), Bandwidth(1e9), Latency(0.0)])
async def test_slow_is_whole_all_the_same(registry: EmbeddedRegistry, path: str, fault: Fault) -> None:
    registry.faults.add(fault)
    received = await get(registry, path)
    assert (received.body, received.ended) == (BLOB, "eof")
    assert applied(registry) == [fault]


async def test_slow_takes_its_time(registry: EmbeddedRegistry, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("lading.testing.sabotage.asyncio.sleep", sleep)
    registry.faults.add(Latency(3.0), Drip(chunk=400, seconds=2.0))
    assert (await get(registry, path)).body == BLOB
    assert waits == [3.0, 2.0, 2.0]
    waits.clear()
    registry.faults.add(Bandwidth(5000.0))
    assert (await get(registry, path)).body == BLOB
    assert len(waits) == 4  # as many pieces, at twenty a second
    assert max(waits) == pytest.approx(0.2, rel=0.5)


# The length.


async def test_short_body_is_honest(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(ShortBody(by=400), times=2)
    received = await get(registry, path)
    assert (received.headers["Content-Length"], received.body) == ("600", BLOB[:600])
    assert (await fetch(registry, path, "HEAD")).headers["Content-Length"] == "600"


async def test_short_body_of_a_large_file_isnt_damage(registry: EmbeddedRegistry) -> None:
    path = blob_path(registry.add_blob(REPOSITORY, LARGE))
    registry.faults.add(ShortBody(by=1), WrongBytes(at=0))
    received = await get(registry, path)
    assert received.body == b"\xff" + LARGE[1:-1]
    assert (await get(registry, path)).body == LARGE


async def test_long_body_is_honest(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(LongBody(by=400))
    received = await get(registry, path)
    assert (received.headers["Content-Length"], received.body) == ("1400", BLOB + bytes(400))


@pytest.mark.parametrize("delta", [-1000, -1, 1, 5000])
async def test_wrong_content_length(registry: EmbeddedRegistry, path: str, delta: int) -> None:
    registry.faults.add(WrongContentLength(delta))
    client = await RawClient.connect(registry)
    await client.ask(path)  # the connection could stay open
    received = await client.read_to_the_end()
    assert (received.headers["Content-Length"], received.body) == (str(1000 + delta), BLOB)
    await client.leave()


async def test_chunks_without_the_last_one(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Framing("chunked"), Close(600))
    received = await get(registry, path)
    assert received.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in received.headers
    assert received.body == b"258\r\n" + BLOB[:600] + b"\r\n"


@pytest.mark.parametrize("cut", [None, 600])
async def test_framed_by_the_end_of_the_connection(registry: EmbeddedRegistry, path: str, cut: int | None) -> None:
    registry.faults.add(Framing("close"), *([] if cut is None else [Close(cut)]))
    client = await RawClient.connect(registry)
    await client.ask(path)
    received = await client.read_to_the_end()
    assert not {"Content-Length", "Transfer-Encoding"} & set(received.headers)
    assert received.headers["Connection"] == "close"
    assert received.body == BLOB[:cut]
    await client.leave()


@pytest.mark.parametrize("at", [0, 500, 999])
async def test_wrong_bytes(registry: EmbeddedRegistry, path: str, at: int) -> None:
    registry.faults.add(WrongBytes(at), times=2)
    body = (await get(registry, path)).body
    assert [i for i in range(1000) if body[i] != BLOB[i]] == [at]
    assert len((await get(registry, path, "bytes=0-9")).body) == 10


# The answer.


@pytest.mark.parametrize(("code", "error"), [(429, "TOOMANYREQUESTS"), (503, "UNKNOWN"), (403, "DENIED")])
async def test_status(registry: EmbeddedRegistry, path: str, code: int, error: str) -> None:
    registry.faults.add(Status(code), times=2)
    received = await get(registry, path)
    assert (received.status, json.loads(received.body)["errors"][0]["code"]) == (code, error)
    assert "Retry-After" not in received.headers
    assert (await fetch(registry, path, "HEAD")).status == code


MOMENT = datetime(2030, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (7, "7"),
        (0, "0"),
        (-5, "-5"),
        (10**30, "1" + "0" * 30),
        ("soon", "soon"),
        ("", ""),
        (MOMENT, "Sat, 04 May 2030 03:02:01 GMT"),
        (MOMENT.astimezone(), "Sat, 04 May 2030 03:02:01 GMT"),
    ],
)
async def test_every_form_of_retry_after(
    registry: EmbeddedRegistry, path: str, given: int | str | datetime, sent: str
) -> None:
    registry.faults.add(Status(429, retry_after=given))
    assert (await get(registry, path)).headers["Retry-After"].strip() == sent


async def test_retry_after_as_a_while_from_now(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Status(503, retry_after=timedelta(hours=1)))
    before = datetime.now(UTC)
    moment = parsedate_to_datetime((await get(registry, path)).headers["Retry-After"])
    assert timedelta(minutes=59) < moment - before < timedelta(minutes=61)


async def test_redirect(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Redirect("http://elsewhere.test/x?sig=%2F", status=302))
    received = await get(registry, path)
    assert (received.status, received.headers["Location"]) == (302, "http://elsewhere.test/x?sig=%2F")


async def test_a_loop_goes_round_and_nobody_else_comes_into_it(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Redirect(loop=True))
    seen, location = [], path
    for _ in range(5):
        received = await get(registry, location)
        assert received.status == 307
        location = received.headers["Location"]
        seen.append(location)
    assert seen == [f"{path}?loop=a", f"{path}?loop=b"] * 2 + [f"{path}?loop=a"]
    assert (await get(registry, path)).status == 200
    registry.faults.clear()
    assert (await get(registry, location)).status == 200


async def test_an_expired_token(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(ExpiredToken(after=400))
    assert (await get(registry, path)).body == BLOB[:400]
    assert (await get(registry, path)).body == BLOB
    other = blob_path(registry.add_blob(REPOSITORY, b"other"))
    assert (await get(registry, other, "bytes=1-")).status == 206
    received = await get(registry, path, "bytes=400-")
    assert received.status == 401
    assert received.headers["WWW-Authenticate"] == (
        'Bearer realm="http://registry.test/token",service="registry",error="invalid_token"'
    )
    assert (await get(registry, path, "bytes=400-")).body == BLOB[400:]
    assert applied(registry) == [ExpiredToken(after=400), TokenRefused()]


async def test_an_etag_that_changed_between_two_requests(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(ETagChanged(), times=None, skip=1)
    etag = (await get(registry, path)).headers["ETag"]
    received = await get(registry, path, "bytes=400-", **{"If-Range": etag})
    assert (received.status, received.headers["ETag"], received.body) == (200, '"changed"', BLOB)
    received = await get(registry, path, "bytes=400-", **{"If-Range": '"changed"'})
    assert (received.status, received.body) == (206, BLOB[400:])
    received = await get(registry, path, "bytes=400-")
    assert (received.status, received.headers["ETag"]) == (206, '"changed"')


# Ranges. The numbers are those of well-known resume scenarios: 400 of 1000 bytes are there.


async def test_a_fault_of_ranges_waits_for_a_range(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(RangeIgnored())
    assert (await get(registry, path)).status == 200
    assert applied(registry) == []
    received = await get(registry, path, "bytes=400-")
    assert (received.status, received.body) == (200, BLOB)
    assert "Content-Range" not in received.headers
    assert applied(registry) == [RangeIgnored()]


async def test_another_range_that_says_so(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(RangeWrong(-10))
    received = await get(registry, path, "bytes=20-")
    assert (received.status, received.headers["Content-Range"]) == (206, "bytes 10-989/1000")
    assert received.body == BLOB[10:990]


@pytest.mark.parametrize("delta", [-400, -7, 7, 5000])
async def test_another_range_that_lies(registry: EmbeddedRegistry, path: str, delta: int) -> None:
    registry.faults.add(RangeWrong(delta, honest=False))
    received = await get(registry, path, "bytes=400-")
    assert (received.status, received.headers["Content-Range"]) == (206, "bytes 400-999/1000")
    assert received.headers["Content-Length"] == "600" == str(len(received.body))
    assert received.body != BLOB[400:]
    assert received.body.startswith(BLOB[400 + delta :][:600])


@pytest.mark.parametrize(
    ("text", "sent"),
    [(None, None), ("bytes {first}-{last}/*", "bytes 400-999/*"), ("bytes=400-999/1000", "bytes=400-999/1000")],
)
async def test_content_range(registry: EmbeddedRegistry, path: str, text: str | None, sent: str | None) -> None:
    registry.faults.add(ContentRange(text))
    received = await get(registry, path, "bytes=400-")
    assert (received.status, received.headers.get("Content-Range"), received.body) == (206, sent, BLOB[400:])


async def test_wrong_bytes_without_content_range(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(RangeWrong(-400), ContentRange(None))
    received = await get(registry, path, "bytes=400-")
    assert (received.status, "Content-Range" in received.headers) == (206, False)
    assert received.body == BLOB[:600]


async def test_a_part_that_nobody_asked_for(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(RangeUnasked(500))
    assert (await get(registry, path, "bytes=1-")).status == 206
    received = await get(registry, path)
    assert (received.status, received.headers["Content-Range"]) == (206, "bytes 0-499/1000")
    assert received.body == BLOB[:500]
    assert applied(registry) == [RangeUnasked(500)]


@pytest.mark.parametrize(("complete", "sent"), [(None, "bytes */1000"), (300, "bytes */300")])
async def test_unsatisfiable(registry: EmbeddedRegistry, path: str, complete: int | None, sent: str) -> None:
    registry.faults.add(Unsatisfiable(complete))
    received = await get(registry, path, "bytes=400-")
    assert (received.status, received.headers["Content-Range"], received.body) == (416, sent, b"")


async def test_a_range_of_a_large_blob_is_spoilt_too(registry: EmbeddedRegistry) -> None:
    path = blob_path(registry.add_blob(REPOSITORY, LARGE))
    registry.faults.add(RangeWrong(-10), LongBody(3), Close(2_000_000))
    received = await get(registry, path, "bytes=20-")
    assert received.headers["Content-Range"] == f"bytes 10-{len(LARGE) - 11}/{len(LARGE)}"
    assert received.headers["Content-Length"] == str(len(LARGE) - 20 + 3)
    assert received.body == LARGE[10:2_000_010]


# The schedule.


async def test_a_script_goes_in_order(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Status(503), on="GET blob", times=2)
    registry.faults.add(Close(10), on="GET blob")
    registry.faults.add(Status(404), on="HEAD blob")
    seen = [await get(registry, path) for _ in range(4)]
    assert [received.status for received in seen] == [503, 503, 200, 200]
    assert [len(received.body) for received in seen[2:]] == [10, 1000]
    assert (await fetch(registry, path, "HEAD")).status == 404


async def test_the_second_one_is_cut(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Close(10), on="GET blob", skip=1)
    assert [len((await get(registry, path)).body) for _ in range(3)] == [1000, 10, 1000]


async def test_what_has_no_number_holds_besides(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(ETagChanged(), times=None)
    registry.faults.add(Close(10))
    seen = [await get(registry, path) for _ in range(2)]
    assert [(len(received.body), received.headers["ETag"]) for received in seen] == [
        (10, '"changed"'),
        (1000, '"changed"'),
    ]


@pytest.mark.parametrize(
    ("on", "matches"),
    [
        ("*", True),
        ("GET blob", True),
        ("GET *", True),
        ("* blob", True),
        ("GET", True),
        ("PUT *", False),
        ("GET tags", False),
    ],
)
async def test_on(registry: EmbeddedRegistry, path: str, on: str, matches: bool) -> None:
    registry.faults.add(Status(503), on=on)
    assert (await get(registry, path)).status == (503 if matches else 200)


async def test_path_is_a_glob(registry: EmbeddedRegistry, path: str) -> None:
    other = registry.add_blob("acme/other", BLOB)
    registry.faults.add(Status(503), path="/v2/acme/other/*", times=None)
    assert (await get(registry, path)).status == 200
    assert (await get(registry, f"/v2/acme/other/blobs/{other}")).status == 503


@pytest.mark.parametrize("on", ["GET blobs", "FETCH blob", "blob", "", "get blob", "GET  blob"])
def test_a_typing_error_is_one(on: str) -> None:
    with pytest.raises(ValueError, match="not a method and a kind"):
        EmbeddedRegistry().faults.add(Reset(), on=on)


def test_what_means_nothing_is_refused() -> None:
    faults = EmbeddedRegistry().faults
    mistakes: list[Callable[[], None]] = [
        faults.add,
        lambda: faults.add(Reset(), times=0),
        lambda: faults.add(Reset(), skip=-1),
        lambda: faults.chaos(seed=1, rate=1.5, faults=[Reset()]),
        lambda: faults.chaos(seed=1, rate=0.5, faults=[]),
    ]
    for wrong in mistakes:
        with pytest.raises(ValueError, match="at least one"):
            wrong()


async def test_clear(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(Status(503), times=None)
    registry.faults.chaos(seed=1, rate=1, faults=[Reset()])
    registry.faults.clear()
    assert (await get(registry, path)).status == 200
    assert registry.faults.applied == []


async def _statuses(registry: EmbeddedRegistry, paths: list[str]) -> dict[str, list[int | None]]:
    seen: dict[str, list[int | None]] = {}
    for path in paths:
        seen.setdefault(path, []).append((await get(registry, path)).status)
    return seen


async def test_chaos_is_the_same_for_the_same_seed(registry: EmbeddedRegistry, path: str) -> None:
    paths = [path, f"/v2/{REPOSITORY}/tags/list"]
    kinds = [Status(code) for code in (500, 502, 503)]
    runs = []
    for order in (paths * 20, paths[::-1] * 20, paths[:1] * 20 + paths[1:] * 20):
        registry.faults.clear()
        registry.faults.chaos(seed=7, rate=0.3, faults=kinds)
        runs.append(await _statuses(registry, order))
    assert runs[0] == runs[1] == runs[2]
    registry.faults.clear()
    registry.faults.chaos(seed=8, rate=0.3, faults=kinds)
    assert await _statuses(registry, paths * 20) != runs[0]
    statuses = [status for path in paths for status in runs[0][path]]
    assert {500, 502, 503} <= set(statuses)
    assert 4 <= sum(status in (500, 502, 503) for status in statuses) <= 22


@pytest.mark.parametrize(("rate", "failures"), [(0.0, 0), (1.0, 10)])
async def test_chaos_never_and_always(registry: EmbeddedRegistry, path: str, rate: float, failures: int) -> None:
    registry.faults.chaos(seed=1, rate=rate, faults=[Status(503)], on="GET blob")
    statuses = [(await get(registry, path)).status for _ in range(10)]
    assert statuses.count(503) == failures


async def test_keep_alive_survives_what_is_framed_well(registry: EmbeddedRegistry, path: str) -> None:
    registry.faults.add(ShortBody(by=990), ETagChanged())
    client = await RawClient.connect(registry)
    for size in (10, 1000):
        await client.ask(path)
        await client.read_head()
        assert await client.read_exactly(size) == BLOB[:size]
    await client.leave()


def test_every_fault_is_a_value() -> None:
    for fault in FAULTS:
        assert fault.__dataclass_params__.frozen  # type: ignore[union-attr]
        assert not hasattr(fault, "__dict__") or "__slots__" in fault.__dict__
        assert fault.__doc__
    assert len({Reset(1), Reset(1), Reset(2)}) == 2
