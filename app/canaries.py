"""Canaries: planted samples that are nobody's, forgotten along with real ones and never erased (DESIGN 8).

What was measured of a real deletion cannot be measured again once its samples are gone, and one person's few samples
are always inconclusive. Canaries stay: each unlearn job forgets some more of them by the same method, and together they
say how well the model forgets. A sample is one by its subject, which its upload gives it. Which of them a version has
forgotten is in no table: its ancestors were trained on them, and it was not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.positions import Positions, mask_of
from app.tables import Dataset, Model, Sample, Version

SUBJECT = "lethe:canary"


@dataclass(frozen=True)
class Canaries:
    """Those of a dataset, as a version stands to them.

    forgotten: an ancestor was trained on them and the version was not. known: it was. held_out: never trained on.
    """

    forgotten: Positions
    known: Positions
    held_out: Positions


def draw(session: Session, dataset: Dataset, model: Model, parent: Version, count: int) -> Positions:
    """Those that the next job forgets along: at random, of those that `parent` was trained on, `count` or what is left.

    The draw follows from the parent, so that every rung and every attempt of the same batch gets the same.
    """
    if not count:
        return np.array([], dtype=np.int64)
    size = dataset.sample_count
    taken = mask_of(dataset.requested, size) | mask_of(model.requested, size) | mask_of(dataset.erased, size)
    left = np.flatnonzero(_planted(session, dataset) & mask_of(parent.trained_on, size) & ~taken)
    order = np.random.default_rng(int(parent.digest.removeprefix("sha256:"), 16)).permutation(len(left))
    found: Positions = np.sort(left[order[:count]]).astype(np.int64)
    return found


def of_version(session: Session, dataset: Dataset, version: Version) -> Canaries:
    size = dataset.sample_count
    there = _planted(session, dataset) & ~mask_of(dataset.erased, size)
    known = mask_of(version.trained_on, size)
    taught = mask_of(_taught(session, version), size)
    held_out = np.zeros(size, dtype=bool)
    held_out[list(session.scalars(_canaries(dataset).where(Sample.holdout)))] = True
    groups = (there & taught & ~known, there & known, there & held_out)
    return Canaries(*(np.flatnonzero(group).astype(np.int64) for group in groups))


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


def _planted(session: Session, dataset: Dataset) -> NDArray[np.bool_]:
    mask = np.zeros(dataset.sample_count, dtype=bool)
    mask[list(session.scalars(_canaries(dataset)))] = True
    return mask
