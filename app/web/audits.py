"""The audit document a client reads: a version's report and, where there is one, the exact retrain beside it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.reports import AuditReport, Measurement, Part
from app.tables import AuditRow, OutcomeRow, Version
from app.web.report import render


class Comparison(Part):
    """An exact retrain, measured on the same forget set and never published."""

    version: int
    measurement: Measurement
    seed: int
    stage_seconds: dict[str, float]


class AuditDocument(Part):
    report: AuditReport
    retrained: Comparison | None


SCHEMA = AuditDocument.model_json_schema(ref_template="#/components/schemas/{model}")


def find(session: Session, version: Version) -> AuditDocument:
    """The newest report of the version. A comparison belongs to it when it excluded one of its requests."""
    own = select(AuditRow).where(AuditRow.model_id == version.model_id, AuditRow.version == version.number)
    row = session.scalars(own.order_by(AuditRow.id.desc()).limit(1)).first()
    if row is None:
        raise NotFound("This version has no audit report; versions that were unlearned have one.")
    requests = select(OutcomeRow.request_id).where(OutcomeRow.job_id == version.job_id)
    beside = select(AuditRow).where(AuditRow.model_id == version.model_id, AuditRow.compares_request.in_(requests))
    other = session.scalars(beside.order_by(AuditRow.id.desc()).limit(1)).first()
    comparison = None
    if other is not None and other.version is not None:
        retrain = AuditReport.model_validate(other.report)
        comparison = Comparison(
            version=other.version,
            measurement=retrain.candidate,
            seed=retrain.seed,
            stage_seconds=retrain.stage_seconds,
        )
    return AuditDocument(report=AuditReport.model_validate(row.report), retrained=comparison)


def page(document: AuditDocument) -> str:
    if document.retrained is None:
        return render(document.report)
    note = f"exact retrain, version {document.retrained.version}, never published"
    return render(document.report, document.retrained.measurement, note)


def prefers(wanted: str, accept: str) -> bool:
    """Whether `wanted` is weighted above `application/json` in an Accept header."""
    weights = {wanted: 0.0, "application/json": 0.0}
    for part in accept.split(","):
        media, *params = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in params if p.startswith("q=")), "1")
        if media in weights:
            weights[media] = float(quality) if quality.replace(".", "", 1).isdigit() else 0.0
    return weights[wanted] > weights["application/json"]
