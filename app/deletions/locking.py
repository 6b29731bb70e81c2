"""Locks the datasets and models of a group of orders, and reads what the checks of the orders need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, Table, and_, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session, aliased, undefer

from app.core.errors import NotFound
from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Job, Model, Version
from app.datasets import records as datasets
from app.deletions.orders import Order
from app.rules.states import JobKind, JobState, VersionState

Mask = NDArray[np.bool_]


@dataclass
class LockedModel:
    """One model as the orders of a group change it, one after the other.

    `trained`: what its current version was trained on; None where it has none. `requested`: by requests that name it.
    """

    row: Model
    trained: Mask | None
    class_counts: Sequence[int]
    training: bool
    requested: Mask
    leaving: int | None = None  # at most this number of `trained` is requested; None: not counted yet
    left: Mask | None = None  # samples it may still be trained on, and their number by class; None: not counted yet
    left_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass
class LockedDataset:
    """One locked dataset with its models, by id and in that order."""

    dataset: Dataset
    models: dict[str, LockedModel]
    requested: Mask
    based: bool = False  # whether the tenant has models that start from versions of others
    touched: set[str] = field(default_factory=set)  # ids of the dataset and the models whose marks have changed
    manifest: tuple[NDArray[np.int32], Mask] | None = None  # labels, and what is not held out; None: not read yet

    def named(self, order: Order) -> LockedModel | None:
        """Of the one model that the order names, if it names one.

        Raises:
            NotFound: that is not a model of this dataset.
        """
        if order.model_id is None:
            return None
        if order.model_id not in self.models:
            raise NotFound("There is no such model.")
        return self.models[order.model_id]

    def take(self, order: Order, positions: Positions) -> None:
        """Mark the samples of an accepted order: no later order may name them."""
        named = self.named(order)
        (named or self).requested[positions] = True
        for each in self.models.values():
            if named not in (None, each):
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
        for model in self.models.values():
            if model.row.id in self.touched:
                bits = np.packbits(model.requested).tobytes()
                session.execute(_MARK_MODEL, {"row": model.row.id, "bits": bits})
        self.touched.clear()

    def count_left(self, session: Session, model: LockedModel) -> None:
        """Count by class what the model may still be trained on. Once a group: it reads the labels of the dataset."""
        if self.manifest is None:
            self.manifest = datasets.labels_of(session, self.dataset)
        if model.left is None:  # None is trained while version 1 is being trained, on the train split
            trained = self.manifest[1] if model.trained is None else model.trained
            model.left = trained & ~(self.requested | self.erased | model.requested)
            model.left_counts = self.counts(model, np.flatnonzero(model.left))

    def counts(self, model: LockedModel, positions: Positions) -> NDArray[np.int64]:
        """How many of these the model may still be trained on, by class. `count_left` comes first."""
        if self.manifest is None or model.left is None:
            raise ValueError("count_left comes before counts")
        of = self.manifest[0][positions[model.left[positions]]]
        return np.bincount(of, minlength=self.dataset.class_count)

    @cached_property
    def erased(self) -> Mask:
        return mask_of(self.dataset.erased, self.dataset.sample_count)


class LockedDatasets:
    """The locked datasets of a group of orders."""

    def __init__(self, found: Iterable[LockedDataset]) -> None:
        self._found = {(data.dataset.tenant_id, data.dataset.id): data for data in found}

    def of(self, order: Order) -> LockedDataset:
        """Raises NotFound where there is no such dataset of that tenant."""
        data = self._found.get((order.tenant_id, order.dataset_id))
        if data is None:
            raise NotFound("There is no such dataset.")
        return data

    def each(self) -> Iterable[LockedDataset]:
        return self._found.values()


def lock(session: Session, orders: Sequence[Order]) -> LockedDatasets:
    """Lock the datasets and named models of the orders, and read what their checks need.

    Datasets first, in the order of their ids, then the named models: every transaction that locks both does so.
    """
    tenants = {order.tenant_id for order in orders}
    named = {order.model_id for order in orders if order.model_id}
    found = session.scalars(_DATASETS, {"tenants": tenants, "ids": {order.dataset_id for order in orders}}).all()
    ids = [dataset.id for dataset in found]
    carriers = {dataset.carried_for for dataset in found if dataset.carried_for}
    if named or carriers:
        session.execute(_LOCK_MODELS, {"tenants": tenants, "ids": named | carriers})
    rows = session.execute(_MODELS_READ, {"datasets": ids, "carriers": carriers, "tenants": tenants}).all()
    return LockedDatasets(_locked_dataset(dataset, rows) for dataset in found)


def _locked_dataset(dataset: Dataset, rows: Sequence[Row[Model, bytes, list[Any], bool, bool]]) -> LockedDataset:
    """`rows`: models of this and other datasets, what their current version was trained on, if it runs a training."""
    size = dataset.sample_count
    models = {}
    for model, trained_on, counts, training, _ in rows:
        if model.id == dataset.carried_for:  # positions of this dataset mean nothing to its versions
            trained = None if counts is None else np.ones(size, dtype=bool)
            models[model.id] = LockedModel(model, trained, [], False, np.zeros(size, dtype=bool))
        elif model.dataset_id == dataset.id:
            trained = None if counts is None else mask_of(trained_on or b"", size)
            models[model.id] = LockedModel(model, trained, counts or [], training, mask_of(model.requested, size))
    return LockedDataset(dataset, models, mask_of(dataset.requested, size), any(row[-1] for row in rows))


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


_OTHER = aliased(Model)
_ANY_BASED = exists().where(
    _OTHER.tenant_id.in_(bindparam("tenants", expanding=True)),
    _OTHER.purged_at.is_(None),
    _OTHER.base["model"].as_string().is_not(None),
)


_MODELS_READ = (
    select(Model, Version.trained_on, Version.class_counts, _TRAINING, _ANY_BASED)
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
