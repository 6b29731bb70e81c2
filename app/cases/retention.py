"""The retention of what names people: references, letters, notices, identity notes and reasons.

They go a number of months after the request has ended: the tenant's choice, under the CCPA never less than the 24 that
its regulations ask for (section 7101). Each has a receipt, and the request stays in the register without them. Reasons
of downloads, which are about no request, go as many months after the download.
"""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Select, delete, func, or_, select, union, update
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.db import Database
from app.core.ids import new_id
from app.core.tables import (
    CaseDetails,
    CaseFile,
    CasePaper,
    CaseReason,
    DeletionRequest,
    Download,
    Idempotency,
    Notice,
    Proposal,
    Receipt,
    Tenant,
)
from app.deletions import compliance_rules
from app.rules.compliance import Rules
from app.rules.grounds import law_of

AT_ONCE = 500
CCPA_MONTHS = 24
PERSONAL = (CaseDetails, CaseReason, CasePaper, Notice, CaseFile, Proposal)
ERASED = "[erased at the end of its retention]"
BASIS = "erasure-request"  # where nobody said it in words of their own


def months(rules: Rules, jurisdiction: str) -> int:
    return max(rules.keep_months, CCPA_MONTHS) if law_of(jurisdiction) == "ccpa" else rules.keep_months


def later(moment: datetime, count: int) -> datetime:
    """The same-numbered day `count` months on, or that month's last."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + count, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, calendar.monthrange(year, month + 1)[1]))


def ended_at(request: DeletionRequest) -> datetime | None:
    return request.fulfilled_at or request.decided_at


def erase_on(rules: Rules, request: DeletionRequest) -> datetime | None:
    """When the people of an ended request are no longer named; None while it is open."""
    ended = ended_at(request)
    return None if ended is None else later(ended, months(rules, request.jurisdiction))


def erase_due(database: Database) -> int:
    """Erase what names people of requests whose retention is over, and reasons of downloads; how many of both.

    The sweeper's duty.
    """
    with database.read() as session:
        tenants = list(session.scalars(select(Tenant.id)))
    return db.one_by_one(tenants, partial(_erase_of, database), "names of people could not be erased")


def _erase_of(database: Database, tenant_id: str) -> int:
    with database.read() as session:  # it looks at many rows: nobody waits for that
        rules, now = compliance_rules.of(session, tenant_id), db.now(session)
        found = [name for law in (True, False) for name in session.scalars(_ended_long_ago(tenant_id, rules, now, law))]
        old = select(Download.number, Download.at).where(
            Download.tenant_id == tenant_id,
            Download.reason.is_not(None),
            Download.at < now - timedelta(days=28 * rules.keep_months),
        )
        dated = session.execute(old.order_by(Download.at).limit(AT_ONCE)).all()
        reasons = [number for number, at in dated if later(at, rules.keep_months) <= now]
    if not found and not reasons:
        return 0
    with database.write() as session:
        session.execute(update(Download).where(Download.number.in_(reasons)).values(reason=None))
        rows = session.scalars(
            select(DeletionRequest)
            .where(DeletionRequest.id.in_(found), func.coalesce(DeletionRequest.received_reason, "") != ERASED)
            .order_by(DeletionRequest.id)
            .with_for_update(skip_locked=True)
        )
        due = [row for row in rows if (at := erase_on(rules, row)) is not None and at <= now]
        for row in due:
            _erase(session, row, now)
        return len(due) + len(reasons)


def _ended_long_ago(tenant_id: str, rules: Rules, now: datetime, ccpa: bool) -> Select[str]:
    """Requests with names of people whose retention may be over, those that ended first before the others.

    Of one law only: what is kept longer under another does not stand in their way.
    """
    row = DeletionRequest
    law = or_(row.jurisdiction == "ccpa", row.jurisdiction.startswith("ccpa:"))
    end = func.coalesce(row.fulfilled_at, row.decided_at)
    named = union(*(select(table.request_id) for table in PERSONAL))
    return (
        select(row.id)
        .where(row.tenant_id == tenant_id, law if ccpa else ~law)
        .where(end < now - timedelta(days=28 * months(rules, "ccpa" if ccpa else "gdpr")))
        .where(or_(row.id.in_(named), row.received_reason.is_not(None), row.basis != BASIS))
        .where(func.coalesce(row.received_reason, "") != ERASED)
        .order_by(end, row.id)
        .limit(AT_ONCE)
    )


def _erase(session: Session, request: DeletionRequest, now: datetime) -> None:
    gone = 0
    for table in PERSONAL:
        done = session.execute(delete(table).where(table.request_id == request.id))
        gone += done.rowcount  # type: ignore[attr-defined]
    # Replies that are kept for a client that asks again tell the same.
    replies = Idempotency.route.contains(f"/v1/deletion-requests/{request.id}")  # perhaps behind a proxy's path
    session.execute(delete(Idempotency).where(Idempotency.tenant_id == request.tenant_id, replies))
    free = ("reason", "received_reason", "extension_reason", "remains_reason", "answered_how", "basis")
    for name in free:
        if getattr(request, name) not in (None, BASIS):
            setattr(request, name, ERASED)
            gone += 1
    request.received_reason = ERASED  # so that it is not looked at again
    session.add(
        Receipt(
            id=new_id("rcp"),
            request_id=request.id,
            model_id=None,
            subject="case-details",
            detail="references, papers, notices and free words of the case were erased at the end of their retention",
            digest=None,
            due_at=None,
            done_at=now,
        )
    )
    events.record(session, request.tenant_id, "request.details-erased", request.id, entries=gone)
