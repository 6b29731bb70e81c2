"""Webhooks: receivers of events, their deliveries, replay. Standard Webhooks 1.0.0."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from sqlalchemy import literal_column, select
from sqlalchemy.orm import Session

from app.api.http.conditional import IfMatchDep
from app.api.http.deps import CallerDep, IdempotentDep, PagerDep, PartsDep, Read, Write, accepted, needs, problems
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import id_pattern
from app.api.schemas import DeliveryOut, DeliveryState, WebhookCreate, WebhookMade, WebhookOut
from app.core import db
from app.core.errors import NotFound, Unprocessable
from app.core.ids import new_id
from app.core.tables import Delivery, Webhook
from app.events import deliveries, webhooks

router = APIRouter(prefix="/webhooks", tags=["webhooks"], dependencies=[needs("operate")])
WebhookId = Annotated[str, Path(pattern=id_pattern("whk"))]
DeliveryId = Annotated[str, Path(pattern=id_pattern("msg"))]


def find(session: Session, tenant_id: str, webhook_id: str, *, lock: bool = False) -> Webhook:
    query = select(Webhook).where(Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound("There is no such webhook.")
    return row


def show(row: Webhook) -> WebhookOut:
    return WebhookOut(id=row.id, url=row.url, events=row.events, created_at=row.created_at, disabled_at=row.disabled_at)


def show_delivery(row: Delivery) -> DeliveryOut:
    return DeliveryOut(
        id=row.id,
        kind=row.kind,
        state=row.state,
        attempts=row.attempts,
        last_error=row.last_error,
        created_at=row.created_at,
        due_at=row.due_at,
    )


@router.post("", status_code=201, response_model=WebhookMade, responses=problems(403))
def create(body: WebhookCreate, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Register a receiver. Its address must be https and public; the signing secret is shown once, here."""
    private = held.settings.private_receivers
    try:
        webhooks.targets(webhooks.check_url(body.url, allow_private=private), allow_private=private)
    except webhooks.RefusedError as error:
        raise Unprocessable(f"The webhook is refused: {error}.", kind="webhook-address") from None
    row = Webhook(
        id=new_id("whk"),
        tenant_id=who.tenant_id,
        url=body.url,
        secret=webhooks.new_secret(),
        events=body.events,
        created_at=db.now(session),
    )
    session.add(row)
    session.flush()
    made = WebhookMade(**show(row).model_dump(), secret=row.secret)
    return once.reply(201, made, {"Location": f"/v1/webhooks/{row.id}"}, store=show(row))


@router.get("", responses=problems(403))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    enabled: Annotated[bool | None, Query(description="only those that are switched on, or off")] = None,
) -> Page[WebhookOut]:
    """The webhooks, newest first."""
    query = select(Webhook).where(Webhook.tenant_id == who.tenant_id)
    if enabled is not None:
        query = query.where(Webhook.disabled_at.is_(None) if enabled else Webhook.disabled_at.is_not(None))
    rows, token = pager.rows(session, query, Webhook.id)
    return Page(items=[show(row) for row in rows], next_page_token=token)


@router.get("/{webhook:noun}", responses=problems(403, 404))
def read(webhook: WebhookId, who: CallerDep, session: Read) -> WebhookOut:
    """One receiver."""
    return show(find(session, who.tenant_id, webhook))


@router.delete("/{webhook:noun}", status_code=204, response_class=Response, responses=problems(403, 404, 412))
def disable(webhook: WebhookId, who: CallerDep, session: Write, seen: IfMatchDep) -> Response:
    """Switch a receiver off; what was not delivered to it stays listed."""
    row = find(session, who.tenant_id, webhook, lock=True)
    seen.check(show(row))
    row.disabled_at = row.disabled_at or db.now(session)
    return Response(status_code=204)


@router.post("/{webhook}:rotate-secret", response_model=WebhookMade, responses=problems(403, 404))
def rotate_secret(webhook: WebhookId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """A new signing secret, shown once, here. For a day the old one signs, too: each delivery has two signatures."""
    row = find(session, who.tenant_id, webhook, lock=True)
    deliveries.rotate(session, row)
    return once.reply(200, WebhookMade(**show(row).model_dump(), secret=row.secret), store=show(row))


@router.get("/{webhook}/deliveries", responses=problems(403, 404))
def list_deliveries(
    webhook: WebhookId,
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    created: Created,
    state: Annotated[DeliveryState | None, Query()] = None,
) -> Page[DeliveryOut]:
    """What was sent to a receiver or will be, newest first."""
    row = find(session, who.tenant_id, webhook)
    query = created.of(select(Delivery).where(Delivery.webhook_id == row.id), Delivery.created_at)
    query = matching(query, {Delivery.state: state})
    if state not in (None, "delivered"):
        query = query.where(Delivery.state != literal_column("'delivered'"))  # said for the index that has only these
    rows, token = pager.rows(session, query, Delivery.id)
    return Page(items=[show_delivery(each) for each in rows], next_page_token=token)


@router.post(
    "/{webhook}/deliveries/{delivery}:replay",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems(403, 404, 409),
)
def replay(
    webhook: WebhookId, delivery: DeliveryId, who: CallerDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Send a delivery again, with the same message id."""
    row = find(session, who.tenant_id, webhook)
    message = session.get(Delivery, delivery, with_for_update=True)
    if message is None or message.webhook_id != row.id:
        raise NotFound("There is no such delivery.")
    deliveries.replay(session, row, message)
    return once.reply(202, show_delivery(message), accepted(f"/v1/webhooks/{row.id}/deliveries"))
