"""Replies as text that can be stored and sent again."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi.responses import Response

from app.api.http.conditional import matches
from app.core.config import Settings
from app.core.errors import Unprocessable
from app.core.tables import Idempotency


@dataclass(frozen=True)
class Reply:
    """A JSON reply: status, body, headers besides those of its form; whose it is, for the log."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tenant: str = ""

    def response(self, if_none_match: str | None = None) -> Response:
        """304 without the text where the client has it already."""
        if self.status == 304 or ("ETag" in self.headers and matches(if_none_match, self.headers["ETag"])):
            return Response(status_code=304, headers=dict(self.headers))
        return Response(self.text, self.status, dict(self.headers), "application/json")


def fingerprints(settings: Settings, body: bytes) -> list[str]:
    """Tell bodies apart under one Idempotency-Key. Keyed: a digest of guessable ids is as good as the ids.

    One for each of the service's secrets, the present one, which is stored, first.
    """
    named = b"idempotency\x00" + body
    return [hmac.new(secret, named, hashlib.sha256).hexdigest() for secret in settings.every_secret()]


def require_same_body(row: Idempotency, marks: Sequence[str]) -> None:
    """Raise Unprocessable where the key of `row` stands for a body of other `fingerprints`."""
    if row.fingerprint not in marks:
        raise Unprocessable("This Idempotency-Key was used with another body.", kind="idempotency-key-reused")


def replayed(row: Idempotency) -> Reply:
    """The reply that was stored under a key."""
    return Reply(row.status or 200, row.body or "", {**(row.headers or {}), "Idempotent-Replayed": "true"})
