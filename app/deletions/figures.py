"""Yearly figures of the requests: counts by law, legal ground, outcome, refusal and verdict, and days to the answer.

They are arithmetic on a few thousand tallies (`app.deletions.tallies`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from app.core.db import Database
from app.deletions import tallies
from app.deletions.tallies import Group
from app.rules.grounds import law_of
from app.rules.states import Decision


def of(database: Database, tenant_id: str, year: int | None) -> dict[str, Any]:
    """The figures of the year of receipt, where the controller acts, or of all years; verdicts by the year of their
    audit. A request that was refused in parts has a refusal for each."""
    with database.read() as session:
        groups = list(tallies.groups(session, tenant_id, year))
        refusals = list(tallies.refusals(session, tenant_id, year))
        verdicts = tallies.verdicts(session, tenant_id, year)
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("law", "ground", "outcome", "refusal")}
    days: dict[str, Counter[int]] = {}
    answered_late: Counter[str] = Counter()
    for group in groups:
        law, count = law_of(group.jurisdiction), group.requests
        counts["law"][law] += count
        counts["ground"][group.ground or "none"] += count
        counts["outcome"][_outcome(group)] += count
        if group.days is not None:
            days.setdefault(law, Counter())[group.days] += count
            answered_late[law] += count * group.late
    for ground, _, count in refusals:
        counts["refusal"][ground or "none"] += count
    together: Counter[int] = sum(days.values(), Counter())
    return {
        "year": year,
        "received": sum(counts["law"].values()),
        "by_law": _sorted(counts["law"]),
        "by_ground": _sorted(counts["ground"]),
        "by_outcome": _sorted(counts["outcome"]),
        "by_refusal_ground": _sorted(counts["refusal"]),
        "refused_late": sum(count for _, late, count in refusals if late),
        "by_verdict": _sorted(verdicts),
        "days": _days(together, sum(answered_late.values())),
        "days_by_law": {law: _days(found, answered_late[law]) for law, found in sorted(days.items())},
    }


def _outcome(group: Group) -> str:
    if group.decision == Decision.REFUSED:
        return "refused"
    if group.decision == Decision.CANCELLED:
        return "cancelled"
    if not group.ended:
        return "open"
    return "granted-in-part" if group.partly_refused else "granted"


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: int(counts[name]) for name in sorted(counts)}


def _days(by_day: Mapping[int, int], late: int) -> dict[str, Any]:
    answered = sum(by_day.values())
    mean = sum(day * count for day, count in by_day.items()) / answered if answered else None
    middle = [tallies.at(by_day, place) for place in {(answered - 1) // 2, answered // 2}] if answered else []
    return {
        "answered": answered,
        "mean": None if mean is None else round(mean, 2),
        "median": sum(middle) / len(middle) if middle else None,
        "late": late,
    }
