"""Errors a client can see, each with a stable type and a status (RFC 9457).

    AppError
    ├── NotFound               404  absent, or another tenant's: the two answer alike
    ├── Unauthorized           401
    ├── Forbidden              403
    ├── RequestTimeout         408  the body did not come, or not fast enough
    ├── Conflict               409  the state does not allow it
    ├── Gone                   410  was here, is purged
    ├── PreconditionFailed     412  If-Match names another state of it
    ├── TooLarge               413
    ├── UnsupportedMedia       415
    ├── Unprocessable          422  the body is well-formed JSON that cannot be accepted
    ├── RangeNotSatisfiable    416
    ├── TooManyRequests        429  more at once, or more often, than a key or a tenant may
    ├── HeadTooLarge           431
    ├── Unavailable            503
    └── InsufficientStorage    507

A problem document names fields and positions; it never repeats a sample id or any other value sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.core.config import get_settings


def problem_type(kind: str) -> str:
    """The `type` of a problem document (RFC 9457). Clients match on its last part, which is `kind`."""
    return get_settings().problem_base + kind


class AppError(Exception):
    """A refusal with a stable `type`. `errors` holds further facts: pointers, positions, counts."""

    status = 500
    kind = "internal"
    title = "Something went wrong"

    def __init__(
        self,
        detail: str,
        *,
        kind: str | None = None,
        errors: Iterable[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.kind = kind or type(self).kind
        self.errors = [dict(e) for e in errors]
        self.headers = dict(headers or {})
        self.members = members

    def document(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": problem_type(self.kind),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        return body | self.members


class NotFound(AppError):
    status, kind, title = 404, "not-found", "No such object"


class Unauthorized(AppError):
    status, kind, title = 401, "unauthorized", "A valid API key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(AppError):
    status, kind, title = 403, "forbidden", "The API key may not do this"


class RequestTimeout(AppError):
    status, kind, title = 408, "body-timeout", "The body did not come in time"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class Conflict(AppError):
    status, kind, title = 409, "conflict", "The present state does not allow this"


class Gone(AppError):
    status, kind, title = 410, "purged", "This was purged"


class PreconditionFailed(AppError):
    status, kind, title = 412, "precondition-failed", "The resource is not what the condition says"


class TooLarge(AppError):
    status, kind, title = 413, "too-large", "The body is larger than allowed"


class UnsupportedMedia(AppError):
    status, kind, title = 415, "unsupported-media-type", "This media type is not accepted here"


class RangeNotSatisfiable(AppError):
    status, kind, title = 416, "range-not-satisfiable", "The range lies outside the file"


class Unprocessable(AppError):
    status, kind, title = 422, "invalid", "The request cannot be accepted as it is"


class TooManyRequests(AppError):
    status, kind, title = 429, "too-many-requests", "More calls than allowed"


class HeadTooLarge(AppError):
    status, kind, title = 431, "head-too-large", "The headers are larger than allowed"


class Unavailable(AppError):
    status, kind, title = 503, "unavailable", "Not available at present"


class InsufficientStorage(AppError):
    status, kind, title = 507, "storage-full", "Not enough room on the disk"


class SupersededError(Exception):
    """What this attempt worked from has changed meanwhile: nothing was written, and it begins again."""
