"""Certificates and case files as `lethe verify` checks them, in a child process: a file may come from anywhere.

The keys that count are those of this service, never those that a file brings along.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from sqlalchemy.orm import Session

from app.core.errors import Unavailable, Unprocessable
from app.evidence import sealing, signing
from app.formats import sandbox
from app.formats.manifest import SourceError

LIMITS = sandbox.Limits(memory=2 * 2**30, cpu_seconds=60, file_bytes=64 * 2**20)
SECONDS = 90.0

log = logging.getLogger("lethe.sandbox")


def trust(session: Session) -> str:
    """The public keys of this service, as a trust file has them."""
    return json.dumps(signing.trust_document(sealing.known_keys(session)))


def check(content: bytes, trusted: str) -> dict[str, Any]:
    """The verifier's report on a certificate, which is JSON, or a case file, which is a zip.

    Raises:
        Unprocessable: the file crashes what looks at it, or takes more time or memory than a case file can need.
        Unavailable: it could not be looked at now.
    """
    try:
        with sandbox.folder() as folder:
            path = folder / "file"
            path.write_bytes(content)
            found: dict[str, Any] = sandbox.call(
                "app.cases.verifying:report", str(path), trusted, limits=LIMITS, seconds=SECONDS
            )
    except SourceError as error:
        raise Unprocessable(error.detail, kind="not-verifiable") from None
    except sandbox.SandboxError as error:
        log.warning("a file could not be verified: %s", error)
        raise Unavailable(f"Just now {error}. Send it again.", headers={"Retry-After": "60"}) from None
    return found
