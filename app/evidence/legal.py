"""The legal life of a request as signed statements and the erasure ledger tell it.

It has the dates from which the due date can be computed again, the statute's ground, what was refused and who decided.
It has no free words, which may name a person and cannot be erased from what is signed; who decided is the id of a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.tables import AuditEvent, DeletionRequest
from app.core.tables import Refusal as RefusalRow

REVOKED = "certificate.revoked"
ANSWERS = (
    "request.refused", "request.extended", "request.held", "request.released", "request.cancelled",
    "request.given-up", "request.remains-kept",
)  # fmt: skip
STEPS = (
    "request.accepted", "request.replayed", *ANSWERS, "request.identity-asked", "request.identity-confirmed",
    "request.identity-refused",
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Whether the person had to show who they are. The law's clock may stand still from `asked_at` to `ended_at`, or
    to `until` where nothing came."""

    status: str
    asked_at: datetime | None
    until: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class Refusal:
    """A part of the request that was refused. ground: of the statute's list; None: none was named."""

    samples: int
    ground: str | None


@dataclass(frozen=True)
class Step:
    """What somebody decided. by: a key, or the service; proposed_by: the key of the first of two people."""

    kind: str
    at: datetime
    by: str
    proposed_by: str | None


@dataclass(frozen=True)
class RequestFacts:
    """The legal life. `rule`: which reading of the law set `due_at`, which an extension at `extended_at` moved.

    received_at: from when the clock runs; posted_at: when it was entered here.
    """

    id: str
    received_at: datetime
    posted_at: datetime
    due_at: datetime
    extended_at: datetime | None
    fulfilled_at: datetime | None
    jurisdiction: str
    rule: str
    ground: str | None
    decision: str
    complaint_about: str | None
    identity: Identity
    refused: tuple[Refusal, ...]
    decided: tuple[Step, ...]


def of(session: Session, request: DeletionRequest) -> RequestFacts:
    return RequestFacts(
        id=request.id,
        received_at=request.received_at,
        posted_at=request.posted_at or request.received_at,
        due_at=request.due_at,
        extended_at=request.extended_at,
        fulfilled_at=request.fulfilled_at,
        jurisdiction=request.jurisdiction,
        rule=request.rule,
        ground=request.ground,
        decision=request.decision,
        complaint_about=request.complaint_about,
        identity=identity_of(request),
        refused=refused(session, request),
        decided=_decided(session, request.id),
    )


def identity_of(request: DeletionRequest) -> Identity:
    return Identity(request.identity, request.identity_asked_at, request.identity_until, request.identity_ended_at)


def refused(session: Session, request: DeletionRequest) -> tuple[Refusal, ...]:
    """What of the request was refused, oldest first; of what a version before refused, together, the newest ground."""
    query = select(RefusalRow.samples, RefusalRow.ground).where(RefusalRow.request_id == request.id)
    rows = session.execute(query.order_by(RefusalRow.event)).all()
    kept = tuple(Refusal(samples, ground) for samples, ground in rows)
    before = request.refused_count - sum(each.samples for each in kept)
    return (Refusal(before, request.refusal_ground), *kept) if before > 0 else kept


def _decided(session: Session, request_id: str) -> tuple[Step, ...]:
    """The steps of the log, oldest first."""
    query = select(AuditEvent.kind, AuditEvent.at, AuditEvent.data).where(
        AuditEvent.object_id == request_id, AuditEvent.kind.in_(STEPS)
    )
    rows = session.execute(query.order_by(AuditEvent.number)).all()
    return tuple(Step(kind, at, _actor(data), data.get("proposed_by")) for kind, at, data in rows)


def _actor(data: dict[str, Any]) -> str:
    return str(data.get("actor", "unknown"))  # events of the first versions name none
