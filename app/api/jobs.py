"""Jobs: read, follow, cancel, retry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db, jobs
from app.api.deps import BY_METHOD, CallerDep, IdempotentDep, PagerDep, PartsDep, Read, Write, problems
from app.api.follow import Follower
from app.api.paging import Page
from app.api.schemas import JobOut, id_pattern
from app.errors import NotFound
from app.lifecycle import TERMINAL_JOBS, JobKind, JobState
from app.tables import Job

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[BY_METHOD])
JobId = Annotated[str, Path(pattern=id_pattern("job"))]


def find(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Job:
    query = select(Job).where(Job.tenant_id == tenant_id, Job.id == job_id)
    job = session.scalars(query.with_for_update() if lock else query).first()
    if job is None:
        raise NotFound("There is no such job.")
    return job


def show(session: Session, job: Job) -> JobOut:
    eta = None
    if job.state == JobState.RUNNING and job.started_at and job.fraction > 0.02:
        spent = (db.now(session) - job.started_at).total_seconds()
        eta = round(spent * (1 - job.fraction) / job.fraction, 1)
    return JobOut(
        id=job.id,
        kind=job.kind,
        state=job.state,
        stage=job.stage,
        fraction=round(job.fraction, 4),
        eta_seconds=eta,
        attempts=job.attempts,
        dataset=job.dataset_id,
        model=job.model_id,
        request=job.request_id,
        result=job.result,
        problem=job.problem,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


@router.get("", responses=problems(403))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    model: Annotated[str | None, Query(pattern=id_pattern("mdl"))] = None,
    kind: Annotated[JobKind | None, Query()] = None,
    state: Annotated[JobState | None, Query()] = None,
) -> Page[JobOut]:
    query = select(Job).where(Job.tenant_id == who.tenant_id)
    for column, value in ((Job.model_id, model), (Job.kind, kind), (Job.state, state)):
        if value is not None:
            query = query.where(column == value)
    rows, token = pager.rows(session, query, Job.id)
    return Page(items=[show(session, row) for row in rows], next_page_token=token)


@router.get("/{job}", responses=problems(403, 404))
def read(job: JobId, who: CallerDep, session: Read) -> JobOut:
    """One job: state, stage, share done, what became of it."""
    return show(session, find(session, who.tenant_id, job))


@router.post("/{job}:cancel", response_model=JobOut, responses=problems(403, 404, 409))
def cancel(job: JobId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Cancel: at once when queued, at the worker's next beat when running."""
    row = find(session, who.tenant_id, job, lock=True)
    jobs.cancel(session, row)
    return once.reply(200, show(session, row))


@router.post("/{job}:retry", response_model=JobOut, responses=problems(403, 404, 409))
def retry(job: JobId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Queue a failed or dead job again."""
    row = find(session, who.tenant_id, job, lock=True)
    jobs.retry(session, row)
    return once.reply(200, show(session, row))


def ended(job: JobId, who: CallerDep, held: PartsDep) -> bool:
    """Whether the job has ended; a dependency, since a refusal must come before the stream begins."""
    with held.database.read() as session:
        return find(session, who.tenant_id, job).state in TERMINAL_JOBS


@router.get("/{job}/events", response_class=EventSourceResponse, responses=problems(403, 404))
async def events(
    job: JobId,
    request: Request,
    over: Annotated[bool, Depends(ended)],
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0, lt=2**63)] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events of a job, from after `Last-Event-ID` to its end."""
    follower: Follower = request.app.state.follower
    async with follower.subscribe(job, last_event_id) as queue:
        while not (over and queue.empty()):
            event = await queue.get()
            yield ServerSentEvent(data=event.data, event=event.kind, id=str(event.number))
            over = event.data["state"] in TERMINAL_JOBS  # a job that was tried again goes on after such an event
