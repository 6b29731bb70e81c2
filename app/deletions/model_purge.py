"""Purging a whole model: every checkpoint and adversarial set."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import events, jobs
from app.core import db
from app.core.errors import Conflict
from app.core.tables import AdversarialRow, Alias, Job, JobArtifact, Model, OutcomeRow, Version
from app.deletions import erasure
from app.jobs import outbox
from app.models import bases
from app.models import records as models
from app.rules.states import JobState, Outcome, VersionState


def purge(session: Session, model: Model) -> None:
    """Purge a whole model: every checkpoint and adversarial set; their bytes go right after the commit.

    Its rows stay as the record of what was there. Jobs that wait are cancelled.

    Raises:
        Conflict: a job is running on it, or another model starts from one of its versions.
    """
    if starting := bases.starting_from(session, model):
        ids = ", ".join(other.id for other in starting)
        raise Conflict(
            f"Models start from a version of this one, and could not be retrained without it: {ids}. Purge them first.",
            kind="model-is-base",
        )
    if models.has_running_job(session, model):
        raise Conflict("A job is running on this model; cancel it first.", kind="model-busy")
    settled = _settle_requests(session, model)
    waiting = select(Job).where(Job.model_id == model.id, Job.state == JobState.QUEUED, Job.parent_id.is_(None))
    for job in session.scalars(waiting.with_for_update()).all():
        jobs.finish(session, job, JobState.CANCELLED, problem=jobs.problem("model-purged", "the model was purged"))
    now = db.now(session)
    # Due at once: the sweeper removes the bytes and dates their receipts.
    session.execute(
        update(Version)
        .where(Version.model_id == model.id, Version.state != VersionState.PURGED)
        .values(state=VersionState.SUPERSEDED, purge_after=now)
        .execution_options(synchronize_session=False)
    )
    kept = select(JobArtifact).join(Job, Job.id == JobArtifact.job_id).where(Job.model_id == model.id)
    sets = session.scalars(select(AdversarialRow).where(AdversarialRow.model_id == model.id)).all()
    rows: list[AdversarialRow | JobArtifact] = [*sets, *session.scalars(kept).all()]
    for row in rows:
        outbox.remove_blob(session, row.digest)
        session.delete(row)
    session.execute(delete(Alias).where(Alias.model_id == model.id))
    model.current_version, model.purged_at = None, now
    session.flush()
    events.record(session, model.tenant_id, "model.purged", model.id)
    for request_id in settled:
        erasure.start_if_published(session, request_id)


def _settle_requests(session: Session, model: Model) -> list[str]:
    """Settle the open outcomes of a purged model, which has no samples any more; the requests that had any."""
    open_ = select(OutcomeRow).where(
        OutcomeRow.model_id == model.id,
        OutcomeRow.state.in_([Outcome.PENDING, Outcome.BATCHED, Outcome.ATTENTION]),
    )
    rows = session.scalars(open_).all()
    for row in rows:
        row.state, row.reason = Outcome.PUBLISHED, "the whole model was purged"
    session.flush()
    return sorted({row.request_id for row in rows})
