"""What may be done with published versions: names for them, going back to one, and destroying a whole model."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import datasets, db, erasure, jobs, models, outbox, versions
from app.errors import Conflict, NotFound
from app.lifecycle import JobState, Outcome, VersionState
from app.positions import mask_of
from app.tables import AdversarialRow, Alias, Dataset, Job, JobArtifact, Model, OutcomeRow, Version

LIVE = (VersionState.CURRENT, VersionState.SUPERSEDED)


# -- aliases ---------------------------------------------------------------------------------------


def point(session: Session, model: Model, name: str, version: Version) -> Alias:
    """Let `name` mean `version` from now on.

    Raises:
        Conflict: the version is purged, or never was published; or the whole model was destroyed.
    """
    models.refuse_purged(model)
    if version.state not in LIVE:
        raise Conflict(f"A version that is {version.state} cannot be named.", kind="version-not-live")
    _refuse_erased(session, model, version)
    row = session.merge(Alias(model_id=model.id, name=name, version=version.number, updated_at=db.now(session)))
    jobs.record(session, model.tenant_id, "alias.set", model.id, alias=name, version=version.number)
    return row


def unpoint(session: Session, model: Model, name: str) -> None:
    row = session.get(Alias, (model.id, name))
    if row is None:
        raise NotFound("There is no such alias.")
    session.delete(row)
    jobs.record(session, model.tenant_id, "alias.removed", model.id, alias=name)


# -- promote and roll back -------------------------------------------------------------------------


def _refuse_erased(session: Session, model: Model, version: Version) -> None:
    """A version that contains erased or requested samples would undo their erasure."""
    dataset = session.get_one(Dataset, model.dataset_id, with_for_update=True)
    trained = mask_of(version.trained_on, dataset.sample_count)
    gone = mask_of(model.requested, dataset.sample_count)
    gone[datasets.unavailable(dataset)] = True
    # Of data that are not held nothing is known but that every later version has forgotten some.
    unlearned = not datasets.is_held(dataset) and version.state == VersionState.SUPERSEDED
    if unlearned or (trained & gone).any():
        raise Conflict(
            "This version was trained on samples that have been requested for deletion or erased.",
            kind="contains-erased",
        )


def promote(session: Session, model: Model, version: Version) -> None:
    """Make a superseded version current again.

    Raises:
        Conflict: it is current, purged, a comparison, or contains samples that were requested or erased; or the whole
            model was destroyed.
    """
    models.refuse_purged(model)
    if version.state != VersionState.SUPERSEDED:
        raise Conflict(f"A version that is {version.state} cannot be promoted.", kind="version-not-superseded")
    _refuse_erased(session, model, version)
    if _working(session, model):
        raise Conflict("A job is editing this model; promote after it has ended.", kind="model-busy")
    now = db.now(session)
    session.execute(
        update(Version)
        .where(Version.model_id == model.id, Version.number == model.current_version)
        .values(state=VersionState.SUPERSEDED, purge_after=now + versions.grace(model))
        .execution_options(synchronize_session=False)
    )
    version.state, version.purge_after = VersionState.CURRENT, None
    model.current_version = version.number
    jobs.record(session, model.tenant_id, "version.promoted", version.id, number=version.number)


def roll_back(session: Session, model: Model) -> Version:
    """Promote the current version's parent.

    Raises:
        Conflict: there is none, or `promote` refuses it.
    """
    current = versions.current(session, model)
    parent = versions.parent_of(session, current) if current else None
    if parent is None:
        raise Conflict("The current version has no parent to go back to.", kind="no-parent")
    promote(session, model, parent)
    return parent


def _working(session: Session, model: Model) -> bool:
    active = select(Job.id).where(Job.model_id == model.id, Job.state == JobState.RUNNING)
    return session.scalars(active.limit(1)).first() is not None


# -- the end of a model ----------------------------------------------------------------------------


def purge(session: Session, model: Model) -> None:
    """Destroy a whole model: every checkpoint and adversarial set; their bytes go right after the commit.

    Its rows stay as the record of what was there. Jobs that wait are cancelled.

    Raises:
        Conflict: a job is running on it.
    """
    if _working(session, model):
        raise Conflict("A job is running on this model; cancel it first.", kind="model-busy")
    settled = _settle_requests(session, model)
    waiting = select(Job).where(Job.model_id == model.id, Job.state == JobState.QUEUED, Job.parent_id.is_(None))
    for job in session.scalars(waiting.with_for_update()).all():
        jobs.finish(session, job, JobState.CANCELLED, problem=jobs.problem("model-purged", "the model was purged"))
    now = db.now(session)
    # Due at once: the sweeper removes the bytes and ticks the receipts that speak of them.
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
    jobs.record(session, model.tenant_id, "model.purged", model.id)
    for request_id in settled:
        erasure.start_if_published(session, request_id)


def _settle_requests(session: Session, model: Model) -> list[str]:
    """A destroyed model has forgotten: its open outcomes are settled; the requests that had any."""
    open_ = select(OutcomeRow).where(
        OutcomeRow.model_id == model.id,
        OutcomeRow.state.in_([Outcome.PENDING, Outcome.BATCHED, Outcome.ATTENTION]),
    )
    rows = session.scalars(open_).all()
    for row in rows:
        row.state, row.reason = Outcome.PUBLISHED, "the whole model was destroyed"
    session.flush()
    return sorted({row.request_id for row in rows})
