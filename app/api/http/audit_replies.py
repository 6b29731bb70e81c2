"""The audit documents that a client reads: a report and, where there is one, the exact retrain beside it."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.http import session_cookie
from app.api.http.preferences import prefers
from app.core.errors import NotFound
from app.core.tables import AuditRow, CertificateRow, Job, OutcomeRow, Version
from app.formats.audit_report import AuditReport, Measurement, Part
from app.reports import audit_rows
from app.reports.page import Covered, render


class Comparison(Part):
    """An exact retrain, measured on the same forget set and never published."""

    version: int
    measurement: Measurement
    seed: int
    stage_seconds: dict[str, float]


class CoveredRequest(Part):
    """A request that the audited job carries out."""

    id: str
    certificate: str | None = Field(description="digest of its newest certificate; null before it is sealed")


class AuditDocument(Part):
    report: AuditReport
    retrained: Comparison | None
    requests: list[CoveredRequest] = Field(description="that the version's job carried out, in its later audits too")


def find(session: Session, version: Version) -> AuditDocument:
    """The report that the version was published with; of one that was not audited then, the newest."""
    row = audit_rows.publication(session, version)
    if row is None:  # a sham says nothing of the version
        reports = session.scalars(audit_rows.reports_of(version))
        row = next((each for each in reports if not each.report.get("sham")), None)
    if row is None:
        raise NotFound("This version has no audit report; versions that were unlearned have one.")
    return document(session, row, version.job_id)


def of_job(session: Session, job: Job) -> AuditDocument:
    """The last report of a job, whether it led to a version or was rejected."""
    query = select(AuditRow).where(AuditRow.job_id == job.id).order_by(AuditRow.id.desc()).limit(1)
    row = session.scalars(query).first()
    if row is None:
        raise NotFound("This job has made no audit report.")
    made_by = select(Version.job_id).where(Version.model_id == row.model_id, Version.number == row.version)
    return document(session, row, job.id if row.version is None else session.scalar(made_by))


def document(session: Session, row: AuditRow, made_by: str | None) -> AuditDocument:
    """The report with an exact retrain beside it. A comparison belongs to it when it excluded a request that the job
    `made_by` served, and of canaries there is none."""
    requests = select(OutcomeRow.request_id).where(OutcomeRow.job_id == made_by)
    retrained = session.scalars(select(AuditRow).where(AuditRow.compares_request.in_(requests)).order_by(AuditRow.id))
    other = next((each for each in reversed(retrained.all()) if each.model_id == row.model_id), None)
    report, comparison = AuditReport.model_validate(row.report), None
    if report.of == "forget-set" and other is not None and other.version is not None:
        retrain = AuditReport.model_validate(other.report)
        comparison = Comparison(
            version=other.version,
            measurement=retrain.candidate,
            seed=retrain.seed,
            stage_seconds=retrain.stage_seconds,
        )
    return AuditDocument(report=report, retrained=comparison, requests=_covered(session, made_by))


def _covered(session: Session, made_by: str | None) -> list[CoveredRequest]:
    served = select(OutcomeRow.request_id).where(OutcomeRow.job_id == made_by).order_by(OutcomeRow.request_id)
    ids = list(session.scalars(served))
    sealed = select(CertificateRow.request_id, CertificateRow.digest).where(CertificateRow.request_id.in_(ids))
    newest = dict(session.execute(sealed.order_by(CertificateRow.issued_at)).all())
    return [CoveredRequest(id=each, certificate=newest.get(each)) for each in ids]


def answer(request: Request, found: AuditDocument, name: str) -> Response:
    """As JSON or, where it is asked for, as a page that calls the model by its name. In a session of the console it
    leads back there."""
    if prefers("text/html", request.headers.get("accept", "")):
        here = session_cookie.of(request.app.state.parts.settings, request.scope)
        back = f"{request.scope.get('root_path', '')}/console/models/{found.report.model}" if here else ""
        return HTMLResponse(page(found, name, back), headers={"Vary": "Accept, Cookie"})
    return JSONResponse(found.model_dump(mode="json"), headers={"Vary": "Accept"})


def page(found: AuditDocument, name: str, back: str = "") -> str:
    covered = [Covered(row.id, row.certificate) for row in found.requests]
    if found.retrained is None:
        return render(found.report, name=name, covered=covered, back=back)
    note = f"exact retrain, version {found.retrained.version}, never published"
    return render(found.report, found.retrained.measurement, note, name, covered, back)
