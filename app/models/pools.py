"""Pools of reference models: what names one, which one audits use, and when one is built again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import db
from app.core.db import Database
from app.core.positions import mask_of
from app.core.tables import Dataset, DeletionRequest, Job, Model, Receipt, ReferenceRow
from app.models import records as models
from app.rules.states import JobKind

REBUILT_BEFORE = timedelta(days=7)  # a pool that is to go is built again this long before, so that audits go on
STALE_SHARE = 0.1  # of its samples erased: then a pool is built again


@dataclass(frozen=True)
class Pool:
    """A complete pool. `digests`: of its signals, in the order of their numbers."""

    name: str
    family: str
    dataset_id: str
    size: int
    erased_before: int
    digests: tuple[str, ...]


def named(family: str, size: int, seed: int) -> str:
    """The name of the pool of `size` models of a family that `seed` makes."""
    return hashlib.sha256(f"{family}:{size}:{seed}".encode()).hexdigest()


def in_use(session: Session, families: Sequence[str]) -> dict[str, Pool]:
    """By family, the complete pool that audits use: the largest. Of equal ones it is the pool that saw the fewest
    samples that are erased now."""
    wanted = (
        select(ReferenceRow.pool, func.min(ReferenceRow.erased_before))
        .where(ReferenceRow.family.in_(families))
        .group_by(ReferenceRow.pool, ReferenceRow.family, ReferenceRow.pool_size)
        .having(func.count() == ReferenceRow.pool_size)
        .order_by(
            ReferenceRow.family,
            ReferenceRow.pool_size.desc(),
            func.min(ReferenceRow.erased_before).desc(),
            ReferenceRow.pool,
        )
        .add_columns(ReferenceRow.family)
    )
    chosen: dict[str, tuple[str, int]] = {}
    for name, erased_before, kin in session.execute(wanted):
        chosen.setdefault(kin, (name, erased_before))
    found = {}
    for kin, (name, erased_before) in chosen.items():
        members = select(ReferenceRow).where(ReferenceRow.pool == name).order_by(ReferenceRow.number)
        rows = session.scalars(members).all()
        digests = tuple(row.digest for row in rows)
        found[kin] = Pool(name, kin, rows[0].dataset_id, len(rows), erased_before, digests)
    return found


def share_erased(pool: Pool, dataset: Dataset) -> float:
    """Of the samples that the pool was built on, the share that has been erased since."""
    erased = int(mask_of(dataset.erased, dataset.sample_count).sum())
    return (erased - pool.erased_before) / max(1, dataset.sample_count - pool.erased_before)


def rebuild_stale(database: Database) -> int:
    """Queue a new pool of the same size for each that has become stale while a model needs it; how many.

    Once for each stale pool, in any number of calls and processes. Audits go on with the stale pool until
    the new one is complete.
    """
    with database.read() as session:
        datasets = session.scalars(select(ReferenceRow.dataset_id).distinct()).all()
    return sum(_rebuild(database, dataset_id) for dataset_id in datasets)


def _rebuild(database: Database, dataset_id: str) -> int:
    with database.read() as session:
        if not _stale(session, dataset_id):
            return 0
    with database.write() as session:
        session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())
        stale = _stale(session, dataset_id)
        for pool, model in stale:
            # Another seed, so that it is another pool; made from the old one's name, so that it is always the same.
            seed, params = int(pool.name[:7], 16), {"count": pool.size, "replaces": pool.name}
            models.start(session, model, JobKind.REFERENCES, seed=seed, params=params)
        return len(stale)


def _going(session: Session, dataset_id: str) -> set[str]:
    """Pools that are retired soon, because they were made from samples that are erased."""
    soon = (
        select(Receipt.detail)
        .join(DeletionRequest, DeletionRequest.id == Receipt.request_id)
        .where(Receipt.subject == "reference-pool", Receipt.done_at.is_(None), DeletionRequest.dataset_id == dataset_id)
        .where(Receipt.due_at < db.now(session) + REBUILT_BEFORE)
    )
    return {detail.removeprefix("pool ").partition(":")[0] for detail in session.scalars(soon)}


def _stale(session: Session, dataset_id: str) -> list[tuple[Pool, Model]]:
    """Pools in use that are stale and not being replaced, each with the oldest model that needs it."""
    dataset = session.get_one(Dataset, dataset_id)
    live = select(Model).where(
        Model.dataset_id == dataset_id, Model.purged_at.is_(None), Model.current_version.is_not(None)
    )
    owners: dict[str, Model] = {}
    for model in session.scalars(live.order_by(Model.id)):
        owners.setdefault(models.family(model), model)
    going = _going(session, dataset_id)
    pools = [
        pool
        for pool in in_use(session, list(owners)).values()
        if pool.name in going or share_erased(pool, dataset) > STALE_SHARE
    ]
    if not pools:
        return []
    started = select(Job.params).where(Job.dataset_id == dataset_id, Job.kind == JobKind.REFERENCES)
    replaced = {params.get("replaces") for params in session.scalars(started)}
    return [(pool, owners[pool.family]) for pool in pools if pool.name not in replaced]
