"""The register of requests, and what an officer asks first: what is overdue, what is due soon, how long it takes."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json
from sqlalchemy import ColumnElement, and_, case, extract, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.db import Database
from app.core.tables import DeletionRequest, OutcomeRow, Receipt
from app.deletions import tallies, views
from app.deletions.views import RequestDetails
from app.rules.deadlines import clock
from app.rules.states import Decision, Identity, Outcome, RequestStatus, request_status

PAGE = 1000
DUE_SOON = timedelta(days=7)
ZONES = timedelta(days=1)  # by which a day may begin earlier or later than in UTC, at most
MOST_LISTED = 1000
COLUMNS = (
    "request", "status", "reference", "dataset", "model", "samples", "samples_refused", "basis", "ground",
    "jurisdiction", "rule", "channel", "received_on", "received_at", "posted_at", "received_reason", "identity",
    "complaint_about", "confirm_by", "confirmed_at", "due_at", "extended_at", "extension_reason", "extension_sent_at",
    "decided_at", "reason", "refusal_ground", "refusal_reason", "refused_late", "verdict", "model_replaced_at",
    "fulfilled_at", "erasure_complete_at", "answered_at", "answered_how", "days",
)  # fmt: skip


def register(database: Database, tenant_id: str, year: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """Pages of the entries, one per request, oldest first; `year`: of receipt, where the controller acts.

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
        at = DeletionRequest.received_at
        start, stop = datetime(year, 1, 1), datetime(year + 1, 1, 1)  # noqa: DTZ001  (the database holds UTC)
        found += [at >= start - ZONES, at < stop + ZONES]
        # Of nearly all, the index tells it by itself.
        local = func.coalesce(DeletionRequest.local_year, extract("year", at)) == year
        found.append(or_(and_(at >= start + ZONES, at < stop - ZONES), local))
    return found


def _entry(row: DeletionRequest, details: RequestDetails) -> dict[str, Any]:
    end = views.answer_at(row)
    grounds = dict.fromkeys(each.ground for each in details.refusals if each.ground)
    reasons = dict.fromkeys(each.reason for each in details.refusals if each.reason)
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
        "channel": row.channel,
        "received_on": clock(row.jurisdiction).day(row.received_at).isoformat(),
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
        "extension_sent_at": _time(row.extension_sent_at),
        "decided_at": _time(row.decided_at),
        "reason": row.reason,
        "refusal_ground": ", ".join(grounds) or row.refusal_ground,
        "refusal_reason": "; ".join(reasons) or None,
        "refused_late": any(each.late for each in details.refusals) if details.refusals else None,
        "verdict": details.verdict,
        "model_replaced_at": _time(details.replaced_at),
        "fulfilled_at": _time(row.fulfilled_at),
        "erasure_complete_at": _time(details.complete_at(row)),
        "answered_at": _time(row.answered_at),
        "answered_how": row.answered_how,
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
    """Counts, overdue and due soon now, and mean and median of the days to the answer as the register has them.

    Of the ids that are overdue or due soon, the `MOST_LISTED` with the earliest due dates.
    """
    these = _received(tenant_id, year)
    with database.read() as session:
        now = db.now(session)
        groups = list(tallies.groups(session, tenant_id, year))
        took = tallies.answered(session, tenant_id, year)
        by_status = dict.fromkeys(RequestStatus, 0) | _open_by_status(session, these)
        for group in groups:
            if group.decision in _DECIDED:
                by_status[_DECIDED[Decision(group.decision)]] += group.requests
        incomplete = _incomplete(session, these)
        by_status[RequestStatus.INCOMPLETE] = incomplete.total()
        took.subtract(incomplete)
        by_status[RequestStatus.FULFILLED] = took.total()
        overdue = (*these, *views.UNANSWERED, DeletionRequest.due_at < now)
        due_soon = (*these, *views.UNANSWERED, DeletionRequest.due_at.between(now, now + DUE_SOON))
        return {
            "as_of": _time(now),
            "year": year,
            "received": sum(group.requests for group in groups),
            "by_status": {status.value: count for status, count in by_status.items()},
            "by_verdict": dict(sorted(tallies.verdicts(session, tenant_id, year).items())),
            "samples": sum(group.samples for group in groups),
            "extended": sum(group.requests for group in groups if group.extended),
            "overdue": _first(session, overdue),
            "overdue_count": _count(session, overdue),
            "due_soon": _first(session, due_soon),
            "due_soon_count": _count(session, due_soon),
            "answered_late": sum(group.requests for group in groups if group.late and group.ended == "fulfilled"),
            **_days(took),
        }


_DECIDED = {
    Decision.REFUSED: RequestStatus.REFUSED,
    Decision.CANCELLED: RequestStatus.CANCELLED,
    Decision.HELD: RequestStatus.HELD,
}


def _open_by_status(session: Session, these: Sequence[ColumnElement[bool]]) -> Counter[RequestStatus]:
    """Those that are under way, in one pass over them: what `views.having` says of each status."""
    row = DeletionRequest
    states = (
        select(
            row.id,
            *(
                func.coalesce(func.max(case((OutcomeRow.state == state, 1), else_=0)), 0).label(state)
                for state in Outcome
            ),
            func.max(case((row.id.in_(views.purges_stuck()), 1), else_=0)).label("stuck"),
        )
        .outerjoin(OutcomeRow, OutcomeRow.request_id == row.id)
        .where(*these, row.fulfilled_at.is_(None), row.decision.not_in(_DECIDED))
        .group_by(row.id)
        .subquery()
    )
    columns = [states.c[state] for state in Outcome]
    query = select(*columns, states.c.stuck, func.count()).group_by(*columns, states.c.stuck)
    found: Counter[RequestStatus] = Counter()
    for *has, failed, count in session.execute(query):
        some = [state for state, there in zip(Outcome, has, strict=True) if there]
        found[request_status(Decision.ACCEPTED, some, False, bool(failed), False)] += count
    return found


def _incomplete(session: Session, these: Sequence[ColumnElement[bool]]) -> Counter[int]:
    """Those of which something is left after the due date, by the hundredths of a day that the answer took."""
    row = DeletionRequest
    query = (
        select(row.id, row.received_at, func.coalesce(row.answered_at, row.fulfilled_at))
        .join(Receipt, Receipt.request_id == row.id)
        .where(*these, row.fulfilled_at.is_not(None), row.decision.not_in(_DECIDED), *views.late_remains())
        .distinct()
    )
    took = (
        end.replace(microsecond=0) - start.replace(microsecond=0) for _, start, end in session.execute(query) if end
    )
    return Counter((int(each.total_seconds()) + 432) // 864 for each in took)


def _count(session: Session, these: Sequence[ColumnElement[bool]]) -> int:
    return session.scalars(select(func.count()).select_from(DeletionRequest).where(*these)).one()


def _first(session: Session, these: Sequence[ColumnElement[bool]]) -> list[str]:
    """Ids of those that still need an answer, the earliest due date first."""
    order = (DeletionRequest.due_at, DeletionRequest.id)
    return list(session.scalars(select(DeletionRequest.id).where(*these).order_by(*order).limit(MOST_LISTED)))


def _days(took: Counter[int]) -> dict[str, float | None]:
    """Mean and median of hundredths of a day."""
    count = took.total()
    if not count:
        return {"mean_days": None, "median_days": None}
    middle = [tallies.at(took, place) for place in {(count - 1) // 2, count // 2}]
    mean = sum(each * times for each, times in took.items()) / count
    return {"mean_days": round(mean / 100, 2), "median_days": round(statistics.fmean(middle) / 100, 2)}


def notice_waits(database: Database) -> int:
    """Record once for each request that no proof of identity has come in the time for which one was waited; how many.
    The sweeper's duty."""
    with database.write() as session:
        now = db.now(session)
        query = select(DeletionRequest).where(
            DeletionRequest.identity == Identity.ASKED,
            DeletionRequest.wait_over_at.is_(None),
            DeletionRequest.identity_until < now,
            DeletionRequest.decision == Decision.HELD,
        )
        rows = session.scalars(query.limit(PAGE).with_for_update(skip_locked=True)).all()
        for row in rows:
            row.wait_over_at = now
            until = f"{row.identity_until:%Y-%m-%dT%H:%M:%SZ}"
            events.record(session, row.tenant_id, "request.identity-wait-over", row.id, until=until)
        return len(rows)


def notice_overdue(database: Database) -> int:
    """Record once for each request that is accepted or held that it has not ended by its due date; how many. The
    sweeper's duty.

    Its jobs come first already (`app.jobs.claiming`); the event tells people, by webhook too.
    """
    with database.write() as session:
        now = db.now(session)
        query = select(DeletionRequest).where(
            DeletionRequest.fulfilled_at.is_(None),
            DeletionRequest.due_at < now,
            DeletionRequest.decision.in_([Decision.ACCEPTED, Decision.HELD]),
            DeletionRequest.overdue_at.is_(None),
        )
        rows = session.scalars(query.limit(PAGE).with_for_update(skip_locked=True)).all()
        for row in rows:
            row.overdue_at = now
            events.record(session, row.tenant_id, "request.overdue", row.id, due_at=f"{row.due_at:%Y-%m-%dT%H:%M:%SZ}")
        return len(rows)
