"""What a request would mean, said before it is sent: models, time, what an audit could show, and what would stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from math import sqrt
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cases import recall
from app.core import db
from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Model
from app.datasets import records as datasets
from app.deletions import batches
from app.deletions.orders import Impact
from app.models import versions
from app.rules.next_steps import SPAN80


@dataclass(frozen=True)
class ModelDraft:
    """samples: of them in its training data. seconds: measured, of such a job. smallest_margin: of a forget set of this
    size, at which a pass would have 80 % power. emptied: classes that it would lose, all for all training data."""

    model: str
    name: str
    samples: int
    seconds: float | None
    forecast_at: datetime | None
    margin: float | None
    smallest_margin: float | None
    emptied: list[int]


@dataclass
class Draft:
    samples: int
    received_at: datetime
    due_at: datetime
    models: list[ModelDraft]
    versions: list[recall.Held]
    duplicates: int | None
    notes: list[str] = field(default_factory=list)


def of(session: Session, dataset_id: str, impact: Impact) -> Draft:
    """What the impact means."""
    dataset = session.get_one(Dataset, dataset_id)
    drafts = [_of_model(session, dataset, model, impact.positions) for model in impact.affected]
    made = Draft(
        samples=len(impact.positions),
        received_at=impact.received_at,
        due_at=impact.due_at,
        models=drafts,
        versions=recall.holding(session, dataset, impact.positions),
        duplicates=impact.duplicates,
    )
    if not drafts:
        made.notes.append("No model is affected: the samples are erased, and no version changes.")
    if any(each.smallest_margin is None or (each.margin or 0) < each.smallest_margin for each in drafts):
        made.notes.append("A forget set of this size will be inconclusive by itself. A batch of requests shows more.")
    if any(each.emptied for each in drafts):
        made.notes.append("A model would lose a class. The request needs `allow_data_loss`.")
    if made.duplicates:
        count = "1 other sample has" if made.duplicates == 1 else f"{made.duplicates} other samples have"
        made.notes.append(f"{count} the same pixels as one of these, and would stay.")
    return made


def _of_model(session: Session, dataset: Dataset, model: Model, positions: Positions) -> ModelDraft:
    current = versions.current(session, model)
    size = dataset.sample_count
    trained = mask_of(current.trained_on, size) if current is not None else np.zeros(size, dtype=bool)
    forget = positions[trained[positions]] if dataset.carried_for is None else positions
    duration = batches.measured_duration(session, model.id)
    margin = (model.policy.get("audit") or {}).get("params", {}).get("margin")
    return ModelDraft(
        model=model.id,
        name=model.name,
        samples=len(forget),
        seconds=None if duration is None else duration.total_seconds(),
        forecast_at=None if duration is None else db.now(session) + duration,
        margin=margin,
        smallest_margin=smallest_margin(len(forget), size - dataset.train_count),
        emptied=_emptied(session, dataset, trained, forget),
    )


def smallest_margin(forgotten: int, controls: int) -> float | None:
    """3.24 standard errors of an AUC of exchangeable scores (Mann and Whitney 1947), without what references add; None
    where there is nothing to compare."""
    if not forgotten or not controls:
        return None
    return SPAN80 * sqrt((forgotten + controls + 1) / (12 * forgotten * controls))


def _emptied(session: Session, dataset: Dataset, trained: np.ndarray[Any, Any], forget: Positions) -> list[int]:
    labels, _ = datasets.labels_of(session, dataset)
    open_ = trained & ~mask_of(dataset.erased, dataset.sample_count)
    before = np.bincount(labels[open_], minlength=dataset.class_count)
    going = np.bincount(labels[forget], minlength=dataset.class_count)
    return [int(label) for label in np.flatnonzero((before > 0) & (before <= going))]


def names_of(session: Session, draft: Draft) -> dict[str, str]:
    """Names of the models that the versions belong to."""
    ids = {held.model for held in draft.versions}
    return dict(session.execute(select(Model.id, Model.name).where(Model.id.in_(ids))).all())
