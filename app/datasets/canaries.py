"""Canaries: planted samples of no person, unlearned beside forget sets and never erased (docs/gate.md, "Canaries").

A real deletion cannot be measured again once its samples are gone, and one person's few samples are always
inconclusive. Canaries stay: each unlearn job unlearns some more of them by the same method, and together they show how
well the model forgets. The subject that the upload gives a sample makes it a canary. No table lists the canaries that a
version has unlearned: its ancestors were trained on them, and it was not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Model, Sample, Version
from app.datasets import coin
from app.datasets import records as datasets

SUBJECT = coin.SUBJECT


@dataclass(frozen=True)
class Canaries:
    """The canaries of a dataset, as one version has seen them.

    forgotten: an ancestor was trained on them and the version was not. known: it was. held_out: never trained on.
    assigned: our coin decided which of them were held out. Those that a request names are in none: who chooses them
    may know what the model says of them, so no coin decided.
    """

    forgotten: Positions
    known: Positions
    held_out: Positions
    assigned: bool = False


def planted(session: Session, dataset: Dataset) -> Positions:
    """All that have not been erased, of both splits. None of carried data: those are forgotten whole."""
    if dataset.carried_for is not None:
        return np.array([], dtype=np.int64)
    found: Positions = np.array(sorted(session.scalars(_canaries(dataset))), dtype=np.int64)
    return found


def draw(session: Session, dataset: Dataset, model: Model, parent: Version, asked: Positions, count: int) -> Positions:
    """Randomly selected canaries that the next job unlearns beside the forget set: `count`, or as many as there are.

    They are canaries that `parent` was trained on and that nobody has requested. At least one sample of a class that
    nobody has requested stays, so that canaries empty no class. The order follows from the parent, so every step and
    every attempt of a batch gets the same canaries, except those that are requested meanwhile.

    asked: positions that the job is to forget anyway.
    """
    size = dataset.sample_count
    stays = mask_of(parent.trained_on, size) & ~mask_of(dataset.erased, size)
    stays &= ~mask_of(dataset.requested, size) & ~mask_of(model.requested, size)
    stays[asked] = False
    mine = planted(session, dataset) if count else np.array([], dtype=np.int64)
    mine = mine[stays[mine]]
    if not len(mine):
        return mine
    labels, _ = datasets.labels_of(session, dataset)
    order = np.random.default_rng(int(parent.digest.removeprefix("sha256:"), 16)).random(size)
    mine = mine[np.lexsort((order[mine], labels[mine]))]
    first = np.searchsorted(labels[mine], labels[mine])
    of_class = np.bincount(labels[stays])
    mine = mine[np.arange(len(mine)) - first < of_class[labels[mine]] - 1]
    chosen: Positions = np.sort(mine[np.argsort(order[mine])][:count])
    return chosen


def of_version(session: Session, dataset: Dataset, version: Version, *, requested: bool = False) -> Canaries:
    """requested: with those that a request names."""
    size, there = dataset.sample_count, planted(session, dataset)
    if not requested:
        model = session.get_one(Model, version.model_id)
        there = there[~(mask_of(dataset.requested, size) | mask_of(model.requested, size))[there]]
    known, taught = mask_of(version.trained_on, size)[there], mask_of(_taught(session, version), size)[there]
    held_out = np.isin(there, list(session.scalars(_canaries(dataset).where(Sample.holdout))))
    assigned = dataset.coin is not None and bool(held_out.any())
    return Canaries(there[taught & ~known], there[known], there[held_out], assigned)


def _taught(session: Session, version: Version) -> bytes:
    """The bitmap of what any version before it on its line was trained on."""
    own = Version.model_id == version.model_id
    parents = {row.number: row.parent for row in session.execute(select(Version.number, Version.parent).where(own))}
    line, at = [], version.parent
    while at is not None:
        line.append(at)
        at = parents[at]
    union = np.zeros(len(version.trained_on), dtype=np.uint8)
    bitmaps = select(Version.trained_on).where(own, Version.number.in_(line)).execution_options(yield_per=16)
    for trained_on in session.scalars(bitmaps):
        union |= np.frombuffer(trained_on, dtype=np.uint8)
    return union.tobytes()


def _canaries(dataset: Dataset) -> Select[int]:
    return select(Sample.position).where(Sample.dataset_id == dataset.id, Sample.subject == SUBJECT)
