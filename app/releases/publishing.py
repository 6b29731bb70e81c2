"""Publishing: the one transaction in which a job ends with a version, a report, or neither.

An imported checkpoint is announced, sent, and published by a job like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app import events, jobs
from app.blobs.folder import Stored
from app.core import db
from app.core.errors import SupersededError
from app.core.ids import new_id
from app.core.positions import Positions, bitmap, unpack
from app.core.tables import AuditRow, Dataset, DeletionRequest, Job, Model, OutcomeRow, Version
from app.datasets import canaries
from app.datasets import records as datasets
from app.deletions import erasure
from app.evidence import negative
from app.jobs import THROWN_AWAY, Claim
from app.models import versions
from app.models.versions import ForgetBatch
from app.reports import audit_rows
from app.rules.states import JobState, Outcome, VersionState, move_outcome

MOST_THROWN_AWAY = 3  # trainings of one job


def add(
    session: Session,
    model: Model,
    *,
    origin: str,
    parent: int | None,
    stored: Stored,
    trained_on: Positions,
    metrics: dict[str, Any],
    job_id: str | None,
    verdict: str | None = None,
) -> Version:
    """Insert the model's next version as a candidate; numbers are never used twice. verdict: of its audit."""
    dataset = session.get_one(Dataset, model.dataset_id)
    last = session.scalars(select(func.max(Version.number)).where(Version.model_id == model.id)).one()
    version = Version(
        id=new_id("ver"),
        tenant_id=model.tenant_id,
        model_id=model.id,
        number=(last or 0) + 1,
        parent=parent,
        origin=origin,
        state=VersionState.CANDIDATE,
        digest=stored.digest,
        size=stored.size,
        trained_on=bitmap(trained_on, dataset.sample_count),
        trained_count=len(trained_on) if datasets.is_held(dataset) else None,
        class_counts=_class_counts(session, dataset, trained_on),
        metrics=metrics,
        job_id=job_id,
        created_at=db.now(session),
    )
    session.add(version)
    session.flush()
    data = {"number": version.number, "digest": stored.digest}
    about = versions.about(model, version, verdict)
    events.record_about(session, model.tenant_id, f"version.{origin}", version.id, about, **data)
    return version


def make_current(session: Session, model: Model, version: Version) -> None:
    """Publish by compare-and-set on the parent, which is superseded and will be purged after the policy's grace.

    What its owner trained or imported is also the version that later ones are measured against.

    Raises:
        SupersededError: another version has become current meanwhile.
    """
    moved = session.execute(
        update(Model)
        .where(Model.id == model.id, Model.current_version.is_not_distinct_from(version.parent))
        .values(current_version=version.number)
        .execution_options(synchronize_session=False)
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise SupersededError(f"version {version.parent} of the model is not its current one any more")
    session.execute(
        update(Version)
        .where(Version.model_id == model.id, Version.number == version.parent)
        .values(state=VersionState.SUPERSEDED, purge_after=db.now(session) + versions.grace(model))
        .execution_options(synchronize_session=False)
    )
    version.state = VersionState.CURRENT
    if version.origin != "unlearned":
        model.blessed_version = version.number
    session.flush()


def _class_counts(session: Session, dataset: Dataset, trained_on: Positions) -> list[int]:
    labels = datasets.labels_of(session, dataset)[0].astype(np.int64)
    counts: list[int] = np.bincount(labels[trained_on], minlength=dataset.class_count).tolist()
    return counts


def locked(session: Session, claim: Claim) -> tuple[Job, Dataset, Model]:
    """The rows that a publish changes or points at, locked in the order of a new request: dataset, then model."""
    job = jobs.fenced(session, claim)
    dataset = session.get_one(Dataset, claim.dataset_id, with_for_update=True)
    return job, dataset, session.get_one(Model, claim.model_id, with_for_update=True)


def publish_trained(
    session: Session,
    claim: Claim,
    stored: Stored,
    trained_on: Positions,
    metrics: dict[str, Any],
    comparison: dict[str, Any] | None = None,
    compares: str | None = None,
    images: str | None = None,
) -> Version:
    """End a train job: the new version, or with `comparison` (its report) an exact retrain kept to compare with, which
    left out the request `compares`.

    A version beside a current one stays a candidate, unless the job says to promote it. One that has learned of what
    was requested meanwhile is trained again; but not for ever, where such requests keep coming: then the unlearning
    that waits behind the job makes it forget them.

    images: digest of the dataset's pixels that a comparison was trained on and measured by.

    Raises:
        SupersededError: samples were requested, or of a comparison erased, meanwhile.
    """
    job, dataset, model = locked(session, claim)
    if comparison is not None and dataset.images != images:
        raise SupersededError("samples were erased while a retrain was compared on them")
    asked = np.intersect1d(trained_on, versions.unavailable(dataset, model))
    if (
        comparison is None
        and asked.size
        and (claim.params.get(THROWN_AWAY, 0) < MOST_THROWN_AWAY or not _will_unlearn(session, model, asked))
    ):
        raise SupersededError("samples of the training set were requested for deletion while it trained")
    version = add(
        session,
        model,
        origin="trained" if comparison is None else "comparison",
        parent=model.current_version,
        stored=stored,
        trained_on=trained_on,
        metrics=metrics,
        job_id=claim.id,
    )
    if comparison is not None:
        audit_rows.add(session, claim, model, version.number, comparison, compares)
    elif model.current_version is None or claim.params.get("promote", True):  # True: a job queued by version 0.2
        make_current(session, model, version)
    jobs.finish(session, job, JobState.SUCCEEDED, result={"version": version.number, "digest": stored.digest})
    return version


def _will_unlearn(session: Session, model: Model, positions: Positions) -> bool:
    """Whether the model has still to carry out requests for all of these samples."""
    waiting = OutcomeRow.state.in_([Outcome.PENDING, Outcome.BATCHED])
    query = select(DeletionRequest.positions).join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
    asked = [unpack(packed) for packed in session.scalars(query.where(OutcomeRow.model_id == model.id, waiting))]
    return not np.setdiff1d(positions, np.concatenate([positions[:0], *asked])).size


def publish_unlearned(
    session: Session,
    claim: Claim,
    work: ForgetBatch,
    parent: Version,
    stored: Stored,
    metrics: dict[str, Any],
    report: dict[str, Any],
    facts: dict[str, Any],
    reason: str | None = None,
) -> Version:
    """End an unlearn job in one transaction: version, report, compare-and-set, outcomes, events, purge jobs.

    facts: of its step, for the job's result. reason: for its requests, how it came to be published.
    """
    job, _, model = locked(session, claim)
    version = add(
        session,
        model,
        origin="unlearned",
        parent=parent.number,
        stored=stored,
        trained_on=work.remain,
        metrics=metrics,
        job_id=claim.id,
        verdict=report["judgement"]["verdict"],
    )
    make_current(session, model, version)
    report = report | {"version": version.number}
    audit_rows.add(session, claim, model, version.number, report, None)
    for request_id in settle(session, claim, version.number, reason):
        if report["judgement"]["verdict"] != "pass":
            negative.ask(session, model.tenant_id, request_id=request_id)
    result = {"version": version.number, "digest": stored.digest} | facts
    jobs.finish(session, job, JobState.SUCCEEDED, result=result)
    return version


def reject(session: Session, claim: Claim, report: dict[str, Any], facts: dict[str, Any]) -> None:
    """The gate publishes nothing and no step is left: keep the report, and give the requests the reason."""
    job = jobs.fenced(session, claim)
    model = session.get_one(Model, claim.model_id)
    audit_rows.add(session, claim, model, None, report, None)
    detail = f"the audit failed: {report['judgement']['reason']}; {report['gate']['reason']}"
    jobs.finish(session, job, JobState.REJECTED, result=facts, problem=jobs.problem("audit-failed", detail))


def publish_audit(session: Session, claim: Claim, number: int, images: str | None, report: dict[str, Any]) -> AuditRow:
    """End an audit job: its report stands beside the version's others. What was published stays as it is.

    images: digest of the dataset's pixels that were measured; empty where it holds none.

    Raises:
        SupersededError: samples were erased meanwhile, so the report would contain figures of erased samples.
    """
    job, dataset, model = locked(session, claim)
    if (dataset.images or "") != images:
        raise SupersededError("samples were erased while the version was audited")
    row = audit_rows.add(session, claim, model, number, report, None)
    of_a_deletion = report["of"] == "forget-set" and report["forget_samples"] and not report["sham"]
    if of_a_deletion and row.verdict != "pass":
        negative.ask(session, model.tenant_id, audit_id=row.id)
    if report["sham"] and row.verdict != "fail":
        data = {"audit": row.id, "version": number, "verdict": row.verdict}
        events.record(session, model.tenant_id, "gate.sham-missed", claim.id, **data)
    result = {"version": number, "audit": row.id, "verdict": row.verdict}
    jobs.finish(session, job, JobState.SUCCEEDED, result=result)
    return row


def nothing_to_forget(session: Session, claim: Claim) -> None:
    """The current version never saw these samples (it was trained after they were requested), or they were canaries."""
    job = jobs.fenced(session, claim)
    model = session.get_one(Model, claim.model_id)
    reason = "the current version was never trained on these samples"
    if _forgotten_along(session, claim, model):
        reason = "the current version has been made to forget these samples before, as canaries"
    settle(session, claim, model.current_version, reason=reason)
    jobs.finish(session, job, JobState.SUCCEEDED, result={"version": model.current_version, "digest": None})


def _forgotten_along(session: Session, claim: Claim, model: Model) -> bool:
    """Whether the current version has unlearned some of the job's samples as canaries before."""
    current = versions.current(session, model)
    dataset = session.get_one(Dataset, claim.dataset_id)
    if current is None or dataset.id != model.dataset_id:
        return False
    asked = select(DeletionRequest.positions).join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
    forgotten = canaries.of_version(session, dataset, current, requested=True).forgotten
    return any(
        np.isin(forgotten, unpack(positions)).any()
        for positions in session.scalars(asked.where(OutcomeRow.job_id == claim.id))
    )


def settle(session: Session, claim: Claim, number: int | None, reason: str | None = None) -> list[str]:
    """Move the job's outcomes to published, and start the purge of every request that has none left to wait for.

    Returns the ids of the requests.
    """
    rows = session.scalars(select(OutcomeRow).where(OutcomeRow.job_id == claim.id)).all()
    for row in rows:
        row.state = move_outcome(Outcome(row.state), Outcome.PUBLISHED)
        row.version, row.reason = number, reason
    session.flush()
    requests = sorted({row.request_id for row in rows})
    for request_id in requests:
        erasure.start_if_published(session, request_id)
    return requests
