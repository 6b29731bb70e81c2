"""A long job that gives way to a deletion goes on afterwards as if it had not been interrupted."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from app.core import db
from app.core.tables import DeletionRequest, Job, JobArtifact
from app.jobs import ending
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import Trained
from worker.run_one import run_one
from worker.runtime import run
from worker.runtime.run import Run

pytestmark = pytest.mark.validation


def new_model(trained: Trained) -> str:
    body = {"name": "long", "dataset": trained.dataset, **QUICK_MODEL, "policy": QUICK_POLICY}
    return str(trained.account.post("/v1/models", body)["id"])


def hurried(trained: Trained) -> str:
    """A deletion from the first model alone, due in a minute."""
    made = str(trained.delete(trained.ids[:2], model=trained.model)["id"])
    with trained.account.database.write() as session:
        due = db.now(session) + timedelta(seconds=60)
        session.execute(update(DeletionRequest).where(DeletionRequest.id == made).values(due_at=due))
    return made


def test_a_training_gives_way_between_epochs_and_comes_out_the_same(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = trained.account
    straight, interrupted = new_model(trained), new_model(trained)
    account.post(f"/v1/models/{straight}:train", {"seed": 5})
    account.work()
    job_id = account.post(f"/v1/models/{interrupted}:train", {"seed": 5})["id"]
    monkeypatch.setattr(run, "SECONDS_BETWEEN_WAY_CHECKS", 0.0)
    monkeypatch.setattr(ending, "ASIDE", timedelta(0))
    asks, made = Run.must_give_way, list[str]()

    def ask(self: Run) -> bool:
        if self.claim.id == job_id and not made:
            made.append(hurried(trained))
        return asks(self)

    monkeypatch.setattr(Run, "must_give_way", ask)
    assert run_one(account.resources, "tester")
    with account.database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.attempts, job.owner) == ("queued", 0, None), "it is no failed attempt"
        assert session.get(JobArtifact, (job_id, "resume")) is not None
    assert run_one(account.resources, "tester")
    assert [job["state"] for job in account.get("/v1/jobs", kind="unlearn")["items"]] == ["succeeded"]
    account.work()
    assert trained.request({"id": made[0]})["status"] == "fulfilled"
    digests = [account.get(f"/v1/models/{model}/versions/1")["digest"] for model in (straight, interrupted)]
    assert digests[0] == digests[1]


def test_a_pool_gives_way_between_its_models(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    account = trained.account
    job_id = account.post(f"{trained.where}:references", {"count": 8, "seed": 9})["id"]
    monkeypatch.setattr(run, "SECONDS_BETWEEN_WAY_CHECKS", 0.0)
    monkeypatch.setattr(ending, "ASIDE", timedelta(0))
    asks, made = Run.must_give_way, list[str]()

    def ask(self: Run) -> bool:
        if self.claim.parent_id == job_id and not made:
            made.append(hurried(trained))
        return asks(self)

    monkeypatch.setattr(Run, "must_give_way", ask)
    assert run_one(account.resources, "tester")
    with account.database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.attempts) == ("queued", 0)
    assert run_one(account.resources, "tester")
    assert [job["state"] for job in account.get("/v1/jobs", kind="unlearn")["items"]] == ["succeeded"]
    account.work()
    assert account.get(f"/v1/jobs/{job_id}")["state"] == "succeeded"
