"""Checks, from the database and the blobs alone, that nothing was lost and nothing was done twice.

It looks at one moment and changes nothing, so it may run beside a service. `at_rest` says that no part runs and that
there is nothing left to do: then what would only be under way is a violation, too.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from sqlalchemy import and_, extract, func, or_, select
from sqlalchemy.orm import Session, aliased, undefer

from app.blobs import usage
from app.blobs.folder import BlobCorruptError, BlobMissingError
from app.blobs.open import Blobs, open_blobs
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.positions import mask_of
from app.core.tables import (
    Alias,
    AuditEvent,
    CertificateRow,
    Dataset,
    DeletionRequest,
    Job,
    JobEvent,
    LogHead,
    Model,
    NegativeReport,
    Outbox,
    OutcomeRow,
    Receipt,
    Sample,
    Tenant,
    Version,
)
from app.deletions import tallies as kept_tallies
from app.evidence import negative, transparency_log
from app.evidence.signing import canonical
from app.formats.manifest import ERASED_PREFIX
from app.formats.previews import Spans
from app.rules.states import MAX_ATTEMPTS, TERMINAL_JOBS, Decision, JobKind, JobState, Outcome, VersionState

STUCK = timedelta(minutes=10)  # a message that has not left for so long, or a lease that has been over for so long
ENDED = [state.value for state in TERMINAL_JOBS]
OPEN_JOBS = [JobState.QUEUED, JobState.RUNNING]


@dataclass(frozen=True, order=True)
class Violation:
    """rule: which rule does not hold. object: the id of what breaks it. detail: how."""

    rule: str
    object: str
    detail: str


@dataclass(frozen=True)
class View:
    """What the rules look at. thorough: read every byte and every entry of the log, and not their presence alone."""

    session: Session
    blobs: Blobs
    at_rest: bool
    thorough: bool


Found = Iterator[tuple[str, str]]
"""Object and detail of each violation of a rule."""


def check(database: Database, blobs: Blobs, *, at_rest: bool = False, thorough: bool = True) -> list[Violation]:
    """Every violation, sorted; none if all is well."""
    with _moment(database) as session:
        view = View(session, blobs, at_rest, thorough)
        return sorted(Violation(name, *found) for name, rule in RULES.items() for found in rule(view))


def check_service(settings: Settings, *, at_rest: bool = False, thorough: bool = True) -> list[Violation]:
    """The same of the database and the blobs that these settings name."""
    database = Database(settings)
    try:
        return check(database, open_blobs(settings), at_rest=at_rest, thorough=thorough)
    finally:
        database.close()


@contextmanager
def _moment(database: Database) -> Iterator[Session]:
    """All queries of one transaction see the same moment."""
    if database.is_sqlite:
        with database.read() as session:
            yield session
        return
    with (
        database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as held,
        Session(held) as session,
    ):
        yield session


# -- requests --------------------------------------------------------------------------------------


def open_requests(view: View) -> Found:
    """Whatever was accepted has ended, or something is under way for it, or a person is told to decide."""
    session = view.session
    query = select(DeletionRequest).where(
        DeletionRequest.fulfilled_at.is_(None), DeletionRequest.decision == Decision.ACCEPTED
    )
    for request in session.scalars(query):
        purge = session.scalars(
            select(Job.state)
            .where(Job.request_id == request.id, Job.kind == JobKind.PURGE)
            .order_by(Job.id.desc())
            .limit(1)
        ).first()
        rows = session.execute(
            select(OutcomeRow.model_id, OutcomeRow.state, OutcomeRow.reason, Job.state)
            .outerjoin(Job, Job.id == OutcomeRow.job_id)
            .where(OutcomeRow.request_id == request.id)
        ).all()
        for model_id, state, reason, job in rows:
            if state == Outcome.BATCHED and job not in OPEN_JOBS:
                yield request.id, f"it waits in {model_id} for a job that is {job or 'not there'}"
            if state == Outcome.ATTENTION and not reason:
                yield request.id, f"it needs attention in {model_id}, without a reason"
        states = {state for _, state, *_ in rows}
        if states <= {Outcome.PUBLISHED, Outcome.PURGED}:
            if purge is None or purge == JobState.SUCCEEDED:
                yield request.id, "it is published everywhere, and no purge job is under way"
            elif view.at_rest and purge in OPEN_JOBS:
                yield request.id, f"its purge job is {purge}"
        elif view.at_rest and states & {Outcome.PENDING, Outcome.BATCHED}:
            yield request.id, "it has not ended"


def fulfilled_requests(view: View) -> Found:
    """A fulfilled request is purged everywhere, was fulfilled once, and owes nothing that has no date."""
    session = view.session
    fulfilled = select(DeletionRequest.id).where(DeletionRequest.fulfilled_at.is_not(None))
    left = select(OutcomeRow.request_id, OutcomeRow.model_id, OutcomeRow.state).where(
        OutcomeRow.request_id.in_(fulfilled), OutcomeRow.state != Outcome.PURGED
    )
    for request_id, model_id, state in session.execute(left):
        yield request_id, f"it is fulfilled, and {state} in {model_id}"
    owed = select(Receipt.request_id, Receipt.subject).where(
        Receipt.request_id.in_(fulfilled), Receipt.done_at.is_(None), Receipt.due_at.is_(None)
    )
    for request_id, subject in session.execute(owed):
        yield request_id, f"its receipt for {subject} is neither done nor has a date"
    told = (
        select(AuditEvent.object_id, func.count())
        .where(AuditEvent.kind == "request.fulfilled")
        .group_by(AuditEvent.object_id)
    )
    counts: dict[str, int] = dict(session.execute(told).all())
    replayed = select(DeletionRequest.id, DeletionRequest.replayed_at).where(DeletionRequest.fulfilled_at.is_not(None))
    for request_id, again in session.execute(replayed):
        count = counts.pop(request_id, 0)
        if count != 1 and not (count and again):
            yield request_id, f"it has {count} events request.fulfilled"
    for request_id in counts:
        yield request_id, "an event says that it was fulfilled, and it is not"


def receipts(view: View) -> Found:
    """No thing was purged twice for one request."""
    query = (
        select(Receipt.request_id, Receipt.subject, func.count())
        .where(Receipt.digest.is_not(None))
        .group_by(Receipt.request_id, Receipt.subject, Receipt.digest)
        .having(func.count() > 1)
    )
    for request_id, subject, count in view.session.execute(query):
        yield request_id, f"it has {count} receipts for one {subject}"


def certificates(view: View) -> Found:
    """A request has one certificate that none supersedes, and an event in the log for each."""
    session, later = view.session, aliased(CertificateRow)
    newest = select(CertificateRow.request_id, func.count()).where(
        ~select(later.digest).where(later.supersedes == CertificateRow.digest).exists()
    )
    for request_id, count in session.execute(newest.group_by(CertificateRow.request_id).having(func.count() > 1)):
        yield request_id, f"it has {count} certificates that none supersedes"
    sealed = select(AuditEvent.object_id, func.count()).where(AuditEvent.kind == "certificate.sealed")
    events: dict[str, int] = dict(session.execute(sealed.group_by(AuditEvent.object_id)).all())
    kept = select(CertificateRow.request_id, func.count()).group_by(CertificateRow.request_id)
    counts: dict[str, int] = dict(session.execute(kept).all())
    for request_id in events.keys() | counts.keys():
        if events.get(request_id) != counts.get(request_id):
            yield request_id, f"{counts.get(request_id, 0)} certificates, {events.get(request_id, 0)} in the log"
    if view.at_rest:
        fulfilled = select(DeletionRequest.id).where(DeletionRequest.fulfilled_at.is_not(None))
        for request_id in session.scalars(fulfilled):
            if request_id not in counts:
                yield request_id, "it is fulfilled and has no certificate"


def negative_reports(view: View) -> Found:
    """The log has an entry for each signed one, and none for another; at rest all are signed."""
    about = func.coalesce(NegativeReport.request_id, NegativeReport.audit_id)
    signed = select(about, func.count()).where(NegativeReport.issued_at.is_not(None)).group_by(about)
    counts: dict[str, int] = dict(view.session.execute(signed).all())
    sealed = select(AuditEvent.object_id, func.count()).where(AuditEvent.kind == negative.EVENT_KIND)
    events: dict[str, int] = dict(view.session.execute(sealed.group_by(AuditEvent.object_id)).all())
    for object_id in events.keys() | counts.keys():
        if events.get(object_id) != counts.get(object_id):
            yield object_id, f"{counts.get(object_id, 0)} negative reports, {events.get(object_id, 0)} in the log"
    if view.at_rest:
        for object_id in view.session.scalars(select(about).where(NegativeReport.issued_at.is_(None))):
            yield object_id, "its negative report is not signed"


# -- models ----------------------------------------------------------------------------------------


def current_versions(view: View) -> Found:
    """A model has the one current version that it names, and each version the parent that it names."""
    session = view.session
    query = select(Version.model_id, Version.number).where(Version.state == VersionState.CURRENT)
    current: dict[str, list[int]] = {}
    for model_id, number in session.execute(query):
        current.setdefault(model_id, []).append(number)
    for model_id, named in session.execute(select(Model.id, Model.current_version)):
        found = current.pop(model_id, [])
        if found != ([] if named is None else [named]):
            yield model_id, f"its current version is {named}, and versions {found} say so of themselves"
    same = select(Version.model_id, Version.number).group_by(Version.model_id, Version.number).having(func.count() > 1)
    for model_id, twice in session.execute(same):
        yield model_id, f"it has two versions {twice}"
    parent = aliased(Version)
    orphans = select(Version.id, Version.parent).where(
        Version.parent.is_not(None),
        ~select(parent.id).where(parent.model_id == Version.model_id, parent.number == Version.parent).exists(),
    )
    for version_id, missing in session.execute(orphans):
        yield version_id, f"its parent, version {missing}, is not there"


def aliases(view: View) -> Found:
    """An alias names a version that can be served."""
    query = (
        select(Alias.model_id, Alias.name, Alias.version)
        .outerjoin(Version, and_(Version.model_id == Alias.model_id, Version.number == Alias.version))
        .where(or_(Version.id.is_(None), Version.state == VersionState.PURGED))
    )
    for model_id, name, number in view.session.execute(query):
        yield model_id, f"its alias {name} names version {number}, which is not there"


def unlearned_versions(view: View) -> Found:
    """No current version was trained on an erased sample, unless it is withheld."""
    query = (
        select(Version)
        .join(Model, Model.id == Version.model_id)
        .where(Version.state == VersionState.CURRENT, Model.withheld_since.is_(None))
        .options(undefer(Version.trained_on))
    )
    for version in view.session.scalars(query):
        model = view.session.get_one(Model, version.model_id)
        dataset = view.session.get_one(Dataset, model.dataset_id)
        if dataset.carried_for is not None or not dataset.sample_count:
            continue
        erased = mask_of(dataset.erased, dataset.sample_count)
        count = int((erased & mask_of(version.trained_on, dataset.sample_count)).sum())
        if count:
            yield version.id, f"it is current, and was trained on {count} erased samples"


# -- bytes -----------------------------------------------------------------------------------------


def blobs_held(view: View) -> Found:
    """Whatever a row points at is stored, and is what its digest says."""
    for digest in sorted(usage.held(view.session)):
        try:
            if view.thorough:
                _verify(view.blobs, digest)
            else:
                view.blobs.size(digest)
        except BlobMissingError:
            yield digest, "a row points at these bytes, and they are not there"
        except BlobCorruptError:
            yield digest, "these bytes are not what their digest says"


def _verify(blobs: Blobs, digest: str) -> None:
    """Read it all, and keep no copy on this machine. Raises BlobMissingError, BlobCorruptError."""
    found = hashlib.sha256()
    for piece in blobs.read(digest, 0, blobs.size(digest)):
        found.update(piece)
    if f"sha256:{found.hexdigest()}" != digest:
        raise BlobCorruptError(digest)


def _has_pixels(blobs: Blobs, digest: str, positions: Sequence[int]) -> Iterator[bool]:
    """Whether the samples there have any in a dataset's file. Only their bytes are read, and no copy is kept."""

    def read(start: int, stop: int) -> bytes:
        return b"".join(blobs.read(digest, start, stop))

    file = Spans(read, blobs.size(digest))
    for position in positions:
        start, stop = file.of(position)
        yield any(read(start, stop)) if file.shape else stop > start


def blobs_removed(view: View) -> Found:
    """What a receipt says was removed is not stored, unless another row needs the same bytes."""
    done = select(Receipt.digest).where(Receipt.digest.is_not(None), Receipt.done_at.is_not(None)).distinct()
    held = usage.held(view.session)
    for digest in view.session.scalars(done):
        if digest is None or digest in held:
            continue
        try:
            view.blobs.size(digest)
        except BlobMissingError:
            continue
        yield digest, "a receipt says that these bytes were removed, and they are there"


def erased_samples(view: View) -> Found:
    """Of an erased sample neither id nor subject nor pixels are left, and no other lacks its id."""
    session = view.session
    query = select(Dataset).where(Dataset.sample_count > 0).options(undefer(Dataset.erased))
    for dataset in session.scalars(query):
        erased = mask_of(dataset.erased, dataset.sample_count)
        rows = select(Sample.position, Sample.subject.is_not(None)).where(Sample.dataset_id == dataset.id)
        overwritten = Sample.sample_id.startswith(ERASED_PREFIX)
        gone = dict(session.execute(rows.where(overwritten)).all())
        there = set(session.scalars(select(Sample.position).where(Sample.dataset_id == dataset.id, ~overwritten)))
        if left := sum(bool(erased[position]) for position in there):
            yield dataset.id, f"{left} erased samples have their ids"
        if lost := sum(not erased[position] for position in gone):
            yield dataset.id, f"{lost} samples that nobody erased have lost their ids"
        if named := sum(gone.values()):
            yield dataset.id, f"{named} erased samples have their subject"
        if view.thorough and dataset.images and erased.any():
            try:
                count = sum(_has_pixels(view.blobs, dataset.images, np.flatnonzero(erased).tolist()))
            except (BlobMissingError, ValueError, struct.error):
                continue  # said elsewhere
            if count:
                yield dataset.id, f"{count} erased samples have their pixels"


# -- jobs ------------------------------------------------------------------------------------------


def job_leases(view: View) -> Found:
    """A job has an owner and a lease exactly while it runs, and ends once."""
    session = view.session
    now = db.now(session)
    no_lease = or_(Job.owner.is_(None), Job.lease_until.is_(None))
    wrong = {
        "it runs without an owner or a lease": and_(Job.state == JobState.RUNNING, no_lease),
        "it does not run, and has an owner or a lease": and_(
            Job.state != JobState.RUNNING, or_(Job.owner.is_not(None), Job.lease_until.is_not(None))
        ),
        "it has ended, at no time": and_(Job.state.in_(ENDED), Job.finished_at.is_(None)),
        "it is open, and has ended": and_(Job.state.in_(OPEN_JOBS), Job.finished_at.is_not(None)),
        "it has had more attempts than it may": Job.attempts > MAX_ATTEMPTS,
        "its lease has long been over, and nobody took it": and_(
            Job.state == JobState.RUNNING, Job.lease_until < now - STUCK
        ),
    }
    if view.at_rest:
        wrong["it has not ended"] = Job.state.in_(OPEN_JOBS)
    for detail, condition in wrong.items():
        for job_id in session.scalars(select(Job.id).where(condition)):
            yield job_id, detail
    whole = aliased(Job)
    left = select(Job.id, whole.state).join(whole, whole.id == Job.parent_id)
    for job_id, state in session.execute(left.where(Job.state == JobState.QUEUED, whole.state.in_(ENDED))):
        yield job_id, f"it waits, and the job that it is a part of is {state}"


def job_events(view: View) -> Found:
    """The last event of a job says the state that it is in."""
    last = (
        select(JobEvent.job_id, func.max(JobEvent.number).label("number"))
        .where(JobEvent.kind != "lease-lost")
        .group_by(JobEvent.job_id)
        .subquery()
    )
    query = (
        select(Job.id, Job.state, JobEvent.data)
        .outerjoin(last, last.c.job_id == Job.id)
        .outerjoin(JobEvent, JobEvent.number == last.c.number)
    )
    for job_id, state, data in view.session.execute(query):
        if data is None or data.get("state") != state:
            yield job_id, f"it is {state}, and its last event says {(data or {}).get('state', 'nothing')}"


def outbox(view: View) -> Found:
    """Messages leave, and hints are of jobs that are there."""
    session = view.session
    query = select(Outbox.number, Outbox.topic, Outbox.created_at, Job.id.is_(None)).outerjoin(
        Job, Job.id == Outbox.key
    )
    old = db.now(session) - STUCK
    for number, topic, created_at, gone in session.execute(query.order_by(Outbox.number)):
        if topic == "hint" and gone:
            yield f"outbox:{number}", "it is a hint of a job that is not there"
        elif view.at_rest or created_at < old:
            yield f"outbox:{number}", f"a message of topic {topic} has not left"


# -- the log ---------------------------------------------------------------------------------------


def log_trees(view: View) -> Found:
    """A tenant's log has every leaf once, as many as its signed head says, and the root that its entries give."""
    session = view.session
    for tenant_id in session.scalars(select(Tenant.id)).all():
        mine = (AuditEvent.tenant_id == tenant_id, AuditEvent.leaf.is_not(None))
        counted = select(func.count(), func.count(AuditEvent.leaf.distinct()), func.max(AuditEvent.leaf))
        count, distinct, last = session.execute(counted.where(*mine)).one()
        if (count, distinct) != (0 if last is None else last + 1,) * 2:
            yield tenant_id, f"its log has {count} entries at {distinct} places, and the last is {last}"
            continue
        head = session.get(LogHead, tenant_id)
        size = head.size if head else 0
        if size != count:
            yield tenant_id, f"its log has {count} entries, and the signed head says {size}"
        elif view.thorough and head is not None:
            entries = transparency_log.entries(session, tenant_id, 0, size)
            leaves = (transparency_log.leaf_hash(canonical(entry)) for entry in entries)
            tree = transparency_log.grow({}, 0, leaves)
            root = transparency_log.fold([tree[node] for node in transparency_log.cover(0, size)])
            if root != head.root:
                yield tenant_id, "the entries of its log do not give the root of the signed head"
        if view.at_rest:
            waiting = select(func.count()).where(AuditEvent.tenant_id == tenant_id, AuditEvent.leaf.is_(None))
            if left := session.scalars(waiting).one():
                yield tenant_id, f"{left} events are not in its log"


def tallies(view: View) -> Found:
    """What the database has counted of a tenant's requests, year by year, is how many there are."""
    session = view.session
    year = func.coalesce(DeletionRequest.local_year, extract("year", DeletionRequest.received_at))
    fulfilled = DeletionRequest.fulfilled_at.is_not(None)
    query = select(DeletionRequest.tenant_id, year, DeletionRequest.decision, fulfilled, func.count())
    there: dict[tuple[str, int], Counter[tuple[str, bool]]] = {}
    for tenant_id, received, decision, ended, count in session.execute(query.group_by(*query.selected_columns[:4])):
        there.setdefault((tenant_id, int(received)), Counter())[decision, bool(ended)] += count
    for (tenant_id, received), counted in there.items():
        kept = Counter[tuple[str, bool]]()
        for group in kept_tallies.groups(session, tenant_id, received):
            kept[group.decision, group.ended == "fulfilled"] += group.requests
        if kept != counted:
            yield (
                tenant_id,
                f"the figures of {received} rest on {kept.total()} requests, and there are {counted.total()}",
            )


RULES: dict[str, Callable[[View], Found]] = {
    "open-requests": open_requests,
    "fulfilled-requests": fulfilled_requests,
    "receipts": receipts,
    "certificates": certificates,
    "negative-reports": negative_reports,
    "current-versions": current_versions,
    "aliases": aliases,
    "unlearned-versions": unlearned_versions,
    "blobs-held": blobs_held,
    "blobs-removed": blobs_removed,
    "erased-samples": erased_samples,
    "job-leases": job_leases,
    "job-events": job_events,
    "outbox": outbox,
    "log-trees": log_trees,
    "tallies": tallies,
}
