"""Audits of every model: what each said, its report, and two versions side by side."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import Response

from app.console.lists import listed
from app.console.visit import PageRoute, VisitDep

router = APIRouter(prefix="/console/audits", route_class=PageRoute, include_in_schema=False)
REMEMBERED = "lethe-audits"
SHOWN = {"published": "Of new versions", "rejected": "Of candidates that were rejected", "asked": "Asked for"}
JOBS = {
    "published": {"kind": "unlearn", "state": "succeeded"},
    "rejected": {"kind": "unlearn", "state": "rejected"},
    "asked": {"kind": "audit", "state": "succeeded"},
}
MOST_NAMED = 200


@router.get("")
async def show_list(visit: VisitDep) -> Response:
    """An audit is made by a job: the newest first."""
    if recalled := visit.recalled(REMEMBERED, "/audits"):
        return recalled
    shown = visit.request.query_params.get("show", "published")
    shown = shown if shown in SHOWN else "published"
    found, models = await asyncio.gather(
        listed(visit, "/jobs", **JOBS[shown]), visit.api.get("/models", page_size=MOST_NAMED)
    )
    page = visit.page(
        "audits.html.j2",
        listed=found,
        shown=shown,
        tabs=SHOWN,
        models={row["id"]: row for row in models["items"]},
    )
    visit.remember(page, REMEMBERED, urlencode({"show": shown}), "/audits")
    return page
