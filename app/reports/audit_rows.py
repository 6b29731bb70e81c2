"""Audit reports as rows: which a version was published with, and the retrains that are kept to compare with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.core import db
from app.core.ids import new_id
from app.core.positions import Positions, bitmap
from app.core.tables import AuditRow, Model, Version
from app.jobs import Claim
from app.rules.states import VersionState


def add(
    session: Session,
    claim: Claim,
    model: Model,
    number: int | None,
    report: dict[str, Any],
    compares: str | None,
) -> AuditRow:
    row = AuditRow(
        id=new_id("aud"),
        tenant_id=model.tenant_id,
        model_id=model.id,
        job_id=claim.id,
        version=number,
        compares_request=compares,
        verdict=report["judgement"]["verdict"],
        report=report,
        created_at=db.now(session),
    )
    session.add(row)
    session.flush()
    return row


def reports_of(version: Version) -> Select[AuditRow]:
    """The version's reports, newest first."""
    query = select(AuditRow).where(AuditRow.model_id == version.model_id, AuditRow.version == version.number)
    return query.order_by(AuditRow.id.desc())


def publication(session: Session, version: Version) -> AuditRow | None:
    """The report that the version was published with: of the job that made it, not a later one."""
    return session.scalars(reports_of(version).where(AuditRow.job_id == version.job_id).limit(1)).first()


def retrains(session: Session, model_id: str, remain: Positions, size: int) -> list[Version]:
    """Exact retrains kept to compare with that were trained on `remain` and nothing else, oldest first.

    size: of the dataset.
    """
    query = (
        select(Version)
        .where(
            Version.model_id == model_id,
            Version.origin == "comparison",
            Version.state != VersionState.PURGED,
            Version.trained_count == len(remain),
        )
        .order_by(Version.number)
    )
    wanted = bitmap(remain, size)
    return [version for version in session.scalars(query) if version.trained_on == wanted]
