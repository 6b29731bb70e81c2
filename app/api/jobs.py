"""Jobs: read, follow, cancel, retry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import ColumnElement, Subquery, Text, bindparam, cast, func, select, union_all
from sqlalchemy.orm import Session, with_expression

from app import jobs
from app.api.http.conditional import IfMatchDep
from app.api.http.deps import (
    BY_METHOD,
    ONE_STREAM,
    CallerDep,
    IdempotentDep,
    IfNoneMatch,
    PagerDep,
    Parts,
    PartsDep,
    Read,
    ToRead,
    Write,
    needs,
    problems,
    token_of,
)
from app.api.http.event_stream import Follower
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import id_pattern
from app.api.http.status_polls import Noun, ObjectName, Poll
from app.api.schemas import ID_OR_NAME, JobOut, Name, WorkerList, WorkerOut
from app.core import logs
from app.core.errors import NotFound
from app.core.tables import DeletionRequest, Job, JobEvent, Model, OutcomeRow, Sample
from app.datasets import records as datasets
from app.formats.manifest import ERASED_PREFIX
from app.jobs import routing
from app.models import records as models
from app.releases import escalation
from app.rules.states import TERMINAL_JOBS, JobKind, JobState

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[BY_METHOD])
polled = APIRouter(prefix="/jobs", tags=["jobs"])  # whose callers are known only to the group that they are read in
workers = APIRouter(prefix="/workers", tags=["jobs"], dependencies=[needs("operate")])
JobId = Annotated[str, Path(pattern=id_pattern("job"))]


def find(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Job:
    query = select(Job).where(Job.tenant_id == tenant_id, Job.id == job_id)
    job = session.scalars(query.with_for_update() if lock else query).first()
    if job is None:
        raise NotFound("There is no such job.")
    return job


def show(session: Session, job: Job) -> JobOut:
    (shown,) = show_all(session, [job])
    return shown


def show_all(session: Session, rows: Sequence[Job]) -> list[JobOut]:
    waiting = routing.waiting_for(session, rows)
    due = _due(session, [row.id for row in rows if _carries(row)])
    return [_show(session, row, waiting.get(row.id), due.get(row.id)) for row in rows]


def _carries(row: Any) -> bool:
    """Whether a job may still have requests to carry out, or to be compared for."""
    return row.kind in (JobKind.UNLEARN, JobKind.PURGE, JobKind.TRAIN) and row.state not in TERMINAL_JOBS


def _due(session: Session, job_ids: Sequence[str]) -> dict[str, datetime]:
    """The earliest due date of the requests of each job."""
    if not job_ids:
        return {}
    found = _deadlines(Job.id.in_(job_ids))
    return dict(session.execute(select(found.c.id, found.c.due_at)).all())


def _deadlines(*which: ColumnElement[bool]) -> Subquery:
    """The earliest due date of the requests that a job unlearns, erases, or is compared for, by its id."""
    due = DeletionRequest.due_at
    unlearns = (
        select(Job.id, due)
        .join(OutcomeRow, OutcomeRow.job_id == Job.id)
        .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
    )
    erases = select(Job.id, due).join(DeletionRequest, DeletionRequest.id == Job.request_id)
    for_whom = Job.params["exclude_request"].as_string()
    compares = select(Job.id, due).join(DeletionRequest, DeletionRequest.id == for_whom)
    kinds = {JobKind.UNLEARN: unlearns, JobKind.PURGE: erases, JobKind.TRAIN: compares}
    each = union_all(*(query.where(Job.kind == kind, *which) for kind, query in kinds.items())).subquery()
    return select(each.c.id, func.min(each.c.due_at).label("due_at")).group_by(each.c.id).subquery()


def _show(session: Session, job: Job, waiting_for: str | None, due: datetime | None) -> JobOut:
    eta = None
    if job.state == JobState.RUNNING and job.started_at and job.fraction >= 0.001:
        last = select(JobEvent.at).where(JobEvent.job_id == job.id).order_by(JobEvent.number.desc()).limit(1)
        spent = ((session.scalars(last).first() or job.started_at) - job.started_at).total_seconds()
        eta = round(spent * (1 - job.fraction) / job.fraction, 1)
    return JobOut(
        id=job.id,
        kind=job.kind,
        state=job.state,
        waiting_for=waiting_for,
        stage=job.stage,
        fraction=round(job.fraction, 4),
        eta_seconds=eta,
        attempts=job.attempts,
        dataset=job.dataset_id,
        model=job.model_id,
        request=job.request_id,
        parent=job.parent_id,
        device=job.device,
        due_at=due,
        escalation=escalation.shown(session, job),
        result=job.result,
        problem=_named(session, job),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _named(session: Session, job: Job) -> dict[str, Any] | None:
    """The job's problem, where it names samples with their ids: the job itself keeps positions only."""
    lines = [line for line in (job.problem or {}).get("errors", []) if "position" in line]
    if job.problem is None or not lines:
        return job.problem
    there = Sample.position.in_([line["position"] for line in lines])
    left = ~Sample.sample_id.startswith(ERASED_PREFIX, autoescape=True)
    query = select(Sample.position, Sample.sample_id).where(Sample.dataset_id == job.dataset_id, there, left)
    ids = dict(session.execute(query).all())
    named = [{**line, "sample_id": ids.get(line["position"])} for line in lines]
    return {**job.problem, "errors": named}


@router.get("", responses=problems(403, 404, 409))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    created: Created,
    dataset: Annotated[Name | None, Query(description=ID_OR_NAME)] = None,
    model: Annotated[Name | None, Query(description=ID_OR_NAME)] = None,
    request: Annotated[str | None, Query(pattern=id_pattern("del"), description="jobs that carry it out")] = None,
    kind: Annotated[JobKind | None, Query()] = None,
    state: Annotated[JobState | None, Query()] = None,
    parent: Annotated[str | None, Query(pattern=id_pattern("job"), description="the parts of this job")] = None,
    dated: Annotated[
        bool, Query(description="jobs that have not ended and whose requests are due, the earliest date first")
    ] = False,
) -> Page[JobOut]:
    """The jobs, newest first. Parts of a job are listed by their `parent` only."""
    query = select(Job).where(Job.tenant_id == who.tenant_id, Job.parent_id == parent)
    dataset = dataset and datasets.id_of(session, who.tenant_id, dataset)
    model = model and models.id_of(session, who.tenant_id, model)
    query = matching(query, {Job.dataset_id: dataset, Job.model_id: model, Job.kind: kind, Job.state: state})
    if request is not None:  # in steps: as one condition, SQLite walks through all jobs of the tenant
        carry = set(session.scalars(select(OutcomeRow.job_id).where(OutcomeRow.request_id == request)))
        own = set(session.scalars(select(Job.id).where(Job.request_id == request)))
        query = query.where(Job.id.in_(carry | own))
    if dated:
        due = _deadlines(Job.tenant_id == who.tenant_id, Job.state.not_in(TERMINAL_JOBS))
        query = created.of(query, Job.created_at).join(due, due.c.id == Job.id)
        query = query.options(with_expression(Job.due_at, due.c.due_at))
        rows, token = pager.rows_by_time_rising(session, query, due.c.due_at, Job.id)
    elif created:
        rows, token = pager.rows_by_time(session, query, Job.created_at, Job.id, created)
    else:
        rows, token = pager.rows(session, query, Job.id)
    return Page(items=show_all(session, rows), next_page_token=token)


@polled.get("/{job:noun}", response_model=JobOut, responses=problems(403, 404))
async def read(job: JobId, sent: ToRead, held: PartsDep, if_none_match: IfNoneMatch = None) -> Response:
    """One job: state, stage, share done, what became of it."""
    reply = await held.polls.submit(Poll(token_of(sent), POLLED, job, if_none_match))
    logs.note(tenant=reply.tenant)
    return reply.response(if_none_match)


async def read_usual(request: Request, held: Parts, sent: HTTPAuthorizationCredentials, name: str) -> Response:
    return await read(name, sent, held, request.headers.get("if-none-match"))


def _facts_of(session: Session, names: Collection[ObjectName]) -> dict[ObjectName, tuple[Any, ...]]:
    """A job's document depends on its row, the live workers, the steps of its policy, and its requests' due dates."""
    rows = session.execute(_FACTS, _ids(names)).all()
    queued = [row.id for row in rows if row.state == JobState.QUEUED]
    waiting = routing.waiting_for_ids(session, queued) if queued else {}
    due = _due(session, [row.id for row in rows if _carries(row)])
    policies = dict(session.execute(_POLICIES, {"ids": {row.model_id for row in rows if row.model_id}}).all())
    return {
        (row.tenant_id, row.id): (*row, waiting.get(row.id), due.get(row.id), policies.get(row.model_id))
        for row in rows
    }


def _read_many(session: Session, names: Collection[ObjectName]) -> dict[ObjectName, JobOut]:
    rows = session.scalars(_ROWS, _ids(names)).all()
    return {(row.tenant_id, row.id): shown for row, shown in zip(rows, show_all(session, rows), strict=True)}


def _ids(names: Collection[ObjectName]) -> dict[str, set[str]]:
    return {"tenants": {tenant for tenant, _ in names}, "ids": {name for _, name in names}}


_THESE = (Job.tenant_id.in_(bindparam("tenants", expanding=True)), Job.id.in_(bindparam("ids", expanding=True)))
_ROWS = select(Job).where(*_THESE)
# A lease and its beats are not shown; the last progress says how long the rest may take.
_UNSEEN = {"params", "owner", "lease_until", "cancel_requested", "hinted_at", "available_at", "result", "problem"}
_FACTS = select(
    *(column for column in Job.__table__.columns if column.name not in _UNSEEN),
    *(cast(column, Text) for column in (Job.params, Job.result, Job.problem)),
    select(func.max(JobEvent.number)).where(JobEvent.job_id == Job.id).scalar_subquery(),
).where(*_THESE)
_POLICIES = select(Model.id, cast(Model.policy, Text)).where(Model.id.in_(bindparam("ids", expanding=True)))
POLLED = Noun("job", _facts_of, _read_many)


@router.post("/{job}:cancel", response_model=JobOut, responses=problems(403, 404, 409, 412))
def cancel(job: JobId, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep) -> JSONResponse:
    """Cancel: at once when queued, at the worker's next beat when running."""
    row = find(session, who.tenant_id, job, lock=True)
    seen.check(show(session, row))
    jobs.cancel(session, row)
    return once.reply(200, show(session, row))


@router.post("/{job}:retry", response_model=JobOut, responses=problems(403, 404, 409, 412))
def retry(job: JobId, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep) -> JSONResponse:
    """Queue a failed or dead job again."""
    row = find(session, who.tenant_id, job, lock=True)
    seen.check(show(session, row))
    jobs.retry(session, row)
    return once.reply(200, show(session, row))


def ended(job: JobId, who: CallerDep, held: PartsDep) -> bool:
    """Whether the job has ended; a dependency, since a refusal must come before the stream begins."""
    with held.database.read() as session:
        return find(session, who.tenant_id, job).state in TERMINAL_JOBS


@router.get(
    "/{job}/events", response_class=EventSourceResponse, responses=problems(403, 404), dependencies=[ONE_STREAM]
)
async def events(
    job: JobId,
    request: Request,
    sent: ToRead,
    over: Annotated[bool, Depends(ended)],
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0, lt=2**63)] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events of a job, from after `Last-Event-ID` to its end.

    A stream ends earlier when it is some minutes old, or when its key is no longer valid. Open it again with the id of
    the last event.
    """
    follower: Follower = request.app.state.follower
    async with follower.subscribe(job, last_event_id, token_of(sent)) as queue:
        while not (over and queue.empty()):
            event = await queue.get()
            if event is None:
                return
            yield ServerSentEvent(data=event.data, event=event.kind, id=str(event.number))
            over = event.data.get("state") in TERMINAL_JOBS  # a job that was tried again goes on after such an event


@workers.get("", responses=problems(403))
def list_workers(session: Read) -> WorkerList:
    """The workers that gave a sign of life within the last seconds; they serve every tenant."""
    return WorkerList(
        workers=[
            WorkerOut(
                name=row.name,
                device=row.device,
                label=row.label,
                kinds=row.kinds,
                offers=row.offers,
                device_memory=row.device_memory,
                seen_at=row.seen_at,
            )
            for row in sorted(routing.live(session), key=lambda each: (each.device, each.name))
        ]
    )
