"""Content-Range: which bytes came, and that no other ones are taken for them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vectors import vectors

from lading.errors import ProtocolError
from lading.http.transport import Headers
from lading.registry.ranges import ContentRange, continue_at, parse_content_range

READ = [
    ("bytes 0-0/1", ContentRange(0, 0, 1)),
    ("bytes 400-999/1000", ContentRange(400, 999, 1000)),
    ("bytes 400-499/1000", ContentRange(400, 499, 1000)),
    ("bytes 400-999/*", ContentRange(400, 999, None)),
    ("bytes 010-020/030", ContentRange(10, 20, 30)),
    ("BYTES 0-9/10", ContentRange(0, 9, 10)),
    (f"bytes 0-{'9' * 18}/*", ContentRange(0, 10**18 - 1, None)),
    (f"bytes {'0' * 18}-{'0' * 18}/{'9' * 18}", ContentRange(0, 0, 10**18 - 1)),
]

REFUSED = [
    "",
    "bytes",
    "bytes ",
    "bytes 1",
    "bytes 1-",
    "bytes -2/3",
    "bytes 1-2",
    "bytes 1-2/",
    "bytes 1-2/*a",
    "bytes 1-2/3a",
    "bytes 1-2/**",
    "bytes x-2/3",
    "bytes 1-x/3",
    "bytes 1*2/3",
    "bytes 1-2@3",
    "bytes */1000",
    "bytes */*",
    "bytes=1-2/3",
    "bytes  1-2/3",
    "bytes\t1-2/3",
    "bytes1-2/3",
    " bytes 1-2/3",
    "bytes 1-2/3 ",
    "bytes 1-2/3\n",
    "bytes 1 - 2/3",
    "bytes 1-2/3, bytes 1-2/3",
    "bytes 0-0,2-3/4",
    "notbytes 1-2/3",
    "byteſ 1-2/3",
    "items 1-2/3",
    "1-2/3",
    "bytes +1-2/3",
    "bytes -1-2/3",
    "bytes 1-2/-1",
    "bytes 1_0-20/30",
    "bytes 0-9/0x10",
    "bytes 0-9/1e3",
    "bytes 0.0-9/10",
    "bytes ٠-٩/*",
    "bytes ０-９/１０",
    "bytes ²-3/4",
    "bytes 0-9/10\x00",
    "bytes 5-2/10",
    "bytes 0-10/10",
    "bytes 0-0/0",
    f"bytes 0-{'9' * 19}/*",
    f"bytes {'0' * 19}-1/2",
    f"bytes {'9' * 66}-2/3",
]


@pytest.mark.parametrize(("value", "expected"), READ)
def test_a_content_range_is_read(value: str, expected: ContentRange) -> None:
    assert parse_content_range(value) == expected


@pytest.mark.parametrize(("_", "content"), READ)
def test_what_is_written_is_read_again(_: str, content: ContentRange) -> None:
    assert parse_content_range(str(content)) == content


@pytest.mark.parametrize("value", REFUSED)
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_content_range(value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "bytes " + "1" * 5_000_000,
        "bytes " + "1" * 18 + "-" + "1" * 5_000_000,
        "bytes 1-2/" + "3" * 5_000_000,
        "bytes " * 1_000_000,
        "bytes" + " " * 5_000_000 + "1-2/3",
        "-" * 5_000_000,
    ],
    ids=["first", "last", "complete", "units", "spaces", "dashes"],
)
def test_hostile_values_take_no_time_and_little_room(value: str) -> None:
    started = time.process_time()
    with pytest.raises(ProtocolError) as caught:
        parse_content_range(value)
    assert time.process_time() - started < 1
    assert len(str(caught.value)) < 200


@given(st.text() | st.from_regex(r"(?i)bytes [0-9]{0,20}[-*][0-9]{0,20}/[0-9*]{0,20}\Z") | st.text("byts 0123-/*=\n"))
@example("bytes 1-2/3\n")
def test_an_arbitrary_value_gives_a_range_that_makes_sense_or_the_typed_error(value: str) -> None:
    try:
        content = parse_content_range(value)
    except ProtocolError:
        return
    assert 0 <= content.first <= content.last
    assert content.complete is None or content.last < content.complete


def answer(*lines: str) -> Headers:
    return Headers([("Content-Type", "application/octet-stream"), *(("content-range", line) for line in lines)])


# Of a blob of 1000 bytes: status, Content-Range, the byte that was asked for, the byte at which the body begins.
BEGINS = {
    "the rest": (206, ["bytes 400-999/1000"], 400, 400),
    "the rest, of a blob of unknown size": (206, ["bytes 400-999/*"], 400, 400),
    "a part of the rest": (206, ["bytes 400-499/1000"], 400, 400),
    "one byte": (206, ["bytes 400-400/1000"], 400, 400),
    "the last byte": (206, ["bytes 999-999/1000"], 999, 999),
    "a part of the whole, though nobody asked for one": (206, ["bytes 0-499/1000"], 0, 0),
    "the whole as a part": (206, ["bytes 0-999/1000"], 0, 0),
    "the whole": (200, [], 0, 0),
    "the whole in spite of the range": (200, [], 400, 0),
    "the whole with a header that has no meaning there": (200, ["bytes 400-999/1000"], 400, 0),
}

# The same, and what the error says.
NOWHERE = {
    "before what was asked for": (206, ["bytes 10-989/1000"], 20, "asked for byte 20 .*bytes 10-989/1000 came"),
    "behind what was asked for": (206, ["bytes 401-999/1000"], 400, "asked for byte 400"),
    "not from the start": (206, ["bytes 1-999/1000"], 0, "asked for byte 0"),
    "no range": (206, [], 400, "no Content-Range"),
    "no range from the start": (206, [], 0, "no Content-Range"),
    "two ranges": (206, ["bytes 400-999/1000", "bytes 0-599/1000"], 400, "2 Content-Range"),
    "the same range twice": (206, ["bytes 400-999/1000"] * 2, 400, "2 Content-Range"),
    "two ranges in one line": (206, ["bytes 400-999/1000, bytes 400-999/1000"], 400, "not of the form"),
    "an invalid range": (206, ["bytes=400-999/1000"], 400, "not of the form"),
    "an unsatisfied range": (206, ["bytes */1000"], 400, "not of the form"),
    "another unit": (206, ["lines 400-999/1000"], 400, "not of the form"),
    "of a longer blob": (206, ["bytes 400-999/1001"], 400, "a blob of 1000 bytes: bytes 400-999/1001 came"),
    "of a shorter blob": (206, ["bytes 400-899/900"], 400, "a blob of 1000 bytes"),
    "of an unknown blob, beyond the end": (206, ["bytes 400-1000/*"], 400, "a blob of 1000 bytes"),
    "the whole of another blob": (206, ["bytes 0-0/1"], 0, "a blob of 1000 bytes"),
    "behind the end": (206, ["bytes 1000-1000/*"], 1000, "a blob of 1000 bytes"),
    "unsatisfied": (
        416,
        ["bytes */300"],
        400,
        r"byte 400 .*of 1000: there is nothing \(status 416\), but 'bytes \*/300'",
    ),
    "unsatisfied, without a word": (416, [], 400, "there is nothing"),
    "unsatisfied at the end": (416, ["bytes */1000"], 1000, "there is nothing"),
    "unsatisfied from the start": (416, ["bytes */1000"], 0, "there is nothing"),
    "unsatisfied, with control characters": (416, ["\x1b[2J" * 1000], 400, "there is nothing"),
    "not modified": (304, [], 400, "status 304"),
    "an error": (500, ["bytes 400-999/1000"], 400, "status 500"),
    "another success": (204, [], 0, "status 204"),
}


@pytest.mark.parametrize(("status", "lines", "offset", "begin"), BEGINS.values(), ids=BEGINS.keys())
def test_where_a_body_begins(status: int, lines: list[str], offset: int, begin: int) -> None:
    assert continue_at(status, answer(*lines), offset, 1000) == begin


@pytest.mark.parametrize(("status", "lines", "offset", "said"), NOWHERE.values(), ids=NOWHERE.keys())
def test_any_other_answer_is_refused(status: int, lines: list[str], offset: int, said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        continue_at(status, answer(*lines), offset, 1000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_an_empty_blob_has_no_parts() -> None:
    assert continue_at(200, answer(), 0, 0) == 0
    with pytest.raises(ProtocolError):
        continue_at(206, answer("bytes 0-0/*"), 0, 0)


@given(
    st.sampled_from([200, 206, 416]) | st.integers(100, 599),
    st.lists(
        st.text() | st.builds("bytes {}-{}/{}".format, *[st.integers(0, 12)] * 2, st.integers(8, 12) | st.just("*")),
        max_size=2,
    ),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_an_arbitrary_answer_begins_where_it_was_asked_to_or_at_the_start(
    status: int, lines: list[str], offset: int, size: int
) -> None:
    try:
        begin = continue_at(status, answer(*lines), offset, size)
    except ProtocolError:
        return
    assert (status, begin) in {(200, 0), (206, offset)}
    assert status == 200 or begin < size


@pytest.mark.parametrize("case", vectors("ranges.json", "content_range_headers"))
def test_vectors(case: dict[str, Any]) -> None:
    values, valid = case["values"], case["valid"]
    started = time.process_time()
    try:
        # How many lines there may be is known where the whole answer is.
        content = parse_content_range(values[0]) if len(values) == 1 else None
        if content is None:
            continue_at(206, answer(*values), 0, 1000)
    except ProtocolError:
        assert not valid or case.get("either")
    else:
        assert content is not None
        assert valid or case.get("either")
        if valid:
            assert (content.first, content.last) == (case["first"], case["last"])
            # Some write -1 for a size that isn't known.
            assert (content.complete or -1) == (case["complete"] or -1)
    assert time.process_time() - started < 1
