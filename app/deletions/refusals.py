"""Refusals, each a row of its own: which samples, on which ground, whether it came late, and whether a letter says it.

The event that records one has its moment and its people; the reason is beside it, and is erased in its time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.core.errors import Conflict
from app.core.positions import Positions, distinct, pack, unpack
from app.core.tables import AuditEvent, CaseReason, DeletionRequest, Refusal


@dataclass(frozen=True)
class Refused:
    """One refusal. `by`: the key that decided, the second one where two had to. `reason`: none once it is erased."""

    at: datetime
    by: str | None
    samples: int
    ground: str | None
    reason: str | None
    late: bool
    letter_sent_at: datetime | None


def keep(
    session: Session, request: DeletionRequest, event: AuditEvent, part: Positions, ground: str | None, *, late: bool
) -> None:
    """Keep a refusal that the event records."""
    session.flush()  # it gives the event its number
    session.add(
        Refusal(
            event=event.number,
            tenant_id=request.tenant_id,
            request_id=request.id,
            year=request.local_year or request.received_at.year,
            samples=len(part),
            ground=ground,
            positions=pack(part),
            late=late,
        )
    )


def of(session: Session, requests: Sequence[str]) -> dict[str, list[Refused]]:
    """By request, oldest first."""
    found: dict[str, list[Refused]] = defaultdict(list)
    query = (
        select(Refusal, AuditEvent.at, AuditEvent.data, CaseReason.reason)
        .join(AuditEvent, AuditEvent.number == Refusal.event)
        .outerjoin(CaseReason, CaseReason.event == Refusal.event)
        .where(Refusal.request_id.in_(requests))
        .order_by(Refusal.event)
    )
    for row, at, data, reason in session.execute(query) if requests else ():
        found[row.request_id].append(
            Refused(at, data.get("actor"), row.samples, row.ground, reason, row.late, row.letter_sent_at)
        )
    return found


def positions(session: Session, request: DeletionRequest) -> Positions:
    """All samples of the request that were refused.

    Raises:
        Conflict: a version before kept not which.
    """
    rows = session.scalars(select(Refusal.positions).where(Refusal.request_id == request.id)).all()
    kept = [unpack(row) for row in rows if row is not None]
    if len(kept) < len(rows) or not kept:
        raise Conflict(
            "Which samples of the earlier request were refused was not kept. Name them in `sample_ids`.",
            kind="refused-samples-unknown",
        )
    return distinct(np.concatenate(kept))


def mark_told(session: Session, request: DeletionRequest, made_at: datetime, sent_at: datetime) -> bool:
    """A letter that was made then has told the person of the refusals up to then; whether it knows of all now."""
    session.flush()
    untold = (Refusal.request_id == request.id, Refusal.letter_sent_at.is_(None))
    before = select(AuditEvent.number).where(AuditEvent.object_id == request.id, AuditEvent.at <= made_at)
    session.execute(update(Refusal).where(*untold, Refusal.event.in_(before)).values(letter_sent_at=sent_at))
    return session.scalars(select(Refusal.event).where(*untold).limit(1)).first() is None
