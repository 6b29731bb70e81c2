"""Imported checkpoints: announced by digest, sent, and published by a job like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import jobs
from app.blobs.folder import Stored
from app.core.errors import Conflict
from app.core.positions import Positions, members
from app.core.tables import Dataset, Job, Model, Version
from app.jobs import Claim, outbox
from app.models import records as models
from app.models import versions
from app.releases.publishing import add, locked, make_current
from app.rules.states import JobKind, JobState, VersionState


def declare_import(
    session: Session, model: Model, digest: str, trained_on: Positions, stated: dict[str, Any] | None = None
) -> Version:
    """Announce a checkpoint that will be uploaded: its digest and what it was trained on.

    stated: what its owner measured: `accuracy` or `logits`, the `positions` of samples (none: the holdout), and
    `tolerance`. It is kept until the import ends.

    Raises:
        Conflict: the model has a version or was purged, or the checkpoint was trained on samples that were requested
            or erased.
    """
    models.refuse_purged(model)
    _require_first(model)
    _refuse_unavailable(session, model, digest, trained_on)
    announced = Stored(digest, 0)
    version = add(
        session,
        model,
        origin="imported",
        parent=None,
        stored=announced,
        trained_on=trained_on,
        metrics={},
        job_id=None,
    )
    version.stated = stated
    return version


def _require_first(model: Model) -> None:
    if model.current_version is not None:
        raise Conflict("This model has a version already; an import is its first.", kind="version-present")


def _refuse_unavailable(
    session: Session, model: Model, digest: str, trained_on: Positions, fingerprint: bytes | None = None
) -> None:
    dataset = session.get_one(Dataset, model.dataset_id, with_for_update=True)
    if np.intersect1d(trained_on, versions.unavailable(dataset, model)).size:
        raise Conflict(
            "The checkpoint was trained on samples that have been requested for deletion or erased. If it was not, "
            "name the ids that it was trained on.",
            kind="trained-on-erased",
        )
    if versions.holds_erased(session, model.tenant_id, digest, fingerprint):
        raise Conflict(
            "These weights are a version that holds samples that have been requested for deletion or erased. No "
            "`trained_on` makes them acceptable.",
            kind="trained-on-erased",
        )


def require_awaiting(session: Session, model: Model, version: Version) -> None:
    """Refuse bytes for a version that was not announced, has been published, or is being looked at."""
    busy = select(Job.params).where(
        Job.model_id == model.id,
        Job.kind == JobKind.IMPORT,
        Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
    )
    looked_at = version.number in [params["version"] for params in session.scalars(busy)]
    if version.origin != "imported" or version.state != VersionState.CANDIDATE or looked_at:
        raise Conflict("This version does not wait for a checkpoint.", kind="content-present")
    _require_first(model)


def accept_checkpoint(session: Session, model: Model, version: Version, stored: Stored) -> Job:
    """Take the announced bytes; an import job holds them against the architecture and publishes them.

    Raises:
        Conflict: none are awaited, or since the announcement samples were requested or erased that are in them.
    """
    require_awaiting(session, model, version)
    _refuse_unavailable(session, model, version.digest, members(version.trained_on, len(version.trained_on) * 8))
    version.size = stored.size
    return models.start(session, model, JobKind.IMPORT, seed=0, params={"version": version.number})


def publish_imported(
    session: Session,
    claim: Claim,
    metrics: dict[str, Any],
    warnings: list[str],
    file_names: dict[str, str | None] | None = None,
    fingerprint: bytes | None = None,
) -> None:
    """End an import job: the announced version becomes current.

    file_names: the network's names of the file's tensors, where they differ; None as a name: no network has it.
    fingerprint: of its weights.

    Raises:
        Conflict: the model has a version meanwhile, or the weights hold samples that were requested or erased.
    """
    job, _, model = locked(session, claim)
    version = versions.get(session, model, claim.params["version"])
    _require_first(model)
    trained_on = members(version.trained_on, len(version.trained_on) * 8)
    _refuse_unavailable(session, model, version.digest, trained_on, fingerprint)
    version.fingerprint = fingerprint
    version.metrics, version.job_id, version.stated = metrics, claim.id, None
    version.file_names = file_names or None
    make_current(session, model, version)
    result = {"version": version.number, "digest": version.digest}
    if warnings:
        result["warnings"] = warnings
    jobs.finish(session, job, JobState.SUCCEEDED, result=result)


def drop(session: Session, claim: Claim) -> None:
    """The import was refused: its bytes go, and may be sent again.

    Those of a version that was trained on samples under a request go with that request, which has a receipt for them.
    """
    jobs.fenced(session, claim)
    model = session.get_one(Model, claim.model_id)
    version = versions.get(session, model, claim.params["version"])
    dataset = session.get_one(Dataset, model.dataset_id)
    trained_on = members(version.trained_on, len(version.trained_on) * 8)
    if not np.intersect1d(trained_on, versions.unavailable(dataset, model)).size:
        version.size = 0
        outbox.remove_blob(session, version.digest)
