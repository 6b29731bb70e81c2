"""The register of requests, and what an officer asks first: what is overdue, what is due soon, how long it takes."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json
from sqlalchemy import ColumnElement, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.db import Database
from app.core.tables import DeletionRequest
from app.deletions import views
from app.deletions.views import RequestDetails
from app.rules.states import Decision, RequestStatus

PAGE = 1000
DUE_SOON = timedelta(days=7)
OPEN = (
    RequestStatus.ACCEPTED,
    RequestStatus.PROCESSING,
    RequestStatus.PUBLISHED,
    RequestStatus.ATTENTION,
    RequestStatus.HELD,
)
COLUMNS = (
    "request", "status", "reference", "dataset", "model", "samples", "samples_refused", "basis", "ground",
    "jurisdiction", "rule", "received_at", "posted_at", "received_reason", "identity", "complaint_about", "confirm_by",
    "confirmed_at", "due_at", "extended_at", "extension_reason", "decided_at", "reason", "refusal_ground", "verdict",
    "model_replaced_at", "fulfilled_at", "erasure_complete_at", "days",
)  # fmt: skip


def register(database: Database, tenant_id: str, year: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """Pages of the entries, one per request, oldest first; `year`: of receipt (UTC).

    Each is a transaction of its own, so that a slow reader holds none.
    """
    order = (DeletionRequest.received_at, DeletionRequest.id)
    query = select(DeletionRequest).where(*_received(tenant_id, year)).order_by(*order).limit(PAGE)
    page = query
    while True:
        with database.read() as session:
            rows = session.scalars(page).all()
            details = views.details(session, rows)
        yield [_entry(row, details[row.id]) for row in rows]
        if len(rows) < PAGE:
            return
        page = query.where(tuple_(*order) > tuple_(literal(rows[-1].received_at), literal(rows[-1].id)))


def _received(tenant_id: str, year: int | None) -> list[ColumnElement[bool]]:
    """The requests of the tenant, of that year."""
    found = [DeletionRequest.tenant_id == tenant_id]
    if year is not None:
        start, stop = datetime(year, 1, 1), datetime(year + 1, 1, 1)  # noqa: DTZ001  (the database holds UTC)
        found += [DeletionRequest.received_at >= start, DeletionRequest.received_at < stop]
    return found


def _entry(row: DeletionRequest, details: RequestDetails) -> dict[str, Any]:
    end = row.fulfilled_at or row.decided_at
    return {
        "request": row.id,
        "status": details.status(row).value,
        "reference": details.reference,
        "dataset": row.dataset_id,
        "model": row.model_id,
        "samples": row.sample_count,
        "samples_refused": row.refused_count,
        "basis": row.basis,
        "ground": row.ground,
        "jurisdiction": row.jurisdiction,
        "rule": row.rule,
        "received_at": _time(row.received_at),
        "posted_at": _time(row.posted_at or row.received_at),
        "received_reason": row.received_reason,
        "identity": row.identity,
        "complaint_about": row.complaint_about,
        "confirm_by": _time(row.confirm_by),
        "confirmed_at": _time(row.confirmed_at),
        "due_at": _time(row.due_at),
        "extended_at": _time(row.extended_at),
        "extension_reason": row.extension_reason,
        "decided_at": _time(row.decided_at),
        "reason": row.reason,
        "refusal_ground": row.refusal_ground,
        "verdict": details.verdict,
        "model_replaced_at": _time(details.replaced_at),
        "fulfilled_at": _time(row.fulfilled_at),
        "erasure_complete_at": _time(details.complete_at(row)),
        "days": round((end - row.received_at).total_seconds() / 86400, 2) if end else None,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def as_csv(pages: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
    """RFC 4180 lines with a header, a page at a time. A text that a spreadsheet would run as a formula is quoted with
    an apostrophe."""
    lines = io.StringIO()
    lines.write("\ufeff")  # without this mark Excel takes UTF-8 for another code page
    writer = csv.DictWriter(lines, COLUMNS)
    writer.writeheader()
    for page in pages:
        writer.writerows({name: _harmless(value) for name, value in entry.items()} for entry in page)
        yield lines.getvalue()
        lines.seek(0)
        lines.truncate()


def as_json(pages: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    """One JSON array, a page at a time."""
    mark = b"["
    for page in pages:
        if page:
            yield mark + to_json(page)[1:-1]
            mark = b","
    yield b"[]" if mark == b"[" else b"]"


# What programs skip before they look for a formula (spaces, marks that nobody sees), and what a formula begins with, in
# full width and small forms, too.
_SKIPPED = r"[\s\"'\x00-\x1f\x7f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]*"
_BEGINS = r"[=+\-@\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
_FORMULA = re.compile(rf"{_SKIPPED}[;,|]*{_SKIPPED}{_BEGINS}|[\t\r\n]")
# In some countries programs end a cell at a semicolon, and do not know our quotation marks in the middle of one.
_WITHIN = re.compile(rf"([;|\t\r\n])(?={_SKIPPED}{_BEGINS})")


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return ("'" if _FORMULA.match(value) else "") + _WITHIN.sub(r"\1'", value)


def summary(database: Database, tenant_id: str, year: int | None = None) -> dict[str, Any]:
    """Counts, overdue and due soon now, and mean and median days to the answer; all counted by the database."""
    these = _received(tenant_id, year)
    with database.read() as session:
        now = db.now(session)
        by_status = {status: _count(session, these, status) for status in RequestStatus}
        answered = [*these, views.having(RequestStatus.FULFILLED)]
        received, samples, extended, late = session.execute(
            select(
                func.count(),
                func.coalesce(func.sum(DeletionRequest.sample_count), 0),
                func.count(DeletionRequest.extended_at),
                func.count().filter(DeletionRequest.fulfilled_at > DeletionRequest.due_at),
            ).where(*these)
        ).one()
        mean = session.scalars(select(func.avg(_days(session))).where(*answered)).one()
        return {
            "as_of": _time(now),
            "year": year,
            "received": received,
            "by_status": {status.value: count for status, count in by_status.items()},
            "samples": samples,
            "extended": extended,
            "overdue": _open(session, [*these, DeletionRequest.due_at < now]),
            "due_soon": _open(session, [*these, DeletionRequest.due_at.between(now, now + DUE_SOON)]),
            "answered_late": late,
            "mean_days": None if mean is None else round(float(mean), 2),
            "median_days": _median(session, answered, by_status[RequestStatus.FULFILLED]),
        }


def _count(session: Session, these: Sequence[ColumnElement[bool]], status: RequestStatus) -> int:
    return session.scalars(select(func.count()).where(*these, views.having(status))).one()


def _open(session: Session, these: Sequence[ColumnElement[bool]]) -> list[str]:
    """Ids of those that still need an answer, oldest first."""
    unanswered = or_(*(views.having(status) for status in OPEN))
    left = DeletionRequest.fulfilled_at.is_(None)
    return list(
        session.scalars(select(DeletionRequest.id).where(*these, left, unanswered).order_by(DeletionRequest.id))
    )


def _days(session: Session) -> ColumnElement[Any]:
    """From receipt to the answer."""
    start, end = DeletionRequest.received_at, DeletionRequest.fulfilled_at
    if session.get_bind().dialect.name == "sqlite":
        return func.julianday(end) - func.julianday(start)
    return func.extract("epoch", end - start) / 86400


def _median(session: Session, these: Sequence[ColumnElement[bool]], count: int) -> float | None:
    """The middle one, or the mean of the two in the middle."""
    if not count:
        return None
    days = _days(session).label("days")
    middle = select(days).where(*these).order_by(days).limit(2 - count % 2).offset((count - 1) // 2)
    return round(float(statistics.fmean(session.scalars(middle))), 2)


def notice_overdue(database: Database) -> int:
    """Record once for each accepted request that it has not ended by its due date; how many. The sweeper's duty.

    Its jobs come first already (`app.jobs.claiming`); the event tells people, by webhook too.
    """
    with database.write() as session:
        now = db.now(session)
        query = select(DeletionRequest).where(
            DeletionRequest.fulfilled_at.is_(None),
            DeletionRequest.due_at < now,
            DeletionRequest.decision == Decision.ACCEPTED,
            DeletionRequest.overdue_at.is_(None),
        )
        rows = session.scalars(query.limit(PAGE).with_for_update(skip_locked=True)).all()
        for row in rows:
            row.overdue_at = now
            events.record(session, row.tenant_id, "request.overdue", row.id, due_at=f"{row.due_at:%Y-%m-%dT%H:%M:%SZ}")
        return len(rows)
