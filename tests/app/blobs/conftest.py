"""One session of the storage library for all clients: each reads four files of 2 MB anew to make its own."""

from __future__ import annotations

import pytest
from boto3.session import Session

SESSION = Session()


@pytest.fixture(autouse=True)
def _one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.blobs.s3.Session", lambda: SESSION)
