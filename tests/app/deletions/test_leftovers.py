"""Files of ended jobs go once, whether the sweeper or a purge job removes them."""

from __future__ import annotations

import threading

from sqlalchemy import select

from app.core import db
from app.core.tables import DeletionRequest, Job, JobArtifact, Receipt
from app.deletions import erasure
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
