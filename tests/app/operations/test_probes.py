"""Looks at what a part needs: at a bounded rate, and with what they need in words."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.operations import probes
from app.operations.probes import Probe
from tests.redis_server import READ_ONLY, redis_server
from tests.support import Account


def test_a_look_is_taken_once_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    probe = Probe(lambda: looks.append(clock[0]) or len(looks))
    assert (probe(), probe()) == (1, 1)
    clock[0] += probes.SECONDS
    assert (probe(), probe()) == (2, 2)


def test_nobody_waits_for_a_look_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    go, began = threading.Event(), threading.Event()
    found = iter(["first", "second"])

    def look() -> str:
        value = next(found)
        if value == "second":
            began.set()
            go.wait(10)
        return value

    probe = Probe(look)
    assert probe() == "first"
    slow = threading.Thread(target=probe)
    slow.start()
    began.wait(10)
    assert probe() == "first"
    go.set()
    slow.join()


@pytest.mark.validation
def test_readiness_names_the_need_that_is_not_met(account: Account) -> None:
    """As seen: a Redis that answers PING and takes no write was `ok`, and jobs waited."""
    with redis_server() as broker:
        broker.refuse(READ_ONLY)
        settings = account.settings.model_copy(update={"broker_url": broker.url})
        with TestClient(create_app(settings)) as http:
            found = http.get("/readyz").json()
    assert (found["status"], found["broker"]) == ("degraded", "refuses")
    assert any("read-only replica" in said for said in found["degraded"])


@pytest.mark.validation
def test_a_folder_that_cannot_keep_a_blob_is_named(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    root = account.settings.data_dir / "blobs"
    whole = Path.replace

    def refuses(self: Path, target: Path) -> Path:
        if target.parent == root:
            raise PermissionError(13, "Permission denied")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", refuses)
    found = account.get("/readyz")
    assert (found["status"], found["storage"]) == ("degraded", "refuses")
    assert any("let the user that the service runs as read and write it" in said for said in found["degraded"])
    assert list((root / "incoming").iterdir()) == []
