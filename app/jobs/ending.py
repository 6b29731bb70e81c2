"""Ends of jobs: finishing, trying again, handing back; and the cancel and retry of clients."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from app.core import db
from app.core.db import Database
from app.core.errors import Conflict, problem_type
from app.core.tables import Dataset, Job, JobEvent, OutcomeRow, Sample
from app.events.recording import record
from app.evidence import negative
from app.formats.manifest import ERASED_PREFIX
from app.jobs import outbox, routing
from app.jobs.claiming import ASIDE, IS_URGENT, claimable, due_at, moments
from app.jobs.parts import parts_of
from app.jobs.queueing import emit
from app.rules.sources import awaits_content
from app.rules.states import MAX_ATTEMPTS, JobKind, JobState, Outcome, move_job, move_outcome

THROWN_AWAY = "thrown_away"  # a parameter of a training: how often its work was whole, and of no use
REFUSED_SINCE = "refused_since"  # a parameter: when storage first kept this job from its end
# Parameters that put an unlearn job on a further step of an escalation; version 0.1 calls `step` `rung`.
OF_A_STEP = ("step", "rung", "policy", "why")


def finish(
    session: Session,
    job: Job,
    state: JobState,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
) -> None:
    """End a job: its state, the outcomes of its requests, and a hint for the next job of its lane."""
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
            record(session, job.tenant_id, "request.needs-attention", row.request_id, model=row.model_id)
            negative.ask(session, job.tenant_id, request_id=row.request_id)
        _purge_is_stuck(session, job)
        if job.kind == JobKind.INGEST:
            _close_ingest(session, job)
    emit(session, job)
    if job.parent_id is None:  # events of parts concern their job alone
        record(session, job.tenant_id, f"job.{state.value}", job.id, job=job.kind)
        stop_parts(session, job, state.value)
    session.flush()
    _hint_next(session, job)


def _purge_is_stuck(session: Session, job: Job) -> None:
    """The request of a purge needs attention."""
    if job.kind == JobKind.PURGE and job.request_id:
        record(session, job.tenant_id, "request.needs-attention", job.request_id)
        negative.ask(session, job.tenant_id, request_id=job.request_id)


def _close_ingest(session: Session, job: Job) -> None:
    """The dataset was not taken in: say why; content may be sent again, or the job tried again where it has any."""
    dataset = session.get_one(Dataset, job.dataset_id, with_for_update=True)
    dataset.state, dataset.problem = "failed", job.problem
    drop_unfinished(session, dataset.id)
    if job.state == JobState.CANCELLED and dataset.upload is not None:
        outbox.remove_blob(session, dataset.upload)
        dataset.upload = None


def drop_unfinished(session: Session, dataset_id: str) -> None:
    """Remove the samples that an ingest stored and did not come to an end with: nobody can ask for them. What stands
    for erased ones stays, as a restored backup may have left it."""
    erased = Sample.sample_id.startswith(ERASED_PREFIX, autoescape=True)
    session.execute(delete(Sample).where(Sample.dataset_id == dataset_id, ~erased))


def _hint_next(session: Session, ended: Job) -> None:
    """Jobs that waited for this one lost their hint to the wait: the next of its lane, and purges of its dataset."""
    purge = and_(Job.kind == JobKind.PURGE, Job.dataset_id == ended.dataset_id)
    waiting = select(Job.id).where(Job.state == JobState.QUEUED, or_(Job.lane == ended.lane, purge))
    for job_id in session.scalars(waiting.order_by(Job.id).limit(2)):
        outbox.hint(session, job_id)


def requeue(
    session: Session,
    job: Job,
    reason: str,
    *,
    pause_seconds: float = 0.0,
    counted: bool = True,
    waits: dict[str, Any] | None = None,
    patience: timedelta = timedelta(0),
    thrown_away: bool = False,
) -> None:
    """An attempt ended without an end: try again, or bury the job after `MAX_ATTEMPTS`.

    With a pause the attempt does not count: the failure lies outside the job, and may pass. Nor does it count where
    `counted` is false: it was no failure. waits: the problem that a person must end before the job can, if it is still
    there when the job is tried again and `patience` is over. thrown_away: its work was whole, and of no use.
    """
    now = db.now(session)
    if waits:
        since = job.params.get(REFUSED_SINCE)
        if since is None:
            job.params = {**job.params, REFUSED_SINCE: now.isoformat()}
        elif now - datetime.fromisoformat(since) >= patience:
            if not job.problem:
                _purge_is_stuck(session, job)
            job.problem = waits
    if thrown_away:
        job.params = {**job.params, THROWN_AWAY: job.params.get(THROWN_AWAY, 0) + 1}
    job.available_at = now + timedelta(seconds=pause_seconds)
    job.attempts -= pause_seconds > 0 or not counted
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


def step_aside(session: Session, job: Job) -> None:
    """Queue a job again that gave way to an urgent one. It waits a little, so that the other is taken, by whichever
    worker it goes to, and is not found behind this one again; the other's hint may have been spent behind it."""
    requeue(session, job, "another job went first", pause_seconds=ASIDE.total_seconds(), counted=False)
    session.flush()
    now = db.now(session)
    urgent = claimable().with_only_columns(Job.id).where(due_at(IS_URGENT).is_not(None))
    for job_id in session.scalars(urgent.limit(2), moments(now)):
        outbox.hint(session, job_id)


def problem(kind: str, detail: str, **members: Any) -> dict[str, Any]:
    """The problem document of a job that did not succeed, or has to wait for a person."""
    return {
        "type": problem_type(kind),
        "title": "The job did not succeed",
        "detail": detail,
    } | members


def release(database: Database, owner: str, reason: str, *, counted: bool = True) -> int:
    """Hand back every lease of a worker that is known to be gone; how many there were.

    owner: its name; one that ends in `*` means every worker whose name begins so.
    counted: whether the attempt counts; one that was stopped in an orderly way does not.
    """
    with database.write() as session:
        named = Job.owner.startswith(owner[:-1], autoescape=True) if owner.endswith("*") else Job.owner == owner
        held = select(Job).where(named, Job.state == JobState.RUNNING).order_by(Job.id)
        rows = list(session.scalars(held.with_for_update()))
        for job in rows:
            requeue(session, job, reason, counted=counted)
        return len(rows)


def cancel(session: Session, job: Job) -> None:
    """Cancel: at once when queued, at the worker's next beat when running.

    Raises:
        IllegalMoveError: the job has ended.
        Conflict: it carries out deletion requests, or is a part of another job.
    """
    _refuse_part(job)
    open_ = JobState(job.state) in (JobState.QUEUED, JobState.RUNNING)
    if open_ and job.kind == JobKind.PURGE:
        raise Conflict("A purge job erases samples that people asked to erase; it cannot be cancelled.")
    if open_ and job.kind == JobKind.UNLEARN:
        raise Conflict("This job carries deletion requests out; cancel, hold or refuse those instead.")
    if job.state == JobState.RUNNING:
        job.cancel_requested = True
        stop_parts(session, job, "cancelled on request")
        return
    finish(session, job, JobState.CANCELLED, problem=problem("cancelled", "cancelled on request"))


def retry(session: Session, job: Job) -> None:
    """Queue a failed, dead or rejected job again with fresh attempts; its request's outcomes go back into its batch.

    Raises:
        IllegalMoveError: the job is not failed, dead or rejected.
        Conflict: the data that it worked on are no longer there; its batch went on to another step; or it is a part
            of another job.
    """
    _refuse_part(job)
    _refuse_without_data(session, job)
    if job.state == JobState.REJECTED:
        _restart_escalation(job)
    job.state = move_job(JobState(job.state), JobState.QUEUED)
    if job.kind == JobKind.INGEST:
        _reopen_ingest(session, job)
    _begin_again(session, job)
    for row in session.scalars(
        select(OutcomeRow).where(OutcomeRow.job_id == job.id, OutcomeRow.state == Outcome.ATTENTION)
    ):
        row.state, row.reason = move_outcome(Outcome(row.state), Outcome.BATCHED), None
    for part in parts_of(session, job.id).values():
        if part.state in (JobState.FAILED, JobState.DEAD):
            part.state = move_job(JobState(part.state), JobState.QUEUED)
            _begin_again(session, part)


def _restart_escalation(job: Job) -> None:
    """A rejected job starts again under the present policy, at the first step. What it followed stays known."""
    if following := (job.problem or {}).get("next_job"):
        raise Conflict(f"Its batch went on to {following}.", kind="batch-moved-on")
    job.params = {name: value for name, value in job.params.items() if name not in OF_A_STEP}


def _begin_again(session: Session, job: Job) -> None:
    job.attempts, job.fraction, job.problem, job.finished_at = 0, 0.0, None, None
    job.params = {name: value for name, value in job.params.items() if name != REFUSED_SINCE}
    job.cancel_requested, job.available_at = False, db.now(session)
    emit(session, job)
    outbox.hint(session, job.id)


def _refuse_part(job: Job) -> None:
    if job.parent_id is not None:
        raise Conflict(f"This job is a part of {job.parent_id}: ask that one.", kind="part-of-another")


def _refuse_without_data(session: Session, job: Job) -> None:
    """Carried data may have been erased, and with them what the job had stored; a purge still goes to its end."""
    if job.dataset_id is None or job.kind == JobKind.PURGE:
        return
    if session.get_one(Dataset, job.dataset_id, with_for_update=True).state == "erased":
        raise Conflict("The dataset that this job worked on has been erased.", kind="content-missing")


def stop_parts(session: Session, job: Job, reason: str) -> None:
    """Cancel what is left of a job's parts: the queued ones now, the running ones at their next beat."""
    open_ = select(Job).where(Job.parent_id == job.id, Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
    for part in session.scalars(open_.order_by(Job.id).with_for_update()).all():
        if part.state == JobState.RUNNING:
            part.cancel_requested = True
        else:
            finish(session, part, JobState.CANCELLED, problem=problem("cancelled", f"its job ended: {reason}"))


def _reopen_ingest(session: Session, job: Job) -> None:
    dataset = session.get_one(Dataset, job.dataset_id, with_for_update=True)
    awaited = awaits_content(dataset.source, dataset.source_params)
    if dataset.state != "failed" or (awaited and dataset.upload is None):
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
        served = routing.served(routing.live(session))  # hints that nobody reads would fill the broker
        ready = claimable().with_only_columns(Job.id).where(Job.hinted_at < old, served)
        stale = list(session.scalars(ready.limit(outbox.BATCH), moments(now)))
        if stale:
            session.execute(update(Job).where(Job.id.in_(stale)).values(hinted_at=now))
            for job_id in stale:
                outbox.hint(session, job_id)
        return len(expired), len(stale)
