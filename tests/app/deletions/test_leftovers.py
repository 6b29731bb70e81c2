"""Files of ended jobs go once, whether the sweeper or a purge job removes them."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from app import jobs
from app.blobs import usage
from app.core import db
from app.core.tables import DeletionRequest, Job, JobArtifact, Receipt
from app.deletions import erasure
from tests.helpers import blobs as blobs_of
from tests.trained import Trained


def test_a_purge_and_the_sweeper_remove_one_file_at_the_same_time(trained: Trained) -> None:
    """Seen under `make faults`: the purge signed for a file that it had not removed."""
    database, made = trained.account.database, trained.delete(trained.ids[:2])
    with database.write() as session:
        job = session.scalars(select(Job.id).where(Job.model_id == trained.model, Job.kind == "train")).one()
        session.add(
            JobArtifact(job_id=job, name="resume", digest=f"sha256:{'0' * 64}", facts={}, created_at=db.now(session))
        )
    failures: list[BaseException] = []

    def purge() -> None:
        try:
            with database.write() as session:
                erasure._drop_derived(session, session.get_one(DeletionRequest, made["id"]))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=purge)
    with database.write() as session:
        session.delete(session.get_one(JobArtifact, (job, "resume")))
        session.flush()
        thread.start()
        thread.join(0.5)  # it waits for this transaction
        assert thread.is_alive()
    thread.join()
    assert failures == []
    with database.read() as session:
        assert session.scalars(select(Receipt).where(Receipt.subject == "resume-artifact")).all() == []


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


def kill_between_storing_and_recording(trained: Trained, patch: pytest.MonkeyPatch) -> str:
    """What an attempt at the next job leaves: the digest that it stored."""
    account, stored = trained.account, list[str]()

    def pin(_session: object, _blobs: object, digest: str) -> None:
        stored.append(digest)
        raise Killed

    with patch.context() as patched, pytest.raises(Killed):
        patched.setattr(usage, "pin", pin)
        account.work()
    return stored[0]


@pytest.mark.parametrize("then", ["retried", "dead", "never run again"])
def test_what_a_killed_attempt_stored_is_gone_when_a_request_is_fulfilled(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """As read: bytes that no row named yet stayed for a day after the request was fulfilled."""
    account = trained.account
    first = trained.delete(trained.ids[:2])
    digest = kill_between_storing_and_recording(trained, monkeypatch)
    assert digest in blobs_of(account.settings)
    with account.database.write() as session:
        job = session.scalars(select(Job).where(Job.state == "running")).one()
        assert job.kind == "unlearn"
        jobs.requeue(session, job, "its worker's lease ran out")
        job.available_at += timedelta(days=then == "never run again")
        if then == "dead":
            job.state = "dead"
    if then == "retried":
        account.work()
        assert trained.request(first)["status"] == "fulfilled"
    elif then == "dead":
        usage.remove_leftovers(account.database, account.resources.blobs)
    else:
        with account.database.write() as session:
            request = session.get_one(DeletionRequest, first["id"])
            erasure._drop_derived(session, request)
            [owed] = session.scalars(select(Receipt).where(Receipt.request_id == request.id)).all()
            assert (owed.subject, owed.digest) == ("interrupted-artifact", digest)
        erasure.remove_owed(account.database, account.resources.blobs, first["id"])
    assert digest not in blobs_of(account.settings)


def test_what_is_recorded_is_announced_no_more(trained: Trained) -> None:
    trained.forget(trained.ids[:2])
    with trained.account.database.read() as session:
        names = session.scalars(select(JobArtifact.name)).all()
    assert [name for name in names if name.startswith(usage.UNRECORDED)] == []
