"""Claiming: which queued job may run now, and its atomic hand-over to one worker."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app.core import crash_points, db
from app.core.db import Database
from app.core.tables import DeletionRequest, Job, OutcomeRow, Tenant
from app.jobs.queueing import emit
from app.jobs.routing import Takes
from app.rules.states import JobKind, JobState, move_job

CLAIM_TRIES = 8
EVERYTHING = Takes()


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job: the job as it was when claimed, and the fencing token."""

    id: str
    fence: int
    owner: str
    tenant_id: str
    kind: JobKind
    dataset_id: str | None
    model_id: str | None
    request_id: str | None
    device: str | None
    parent_id: str | None
    params: dict[str, Any]
    seed: int
    attempts: int
    traceparent: str | None


def claimable(now: datetime, hint: str | None = None) -> Select[Job]:
    """Queued jobs that are first in a free lane; a purge also waits for `_wanted_before` it.

    What has a legal deadline comes first, by that deadline; then the hinted job; then tenants take turns, and of one
    tenant the oldest job comes first. A lane keeps its order whichever hint arrives first: unlearning must find the
    version that training makes.
    """
    other = aliased(Job)
    lane_busy = exists().where(other.lane == Job.lane, other.state == JobState.RUNNING)
    ahead = aliased(Job)
    overtakes = exists().where(
        ahead.lane == Job.lane, ahead.state == JobState.QUEUED, ahead.id < Job.id, ahead.available_at <= now
    )
    return (
        select(Job)
        .join(Tenant, Tenant.id == Job.tenant_id)
        .where(
            Job.state == JobState.QUEUED,
            Job.available_at <= now,
            ~lane_busy,
            ~overtakes,
            or_(Job.kind != JobKind.PURGE, ~_wanted_before()),
        )
        .order_by(
            due_at().asc().nulls_last(), (Job.id == (hint or "")).desc(), Tenant.served_at.asc().nulls_first(), Job.id
        )
    )


def due_at() -> ColumnElement[datetime]:
    """The earliest legal deadline among the requests that `Job` serves; null where it serves none."""
    own = select(DeletionRequest.due_at).where(DeletionRequest.id == Job.request_id)
    batch = (
        select(func.min(DeletionRequest.due_at))
        .join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
        .where(OutcomeRow.job_id == Job.id)
    )
    return case(
        (Job.kind == JobKind.PURGE, own.correlate(Job).scalar_subquery()),
        (Job.kind == JobKind.UNLEARN, batch.correlate(Job).scalar_subquery()),
    )


def _wanted_before() -> ColumnElement[bool]:
    """Whether a job older than the purge (`Job`) works on the samples of the dataset or still needs them.

    These are running jobs, and queued ones that need the samples: unlearning, and the comparison of the purge's own
    request. Other queued jobs may never find a worker, and later ones may never end, so erasing waits for neither. A
    part is as old as its job.
    """
    earlier = aliased(Job)
    compares = and_(earlier.kind == JobKind.TRAIN, earlier.params["exclude_request"].as_string() == Job.request_id)
    return exists().where(
        earlier.dataset_id == Job.dataset_id,
        func.coalesce(earlier.parent_id, earlier.id) < Job.id,
        earlier.kind != JobKind.PURGE,
        or_(
            earlier.state == JobState.RUNNING,
            and_(earlier.state == JobState.QUEUED, or_(earlier.kind == JobKind.UNLEARN, compares)),
        ),
    )


def purges_waiting(session: Session, dataset_id: str) -> list[str]:
    """Requests whose purge of the dataset is queued and waits for nothing but its turn, oldest first."""
    query = (
        select(Job.request_id)
        .where(Job.dataset_id == dataset_id, Job.kind == JobKind.PURGE, Job.state == JobState.QUEUED)
        .where(Job.request_id.is_not(None), ~_wanted_before())
        .order_by(Job.id)
    )
    return [request for request in session.scalars(query) if request]


def claim(
    database: Database,
    owner: str,
    lease_seconds: float,
    hint: str | None = None,
    *,
    takes: Takes = EVERYTHING,
    part_of: str | None = None,
) -> Claim | None:
    """Take the first job that can run, in the order of `claimable`; None when there is nothing to do.

    takes: the jobs that this worker takes. A hint for another job only makes it look for its own.
    part_of: only parts of that job; the worker of the job may take them besides `takes`.
    """
    suits = takes.fits() if part_of is None else Job.parent_id == part_of
    for _ in range(CLAIM_TRIES):
        try:
            with database.write() as session:
                taken = claim_once(session, owner, lease_seconds, hint, suits)
                crash_points.point("claim.uncommitted")
            return taken
        except IntegrityError:
            continue  # another worker took the lane between our look and our write: look again
    return None


def claim_once(
    session: Session, owner: str, lease_seconds: float, hint: str | None, suits: ColumnElement[bool]
) -> Claim | None:
    now = db.now(session)
    query = claimable(now, hint).where(suits).limit(1).with_for_update(skip_locked=True, of=Job)
    job = session.scalars(query).first()
    if job is None:
        return None
    job.state = move_job(JobState(job.state), JobState.RUNNING)
    job.fence += 1
    job.attempts += 1
    job.owner = owner
    job.lease_until = now + timedelta(seconds=lease_seconds)
    job.started_at = now
    served = update(Tenant).where(Tenant.id == job.tenant_id).values(served_at=now)
    session.execute(served, execution_options={"synchronize_session": False})
    emit(session, job)
    session.flush()
    return Claim(
        id=job.id,
        fence=job.fence,
        owner=owner,
        tenant_id=job.tenant_id,
        kind=JobKind(job.kind),
        dataset_id=job.dataset_id,
        model_id=job.model_id,
        request_id=job.request_id,
        device=job.device,
        parent_id=job.parent_id,
        params=job.params,
        seed=job.seed,
        attempts=job.attempts,
        traceparent=job.traceparent,
    )


def has_work(database: Database) -> bool:
    """Whether any job could be claimed now."""
    with database.read() as session:
        return session.scalars(claimable(db.now(session)).limit(1)).first() is not None
