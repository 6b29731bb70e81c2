"""Webhook deliveries as rows: written beside the event that they tell of, sent by the sweeper."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db, webhooks
from app.db import Database
from app.ids import new_id
from app.tables import Delivery, Webhook

SENT_AT_ONCE = 20


def fan_out(session: Session, tenant_id: str, kind: str, object_id: str, at: datetime) -> None:
    """A delivery for every receiver of the tenant that wants events of this kind."""
    query = select(Webhook).where(Webhook.tenant_id == tenant_id, Webhook.disabled_at.is_(None))
    for receiver in session.scalars(query).all():
        if not receiver.events or kind in receiver.events or kind.partition(".")[0] + ".*" in receiver.events:
            write(session, receiver.id, kind, {"id": object_id}, at)


def write(session: Session, webhook_id: str, kind: str, data: dict[str, Any], at: datetime) -> Delivery:
    delivery = Delivery(
        id=new_id("msg"),
        webhook_id=webhook_id,
        kind=kind,
        body=webhooks.payload(kind, at, data).decode(),
        state="pending",
        created_at=at,
        due_at=at,
    )
    session.add(delivery)
    return delivery


def replay(session: Session, delivery: Delivery) -> None:
    """Send it again from the start, under the same message id."""
    delivery.state, delivery.attempts, delivery.last_error = "pending", 0, None
    delivery.due_at = db.now(session)


def send_due(database: Database, *, allow_private: bool) -> int:
    """Attempt every delivery that is due; how many. No transaction is open while a receiver is being waited for.

    Two sweepers may send the same message at once; its id lets the receiver tell, as the standard expects.
    """
    with database.read() as session:
        due = (
            select(Delivery.id, Delivery.body, Webhook.url, Webhook.secret)
            .join(Webhook, Webhook.id == Delivery.webhook_id)
            .where(Delivery.state == "pending", Delivery.due_at <= db.now(session), Webhook.disabled_at.is_(None))
            .order_by(Delivery.due_at)
            .limit(SENT_AT_ONCE)
        )
        rows = session.execute(due).all()
    for delivery_id, body, url, secret in rows:
        now = datetime.now(UTC)
        reply = webhooks.send(url, secret, delivery_id, body.encode(), now, allow_private=allow_private)
        with database.write() as session:
            _note(session, session.get_one(Delivery, delivery_id, with_for_update=True), reply)
    return len(rows)


def _note(session: Session, delivery: Delivery, reply: webhooks.Reply) -> None:
    now = db.now(session)
    delivery.attempts += 1
    delivery.last_error, delivery.due_at = reply.error, None
    if reply.delivered:
        delivery.state = "delivered"
        return
    if reply.status == 410:
        session.get_one(Webhook, delivery.webhook_id).disabled_at = now
        delivery.state = "failed"
        return
    delivery.due_at = webhooks.retry_at(now, delivery.attempts)
    delivery.state = "pending" if delivery.due_at else "failed"
