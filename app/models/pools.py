"""Pools of reference models: what names one, which one audits use, and when one is built again.

Of a pool in `halves` each sample is in half of the models; in `folds` exactly one left it out. A pool that is `given`
is the client's own models, trained as the model was, as the client says; of one that is `given-other` nobody says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.db import Database
from app.core.errors import Conflict, Unprocessable
from app.core.positions import mask_of
from app.core.tables import Dataset, DeletionRequest, Job, Model, Receipt, ReferenceRow, Version
from app.datasets import records as datasets
from app.models import records as models
from app.models import versions
from app.rules.states import JobKind, JobState

HALVES, FOLDS, GIVEN, GIVEN_OTHER = "halves", "folds", "given", "given-other"
REBUILT_BEFORE = timedelta(days=7)  # a pool that is to go is built again this long before, so that audits go on
FAILED = (JobState.FAILED, JobState.DEAD)
TRIES = 3  # jobs that build a successor, where the ones before failed
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
    design: str = HALVES

    @property
    def strength(self) -> float:
        """How many models stand for what a sample is to a model that has not seen it."""
        return 1.0 if self.design == FOLDS else self.size / 2


def named(family: str, size: int, seed: int, design: str = HALVES) -> str:
    """The name of the pool of `size` models of a family that `seed` makes."""
    parts = f"{family}:{size}:{seed}" + ("" if design == HALVES else f":{design}")
    return hashlib.sha256(parts.encode()).hexdigest()


def given(session: Session, model: Model, digests: Sequence[str], design: str) -> str:
    """Record the client's own references of the model, by the digests of their signals; the name of their pool. One
    that is there already stays.
    """
    kin = models.family(model)
    name = hashlib.sha256(":".join([kin, design, *digests]).encode()).hexdigest()
    if session.get(ReferenceRow, (name, 0)) is None:
        dataset = session.get_one(Dataset, model.dataset_id)
        erased = int(mask_of(dataset.erased, dataset.sample_count).sum())
        session.add_all(
            ReferenceRow(
                pool=name,
                number=number,
                family=kin,
                pool_size=len(digests),
                tenant_id=model.tenant_id,
                dataset_id=model.dataset_id,
                digest=digest,
                erased_before=erased,
                design=design,
                created_at=db.now(session),
            )
            for number, digest in enumerate(digests)
        )
        data = {"pool": name, "references": len(digests), "design": design}
        events.record(session, model.tenant_id, "references.given", model.id, **data)
    return name


def require_ready(session: Session, model: Model) -> None:
    """Refuse signals of references for a model that has no samples to hold them against.

    Raises:
        Conflict: says why.
    """
    models.refuse_purged(model)
    dataset = session.get_one(Dataset, model.dataset_id)
    if not datasets.is_held(dataset):
        raise Conflict("This service does not hold the model's training data.", kind="data-not-held")
    if dataset.state != "ready":
        raise Conflict("The model's dataset is not ready yet.", kind="dataset-not-ready")


def require_reference(session: Session, model: Model, version: Version) -> None:
    """Refuse a version that cannot be a reference of the model.

    Raises:
        Unprocessable: it is of another dataset, saw everything or nothing of it, or is what is to be audited.
    """
    of = session.get_one(Model, version.model_id)
    dataset = session.get_one(Dataset, model.dataset_id)
    if of.dataset_id != model.dataset_id:
        raise Unprocessable("A reference must be a version of a model on the same dataset.", kind="references-refused")
    if of.id == model.id and version.origin != "comparison":
        raise Unprocessable(
            "A version of the model itself is what is audited, and no reference.", kind="references-refused"
        )
    seen = mask_of(version.trained_on, dataset.sample_count).sum()
    if not 0 < seen < dataset.sample_count:
        raise Unprocessable(
            "A reference must have been trained on some of the samples and not on others.", kind="references-refused"
        )


def require_left_out(session: Session, model: Model, given: Sequence[Version]) -> None:
    """Refuse references each of which saw all that the model's current version was trained on.

    Raises:
        Unprocessable: no sample that may be asked for has a reference that left it out.
    """
    current = versions.current(session, model)
    if current is None:
        return
    size = session.get_one(Dataset, model.dataset_id).sample_count
    seen = np.logical_and.reduce([mask_of(version.trained_on, size) for version in given])
    if seen[mask_of(current.trained_on, size)].all():
        raise Unprocessable(
            "Each of these saw every sample that the current version was trained on: none says what a model says that "
            "left a sample out. Train references on halves, or send versions that were trained without some samples.",
            kind="references-refused",
        )


def in_use(session: Session, families: Sequence[str]) -> dict[str, Pool]:
    """By family, the complete pool that audits use: the strongest, then the largest. Of equal ones it is the pool that
    saw the fewest samples that are erased now."""
    rows = session.scalars(
        select(ReferenceRow).where(ReferenceRow.family.in_(families)).order_by(ReferenceRow.pool, ReferenceRow.number)
    )
    complete = []
    for name, each in groupby(rows, key=lambda row: row.pool):
        members = list(each)
        first = members[0]
        if len(members) == first.pool_size:
            erased = min(row.erased_before for row in members)
            digests = tuple(row.digest for row in members)
            complete.append(Pool(name, first.family, first.dataset_id, len(members), erased, digests, first.design))
    complete.sort(key=lambda pool: (pool.strength, pool.size, pool.erased_before))
    return {pool.family: pool for pool in complete}


def share_erased(pool: Pool, dataset: Dataset) -> float:
    """Of the samples that the pool was built on, the share that has been erased since."""
    erased = int(mask_of(dataset.erased, dataset.sample_count).sum())
    return (erased - pool.erased_before) / max(1, dataset.sample_count - pool.erased_before)


def rebuild_stale(database: Database) -> int:
    """Queue a new pool of the same size for each that has become stale while a model needs it; how many.

    Once for each stale pool, in any number of calls and processes, and again where that job failed. Audits go on with
    the stale pool until the new one is complete.
    """
    with database.read() as session:
        failed = select(Job.dataset_id).where(Job.kind == JobKind.REFERENCES, Job.state.in_(FAILED))
        of = set(session.scalars(select(ReferenceRow.dataset_id).distinct())) | set(session.scalars(failed))
    return db.one_by_one(sorted(filter(None, of)), partial(_rebuild, database), "a stale pool could not be queued anew")


def _rebuild(database: Database, dataset_id: str) -> int:
    with database.read() as session:
        if not _wanted(session, dataset_id):
            return 0
    with database.write() as session:
        return queue_successors(session, dataset_id)


def queue_successors(session: Session, dataset_id: str) -> int:
    """Queue the pools that take the place of stale ones of the dataset, and have none queued yet; how many."""
    session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())
    wanted = _wanted(session, dataset_id)
    for successor in wanted:
        models.start(session, successor.model, JobKind.REFERENCES, seed=successor.seed, params=successor.params)
    return len(wanted)


@dataclass(frozen=True)
class _Successor:
    """A pool to build: for which model, from which seed, and the parameters of its job."""

    model: Model
    seed: int
    params: dict[str, Any]


def _wanted(session: Session, dataset_id: str) -> list[_Successor]:
    owners = _owners(session, dataset_id)
    if not owners:
        return []
    jobs = select(Job).where(Job.dataset_id == dataset_id, Job.kind == JobKind.REFERENCES).order_by(Job.id)
    built = session.scalars(jobs).all()
    used = in_use(session, list(owners))
    wanted = [_successor(pool, owners[pool.family], built) for pool in _stale(session, dataset_id, used, built)]
    return wanted + _failed(session, owners, used, built)


def _owners(session: Session, dataset_id: str) -> dict[str, Model]:
    """By family, the oldest model that needs its pool."""
    live = select(Model).where(
        Model.dataset_id == dataset_id, Model.purged_at.is_(None), Model.current_version.is_not(None)
    )
    owners: dict[str, Model] = {}
    for model in session.scalars(live.order_by(Model.id)):
        owners.setdefault(models.family(model), model)
    return owners


def _successor(pool: Pool, model: Model, built: Sequence[Job]) -> _Successor:
    """With another seed, so that it is another pool; made from the old one's name, so that it is always the same. Which
    model sees which samples stays as it was `drawn`, also when the old pool is gone."""
    params: dict[str, Any] = {"count": pool.size, "design": pool.design, "replaces": pool.name}
    if (drawn := _drawn(pool.name, built)) is not None:
        params["drawn"] = drawn
    return _Successor(model, int(pool.name[:7], 16), params)


def _drawn(name: str, built: Sequence[Job]) -> int | None:
    """The seed by which samples were drawn for a pool, or for the first of those whose place it took."""
    made = {job.result["pool"]: job for job in built if job.result and "pool" in job.result}
    seen = set[str]()
    while (job := made.get(name)) is not None and name not in seen:
        seen.add(name)
        if "drawn" in job.params:
            return int(job.params["drawn"])
        if not job.params.get("replaces"):
            return job.seed
        name = job.params["replaces"]
    return None


def _failed(
    session: Session, owners: Mapping[str, Model], used: Mapping[str, Pool], built: Sequence[Job]
) -> list[_Successor]:
    """Successors whose jobs failed, while no other pool has come, also where the one that they replace is gone."""
    tried: dict[str, list[Job]] = {}
    for job in built:
        if job.params.get("replaces"):
            tried.setdefault(job.params["replaces"], []).append(job)
    found = []
    for replaced, each in tried.items():
        if len(each) >= TRIES or any(job.state not in FAILED for job in each):
            continue
        of = session.get(Model, each[-1].model_id)
        family = models.family(of) if of is not None else ""
        if family in owners and (family not in used or used[family].name == replaced):
            found.append(_Successor(owners[family], each[-1].seed, _as_asked(each[-1].params)))
    return found


def _as_asked(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in ("count", "design", "replaces", "drawn") if name in params}


def _going(session: Session, dataset_id: str) -> set[str]:
    """Pools that are retired soon, because they were made from samples that are erased."""
    soon = (
        select(Receipt.detail)
        .join(DeletionRequest, DeletionRequest.id == Receipt.request_id)
        .where(Receipt.subject == "reference-pool", Receipt.done_at.is_(None), DeletionRequest.dataset_id == dataset_id)
        .where(Receipt.due_at < db.now(session) + REBUILT_BEFORE)
    )
    return {detail.removeprefix("pool ").partition(":")[0] for detail in session.scalars(soon)}


def _stale(session: Session, dataset_id: str, used: Mapping[str, Pool], built: Sequence[Job]) -> list[Pool]:
    """Pools in use that are stale, and that no job was to replace."""
    dataset = session.get_one(Dataset, dataset_id)
    going, replaced = _going(session, dataset_id), {job.params.get("replaces") for job in built}
    return [
        pool
        for pool in used.values()
        if pool.design in (HALVES, FOLDS)
        and pool.name not in replaced
        and (pool.name in going or share_erased(pool, dataset) > STALE_SHARE)
    ]
