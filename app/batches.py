"""When pending deletions of a model become a job: at once (`each`), or together (`batch`).

A batch closes on its number of requests or samples, its age, or the earliest legal deadline less what such a job
has measurably taken, whichever comes first. While a job of the model is queued or running, requests that arrive
wait for the next batch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import db, jobs, models
from app.db import Database
from app.lifecycle import Decision, JobKind, JobState, Outcome, move_outcome
from app.policy import Batch, Each, Policy
from app.tables import DeletionRequest, Job, Model, OutcomeRow

MEASURED_JOBS = 20
DEADLINE_FACTOR = 3.0  # room for that many attempts of a job before the deadline
DEADLINE_ROOM = timedelta(hours=1)
WAITING = (OutcomeRow.state == Outcome.PENDING, DeletionRequest.decision == Decision.ACCEPTED)


@dataclass(frozen=True)
class Pending:
    """The open batch of one model."""

    requests: int
    samples: int
    oldest: datetime
    earliest_due: datetime


def closes_at(rule: Each | Batch, pending: Pending, duration: timedelta) -> datetime:
    """When the batch closes by time alone. `duration`: what such a job has taken."""
    if isinstance(rule, Each):
        return pending.oldest
    by_age = pending.oldest + timedelta(seconds=rule.max_age_seconds)
    by_law = pending.earliest_due - duration * DEADLINE_FACTOR - DEADLINE_ROOM
    return min(by_age, by_law)


def is_full(rule: Each | Batch, pending: Pending) -> bool:
    if isinstance(rule, Each):
        return True
    return pending.requests >= rule.max_requests or pending.samples >= rule.max_samples


def measured_duration(session: Session, model_id: str) -> timedelta | None:
    """The median run of the model's last unlearn jobs; None before the first."""
    query = (
        select(Job.started_at, Job.finished_at)
        .where(Job.model_id == model_id, Job.kind == JobKind.UNLEARN, Job.state == JobState.SUCCEEDED)
        .order_by(Job.id.desc())
        .limit(MEASURED_JOBS)
    )
    runs = [(finish - start).total_seconds() for start, finish in session.execute(query) if start and finish]
    return timedelta(seconds=statistics.median(runs)) if runs else None


def pending_of(session: Session, model_id: str) -> Pending | None:
    """What waits for the model's next batch."""
    query = (
        select(
            func.count(),
            func.sum(DeletionRequest.sample_count),
            func.min(DeletionRequest.received_at),
            func.min(DeletionRequest.due_at),
        )
        .join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
        .where(OutcomeRow.model_id == model_id, *WAITING)
    )
    count, samples, oldest, due = session.execute(query).one()
    return Pending(count, samples, oldest, due) if count else None


def close_if_due(session: Session, model: Model) -> Job | None:
    """Close the model's batch if its rule says so; under `batch`, while no unlearn job of it is queued or running."""
    pending = pending_of(session, model.id)
    rule = Policy.model_validate(model.policy).when
    if pending is None or (isinstance(rule, Batch) and _busy(session, model.id)):
        return None
    duration = measured_duration(session, model.id) or timedelta(0)
    if not is_full(rule, pending) and closes_at(rule, pending, duration) > db.now(session):
        return None
    return close(session, model, _first(session, model.id, 1 if isinstance(rule, Each) else None))


def _busy(session: Session, model_id: str) -> bool:
    active = select(Job.id).where(
        Job.model_id == model_id,
        Job.kind == JobKind.UNLEARN,
        Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
    )
    return session.scalars(active.limit(1)).first() is not None


def _first(session: Session, model_id: str, count: int | None) -> Sequence[OutcomeRow]:
    """The oldest pending outcomes of the model, in the order of their requests."""
    query = (
        select(OutcomeRow)
        .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
        .where(OutcomeRow.model_id == model_id, *WAITING)
        .order_by(OutcomeRow.request_id)
        .limit(count)
    )
    return session.scalars(query.with_for_update(of=OutcomeRow)).all()


def close(session: Session, model: Model, rows: Sequence[OutcomeRow]) -> Job:
    """Freeze these outcomes into one unlearn job."""
    job = models.start(session, model, JobKind.UNLEARN, seed=0)
    for row in rows:
        row.state, row.job_id = move_outcome(Outcome(row.state), Outcome.BATCHED), job.id
    jobs.record(session, model.tenant_id, "batch.closed", job.id, requests=len(rows))
    return job


def close_due(database: Database) -> int:
    """Close every batch that is due; how many. The sweeper's duty, and harmless to repeat."""
    with database.read() as session:
        waiting = select(OutcomeRow.model_id).where(OutcomeRow.state == Outcome.PENDING).distinct()
        model_ids = list(session.scalars(waiting))
    closed = 0
    for model_id in model_ids:
        with database.write() as session:
            owner = session.scalars(select(Model.tenant_id).where(Model.id == model_id)).one()
            model = models.get(session, owner, model_id, lock=True)
            closed += close_if_due(session, model) is not None
    return closed


def forecast(session: Session, model: Model, outcome: OutcomeRow) -> datetime | None:
    """When the outcome will probably be published, from measured durations; None where nothing was measured yet."""
    duration = measured_duration(session, model.id)
    if duration is None:
        return None
    now = db.now(session)
    if outcome.job_id is not None:
        job = session.get_one(Job, outcome.job_id)
        return max(now, (job.started_at or now) + duration)
    pending = pending_of(session, model.id)
    if pending is None:
        return None
    rule = Policy.model_validate(model.policy).when
    start = now if is_full(rule, pending) else max(now, closes_at(rule, pending, duration))
    return start + duration * (2 if _busy(session, model.id) else 1)
