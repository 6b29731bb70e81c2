"""The transparency log and the certificates: what an auditor fetches and checks offline with `lethe.verify`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from app import deletions, evidence, ledger, signing
from app.api.deletions import RequestId
from app.api.deps import CallerDep, IdempotentDep, Read, Write, needs, problems
from app.api.schemas import Envelope, LogEntries, LogKeys, LogProof, Opening, Shredded
from app.errors import Gone, NotFound, Unprocessable
from app.tables import Commitment

router = APIRouter(tags=["evidence"], dependencies=[needs("audit")])
Size = Annotated[int, Query(ge=0, lt=2**53)]


@router.get("/deletion-requests/{request}/certificate", responses=problems(403, 404))
def read_certificate(request: RequestId, who: CallerDep, session: Read) -> Envelope:
    """The newest certificate of a fulfilled request: an in-toto statement in a DSSE envelope."""
    row = evidence.latest(session, deletions.get(session, who.tenant_id, request).id)
    if row is None:
        raise NotFound("This request has no certificate yet: it is sealed once the request is fulfilled.")
    return Envelope.model_validate(json.loads(row.envelope))


@router.get("/deletion-requests/{request}/opening", responses=problems(403, 404, 410))
def read_opening(request: RequestId, who: CallerDep, session: Read) -> Opening:
    """The salt of the commitment: whoever holds it can test whether an id was in the request."""
    row = session.get(Commitment, deletions.get(session, who.tenant_id, request).id)
    if row is None:
        raise NotFound("This request has no commitment yet.")
    if row.salt is None:
        raise Gone("The salt was destroyed.", kind="salt-destroyed")
    return Opening(salt=row.salt.hex())


@router.post(
    "/deletion-requests/{request}:shred",
    response_model=Shredded,
    dependencies=[needs("admin")],
    responses=problems(403, 404),
)
def shred(request: RequestId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Destroy the salt, so that nobody can link ids to the request's certificate any more."""
    row = deletions.get(session, who.tenant_id, request, lock=True)
    return once.reply(200, Shredded(destroyed=evidence.shred(session, row)))


@router.get(
    "/log/checkpoint",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "a signed note"},
        **problems(403, 404),
    },
)
def read_checkpoint(who: CallerDep, session: Read) -> Response:
    """The signed head of the tenant's log (C2SP tlog-checkpoint)."""
    return Response(_head(session, who.tenant_id).note, media_type="text/plain; charset=utf-8")


def _head(session: Read, tenant_id: str) -> ledger.Head:
    head = ledger.head(session, tenant_id)
    if head is None:
        raise NotFound("The log is empty.")
    return head


@router.get("/log/entries", responses=problems(403))
def read_entries(
    who: CallerDep, session: Read, start: Size = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> LogEntries:
    """Entries from leaf `start` on, as they were hashed."""
    return LogEntries(start=start, entries=ledger.entries(session, who.tenant_id, start, limit))


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
        raise Unprocessable("Send either `leaf` or `old`.", kind="schema")
    if size > _head(session, who.tenant_id).size:
        raise NotFound("The log has no tree of that size yet.")
    try:
        if leaf is not None:
            hashes = ledger.prove_inclusion(session, who.tenant_id, leaf, size)
        else:
            hashes = ledger.prove_consistency(session, who.tenant_id, old or 0, size)
    except ValueError as error:
        raise NotFound(f"There is no such proof: {error}.") from None
    return LogProof(hashes=[value.hex() for value in hashes])


@router.get("/log/keys", responses=problems(403))
def read_keys(_: CallerDep, session: Read) -> LogKeys:
    """The public keys that sign, and when: what an auditor keeps as the trust file."""
    document: dict[str, Any] = signing.trust_document(evidence.known_keys(session))
    return LogKeys.model_validate(document)
