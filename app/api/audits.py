"""Audits: measure a version again, and read every report: of a version, of a job that was rejected."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from app.api import jobs as job_api
from app.api.http import audit_replies
from app.api.http.deps import (
    ANOTHER_JOB,
    BY_METHOD,
    CallerDep,
    IdempotentDep,
    PagerDep,
    PartsDep,
    Read,
    Write,
    problems,
)
from app.api.http.paging import Page
from app.api.http.patterns import id_pattern
from app.api.models import ModelId, started
from app.api.schemas import AuditBody, AuditOut, JobOut
from app.api.versions import Number
from app.core.errors import Conflict, NotFound
from app.core.positions import mask_of, pack
from app.core.tables import AuditRow, Dataset, Model, Version
from app.datasets import canaries, samples
from app.datasets import records as datasets
from app.jobs import routing
from app.models import records as models
from app.models import versions
from app.reports import audit_rows
from app.rules import plugins
from app.rules.audit_plan import least_margin
from app.rules.states import JobKind

router = APIRouter(tags=["audits"], dependencies=[BY_METHOD])
AuditId = Annotated[str, Path(pattern=id_pattern("aud"))]
REPORT: dict[str, Any] = {
    "response_model": None,
    "responses": {
        200: {
            "description": "the report: JSON, or a self-contained page by `Accept: text/html`",
            "model": audit_replies.AuditDocument,
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problems(403, 404),
    },
}


@router.post(
    "/models/{model}:audit",
    status_code=202,
    response_model=JobOut,
    responses=problems(403, 404, 409, 410),
    dependencies=[ANOTHER_JOB],
)
def audit(
    model: ModelId,
    who: CallerDep,
    held: PartsDep,
    session: Write,
    once: IdempotentDep,
    body: AuditBody = AuditBody(),
) -> JSONResponse:
    """Measure a version by the policy's audit and probes, or by those that are named. What was published stays.

    On the samples that are named, or on the canaries that it and the versions before it have forgotten; else on the
    forget set of the batch that made the version, while its samples are there; else the version's own membership signal
    and its accuracies alone.
    """
    row = models.get(session, who.tenant_id, model)
    dataset = datasets.get(session, who.tenant_id, row.dataset_id)
    number = body.version or row.current_version
    if number is None:
        raise Conflict("The model has no current version.", kind="no-version")
    version = versions.get(session, row, number)
    versions.require_present(version)
    if body.canaries:
        _require_enough(session, dataset, version)
    positions = None
    if body.sample_ids is not None:
        erased = mask_of(dataset.erased, dataset.sample_count)
        named = samples.resolve(session, held.settings, dataset, body.sample_ids, "/sample_ids", erased, "erased")
        positions = pack(named).hex()
    elif body.subjects is not None:
        erased = mask_of(dataset.erased, dataset.sample_count)
        positions = pack(samples.of_subjects(session, dataset, body.subjects, erased)).hex()
    params = {
        "version": number,
        "audit": body.audit.model_dump() if body.audit else None,
        "probes": None if body.probes is None else [probe.model_dump() for probe in body.probes],
        "positions": positions,
        "grouped": body.grouped or body.subjects is not None,
        "canaries": body.canaries,
    }
    job = models.start(session, row, JobKind.AUDIT, seed=0, params=params)
    routing.require(session, job.id, plugins.needed(plugins.of_audit(body.audit, body.probes)))
    return started(job, session, once)


def _require_enough(session: Session, dataset: Dataset, version: Version) -> None:
    """Refuse to measure canaries that could pass no margin.

    Raises:
        Conflict: says how many there are, and how many it takes.
    """
    found = canaries.of_version(session, dataset, version)
    if not len(found.forgotten):
        raise Conflict("This version has forgotten no canaries (docs/gate.md).", kind="no-canaries")
    _, trained = datasets.labels_of(session, dataset)
    controls = len(found.held_out) or int((~trained).sum())
    if least_margin(len(found.forgotten), controls) is None:
        raise Conflict(
            f"{len(found.forgotten)} forgotten canaries beside {controls} never trained on could pass no margin below "
            "0.5. Let more jobs forget some (`canaries` in the policy), or plant and hold out more.",
            kind="too-few-canaries",
        )


def _version(session: Session, tenant_id: str, model_id: str, number: int) -> tuple[Model, Version]:
    model = models.get(session, tenant_id, model_id)
    return model, versions.get(session, model, number)


@router.get("/models/{model}/versions/{number}/audits", responses=problems(403, 404))
def list_all(model: ModelId, number: Number, who: CallerDep, session: Read, pager: PagerDep) -> Page[AuditOut]:
    """Every report of the version, newest first: the one it was published with, and those made since."""
    _, version = _version(session, who.tenant_id, model, number)
    rows, token = pager.rows(session, audit_rows.reports_of(version).order_by(None), AuditRow.id)
    return Page(
        items=[
            AuditOut(
                id=row.id,
                job=row.job_id,
                published=row.job_id == version.job_id,
                verdict=row.verdict,
                created_at=row.created_at,
            )
            for row in rows
        ],
        next_page_token=token,
    )


@router.get("/models/{model}/versions/{number}/audits/{audit}", **REPORT)
def read(model: ModelId, number: Number, audit: AuditId, request: Request, who: CallerDep, session: Read) -> Response:
    """One report of the version."""
    named, version = _version(session, who.tenant_id, model, number)
    row = session.scalars(audit_rows.reports_of(version).where(AuditRow.id == audit)).first()
    if row is None:
        raise NotFound("The version has no such report.")
    return audit_replies.answer(request, audit_replies.document(session, row, version.job_id), named.name)


@router.get("/jobs/{job}/audit", **REPORT)
def read_of_job(job: job_api.JobId, request: Request, who: CallerDep, session: Read) -> Response:
    """The report that a job made: also of one whose candidate was rejected, which no version has."""
    row = job_api.find(session, who.tenant_id, job)
    found = audit_replies.of_job(session, row)
    named = models.get(session, who.tenant_id, row.model_id or "")
    return audit_replies.answer(request, found, named.name)
