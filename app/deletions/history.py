"""What happened to a request: its events, with the names of the keys that acted and the reasons that are not erased."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.tables import ApiKey, AuditEvent, CaseReason, DeletionRequest


def of(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    """Oldest first: at, kind, actor, actor_name, reason, data without the actor, leaf."""
    query = (
        select(AuditEvent, CaseReason.reason)
        .outerjoin(CaseReason, CaseReason.event == AuditEvent.number)
        .where(AuditEvent.object_id == request.id)
        .order_by(AuditEvent.number)
    )
    rows = session.execute(query).all()
    actors = {event.data.get("actor") for event, _ in rows}
    mine = select(ApiKey.id, ApiKey.name).where(ApiKey.id.in_(actors), ApiKey.tenant_id == request.tenant_id)
    names = dict(session.execute(mine).all())
    return [
        {
            "at": event.at,
            "kind": event.kind,
            "actor": (actor := event.data.get("actor")),
            "actor_name": names.get(str(actor)),
            "reason": reason,
            "data": {name: value for name, value in event.data.items() if name != "actor"},
            "leaf": event.leaf,
        }
        for event, reason in rows
    ]
