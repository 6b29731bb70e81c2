"""Jobs that measure: an audit of a version at any time after it was made, and an exact retrain to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.blobs import usage
from app.core.positions import Positions, mask_of, unpack
from app.core.tables import Dataset, DeletionRequest, Job, Model, OutcomeRow, Version
from app.datasets import canaries
from app.datasets.canaries import Canaries
from app.deletions import shams
from app.formats.audit_report import ProbeRun
from app.models import versions
from app.releases import escalation, publishing
from app.reports import audit_rows
from app.rules.policy import Choice
from engine import seeding
from worker.runtime.run import JobError, Run
from worker.stages import auditing, fingerprints
from worker.stages.auditing import Auditor, Subject
from worker.stages.loaded import LoadedModel
from worker.stages.unlearning import train_on

# -- audit -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AuditRequest:
    """What an audit job has to measure, as far as the database knows it.

    candidates: that the policy could try when the version was made, as its published report counts them.
    """

    version: Version
    parent: str | None
    forget: Positions
    remain: Positions
    grouped: bool
    canaries: Canaries | None
    method: Choice | None
    made_by: str
    candidates: int


def audit(run: Run) -> None:
    """Measure a version again. The report joins the version's others; what was published stays as it is."""
    loaded, params = LoadedModel.load(run.resources, run.claim), run.claim.params
    asked = _asked(run, loaded)
    choice = loaded.policy.audit if params["audit"] is None else Choice.model_validate(params["audit"])
    probes: Sequence[Choice] = () if asked.canaries else loaded.policy.probes
    if params["probes"] is not None:
        probes = [Choice.model_validate(probe) for probe in params["probes"]]
    subject = Subject(
        candidate=asked.version.digest,
        parent=asked.parent,
        forget=asked.forget,
        remain=asked.remain,
        audit=choice,
        method=asked.method,
        grouped=asked.grouped,
        canaries=asked.canaries,
    )
    done: list[ProbeRun] = []
    with run.stage("audit", 0.0, 0.5 if probes else 1.0):
        measured = Auditor(loaded, subject).measure(asked.candidates)
    if probes:
        with run.stage("probe", 0.5, 1.0) as progress:
            shadows = auditing.Shadows(run, loaded, subject, progress)
            measured, done = auditing.probed(loaded, subject, probes, measured, before=subject.parent, shadows=shadows)
    report = auditing.report_of(
        loaded,
        subject,
        measured,
        seed=run.claim.seed,
        stage_seconds=run.stage_seconds,
        made_by=asked.made_by,
        version=asked.version.number,
        probes=done,
        sham=bool(params.get("sham")),
    )
    with run.resources.database.write() as session:
        publishing.publish_audit(
            session, run.claim, asked.version.number, loaded.images_digest, report.model_dump(mode="json")
        )


def _asked(run: Run, loaded: LoadedModel) -> AuditRequest:
    """The version with its forget set: the samples that were named, or the canaries unlearned so far; else those of the
    batch that made it, while they are there; else none."""
    params = run.claim.params
    with run.resources.database.read() as session:
        model, dataset = session.get_one(Model, loaded.model_id), session.get_one(Dataset, loaded.dataset_id)
        version = versions.get(session, model, params["version"])
        versions.require_present(version)
        erased = mask_of(dataset.erased, dataset.sample_count)
        trained = mask_of(version.trained_on, dataset.sample_count) & ~erased
        before = versions.parent_of(session, version)
        published = audit_rows.publication(session, version)
        grouped = bool(params["grouped"])
        planted = canaries.of_version(session, dataset, version) if params.get("canaries") else None
        if params.get("sham"):
            planted = shams.of_version(session, dataset, version)
        if planted is not None:
            forget = planted.forgotten
        elif params["positions"] is not None:
            forget = unpack(bytes.fromhex(params["positions"]))
            if erased[forget].any():
                raise JobError("samples-erased", "some of the samples that were named have been erased meanwhile")
        elif before is not None and version.origin == "unlearned" and version.job_id is not None:
            batch = versions.batch(session, version.job_id, dataset, before)
            forget, grouped = batch.forget, batch.grouped
            if erased[forget].any():
                forget = forget[:0]
        else:
            forget = np.array([], dtype=np.int64)
        trained[forget] = False
        report = published.report if published else {}
        method = Choice(name=report["method"], params=report["method_params"]) if report else None
    present = before is not None and before.purged_at is None and planted is None
    return AuditRequest(
        version=version,
        parent=before.digest if before is not None and present else None,
        forget=forget,
        remain=np.flatnonzero(trained).astype(np.int64),
        grouped=grouped,
        canaries=planted,
        method=method,
        made_by=version.origin,
        candidates=report.get("judgement", {}).get("candidates", 1),
    )


# -- comparisons -----------------------------------------------------------------------------------


def compare(run: Run, loaded: LoadedModel) -> None:
    """Retrain exactly without one request's samples, and measure the result on them. Never published."""
    with run.resources.database.read() as session:
        request = session.get_one(DeletionRequest, run.claim.params["exclude_request"])
        outcome = session.get(OutcomeRow, (request.id, loaded.model_id))
        dataset = session.get_one(Dataset, loaded.dataset_id)
        if request.fulfilled_at or mask_of(dataset.erased, dataset.sample_count)[unpack(request.positions)].any():
            raise JobError("samples-erased", "the samples have been erased: a retrain cannot be measured on them")
        if outcome is None:
            raise JobError("not-affected", "this model was not trained on the request's samples")
        model = session.get_one(Model, loaded.model_id)
        version = versions.get(session, model, outcome.version) if outcome.version else versions.current(session, model)
        if version is None:
            raise JobError("no-version", "the model has no current version")
        before = versions.parent_of(session, version) if outcome.version else version
        forget, remain = _sides(version, request, dataset)
        if outcome.version is None:  # what the job that is to come will forget along
            count = loaded.policy.canaries
            remain = np.setdiff1d(remain, canaries.draw(session, dataset, model, version, forget, count))
    stored = train_on(run, loaded, remain)
    subject = Subject(
        candidate=stored.digest,
        parent=None,
        forget=forget,
        remain=remain,
        audit=loaded.policy.audit,
        method=Choice(name="retrain"),
        grouped=request.by_subject,
    )
    probes = loaded.policy.probes
    known = before.digest if before is not None and before.purged_at is None else None
    done: list[ProbeRun] = []
    with run.stage("audit", 0.95, 1.0):
        measured = Auditor(loaded, subject).measure()
        if probes:
            measured, done = auditing.probed(loaded, subject, probes, measured, before=known, shadows=None)
        report = auditing.report_of(
            loaded, subject, measured, seed=run.claim.seed, stage_seconds=run.stage_seconds, probes=done
        )
        fingerprint = fingerprints.of(run.resources, stored.digest)
        with run.resources.database.write() as session:
            document = report.model_dump(mode="json")
            usage.pin(session, run.resources.blobs, stored.digest)
            metrics = auditing.metrics_of(measured.candidate)
            made = publishing.publish_trained(
                session,
                run.claim,
                stored,
                remain,
                metrics,
                comparison=document,
                compares=request.id,
                images=loaded.images_digest,
            )
            made.fingerprint = fingerprint


def train_null(run: Run, loaded: LoadedModel) -> None:
    """Retrain exactly on what the candidate of another job keeps: one of the models that give its batch a null."""
    job_id, number = run.claim.params["null_of"], run.claim.params["number"]
    with run.resources.database.read() as session:
        model, dataset = session.get_one(Model, loaded.model_id), session.get_one(Dataset, loaded.dataset_id)
        parent = versions.current(session, model)
        if parent is None:
            raise JobError("no-version", "the model has no current version")
        policy = escalation.policy_of(session.get_one(Job, job_id).params, loaded.policy)
        batch = versions.batch(session, job_id, dataset, parent, policy.canaries)
    stored = train_on(run, loaded, batch.remain, seeding.derive(run.claim.seed, "null", number))
    subject = Subject(
        candidate=stored.digest,
        parent=None,
        forget=batch.forget,
        remain=batch.remain,
        audit=policy.audit,
        method=Choice(name="retrain"),
        grouped=batch.grouped,
    )
    with run.stage("audit", 0.95, 1.0):
        measured = Auditor(loaded, subject).measure()
        report = auditing.report_of(
            loaded, subject, measured, seed=run.claim.seed, stage_seconds=run.stage_seconds
        ).model_dump(mode="json")
        fingerprint = fingerprints.of(run.resources, stored.digest)
        with run.resources.database.write() as session:
            usage.pin(session, run.resources.blobs, stored.digest)
            made = publishing.publish_trained(
                session,
                run.claim,
                stored,
                batch.remain,
                auditing.metrics_of(measured.candidate),
                comparison=report,
                compares=batch.requests[0],
                images=loaded.images_digest,
            )
            made.fingerprint = fingerprint


def _sides(version: Version, request: DeletionRequest, dataset: Dataset) -> tuple[Positions, Positions]:
    """Forget and remain set of the comparison: what `version` holds, or held, without the request's samples.

    Nothing that was erased is left in the remain set.
    """
    size = dataset.sample_count
    asked = np.zeros(size, dtype=bool)
    asked[unpack(request.positions)] = True
    trained = mask_of(version.trained_on, size) & ~mask_of(dataset.erased, size)
    return np.flatnonzero(asked).astype(np.int64), np.flatnonzero(trained & ~asked).astype(np.int64)
