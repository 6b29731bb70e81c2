"""API keys of the caller's tenant: make, list, rotate, revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from sqlalchemy import false, func, select
from sqlalchemy.orm import Session

from app import events
from app.api.http.conditional import IfMatchDep
from app.api.http.deps import CallerDep, IdempotentDep, PagerDep, Read, Write, needs, problems
from app.api.http.paging import Page
from app.api.http.patterns import id_pattern
from app.api.schemas import KeyCreate, KeyMade, KeyOut, KeyRotate
from app.core import db, keys
from app.core.errors import Conflict, NotFound
from app.core.tables import ApiKey

router = APIRouter(prefix="/api-keys", tags=["api keys"], dependencies=[needs("admin")])
KeyId = Annotated[str, Path(pattern=id_pattern("key"))]


def find(session: Session, tenant_id: str, key_id: str, *, lock: bool = False) -> ApiKey:
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.id == key_id)
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound("There is no such API key.")
    return row


def show(row: ApiKey) -> KeyOut:
    return KeyOut(
        id=row.id,
        name=row.name,
        scopes=row.scopes,
        role=row.role,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _made(session: Session, row: ApiKey, token: str, once: IdempotentDep) -> JSONResponse:
    """The token is in this reply only: a replay of the request shows the key without it."""
    events.record(session, row.tenant_id, "api-key.made", row.id, scopes=row.scopes)
    made = KeyMade(**show(row).model_dump(), token=token)
    return once.reply(201, made, {"Location": f"/v1/api-keys/{row.id}"}, store=show(row))


@router.post("", status_code=201, response_model=KeyMade, responses=problems(403))
def create(body: KeyCreate, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Make a key with these scopes. Its token is shown once, here."""
    row, token = keys.create(session, who.tenant_id, body.name, tuple(body.scopes), body.expires_in_days)
    return _made(session, row, token, once)


@router.get("", responses=problems(403))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    valid: Annotated[bool | None, Query(description="only those that work now, or that have ended")] = None,
) -> Page[KeyOut]:
    """The API keys, newest first."""
    query = select(ApiKey).where(ApiKey.tenant_id == who.tenant_id)
    if valid is not None:
        ended = ApiKey.revoked_at.is_not(None) | func.coalesce(ApiKey.expires_at <= db.now(session), false())
        query = query.where(~ended if valid else ended)
    rows, token = pager.rows(session, query, ApiKey.id)
    return Page(items=[show(row) for row in rows], next_page_token=token)


@router.get("/{api_key:noun}", responses=problems(403, 404))
def read(api_key: KeyId, who: CallerDep, session: Read) -> KeyOut:
    """One key, without its token."""
    return show(find(session, who.tenant_id, api_key))


@router.post("/{api_key}:rotate", status_code=201, response_model=KeyMade, responses=problems(403, 404, 409))
def rotate(api_key: KeyId, body: KeyRotate, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """A new key with the same name, scopes and lifetime; the old one ends after the overlap, or when it would have."""
    old, now = find(session, who.tenant_id, api_key, lock=True), db.now(session)
    if old.role is not None:
        raise Conflict("A user of the console has no token that could be rotated.", kind="user-key")
    if old.revoked_at or (old.expires_at and old.expires_at <= now):
        raise Conflict("This key has ended: make a new one.", kind="key-ended")
    row, token = keys.create(session, who.tenant_id, old.name, tuple(old.scopes), old.lifetime_days, old.id)
    end = now + timedelta(seconds=body.overlap_seconds)
    old.expires_at = min(old.expires_at, end) if old.expires_at else end
    return _made(session, row, token, once)


@router.delete("/{api_key:noun}", status_code=204, response_class=Response, responses=problems(403, 404, 412))
def revoke(api_key: KeyId, who: CallerDep, session: Write, seen: IfMatchDep) -> Response:
    """End a key at once."""
    row = find(session, who.tenant_id, api_key, lock=True)
    seen.check(show(row))
    row.revoked_at = row.revoked_at or db.now(session)
    events.record(session, who.tenant_id, "api-key.revoked", row.id)
    return Response(status_code=204)
