"""Deleting datasets, models and versions that nobody needs, and what that would erase, said before."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import events
from app.blobs.folder import BlobMissingError
from app.blobs.open import Blobs
from app.core import db
from app.core.errors import Conflict
from app.core.positions import mask_of
from app.core.tables import (
    AdversarialRow,
    Alias,
    Dataset,
    DatasetCopy,
    DeletionRequest,
    Job,
    Model,
    OutcomeRow,
    ReferenceRow,
    Shard,
    Version,
)
from app.datasets import shards
from app.deletions import erasure
from app.jobs import outbox
from app.models import bases
from app.models import records as models
from app.rules.states import Decision, JobState, Outcome, VersionState

MOST_NAMED = 20  # of each kind that needs a dataset


def of_version(session: Session, model: Model, version: Version) -> dict[str, Any]:
    """What deleting the version would erase, and what keeps it from being deleted (`needed`)."""
    needed = []
    if version.state == VersionState.CURRENT:
        needed.append("it is the current version")
    if version.state == VersionState.PURGED:
        needed.append("it is purged already")
    if version.number == model.blessed_version and version.state != VersionState.CURRENT:
        needed.append("deletions are measured against it; promote another version first")
    named = select(Alias.name).where(Alias.model_id == model.id, Alias.version == version.number)
    needed += [f"the alias {name} means it" for name in session.scalars(named.order_by(Alias.name))]
    needed += [
        f"the model {other.id} starts from it"
        for other in bases.starting_from(session, model)
        if (other.base or {}).get("version") == version.number
    ]
    if models.has_running_job(session, model):
        needed.append("a job is running on the model")
    return {"versions": [version.number], "bytes": version.size, "needed": needed}


def delete_version(session: Session, model: Model, version: Version) -> None:
    """Erase a version's checkpoint; its row stays as the record of what was there.

    Raises:
        Conflict: somebody needs it; says who.
    """
    if needed := of_version(session, model, version)["needed"]:
        raise Conflict(f"This version is needed: {'; '.join(needed)}.", kind="version-needed")
    # Due at once: the sweeper removes the bytes and dates their receipts.
    version.state, version.purge_after, version.stated = VersionState.SUPERSEDED, db.now(session), None
    events.record(session, model.tenant_id, "version.deleted", version.id, number=version.number)


def of_model(session: Session, model: Model) -> dict[str, Any]:
    """What purging the whole model would erase and end, and what keeps it from being purged (`needed`)."""
    live = select(Version).where(Version.model_id == model.id, Version.state != VersionState.PURGED, Version.size > 0)
    kept = session.scalars(live.order_by(Version.number)).all()
    needed = [f"the model {other.id} starts from a version of it" for other in bases.starting_from(session, model)]
    if models.has_running_job(session, model):
        needed.append("a job is running on it")
    waiting = select(func.count()).where(Job.model_id == model.id, Job.state == JobState.QUEUED)
    open_ = select(func.count()).where(
        OutcomeRow.model_id == model.id,
        OutcomeRow.state.in_([Outcome.PENDING, Outcome.BATCHED, Outcome.ATTENTION]),
    )
    sets = select(func.count()).where(AdversarialRow.model_id == model.id)
    aliases = select(Alias.name).where(Alias.model_id == model.id).order_by(Alias.name)
    return {
        "versions": [version.number for version in kept],
        "bytes": sum(version.size for version in kept),
        "adversarial_sets": session.scalars(sets).one(),
        "aliases": list(session.scalars(aliases)),
        "jobs_cancelled": session.scalars(waiting).one(),
        "requests_settled": session.scalars(open_).one(),
        "needed": needed,
    }


def of_dataset(session: Session, blobs: Blobs, dataset: Dataset) -> dict[str, Any]:
    """What deleting the dataset would erase, and what keeps it from being deleted (`needed`)."""
    needed = ["it is erased already"] if dataset.state == "erased" else []
    live = select(Model.id).where(Model.dataset_id == dataset.id, Model.purged_at.is_(None)).order_by(Model.id)
    needed += [f"the model {model} is of it; purge the model first" for model in session.scalars(live)]
    open_ = select(DeletionRequest.id).where(
        DeletionRequest.dataset_id == dataset.id,
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.decision.in_([Decision.RECEIVED, Decision.ACCEPTED, Decision.HELD]),
    )
    needed += [f"the deletion request {request} is open" for request in session.scalars(open_.limit(MOST_NAMED))]
    busy = select(Job.id).where(Job.dataset_id == dataset.id, Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
    needed += [f"the job {job} works on it" for job in session.scalars(busy.limit(MOST_NAMED))]
    needed += [f"the dataset {taker} is to take a shard from it" for taker in shards.takers(session, dataset)]
    copies = session.scalars(select(DatasetCopy.digest).where(DatasetCopy.dataset_id == dataset.id)).all()
    signals = session.scalars(select(ReferenceRow.digest).where(ReferenceRow.dataset_id == dataset.id)).all()
    sent = session.scalars(select(Shard.blob).where(Shard.dataset_id == dataset.id, Shard.blob.is_not(None))).all()
    held = {digest for digest in (dataset.images, dataset.upload, *copies, *signals, *sent) if digest}
    there = len(mask_of(dataset.erased, dataset.sample_count).nonzero()[0])
    return {
        "samples": dataset.sample_count - there,
        "bytes": sum(_size(blobs, digest) for digest in held),
        "copies": len(copies),
        "reference_signals": len(signals),
        "shards": len(sent),
        "needed": needed,
    }


def _size(blobs: Blobs, digest: str) -> int:
    try:
        return blobs.size(digest)
    except BlobMissingError:
        return 0


def delete_dataset(session: Session, blobs: Blobs, dataset: Dataset) -> None:
    """Erase all that a dataset holds, its ids too; its row stays as the record of what was there.

    Raises:
        Conflict: somebody needs it; says who.
    """
    if needed := of_dataset(session, blobs, dataset)["needed"]:
        raise Conflict(f"This dataset is needed: {'; '.join(needed)}.", kind="dataset-needed")
    erase_dataset(session, dataset)


def erase_dataset(session: Session, dataset: Dataset) -> None:
    """`delete_dataset` without asking who needs it."""
    digests = erasure.empty(session, dataset)
    for row in session.scalars(select(ReferenceRow).where(ReferenceRow.dataset_id == dataset.id)).all():
        digests.append(row.digest)
        session.delete(row)
    for digest in digests:
        outbox.remove_blob(session, digest)
    events.record(session, dataset.tenant_id, "dataset.deleted", dataset.id)
