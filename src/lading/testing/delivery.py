"""How an answer leaves, faults included: decided here, value by value, before a byte of it moves.

Each fault changes the delivery, or leaves it as it is where there is nothing for it to spoil.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from multidict import CIMultiDict

from lading.testing.endpoints import Answer
from lading.testing.faults import (
    AnswerLost,
    Bandwidth,
    Close,
    ContentRange,
    Drip,
    ETagChanged,
    ExpiredToken,
    Fault,
    Framing,
    LongBody,
    RangeIgnored,
    RangeUnasked,
    RangeWrong,
    Reset,
    ShortBody,
    Stall,
    Unsatisfiable,
    WrongBytes,
    WrongContentLength,
)
from lading.testing.ranges import Part, content_range, unsatisfied_range

Cut = Reset | Close | Stall | AnswerLost


@dataclass(frozen=True, slots=True)
class Delivery:
    """An answer on its way: `part` of its body, `padding` zero bytes, and what is wrong with how they go."""

    answer: Answer
    part: Part
    has_body: bool
    padding: int = 0
    length_delta: int = 0
    framing: Literal["length", "chunked", "close"] = "length"
    flipped: int | None = None
    cut: Cut | None = None
    drip: Drip | None = None
    bytes_per_second: float | None = None

    @classmethod
    def of(cls, answer: Answer, method: str) -> Delivery:
        """Return the delivery of an answer with nothing wrong."""
        # RFC 9110, section 6.4.1: what has no body whatever its header says.
        has_body = method != "HEAD" and answer.status not in (204, 304)
        return cls(answer, answer.part or (0, _size(answer)), has_body)

    @property
    def size(self) -> int:
        """How many bytes the body has."""
        return self.part[1] - self.part[0] + self.padding

    @property
    def content_length(self) -> int:
        """What the head says about it."""
        return max(self.size + self.length_delta, 0)


def asked_headers(headers: Mapping[str, str], faults: tuple[Fault, ...]) -> Mapping[str, str]:
    """Return the headers of a request as faults let the registry see them."""
    asked = CIMultiDict(headers)
    for fault in faults:
        if isinstance(fault, RangeIgnored):
            asked.popall("Range", None)
        elif isinstance(fault, ETagChanged):
            # It is the changed tag that the condition is about.
            condition = asked.pop("If-Range", fault.etag)
            if condition.strip() != fault.etag:
                asked.popall("Range", None)
    return asked


def spoilt(delivery: Delivery, fault: Fault) -> Delivery:
    """Return the delivery with one thing more that is wrong; the same one where the fault finds nothing to spoil."""
    match fault:
        case ETagChanged(etag):
            return _with_headers(delivery, ETag=etag) if "ETag" in delivery.answer.headers else delivery
        case RangeWrong() | RangeUnasked() | ContentRange() | Unsatisfiable():
            return _spoilt_range(delivery, fault)
        case ShortBody(by):
            start, stop = delivery.part
            return replace(delivery, part=(start, max(stop - by, start)))
        case LongBody(by):
            return replace(delivery, padding=delivery.padding + by)
        case WrongContentLength(delta):
            return replace(delivery, length_delta=delta)
        case AnswerLost():
            return replace(delivery, cut=fault)
    return _spoilt_body(delivery, fault) if delivery.has_body else delivery


def _spoilt_body(delivery: Delivery, fault: Fault) -> Delivery:
    match fault:
        case Reset(int(after)) | Close(int(after)) | Stall(int(after)) if after < delivery.size:
            return replace(delivery, cut=fault)
        case ExpiredToken(after) if after < delivery.size:
            return replace(delivery, cut=Close(after))
        case WrongBytes(at) if at < delivery.size:
            return replace(delivery, flipped=at)
        case Framing(by):
            return replace(delivery, framing=by)
        case Drip():
            return replace(delivery, drip=fault)
        case Bandwidth(bytes_per_second):
            return replace(delivery, bytes_per_second=bytes_per_second)
    return delivery


def _spoilt_range(delivery: Delivery, fault: RangeWrong | RangeUnasked | ContentRange | Unsatisfiable) -> Delivery:
    answer, (start, stop), size = delivery.answer, delivery.part, _size(delivery.answer)
    is_partial = answer.status == 206
    match fault:
        case RangeWrong(delta, honest) if is_partial:
            part = min(max(start + delta, 0), size - 1), max(min(stop + delta, size), 1)
            if honest:
                return replace(_with_headers(delivery, **{"Content-Range": content_range(part, size)}), part=part)
            # As long as it claims to be, with bytes that nobody has where the blob ends before that.
            return replace(delivery, part=part, padding=max(stop - start - (part[1] - part[0]), 0))
        case RangeUnasked(length) if answer.status == 200 and size:
            part = 0, min(length, size)
            headers = {**answer.headers, "Content-Range": content_range(part, size)}
            return replace(delivery, answer=replace(answer, status=206, headers=headers), part=part)
        case ContentRange(text) if is_partial:
            if text is not None:
                text = text.format(first=start, last=stop - 1, complete=size)
            return _with_headers(delivery, **{"Content-Range": text})
        case Unsatisfiable(complete) if answer.status in (200, 206):
            headers = {**answer.headers, "Content-Range": unsatisfied_range(size if complete is None else complete)}
            return replace(delivery, answer=replace(answer, status=416, headers=headers), part=(0, 0))
    return delivery


def _with_headers(delivery: Delivery, **changes: str | None) -> Delivery:
    headers = {**delivery.answer.headers, **changes}
    kept = {name: value for name, value in headers.items() if value is not None}
    return replace(delivery, answer=replace(delivery.answer, headers=kept))


def _size(answer: Answer) -> int:
    return len(answer.body) if isinstance(answer.body, bytes) else answer.body.size
