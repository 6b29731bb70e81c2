"""What `make faults` looks for is found where it is planted, and the page shows the figures of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from app import jobs
from app.core import db
from app.core.keys import FIRST_TENANT
from app.core.tables import DeletionRequest, JobEvent, Version
from app.rules.states import JobKind, JobState
from faults import invariants, page
from faults.clients import Clients, Promise, Shop
from tests.trained import Trained

KEY = {"Idempotency-Key": "one"}


@dataclass
class Kept:
    trained: Trained
    clients: Clients

    def broken(self) -> list[str]:
        found = invariants.broken(self.trained.account.settings, self.clients, at_rest=False)
        return [each for each in found if not each.startswith("certificates")]


@pytest.fixture
def kept(trained: Trained) -> Kept:
    """A promise that was kept, by way of the API."""
    clients = Clients("", [Shop("", trained.dataset, trained.model, list(trained.ids))], 1)
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:2]}
    made = trained.account.post("/v1/deletion-requests", body, 202, **KEY)
    trained.account.work()
    clients.promises.append(Promise("one", trained.dataset, trained.ids[:2], made["id"]))
    return Kept(trained, clients)


def test_a_promise_that_was_kept_is_well(kept: Kept) -> None:
    assert kept.broken() == []


def test_what_is_lost_doubled_or_never_asked_for_is_found(kept: Kept) -> None:
    promise = kept.clients.promises[0]
    kept.clients.promises = [Promise("two", promise.dataset, kept.trained.ids[4:5], "del_" + "0" * 26)]
    found = "\n".join(kept.broken())
    assert "was promised and is lost" in found
    assert f"{promise.request} is there, and nobody was promised it" in found
    assert "2 samples are erased, 1 were asked for" in found
    kept.clients.promises = [promise, promise]
    assert "2 promises were given for 1 requests" in "\n".join(kept.broken())


def test_a_request_that_has_not_ended_is_found(kept: Kept) -> None:
    with kept.trained.account.database.write() as session:
        session.execute(update(DeletionRequest).values(fulfilled_at=None))
    assert f"{kept.clients.promises[0].request} is not fulfilled" in kept.broken()


def test_a_gap_between_versions_is_found(kept: Kept) -> None:
    with kept.trained.account.database.write() as session:
        session.execute(update(Version).where(Version.number == 1).values(number=7))
    assert "its versions are [2, 7]" in "\n".join(kept.broken())


def test_jobs_of_one_model_that_ran_at_once_are_found(kept: Kept) -> None:
    database = kept.trained.account.database
    with database.write() as session:
        ids = [
            jobs.enqueue(session, tenant_id=FIRST_TENANT, kind=JobKind.TRAIN, lane="model:race").id for _ in range(2)
        ]
        now = db.now(session)
        for job, begin, end in ((ids[0], 0, 4), (ids[1], 2, 6)):
            for state, at in ((JobState.RUNNING, begin), (JobState.SUCCEEDED, end)):
                data = {"state": state.value, "stage": "", "fraction": 0.0, "attempt": 1}
                session.add(JobEvent(job_id=job, kind="state", data=data, at=now + timedelta(seconds=at)))
    assert [each.split(":")[0] for each in invariants.overlaps(database)] == ["model"]


def test_the_page_has_a_column_for_each_database(tmp_path: Path) -> None:
    figures = dict.fromkeys(page.ROWS, 7) | {
        "strikes": {"kill api": 3},
        "races": {"lanes": {"jobs": 400}},
        "broken": [],
    }
    run = {"benchmark": "faults_sqlite", "command": "c", "at": "2026-01-02T", "machine": {"cpu": "x", "cores": "2"}}
    (tmp_path / "faults_sqlite.json").write_text(json.dumps(run | {"figures": figures}))
    text = tmp_path / "page.md"
    text.write_text("a\n<!-- faults -->\nold\n<!-- /faults -->\nb\n<!-- fuzzing -->\nkept\n<!-- /fuzzing -->\n")
    page.write(text, tmp_path)
    found = text.read_text()
    assert "| | sqlite |" in found.replace("|  |", "| |")
    assert "| kill api | 3 |" in found
    assert "| races, lanes | jobs 400 |" in found
    assert "old" not in found
    assert "kept" in found
