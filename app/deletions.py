"""Accepting a deletion request: validate, find the affected models, and write everything in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app import batches, datasets, db, erasure, jobs, models, samples
from app.config import Settings
from app.deadlines import clock
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.lifecycle import Decision, JobKind, JobState, Outcome, VersionState
from app.positions import Positions, marked, mask_of, pack
from app.tables import Dataset, DeletionRequest, Job, Model, OutcomeRow, Version


@dataclass(frozen=True)
class Order:
    """What a client asks for: samples by id, or everything of some subjects.

    `model_id`: this model only; the dataset keeps the samples.
    """

    sample_ids: Sequence[str]
    subjects: Sequence[str]
    dataset_id: str
    model_id: str | None
    jurisdiction: str
    basis: str
    allow_data_loss: bool


@dataclass(frozen=True)
class Impact:
    """What carrying out an order would mean."""

    dataset: Dataset
    model: Model | None
    positions: Positions
    affected: list[Model]
    due_at: datetime


def get(session: Session, tenant_id: str, request_id: str, *, lock: bool = False) -> DeletionRequest:
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == tenant_id, DeletionRequest.id == request_id)
    request = session.scalars(query.with_for_update() if lock else query).first()
    if request is None:
        raise NotFound("There is no such deletion request.")
    return request


def assess(session: Session, settings: Settings, tenant_id: str, order: Order) -> Impact:
    """All the checks of a request, and what it would mean. Locks the dataset, so that it stays true.

    Raises:
        AppError: whatever is wrong with the order; nothing is stored.
    """
    dataset = datasets.get(session, tenant_id, order.dataset_id, lock=True)
    if dataset.state != "ready":
        raise Conflict("The dataset is not ready yet.", kind="dataset-not-ready")
    model = models.get(session, tenant_id, order.model_id, lock=True) if order.model_id else None
    if model and model.dataset_id != dataset.id:
        raise NotFound("There is no such model on this dataset.")
    requested = mask_of(dataset.requested, dataset.sample_count)
    if model is not None:
        requested = requested | mask_of(model.requested, dataset.sample_count)
    if order.subjects:
        positions = samples.of_subjects(session, dataset, order.subjects, requested)
    else:
        positions = samples.resolve(session, settings, dataset, order.sample_ids, "/sample_ids", requested)
    affected = _affected(session, dataset, model, positions)
    if not order.allow_data_loss:
        _refuse_data_loss(session, dataset, affected, positions)
    return Impact(dataset, model, positions, affected, clock(order.jurisdiction).due(db.now(session)))


def accept(session: Session, settings: Settings, tenant_id: str, order: Order) -> DeletionRequest:
    """Write the request, its outcomes and jobs, their hints and events; nothing at all if anything is wrong."""
    impact = assess(session, settings, tenant_id, order)
    request = _write(session, tenant_id, order, impact)
    for model in impact.affected:
        session.add(OutcomeRow(request_id=request.id, model_id=model.id, state=Outcome.PENDING))
    session.flush()
    for model in impact.affected:
        batches.close_if_due(session, model)
    if not impact.affected:
        erasure.start_if_published(session, request.id)
    return request


# -- models ----------------------------------------------------------------------------------------


def _affected(session: Session, dataset: Dataset, model: Model | None, positions: Positions) -> list[Model]:
    """Models whose current version was trained on any of the samples, or that are being trained just now."""
    query = select(Model).where(Model.dataset_id == dataset.id).order_by(Model.id)
    if model is not None:
        query = query.where(Model.id == model.id)
    found = []
    for candidate in session.scalars(query).all():
        version = _current(session, candidate)
        if (version is not None and mask_of(version.trained_on, dataset.sample_count)[positions].any()) or _training(
            session, candidate
        ):
            found.append(candidate)
    return found


def _current(session: Session, model: Model) -> Version | None:
    query = select(Version).where(Version.model_id == model.id, Version.state == VersionState.CURRENT)
    return session.scalars(query).first()


def _training(session: Session, model: Model) -> bool:
    active = select(Job.id).where(
        Job.model_id == model.id,
        Job.kind == JobKind.TRAIN,
        Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
    )
    return session.scalars(select(exists(active))).one()


def _refuse_data_loss(session: Session, dataset: Dataset, affected: Sequence[Model], positions: Positions) -> None:
    """Refuse what would leave a model no training data, or no sample of a class, unless it was asked for.

    The labels of a whole dataset are read only where a cheap bound cannot rule it out.
    """
    doubtful = [model for model in affected if not _surely_enough_left(session, dataset, model, positions)]
    rows = datasets.manifest(session, dataset.id) if doubtful else []
    labels = np.array([label for label, _ in rows], dtype=np.int64)
    train_split = np.array([not holdout for _, holdout in rows], dtype=bool)
    for model in doubtful:
        version = _current(session, model)  # None while version 1 is being trained, on the train split
        left = mask_of(version.trained_on, dataset.sample_count) if version else train_split.copy()
        left[datasets.unavailable(dataset)] = False
        left &= ~mask_of(model.requested, dataset.sample_count)
        before = np.bincount(labels[left], minlength=dataset.class_count)
        left[positions] = False
        after = np.bincount(labels[left], minlength=dataset.class_count)
        emptied = int(((before > 0) & (after == 0)).sum())
        if emptied:
            what = "no training data" if not left.any() else f"no sample of {emptied} class(es)"
            raise Conflict(
                f"It would leave model {model.id} {what}. Send `allow_data_loss: true` if that is meant.",
                kind="data-loss",
            )


def _surely_enough_left(session: Session, dataset: Dataset, model: Model, positions: Positions) -> bool:
    """Whether the smallest class outnumbers all samples that are on their way out, whatever their classes."""
    version = _current(session, model)
    if version is None:
        return False
    gone = mask_of(dataset.requested, dataset.sample_count) | mask_of(model.requested, dataset.sample_count)
    leaving = int((gone & mask_of(version.trained_on, dataset.sample_count)).sum()) + len(positions)
    return all(count > leaving for count in version.class_counts if count)


# -- writing ---------------------------------------------------------------------------------------


def _write(session: Session, tenant_id: str, order: Order, impact: Impact) -> DeletionRequest:
    now, law = db.now(session), clock(order.jurisdiction)
    request = DeletionRequest(
        id=new_id("del"),
        tenant_id=tenant_id,
        dataset_id=impact.dataset.id,
        model_id=impact.model.id if impact.model else None,
        decision=Decision.ACCEPTED,
        jurisdiction=order.jurisdiction,
        rule=law.rule,
        basis=order.basis,
        by_subject=bool(order.subjects),
        sample_count=len(impact.positions),
        positions=pack(impact.positions),
        received_at=now,
        due_at=law.due(now),
        confirm_by=law.confirm_by(now),
    )
    session.add(request)
    holder: Dataset | Model = impact.model or impact.dataset
    holder.requested = marked(holder.requested, impact.dataset.sample_count, impact.positions)
    session.flush()
    jobs.record(session, tenant_id, "request.accepted", request.id, samples=len(impact.positions))
    return request
