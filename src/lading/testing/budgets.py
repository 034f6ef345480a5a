"""Budgets: exact statements about what was asked, over connections and with credentials. No HTTP, no waiting.

One set of questions for everything that has a log: a registry since its start, or a recording of a part of it. A
question that can't be answered because it is misspelt is an error, never a zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import get_args, overload

from lading.testing.record import Log, RecordedRequest
from lading.testing.routes import Kind

# RFC 9110, section 11.6.2, and section 11.7.2: a proxy's credentials have no business here, so they are looked for.
_CREDENTIAL_HEADERS = ("Authorization", "Proxy-Authorization")


@dataclass(frozen=True, slots=True)
class SeenCredential:
    """A credential that a request brought: to which origin, in which header, of which scheme (lower-case).

    The value isn't shown.
    """

    origin: str
    header: str
    scheme: str
    value: str = field(repr=False)


class Inspection(ABC):
    """What can be asked of a log of requests. Each question is answered from the log as it stands."""

    @abstractmethod
    def log(self) -> Log:
        """Return what happened so far."""

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far in order of arrival, as they stand now."""
        return list(self.log().requests)

    @property
    def bytes_sent(self) -> int:
        """How many bytes of bodies were sent in answer to all of the requests."""
        return sum(request.bytes_sent for request in self.log().requests)

    @property
    def connections(self) -> int:
        """How many connections were opened, whether or not a request came on them."""
        return self.log().connections

    @property
    def credentials(self) -> list[SeenCredential]:
        """The different credentials that reached each origin of the registry, in order of their first appearance."""
        seen = (credential for request in self.log().requests for credential in _credentials(request))
        return list(dict.fromkeys(seen))

    def summary(self) -> list[str]:
        """Return method and kind of each request in order of arrival: `["GET manifest", "GET blob"]`."""
        return [str(request) for request in self.log().requests]

    def count(self, *expected: str) -> int:
        """Return how many requests are among `expected` ("GET blob", …), or how many there are if none is given."""
        for one in expected:
            _check(one)
        return sum(not expected or one in expected for one in self.summary())

    def assert_requests(self, *expected: str, in_any_order: bool = False) -> None:
        """Assert that the requests are exactly these, in this order: `assert_requests("GET manifest", "GET blob")`.

        Raises:
            AssertionError: they aren't; it shows what was expected beside what came.
            ValueError: an expected request can't be one.
        """
        __tracebackhide__ = True
        for one in expected:
            _check(one)
        got = list(self.log().requests)
        if in_any_order:
            if Counter(expected) != Counter(map(str, got)):
                raise AssertionError(_difference(*_aligned_in_any_order(expected, got)))
        elif list(expected) != [str(request) for request in got]:
            raise AssertionError(_difference(*_aligned(expected, got)))


class Recording(Inspection, Sequence[RecordedRequest]):
    """The requests that arrived in one `with registry.recording()` block, as they stand now."""

    def __init__(self, read: Callable[[], Log]) -> None:
        self._read = read

    def log(self) -> Log:
        """Return what happened in the block so far."""
        return self._read()

    @overload
    def __getitem__(self, index: int) -> RecordedRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordedRequest]: ...
    def __getitem__(self, index: int | slice) -> RecordedRequest | list[RecordedRequest]:
        return self.requests[index]

    def __len__(self) -> int:
        return len(self.log().requests)

    def __repr__(self) -> str:
        return f"<Recording: {', '.join(self.summary()) or 'no requests'}>"


def _check(expected: str) -> None:
    method, _, kind = expected.partition(" ")
    if not (method.isalpha() and method.isupper()) or kind not in get_args(Kind):
        raise ValueError(f"{expected!r} is no request: write a method and one of {', '.join(get_args(Kind))}")


def _credentials(request: RecordedRequest) -> Iterator[SeenCredential]:
    for header in _CREDENTIAL_HEADERS:
        value = request.headers.get(header)
        if value is not None:
            scheme, _, rest = value.partition(" ")
            yield SeenCredential(request.origin, header, scheme.lower(), rest.strip())


Line = tuple[str | None, RecordedRequest | None]


def _aligned(expected: Sequence[str], got: Sequence[RecordedRequest]) -> tuple[list[Line], set[int]]:
    """Return expected and got side by side, and which lines differ."""
    lines: list[Line] = []
    wrong: set[int] = set()
    for change, a, b, c, d in SequenceMatcher(None, expected, [str(one) for one in got], False).get_opcodes():
        added = list(zip_longest(expected[a:b], got[c:d]))
        if change != "equal":
            wrong.update(range(len(lines), len(lines) + len(added)))
        lines += added
    return lines, wrong


def _aligned_in_any_order(expected: Sequence[str], got: Sequence[RecordedRequest]) -> tuple[list[Line], set[int]]:
    """Return each that was expected beside one that came, then those that nobody expected."""
    left = list(got)
    lines: list[Line] = []
    for one in expected:
        found = next((request for request in left if str(request) == one), None)
        if found is not None:
            left.remove(found)
        lines.append((one, found))
    lines += [(None, request) for request in left]
    return lines, {number for number, (one, request) in enumerate(lines) if one is None or request is None}


def _difference(lines: Sequence[Line], wrong: set[int]) -> str:
    expected = sum(one is not None for one, _ in lines)
    got = sum(request is not None for _, request in lines)
    rows = [(one or "—", _shown(request) if request is not None else "—") for one, request in lines]
    width = max([len("expected"), *(len(one) for one, _ in rows)])
    table = [
        f"{'≠' if number in wrong else ' '} {one:<{width}}  {request}" for number, (one, request) in enumerate(rows)
    ]
    head = f"expected {expected} request{'s' * (expected != 1)}, got {got}"
    return "\n".join([head, f"  {'expected':<{width}}  got", *table])


def _shown(request: RecordedRequest) -> str:
    # Not the query: it may hold a signature.
    status = "no answer" if request.status is None else request.status
    return f"{request}  {status}  {request.path}"
