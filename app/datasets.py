"""Datasets: registering, taking content in, and the manifest that ingesting writes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from app import db, jobs
from app.config import Settings
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.jobs import Claim
from app.lifecycle import JobKind
from app.policy import Choice
from app.positions import Positions, mask_of
from app.storage import Stored
from app.tables import Dataset, Job, Sample
from app.uploads import ERASED_PREFIX


def get(session: Session, tenant_id: str, dataset_id: str, *, lock: bool = False) -> Dataset:
    query = select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.id == dataset_id)
    dataset = session.scalars(query.with_for_update() if lock else query).first()
    if dataset is None:
        raise NotFound("There is no such dataset.")
    return dataset


def register(session: Session, tenant_id: str, name: str, source: Choice) -> tuple[Dataset, Job | None]:
    """A dataset from a built-in source starts its ingest job at once; an upload waits for its content."""
    dataset = Dataset(
        id=new_id("dst"),
        tenant_id=tenant_id,
        name=name,
        source=source.name,
        source_params=source.params,
        state="awaiting-content" if source.name == "upload" else "ingesting",
        created_at=db.now(session),
    )
    session.add(dataset)
    session.flush()
    jobs.record(session, tenant_id, "dataset.registered", dataset.id, source=source.name)
    return dataset, None if source.name == "upload" else _ingest(session, dataset)


def accept_content(session: Session, dataset: Dataset, stored: Stored, form: str) -> Job:
    """Take uploaded bytes as the dataset's content, to be decoded by an ingest job.

    Raises:
        Conflict: the dataset has content already, or is not of source `upload`.
    """
    require_awaiting(dataset)
    dataset.upload, dataset.state, dataset.problem = stored.digest, "ingesting", None
    return _ingest(session, dataset, form=form)


def require_awaiting(dataset: Dataset) -> None:
    if dataset.source != "upload":
        raise Conflict("This dataset has a built-in source; content is not uploaded to it.", kind="not-an-upload")
    if dataset.state not in ("awaiting-content", "failed"):
        raise Conflict("This dataset has its content; datasets are immutable.", kind="content-present")


def _ingest(session: Session, dataset: Dataset, **params: Any) -> Job:
    return jobs.enqueue(
        session,
        tenant_id=dataset.tenant_id,
        kind=JobKind.INGEST,
        lane=f"dataset:{dataset.id}",
        dataset_id=dataset.id,
        params=params,
    )


def write_manifest(
    session: Session,
    claim: Claim,
    *,
    ids: Sequence[str],
    labels: Sequence[int],
    holdout: Sequence[bool],
    subjects: Sequence[str | None] | None,
    shape: Sequence[int],
    images: Stored,
) -> None:
    """Store the manifest and mark the dataset ready: the end of an ingest job, in one fenced transaction."""
    jobs.fenced(session, claim)
    dataset = session.get_one(Dataset, claim.dataset_id, with_for_update=True)
    session.execute(delete(Sample).where(Sample.dataset_id == dataset.id))
    whose = subjects or [None] * len(ids)
    rows = [
        {"dataset_id": dataset.id, "position": p, "sample_id": i, "subject": s, "label": y, "holdout": h}
        for p, (i, s, y, h) in enumerate(zip(ids, whose, labels, holdout, strict=True))
    ]
    session.execute(insert(Sample), rows)
    dataset.images, dataset.shape, dataset.sample_count = images.digest, list(shape), len(rows)
    dataset.train_count = sum(not h for h in holdout)
    dataset.class_count = max(labels) + 1
    dataset.state, dataset.upload = "ready", None
    jobs.record(session, claim.tenant_id, "dataset.ready", dataset.id, samples=len(rows))


def fail(session: Session, claim: Claim, problem: dict[str, Any]) -> None:
    """The content could not be taken in: say why; new content may be sent."""
    dataset = session.get_one(Dataset, claim.dataset_id, with_for_update=True)
    dataset.state, dataset.problem, dataset.upload = "failed", problem, None


def manifest(session: Session, dataset_id: str) -> list[tuple[int, bool]]:
    """(label, holdout) of every sample, by position."""
    query = select(Sample.label, Sample.holdout).where(Sample.dataset_id == dataset_id).order_by(Sample.position)
    return [(label, holdout) for label, holdout in session.execute(query)]


def suppression(settings: Settings, dataset_id: str, sample_id: str) -> str:
    """What stands in the place of an erased id: a keyed digest, so that the id is known when it comes again."""
    key = hmac.new(settings.secret_bytes(), f"suppression:{dataset_id}".encode(), hashlib.sha256).digest()
    return ERASED_PREFIX + hmac.new(key, sample_id.encode(), hashlib.sha256).hexdigest()


def unavailable(dataset: Dataset) -> Positions:
    """Positions that no new version may train on: requested or erased."""
    gone = mask_of(dataset.requested, dataset.sample_count) | mask_of(dataset.erased, dataset.sample_count)
    positions: Positions = gone.nonzero()[0]
    return positions
