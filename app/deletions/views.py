"""Reading deletion requests: what clients see of many at once, in a fixed number of queries, and by status."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Session, aliased

from app.core.errors import NotFound
from app.core.tables import AuditRow, CaseDetails, DeletionRequest, Job, OutcomeRow, Proposal, Receipt, Version
from app.deletions import refusals
from app.deletions.orders import NewOutcome, NewRequest
from app.deletions.refusals import Refused
from app.rules.states import Decision, JobKind, JobState, Outcome, RequestStatus, request_status

ALIVE = (JobState.QUEUED, JobState.RUNNING)
GIVEN_UP = (JobState.DEAD, JobState.FAILED, JobState.CANCELLED)
REMAINS = ("superseded-checkpoint", "reference-pool")  # subjects of receipts with a date, of what the service holds
WORST_FIRST = ("fail", "inconclusive", "pass")

UNANSWERED = (
    DeletionRequest.fulfilled_at.is_(None),
    DeletionRequest.decision.not_in((Decision.REFUSED, Decision.CANCELLED)),
)
"""The conditions that a request still needs an answer."""

NO_ANSWER = (
    DeletionRequest.fulfilled_at.is_not(None),
    DeletionRequest.answered_at.is_(None),
    DeletionRequest.decision.not_in((Decision.REFUSED, Decision.CANCELLED)),
)
"""The conditions that a request is carried out, and that nothing says that its person was told."""


@dataclass
class RequestDetails:
    """Outcomes, receipts and purge problem of one request; of its outcomes, by model, the verdict of the audit that the
    version was published with, and when it was."""

    outcomes: list[OutcomeRow | NewOutcome] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    purge_problem: str | None = None
    verdicts: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, datetime] = field(default_factory=dict)
    reference: str | None = None
    proposal: Proposal | None = None
    refusals: list[Refused] = field(default_factory=list)

    def status(self, request: DeletionRequest | NewRequest) -> RequestStatus:
        states = [Outcome(row.state) for row in self.outcomes]
        failed = self.purge_problem is not None
        late = any(row.due_at and row.due_at > request.due_at for row in self.remaining)
        return request_status(Decision(request.decision), states, bool(request.fulfilled_at), failed, late)

    @property
    def remaining(self) -> list[Receipt]:
        """What the service still holds that was made from the samples: each goes at a date."""
        return [row for row in self.receipts if row.done_at is None and row.subject in REMAINS]

    @property
    def verdict(self) -> str | None:
        """Of all models the worst; None before a version was published with an audit."""
        return next((verdict for verdict in WORST_FIRST if verdict in self.verdicts.values()), None)

    @property
    def replaced_at(self) -> datetime | None:
        """When the last affected model was replaced; None before, and where none was."""
        done = all(row.state in (Outcome.PUBLISHED, Outcome.PURGED) for row in self.outcomes)
        return max(self.replaced.values(), default=None) if done else None

    def complete_at(self, request: DeletionRequest | NewRequest) -> datetime | None:
        """When the last thing that the service holds was erased, or will be; None while that has no date."""
        if request.fulfilled_at is None:
            return None
        dates = [row.done_at or row.due_at for row in self.receipts if row.subject in REMAINS]
        return max([request.fulfilled_at, *(date for date in dates if date)])


def details(session: Session, requests: Sequence[DeletionRequest]) -> dict[str, RequestDetails]:
    """Outcomes, receipts and purge state of these requests, by request id."""
    ids = [request.id for request in requests]
    found: dict[str, RequestDetails] = defaultdict(RequestDetails)
    outcomes = select(OutcomeRow).where(OutcomeRow.request_id.in_(ids)).order_by(OutcomeRow.model_id)
    for outcome in session.scalars(outcomes):
        found[outcome.request_id].outcomes.append(outcome)
    _published(session, found)
    receipts = select(Receipt).where(Receipt.request_id.in_(ids)).order_by(Receipt.id)
    for receipt in session.scalars(receipts):
        found[receipt.request_id].receipts.append(receipt)
    purges = select(Job).where(Job.request_id.in_(ids), Job.kind == JobKind.PURGE).order_by(Job.id)
    for job in session.scalars(purges):  # the newest decides
        found[str(job.request_id)].purge_problem = _stuck(job)
    for detail in session.scalars(select(CaseDetails).where(CaseDetails.request_id.in_(ids))):
        found[detail.request_id].reference = detail.reference
    for proposal in session.scalars(select(Proposal).where(Proposal.request_id.in_(ids))):
        found[proposal.request_id].proposal = proposal
    for request_id, refused in refusals.of(session, [row.id for row in requests if row.refused_count]).items():
        found[request_id].refusals = refused
    return found


def _stuck(purge: Job) -> str | None:
    """Why a person must look at a purge job: it has given up, or waits for what only a person can change."""
    why = (purge.problem or {}).get("detail", "")
    if purge.state in GIVEN_UP:
        return f"the purge job {purge.id} ended as {purge.state}: {why}"
    if purge.state in ALIVE and purge.problem:
        return f"the purge job {purge.id} is tried again and again: {why}"
    return None


def _published(session: Session, found: dict[str, RequestDetails]) -> None:
    """Verdicts and dates of the versions that outcomes were published with."""
    done = {row.job_id for each in found.values() for row in each.outcomes if row.job_id and row.version is not None}
    if not done:
        return
    audits = select(AuditRow.id, AuditRow.job_id, AuditRow.verdict).where(
        AuditRow.job_id.in_(done), AuditRow.compares_request.is_(None), AuditRow.version.is_not(None)
    )
    # Put in order here: for an order by id SQLite would read the reports of all jobs.
    verdicts = {job: verdict for _, job, verdict in sorted(map(tuple, session.execute(audits)))}
    made = dict(session.execute(select(Version.job_id, Version.created_at).where(Version.job_id.in_(done))).all())
    for each in found.values():
        for row in each.outcomes:
            if row.job_id in verdicts:
                each.verdicts[row.model_id] = verdicts[row.job_id]
            if row.job_id is not None and (at := made.get(row.job_id)) is not None:
                each.replaced[row.model_id] = at


def late_remains() -> tuple[ColumnElement[bool], ...]:
    """The conditions that a receipt is of something that the service holds after the due date of its request."""
    return (*_REMAINS, Receipt.due_at > DeletionRequest.due_at)


_REMAINS = (Receipt.done_at.is_(None), Receipt.subject.in_(REMAINS))


def affecting(model_id: str) -> ColumnElement[bool]:
    """The condition that a request names a model, or affects it."""
    one = select(OutcomeRow.model_id).where(
        OutcomeRow.request_id == DeletionRequest.id, OutcomeRow.model_id == model_id
    )
    return or_(
        DeletionRequest.model_id == model_id, one.correlate(DeletionRequest).limit(1).scalar_subquery().is_not(None)
    )


def answer_at(request: DeletionRequest) -> datetime | None:
    """When the person had the answer: its letter, or the decision where no letter is marked as sent."""
    return request.answered_at or request.fulfilled_at or request.decided_at


def is_of(session: Session, tenant_id: str, request_id: str) -> bool:
    """Whether the tenant has such a request."""
    return session.scalar(select(DeletionRequest.tenant_id).where(DeletionRequest.id == request_id)) == tenant_id


def purges_stuck() -> Select[Any]:
    """The requests whose newest purge job has ended without success, or waits for what only a person can change."""
    later = aliased(Job)
    newer = select(later.id).where(later.request_id == Job.request_id, later.kind == JobKind.PURGE, later.id > Job.id)
    return select(Job.request_id).where(
        Job.request_id.is_not(None),
        Job.kind == JobKind.PURGE,
        # A column of JSON may hold its null.
        or_(Job.state.in_(GIVEN_UP), and_(Job.state.in_(ALIVE), Job.problem["type"].as_string().is_not(None))),
        newer.limit(1).scalar_subquery().is_(None),
    )


def having(status: RequestStatus) -> ColumnElement[bool]:
    """The condition that a request's status is this one: `request_status`, said to the database."""

    def some(*states: Outcome) -> ColumnElement[bool]:
        one = select(OutcomeRow.state).where(OutcomeRow.request_id == DeletionRequest.id, OutcomeRow.state.in_(states))
        # EXISTS would make PostgreSQL join all outcomes at once.
        return one.correlate(DeletionRequest).limit(1).scalar_subquery().is_not(None)

    decided = {
        RequestStatus.REFUSED: Decision.REFUSED,
        RequestStatus.CANCELLED: Decision.CANCELLED,
        RequestStatus.HELD: Decision.HELD,
    }
    if status in decided:
        return DeletionRequest.decision == decided[status]
    undecided = DeletionRequest.decision.not_in(decided.values())
    stuck = purges_stuck().where(Job.request_id == DeletionRequest.id).correlate(DeletionRequest)
    attention = or_(some(Outcome.ATTENTION), stuck.limit(1).scalar_subquery().is_not(None))
    # What is fulfilled has nothing under way or in need of attention: said too, so that an index of the rest serves.
    left = DeletionRequest.fulfilled_at.is_(None)
    waiting, begun = some(Outcome.PENDING), some(Outcome.BATCHED, Outcome.PUBLISHED, Outcome.PURGED)
    under_way = some(Outcome.PENDING, Outcome.BATCHED)
    kept = select(Receipt.id).where(Receipt.request_id == DeletionRequest.id, *late_remains())
    late = kept.correlate(DeletionRequest).limit(1).scalar_subquery().is_not(None)
    condition = {
        RequestStatus.ATTENTION: and_(left, attention),
        RequestStatus.FULFILLED: and_(~left, ~late),
        RequestStatus.INCOMPLETE: and_(
            ~left, late, DeletionRequest.id.in_(select(Receipt.request_id).where(*_REMAINS))
        ),
        RequestStatus.PUBLISHED: and_(left, ~attention, ~under_way),
        RequestStatus.ACCEPTED: and_(left, ~attention, waiting, ~begun),
        RequestStatus.PROCESSING: and_(left, ~attention, under_way, begun),
    }[status]
    return and_(undecided, condition)


def get(session: Session, tenant_id: str, request_id: str, *, lock: bool = False) -> DeletionRequest:
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == tenant_id, DeletionRequest.id == request_id)
    request = session.scalars(query.with_for_update() if lock else query).first()
    if request is None:
        raise NotFound("There is no such deletion request.")
    return request
