"""When pending deletions of a model become a job: at once (`each`), or together (`batch`).

A batch closes on its number of requests or samples, on its age, or in time for the earliest legal deadline: early
enough for the measured duration of such a job and of every further step. Where a crowd is asked for, fewer samples wait
for that deadline. While a job of the model is queued or
running, requests that arrive wait for the next batch.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter
from sqlalchemy import bindparam, func, literal_column, select
from sqlalchemy.orm import Session

from app import catalog, events, jobs
from app.core import db
from app.core.db import Database
from app.core.tables import DeletionRequest, Job, Model, OutcomeRow
from app.events import NewEvent
from app.models import records as models
from app.rules.policy import BatchRule, EachRule, Policy
from app.rules.states import Decision, JobKind, JobState, Outcome, move_outcome

MEASURED_JOBS = 20
DEADLINE_FACTOR = 3.0  # leaves time for three attempts of a job before the deadline
DEADLINE_ROOM = timedelta(hours=1)
_RULE: TypeAdapter[EachRule | BatchRule] = TypeAdapter(Annotated[EachRule | BatchRule, Field(discriminator="mode")])
PENDING = OutcomeRow.state == literal_column("'pending'")  # in these words, or no partial index serves
WAITING = (PENDING, DeletionRequest.decision == Decision.ACCEPTED)


@dataclass(frozen=True)
class Pending:
    """The open batch of one model."""

    requests: int
    samples: int
    oldest: datetime
    earliest_due: datetime


def closes_at(rule: EachRule | BatchRule, pending: Pending, duration: timedelta) -> datetime:
    """When the batch closes by time alone. `duration`: measured, of such a job and of every further step."""
    if isinstance(rule, EachRule):
        return pending.oldest
    by_age = pending.oldest + timedelta(seconds=rule.max_age_seconds)
    by_law = pending.earliest_due - duration * DEADLINE_FACTOR - DEADLINE_ROOM
    return min(by_age, by_law) if pending.samples >= rule.crowd else by_law


def is_full(rule: EachRule | BatchRule, pending: Pending) -> bool:
    if isinstance(rule, EachRule):
        return True
    full = pending.requests >= rule.max_requests or pending.samples >= rule.max_samples
    return full and pending.samples >= rule.crowd


def measured_duration(session: Session, model_id: str) -> timedelta | None:
    """The median duration of the model's last unlearn jobs that published; None before the first."""
    return _median(_ended(session, model_id, JobKind.UNLEARN, [JobState.SUCCEEDED]))


def step_of(params: Mapping[str, Any]) -> int:
    """The step of an unlearn job, from 0: the policy's own method. Jobs of version 0.1 call it `rung`."""
    return int(params.get("step", params.get("rung", 0)))


def step_result(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What an ended unlearn job keeps of its step (number, of, method). Jobs of version 0.1 call it `rung`."""
    found = result or {}
    step: dict[str, Any] | None = found.get("escalation", found.get("rung"))
    return step


def step_duration(session: Session, model_id: str, method: str) -> timedelta | None:
    """The median duration of the model's unlearn jobs by `method`, published or not.

    For an exact method that never ran it is the duration of training, for another that of all unlearn jobs. None before
    any of these was measured.
    """
    ended = _ended(session, model_id, JobKind.UNLEARN, [JobState.SUCCEEDED, JobState.REJECTED])
    same = [each for each in ended if (step_result(each.result) or {}).get("method") == method]
    if not same and catalog.METHODS[method].exact:
        return _median(_ended(session, model_id, JobKind.TRAIN, [JobState.SUCCEEDED]))
    return _median(same or ended)


def escalation_duration(session: Session, model: Model) -> timedelta:
    """How long all steps of the model's policy would take together, as far as they were measured."""
    methods = Policy.model_validate(model.policy).methods
    found = (step_duration(session, model.id, choice.name) for choice in methods)
    return sum((duration for duration in found if duration is not None), timedelta(0))


class EndedJob(NamedTuple):
    """How long a job ran, and its result."""

    seconds: float
    result: dict[str, Any] | None


def _ended(session: Session, model_id: str, kind: JobKind, states: Sequence[JobState]) -> list[EndedJob]:
    """The model's last ended jobs of that kind, newest first."""
    query = (
        select(Job.started_at, Job.finished_at, Job.result)
        .where(Job.model_id == model_id, Job.kind == kind, Job.state.in_(states))
        .order_by(Job.id.desc())
        .limit(MEASURED_JOBS)
    )
    rows = session.execute(query)
    return [EndedJob((finish - start).total_seconds(), result) for start, finish, result in rows if start and finish]


def _median(ended: Sequence[EndedJob]) -> timedelta | None:
    return timedelta(seconds=statistics.median(job.seconds for job in ended)) if ended else None


def pending_of(session: Session, model_id: str) -> Pending | None:
    """What waits for the model's next batch."""
    query = (
        select(
            func.count(),
            func.sum(DeletionRequest.sample_count),
            func.min(func.coalesce(DeletionRequest.posted_at, DeletionRequest.received_at)),
            func.min(DeletionRequest.due_at),
        )
        .join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
        .where(OutcomeRow.model_id == model_id, *WAITING)
    )
    count, samples, oldest, due = session.execute(query).one()
    return Pending(count, samples, oldest, due) if count else None


def close_if_due(session: Session, model: Model) -> Job | None:
    """Close the model's batch if its rule says so; under `batch`, while no unlearn job of it is queued or running."""
    rule = _RULE.validate_python(model.policy["when"])
    if isinstance(rule, BatchRule) and _busy(session, model.id):
        return None
    pending = pending_of(session, model.id)
    if pending is None:
        return None
    duration = escalation_duration(session, model)
    if not is_full(rule, pending) and closes_at(rule, pending, duration) > db.now(session):
        return None
    return close(session, model, _first(session, model.id, 1 if isinstance(rule, EachRule) else None))


def enter(
    session: Session,
    entries: Sequence[tuple[str, Model]],
    datasets: Mapping[str, str],
    before: Sequence[NewEvent],
    now: datetime,
    traces: Mapping[str, str | None],
) -> dict[tuple[str, str], str | None]:
    """The outcomes of new requests, (request id, model) each and in the requests' order: under `each` with a job at
    once, under `batch` into the open batch, which closes if that makes it due. Their jobs, by (request id, model id).

    datasets: what each request is about, by its id. before: events to record first. traces: `traceparent` by request;
    a batch has none, because it serves several.
    """
    models_ = {model.id: model for _, model in entries}
    each = {key for key, model in models_.items() if isinstance(_RULE.validate_python(model.policy["when"]), EachRule)}
    at_once = each - _with_backlog(session, each)  # what waits already goes first: another rule has left it
    direct = [(request, model) for request, model in entries if model.id in at_once]
    work = [(model, datasets[request], traces[request]) for request, model in direct]
    keys = [(request, model.id) for request, model in direct]
    jobs_ = dict(zip(keys, jobs.enqueue_unlearning(session, work, now), strict=True))
    found = {(request, model.id): jobs_.get((request, model.id)) for request, model in entries}
    states = {True: Outcome.BATCHED.value, False: Outcome.PENDING.value}
    rows = [
        {"request_id": request, "model_id": model, "state": states[job is not None], "job_id": job}
        for (request, model), job in found.items()
    ]
    db.insert_many(session, OutcomeRow, rows)
    closed = [(m.tenant_id, "batch.closed", jobs_[request, m.id], {"requests": 1}) for request, m in direct]
    of_jobs = {job: traces[request] for (request, _), job in jobs_.items()}
    events.record_many(session, [*before, *closed], now, {**traces, **of_jobs})
    late = [key for key, job in found.items() if job is None]
    due = [model for _, model in late]
    for model_id in [*(model for model in due if model in each), *dict.fromkeys(m for m in due if m not in each)]:
        close_if_due(session, models_[model_id])
    if late:
        session.flush()
        query = select(OutcomeRow.request_id, OutcomeRow.model_id, OutcomeRow.job_id).where(
            OutcomeRow.request_id.in_({request for request, _ in late})
        )
        found |= {(request, model): job for request, model, job in session.execute(query)}
    return found


_BACKLOG = (
    select(OutcomeRow.model_id)
    .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
    .where(OutcomeRow.model_id.in_(bindparam("models", expanding=True)), *WAITING)
    .distinct()
)


def _with_backlog(session: Session, model_ids: Collection[str]) -> set[str]:
    """Those of the models that have pending outcomes."""
    return set(session.scalars(_BACKLOG, {"models": model_ids})) if model_ids else set()


def _busy(session: Session, model_id: str) -> Job | None:
    """The newest unlearn job of the model that is queued or running."""
    active = select(Job).where(
        Job.model_id == model_id,
        Job.kind == JobKind.UNLEARN,
        Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
    )
    return session.scalars(active.order_by(Job.id.desc()).limit(1)).first()


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


def close_now(session: Session, model: Model) -> Job | None:
    """Close the model's open batch now, without its rule."""
    rows = _first(session, model.id, None)
    return close(session, model, rows) if rows else None


def close(session: Session, model: Model, rows: Sequence[OutcomeRow]) -> Job:
    """Freeze these outcomes into one unlearn job, on the dataset that their requests are about."""
    dataset_id = session.get_one(DeletionRequest, rows[0].request_id).dataset_id
    job = models.start(session, model, JobKind.UNLEARN, seed=0, dataset_id=dataset_id)
    for row in rows:
        row.state, row.job_id = move_outcome(Outcome(row.state), Outcome.BATCHED), job.id
    events.record(session, model.tenant_id, "batch.closed", job.id, requests=len(rows))
    return job


def close_due(database: Database) -> int:
    """Close every batch that is due; how many. The sweeper's duty, and harmless to repeat."""
    with database.read() as session:
        waiting = select(OutcomeRow.model_id).where(PENDING).distinct()
        model_ids = list(session.scalars(waiting))

    def close(model_id: str) -> bool:
        with database.write() as session:
            owner = session.scalars(select(Model.tenant_id).where(Model.id == model_id)).one()
            model = models.get(session, owner, model_id, lock=True)
            return close_if_due(session, model) is not None

    return db.one_by_one(model_ids, close, "the batch of a model could not be closed")


def forecast(session: Session, model: Model, job_id: str | None) -> datetime | None:
    """When an outcome that has this job, or none yet, will probably be published, by measured durations, rounded up to
    a minute.

    None if nothing was measured yet, or if that moment has passed. While nothing happens the forecast does not move
    with the clock, so a document stays as the client saw it. A forecast passes only at the end of a minute; polls rely
    on that.
    """
    found = _forecast(session, model, job_id)
    shown = found and found.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return shown if shown is not None and shown > db.now(session) else None


def _forecast(session: Session, model: Model, job_id: str | None) -> datetime | None:
    duration = measured_duration(session, model.id)
    if duration is None:
        return None
    if job_id is not None:
        job = session.get_one(Job, job_id)
        if step := step_of(job.params):
            method = Policy.model_validate(job.params["policy"]).methods[step].name
            duration = step_duration(session, model.id, method) or duration
        return (job.started_at or job.created_at) + duration
    pending = pending_of(session, model.id)
    if pending is None:
        return None
    rule = Policy.model_validate(model.policy).when
    full = is_full(rule, pending)
    start = pending.oldest if full else closes_at(rule, pending, escalation_duration(session, model))
    if (before := _busy(session, model.id)) is not None:
        start = max(start, (before.started_at or before.created_at) + duration)
    return start + duration
