"""The error codes of the specification, each with its status: what a client of a registry is told.

Source: OCI distribution-spec 1.1, "Error codes"; Docker's registry for what that leaves open.
"""

from collections.abc import Mapping
from enum import Enum

from proa.errors import ProaError


class Code(Enum):
    """(the code's name is the member's, its usual status)."""

    BLOB_UNKNOWN = 404, "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = 400, "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = 404, "BLOB_UPLOAD_UNKNOWN"
    DENIED = 403, "DENIED"
    DIGEST_INVALID = 400, "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = 404, "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = 400, "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = 404, "MANIFEST_UNKNOWN"
    NAME_INVALID = 400, "NAME_INVALID"
    NAME_UNKNOWN = 404, "NAME_UNKNOWN"
    PAGINATION_NUMBER_INVALID = 400, "PAGINATION_NUMBER_INVALID"
    RANGE_INVALID = 416, "RANGE_INVALID"
    SIZE_INVALID = 413, "SIZE_INVALID"
    TAG_INVALID = 400, "TAG_INVALID"
    TOOMANYREQUESTS = 429, "TOOMANYREQUESTS"
    UNAUTHORIZED = 401, "UNAUTHORIZED"
    UNAVAILABLE = 503, "UNAVAILABLE"
    UNKNOWN = 500, "UNKNOWN"
    UNSUPPORTED = 405, "UNSUPPORTED"


class Refusal(ProaError):
    """A request that is not fulfilled, in the specification's terms; `headers` go with the answer."""

    def __init__(
        self, code: Code, message: str, headers: Mapping[str, str] | None = None, status: int = 0
    ) -> None:
        super().__init__(message)
        self.code = code.value[1]
        self.status = status or code.value[0]
        self.headers = headers or {}
