"""The job *ingest*: data are decoded into one array of pixels and a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from app import jobs
from app.blobs import usage
from app.core.positions import Positions
from app.core.tables import Dataset
from app.datasets import records as datasets
from app.datasets import suppression
from app.formats.manifest import SourceError
from app.rules.states import JobState
from engine import places
from engine.data.samples import RawData
from worker.runtime.run import Run


def ingest(run: Run) -> None:
    """Decode a source into one array of pixels and a manifest; the uploaded bytes are removed afterwards."""
    with run.resources.database.read() as session:
        dataset = session.get_one(Dataset, run.claim.dataset_id)
    with run.stage("decode", 0.0, 0.8):
        params = places.parse("sources", dataset.source, dataset.source_params)
        content = run.resources.blobs.fetch(dataset.upload) if dataset.upload else None
        try:
            # What a source downloads goes with this block: it holds the samples that may have to be erased.
            with _folder(run) as cache:
                raw = places.source(dataset.source)(params, cache, content)
        except SourceError as error:
            _refuse_source(run, dataset.upload, error)
            return
    with run.stage("store", 0.8, 1.0):
        raw, erased = _suppressed(run, raw)
        images = run.put(partial(_write_array, raw.images))
        with run.resources.database.write() as session:
            usage.pin(session, run.resources.blobs, images.digest)
            datasets.write_manifest(
                session,
                run.claim,
                ids=raw.ids,
                labels=raw.labels.tolist(),
                holdout=raw.holdout.tolist(),
                subjects=raw.subjects,
                class_names=raw.class_names,
                shape=raw.images.shape[1:],
                images=images,
                erased=erased,
            )
            job = jobs.fenced(session, run.claim)
            jobs.finish(session, job, JobState.SUCCEEDED, result={"samples": len(raw.ids), "left_out": len(erased)})
    _remove_upload(run, dataset.upload)


def _suppressed(run: Run, raw: RawData) -> tuple[RawData, Positions]:
    """The data without what was erased before: in this dataset, before a backup was restored, or in another one of the
    tenant; its positions."""
    settings, dataset_id = run.resources.settings, run.claim.dataset_id or ""
    with run.resources.database.read() as session:
        known = datasets.suppressed(session, dataset_id)
        dataset = session.get_one(Dataset, dataset_id)
    lost = suppression.left_out(run.resources.database, settings, dataset, raw.ids, raw.subjects, raw.images)
    if known:
        marks = ({*datasets.suppressions(settings, dataset_id, name)} for name in raw.ids)
        lost |= np.array([not known.isdisjoint(each) for each in marks])
    gone: Positions = np.flatnonzero(lost).astype(np.int64)
    if not len(gone):
        return raw, gone
    images, ids, subjects = raw.images.copy(), list(raw.ids), list(raw.subjects or [None] * len(raw.ids))
    images[gone] = 0
    for position in gone.tolist():
        ids[position], subjects[position] = datasets.suppression(settings, dataset_id, ids[position]), None
    return replace(raw, images=images, ids=ids, subjects=subjects), gone


@contextmanager
def _folder(run: Run) -> Iterator[Path]:
    """An empty folder of the job, which goes afterwards: what a killed attempt left in it, too."""
    path = run.resources.settings.sources_dir / run.claim.id
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _refuse_source(run: Run, upload: str | None, error: SourceError) -> None:
    problem = jobs.problem("dataset-content", error.detail, errors=[{"detail": line} for line in error.errors])
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        datasets.fail(session, run.claim, problem)
        jobs.finish(session, job, JobState.FAILED, problem=problem)
    _remove_upload(run, upload)


def _remove_upload(run: Run, digest: str | None) -> None:
    if digest is None:
        return
    usage.remove(run.resources.database, run.resources.blobs, digest)


def _write_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
