"""The status of a certificate: valid, superseded by a later one, contested by a complaint, or revoked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.errors import Conflict, NotFound
from app.core.tables import CaseFile, CertificateRow, DeletionRequest
from app.evidence import legal
from app.rules.states import Decision

Status = Literal["valid", "superseded", "contested", "revoked"]


@dataclass(frozen=True)
class Standing:
    """The status, since when, and what made it that: a later certificate, or requests by which it is contested."""

    digest: str
    request: str
    status: Status
    since: datetime
    superseded_by: str | None
    contested_by: list[str]
    revoked_at: datetime | None


def get(session: Session, tenant_id: str, digest: str, *, lock: bool = False) -> CertificateRow:
    query = select(CertificateRow).where(CertificateRow.digest == digest, CertificateRow.tenant_id == tenant_id)
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound("There is no such certificate.")
    return row


def held(session: Session, digest: str) -> CertificateRow:
    """The certificate that somebody holds: its digest is asked for by nobody else.

    Raises:
        NotFound: there is none.
    """
    row = session.get(CertificateRow, digest)
    if row is None:
        raise NotFound("There is no such certificate.")
    return row


def standing(session: Session, row: CertificateRow) -> Standing:
    """Revoked comes first, then superseded, then contested: while the complaint about it is open."""
    later = session.scalars(select(CertificateRow).where(CertificateRow.supersedes == row.digest)).first()
    entered = func.coalesce(DeletionRequest.posted_at, DeletionRequest.received_at)
    complaints = select(DeletionRequest.id, entered).where(
        DeletionRequest.complaint_about == row.request_id,
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.decision.in_([Decision.ACCEPTED, Decision.HELD]),
    )
    contested: dict[str, datetime] = dict(session.execute(complaints.order_by(DeletionRequest.id)).all())
    status: Status
    status, since = ("contested", min(contested.values())) if contested else ("valid", row.issued_at)
    if later is not None:
        status, since = "superseded", later.issued_at
    if row.revoked_at is not None:
        status, since = "revoked", row.revoked_at
    superseded_by = None if later is None else later.digest
    return Standing(row.digest, row.request_id, status, since, superseded_by, list(contested), row.revoked_at)


def revoke(session: Session, row: CertificateRow, reason: str) -> None:
    """The controller no longer stands behind it: the log says so, and a case file that was made before is made anew.

    Raises:
        Conflict: it is revoked already.
    """
    if row.revoked_at is not None:
        raise Conflict("The certificate is revoked already.", kind="revoked-already")
    row.revoked_at = db.now(session)
    if (kept := session.get(CaseFile, row.request_id, with_for_update=True)) is not None:
        kept.made_at = kept.problem = kept.content = None
    events.record_decision(session, row.tenant_id, legal.REVOKED, row.request_id, reason, certificate=row.digest)
