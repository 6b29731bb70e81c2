"""The life of a job in the database: enqueue, claim, beat, stage, end. Both API and worker call this module.

The database is the truth. A running job is a row with an owner, a lease on the database's clock and a fencing
token; every write of a worker goes through `fenced`, so a worker that lost its lease can change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app import db, deliveries, faults, outbox
from app.db import Database
from app.errors import Conflict
from app.ids import new_id
from app.lifecycle import (
    MAX_ATTEMPTS,
    JobKind,
    JobState,
    Outcome,
    move_job,
    move_outcome,
)
from app.tables import AuditEvent, Dataset, Job, JobArtifact, JobEvent, OutcomeRow

CLAIM_TRIES = 8


class SupersededError(Exception):
    """What this attempt worked from has changed meanwhile: nothing was written, and it begins again."""


class LeaseLostError(Exception):
    """Another owner holds the job, or it has ended: this worker must stop and may write nothing."""


@dataclass(frozen=True)
class Claim:
    """What a worker holds: the job as it was when claimed, and the token that proves it."""

    id: str
    fence: int
    tenant_id: str
    kind: JobKind
    dataset_id: str | None
    model_id: str | None
    request_id: str | None
    params: dict[str, Any]
    seed: int
    attempts: int


def enqueue(
    session: Session,
    *,
    tenant_id: str,
    kind: JobKind,
    lane: str,
    seed: int = 0,
    params: dict[str, Any] | None = None,
    dataset_id: str | None = None,
    model_id: str | None = None,
    request_id: str | None = None,
    available_at: datetime | None = None,
) -> Job:
    """Write a queued job, its first event and its hint, all in the caller's transaction."""
    now = db.now(session)
    job = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        kind=kind,
        lane=lane,
        params=params or {},
        seed=seed,
        dataset_id=dataset_id,
        model_id=model_id,
        request_id=request_id,
        state=JobState.QUEUED,
        created_at=now,
        available_at=available_at or now,
        hinted_at=now,
    )
    session.add(job)
    session.flush()
    emit(session, job)
    outbox.hint(session, job.id)
    return job


def emit(session: Session, job: Job, kind: str = "state") -> None:
    """Append an event that followers of the job see."""
    data = {
        "state": job.state,
        "stage": job.stage,
        "fraction": round(job.fraction, 4),
        "attempt": job.attempts,
    }
    session.add(JobEvent(job_id=job.id, kind=kind, data=data, at=db.now(session)))


def record(session: Session, tenant_id: str, kind: str, object_id: str, **data: Any) -> None:
    """Append an audit event, in the transaction of the change that it tells of."""
    now = db.now(session)
    session.add(AuditEvent(tenant_id=tenant_id, kind=kind, object_id=object_id, data=data, at=now))
    deliveries.fan_out(session, tenant_id, kind, object_id, now)


# -- claiming --------------------------------------------------------------------------------------


def _claimable(now: datetime) -> Select[Job]:
    """Queued jobs that are first in a free lane, oldest first; a purge also waits for its dataset's earlier jobs.

    A lane keeps its order whichever hint arrives first: unlearning must find the version that training makes.
    """
    other = aliased(Job)
    lane_busy = exists().where(other.lane == Job.lane, other.state == JobState.RUNNING)
    ahead = aliased(Job)
    overtakes = exists().where(
        ahead.lane == Job.lane, ahead.state == JobState.QUEUED, ahead.id < Job.id, ahead.available_at <= now
    )
    earlier = aliased(Job)
    dataset_in_use = exists().where(
        earlier.dataset_id == Job.dataset_id,
        earlier.id < Job.id,
        earlier.kind != JobKind.PURGE,
        earlier.state.in_([JobState.QUEUED, JobState.RUNNING]),
    )
    return (
        select(Job)
        .where(
            Job.state == JobState.QUEUED,
            Job.available_at <= now,
            ~lane_busy,
            ~overtakes,
            or_(Job.kind != JobKind.PURGE, ~dataset_in_use),
        )
        .order_by(Job.id)
    )


def claim(database: Database, owner: str, lease_seconds: float, hint: str | None = None) -> Claim | None:
    """Take the hinted job if it can run, else the oldest that can; None when there is nothing to do."""
    for _ in range(CLAIM_TRIES):
        try:
            with database.write() as session:
                taken = _claim_once(session, owner, lease_seconds, hint)
                faults.point("claim.uncommitted")
            return taken
        except IntegrityError:
            continue  # another worker took the lane between our look and our write: look again
    return None


def _claim_once(session: Session, owner: str, lease_seconds: float, hint: str | None) -> Claim | None:
    now = db.now(session)
    query = _claimable(now).limit(1).with_for_update(skip_locked=True, of=Job)
    job = session.scalars(query.where(Job.id == hint)).first() if hint else None
    job = job or session.scalars(query).first()
    if job is None:
        return None
    job.state = move_job(JobState(job.state), JobState.RUNNING)
    job.fence += 1
    job.attempts += 1
    job.owner = owner
    job.lease_until = now + timedelta(seconds=lease_seconds)
    job.started_at = now
    emit(session, job)
    session.flush()
    return Claim(
        id=job.id,
        fence=job.fence,
        tenant_id=job.tenant_id,
        kind=JobKind(job.kind),
        dataset_id=job.dataset_id,
        model_id=job.model_id,
        request_id=job.request_id,
        params=job.params,
        seed=job.seed,
        attempts=job.attempts,
    )


# -- while it runs ---------------------------------------------------------------------------------


def fenced(session: Session, claim: Claim) -> Job:
    """The job's row, locked, if `claim` still holds it. Every write of a worker begins here.

    Raises:
        LeaseLostError: the fence moved on, or the job is no longer running.
    """
    query = select(Job).where(Job.id == claim.id, Job.fence == claim.fence, Job.state == JobState.RUNNING)
    job = session.scalars(query.with_for_update()).first()
    if job is None:
        raise LeaseLostError(claim.id)
    return job


def beat(database: Database, claim: Claim, lease_seconds: float) -> bool:
    """Renew the lease; True when somebody asked for the job to be cancelled."""
    with database.write() as session:
        job = fenced(session, claim)
        job.lease_until = db.now(session) + timedelta(seconds=lease_seconds)
        return job.cancel_requested


def advance(session: Session, claim: Claim, stage: str, fraction: float) -> None:
    """Enter a stage, or move on within it."""
    job = fenced(session, claim)
    kind = "progress" if job.stage == stage else "state"
    job.stage, job.fraction = stage, min(max(fraction, 0.0), 1.0)
    emit(session, job, kind)


def artifacts(session: Session, job_id: str) -> dict[str, JobArtifact]:
    """What earlier attempts have stored, by name."""
    return {row.name: row for row in session.scalars(select(JobArtifact).where(JobArtifact.job_id == job_id))}


def keep(session: Session, claim: Claim, name: str, digest: str, facts: dict[str, Any]) -> str | None:
    """Store the artefact of a stage under the fence; the digest it replaces, if any."""
    fenced(session, claim)
    row = session.get(JobArtifact, (claim.id, name))
    replaced = row.digest if row and row.digest != digest else None
    kept = JobArtifact(job_id=claim.id, name=name, digest=digest, facts=facts, created_at=db.now(session))
    session.merge(kept)
    return replaced


# -- ends ------------------------------------------------------------------------------------------


def finish(
    session: Session,
    job: Job,
    state: JobState,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
) -> None:
    """End a job: its state, what its request makes of that, and a hint for the next job of its lane."""
    job.state = move_job(JobState(job.state), state)
    job.finished_at = db.now(session)
    job.owner = job.lease_until = None
    job.result, job.problem = result, problem
    if state is JobState.SUCCEEDED:
        job.fraction = 1.0
    else:
        reason = (problem or {}).get("detail", state.value)
        for row in session.scalars(
            select(OutcomeRow).where(OutcomeRow.job_id == job.id, OutcomeRow.state == Outcome.BATCHED)
        ):
            row.state, row.reason = move_outcome(Outcome(row.state), Outcome.ATTENTION), reason
        if job.kind == JobKind.INGEST:
            _close_ingest(session, job)
    emit(session, job)
    record(session, job.tenant_id, f"job.{state.value}", job.id, job=job.kind)
    session.flush()
    _hint_next(session, job)


def _close_ingest(session: Session, job: Job) -> None:
    """The dataset was not taken in: say why; content may be sent again, or the job tried again where it has any."""
    dataset = session.get_one(Dataset, job.dataset_id, with_for_update=True)
    dataset.state, dataset.problem = "failed", job.problem
    if job.state == JobState.CANCELLED:
        dataset.upload = None


def _hint_next(session: Session, ended: Job) -> None:
    """Jobs that waited for this one lost their hint to the wait."""
    waiting = select(Job.id).where(
        Job.state == JobState.QUEUED, or_(Job.lane == ended.lane, Job.dataset_id == ended.dataset_id)
    )
    for job_id in session.scalars(waiting.order_by(Job.id).limit(2)):
        outbox.hint(session, job_id)


def requeue(session: Session, job: Job, reason: str, *, pause_seconds: float = 0.0) -> None:
    """An attempt ended without an end: try again, or bury the job after `MAX_ATTEMPTS`.

    With a pause the attempt does not count: what failed lies outside the job, and time may mend it.
    """
    job.available_at = db.now(session) + timedelta(seconds=pause_seconds)
    job.attempts -= pause_seconds > 0
    job.owner = job.lease_until = None
    if job.cancel_requested:
        finish(session, job, JobState.CANCELLED, problem=problem("cancelled", "cancelled on request"))
    elif job.attempts >= MAX_ATTEMPTS:
        detail = f"given up after {job.attempts} attempts: {reason}"
        finish(session, job, JobState.DEAD, problem=problem("attempts-exhausted", detail))
    else:
        job.state = move_job(JobState(job.state), JobState.QUEUED)
        job.fraction = 0.0
        emit(session, job)
        outbox.hint(session, job.id)


def problem(kind: str, detail: str, **members: Any) -> dict[str, Any]:
    """The problem document of a job that did not succeed."""
    return {
        "type": f"https://lethe.invalid/problems/{kind}",
        "title": "The job did not succeed",
        "detail": detail,
    } | (members)


def release(database: Database, owner: str, reason: str, *, counted: bool = True) -> int:
    """Hand back every lease of a worker that is known to be gone; how many there were.

    `counted`: whether the attempt counts; one that was stopped in an orderly way does not.
    """
    with database.write() as session:
        held = session.scalars(select(Job).where(Job.owner == owner, Job.state == JobState.RUNNING).with_for_update())
        rows = list(held)
        for job in rows:
            job.attempts -= not counted
            requeue(session, job, reason)
        return len(rows)


def cancel(session: Session, job: Job) -> None:
    """Cancel: at once when queued, at the worker's next beat when running.

    Raises:
        IllegalMoveError: the job has ended.
        Conflict: it carries out a deletion, which is owed.
    """
    open_ = JobState(job.state) in (JobState.QUEUED, JobState.RUNNING)
    if open_ and job.kind == JobKind.PURGE:
        raise Conflict("A purge is owed to the people whose samples it erases; it cannot be cancelled.")
    if open_ and job.kind == JobKind.UNLEARN:
        raise Conflict("This job carries deletion requests out; withdraw, hold or refuse those instead.")
    if job.state == JobState.RUNNING:
        job.cancel_requested = True
        return
    finish(session, job, JobState.CANCELLED, problem=problem("cancelled", "cancelled on request"))


def retry(session: Session, job: Job) -> None:
    """Queue a failed, dead or rejected job again with fresh attempts; its request's outcomes go back into its batch.

    Raises:
        IllegalMoveError: the job is not failed, dead or rejected.
        Conflict: it took in content that is no longer there.
    """
    job.state = move_job(JobState(job.state), JobState.QUEUED)
    if job.kind == JobKind.INGEST:
        _reopen_ingest(session, job)
    job.attempts, job.fraction, job.problem, job.finished_at = 0, 0.0, None, None
    job.cancel_requested, job.available_at = False, db.now(session)
    for row in session.scalars(
        select(OutcomeRow).where(OutcomeRow.job_id == job.id, OutcomeRow.state == Outcome.ATTENTION)
    ):
        row.state, row.reason = move_outcome(Outcome(row.state), Outcome.BATCHED), None
    emit(session, job)
    outbox.hint(session, job.id)


def _reopen_ingest(session: Session, job: Job) -> None:
    dataset = session.get_one(Dataset, job.dataset_id, with_for_update=True)
    if dataset.state != "failed" or (dataset.source == "upload" and dataset.upload is None):
        raise Conflict("The content that this job took in is gone, or has been replaced.", kind="content-missing")
    dataset.state, dataset.problem = "ingesting", None


# -- repair ----------------------------------------------------------------------------------------


def sweep(database: Database, rehint_seconds: float) -> tuple[int, int]:
    """Requeue jobs whose lease ran out, and hint again what has long been ready; how many of each. Idempotent.

    What waits for its lane is left alone: the end of the job before it sends its hint.
    """
    with database.write() as session:
        now = db.now(session)
        query = select(Job).where(Job.state == JobState.RUNNING, Job.lease_until < now)
        expired = list(session.scalars(query.with_for_update(skip_locked=True)))
        for job in expired:
            session.add(JobEvent(job_id=job.id, kind="lease-lost", data={"attempt": job.attempts}, at=now))
            requeue(session, job, "its worker's lease ran out")
        old = now - timedelta(seconds=rehint_seconds)
        ready = _claimable(now).with_only_columns(Job.id).where(Job.hinted_at < old)
        stale = list(session.scalars(ready.limit(outbox.BATCH)))
        if stale:
            session.execute(update(Job).where(Job.id.in_(stale)).values(hinted_at=now))
            for job_id in stale:
                outbox.hint(session, job_id)
        return len(expired), len(stale)


def has_work(database: Database) -> bool:
    """Whether any job could be claimed now."""
    with database.read() as session:
        return session.scalars(_claimable(db.now(session)).limit(1)).first() is not None
