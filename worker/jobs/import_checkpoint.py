"""The job *import*: an uploaded checkpoint is checked against its architecture, measured and published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.errors import AppError
from app.core.positions import Positions, mask_of, pack, unpack
from app.core.tables import Model
from app.formats.checkpoint_header import CheckpointError
from app.models import versions
from app.releases import imports
from engine import agreement, checkpoints
from engine.agreement import Stated
from engine.data.samples import gather
from worker.runtime.run import JobError, Run
from worker.stages import fingerprints
from worker.stages.loaded import LoadedModel


def import_checkpoint(run: Run) -> None:
    """Check an uploaded checkpoint against its architecture and what its owner measured, and publish it as the model's
    first version; or remove its bytes."""
    try:
        _import(run)
    except (JobError, AppError):  # not what another worker may do better
        with run.resources.database.write() as session:
            imports.drop(session, run.claim)
        raise


def _import(run: Run) -> None:
    loaded = LoadedModel.load(run.resources, run.claim)
    with run.resources.database.read() as session:
        model = session.get_one(Model, loaded.model_id)
        version = versions.get(session, model, run.claim.params["version"])
        trained_on = unpack(pack(mask_of(version.trained_on, len(loaded.labels)).nonzero()[0]))
        stated = version.stated
    if not version.size:  # an attempt before has removed them
        raise JobError("content-missing", "the bytes were removed when their import failed; send them again")
    with run.stage("check", 0.0, 1.0):
        try:
            metrics, warnings = _measured(loaded, version.digest, trained_on, stated)
            file_names = checkpoints.file_names(run.resources.blobs.fetch(version.digest), loaded.build())
        except CheckpointError as error:
            raise JobError("checkpoint-refused", str(error)) from None
        fingerprint = fingerprints.of(run.resources, version.digest, file_names)
        with run.resources.database.read() as session:
            unknown = versions.without_fingerprint(session, version.tenant_id)
        fingerprints.remember(run.resources, unknown)
        with run.resources.database.write() as session:
            imports.publish_imported(session, run.claim, metrics, warnings, file_names, fingerprint)


def _measured(
    loaded: LoadedModel, digest: str, trained_on: Positions, stated: dict[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Metrics of the version, and warnings.

    Raises:
        JobError: what was stated and what is measured differ.
    """
    if not loaded.samples.n:
        return loaded.accuracies(digest, trained_on), []
    logits = loaded.logits(digest)
    metrics: dict[str, Any] = loaded.accuracies_of(logits, trained_on)
    if stated:
        return {**metrics, "stated": _agreed(loaded, digest, logits, stated)}, []
    where = loaded.holdout if len(loaded.holdout) else trained_on
    accuracy = metrics["accuracy_test"] if len(loaded.holdout) else metrics["accuracy_train"]
    warning = agreement.no_better_than_chance(accuracy, loaded.labels[where]) if len(where) else None
    return (metrics, []) if warning is None else ({**metrics, "warnings": [warning]}, [warning])


def _agreed(
    loaded: LoadedModel, digest: str, logits: NDArray[np.float32], stated: dict[str, Any]
) -> dict[str, float | int]:
    where = np.array(stated["positions"], dtype=np.int64) if "positions" in stated else loaded.holdout
    given = Stated(
        stated.get("accuracy"),
        np.array(stated["logits"]) if "logits" in stated else None,
        stated.get("tolerance"),
    )
    if given.empty or np.isin(where, loaded.erased).any() or not len(where):
        raise JobError(
            "stated-erased", "samples on which it was measured have been erased; announce the checkpoint again"
        )
    found = agreement.compare(logits[where], loaded.labels[where], given)
    if not found.agrees:
        tried = agreement.tried(len(where))
        causes = agreement.causes(
            lambda contract: replace(loaded, contract=contract).restore(digest),
            loaded.contract,
            gather(loaded.samples.images, loaded.on_device(where[tried])),
            loaded.labels[where[tried]],
            given.part(tried),
        )
        raise JobError("import-disagrees", f"{found.sentence}. Likeliest causes: {'; '.join(causes)}")
    return {
        "samples": len(where),
        "accuracy": found.accuracy,
        "difference": found.difference,
        "tolerance": given.allowed,
    }
