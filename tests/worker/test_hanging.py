"""A computation that hangs: its lease is not renewed for ever."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from app.core.config import Settings
from app.core.tables import Job
from tests.support import Account
from tests.trained import Trained
from worker import run_one
from worker.runtime import run
from worker.runtime.run import Resources, Run

pytestmark = pytest.mark.validation


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[int]]:
    """Set where the process would have ended, and the statuses."""
    done, statuses = threading.Event(), list[int]()

    def end(status: int) -> None:
        statuses.append(status)
        done.set()

    monkeypatch.setattr(run, "end_process", end)
    return done, statuses


def attempt(account: Account, monkeypatch: pytest.MonkeyPatch, work: Any, stall: float, job_id: str) -> Job:
    monkeypatch.setattr(run_one, "KINDS", dict.fromkeys(run_one.KINDS, work))
    values = account.settings.model_dump() | {"stall_seconds": stall, "lease_seconds": 0.4}
    given = account.resources
    hurried = Resources(Settings(**values), given.database, given.blobs, given.device, given.takes, given.cache)
    run_one.run_one(hurried, "tester")
    with account.database.read() as session:
        return session.get_one(Job, job_id)


def test_a_hung_computation_ends_its_process_and_fails_its_attempt(
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    ended: tuple[threading.Event, list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As seen: the beat is a thread, so it renewed the lease for ever."""
    account, (over, statuses) = trained.account, ended
    job_id = account.post(f"{trained.where}:precompute", {})["id"]

    def hangs(given: Run) -> None:
        with given.stage("attack", 0.0, 0.5):
            assert over.wait(20.0), "nobody noticed"

    for number in (1, 2, 3):
        over.clear()
        job = attempt(account, monkeypatch, hangs, 0.2, job_id)
        assert statuses == [run.HUNG] * number
        assert (job.state, job.attempts) == ("queued" if number < 3 else "dead", number)
    assert job.problem is not None
    assert job.problem["detail"] == (
        "given up after 3 attempts: its computation hung: no progress for 0.2 s in stage attack"
    )
    assert "test_hanging.py:" in caplog.text, "where it hung"


def test_a_slow_computation_that_reports_progress_goes_on(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, ended: tuple[threading.Event, list[int]]
) -> None:
    account = trained.account
    job_id = account.post(f"{trained.where}:precompute", {})["id"]

    def slow(given: Run) -> None:
        with given.stage("attack", 0.0, 0.5) as progress:
            for number in range(12):
                time.sleep(0.05)
                progress.update(number / 12)

    job = attempt(account, monkeypatch, slow, 0.4, job_id)
    assert ended[1] == []
    assert job.state == "running"
