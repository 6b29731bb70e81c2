"""Data that a deletion brings with it, for a model whose training data this service does not hold (source `external`).

The client uploads the samples to forget, and never-trained controls as holdout, as a dataset that is `carried_for`
the model. A deletion request takes all of it; its purge erases all of it, controls too. The sweeper
erases after a day what no request has taken, or what a cancelled request leaves.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from app import catalog, events, jobs
from app.core import db
from app.core.db import Database
from app.core.errors import Conflict, Unprocessable
from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Job, JobArtifact
from app.datasets import records as datasets
from app.deletions import erasure
from app.jobs import outbox
from app.models import records as models
from app.rules.policy import Choice
from app.rules.states import JobKind, JobState

LIFE = timedelta(days=1)  # of a carried dataset that no request uses


def register(session: Session, tenant_id: str, name: str, source: Choice, model_id: str) -> Dataset:
    """A dataset of samples that the model is to forget: of the classes and the shape that the model knows.

    Raises:
        NotFound: there is no such model.
        Unprocessable: the source is another than `upload`.
        Conflict: the model was purged, or its training data are held here.
    """
    model = models.get(session, tenant_id, model_id)
    if source.name != "upload":
        raise Unprocessable("What a deletion carries is uploaded: `source` must be `upload`.", kind="not-an-upload")
    models.refuse_purged(model)
    own = datasets.get(session, tenant_id, model.dataset_id)
    if datasets.is_held(own):
        raise Conflict("This service holds the model's training data: name its samples instead.", kind="data-held")
    own_params = catalog.ExternalSource.model_validate(own.source_params)
    params = catalog.UploadSource.model_validate(source.params)
    names = params.class_names or own_params.class_names or tuple(str(label) for label in range(own_params.classes))
    if len(names) != own_params.classes:
        raise Unprocessable(f"The model knows {own_params.classes} classes.", kind="class-names")
    # Every sample that the upload does not hold out is in the forget set, so no share is put aside.
    fitting = params.model_copy(update={"class_names": names, "shape": own_params.shape, "holdout_fraction": 0.0})
    chosen = Choice(name="upload", params=fitting.model_dump(mode="json"))
    return datasets.register(session, tenant_id, name, chosen, carried_for=model.id)[0]


def expires_at(dataset: Dataset) -> datetime | None:
    """When it goes unless a request takes it; None where it is not carried, taken, or gone."""
    if dataset.carried_for is None or dataset.state == "erased" or _taken(dataset):
        return None
    return dataset.created_at + LIFE


def _taken(dataset: Dataset) -> bool:
    """Whether an open request names it: one that is cancelled or refused gives its samples back."""
    return bool(mask_of(dataset.requested, dataset.sample_count).any())


def forget_set(session: Session, dataset: Dataset) -> Positions:
    """The forget set: all samples that are not held out."""
    return np.flatnonzero(datasets.labels_of(session, dataset)[1]).astype(np.int64)


def expire(database: Database) -> int:
    """Erase carried data that no open request has taken, a day after they were registered; how many datasets.

    What jobs on them stored goes too, such as adversarial neighbours, also where a failed job kept it to go on from.
    """
    with database.write() as session:
        due = select(Dataset).where(
            Dataset.carried_for.is_not(None), Dataset.state != "erased", Dataset.created_at <= db.now(session) - LIFE
        )
        rows = session.scalars(due.with_for_update(skip_locked=True).options(undefer(Dataset.requested))).all()
        untaken = [row for row in rows if not _taken(row)]
        for dataset in untaken:
            _take_back(session, dataset)
        gone = [row for row in untaken if not _worked_on(session, row)]
        for dataset in gone:
            for digest in {*erasure.empty(session, dataset), *_drop_stored(session, dataset)}:
                outbox.remove_blob(session, digest)
            events.record(session, dataset.tenant_id, "dataset.expired", dataset.id)
        return len(gone)


def _drop_stored(session: Session, dataset: Dataset) -> set[str]:
    """Rows of what the dataset's jobs stored, all of which have ended; the digests."""
    stored = JobArtifact.job_id.in_(select(Job.id).where(Job.dataset_id == dataset.id))
    digests = set(session.scalars(select(JobArtifact.digest).where(stored)))
    session.execute(delete(JobArtifact).where(stored))
    return digests


def _take_back(session: Session, dataset: Dataset) -> None:
    """Cancel its taking in where that has not begun: there may never be a worker for it."""
    waiting = select(Job).where(Job.dataset_id == dataset.id, Job.kind == JobKind.INGEST, Job.state == JobState.QUEUED)
    for job in session.scalars(waiting.with_for_update(skip_locked=True)).all():
        ended = jobs.problem("expired", "the carried data were erased before a worker took them in")
        jobs.finish(session, job, JobState.CANCELLED, problem=ended)
    session.flush()


def _worked_on(session: Session, dataset: Dataset) -> bool:
    active = select(Job.id).where(Job.dataset_id == dataset.id, Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
    return session.scalars(active.limit(1)).first() is not None
