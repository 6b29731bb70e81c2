"""The record of processing, and what an officer asks first: what is overdue, what is due soon, how long it takes."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db
from app.db import Database
from app.lifecycle import Decision, Outcome, RequestStatus, request_status
from app.tables import DeletionRequest, OutcomeRow

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
    "request", "status", "dataset", "model", "samples", "samples_refused", "basis", "jurisdiction", "rule",
    "received_at", "confirm_by", "due_at", "extended_at", "extension_reason", "decided_at", "reason",
    "fulfilled_at", "days",
)  # fmt: skip


def register(database: Database, tenant_id: str, year: int | None = None) -> Iterator[dict[str, Any]]:
    """One entry per request, oldest first; `year`: of receipt (UTC).

    Read page by page, so that a slow reader holds no transaction.
    """
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == tenant_id).order_by(DeletionRequest.id)
    if year is not None:
        start, stop = datetime(year, 1, 1), datetime(year + 1, 1, 1)  # noqa: DTZ001  (the database holds UTC)
        query = query.where(DeletionRequest.received_at >= start, DeletionRequest.received_at < stop)
    last = ""
    while True:
        with database.read() as session:
            rows = session.scalars(query.where(DeletionRequest.id > last).limit(PAGE)).all()
            states = _outcomes(session, [row.id for row in rows])
        for row in rows:
            yield _entry(row, states.get(row.id, []))
        if len(rows) < PAGE:
            return
        last = rows[-1].id


def _outcomes(session: Session, request_ids: Sequence[str]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    query = select(OutcomeRow.request_id, OutcomeRow.state).where(OutcomeRow.request_id.in_(request_ids))
    for request_id, state in session.execute(query):
        found.setdefault(request_id, []).append(Outcome(state))
    return found


def _entry(row: DeletionRequest, outcomes: list[Outcome]) -> dict[str, Any]:
    status = request_status(Decision(row.decision), outcomes, row.fulfilled_at is not None)
    end = row.fulfilled_at or row.decided_at
    return {
        "request": row.id,
        "status": status.value,
        "dataset": row.dataset_id,
        "model": row.model_id,
        "samples": row.sample_count,
        "samples_refused": row.refused_count,
        "basis": row.basis,
        "jurisdiction": row.jurisdiction,
        "rule": row.rule,
        "received_at": _time(row.received_at),
        "confirm_by": _time(row.confirm_by),
        "due_at": _time(row.due_at),
        "extended_at": _time(row.extended_at),
        "extension_reason": row.extension_reason,
        "decided_at": _time(row.decided_at),
        "reason": row.reason,
        "fulfilled_at": _time(row.fulfilled_at),
        "days": round((end - row.received_at).total_seconds() / 86400, 2) if end else None,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def as_csv(entries: Iterator[dict[str, Any]]) -> Iterator[str]:
    """RFC 4180 lines with a header. A text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    line = io.StringIO()
    writer = csv.DictWriter(line, COLUMNS)
    writer.writeheader()
    for entry in entries:
        writer.writerow({name: _harmless(value) for name, value in entry.items()})
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def summary(database: Database, tenant_id: str, year: int | None = None) -> dict[str, Any]:
    """Counts, overdue and due soon now, and mean and median days to the answer."""
    with database.read() as session:
        now = db.now(session)
    entries = list(register(database, tenant_id, year))
    late, soon = _time(now) or "", _time(now + DUE_SOON) or ""
    open_ = [e for e in entries if e["status"] in OPEN]
    overdue = [e["request"] for e in open_ if e["due_at"] < late]
    due_soon = [e["request"] for e in open_ if late <= e["due_at"] < soon]
    days = [e["days"] for e in entries if e["status"] == RequestStatus.FULFILLED]
    return {
        "as_of": _time(now),
        "year": year,
        "received": len(entries),
        "by_status": {s.value: sum(e["status"] == s for e in entries) for s in RequestStatus},
        "samples": sum(e["samples"] for e in entries),
        "extended": sum(e["extended_at"] is not None for e in entries),
        "overdue": overdue,
        "due_soon": due_soon,
        "answered_late": sum(bool(e["fulfilled_at"]) and e["fulfilled_at"] > e["due_at"] for e in entries),
        "mean_days": round(statistics.fmean(days), 2) if days else None,
        "median_days": round(statistics.median(days), 2) if days else None,
    }
