"""While a job runs: the fence that every write of a worker goes through, beats, stages and what they store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.blobs import usage
from app.core import db
from app.core.db import Database
from app.core.tables import Job, JobArtifact
from app.jobs.claiming import Claim
from app.jobs.queueing import emit
from app.rules.states import JobState


class LeaseLostError(Exception):
    """Another owner holds the job, or it has ended: this worker must stop and may write nothing."""


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


def announce(session: Session, claim: Claim, digest: str) -> None:
    """Say, under the fence, that bytes of that digest are about to be stored: should the attempt be killed before it
    records them (`usage.pin`), they are known, and go."""
    fenced(session, claim)
    name, now = usage.unrecorded(digest), db.now(session)
    session.merge(JobArtifact(job_id=claim.id, name=name, digest=digest, facts={}, created_at=now))


def keep(session: Session, claim: Claim, name: str, digest: str, facts: dict[str, Any]) -> str | None:
    """Store the artefact of a stage under the fence; the digest it replaces, if any."""
    fenced(session, claim)
    row = session.get(JobArtifact, (claim.id, name))
    replaced = row.digest if row and row.digest != digest else None
    kept = JobArtifact(job_id=claim.id, name=name, digest=digest, facts=facts, created_at=db.now(session))
    session.merge(kept)
    return replaced
