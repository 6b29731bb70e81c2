"""A sham from time to time: an audit of canaries that nothing has unlearned, which it must fail.

Who never sees an audit fail does not know that it can. Half of the canaries that a version still knows stand in for a
forget set, and nothing is done to the version. If the audit does not fail it, nothing that it passed is worth much: the
event `gate.sham-missed`, and an alert.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from app.core import db
from app.core.db import Database
from app.core.tables import Dataset, Job, Model, Version
from app.datasets import canaries
from app.datasets import records as datasets
from app.datasets.canaries import Canaries
from app.models import records as models
from app.models import versions
from app.rules.audit_plan import least_margin
from app.rules.policy import Policy
from app.rules.states import JobKind, JobState

MISSED = "gate.sham-missed"
AGAIN = timedelta(hours=1)  # after one whose audit did not run to its end


def of_version(session: Session, dataset: Dataset, version: Version) -> Canaries:
    """The canaries that the version knows: a random half as if they had been unlearned, the others as the control."""
    found = canaries.of_version(session, dataset, version)
    chosen = np.zeros(len(found.known), dtype=bool)
    order = np.random.default_rng(int(version.digest.removeprefix("sha256:"), 16)).permutation(len(found.known))
    chosen[order[: len(order) // 2]] = True
    return Canaries(found.known[chosen], found.known[~chosen], found.held_out, found.assigned)


def start_due(database: Database) -> int:
    """Queue an audit of a sham for each model whose policy asks for one now; how many. Harmless to repeat."""
    with database.read() as session:
        live = select(Model.id, Model.tenant_id).where(Model.purged_at.is_(None), Model.current_version.is_not(None))
        rows = session.execute(live).all()

    def start_one(row: Row[str, str]) -> bool:
        model_id, tenant_id = row
        with database.read() as session:
            if not _due(session, session.get_one(Model, model_id)):
                return False
        with database.write() as session:
            model = models.get(session, tenant_id, model_id, lock=True)
            if due := _due(session, model):
                start(session, model)
            return due

    return db.one_by_one(rows, start_one, "the audit of a sham could not be queued")


def start(session: Session, model: Model) -> Job:
    params: dict[str, Any] = {
        "version": model.current_version,
        "audit": None,
        "probes": [],
        "positions": None,
        "grouped": False,
        "canaries": True,
        "sham": True,
    }
    return models.start(session, model, JobKind.AUDIT, seed=0, params=params)


def _due(session: Session, model: Model) -> bool:
    policy = Policy.model_validate(model.policy)
    version = versions.current(session, model)
    if not policy.canaries or not policy.sham_seconds or version is None or not version.size:
        return False
    shams = select(func.max(Job.created_at)).where(
        Job.model_id == model.id, Job.kind == JobKind.AUDIT, Job.params["sham"].as_boolean()
    )
    period, now = timedelta(seconds=policy.sham_seconds), db.now(session)
    unmeasured = Job.state.in_((JobState.FAILED, JobState.DEAD, JobState.CANCELLED))
    for jobs, wait in ((shams.where(~unmeasured), period), (shams, min(AGAIN, period))):
        last: datetime | None = session.scalars(jobs).one()
        if last is not None and last + wait > now:
            return False
    dataset = session.get_one(Dataset, model.dataset_id)
    if dataset.state != "ready" or not datasets.is_held(dataset):
        return False
    found = of_version(session, dataset, version)
    return least_margin(len(found.forgotten), len(found.held_out)) is not None
