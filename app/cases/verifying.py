"""What `app.cases.checking` has done in a child: the verifier on one file. It loads nothing else of the service."""

from __future__ import annotations

import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lethe import verify


def report(path: str, trusted: str) -> dict[str, Any]:
    """The verifier's report on the file at `path`, with the keys of the trust file `trusted`."""
    looks = verify.verify_case if zipfile.is_zipfile(path) else verify.verify
    found = looks(Path(path).read_bytes(), verify.read_trust(trusted.encode()))
    return {**asdict(found), "verified": found.verified}
