"""Which rows hold which bytes: bytes stay while a row points at them, and go when none does.

Content addressing lets rows share bytes, of one tenant or of several. Processes that record
bytes and processes that remove them take turns, so that no row ever points at bytes that are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Row, Select, and_, delete, exists, or_, select, text, union_all
from sqlalchemy.orm import Session, aliased

from app.blobs.folder import BlobMissingError, is_away
from app.blobs.open import Blobs
from app.core import db
from app.core.db import Database
from app.core.errors import SupersededError
from app.core.tables import AdversarialRow, Dataset, DatasetCopy, Job, JobArtifact, ReferenceRow, Shard, Version
from app.rules.states import JobKind, JobState, VersionState

UNRECORDED = "stored-"
"""How the artefacts of a job begin that say which bytes it is storing, before any other row points at them. A job that
is killed at that moment leaves them known."""

HOLDERS = (
    (Dataset.images, Dataset.tenant_id),
    (Dataset.upload, Dataset.tenant_id),
    (Shard.blob, Shard.tenant_id),
    (DatasetCopy.digest, DatasetCopy.tenant_id),
    (Version.digest, Version.tenant_id),
    (JobArtifact.digest, Job.tenant_id),
    (AdversarialRow.digest, AdversarialRow.tenant_id),
    (ReferenceRow.digest, ReferenceRow.tenant_id),
)


def unrecorded(digest: str) -> str:
    """The name of the artefact that says that a job stores bytes of that digest."""
    return UNRECORDED + digest.removeprefix("sha256:")[:32]


def _pointed_at(digest: Any) -> Select[Any]:
    if digest is Version.digest:  # an announcement alone (size 0) holds no bytes, and must keep none
        return select(digest).where(Version.state != VersionState.PURGED, Version.size > 0)
    return select(digest).where(digest.is_not(None))


def held(session: Session) -> set[str]:
    """Every digest that some row points at."""
    return {digest for holder, _ in HOLDERS for digest in session.scalars(_pointed_at(holder))}


def in_use(session: Session, digest: str) -> bool:
    """Whether any row still points at these bytes (content addressing lets two rows share them)."""
    return bool(used(session, [digest]))


def used(session: Session, digests: Collection[str], tenant_id: str | None = None) -> set[str]:
    """Those of `digests` that some row, of that tenant or of any, still points at."""
    queries = []
    for digest, owner in HOLDERS:
        query = _pointed_at(digest).where(digest.in_(digests))
        if tenant_id is not None:
            query = query.where(owner == tenant_id)
            if owner is Job.tenant_id:
                query = query.join(Job, Job.id == JobArtifact.job_id)
        queries.append(query)
    return {digest for digest in session.scalars(union_all(*queries)) if digest}


def stored_bytes(session: Session, blobs: Blobs, tenant_id: str) -> int:
    """Of a tenant's datasets and versions. Bytes that several of them share count once."""
    versions = select(Version.digest, Version.size).where(Version.tenant_id == tenant_id)
    sizes: dict[str, int] = dict(session.execute(versions.where(Version.state != VersionState.PURGED)).all())
    shards = select(Shard.blob, Shard.size).where(Shard.tenant_id == tenant_id)
    sizes |= {digest: size for digest, size in session.execute(shards) if digest is not None}
    for digests in session.execute(select(Dataset.upload, Dataset.images).where(Dataset.tenant_id == tenant_id)):
        for digest in digests:
            if digest is not None and digest not in sizes:
                with suppress(BlobMissingError):
                    sizes[digest] = blobs.size(digest)
    return sum(sizes.values())


# -- recording and removing ------------------------------------------------------------------------


def pin(session: Session, blobs: Blobs, digest: str) -> None:
    """Call this before a row that points at `digest` is committed: it takes turns with `remove` and checks the bytes.

    Raises:
        SupersededError: they were removed between storing and recording; store them again.
    """
    _take_turns(session, digest)
    try:
        blobs.confirm(digest)
    except BlobMissingError:
        raise SupersededError("bytes were removed before they were recorded") from None
    session.execute(delete(JobArtifact).where(JobArtifact.name == unrecorded(digest)))


def _take_turns(session: Session, digest: str) -> None:
    """Until this transaction ends, nobody else records or removes `digest`. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        key = int(digest.removeprefix("sha256:")[:15], 16)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


@contextmanager
def kept_only_if_recorded(database: Database, blobs: Blobs, digest: str) -> Iterator[None]:
    """If the block fails before it records `digest`, remove the bytes at once, not later with the orphans."""
    try:
        yield
    except BaseException:
        remove(database, blobs, digest)
        raise


def remove(database: Database, blobs: Blobs, digest: str) -> bool:
    """Remove bytes that no row points at; whether they were removed."""
    with database.write() as session:
        return remove_within(session, blobs, digest)


def remove_within(session: Session, blobs: Blobs, digest: str) -> bool:
    """The same in a transaction that is under way."""
    _take_turns(session, digest)
    return not in_use(session, digest) and blobs.delete(digest)


def remove_leftovers(database: Database, blobs: Blobs) -> int:
    """Remove the resume files of jobs that cannot be resumed; how many rows.

    A succeeded unlearn job keeps its adversarial set for the request's purge, which gives a receipt for it. A job that
    ran while samples were erased and then failed may have stored some of them. It starts from the beginning if it is
    retried.
    """
    kept_for_purge = and_(JobArtifact.name == "adversarial", Job.state == JobState.SUCCEEDED)
    over = Job.state.in_([JobState.SUCCEEDED, JobState.REJECTED, JobState.CANCELLED])
    purge = aliased(Job)
    erased_under = exists().where(
        purge.dataset_id == Job.dataset_id, purge.kind == JobKind.PURGE, purge.finished_at >= Job.created_at
    )
    given_up = Job.state.in_([JobState.FAILED, JobState.DEAD])
    stale = and_(given_up, Job.kind != JobKind.UNLEARN, erased_under)
    stray = and_(given_up, JobArtifact.name.startswith(UNRECORDED))
    with database.read() as session:
        stored = select(JobArtifact.job_id, JobArtifact.name).join(Job, Job.id == JobArtifact.job_id)
        rows = session.execute(stored.where(or_(over, stale, stray), ~kept_for_purge).limit(1000)).all()

    return _remove_artifacts(database, blobs, rows)


def remove_unrecorded(database: Database, blobs: Blobs, job_id: str) -> int:
    """Remove what an attempt of this job stored and was killed before it recorded; how many."""
    own = (JobArtifact.job_id == job_id, JobArtifact.name.startswith(UNRECORDED))
    with database.read() as session:
        rows = session.execute(select(JobArtifact.job_id, JobArtifact.name).where(*own)).all()
    return _remove_artifacts(database, blobs, rows)


def _remove_artifacts(database: Database, blobs: Blobs, rows: Sequence[Row[str, str]]) -> int:
    def remove_one(found: Row[str, str]) -> bool:
        with database.write() as session:
            row = session.get(JobArtifact, tuple(found), with_for_update=True)
            if row is None:
                return False
            session.delete(row)
            session.flush()
            remove_within(session, blobs, row.digest)
        return True

    return db.one_by_one(rows, remove_one, "a resume file could not be removed", most=100, ends=is_away)


def remove_orphans(database: Database, blobs: Blobs, older_than_seconds: float) -> int:
    """Remove old bytes that no row points at, left by a crash between storing and recording; how many."""
    removed = blobs.sweep_parts(older_than_seconds)
    old = iter(blobs.older_than(older_than_seconds))
    while part := list(islice(old, 500)):
        with database.read() as session:  # nearly all are in use: nobody waits for that
            needed = used(session, part)
        free = [digest for digest in part if digest not in needed]
        failure = "bytes without an owner could not be removed"
        removed += db.one_by_one(free, partial(remove, database, blobs), failure, ends=is_away)
    return removed
