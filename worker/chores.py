"""The other jobs: take data in, train, import, build references, precompute adversarial sets, purge."""

from __future__ import annotations

import hashlib
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import select

from app import catalog, datasets, erasure, faults, jobs, versions
from app.ids import new_id
from app.jobs import SupersededError
from app.lifecycle import JobState
from app.positions import Positions, mask_of, pack, unpack
from app.safetensors_header import CheckpointError
from app.storage import Stored
from app.tables import (
    AdversarialRow,
    Dataset,
    DeletionRequest,
    Model,
    OutcomeRow,
    ReferenceRow,
    Version,
)
from worker import evaluation, pipeline, references, seeding
from worker.data.sources import SourceError, load_source
from worker.references import ReferenceSignal
from worker.run import JobError, Run
from worker.training import train_recipe
from worker.workpiece import Workpiece, seed_for

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
                raw = load_source(dataset.source, params, Path(cache), content)
        except SourceError as error:
            _refuse_source(run, dataset.upload, error)
            return
    with run.stage("store", 0.8, 1.0):
        images = run.put(partial(_write_array, raw.images))
        with run.desk.database.write() as session:
            erasure.pin(session, run.desk.blobs, images.digest)
            datasets.write_manifest(
                session,
                run.claim,
                ids=raw.ids,
                labels=raw.labels.tolist(),
                holdout=raw.holdout.tolist(),
                subjects=raw.subjects,
                shape=raw.images.shape[1:],
                images=images,
            )
            job = jobs.fenced(session, run.claim)
            jobs.finish(session, job, JobState.SUCCEEDED, result={"samples": len(raw.ids)})
    _forget_upload(run, dataset.upload)


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
    erasure.remove(run.desk.database, run.desk.blobs, digest)


def _write_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


# -- train -----------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Train a version on everything that may be trained on; or an exact retrain to compare with."""
    piece = Workpiece.load(run)
    if run.claim.params["compare_only"]:
        compare(run, piece)
        return
    with run.desk.database.read() as session:
        dataset, model = session.get_one(Dataset, piece.dataset_id), session.get_one(Model, piece.model_id)
        positions = versions.trainable(session, dataset, model)
    stored = _train_on(run, piece, positions)
    with run.stage("evaluate", 0.95, 1.0):
        metrics = _accuracies(run, piece, stored.digest, positions)
        with run.desk.database.write() as session:
            erasure.pin(session, run.desk.blobs, stored.digest)
            versions.publish_trained(session, run.claim, stored, positions, metrics)


def _train_on(run: Run, piece: Workpiece, positions: Positions) -> Stored:
    """Train from random weights on `positions`, with the model's recipe."""
    if not len(positions):
        raise JobError("no-training-data", "no sample is left to train on")
    base = hashlib.sha256(pack(positions)).hexdigest()
    with run.stage("train", 0.0, 0.95) as progress:
        if kept := run.stored("candidate", base):
            return Stored(kept[0], kept[1]["size"])
        model = piece.fresh(seed_for(run, "weights"))
        generator = seeding.generator(seed_for(run, "order"), run.desk.device)
        resumable = progress.part(0.0, 1.0, f"train:{base}")
        train_recipe(model, piece.recipe, piece.samples, piece.on_device(positions), generator, resumable)
        stored = piece.store(run, model)
        run.keep("candidate", base, stored)
    return stored


def _accuracies(run: Run, piece: Workpiece, digest: str, trained_on: Positions) -> dict[str, float | None]:
    logits = evaluation.logits(piece.restore(run, digest), piece.samples.images).cpu().numpy()
    right = logits.argmax(axis=1) == piece.labels
    return {
        "accuracy_train": float(right[trained_on].mean()) if len(trained_on) else None,
        "accuracy_test": float(right[piece.holdout].mean()) if len(piece.holdout) else None,
    }


def compare(run: Run, piece: Workpiece) -> None:
    """Retrain exactly without one request's samples, and measure the result on them. Never published."""
    with run.desk.database.read() as session:
        request = session.get_one(DeletionRequest, run.claim.params["exclude_request"])
        outcome = session.get(OutcomeRow, (request.id, piece.model_id))
        dataset = session.get_one(Dataset, piece.dataset_id)
        if request.fulfilled_at or mask_of(dataset.erased, dataset.sample_count)[unpack(request.positions)].any():
            raise JobError("samples-erased", "the samples have been erased: a retrain cannot be measured on them")
        if outcome is None:
            raise JobError("not-affected", "this model was not trained on the request's samples")
        model = session.get_one(Model, piece.model_id)
        version = versions.get(session, model, outcome.version) if outcome.version else versions.current(session, model)
        if version is None:
            raise JobError("no-version", "the model has no current version")
        forget, remain = _sides(session.get_one(Version, version.id), request, dataset)
    stored = _train_on(run, piece, remain)
    with run.stage("audit", 0.95, 1.0):
        measured = pipeline.measure(run, piece, stored.digest, None, forget, remain, grouped=request.by_subject)
        report = pipeline.report_of(
            run, piece, stored, measured, parent=None, method=("retrain", {}), forget=forget, remain=remain
        )
        with run.desk.database.write() as session:
            document = report.model_dump(mode="json")
            metrics = pipeline.metrics_of(measured.candidate)
            erasure.pin(session, run.desk.blobs, stored.digest)
            versions.publish_trained(session, run.claim, stored, remain, metrics, comparison=document)


def _sides(version: Version, request: DeletionRequest, dataset: Dataset) -> tuple[Positions, Positions]:
    """Forget and remain set of the comparison: what `version` holds, or held, without the request's samples.

    Nothing that was erased is left in the remain set.
    """
    size = dataset.sample_count
    asked = np.zeros(size, dtype=bool)
    asked[unpack(request.positions)] = True
    trained = mask_of(version.trained_on, size) & ~mask_of(dataset.erased, size)
    return np.flatnonzero(asked).astype(np.int64), np.flatnonzero(trained & ~asked).astype(np.int64)


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
            versions.publish_imported(session, run.claim, metrics)


# -- references ------------------------------------------------------------------------------------


def build_references(run: Run) -> None:
    """Train the pool's missing reference models, one after the other; each is kept as soon as it is done."""
    piece = Workpiece.load(run)
    count, seed = int(run.claim.params["count"]), run.claim.seed
    family = piece.family()
    pool = hashlib.sha256(f"{family}:{count}:{seed}".encode()).hexdigest()
    design = references.membership(count, piece.samples.n, seed)
    design[:, piece.erased] = False
    with run.desk.database.read() as session:
        have = set(session.scalars(select(ReferenceRow.number).where(ReferenceRow.pool == pool)))
    with run.stage("references", 0.0, 1.0) as progress:
        for number in range(count):
            part = progress.part(
                number / count, (number + 1) / count, f"reference:{pool}:{number}:{piece.images_digest}"
            )
            part.update(0.0)
            if number in have:
                continue
            signal = references.train_reference(number, design, piece.samples, piece.recipe, piece.build, seed, part)
            _keep_reference(run, piece, references.erase(signal, piece.erased), pool, family, number)
    with run.desk.database.write() as session:
        job = jobs.fenced(session, run.claim)
        jobs.finish(session, job, JobState.SUCCEEDED, result={"pool": pool, "references": count})


def _keep_reference(run: Run, piece: Workpiece, signal: ReferenceSignal, pool: str, family: str, number: int) -> None:
    stored = run.put(partial(references.to_file, signal))
    faults.point("references.reference.stored")
    with run.desk.database.write() as session:
        job = jobs.fenced(session, run.claim)
        dataset = session.get_one(Dataset, piece.dataset_id, with_for_update=True)
        if dataset.images != piece.images_digest:
            raise SupersededError("samples were erased while references were trained on them")
        erasure.pin(session, run.desk.blobs, stored.digest)
        session.add(
            ReferenceRow(
                pool=pool,
                number=number,
                family=family,
                pool_size=int(run.claim.params["count"]),
                tenant_id=job.tenant_id,
                dataset_id=piece.dataset_id,
                digest=stored.digest,
                created_at=job.created_at,
            )
        )


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
        erasure.pin(session, run.desk.blobs, stored.digest)
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
        images = _without_pixels(run, work.images, work.positions)
        signals = {key: _without_columns(run, digest, work.positions) for key, digest in work.references.items()}
        sets = {key: _without_rows(run, key, digest, work) for key, digest in work.adversarial.items()}
        suppress = partial(datasets.suppression, run.desk.settings, work.dataset_id)
        fresh = [images, *signals.values(), *(digest for digest, _ in sets.values())]
        with run.desk.database.write() as session:
            for digest in sorted({digest for digest in fresh if digest}):
                erasure.pin(session, run.desk.blobs, digest)
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
    images = np.load(run.desk.blobs.fetch(digest), allow_pickle=False)
    images[positions] = 0
    return run.put(partial(_write_array, images)).digest


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
