"""Deletion requests: accept, follow."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import deletions
from app.api.deps import CallerDep, IdempotentDep, PagerDep, PartsDep, Read, Write, accepted, problems
from app.api.paging import Page
from app.api.schemas import DeletionCreate, DeletionOut, OutcomeOut, ReceiptOut, id_pattern
from app.tables import DeletionRequest

router = APIRouter(prefix="/deletion-requests", tags=["deletion requests"])
RequestId = Annotated[str, Path(pattern=id_pattern("del"))]


def show(session: Session, request: DeletionRequest) -> DeletionOut:
    rows = deletions.outcomes(session, request)
    problem = deletions.purge_problem(session, request)
    return DeletionOut(
        id=request.id,
        status=deletions.status(request, rows, problem is not None).value,
        reason=request.reason or problem,
        dataset=request.dataset_id,
        model=request.model_id,
        samples=request.sample_count,
        jurisdiction=request.jurisdiction,
        basis=request.basis,
        received_at=request.received_at,
        due_at=request.due_at,
        fulfilled_at=request.fulfilled_at,
        outcomes=[
            OutcomeOut(model=row.model_id, state=row.state, job=row.job_id, version=row.version, reason=row.reason)
            for row in rows
        ],
        receipts=[
            ReceiptOut(
                subject=row.subject,
                detail=row.detail,
                digest=row.digest,
                due_at=row.due_at,
                done_at=row.done_at,
            )
            for row in deletions.receipts(session, request)
        ],
    )


@router.post("", status_code=202, response_model=DeletionOut, responses=problems(404, 409, 413))
def create(
    body: DeletionCreate, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Accept a deletion. The 202 is a promise: it is committed, and ends in a stated outcome."""
    order = deletions.Order(
        sample_ids=body.sample_ids,
        dataset_id=body.dataset,
        model_id=body.model,
        jurisdiction=body.jurisdiction,
        basis=body.basis,
        allow_data_loss=body.allow_data_loss,
    )
    request = deletions.accept(session, held.settings, who.tenant_id, order)
    return once.reply(202, show(session, request), accepted(f"/v1/deletion-requests/{request.id}"))


@router.get("", responses=problems())
def list_all(who: CallerDep, session: Read, pager: PagerDep) -> Page[DeletionOut]:
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == who.tenant_id)
    rows, token = pager.rows(session, query, DeletionRequest.id)
    return Page(items=[show(session, row) for row in rows], next_page_token=token)


@router.get("/{request}", responses=problems(404))
def read(request: RequestId, who: CallerDep, session: Read) -> DeletionOut:
    return show(session, deletions.get(session, who.tenant_id, request))
