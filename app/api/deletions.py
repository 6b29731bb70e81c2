"""Deletion requests: accept, follow, and the law's verbs on them."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from collections.abc import Collection, Mapping
from datetime import date, datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import ValidationError
from sqlalchemy import ColumnElement, CompoundSelect, Select, Text, bindparam, cast, func, literal, select, union
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.http.bodies import body_of
from app.api.http.conditional import IfMatch, IfMatchDep
from app.api.http.deps import (
    CallerDep,
    IdempotencyKey,
    IdempotentDep,
    IfNoneMatch,
    PagerDep,
    Parts,
    PartsDep,
    Read,
    ToRead,
    ToRequest,
    Write,
    accepted,
    caller,
    needs,
    problems,
    token_of,
)
from app.api.http.intake import Posted
from app.api.http.paging import Created, Moment, Page, matching, moment
from app.api.http.patterns import id_pattern
from app.api.http.replies import Reply
from app.api.http.status_polls import Noun, ObjectName, Poll
from app.api.schemas import (
    ID_OR_NAME,
    ConfirmBody,
    DeletionCreate,
    DeletionOut,
    DeletionPreview,
    History,
    HistoryEntry,
    IdentityBody,
    IdentityOut,
    ImportLine,
    Name,
    OutcomeOut,
    OwedObjects,
    ProposalOut,
    ReasonBody,
    ReceiptOut,
    RefusalOut,
    RefuseBody,
    RemainOut,
    RemainsBody,
    in_place,
)
from app.core import db, keys, logs, tracing
from app.core.errors import AppError, TooLarge, Unprocessable, UnsupportedMedia
from app.core.keys import Caller
from app.core.positions import unpack
from app.core.tables import CaseDetails, DeletionRequest, Job, Model, Notice, OutcomeRow, Proposal, Receipt, Refusal
from app.datasets import records as datasets
from app.deletions import batches, decisions, history, identity, objects, orders, retention, views
from app.deletions.orders import Accepted, Impact, NewRequest
from app.deletions.views import RequestDetails
from app.models import records as models
from app.rules.states import Decision, JobKind, RequestStatus

router = APIRouter(prefix="/deletion-requests", tags=["deletion requests"])
RequestId = Annotated[str, Path(pattern=id_pattern("del"))]
NDJSON = "application/x-ndjson"
MOST_LINES = 10_000
MOST_REFERRED = 100  # requests of one ticket or letter
LINES_AT_ONCE = 500  # so that other requests come in between
LEAST_PERIOD = timedelta(days=27)  # no law wants its answer within a shorter time
FIRST_DUE = moment("0001-01-01T00:00:00Z") + LEAST_PERIOD
IMPORT_ROUTE = "/v1/deletion-requests:import"


def show(session: Session, request: DeletionRequest) -> DeletionOut:
    """One request, with the forecast of each of its outcomes."""
    return _with_forecasts(session, request, views.details(session, [request])[request.id], {})


Forecasts = dict[tuple[str, str | None], datetime | None]
"""By model, and by job or for all that wait for the same next one."""


def _with_forecasts(
    session: Session, request: DeletionRequest | NewRequest, details: RequestDetails, known: Forecasts
) -> DeletionOut:
    found = _show(request, details)
    for row in found.outcomes:
        if row.state in ("pending", "batched"):
            # Jobs that were queued in one transaction have one forecast.
            shared = (row.model, "new" if row.job and isinstance(request, NewRequest) else row.job)
            if shared not in known:
                known[shared] = batches.forecast(session, session.get_one(Model, row.model), row.job)
            row.forecast_at = known[shared]
    return found


def _show(request: DeletionRequest | NewRequest, details: RequestDetails) -> DeletionOut:
    return DeletionOut(
        id=request.id,
        status=details.status(request).value,
        reason=request.reason or details.purge_problem,
        dataset=request.dataset_id,
        model=request.model_id,
        samples=request.sample_count,
        samples_refused=request.refused_count,
        jurisdiction=request.jurisdiction,
        rule=request.rule,
        basis=request.basis,
        ground=request.ground,
        reference=request.reference if isinstance(request, NewRequest) else details.reference,
        identity=IdentityOut(
            status=request.identity,
            asked_at=request.identity_asked_at,
            until=request.identity_until,
            ended_at=request.identity_ended_at,
            moves_due_at=identity.moves_due(request),
        ),
        complaint_about=request.complaint_about,
        case=request.case_id,
        received_at=request.received_at,
        posted_at=request.posted_at or request.received_at,
        received_reason=request.received_reason,
        channel=request.channel,
        confirm_by=request.confirm_by,
        confirmed_at=request.confirmed_at,
        due_at=request.due_at,
        extended_at=request.extended_at,
        extension_reason=request.extension_reason,
        extension_sent_at=request.extension_sent_at,
        decided_at=request.decided_at,
        refusal_ground=request.refusal_ground,
        refusals=[RefusalOut.model_validate(each, from_attributes=True) for each in details.refusals],
        proposal=_show_proposal(details.proposal),
        fulfilled_at=request.fulfilled_at,
        verdict=details.verdict,
        model_replaced_at=details.replaced_at,
        erasure_complete_at=details.complete_at(request),
        answered_at=request.answered_at,
        answered_how=request.answered_how,
        remains=[RemainOut(subject=r.subject, model=r.model_id, until=r.due_at) for r in details.remaining],
        remains_reason=request.remains_reason,
        outcomes=[
            OutcomeOut(
                model=o.model_id,
                state=o.state,
                verdict=details.verdicts.get(o.model_id),
                job=o.job_id,
                version=o.version,
                reason=o.reason,
            )
            for o in details.outcomes
        ],
        receipts=[
            ReceiptOut(subject=r.subject, detail=r.detail, digest=r.digest, due_at=r.due_at, done_at=r.done_at)
            for r in details.receipts
        ],
    )


def _show_proposal(row: Proposal | None) -> ProposalOut | None:
    if row is None:
        return None
    part = None if row.positions is None else len(unpack(row.positions))
    return ProposalOut(by=row.key_id, reason=row.reason, ground=row.ground, samples=part, created_at=row.created_at)


def order_of(
    body: DeletionCreate,
    who: Caller,
    traceparent: str | None = None,
    case_id: str | None = None,
    again: Mapping[str, Any] | None = None,
) -> orders.Order:
    return orders.Order(
        tenant_id=who.tenant_id,
        actor=who.key_id,
        received_at=in_place(body.received_at, body.jurisdiction),
        received_reason=body.received_reason,
        reference=body.reference,
        channel=body.channel,
        ground=body.ground,
        complaint_about=body.complaint_about,
        sample_ids=body.sample_ids or [],
        subjects=body.subjects or [],
        dataset_id=body.dataset,
        model_id=body.model,
        jurisdiction=body.jurisdiction,
        basis=body.basis,
        allow_data_loss=body.allow_data_loss,
        validate_only=body.validate_only,
        traceparent=traceparent,
        case_id=case_id,
        again=again or {},
    )


# -- taking requests in ------------------------------------------------------------------------------


@router.post(
    "",
    status_code=202,
    response_model=DeletionOut,
    responses={200: {"model": DeletionPreview, "description": "`validate_only`"}, **problems(403, 404, 409, 413)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/DeletionCreate"}}},
        }
    },
)
async def create(request: Request, held: PartsDep, sent: ToRequest, key: IdempotencyKey = None) -> Response:
    """Accept a deletion. The 202 is a promise: it is committed, and ends in a stated outcome.

    With `validate_only` everything is checked and nothing is stored: the reply says what it would mean.
    """
    token, raw = token_of(sent), await request.body()
    try:
        body = body_of(request, raw, DeletionCreate)
    except RequestValidationError:
        who = await run_in_threadpool(
            caller, held, sent
        )  # a caller without the right learns nothing of the body's faults
        keys.require(who, "request")
        raise
    posted = Posted(
        token, partial(order_of, body, traceparent=tracing.current()), "/v1/deletion-requests", key, raw, _reply
    )
    reply = await held.intake.submit(posted, body.dataset)
    logs.note(tenant=reply.tenant)
    return reply.response()


def _reply(session: Session, done: Accepted | Impact, known: Forecasts) -> Reply:
    if isinstance(done, Impact):
        models = [model.id for model in done.affected]
        preview = DeletionPreview(
            samples=len(done.positions),
            models=models,
            due_at=done.due_at,
            duplicates=done.duplicates,
            duplicate_ids=list(done.duplicate_ids),
            through_base=[model.id for model, _ in done.through],
        )
        return Reply(200, preview.model_dump_json())
    shown = _with_forecasts(session, done.request, RequestDetails(done.outcomes), known)
    where = accepted(f"/v1/deletion-requests/{shown.id}")
    return Reply(202, shown.model_dump_json(), where, done.request.tenant_id)


@router.post(
    ":import",
    response_class=Response,
    dependencies=[needs("request")],
    responses={
        200: {
            "description": "a result for each line",
            "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/ImportLine"}}},
        },
        **problems(403, 413, 415),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {NDJSON: {"schema": {"description": "a `DeletionCreate` a line"}}},
        }
    },
)
async def import_lines(request: Request, held: PartsDep, sent: ToRequest, key: IdempotencyKey = None) -> Response:
    """Many requests as NDJSON, one a line. Each is accepted or refused by itself, in order; the reply has a line
    each, with the number of the line it answers; empty lines count. Sent again under the same Idempotency-Key, lines
    that were accepted are not done twice."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != NDJSON:
        raise UnsupportedMedia(f"Send {NDJSON}.")
    sent_lines = (await request.body()).removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [(number, line) for number, line in enumerate(sent_lines) if line.strip()]
    if len(lines) > MOST_LINES:
        raise TooLarge(f"At most {MOST_LINES} lines are taken at once.")
    results: list[ImportLine] = []
    for start in range(0, len(lines), LINES_AT_ONCE):
        some = [
            _import_line(held, token_of(sent), number, line, key)
            for number, line in lines[start : start + LINES_AT_ONCE]
        ]
        results += await asyncio.gather(*some)
    return Response("".join(result.model_dump_json() + "\n" for result in results), media_type=NDJSON)


async def _import_line(held: Parts, token: str, number: int, line: bytes, key: str | None) -> ImportLine:
    own_key = f"{hashlib.sha256(key.encode()).hexdigest()}/{number}" if key else None
    try:
        body = DeletionCreate.model_validate_json(line)
        show_line = partial(_line_reply, number)
        posted = Posted(
            token, partial(order_of, body, traceparent=tracing.current()), IMPORT_ROUTE, own_key, line, show_line
        )
        reply = await held.intake.submit(posted, body.dataset)
        return ImportLine.model_validate_json(reply.text)
    except AppError as error:
        return ImportLine(line=number, status=error.status, id=None, problem=error.document())
    except ValidationError:
        refused = Unprocessable("The line does not fit the schema of a deletion request.", kind="schema")
        return ImportLine(line=number, status=422, id=None, problem=refused.document())


def _line_reply(number: int, _session: Session, done: Accepted | Impact, _known: Forecasts) -> Reply:
    made = done.request.id if isinstance(done, Accepted) else None
    status = 200 if made is None else 202
    return Reply(status, ImportLine(line=number, status=status, id=made, problem=None).model_dump_json())


@router.get("", dependencies=[needs("read")], responses=problems(403, 404, 409))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    received: Created,
    dataset: Annotated[Name | None, Query(description=ID_OR_NAME)] = None,
    model: Annotated[Name | None, Query(description="named or affected by it: its id, or its name")] = None,
    status: Annotated[RequestStatus | None, Query()] = None,
    decision: Annotated[Decision | None, Query()] = None,
    due_before: Moment | None = None,
    unanswered: Annotated[
        bool | None, Query(description="only those that still need an answer, the earliest due date first")
    ] = None,
    reference: Annotated[str | None, Query(max_length=200, description="exactly this ticket or letter")] = None,
    complaint_about: Annotated[str | None, Query(pattern=id_pattern("del"))] = None,
    case: Annotated[str | None, Query(pattern=id_pattern("del"))] = None,
    notice_unsent: Annotated[
        bool | None, Query(description="only those with a notice that is made and not marked as sent")
    ] = None,
    letter_missing: Annotated[
        bool | None,
        Query(description="only those with an extension or a refusal of which no letter is marked as sent"),
    ] = None,
    answer_missing: Annotated[
        bool | None, Query(description="only those that are fulfilled, and whose letter is not marked as sent")
    ] = None,
    confirm_pending: Annotated[
        bool | None,
        Query(description="only open ones whose receipt must still be confirmed to the person, the earliest first"),
    ] = None,
) -> Page[DeletionOut]:
    """The requests, newest first."""
    for name, ordered in (("unanswered", unanswered), ("confirm_pending", confirm_pending)):
        if ordered and model is not None:
            fault = {"in": "query", "pointer": f"/{name}", "code": "value_error", "detail": "not together with `model`"}
            raise Unprocessable("The request does not fit its schema.", kind="schema", errors=[fault])
    tenant: Any = DeletionRequest.tenant_id
    if status == RequestStatus.INCOMPLETE:  # few: SQLite is kept from walking through all requests of the tenant
        tenant = tenant.concat("")
    query = select(DeletionRequest).where(tenant == who.tenant_id)
    dataset = dataset and datasets.id_of(session, who.tenant_id, dataset)
    model = model and models.id_of(session, who.tenant_id, model)
    query = matching(query, {DeletionRequest.dataset_id: dataset, DeletionRequest.decision: decision})
    query = matching(query, {DeletionRequest.complaint_about: complaint_about, DeletionRequest.case_id: case})
    if reference is not None:
        these = (CaseDetails.tenant_id == who.tenant_id, CaseDetails.reference == reference)
        query = query.where(_among(session, select(CaseDetails.request_id).where(*these)))
    if notice_unsent:
        waiting = select(Notice.request_id).where(Notice.tenant_id == who.tenant_id, Notice.sent_at.is_(None))
        query = query.where(_among(session, waiting.distinct()))
    if letter_missing:
        query = query.where(_among(session, _without_letter(who.tenant_id)))
    if answer_missing:
        query = query.where(*views.NO_ANSWER)
    if status is not None:
        query = query.where(views.having(status))
    if unanswered or confirm_pending:
        query = received.of(query.where(*views.UNANSWERED), DeletionRequest.received_at)
        if due_before is not None:
            query = query.where(DeletionRequest.due_at < moment(due_before))
        date: Any = DeletionRequest.due_at
        if confirm_pending:
            date = DeletionRequest.confirm_by
            query = query.where(date.is_not(None), DeletionRequest.confirmed_at.is_(None))
        rows, token = pager.rows_by_time_rising(session, query, date, DeletionRequest.id)
        details = views.details(session, rows)
        return Page(items=[_show(row, details[row.id]) for row in rows], next_page_token=token)
    if due_before is not None:
        due = max(moment(due_before), FIRST_DUE)  # and so received some time before: there the index is entered
        query, received = query.where(DeletionRequest.due_at < due), received.ending(due - LEAST_PERIOD)
    common = status in (None, RequestStatus.FULFILLED) and decision in (None, Decision.ACCEPTED)
    if model is None or not common:
        if model is not None:  # of a rare status: sooner found among those that have it than among the model's
            query = query.where(views.affecting(model))
        rows, token = pager.rows_by_time(session, query, DeletionRequest.received_at, DeletionRequest.id, received)
    else:
        query = received.of(query, DeletionRequest.received_at)
        affected = query.join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id).where(
            OutcomeRow.model_id == model
        )
        named = query.where(DeletionRequest.model_id == model)
        rows, token = pager.rows_of_either(
            session, DeletionRequest.id, {OutcomeRow.request_id: affected, DeletionRequest.id: named}
        )
    details = views.details(session, rows)
    return Page(items=[_show(row, details[row.id]) for row in rows], next_page_token=token)


def _without_letter(tenant_id: str) -> CompoundSelect[str]:
    row = DeletionRequest
    refused = select(Refusal.request_id).where(Refusal.tenant_id == tenant_id, Refusal.letter_sent_at.is_(None))
    unsaid = (row.extended_at.is_not(None), row.extension_sent_at.is_(None))
    return union(refused, select(row.id).where(row.tenant_id == tenant_id, *unsaid, *views.UNANSWERED))


def _among(session: Session, ids: Select[str] | CompoundSelect[str]) -> ColumnElement[bool]:
    few = session.scalars(ids.limit(MOST_REFERRED + 1)).all()  # in steps: what follows is planned for so few
    return DeletionRequest.id.in_(ids if len(few) > MOST_REFERRED else few)


@router.get("/{request:noun}", response_model=DeletionOut, responses=problems(403, 404))
async def read(request: RequestId, sent: ToRead, held: PartsDep, if_none_match: IfNoneMatch = None) -> Response:
    """One request: its status, outcomes by model, receipts and dates."""
    reply = await held.polls.submit(Poll(token_of(sent), POLLED, request, if_none_match))
    logs.note(tenant=reply.tenant)
    return reply.response(if_none_match)


async def create_usual(request: Request, held: Parts, sent: HTTPAuthorizationCredentials, _: str) -> Response:
    return await create(request, held, sent, request.headers.get("idempotency-key"))


async def read_usual(request: Request, held: Parts, sent: HTTPAuthorizationCredentials, name: str) -> Response:
    return await read(name, sent, held, request.headers.get("if-none-match"))


def _facts_of(session: Session, names: Collection[ObjectName]) -> dict[ObjectName, tuple[Any, ...]]:
    """A request's document depends on these columns and, while it is open, on forecasts, which change by the minute."""
    found: dict[ObjectName, tuple[Any, ...]] = {}
    minute = None
    for row in session.execute(_FACTS, _ids(names)):
        under_way = row.outcomes is not None and ("pending" in row.outcomes or "batched" in row.outcomes)
        if under_way and minute is None:
            minute = db.now(session).replace(second=0, microsecond=0)
        found[row.tenant_id, row.id] = (*row, minute if under_way else None)
    return found


def _read_many(session: Session, names: Collection[ObjectName]) -> dict[ObjectName, DeletionOut]:
    rows = session.scalars(_ROWS, _ids(names)).all()
    details = views.details(session, rows)
    known: Forecasts = {}
    return {(row.tenant_id, row.id): _with_forecasts(session, row, details[row.id], known) for row in rows}


def _ids(names: Collection[ObjectName]) -> dict[str, set[str]]:
    return {"tenants": {tenant for tenant, _ in names}, "ids": {name for _, name in names}}


def _joined(*columns: Any) -> ColumnElement[str]:
    """Of some rows, these columns as one text; null where there is no row."""
    line: ColumnElement[str] = literal("")
    for column in columns:
        line = line + " " + func.coalesce(cast(column, Text), "")
    return func.aggregate_strings(line, "\n")


_THESE = (
    DeletionRequest.tenant_id.in_(bindparam("tenants", expanding=True)),
    DeletionRequest.id.in_(bindparam("ids", expanding=True)),
)
_ROWS = select(DeletionRequest).where(*_THESE)
_OF_ROW = [column for column in DeletionRequest.__table__.columns if column.name != "positions"]
_OUTCOMES = _joined(OutcomeRow.model_id, OutcomeRow.state, OutcomeRow.job_id, OutcomeRow.version, OutcomeRow.reason)
_RECEIPTS = _joined(Receipt.id, Receipt.detail, Receipt.digest, Receipt.due_at, Receipt.done_at)
_REFUSALS = _joined(Refusal.event, Refusal.letter_sent_at)
_PURGES = _joined(Job.id, Job.state, Job.problem)
_FACTS = select(
    *_OF_ROW,
    select(_OUTCOMES).where(OutcomeRow.request_id == DeletionRequest.id).scalar_subquery().label("outcomes"),
    select(_RECEIPTS).where(Receipt.request_id == DeletionRequest.id).scalar_subquery(),
    select(_REFUSALS).where(Refusal.request_id == DeletionRequest.id).scalar_subquery(),
    select(CaseDetails.reference).where(CaseDetails.request_id == DeletionRequest.id).scalar_subquery(),
    select(Proposal.created_at).where(Proposal.request_id == DeletionRequest.id).scalar_subquery(),
    select(_PURGES).where(Job.request_id == DeletionRequest.id, Job.kind == JobKind.PURGE).scalar_subquery(),
).where(*_THESE)
POLLED = Noun("deletion request", _facts_of, _read_many)


# -- the law's verbs -------------------------------------------------------------------------------

VERB: dict[str, Any] = {
    "response_model": DeletionOut,
    "dependencies": [needs("request")],
    "responses": problems(403, 404, 409, 412),
}


def _begin(session: Session, who: Caller, request: str, seen: IfMatch) -> DeletionRequest:
    row = decisions.begin(session, views.get(session, who.tenant_id, request))
    seen.check(show(session, row))
    return row


@router.post("/{request}:cancel", **VERB)
def cancel(
    request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """Cancel the request. This is possible until a job carries it out."""
    row = _begin(session, who, request, seen)
    decisions.cancel(session, row, body.reason)
    return _verb_reply(session, row, once)


@router.post("/{request}:refuse", **VERB)
def refuse(
    request: RequestId,
    body: RefuseBody,
    who: CallerDep,
    held: PartsDep,
    session: Write,
    once: IdempotentDep,
    seen: IfMatchDep,
) -> JSONResponse:
    """Refuse the request, or with `sample_ids` that part of it (a partial grant).

    Where the tenant's rules ask for two people, this proposes it and holds the request: another key approves or
    dismisses it. After the law's time it is possible all the same, and marked as late.
    """
    row = _begin(session, who, request, seen)
    decisions.refuse(session, held.settings, row, body.reason, body.sample_ids, body.ground)
    return _verb_reply(session, row, once)


@router.post("/{request}:hold", **VERB)
def hold(
    request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """A legal hold: nothing happens to the samples until `:release`."""
    row = _begin(session, who, request, seen)
    decisions.hold(session, row, body.reason)
    return _verb_reply(session, row, once)


@router.post("/{request}:release", **VERB)
def release(request: RequestId, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep) -> JSONResponse:
    """End a legal hold."""
    row = _begin(session, who, request, seen)
    decisions.release(session, row)
    return _verb_reply(session, row, once)


@router.post("/{request}:extend", **VERB)
def extend(
    request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """Take the longer period that the law allows, with notice and reasons in time."""
    row = _begin(session, who, request, seen)
    decisions.extend(session, row, body.reason)
    return _verb_reply(session, row, once)


@router.post("/{request}:confirm", **VERB)
def confirm(
    request: RequestId, body: ConfirmBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """Receipt was confirmed to the person (CCPA: within ten business days)."""
    row = _begin(session, who, request, seen)
    decisions.confirm(session, row, in_place(body.at, row.jurisdiction))
    return _verb_reply(session, row, once)


@router.post("/{request}:identity", **VERB)
def prove_identity(
    request: RequestId, body: IdentityBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """A proof of identity was asked for, was shown, or was not. While it is waited for, the request is held, and the
    law's clock stands still where the law lets it."""
    row = _begin(session, who, request, seen)
    at = in_place(body.at, row.jurisdiction)
    if body.status == "asked":
        until = None if body.until is None else date.fromisoformat(body.until)
        identity.ask(session, row, at, until, body.note)
    else:
        identity.end(session, row, confirmed=body.status == "confirmed", at=at, note=body.note)
    return _verb_reply(session, row, once)


@router.post("/{request}:approve", **VERB)
def approve(request: RequestId, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep) -> JSONResponse:
    """The second person agrees with a proposed refusal."""
    row = _begin(session, who, request, seen)
    decisions.approve(session, row)
    return _verb_reply(session, row, once)


@router.post("/{request}:dismiss", **VERB)
def dismiss(
    request: RequestId, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """A proposed refusal does not happen, and the request goes on."""
    row = _begin(session, who, request, seen)
    decisions.dismiss(session, row, body.reason)
    return _verb_reply(session, row, once)


@router.post("/{request}:keep-remains", **VERB)
def keep_remains(
    request: RequestId, body: RemainsBody, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """Superseded checkpoints and reference pools of a fulfilled request go later. Past the due date its status is
    `incomplete` until they have gone."""
    row = _begin(session, who, request, seen)
    until = in_place(body.until, row.jurisdiction)
    if until is not None:
        retention.keep_remains(session, row, until, body.reason)
    return _verb_reply(session, row, once)


@router.get("/{request}/objects", dependencies=[needs("request")], responses=problems(403, 404))
def list_objects(request: RequestId, who: CallerDep, session: Read) -> OwedObjects:
    """Where the pictures lie that the owner of the storage must delete, all at once. They are listed until
    `:confirm-objects`."""
    row = views.get(session, who.tenant_id, request)
    return OwedObjects(addresses=[each.address for each in objects.owed_by_owner(session, row)])


@router.post("/{request}:confirm-objects", **VERB)
def confirm_objects(
    request: RequestId,
    who: CallerDep,
    held: PartsDep,
    _: IdempotencyKey = None,  # a second confirmation is refused: there is nothing left to confirm
) -> DeletionOut:
    """The owner of the storage has deleted the objects that `objects` lists, with all their versions. The service looks
    for them where it may. The log keeps which key confirmed it."""
    with held.database.read() as session:
        row = views.get(session, who.tenant_id, request)
        addresses = [each.address for each in objects.owed_by_owner(session, row)]
    seen = objects.still_there(held.settings, who.tenant_id, addresses) if addresses else 0
    with held.database.write(actor=who.key_id) as session:
        row = views.get(session, who.tenant_id, request)
        objects.confirm(session, row, seen, len(addresses))
        session.flush()
        return show(session, row)


@router.get("/{request}/history", dependencies=[needs("read")], responses=problems(403, 404))
def read_history(request: RequestId, who: CallerDep, session: Read) -> History:
    """What happened to the request: when, by whom, why, and what changed; oldest first."""
    row = views.get(session, who.tenant_id, request)
    return History(entries=[HistoryEntry.model_validate(each) for each in history.of(session, row)])


def _verb_reply(session: Session, row: DeletionRequest, once: IdempotentDep) -> JSONResponse:
    session.flush()
    return once.reply(200, show(session, row))
