"""What the registry refuses, in the words of the distribution-spec: one exception, one error body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum


class ErrorCode(StrEnum):
    """The codes of distribution-spec v1.1, "Error Codes", and one for the registry's own failures."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    UNAUTHORIZED = "UNAUTHORIZED"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNKNOWN = "UNKNOWN"


_USUAL_STATUS = {
    ErrorCode.BLOB_UNKNOWN: 404,
    ErrorCode.BLOB_UPLOAD_UNKNOWN: 404,
    ErrorCode.MANIFEST_UNKNOWN: 404,
    ErrorCode.NAME_UNKNOWN: 404,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.DENIED: 403,
    ErrorCode.UNSUPPORTED: 405,
    ErrorCode.TOOMANYREQUESTS: 429,
    ErrorCode.UNKNOWN: 500,
}


class Refusal(Exception):
    """A request that the registry refuses, with the answer that says so.

    `status` is the code's usual one (400 where the table has none) unless given; `detail` is what the error
    body carries for programs; `headers` go out with the answer.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        detail: object = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.status = status if status is not None else _USUAL_STATUS.get(code, 400)
        self.headers: Mapping[str, str] = headers if headers is not None else {}

    def body(self) -> bytes:
        """Return the error body of distribution-spec v1.1, as JSON with one error."""
        error = {"code": self.code.value, "message": self.message, "detail": self.detail}
        return json.dumps({"errors": [error]}).encode()
