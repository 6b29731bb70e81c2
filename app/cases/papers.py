"""What came with a case: a letter, a proof of identity. Kept apart, bounded, and never shown inline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.errors import Conflict, NotFound, TooLarge
from app.core.ids import new_id
from app.core.tables import CasePaper, DeletionRequest

Kind = Literal["letter", "identity", "other"]
LARGEST = 4 * 2**20
MOST = 20


def attach(session: Session, request: DeletionRequest, kind: Kind, name: str, content: bytes) -> CasePaper:
    """Keep the paper.

    Raises:
        TooLarge: it has more bytes than a paper may.
        Conflict: the request has as many papers as it may.
    """
    if len(content) > LARGEST:
        raise TooLarge(f"A paper may have {LARGEST // 2**20} MiB. Scan it in grey, or send its pages one by one.")
    count = session.scalars(select(func.count()).where(CasePaper.request_id == request.id)).one()
    if count >= MOST:
        raise Conflict(f"A request may have {MOST} papers.", kind="too-many-papers")
    row = CasePaper(
        id=new_id("pap"),
        tenant_id=request.tenant_id,
        request_id=request.id,
        kind=kind,
        name=name,
        size=len(content),
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        content=content,
        created_at=db.now(session),
    )
    session.add(row)
    events.record(session, request.tenant_id, "request.paper-attached", request.id, paper=row.id)
    return row


def of(session: Session, request: DeletionRequest) -> Sequence[CasePaper]:
    """Oldest first, without their bytes."""
    return session.scalars(select(CasePaper).where(CasePaper.request_id == request.id).order_by(CasePaper.id)).all()


def get(session: Session, request: DeletionRequest, paper_id: str) -> CasePaper:
    row = session.scalars(select(CasePaper).where(CasePaper.id == paper_id, CasePaper.request_id == request.id)).first()
    if row is None:
        raise NotFound("There is no such paper.")
    return row


def remove(session: Session, request: DeletionRequest, row: CasePaper) -> None:
    """Erase it before its time."""
    session.delete(row)
    events.record(session, request.tenant_id, "request.paper-removed", request.id, paper=row.id)
