"""Erases the samples of a request and everything derived from them; each thing has a receipt, or one with a date.

A purge job works in two transactions and removes bytes between them, so that running it again repairs a crash at any
point. `swap` points every row at bytes without the samples, and writes a pending receipt for each blob that must go.
`complete` marks the receipts done once the blobs are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Select, and_, delete, func, or_, select
from sqlalchemy.orm import Session, undefer

from app import events, jobs
from app.blobs import usage
from app.blobs.folder import StorageRefusedError
from app.blobs.open import Blobs
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import SupersededError
from app.core.ids import new_id
from app.core.positions import Positions, marked, mask_of, unpack
from app.core.tables import (
    AdversarialRow,
    Dataset,
    DatasetCopy,
    DeletionRequest,
    Job,
    JobArtifact,
    Model,
    OutcomeRow,
    Receipt,
    ReferenceRow,
    Sample,
    Version,
)
from app.datasets import records as datasets
from app.datasets import shards, suppression
from app.deletions import compliance_rules, objects, rewriting, views
from app.evidence import sealing
from app.jobs import Claim
from app.models import versions
from app.rules.states import Decision, JobKind, JobState, Outcome, VersionState, move_outcome

REFUSING = "; it is still there: "  # before why, in a receipt of bytes that their storage keeps
MOST_TOGETHER = 1000  # requests that one rewriting of a dataset serves
POOL_LIFE = timedelta(days=90)  # how long a pool outlives, at most, the first erasure of a sample it was built on


def start_if_published(session: Session, request_id: str) -> None:
    """Queue the request's purge once every affected model has published; a held one's when it is released."""
    request = session.get_one(DeletionRequest, request_id, with_for_update=True)
    if request.decision == Decision.HELD:
        return
    left = select(func.count()).where(OutcomeRow.request_id == request_id, OutcomeRow.state != Outcome.PUBLISHED)
    if session.scalars(left).one():
        return
    session.flush()
    about = {"verdict": views.details(session, [request])[request_id].verdict}
    events.record_about(session, request.tenant_id, "request.published", request_id, about)
    jobs.enqueue(
        session,
        tenant_id=request.tenant_id,
        kind=JobKind.PURGE,
        lane=f"dataset:{request.dataset_id}",
        dataset_id=request.dataset_id,
        model_id=request.model_id,
        request_id=request_id,
    )


# -- a purge job -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The files that a purge job must rewrite.

    together: the job's own request, and requests whose purge jobs only wait for their turn. One rewriting of the
    dataset serves all of them, and the later jobs find it done. positions: their samples, to erase from the dataset;
    none of a request that names one model, because its data stay. requested: all their positions. copies: digests of
    what input contracts made of the dataset, by name. references: digests by (pool, number). adversarial, covered:
    digests and packed positions of the precomputed sets with any of their samples. carried: the dataset came with the
    request, and is erased whole.
    """

    request_id: str
    together: tuple[str, ...]
    dataset_id: str
    positions: Positions
    requested: Positions
    images: str | None
    copies: dict[str, str]
    references: dict[tuple[str, int], str]
    adversarial: dict[str, str]
    covered: dict[str, bytes]
    carried: bool


@dataclass(frozen=True)
class Rewritten:
    """Digests of the same things without the samples. contents: marks of the pixels that go (`Marker.contents`).
    objects: by position, where pictures lie that this service does not hold."""

    images: str | None
    copies: dict[str, str]
    references: dict[tuple[str, int], str]
    adversarial: dict[str, tuple[str, bytes]]
    contents: Sequence[str | None]
    objects: Mapping[int, str] = field(default_factory=dict)


def plan(session: Session, claim: Claim, together: tuple[str, ...] = ()) -> Plan:
    """What to rewrite; `together`: for these requests, as an earlier look found them."""
    request = session.get_one(DeletionRequest, claim.request_id)
    dataset = session.get_one(Dataset, request.dataset_id)
    together = together or (request.id, *_waiting(session, request, dataset))
    asked = select(DeletionRequest.positions).where(
        DeletionRequest.id.in_(together), DeletionRequest.decision == Decision.ACCEPTED
    )
    requested = np.unique(np.concatenate([unpack(positions) for positions in session.scalars(asked)]))
    positions = requested if request.model_id is None else requested[:0]
    positions = positions[~mask_of(dataset.erased, dataset.sample_count)[positions]]
    rows = session.scalars(select(ReferenceRow).where(ReferenceRow.dataset_id == dataset.id)).all()
    sets = session.scalars(select(AdversarialRow).where(AdversarialRow.model_id.in_(_models(request)))).all()
    holding = [row for row in sets if np.isin(unpack(row.positions), requested).any()]
    copies = session.scalars(select(DatasetCopy).where(DatasetCopy.dataset_id == dataset.id)).all()
    return Plan(
        request_id=request.id,
        together=together,
        dataset_id=dataset.id,
        positions=positions,
        requested=requested,
        images=dataset.images,
        copies={row.name: row.digest for row in copies} if len(positions) else {},
        references={(row.pool, row.number): row.digest for row in rows} if len(positions) else {},
        adversarial={row.id: row.digest for row in holding},
        covered={row.id: row.positions for row in holding},
        carried=dataset.carried_for is not None,
    )


def _waiting(session: Session, request: DeletionRequest, dataset: Dataset) -> list[str]:
    """Other requests that erase samples from the dataset as soon as it is their turn; none where the dataset is not
    to be rewritten for this one, because another's rewriting took it along."""
    own = unpack(request.positions)
    done = mask_of(dataset.erased, dataset.sample_count)[own].all()
    if done or request.model_id is not None or dataset.carried_for is not None:
        return []
    queued = jobs.purges_waiting(session, dataset.id)[:MOST_TOGETHER]
    whole = DeletionRequest.id.in_(queued), DeletionRequest.model_id.is_(None)
    return list(session.scalars(select(DeletionRequest.id).where(*whole).order_by(DeletionRequest.id)))


def _models(request: DeletionRequest) -> Select[str]:
    """Ids of the models that may hold something of the samples: the one named, else all of the dataset, or the one
    that the samples were carried for."""
    if request.model_id is not None:
        return select(Model.id).where(Model.id == request.model_id)
    carried_for = select(Dataset.carried_for).where(Dataset.id == request.dataset_id).scalar_subquery()
    return select(Model.id).where(or_(Model.dataset_id == request.dataset_id, Model.id == carried_for))


def swap(session: Session, settings: Settings, claim: Claim, work: Plan, rewritten: Rewritten) -> None:
    """Point at the bytes without the samples, overwrite their ids, and owe a receipt for everything that must go.

    Raises:
        LeaseLostError: the claim is gone.
        SupersededError: the bytes changed since `plan`, or a request was stopped: start again.
    """
    jobs.fenced(session, claim)
    dataset = session.get_one(Dataset, work.dataset_id, with_for_update=True)
    now = plan(session, claim, work.together)
    held = (now.images, now.copies, now.references, now.adversarial)
    if held != (work.images, work.copies, work.references, work.adversarial):
        raise SupersededError("what holds the samples changed while it was being rewritten")
    if not np.array_equal(now.requested, work.requested):
        raise SupersededError("a request that was taken along was stopped, or refused in part, meanwhile")
    request = session.get_one(DeletionRequest, work.request_id)
    together = [session.get_one(DeletionRequest, request_id) for request_id in work.together]
    for each in [*together, *_losing_ids(session, work)]:
        sealing.commit_ids(session, each)
    marks = [*rewritten.contents, *_trained_on(session, request, work)]
    if work.carried:
        _drop_carried(session, dataset, request)
    elif len(work.positions):
        erased_now = [each for each in together if np.isin(unpack(each.positions), work.positions).any()]
        _swap_images(session, dataset, erased_now, rewritten.images)
        _swap_copies(session, dataset, erased_now, rewritten.copies)
        for each in erased_now:
            objects.owe(session, each, rewritten.objects)
        people = [unpack(each.positions) for each in erased_now if each.by_subject]
        of_people = np.unique(np.concatenate([*people, work.positions[:0]]))
        marks += _erase_ids(session, settings, dataset, work.positions, of_people)
        _forget_names(session, dataset, erased_now)
        for (pool, number), digest in rewritten.references.items():
            reference = session.get_one(ReferenceRow, (pool, number))
            detail = f"columns of reference {number} were dropped"
            for each in erased_now:
                _owe(session, each, "reference-columns", detail, reference.digest)
            reference.digest = digest
        for each in erased_now:
            _date_pools(session, each, {pool for pool, _ in rewritten.references})
    for key, (digest, covered) in rewritten.adversarial.items():
        row = session.get_one(AdversarialRow, key)
        for each in together:
            if np.isin(unpack(each.positions), unpack(row.positions)).any():
                detail = "rows of a precomputed set were removed"
                _owe(session, each, "precomputed-adversarial", detail, row.digest)
        row.digest, row.positions = digest, covered
    suppression.add(session, dataset.tenant_id, marks)
    _drop_derived(session, request)
    _drop_stated(session, request, work.requested)
    _date_superseded(session, request)


def _trained_on(session: Session, request: DeletionRequest, work: Plan) -> set[str]:
    """Digests of the checkpoints that were trained on samples that the dataset loses: no model takes these weights in
    again, also where a restored backup does not know the version. A model that alone is to forget may need its version
    again, to forget it after a restore."""
    found = select(Version.digest, Version.fingerprint, Version.trained_on)
    found = found.where(Version.model_id.in_(_models(request)))
    marks: set[str] = set()
    for digest, fingerprint, bits in session.execute(found) if request.model_id is None and not work.carried else ():
        size = len(bits) * 8
        if mask_of(bits, size)[work.requested[work.requested < size]].any():
            marks.update(suppression.of_weights(digest, fingerprint))
    return marks


def _losing_ids(session: Session, work: Plan) -> list[DeletionRequest]:
    """Open requests of one model whose samples are erased from the dataset for others: what names them goes now."""
    query = select(DeletionRequest).where(
        DeletionRequest.dataset_id == work.dataset_id,
        DeletionRequest.model_id.is_not(None),
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.decision.in_([Decision.ACCEPTED, Decision.HELD]),
    )
    return [row for row in session.scalars(query) if np.isin(unpack(row.positions), work.positions).any()]


def _swap_images(session: Session, dataset: Dataset, requests: list[DeletionRequest], images: str | None) -> None:
    if dataset.images and images and images != dataset.images:
        for request in requests:
            _owe(session, request, "sample-bytes", "the samples' pictures were taken out of the file", dataset.images)
        dataset.images = images


def _swap_copies(session: Session, dataset: Dataset, requests: list[DeletionRequest], copies: dict[str, str]) -> None:
    for name, digest in copies.items():
        copy = session.get_one(DatasetCopy, (dataset.id, name))
        height, width, _ = copy.shape
        detail = f"the samples' pictures were taken out of the copy of {height} x {width} pixels"
        for request in requests:
            _owe(session, request, "sample-copy", detail, copy.digest)
        copy.digest = digest


def _drop_carried(session: Session, dataset: Dataset, request: DeletionRequest) -> None:
    if dataset.state == "erased":
        return
    controls = dataset.sample_count - dataset.train_count
    detail = f"what the request carried: pixels and ids of {dataset.train_count} samples and {controls} controls"
    for digest in empty(session, dataset):
        _owe(session, request, "carried-data", detail, digest)


def empty(session: Session, dataset: Dataset) -> list[str]:
    """Release everything that a dataset holds; the digests of the bytes to remove."""
    digests = [digest for digest in (dataset.images, dataset.upload) if digest]
    copies = delete(DatasetCopy).where(DatasetCopy.dataset_id == dataset.id).returning(DatasetCopy.digest)
    digests += session.scalars(copies).all()
    digests += shards.drop(session, dataset)
    session.execute(delete(Sample).where(Sample.dataset_id == dataset.id))
    datasets.forget_names(session, dataset, None, None)
    dataset.images = dataset.upload = dataset.class_names = dataset.report = None
    dataset.duplicates = None
    dataset.erased = marked(dataset.erased, dataset.sample_count, np.arange(dataset.sample_count))
    dataset.state = "erased"
    return digests


def _erase_ids(
    session: Session, settings: Settings, dataset: Dataset, positions: Positions, of_people: Positions
) -> list[str | None]:
    """Overwrite the ids at `positions`; return marks of what must not come again. of_people: of them, what was asked
    for by subject: nothing of these subjects is taken in any more."""
    marker = suppression.Marker.of(settings, dataset.tenant_id)
    wanted, people = positions.tolist(), set(of_people.tolist())
    marks: list[str | None] = []
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        rows = session.scalars(select(Sample).where(Sample.dataset_id == dataset.id, Sample.position.in_(part))).all()
        subjects = {row.subject for row in rows if row.position in people}
        ids = marker.ids(dataset.id_namespace, [row.sample_id for row in rows])
        marks += [*ids, *marker.subjects(subjects), *marker.seen({row.subject for row in rows} - subjects)]
        for row in rows:
            row.sample_id, row.subject = datasets.suppression(settings, dataset.id, row.sample_id), None
    dataset.erased = marked(dataset.erased, dataset.sample_count, positions)
    return marks


def _forget_names(session: Session, dataset: Dataset, requests: Sequence[DeletionRequest]) -> None:
    """The names of classes that have lost their last sample."""
    if dataset.class_names is None and not datasets.has_named_outputs(session, dataset):
        return
    session.flush()
    left = ~mask_of(dataset.erased, dataset.sample_count)
    labels = session.execute(select(Sample.position, Sample.label).where(Sample.dataset_id == dataset.id))
    kept = {label for position, label in labels if left[position]}
    gone = datasets.forget_names(session, dataset, dataset.class_names, set(range(dataset.class_count)) - kept)
    if dataset.class_names is not None:
        dataset.class_names = [name if label in kept else None for label, name in enumerate(dataset.class_names)]
    for request in requests if gone else ():
        _owe(session, request, rewriting.NAMES, "names of classes without any samples were taken out", None)


def _drop_derived(session: Session, request: DeletionRequest) -> None:
    """Remove files that jobs of the affected models stored: adversarial sets, resume files, candidates that failed.

    Any of them may contain the samples. Two kinds of jobs are left out. A running job either ended before this purge
    could start, or looks for erased samples before it ends. A queued unlearn job is for later requests; but what a
    killed attempt stored and did not record goes, of every job that does not run. Each request that a file was made
    for gets a receipt.
    """
    rests, waits = Job.state != JobState.RUNNING, and_(Job.state == JobState.QUEUED, Job.kind == JobKind.UNLEARN)
    stopped = select(Job.id).where(Job.model_id.in_(_models(request)), rests, ~waits)
    killed = select(Job.id).where(Job.dataset_id == request.dataset_id, rests)
    stray = and_(JobArtifact.name.startswith(usage.UNRECORDED), JobArtifact.job_id.in_(killed))
    stored = select(JobArtifact).where(or_(JobArtifact.job_id.in_(stopped), stray))
    stored = stored.order_by(JobArtifact.job_id, JobArtifact.name)
    for row in session.scalars(stored.with_for_update()).all():  # the sweeper removes leftovers at the same time
        session.delete(row)
        session.flush()
        if (row.name == "candidate" or row.name.startswith(usage.UNRECORDED)) and usage.in_use(session, row.digest):
            continue  # it became a version, which has a receipt of its own; or what was stored is another's, too
        served = select(OutcomeRow.request_id).where(OutcomeRow.job_id == row.job_id)
        for request_id in {request.id, *session.scalars(served)}:
            owed_to = session.get_one(DeletionRequest, request_id)
            if owed_to.fulfilled_at is None:
                name = "interrupted" if row.name.startswith(usage.UNRECORDED) else row.name
                _owe(session, owed_to, f"{name}-artifact", f"the {name} file of a job was removed", row.digest)


def _drop_stated(session: Session, request: DeletionRequest, positions: Positions) -> None:
    """What the owners of announced checkpoints measured on the samples goes; their import says that it did."""
    announced = select(Version).where(Version.model_id.in_(_models(request)), Version.origin == "imported")
    for version in session.scalars(announced.options(undefer(Version.stated))):
        if version.stated and np.isin(version.stated.get("positions", []), positions).any():
            version.stated = {name: value for name, value in version.stated.items() if name != "logits"}


def _date_superseded(session: Session, request: DeletionRequest) -> None:
    """Every other checkpoint trained on the samples goes after the policy's grace: a dated entry each, once.

    That is superseded ones, also where the grace was over before this purge began, and candidates: comparisons of
    other requests, imports that were not published.
    """
    dated = select(Receipt.digest).where(Receipt.request_id == request.id, Receipt.subject == "superseded-checkpoint")
    query = select(Version).where(
        Version.model_id.in_(_models(request)),
        Version.state != VersionState.CURRENT,
        Version.size > 0,
        or_(Version.purged_at.is_(None), Version.purged_at >= request.received_at),
        Version.digest.not_in(dated),
    )
    positions = unpack(request.positions)
    carried = session.get_one(Dataset, request.dataset_id).carried_for is not None
    for version in session.scalars(query).all():
        size = len(version.trained_on) * 8
        if not carried and not mask_of(version.trained_on, size)[positions].any():
            continue
        if version.state == VersionState.CANDIDATE:
            grace = versions.grace(session.get_one(Model, version.model_id))
            version.state, version.purge_after = VersionState.SUPERSEDED, db.now(session) + grace
        if version.purged_at is None and version.purge_after is not None:
            version.purge_after = _latest(session, request, version.purge_after)
        detail = f"version {version.number}, trained on the samples"
        _owe(session, request, "superseded-checkpoint", detail, version.digest, version)


def _latest(session: Session, request: DeletionRequest, date: datetime) -> datetime:
    """The date on which a remnant goes: by default no later than the request's due date, or at once where that has
    passed."""
    if compliance_rules.of(session, request.tenant_id).remains != "by-due-date":
        return date
    return min(date, max(request.due_at, db.now(session)))


def _date_pools(session: Session, request: DeletionRequest, pools: set[str]) -> None:
    """The pool's other columns come from models that saw the samples: the whole pool goes, at a date."""
    for pool in sorted(pools):
        session.add(
            Receipt(
                id=new_id("rcp"),
                request_id=request.id,
                model_id=None,
                subject="reference-pool",
                detail=f"pool {pool}: models that saw the samples made its other columns; it is retired",
                digest=None,
                due_at=_latest(session, request, db.now(session) + POOL_LIFE),
                done_at=None,
            )
        )


def remove_owed(database: Database, blobs: Blobs, request_id: str) -> int:
    """Delete the bytes behind the request's undated pending receipts, unless a row still needs them.

    Raises:
        StorageRefusedError: of some. The others are gone, and the receipts of these say why.
    """
    own = (Receipt.request_id == request_id, Receipt.done_at.is_(None), Receipt.due_at.is_(None))
    with database.read() as session:
        digests = {digest for digest in session.scalars(select(Receipt.digest).where(*own)) if digest}
    removed, refused = 0, dict[str, StorageRefusedError]()
    for digest in sorted(digests):
        try:
            removed += usage.remove(database, blobs, digest)
        except StorageRefusedError as error:
            refused[digest] = error
    if refused:
        with database.write() as session:
            for row in session.scalars(select(Receipt).where(*own, Receipt.digest.in_(refused))):
                row.detail = f"{_whole(row.detail)}{REFUSING}{refused[row.digest or '']}"
        raise next(iter(refused.values()))
    return removed


def _whole(detail: str) -> str:
    return detail.partition(REFUSING)[0]


def complete(session: Session, claim: Claim, request_id: str) -> None:
    """The blobs are gone: receipts, outcomes and the request's end, in the transaction that ends the job."""
    job = jobs.fenced(session, claim)
    now = db.now(session)
    objects.date(session, session.get_one(DeletionRequest, request_id))
    owed = select(Receipt).where(Receipt.request_id == request_id, Receipt.done_at.is_(None), Receipt.due_at.is_(None))
    _tick(session, owed, now)
    for row in session.scalars(select(OutcomeRow).where(OutcomeRow.request_id == request_id)).all():
        row.state = move_outcome(Outcome(row.state), Outcome.PURGED)
    request = session.get_one(DeletionRequest, request_id)
    request.fulfilled_at = now
    rewriting.owe(session, request_id, now)
    session.flush()
    details = views.details(session, [request])[request_id]
    about = {"status": details.status(request).value, "verdict": details.verdict}
    events.record_about(session, claim.tenant_id, "request.fulfilled", request_id, about)
    jobs.finish(session, job, JobState.SUCCEEDED, result={"request": request_id})


# -- receipts --------------------------------------------------------------------------------------


def _owe(
    session: Session,
    request: DeletionRequest,
    subject: str,
    detail: str,
    digest: str | None,
    version: Version | None = None,
) -> None:
    session.add(
        Receipt(
            id=new_id("rcp"),
            request_id=request.id,
            model_id=version.model_id if version else request.model_id,
            subject=subject,
            detail=detail,
            digest=digest,
            due_at=version.purge_after if version else None,
            done_at=version.purged_at if version else None,
        )
    )


def _tick(session: Session, owed: Select[Receipt], now: datetime) -> None:
    """Mark receipts done. Where another object of the tenant has the same bytes, they stay for it: said there.

    Of other tenants nothing is said: that they have the same bytes is theirs to know.
    """
    for receipt in session.scalars(owed).all():
        receipt.done_at, receipt.detail = now, _whole(receipt.detail)
        tenant_id = session.get_one(DeletionRequest, receipt.request_id).tenant_id
        if receipt.digest and usage.used(session, [receipt.digest], tenant_id):
            receipt.detail += "; another object holds the same bytes, and keeps them"


# -- what comes due --------------------------------------------------------------------------------
