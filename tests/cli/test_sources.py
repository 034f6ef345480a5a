"""Lists of references: cut into lines in bounded memory, whatever they hold and however they come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lading.cli.sources import LINE_LIMIT, Line, Lines, Sources
from lading.errors import InvalidReference, LadingError
from lading.oci.reference import Reference


def lines(content: bytes, size: int) -> list[tuple[str, str]]:
    cutter = Lines("list")
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    return [(line.where, line.text) for chunk in [*chunks, b""] for line in cutter.feed(chunk)]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a/b", [("list:1", "a/b")]),
        (b"a/b\nc/d\n", [("list:1", "a/b"), ("list:2", "c/d")]),
        (b"a/b\r\n\r\nc/d\r\n", [("list:1", "a/b"), ("list:3", "c/d")]),
        (b"# all\n\n  a/b:v1  # why\n#", [("list:3", "a/b:v1")]),
        (b"\xef\xbb\xbfa/b\n", [("list:1", "a/b")]),
        (b"\xff\n", [("list:1", "\\xff")]),
    ],
)
def test_one_a_line(content: bytes, found: list[tuple[str, str]], size: int) -> None:
    assert lines(content, size) == found


@pytest.mark.parametrize("size", [1000, 64 * 1024])
def test_a_line_that_is_too_long_is_refused_and_takes_no_memory(size: int) -> None:
    cutter = Lines("list")
    content = b"a" * 1_000_000 + b"\na/b\n" + b"c/d #" + b" " * 1_000_000 + b"\ne/f"
    found: list[Line] = []
    for start in range(0, len(content), size):
        found += cutter.feed(content[start : start + size])
        assert len(cutter._rest) <= LINE_LIMIT + 1
    found += cutter.feed(b"")
    long, *rest = found
    with pytest.raises(InvalidReference, match=f"list:1: the line is longer than {LINE_LIMIT} bytes"):
        long.reference()
    assert len(long.text) < 100
    assert [str(line.reference()) for line in rest] == [f"docker.io/{name}:latest" for name in ("a/b", "c/d", "e/f")]


@pytest.mark.parametrize(("text", "hint"), [("a/b c/d", "one reference a line"), ("https://a/b", "leave out https://")])
def test_what_isnt_a_reference_is_told_where_it_is(text: str, hint: str) -> None:
    [line] = Lines("list").feed(f"{text}\n".encode())
    with pytest.raises(InvalidReference, match="list:1: ") as caught:
        line.reference()
    assert hint in caught.value.hint


def test_arguments_come_first_and_files_in_their_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"a/one\nUPPER\n")
    two.write_bytes(b"a/two")
    refused: list[str] = []
    with Sources([Reference.parse("a/zero")], [str(two), str(one)]) as sources:
        assert sources.count() == 4
        names = [reference.repository for reference in sources.read(lambda text, error: refused.append(text))]
    assert names == ["a/zero", "a/two", "a/one"]
    assert refused == ["UPPER"]


async def test_of_a_pipe_nobody_knows_how_many_there_are() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a/one\na/")
    names = []
    with Sources([], [f"/dev/fd/{reader}"]) as sources:
        assert sources.count() is None
        async for reference in sources.stream(lambda text, error: None):
            names.append(reference.repository)
            if writer >= 0:
                os.write(writer, b"two\n")
                os.close(writer)
                writer = -1
    os.close(reader)
    assert names == ["a/one", "a/two"]


def test_a_file_that_cant_be_opened_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "list").touch()
    for path, why in [("none", "No such file"), (".", "directory")]:
        with (
            pytest.raises(LadingError, match=why),
            Sources([], [str(tmp_path / "list"), str(tmp_path / path)]),
        ):
            pass
