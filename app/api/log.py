"""The transparency log and the certificates: what an auditor fetches and checks offline with `lethe.verify`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select

from app.api.audits import AuditId
from app.api.deletions import RequestId
from app.api.http.deps import CallerDep, IdempotentDep, PagerDep, Read, Write, needs, problems
from app.api.http.paging import Created, Moment, Page, matching, moment
from app.api.http.patterns import DIGEST, id_pattern
from app.api.models import ModelId
from app.api.schemas import (
    ID_OR_NAME,
    CertificateOut,
    Envelope,
    LogEntries,
    LogKeys,
    LogProof,
    Name,
    Opening,
    ReceiptListed,
    Shredded,
)
from app.api.versions import Number
from app.core.errors import Gone, NotFound, Unprocessable
from app.core.tables import AuditRow, CertificateRow, Commitment, DeletionRequest, NegativeReport, Receipt
from app.deletions import views
from app.evidence import negative, sealing, signing, transparency_log, witness
from app.models import records as models
from app.models import versions
from app.reports import audit_rows

router = APIRouter(tags=["evidence"], dependencies=[needs("audit")])
Size = Annotated[int, Query(ge=0, lt=2**53)]


@router.get("/deletion-requests/{request}/certificate", responses=problems(403, 404))
def read_certificate(request: RequestId, who: CallerDep, session: Read) -> Envelope:
    """The newest certificate of a fulfilled request: an in-toto statement in a DSSE envelope."""
    row = sealing.latest(session, views.get(session, who.tenant_id, request).id)
    if row is None:
        raise NotFound("This request has no certificate yet: it is sealed once the request is fulfilled.")
    return Envelope.model_validate(json.loads(row.envelope))


@router.get("/deletion-requests/{request}/negative-report", responses=problems(403, 404))
def read_negative_report(request: RequestId, who: CallerDep, session: Read) -> Envelope:
    """The newest signed statement that no deletion is certified, and why: of a model that needs attention, whose
    version was published without a pass, or whose samples could not be erased. It is no certificate."""
    of = views.get(session, who.tenant_id, request)
    return _negative(negative.latest(session, request_id=of.id))


@router.get("/models/{model}/versions/{number}/audits/{audit}/negative-report", responses=problems(403, 404))
def read_negative_audit(model: ModelId, number: Number, audit: AuditId, who: CallerDep, session: Read) -> Envelope:
    """The same of an audit that was asked for and did not pass."""
    row = models.get(session, who.tenant_id, model)
    version = versions.get(session, row, number)
    found = session.scalars(audit_rows.reports_of(version).where(AuditRow.id == audit)).first()
    if found is None:
        raise NotFound("The version has no such report.")
    return _negative(negative.latest(session, audit_id=found.id))


def _negative(row: NegativeReport | None) -> Envelope:
    if row is None:
        raise NotFound("There is no negative report: nothing failed, or it is not signed yet. Ask again in seconds.")
    return Envelope.model_validate(json.loads(row.envelope or ""))


@router.get("/certificates", responses=problems(403))
def list_certificates(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    issued: Created,
    request: Annotated[str | None, Query(pattern=id_pattern("del"))] = None,
) -> Page[CertificateOut]:
    """The certificates, newest first, superseded ones among them."""
    query = select(CertificateRow)
    if request is None:
        query = query.where(CertificateRow.tenant_id == who.tenant_id)
    elif views.is_of(session, who.tenant_id, request):
        query = query.where(CertificateRow.request_id == request)
    else:
        return Page(items=[], next_page_token=None)
    rows, token = pager.rows_by_time(session, query, CertificateRow.issued_at, CertificateRow.digest, issued)
    return Page(items=[show_certificate(row) for row in rows], next_page_token=token)


def show_certificate(row: CertificateRow) -> CertificateOut:
    return CertificateOut(
        digest=row.digest,
        request=row.request_id,
        supersedes=row.supersedes,
        receipts_done=row.receipts_done,
        issued_at=row.issued_at,
    )


@router.get("/certificates/{digest}", responses=problems(403, 404))
def read_any_certificate(digest: Annotated[str, Path(pattern=DIGEST)], who: CallerDep, session: Read) -> Envelope:
    """One certificate by the digest that a newer one names as superseded."""
    row = session.get(CertificateRow, digest)
    if row is None or row.tenant_id != who.tenant_id:
        raise NotFound("There is no such certificate.")
    return Envelope.model_validate(json.loads(row.envelope))


@router.get("/receipts", responses=problems(403, 404, 409))
def list_receipts(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    request: Annotated[str | None, Query(pattern=id_pattern("del"))] = None,
    model: Annotated[Name | None, Query(description=ID_OR_NAME)] = None,
    done: Annotated[bool | None, Query(description="what was purged, or what will be")] = None,
    due_before: Moment | None = None,
    dated: Annotated[
        bool | None, Query(description="true: only those with a date, the earliest first; false: only those without")
    ] = None,
) -> Page[ReceiptListed]:
    """What was purged for the requests, and what will be at a date, newest first."""
    # As a join the database would begin at the requests, all of them.
    mine = select(DeletionRequest.id).where(
        DeletionRequest.id == Receipt.request_id, DeletionRequest.tenant_id == who.tenant_id
    )
    query = select(Receipt).where(mine.correlate(Receipt).limit(1).scalar_subquery().is_not(None))
    model = model and models.id_of(session, who.tenant_id, model)
    query = matching(query, {Receipt.request_id: request, Receipt.model_id: model})
    if done is not None:
        query = query.where(Receipt.done_at.is_not(None) if done else Receipt.done_at.is_(None))
    if due_before is not None:
        query = query.where(Receipt.due_at < moment(due_before))
    if dated:
        query = query.where(Receipt.due_at.is_not(None))
        rows, token = pager.rows_by_time_rising(session, query, Receipt.due_at, Receipt.id)
    else:
        query = query if dated is None else query.where(Receipt.due_at.is_(None))
        rows, token = pager.rows(session, query, Receipt.id)
    laws = dict(
        session.execute(
            select(DeletionRequest.id, DeletionRequest.jurisdiction).where(
                DeletionRequest.id.in_({row.request_id for row in rows})
            )
        ).all()
    )
    items = [
        ReceiptListed(
            request=row.request_id,
            jurisdiction=laws[row.request_id],
            model=row.model_id,
            subject=row.subject,
            detail=row.detail,
            digest=row.digest,
            due_at=row.due_at,
            done_at=row.done_at,
        )
        for row in rows
    ]
    return Page(items=items, next_page_token=token)


@router.get("/deletion-requests/{request}/opening", responses=problems(403, 404, 410))
def read_opening(request: RequestId, who: CallerDep, session: Read) -> Opening:
    """The salt of the commitment. A person who has it can test whether an id was in the request."""
    row = session.get(Commitment, views.get(session, who.tenant_id, request).id)
    if row is None:
        raise NotFound("This request has no commitment yet.")
    if row.salt is None:
        raise Gone("The salt was deleted.", kind="salt-deleted")
    return Opening(salt=row.salt.hex())


@router.post(
    "/deletion-requests/{request}:shred",
    response_model=Shredded,
    dependencies=[needs("admin")],
    responses=problems(403, 404),
)
def shred(request: RequestId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Delete the salt, so that nobody can link ids to the request's certificate any more."""
    row = views.get(session, who.tenant_id, request, lock=True)
    return once.reply(200, Shredded(deleted=sealing.shred(session, row)))


@router.get(
    "/log/checkpoint",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "a signed note"},
        **problems(403, 404),
    },
)
def read_checkpoint(
    who: CallerDep,
    session: Read,
    witnessed: Annotated[bool, Query(description="the newest head that witnesses have countersigned")] = False,
) -> Response:
    """The signed head of the tenant's log (C2SP tlog-checkpoint)."""
    if witnessed:
        found = witness.cosigned(session, who.tenant_id)
        if found is None:
            raise NotFound("No witness has countersigned a head of this log.")
        return Response(found, media_type="text/plain; charset=utf-8")
    return Response(_head(session, who.tenant_id).note, media_type="text/plain; charset=utf-8")


def _head(session: Read, tenant_id: str) -> transparency_log.Head:
    head = transparency_log.head(session, tenant_id)
    if head is None:
        raise NotFound("The log is empty.")
    return head


@router.get("/log/entries", responses=problems(403))
def read_entries(
    who: CallerDep, session: Read, start: Size = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> LogEntries:
    """Entries from leaf `start` on, as they were hashed."""
    return LogEntries(start=start, entries=transparency_log.entries(session, who.tenant_id, start, limit))


@router.get("/log/proof", responses=problems(403, 404))
def read_proof(
    who: CallerDep,
    session: Read,
    size: Annotated[int, Query(ge=1, lt=2**53, description="of the tree that the proof is about")],
    leaf: Annotated[int | None, Query(ge=0, lt=2**53, description="inclusion of this leaf")] = None,
    old: Annotated[int | None, Query(ge=1, lt=2**53, description="consistency with the tree of this size")] = None,
) -> LogProof:
    """An inclusion proof of a leaf, or a consistency proof between two sizes (RFC 9162)."""
    if (leaf is None) == (old is None):
        fault = {"in": "query", "pointer": "/leaf", "code": "value_error", "detail": "send either `leaf` or `old`"}
        raise Unprocessable("The request does not fit its schema.", kind="schema", errors=[fault])
    if size > _head(session, who.tenant_id).size:
        raise NotFound("The log has no tree of that size yet.")
    try:
        if leaf is not None:
            hashes = transparency_log.prove_inclusion(session, who.tenant_id, leaf, size)
        else:
            hashes = transparency_log.prove_consistency(session, who.tenant_id, old or 0, size)
    except ValueError as error:
        raise NotFound(f"There is no such proof: {error}.") from None
    return LogProof(hashes=[value.hex() for value in hashes])


@router.get("/log/keys", responses=problems(403))
def read_keys(_: CallerDep, session: Read) -> LogKeys:
    """The public keys that sign, and when: what an auditor keeps as the trust file."""
    document: dict[str, Any] = signing.trust_document(sealing.known_keys(session))
    return LogKeys.model_validate(document)
