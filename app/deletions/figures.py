"""Yearly figures of the requests: counts by law, legal ground, outcome, refusal and verdict, and days to the answer.

One statement reads them from an index, grouped by whole days; the rest is arithmetic on its few thousand rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Integer, case, cast, func, select
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.tables import AuditRow, DeletionRequest, OutcomeRow
from app.rules.grounds import law_of
from app.rules.states import Decision


def of(database: Database, tenant_id: str, year: int | None) -> dict[str, Any]:
    """The figures of the year of receipt (UTC), or of all years; verdicts by the year of their audit."""
    with database.read() as session:
        rows = session.execute(_grouped(session, tenant_id, year)).all()
        verdicts = dict(session.execute(_verdicts(tenant_id, year)).all())
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("law", "ground", "outcome", "refusal")}
    days: dict[str, Counter[int]] = {}
    late: Counter[str] = Counter()
    for jurisdiction, ground, decision, refusal, partly, done, too_late, day, count in rows:
        law = law_of(jurisdiction)
        counts["law"][law] += count
        counts["ground"][ground or "none"] += count
        counts["outcome"][_outcome(decision, bool(partly), bool(done))] += count
        if partly or decision == Decision.REFUSED:
            counts["refusal"][refusal or "none"] += count
        if done:
            days.setdefault(law, Counter())[int(day)] += count
            late[law] += count * bool(too_late)
    together: Counter[int] = sum(days.values(), Counter())
    return {
        "year": year,
        "received": sum(counts["law"].values()),
        "by_law": _sorted(counts["law"]),
        "by_ground": _sorted(counts["ground"]),
        "by_outcome": _sorted(counts["outcome"]),
        "by_refusal_ground": _sorted(counts["refusal"]),
        "by_verdict": _sorted(verdicts),
        "days": _days(together, sum(late.values())),
        "days_by_law": {law: _days(found, late[law]) for law, found in sorted(days.items())},
    }


def _outcome(decision: str, partly_refused: bool, done: bool) -> str:
    if decision == Decision.REFUSED:
        return "refused"
    if decision == Decision.CANCELLED:
        return "cancelled"
    if not done:
        return "open"
    return "granted-in-part" if partly_refused else "granted"


def _grouped(session: Session, tenant_id: str, year: int | None) -> Any:
    end = func.coalesce(DeletionRequest.fulfilled_at, DeletionRequest.decided_at)
    row = DeletionRequest
    keys: list[Any] = [
        row.jurisdiction,
        row.ground,
        row.decision,
        row.refusal_ground,
        case((row.refused_count > 0, 1), else_=0),
        case((end.is_not(None), 1), else_=0),
        case((end > row.due_at, 1), else_=0),
        _whole_days(session, row.received_at, end),
    ]
    query = select(*keys, func.count()).where(row.tenant_id == tenant_id)
    if year is not None:
        query = query.where(row.received_at >= datetime(year, 1, 1), row.received_at < datetime(year + 1, 1, 1))  # noqa: DTZ001
    return query.group_by(*keys)


def _whole_days(session: Session, start: Any, end: Any) -> ColumnElement[Any]:
    if session.get_bind().dialect.name == "sqlite":
        return cast(func.julianday(end) - func.julianday(start), Integer)
    return cast(func.floor(func.extract("epoch", end - start) / 86400), Integer)


def _verdicts(tenant_id: str, year: int | None) -> Any:
    """Outcomes by the verdict of the audit that their version was published with."""
    of_job = select(OutcomeRow.job_id, func.count().label("count")).group_by(OutcomeRow.job_id).subquery()
    query = (
        select(AuditRow.verdict, func.sum(of_job.c.count))
        .join(of_job, of_job.c.job_id == AuditRow.job_id)
        .where(AuditRow.tenant_id == tenant_id, AuditRow.version.is_not(None), AuditRow.compares_request.is_(None))
    )
    if year is not None:
        start, stop = datetime(year, 1, 1), datetime(year + 1, 1, 1)  # noqa: DTZ001
        query = query.where(AuditRow.created_at >= start, AuditRow.created_at < stop)
    return query.group_by(AuditRow.verdict)


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: int(counts[name]) for name in sorted(counts)}


def _days(by_day: Mapping[int, int], late: int) -> dict[str, Any]:
    answered = sum(by_day.values())
    mean = sum(day * count for day, count in by_day.items()) / answered if answered else None
    middle = [_at(by_day.items(), place) for place in {(answered - 1) // 2, answered // 2}] if answered else []
    return {
        "answered": answered,
        "mean": None if mean is None else round(mean, 2),
        "median": sum(middle) / len(middle) if middle else None,
        "late": late,
    }


def _at(by_day: Iterable[tuple[int, int]], place: int) -> int:
    for day, count in sorted(by_day):
        place -= count
        if place < 0:
            return day
    raise ValueError("no such place")
