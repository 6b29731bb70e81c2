"""The sweeper's rounds: each duty after its period, and rarely while nothing changes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from app import jobs
from app.core.config import Settings
from app.core.db import Changes, Database
from app.core.keys import FIRST_TENANT
from app.core.tables import Outbox
from app.deletions import retention
from app.evidence import witness
from app.jobs import claiming, outbox
from app.operations import sweeper
from app.releases import signatures
from app.rules.states import JobKind
from tests.app.evidence import witness_server


def enqueue(database: Database) -> str:
    with database.write() as session:
        return jobs.enqueue(session, tenant_id=FIRST_TENANT, kind=JobKind.REFERENCES, lane="l", params={"count": 4}).id


def test_a_change_of_another_connection_is_seen_once(database: Database) -> None:
    changes = Changes(database)
    always = not database.is_sqlite
    assert changes.seen() is always
    enqueue(database)
    assert changes.seen()
    assert changes.seen() is always
    changes.close()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(sweeper.time, "monotonic", lambda: self.now)


def duty() -> None:
    """What a test wants done."""


def test_a_duty_waits_for_its_period_and_longer_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    clock, changed = Clock(monkeypatch), [False]
    timer = sweeper.Timer(database)
    timer._changes.close()
    monkeypatch.setattr(timer, "_changes", type("Stub", (), {"seen": lambda _: changed.pop() if changed else False})())

    def done_at(seconds: float) -> bool:
        clock.now = 100.0 + seconds
        timer.look()
        return timer.is_time(duty, 0.5)

    assert done_at(0.0)
    assert not done_at(0.4)
    assert not done_at(4.9), "nothing has changed"
    assert done_at(5.0)
    changed.append(True)
    assert not done_at(5.2), "its period is not over"
    assert timer.is_lively()
    assert done_at(5.5)
    assert not done_at(7.3), "the change came before it was done"
    assert not timer.is_lively()
    changed.append(True)
    assert done_at(7.4)
    assert timer.is_time(enqueue_nothing, 0.5), "each duty has a time of its own"


def enqueue_nothing() -> None:
    """Another duty."""


def test_an_idle_worker_asks_no_more_than_whether_a_job_is_due(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(claiming, "claim_once", lambda *_: pytest.fail("nothing is due"))
    assert jobs.claim(database, "worker", 60.0) is None
    monkeypatch.undo()
    made = enqueue(database)
    claim = jobs.claim(database, "worker", 60.0)
    assert claim is not None
    assert claim.id == made


def test_an_outbox_is_empty_until_something_waits(database: Database) -> None:
    assert outbox.is_empty(database)
    with database.write() as session:
        outbox.remove_blob(session, "sha256:0")
    assert not outbox.is_empty(database)
    assert [row.topic for row in all_of(database)] == ["blob"]


def all_of(database: Database) -> list[Outbox]:
    with database.read() as session:
        return list(session.query(Outbox))


def test_who_is_mute_delays_no_one_else(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen: a witness that said nothing kept leases from ending. So would a storage, or a broker."""
    mute, stop, swept = threading.Event(), threading.Event(), threading.Event()
    hung: set[str] = set()

    def hang(name: str) -> Callable[..., int]:
        def waits(*_: object, **__: object) -> int:
            hung.add(name)
            mute.wait(90)
            return 0

        return waits

    places = {
        "witness": (witness, "cosign"),
        "hint": (outbox, "relay_hints"),
        "blob": (outbox, "relay_blobs"),
        "signature": (signatures, "sign_due"),
        "version": (retention, "purge_due_versions"),
    }
    for name, (module, function) in places.items():
        monkeypatch.setattr(module, function, hang(name))
    enqueue(database)
    monkeypatch.setattr(jobs, "sweep", lambda *_: len(hung) >= 4 and swept.set())
    given = settings.model_copy(update={"witnesses": [f"{witness_server.VERIFIER}@http://127.0.0.1:9"]})
    thread = threading.Thread(target=sweeper.run, args=(given, stop))
    thread.start()
    try:
        assert swept.wait(60), hung
        assert {"witness", "hint", "signature"} < hung
    finally:
        stop.set()
        mute.set()
        thread.join()
