"""Recording events, each in the transaction of the change that it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.core import db
from app.core.db import insert_many
from app.core.tables import AuditEvent
from app.events import deliveries


def record(session: Session, tenant_id: str, kind: str, object_id: str, **data: Any) -> None:
    """Append an audit event, in the transaction of the change that it describes."""
    record_about(session, tenant_id, kind, object_id, {}, **data)


def record_about(
    session: Session, tenant_id: str, kind: str, object_id: str, about: Mapping[str, Any], **data: Any
) -> None:
    """The same. about: what webhooks say of the object besides its id; the log does not have it."""
    now = db.now(session)
    session.add(AuditEvent(tenant_id=tenant_id, kind=kind, object_id=object_id, data=data, at=now))
    deliveries.fan_out(session, tenant_id, kind, object_id, now, about)


NewEvent = tuple[str, str, str, dict[str, Any]]
"""Tenant, kind, object and data of an audit event."""


def record_many(session: Session, new: Sequence[NewEvent], now: datetime, traces: Mapping[str, str | None]) -> None:
    """`record` for many, in this order. traces: the `traceparent` of objects that have one."""
    insert_many(
        session,
        AuditEvent,
        [
            {"tenant_id": tenant, "kind": kind, "object_id": object_id, "data": data, "at": now}
            for tenant, kind, object_id, data in new
        ],
    )
    receivers = {tenant: deliveries.receivers(session, tenant) for tenant in {tenant for tenant, *_ in new}}
    for tenant, kind, object_id, _ in new:
        deliveries.send_to(session, receivers[tenant], kind, object_id, now, traceparent=traces.get(object_id))
