"""What it costs that reference pools go by the due date: each is built anew, in the time that was measured."""

from __future__ import annotations

import statistics
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.tables import Job, Model, Receipt
from app.models import pools
from app.models import records as models
from app.rules.states import JobKind, JobState

MEASURED = 20  # jobs, the newest


def of_pools(session: Session, tenant_id: str) -> list[dict[str, Any]]:
    """For each pool that audits use: its dataset, models, size, the hours of building it (measured; None before), and
    the date on which it goes, if it has one."""
    live = select(Model).where(
        Model.tenant_id == tenant_id, Model.purged_at.is_(None), Model.current_version.is_not(None)
    )
    owners: dict[str, list[Model]] = {}
    for model in session.scalars(live.order_by(Model.id)):
        owners.setdefault(models.family(model), []).append(model)
    found = []
    for family, pool in sorted(pools.in_use(session, list(owners)).items()):
        goes = select(func.min(Receipt.due_at)).where(
            Receipt.subject == "reference-pool",
            Receipt.done_at.is_(None),
            Receipt.detail.startswith(f"pool {pool.name}:"),
        )
        found.append(
            {
                "dataset": pool.dataset_id,
                "models": [model.id for model in owners[family]],
                "references": pool.size,
                "hours": _hours(session, [model.id for model in owners[family]]),
                "goes_at": session.scalars(goes).one(),
            }
        )
    return found


def _hours(session: Session, model_ids: list[str]) -> float | None:
    """The median of what all references of such a job took together."""
    ended = select(Job.id, Job.started_at, Job.finished_at).where(
        Job.model_id.in_(model_ids), Job.kind == JobKind.REFERENCES, Job.state == JobState.SUCCEEDED
    )
    rows = session.execute(ended.order_by(Job.id.desc()).limit(MEASURED)).all()
    seconds = []
    for job_id, start, finish in rows:
        parts = select(Job.started_at, Job.finished_at).where(Job.parent_id == job_id, Job.state == JobState.SUCCEEDED)
        spans = [(b - a).total_seconds() for a, b in session.execute(parts) if a and b]
        if spans:
            seconds.append(sum(spans))
        elif start and finish:
            seconds.append((finish - start).total_seconds())
    return round(statistics.median(seconds) / 3600, 4) if seconds else None
