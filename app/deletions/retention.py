"""Removes superseded versions and reference pools on their dates."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app import events
from app.blobs import usage
from app.blobs.folder import is_away
from app.blobs.open import Blobs
from app.core import db
from app.core.db import Database
from app.core.errors import AppError, Conflict, Unprocessable
from app.core.tables import (
    DeletionRequest,
    JobArtifact,
    Receipt,
    ReferenceRow,
    Version,
)
from app.deletions import erasure, views
from app.deletions.erasure import _tick
from app.deletions.views import REMAINS
from app.jobs import outbox
from app.models import pools
from app.rules.states import VersionState

log = logging.getLogger("lethe.sweeper")


def purge_due_versions(database: Database, blobs: Blobs) -> int:
    """Remove superseded checkpoints whose grace is over; how many. Any process may run it, and run it again."""
    with database.read() as session:
        ended = (Version.state == VersionState.SUPERSEDED, Version.purge_after <= db.now(session))
        ids = list(session.scalars(select(Version.id).where(*ended).order_by(Version.purge_after).limit(1000)))

    def purge(version_id: str) -> bool:
        with database.write() as session:
            now = db.now(session)
            version = session.get(Version, version_id, with_for_update=True)
            if version is None or version.state != VersionState.SUPERSEDED:
                return False
            version.state, version.purged_at = VersionState.PURGED, now
            session.execute(delete(JobArtifact).where(JobArtifact.digest == version.digest))
            events.record(session, version.tenant_id, "version.purged", version.id, digest=version.digest)
            session.flush()
            usage.remove_within(session, blobs, version.digest)
            owed = select(Receipt).where(
                Receipt.subject == "superseded-checkpoint",
                Receipt.model_id == version.model_id,
                Receipt.digest == version.digest,
                Receipt.done_at.is_(None),
            )
            _tick(session, owed, now)
        return True

    return db.one_by_one(ids, purge, "a superseded checkpoint could not be removed", ends=is_away)


def keep_remains(session: Session, request: DeletionRequest, until: datetime, reason: str) -> None:
    """What was made from the samples stays up to `until`, after the due date: said in the status and the log.

    Raises:
        Conflict: nothing is left, or the request is not that far.
        Unprocessable: the date is no later than what is there, or later than that of any grace.
    """
    details = views.details(session, [request])[request.id]
    if not (left := details.remaining):
        raise Conflict("Nothing that was made from the samples is left, or it has no date yet.", kind="nothing-left")
    latest, now = max(row.due_at for row in left if row.due_at), db.now(session)
    if not latest < until <= now + erasure.POOL_LIFE:
        raise Unprocessable(
            f"The date must be later than the one that holds, and within {erasure.POOL_LIFE.days} days.",
            kind="date-outside",
            errors=[{"pointer": "/until", "code": "date-outside"}],
        )
    request.remains_until, request.remains_reason = until, reason
    for row in left:
        row.due_at = until
        if row.subject == "superseded-checkpoint":
            kept = (Version.model_id == row.model_id, Version.digest == row.digest, Version.purged_at.is_(None))
            for version in session.scalars(select(Version).where(*kept).with_for_update()):
                version.purge_after = _earliest(session, version)
    events.record_decision(
        session, request.tenant_id, "request.remains-kept", request.id, reason, until=f"{until:%Y-%m-%dT%H:%M:%SZ}"
    )


def _earliest(session: Session, version: Version) -> datetime | None:
    """No request keeps what another one erases earlier."""
    session.flush()
    owed = (Receipt.model_id == version.model_id, Receipt.digest == version.digest, Receipt.done_at.is_(None))
    return session.scalars(select(func.min(Receipt.due_at)).where(Receipt.subject == REMAINS[0], *owed)).one()


def retire_due_pools(database: Database) -> int:
    """Retire reference pools whose date has come; how many signals. A new pool was queued before, or is now
    (`app.models.pools`).

    A pool goes on the earliest date that any request has for it.
    """
    with database.write() as session:
        now = db.now(session)
        _queue_successors(session, now)
        pending = select(Receipt).where(Receipt.subject == "reference-pool", Receipt.done_at.is_(None))
        due = session.scalars(pending.where(Receipt.due_at <= now).with_for_update(skip_locked=True)).all()
        if not due:
            return 0
        gone = {_pool_of(receipt) for receipt in due}
        rows = session.scalars(select(ReferenceRow).where(ReferenceRow.pool.in_(gone))).all()
        for row in rows:
            outbox.remove_blob(session, row.digest)
            session.delete(row)
        for receipt in session.scalars(pending).all():
            if _pool_of(receipt) in gone:
                receipt.done_at = now
        return len(rows)


def _queue_successors(session: Session, now: datetime) -> None:
    """What is gone, nobody sees is stale: a pool may be due before the sweep that looks for it."""
    due = (Receipt.subject == "reference-pool", Receipt.done_at.is_(None), Receipt.due_at <= now)
    of = select(DeletionRequest.dataset_id).join(Receipt, Receipt.request_id == DeletionRequest.id).where(*due)
    for dataset_id in session.scalars(of.distinct()).all():
        try:
            pools.queue_successors(session, dataset_id)
        except AppError as error:  # the date holds all the same
            log.warning("no pool takes the place of one that goes (dataset %s): %s", dataset_id, error)


def _pool_of(receipt: Receipt) -> str:
    return receipt.detail.removeprefix("pool ").partition(":")[0]
