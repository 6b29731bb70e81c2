"""What is known of a model before an audit is chosen (`app.rules.audit_plan`)."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.tables import AuditRow, Dataset, Model, Sample
from app.datasets import canaries
from app.datasets import records as datasets
from app.deletions import batches
from app.models import pools
from app.models import records as models
from app.rules.audit_plan import Situation
from app.rules.policy import Policy


def situation(
    session: Session, model: Model, samples: int | None, people: int | None, margin: float | None
) -> Situation:
    """samples: None: of the open batch, or one. margin: None: the policy's."""
    dataset = session.get_one(Dataset, model.dataset_id)
    pending = batches.pending_of(session, model.id) if samples is None else None
    held = Sample.dataset_id == dataset.id, Sample.holdout
    nobody = Sample.subject.is_(None) | (Sample.subject != canaries.SUBJECT)
    subjects = func.count(Sample.subject.distinct())
    controls, control_people = session.execute(select(func.count(), subjects).where(*held, nobody)).one()
    planted = canaries.planted(session, dataset)
    out = len(session.scalars(select(Sample.position).where(*held, Sample.subject == canaries.SUBJECT)).all())
    pool = pools.in_use(session, [kin := models.family(model)]).get(kin)
    training = batches.step_duration(session, model.id, "retrain")
    return Situation(
        samples=samples or (pending.samples if pending else 1),
        controls=controls,
        margin=margin if margin is not None else float(Policy.model_validate(model.policy).audit.params["margin"]),
        people=people,
        control_people=control_people,
        canaries=(len(planted) - out, out),
        assigned=dataset.coin is not None,
        references=pool.size if pool else 0,
        training=training.total_seconds() if training else None,
        signal=_signal(session, model),
        held=datasets.is_held(dataset),
    )


def _signal(session: Session, model: Model) -> float | None:
    """RT-AUC - 0.5 of the current version, in its newest report that has one."""
    reports = (
        select(AuditRow.report)
        .where(AuditRow.model_id == model.id, AuditRow.version == model.current_version)
        .order_by(AuditRow.id.desc())
        .limit(8)
    )
    for report in session.scalars(reports):
        if found := report["candidate"].get("rt_auc"):
            return float(found["value"]) - 0.5
    return None
