"""Settings: users and keys, webhooks with their deliveries, the session itself."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.http.patterns import id_pattern
from app.console.lists import listed
from app.console.visit import PageRoute, VisitDep, see_other
from app.core.errors import NotFound
from app.rules.roles import ROLES, SCOPES

router = APIRouter(prefix="/console/settings", route_class=PageRoute, include_in_schema=False)
KeyId = Annotated[str, Path(pattern=id_pattern("key"))]
WebhookId = Annotated[str, Path(pattern=id_pattern("whk"))]
DeliveryId = Annotated[str, Path(pattern=id_pattern("msg"))]


@router.get("")
async def show(visit: VisitDep) -> Response:
    return await _show(visit, {})


async def _show(visit: VisitDep, made: dict[str, Any]) -> Response:
    keys, hooks = await asyncio.gather(
        visit.api.find("/api-keys", valid=True, page_size=200), visit.api.find("/webhooks", page_size=200)
    )
    return visit.page(
        "settings.html.j2",
        keys=[row for row in keys["items"] if not row["role"]] if keys else None,
        users=[row for row in keys["items"] if row["role"]] if keys else None,
        webhooks=hooks["items"] if hooks else None,
        scopes=SCOPES,
        roles=ROLES,
        made=made,
    )


@router.post("/keys")
async def make_key(visit: VisitDep) -> Response:
    """The new key's token is in this page only."""
    form = await visit.form()
    body: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "scopes": [scope for scope in SCOPES if f"scope-{scope}" in form],
    }
    if form.get("days", "").strip().isdigit():
        body["expires_in_days"] = int(form["days"])
    return await _show(visit, {"key": await visit.api.send("POST", "/api-keys", body, once=form.get("once", ""))})


@router.post("/keys/{key_id}/{verb}")
async def change_key(visit: VisitDep, key_id: KeyId, verb: str) -> Response:
    form = await visit.form()
    if verb == "revoke":
        await visit.api.send("DELETE", f"/api-keys/{key_id}")
        return see_other("/console/settings")
    if verb != "rotate":
        raise NotFound("A key can be rotated, or revoked.")
    body = {"overlap_seconds": 86400 if form.get("overlap") else 0}
    return await _show(visit, {"key": await visit.api.send("POST", f"/api-keys/{key_id}:rotate", body)})


@router.post("/webhooks")
async def make_webhook(visit: VisitDep) -> Response:
    form = await visit.form()
    body = {"url": form.get("url", "").strip(), "events": form.get("events", "").replace(",", " ").split()}
    return await _show(visit, {"webhook": await visit.api.send("POST", "/webhooks", body, once=form.get("once", ""))})


@router.get("/webhooks/{webhook_id}")
async def show_webhook(visit: VisitDep, webhook_id: WebhookId) -> Response:
    hook, deliveries = await asyncio.gather(
        visit.api.get(f"/webhooks/{webhook_id}"), listed(visit, f"/webhooks/{webhook_id}/deliveries")
    )
    return visit.page("webhook.html.j2", webhook=hook, listed=deliveries)


@router.post("/webhooks/{webhook_id}/{verb}")
async def change_webhook(visit: VisitDep, webhook_id: WebhookId, verb: str) -> Response:
    await visit.form()
    if verb == "disable":
        await visit.api.send("DELETE", f"/webhooks/{webhook_id}")
        return see_other("/console/settings")
    if verb != "rotate":
        raise NotFound("A webhook can be switched off, or its secret rotated.")
    return await _show(visit, {"webhook": await visit.api.send("POST", f"/webhooks/{webhook_id}:rotate-secret")})


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/replay")
async def replay(visit: VisitDep, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    await visit.form()
    await visit.api.send("POST", f"/webhooks/{webhook_id}/deliveries/{delivery_id}:replay")
    return see_other(f"/console/settings/webhooks/{webhook_id}")
