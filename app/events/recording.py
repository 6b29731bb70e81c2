"""Recording events, each in the transaction of the change that it describes.

Every event names its actor, an API key or the service. The free words of a reason are not in the log, which nobody can
erase from: they are beside it (`CaseReason`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.core import db
from app.core.db import insert_many
from app.core.tables import AuditEvent, CaseReason
from app.events import deliveries


def record(session: Session, tenant_id: str, kind: str, object_id: str, **data: Any) -> None:
    """Append an audit event, in the transaction of the change that it describes."""
    record_about(session, tenant_id, kind, object_id, {}, **data)


def record_decision(
    session: Session, tenant_id: str, kind: str, request_id: str, reason: str | None, **data: Any
) -> AuditEvent:
    """The same of what a person decided about a request, with the reason in free words. The event."""
    event = _record(session, tenant_id, kind, request_id, {}, data)
    if reason:
        session.flush()
        session.add(CaseReason(event=event.number, request_id=request_id, reason=reason))
    return event


def record_about(
    session: Session, tenant_id: str, kind: str, object_id: str, about: Mapping[str, Any], **data: Any
) -> None:
    """The same. about: what webhooks say of the object besides its id; the log does not have it."""
    _record(session, tenant_id, kind, object_id, about, data)


def _record(
    session: Session, tenant_id: str, kind: str, object_id: str, about: Mapping[str, Any], data: Mapping[str, Any]
) -> AuditEvent:
    now, said = db.now(session), {"actor": db.acting(session), **data}
    event = AuditEvent(tenant_id=tenant_id, kind=kind, object_id=object_id, data=said, at=now)
    session.add(event)
    deliveries.fan_out(session, tenant_id, kind, object_id, now, about)
    return event


NewEvent = tuple[str, str, str, dict[str, Any]]
"""Tenant, kind, object and data of an audit event."""


def record_many(session: Session, new: Sequence[NewEvent], now: datetime, traces: Mapping[str, str | None]) -> None:
    """`record` for many, in this order; data that name no actor are of the service.

    traces: the `traceparent` of objects that have one.
    """
    insert_many(
        session,
        AuditEvent,
        [
            {
                "tenant_id": tenant,
                "kind": kind,
                "object_id": object_id,
                "data": {"actor": db.SERVICE, **data},
                "at": now,
            }
            for tenant, kind, object_id, data in new
        ],
    )
    receivers = {tenant: deliveries.receivers(session, tenant) for tenant in {tenant for tenant, *_ in new}}
    for tenant, kind, object_id, _ in new:
        deliveries.send_to(session, receivers[tenant], kind, object_id, now, traceparent=traces.get(object_id))
