"""The other jobs: take data in, train, import, build references, precompute adversarial sets, purge."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from app import catalog, datasets, erasure, faults, holders, jobs, publishing, versions
from app.ids import new_id
from app.jobs import SupersededError
from app.lifecycle import JobState
from app.manifest import SourceError
from app.positions import Positions, mask_of, pack, unpack
from app.safetensors_header import CheckpointError
from app.tables import AdversarialRow, Dataset, Model, Version
from worker import audit_jobs, evaluation, pipeline, references, registry
from worker.data.samples import RawData
from worker.run import JobError, Run
from worker.unlearning import train_on
from worker.workpiece import Workpiece

# -- ingest ----------------------------------------------------------------------------------------


def ingest(run: Run) -> None:
    """Decode a source into one array of pixels and a manifest; the uploaded bytes are removed afterwards."""
    with run.desk.database.read() as session:
        dataset = session.get_one(Dataset, run.claim.dataset_id)
    with run.stage("decode", 0.0, 0.8):
        params = catalog.parse("sources", dataset.source, dataset.source_params)
        content = run.desk.blobs.fetch(dataset.upload) if dataset.upload else None
        try:
            # What a source downloads goes with this block: it holds the samples that may have to be erased.
            with tempfile.TemporaryDirectory(dir=_folder(run.desk.settings.sources_dir)) as cache:
                raw = registry.SOURCES[dataset.source](params, Path(cache), content)
        except SourceError as error:
            _refuse_source(run, dataset.upload, error)
            return
    with run.stage("store", 0.8, 1.0):
        raw, erased = _suppressed(run, raw)
        images = run.put(partial(_write_array, raw.images))
        with run.desk.database.write() as session:
            holders.pin(session, run.desk.blobs, images.digest)
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
            jobs.finish(session, job, JobState.SUCCEEDED, result={"samples": len(raw.ids)})
    _forget_upload(run, dataset.upload)


def _suppressed(run: Run, raw: RawData) -> tuple[RawData, Positions]:
    """The data without what had been erased before a backup was restored; its positions."""
    settings, dataset = run.desk.settings, run.claim.dataset_id or ""
    with run.desk.database.read() as session:
        known = datasets.suppressed(session, dataset)
    marks = [datasets.suppression(settings, dataset, name) for name in raw.ids] if known else []
    gone: Positions = np.flatnonzero([mark in known for mark in marks]).astype(np.int64)
    if not len(gone):
        return raw, gone
    images, ids, subjects = raw.images.copy(), list(raw.ids), list(raw.subjects or [None] * len(raw.ids))
    images[gone] = 0
    for position in gone.tolist():
        ids[position], subjects[position] = marks[position], None
    return replace(raw, images=images, ids=ids, subjects=subjects), gone


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _refuse_source(run: Run, upload: str | None, error: SourceError) -> None:
    problem = jobs.problem("dataset-content", error.detail, errors=[{"detail": line} for line in error.errors])
    with run.desk.database.write() as session:
        job = jobs.fenced(session, run.claim)
        datasets.fail(session, run.claim, problem)
        jobs.finish(session, job, JobState.FAILED, problem=problem)
    _forget_upload(run, upload)


def _forget_upload(run: Run, digest: str | None) -> None:
    if digest is None:
        return
    holders.remove(run.desk.database, run.desk.blobs, digest)


def _write_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


# -- train -----------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Train a version on everything that may be trained on; or an exact retrain to compare with."""
    piece = Workpiece.load(run)
    if run.claim.params["compare_only"]:
        audit_jobs.compare(run, piece)
        return
    with run.desk.database.read() as session:
        dataset, model = session.get_one(Dataset, piece.dataset_id), session.get_one(Model, piece.model_id)
        positions = versions.trainable(session, dataset, model)
    stored = train_on(run, piece, positions)
    with run.stage("evaluate", 0.95, 1.0):
        metrics = _accuracies(run, piece, stored.digest, positions)
        with run.desk.database.write() as session:
            holders.pin(session, run.desk.blobs, stored.digest)
            publishing.publish_trained(session, run.claim, stored, positions, metrics)


def _accuracies(run: Run, piece: Workpiece, digest: str, trained_on: Positions) -> dict[str, float | None]:
    if not piece.samples.n:  # nothing of the data is held here; the checkpoint must fit all the same
        piece.restore(run, digest)
        return {"accuracy_train": None, "accuracy_test": None}
    logits = evaluation.logits(piece.restore(run, digest), piece.samples.images).cpu().numpy()
    right = logits.argmax(axis=1) == piece.labels
    return {
        "accuracy_train": float(right[trained_on].mean()) if len(trained_on) else None,
        "accuracy_test": float(right[piece.holdout].mean()) if len(piece.holdout) else None,
    }


# -- import ----------------------------------------------------------------------------------------


def import_checkpoint(run: Run) -> None:
    """Hold an uploaded checkpoint against its architecture and publish it as the model's first version."""
    piece = Workpiece.load(run)
    with run.desk.database.read() as session:
        model = session.get_one(Model, piece.model_id)
        version = versions.get(session, model, run.claim.params["version"])
        trained_on = unpack(pack(mask_of(version.trained_on, len(piece.labels)).nonzero()[0]))
    with run.stage("check", 0.0, 1.0):
        try:
            metrics = _accuracies(run, piece, version.digest, trained_on)
        except CheckpointError as error:
            raise JobError("checkpoint-refused", str(error)) from None
        with run.desk.database.write() as session:
            publishing.publish_imported(session, run.claim, metrics)


# -- precompute ------------------------------------------------------------------------------------


def precompute(run: Run) -> None:
    """Adversarial examples of the whole training set on the current version, kept for later requests."""
    piece = Workpiece.load(run)
    with run.desk.database.read() as session:
        base = versions.current(session, session.get_one(Model, piece.model_id))
        if base is None:
            raise JobError("no-version", "the model has no current version")
        trained_on = mask_of(session.get_one(Version, base.id).trained_on, len(piece.labels)).nonzero()[0]
    with run.stage("attack", 0.0, 1.0):
        result = pipeline.attack_positions(run, piece, base, trained_on)
        stored = run.put_tensors(vars(result))
    choice = piece.policy.attack
    with run.desk.database.write() as session:
        job = jobs.fenced(session, run.claim)
        dataset = session.get_one(Dataset, piece.dataset_id, with_for_update=True)
        if dataset.images != piece.images_digest:
            raise SupersededError("samples were erased while they were attacked")
        holders.pin(session, run.desk.blobs, stored.digest)
        session.add(
            AdversarialRow(
                id=new_id("adv"),
                tenant_id=job.tenant_id,
                model_id=piece.model_id,
                version=base.number,
                attack=choice.name,
                attack_params=choice.params,
                digest=stored.digest,
                positions=pack(trained_on),
                created_at=job.created_at,
            )
        )
        found = int(result.found.sum())
        jobs.finish(session, job, JobState.SUCCEEDED, result={"found": found, "total": len(trained_on)})


# -- purge -----------------------------------------------------------------------------------------


def purge(run: Run) -> None:
    """Erase what a request's samples left behind; see `app.erasure` for why it takes two transactions."""
    with run.desk.database.read() as session:
        work = erasure.plan(session, run.claim)
    with run.stage("rewrite", 0.0, 0.7):
        images = None if work.carried else _without_pixels(run, work.images, work.positions)
        signals = {key: _without_columns(run, digest, work.positions) for key, digest in work.references.items()}
        sets = {key: _without_rows(run, key, digest, work) for key, digest in work.adversarial.items()}
        suppress = partial(datasets.suppression, run.desk.settings, work.dataset_id)
        fresh = [images, *signals.values(), *(digest for digest, _ in sets.values())]
        with run.desk.database.write() as session:
            for digest in sorted({digest for digest in fresh if digest}):
                holders.pin(session, run.desk.blobs, digest)
            erasure.swap(session, run.claim, work, erasure.Rewritten(images, signals, sets), suppress)
            faults.point("purge.swap.uncommitted")
    with run.stage("remove", 0.7, 1.0):
        erasure.remove_owed(run.desk.database, run.desk.blobs, work.request_id)
        faults.point("purge.removed")
        with run.desk.database.write() as session:
            erasure.complete(session, run.claim, work.request_id)
            faults.point("purge.complete.uncommitted")


def _without_pixels(run: Run, digest: str | None, positions: Positions) -> str | None:
    """The dataset's array with those rows zeroed, as a new blob."""
    if digest is None or not len(positions):
        return digest

    def write(path: Path) -> None:  # in the file: the array need not fit into memory
        shutil.copyfile(run.desk.blobs.fetch(digest), path)
        images = np.load(path, mmap_mode="r+", allow_pickle=False)
        images[positions] = 0
        images.flush()

    return run.put(write).digest


def _without_columns(run: Run, digest: str, positions: Positions) -> str:
    signal = references.erase(references.from_file(run.desk.blobs.fetch(digest)), positions)
    return run.put(partial(references.to_file, signal)).digest


def _without_rows(run: Run, key: str, digest: str, work: erasure.Plan) -> tuple[str, bytes]:
    """A precomputed adversarial set without the request's samples: digest and packed positions."""
    covered = unpack(work.covered[key])
    left = ~np.isin(covered, work.requested)
    rows = torch.from_numpy(left.nonzero()[0]).to(run.desk.device)
    tensors = {name: tensor[rows] for name, tensor in run.tensors(digest).items()}
    return run.put_tensors(tensors).digest, pack(covered[left])
