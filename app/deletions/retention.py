"""Removes superseded versions and reference pools on their dates."""

from __future__ import annotations

from sqlalchemy import delete, select

from app import events
from app.blobs import usage
from app.blobs.open import Blobs
from app.core import db
from app.core.db import Database
from app.core.tables import (
    JobArtifact,
    Receipt,
    ReferenceRow,
    Version,
)
from app.deletions.erasure import _tick
from app.jobs import outbox
from app.rules.states import VersionState


def purge_due_versions(database: Database, blobs: Blobs) -> int:
    """Remove superseded checkpoints whose grace is over; how many. Any process may run it, and run it again."""
    with database.write() as session:
        now = db.now(session)
        query = select(Version).where(Version.state == VersionState.SUPERSEDED, Version.purge_after <= now)
        due = session.scalars(query.with_for_update(skip_locked=True)).all()
        for version in due:
            version.state, version.purged_at = VersionState.PURGED, now
            session.execute(delete(JobArtifact).where(JobArtifact.digest == version.digest))
            events.record(session, version.tenant_id, "version.purged", version.id, digest=version.digest)
        session.flush()
        for version in due:
            usage.remove_within(session, blobs, version.digest)
            owed = select(Receipt).where(
                Receipt.subject == "superseded-checkpoint",
                Receipt.model_id == version.model_id,
                Receipt.digest == version.digest,
                Receipt.done_at.is_(None),
            )
            _tick(session, owed, now)
        return len(due)


def retire_due_pools(database: Database) -> int:
    """Retire reference pools whose date has come; how many signals. A new pool is built by `:references`."""
    with database.write() as session:
        now = db.now(session)
        due = (Receipt.subject == "reference-pool", Receipt.due_at <= now, Receipt.done_at.is_(None))
        receipts = session.scalars(select(Receipt).where(*due).with_for_update(skip_locked=True)).all()
        pools = {receipt.detail.removeprefix("pool ").partition(":")[0] for receipt in receipts}
        rows = session.scalars(select(ReferenceRow).where(ReferenceRow.pool.in_(pools))).all()
        for row in rows:
            outbox.remove_blob(session, row.digest)
            session.delete(row)
        for receipt in receipts:
            receipt.done_at = now
        return len(rows)
