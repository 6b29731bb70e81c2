"""Reading deletion requests: what clients see of many at once, in a fixed number of queries, and by status."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session, aliased

from app.core.errors import NotFound
from app.core.tables import DeletionRequest, Job, OutcomeRow, Receipt
from app.deletions.orders import NewOutcome, NewRequest
from app.rules.states import Decision, JobKind, JobState, Outcome, RequestStatus, request_status

GIVEN_UP = (JobState.DEAD, JobState.FAILED, JobState.CANCELLED)

UNANSWERED = (
    DeletionRequest.fulfilled_at.is_(None),
    DeletionRequest.decision.not_in((Decision.REFUSED, Decision.CANCELLED)),
)
"""The conditions that a request still needs an answer."""


@dataclass
class RequestDetails:
    """Outcomes, receipts and purge problem of one request."""

    outcomes: list[OutcomeRow | NewOutcome] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    purge_problem: str | None = None

    def status(self, request: DeletionRequest | NewRequest) -> RequestStatus:
        states = [Outcome(row.state) for row in self.outcomes]
        failed = self.purge_problem is not None
        return request_status(Decision(request.decision), states, bool(request.fulfilled_at), failed)


def details(session: Session, requests: Sequence[DeletionRequest]) -> dict[str, RequestDetails]:
    """Outcomes, receipts and purge state of these requests, by request id."""
    ids = [request.id for request in requests]
    found: dict[str, RequestDetails] = defaultdict(RequestDetails)
    outcomes = select(OutcomeRow).where(OutcomeRow.request_id.in_(ids)).order_by(OutcomeRow.model_id)
    for outcome in session.scalars(outcomes):
        found[outcome.request_id].outcomes.append(outcome)
    receipts = select(Receipt).where(Receipt.request_id.in_(ids)).order_by(Receipt.id)
    for receipt in session.scalars(receipts):
        found[receipt.request_id].receipts.append(receipt)
    purges = select(Job).where(Job.request_id.in_(ids), Job.kind == JobKind.PURGE).order_by(Job.id)
    for job in session.scalars(purges):  # the newest decides
        reason = (job.problem or {}).get("detail", "")
        ended = f"the purge job {job.id} ended as {job.state}: {reason}"
        found[str(job.request_id)].purge_problem = ended if job.state in GIVEN_UP else None
    return found


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
    later = aliased(Job)
    newer = select(later.id).where(later.request_id == Job.request_id, later.kind == JobKind.PURGE, later.id > Job.id)
    given_up = select(Job.state).where(
        Job.request_id == DeletionRequest.id,
        Job.kind == JobKind.PURGE,
        Job.state.in_(GIVEN_UP),
        newer.limit(1).scalar_subquery().is_(None),
    )
    undecided = DeletionRequest.decision.not_in(decided.values())
    purge_given_up = given_up.correlate(DeletionRequest).limit(1).scalar_subquery().is_not(None)
    attention = or_(some(Outcome.ATTENTION), purge_given_up)
    # What is fulfilled has nothing under way or in need of attention: said too, so that an index of the rest serves.
    left = DeletionRequest.fulfilled_at.is_(None)
    waiting, begun = some(Outcome.PENDING), some(Outcome.BATCHED, Outcome.PUBLISHED, Outcome.PURGED)
    under_way = some(Outcome.PENDING, Outcome.BATCHED)
    condition = {
        RequestStatus.ATTENTION: and_(left, attention),
        RequestStatus.FULFILLED: ~left,
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
