"""Claiming: which queued job may run now, and its atomic hand-over to one worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app.core import crash_points, db
from app.core.db import Database
from app.core.tables import DeletionRequest, Job, OutcomeRow, Tenant
from app.jobs import routing
from app.jobs.queueing import emit
from app.jobs.routing import Takes
from app.rules.states import Decision, JobKind, JobState, Outcome, move_job

CLAIM_TRIES = 8
IMMINENT = timedelta(days=1)  # among deadlines this near, or over, tenants take turns
URGENT = timedelta(days=7)  # a deadline this near goes before everything else
LOOKING = (JobKind.AUDIT, JobKind.PRECOMPUTE)  # they make no version
SOON = timedelta(days=45)  # one this near, as every first deadline of the laws is, before its tenant's other jobs
ASIDE = timedelta(seconds=2)  # in which another worker takes what a job gave way to, and the job keeps its place
EVERYTHING = Takes()
DELETES = (JobKind.UNLEARN, JobKind.PURGE)

# The question of a claim takes longer to write than to answer, so it is written once a process, with these blanks.
NOW, STANDS_ASIDE, IS_IMMINENT, IS_URGENT, IS_SOON = (
    bindparam(name, type_=Job.available_at.type) for name in ("now", "aside", "imminent", "urgent", "soon")
)
HINT, THIS, PART_OF = (bindparam(name, type_=Job.id.type) for name in ("hint", "this", "part_of"))


def moments(now: datetime, *, hint: str = "", this: str = "", part_of: str = "") -> Mapping[str, datetime | str]:
    """What fills in a question of this module. hint, this, part_of: jobs."""
    near = {"aside": now + ASIDE, "imminent": now + IMMINENT, "urgent": now + URGENT, "soon": now + SOON}
    return {"now": now, "hint": hint, "this": this, "part_of": part_of, **near}


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


@cache
def claimable() -> Select[Job]:
    """Queued jobs that are first in a free lane; a purge also waits for `_wanted_before` it. `moments` fill it in.

    What must be done within `URGENT` for a legal deadline comes first, by that deadline. Where it is `IMMINENT`, what
    deletes goes before other jobs, and tenants take turns: who enters many requests that were late when they came keeps
    nobody else from a deadline. Then comes the hinted job; then tenants take turns. Of one tenant, what has a deadline
    within `SOON` comes first, then the oldest job. While a purge waits only for what runs on its dataset, nothing older
    begins there that would give way to it (`gives_way`). A lane keeps its order whichever hint arrives first:
    unlearning must find the version that training makes. What a deletion waits for may overtake, and purges have no
    order, see `_waits_in_lane`.
    """
    other = aliased(Job)
    lane_busy = exists().where(other.lane == Job.lane, other.state == JobState.RUNNING)
    deadline = due_at(IS_URGENT)
    imminent = deadline <= IS_IMMINENT
    near, nearest = _near_purges(IS_URGENT), _near_purges(IS_IMMINENT)
    age = func.coalesce(Job.parent_id, Job.id)
    before_imminent = exists().where(nearest.c.dataset_id == Job.dataset_id, nearest.c.id > age)
    before_urgent = exists().where(near.c.dataset_id == Job.dataset_id, near.c.id > age)
    return (
        select(Job)
        .join(Tenant, Tenant.id == Job.tenant_id)
        .where(
            Job.state == JobState.QUEUED,
            Job.available_at <= NOW,
            ~lane_busy,
            ~_waits_in_lane(),
            or_(Job.kind != JobKind.PURGE, ~_wanted_before()),
            or_(Job.kind == JobKind.PURGE, ~before_imminent, and_(Job.kind == JobKind.UNLEARN, imminent)),
            or_(Job.kind == JobKind.PURGE, ~before_urgent, deadline.is_not(None)),
        )
        .order_by(
            case((and_(imminent, Job.kind.in_(DELETES)), 0), (imminent, 1), else_=2),
            case((imminent, Tenant.served_urgent_at)).asc().nulls_first(),
            deadline.asc().nulls_last(),
            # Before what it passes, which inherits its deadline.
            case((and_(deadline.is_not(None), Job.kind == JobKind.UNLEARN), 0), else_=1),
            (Job.id == HINT).desc(),
            Tenant.served_at.asc().nulls_first(),
            due_at(IS_SOON).is_(None),
            Job.id,
        )
    )


def _waits_in_lane() -> ColumnElement[bool]:
    """Whether a job that is before `Job` in its lane keeps it waiting.

    What a deletion waits for, an unlearning or a comparison, passes one that only looks at a version, which may never
    find a worker; an unlearning that hurries, whatever does not unlearn. Of unlearnings the one with the first deadline
    within `URGENT` leads, else the oldest. A purge passes all, since other purges may wait for something else. Each
    case asks a question of its own, which the first rows of the lane answer: one for all would look at the whole lane
    for each of its jobs.
    """
    ahead = aliased(Job)
    kind = func.coalesce(ahead.kind, "")  # as it stands, SQLite would look for the kind and not along the lane

    def there_is(*which: ColumnElement[bool]) -> ColumnElement[bool]:
        before = (
            ahead.lane == Job.lane,
            ahead.state == JobState.QUEUED,
            ahead.id < Job.id,
            ahead.available_at <= STANDS_ASIDE,
        )
        return exists().where(*before, *which)

    leads = _urgent_leads()
    follows = Job.id.not_in(select(leads.c.id))
    unlearns = there_is(kind == JobKind.UNLEARN)
    compares = and_(Job.kind == JobKind.TRAIN, Job.params["exclude_request"].as_string().is_not(None))
    makes = there_is(kind.not_in([*LOOKING, JobKind.UNLEARN]))
    return case(  # a case ends at the first that holds; SQLite asks both sides of an OR within one
        (and_(Job.kind == JobKind.UNLEARN, follows, or_(Job.lane.in_(select(leads.c.lane)), unlearns)), true()),
        (and_(Job.kind == JobKind.UNLEARN, makes), ~_hurries()),
        (Job.kind == JobKind.UNLEARN, false()),
        (Job.kind == JobKind.PURGE, false()),
        (compares, there_is(kind.not_in(LOOKING))),
        else_=there_is(),
    )


def _urgent_leads() -> CTE:
    """Of each lane with unlearnings due within `URGENT`, the one that is due first: its id and the lane."""
    mine = aliased(Job)
    place = func.row_number().over(partition_by=mine.lane, order_by=(func.min(DeletionRequest.due_at), mine.id))
    ranked = (
        select(mine.id, mine.lane, place.label("place"))
        .join(OutcomeRow, OutcomeRow.job_id == mine.id)
        .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
        .where(mine.state == JobState.QUEUED, mine.kind == JobKind.UNLEARN, mine.available_at <= STANDS_ASIDE)
        .where(DeletionRequest.due_at <= IS_URGENT, DeletionRequest.decision == Decision.ACCEPTED)
        .group_by(mine.id, mine.lane)
        .subquery()
    )
    return select(ranked.c.id, ranked.c.lane).where(ranked.c.place == 1).cte()


def _hurries() -> ColumnElement[bool]:
    """Whether a request that `Job`'s model has still to forget has an imminent deadline: a later one, perhaps, that
    waits behind the unlearning `Job`, or for the next batch."""
    open_ = OutcomeRow.state.in_([Outcome.PENDING, Outcome.BATCHED])
    due = select(OutcomeRow.request_id).join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
    due = due.where(OutcomeRow.model_id == Job.model_id, open_, DeletionRequest.due_at <= IS_IMMINENT)
    return due.where(DeletionRequest.decision == Decision.ACCEPTED).correlate(Job).exists()


def due_at(until: BindParameter[datetime]) -> ColumnElement[datetime]:
    """The earliest legal deadline up to `until` that waits for the queued `Job`; null where none does.

    A job has the deadlines of the requests that it carries out, or that it is compared for while their samples are
    there, and inherits those of unlearnings behind it in its lane; an unlearning also those that wait for the next
    batch.
    What is on hold has no deadline for any job.
    """
    first = select(func.min(DeletionRequest.due_at)).where(DeletionRequest.due_at <= until)
    first = first.where(DeletionRequest.decision == Decision.ACCEPTED)
    behind = aliased(Job)  # or itself
    waits = (behind.lane == Job.lane, behind.state == JobState.QUEUED)
    purges = first.where(DeletionRequest.id == Job.request_id)
    batches = (
        first.join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
        .join(behind, behind.id == OutcomeRow.job_id)
        .where(*waits, behind.kind == JobKind.UNLEARN)
    )
    compared_for = Job.params["exclude_request"].as_string() == DeletionRequest.id
    own = first.where(compared_for, DeletionRequest.fulfilled_at.is_(None)).correlate(Job).scalar_subquery()
    inherited = batches.correlate(Job).scalar_subquery()
    of_model = first.join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id).where(
        OutcomeRow.model_id == Job.model_id, OutcomeRow.state.in_([Outcome.PENDING, Outcome.BATCHED])
    )
    is_training = Job.kind == JobKind.TRAIN
    return case(
        (Job.kind == JobKind.UNLEARN, of_model.correlate(Job).scalar_subquery()),
        (Job.kind == JobKind.PURGE, purges.correlate(Job).scalar_subquery()),
        (and_(is_training, own.is_not(None), or_(inherited.is_(None), own < inherited)), own),
        else_=inherited,
    )


def _wanted_before(*, running: bool = True) -> ColumnElement[bool]:
    """Whether a job older than the purge (`Job`) works on the samples of the dataset or still needs them.

    running: count running jobs, too.

    These are running jobs, and queued ones that need the samples of the purge's own request: unlearning, and the
    comparison. Other queued jobs may never find a worker, and later ones may never end, so erasing waits for neither.
    Nor does the purge of one model, which leaves the samples, wait for the unlearning of another. With an imminent
    deadline it waits for no comparison that has not begun. A part is as old as its job.
    """
    earlier = aliased(Job)
    age = func.coalesce(earlier.parent_id, earlier.id).label("age")
    # Made once for all purges of a dataset, which may be thousands.
    at_work = select(earlier.dataset_id, age).where(earlier.state == JobState.RUNNING, earlier.kind != JobKind.PURGE)
    for_whom = earlier.params["exclude_request"].as_string()
    compares = select(for_whom.label("request_id"), age).where(
        earlier.state == JobState.QUEUED, earlier.kind == JobKind.TRAIN, for_whom.is_not(None)
    )
    works, compared = (query.cte().prefix_with("MATERIALIZED", dialect="postgresql") for query in (at_work, compares))
    soon = exists().where(DeletionRequest.id == Job.request_id, DeletionRequest.due_at <= IS_IMMINENT)
    to_unlearn = select(earlier.id).where(earlier.state == JobState.QUEUED, earlier.kind == JobKind.UNLEARN)
    unlearns = select(OutcomeRow.request_id).where(
        OutcomeRow.request_id == Job.request_id, OutcomeRow.job_id < Job.id, OutcomeRow.job_id.in_(to_unlearn)
    )
    waits = exists().where(compared.c.request_id == Job.request_id, compared.c.age < Job.id)
    queued = or_(unlearns.correlate(Job).exists(), and_(waits, ~soon.correlate(Job)))
    if not running:
        return queued
    return or_(exists().where(works.c.dataset_id == Job.dataset_id, works.c.age < Job.id), queued)


def _near_purges(until: BindParameter[datetime]) -> CTE:
    """Of each dataset, the youngest purge with a deadline up to `until` that waits for nothing but running jobs."""
    due = (DeletionRequest.due_at <= until, DeletionRequest.decision == Decision.ACCEPTED)
    ready = (Job.kind == JobKind.PURGE, Job.state == JobState.QUEUED, Job.available_at <= NOW)
    query = select(Job.dataset_id, func.max(Job.id).label("id")).join(
        DeletionRequest, DeletionRequest.id == Job.request_id
    )
    return query.where(*due, *ready, ~_wanted_before(running=False)).group_by(Job.dataset_id).cte()


def purges_waiting(session: Session, dataset_id: str) -> list[str]:
    """Requests whose purge of the dataset is queued and waits for nothing but its turn, oldest first."""
    query = (
        select(Job.request_id)
        .where(Job.dataset_id == dataset_id, Job.kind == JobKind.PURGE, Job.state == JobState.QUEUED)
        .where(Job.request_id.is_not(None), ~_wanted_before())
        .order_by(Job.id)
    )
    return [request for request in session.scalars(query, moments(db.now(session))) if request]


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
    if not _any_due(database):
        return None
    for _ in range(CLAIM_TRIES):
        try:
            with database.write() as session:
                taken = claim_once(session, owner, lease_seconds, hint, takes, part_of)
                crash_points.point("claim.uncommitted")
            return taken
        except IntegrityError:
            continue  # another worker took the lane between our look and our write: look again
    return None


def _any_due(database: Database) -> bool:
    """Whether any queued job is due. An idle worker asks this alone: the rest is twenty times as dear."""
    with database.read() as session:
        due = select(Job.id).where(Job.state == JobState.QUEUED, Job.available_at <= db.now(session)).limit(1)
        return session.scalars(due).first() is not None


@lru_cache(64)
def _first(takes: Takes, *, part: bool) -> Select[Job]:
    """The one to claim, locked. part: of the job `PART_OF`, whatever the worker takes."""
    query = claimable().where(and_(Job.parent_id == PART_OF, EVERYTHING.fits()) if part else takes.fits())
    return query.limit(1).with_for_update(skip_locked=True, of=Job)


@cache
def _deadline(until: BindParameter[datetime]) -> Select[datetime | None]:
    """`due_at` of the job `THIS`."""
    return select(due_at(until)).where(Job.id == THIS)


def claim_once(
    session: Session,
    owner: str,
    lease_seconds: float,
    hint: str | None = None,
    takes: Takes = EVERYTHING,
    part_of: str | None = None,
) -> Claim | None:
    now = db.now(session)
    job = session.scalars(
        _first(takes, part=part_of is not None), moments(now, hint=hint or "", part_of=part_of or "")
    ).first()
    if job is None:
        return None
    urgent = session.scalars(_deadline(IS_IMMINENT), moments(now, this=job.id)).one() is not None
    job.state = move_job(JobState(job.state), JobState.RUNNING)
    job.fence += 1
    job.attempts += 1
    job.owner = owner
    job.lease_until = now + timedelta(seconds=lease_seconds)
    job.started_at = now
    stamps = {"served_at": now} | ({"served_urgent_at": now} if urgent else {})
    served = update(Tenant).where(Tenant.id == job.tenant_id).values(**stamps)
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


def gives_way(session: Session, claim: Claim, takes: Takes) -> bool:
    """Whether the worker of `claim`, which takes `takes`, should put it back: a job with an urgent deadline waits for
    it, or for a worker while none is free.

    A job gives way to what ranks before it, and to nothing of its own rank, so that no two jobs put each other back.
    First rank what deletes (unlearning, erasing) for an imminent deadline, then what else has or inherits one, then
    what is urgent, then all other. An unlearning that carries no imminent request out makes room for one of its model
    that does. A comparison has no right to keep the purge of its own request.
    """
    now = db.now(session)
    filled = moments(now, this=claim.id)
    open_ = (DeletionRequest.due_at <= IS_URGENT, DeletionRequest.fulfilled_at.is_(None))
    if session.scalars(select(DeletionRequest.id).where(*open_).limit(1), filled).first() is None:
        return False  # as nearly always, and quickly found
    own = session.scalars(_carried_out(IS_IMMINENT).where(OutcomeRow.job_id == claim.id), filled).one()
    if own is not None:
        return False
    busy = set(session.scalars(select(Job.owner).where(Job.state == JobState.RUNNING)))
    free = or_(false(), *(routing.takes(each).fits() for each in routing.live(session) if each.name not in busy))
    ready = (Job.state == JobState.QUEUED, Job.available_at <= NOW)
    if session.scalars(_hurried(claim).where(*ready, or_(takes.fits(), free)).limit(1), filled).first():
        return True
    mine = session.scalars(_deadline(IS_URGENT), filled).first()
    imminent = mine is not None and mine <= now + IMMINENT
    if imminent and claim.kind in DELETES:
        return False
    until = IS_URGENT if mine is None else IS_IMMINENT
    held_up = select(Job.id).where(
        *ready,
        Job.kind == JobKind.PURGE,
        Job.dataset_id == claim.dataset_id,
        Job.id > (claim.parent_id or claim.id),
        due_at(until).is_not(None),
        ~_wanted_before(running=False),
        or_(takes.fits(), free),
    )
    if session.scalars(held_up.limit(1), filled).first():
        return True
    before = claimable().where(due_at(until).is_not(None), takes.fits())
    if imminent:
        before = before.where(Job.kind.in_(DELETES))
    waiting = session.scalars(before.limit(1), filled).first()
    return waiting is not None and session.scalars(select(Job.id).where(Job.id == waiting.id, free)).first() is None


def _hurried(claim: Claim) -> Select[str]:
    """The unlearning of the claimed job's lane that would go first there, if it has, or hurries for, an imminent
    deadline."""
    running, older = aliased(Job), aliased(Job)
    leads = _urgent_leads()
    same_lane = exists().where(running.id == claim.id, running.lane == Job.lane)
    query = select(Job.id).where(Job.kind == JobKind.UNLEARN, same_lane)
    imminent = _carried_out(IS_IMMINENT).where(OutcomeRow.job_id == Job.id).correlate(Job).scalar_subquery()
    leading = and_(Job.id.in_(select(leads.c.id)), imminent.is_not(None))
    if claim.kind == JobKind.UNLEARN:
        return query.where(leading)
    ahead = (older.lane == Job.lane, older.state == JobState.QUEUED, older.kind == JobKind.UNLEARN, older.id < Job.id)
    return query.where(or_(leading, and_(~exists().where(*ahead), _hurries())))


def _carried_out(until: BindParameter[datetime]) -> Select[datetime | None]:
    """The first deadline up to `until` of the accepted requests that a job carries out."""
    query = select(func.min(DeletionRequest.due_at)).join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
    return query.where(DeletionRequest.due_at <= until, DeletionRequest.decision == Decision.ACCEPTED)


def has_work(database: Database) -> bool:
    """Whether any job could be claimed now."""
    with database.read() as session:
        return session.scalars(claimable().limit(1), moments(db.now(session))).first() is not None
