"""Queueing jobs, and the events that followers of a job see."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.core import db, tracing
from app.core.db import insert_many
from app.core.ids import new_id
from app.core.tables import Job, JobEvent, Model, Outbox
from app.jobs import outbox
from app.rules.states import JobKind, JobState


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
    device: str | None = None,
    parent_id: str | None = None,
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
        device=device,
        parent_id=parent_id,
        state=JobState.QUEUED,
        created_at=now,
        available_at=now,
        hinted_at=now,
        traceparent=tracing.current(),
    )
    session.add(job)
    session.flush()
    emit(session, job)
    outbox.hint(session, job.id)
    return job


def enqueue_unlearning(session: Session, work: Sequence[tuple[Model, str, str | None]], now: datetime) -> list[str]:
    """A queued unlearn job for each model with the dataset and the `traceparent` of its request; ids, in that order.

    The same rows as `enqueue` writes, by a few statements for any number of jobs.
    """
    if not work:
        return []
    found = [new_id("job") for _ in work]
    state = JobState.QUEUED.value
    same = {
        "kind": JobKind.UNLEARN.value,
        "params": {},
        "seed": 0,
        "state": state,
        "created_at": now,
        "available_at": now,
        "hinted_at": now,
    }
    jobs = [
        {
            "id": job,
            "tenant_id": model.tenant_id,
            "dataset_id": dataset_id,
            "model_id": model.id,
            "lane": f"model:{model.id}",
            "device": model.device,
            "traceparent": traceparent,
            **same,
        }
        for job, (model, dataset_id, traceparent) in zip(found, work, strict=True)
    ]
    data = {"state": state, "stage": None, "fraction": 0.0, "attempt": 0}
    insert_many(session, Job, jobs)
    insert_many(session, JobEvent, [{"job_id": job, "kind": "state", "data": data, "at": now} for job in found])
    insert_many(session, Outbox, [{"topic": "hint", "key": job, "created_at": now} for job in found])
    return found


def emit(session: Session, job: Job, kind: str = "state") -> None:
    """Append an event that followers of the job see."""
    data = {
        "state": job.state,
        "stage": job.stage,
        "fraction": round(job.fraction, 4),
        "attempt": job.attempts,
    }
    session.add(JobEvent(job_id=job.id, kind=kind, data=data, at=db.now(session)))
