"""Accepting deletion requests: validate, find the affected models, and write everything in one transaction.

Many orders take as many statements as one: `lock` locks their datasets, `accept_many` checks the orders one after the
other against what it has read, and writes the accepted ones together. A refused order changes nothing, for itself or
for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.config import Settings
from app.core.errors import AppError, Conflict, Gone, Unprocessable
from app.core.ids import new_id
from app.core.positions import Positions, pack, unpack
from app.core.tables import CaseDetails, DeletionRequest, Model, OutcomeRow
from app.datasets import records as datasets
from app.datasets import samples
from app.deletions import batches, carried, erasure, refusals, views
from app.deletions.locking import LockedDataset, LockedDatasets, LockedModel, Mask
from app.deletions.orders import Accepted, Impact, NewOutcome, NewRequest, Order
from app.models import bases
from app.rules.deadlines import clock
from app.rules.states import Decision, Outcome

MOST_NAMED = 100  # duplicates in a preview


def accept_many(
    session: Session, settings: Settings, locked: LockedDatasets, orders: Sequence[Order], now: datetime | None = None
) -> list[Accepted | Impact | AppError]:
    """The result of each order, as if they had come one after the other. Accepted ones are written.

    `locked`: from `lock`, of these orders among others. `now`: by the database's clock, under those locks. For
    `validate_only` the answer is its impact.
    """
    now = now or db.now(session)
    found: list[Accepted | Impact | AppError] = []
    taken: list[tuple[Order, Impact, int]] = []
    known = _look_up(session, locked, orders)
    for number, order in enumerate(orders):
        try:
            impact = _assess(session, settings, locked, order, known.get(number), now)
        except AppError as error:
            found.append(error)
            continue
        found.append(impact)
        if not order.validate_only:
            locked.of(order).take(order, impact.positions)
            taken.append((order, impact, number))
    for (_, _, number), accepted in zip(taken, _write(session, locked, taken, now), strict=True):
        found[number] = accepted
    return found


# -- judging ---------------------------------------------------------------------------------------


def _look_up(session: Session, locked: LockedDatasets, orders: Sequence[Order]) -> dict[int, Positions]:
    """Positions of the ids of each order that names any, by the order's number: one statement a dataset, but that a
    large order is found by one of its own."""
    by_dataset: dict[str, list[int]] = {}
    for number, order in enumerate(orders):
        if order.sample_ids:
            by_dataset.setdefault(order.dataset_id, []).append(number)
    found: dict[int, Positions] = {}
    for data in locked.each():
        numbers = [n for n in by_dataset.get(data.dataset.id, []) if orders[n].tenant_id == data.dataset.tenant_id]
        for n in [n for n in numbers if samples.is_large(session, data.dataset, orders[n].sample_ids)]:
            found[n] = samples.find(session, data.dataset, orders[n].sample_ids)
            numbers.remove(n)
        names = [name for n in numbers for name in orders[n].sample_ids]
        places = samples.look_up(session, data.dataset, names)
        start = 0
        for n in numbers:
            found[n] = places[start : start + len(orders[n].sample_ids)]
            start += len(orders[n].sample_ids)
    return found


def _assess(
    session: Session, settings: Settings, locked: LockedDatasets, order: Order, known: Positions | None, now: datetime
) -> Impact:
    """All the checks of one order, and its impact.

    Raises:
        AppError: the order is refused.
    """
    received, due = _dates(order, now)
    data = locked.of(order)
    if data.dataset.state == "erased":
        raise Gone("This dataset has been erased.", kind="dataset-erased")
    if data.dataset.state != "ready":
        raise Conflict("The dataset is not ready yet.", kind="dataset-not-ready")
    named = data.named(order)
    refused = [data.requested] if named is None else [data.requested, named.requested]
    before = _complained_about(session, order)
    if data.dataset.carried_for is not None:
        positions = _whole(session, data, order)
    elif known is None and before is not None and not order.subjects:
        positions = _again(session, before, refused)
    elif known is None:
        if not order.subjects:
            raise Unprocessable("Send either `sample_ids` or `subjects`.", kind="samples-missing")
        asked = np.logical_or.reduce(refused)
        positions = samples.of_subjects(session, data.dataset, order.subjects, asked)
    else:
        positions = known
        samples.require_fit(session, settings, data.dataset, order.sample_ids, known, "/sample_ids", refused)
    among = data.models.values() if named is None else [named]
    affected = [s for s in among if s.training or (s.trained is not None and s.trained[positions].any())]
    if not order.allow_data_loss:
        _refuse_data_loss(session, data, affected, positions)
    impact = Impact(
        positions, [model.row for model in affected], received, due, through=_through(session, data, order, positions)
    )
    if not order.validate_only:
        return impact
    left = datasets.duplicates_left(session, data.dataset, positions)
    if left is None:
        return impact
    named_left = samples.names_at(session, data.dataset, left[:MOST_NAMED])
    return replace(impact, duplicates=len(left), duplicate_ids=named_left)


def _through(session: Session, data: LockedDataset, order: Order, positions: Positions) -> Sequence[tuple[Model, str]]:
    """Models of other data that learned of the samples through their base."""
    if not data.based:
        return ()
    whole = None if data.dataset.carried_for is not None else positions
    among = data.models if order.model_id is None else [order.model_id]
    return bases.learned_through(session, order.tenant_id, among, whole, data.dataset.sample_count)


def _dates(order: Order, now: datetime) -> tuple[datetime, datetime]:
    """When the request was received and is due.

    Raises:
        Unprocessable: it cannot have been received then, or an earlier day has no reason.
    """
    law, received = clock(order.jurisdiction), order.received_at or now
    if "received_at" in order.again:  # of a restored backup: its dates are what they were
        received = order.again["received_at"]
        return received, law.due(received)
    if (refused := law.refused_receipt(received, now)) is not None:
        kind, words = refused
        raise Unprocessable(words, kind=kind, errors=[{"pointer": "/received_at", "code": kind}])
    if law.day(received) < law.day(now) and not order.received_reason:
        raise Unprocessable(
            "A request that was received on an earlier day needs `received_reason`: why it is entered only now.",
            kind="received-reason-missing",
            errors=[{"pointer": "/received_reason", "code": "missing"}],
        )
    return received, law.due(received)


ANSWERED = (Decision.REFUSED, Decision.CANCELLED)


def _complained_about(session: Session, order: Order) -> DeletionRequest | None:
    """The answered request that a complaint reopens.

    Raises:
        NotFound: there is none.
        Conflict: it is open, so that its own verbs are the way; or it is about another dataset or model.
    """
    if order.complaint_about is None:
        return None
    before = views.get(session, order.tenant_id, order.complaint_about)
    if before.fulfilled_at is None and before.decision not in ANSWERED and not before.refused_count:
        raise Conflict("The request that the complaint names has not been answered yet.", kind="complaint-about-open")
    if (before.dataset_id, before.model_id) != (order.dataset_id, order.model_id):
        raise Conflict("The request that the complaint names is about another dataset or model.", kind="another-case")
    return before


def _again(session: Session, before: DeletionRequest, refused: Sequence[Mask]) -> Positions:
    """The samples that a complaint is about: those that the request it names was refused, or all where nothing was.
    Erased ones are looked for once more.

    Raises:
        Conflict: another request has taken them meanwhile, or nobody knows which were refused.
    """
    positions = refusals.positions(session, before) if before.refused_count else unpack(before.positions)
    looks_again = before.fulfilled_at is not None and not before.refused_count
    if not looks_again and any(mask[positions].any() for mask in refused):
        raise Conflict("Another request has taken samples of the earlier one meanwhile.", kind="sample-requested")
    return positions


def _whole(session: Session, data: LockedDataset, order: Order) -> Positions:
    """The forget set of a carried dataset: all samples that are not held out."""
    if order.sample_ids or order.subjects or order.model_id:
        raise Unprocessable(
            "A carried dataset is forgotten whole, by the model that it is carried for: name the dataset alone.",
            kind="carried-dataset",
        )
    if data.requested.any():
        raise Conflict("A deletion request has taken this dataset already.", kind="sample-requested")
    if all(model.trained is None for model in data.models.values()):
        raise Conflict("The model has no current version.", kind="no-version")
    return carried.forget_set(session, data.dataset)


def _refuse_data_loss(
    session: Session, data: LockedDataset, affected: Sequence[LockedModel], positions: Positions
) -> None:
    """Refuse what would leave a model no training data, or no sample of a class, unless it was asked for.

    The labels of a whole dataset are read only where a cheap bound cannot rule it out.
    """
    for model in affected:
        if _surely_enough_left(data, model, positions):
            continue
        data.count_left(session, model)
        before, going = model.left_counts, data.counts(model, positions)
        emptied = int(((before > 0) & (before == going)).sum())
        if emptied:
            classes = "1 class" if emptied == 1 else f"{emptied} classes"
            what = "no training data" if (before == going).all() else f"no sample of {classes}"
            raise Conflict(
                f"It would leave model {model.row.id} {what}. Send `allow_data_loss: true` if you want that.",
                kind="data-loss",
            )


def _surely_enough_left(data: LockedDataset, model: LockedModel, positions: Positions) -> bool:
    """Whether the smallest class outnumbers all requested samples of all classes."""
    if model.trained is None:
        return False
    if model.leaving is None:
        gone = (data.requested | model.requested) & model.trained
        model.leaving = int(np.count_nonzero(gone))
    leaving = model.leaving + len(positions)
    return all(count > leaving for count in model.class_counts if count)


# -- writing ---------------------------------------------------------------------------------------


def _write(
    session: Session, locked: LockedDatasets, taken: Sequence[tuple[Order, Impact, int]], now: datetime
) -> list[Accepted]:
    """The rows of accepted orders: requests, outcomes with their jobs, events; and the marks of their samples."""
    if not taken:
        return []
    rows = [_row(order, impact, now) for order, impact, _ in taken]
    db.insert_many(session, DeletionRequest, rows)
    _keep_references(session, taken, rows)
    new = [
        (row["tenant_id"], "request.accepted", row["id"], _what_changed(order, row))
        for row, (order, _, _) in zip(rows, taken, strict=True)
    ]
    for data in locked.each():
        data.keep_marks(session)
    entries = [(row["id"], model) for row, (_, impact, _) in zip(rows, taken, strict=True) for model in impact.affected]
    traces = {row["id"]: order.traceparent for row, (order, _, _) in zip(rows, taken, strict=True)}
    entered = batches.enter(session, entries, {row["id"]: row["dataset_id"] for row in rows}, new, now, traces)
    found = []
    for row, (order, impact, _) in zip(rows, taken, strict=True):
        outcomes: list[OutcomeRow | NewOutcome] = [_outcome(m.id, entered[row["id"], m.id]) for m in impact.affected]
        outcomes += _keep_through(session, row["id"], impact)
        if not outcomes:
            erasure.start_if_published(session, row["id"])
        found.append(Accepted(NewRequest(**row, reference=order.reference), outcomes))
    return found


def _keep_through(session: Session, request: str, impact: Impact) -> list[NewOutcome]:
    """The outcomes of models that learned through their base: a person must decide, for no job can mend them."""
    found = [NewOutcome(model.id, Outcome.ATTENTION.value, None, reason=words) for model, words in impact.through]
    rows = [
        {"request_id": request, "model_id": one.model_id, "state": one.state, "job_id": None, "reason": one.reason}
        for one in found
    ]
    db.insert_many(session, OutcomeRow, rows)
    for model, _ in impact.through:
        events.record(session, model.tenant_id, "request.needs-attention", request, model=model.id)
    return found


def _outcome(model_id: str, job_id: str | None) -> NewOutcome:
    state = Outcome.PENDING if job_id is None else Outcome.BATCHED
    return NewOutcome(model_id, state.value, job_id)


def _what_changed(order: Order, row: dict[str, Any]) -> dict[str, Any]:
    """What the log says of an accepted request besides its id: who entered it, and dates; nobody's name."""
    said = {"actor": order.actor, "samples": row["sample_count"]}
    if row["posted_at"] is not None:
        said["received_at"] = f"{row['received_at']:%Y-%m-%dT%H:%M:%SZ}"
    if order.complaint_about is not None:
        said["complaint_about"] = order.complaint_about
    return said


def _keep_references(
    session: Session, taken: Sequence[tuple[Order, Impact, int]], rows: Sequence[dict[str, Any]]
) -> None:
    """What may name a person is kept apart."""
    kept = [
        {"request_id": row["id"], "tenant_id": row["tenant_id"], "reference": order.reference, "identity_note": None}
        for row, (order, _, _) in zip(rows, taken, strict=True)
        if order.reference is not None
    ]
    db.insert_many(session, CaseDetails, kept)


def _row(order: Order, impact: Impact, now: datetime) -> dict[str, Any]:
    law = clock(order.jurisdiction)
    year = law.day(impact.received_at).year
    return {
        "id": new_id("del"),
        "tenant_id": order.tenant_id,
        "dataset_id": order.dataset_id,
        "model_id": order.model_id,
        "decision": Decision.ACCEPTED.value,
        "jurisdiction": order.jurisdiction,
        "rule": law.rule,
        "basis": order.basis,
        "by_subject": bool(order.subjects),
        "sample_count": len(impact.positions),
        "refused_count": 0,
        "positions": pack(impact.positions),
        "received_at": impact.received_at,
        "posted_at": None if order.received_at is None else now,
        "received_reason": order.received_reason,
        "channel": order.channel,
        "local_year": None if year == impact.received_at.year else year,
        "ground": order.ground,
        "complaint_about": order.complaint_about,
        "case_id": order.case_id,
        "due_at": impact.due_at,
        "confirm_by": law.confirm_by(impact.received_at),
        **order.again,
    }
