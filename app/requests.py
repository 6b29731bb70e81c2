"""Reading deletion requests: what clients see of many at once, in a fixed number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.lifecycle import Decision, JobKind, JobState, Outcome, RequestStatus, request_status
from app.tables import DeletionRequest, Job, OutcomeRow, Receipt

GIVEN_UP = (JobState.DEAD, JobState.FAILED, JobState.CANCELLED)


@dataclass
class Around:
    """What belongs to one request."""

    outcomes: list[OutcomeRow] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    purge_problem: str | None = None

    def status(self, request: DeletionRequest) -> RequestStatus:
        states = [Outcome(row.state) for row in self.outcomes]
        failed = self.purge_problem is not None
        return request_status(Decision(request.decision), states, bool(request.fulfilled_at), failed)


def around(session: Session, requests: Sequence[DeletionRequest]) -> dict[str, Around]:
    """Outcomes, receipts and purge state of these requests, by request id."""
    ids = [request.id for request in requests]
    found: dict[str, Around] = defaultdict(Around)
    outcomes = select(OutcomeRow).where(OutcomeRow.request_id.in_(ids)).order_by(OutcomeRow.model_id)
    for outcome in session.scalars(outcomes):
        found[outcome.request_id].outcomes.append(outcome)
    receipts = select(Receipt).where(Receipt.request_id.in_(ids)).order_by(Receipt.id)
    for receipt in session.scalars(receipts):
        found[receipt.request_id].receipts.append(receipt)
    purges = select(Job).where(Job.request_id.in_(ids), Job.kind == JobKind.PURGE).order_by(Job.id)
    for job in session.scalars(purges):  # the newest says how it stands
        reason = (job.problem or {}).get("detail", "")
        ended = f"the purge job {job.id} ended as {job.state}: {reason}"
        found[str(job.request_id)].purge_problem = ended if job.state in GIVEN_UP else None
    return found
