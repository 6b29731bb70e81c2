"""Webhook deliveries as rows: written together with their event, sent by the sweeper."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.trace import SpanKind
from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from app.core import crash_points, db, tracing
from app.core.db import Database
from app.core.errors import Conflict
from app.core.ids import new_id
from app.core.tables import Delivery, Webhook
from app.events import webhooks

log = logging.getLogger("lethe.webhooks")

SENT_AT_ONCE = 20
LANES = 16
LANES_OF_TENANT = 4
ROTATION = timedelta(days=1)


def fan_out(
    session: Session, tenant_id: str, kind: str, object_id: str, at: datetime, about: Mapping[str, Any] | None = None
) -> None:
    """A delivery for every receiver of the tenant that wants events of this kind."""
    send_to(session, receivers(session, tenant_id), kind, object_id, at, about, tracing.current())


Receivers = Sequence[tuple[str, Sequence[str]]]
"""Ids of webhooks, with the kinds of events that each wants; none: all."""


_RECEIVERS = select(Webhook.id, Webhook.events).where(
    Webhook.tenant_id == bindparam("tenant"), Webhook.disabled_at.is_(None)
)


def receivers(session: Session, tenant_id: str) -> Receivers:
    """The tenant's webhooks that are not switched off."""
    return [(webhook_id, events) for webhook_id, events in session.execute(_RECEIVERS, {"tenant": tenant_id})]


def send_to(
    session: Session,
    receivers: Receivers,
    kind: str,
    object_id: str,
    at: datetime,
    about: Mapping[str, Any] | None = None,
    traceparent: str | None = None,
) -> None:
    """A delivery for those of them that want events of this kind. about: what is said besides the object's id."""
    for webhook_id, events in receivers:
        if not events or kind in events or kind.partition(".")[0] + ".*" in events:
            write(session, webhook_id, kind, {"id": object_id, **(about or {})}, at, traceparent)


def write(
    session: Session,
    webhook_id: str,
    kind: str,
    data: dict[str, Any],
    at: datetime,
    traceparent: str | None = None,
) -> Delivery:
    delivery = Delivery(
        id=new_id("msg"),
        webhook_id=webhook_id,
        kind=kind,
        body=webhooks.payload(kind, at, data).decode(),
        state="pending",
        created_at=at,
        due_at=at,
        traceparent=traceparent,
    )
    session.add(delivery)
    return delivery


def replay(session: Session, webhook: Webhook, delivery: Delivery) -> None:
    """Send it again from the start, under the same message id.

    Raises:
        Conflict: the receiver was switched off.
    """
    if webhook.disabled_at is not None:
        raise Conflict("The webhook is switched off, for good. Make another.", kind="webhook-off")
    delivery.state, delivery.attempts, delivery.last_error = "pending", 0, None
    delivery.due_at = db.now(session)


def rotate(session: Session, webhook: Webhook) -> None:
    """A new secret; the old one signs, too, for as long as a receiver may take to learn of it."""
    webhook.old_secret, webhook.old_until = webhook.secret, db.now(session) + ROTATION
    webhook.secret = webhooks.new_secret()


# -- sending ---------------------------------------------------------------------------------------


class Courier:
    """Sends what is due: to many receivers at once, to each one message after the other, oldest first.

    A receiver that is slow keeps one thread, and a tenant's receivers together a quarter of them: nobody else waits
    for them. Two sweepers may send the same message at once; receivers recognise it by its id.
    """

    def __init__(self, database: Database, *, allow_private: webhooks.Private) -> None:
        self._database, self._private = database, allow_private
        self._busy: dict[str, str] = {}  # tenants of the webhooks that are being sent to
        self._lock = threading.Lock()

    def round(self) -> int:
        """Start on every receiver that something is due for and that is not being sent to; how many."""
        started = 0
        with self._database.read() as session:
            waiting = _due(session).with_only_columns(Webhook.id, Webhook.tenant_id).distinct()
            receivers = session.execute(waiting).all()
        for webhook_id, tenant_id in receivers:
            with self._lock:
                taken = Counter(self._busy.values())
                full = len(self._busy) >= LANES or taken[tenant_id] >= LANES_OF_TENANT
                if webhook_id in self._busy or full:
                    continue
                self._busy[webhook_id] = tenant_id
            # A daemon: a sweeper that stops waits for no receiver; what was under way is sent again.
            threading.Thread(target=self._serve, args=(webhook_id,), name="webhook", daemon=True).start()
            started += 1
        return started

    def _serve(self, webhook_id: str) -> None:
        try:
            send_due(self._database, webhook_id, allow_private=self._private)
        except Exception as error:
            log.warning("sending to a webhook failed and will be tried again", exc_info=error)
        finally:
            with self._lock:
                del self._busy[webhook_id]


def send_due(database: Database, webhook_id: str, *, allow_private: webhooks.Private) -> int:
    """Send a receiver what is due, until one message cannot be delivered; how many attempts were made.

    No transaction is open while the receiver is being waited for.
    """
    with database.read() as session:
        message = (Delivery.id, Delivery.body, Delivery.traceparent)
        columns = (*message, Webhook.url, Webhook.secret, Webhook.old_secret, Webhook.old_until)
        mine = _due(session).where(Webhook.id == webhook_id).order_by(Delivery.due_at, Delivery.id)
        rows = session.execute(mine.with_only_columns(*columns).limit(SENT_AT_ONCE)).all()
        now = db.now(session)
    for attempts, row in enumerate(rows, 1):
        secrets = [row.secret] + ([row.old_secret] if row.old_secret and row.old_until > now else [])
        at = datetime.now(UTC)
        with tracing.continued("webhook", row.traceparent, SpanKind.PRODUCER):
            reply = webhooks.send(row.url, secrets, row.id, row.body.encode(), at, allow_private=allow_private)
        crash_points.point("delivery.sent")
        with database.write() as session:
            _note(session, session.get_one(Delivery, row.id, with_for_update=True), reply)
        if not reply.delivered:
            return attempts
    return len(rows)


def _due(session: Session) -> Select[Delivery, Webhook]:
    """Deliveries with their webhooks."""
    due = (Delivery.state == "pending", Delivery.due_at <= db.now(session), Webhook.disabled_at.is_(None))
    return select(Delivery, Webhook).join(Webhook, Webhook.id == Delivery.webhook_id).where(*due)


def _note(session: Session, delivery: Delivery, reply: webhooks.Reply) -> None:
    now = db.now(session)
    delivery.attempts += 1
    delivery.last_error, delivery.due_at = reply.error, None
    if reply.delivered:
        delivery.state = "delivered"
        return
    log.info("delivery %s: %s (attempt %d)", delivery.id, reply.error, delivery.attempts)
    if reply.status == 410:
        session.get_one(Webhook, delivery.webhook_id).disabled_at = now
        delivery.state = "failed"
        return
    delivery.due_at = webhooks.retry_at(now, delivery.attempts)
    delivery.state = "pending" if delivery.due_at else "failed"
