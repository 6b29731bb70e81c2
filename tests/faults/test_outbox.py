"""Hints: a crash may repeat one, nothing loses one, and a broker that is away holds nobody up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.blobs.folder import StorageRefusedError, StorageUnavailableError
from app.core import crash_points
from app.core.config import Settings, get_settings
from app.core.db import Database
from app.core.tables import Outbox
from app.jobs import outbox
from app.main import create_app
from app.operations import sweeper
from tests import zygote
from tests.faults.harness import ended
from tests.faults.test_leases import enqueue
from tests.support import free_port


def waiting(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Outbox.key).order_by(Outbox.number)))


def relayed(database: Database) -> list[str]:
    """The jobs whose hints are sent."""
    sent: list[str] = []
    assert outbox.relay_hints(database, lambda job, _queue: sent.append(job)) == len(sent)
    return sent


def relay_and_die(settings: Settings, sent: Path) -> None:
    """Send hints by writing them to a file, and be killed before the sending is committed."""
    get_settings.cache_clear()
    crash_points.get_settings = lambda: settings.model_copy(update={"crash_at": "outbox.sent"})

    def send(key: str, _queue: str) -> None:
        with sent.open("a") as file:
            file.write(key + "\n")

    outbox.relay_hints(Database(settings), send)


def test_a_crash_between_sending_and_commit_repeats_a_hint(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    ids = enqueue(database, 3)
    sent = tmp_path / "sent"
    with ended(zygote.call(relay_and_die, settings, sent)) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert sent.read_text().split() == ids[:1]
    assert relayed(database) == ids
    assert waiting(database) == []


def test_what_was_sent_before_the_broker_went_is_not_sent_again(database: Database) -> None:
    ids = enqueue(database, 3)
    sent: list[str] = []

    def send(key: str, _queue: str) -> None:
        if len(sent) == 1:
            raise ConnectionError("the broker is gone")
        sent.append(key)

    with pytest.raises(ConnectionError):
        outbox.relay_hints(database, send)
    assert (sent, waiting(database)) == (ids[:1], ids[1:])
    assert relayed(database) == ids[1:]


def test_bytes_whose_removal_is_refused_keep_no_others(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A storage may lock an object for years; what came after it is erased all the same."""
    with database.write() as session:
        for name in ("locked", "b", "c"):
            outbox.remove_blob(session, name)

    def remove(digest: str) -> None:
        if digest == "locked":
            raise StorageRefusedError("the object storage refused")

    monkeypatch.setattr(outbox, "BATCH", 1)
    assert [outbox.relay_blobs(database, remove) for _ in range(3)] == [1, 1, 0]
    assert waiting(database) == ["locked"]
    assert "StorageRefusedError" in caplog.text
    assert outbox.relay_blobs(database, lambda _: None) == 1


def test_while_the_storage_is_away_it_is_asked_once(database: Database) -> None:
    with database.write() as session:
        for name in ("a", "b", "c"):
            outbox.remove_blob(session, name)
    asked: list[str] = []

    def remove(digest: str) -> None:
        asked.append(digest)
        raise StorageUnavailableError("the object storage does not answer")

    with pytest.raises(StorageUnavailableError):
        outbox.relay_blobs(database, remove)
    assert (asked, waiting(database)) == (["a"], ["a", "b", "c"])


def test_without_a_broker_requests_are_accepted_and_hints_wait(settings: Settings, database: Database) -> None:
    closed = settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{free_port()}/0"})
    with TestClient(create_app(closed)) as client:
        client.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        ready = client.get("/readyz").json()
        made = client.post("/v1/datasets", json={"name": "digits", "source": {"name": "digits"}})
    assert (ready["status"], ready["broker"]) == ("degraded", "unreachable")
    assert made.status_code == 202
    with pytest.raises(Exception, match="does not answer"):
        outbox.relay_hints(database, sweeper.hint_sender(closed))
    assert waiting(database) == [made.json()["job"]]
    assert relayed(database) == [made.json()["job"]]
