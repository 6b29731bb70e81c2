"""Parts: a job may divide itself, so that every free worker takes some of it.

A part is a job with a lane of its own and a `parent_id`. The job's own worker takes parts too, so that one worker
alone is enough; a part that ends badly fails its job, and the end of a job ends its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.tables import Job
from app.jobs.claiming import Claim
from app.jobs.queueing import enqueue
from app.jobs.running import fenced
from app.rules.states import JobKind, JobState

GONE = (JobState.CANCELLED, JobState.SUCCEEDED)


def parts_of(session: Session, job_id: str) -> dict[int, Job]:
    """The parts of a job by their number, of several with one number the last."""
    rows = session.scalars(select(Job).where(Job.parent_id == job_id).order_by(Job.id))
    return {int(row.params["number"]): row for row in rows}


def start_parts(session: Session, claim: Claim, kind: JobKind, lanes: Mapping[int, str], **params: Any) -> None:
    """Queue a part for each number of `lanes` that has none which is queued, runs or has failed.

    One that runs but is to stop counts as none: the new part waits for its end in the lane that both have.
    """
    job = fenced(session, claim)
    there = parts_of(session, claim.id)
    for number, lane in lanes.items():
        if number in there and there[number].state not in GONE and not there[number].cancel_requested:
            continue
        enqueue(
            session,
            tenant_id=claim.tenant_id,
            kind=kind,
            lane=lane,
            seed=claim.seed,
            params={**params, "number": number},
            dataset_id=claim.dataset_id,
            model_id=claim.model_id,
            device=job.device,
            parent_id=claim.id,
        )
