"""Accepting deletion requests: validate, find the affected models, and write everything in one transaction.

Many orders are accepted at once by the statements of one: `lock` takes the datasets they are about, `accept_many`
judges them one after the other on what it has read, and writes what was accepted together. An order that is refused
leaves no trace and harms no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, Table, and_, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session, undefer

from app import batches, carried, datasets, db, erasure, samples
from app.config import Settings
from app.deadlines import clock
from app.errors import AppError, Conflict, Gone, NotFound, Unprocessable
from app.ids import new_id
from app.lifecycle import Decision, JobKind, JobState, Outcome, VersionState
from app.positions import Positions, mask_of, pack
from app.tables import Dataset, DeletionRequest, Job, Model, OutcomeRow, Version

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Order:
    """What a client asks for: samples by id, or everything of some subjects.

    `model_id`: this model only; the dataset keeps the samples. `validate_only`: say what it would mean.
    """

    tenant_id: str
    sample_ids: Sequence[str]
    subjects: Sequence[str]
    dataset_id: str
    model_id: str | None
    jurisdiction: str
    basis: str
    allow_data_loss: bool
    validate_only: bool = False
    again: Mapping[str, Any] = field(default_factory=dict)  # columns of a request that a restored backup has lost


@dataclass(frozen=True)
class Impact:
    """What carrying out an order would mean."""

    positions: Positions
    affected: list[Model]
    due_at: datetime


@dataclass
class NewRequest:
    """A request as it was just written: what clients see of its row, without the care that a session takes of one."""

    id: str
    tenant_id: str
    dataset_id: str
    model_id: str | None
    decision: str
    jurisdiction: str
    rule: str
    basis: str
    by_subject: bool
    sample_count: int
    refused_count: int
    positions: bytes
    received_at: datetime
    due_at: datetime
    confirm_by: datetime | None
    replayed_at: datetime | None = None
    reason: str | None = None
    extended_at: datetime | None = None
    extension_reason: str | None = None
    decided_at: datetime | None = None
    fulfilled_at: datetime | None = None


@dataclass
class NewOutcome:
    """The same of an outcome."""

    model_id: str
    state: str
    job_id: str | None
    version: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A new request as it was written, and its outcomes in the order of their models."""

    request: NewRequest
    outcomes: list[OutcomeRow | NewOutcome]


def get(session: Session, tenant_id: str, request_id: str, *, lock: bool = False) -> DeletionRequest:
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == tenant_id, DeletionRequest.id == request_id)
    request = session.scalars(query.with_for_update() if lock else query).first()
    if request is None:
        raise NotFound("There is no such deletion request.")
    return request


def accept_many(
    session: Session, settings: Settings, grounds: Grounds, orders: Sequence[Order], now: datetime | None = None
) -> list[Accepted | Impact | AppError]:
    """What becomes of each order, as if they had come one after the other; the accepted ones are written.

    `grounds`: from `lock`, of these orders among others. `now`: by the database's clock, under those locks. For
    `validate_only` the answer is its impact.
    """
    now = now or db.now(session)
    found: list[Accepted | Impact | AppError] = []
    taken: list[tuple[Order, Impact, int]] = []
    known = _look_up(session, grounds, orders)
    for number, order in enumerate(orders):
        try:
            impact = _assess(session, settings, grounds, order, known.get(number), now)
        except AppError as error:
            found.append(error)
            continue
        found.append(impact)
        if not order.validate_only:
            grounds.of(order).take(order, impact.positions)
            taken.append((order, impact, number))
    for (_, _, number), accepted in zip(taken, _write(session, grounds, taken, now), strict=True):
        found[number] = accepted
    return found


# -- what orders are judged by ---------------------------------------------------------------------


@dataclass
class Standing:
    """One model as a group of orders finds it, and as the orders before leave it.

    `trained`: what its current version was trained on; None where it has none. `requested`: by requests that name it.
    """

    model: Model
    trained: Mask | None
    class_counts: Sequence[int]
    training: bool
    requested: Mask
    leaving: int | None = None  # at most so many of `trained` are requested; None: not counted yet
    left: Mask | None = None  # what it may still be trained on, and that by class; None: not looked at yet
    left_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass
class Ground:
    """One locked dataset with its models, by id and in that order."""

    dataset: Dataset
    standings: dict[str, Standing]
    requested: Mask
    touched: set[str] = field(default_factory=set)  # ids of the dataset and the models whose marks have changed
    manifest: tuple[NDArray[np.int32], Mask] | None = None  # labels, and what is not held out; None: not read yet

    def standing(self, order: Order) -> Standing | None:
        """Of the one model that the order names, if it names one.

        Raises:
            NotFound: that is not a model of this dataset.
        """
        if order.model_id is None:
            return None
        if order.model_id not in self.standings:
            raise NotFound("There is no such model.")
        return self.standings[order.model_id]

    def take(self, order: Order, positions: Positions) -> None:
        """The order is accepted: its samples may not be named again."""
        standing = self.standing(order)
        (standing or self).requested[positions] = True
        for each in self.standings.values():
            if standing not in (None, each):
                continue
            if each.leaving is not None:
                each.leaving += len(positions)
            if each.left is not None:
                each.left_counts -= self.counts(each, positions)
                each.left[positions] = False
        self.touched.add(order.model_id or order.dataset_id)

    def keep_marks(self, session: Session) -> None:
        if self.dataset.id in self.touched:
            session.execute(_MARK_DATASET, {"row": self.dataset.id, "bits": np.packbits(self.requested).tobytes()})
        for standing in self.standings.values():
            if standing.model.id in self.touched:
                bits = np.packbits(standing.requested).tobytes()
                session.execute(_MARK_MODEL, {"row": standing.model.id, "bits": bits})
        self.touched.clear()

    def look(self, session: Session, standing: Standing) -> None:
        """Count by class what the model may still be trained on. Once a group: it reads the labels of the dataset."""
        if self.manifest is None:
            self.manifest = datasets.labels_of(session, self.dataset)
        if standing.left is None:  # None is trained while version 1 is being trained, on the train split
            trained = self.manifest[1] if standing.trained is None else standing.trained
            standing.left = trained & ~(self.requested | self.erased | standing.requested)
            standing.left_counts = self.counts(standing, np.flatnonzero(standing.left))

    def counts(self, standing: Standing, positions: Positions) -> NDArray[np.int64]:
        """How many of these the model may still be trained on, by class, once it was looked at."""
        if self.manifest is None or standing.left is None:
            raise ValueError("look before counting")
        of = self.manifest[0][positions[standing.left[positions]]]
        return np.bincount(of, minlength=self.dataset.class_count)

    @cached_property
    def erased(self) -> Mask:
        return mask_of(self.dataset.erased, self.dataset.sample_count)


class Grounds:
    """The locked datasets of a group of orders."""

    def __init__(self, found: Iterable[Ground]) -> None:
        self._found = {(ground.dataset.tenant_id, ground.dataset.id): ground for ground in found}

    def of(self, order: Order) -> Ground:
        """Raises NotFound where there is no such dataset of that tenant."""
        ground = self._found.get((order.tenant_id, order.dataset_id))
        if ground is None:
            raise NotFound("There is no such dataset.")
        return ground

    def each(self) -> Iterable[Ground]:
        return self._found.values()


def lock(session: Session, orders: Sequence[Order]) -> Grounds:
    """Lock what the orders are about, and read what they are judged by.

    Datasets first, in the order of their ids, then the models that are named: as everybody who locks both.
    """
    tenants = {order.tenant_id for order in orders}
    named = {order.model_id for order in orders if order.model_id}
    found = session.scalars(_DATASETS, {"tenants": tenants, "ids": {order.dataset_id for order in orders}}).all()
    ids = [dataset.id for dataset in found]
    carriers = {dataset.carried_for for dataset in found if dataset.carried_for}
    if named or carriers:
        session.execute(_LOCK_MODELS, {"tenants": tenants, "ids": named | carriers})
    rows = session.execute(_STANDINGS, {"datasets": ids, "carriers": carriers}).all()
    return Grounds(_ground(dataset, rows) for dataset in found)


def _ground(dataset: Dataset, rows: Sequence[Row[Model, bytes, list[Any], bool]]) -> Ground:
    """`rows`: models of this and other datasets, what their current version was trained on, if it runs a training."""
    size = dataset.sample_count
    standings = {}
    for model, trained_on, counts, training in rows:
        if model.id == dataset.carried_for:  # positions of this dataset mean nothing to its versions
            trained = None if counts is None else np.ones(size, dtype=bool)
            standings[model.id] = Standing(model, trained, [], False, np.zeros(size, dtype=bool))
        elif model.dataset_id == dataset.id:
            trained = None if counts is None else mask_of(trained_on or b"", size)
            standings[model.id] = Standing(model, trained, counts or [], training, mask_of(model.requested, size))
    return Ground(dataset, standings, mask_of(dataset.requested, size))


_DATASET_ROWS, _MODEL_ROWS = cast(Table, Dataset.__table__), cast(Table, Model.__table__)
# Made once: putting a statement together costs more than SQLite's part of it.
_DATASETS = (
    select(Dataset)
    .where(
        Dataset.tenant_id.in_(bindparam("tenants", expanding=True)), Dataset.id.in_(bindparam("ids", expanding=True))
    )
    .order_by(Dataset.id)
    .options(undefer(Dataset.requested), undefer(Dataset.erased))
    .with_for_update()
)
_MARK_DATASET = update(_DATASET_ROWS).where(_DATASET_ROWS.c.id == bindparam("row")).values(requested=bindparam("bits"))
_MARK_MODEL = update(_MODEL_ROWS).where(_MODEL_ROWS.c.id == bindparam("row")).values(requested=bindparam("bits"))
_LOCK_MODELS = (
    select(Model.id)
    .where(Model.tenant_id.in_(bindparam("tenants", expanding=True)), Model.id.in_(bindparam("ids", expanding=True)))
    .order_by(Model.id)
    .with_for_update()
)
_TRAINING = exists().where(
    Job.model_id == Model.id, Job.kind == JobKind.TRAIN, Job.state.in_([JobState.QUEUED, JobState.RUNNING])
)
_STANDINGS = (
    select(Model, Version.trained_on, Version.class_counts, _TRAINING)
    .outerjoin(Version, and_(Version.model_id == Model.id, Version.state == VersionState.CURRENT))
    .where(
        or_(
            Model.dataset_id.in_(bindparam("datasets", expanding=True)),
            Model.id.in_(bindparam("carriers", expanding=True)),
        )
    )
    .order_by(Model.id)
    .options(undefer(Model.requested))
)


# -- judging ---------------------------------------------------------------------------------------


def _look_up(session: Session, grounds: Grounds, orders: Sequence[Order]) -> dict[int, Positions]:
    """Positions of the ids of each order that names any, by the order's number: one statement a dataset, but that a
    large order is found by one of its own."""
    by_dataset: dict[str, list[int]] = {}
    for number, order in enumerate(orders):
        if order.sample_ids:
            by_dataset.setdefault(order.dataset_id, []).append(number)
    found: dict[int, Positions] = {}
    for ground in grounds.each():
        numbers = [n for n in by_dataset.get(ground.dataset.id, []) if orders[n].tenant_id == ground.dataset.tenant_id]
        for n in [n for n in numbers if samples.is_large(session, ground.dataset, orders[n].sample_ids)]:
            found[n] = samples.find(session, ground.dataset, orders[n].sample_ids)
            numbers.remove(n)
        names = [name for n in numbers for name in orders[n].sample_ids]
        places = samples.look_up(session, ground.dataset, names)
        start = 0
        for n in numbers:
            found[n] = places[start : start + len(orders[n].sample_ids)]
            start += len(orders[n].sample_ids)
    return found


def _assess(
    session: Session, settings: Settings, grounds: Grounds, order: Order, known: Positions | None, now: datetime
) -> Impact:
    """All the checks of one order, and what it would mean.

    Raises:
        AppError: whatever is wrong with it.
    """
    ground = grounds.of(order)
    if ground.dataset.state == "erased":
        raise Gone("This dataset was carried for a deletion, and has been erased.", kind="dataset-erased")
    if ground.dataset.state != "ready":
        raise Conflict("The dataset is not ready yet.", kind="dataset-not-ready")
    named = ground.standing(order)
    refused = [ground.requested] if named is None else [ground.requested, named.requested]
    if ground.dataset.carried_for is not None:
        positions = _whole(session, ground, order)
    elif known is None:
        if not order.subjects:
            raise Unprocessable("Send either `sample_ids` or `subjects`.", kind="samples-missing")
        asked = np.logical_or.reduce(refused)
        positions = samples.of_subjects(session, ground.dataset, order.subjects, asked)
    else:
        positions = known
        samples.require_fit(session, settings, ground.dataset, order.sample_ids, known, "/sample_ids", refused)
    among = ground.standings.values() if named is None else [named]
    affected = [s for s in among if s.training or (s.trained is not None and s.trained[positions].any())]
    if not order.allow_data_loss:
        _refuse_data_loss(session, ground, affected, positions)
    due = clock(order.jurisdiction).due(now)
    return Impact(positions, [standing.model for standing in affected], due)


def _whole(session: Session, ground: Ground, order: Order) -> Positions:
    """What a carried dataset is to have forgotten: all that is not held out."""
    if order.sample_ids or order.subjects or order.model_id:
        raise Unprocessable(
            "A carried dataset is forgotten whole, by the model that it is carried for: name the dataset alone.",
            kind="carried-dataset",
        )
    if ground.requested.any():
        raise Conflict("A deletion request has taken this dataset already.", kind="sample-requested")
    if all(standing.trained is None for standing in ground.standings.values()):
        raise Conflict("The model has no current version.", kind="no-version")
    return carried.forget_set(session, ground.dataset)


def _refuse_data_loss(session: Session, ground: Ground, affected: Sequence[Standing], positions: Positions) -> None:
    """Refuse what would leave a model no training data, or no sample of a class, unless it was asked for.

    The labels of a whole dataset are read only where a cheap bound cannot rule it out.
    """
    for standing in affected:
        if _surely_enough_left(ground, standing, positions):
            continue
        ground.look(session, standing)
        before, going = standing.left_counts, ground.counts(standing, positions)
        emptied = int(((before > 0) & (before == going)).sum())
        if emptied:
            classes = "1 class" if emptied == 1 else f"{emptied} classes"
            what = "no training data" if (before == going).all() else f"no sample of {classes}"
            raise Conflict(
                f"It would leave model {standing.model.id} {what}. Send `allow_data_loss: true` if that is meant.",
                kind="data-loss",
            )


def _surely_enough_left(ground: Ground, standing: Standing, positions: Positions) -> bool:
    """Whether the smallest class outnumbers all samples that are on their way out, whatever their classes."""
    if standing.trained is None:
        return False
    if standing.leaving is None:
        gone = (ground.requested | standing.requested) & standing.trained
        standing.leaving = int(np.count_nonzero(gone))
    leaving = standing.leaving + len(positions)
    return all(count > leaving for count in standing.class_counts if count)


# -- writing ---------------------------------------------------------------------------------------


def _write(
    session: Session, grounds: Grounds, taken: Sequence[tuple[Order, Impact, int]], now: datetime
) -> list[Accepted]:
    """The rows of accepted orders: requests, outcomes with their jobs, events; and the marks of their samples."""
    if not taken:
        return []
    rows = [_row(order, impact, now) for order, impact, _ in taken]
    db.insert_many(session, DeletionRequest, rows)
    told = [(row["tenant_id"], "request.accepted", row["id"], {"samples": row["sample_count"]}) for row in rows]
    for ground in grounds.each():
        ground.keep_marks(session)
    entries = [(row["id"], model) for row, (_, impact, _) in zip(rows, taken, strict=True) for model in impact.affected]
    entered = batches.enter(session, entries, {row["id"]: row["dataset_id"] for row in rows}, told, now)
    found = []
    for row, (_, impact, _) in zip(rows, taken, strict=True):
        if not impact.affected:
            erasure.start_if_published(session, row["id"])
        found.append(Accepted(NewRequest(**row), [_outcome(m.id, entered[row["id"], m.id]) for m in impact.affected]))
    return found


def _outcome(model_id: str, job_id: str | None) -> NewOutcome:
    state = Outcome.PENDING if job_id is None else Outcome.BATCHED
    return NewOutcome(model_id, state.value, job_id)


def _row(order: Order, impact: Impact, now: datetime) -> dict[str, Any]:
    law = clock(order.jurisdiction)
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
        "received_at": now,
        "due_at": impact.due_at,
        "confirm_by": law.confirm_by(now),
        **order.again,
    }
