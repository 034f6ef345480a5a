"""Lock files: written in one order, read strictly, compared."""

from __future__ import annotations

import os
import stat
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading import Digest, LockEntry, Lockfile, Reference
from lading.errors import InvalidLockfile, LadingError, LockMismatch
from lading.pull.lockfile import LENGTH_LIMIT

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
A, B, C = (Reference.parse(f"ghcr.io/acme/{name}:v1") for name in "abc")
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")

TEXT = f"""\
# Written by `lading lock`; `lading lock --update` moves it.
version = 1

[[agent]]
reference = "ghcr.io/acme/a:v1"
digest = "{ONE}"
media-type = "{MANIFEST}"
size = 7
requested = true

[[agent]]
reference = "ghcr.io/acme/b:v1"
digest = "{TWO}"
media-type = "{MANIFEST}"
size = 9
needed-by = [
    "ghcr.io/acme/a:v1",
    "ghcr.io/acme/c:v1",
]
"""
ENTRIES = (LockEntry(A, ONE, MANIFEST, 7, is_requested=True), LockEntry(B, TWO, MANIFEST, 9, (C, A)))


def test_it_is_written_in_one_order() -> None:
    assert Lockfile(ENTRIES).text() == Lockfile(ENTRIES[::-1]).text() == TEXT


def test_what_is_written_is_read() -> None:
    lock = Lockfile.parse(TEXT)
    assert lock == Lockfile(ENTRIES)
    assert lock.text() == TEXT
    assert lock.requested == (A,)
    assert lock.entries[1].referenced_by == (A, C)


def test_an_empty_one() -> None:
    assert Lockfile.parse(Lockfile().text()) == Lockfile()


_COMPONENT = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
_REFERENCES = st.builds(
    Reference,
    st.sampled_from(["docker.io", "localhost:5000", "ghcr.io"]),
    st.lists(_COMPONENT, min_size=2, max_size=3).map("/".join),
    st.none() | _COMPONENT,
)
_ENTRIES = st.builds(
    LockEntry,
    _REFERENCES,
    st.binary(max_size=4).map(Digest.of),
    st.just(MANIFEST),
    st.integers(0, 2**63 - 1),
    st.lists(_REFERENCES, max_size=3).map(tuple),
    st.booleans(),
)


@given(st.lists(_ENTRIES, unique_by=lambda entry: str(entry.reference)))
def test_whatever_is_locked_is_read_again(entries: list[LockEntry]) -> None:
    lock = Lockfile(tuple(entries))
    assert Lockfile.parse(lock.text()) == lock
    assert lock.changes(Lockfile.parse(lock.text())) == ()
    for entry in entries:
        assert lock.pin(entry.reference).digest == entry.digest


@given(st.text())
def test_whatever_isnt_one_is_a_clear_error(text: str) -> None:
    with pytest.raises(InvalidLockfile):
        Lockfile.parse("x" + text)


def test_a_tag_is_filled_in() -> None:
    lock = Lockfile((LockEntry(Reference.parse("acme/a"), ONE, MANIFEST, 1),))
    assert lock.find(Reference.parse("docker.io/acme/a:latest")) is not None
    assert 'reference = "docker.io/acme/a:latest"' in lock.text()


def test_a_pinned_reference_keeps_its_tag() -> None:
    pinned = Lockfile(ENTRIES).pin(A)
    assert (pinned.tag, pinned.digest, str(pinned)) == ("v1", ONE, f"ghcr.io/acme/a@{ONE}")


def test_what_isnt_covered() -> None:
    assert Lockfile(ENTRIES).find(C) is None
    with pytest.raises(LockMismatch, match=r"ghcr.io/acme/c:v1.*lading lock"):
        Lockfile(ENTRIES).pin(C)


def test_changes() -> None:
    old = Lockfile(ENTRIES)
    new = Lockfile((LockEntry(A, TWO, MANIFEST, 7, is_requested=True), LockEntry(C, ONE, MANIFEST, 7)))
    assert [(change.kind, change.reference) for change in old.changes(new)] == [
        ("moved", A),
        ("removed", B),
        ("added", C),
    ]
    assert old.changes(Lockfile((LockEntry(A, ONE, MANIFEST, 7), *ENTRIES[1:]))) == ()


def _without(line: str) -> str:
    return "\n".join(one for one in TEXT.splitlines() if not one.startswith(line))


WRONG = {
    "nothing": ("", "version None"),
    "another version": (TEXT.replace("version = 1", "version = 2"), "version 2.*newer"),
    "a version that is text": (TEXT.replace("version = 1", 'version = "1"'), "version '1'"),
    "a version that is true": (TEXT.replace("version = 1", "version = true"), "version True"),
    "another key": (TEXT + "[other]\nx = 1\n", "other keys"),
    "an unknown key": (TEXT.replace("size = 7", "size = 7\nsha = 1"), "agent 1: 'sha'.*newer"),
    "no reference": (_without("reference"), "agent 1: reference is missing"),
    "no digest": (_without("digest"), "agent 1: digest is missing"),
    "no size": (_without("size"), "agent 1: size: None"),
    "a size that is text": (TEXT.replace("size = 9", 'size = "9"'), "agent 2: size: '9'"),
    "a size below nothing": (TEXT.replace("size = 9", "size = -1"), "agent 2: size: -1"),
    "a size beyond all": (TEXT.replace("size = 9", f"size = {2**63}"), "agent 2: size"),
    "a wrong digest": (TEXT.replace(str(TWO), "sha256:00"), "agent 2: digest"),
    "a path in a digest": (TEXT.replace(str(TWO), "sha256:../../x"), "agent 2: digest"),
    "a wrong reference": (TEXT.replace("acme/b:v1", "acme/b:"), "agent 2: reference"),
    "a wrong media type": (TEXT.replace(MANIFEST, "text"), "agent 1: media-type"),
    "requested by text": (TEXT.replace("requested = true", 'requested = "yes"'), "agent 1: requested"),
    "needed by text": (TEXT.replace("needed-by = [", 'needed-by = "x"\nx = ['), "agent 2"),
    "needed by a number": (TEXT.replace('    "ghcr.io/acme/c:v1",', "    7,"), "agent 2: needed-by: 7"),
    "twice": (TEXT.replace("acme/b:v1", "acme/a:v1"), "a:v1 is locked twice"),
    "pinned elsewhere": (TEXT.replace("acme/b:v1", f"acme/b@{ONE}"), "locked to another digest"),
    "a conflict": ("<<<<<<< ours\n" + TEXT, "resolve the conflict"),
    "depth": ("version = " + "[" * 100_000, "not TOML"),
    "a long number": ("version = " + "9" * 6000, "not TOML"),
    "an agent that is text": ('version = 1\nagent = ["x"]', "agent 1 isn't a table"),
    "agents that are text": ('version = 1\nagent = "x"', "other keys"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_what_isnt_one(text: str, says: str) -> None:
    with pytest.raises(InvalidLockfile, match=says):
        Lockfile.parse(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "agents.lock"
    Lockfile(ENTRIES).write(path)
    assert path.read_bytes() == TEXT.encode()
    assert Lockfile.read(str(path)) == Lockfile(ENTRIES)
    path.chmod(0o640)
    Lockfile().write(path)
    assert Lockfile.read(path) == Lockfile()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["agents.lock"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    Lockfile(ENTRIES).write(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "real"
    assert (tmp_path / "real").read_text() == TEXT


def test_files_that_arent_one(tmp_path: Path) -> None:
    path = tmp_path / "agents.lock"
    with pytest.raises(InvalidLockfile, match=r"agents.lock: No such file.*lading lock writes one"):
        Lockfile.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidLockfile, match=r"agents.lock: not UTF-8"):
        Lockfile.read(path)
    path.write_text("version = 3")
    with pytest.raises(InvalidLockfile, match=r"agents.lock: version 3"):
        Lockfile.read(path)
    with path.open("wb") as file:
        file.truncate(LENGTH_LIMIT + 1)
    with pytest.raises(InvalidLockfile, match="larger than"):
        Lockfile.read(path)
    with pytest.raises(InvalidLockfile, match="directory"):
        Lockfile.read(tmp_path)


def test_what_cant_be_written_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(LadingError, match=r"none/agents.lock: can't be written"):
        Lockfile(ENTRIES).write(tmp_path / "none" / "agents.lock")
    (tmp_path / "directory").mkdir()
    with pytest.raises(LadingError, match="directory: can't be written"):
        Lockfile(ENTRIES).write(tmp_path / "directory")
    assert [one.name for one in tmp_path.iterdir()] == ["directory"]
