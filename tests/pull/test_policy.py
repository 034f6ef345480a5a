"""The rules of the read path, cell by cell."""

from __future__ import annotations

import itertools
import math

import pytest

from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    CredentialError,
    Denied,
    DigestMismatch,
    InvalidManifest,
    InvalidReference,
    LadingError,
    LockMismatch,
    NotAnAgent,
    NotFound,
    Offline,
    ProtocolError,
    ProxyFailed,
    RateLimited,
    RegistryError,
    SizeMismatch,
    StoreCorrupted,
    StoreReadOnly,
    TimedOut,
    TlsFailed,
    TransportError,
    Unauthorized,
)
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.pull.policy import (
    FALLBACKS,
    Fallback,
    Fetch,
    Resolve,
    Serve,
    after,
    before,
    is_transient,
    may_fall_back,
    span,
)
from lading.store.store import NEVER

CACHED = Digest.of(b"cached")
MOVED = Digest.of(b"moved")


def status(code: int) -> RegistryError:
    return RegistryError("refused", status=code)


# The rows of the table: the registry can't be reached or asks for patience, it refuses, it answers wrongly.
TRANSIENT: list[LadingError] = [
    ConnectFailed("refused"),
    ConnectFailed("the host isn't known"),
    ProxyFailed("no proxy"),
    TimedOut("silent"),
    BodyInterrupted("cut"),
    TransportError("something else on the way"),
    Offline("switched off"),
    RateLimited("slow down"),
    *(status(code) for code in (408, 429, 500, 501, 502, 503, 504, 507, 599)),
]
REFUSED: list[LadingError] = [
    Unauthorized("who?", status=401),
    Denied("no", status=403),
    NotFound("gone", status=404),
    *(status(code) for code in (400, 405, 406, 410, 416)),
]
WRONG: list[LadingError] = [
    DigestMismatch("other content"),
    SizeMismatch("longer"),
    TlsFailed("unknown authority"),
    InvalidManifest("a captive portal's page"),
    ProtocolError("not HTTP"),
    NotAnAgent("an image"),
    StoreCorrupted("lost"),
    StoreReadOnly("read-only"),
    CredentialError("no helper"),
    LockMismatch("not covered"),
    InvalidReference("not one"),
    LadingError("the client is closed"),
]

CELLS = [
    (failure, fallback, expected)
    for failures, row in ((TRANSIENT, (True, True, False)), (REFUSED, (True, False, False)), (WRONG, (False,) * 3))
    for failure, (fallback, expected) in itertools.product(failures, zip(FALLBACKS, row, strict=True))
]


def test_the_columns_of_the_table() -> None:
    assert FALLBACKS == ("any", "transient", "never")


@pytest.mark.parametrize(("failure", "fallback", "expected"), CELLS)
def test_which_failure_a_cached_copy_may_stand_in_for(failure: LadingError, fallback: Fallback, expected: bool) -> None:
    assert may_fall_back(failure, fallback) is expected


@pytest.mark.parametrize("failure", TRANSIENT)
def test_what_may_succeed_later(failure: LadingError) -> None:
    assert is_transient(failure)


@pytest.mark.parametrize("failure", [*REFUSED, *WRONG])
def test_what_will_not(failure: LadingError) -> None:
    assert not is_transient(failure)


# validated, is_pinned, force, max_age, now: what to do
BEFORE = {
    "nothing cached": (None, False, False, None, 100.0, Fetch()),
    "nothing cached, pinned": (None, True, False, None, 100.0, Fetch()),
    "nothing cached, any age will do": (None, False, False, math.inf, 100.0, Fetch()),
    "forced": (90.0, False, True, None, 100.0, Fetch()),
    "forced, pinned": (90.0, True, True, None, 100.0, Fetch()),
    "forced, fresh": (90.0, False, True, 60.0, 100.0, Fetch()),
    "pinned": (90.0, True, False, None, 100.0, Serve("pinned")),
    "pinned, long ago": (0.0, True, False, 1.0, 1e9, Serve("pinned")),
    "pinned, from the future": (200.0, True, False, None, 100.0, Serve("pinned")),
    "fresh": (90.0, False, False, 60.0, 100.0, Serve("fresh")),
    "just fresh": (40.0, False, False, 60.0, 100.0, Serve("fresh")),
    "just not fresh": (39.9, False, False, 60.0, 100.0, Resolve()),
    "confirmed this very moment": (100.0, False, False, 0.0, 100.0, Serve("fresh")),
    "no age will do": (99.9, False, False, 0.0, 100.0, Resolve()),
    "any age will do": (0.1, False, False, math.inf, 1e9, Serve("fresh")),
    "never confirmed, and any age will do": (NEVER, False, False, math.inf, 1e9, Resolve()),
    "never confirmed, pinned": (NEVER, True, False, math.inf, 1e9, Serve("pinned")),
    "from the future": (100.1, False, False, math.inf, 100.0, Resolve()),
    "cached": (90.0, False, False, None, 100.0, Resolve()),
    "cached this very moment": (100.0, False, False, None, 100.0, Resolve()),
}


@pytest.mark.parametrize(
    ("validated", "is_pinned", "force", "max_age", "now", "expected"), BEFORE.values(), ids=BEFORE.keys()
)
def test_before_any_network(
    validated: float | None,
    is_pinned: bool,
    force: bool,
    max_age: float | None,
    now: float,
    expected: Serve | Resolve | Fetch,
) -> None:
    assert before(validated, is_pinned=is_pinned, force=force, max_age=max_age, now=now) == expected


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [(CACHED, Serve("revalidated")), (MOVED, Fetch(MOVED)), (None, Fetch()), (Digest.of(b"cached", "sha512"), ...)],
    ids=["the same", "moved", "not said", "another algorithm"],
)
def test_after_the_head(resolved: Digest | None, expected: object) -> None:
    descriptor = None if resolved is None else Descriptor(OCI_MANIFEST, resolved, 10)
    assert after(CACHED, descriptor) == (Fetch(resolved) if expected is ... else expected)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 seconds"),
        (1.9, "1 second"),
        (59.9, "59 seconds"),
        (60.0, "1 minute"),
        (7_199.0, "1 hour"),
        (172_800.0, "2 days"),
    ],
)
def test_a_time_as_people_say_it(seconds: float, said: str) -> None:
    assert span(seconds) == said
