"""Accepting a deletion request: validate, find the affected models, and write everything in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import exists, select, text
from sqlalchemy.orm import Session

from app import datasets, db, deadlines, erasure, jobs, models
from app.config import Settings
from app.errors import Conflict, NotFound, Unprocessable
from app.ids import new_id
from app.lifecycle import Decision, JobKind, JobState, Outcome, RequestStatus, VersionState, request_status
from app.positions import Positions, marked, mask_of, pack
from app.tables import Dataset, DeletionRequest, Job, Model, OutcomeRow, Receipt, Version

SHOWN_FAULTS = 100


def get(session: Session, tenant_id: str, request_id: str) -> DeletionRequest:
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == tenant_id, DeletionRequest.id == request_id)
    request = session.scalars(query).first()
    if request is None:
        raise NotFound("There is no such deletion request.")
    return request


@dataclass(frozen=True)
class Order:
    """What a client asks for. `model_id`: this model only; the dataset keeps the samples."""

    sample_ids: Sequence[str]
    dataset_id: str
    model_id: str | None
    jurisdiction: str
    basis: str
    allow_data_loss: bool


def accept(session: Session, settings: Settings, tenant_id: str, order: Order) -> DeletionRequest:
    """Write the request, its outcomes and jobs, their hints and events; nothing at all if anything is wrong."""
    dataset = datasets.get(session, tenant_id, order.dataset_id, lock=True)
    if dataset.state != "ready":
        raise Conflict("The dataset is not ready yet.", kind="dataset-not-ready")
    model = models.get(session, tenant_id, order.model_id, lock=True) if order.model_id else None
    if model and model.dataset_id != dataset.id:
        raise NotFound("There is no such model on this dataset.")
    requested = mask_of(dataset.requested, dataset.sample_count)
    if model is not None:
        requested = requested | mask_of(model.requested, dataset.sample_count)
    positions = resolve(session, settings, dataset, order.sample_ids, "/sample_ids", requested)
    affected = _affected(session, dataset, model, positions)
    if not order.allow_data_loss:
        _refuse_data_loss(session, dataset, affected, positions)
    request = _write(session, tenant_id, order, dataset, model, positions)
    for target in affected:
        _start(session, request, target)
    if not affected:
        session.flush()
        erasure.start_if_published(session, request.id)
    return request


# -- ids -------------------------------------------------------------------------------------------


def resolve(
    session: Session,
    settings: Settings,
    dataset: Dataset,
    ids: Sequence[str],
    pointer: str,
    requested: NDArray[np.bool_] | None = None,
) -> Positions:
    """Positions of the ids, in no order; a refusal names places in the list `pointer`, never ids.

    `requested`: bool (N,) of positions that may not be named again.
    """
    found = _lookup(session, dataset.id, ids)
    faults: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for place, sample_id in enumerate(ids):
        if first.setdefault(sample_id, place) != place:
            faults.append((place, "duplicate"))
    unknown = [sample_id for sample_id in first if sample_id not in found]
    if unknown:
        marks = {datasets.suppression(settings, dataset.id, sample_id): sample_id for sample_id in unknown}
        erased = {marks[mark] for mark in _lookup(session, dataset.id, list(marks))}
        faults += [(first[i], "erased" if i in erased else "unknown") for i in unknown]
    positions = np.fromiter(found.values(), dtype=np.int64)
    if requested is not None and requested[positions].any():
        faults += [(first[i], "requested") for i, p in found.items() if requested[p]]
    if faults:
        raise _id_problem(sorted(faults), pointer)
    return positions


def _lookup(session: Session, dataset_id: str, ids: Sequence[str]) -> dict[str, int]:
    """Positions by id, in one statement whatever the number of ids."""
    if session.get_bind().dialect.name == "sqlite":
        sql = (
            "SELECT s.sample_id, s.position FROM json_each(:ids) j "
            "JOIN samples s ON s.dataset_id = :d AND s.sample_id = j.value"
        )
        given: object = json.dumps(list(ids))
    else:
        sql = "SELECT s.sample_id, s.position FROM samples s WHERE s.dataset_id = :d AND s.sample_id = ANY(:ids)"
        given = list(ids)
    rows = session.execute(text(sql), {"ids": given, "d": dataset_id})
    return {sample_id: position for sample_id, position in rows}


ID_KINDS = {
    "duplicate": "sample-duplicated",
    "unknown": "sample-unknown",
    "erased": "sample-erased",
    "requested": "sample-requested",
}


def _id_problem(faults: list[tuple[int, str]], pointer: str) -> Conflict | Unprocessable:
    counts = {code: sum(c == code for _, c in faults) for code in ID_KINDS}
    words = ", ".join(f"{n} {code}" for code, n in counts.items() if n)
    worst = next(code for code in ("unknown", "duplicate", "erased", "requested") if counts[code])
    error = Conflict if worst in ("erased", "requested") else Unprocessable
    return error(
        f"Some sample ids cannot be accepted: {words}. Nothing was stored.",
        kind=ID_KINDS[worst],
        errors=[{"pointer": f"{pointer}/{place}", "code": code} for place, code in faults[:SHOWN_FAULTS]],
        counts={code: n for code, n in counts.items() if n},
    )


# -- models ----------------------------------------------------------------------------------------


def _affected(session: Session, dataset: Dataset, model: Model | None, positions: Positions) -> list[Model]:
    """Models whose current version was trained on any of the samples, or that are being trained just now."""
    query = select(Model).where(Model.dataset_id == dataset.id).order_by(Model.id)
    if model is not None:
        query = query.where(Model.id == model.id)
    found = []
    for candidate in session.scalars(query).all():
        version = _current(session, candidate)
        if (
            version is not None and mask_of(version.trained_on, dataset.sample_count)[positions].any()
        ) or _training(session, candidate):
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
    """Refuse what would leave a model no training data, or no sample of a class, unless it was asked for."""
    labels: NDArray[np.int64] | None = None
    for model in affected:
        version = _current(session, model)
        if version is None:
            continue
        if labels is None:
            labels = np.array([label for label, _ in datasets.manifest(session, dataset.id)])
        left = mask_of(version.trained_on, dataset.sample_count)
        left[datasets.unavailable(dataset)] = False
        left &= ~mask_of(model.requested, dataset.sample_count)
        left[positions] = False
        before, after = (
            np.array(version.class_counts),
            np.bincount(labels[left], minlength=dataset.class_count),
        )
        emptied = int(((before > 0) & (after == 0)).sum())
        if emptied:
            what = "no training data" if not left.any() else f"no sample of {emptied} class(es)"
            raise Conflict(
                f"It would leave model {model.id} {what}. Send `allow_data_loss: true` if that is meant.",
                kind="data-loss",
            )


# -- writing ---------------------------------------------------------------------------------------


def _write(
    session: Session,
    tenant_id: str,
    order: Order,
    dataset: Dataset,
    model: Model | None,
    positions: Positions,
) -> DeletionRequest:
    now = db.now(session)
    request = DeletionRequest(
        id=new_id("del"),
        tenant_id=tenant_id,
        dataset_id=dataset.id,
        model_id=model.id if model else None,
        decision=Decision.ACCEPTED,
        jurisdiction=order.jurisdiction,
        basis=order.basis,
        sample_count=len(positions),
        positions=pack(positions),
        received_at=now,
        due_at=deadlines.due(order.jurisdiction, now),
    )
    session.add(request)
    holder: Dataset | Model = model or dataset
    holder.requested = marked(holder.requested, dataset.sample_count, positions)
    session.flush()
    jobs.record(session, tenant_id, "request.accepted", request.id, samples=len(positions))
    return request


def _start(session: Session, request: DeletionRequest, model: Model) -> None:
    """Policy `each`: a job for this request as it comes."""
    job = models.start(session, model, JobKind.UNLEARN, seed=0)
    session.add(OutcomeRow(request_id=request.id, model_id=model.id, state=Outcome.BATCHED, job_id=job.id))


# -- reading ---------------------------------------------------------------------------------------


def outcomes(session: Session, request: DeletionRequest) -> list[OutcomeRow]:
    query = select(OutcomeRow).where(OutcomeRow.request_id == request.id).order_by(OutcomeRow.model_id)
    return list(session.scalars(query))


def receipts(session: Session, request: DeletionRequest) -> list[Receipt]:
    return list(session.scalars(select(Receipt).where(Receipt.request_id == request.id).order_by(Receipt.id)))


def purge_problem(session: Session, request: DeletionRequest) -> str | None:
    """Why the request's purge has given up; None while it has not."""
    query = select(Job).where(Job.request_id == request.id, Job.kind == JobKind.PURGE)
    job = session.scalars(query.order_by(Job.id.desc()).limit(1)).first()
    if job is None or job.state not in (JobState.DEAD, JobState.FAILED, JobState.CANCELLED):
        return None
    return f"the purge job {job.id} ended as {job.state}: {(job.problem or {}).get('detail', '')}"


def status(request: DeletionRequest, rows: Sequence[OutcomeRow], purge_failed: bool) -> RequestStatus:
    states = [Outcome(row.state) for row in rows]
    return request_status(Decision(request.decision), states, bool(request.fulfilled_at), purge_failed)
