"""Deletion requests: accept, follow, and the law's verbs on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import batches, decisions, deletions, requests
from app.api.deps import (
    CallerDep,
    IdempotencyKey,
    IdempotentDep,
    PagerDep,
    Parts,
    PartsDep,
    Read,
    Replay,
    Write,
    accepted,
    needs,
    open_idempotent,
    problems,
)
from app.api.paging import Page
from app.api.schemas import (
    DeletionCreate,
    DeletionOut,
    DeletionPreview,
    ImportLine,
    OutcomeOut,
    ReasonBody,
    ReceiptOut,
    RefuseBody,
    id_pattern,
)
from app.errors import AppError, TooLarge, Unprocessable, UnsupportedMedia
from app.lifecycle import Decision
from app.requests import Around
from app.tables import DeletionRequest, Model

router = APIRouter(prefix="/deletion-requests", tags=["deletion requests"])
RequestId = Annotated[str, Path(pattern=id_pattern("del"))]
NDJSON = "application/x-ndjson"
MOST_LINES = 10_000
IMPORT_ROUTE = "/v1/deletion-requests:import"


def show(session: Session, request: DeletionRequest) -> DeletionOut:
    """One request, with the forecast of each of its outcomes."""
    found = _show(request, requests.around(session, [request])[request.id])
    for row in found.outcomes:
        if row.state in ("pending", "batched"):
            model = session.get_one(Model, row.model)
            outcome = next(
                o for o in requests.around(session, [request])[request.id].outcomes if o.model_id == row.model
            )
            row.forecast_at = batches.forecast(session, model, outcome)
    return found


def _show(request: DeletionRequest, around: Around) -> DeletionOut:
    return DeletionOut(
        id=request.id,
        status=around.status(request).value,
        reason=request.reason or around.purge_problem,
        dataset=request.dataset_id,
        model=request.model_id,
        samples=request.sample_count,
        samples_refused=request.refused_count,
        jurisdiction=request.jurisdiction,
        rule=request.rule,
        basis=request.basis,
        received_at=request.received_at,
        confirm_by=request.confirm_by,
        due_at=request.due_at,
        extended_at=request.extended_at,
        extension_reason=request.extension_reason,
        decided_at=request.decided_at,
        fulfilled_at=request.fulfilled_at,
        outcomes=[
            OutcomeOut(model=o.model_id, state=o.state, job=o.job_id, version=o.version, reason=o.reason)
            for o in around.outcomes
        ],
        receipts=[
            ReceiptOut(subject=r.subject, detail=r.detail, digest=r.digest, due_at=r.due_at, done_at=r.done_at)
            for r in around.receipts
        ],
    )


def _order(body: DeletionCreate) -> deletions.Order:
    return deletions.Order(
        sample_ids=body.sample_ids or [],
        subjects=body.subjects or [],
        dataset_id=body.dataset,
        model_id=body.model,
        jurisdiction=body.jurisdiction,
        basis=body.basis,
        allow_data_loss=body.allow_data_loss,
    )


@router.post(
    "",
    status_code=202,
    response_model=DeletionOut,
    dependencies=[needs("request")],
    responses={200: {"model": DeletionPreview, "description": "`validate_only`"}, **problems(403, 404, 409, 413)},
)
def create(body: DeletionCreate, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Accept a deletion. The 202 is a promise: it is committed, and ends in a stated outcome.

    With `validate_only` everything is checked and nothing is stored: the reply says what it would mean.
    """
    if body.validate_only:
        impact = deletions.assess(session, held.settings, who.tenant_id, _order(body))
        models = [model.id for model in impact.affected]
        preview = DeletionPreview(samples=len(impact.positions), models=models, due_at=impact.due_at)
        return JSONResponse(preview.model_dump(mode="json"))
    request = deletions.accept(session, held.settings, who.tenant_id, _order(body))
    return once.reply(202, show(session, request), accepted(f"/v1/deletion-requests/{request.id}"))


@router.post(
    ":import",
    response_class=Response,
    dependencies=[needs("request")],
    responses={
        200: {
            "description": "a result for each line",
            "content": {NDJSON: {"schema": ImportLine.model_json_schema()}},
        },
        **problems(403, 413, 415),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {NDJSON: {"schema": {"type": "string", "description": "a deletion request a line"}}},
        }
    },
)
async def import_lines(request: Request, who: CallerDep, held: PartsDep, key: IdempotencyKey = None) -> Response:
    """Many requests as NDJSON, one a line. Each is accepted or refused by itself, in order; the reply has a line
    each. Sent again under the same Idempotency-Key, lines that were accepted are not done twice."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != NDJSON:
        raise UnsupportedMedia(f"Send {NDJSON}.")
    lines = [line for line in (await request.body()).split(b"\n") if line.strip()]
    if len(lines) > MOST_LINES:
        raise TooLarge(f"At most {MOST_LINES} lines are taken at once.")
    results = await run_in_threadpool(_import, held, who, lines, key)
    return Response("".join(result.model_dump_json() + "\n" for result in results), media_type=NDJSON)


def _import(held: Parts, who: CallerDep, lines: Sequence[bytes], key: str | None) -> list[ImportLine]:
    return [_import_line(held, who, number, line, key) for number, line in enumerate(lines)]


def _import_line(held: Parts, who: CallerDep, number: int, line: bytes, key: str | None) -> ImportLine:
    own_key = f"{hashlib.sha256(key.encode()).hexdigest()}/{number}" if key else None
    try:
        body = DeletionCreate.model_validate_json(line)
        with held.database.write() as session:
            once = open_idempotent(held, who, session, IMPORT_ROUTE, own_key, line)
            made = deletions.accept(session, held.settings, who.tenant_id, _order(body))
            result = ImportLine(line=number, status=202, id=made.id, problem=None)
            once.reply(202, result)
        return result
    except Replay as replay:
        return ImportLine.model_validate_json(bytes(replay.response.body))
    except AppError as error:
        return ImportLine(line=number, status=error.status, id=None, problem=error.document())
    except (ValidationError, json.JSONDecodeError):
        refused = Unprocessable("The line does not fit the schema of a deletion request.", kind="schema")
        return ImportLine(line=number, status=422, id=None, problem=refused.document())


@router.get("", dependencies=[needs("read")], responses=problems(403))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    dataset: Annotated[str | None, Query(pattern=id_pattern("dst"))] = None,
    decision: Annotated[Decision | None, Query()] = None,
) -> Page[DeletionOut]:
    query = select(DeletionRequest).where(DeletionRequest.tenant_id == who.tenant_id)
    for column, value in ((DeletionRequest.dataset_id, dataset), (DeletionRequest.decision, decision)):
        if value is not None:
            query = query.where(column == value)
    rows, token = pager.rows(session, query, DeletionRequest.id)
    around = requests.around(session, rows)
    return Page(items=[_show(row, around[row.id]) for row in rows], next_page_token=token)


@router.get("/{request}", dependencies=[needs("read")], responses=problems(403, 404))
def read(request: RequestId, who: CallerDep, session: Read) -> DeletionOut:
    """One request: its status, outcomes by model, receipts and dates."""
    return show(session, deletions.get(session, who.tenant_id, request))


# -- the law's verbs -------------------------------------------------------------------------------

VERB: dict[str, Any] = {
    "response_model": DeletionOut,
    "dependencies": [needs("request")],
    "responses": problems(403, 404, 409),
}


@router.post("/{request}:cancel", **VERB)
def cancel(request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Withdraw the request, unless it is being carried out."""
    row = decisions.begin(session, deletions.get(session, who.tenant_id, request))
    decisions.withdraw(session, row, body.reason)
    return _verb_reply(session, row, once)


@router.post("/{request}:refuse", **VERB)
def refuse(
    request: RequestId, body: RefuseBody, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Refuse the request, or with `sample_ids` that part of it (a partial grant)."""
    row = decisions.begin(session, deletions.get(session, who.tenant_id, request))
    decisions.refuse(session, held.settings, row, body.reason, body.sample_ids)
    return _verb_reply(session, row, once)


@router.post("/{request}:hold", **VERB)
def hold(request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """A legal hold: nothing happens to the samples until `:release`."""
    row = decisions.begin(session, deletions.get(session, who.tenant_id, request))
    decisions.hold(session, row, body.reason)
    return _verb_reply(session, row, once)


@router.post("/{request}:release", **VERB)
def release(request: RequestId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """End a legal hold."""
    row = decisions.begin(session, deletions.get(session, who.tenant_id, request))
    decisions.release(session, row)
    return _verb_reply(session, row, once)


@router.post("/{request}:extend", **VERB)
def extend(request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Take the longer period that the law allows, with notice and reasons in time."""
    row = decisions.begin(session, deletions.get(session, who.tenant_id, request))
    decisions.extend(session, row, body.reason)
    return _verb_reply(session, row, once)


def _verb_reply(session: Session, row: DeletionRequest, once: IdempotentDep) -> JSONResponse:
    session.flush()
    return once.reply(200, show(session, row))
